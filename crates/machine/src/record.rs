//! `machine.json`: what must be known of a machine to take it over after a restart. It must not
//! hold a secret; the keys are files of their own.

use crate::{MachineError, MachineInfo};
use process::ProcessId;
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::Path;

/// Version of the file.
const VERSION: u32 = 1;
const FILE: &str = "machine.json";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    version: u32,
    /// Ticks after boot at which the process started: with its id, it names one process.
    start_ticks: u64,
    pub info: MachineInfo,
}

#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

impl Record {
    pub(crate) fn new(info: MachineInfo, start_ticks: u64) -> Self {
        Self {
            version: VERSION,
            start_ticks,
            info,
        }
    }

    pub(crate) fn process(&self) -> ProcessId {
        ProcessId {
            pid: self.info.pid,
            start_ticks: self.start_ticks,
        }
    }

    /// The record in this folder, if there is one.
    pub(crate) fn read(dir: &Path) -> Result<Option<Self>, MachineError> {
        let file = dir.join(FILE);
        let bytes = match std::fs::read(&file) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(MachineError::file("read", file)(error)),
        };
        let damaged =
            |error: serde_json::Error| MachineError::file("understand", &file)(error.into());
        let VersionOnly { version } = serde_json::from_slice(&bytes).map_err(damaged)?;
        if version != VERSION {
            return Err(MachineError::RecordVersion {
                path: file,
                found: version,
                known: VERSION,
            });
        }
        serde_json::from_slice(&bytes).map(Some).map_err(damaged)
    }

    /// Replaces the record: a reader sees the old one or the new one.
    pub(crate) fn write(&self, dir: &Path) -> Result<(), MachineError> {
        let (file, new) = (dir.join(FILE), dir.join("machine.json.new"));
        let write = || {
            let mut out = std::fs::File::create(&new)?;
            out.write_all(&serde_json::to_vec_pretty(self)?)?;
            out.sync_all()?;
            std::fs::rename(&new, &file)
        };
        write().map_err(MachineError::file("write", &file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Accel, Firmware, Lifetime};

    #[test]
    fn comes_back_and_refuses_what_it_does_not_know() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Record::read(folder.path()).unwrap(), None);
        let info = MachineInfo {
            name: "m".into(),
            dir: folder.path().into(),
            pid: 7,
            ssh_port: 2222,
            user: "u".into(),
            key_file: "k".into(),
            host_key: "ssh-ed25519 AAAA".into(),
            accel: Accel::Tcg,
            firmware: Firmware::Bios,
            lifetime: Lifetime::Persistent,
        };
        let record = Record::new(info, 99);
        record.write(folder.path()).unwrap();
        assert_eq!(Record::read(folder.path()).unwrap(), Some(record));
        let file = folder.path().join(FILE);
        std::fs::write(&file, r#"{"version":2,"more":"x"}"#).unwrap();
        let error = Record::read(folder.path()).unwrap_err();
        assert!(matches!(
            error,
            MachineError::RecordVersion { found: 2, .. }
        ));
        std::fs::write(&file, "{").unwrap();
        assert!(Record::read(folder.path()).is_err());
    }
}
