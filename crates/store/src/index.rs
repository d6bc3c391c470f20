//! What a store has: where each frame is, and which block is in which frame.
//!
//! The index is in memory and is rebuilt from pack footers when a store is opened, so there is
//! nothing that could disagree with the packs. A block costs about 40 bytes here.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use disk::LeafHash;

use crate::frame::{Codec, FrameId};
use crate::pack::PackFooter;

/// A block, as one store knows it. Stores have different keys, so one store's fingerprints tell
/// nothing about another's, and nobody can look for two blocks with one fingerprint.
pub(crate) type Fingerprint = [u8; 16];

/// The secret that fingerprints of one store depend on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct DomainKey(pub(crate) [u8; 32]);

impl fmt::Debug for DomainKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DomainKey")
    }
}

impl DomainKey {
    /// The leaf of the disk digest is at hand anyway, so the block is not hashed a second time.
    pub(crate) fn fingerprint(&self, leaf: &LeafHash) -> Fingerprint {
        let hash = blake3::keyed_hash(&self.0, leaf);
        let mut fingerprint = [0; 16];
        fingerprint.copy_from_slice(&hash.as_bytes()[..16]);
        fingerprint
    }
}

/// Where a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) id: FrameId,
    pub(crate) pack: u32,
    pub(crate) offset: u32,
    pub(crate) len: u32,
    pub(crate) blocks: u8,
    pub(crate) codec: Codec,
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

#[derive(Debug, Default)]
pub(crate) struct Index {
    packs: Vec<Arc<str>>,
    frames: Vec<Location>,
    by_id: HashMap<FrameId, u32>,
    by_fingerprint: ByFingerprint<BlockAt>,
    pub(crate) pack_bytes: u64,
    pub(crate) stored_bytes: u64,
    pub(crate) raw_blocks: u64,
    /// Packs that were there when the store was opened and could not be understood.
    pub(crate) damaged: Vec<String>,
}

impl Index {
    /// Takes up a pack that is durably in the place. What is already known stays where it is.
    pub(crate) fn add(&mut self, name: &str, file_bytes: u64, footer: &PackFooter) {
        if self.packs.iter().any(|known| **known == *name) {
            return;
        }
        self.damaged.retain(|damaged| damaged != name);
        let pack = self.packs.len() as u32;
        self.packs.push(name.into());
        self.pack_bytes += file_bytes;
        for packed in &footer.frames {
            let number = self.frames.len() as u32;
            self.by_id.entry(packed.id).or_insert(number);
            self.frames.push(Location {
                id: packed.id,
                pack,
                offset: packed.offset as u32,
                len: packed.len,
                blocks: packed.blocks,
                codec: packed.codec,
            });
            self.stored_bytes += u64::from(packed.len);
            self.raw_blocks += u64::from(packed.blocks);
            for (slot, fingerprint) in packed.fingerprints.iter().enumerate() {
                let at = BlockAt {
                    frame: number,
                    slot: slot as u8,
                };
                self.by_fingerprint.entry(*fingerprint).or_insert(at);
            }
        }
    }

    pub(crate) fn block(&self, fingerprint: &Fingerprint) -> Option<BlockAt> {
        self.by_fingerprint.get(fingerprint).copied()
    }

    pub(crate) fn number(&self, id: &FrameId) -> Option<u32> {
        self.by_id.get(id).copied()
    }

    pub(crate) fn frame(&self, number: u32) -> &Location {
        &self.frames[number as usize]
    }

    pub(crate) fn pack(&self, number: u32) -> Arc<str> {
        Arc::clone(&self.packs[number as usize])
    }

    pub(crate) fn pack_count(&self) -> usize {
        self.packs.len()
    }

    pub(crate) fn frame_count(&self) -> usize {
        self.frames.len()
    }
}
