//! Reads where this machine gets its packages from: sources in both of apt's forms, and how it
//! reaches them. It must not name a host or change anything of the machine's.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use process::Command;
use serde::{Deserialize, Serialize};

use super::described::is_mirror;
use super::{SourceError, shelf};

/// Files of sources that are looked at.
const MAX_SOURCE_FILES: usize = 200;
/// Bytes of one of them.
const MAX_SOURCE_BYTES: u64 = 1 << 20;
/// How often a file that could not be had is asked for once more.
const RETRIES: u32 = 1;
/// What of apt's acquire settings is about reaching an archive, and not about what is fetched.
const CARRIED: [&str; 7] = [
    "Acquire::http::",
    "Acquire::https::",
    "Acquire::Check-Valid-Until ",
    "Acquire::Check-Date ",
    "Acquire::Retries ",
    "Acquire::ForceIPv4 ",
    "Acquire::ForceIPv6 ",
];

/// One suite of one archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceLine {
    pub uri: String,
    pub suite: String,
    pub components: Vec<String>,
    /// Key files or fingerprints, as apt's `signed-by` has them.
    pub signed_by: Option<String>,
}

/// Only root puts rings of keys there.
const KEYRING_FOLDERS: [&str; 2] = ["/usr/share/keyrings/", "/etc/apt/keyrings/"];

impl SourceLine {
    /// Whether somebody else than the operator may name it. apt runs programs for other schemes than HTTP's, and what one of
    /// the keys signed is installed by root.
    pub(crate) fn is_for_anybody(&self) -> bool {
        let is_ring = |key: &str| {
            let names = KEYRING_FOLDERS
                .iter()
                .map(|folder| key.strip_prefix(folder));
            names.flatten().any(shelf::is_plain)
        };
        let is_fingerprint = |key: &str| {
            let digits = key.strip_suffix('!').unwrap_or(key);
            digits.len() == 40 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        let keys = self.signed_by.iter().flat_map(|keys| keys.split(','));
        is_mirror(&self.uri)
            && keys
                .into_iter()
                .all(|key| is_ring(key) || is_fingerprint(key))
    }
}

impl fmt::Display for SourceLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("deb ")?;
        if let Some(keys) = &self.signed_by {
            write!(f, "[signed-by={keys}] ")?;
        }
        write!(
            f,
            "{} {} {}",
            self.uri,
            self.suite,
            self.components.join(" ")
        )
    }
}

impl std::str::FromStr for SourceLine {
    type Err = SourceError;

    fn from_str(line: &str) -> Result<Self, Self::Err> {
        one_line(line)?.ok_or_else(|| SourceError::BadSourceLine {
            line: line.to_owned(),
        })
    }
}

/// Reads one line of `sources.list`; nothing for what is empty, a comment or not of type `deb`.
pub(crate) fn one_line(line: &str) -> Result<Option<SourceLine>, SourceError> {
    let line = line.split('#').next().unwrap_or_default().trim();
    let bad = || SourceError::BadSourceLine {
        line: line.to_owned(),
    };
    let Some(rest) = line
        .strip_prefix("deb")
        .filter(|rest| rest.starts_with([' ', '\t']))
    else {
        return Ok(None);
    };
    let (options, rest) = match rest.trim_start().strip_prefix('[') {
        Some(inside) => inside.split_once(']').ok_or_else(bad)?,
        None => ("", rest.trim_start()),
    };
    let signed_by = options
        .split_whitespace()
        .find_map(|option| option.strip_prefix("signed-by="));
    let mut words = rest.split_whitespace().map(str::to_owned);
    let (Some(uri), Some(suite)) = (words.next(), words.next()) else {
        return Err(bad());
    };
    let components = words.collect();
    Ok(Some(SourceLine {
        uri,
        suite,
        components,
        signed_by: signed_by.map(str::to_owned),
    }))
}

/// Reads a deb822 `.sources` file.
pub(crate) fn deb822(text: &str, file: &str) -> Result<Vec<SourceLine>, SourceError> {
    let mut lines = Vec::new();
    for stanza in stanzas(text) {
        let field = |name: &str| {
            let found = stanza
                .iter()
                .find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.trim())
        };
        let words = |name: &str| -> Vec<String> {
            field(name)
                .unwrap_or_default()
                .split_whitespace()
                .map(str::to_owned)
                .collect()
        };
        if field("Enabled").is_some_and(|value| value.eq_ignore_ascii_case("no"))
            || !words("Types").iter().any(|kind| kind == "deb")
        {
            continue;
        }
        let signed_by = field("Signed-By").filter(|value| !value.is_empty());
        if signed_by.is_some_and(|value| value.contains("BEGIN PGP")) {
            return Err(SourceError::InlineKey {
                file: file.to_owned(),
            });
        }
        let signed_by =
            signed_by.map(|value| value.split_whitespace().collect::<Vec<_>>().join(","));
        for uri in words("URIs") {
            for suite in words("Suites") {
                lines.push(SourceLine {
                    uri: uri.clone(),
                    suite,
                    components: words("Components"),
                    signed_by: signed_by.clone(),
                });
            }
        }
    }
    Ok(lines)
}

/// Paragraphs of `Key: value`, where a line that starts with a blank goes on with the one before.
fn stanzas(text: &str) -> Vec<Vec<(String, String)>> {
    let mut all = Vec::new();
    let mut stanza: Vec<(String, String)> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if line.trim().is_empty() {
            all.push(std::mem::take(&mut stanza));
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = stanza.last_mut() {
                value.push('\n');
                value.push_str(line.trim());
            }
        } else if let Some((key, value)) = line.split_once(':') {
            stanza.push((key.trim().to_owned(), value.trim().to_owned()));
        }
    }
    all.push(stanza);
    all.retain(|stanza| !stanza.is_empty());
    all
}

/// Of `lines`, those of the wanted suites, each once, with only the wanted components.
pub(crate) fn select(
    lines: &[SourceLine],
    suites: &[String],
    components: &[String],
) -> Result<Vec<SourceLine>, SourceError> {
    let mut chosen = Vec::new();
    for suite in suites {
        let found = lines.iter().find(|line| {
            line.suite == *suite && line.components.iter().any(|have| components.contains(have))
        });
        if let Some(line) = found {
            let mut line = line.clone();
            line.components.retain(|have| components.contains(have));
            line.uri = line.uri.trim_end_matches('/').to_owned();
            chosen.push(line);
        }
    }
    match (chosen.first(), suites.first()) {
        (Some(first), Some(needed)) if first.suite == *needed => Ok(chosen),
        (_, needed) => Err(SourceError::NoMirror {
            suite: needed.cloned().unwrap_or_default(),
        }),
    }
}

/// All sources that this machine's apt is configured with.
pub(crate) async fn host_sources() -> Result<Vec<SourceLine>, SourceError> {
    let shell = Command::new("apt-config")
        .args([
            "shell",
            "LIST",
            "Dir::Etc::sourcelist/f",
            "PARTS",
            "Dir::Etc::sourceparts/d",
        ])
        .run()
        .await?
        .stdout_text();
    let value = |name: &str| {
        let line = shell
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.map(|value| value.trim_matches('\'').to_owned())
    };
    let mut lines = Vec::new();
    if let Some(list) = value("LIST") {
        lines.extend(from_file(Path::new(&list))?);
    }
    for file in value("PARTS")
        .map(|parts| part_files(Path::new(&parts)))
        .unwrap_or_default()
    {
        lines.extend(from_file(&file)?);
    }
    Ok(lines)
}

fn part_files(folder: &Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut files: Vec<_> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            path.extension()
                .is_some_and(|ext| ext == "list" || ext == "sources")
        })
        .take(MAX_SOURCE_FILES)
        .collect();
    files.sort();
    files
}

fn from_file(path: &Path) -> Result<Vec<SourceLine>, SourceError> {
    let length = match std::fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(SourceError::file("look at", path)(error)),
    };
    if length > MAX_SOURCE_BYTES {
        return Ok(Vec::new());
    }
    let text = std::fs::read_to_string(path).map_err(SourceError::file("read", path))?;
    if path.extension().is_some_and(|ext| ext == "sources") {
        return deb822(&text, &path.display().to_string());
    }
    let mut lines = Vec::new();
    for line in text.lines() {
        lines.extend(one_line(line)?);
    }
    Ok(lines)
}

/// How this machine reaches archives (proxies, certificates, retries), as lines of an apt
/// configuration. Hooks and everything about what to fetch stay behind. A server that sends nothing for
/// as long as `silence`, in whole seconds, is given up, unless the machine's own settings say otherwise.
pub(crate) async fn acquire_settings(silence: Duration) -> Result<String, SourceError> {
    let dump = Command::new("apt-config")
        .arg("dump")
        .run()
        .await?
        .stdout_text();
    Ok(carried(&dump, silence))
}

fn carried(dump: &str, silence: Duration) -> String {
    let wanted = |line: &&str| CARRIED.iter().any(|prefix| line.starts_with(prefix));
    let seconds = silence.as_secs();
    // What apt reads last counts, so ours come first. By itself apt waits for minutes before it gives one file up, and
    // Debian 12's waits for ever where it has to wait before a retry and nothing else is left to fetch.
    let ours = format!(
        "Acquire::http::Timeout \"{seconds}\";\nAcquire::https::Timeout \"{seconds}\";\n\
         Acquire::Retries \"{RETRIES}\";\nAcquire::Retries::Delay \"false\";\n"
    );
    let theirs = dump.lines().filter(wanted);
    ours + &theirs.flat_map(|line| [line, "\n"]).collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(lines: &[SourceLine], expected: &[&str]) {
        let lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
        assert_eq!(lines, expected);
    }

    #[test]
    fn one_line_form() {
        let text = "# a comment\n\
             deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian bookworm main contrib\n\
             deb-src http://mirror.example/debian bookworm main\n\
             deb\thttp://mirror.example/debian bookworm-updates main # trailing\n";
        let lines: Vec<_> = text
            .lines()
            .filter_map(|line| one_line(line).unwrap())
            .collect();
        check(
            &lines,
            &[
                "deb [signed-by=/k.gpg] http://mirror.example/debian bookworm main contrib",
                "deb http://mirror.example/debian bookworm-updates main",
            ],
        );
        assert!(one_line("deb [signed-by=/k http://mirror.example bookworm main").is_err());
        assert!(one_line("deb http://mirror.example").is_err());
    }

    #[test]
    fn deb822_form() {
        let text = "Types: deb deb-src\n# where from\nURIs: http://mirror.example/debian\n\
             Suites: bookworm bookworm-updates\nComponents: main\n contrib\nsigned-by: /k.gpg\n\n\
             Types: deb\nEnabled: no\nURIs: http://off.example\nSuites: x\nComponents: main\n";
        check(
            &deb822(text, "a.sources").unwrap(),
            &[
                "deb [signed-by=/k.gpg] http://mirror.example/debian bookworm main contrib",
                "deb [signed-by=/k.gpg] http://mirror.example/debian bookworm-updates main contrib",
            ],
        );
        let inline = "Types: deb\nURIs: http://x.example\nSuites: s\nComponents: main\n\
             Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n";
        assert!(matches!(
            deb822(inline, "b.sources"),
            Err(SourceError::InlineKey { .. })
        ));
    }

    #[test]
    fn selects_suites_in_the_asked_order() {
        let text = "deb http://s.example/security bookworm-security main\n\
             deb http://m.example/debian/ bookworm main non-free\n\
             deb http://other.example/debian trixie main\n";
        let lines: Vec<_> = text
            .lines()
            .filter_map(|line| one_line(line).unwrap())
            .collect();
        let wanted = ["bookworm", "bookworm-updates", "bookworm-security"].map(str::to_owned);
        let main = ["main".to_owned()];
        check(
            &select(&lines, &wanted, &main).unwrap(),
            &[
                "deb http://m.example/debian bookworm main",
                "deb http://s.example/security bookworm-security main",
            ],
        );
        let error = select(&lines[..1], &wanted, &main).unwrap_err();
        assert!(
            matches!(&error, SourceError::NoMirror { suite } if suite == "bookworm"),
            "{error}"
        );
    }

    #[test]
    fn carries_how_to_reach_and_no_hooks() {
        let dump = "APT::Update::Post-Invoke:: \"rm -f x\";\nAcquire::http::Proxy \"http://p.example:3128\";\n\
             Acquire::Languages \"none\";\nAcquire::Check-Date \"false\";\n";
        assert_eq!(
            carried(dump, Duration::from_secs(20)),
            "Acquire::http::Timeout \"20\";\nAcquire::https::Timeout \"20\";\nAcquire::Retries \"1\";\n\
             Acquire::Retries::Delay \"false\";\n\
             Acquire::http::Proxy \"http://p.example:3128\";\nAcquire::Check-Date \"false\";\n"
        );
    }
}
