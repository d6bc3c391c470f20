//! qcow2, versions 2 and 3: compressed clusters of both kinds and subclusters included.
//!
//! An image that needs a backing file, a data file or a key is refused, and so is one that says
//! that it is corrupt or that it needs something unknown. Snapshots inside are ignored.

use super::Fits;
use super::error::ImageError;
use super::inflate::Codec;
use super::map::{Extent, Map, Packed, Place};
use super::source::Source;

const MIN_CLUSTER_BITS: u32 = 9;
const MAX_CLUSTER_BITS: u32 = 21;
/// Subclusters must be sectors at least.
const MIN_EXTENDED_CLUSTER_BITS: u32 = 14;
const SUBCLUSTERS: u64 = 32;
/// As QEMU has it: 32 MiB.
const MAX_L1_ENTRIES: u64 = 4 << 20;

const V2_HEADER_LEN: u32 = 72;
const V3_HEADER_LEN: u32 = 104;

mod incompatible {
    pub(super) const DIRTY: u64 = 1 << 0;
    pub(super) const CORRUPT: u64 = 1 << 1;
    pub(super) const DATA_FILE: u64 = 1 << 2;
    pub(super) const COMPRESSION: u64 = 1 << 3;
    pub(super) const EXTENDED_L2: u64 = 1 << 4;
    pub(super) const KNOWN: u64 = (1 << 5) - 1;
}

/// Bits of a table entry that are the offset in the file.
const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
const COMPRESSED: u64 = 1 << 62;
const ZERO: u64 = 1;
/// What a length of compressed data counts in.
const SECTOR: u64 = 512;

/// Clusters that one extent covers at most, so that asking costs little.
const MAX_RUN: u64 = 1024;

pub(super) struct Qcow2 {
    size: u64,
    cluster_bits: u32,
    l1_at: u64,
    l1_entries: u64,
    codec: Codec,
    extended: bool,
    /// Whether an entry may say that its cluster is zero.
    has_zero_flag: bool,
}

/// One cluster, or one of its subclusters.
enum Entry {
    /// There is no second-level table at all.
    NoTable,
    Nothing,
    Zero,
    At(u64),
    Packed {
        at: u64,
        len: u32,
    },
}

impl Qcow2 {
    /// A disk of its own.
    pub(super) fn open(source: &Source, fits: Fits<'_>) -> Result<Qcow2, ImageError> {
        let image = Qcow2::open_layer(source, fits)?;
        match source.be64(8)? {
            0 => Ok(image),
            _ => Err(source.refused("names a backing file: flatten it first")),
        }
    }

    /// A disk that may lie over another one, which it names; the name is not looked at.
    pub(super) fn open_layer(source: &Source, fits: Fits<'_>) -> Result<Qcow2, ImageError> {
        let version = source.be32(4)?;
        if !matches!(version, 2 | 3) {
            return Err(source.refused("has an unknown version"));
        }
        let (features, codec) = features(source, version)?;
        if source.be32(32)? != 0 {
            return Err(source.refused("is encrypted"));
        }
        let cluster_bits = source.be32(20)?;
        let extended = features & incompatible::EXTENDED_L2 != 0;
        let least = match extended {
            true => MIN_EXTENDED_CLUSTER_BITS,
            false => MIN_CLUSTER_BITS,
        };
        if !(least..=MAX_CLUSTER_BITS).contains(&cluster_bits) {
            return Err(source.damaged("its clusters have an impossible size"));
        }
        let size = source.be64(24)?;
        fits(size)?;
        let image = Qcow2 {
            size,
            cluster_bits,
            l1_at: source.be64(40)?,
            l1_entries: u64::from(source.be32(36)?),
            codec,
            extended,
            has_zero_flag: version == 3 && !extended,
        };
        image.check_tables(source)?;
        Ok(image)
    }

    /// The first-level table covers the disk and lies in the file, and there is room for the
    /// tables that it points at.
    fn check_tables(&self, source: &Source) -> Result<(), ImageError> {
        let needed = self.size.div_ceil(self.table_covers());
        if self.l1_entries < needed || self.l1_entries > MAX_L1_ENTRIES {
            return Err(source.damaged("its first-level table has an impossible length"));
        }
        source.holds(
            self.l1_at,
            self.l1_entries * 8,
            "its first-level table is outside the file",
        )?;
        let mut room = source.size();
        for index in 0..needed {
            let table = source.be64(self.l1_at + index * 8)? & OFFSET_MASK;
            if table != 0 {
                self.aligned(source, table)?;
                room = room
                    .checked_sub(self.cluster())
                    .ok_or_else(|| source.damaged("its second-level tables overlap"))?;
            }
        }
        Ok(())
    }

    fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    fn entry_len(&self) -> u64 {
        if self.extended { 16 } else { 8 }
    }

    /// Bytes of the disk that one second-level table covers.
    fn table_covers(&self) -> u64 {
        (self.cluster() / self.entry_len()) << self.cluster_bits
    }

    /// The size of what has an allocation of its own.
    fn grain(&self) -> u64 {
        match self.extended {
            true => self.cluster() / SUBCLUSTERS,
            false => self.cluster(),
        }
    }

    fn aligned(&self, source: &Source, offset: u64) -> Result<(), ImageError> {
        match offset % self.cluster() {
            0 => Ok(()),
            _ => Err(source.damaged("a table points between two clusters")),
        }
    }

    /// What is in the grain at `offset`.
    fn entry(&self, source: &Source, offset: u64) -> Result<Entry, ImageError> {
        let table = source.be64(self.l1_at + offset / self.table_covers() * 8)? & OFFSET_MASK;
        if table == 0 {
            return Ok(Entry::NoTable);
        }
        let index = (offset % self.table_covers()) >> self.cluster_bits;
        let at = table + index * self.entry_len();
        let entry = source.be64(at)?;
        if entry & COMPRESSED != 0 {
            return Ok(self.packed(entry));
        }
        let host = entry & OFFSET_MASK;
        self.aligned(source, host)?;
        if self.extended {
            return self.subcluster(source, host, source.be64(at + 8)?, offset);
        }
        match host {
            _ if self.has_zero_flag && entry & ZERO != 0 => Ok(Entry::Zero),
            0 => Ok(Entry::Nothing),
            host => Ok(Entry::At(host)),
        }
    }

    /// The lower half of the bitmap says which subclusters are there, the upper which are zero.
    fn subcluster(
        &self,
        source: &Source,
        host: u64,
        bitmap: u64,
        offset: u64,
    ) -> Result<Entry, ImageError> {
        let within = offset % self.cluster();
        let index = within / self.grain();
        let there = bitmap >> index & 1 != 0;
        let zero = bitmap >> (SUBCLUSTERS + index) & 1 != 0;
        match (there, zero) {
            (true, true) => Err(source.damaged("a subcluster is both there and zero")),
            (true, false) if host == 0 => Err(source.damaged("a subcluster is nowhere")),
            (true, false) => Ok(Entry::At(host + index * self.grain())),
            (false, true) => Ok(Entry::Zero),
            (false, false) => Ok(Entry::Nothing),
        }
    }

    /// The offset has as many bits as the sectors leave: larger clusters need more sectors.
    fn packed(&self, entry: u64) -> Entry {
        let bits = 62 - (self.cluster_bits - 8);
        let at = entry & ((1 << bits) - 1);
        let sectors = (entry & (COMPRESSED - 1)) >> bits;
        let len = (sectors + 1) * SECTOR - at % SECTOR;
        Entry::Packed {
            at,
            len: len as u32,
        }
    }
}

/// What the header says that a reader must know, and how clusters are compressed.
fn features(source: &Source, version: u32) -> Result<(u64, Codec), ImageError> {
    let header_len = match version {
        2 => return Ok((0, Codec::Deflate)),
        _ => source.be32(100)?,
    };
    if header_len < V3_HEADER_LEN || u64::from(header_len) > source.size() {
        return Err(source.damaged("its header has an impossible length"));
    }
    let features = source.be64(u64::from(V2_HEADER_LEN))?;
    if features & incompatible::CORRUPT != 0 {
        return Err(source.refused("says that it is corrupt"));
    }
    if features & incompatible::DATA_FILE != 0 {
        return Err(source.refused("keeps its data in another file: convert it first"));
    }
    if features & !incompatible::KNOWN != 0 {
        return Err(source.refused("needs a feature that is not known"));
    }
    // A dirty image has wrong reference counts, which a reader does not use.
    let _ = incompatible::DIRTY;
    let kind = match header_len > V3_HEADER_LEN {
        true => source.array::<1>(u64::from(V3_HEADER_LEN))?[0],
        false => 0,
    };
    let codec = match (kind, features & incompatible::COMPRESSION != 0) {
        (0, false) => Codec::Deflate,
        (1, true) => Codec::Zstd,
        _ => return Err(source.refused("is compressed in a way that is not known")),
    };
    Ok((features, codec))
}

impl Map for Qcow2 {
    fn size(&self) -> u64 {
        self.size
    }

    fn extent(&self, source: &Source, offset: u64) -> Result<Extent, ImageError> {
        let grain = self.grain();
        let start = offset - offset % grain;
        let (mut end, place) = match self.entry(source, start)? {
            Entry::NoTable => {
                let covers = self.table_covers();
                let end = (offset / covers + 1) * covers;
                let place = Place::Nothing;
                return Ok(Extent { end, place });
            }
            Entry::Packed { at, len } => {
                let start = offset - offset % self.cluster();
                let packed = Packed {
                    at,
                    len,
                    start,
                    unit: self.cluster() as u32,
                    codec: self.codec,
                };
                let end = start + self.cluster();
                let place = Place::Packed(packed);
                return Ok(Extent { end, place });
            }
            Entry::Nothing => (start + grain, Place::Nothing),
            Entry::Zero => (start + grain, Place::Zero),
            Entry::At(at) => (start + grain, Place::At(at + (offset - start))),
        };
        // The next clusters are part of it if they go on where this one ends.
        let last = (start + MAX_RUN * grain)
            .min(self.size)
            .min((offset / self.table_covers() + 1) * self.table_covers());
        while end < last {
            let next = self.entry(source, end)?;
            let goes_on = match (place, next) {
                (Place::Nothing, Entry::Nothing) | (Place::Zero, Entry::Zero) => true,
                (Place::At(at), Entry::At(next)) => next == at + (end - offset),
                _ => false,
            };
            if !goes_on {
                break;
            }
            end += grain;
        }
        Ok(Extent { end, place })
    }
}
