//! What a disk is: blocks, the digest that names them, changes on top of them, the partition
//! table around them, and the images of other programs that it comes and goes in.
//!
//! Everything here works on traits and memory. This crate opens no file, starts no process and
//! talks to no network, so that the same code can judge a disk in a store, in a file or in a test.

mod cow;
mod digest;
pub mod export;
#[doc(hidden)]
pub mod fuzzing;
mod hash;
pub mod image;
pub mod layout;
mod media;

pub use cow::{Changes, CowDisk, MAX_CHANGED_BYTES};
pub use digest::{
    ChunkDigester, ChunkHash, DiskDigest, ParseDigestError, chunk_count, digest_after, digest_of,
    digest_of_chunks, digest_of_top, leaf_hashes, node_above,
};
pub use hash::{LeafHash, is_zero};
pub use media::{MemDisk, ReadAt, Window, WriteAt, check_range, read_sparse};

/// The unit in which disks are compared, hashed, kept and changed.
pub const BLOCK_SIZE: usize = 4096;

/// Blocks under one [`ChunkHash`].
pub const BLOCKS_PER_CHUNK: usize = 256;

/// The unit whose hashes a manifest keeps, so that a changed block costs one chunk and a path.
pub const CHUNK_SIZE: usize = BLOCK_SIZE * BLOCKS_PER_CHUNK;
