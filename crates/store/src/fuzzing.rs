//! Ways past the checksums and seals, for fuzzing only: behind them lies what a liar could reach.

use disk::BLOCK_SIZE;

use crate::codec::Reader;
use crate::domain::{AtRest, Domain};
use crate::frame::{Coding, Packing};
use crate::header::check_headers;
use crate::manifest::{MAX_DISK_BYTES, Manifest, read_outside};
use crate::pack::PackFooter;
use crate::seal::Sealer;
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

/// The small files of a store: its header, its wrapped keys, boot traces, and what it notes of its index.
pub fn headers(data: &[u8]) {
    check_headers(data);
    crate::serve::check_trace(data);
    crate::index::check_files(data);
}

/// The blocks of a frame that is not sealed, from its stored bytes.
pub fn unpacked(coding: u8, stored: &[u8]) -> Option<Vec<u8>> {
    match coding {
        0 => Some(stored.to_vec()),
        1 => zstd::decode_all(stored).ok(),
        _ => None,
    }
}

/// A key, and a hash of what it sealed.
pub type Sealed = ([u8; 32], [u8; 32]);

/// Everything that is sealed in a pack of this domain, for tests that no key meets two plaintexts.
pub fn seals_of_pack(
    name: &str,
    pack: &[u8],
    domain: &Domain,
) -> Result<Vec<Sealed>, &'static str> {
    let footer = PackFooter::parse_file(name, pack)?;
    let mut found = Vec::new();
    for frame in footer.frames.iter().filter(|frame| frame.coding.sealed) {
        let from = frame.offset as usize;
        let stored = &pack[from..from + frame.len as usize];
        let (sealer, head) = match frame.blocks {
            0 => (domain.tables(), read_refs(stored)?.1),
            _ => (domain.frames(), 0),
        };
        let about = match frame.blocks {
            0 => stored[..head].to_vec(),
            blocks => vec![frame.coding.to_byte(), blocks],
        };
        found.push(seal(sealer, &about, &stored[head..])?);
    }
    Ok(found)
}

/// The same of a root.
pub fn seal_of_root(root: &[u8], domain: &Domain) -> Result<Sealed, &'static str> {
    let (about, sealed) = Manifest::sealed_part(root)?;
    seal(domain.tables(), about, sealed)
}

fn seal(sealer: Option<&Sealer>, about: &[u8], sealed: &[u8]) -> Result<Sealed, &'static str> {
    let sealer = sealer.ok_or("the domain seals nothing")?;
    let key = sealer.key_of(sealed).ok_or("it ends too early")?;
    let mut plain = Vec::new();
    sealer
        .open(about, sealed, &mut plain)
        .map_err(|_| "it does not open")?;
    Ok((key, *blake3::hash(&plain).as_bytes()))
}
