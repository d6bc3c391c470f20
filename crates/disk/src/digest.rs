//! The name of a disk: a digest of its content that does not depend on where it is kept.
//!
//! # Definition, version 1
//!
//! A disk of `size` bytes is cut into blocks of 4096 bytes; the last one is filled up with zeros.
//! All hashes are BLAKE3 in `derive_key` mode, 32 bytes long.
//!
//! * **leaf** of a block: 32 zero bytes if the block is all zero, otherwise
//!   `derive_key("bullion disk digest v1 leaf", block)`.
//! * The leaves, filled up with zero leaves to the next power of two (at least one leaf), are the
//!   lowest level of a binary tree.
//! * **node**: 32 zero bytes if both children are 32 zero bytes, otherwise
//!   `derive_key("bullion disk digest v1 node", left || right)`.
//! * **digest**: `derive_key("bullion disk digest v1 root", size as 8 bytes little endian || top)`.
//! * As text: `bd1:` and 64 lower-case hexadecimal digits.
//!
//! Consequences: a hole, a run of written zeros and a punched range are the same; the size counts;
//! growing a disk by zeros changes only the path to the top. A **chunk hash** is the node eight
//! levels above the leaves (1 MiB), or the top where the tree is lower than that.
//!
//! This module decides nothing about storage; whoever keeps chunk hashes gets [`digest_after`]
//! for the price of the chunks that changed.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::LazyLock;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::hash::{Context, LeafHash};
use crate::media::read_sparse;
use crate::{BLOCK_SIZE, BLOCKS_PER_CHUNK, CHUNK_SIZE, Changes, ReadAt};

const PREFIX: &str = "bd1:";
const HASH_LEN: usize = 32;

static LEAF: LazyLock<Context> = LazyLock::new(|| Context::new("bullion disk digest v1 leaf"));
static NODE: LazyLock<Context> = LazyLock::new(|| Context::new("bullion disk digest v1 node"));
const ROOT_CONTEXT: &str = "bullion disk digest v1 root";

/// The name of a disk's content. See the module for what exactly it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiskDigest([u8; HASH_LEN]);

impl DiskDigest {
    pub const fn from_bytes(bytes: [u8; HASH_LEN]) -> Self {
        DiskDigest(bytes)
    }

    pub const fn as_bytes(&self) -> &[u8; HASH_LEN] {
        &self.0
    }

    /// The 64 digits without the version mark, for names of files.
    pub fn to_hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Display for DiskDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", self.to_hex())
    }
}

impl fmt::Debug for DiskDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not `bd1:` and 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a disk digest is `bd1:` followed by 64 lower-case hexadecimal digits")]
pub struct ParseDigestError;

impl FromStr for DiskDigest {
    type Err = ParseDigestError;

    /// Strict, because two spellings of one name would be two names somewhere.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text
            .strip_prefix(PREFIX)
            .ok_or(ParseDigestError)?
            .as_bytes();
        let (pairs, rest) = digits.as_chunks::<2>();
        if pairs.len() != HASH_LEN || !rest.is_empty() {
            return Err(ParseDigestError);
        }
        let mut bytes = [0; HASH_LEN];
        for (byte, pair) in bytes.iter_mut().zip(pairs) {
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        Ok(DiskDigest(bytes))
    }
}

fn nibble(digit: u8) -> Result<u8, ParseDigestError> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        _ => Err(ParseDigestError),
    }
}

impl Serialize for DiskDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DiskDigest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The node over one chunk of 1 MiB; all zero for a chunk of zeros.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkHash([u8; HASH_LEN]);

impl ChunkHash {
    /// A chunk of zeros.
    pub const ZERO: ChunkHash = ChunkHash([0; HASH_LEN]);

    pub const fn from_bytes(bytes: [u8; HASH_LEN]) -> Self {
        ChunkHash(bytes)
    }

    pub const fn as_bytes(&self) -> &[u8; HASH_LEN] {
        &self.0
    }
}

impl fmt::Debug for ChunkHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        DiskDigest(self.0).to_hex().fmt(f)
    }
}

/// Chunks of a disk of `size` bytes; the last one may be short. Never zero.
pub fn chunk_count(size: u64) -> usize {
    size.div_ceil(CHUNK_SIZE as u64).max(1) as usize
}

/// Leaves under one chunk hash: fewer than usual only on a disk smaller than a chunk.
fn leaves_per_chunk(size: u64) -> usize {
    let blocks = size.div_ceil(BLOCK_SIZE as u64).max(1);
    blocks.next_power_of_two().min(BLOCKS_PER_CHUNK as u64) as usize
}

/// Hashes chunks one after the other with one set of buffers. Make one for each thread.
pub struct ChunkDigester {
    size: u64,
    leaves: Vec<LeafHash>,
    tree: Vec<LeafHash>,
    padded: Vec<u8>,
}

impl ChunkDigester {
    /// For a disk of `size` bytes.
    pub fn new(size: u64) -> Self {
        let width = leaves_per_chunk(size);
        let zero = [0; HASH_LEN];
        ChunkDigester {
            size,
            leaves: vec![zero; width],
            tree: vec![zero; width],
            padded: vec![],
        }
    }

    /// Hashes chunk `index`, whose bytes these are: 1 MiB, or less at the end of the disk.
    pub fn chunk(&mut self, index: usize, bytes: &[u8]) -> ChunkHash {
        let start = index as u64 * CHUNK_SIZE as u64;
        let expected = self.size.saturating_sub(start).min(CHUNK_SIZE as u64);
        assert_eq!(bytes.len() as u64, expected, "all bytes of chunk {index}");
        let blocks = bytes.len().div_ceil(BLOCK_SIZE);
        self.leaves.fill([0; HASH_LEN]);
        if bytes.len().is_multiple_of(BLOCK_SIZE) {
            LEAF.leaves(bytes, &mut self.leaves[..blocks]);
        } else {
            self.padded.clear();
            self.padded.extend_from_slice(bytes);
            self.padded.resize(blocks * BLOCK_SIZE, 0);
            LEAF.leaves(&self.padded, &mut self.leaves[..blocks]);
        }
        self.tree.copy_from_slice(&self.leaves);
        ChunkHash(top_of(&mut self.tree))
    }

    /// The leaves of the chunk hashed last: zero for zero blocks and past the end of the disk.
    pub fn leaves(&self) -> &[LeafHash] {
        &self.leaves
    }
}

/// The leaves of whole blocks.
pub fn leaf_hashes(blocks: &[u8], out: &mut [LeafHash]) {
    LEAF.leaves(blocks, out);
}

/// Folds a level whose length is a power of two up to its single top node.
fn top_of(level: &mut [LeafHash]) -> LeafHash {
    let mut width = level.len();
    while width > 1 {
        NODE.pair_up(&mut level[..width]);
        width /= 2;
    }
    level[0]
}

/// The node above neighbouring nodes of one level, of which there is a power of two.
pub fn node_above(nodes: &[ChunkHash]) -> ChunkHash {
    assert!(nodes.len().is_power_of_two(), "a level of a binary tree");
    let mut level: Vec<LeafHash> = nodes.iter().map(|node| node.0).collect();
    ChunkHash(top_of(&mut level))
}

/// The digest of a disk of `size` bytes whose tree has this top.
pub fn digest_of_top(size: u64, top: &ChunkHash) -> DiskDigest {
    let mut input = [0; 8 + HASH_LEN];
    input[..8].copy_from_slice(&size.to_le_bytes());
    input[8..].copy_from_slice(&top.0);
    DiskDigest(blake3::derive_key(ROOT_CONTEXT, &input))
}

/// The digest of a disk of `size` bytes with these chunks.
pub fn digest_of_chunks(size: u64, chunks: &[ChunkHash]) -> DiskDigest {
    assert_eq!(chunks.len(), chunk_count(size), "one hash for each chunk");
    let mut level: Vec<LeafHash> = chunks.iter().map(|chunk| chunk.0).collect();
    level.resize(chunks.len().next_power_of_two(), [0; HASH_LEN]);
    digest_of_top(size, &ChunkHash(top_of(&mut level)))
}

/// Reads a disk, without its holes, and names it.
pub fn digest_of(disk: &dyn ReadAt) -> io::Result<(DiskDigest, Vec<ChunkHash>)> {
    let size = disk.size();
    let mut chunks = vec![ChunkHash::ZERO; chunk_count(size)];
    let mut digester = ChunkDigester::new(size);
    let mut buf = vec![0; CHUNK_SIZE];
    let mut offset = 0;
    while let Some(data) = disk.next_data(offset)? {
        let index = (data.start / CHUNK_SIZE as u64) as usize;
        chunks[index] = hash_chunk(disk, &mut digester, index, &mut buf)?;
        offset = (index as u64 + 1) * CHUNK_SIZE as u64;
        if offset >= size {
            break;
        }
    }
    Ok((digest_of_chunks(size, &chunks), chunks))
}

fn hash_chunk(
    disk: &dyn ReadAt,
    digester: &mut ChunkDigester,
    index: usize,
    buf: &mut [u8],
) -> io::Result<ChunkHash> {
    let start = index as u64 * CHUNK_SIZE as u64;
    let len = (disk.size() - start).min(CHUNK_SIZE as u64) as usize;
    read_sparse(disk, start, &mut buf[..len])?;
    Ok(digester.chunk(index, &buf[..len]))
}

/// The digest of a disk that differs from a known one in `changes` only. `view` is the disk after
/// the changes; of it only the touched chunks are read.
pub fn digest_after(
    size: u64,
    parent_chunks: &[ChunkHash],
    view: &dyn ReadAt,
    changes: &Changes,
) -> io::Result<(DiskDigest, Vec<ChunkHash>)> {
    if parent_chunks.len() != chunk_count(size) || view.size() != size {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the parent's chunks, the view and the size belong to different disks",
        ));
    }
    let touched: BTreeSet<usize> = changes
        .iter()
        .map(|(block, _)| block as usize / BLOCKS_PER_CHUNK)
        .collect();
    let mut chunks = parent_chunks.to_vec();
    let mut digester = ChunkDigester::new(size);
    let mut buf = vec![0; CHUNK_SIZE];
    for index in touched {
        chunks[index] = hash_chunk(view, &mut digester, index, &mut buf)?;
    }
    Ok((digest_of_chunks(size, &chunks), chunks))
}
