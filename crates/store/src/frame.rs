//! Frames: up to sixteen blocks, compressed together and sealed. The unit that is stored, checked
//! and moved.
//!
//! A frame is named by a hash of its stored bytes, so it is checked, copied and repaired without
//! any key, and before anything opens or decompresses it; and it means the same at every place it
//! is copied to. Tables of manifests are stored in the same way, as frames without blocks.

use std::fmt;

use disk::BLOCK_SIZE;

use crate::domain::Domain;
use crate::error::StoreError;
use crate::seal::OVERHEAD;

/// Blocks in a full frame: 64 KiB.
pub const FRAME_BLOCKS: usize = 16;

/// Raw bytes of a full frame.
pub(crate) const FRAME_BYTES: usize = FRAME_BLOCKS * BLOCK_SIZE;

/// No frame and no table is stored in more.
pub(crate) const MAX_STORED_BYTES: usize = 128 << 10;

const ID_CONTEXT: &str = "bullion frame v1";
pub(crate) const ID_LEN: usize = 20;

/// The name of a frame: the first bytes of a hash of its stored bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameId(pub(crate) [u8; ID_LEN]);

impl FrameId {
    pub fn as_bytes(&self) -> &[u8; ID_LEN] {
        &self.0
    }
}

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

/// Whether bytes got smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    /// They are as they were.
    Raw,
    Zstd,
}

/// How the bytes of a frame are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Coding {
    pub(crate) packing: Packing,
    pub(crate) sealed: bool,
}

const ZSTD_BIT: u8 = 1;
const SEALED_BIT: u8 = 2;

impl Coding {
    pub(crate) fn to_byte(self) -> u8 {
        let zstd = match self.packing {
            Packing::Raw => 0,
            Packing::Zstd => ZSTD_BIT,
        };
        zstd | if self.sealed { SEALED_BIT } else { 0 }
    }

    pub(crate) fn from_byte(byte: u8) -> Option<Coding> {
        (byte & !(ZSTD_BIT | SEALED_BIT) == 0).then_some(Coding {
            packing: match byte & ZSTD_BIT {
                0 => Packing::Raw,
                _ => Packing::Zstd,
            },
            sealed: byte & SEALED_BIT != 0,
        })
    }
}

/// A frame as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) id: FrameId,
    pub(crate) coding: Coding,
    /// None: it is a table of a manifest.
    pub(crate) blocks: u8,
    pub(crate) stored: Vec<u8>,
}

impl Frame {
    pub(crate) fn new(coding: Coding, blocks: u8, stored: Vec<u8>) -> Frame {
        Frame {
            id: frame_id(coding, blocks, &stored),
            coding,
            blocks,
            stored,
        }
    }
}

/// The name of these stored bytes.
pub(crate) fn frame_id(coding: Coding, blocks: u8, stored: &[u8]) -> FrameId {
    let mut hasher = blake3::Hasher::new_derive_key(ID_CONTEXT);
    hasher.update(&[coding.to_byte(), blocks]).update(stored);
    let mut id = [0; ID_LEN];
    id.copy_from_slice(&hasher.finalize().as_bytes()[..ID_LEN]);
    FrameId(id)
}

/// What is known of a frame before it is opened, and cannot be changed.
fn about(packing: Packing, blocks: u8) -> [u8; 2] {
    let sealed = true;
    [Coding { packing, sealed }.to_byte(), blocks]
}

/// Compresses and seals; one for each thread.
pub(crate) struct Packer {
    zstd: zstd::bulk::Compressor<'static>,
    domain: Domain,
}

impl Packer {
    pub(crate) fn new(level: i32, domain: &Domain) -> Result<Self, StoreError> {
        Ok(Packer {
            zstd: zstd::bulk::Compressor::new(level).map_err(StoreError::Compress)?,
            domain: domain.clone(),
        })
    }

    /// `raw` is one to sixteen whole blocks.
    pub(crate) fn pack(&mut self, raw: &[u8]) -> Result<Frame, StoreError> {
        let blocks = raw.len() / BLOCK_SIZE;
        assert!(raw.len().is_multiple_of(BLOCK_SIZE) && (1..=FRAME_BLOCKS).contains(&blocks));
        let blocks = blocks as u8;
        let packed = self.zstd.compress(raw).map_err(StoreError::Compress)?;
        let (packing, packed) = match packed.len() < raw.len() {
            true => (Packing::Zstd, packed),
            false => (Packing::Raw, raw.to_vec()),
        };
        let (sealed, stored) = match self.domain.frames() {
            Some(sealer) => (true, sealer.seal(&about(packing, blocks), &packed)?),
            None => (false, packed),
        };
        Ok(Frame::new(Coding { packing, sealed }, blocks, stored))
    }
}

/// Checks, opens and decompresses; one for each thread.
pub(crate) struct Unpacker {
    zstd: Option<zstd::bulk::Decompressor<'static>>,
    opened: Vec<u8>,
}

impl Unpacker {
    pub(crate) fn new() -> Self {
        Unpacker {
            zstd: None,
            opened: Vec::new(),
        }
    }

    /// Fills `into` with the raw bytes, if the stored ones are those of frame `id`.
    pub(crate) fn unpack(
        &mut self,
        domain: &Domain,
        (id, coding, blocks): (FrameId, Coding, u8),
        stored: &[u8],
        into: &mut Vec<u8>,
    ) -> Result<(), &'static str> {
        if frame_id(coding, blocks, stored) != id {
            return Err("its bytes are not the ones that were stored");
        }
        let packed = match (coding.sealed, domain.frames()) {
            (false, _) => stored,
            (true, None) => return Err("it is sealed in a store that is not encrypted"),
            (true, Some(sealer)) => {
                sealer
                    .open(&about(coding.packing, blocks), stored, &mut self.opened)
                    .map_err(|_| "it was sealed with another secret")?;
                &self.opened
            }
        };
        let len = usize::from(blocks) * BLOCK_SIZE;
        into.clear();
        match coding.packing {
            Packing::Raw => into.extend_from_slice(packed),
            Packing::Zstd => {
                into.reserve_exact(len);
                let unpacker = match &mut self.zstd {
                    Some(unpacker) => unpacker,
                    none => none.insert(
                        zstd::bulk::Decompressor::new().map_err(|_| "zstd could not be set up")?,
                    ),
                };
                unpacker
                    .decompress_to_buffer(packed, into)
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

/// Whether a frame of so many blocks can have so many stored bytes.
pub(crate) fn is_possible(blocks: u8, stored: usize) -> bool {
    let limit = match blocks {
        0 => MAX_STORED_BYTES,
        _ => FRAME_BYTES + OVERHEAD,
    };
    usize::from(blocks) <= FRAME_BLOCKS && (1..=limit).contains(&stored)
}
