//! The rules that look at one file at a time.

use super::Finding;
use super::code::Source;

pub struct Rule {
    pub name: &'static str,
    pub why: &'static str,
    pub check: fn(&Source) -> Vec<Finding>,
}

pub const RULES: &[Rule] = &[
    Rule {
        name: "no-io",
        why: "wire, access, policy and disk open no file and no socket",
        check: no_io,
    },
    Rule {
        name: "processes",
        why: "programs are started in one place: limits, deadline, no shell",
        check: processes,
    },
    Rule {
        name: "sql",
        why: "only catalog knows SQL",
        check: sql,
    },
    Rule {
        name: "prints",
        why: "libraries report to a trait or the log; stdout belongs to the user",
        check: prints,
    },
    Rule {
        name: "module-doc",
        why: "the reader decides in one line whether to read on",
        check: module_doc,
    },
    Rule {
        name: "unfinished",
        why: "what is not done is not called done",
        check: unfinished,
    },
    Rule {
        name: "unsafe",
        why: "unsafe code lives in ext4 and process, each use with its reason",
        check: unsafe_code,
    },
    Rule {
        name: "sleeps",
        why: "a test waits for a state, never for a time",
        check: sleeps,
    },
    Rule {
        name: "machine-paths",
        why: "a path of somebody's machine means nothing elsewhere",
        check: machine_paths,
    },
    Rule {
        name: "archive-hosts",
        why: "mirrors come from the host's apt or the factory",
        check: archive_hosts,
    },
    Rule {
        name: "whitespace",
        why: "differences show what changed and nothing else",
        check: whitespace,
    },
];

/// Crates that compute and never open anything.
const PURE: &[&str] = &["access", "disk", "policy", "wire"];
/// Crates whose output is their purpose; `server` prints where it listens, and clippy holds it to that.
const PRINTING: &[&str] = &["bullion", "cli", "server", "xtask"];
/// Crates that start programs.
const STARTING: &[&str] = &["process", "xtask"];
/// The first process of a build's namespaces: `process` started it, with limits, and it dies with all it starts.
const STARTING_FILES: &[&str] = &["crates/factory/src/build/sandbox/child.rs"];
/// Crates that may hold unsafe code.
const UNSAFE: &[&str] = &["ext4", "process"];
/// How far above an `unsafe` its reason may stand.
const SAFETY_LINES: usize = 8;

fn no_io(source: &Source) -> Vec<Finding> {
    const OPENS: &[&str] = &[
        "std::fs",
        // Addresses are values; what opens a connection has these names.
        "TcpListener",
        "ToSocketAddrs",
        "std::os::unix::net",
        "std::process",
        "tokio",
        "File::open",
        "File::create",
        "OpenOptions",
        "TcpStream",
        "UnixStream",
        "UdpSocket",
        "rustix",
        "libc",
    ];
    if !PURE.contains(&source.package()) || source.is_build_script() {
        return Vec::new();
    }
    found(source, "no-io", OPENS, |what| {
        format!("{} must do no I/O, but names {what}", source.package())
    })
}

fn processes(source: &Source) -> Vec<Finding> {
    let may =
        STARTING.contains(&source.package()) || STARTING_FILES.contains(&source.path.as_str());
    if may || source.is_build_script() || !source.is_rust() {
        return Vec::new();
    }
    let message = |what: &str| format!("{what}: start programs through the `process` crate");
    let mut findings = found(
        source,
        "processes",
        &["tokio::process", "libc::fork", "libc::execve"],
        message,
    );
    for at in source.places("std::process") {
        let after = &source.code[at + "std::process".len()..];
        let item = after.trim_start_matches("::");
        let group = item
            .strip_prefix('{')
            .map(|group| group.split('}').next().unwrap_or_default());
        let names: Vec<&str> = match group {
            Some(group) => group.split(',').map(str::trim).collect(),
            None => vec![
                item.split(|c: char| !c.is_ascii_alphanumeric())
                    .next()
                    .unwrap_or_default(),
            ],
        };
        // `use std::process;` would let the module's name stand for ours.
        if names
            .iter()
            .any(|name| matches!(*name, "Command" | "" | "self"))
        {
            findings.push(finding(
                source,
                at,
                "processes",
                message("std::process::Command"),
            ));
        }
    }
    findings
}

fn sql(source: &Source) -> Vec<Finding> {
    if source.package() == "catalog" {
        return Vec::new();
    }
    found(source, "sql", &["sqlx"], |_| {
        "sqlx outside catalog: ask the `Catalog` trait".to_owned()
    })
}

fn prints(source: &Source) -> Vec<Finding> {
    const PRINTS: &[&str] = &["println!", "eprintln!", "print!", "eprint!", "dbg!"];
    if PRINTING.contains(&source.package()) || source.is_build_script() {
        return Vec::new();
    }
    found(source, "prints", PRINTS, |what| {
        format!("{what} in a library: log with tracing, or report to a trait")
    })
}

fn module_doc(source: &Source) -> Vec<Finding> {
    if !source.is_rust() || source.text.trim_start().starts_with("//!") {
        return Vec::new();
    }
    let message = "begin with `//!`: what the module is for, what it must not do".to_owned();
    vec![finding(source, 0, "module-doc", message)]
}

fn unfinished(source: &Source) -> Vec<Finding> {
    let needles = ["todo!", "unimplemented!", "#[ignore"];
    let places = needles.iter().flat_map(|needle| {
        source
            .places_anywhere(needle)
            .into_iter()
            .map(move |at| (*needle, at))
    });
    places
        .map(|(what, at)| finding(source, at, "unfinished", format!("{what} is left")))
        .collect()
}

fn unsafe_code(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    let lines: Vec<&str> = source.text.lines().collect();
    for at in source.places_anywhere("unsafe") {
        if !UNSAFE.contains(&source.package()) {
            let message = "unsafe code outside ext4 and process".to_owned();
            findings.push(finding(source, at, "unsafe", message));
            continue;
        }
        let line = source.line_of(at);
        let above = &lines[line.saturating_sub(SAFETY_LINES + 1)..line.min(lines.len())];
        let next = source.code[at + "unsafe".len()..].trim_start();
        // A declaration says what its callers owe; a block or an `impl` says why that holds.
        let claims = next.starts_with('{') || next.starts_with("impl");
        if claims && !above.iter().any(|line| line.contains("SAFETY")) {
            let message = "unsafe without a SAFETY comment just above it".to_owned();
            findings.push(finding(source, at, "unsafe", message));
        }
    }
    findings
}

fn sleeps(source: &Source) -> Vec<Finding> {
    if source.package() == "xtask" {
        return Vec::new();
    }
    let places = source
        .places_anywhere("thread::sleep")
        .into_iter()
        .filter(|at| source.is_test(*at));
    places
        .map(|at| {
            finding(
                source,
                at,
                "sleeps",
                "a test that sleeps: wait for a state".to_owned(),
            )
        })
        .collect()
}

fn machine_paths(source: &Source) -> Vec<Finding> {
    // Put together here so that this file does not break its own rule.
    let paths = [
        ["/wo", "rk/"].concat(),
        ["/tmp/", "spike"].concat(),
        ["/root/", ".cargo"].concat(),
    ];
    in_text(source, "machine-paths", &paths, |what| {
        format!("{what} exists on one machine only")
    })
}

fn archive_hosts(source: &Source) -> Vec<Finding> {
    let domains = [
        "debian.org",
        "ubuntu.com",
        "fedoraproject.org",
        "alpinelinux.org",
        "centos.org",
    ];
    let hosts = [
        "deb",
        "ftp",
        "security",
        "snapshot",
        "archive",
        "cdn-fastly",
        "mirror",
        "dl-cdn",
        "ports",
    ];
    let hosts: Vec<String> = domains
        .iter()
        .flat_map(|domain| hosts.iter().map(move |host| format!("{host}.{domain}")))
        .collect();
    in_text(source, "archive-hosts", &hosts, |what| {
        format!("{what}: no package archive is written into the project")
    })
}

fn whitespace(source: &Source) -> Vec<Finding> {
    // A fixture may be wrong on purpose.
    if source.path.contains("/fixtures/") {
        return Vec::new();
    }
    let mut findings = Vec::new();
    let mut say = |line: usize, message: &str| {
        let message = message.to_owned();
        findings.push(Finding {
            path: source.path.clone(),
            line,
            rule: "whitespace",
            message,
        });
    };
    for (index, line) in source.text.split('\n').enumerate() {
        if line.ends_with('\r') {
            say(index + 1, "carriage return");
        } else if line.ends_with([' ', '\t']) {
            say(index + 1, "blanks at the end of the line");
        }
        if source.is_rust() && line.trim_end().contains('\t') {
            say(index + 1, "tab");
        }
    }
    if !source.text.is_empty() && (!source.text.ends_with('\n') || source.text.ends_with("\n\n")) {
        say(source.text.lines().count(), "a file ends with one line end");
    }
    findings
}

/// Places in code, outside tests, where one of the needles stands.
fn found(
    source: &Source,
    rule: &'static str,
    needles: &[&str],
    message: impl Fn(&str) -> String,
) -> Vec<Finding> {
    let places = needles.iter().flat_map(|needle| {
        source
            .places(needle)
            .into_iter()
            .map(move |at| (*needle, at))
    });
    places
        .map(|(what, at)| finding(source, at, rule, message(what)))
        .collect()
}

/// Places anywhere in the text, comments and documents included.
fn in_text(
    source: &Source,
    rule: &'static str,
    needles: &[String],
    message: impl Fn(&str) -> String,
) -> Vec<Finding> {
    let places = needles
        .iter()
        .flat_map(|needle| source.text.match_indices(needle.as_str()));
    places
        .map(|(at, what)| finding(source, at, rule, message(what)))
        .collect()
}

fn finding(source: &Source, at: usize, rule: &'static str, message: String) -> Finding {
    Finding {
        path: source.path.clone(),
        line: source.line_of(at),
        rule,
        message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines on which the rule of this name finds something.
    #[track_caller]
    fn check(name: &str, path: &str, text: &str, expected: &[usize]) {
        let rule = RULES
            .iter()
            .find(|rule| rule.name == name)
            .expect("there is no such rule");
        let lines: Vec<_> = (rule.check)(&Source::new(path, text))
            .iter()
            .map(|finding| finding.line)
            .collect();
        assert_eq!(lines, expected, "{name} on {path}: {text}");
    }

    #[test]
    fn pure_crates_open_nothing() {
        check(
            "no-io",
            "crates/disk/src/a.rs",
            "use std::io;\nuse std::fs::File;\n",
            &[2],
        );
        check(
            "no-io",
            "crates/wire/src/a.rs",
            "// std::fs is for others\nlet a = \"std::net\";\n",
            &[],
        );
        check(
            "no-io",
            "crates/access/src/a.rs",
            "async fn a() { tokio::spawn(b()) }\n",
            &[1],
        );
        check(
            "no-io",
            "crates/store/src/a.rs",
            "use std::fs::File;\n",
            &[],
        );
        check(
            "no-io",
            "crates/disk/tests/suite.rs",
            "use std::fs::File;\n",
            &[],
        );
        check(
            "no-io",
            "crates/disk/src/a.rs",
            "#[cfg(test)]\nmod tests {\n    use std::fs;\n}\n",
            &[],
        );
    }

    #[test]
    fn programs_are_started_in_one_place() {
        check(
            "processes",
            "crates/machine/src/a.rs",
            "use std::process::Command;\n",
            &[1],
        );
        check(
            "processes",
            "crates/machine/src/a.rs",
            "use std::process::{Command, ExitCode};\n",
            &[1],
        );
        check(
            "processes",
            "crates/machine/src/a.rs",
            "use std::process;\n",
            &[1],
        );
        check(
            "processes",
            "crates/machine/src/a.rs",
            "let c = tokio::process::Command::new(a);\n",
            &[1],
        );
        check(
            "processes",
            "crates/bullion/src/main.rs",
            "use std::process::ExitCode;\n",
            &[],
        );
        check(
            "processes",
            "crates/factory/src/a.rs",
            "use process::Command;\n",
            &[],
        );
        check(
            "processes",
            "crates/process/src/a.rs",
            "use std::process::Command;\n",
            &[],
        );
        check(
            "processes",
            "crates/bullion/tests/e2e.rs",
            "use std::process::Command;\n",
            &[],
        );
    }

    #[test]
    fn sql_has_one_home() {
        check("sql", "crates/jobs/src/a.rs", "sqlx::query(q)\n", &[1]);
        check("sql", "crates/catalog/src/a.rs", "sqlx::query(q)\n", &[]);
    }

    #[test]
    fn libraries_do_not_print() {
        check(
            "prints",
            "crates/store/src/a.rs",
            "fn a() {\n    println!(\"a\");\n}\n",
            &[2],
        );
        check("prints", "crates/cli/src/a.rs", "println!(\"a\");\n", &[]);
        check(
            "prints",
            "crates/store/src/a.rs",
            "writeln!(f, \"println!\");\n",
            &[],
        );
    }

    #[test]
    fn a_module_says_what_it_is_for() {
        check("module-doc", "crates/x/src/a.rs", "use a;\n", &[1]);
        check(
            "module-doc",
            "crates/x/src/a.rs",
            "//! For a.\nuse a;\n",
            &[],
        );
        check("module-doc", "docs/a.md", "# A\n", &[]);
    }

    #[test]
    fn nothing_is_left_unfinished() {
        check(
            "unfinished",
            "crates/x/src/a.rs",
            "fn a() { todo!() }\n",
            &[1],
        );
        check(
            "unfinished",
            "crates/x/src/a.rs",
            "fn a() { unimplemented!() }\n",
            &[1],
        );
        check(
            "unfinished",
            "crates/x/tests/a.rs",
            "#[test]\n#[ignore]\nfn a() {}\n",
            &[2],
        );
        check("unfinished", "crates/x/src/a.rs", "// todo!\n", &[]);
    }

    #[test]
    fn unsafe_code_has_two_homes_and_a_reason() {
        check(
            "unsafe",
            "crates/store/src/a.rs",
            "// SAFETY: no\nunsafe { a() }\n",
            &[2],
        );
        check("unsafe", "crates/ext4/src/a.rs", "unsafe { a() }\n", &[1]);
        check(
            "unsafe",
            "crates/ext4/src/a.rs",
            "// SAFETY: the pointer is ours\nunsafe { a() }\n",
            &[],
        );
        check(
            "unsafe",
            "crates/store/src/a.rs",
            "#![deny(unsafe_code)]\n",
            &[],
        );
    }

    #[test]
    fn tests_do_not_sleep() {
        check(
            "sleeps",
            "crates/x/tests/a.rs",
            "std::thread::sleep(a);\n",
            &[1],
        );
        check(
            "sleeps",
            "crates/x/src/a.rs",
            "std::thread::sleep(a);\n",
            &[],
        );
    }

    #[test]
    fn paths_and_hosts_of_one_place_are_refused() {
        let path = ["/wo", "rk/main"].concat();
        check("machine-paths", "docs/a.md", &format!("see {path}\n"), &[1]);
        check("machine-paths", "docs/a.md", "see docs/b.md\n", &[]);
        let host = ["deb.", "debian.org"].concat();
        check(
            "archive-hosts",
            "crates/x/src/a.rs",
            &format!("// {host}\n"),
            &[1],
        );
        check(
            "archive-hosts",
            "crates/x/src/a.rs",
            "// mirror.example\n",
            &[],
        );
    }

    #[test]
    fn blanks_are_where_they_belong() {
        check("whitespace", "docs/a.md", "a \nb\n", &[1]);
        check("whitespace", "docs/a.md", "a\r\n", &[1]);
        check(
            "whitespace",
            "crates/x/src/a.rs",
            "fn a() {\n\ta();\n}\n",
            &[2],
        );
        check("whitespace", "docs/a.md", "a", &[1]);
        check("whitespace", "docs/a.md", "a\n\n", &[2]);
        check("whitespace", "docs/a.md", "a\n", &[]);
        check("whitespace", "crates/x/tests/fixtures/a.sh", "a\r\n", &[]);
    }
}
