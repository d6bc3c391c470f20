//! Putting blocks and frames into a store for one disk: looked up, compressed if new, packed.
//!
//! Nothing is visible until the caller publishes the manifest. The writer's lock is the caller's
//! to hold.

use std::collections::HashMap;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use disk::{ChunkHash, LeafHash, digest_of_chunks};

use crate::error::StoreError;
use crate::frame::{FRAME_BYTES, Frame, Packer};
use crate::index::{ByFingerprint, Fingerprint, Index, Precedence};
use crate::manifest::{Manifest, Piece, UsedFrame, push_piece};
use crate::pack::{Pack, PackBuilder};
use crate::parallel;
use crate::store::Inner;

/// The level at which frames are compressed: measured as the best bytes for the time.
pub(crate) const ZSTD_LEVEL: i32 = 3;

/// Packs that wait for the disk while the next one is filled.
const QUEUED_PACKS: usize = 1;

/// Writes packs that `make` sends, beside it: waiting for a device to take a pack would otherwise
/// leave the processor idle. When this returns, all of them are written or there is an error.
pub(crate) fn write_packs(
    inner: &Inner,
    precedence: Precedence,
    make: impl FnOnce(&SyncSender<Pack>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let (send, receive) = sync_channel::<Pack>(QUEUED_PACKS);
    thread::scope(|scope| {
        let writer = scope.spawn(move || {
            receive
                .iter()
                .try_for_each(|pack| inner.commit(&pack, precedence))
        });
        let made = make(&send);
        drop(send);
        let written = writer
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        written.and(made)
    })
}

/// A frame that is stored, by its number in the index, or one of this session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum FrameRef {
    Stored(u32),
    New(u32),
}

/// Blocks that will be compressed together.
#[derive(Default)]
struct Raw {
    bytes: Vec<u8>,
    fingerprints: Vec<Fingerprint>,
    frame: Option<Frame>,
}

/// What was found and made so far for one disk.
pub(crate) struct Session<'a> {
    pub(crate) inner: &'a Inner,
    pieces: Vec<Piece<FrameRef>>,
    /// Blocks of this session, which the index does not know yet.
    pending: ByFingerprint<(u32, u8)>,
    /// Frames of this session that are compressed.
    frames: Vec<UsedFrame>,
    open: Raw,
    full: Vec<Raw>,
    pack: PackBuilder,
    pub(crate) new_blocks: u64,
    pub(crate) stored_bytes: u64,
    pub(crate) stored_frames: u64,
}

impl<'a> Session<'a> {
    pub(crate) fn new(inner: &'a Inner) -> Self {
        Session {
            inner,
            pieces: Vec::new(),
            pending: ByFingerprint::default(),
            frames: Vec::new(),
            open: Raw::default(),
            full: Vec::new(),
            pack: PackBuilder::default(),
            new_blocks: 0,
            stored_bytes: 0,
            stored_frames: 0,
        }
    }

    /// One block of the disk, which is stored if it is not yet.
    pub(crate) fn block(&mut self, index: &Index, block: u32, leaf: &LeafHash, bytes: &[u8]) {
        let fingerprint = self.inner.key.fingerprint(leaf);
        let (frame, slot) = if let Some((number, slot)) = self.pending.get(&fingerprint) {
            (FrameRef::New(*number), *slot)
        } else if let Some(at) = index.block(&fingerprint) {
            (FrameRef::Stored(at.frame), at.slot)
        } else {
            let number = (self.frames.len() + self.full.len()) as u32;
            let slot = self.open.fingerprints.len() as u8;
            self.pending.insert(fingerprint, (number, slot));
            self.append(fingerprint, bytes);
            (FrameRef::New(number), slot)
        };
        push_piece(
            &mut self.pieces,
            Piece {
                block,
                frame,
                slot,
                count: 1,
            },
        );
    }

    /// Takes a frame as it is, if the store has none of its blocks. Frames must come before the
    /// first single block, because those fill a frame whose number is given already. `used` are
    /// the pieces of the disk that lie in it, by their place in the frame.
    pub(crate) fn adopt(
        &mut self,
        index: &Index,
        frame: Frame,
        fingerprints: &[Fingerprint],
        used: &[Piece],
    ) -> bool {
        assert!(self.open.bytes.is_empty(), "frames come before blocks");
        let is_known =
            |block: &Fingerprint| index.block(block).is_some() || self.pending.contains_key(block);
        if fingerprints.iter().any(is_known) {
            return false;
        }
        let number = (self.frames.len() + self.full.len()) as u32;
        for (fingerprint, slot) in fingerprints.iter().zip(0u8..) {
            self.pending.insert(*fingerprint, (number, slot));
        }
        self.new_blocks += u64::from(frame.blocks);
        self.full.push(Raw {
            bytes: Vec::new(),
            fingerprints: fingerprints.to_vec(),
            frame: Some(frame),
        });
        self.pieces.extend(used.iter().map(|piece| Piece {
            block: piece.block,
            frame: FrameRef::New(number),
            slot: piece.slot,
            count: piece.count,
        }));
        true
    }

    fn append(&mut self, fingerprint: Fingerprint, bytes: &[u8]) {
        self.new_blocks += 1;
        self.open.fingerprints.push(fingerprint);
        self.open
            .bytes
            .reserve_exact(FRAME_BYTES - self.open.bytes.len());
        self.open.bytes.extend_from_slice(bytes);
        if self.open.bytes.len() == FRAME_BYTES {
            self.full.push(std::mem::take(&mut self.open));
        }
    }

    /// Compresses what is full and hands on packs that became full by it.
    pub(crate) fn compress(&mut self, packs: &SyncSender<Pack>) -> Result<(), StoreError> {
        let threads = self.inner.threads();
        parallel::for_each(
            threads,
            &mut self.full,
            || None::<Packer>,
            |packer, raw| {
                if raw.frame.is_some() {
                    return Ok(());
                }
                let packer = match packer {
                    Some(packer) => packer,
                    none => none.insert(Packer::new(ZSTD_LEVEL)?),
                };
                raw.frame = Some(packer.pack(&raw.bytes)?);
                Ok(())
            },
        )?;
        for raw in self.full.drain(..) {
            let Some(frame) = raw.frame else { continue };
            self.frames.push(UsedFrame {
                id: frame.id,
                blocks: frame.blocks,
            });
            self.stored_bytes += frame.stored.len() as u64;
            self.stored_frames += 1;
            if let Some(pack) = self.pack.push(&frame, raw.fingerprints) {
                packs.send(pack).map_err(|_| StoreError::WriterStopped)?;
            }
        }
        Ok(())
    }

    pub(crate) fn finish(&mut self, packs: &SyncSender<Pack>) -> Result<(), StoreError> {
        if !self.open.bytes.is_empty() {
            self.full.push(std::mem::take(&mut self.open));
        }
        self.compress(packs)?;
        match self.pack.finish() {
            Some(pack) => packs.send(pack).map_err(|_| StoreError::WriterStopped),
            None => Ok(()),
        }
    }
    /// The disk that all pieces make: those of this session, and `base` from before.
    pub(crate) fn manifest(
        &self,
        base: Vec<Piece<FrameRef>>,
        size: u64,
        chunks: Vec<ChunkHash>,
    ) -> Manifest {
        let mut pieces = base;
        pieces.extend_from_slice(&self.pieces);
        pieces.sort_unstable_by_key(|piece| piece.block);
        let index = self.inner.index();
        let mut numbers = HashMap::new();
        let mut frames = Vec::new();
        let mut numbered = Vec::with_capacity(pieces.len());
        for piece in pieces {
            let frame = *numbers.entry(piece.frame).or_insert_with(|| {
                frames.push(match piece.frame {
                    FrameRef::New(number) => self.frames[number as usize],
                    FrameRef::Stored(number) => {
                        let at = index.frame(number);
                        UsedFrame {
                            id: at.id,
                            blocks: at.blocks,
                        }
                    }
                });
                frames.len() as u32 - 1
            });
            let Piece {
                block, slot, count, ..
            } = piece;
            push_piece(
                &mut numbered,
                Piece {
                    block,
                    frame,
                    slot,
                    count,
                },
            );
        }
        let digest = digest_of_chunks(size, &chunks);
        Manifest {
            size,
            digest,
            chunks,
            frames,
            pieces: numbered,
        }
    }
}
