//! Hashing many 4 KiB blocks at once.
//!
//! One block fills only four of the lanes that BLAKE3 can use, so a block on its own is hashed at
//! half speed. Here the first KiB of many blocks is hashed together, then the second, and so on:
//! the result is exactly `blake3::derive_key(context, block)`, which a test holds it against.
//! Nothing here knows what the hashes mean.

use std::sync::LazyLock;

use blake3::platform::{Platform, words_from_le_bytes_32};
use blake3::{CHUNK_LEN, IncrementCounter, OUT_LEN};

use crate::BLOCK_SIZE;

/// The hash of one block; all zero for a block of zeros.
pub type LeafHash = [u8; OUT_LEN];

const CHUNKS: usize = BLOCK_SIZE / CHUNK_LEN;
const PAIR: usize = 2 * OUT_LEN;

// The flags of the BLAKE3 specification, section 2.1.
const CHUNK_START: u8 = 1;
const CHUNK_END: u8 = 1 << 1;
const PARENT: u8 = 1 << 2;
const ROOT: u8 = 1 << 3;
const DERIVE_KEY_MATERIAL: u8 = 1 << 6;

/// Blocks handed to the hasher at once: two rounds of the widest lanes there are.
const BATCH: usize = 32;

/// A derived key, made once per context.
pub(crate) struct Context([u32; 8]);

impl Context {
    pub(crate) fn new(context: &str) -> Self {
        Context(words_from_le_bytes_32(
            &blake3::hazmat::hash_derive_key_context(context),
        ))
    }

    /// Hashes each block of `blocks`; zero blocks keep the zero constant and cost one look.
    pub(crate) fn leaves(&self, blocks: &[u8], out: &mut [LeafHash]) {
        let (blocks, rest) = blocks.as_chunks::<BLOCK_SIZE>();
        assert!(
            rest.is_empty() && blocks.len() == out.len(),
            "one leaf for each whole block"
        );
        let mut batch: [&[u8; BLOCK_SIZE]; BATCH] = [&[0; BLOCK_SIZE]; BATCH];
        let mut places = [0; BATCH];
        let mut filled = 0;
        for (place, block) in blocks.iter().enumerate() {
            out[place] = [0; OUT_LEN];
            if is_zero(block) {
                continue;
            }
            batch[filled] = block;
            places[filled] = place;
            filled += 1;
            if filled == BATCH {
                self.batch(&batch, &places, out);
                filled = 0;
            }
        }
        self.batch(&batch[..filled], &places[..filled], out);
    }

    fn batch(&self, blocks: &[&[u8; BLOCK_SIZE]], places: &[usize], out: &mut [LeafHash]) {
        let platform = *PLATFORM;
        let count = blocks.len();
        let mut column: [&[u8; CHUNK_LEN]; BATCH] = [&[0; CHUNK_LEN]; BATCH];
        let mut hashes = [0; BATCH * OUT_LEN];
        // Chaining values of a block's chunks lie side by side: pairs of them are parents' input.
        let mut values = [[0; CHUNKS * OUT_LEN]; BATCH];
        for chunk in 0..CHUNKS {
            for (slot, block) in column.iter_mut().zip(blocks) {
                *slot = &block.as_chunks::<CHUNK_LEN>().0[chunk];
            }
            platform.hash_many(
                &column[..count],
                &self.0,
                chunk as u64,
                IncrementCounter::No,
                DERIVE_KEY_MATERIAL,
                CHUNK_START,
                CHUNK_END,
                &mut hashes[..count * OUT_LEN],
            );
            for (value, hash) in values.iter_mut().zip(hashes.as_chunks::<OUT_LEN>().0) {
                value[chunk * OUT_LEN..][..OUT_LEN].copy_from_slice(hash);
            }
        }
        let mut tops = [[0; PAIR]; BATCH];
        for half in 0..2 {
            self.parents(
                &values[..count],
                half,
                DERIVE_KEY_MATERIAL | PARENT,
                &mut hashes,
            );
            for (top, hash) in tops.iter_mut().zip(hashes.as_chunks::<OUT_LEN>().0) {
                top[half * OUT_LEN..][..OUT_LEN].copy_from_slice(hash);
            }
        }
        self.parents(
            &tops[..count],
            0,
            DERIVE_KEY_MATERIAL | PARENT | ROOT,
            &mut hashes,
        );
        for (place, hash) in places.iter().zip(hashes.as_chunks::<OUT_LEN>().0) {
            out[*place] = *hash;
        }
    }

    fn parents<const N: usize>(&self, values: &[[u8; N]], pair: usize, flags: u8, out: &mut [u8]) {
        let mut inputs: [&[u8; PAIR]; BATCH] = [&[0; PAIR]; BATCH];
        for (slot, value) in inputs.iter_mut().zip(values) {
            *slot = &value.as_chunks::<PAIR>().0[pair];
        }
        let count = values.len();
        PLATFORM.hash_many(
            &inputs[..count],
            &self.0,
            0,
            IncrementCounter::No,
            flags,
            0,
            0,
            &mut out[..count * OUT_LEN],
        );
    }

    /// Hashes neighbours in pairs, in place: the first half of `level` becomes the level above.
    /// Two zero children make a zero parent. The length must be even.
    pub(crate) fn pair_up(&self, level: &mut [LeafHash]) {
        assert!(level.len().is_multiple_of(2), "a level of a binary tree");
        let parents = level.len() / 2;
        let mut start = 0;
        while start < parents {
            let count = (parents - start).min(BATCH);
            let mut pairs = [[0; PAIR]; BATCH];
            let mut hashes = [[0; OUT_LEN]; BATCH];
            for (index, pair) in pairs[..count].iter_mut().enumerate() {
                pair[..OUT_LEN].copy_from_slice(&level[2 * (start + index)]);
                pair[OUT_LEN..].copy_from_slice(&level[2 * (start + index) + 1]);
            }
            self.nodes(&pairs[..count], &mut hashes[..count]);
            level[start..start + count].copy_from_slice(&hashes[..count]);
            start += count;
        }
    }

    fn nodes(&self, pairs: &[[u8; PAIR]], out: &mut [LeafHash]) {
        let mut inputs: [&[u8; PAIR]; BATCH] = [&[0; PAIR]; BATCH];
        for (slot, pair) in inputs.iter_mut().zip(pairs) {
            *slot = pair;
        }
        PLATFORM.hash_many(
            &inputs[..pairs.len()],
            &self.0,
            0,
            IncrementCounter::No,
            DERIVE_KEY_MATERIAL,
            CHUNK_START,
            CHUNK_END | ROOT,
            out.as_flattened_mut(),
        );
        for (hash, pair) in out.iter_mut().zip(pairs) {
            if pair == &[0; PAIR] {
                *hash = [0; OUT_LEN];
            }
        }
    }
}

static PLATFORM: LazyLock<Platform> = LazyLock::new(Platform::detect);

/// Whether every byte is zero. Data is told from zeros at its first bytes, so this costs
/// something only for zeros, and then runs at the speed of memory.
pub fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<64>();
    words
        .iter()
        .all(|word| word.iter().fold(0, |sum, byte| sum | byte) == 0)
        && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CONTEXT: &str = "bullion disk test context";

    proptest! {
        #[test]
        fn leaves_are_derive_key_of_each_block(seeds in prop::collection::vec(0u8..4, 0..80)) {
            let mut blocks = Vec::new();
            for (index, seed) in seeds.iter().enumerate() {
                let mut block = [0u8; BLOCK_SIZE];
                for (place, byte) in block.iter_mut().enumerate() {
                    *byte = seed.wrapping_mul((place * 7 + index + place / 256) as u8);
                }
                blocks.extend_from_slice(&block);
            }
            let mut leaves = vec![[9; OUT_LEN]; seeds.len()];
            Context::new(CONTEXT).leaves(&blocks, &mut leaves);
            for (block, leaf) in blocks.chunks(BLOCK_SIZE).zip(&leaves) {
                let expected = if block.iter().all(|byte| *byte == 0) {
                    [0; OUT_LEN]
                } else {
                    blake3::derive_key(CONTEXT, block)
                };
                prop_assert_eq!(*leaf, expected);
            }
        }

        #[test]
        fn pairs_are_derive_key_of_both_children(seeds in prop::collection::vec(0u8..3, 0..50)) {
            let mut level: Vec<LeafHash> = seeds.iter().flat_map(|seed| {
                [[*seed; OUT_LEN], [seed.wrapping_mul(5); OUT_LEN]]
            }).collect();
            let before = level.clone();
            Context::new(CONTEXT).pair_up(&mut level);
            for (index, pair) in before.chunks(2).enumerate() {
                let both = [pair[0], pair[1]].concat();
                let expected = if both.iter().all(|byte| *byte == 0) {
                    [0; OUT_LEN]
                } else {
                    blake3::derive_key(CONTEXT, &both)
                };
                prop_assert_eq!(level[index], expected);
            }
        }

        #[test]
        fn zero_test_finds_a_single_byte(len in 0usize..300, place in 0usize..300) {
            let mut bytes = vec![0; len];
            prop_assert!(is_zero(&bytes));
            if place < len {
                bytes[place] = 1;
                prop_assert!(!is_zero(&bytes));
            }
        }
    }
}
