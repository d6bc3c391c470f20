//! What a store knows once it is open: what was noted, as far as the packs are still there, and the footers of all
//! others.

use std::collections::HashSet;
use std::sync::Arc;

use super::runs::{FOLDER, Group, NotedPack, ROOT, Runs};
use super::{Index, KnownPack, Level, Precedence, Standing, pack_key, pack_name};
use crate::codec::PACKS;
use crate::collect::Note;
use crate::error::StoreError;
use crate::place::{Entry, Place};
use crate::store::{Inner, list, read_footer};

/// Numbers of packs that are gone are only kept up to so many, or as many as there are packs.
const MAX_LOST_NUMBERS: usize = 4096;

/// Packs that are in the place, with their lengths, sorted. A list of names would take several times as much.
struct There {
    packs: Vec<([u8; 16], u32)>,
    /// What has another name than packs have.
    others: Vec<Entry>,
}

impl There {
    fn list(place: &dyn Place) -> Result<There, StoreError> {
        let mut there = There {
            packs: Vec::new(),
            others: Vec::new(),
        };
        for entry in list(place, PACKS)? {
            let key = pack_key(&entry.name).filter(|key| pack_name(key) == entry.name);
            match (key, u32::try_from(entry.bytes)) {
                (Some(key), Ok(bytes)) => there.packs.push((key, bytes)),
                _ => there.others.push(entry),
            }
        }
        there.packs.sort_unstable();
        there.packs.shrink_to_fit();
        Ok(there)
    }

    fn has(&self, pack: &NotedPack) -> bool {
        let noted = (pack.name, pack.file_bytes);
        self.packs.binary_search(&noted).is_ok()
    }

    /// Those that the store does not know, and is not to pass over.
    fn unknown(&self, inner: &Inner, passes: impl Fn(&str) -> bool) -> impl Iterator<Item = Entry> {
        let packs = self.packs.iter();
        let unknown = packs.filter(|(key, _)| inner.index().pack_names.get(key).is_none());
        let entries = unknown.map(|(key, bytes)| Entry {
            name: pack_name(key),
            bytes: u64::from(*bytes),
        });
        let all = entries.chain(self.others.iter().cloned());
        all.filter(move |entry| passes(&entry.name))
    }
}

impl Index {
    /// Takes up what was noted together, as far as the packs are still there. `false` if it is of no use.
    fn restore(&mut self, group: Group, there: &There) -> bool {
        let limit = there.packs.len() * 2 + MAX_LOST_NUMBERS;
        let last = group.packs.last();
        if last.is_some_and(|(number, _)| *number as usize >= limit) {
            return false;
        }
        for (number, pack) in &group.packs {
            if (*number as usize) < self.packs.len() {
                return false;
            }
            while self.packs.len() < *number as usize {
                self.packs.push(KnownPack::gone());
            }
            match there.has(pack) && self.pack_names.get(&pack.name).is_none() {
                true => {
                    let pack = self.name_pack(*pack);
                    self.packs[pack as usize].is_covered = true;
                }
                false => self.packs.push(KnownPack::gone()),
            }
        }
        for (key, pack) in group.hooks {
            if self.packs[pack as usize].standing != Standing::Gone {
                self.hooks.add(key, pack, |_| false);
            }
        }
        true
    }
}

impl KnownPack {
    /// The number of a pack that is no more.
    pub(super) fn gone() -> KnownPack {
        KnownPack {
            about: NotedPack {
                name: [0; 16],
                file_bytes: 0,
                frame_bytes: 0,
                table_bytes: 0,
                frames: 0,
                tables: 0,
                blocks: 0,
            },
            standing: Standing::Gone,
            level: Level::Named,
            is_covered: true,
            used: Default::default(),
            matched: Default::default(),
            frames: Arc::new([]),
        }
    }
}

impl Inner {
    /// Makes the index of what is in the place. Where a frame is in two packs, one that is not
    /// noted as nobody's counts.
    pub(crate) fn take_up(&self, retired: &Note) -> Result<(), StoreError> {
        let there = There::list(&*self.place)?;
        self.take_up_noted(&there)?;
        for is_retired in [false, true] {
            for entry in there.unknown(self, |name| retired.contains_key(name) == is_retired) {
                self.take_up_pack(entry)?;
            }
        }
        let mut index = self.index_mut();
        for name in retired.keys() {
            index.set_noted(name);
        }
        Ok(())
    }

    fn take_up_pack(&self, entry: Entry) -> Result<(), StoreError> {
        let footer = match read_footer(&*self.place, &entry) {
            // A list may be older than what it lists.
            Err(error) if error.is_not_found() => return Ok(()),
            footer => footer?,
        };
        match footer {
            Ok(footer) => {
                self.take(&entry.name, entry.bytes, &footer, Precedence::Known);
            }
            Err(what) => {
                tracing::warn!(pack = entry.name, what, "a pack is left out of the store");
                self.index_mut().damaged.push(entry.name);
            }
        }
        Ok(())
    }

    fn take_up_noted(&self, there: &There) -> Result<(), StoreError> {
        let fresh = Index::new(self.options.index_bytes);
        let noted = Runs::open(&*self.place, fresh.limits.buffers);
        let restored = noted.and_then(|runs| {
            let restored = runs.map(|runs| self.restored(fresh, runs, there));
            restored.transpose()
        });
        let index = match restored {
            Ok(None) => return Ok(()),
            Ok(Some(index)) => index,
            Err(error @ StoreError::Damaged { .. }) => {
                tracing::warn!(%error, "the index is made anew from the packs");
                None
            }
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error),
        };
        let counts: HashSet<String> = match index {
            Some(index) => {
                let files = index.runs.files();
                *self.index_mut() = index;
                files.into_iter().collect()
            }
            None => {
                self.drop_noted();
                HashSet::new()
            }
        };
        for entry in list(&*self.place, FOLDER)? {
            if !counts.contains(&entry.name)
                && let Err(error) = self.place.delete(&entry.name)
            {
                tracing::debug!(name = entry.name, %error, "a file of an older index stays");
            }
        }
        Ok(())
    }

    /// The index with all that was noted; nothing if that is of no use.
    fn restored(
        &self,
        mut index: Index,
        runs: Runs,
        there: &There,
    ) -> Result<Option<Index>, StoreError> {
        let runs = Arc::new(runs);
        index.runs = Arc::clone(&runs);
        index.fit();
        for group in runs.groups(&*self.place) {
            if !index.restore(group?, there) {
                return Ok(None);
            }
        }
        Ok(Some(index))
    }

    /// The next opening makes the index anew.
    pub(super) fn drop_noted(&self) {
        if let Err(error) = self.place.delete(ROOT) {
            tracing::warn!(%error, "an index that is of no use stays");
        }
    }
}
