//! Writes an ext4 file system in user space, over any block device, with a result that is a
//! function of its inputs alone.
//!
//! The device is a trait, so the same writer fills a blank file system and edits a child disk
//! that is only a map of changed blocks over its parent: nothing is mounted and nothing copied.
//! The work on the format itself is libext2fs's, through a narrow C shim ([`ffi`] is the only
//! module with `unsafe`).
//!
//! It must not open the disk, know what a recipe is, or decide what may change: it applies
//! [`Change`] records in the order given.

mod change;
mod content;
mod device;
mod error;
mod ffi;
mod read;
mod tarball;
mod write;

pub use change::{Change, Content, FileTime, Links, Meta, NodeKind, Xattr, Xattrs};
pub use device::{BlockDevice, MemoryDevice, Partition, SeekDevice};
pub use error::Ext4Error;
pub use read::{Detail, Entry, EntryKind, Tree, read_file, walk};
pub use tarball::{TarError, from_tar};
pub use write::{ApplyStats, ChangeSource, apply};

/// The file system's block size. Any other is refused: the disk digest is over the same size.
pub const BLOCK_SIZE: usize = 4096;

/// Raised whenever the same changes on the same parent would give other bytes.
const WRITER_FORMAT: u32 = 1;

/// Name and version of this writer. The allocation policy is part of what it writes, so this
/// belongs into the key of every step that uses it.
#[must_use]
pub fn writer_version() -> String {
    format!(
        "bullion-ext4 {WRITER_FORMAT} (libext2fs {})",
        ffi::library_version()
    )
}
