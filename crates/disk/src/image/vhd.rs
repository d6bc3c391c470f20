//! VHD: a raw disk with a footer (fixed), or blocks with a table (dynamic).
//!
//! The size is the one in the footer, as Azure and Hyper-V read it, not the one that its geometry
//! gives. A differencing disk needs its parent and is refused.

use super::Fits;
use super::error::ImageError;
use super::map::{Extent, Map, Place};
use super::source::Source;
use crate::ReadAt;
use crate::image::Format;

const FOOTER_LEN: u64 = 512;
const COOKIE: &[u8; 8] = b"conectix";
const HEADER_LEN: usize = 1024;
const HEADER_COOKIE: &[u8; 8] = b"cxsparse";
const SECTOR: u64 = 512;
/// Entry of a block that is not there.
const UNUSED: u32 = u32::MAX;
/// Blocks are 2 MiB everywhere; more than this is nobody's.
const MAX_BLOCK_BYTES: u32 = 256 << 20;

const FIXED: u32 = 2;
const DYNAMIC: u32 = 3;
const DIFFERENCING: u32 = 4;

struct Footer {
    data_offset: u64,
    size: u64,
    kind: u32,
}

/// The complement of the sum of all bytes, with the checksum itself as zero.
pub(crate) fn checksum(bytes: &[u8], at: usize) -> u32 {
    let sum = bytes
        .iter()
        .enumerate()
        .filter(|(index, _)| !(at..at + 4).contains(index))
        .fold(0u32, |sum, (_, byte)| sum.wrapping_add(u32::from(*byte)));
    !sum
}

fn footer(bytes: &[u8; FOOTER_LEN as usize]) -> Option<Footer> {
    let be32 =
        |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let be64 = |at: usize| u64::from(be32(at)) << 32 | u64::from(be32(at + 4));
    if !bytes.starts_with(COOKIE) || be32(64) != checksum(bytes, 64) {
        return None;
    }
    Some(Footer {
        data_offset: be64(16),
        size: be64(48),
        kind: be32(60),
    })
}

/// Whether this is a VHD, and which. Only a footer with a right checksum counts.
pub(super) fn detect(bytes: &dyn ReadAt) -> Result<Option<Format>, ImageError> {
    let Some(end) = bytes.size().checked_sub(FOOTER_LEN) else {
        return Ok(None);
    };
    // A dynamic disk has a copy at its start, for when the end is lost.
    for at in [end, 0] {
        let mut found = [0; FOOTER_LEN as usize];
        bytes.read_at(at, &mut found).map_err(ImageError::Read)?;
        match footer(&found) {
            Some(footer) if footer.kind == FIXED && at == end => {
                return Ok(Some(Format::VhdFixed));
            }
            Some(footer) if footer.kind != FIXED => return Ok(Some(Format::VhdDynamic)),
            _ => {}
        }
    }
    Ok(None)
}

/// The size of the disk in a fixed VHD.
pub(super) fn fixed_size(source: &Source) -> Result<u64, ImageError> {
    let missing = || source.damaged("its footer is missing");
    let end = source.size().checked_sub(FOOTER_LEN).ok_or_else(missing)?;
    let footer = footer(&source.array(end)?).ok_or_else(missing)?;
    if footer.kind != FIXED {
        return Err(source.damaged("it is not a fixed disk"));
    }
    if footer.size > end {
        return Err(source.damaged("it is shorter than its footer says"));
    }
    Ok(footer.size)
}

pub(super) struct Dynamic {
    size: u64,
    table_at: u64,
    block: u64,
    /// The bitmap before each block, in whole sectors.
    bitmap: u64,
}

impl Dynamic {
    pub(super) fn open(source: &Source, fits: Fits<'_>) -> Result<Dynamic, ImageError> {
        let last = source.size().saturating_sub(FOOTER_LEN);
        let found = match footer(&source.array(last)?) {
            Some(found) => found,
            None => footer(&source.array(0)?).ok_or_else(|| source.damaged("it has no footer"))?,
        };
        match found.kind {
            DYNAMIC => {}
            DIFFERENCING => return Err(source.refused("names a parent: merge it first")),
            _ => return Err(source.refused("is of an unknown kind")),
        }
        fits(found.size)?;
        let header: [u8; HEADER_LEN] = source.array(found.data_offset)?;
        let be32 = |at: usize| {
            u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        if !header.starts_with(HEADER_COOKIE) || be32(36) != checksum(&header, 36) {
            return Err(source.damaged("its header is not one"));
        }
        let (entries, block) = (be32(28), be32(32));
        if !block.is_power_of_two() || u64::from(block) < SECTOR || block > MAX_BLOCK_BYTES {
            return Err(source.damaged("its blocks have an impossible size"));
        }
        let table_at = u64::from(be32(16)) << 32 | u64::from(be32(20));
        if found.size.div_ceil(u64::from(block)) > u64::from(entries) {
            return Err(source.damaged("its block table is too short"));
        }
        source.holds(
            table_at,
            u64::from(entries) * 4,
            "its block table is outside the file",
        )?;
        let block = u64::from(block);
        Ok(Dynamic {
            size: found.size,
            table_at,
            block,
            bitmap: (block / SECTOR).div_ceil(8).next_multiple_of(SECTOR),
        })
    }
}

impl Map for Dynamic {
    fn size(&self) -> u64 {
        self.size
    }

    fn extent(&self, source: &Source, offset: u64) -> Result<Extent, ImageError> {
        let index = offset / self.block;
        let entry = source.be32(self.table_at + index * 4)?;
        let block_end = (index + 1) * self.block;
        if entry == UNUSED {
            let place = Place::Zero;
            return Ok(Extent {
                end: block_end,
                place,
            });
        }
        let bitmap_at = u64::from(entry) * SECTOR;
        let within = offset - index * self.block;
        let sector = within / SECTOR;
        let bits = source.array::<1>(bitmap_at + sector / 8)?[0];
        let is_set = |bits: u8, sector: u64| bits & (0x80 >> (sector % 8)) != 0;
        let first = is_set(bits, sector);
        // As far as the bits stay the same, whole bytes of them at a time where that is possible.
        let (mut end, sectors) = (sector + 1, self.block / SECTOR);
        let mut bits = bits;
        while end < sectors {
            if end.is_multiple_of(8) {
                bits = source.array::<1>(bitmap_at + end / 8)?[0];
                if bits == (if first { 0xff } else { 0 }) {
                    end += 8;
                    continue;
                }
            }
            if is_set(bits, end) != first {
                break;
            }
            end += 1;
        }
        let end = index * self.block + end.min(sectors) * SECTOR;
        let place = match first {
            true => Place::At(bitmap_at + self.bitmap + within),
            false => Place::Zero,
        };
        Ok(Extent { end, place })
    }
}
