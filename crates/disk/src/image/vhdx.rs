//! VHDX: blocks with a table, found through two headers, a region table and a metadata table.
//!
//! A disk whose log is not empty was not closed; what the log holds would have to be written into
//! the file first, so it is refused. So is a differencing disk, which needs its parent.

use super::Fits;
use super::error::ImageError;
use super::map::{Extent, Map, Place};
use super::source::Source;

const HEADERS: [u64; 2] = [64 << 10, 128 << 10];
const HEADER_LEN: usize = 4096;
const REGION_TABLES: [u64; 2] = [192 << 10, 256 << 10];
const REGION_TABLE_LEN: usize = 64 << 10;
const MAX_REGIONS: usize = 2047;
const METADATA_TABLE_LEN: u64 = 64 << 10;
const MAX_METADATA: u64 = 2047;
const MIB: u64 = 1 << 20;
/// Sectors that one sector of a bitmap stands for; only differencing disks have such bitmaps, but
/// all leave room for them in the block table.
const SECTORS_PER_BITMAP: u64 = 1 << 23;

/// What regions and metadata are called, as their bytes stand in a file.
pub(crate) mod ids {
    use uuid::{Uuid, uuid};

    pub(crate) const BLOCK_TABLE: Uuid = uuid!("2dc27766-f623-4200-9d64-115e9bfd4a08");
    pub(crate) const METADATA: Uuid = uuid!("8b7ca206-4790-4b9a-b8fe-575f050f886e");
    pub(crate) const FILE_PARAMETERS: Uuid = uuid!("caa16737-fa36-4d43-b3b6-33f0aa44e76b");
    pub(crate) const DISK_SIZE: Uuid = uuid!("2fa54224-cd1b-4876-b211-5dbed83bf4b8");
    pub(crate) const DISK_ID: Uuid = uuid!("beca12ab-b2e6-4523-93ef-c309e000c746");
    pub(crate) const LOGICAL_SECTOR: Uuid = uuid!("8141bf1d-a96f-4709-ba47-f233a8faab5f");
    pub(crate) const PHYSICAL_SECTOR: Uuid = uuid!("cda348c7-445d-4471-9cc9-e9885251c556");
    pub(crate) const PARENT: Uuid = uuid!("a8d35f2d-b30b-454d-abf7-d3d84834ab0c");
}

/// CRC-32C, as it stands in headers.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        CRC[((crc ^ u32::from(*byte)) & 0xff) as usize] ^ (crc >> 8)
    })
}

const CRC: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = index as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 {
                0x82f6_3b78 ^ (crc >> 1)
            } else {
                crc >> 1
            };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
};

pub(super) struct Vhdx {
    size: u64,
    block: u64,
    /// Payload blocks between two entries that are for bitmaps.
    ratio: u64,
    table_at: u64,
}

/// A part of the file that the region table names.
#[derive(Clone, Copy)]
struct Region {
    at: u64,
    len: u64,
}

impl Vhdx {
    pub(super) fn open(source: &Source, fits: Fits<'_>) -> Result<Vhdx, ImageError> {
        check_header(source)?;
        let (table, metadata) = regions(source)?;
        let about = Metadata::read(source, metadata)?;
        fits(about.size)?;
        let sector = about.sector;
        let ratio = SECTORS_PER_BITMAP * sector / about.block;
        let blocks = about.size.div_ceil(about.block);
        let entries = match blocks {
            0 => 0,
            blocks => blocks + (blocks - 1) / ratio,
        };
        if entries * 8 > table.len {
            return Err(source.damaged("its block table is too short"));
        }
        Ok(Vhdx {
            size: about.size,
            block: about.block,
            ratio,
            table_at: table.at,
        })
    }
}

/// The newer of the two headers that is whole. Nothing of it is needed but that the log is empty.
fn check_header(source: &Source) -> Result<(), ImageError> {
    let mut newest: Option<(u64, bool)> = None;
    for at in HEADERS {
        let mut header: [u8; HEADER_LEN] = source.array(at)?;
        if !is_whole(&mut header, b"head") {
            continue;
        }
        let sequence = source.le64(at + 8)?;
        let empty_log = header[48..64] == [0; 16];
        let version = source.le16(at + 66)?;
        if version != 1 {
            return Err(source.refused("has an unknown version"));
        }
        if newest.is_none_or(|(known, _)| sequence > known) {
            newest = Some((sequence, empty_log));
        }
    }
    match newest {
        None => Err(source.damaged("neither of its headers is whole")),
        Some((_, true)) => Ok(()),
        Some((_, false)) => Err(source.refused(
            "was not closed cleanly and has a log to be replayed: open it once where it was made",
        )),
    }
}

/// Whether a structure has its signature and a right checksum, which is in bytes 4 to 8.
fn is_whole(bytes: &mut [u8], signature: &[u8; 4]) -> bool {
    let mut check = [0; 4];
    check.copy_from_slice(&bytes[4..8]);
    bytes[4..8].fill(0);
    bytes.starts_with(signature) && crc32c(bytes) == u32::from_le_bytes(check)
}

/// The block table and the metadata.
fn regions(source: &Source) -> Result<(Region, Region), ImageError> {
    let mut bytes = vec![0; REGION_TABLE_LEN];
    for at in REGION_TABLES {
        source.fill(at, &mut bytes)?;
        if is_whole(&mut bytes, b"regi") {
            return read_regions(source, &bytes);
        }
    }
    Err(source.damaged("neither of its region tables is whole"))
}

fn read_regions(source: &Source, bytes: &[u8]) -> Result<(Region, Region), ImageError> {
    let le32 =
        |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let count = le32(8) as usize;
    if count > MAX_REGIONS {
        return Err(source.damaged("it has too many regions"));
    }
    let (mut table, mut metadata) = (None, None);
    for entry in bytes[16..].chunks_exact(32).take(count) {
        let field = |at: usize| u64::from_le_bytes(std::array::from_fn(|index| entry[at + index]));
        let at = field(16);
        let len = field(24) & 0xffff_ffff;
        let required = entry[28] & 1 != 0;
        let id = uuid::Uuid::from_bytes_le(std::array::from_fn(|index| entry[index]));
        if at < MIB || !at.is_multiple_of(MIB) {
            return Err(source.damaged("a region is at an impossible place"));
        }
        source.holds(at, len, "a region is outside the file")?;
        let slot = match id {
            ids::BLOCK_TABLE => &mut table,
            ids::METADATA => &mut metadata,
            _ if required => return Err(source.refused("needs a region that is not known")),
            _ => continue,
        };
        if slot.replace(Region { at, len }).is_some() {
            return Err(source.damaged("a region is there twice"));
        }
    }
    table
        .zip(metadata)
        .ok_or_else(|| source.damaged("it has no block table or no metadata"))
}

struct Metadata {
    size: u64,
    block: u64,
    sector: u64,
}

impl Metadata {
    fn read(source: &Source, region: Region) -> Result<Metadata, ImageError> {
        if region.len < METADATA_TABLE_LEN || source.array::<8>(region.at)? != *b"metadata" {
            return Err(source.damaged("its metadata are not there"));
        }
        let count = u64::from(source.le16(region.at + 10)?);
        if count > MAX_METADATA {
            return Err(source.damaged("it has too many metadata"));
        }
        let (mut parameters, mut size, mut sector) = (None, None, None);
        for index in 0..count {
            let entry = region.at + 32 + index * 32;
            let id = uuid::Uuid::from_bytes_le(source.array(entry)?);
            let (at, len) = (source.le32(entry + 16)?, source.le32(entry + 20)?);
            let required = source.le32(entry + 24)? & 4 != 0;
            let (at, len) = (u64::from(at), u64::from(len));
            let within = at >= METADATA_TABLE_LEN && at + len <= region.len;
            if !within && len != 0 {
                return Err(source.damaged("metadata lie outside their region"));
            }
            let value = region.at + at;
            match id {
                ids::FILE_PARAMETERS if len == 8 => {
                    parameters = Some((source.le32(value)?, source.le32(value + 4)?));
                }
                ids::DISK_SIZE if len == 8 => size = Some(source.le64(value)?),
                ids::LOGICAL_SECTOR if len == 4 => sector = Some(source.le32(value)?),
                ids::DISK_ID | ids::PHYSICAL_SECTOR => {}
                ids::PARENT => return Err(source.refused("names a parent: merge it first")),
                _ if required => return Err(source.refused("needs metadata that are not known")),
                _ => {}
            }
        }
        let Some(((block, flags), (size, sector))) = parameters.zip(size.zip(sector)) else {
            return Err(source.damaged("metadata are missing"));
        };
        if flags & 2 != 0 {
            return Err(source.refused("needs a parent: merge it first"));
        }
        let block = u64::from(block);
        if !block.is_power_of_two() || !(MIB..=256 * MIB).contains(&block) {
            return Err(source.damaged("its blocks have an impossible size"));
        }
        if !matches!(sector, 512 | 4096) || !size.is_multiple_of(u64::from(sector)) {
            return Err(source.damaged("its sectors have an impossible size"));
        }
        let sector = u64::from(sector);
        Ok(Metadata {
            size,
            block,
            sector,
        })
    }
}

impl Map for Vhdx {
    fn size(&self) -> u64 {
        self.size
    }

    fn extent(&self, source: &Source, offset: u64) -> Result<Extent, ImageError> {
        let index = offset / self.block;
        let entry = source.le64(self.table_at + (index + index / self.ratio) * 8)?;
        let place = match entry & 7 {
            // Not there, undefined, zero, unmapped.
            0..=3 => Place::Zero,
            6 => Place::At((entry & !(MIB - 1)) + (offset - index * self.block)),
            7 => return Err(source.refused("has a block that is partly its parent's")),
            _ => return Err(source.damaged("a block is in an unknown state")),
        };
        Ok(Extent {
            end: (index + 1) * self.block,
            place,
        })
    }
}
