//! Where a disk has data that is like some other data, though no block of it is the same.
//!
//! A rolling hash over the last 64 bytes picks places by their content, so the same content is
//! picked wherever it lies. Memory is bounded: the larger the disk, the fewer places are picked.
//! What is found is a hint and no more: a wrong one costs bytes, never content.

use std::collections::HashMap;

use disk::{CHUNK_SIZE, ReadAt};

use crate::error::StoreError;
use crate::parallel;
use crate::view::StoredDisk;

/// A part of the disk that can be found.
pub(crate) const PART_BYTES: usize = 16 << 10;
/// One byte in so many is picked, as a power of two, if the disk is small enough.
const LEAST_BITS: u32 = 9;
/// Places that are kept in memory, some 16 bytes each: 64 MB.
const MAX_PLACES: u64 = 1 << 22;
/// Chunks of 1 MiB that are read side by side.
const CHUNKS_AT_ONCE: usize = 64;

/// What a disk has, by picked places.
pub(crate) struct Similar {
    bits: u32,
    parts: HashMap<u64, u32>,
}

/// A chunk, and what was picked in it.
struct Scanned {
    offset: u64,
    picked: Vec<(u64, u32)>,
}

impl Similar {
    pub(crate) fn of(disk: &StoredDisk, threads: usize) -> Result<Similar, StoreError> {
        let data = disk.manifest().data_bytes();
        let bits = LEAST_BITS.max((data / MAX_PLACES).checked_ilog2().map_or(0, |log| log + 1));
        let mut parts = HashMap::new();
        let mut next = Some(0);
        while let Some(from) = next {
            let mut chunks = Vec::new();
            next = chunks_from(disk, from, &mut chunks)?;
            parallel::for_each(threads, &mut chunks, Vec::new, |bytes, chunk| {
                chunk.scan(disk, bits, bytes).map_err(StoreError::ReadDisk)
            })?;
            for chunk in chunks {
                for (hash, part) in chunk.picked {
                    if (parts.len() as u64) < MAX_PLACES {
                        parts.entry(hash).or_insert(part);
                    }
                }
            }
        }
        Ok(Similar { bits, parts })
    }

    /// The parts that are most like `bytes`, at most so many, in order of the disk.
    pub(crate) fn parts(&self, bytes: &[u8], most: usize) -> Vec<u32> {
        let mut votes: HashMap<u32, u32> = HashMap::new();
        pick(bytes, self.bits, |_, hash| {
            if let Some(part) = self.parts.get(&hash) {
                *votes.entry(*part).or_default() += 1;
            }
        });
        let mut parts: Vec<(u32, u32)> = votes.into_iter().map(|(part, n)| (n, part)).collect();
        // Equal ones by their place, so that the same disks give the same bytes.
        parts.sort_unstable_by_key(|(votes, part)| (std::cmp::Reverse(*votes), *part));
        parts.truncate(most);
        let mut parts: Vec<u32> = parts.into_iter().map(|(_, part)| part).collect();
        parts.sort_unstable();
        parts
    }
}

/// The next chunks with data, and where to look for more.
fn chunks_from(
    disk: &StoredDisk,
    mut from: u64,
    chunks: &mut Vec<Scanned>,
) -> Result<Option<u64>, StoreError> {
    while chunks.len() < CHUNKS_AT_ONCE {
        let Some(data) = disk.next_data(from).map_err(StoreError::ReadDisk)? else {
            return Ok(None);
        };
        let chunk = data.start / CHUNK_SIZE as u64;
        chunks.push(Scanned {
            offset: chunk * CHUNK_SIZE as u64,
            picked: Vec::new(),
        });
        from = (chunk + 1) * CHUNK_SIZE as u64;
    }
    Ok(Some(from))
}

impl Scanned {
    fn scan(&mut self, disk: &StoredDisk, bits: u32, bytes: &mut Vec<u8>) -> std::io::Result<()> {
        let len = (disk.size() - self.offset).min(CHUNK_SIZE as u64) as usize;
        bytes.resize(len, 0);
        disk.read_at(self.offset, bytes)?;
        let first = (self.offset / PART_BYTES as u64) as u32;
        pick(bytes, bits, |at, hash| {
            self.picked.push((hash, first + (at / PART_BYTES) as u32));
        });
        Ok(())
    }
}

/// Calls `each` for the places that are picked by what the 64 bytes up to them are.
fn pick(bytes: &[u8], bits: u32, mut each: impl FnMut(usize, u64)) {
    let mut hash = 0u64;
    for (at, byte) in bytes.iter().enumerate() {
        hash = (hash << 1).wrapping_add(TABLE[usize::from(*byte)]);
        if hash >> (64 - bits) == 0 && at >= 63 {
            each(at, hash);
        }
    }
}

/// A random number for each byte.
const TABLE: [u64; 256] = {
    let mut table = [0; 256];
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut at = 0;
    while at < table.len() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        table[at] = state.wrapping_mul(0x2545_f491_4f6c_dd1d);
        at += 1;
    }
    table
};
