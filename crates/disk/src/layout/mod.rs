//! How a disk is partitioned: what is written on a new one, and what is found on a given one.
//!
//! Nothing here knows what is inside a partition, and nothing is random: identifiers come from
//! the caller, so the same input makes the same bytes.

mod gpt;
mod hybrid;
mod mbr;

pub use gpt::{Gpt, MAX_ENTRIES, Partition, PartitionKind};
pub use hybrid::{HybridLayout, PartitionIds};

use std::ops::Range;

use crate::ReadAt;

/// The only sector size that the layouts here know.
pub const SECTOR: u64 = 512;

/// Why a layout could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    #[error("a disk of {size} bytes is too small for this layout, which needs {needed}")]
    TooSmall { size: u64, needed: u64 },
    #[error("a disk of {size} bytes is not a whole number of MiB")]
    Unaligned { size: u64 },
    #[error("boot.img must be 512 bytes and is {0}")]
    BootImage(usize),
    #[error(
        "core.img is {size} bytes, but must have at least one sector and at most {limit} bytes"
    )]
    CoreImage { size: usize, limit: u64 },
    #[error("the disk has no usable partition table: {0}")]
    NoTable(&'static str),
    #[error("the disk has no root partition")]
    NoRoot,
    #[error("read the partition table")]
    Read(#[source] std::io::Error),
    #[error("write the partition table")]
    Write(#[source] std::io::Error),
}

/// Where the partitions of a disk lie, by its GUID partition table or, where it has none, by its MBR.
pub fn partitions(disk: &dyn ReadAt) -> Result<Vec<Range<u64>>, LayoutError> {
    match Gpt::read(disk) {
        Ok(table) => Ok(table.partitions.iter().map(Partition::range).collect()),
        Err(LayoutError::NoTable(_)) => mbr::read(disk),
        Err(other) => Err(other),
    }
}
