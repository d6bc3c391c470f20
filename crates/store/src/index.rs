//! What a store has: where each frame is, and which block is in which frame.
//!
//! The index is in memory and is rebuilt from pack footers when a store is opened, so there is
//! nothing that could disagree with the packs. A block costs about 40 bytes here.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;
use std::sync::Arc;

use crate::frame::{Coding, FrameId};
use crate::pack::PackFooter;
use crate::section::UsedFrame;

/// A block, as one domain knows it. Domains have different secrets, so one's fingerprints tell
/// nothing about another's, and nobody can look for two blocks with one fingerprint.
///
/// With 2^32 blocks, 16 TiB of distinct data, two have the same one with a chance of 10^-10; the
/// digest of a disk that is read back would tell.
pub(crate) type Fingerprint = [u8; 12];

/// Where a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) id: FrameId,
    pub(crate) pack: u32,
    pub(crate) offset: u32,
    pub(crate) len: u32,
    pub(crate) blocks: u8,
    pub(crate) coding: Coding,
}

impl Location {
    pub(crate) fn used(&self) -> UsedFrame {
        UsedFrame {
            id: self.id,
            blocks: self.blocks,
        }
    }
}

/// Where a block is: a frame by its number here, and the place within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlockAt {
    pub(crate) frame: u32,
    pub(crate) slot: u8,
}

/// Fingerprints come from a keyed hash, so their first bytes are as good as any hash of them.
#[derive(Default)]
pub(crate) struct FirstBytes(u64);

impl Hasher for FirstBytes {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(head) = bytes.first_chunk() {
            self.0 = u64::from_le_bytes(*head);
        }
    }

    /// Array lengths are hashed too, and say nothing.
    fn write_usize(&mut self, _: usize) {}
}

pub(crate) type ByFingerprint<V> = HashMap<Fingerprint, V, BuildHasherDefault<FirstBytes>>;

/// Which of two places of one frame counts from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Precedence {
    /// The one that is known.
    Known,
    /// The new one, because the other is about to go.
    New,
}

/// A pack that is or was in the place. Its number is never given to another one.
#[derive(Debug)]
struct KnownPack {
    name: Arc<str>,
    file_bytes: u64,
    frames: Range<u32>,
    /// Frames and tables, as stored.
    frame_bytes: u64,
    /// Tables alone.
    table_bytes: u64,
    tables: u64,
    blocks: u64,
    gone: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Index {
    packs: Vec<KnownPack>,
    pack_names: HashMap<Arc<str>, u32>,
    frames: Vec<Location>,
    by_id: HashMap<FrameId, u32>,
    /// In packs that are retired and not gone: for those who began to read before.
    retired: HashMap<FrameId, u32>,
    by_fingerprint: ByFingerprint<BlockAt>,
    /// Packs that were there when the store was opened and could not be understood.
    pub(crate) damaged: Vec<String>,
}

/// What all packs come to.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) packs: u64,
    pub(crate) pack_bytes: u64,
    pub(crate) frames: u64,
    pub(crate) stored_bytes: u64,
    pub(crate) table_bytes: u64,
    pub(crate) raw_blocks: u64,
}

/// The tables of manifests among what a pack holds.
fn tables(entries: &[Location]) -> impl Iterator<Item = &Location> {
    entries.iter().filter(|at| at.blocks == 0)
}

impl Index {
    /// Takes up a pack that is durably in the place.
    pub(crate) fn add(
        &mut self,
        name: &str,
        file_bytes: u64,
        footer: &PackFooter,
        precedence: Precedence,
    ) {
        self.damaged.retain(|damaged| damaged != name);
        let first = match self.pack_names.get(name) {
            // It was retired, perhaps, and now its frames are wanted again.
            Some(known) => self.packs[*known as usize].frames.start,
            None => self.new_pack(name, file_bytes, footer),
        };
        for (packed, number) in footer.frames.iter().zip(first..) {
            match precedence {
                Precedence::Known => *self.by_id.entry(packed.id).or_insert(number),
                Precedence::New => self.by_id.insert(packed.id, number).unwrap_or(number),
            };
            for (fingerprint, slot) in packed.fingerprints.iter().zip(0u8..) {
                let at = BlockAt {
                    frame: number,
                    slot,
                };
                match precedence {
                    Precedence::Known => {
                        self.by_fingerprint.entry(*fingerprint).or_insert(at);
                    }
                    Precedence::New => {
                        self.by_fingerprint.insert(*fingerprint, at);
                    }
                }
            }
        }
    }

    fn new_pack(&mut self, name: &str, file_bytes: u64, footer: &PackFooter) -> u32 {
        let pack = self.packs.len() as u32;
        let first = self.frames.len() as u32;
        let frames = footer.frames.iter().map(|packed| Location {
            id: packed.id,
            pack,
            offset: packed.offset as u32,
            len: packed.len,
            blocks: packed.blocks,
            coding: packed.coding,
        });
        self.frames.extend(frames);
        let added = &self.frames[first as usize..];
        let name: Arc<str> = name.into();
        self.pack_names.insert(Arc::clone(&name), pack);
        self.packs.push(KnownPack {
            name,
            file_bytes,
            frames: first..self.frames.len() as u32,
            frame_bytes: added.iter().map(|at| u64::from(at.len)).sum(),
            table_bytes: tables(added).map(|at| u64::from(at.len)).sum(),
            tables: tables(added).count() as u64,
            blocks: added.iter().map(|at| u64::from(at.blocks)).sum(),
            gone: false,
        });
        first
    }

    /// Lets no lookup lead to these packs any more. Who knows a place in them can still read it.
    pub(crate) fn retire(&mut self, packs: &[u32]) {
        let retired: HashSet<u32> = packs.iter().copied().collect();
        let frames = &self.frames;
        let gone = self
            .by_id
            .extract_if(|_, number| retired.contains(&frames[*number as usize].pack));
        self.retired.extend(gone);
        let by_id = &self.by_id;
        self.by_fingerprint.retain(|_, at| {
            let frame = &frames[at.frame as usize];
            if !retired.contains(&frame.pack) {
                return true;
            }
            // The same frame may be in another pack too.
            let elsewhere = by_id.get(&frame.id).copied();
            at.frame = elsewhere.unwrap_or(at.frame);
            elsewhere.is_some()
        });
    }

    /// A retired pack is no longer in the place.
    pub(crate) fn forget(&mut self, pack: u32) {
        let known = &mut self.packs[pack as usize];
        known.gone = true;
        self.pack_names.remove(&known.name);
        let frames = &self.frames;
        self.retired
            .retain(|_, number| frames[*number as usize].pack != pack);
    }

    /// Whether a pack of this name is in the place, as far as was seen.
    pub(crate) fn knows_pack(&self, name: &str) -> bool {
        self.pack_names.contains_key(name)
    }

    pub(crate) fn block(&self, fingerprint: &Fingerprint) -> Option<BlockAt> {
        self.by_fingerprint.get(fingerprint).copied()
    }

    pub(crate) fn number(&self, id: &FrameId) -> Option<u32> {
        self.by_id.get(id).copied()
    }

    /// Where a frame can be read, be it in a retired pack. Nothing new may be built on it.
    pub(crate) fn readable(&self, id: &FrameId) -> Option<Location> {
        let number = self.by_id.get(id).or_else(|| self.retired.get(id))?;
        Some(self.frames[*number as usize])
    }

    pub(crate) fn frame(&self, number: u32) -> &Location {
        &self.frames[number as usize]
    }

    pub(crate) fn pack(&self, number: u32) -> Arc<str> {
        Arc::clone(&self.packs[number as usize].name)
    }

    /// A pack that is in the place, by name.
    pub(crate) fn pack_number(&self, name: &str) -> Option<u32> {
        self.pack_names.get(name).copied()
    }

    /// Everything that a pack holds, whether lookups lead there or not.
    pub(crate) fn frames_of(&self, pack: u32) -> Vec<Location> {
        let range = &self.packs[pack as usize].frames;
        self.frames[range.start as usize..range.end as usize].to_vec()
    }

    /// The frames for which lookups lead to a pack.
    pub(crate) fn frames_here(&self, pack: u32) -> Vec<Location> {
        let mut frames = self.frames_of(pack);
        frames.retain(|at| {
            self.number(&at.id)
                .is_some_and(|number| self.frame(number).pack == pack)
        });
        frames
    }

    /// Packs to which a lookup may lead.
    pub(crate) fn live_packs(&self) -> impl Iterator<Item = u32> {
        let live: HashSet<u32> = self
            .by_id
            .values()
            .map(|number| self.frames[*number as usize].pack)
            .collect();
        live.into_iter()
    }

    /// The length of a pack's file.
    pub(crate) fn pack_len(&self, number: u32) -> u64 {
        self.packs[number as usize].file_bytes
    }

    /// All frames of a pack, as stored.
    pub(crate) fn frame_bytes(&self, number: u32) -> u64 {
        self.packs[number as usize].frame_bytes
    }

    /// Packs that are in the place, retired ones included.
    pub(crate) fn pack_numbers(&self) -> impl Iterator<Item = u32> {
        let numbered = self.packs.iter().zip(0u32..);
        numbered
            .filter(|(pack, _)| !pack.gone)
            .map(|(_, number)| number)
    }

    pub(crate) fn totals(&self) -> Totals {
        let there = self.packs.iter().filter(|pack| !pack.gone);
        there.fold(Totals::default(), |sum, pack| Totals {
            packs: sum.packs + 1,
            pack_bytes: sum.pack_bytes + pack.file_bytes,
            frames: sum.frames + pack.frames.len() as u64 - pack.tables,
            stored_bytes: sum.stored_bytes + pack.frame_bytes - pack.table_bytes,
            table_bytes: sum.table_bytes + pack.table_bytes,
            raw_blocks: sum.raw_blocks + pack.blocks,
        })
    }
}
