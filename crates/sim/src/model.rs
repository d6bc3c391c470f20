//! What must be true: which disks were acknowledged, what they hold, and which regions shall have
//! them.

use std::collections::BTreeMap;

use disk::{BLOCK_SIZE, DiskDigest, MemDisk};
use rand::Rng;
use store::region::Want;

/// Blocks of one disk at most.
const BLOCKS: usize = 48;
/// Different contents of blocks, few enough that disks share many.
const CONTENTS: u32 = 96;

/// Disks by digest, and where each shall be.
#[derive(Debug, Default)]
pub struct Model {
    pub disks: BTreeMap<DiskDigest, MemDisk>,
    /// By region.
    pub wanted: Vec<BTreeMap<DiskDigest, Want>>,
}

impl Model {
    pub fn new(regions: usize) -> Model {
        Model {
            disks: BTreeMap::new(),
            wanted: vec![BTreeMap::new(); regions],
        }
    }

    pub fn is_wanted(&self, digest: &DiskDigest) -> bool {
        self.wanted.iter().any(|region| region.contains_key(digest))
    }

    /// One of the disks that somebody wants.
    pub fn pick(&self, rng: &mut impl Rng) -> Option<DiskDigest> {
        let wanted: Vec<&DiskDigest> = self.disks.keys().filter(|d| self.is_wanted(d)).collect();
        match wanted.is_empty() {
            true => None,
            false => Some(*wanted[rng.random_range(0..wanted.len())]),
        }
    }
}

/// A disk with zeros, repeats, and something of its own.
pub fn random_disk(rng: &mut impl Rng) -> MemDisk {
    let blocks = rng.random_range(0..BLOCKS);
    let tail = if rng.random_bool(0.2) { 512 } else { 0 };
    let mut bytes = vec![0; blocks * BLOCK_SIZE + tail];
    let mut at = 0;
    while at < blocks {
        let run = rng.random_range(1..8).min(blocks - at);
        let content = rng.random_range(0..CONTENTS);
        for step in 0..run {
            let block = &mut bytes[(at + step) * BLOCK_SIZE..][..BLOCK_SIZE];
            fill(
                block,
                content.saturating_add(step as u32 * u32::from(content > 0)),
            );
        }
        at += run;
    }
    if blocks > 0 && rng.random_bool(0.8) {
        let own: u64 = rng.random();
        bytes[..8].copy_from_slice(&own.to_le_bytes());
    }
    MemDisk::from(bytes)
}

fn fill(block: &mut [u8], content: u32) {
    if content == 0 {
        return;
    }
    let mut state = u64::from(content).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for byte in block.iter_mut() {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        *byte = match content % 3 {
            0 => (state >> 56) as u8,
            _ => content as u8,
        };
    }
    block[..4].copy_from_slice(&content.to_le_bytes());
}
