//! Frames: up to sixteen blocks, compressed together. The unit that is stored, checked and moved.
//!
//! A frame is named by a hash of its stored bytes, so it is checked before anything decompresses
//! it, and it means the same at every place it is copied to.

use std::fmt;

use disk::BLOCK_SIZE;

use crate::error::StoreError;

/// Blocks in a full frame: 64 KiB.
pub const FRAME_BLOCKS: usize = 16;

/// Raw bytes of a full frame.
pub(crate) const FRAME_BYTES: usize = FRAME_BLOCKS * BLOCK_SIZE;

const ID_CONTEXT: &str = "bullion frame v1";

/// The name of a frame.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameId(pub(crate) [u8; 32]);

impl fmt::Display for FrameId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::codec::hex(&self.0))
    }
}

impl fmt::Debug for FrameId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How the bytes of a frame are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codec {
    /// As they are: they did not get smaller.
    Raw,
    Zstd,
}

impl Codec {
    pub(crate) fn to_byte(self) -> u8 {
        match self {
            Codec::Raw => 0,
            Codec::Zstd => 1,
        }
    }

    pub(crate) fn from_byte(byte: u8) -> Option<Codec> {
        match byte {
            0 => Some(Codec::Raw),
            1 => Some(Codec::Zstd),
            _ => None,
        }
    }
}

/// A frame as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) id: FrameId,
    pub(crate) codec: Codec,
    pub(crate) blocks: u8,
    pub(crate) stored: Vec<u8>,
}

/// The name of these stored bytes.
pub(crate) fn frame_id(codec: Codec, blocks: u8, stored: &[u8]) -> FrameId {
    let mut hasher = blake3::Hasher::new_derive_key(ID_CONTEXT);
    hasher.update(&[codec.to_byte(), blocks]).update(stored);
    FrameId(*hasher.finalize().as_bytes())
}

/// Compresses; one for each thread.
pub(crate) struct Packer(zstd::bulk::Compressor<'static>);

impl Packer {
    pub(crate) fn new(level: i32) -> Result<Self, StoreError> {
        zstd::bulk::Compressor::new(level)
            .map(Packer)
            .map_err(StoreError::Compress)
    }

    /// `raw` is one to sixteen whole blocks.
    pub(crate) fn pack(&mut self, raw: &[u8]) -> Result<Frame, StoreError> {
        let blocks = raw.len() / BLOCK_SIZE;
        assert!(raw.len().is_multiple_of(BLOCK_SIZE) && (1..=FRAME_BLOCKS).contains(&blocks));
        let blocks = blocks as u8;
        let packed = self.0.compress(raw).map_err(StoreError::Compress)?;
        let (codec, stored) = if packed.len() < raw.len() {
            (Codec::Zstd, packed)
        } else {
            (Codec::Raw, raw.to_vec())
        };
        Ok(Frame {
            id: frame_id(codec, blocks, &stored),
            codec,
            blocks,
            stored,
        })
    }
}

/// Checks and decompresses; one for each thread.
pub(crate) struct Unpacker(Option<zstd::bulk::Decompressor<'static>>);

impl Unpacker {
    pub(crate) fn new() -> Self {
        Unpacker(None)
    }

    /// Fills `into` with the raw bytes, if the stored ones are those of frame `id`.
    pub(crate) fn unpack(
        &mut self,
        id: FrameId,
        codec: Codec,
        blocks: u8,
        stored: &[u8],
        into: &mut Vec<u8>,
    ) -> Result<(), &'static str> {
        if frame_id(codec, blocks, stored) != id {
            return Err("its bytes are not the ones that were stored");
        }
        let len = usize::from(blocks) * BLOCK_SIZE;
        into.clear();
        match codec {
            Codec::Raw => into.extend_from_slice(stored),
            Codec::Zstd => {
                into.reserve_exact(len);
                let unpacker = match &mut self.0 {
                    Some(unpacker) => unpacker,
                    none => none.insert(
                        zstd::bulk::Decompressor::new().map_err(|_| "zstd could not be set up")?,
                    ),
                };
                unpacker
                    .decompress_to_buffer(stored, into)
                    .map_err(|_| "it does not decompress")?;
            }
        }
        if into.len() == len {
            Ok(())
        } else {
            Err("it holds another number of blocks")
        }
    }
}
