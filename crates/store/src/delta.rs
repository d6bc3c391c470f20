//! Blocks on their way in a bundle, compressed together and against parts of a disk that both ends
//! have.
//!
//! This is for the way only: what is stored never depends on another disk's data. The receiver
//! checks what comes out as it checks all blocks, so a wrong reference gives an error.

use disk::{BLOCK_SIZE, ReadAt};
use zstd::zstd_safe::{CCtx, CParameter, DCtx, DParameter};

use crate::codec::Reader;
use crate::error::StoreError;
use crate::frame::{FRAME_BLOCKS, FRAME_BYTES};
use crate::seal::OVERHEAD;
use crate::session::ZSTD_LEVEL;
use crate::similar::{PART_BYTES, Similar};
use crate::view::StoredDisk;

/// Frames that are compressed together: 1 MiB.
pub(crate) const TOGETHER: usize = 16;
/// Parts of the other disk that they are compressed against: 4 MiB.
const MAX_PARTS: usize = 256;
/// The longest group: its blocks as they are, and what says what it is made of.
pub(crate) const MAX_BYTES: u32 = (TOGETHER * FRAME_BYTES + (64 << 10) + OVERHEAD) as u32;
/// 8 MiB: the blocks, and all that they are compressed against.
const WINDOW_LOG: u32 = 23;
/// Places of it that zstd remembers; at this level it would be too few for so long a reference.
const HASH_LOG: u32 = 20;

/// A disk that both ends have.
pub(crate) struct Reference {
    pub(crate) disk: StoredDisk,
    /// None: nothing is looked for, because too little would be saved.
    pub(crate) similar: Option<Similar>,
}

/// Frames of whole blocks, one after the other.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) blocks: Vec<u8>,
    pub(crate) raw: Vec<u8>,
}

impl Group {
    /// As it goes into a bundle, before it is sealed.
    pub(crate) fn encode(&self, reference: &Reference) -> Result<Vec<u8>, StoreError> {
        let similar = reference.similar.as_ref();
        let parts = similar.map_or(Vec::new(), |similar| similar.parts(&self.raw, MAX_PARTS));
        let prefix = read_parts(&reference.disk, &parts).map_err(StoreError::ReadDisk)?;
        let mut out = self.blocks.clone();
        out.extend_from_slice(&(parts.len() as u16).to_le_bytes());
        for part in &parts {
            out.extend_from_slice(&part.to_le_bytes());
        }
        out.extend_from_slice(&compress(&self.raw, &prefix)?);
        Ok(out)
    }

    /// The outer error is of the disk that it refers to, the inner one of the bytes.
    pub(crate) fn decode(
        frames: u8,
        bytes: &[u8],
        disk: &StoredDisk,
    ) -> Result<Result<Group, &'static str>, StoreError> {
        let (blocks, parts, packed) = match parse(frames, bytes, disk.size()) {
            Ok(parsed) => parsed,
            Err(what) => return Ok(Err(what)),
        };
        let prefix = read_parts(disk, &parts).map_err(StoreError::ReadDisk)?;
        let len: usize = blocks.iter().map(|n| usize::from(*n)).sum();
        Ok(decompress(packed, &prefix, len * BLOCK_SIZE).map(|raw| Group { blocks, raw }))
    }
}

type Parsed<'a> = (Vec<u8>, Vec<u32>, &'a [u8]);

/// Blocks of each frame, parts of a disk of this size, and what is compressed.
pub(crate) fn parse(frames: u8, bytes: &[u8], size: u64) -> Result<Parsed<'_>, &'static str> {
    let mut reader = Reader::new(bytes);
    let blocks = reader.take(frames.into())?.to_vec();
    let possible = |n: &u8| (1..=FRAME_BLOCKS).contains(&usize::from(*n));
    if !(1..=TOGETHER).contains(&blocks.len()) || !blocks.iter().all(possible) {
        return Err("a frame has an impossible shape");
    }
    let count = usize::from(reader.u16()?);
    if count > MAX_PARTS {
        return Err("it refers to too much of the other disk");
    }
    let mut parts = Vec::with_capacity(count);
    for _ in 0..count {
        let part = reader.u32()?;
        if u64::from(part) * PART_BYTES as u64 >= size {
            return Err("it refers to what is outside the other disk");
        }
        parts.push(part);
    }
    let packed = reader.take(reader.remaining())?;
    Ok((blocks, parts, packed))
}

/// The parts one after the other; the last one of a disk may be shorter.
fn read_parts(disk: &StoredDisk, parts: &[u32]) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(parts.len() * PART_BYTES);
    for part in parts {
        let start = u64::from(*part) * PART_BYTES as u64;
        let len = (disk.size() - start).min(PART_BYTES as u64) as usize;
        let from = bytes.len();
        bytes.resize(from + len, 0);
        disk.read_at(start, &mut bytes[from..])?;
    }
    Ok(bytes)
}

fn compress(raw: &[u8], prefix: &[u8]) -> Result<Vec<u8>, StoreError> {
    let failed = |code| {
        let name = zstd::zstd_safe::get_error_name(code);
        StoreError::Compress(std::io::Error::other(name))
    };
    let mut zstd = CCtx::create();
    for parameter in [
        CParameter::CompressionLevel(ZSTD_LEVEL),
        CParameter::WindowLog(WINDOW_LOG),
        CParameter::HashLog(HASH_LOG),
        CParameter::ChainLog(HASH_LOG),
    ] {
        zstd.set_parameter(parameter).map_err(failed)?;
    }
    if !prefix.is_empty() {
        zstd.ref_prefix(prefix).map_err(failed)?;
    }
    let mut packed = Vec::with_capacity(zstd::zstd_safe::compress_bound(raw.len()));
    zstd.compress2(&mut packed, raw).map_err(failed)?;
    Ok(packed)
}

fn decompress(packed: &[u8], prefix: &[u8], len: usize) -> Result<Vec<u8>, &'static str> {
    let mut zstd = DCtx::create();
    let set = zstd.set_parameter(DParameter::WindowLogMax(WINDOW_LOG));
    set.map_err(|_| "zstd could not be set up")?;
    if !prefix.is_empty() {
        let referred = zstd.ref_prefix(prefix);
        referred.map_err(|_| "zstd could not be set up")?;
    }
    let mut raw = Vec::with_capacity(len);
    let done = zstd.decompress(&mut raw, packed);
    done.map_err(|_| "a frame does not decompress against the other disk")?;
    match raw.len() == len {
        true => Ok(raw),
        false => Err("a frame holds another number of blocks"),
    }
}
