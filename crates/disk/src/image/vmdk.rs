//! VMDK in one file: stream-optimised, as OVA archives carry it, and monolithic sparse.
//!
//! The descriptor inside names the file itself and, if there is one, a parent. Neither name is
//! followed, and an image with a parent or with several extents is refused.

use super::Fits;
use super::error::ImageError;
use super::inflate::Codec;
use super::map::{Extent, Map, Packed, Place};
use super::source::Source;

const SECTOR: u64 = 512;
/// The directory is not where the header is, but at the end, behind a second header.
const AT_END: u64 = u64::MAX;
/// The second header, and the marker that ends the file.
const FOOTER_FROM_END: u64 = 1024;
const MAX_DESCRIPTOR: u64 = 64 << 10;
const MAX_GRAIN_SECTORS: u64 = 4096;
const MAX_TABLE_ENTRIES: u32 = 4096;
/// Before a compressed grain: where it belongs, and its length.
const MARKER_LEN: u64 = 12;
/// What a compressed grain may take beyond its own size.
const MAX_PACKED_GROWTH: u64 = 64 << 10;

mod flags {
    pub(super) const ZERO_GRAINS: u32 = 1 << 2;
    pub(super) const COMPRESSED: u32 = 1 << 16;
}

pub(super) struct Vmdk {
    size: u64,
    grain: u64,
    directory_at: u64,
    table_entries: u64,
    compressed: bool,
    zero_grains: bool,
}

impl Vmdk {
    pub(super) fn open(source: &Source, fits: Fits<'_>) -> Result<Vmdk, ImageError> {
        let mut header = 0;
        check_header(source, header)?;
        check_descriptor(source)?;
        if source.le64(header + 56)? == AT_END {
            header = source
                .size()
                .checked_sub(FOOTER_FROM_END)
                .ok_or_else(|| source.damaged("its end is missing"))?;
            check_header(source, header)?;
        }
        let (capacity, grain) = (source.le64(header + 12)?, source.le64(header + 20)?);
        let size = capacity
            .checked_mul(SECTOR)
            .ok_or_else(|| source.damaged("its size is impossible"))?;
        fits(size)?;
        if !grain.is_power_of_two() || !(8..=MAX_GRAIN_SECTORS).contains(&grain) {
            return Err(source.damaged("its grains have an impossible size"));
        }
        let table_entries = source.le32(header + 44)?;
        if !(1..=MAX_TABLE_ENTRIES).contains(&table_entries) {
            return Err(source.damaged("its tables have an impossible length"));
        }
        let flags = source.le32(header + 8)?;
        let directory = source.le64(header + 56)?;
        let image = Vmdk {
            size,
            grain: grain * SECTOR,
            directory_at: directory
                .checked_mul(SECTOR)
                .ok_or_else(|| source.damaged("its directory is outside the file"))?,
            table_entries: u64::from(table_entries),
            compressed: flags & flags::COMPRESSED != 0,
            zero_grains: flags & flags::ZERO_GRAINS != 0,
        };
        if image.compressed && source.le16(header + 77)? != 1 {
            return Err(source.refused("is compressed in a way that is not known"));
        }
        image.check_tables(source)?;
        Ok(image)
    }

    fn table_covers(&self) -> u64 {
        self.table_entries * self.grain
    }

    /// The directory lies in the file, and there is room for the tables that it points at.
    fn check_tables(&self, source: &Source) -> Result<(), ImageError> {
        let tables = self.size.div_ceil(self.table_covers());
        source.holds(
            self.directory_at,
            tables * 4,
            "its directory is outside the file",
        )?;
        let mut room = source.size();
        for index in 0..tables {
            if source.le32(self.directory_at + index * 4)? != 0 {
                room = room
                    .checked_sub(self.table_entries * 4)
                    .ok_or_else(|| source.damaged("its tables overlap"))?;
            }
        }
        Ok(())
    }

    /// The sector of the grain at `offset`; `None` if the whole table is missing.
    fn entry(&self, source: &Source, offset: u64) -> Result<Option<u32>, ImageError> {
        let covers = self.table_covers();
        let table = source.le32(self.directory_at + offset / covers * 4)?;
        if table == 0 {
            return Ok(None);
        }
        let index = offset % covers / self.grain;
        source.le32(u64::from(table) * SECTOR + index * 4).map(Some)
    }

    /// A compressed grain, whose marker says how long it is and, again, where it belongs.
    fn packed(&self, source: &Source, at: u64, start: u64) -> Result<Packed, ImageError> {
        if source.le64(at)? != start / SECTOR {
            return Err(source.damaged("a grain belongs somewhere else"));
        }
        let len = source.le32(at + 8)?;
        if u64::from(len) > self.grain + MAX_PACKED_GROWTH {
            return Err(source.damaged("a grain has an impossible length"));
        }
        Ok(Packed {
            at: at + MARKER_LEN,
            len,
            start,
            // The last grain holds no more than the disk has.
            unit: self.grain.min(self.size - start) as u32,
            codec: Codec::Zlib,
        })
    }
}

fn check_header(source: &Source, at: u64) -> Result<(), ImageError> {
    if source.array::<4>(at)? != *b"KDMV" {
        return Err(source.damaged("its header is missing"));
    }
    match source.le32(at + 4)? {
        1..=3 => Ok(()),
        _ => Err(source.refused("has an unknown version")),
    }
}

/// Looks for what the descriptor may ask for and we do not do.
fn check_descriptor(source: &Source) -> Result<(), ImageError> {
    let (at, len) = (source.le64(28)?, source.le64(36)?);
    if at == 0 {
        return Err(source.refused("is a part of a larger disk"));
    }
    let outside = || source.damaged("its descriptor is outside the file");
    let at = at.checked_mul(SECTOR).ok_or_else(outside)?;
    let len = len.checked_mul(SECTOR).ok_or_else(outside)?;
    let mut text = vec![0; len.min(MAX_DESCRIPTOR) as usize];
    source.fill(at, &mut text)?;
    let text = String::from_utf8_lossy(&text);
    let mut extents = 0;
    for line in text.trim_end_matches('\0').lines() {
        let (key, value) = line.split_once('=').unwrap_or((line, ""));
        let value = value.trim().trim_matches('"');
        match key.trim() {
            "parentCID" if !value.eq_ignore_ascii_case("ffffffff") => {
                return Err(source.refused("names a parent: merge it first"));
            }
            "createType" if !matches!(value, "streamOptimized" | "monolithicSparse") => {
                return Err(source.refused(
                    "is neither stream-optimised nor monolithic sparse: convert it first",
                ));
            }
            key if ["RW ", "RDONLY ", "NOACCESS "]
                .iter()
                .any(|access| key.starts_with(access)) =>
            {
                extents += 1;
            }
            _ => {}
        }
    }
    match extents {
        0 | 1 => Ok(()),
        _ => Err(source.refused("has several extents: convert it first")),
    }
}

impl Map for Vmdk {
    fn size(&self) -> u64 {
        self.size
    }

    fn extent(&self, source: &Source, offset: u64) -> Result<Extent, ImageError> {
        let start = offset - offset % self.grain;
        let Some(entry) = self.entry(source, start)? else {
            let covers = self.table_covers();
            return Ok(Extent {
                end: (offset / covers + 1) * covers,
                place: Place::Zero,
            });
        };
        let at = u64::from(entry) * SECTOR;
        let place = match entry {
            0 => Place::Zero,
            1 if self.zero_grains => Place::Zero,
            _ if self.compressed => Place::Packed(self.packed(source, at, start)?),
            _ => Place::At(at + (offset - start)),
        };
        Ok(Extent {
            end: start + self.grain,
            place,
        })
    }
}
