//! What hostile bytes are put through, for fuzzing only.

use crate::bytes::u32_at;
use crate::{Hive, Volume};

/// No file of a fuzzed volume is longer, so that one run is short.
const BYTES_MAX: u64 = 1 << 20;

/// Opens `data` as a volume and reads what is read of a Windows disk.
pub fn volume(data: &[u8]) {
    let disk = data.to_vec();
    let length = disk.len() as u64;
    let Ok(Some(volume)) = Volume::open(&disk, 0..length) else {
        return;
    };
    let _ = volume.unclean();
    let path = ["Windows", "System32", "config", "SOFTWARE"];
    for end in 1..=path.len() {
        let Ok(Some(file)) = volume.file(&path[..end]) else {
            continue;
        };
        if let Ok(bytes) = volume.whole(&file, BYTES_MAX) {
            hive(&bytes);
        }
        for place in volume.places(&file).unwrap_or_default() {
            assert!(place.end <= length, "a file outside the disk");
        }
    }
}

/// A volume is mostly gaps, in which a fuzzer would lose itself: records and index blocks, given one after the other, are made
/// whole and put where they belong. The table's own record is right.
pub fn volume_of_parts(data: &[u8]) {
    const SECTOR: usize = 512;
    const TABLE: usize = 4 * SECTOR;
    const RECORDS: usize = 16;
    const BLOCKS: usize = TABLE + RECORDS * 1024;
    /// The root folder and what may be below it, the volume's state, its journal, and the others.
    const ORDER: [usize; 15] = [5, 6, 7, 8, 9, 3, 2, 1, 4, 10, 11, 12, 13, 14, 15];
    let mut disk = vec![0; 64 << 10];
    disk[3..11].copy_from_slice(b"NTFS    ");
    disk[0x0b..0x0e].copy_from_slice(&[0, 2, 1]);
    disk[0x30] = (TABLE / SECTOR) as u8;
    disk[0x40] = 0xf6;
    // One attribute: the table's content, which is one run of clusters.
    let first = &mut disk[TABLE..TABLE + 1024];
    first[0x14] = 0x38;
    for (at, byte) in [
        (0, 0x80),
        (4, 0x48),
        (8, 1),
        (0x20, 0x40),
        (0x31, 0x40),
        (0x39, 0x40),
    ] {
        first[0x38 + at] = byte;
    }
    first[0x78..0x7b].copy_from_slice(&[0x11, (2 * RECORDS) as u8, (TABLE / SECTOR) as u8]);
    first[0x80..0x84].fill(0xff);
    whole(first, *b"FILE", 0x30);
    let records = ORDER
        .iter()
        .map(|record| (TABLE + record * 1024, 1024, *b"FILE", 0x30));
    let blocks = (0..8).map(|block| (BLOCKS + block * 4096, 4096, *b"INDX", 0x28));
    let mut data = data;
    for (at, length, magic, stamps) in records.chain(blocks) {
        let (part, rest) = data.split_at(data.len().min(length));
        let block = &mut disk[at..at + length];
        block[..part.len()].copy_from_slice(part);
        whole(block, magic, stamps);
        data = rest;
    }
    volume(&disk);
}

/// Makes a block one that is not torn.
fn whole(block: &mut [u8], magic: [u8; 4], stamps: u8) {
    let count = (block.len() / 512 + 1) as u8;
    block[..4].copy_from_slice(&magic);
    block[4..8].copy_from_slice(&[stamps, 0, count, 0]);
    block[usize::from(stamps)..][..2].fill(0);
    if magic == *b"FILE" {
        block[0x16] = 1;
    }
    for sector in block.chunks_exact_mut(512) {
        sector[510..].fill(0);
    }
}

/// Opens `data` as the cells of a hive, behind a right head, and reads what is read of one. It begins with where the root is.
pub fn cells(data: &[u8]) {
    let mut bytes = vec![0; 4096];
    bytes[..4].copy_from_slice(b"regf");
    let root = data.get(..2).unwrap_or_default();
    bytes[0x24..0x24 + root.len()].copy_from_slice(root);
    bytes[0x28..0x2c].copy_from_slice(&(data.len() as u32).to_le_bytes());
    bytes.extend_from_slice(data);
    let words = bytes[..0x1fc].chunks_exact(4);
    let sum = words.fold(0, |sum, word| sum ^ u32_at(word, 0).unwrap_or_default());
    bytes[0x1fc..0x200].copy_from_slice(&sum.clamp(1, u32::MAX - 1).to_le_bytes());
    hive(&bytes);
}

/// Opens `data` as a hive and reads what is read of one.
pub fn hive(data: &[u8]) {
    let Ok(hive) = Hive::open(data) else {
        return;
    };
    for path in [&["Bullion", "Image"][..], &["Microsoft"], &[]] {
        if let Ok(Some(key)) = hive.key(path) {
            let _ = key.values();
        }
    }
}
