//! Partition tables of disks from outside. The checksums are put right first, or nothing behind
//! them would ever be reached.
#![no_main]

use disk::layout::Gpt;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = Gpt::read(&data.to_vec());
    if let Some(disk) = with_right_checksums(data)
        && let Ok(table) = Gpt::read(&disk)
    {
        for partition in &table.partitions {
            assert!(
                partition.range().end <= disk.len() as u64,
                "a partition outside the disk"
            );
        }
        let _ = table.root();
    }
});

/// Takes the data for a disk with a header in its second sector.
fn with_right_checksums(data: &[u8]) -> Option<Vec<u8>> {
    let mut disk = data.to_vec();
    let header = disk.get_mut(512..1024)?;
    header[..8].copy_from_slice(b"EFI PART");
    header[12..16].copy_from_slice(&92u32.to_le_bytes());
    header[24..32].copy_from_slice(&1u64.to_le_bytes());
    let number = |at: usize| {
        u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    let start = number(72) as usize % 64 * 512;
    let (count, entry) = (number(80) % 64, 128 + number(84) % 512);
    let len = (count * entry) as usize;
    header[80..84].copy_from_slice(&count.to_le_bytes());
    header[84..88].copy_from_slice(&entry.to_le_bytes());
    header[72..80].copy_from_slice(&(start as u64 / 512).to_le_bytes());
    let entries = crc32(disk.get(start..start + len)?);
    disk[512 + 88..512 + 92].copy_from_slice(&entries.to_le_bytes());
    disk[512 + 16..512 + 20].fill(0);
    let header = crc32(&disk[512..512 + 92]);
    disk[512 + 16..512 + 20].copy_from_slice(&header.to_le_bytes());
    Some(disk)
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 {
                0xedb8_8320 ^ (crc >> 1)
            } else {
                crc >> 1
            }
        })
    })
}
