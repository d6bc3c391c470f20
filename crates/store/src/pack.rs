//! Packs: files of some megabytes with frames, and a footer that says what is in them.
//!
//! A pack is named by its own footer. The footer carries the fingerprint of every block, so the
//! index is rebuilt from footers alone. Nothing in a footer needs a key to be read: fingerprints
//! depend on the domain's secret and say nothing without it.

use crate::codec::{PACKS, Reader, hex};
use crate::frame::{Coding, FRAME_BYTES, Frame, FrameId, is_possible};
use crate::index::Fingerprint;

const MAGIC: &[u8; 8] = b"BULPACK\0";
const END_MAGIC: &[u8; 8] = b"KCAPLUB\0";
const VERSION: u32 = 1;

pub(crate) const HEADER_LEN: usize = 16;
pub(crate) const TRAILER_LEN: usize = 48;

/// A pack is closed when its frames reach this.
pub(crate) const TARGET_BYTES: usize = 8 << 20;
/// No pack is longer than this.
const MAX_PACK_BYTES: u64 = 64 << 20;
/// No footer is longer than this: a target of frames that compressed a hundredfold.
pub(crate) const MAX_FOOTER_BYTES: u32 = 32 << 20;

const CHECK_CONTEXT: &str = "bullion pack footer v1";

/// One frame in a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PackedFrame {
    pub(crate) id: FrameId,
    pub(crate) coding: Coding,
    pub(crate) blocks: u8,
    pub(crate) offset: u64,
    pub(crate) len: u32,
    pub(crate) fingerprints: Vec<Fingerprint>,
}

/// What a pack says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackFooter {
    pub(crate) frames: Vec<PackedFrame>,
}

/// Where the footer is, from the last bytes of a file.
#[derive(Debug)]
pub(crate) struct Trailer {
    pub(crate) footer_len: u32,
    frames: u32,
    check: [u8; 32],
}

/// A pack being filled.
#[derive(Debug, Default)]
pub(crate) struct PackBuilder {
    bytes: Vec<u8>,
    frames: Vec<PackedFrame>,
}

/// A pack ready to be written.
#[derive(Debug)]
pub(crate) struct Pack {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) footer: PackFooter,
}

impl PackBuilder {
    /// Takes one more frame; a pack that became full is handed out.
    pub(crate) fn push(&mut self, frame: &Frame, fingerprints: Vec<Fingerprint>) -> Option<Pack> {
        assert_eq!(
            fingerprints.len(),
            usize::from(frame.blocks),
            "one fingerprint for each block"
        );
        if self.bytes.is_empty() {
            self.bytes.reserve(TARGET_BYTES + FRAME_BYTES);
            self.bytes.extend_from_slice(&header());
        }
        self.frames.push(PackedFrame {
            id: frame.id,
            coding: frame.coding,
            blocks: frame.blocks,
            offset: self.bytes.len() as u64,
            len: frame.stored.len() as u32,
            fingerprints,
        });
        self.bytes.extend_from_slice(&frame.stored);
        (self.bytes.len() >= TARGET_BYTES)
            .then(|| self.finish())
            .flatten()
    }

    /// Closes the pack, if there is anything in it, and starts the next.
    pub(crate) fn finish(&mut self) -> Option<Pack> {
        let PackBuilder { mut bytes, frames } = std::mem::take(self);
        if frames.is_empty() {
            return None;
        }
        let footer = PackFooter { frames };
        let name = push_end(&footer, &mut bytes);
        Some(Pack {
            name,
            bytes,
            footer,
        })
    }
}

/// Appends what comes after the frames of a pack, and answers the pack's name.
fn push_end(footer: &PackFooter, bytes: &mut Vec<u8>) -> String {
    let start = bytes.len();
    for frame in &footer.frames {
        bytes.extend_from_slice(&frame.id.0);
        bytes.extend_from_slice(&frame.len.to_le_bytes());
        bytes.extend_from_slice(&[frame.blocks, frame.coding.to_byte()]);
        bytes.extend_from_slice(frame.fingerprints.as_flattened());
    }
    let footer_len = (bytes.len() - start) as u32;
    let frames = footer.frames.len() as u32;
    let check = checksum(&bytes[start..], frames);
    bytes.extend_from_slice(&footer_len.to_le_bytes());
    bytes.extend_from_slice(&frames.to_le_bytes());
    bytes.extend_from_slice(&check);
    bytes.extend_from_slice(END_MAGIC);
    pack_name(&check)
}

/// The name and the end of a pack whose frames nobody has.
#[cfg(feature = "simulate")]
pub(crate) fn made_up_file(footer: &PackFooter) -> (String, Vec<u8>) {
    let mut end = Vec::new();
    let name = push_end(footer, &mut end);
    (name, end)
}

fn pack_name(check: &[u8; 32]) -> String {
    format!("{PACKS}{}.pack", hex(&check[..16]))
}

pub(crate) fn header() -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    header[..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header
}

fn checksum(footer: &[u8], frames: u32) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(CHECK_CONTEXT);
    hasher
        .update(&header())
        .update(&frames.to_le_bytes())
        .update(footer);
    *hasher.finalize().as_bytes()
}

/// Refuses a file that is no pack of a version that we know.
pub(crate) fn check_header(bytes: &[u8]) -> Result<(), &'static str> {
    let mut reader = Reader::new(bytes);
    if reader.take(8)? != MAGIC {
        return Err("it is not a pack");
    }
    match (reader.u32()?, reader.u32()?) {
        (VERSION, 0) => Ok(()),
        _ => Err("it is a pack of an unknown version"),
    }
}

impl Trailer {
    pub(crate) fn parse(bytes: &[u8], file_len: u64) -> Result<Trailer, &'static str> {
        let mut reader = Reader::new(bytes);
        let (footer_len, frames) = (reader.u32()?, reader.u32()?);
        let check = reader.array()?;
        if reader.take(8)? != END_MAGIC || !reader.is_empty() {
            return Err("its end is missing");
        }
        let room = file_len.checked_sub((HEADER_LEN + TRAILER_LEN) as u64);
        if room.is_none_or(|room| u64::from(footer_len) > room)
            || footer_len > MAX_FOOTER_BYTES
            || file_len > MAX_PACK_BYTES
        {
            return Err("its footer has an impossible length");
        }
        Ok(Trailer {
            footer_len,
            frames,
            check,
        })
    }
}

impl PackFooter {
    /// Of frames that nobody has, one after the other.
    #[cfg(feature = "simulate")]
    pub(crate) fn made_up(
        frames: impl Iterator<Item = (FrameId, Coding, u32, Vec<Fingerprint>)>,
    ) -> PackFooter {
        let mut offset = HEADER_LEN as u64;
        let frames = frames.map(|(id, coding, len, fingerprints)| {
            let blocks = fingerprints.len() as u8;
            let at = offset;
            offset += u64::from(len);
            PackedFrame {
                id,
                coding,
                blocks,
                offset: at,
                len,
                fingerprints,
            }
        });
        PackFooter {
            frames: frames.collect(),
        }
    }

    /// Reads a footer. `frames_end` is where it begins: frames lie between the header and there,
    /// without gaps.
    pub(crate) fn parse(
        name: &str,
        trailer: &Trailer,
        footer: &[u8],
        frames_end: u64,
    ) -> Result<PackFooter, &'static str> {
        if checksum(footer, trailer.frames) != trailer.check {
            return Err("its footer's checksum is wrong");
        }
        if pack_name(&trailer.check) != name {
            return Err("it is another pack under this name");
        }
        PackFooter::parse_frames(trailer.frames, footer, frames_end)
    }

    /// The part behind the checksum.
    pub(crate) fn parse_frames(
        count: u32,
        footer: &[u8],
        frames_end: u64,
    ) -> Result<PackFooter, &'static str> {
        let mut reader = Reader::new(footer);
        let mut frames = Vec::new();
        let mut offset = HEADER_LEN as u64;
        for _ in 0..count {
            let frame = read_frame(&mut reader, offset)?;
            offset += u64::from(frame.len);
            frames.push(frame);
        }
        if !reader.is_empty() || offset != frames_end {
            return Err("its footer does not cover its frames");
        }
        Ok(PackFooter { frames })
    }

    /// Reads a whole pack that is in memory, footers only. For tests and fuzzing.
    pub fn parse_file(name: &str, bytes: &[u8]) -> Result<PackFooter, &'static str> {
        check_header(bytes)?;
        let at = bytes
            .len()
            .checked_sub(TRAILER_LEN)
            .ok_or("it ends too early")?;
        let trailer = Trailer::parse(&bytes[at..], bytes.len() as u64)?;
        let start = at - trailer.footer_len as usize;
        PackFooter::parse(name, &trailer, &bytes[start..at], start as u64)
    }
}

fn read_frame(reader: &mut Reader<'_>, offset: u64) -> Result<PackedFrame, &'static str> {
    let id = FrameId(reader.array()?);
    let len = reader.u32()?;
    let (blocks, coding) = (reader.u8()?, reader.u8()?);
    let coding = Coding::from_byte(coding).ok_or("a frame has an unknown coding")?;
    if !is_possible(blocks, len as usize) {
        return Err("a frame has an impossible length");
    }
    let fingerprints = reader.take(usize::from(blocks) * size_of::<Fingerprint>())?;
    let (fingerprints, _) = fingerprints.as_chunks();
    Ok(PackedFrame {
        id,
        coding,
        blocks,
        offset,
        len,
        fingerprints: fingerprints.to_vec(),
    })
}
