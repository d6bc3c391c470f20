//! What is written down about a domain: `keys/domains/NAME.json`, readable by its owner only. It tells where the key is
//! and no key.

use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wire::{Location, ResourceId, TenantId};

use super::{DomainError, DomainName, DomainSetting, MAX_DOMAINS};
use crate::regions::{RegionError, Regions};

const VERSION: u32 = 1;
/// A record is some hundred bytes.
const MAX_RECORD_BYTES: u64 = 64 << 10;
const SUFFIX: &str = "json";

/// What becomes of a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    Active,
    /// Its secret is gone; what it held takes room until it is deleted.
    Erased,
    /// Its set is gone, and its stores go.
    Removed,
}

/// Where a key is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "in", rename_all = "camelCase")]
pub(super) enum KeyPlace {
    /// A key file of the domain's own.
    File { version: String },
    /// The transit engine that the configuration names.
    Transit { key: String, version: u64 },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    version: u32,
    pub set: ResourceId,
    pub tenant: TenantId,
    pub region: Location,
    pub phase: Phase,
    pub rotates: bool,
    pub key: KeyPlace,
    /// Keys that some store may still need, the newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub former: Vec<KeyPlace>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotated_at: Option<String>,
}

impl Record {
    pub(super) fn new(wanted: &DomainSetting, key: KeyPlace) -> Record {
        Record {
            version: VERSION,
            set: wanted.set.clone(),
            tenant: wanted.tenant,
            region: Location::new(wanted.region.folded()),
            phase: Phase::Active,
            rotates: wanted.rotates,
            key,
            former: Vec::new(),
            rotated_at: None,
        }
    }
}

/// All that can be read. One that cannot is told and left out: its stores are not opened, and not touched.
pub(super) fn read_all(folder: &Path) -> Result<Vec<(DomainName, Record)>, RegionError> {
    let fail = |source| RegionError::List {
        folder: folder.to_owned(),
        source,
    };
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(fail)?,
    };
    let mut found = Vec::new();
    for entry in entries.take(MAX_DOMAINS * 4) {
        let path = entry.map_err(fail)?.path();
        if path.extension().is_none_or(|suffix| suffix != SUFFIX) {
            continue;
        }
        match read(&path) {
            Ok(record) => found.push((DomainName::of(&record.set), record)),
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "a domain is left out");
            }
        }
    }
    found.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(found)
}

fn read(path: &Path) -> io::Result<Record> {
    if std::fs::metadata(path)?.len() > MAX_RECORD_BYTES {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let record: Record = serde_json::from_slice(&std::fs::read(path)?)?;
    match record.version {
        VERSION => Ok(record),
        _ => Err(io::Error::other("it has an unknown version")),
    }
}

fn write(path: &Path, record: &Record) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let temporary = path.with_extension("new");
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(&serde_json::to_vec(record)?)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    std::fs::File::open(folder)?.sync_all()
}

impl Regions {
    fn record_path(&self, name: &DomainName) -> PathBuf {
        let file = format!("{}.{SUFFIX}", name.as_str());
        self.domain_folder().join(file)
    }

    pub(super) fn write_record(
        &self,
        name: &DomainName,
        record: &Record,
    ) -> Result<(), DomainError> {
        let path = self.record_path(name);
        write(&path, record).map_err(|source| DomainError::Record { path, source })
    }

    pub(super) fn remove_record(&self, name: &DomainName) {
        let path = self.record_path(name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "the record of a domain stays");
            }
            _ => {}
        }
    }
}
