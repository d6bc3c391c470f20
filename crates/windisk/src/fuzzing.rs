//! What hostile bytes are put through, for fuzzing only.

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

/// Opens `data` as a hive, its head put right, and reads what is read of one.
pub fn hive(data: &[u8]) {
    let mut bytes = data.to_vec();
    if let Some(head) = bytes.get_mut(..0x200) {
        head[..4].copy_from_slice(b"regf");
        let words = head.chunks_exact(4).take(127);
        let sum = words.fold(0, |sum, word| {
            sum ^ u32::from_le_bytes([word[0], word[1], word[2], word[3]])
        });
        let sum = sum.clamp(1, u32::MAX - 1);
        head[0x1fc..].copy_from_slice(&sum.to_le_bytes());
    }
    let Ok(hive) = Hive::open(&bytes) else {
        return;
    };
    for path in [&["Bullion", "Image"][..], &["Microsoft"], &[]] {
        if let Ok(Some(key)) = hive.key(path) {
            let _ = key.texts();
        }
    }
}
