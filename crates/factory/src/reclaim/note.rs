//! Since when disks are unused, and whether anything ever had them. A file that is lost or cannot be
//! understood costs time and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::Path;

use disk::DiskDigest;
use serde::{Deserialize, Serialize};

/// A longer file is not ours.
const MAX_BYTES: u64 = 64 << 20;

#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Entry {
    /// A version, image, disk or machine had it.
    published: bool,
    /// Seconds since 1970; none while it is used.
    unused_since: Option<u64>,
}

/// By region and digest.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Note(BTreeMap<String, BTreeMap<String, Entry>>);

impl Note {
    pub fn read(path: &Path) -> Note {
        let is_ours = std::fs::metadata(path).is_ok_and(|meta| meta.len() <= MAX_BYTES);
        let text = is_ours.then(|| std::fs::read(path).ok()).flatten();
        text.and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default()
    }

    pub fn write(&self, path: &Path) -> io::Result<()> {
        let temporary = path.with_extension("json.new");
        let mut file = std::fs::File::create(&temporary)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()?;
        std::fs::rename(temporary, path)
    }

    fn entry(&mut self, region: &str, digest: &DiskDigest) -> &mut Entry {
        let region = self.0.entry(region.to_owned()).or_default();
        region.entry(digest.to_string()).or_default()
    }

    pub fn used(&mut self, region: &str, digest: &DiskDigest) {
        *self.entry(region, digest) = Entry {
            published: true,
            unused_since: None,
        };
    }

    /// Since when it is unused, and whether it was ever used. A time that lies ahead was told by another clock.
    pub fn unused(&mut self, region: &str, digest: &DiskDigest, now: u64) -> (u64, bool) {
        let entry = self.entry(region, digest);
        let since = entry
            .unused_since
            .filter(|since| *since <= now)
            .unwrap_or(now);
        entry.unused_since = Some(since);
        (since, entry.published)
    }

    pub fn forget(&mut self, region: &str, digest: &DiskDigest) {
        if let Some(region) = self.0.get_mut(region) {
            region.remove(&digest.to_string());
        }
    }

    /// Keeps of a region only what it holds.
    pub fn forget_others(&mut self, region: &str, held: &BTreeSet<DiskDigest>) {
        if let Some(region) = self.0.get_mut(region) {
            let held: BTreeSet<String> = held.iter().map(ToString::to_string).collect();
            region.retain(|digest, _| held.contains(digest));
        }
    }
}
