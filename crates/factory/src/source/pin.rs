//! A dated, digested state of an archive, kept with the lists it was read from so that it can be
//! built from again. It must not reach the network.

use std::collections::BTreeSet;
use std::fmt;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use wire::compute::OsType;

use super::{PlatformImage, Product, SourceError, SourceLine};

/// Raised when the meaning of a stored pin changes.
const PIN_FORMAT: u32 = 1;
const PIN_FILE: &str = "pin.json";
const LISTS: &str = "lists";
/// Files of one pin: a handful per suite.
const MAX_LISTS: usize = 256;

/// What one suite held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SuiteState {
    pub suite: String,
    pub date: Timestamp,
    pub in_release_sha256: String,
    /// Package list and SHA-256, one for each component.
    pub packages: Vec<(String, String)>,
}

/// Names a state of an archive by what its suites hold, not by where it was read from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StateDigest(String);

impl StateDigest {
    pub fn of(suites: &[SuiteState]) -> StateDigest {
        let mut text = String::from("bullion archive state v1\n");
        for state in suites {
            let SuiteState {
                suite,
                date,
                in_release_sha256,
                packages,
            } = state;
            let _ = writeln!(text, "suite {suite} {date} {in_release_sha256}");
            for (name, hash) in packages {
                let _ = writeln!(text, "packages {name} {hash}");
            }
        }
        StateDigest(hex(&Sha256::digest(text.as_bytes())))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StateDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// What `latest` meant when it was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    format: u32,
    /// With the dated version in place of `latest`.
    pub image: PlatformImage,
    pub state: StateDigest,
    /// Seconds since 1970 of the newest part: no file of the image is younger.
    pub epoch: i64,
    /// As people say it: `Debian GNU/Linux 12.15 (bookworm)`.
    pub os_version: String,
    pub suites: Vec<SuiteState>,
    pub sources: Vec<SourceLine>,
    /// What is not Debian.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub described: Option<Described>,
    /// The vendor's file that the disk is, where there is no archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<FileState>,
}

/// What an operator's description said of a distribution when it was pinned, so that the same is built from the pin later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Described {
    pub name: String,
    /// What a base system has beside the minimum.
    pub packages: Vec<String>,
}

/// A vendor's disk image, named by what is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FileState {
    pub sha256: String,
    /// A file of the images' folder, or where it was fetched from.
    pub from: String,
    /// Linux where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os_type: Option<OsType>,
}

impl Pin {
    pub fn new(
        image: PlatformImage,
        os_version: String,
        suites: Vec<SuiteState>,
        sources: Vec<SourceLine>,
    ) -> Pin {
        let state = StateDigest::of(&suites);
        let newest = suites.iter().map(|suite| suite.date.as_second()).max();
        let epoch = newest.unwrap_or_default();
        Pin {
            format: PIN_FORMAT,
            image,
            state,
            epoch,
            os_version,
            suites,
            sources,
            described: None,
            file: None,
        }
    }

    /// The pin of a vendor's file. Its state is the file's hash; there is no archive to build more from.
    pub fn of_file(image: PlatformImage, os_version: String, epoch: i64, file: FileState) -> Pin {
        Pin {
            format: PIN_FORMAT,
            image,
            state: StateDigest(file.sha256.clone()),
            epoch,
            os_version,
            suites: Vec::new(),
            sources: Vec::new(),
            described: None,
            file: Some(file),
        }
    }

    pub fn is_windows(&self) -> bool {
        let said = self.file.as_ref().and_then(|file| file.os_type);
        said == Some(OsType::Windows)
    }

    /// The text of a `sources.list` of this pin.
    pub fn sources_list(&self) -> String {
        self.sources.iter().fold(String::new(), |mut text, line| {
            let _ = writeln!(text, "{line}");
            text
        })
    }
}

/// The pins of one data folder.
#[derive(Debug, Clone)]
pub(crate) struct PinFolder {
    folder: PathBuf,
}

impl PinFolder {
    pub(crate) fn new(folder: PathBuf) -> Self {
        PinFolder { folder }
    }

    pub(crate) fn of(&self, pin: &Pin) -> PathBuf {
        self.folder.join(pin.state.as_str())
    }

    /// Package lists of the pin, named as apt wants them.
    pub(crate) fn lists(&self, pin: &Pin) -> PathBuf {
        self.of(pin).join(LISTS)
    }

    /// Keeps the pin with the lists in `from`. Done twice, it changes nothing; the same state read
    /// from another mirror adds that mirror's names for the same lists.
    pub(crate) fn keep(&self, pin: &Pin, from: &Path) -> Result<(), SourceError> {
        let lists = self.lists(pin);
        std::fs::create_dir_all(&lists).map_err(SourceError::file("make", &lists))?;
        let entries = std::fs::read_dir(from).map_err(SourceError::file("list", from))?;
        for entry in entries.flatten().take(MAX_LISTS) {
            let (path, name) = (entry.path(), entry.file_name());
            let is_list = entry.file_type().is_ok_and(|kind| kind.is_file()) && name != "lock";
            let target = lists.join(&name);
            if is_list && !target.exists() {
                let partial = lists.join(format!(".{}", name.to_string_lossy()));
                std::fs::copy(&path, &partial).map_err(SourceError::file("copy", &path))?;
                std::fs::rename(&partial, &target)
                    .map_err(SourceError::file("rename", &partial))?;
            }
        }
        // The description comes last: a pin without it does not exist.
        let text = serde_json::to_vec_pretty(pin).map_err(|error| SourceError::BadPin {
            state: pin.state.to_string(),
            reason: error.to_string(),
        })?;
        let (file, partial) = (self.of(pin).join(PIN_FILE), self.of(pin).join(".pin.json"));
        std::fs::write(&partial, text).map_err(SourceError::file("write", &partial))?;
        std::fs::rename(&partial, &file).map_err(SourceError::file("rename", &partial))
    }

    /// All pins, oldest first. What cannot be read is not offered.
    fn all(&self) -> Vec<Pin> {
        let Ok(entries) = std::fs::read_dir(&self.folder) else {
            return Vec::new();
        };
        let mut pins: Vec<Pin> = entries
            .flatten()
            .filter_map(|entry| std::fs::read(entry.path().join(PIN_FILE)).ok())
            .filter_map(|bytes| serde_json::from_slice::<Pin>(&bytes).ok())
            .filter(|pin| pin.format == PIN_FORMAT && pin.state == StateDigest::of(&pin.suites))
            .collect();
        pins.sort_by(|a, b| (a.epoch, &a.state).cmp(&(b.epoch, &b.state)));
        pins
    }

    /// The pins of one product, oldest first.
    pub(crate) fn of_product(&self, product: &Product) -> Vec<Pin> {
        let mut pins = self.all();
        pins.retain(|pin| {
            pin.image
                .is_product(&product.publisher, &product.offer, &product.sku)
        });
        pins
    }

    /// The versions that can be built from again, oldest first.
    pub(crate) fn versions(&self, product: &Product) -> Vec<String> {
        let pins = self.of_product(product).into_iter();
        let mut versions: Vec<String> = pins.map(|pin| pin.image.version).collect();
        versions.dedup();
        versions
    }

    /// Checks that what was pinned is still here and the same, before anything is built from it.
    pub(crate) fn check(&self, pin: &Pin) -> Result<(), SourceError> {
        let bad = |reason: String| SourceError::BadPin {
            state: pin.state.to_string(),
            reason,
        };
        let lists = self.lists(pin);
        let entries = std::fs::read_dir(&lists).map_err(|error| bad(error.to_string()))?;
        let mut found = BTreeSet::new();
        for entry in entries.flatten().take(MAX_LISTS) {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.ends_with("_InRelease") || name.ends_with("_Packages") {
                let bytes = std::fs::read(entry.path()).map_err(|error| bad(error.to_string()))?;
                found.insert(hex(&Sha256::digest(&bytes)));
            }
        }
        for suite in &pin.suites {
            let lists = suite.packages.iter().map(|(_, hash)| hash);
            let mut needed = lists.chain([&suite.in_release_sha256]);
            if !needed.all(|hash| found.contains(hash)) {
                return Err(bad(format!(
                    "the lists of {} are gone or changed",
                    suite.suite
                )));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suite(name: &str, second: i64, body: &[u8]) -> SuiteState {
        SuiteState {
            suite: name.to_owned(),
            date: Timestamp::from_second(second).unwrap(),
            in_release_sha256: hex(&Sha256::digest(body)),
            packages: vec![(
                "main/binary-amd64/Packages".to_owned(),
                hex(&Sha256::digest(b"list")),
            )],
        }
    }

    fn pin() -> Pin {
        let image = "Debian:debian-12:12-gen2:12.15.20261118".parse().unwrap();
        let suites = vec![
            suite("bookworm", 1_000, b"one"),
            suite("bookworm-security", 2_000, b"two"),
        ];
        Pin::new(image, "Debian".to_owned(), suites, Vec::new())
    }

    #[test]
    fn a_state_is_named_by_what_it_holds() {
        let pin = pin();
        assert_eq!(pin.epoch, 2_000);
        let mut other = pin.suites.clone();
        assert_eq!(StateDigest::of(&other), pin.state);
        other[1].packages[0].1 = "cd".repeat(32);
        assert_ne!(StateDigest::of(&other), pin.state);
    }

    #[test]
    fn keeps_finds_and_checks() {
        let folder = tempfile::tempdir().unwrap();
        let lists = folder.path().join("apt");
        std::fs::create_dir(&lists).unwrap();
        std::fs::write(lists.join("a_bookworm_InRelease"), "one").unwrap();
        std::fs::write(lists.join("a_bookworm-security_InRelease"), "two").unwrap();
        std::fs::write(lists.join("a_main_binary-amd64_Packages"), "list").unwrap();
        std::fs::write(lists.join("lock"), "").unwrap();
        let pins = PinFolder::new(folder.path().join("archive"));
        let pin = pin();
        assert!(pins.all().is_empty());
        pins.keep(&pin, &lists).unwrap();
        pins.keep(&pin, &lists).unwrap();
        assert_eq!(pins.all(), std::slice::from_ref(&pin));
        pins.check(&pin).unwrap();
        assert!(!pins.lists(&pin).join("lock").exists());
        std::fs::write(pins.lists(&pin).join("a_bookworm_InRelease"), "changed").unwrap();
        let error = pins.check(&pin).unwrap_err().to_string();
        assert!(
            error.contains("the lists of bookworm are gone or changed"),
            "{error}"
        );
    }
}
