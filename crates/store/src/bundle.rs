//! A disk in one file, to be carried where no network reaches.
//!
//! A bundle is a manifest and the frames that it names, as they are stored. Both prove themselves:
//! the manifest by its digest, a frame by its id. Frames of a disk that the receiver is known to
//! have can be left out.

use std::collections::HashSet;
use std::io::{self, Read, Write};

use disk::{BLOCK_SIZE, DiskDigest, leaf_hashes};

use crate::bulk::batches;
use crate::codec::Reader;
use crate::error::StoreError;
use crate::frame::{Codec, FRAME_BLOCKS, FRAME_BYTES, Frame, FrameId, Unpacker, frame_id};
use crate::index::{Fingerprint, Precedence};
use crate::manifest::{MAX_MANIFEST_BYTES, Manifest};
use crate::pack::PackBuilder;
use crate::parallel;
use crate::session::write_packs;
use crate::store::{Inner, Store};

const MAGIC: &[u8; 8] = b"BULBNDL\0";
const VERSION: u32 = 1;
/// Magic, version, reserved, length of the manifest, number of frames, reserved.
const HEADER_LEN: usize = 32;
const FRAME_HEADER_LEN: usize = 12;

/// Frames that are unpacked side by side while a bundle is read.
const GROUP: usize = 256;

/// What a bundle was made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Bundled {
    pub frames: u64,
    /// Frames that were left out.
    pub frames_present: u64,
    /// The whole bundle.
    pub bytes: u64,
}

/// What a bundle brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Unbundled {
    pub digest: DiskDigest,
    pub logical_bytes: u64,
    pub data_bytes: u64,
    /// Frames in the bundle that the store did not have.
    pub frames: u64,
    /// The same in bytes, as stored.
    pub stored_bytes: u64,
    /// The whole bundle.
    pub bytes: u64,
}

/// Whether a file that begins like this is a bundle.
pub fn is_bundle(head: &[u8]) -> bool {
    head.starts_with(MAGIC)
}

impl Store {
    /// Writes a disk as a bundle, without the frames of `present`.
    pub fn bundle(
        &self,
        digest: &DiskDigest,
        present: Option<&DiskDigest>,
        to: &mut dyn Write,
    ) -> Result<Bundled, StoreError> {
        let disk = self.disk(digest)?;
        let known: HashSet<FrameId> = match present {
            None => HashSet::new(),
            Some(present) => {
                let present = self.manifest(present)?;
                present.frames.iter().map(|frame| frame.id).collect()
            }
        };
        let located = self.0.locate(disk.manifest())?;
        let all = located.len();
        let mut seen = HashSet::new();
        let sent: Vec<_> = (0u32..)
            .zip(located)
            .filter(|(_, at)| !known.contains(&at.id) && seen.insert(at.id))
            .collect();
        let frames = sent.len();
        let manifest = disk.manifest().encode();
        let mut bytes = 0;
        let mut put = |part: &[u8]| {
            bytes += part.len() as u64;
            to.write_all(part).map_err(StoreError::WriteBundle)
        };
        put(&header(manifest.len() as u64, frames as u32))?;
        put(&manifest)?;
        for batch in batches(sent.into_iter()) {
            batch.stored(&self.0, |number, at, stored| {
                // What is damaged here must be found here, not at the other end.
                if frame_id(at.codec, at.blocks, stored) != at.id {
                    return Err(self
                        .0
                        .damaged_frame(at, "its bytes are not what was stored"));
                }
                put(&number.to_le_bytes())?;
                put(&(stored.len() as u32).to_le_bytes())?;
                put(&[at.codec.to_byte(), at.blocks, 0, 0])?;
                put(stored)
            })?;
        }
        Ok(Bundled {
            frames: frames as u64,
            frames_present: (all - frames) as u64,
            bytes,
        })
    }

    /// Takes in a bundle. The disk is there when all its frames are, be it from before.
    pub fn unbundle(&self, from: &mut dyn Read) -> Result<Unbundled, StoreError> {
        let mut reader = Counted { from, bytes: 0 };
        let (manifest, frames) = read_head(&mut reader)?;
        let _writer = self.0.writer();
        let (mut new, mut stored_bytes) = (0, 0);
        let mut left = frames;
        write_packs(&self.0, Precedence::Known, |packs| {
            let mut pack = PackBuilder::default();
            while left > 0 {
                let mut group = Vec::new();
                for _ in 0..GROUP.min(left as usize) {
                    left -= 1;
                    let frame = read_frame(&mut reader, &manifest)?;
                    // A frame may be there already, and one bundle may bring it twice.
                    let known = self.0.index().number(&frame.id).is_some()
                        || group
                            .iter()
                            .any(|(other, _): &Received| other.id == frame.id);
                    if !known {
                        group.push((frame, Vec::new()));
                    }
                }
                fingerprint(&self.0, &mut group)?;
                for (frame, fingerprints) in group {
                    new += 1;
                    stored_bytes += frame.stored.len() as u64;
                    if let Some(full) = pack.push(&frame, fingerprints) {
                        packs.send(full).map_err(|_| StoreError::WriterStopped)?;
                    }
                }
            }
            match pack.finish() {
                Some(full) => packs.send(full).map_err(|_| StoreError::WriterStopped),
                None => Ok(()),
            }
        })?;
        self.0.publish(&manifest)?;
        Ok(Unbundled {
            digest: manifest.digest,
            logical_bytes: manifest.size,
            data_bytes: manifest.data_bytes(),
            frames: new,
            stored_bytes,
            bytes: reader.bytes,
        })
    }
}

type Received = (Frame, Vec<Fingerprint>);

/// Checks and decompresses frames, and makes the fingerprints that this store knows blocks by.
fn fingerprint(inner: &Inner, group: &mut [Received]) -> Result<(), StoreError> {
    parallel::for_each(
        inner.threads(),
        group,
        || (Unpacker::new(), Vec::new()),
        |(unpacker, raw), (frame, fingerprints)| {
            unpacker
                .unpack(frame.id, frame.codec, frame.blocks, &frame.stored, raw)
                .map_err(damaged)?;
            let mut leaves = [[0; 32]; FRAME_BLOCKS];
            let leaves = &mut leaves[..raw.len() / BLOCK_SIZE];
            leaf_hashes(raw, leaves);
            fingerprints.extend(leaves.iter().map(|leaf| inner.key.fingerprint(leaf)));
            Ok(())
        },
    )
}

fn damaged(what: &'static str) -> StoreError {
    StoreError::DamagedBundle { what }
}

fn header(manifest: u64, frames: u32) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&0u32.to_le_bytes());
    bytes.extend_from_slice(&manifest.to_le_bytes());
    bytes.extend_from_slice(&frames.to_le_bytes());
    bytes.extend_from_slice(&0u32.to_le_bytes());
    bytes
}

fn read_head(reader: &mut Counted<'_>) -> Result<(Manifest, u32), StoreError> {
    let mut bytes = [0; HEADER_LEN];
    reader.fill(&mut bytes)?;
    let (len, frames) = parse_header(&bytes).map_err(damaged)?;
    // Read as it comes, so that a length that lies costs nothing.
    let mut manifest = Vec::new();
    let read = reader.by_ref().take(len).read_to_end(&mut manifest);
    if read.map_err(StoreError::ReadBundle)? as u64 != len {
        return Err(damaged("it ends too early"));
    }
    let manifest = Manifest::decode(&manifest).map_err(damaged)?;
    if frames as usize > manifest.frames.len() {
        return Err(damaged("it has more frames than its disk"));
    }
    Ok((manifest, frames))
}

fn parse_header(bytes: &[u8]) -> Result<(u64, u32), &'static str> {
    let mut reader = Reader::new(bytes);
    if reader.take(8)? != MAGIC {
        return Err("it is not a bundle");
    }
    if (reader.u32()?, reader.u32()?) != (VERSION, 0) {
        return Err("it has an unknown version");
    }
    let (manifest, frames) = (reader.u64()?, reader.u32()?);
    if manifest > MAX_MANIFEST_BYTES || reader.u32()? != 0 {
        return Err("its manifest has an impossible length");
    }
    Ok((manifest, frames))
}

/// One frame, which its manifest must name.
fn read_frame(reader: &mut Counted<'_>, manifest: &Manifest) -> Result<Frame, StoreError> {
    let mut bytes = [0; FRAME_HEADER_LEN];
    reader.fill(&mut bytes)?;
    let (number, len, codec, blocks) = parse_frame(&bytes).map_err(damaged)?;
    let used = manifest.frames.get(number as usize);
    let used = used.filter(|used| used.blocks == blocks);
    let used = used.ok_or_else(|| damaged("it has a frame that its disk does not"))?;
    let mut stored = vec![0; len as usize];
    reader.fill(&mut stored)?;
    if frame_id(codec, blocks, &stored) != used.id {
        return Err(damaged("a frame's bytes are not what was stored"));
    }
    Ok(Frame {
        id: used.id,
        codec,
        blocks,
        stored,
    })
}

fn parse_frame(bytes: &[u8]) -> Result<(u32, u32, Codec, u8), &'static str> {
    let mut reader = Reader::new(bytes);
    let (number, len) = (reader.u32()?, reader.u32()?);
    let codec = Codec::from_byte(reader.u8()?).ok_or("a frame has an unknown codec")?;
    let blocks = reader.u8()?;
    if reader.u16()? != 0 || len == 0 || len as usize > FRAME_BYTES {
        return Err("a frame has an impossible shape");
    }
    Ok((number, len, codec, blocks))
}

struct Counted<'a> {
    from: &'a mut dyn Read,
    bytes: u64,
}

impl Counted<'_> {
    fn fill(&mut self, buf: &mut [u8]) -> Result<(), StoreError> {
        self.read_exact(buf).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => damaged("it ends too early"),
            _ => StoreError::ReadBundle(error),
        })
    }
}

impl Read for Counted<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buf)?;
        self.bytes += read as u64;
        Ok(read)
    }
}
