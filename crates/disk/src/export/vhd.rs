//! VHD: the disk and a footer (fixed, as Azure takes it), or its blocks behind a table (dynamic).
//!
//! The size is rounded up to whole MiB, which Azure asks for.

use uuid::Uuid;

use super::{ExportError, MIB, Output, limited, units};
use crate::ReadAt;
use crate::image::{Format, vhd_checksum};

const SECTOR: u64 = 512;
const FOOTER_LEN: usize = 512;
const HEADER_LEN: usize = 1024;
/// Where the table of a dynamic disk begins: behind the copy of the footer and the header.
const TABLE_AT: u64 = (FOOTER_LEN + HEADER_LEN) as u64;
const BLOCK: u64 = 2 * MIB;
/// One bit for each sector of a block.
const BITMAP: u64 = BLOCK / SECTOR / 8;
const UNUSED: u32 = u32::MAX;
/// 2040 GiB: what the 32-bit sector numbers of a dynamic disk reach, and Hyper-V's limit for both.
const MAX_BYTES: u64 = 2040 << 30;

const FIXED: u32 = 2;
const DYNAMIC: u32 = 3;

pub(super) fn write_fixed(
    disk: &dyn ReadAt,
    id: Uuid,
    out: &mut Output<'_>,
) -> Result<u64, ExportError> {
    let size = disk.size().next_multiple_of(MIB);
    limited(Format::VhdFixed, size, MAX_BYTES)?;
    out.disk(disk, 0, disk.size())?;
    out.zeros_to(size)?;
    out.bytes(&footer(size, FIXED, id))?;
    Ok(size)
}

pub(super) fn write_dynamic(
    disk: &dyn ReadAt,
    id: Uuid,
    out: &mut Output<'_>,
) -> Result<u64, ExportError> {
    let size = disk.size().next_multiple_of(MIB);
    limited(Format::VhdDynamic, size, MAX_BYTES)?;
    let used = units(disk, BLOCK)?;
    let entries = size.div_ceil(BLOCK) as u32;
    let footer = footer(size, DYNAMIC, id);
    out.bytes(&footer)?;
    out.bytes(&header(entries))?;
    let table_len = (u64::from(entries) * 4).next_multiple_of(SECTOR);
    let mut table = vec![0xff; table_len as usize];
    let mut at = TABLE_AT + table_len;
    for index in &used {
        let entry = (at / SECTOR) as u32;
        assert_ne!(entry, UNUSED, "the limit keeps offsets below this");
        table[*index as usize * 4..][..4].copy_from_slice(&entry.to_be_bytes());
        at += BITMAP + BLOCK;
    }
    out.bytes(&table)?;
    for index in used {
        // All sectors are there: a reader that trusts the bitmap and one that does not agree.
        out.bytes(&[0xff; BITMAP as usize])?;
        let start = u64::from(index) * BLOCK;
        let end = (start + BLOCK).min(disk.size());
        let block_end = out.at + BLOCK;
        out.disk(disk, start, end)?;
        out.zeros_to(block_end)?;
    }
    out.bytes(&footer)?;
    Ok(size)
}

fn footer(size: u64, kind: u32, id: Uuid) -> [u8; FOOTER_LEN] {
    let mut footer = [0; FOOTER_LEN];
    let mut put = |at: usize, bytes: &[u8]| footer[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"conectix");
    // A reserved feature that is always set, and the version.
    put(8, &2u32.to_be_bytes());
    put(12, &0x0001_0000u32.to_be_bytes());
    let data_offset = match kind {
        DYNAMIC => FOOTER_LEN as u64,
        _ => u64::MAX,
    };
    put(16, &data_offset.to_be_bytes());
    // Readers trust the size in the footer if its maker is known to write it rightly; from others
    // they take the size that the geometry gives, which is smaller.
    put(28, b"win ");
    put(32, &0x000a_0000u32.to_be_bytes());
    put(36, b"Wi2k");
    put(40, &size.to_be_bytes());
    put(48, &size.to_be_bytes());
    put(56, &geometry(size / SECTOR));
    put(60, &kind.to_be_bytes());
    put(68, id.as_bytes());
    let check = vhd_checksum(&footer, 64);
    footer[64..68].copy_from_slice(&check.to_be_bytes());
    footer
}

fn header(entries: u32) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"cxsparse");
    put(8, &u64::MAX.to_be_bytes());
    put(16, &TABLE_AT.to_be_bytes());
    put(24, &0x0001_0000u32.to_be_bytes());
    put(28, &entries.to_be_bytes());
    put(32, &(BLOCK as u32).to_be_bytes());
    let check = vhd_checksum(&header, 36);
    header[36..40].copy_from_slice(&check.to_be_bytes());
    header
}

/// Cylinders, heads and sectors for a disk, as the format's specification computes them. It is
/// never more than the disk.
fn geometry(sectors: u64) -> [u8; 4] {
    const MAX: u64 = 65535 * 16 * 255;
    let total = sectors.min(MAX);
    let (per_track, heads, tracks);
    if total >= 65535 * 16 * 63 {
        (per_track, heads) = (255, 16);
        tracks = total / per_track;
    } else {
        let mut try_track = 17;
        let mut at = total / try_track;
        let mut try_heads = at.div_ceil(1024).max(4);
        if at >= try_heads * 1024 || try_heads > 16 {
            (try_track, try_heads) = (31, 16);
            at = total / try_track;
        }
        if at >= try_heads * 1024 {
            (try_track, try_heads) = (63, 16);
            at = total / try_track;
        }
        (per_track, heads, tracks) = (try_track, try_heads, at);
    }
    let cylinders = (tracks / heads) as u16;
    let [high, low] = cylinders.to_be_bytes();
    [high, low, heads as u8, per_track as u8]
}
