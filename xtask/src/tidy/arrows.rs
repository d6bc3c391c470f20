//! Which crate may depend on which, and which crate alone knows an outside library. A new arrow is a decision: it is
//! added here and in docs/ARCHITECTURE.md, in a change of its own.

use serde_json::Value;

use super::Finding;
use crate::workspace::{list, text};

pub const RULES: [(&str, &str); 3] = [
    ("arrows", "boundaries between crates rot one line at a time"),
    (
        "one-home",
        "an outside library that shapes code has one crate that knows it",
    ),
    (
        "lists",
        "exceptions are committed lists, which only shrink without a review",
    ),
];

/// From a crate to those of ours that it may depend on. A crate that is not listed may depend on none.
const ARROWS: &[(&str, &[&str])] = &[
    ("wire", &[]),
    ("access", &["wire"]),
    ("policy", &["wire"]),
    ("disk", &[]),
    ("ext4", &[]),
    ("process", &[]),
    ("nbd", &["disk"]),
    ("provenance", &[]),
    ("windisk", &["disk"]),
    ("store", &["disk", "nbd"]),
    ("machine", &["disk", "process"]),
    ("catalog", &["access", "wire"]),
    ("jobs", &["access", "catalog", "wire"]),
    ("comply", &["access", "catalog", "policy", "wire"]),
    (
        "factory",
        &[
            "access",
            "catalog",
            "disk",
            "ext4",
            "jobs",
            "machine",
            "nbd",
            "process",
            "provenance",
            "store",
            "windisk",
            "wire",
        ],
    ),
    (
        "server",
        &[
            "access",
            "catalog",
            "comply",
            "factory",
            "jobs",
            "machine",
            "policy",
            "process",
            "provenance",
            "store",
            "wire",
        ],
    ),
    ("cli", &["wire"]),
    (
        "bullion",
        &[
            "cli", "disk", "factory", "nbd", "policy", "process", "server", "store", "wire",
        ],
    ),
    // For tests only: nothing depends on it.
    ("sim", &["disk", "store"]),
    ("xtask", &[]),
];

/// Further arrows for tests only: fakes live beside their trait, and a disk is checked with another crate's reader.
const TEST_ARROWS: &[(&str, &[&str])] = &[
    ("ext4", &["disk"]),
    ("machine", &["nbd"]),
    ("nbd", &["process"]),
    ("store", &["process"]),
];

/// Outside libraries with one home.
const HOMES: &[(&str, &[&str])] = &[
    ("axum", &["server"]),
    ("hyper", &["server"]),
    ("hyper-util", &["server"]),
    ("indicatif", &["cli"]),
    ("jsonwebtoken", &["access"]),
    ("object_store", &["store"]),
    ("reqwest", &["cli", "factory", "server"]),
    ("russh", &["machine"]),
    ("sqlx", &["catalog"]),
    // `store` compresses frames with it, `disk` reads and writes the clusters of qcow2.
    ("zstd", &["disk", "store"]),
];

pub fn check(metadata: &Value) -> Vec<Finding> {
    let packages = list(&metadata["packages"]);
    let ours: Vec<String> = packages
        .iter()
        .map(|package| text(&package["name"]))
        .collect();
    let mut findings = Vec::new();
    for package in packages {
        let from = text(&package["name"]);
        for dependency in list(&package["dependencies"]) {
            let to = text(&dependency["name"]);
            let for_tests = dependency["kind"] == "dev";
            if ours.contains(&to) {
                findings.extend(refused_arrow(&from, &to, for_tests));
            }
            findings.extend(refused_home(&from, &to, for_tests));
        }
    }
    findings
}

fn refused_arrow(from: &str, to: &str, for_tests: bool) -> Option<Finding> {
    let allowed = |table: &[(&str, &[&str])]| {
        table
            .iter()
            .any(|(name, targets)| *name == from && targets.contains(&to))
    };
    if allowed(ARROWS) || (for_tests && allowed(TEST_ARROWS)) || (for_tests && from == to) {
        return None;
    }
    Some(finding(
        from,
        "arrows",
        format!("{from} must not depend on {to}; the allowed arrows are in xtask/src/tidy"),
    ))
}

fn refused_home(from: &str, to: &str, for_tests: bool) -> Option<Finding> {
    let (_, homes) = HOMES.iter().find(|(name, _)| *name == to)?;
    // A test may play the other end of the wire.
    if homes.contains(&from) || (for_tests && ["hyper", "hyper-util", "reqwest"].contains(&to)) {
        return None;
    }
    Some(finding(
        from,
        "one-home",
        format!("only {} may know {to}, not {from}", homes.join(", ")),
    ))
}

fn finding(package: &str, rule: &'static str, message: String) -> Finding {
    let folder = if package == "xtask" {
        package.to_owned()
    } else {
        format!("crates/{package}")
    };
    Finding {
        path: format!("{folder}/Cargo.toml"),
        line: 1,
        rule,
        message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_arrow(from: &str, to: &str, kind: Option<&str>, expected: &[&str]) {
        let metadata = serde_json::json!({"packages": [
            {"name": from, "dependencies": [{"name": to, "kind": kind}]},
            {"name": "wire", "dependencies": []},
            {"name": "server", "dependencies": []},
            {"name": "disk", "dependencies": []},
        ]});
        let rules: Vec<_> = check(&metadata)
            .iter()
            .map(|finding| finding.rule)
            .collect();
        assert_eq!(rules, expected, "{from} -> {to}");
    }

    #[test]
    fn an_arrow_that_is_not_listed_is_refused() {
        check_arrow("cli", "wire", None, &[]);
        check_arrow("cli", "server", None, &["arrows"]);
        check_arrow("cli", "server", Some("dev"), &["arrows"]);
        check_arrow("unheard-of", "wire", None, &["arrows"]);
        check_arrow("ext4", "disk", Some("dev"), &[]);
        check_arrow("ext4", "disk", None, &["arrows"]);
    }

    #[test]
    fn a_library_with_one_home_is_refused_elsewhere() {
        check_arrow("server", "axum", None, &[]);
        check_arrow("factory", "axum", None, &["one-home"]);
        check_arrow("jobs", "sqlx", Some("dev"), &["one-home"]);
        check_arrow("server", "reqwest", Some("dev"), &[]);
        check_arrow("cli", "hyper", Some("dev"), &[]);
        check_arrow("store", "reqwest", None, &["one-home"]);
    }

    #[test]
    fn the_allowed_arrows_make_no_cycle() {
        let mut done: Vec<&str> = Vec::new();
        while done.len() < ARROWS.len() {
            let ready = |(name, targets): &&(&'static str, &[&str])| {
                !done.contains(name) && targets.iter().all(|target| done.contains(target))
            };
            let next = ARROWS.iter().find(ready).map(|(name, _)| *name);
            done.push(next.expect("the arrows that are left make a cycle"));
        }
    }
}
