//! The disks of an image: the one that machines boot from, and data disks by the number of their place.
//!
//! Whoever copies, counts, proves or deploys a version does so with this, so that no disk of it is forgotten. What a
//! resource says of its disks is read here and nowhere else. Must not know where disks are kept.

use catalog::Resource;
pub use disk::DiskDigest;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The member of a resource's facts that lists its data disks.
pub const DATA_DISKS: &str = "dataDisks";
/// Azure's largest machines take so many; their places are numbered from 0 on.
pub const DATA_DISKS_MAX: usize = 64;
const GIB: u64 = 1 << 30;

/// A data disk of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DataDisk {
    pub lun: u32,
    #[serde(rename = "diskDigest")]
    pub digest: DiskDigest,
    /// The size of the disk.
    pub logical_bytes: u64,
}

impl DataDisk {
    pub fn gib(&self) -> u64 {
        self.logical_bytes.div_ceil(GIB)
    }
}

/// All disks of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disks {
    pub os: DiskDigest,
    /// In the order of their numbers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub data: Vec<DataDisk>,
}

impl Disks {
    /// An image without data disks.
    pub fn only(os: DiskDigest) -> Disks {
        Disks {
            os,
            data: Vec::new(),
        }
    }

    /// What a resource's facts say; nothing as long as one of its disks is not there yet.
    pub fn of(resource: &Resource) -> Option<Disks> {
        Disks::of_facts(&resource.properties["bullion"])
    }

    /// The same, of the facts alone.
    pub fn of_facts(facts: &Value) -> Option<Disks> {
        let os = facts["diskDigest"].as_str()?.parse().ok()?;
        let mut data = match &facts[DATA_DISKS] {
            Value::Null => Vec::new(),
            listed => serde_json::from_value::<Vec<DataDisk>>(listed.clone()).ok()?,
        };
        data.sort_by_key(|disk| disk.lun);
        Some(Disks { os, data })
    }

    /// Digests of all, the one to boot from first.
    pub fn all(&self) -> impl Iterator<Item = &DiskDigest> {
        std::iter::once(&self.os).chain(self.data.iter().map(|disk| &disk.digest))
    }

    pub fn data_disk(&self, lun: u32) -> Option<&DataDisk> {
        self.data.iter().find(|disk| disk.lun == lun)
    }

    /// The facts that [`Disks::of_facts`] reads.
    pub fn write(&self, facts: &mut Value) {
        facts["diskDigest"] = self.os.to_string().into();
        if !self.data.is_empty() {
            facts[DATA_DISKS] = json!(self.data);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(byte: u8) -> DiskDigest {
        DiskDigest::from_bytes([byte; 32])
    }

    #[test]
    fn facts_are_read_as_they_were_written_and_never_by_halves() {
        let of = |lun, byte| DataDisk {
            lun,
            digest: digest(byte),
            logical_bytes: (3 << 30) - 512,
        };
        let disks = Disks {
            os: digest(1),
            data: vec![of(0, 2), of(7, 3)],
        };
        let mut facts = json!({});
        disks.write(&mut facts);
        assert_eq!(Disks::of_facts(&facts).as_ref(), Some(&disks));
        assert_eq!(disks.all().count(), 3);
        assert_eq!(disks.data_disk(7).map(DataDisk::gib), Some(3));
        facts[DATA_DISKS][1] = json!({ "lun": 7, "copiedFrom": "a disk that is read yet" });
        assert_eq!(Disks::of_facts(&facts), None);
        let plain = json!({ "diskDigest": digest(1).to_string() });
        assert_eq!(Disks::of_facts(&plain), Some(Disks::only(digest(1))));
        assert_eq!(Disks::of_facts(&json!({})), None);
    }
}
