//! Ways past the checksums, for fuzzing only: behind them lies what a liar could reach.

use crate::codec::Reader;
use crate::manifest::{MAX_DISK_BYTES, Manifest, read_tables};
use crate::pack::PackFooter;

/// A manifest, as it is and as tables of a disk of a size taken from the first bytes.
pub fn manifest(data: &[u8]) {
    let _ = Manifest::decode(data);
    let mut reader = Reader::new(data);
    if let Ok(size) = reader.u64() {
        let size = size % (MAX_DISK_BYTES + 1);
        if let Ok((_, pieces)) = read_tables(&mut reader, size) {
            let blocks: u64 = pieces.iter().map(|piece| u64::from(piece.count)).sum();
            assert!(
                blocks <= size.div_ceil(disk::BLOCK_SIZE as u64),
                "more blocks than the disk"
            );
        }
    }
}

/// A pack, as it is and as a footer.
pub fn pack(data: &[u8]) {
    let _ = PackFooter::parse_file("packs/0.pack", data);
    let mut reader = Reader::new(data);
    if let (Ok(count), Ok(end)) = (reader.u32(), reader.u32()) {
        let footer = reader.take(reader.remaining()).unwrap_or_default();
        let _ = PackFooter::parse_frames(count, footer, u64::from(end));
    }
}
