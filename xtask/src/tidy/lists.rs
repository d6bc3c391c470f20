//! The committed lists of exceptions: sizes that were there before, which may only fall, and the places that act
//! without a caller, which must be exactly these.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};

use super::Finding;
use super::code::{Function, Source};

pub const RATCHET: &str = "xtask/tidy/ratchet.txt";
pub const PERMITS: &str = "xtask/tidy/permit-system.txt";

/// The longest file, in lines, that needs no entry.
const FILE_LINES: usize = 800;
/// The longest function, in lines, that needs no entry.
const FUNCTION_LINES: usize = 70;

pub fn read(root: &Path, list: &str) -> Result<String> {
    let path = root.join(list);
    std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// What is longer than it should be: `path` or `path::function`, with its lines and where it begins.
fn oversized(sources: &[Source]) -> BTreeMap<String, (usize, usize)> {
    let mut found = BTreeMap::new();
    for source in sources.iter().filter(|source| source.is_rust()) {
        let lines = source.text.lines().count();
        if lines > FILE_LINES {
            found.insert(source.path.clone(), (lines, 1));
        }
        // A test is data, and a long table is better in one piece.
        let long = |function: &Function| !function.is_test && function.lines > FUNCTION_LINES;
        for function in source.functions().into_iter().filter(long) {
            found.insert(
                format!("{}::{}", source.path, function.name),
                (function.lines, function.line),
            );
        }
    }
    found
}

fn parse_ratchet(list: &str) -> BTreeMap<String, (usize, usize)> {
    let entry = |(index, line): (usize, &str)| {
        let (name, lines) = line.trim().rsplit_once(' ')?;
        Some((name.trim().to_owned(), (lines.parse().ok()?, index + 1)))
    };
    list.lines()
        .enumerate()
        .filter(|(_, line)| !line.starts_with('#'))
        .filter_map(entry)
        .collect()
}

pub fn check_ratchet(list: &str, sources: &[Source]) -> Vec<Finding> {
    let found = oversized(sources);
    let allowed = parse_ratchet(list);
    let mut findings = Vec::new();
    for (name, (lines, line)) in &found {
        let (limit, kind) = if name.contains("::") {
            (FUNCTION_LINES, "function")
        } else {
            (FILE_LINES, "file")
        };
        let limit = allowed.get(name).map_or(limit, |(allowed, _)| *allowed);
        if *lines > limit {
            let path = name.split("::").next().unwrap_or_default().to_owned();
            let message = format!(
                "{kind} {name} has {lines} lines, more than {limit}; split it by what it does"
            );
            findings.push(Finding {
                path,
                line: *line,
                rule: "size",
                message,
            });
        }
    }
    for (name, (lines, line)) in &allowed {
        let now = found.get(name).map_or(0, |(now, _)| *now);
        if now < *lines {
            let message = format!(
                "{name} is down to {now} lines from {lines}: `cargo xtask tidy --lower` records it"
            );
            findings.push(Finding {
                path: RATCHET.to_owned(),
                line: *line,
                rule: "size",
                message,
            });
        }
    }
    findings
}

/// Writes the ratchet again with what fell; what grew stays as it was and is found by the check.
pub fn lower_ratchet(root: &Path, sources: &[Source]) -> Result<()> {
    let old = read(root, RATCHET)?;
    let found = oversized(sources);
    let mut new: String =
        old.lines()
            .filter(|line| line.starts_with('#'))
            .fold(String::new(), |mut all, line| {
                let _ = writeln!(all, "{line}");
                all
            });
    for (name, (allowed, _)) in parse_ratchet(&old) {
        if let Some((now, _)) = found.get(&name) {
            let _ = writeln!(new, "{name} {}", allowed.min(*now));
        }
    }
    std::fs::write(root.join(RATCHET), new).with_context(|| format!("cannot write {RATCHET}"))
}

/// `path reason`, once per use.
fn permit_uses(sources: &[Source]) -> Vec<(String, Finding)> {
    let mut uses = Vec::new();
    for source in sources
        .iter()
        .filter(|source| source.is_rust() && source.package() != "xtask")
    {
        for at in source.places("Permit::system(") {
            let after = &source.code[at + "Permit::system(".len()..];
            let argument = after
                .trim_start()
                .split([',', ')', '(', '{'])
                .next()
                .unwrap_or_default()
                .trim();
            let reason = argument.rsplit("::").next().unwrap_or_default();
            let entry = format!("{} {reason}", source.path);
            let message = format!(
                "acts without a caller; if that is meant, add this line to {PERMITS}: {entry}"
            );
            let line = source.line_of(at);
            uses.push((
                entry,
                Finding {
                    path: source.path.clone(),
                    line,
                    rule: "permit-system",
                    message,
                },
            ));
        }
    }
    uses
}

pub fn check_permits(list: &str, sources: &[Source]) -> Vec<Finding> {
    let mut left: Vec<(usize, &str)> = list
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.starts_with('#') && !line.trim().is_empty())
        .collect();
    let mut findings = Vec::new();
    for (entry, finding) in permit_uses(sources) {
        match left.iter().position(|(_, line)| line.trim() == entry) {
            Some(index) => {
                left.remove(index);
            }
            None => findings.push(finding),
        }
    }
    for (index, line) in left {
        let message = format!("no longer used: remove the line `{line}`");
        findings.push(Finding {
            path: PERMITS.to_owned(),
            line: index + 1,
            rule: "permit-system",
            message,
        });
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn long_function(lines: usize) -> Vec<Source> {
        let body = "    a();\n".repeat(lines - 2);
        vec![Source::new(
            "crates/x/src/lib.rs",
            format!("fn long() {{\n{body}}}\n"),
        )]
    }

    #[track_caller]
    fn check_size(list: &str, sources: &[Source], expected: usize) {
        let findings = check_ratchet(list, sources);
        assert_eq!(findings.len(), expected, "{findings:?}");
    }

    #[test]
    fn a_long_function_needs_an_entry_that_only_falls() {
        check_size("", &long_function(70), 0);
        check_size("", &long_function(71), 1);
        check_size("crates/x/src/lib.rs::long 90\n", &long_function(91), 1);
        check_size("crates/x/src/lib.rs::long 90\n", &long_function(90), 0);
        check_size("crates/x/src/lib.rs::long 90\n", &long_function(80), 1);
        check_size("crates/x/src/gone.rs 900\n", &[], 1);
    }

    #[test]
    fn a_long_test_needs_none() {
        let table = long_function(200).remove(0).text;
        check_size("", &[Source::new("crates/x/tests/suite.rs", table)], 0);
    }

    #[test]
    fn a_long_file_needs_an_entry() {
        check_size(
            "",
            &[Source::new("crates/x/src/lib.rs", "\n".repeat(800))],
            0,
        );
        check_size(
            "",
            &[Source::new("crates/x/src/lib.rs", "\n".repeat(801))],
            1,
        );
    }

    #[track_caller]
    fn check_uses(list: &str, text: &str, expected: &[&str]) {
        let findings = check_permits(list, &[Source::new("crates/x/src/lib.rs", text)]);
        let paths: Vec<_> = findings
            .iter()
            .map(|finding| finding.path.as_str())
            .collect();
        assert_eq!(paths, expected, "{findings:?}");
    }

    #[test]
    fn acting_without_a_caller_is_listed_once_per_use() {
        let once = "fn f() { Permit::system(SystemReason::Sweep, scope) }";
        let twice =
            "fn f() { Permit::system(SystemReason::Sweep, a); access::Permit::system(Sweep, b) }";
        let listed = "# why\ncrates/x/src/lib.rs Sweep\n";
        check_uses(listed, once, &[]);
        check_uses("", once, &["crates/x/src/lib.rs"]);
        check_uses(listed, twice, &["crates/x/src/lib.rs"]);
        check_uses(listed, "fn f() {}", &[PERMITS]);
        check_uses(
            "",
            "#[cfg(test)]\nmod tests { fn f() { Permit::system(Sweep, a) } }",
            &[],
        );
    }
}
