//! VHDX with an empty log: headers, regions, metadata, block table, blocks.

use uuid::Uuid;

use super::{ExportError, MIB, Output, limited, units};
use crate::ReadAt;
use crate::image::{Format, crc32c, vhdx_ids as ids};

const KIB: u64 = 1 << 10;
const SECTOR: u64 = 512;
/// The same unit as dynamic VHD; larger blocks would carry more zeros.
const BLOCK: u64 = 2 * MIB;
/// 64 TiB.
const MAX_BYTES: u64 = 64 << 40;
/// Payload blocks between two entries for bitmaps, which stay empty.
const RATIO: u64 = (1 << 23) * SECTOR / BLOCK;
const PRESENT: u64 = 6;

const HEADER_LEN: usize = 4096;
const REGION_TABLE_LEN: usize = 64 << 10;
const LOG_AT: u64 = MIB;
const METADATA_AT: u64 = 2 * MIB;
const TABLE_AT: u64 = 3 * MIB;

pub(super) fn write(disk: &dyn ReadAt, id: Uuid, out: &mut Output<'_>) -> Result<u64, ExportError> {
    let size = disk.size().next_multiple_of(SECTOR);
    limited(Format::Vhdx, size, MAX_BYTES)?;
    let used = units(disk, BLOCK)?;
    let blocks = size.div_ceil(BLOCK);
    let entries = match blocks {
        0 => 0,
        blocks => blocks + (blocks - 1) / RATIO,
    };
    let table_len = (entries * 8).next_multiple_of(MIB).max(MIB);
    out.bytes(b"vhdxfile")?;
    out.bytes(&utf16("Bullion"))?;
    for (number, at) in [64 * KIB, 128 * KIB].into_iter().enumerate() {
        out.zeros_to(at)?;
        out.bytes(&header(number as u64, id))?;
    }
    for at in [192 * KIB, 256 * KIB] {
        out.zeros_to(at)?;
        out.bytes(&region_table(table_len))?;
    }
    out.zeros_to(METADATA_AT)?;
    out.bytes(&metadata(size, id))?;
    out.zeros_to(TABLE_AT)?;
    let first_block = TABLE_AT + table_len;
    let mut table = vec![0; (entries * 8) as usize];
    for (index, at) in used.iter().zip((first_block..).step_by(BLOCK as usize)) {
        let index = u64::from(*index);
        let entry = ((index + index / RATIO) * 8) as usize;
        table[entry..entry + 8].copy_from_slice(&(at | PRESENT).to_le_bytes());
    }
    out.bytes(&table)?;
    out.zeros_to(first_block)?;
    for index in used {
        let start = u64::from(index) * BLOCK;
        let block_end = out.at + BLOCK;
        out.disk(disk, start, (start + BLOCK).min(disk.size()))?;
        out.zeros_to(block_end)?;
    }
    Ok(size)
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// Puts the checksum in bytes 4 to 8, computed with zeros there.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let check = crc32c(&bytes);
    bytes[4..8].copy_from_slice(&check.to_le_bytes());
    bytes
}

fn header(sequence: u64, id: Uuid) -> Vec<u8> {
    let mut header = vec![0; HEADER_LEN];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"head");
    put(8, &sequence.to_le_bytes());
    // Who wrote the file last, and whose data these are; then no log, of version 0.
    put(16, &id.to_bytes_le());
    put(32, &id.to_bytes_le());
    put(66, &1u16.to_le_bytes());
    put(68, &(MIB as u32).to_le_bytes());
    put(72, &LOG_AT.to_le_bytes());
    sealed(header)
}

fn region_table(table_len: u64) -> Vec<u8> {
    let mut bytes = vec![0; REGION_TABLE_LEN];
    bytes[..4].copy_from_slice(b"regi");
    let regions = [
        (ids::BLOCK_TABLE, TABLE_AT, table_len),
        (ids::METADATA, METADATA_AT, MIB),
    ];
    bytes[8..12].copy_from_slice(&(regions.len() as u32).to_le_bytes());
    for (entry, (id, at, len)) in bytes[16..].chunks_exact_mut(32).zip(regions) {
        entry[..16].copy_from_slice(&id.to_bytes_le());
        entry[16..24].copy_from_slice(&at.to_le_bytes());
        entry[24..28].copy_from_slice(&(len as u32).to_le_bytes());
        entry[28] = 1;
    }
    sealed(bytes)
}

fn metadata(size: u64, id: Uuid) -> Vec<u8> {
    const VIRTUAL_DISK: u32 = 2;
    const REQUIRED: u32 = 4;
    let parameters = (BLOCK as u32).to_le_bytes();
    let parameters = [parameters, 0u32.to_le_bytes()].concat();
    let sector = (SECTOR as u32).to_le_bytes().to_vec();
    let items: [(Uuid, u32, Vec<u8>); 5] = [
        (ids::FILE_PARAMETERS, REQUIRED, parameters),
        (
            ids::DISK_SIZE,
            REQUIRED | VIRTUAL_DISK,
            size.to_le_bytes().to_vec(),
        ),
        (
            ids::DISK_ID,
            REQUIRED | VIRTUAL_DISK,
            id.to_bytes_le().to_vec(),
        ),
        (ids::LOGICAL_SECTOR, REQUIRED | VIRTUAL_DISK, sector),
        (
            ids::PHYSICAL_SECTOR,
            REQUIRED | VIRTUAL_DISK,
            4096u32.to_le_bytes().to_vec(),
        ),
    ];
    let mut table = vec![0; 64 << 10];
    let mut values = Vec::new();
    table[..8].copy_from_slice(b"metadata");
    table[10..12].copy_from_slice(&(items.len() as u16).to_le_bytes());
    for (entry, (id, flags, value)) in table[32..].chunks_exact_mut(32).zip(items) {
        let at = (64 << 10) + values.len() as u32;
        entry[..16].copy_from_slice(&id.to_bytes_le());
        entry[16..20].copy_from_slice(&at.to_le_bytes());
        entry[20..24].copy_from_slice(&(value.len() as u32).to_le_bytes());
        entry[24..28].copy_from_slice(&flags.to_le_bytes());
        values.extend(value);
    }
    table.extend(values);
    table
}
