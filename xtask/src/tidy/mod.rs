//! `cargo xtask tidy`: the design's invariants, held over sources and crate graph. A rule is a function from sources
//! to findings; each has a test with a sample that breaks it. It must not build anything: it runs in seconds.

mod arrows;
mod code;
mod lists;
mod rules;

use std::fmt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::workspace;
use code::Source;

const HELP: &str = "\
Hold the design's invariants over sources and crate graph

Usage: cargo xtask tidy [--rules] [--lower]

Options:
  --rules  list the rules, with the reason for each
  --lower  lower or remove lines of xtask/tidy/ratchet.txt that are no longer needed (it never raises one)

Examples:
  cargo xtask tidy
  cargo xtask tidy --lower
";

/// Folders with sources; what is not listed is not looked at.
const FOLDERS: &[&str] = &[
    ".cargo", ".ci", "benches", "crates", "docs", "examples", "fuzz", "xtask",
];
/// Files at the root, beside `Cargo.lock`, which cargo writes, and `LICENSE`, whose text is not ours.
const ROOT_FILES: &[&str] = &[
    "Cargo.toml",
    "README.md",
    "clippy.toml",
    "deny.toml",
    "rustfmt.toml",
];
/// Endings of files that are text and ours.
const TEXT_ENDINGS: &[&str] = &[
    "c", "css", "h", "html", "js", "json", "md", "pem", "rs", "sh", "sql", "toml", "txt", "yaml",
    "yml",
];
/// A bigger file is data, not source.
const MAX_SOURCE_BYTES: u64 = 4 << 20;

/// Something that breaks a rule, where it is, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    pub path: String,
    pub line: usize,
    pub rule: &'static str,
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}: [{}] {}",
            self.path, self.line, self.rule, self.message
        )
    }
}

pub fn command(args: &[String]) -> Result<ExitCode> {
    let mut lower = false;
    for arg in args {
        match arg.as_str() {
            "--help" | "-h" => {
                print!("{HELP}");
                return Ok(ExitCode::SUCCESS);
            }
            "--rules" => {
                for (name, why) in rules::RULES
                    .iter()
                    .map(|rule| (rule.name, rule.why))
                    .chain(arrows::RULES)
                {
                    println!("{name:<18} {why}");
                }
                return Ok(ExitCode::SUCCESS);
            }
            "--lower" => lower = true,
            other => bail!("`tidy` has no option `{other}`; see `cargo xtask tidy --help`"),
        }
    }
    let root = workspace::root();
    if lower {
        lists::lower_ratchet(&root, &load(&root)?)?;
    }
    let findings = findings(&root)?;
    for finding in &findings {
        println!("{finding}");
    }
    if findings.is_empty() {
        eprintln!("tidy: nothing to say");
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!(
        "tidy: {} findings; `cargo xtask tidy --rules` gives the reasons",
        findings.len()
    );
    Ok(ExitCode::FAILURE)
}

fn findings(root: &Path) -> Result<Vec<Finding>> {
    let sources = load(root)?;
    let mut findings = Vec::new();
    for rule in rules::RULES {
        for source in &sources {
            findings.extend((rule.check)(source));
        }
    }
    findings.extend(arrows::check(&workspace::metadata()?));
    findings.extend(lists::check_ratchet(
        &lists::read(root, lists::RATCHET)?,
        &sources,
    ));
    findings.extend(lists::check_permits(
        &lists::read(root, lists::PERMITS)?,
        &sources,
    ));
    findings.sort();
    findings.dedup();
    Ok(findings)
}

fn load(root: &Path) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    for name in ROOT_FILES {
        let path = root.join(name);
        if path.is_file() {
            sources.push(read_source(root, &path)?);
        }
    }
    for folder in FOLDERS {
        let folder = root.join(folder);
        if folder.is_dir() {
            walk(root, &folder, &mut sources)?;
        }
    }
    Ok(sources)
}

fn walk(root: &Path, folder: &Path, sources: &mut Vec<Source>) -> Result<()> {
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(
            entry
                .with_context(|| format!("cannot list {}", folder.display()))?
                .path(),
        );
    }
    paths.sort();
    for path in paths {
        let kind = path
            .symlink_metadata()
            .with_context(|| format!("cannot look at {}", path.display()))?;
        if kind.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                walk(root, &path, sources)?;
            }
        } else if kind.is_file() && kind.len() <= MAX_SOURCE_BYTES && is_text(&path) {
            sources.push(read_source(root, &path)?);
        }
    }
    Ok(())
}

fn is_text(path: &Path) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str());
    ending.is_none_or(|ending| TEXT_ENDINGS.contains(&ending))
}

fn read_source(root: &Path, path: &Path) -> Result<Source> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let relative = path
        .strip_prefix(root)
        .unwrap_or(path)
        .to_string_lossy()
        .into_owned();
    Ok(Source::new(
        relative,
        String::from_utf8_lossy(&bytes).into_owned(),
    ))
}
