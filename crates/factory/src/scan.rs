//! Looks through a finished image for what must not be in one: private keys, tokens, cloud credentials, shell
//! histories, host keys and machine ids. Only where people and customizers write; what packages bring is public.
//!
//! A finding names the path and the rule, never what was found.

use disk::ReadAt;
use ext4::{EntryKind, Tree};
use serde::{Deserialize, Serialize};

use crate::build::{BuildError, RootFs};
use crate::pipeline::SecretScan;

/// Raised whenever the same image would give other findings.
pub const SCAN_FORMAT: u32 = 1;
/// Files that are read; larger ones are told by their path alone.
const FILE_BYTES_MAX: u64 = 2 << 20;
const ENTRIES_MAX: usize = 500_000;
const FINDINGS_MAX: usize = 100;
/// Where it is looked, and where in there it is not.
const PLACES: [&str; 9] = [
    "etc",
    "home",
    "opt",
    "root",
    "srv",
    "tmp",
    "usr/local",
    "var",
    "run",
];
const SKIPPED: [&str; 6] = [
    "var/lib/apt",
    "var/lib/dpkg",
    "var/cache",
    "var/lib/systemd/catalog",
    "etc/ssl/certs",
    "etc/alternatives",
];

/// Something that must not be in an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    pub path: String,
    pub rule: String,
}

/// All findings that the recipe does not allow, in the order of their paths. `generalized` images must not hold what
/// belongs to one machine either.
pub fn scan(
    disk: &dyn ReadAt,
    rules: &SecretScan,
    generalized: bool,
) -> Result<Vec<Finding>, BuildError> {
    let root = RootFs::find(disk)?;
    let mut findings = root.read(disk, |tree| {
        let mut scan = Scan {
            tree,
            generalized,
            findings: Vec::new(),
            entries: 0,
        };
        for place in PLACES {
            scan.folder(place.as_bytes().to_vec())?;
        }
        Ok::<_, BuildError>(scan.findings)
    })?;
    findings.retain(|finding| {
        !rules
            .allow
            .iter()
            .any(|allowed| fits(allowed, &finding.path))
    });
    findings.sort_by(|a, b| a.path.cmp(&b.path));
    findings.truncate(FINDINGS_MAX);
    Ok(findings)
}

/// Whether a path is the pattern, in which `*` stands for any characters.
fn fits(pattern: &str, path: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = path.strip_prefix(first) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else {
        return rest.is_empty();
    };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

struct Scan<'a, 'd> {
    tree: &'a mut Tree<'d>,
    generalized: bool,
    findings: Vec<Finding>,
    entries: usize,
}

impl Scan<'_, '_> {
    fn folder(&mut self, folder: Vec<u8>) -> Result<(), BuildError> {
        let mut pending = vec![folder];
        while let Some(path) = pending.pop() {
            self.entries += 1;
            if self.entries > ENTRIES_MAX {
                return Err(BuildError::BadEntry {
                    path: String::from_utf8_lossy(&path).into_owned(),
                    reason: "there are too many files to look through",
                });
            }
            if SKIPPED.iter().any(|skipped| path == skipped.as_bytes()) {
                continue;
            }
            let Some(entry) = self.tree.entry(&path)? else {
                continue;
            };
            match entry.kind {
                EntryKind::Directory => {
                    for name in self.tree.names(&path)? {
                        pending.push([path.as_slice(), b"/", &name].concat());
                    }
                }
                EntryKind::File { size, .. } if size > 0 => self.file(&path, size)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &[u8], size: u64) -> Result<(), BuildError> {
        let shown = format!("/{}", String::from_utf8_lossy(path));
        let rule = match by_path(&shown, self.generalized) {
            Some(rule) => Some(rule),
            None if size > FILE_BYTES_MAX => None,
            None => {
                let content = self.tree.read(path, FILE_BYTES_MAX)?;
                content.and_then(|content| by_content(&content))
            }
        };
        if let Some(rule) = rule {
            self.findings.push(Finding {
                path: shown,
                rule: rule.to_owned(),
            });
        }
        Ok(())
    }
}

fn by_path(path: &str, generalized: bool) -> Option<&'static str> {
    let name = path.rsplit('/').next().unwrap_or_default();
    let home = path.starts_with("/root/") || path.starts_with("/home/");
    let in_home = |part: &str| home && path.contains(part);
    match () {
        () if home && (name.ends_with("_history") || name == ".lesshst") => Some("shell history"),
        () if in_home("/.aws/credentials")
            || in_home("/.azure/")
            || in_home("/.config/gcloud/")
            || in_home("/.kube/config")
            || in_home("/.docker/config.json") =>
        {
            Some("cloud credentials")
        }
        () if home && [".netrc", ".git-credentials", ".pgpass", ".npmrc"].contains(&name) => {
            Some("stored passwords")
        }
        () if generalized && path.starts_with("/etc/ssh/ssh_host_") && name.ends_with("_key") => {
            Some("host key")
        }
        () if generalized && path == "/etc/machine-id" => Some("machine id"),
        () => None,
    }
}

fn by_content(content: &[u8]) -> Option<&'static str> {
    const PREFIXED: [(&[u8], usize, &str); 8] = [
        (b"AKIA", 16, "AWS access key"),
        (b"ASIA", 16, "AWS access key"),
        (b"ghp_", 36, "GitHub token"),
        (b"github_pat_", 40, "GitHub token"),
        (b"glpat-", 20, "GitLab token"),
        (b"xoxb-", 20, "Slack token"),
        (b"hvs.", 24, "Vault token"),
        (b"AccountKey=", 60, "storage account key"),
    ];
    if has_private_key(content) {
        return Some("private key");
    }
    let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-+/=".contains(byte);
    for (prefix, length, rule) in PREFIXED {
        let follows = |at: usize| {
            let before = at.checked_sub(1).map(|at| content[at]);
            let alone = before.is_none_or(|byte| !byte.is_ascii_alphanumeric());
            let rest = &content[at + prefix.len()..];
            alone && rest.iter().take_while(|byte| token(byte)).count() >= length
        };
        if positions(content, prefix).any(follows) {
            return Some(rule);
        }
    }
    None
}

/// A PEM block with a key's bytes in it; documentation and tests name the mark without them.
fn has_private_key(content: &[u8]) -> bool {
    const MARK: &[u8] = b"PRIVATE KEY-----\n";
    positions(content, MARK).any(|at| {
        let begin = content[..at]
            .rsplit(|byte| *byte == b'\n')
            .next()
            .unwrap_or_default();
        let rest = &content[at + MARK.len()..];
        let line = rest.split(|byte| *byte == b'\n').next().unwrap_or_default();
        begin.starts_with(b"-----BEGIN ")
            && line.len() >= 40
            && line
                .iter()
                .all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(byte))
    })
}

fn positions<'a>(content: &'a [u8], needle: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    let first = needle[0];
    let starts = content
        .iter()
        .enumerate()
        .filter(move |(_, byte)| **byte == first);
    starts.filter_map(move |(at, _)| content[at..].starts_with(needle).then_some(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_are_told_from_talk_about_them() {
        let check = |content: &str, expected: Option<&str>| {
            assert_eq!(by_content(content.as_bytes()), expected, "{content}");
        };
        let line = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7";
        check(
            &format!("-----BEGIN PRIVATE KEY-----\n{line}\n"),
            Some("private key"),
        );
        check(
            &format!("x\n-----BEGIN OPENSSH PRIVATE KEY-----\n{line}\n"),
            Some("private key"),
        );
        check("if line == '-----BEGIN PRIVATE KEY-----\\n'", None);
        check("-----BEGIN PRIVATE KEY-----\n...\n", None);
        check("key = AKIAIOSFODNN7EXAMPLE", Some("AWS access key"));
        check("MAKIAIOSFODNN7EXAMPLE", None);
        check("AKIA", None);
        check(
            "token ghp_0123456789012345678901234567890123456789",
            Some("GitHub token"),
        );
    }

    #[test]
    fn places_tell_what_lies_there() {
        let check = |path: &str, generalized, expected: Option<&str>| {
            assert_eq!(by_path(path, generalized), expected, "{path}");
        };
        check("/root/.bash_history", true, Some("shell history"));
        check(
            "/home/a/.azure/msal_token_cache.json",
            true,
            Some("cloud credentials"),
        );
        check("/etc/ssh/ssh_host_rsa_key", true, Some("host key"));
        check("/etc/ssh/ssh_host_rsa_key", false, None);
        check("/etc/machine-id", true, Some("machine id"));
        check("/etc/motd", true, None);
    }

    #[test]
    fn patterns_stand_for_paths() {
        let check = |pattern: &str, path: &str, expected: bool| {
            assert_eq!(fits(pattern, path), expected, "{pattern} {path}");
        };
        check("/etc/ssl/private/a.key", "/etc/ssl/private/a.key", true);
        check("/etc/ssl/private/*", "/etc/ssl/private/a.key", true);
        check("/etc/*/private/*.key", "/etc/ssl/private/a.key", true);
        check("/etc/*.pem", "/etc/ssl/private/a.key", false);
        check("/etc", "/etc/ssl", false);
        check("*", "/etc/ssl", true);
    }
}
