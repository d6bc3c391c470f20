//! Ways past the checksums and seals, for fuzzing only: behind them lies what a liar could reach.

use disk::BLOCK_SIZE;

use crate::codec::Reader;
use crate::domain::{AtRest, Domain};
use crate::frame::{Coding, Packing};
use crate::header::check_headers;
use crate::manifest::{MAX_DISK_BYTES, Manifest, read_outside};
use crate::pack::PackFooter;
use crate::section::{Section, Shape, decode_branch, read_refs};

/// A manifest, as it is and behind its checksum and seal, with the body cut off at any place.
pub fn manifest(data: &[u8]) {
    let _ = Manifest::outside(data);
    if let Ok((outside, head)) = read_outside(data) {
        let _ = Manifest::with_body(&outside, &data[head..]);
    }
}

/// A section or branch of a disk of this size.
pub fn table(data: &[u8], size: u64) {
    let plain = Domain::new([0; 32], AtRest::Plain);
    let coding = Coding {
        packing: Packing::Raw,
        sealed: false,
    };
    let shape = Shape::of(size % (MAX_DISK_BYTES + 1));
    let _ = read_refs(data);
    for index in [0, 1, u32::MAX] {
        if let Ok(section) = Section::decode(&plain, coding, data, (&shape, index)) {
            let blocks = (size % (MAX_DISK_BYTES + 1)).div_ceil(BLOCK_SIZE as u64);
            assert!(
                u64::from(section.blocks()) <= blocks,
                "more blocks than the disk"
            );
        }
        let _ = decode_branch(&plain, coding, data, (&shape, index));
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

/// The table of a part of a bundle, for a disk of this size.
pub fn bundle(data: &[u8], branch: u32, size: u64) {
    crate::unbundle::check_table(data, branch, size % (MAX_DISK_BYTES + 1));
}

/// The small files of a store: its header and its wrapped keys.
pub fn headers(data: &[u8]) {
    check_headers(data);
}
