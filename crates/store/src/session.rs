//! Putting blocks and frames into a store for one disk: looked up, compressed if new, packed.
//!
//! Nothing is visible until the caller publishes the manifest. The writer's lock is the caller's
//! to hold.

use std::collections::{HashMap, VecDeque};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use crate::domain::Domain;
use crate::error::StoreError;
use crate::frame::{FRAME_BYTES, Frame, FrameId, Packer};
use crate::index::{ByFingerprint, Fingerprint, Index, Precedence, Reach};
use crate::manifest::Manifest;
use crate::outline::{Draft, Outline};
use crate::pack::{Pack, PackBuilder};
use crate::parallel;
use crate::section::{Piece, UsedFrame, push_piece};
use crate::store::Inner;

/// The level at which frames are compressed: measured as the best bytes for the time.
pub(crate) const ZSTD_LEVEL: i32 = 3;

/// Packs that wait for the disk while the next one is filled.
const QUEUED_PACKS: usize = 1;

/// Writes packs that `make` sends, beside it: waiting for a device to take a pack would otherwise
/// leave the processor idle. When this returns, all of them are written or there is an error.
pub(crate) fn write_packs<T>(
    inner: &Inner,
    precedence: Precedence,
    make: impl FnOnce(&SyncSender<Pack>) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
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

/// A frame that is stored, or one of this session by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum FrameRef {
    Stored(UsedFrame),
    New(u32),
}

/// Packs whose blocks a session still knows by itself: one being written, one that waits, and the
/// one just handed on. The index knows those before them.
const UNCOMMITTED_PACKS: usize = QUEUED_PACKS + 2;

/// Blocks that will be compressed together.
#[derive(Default)]
struct Raw {
    number: u32,
    bytes: Vec<u8>,
    fingerprints: Vec<Fingerprint>,
    frame: Option<Frame>,
}

/// What was found and made so far for one disk.
pub(crate) struct Session<'a> {
    pub(crate) inner: &'a Inner,
    pub(crate) domain: Domain,
    /// Of blocks and frames that were looked up since the caller last took them.
    pieces: Vec<Piece<FrameRef>>,
    /// Blocks of this session that the index may not know yet.
    pending: ByFingerprint<(u32, u8)>,
    /// The same for frames and tables.
    pending_ids: HashMap<FrameId, Option<u32>>,
    /// What of the two is in each pack that was handed on, and in the one being filled.
    handed_on: VecDeque<(Vec<Fingerprint>, Vec<FrameId>)>,
    filling: (Vec<Fingerprint>, Vec<FrameId>),
    /// Frames of this session by number, once they are compressed.
    frames: Vec<Option<UsedFrame>>,
    open: Raw,
    full: Vec<Raw>,
    pack: PackBuilder,
    outline: Outline,
    pub(crate) new_blocks: u64,
    pub(crate) stored_bytes: u64,
    pub(crate) stored_frames: u64,
    /// Tables of the manifest that the store did not have.
    pub(crate) table_bytes: u64,
}

impl<'a> Session<'a> {
    pub(crate) fn new(inner: &'a Inner, outline: Outline) -> Result<Self, StoreError> {
        Ok(Session {
            inner,
            domain: inner.domain()?,
            pieces: Vec::new(),
            pending: ByFingerprint::default(),
            pending_ids: HashMap::new(),
            handed_on: VecDeque::new(),
            filling: Default::default(),
            frames: Vec::new(),
            open: Raw::default(),
            full: Vec::new(),
            pack: PackBuilder::default(),
            outline,
            new_blocks: 0,
            stored_bytes: 0,
            stored_frames: 0,
            table_bytes: 0,
        })
    }

    /// One block of the disk, which is stored if it is not yet, as far as the index knows; see
    /// [`Inner::warm`].
    pub(crate) fn block(
        &mut self,
        index: &Index,
        block: u32,
        fingerprint: Fingerprint,
        bytes: &[u8],
    ) {
        let (frame, slot) = if let Some((number, slot)) = self.pending.get(&fingerprint) {
            (FrameRef::New(*number), *slot)
        } else if let Some((frame, slot)) = index.block(&fingerprint) {
            (FrameRef::Stored(frame), slot)
        } else {
            if self.open.fingerprints.is_empty() {
                self.open.number = self.new_number();
            }
            let (number, slot) = (self.open.number, self.open.fingerprints.len() as u8);
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

    /// A frame by its name, be it stored or of this session.
    pub(crate) fn frame(&self, id: &FrameId) -> Result<Option<FrameRef>, StoreError> {
        Ok(match self.pending_ids.get(id) {
            Some(number) => number.map(FrameRef::New),
            None => {
                let found = self.inner.find(id, Reach::Lasting)?;
                found.map(|at| FrameRef::Stored(at.used()))
            }
        })
    }

    /// Takes a frame as it is, if the store has none of its blocks. `used` are the pieces of the
    /// disk that lie in it.
    pub(crate) fn adopt(
        &mut self,
        index: &Index,
        frame: Frame,
        fingerprints: &[Fingerprint],
        used: &[Piece],
    ) -> bool {
        let is_known =
            |block: &Fingerprint| index.block(block).is_some() || self.pending.contains_key(block);
        if fingerprints.iter().any(is_known) {
            return false;
        }
        let number = self.new_number();
        for (fingerprint, slot) in fingerprints.iter().zip(0u8..) {
            self.pending.insert(*fingerprint, (number, slot));
        }
        self.new_blocks += u64::from(frame.blocks);
        self.pending_ids.insert(frame.id, Some(number));
        self.full.push(Raw {
            number,
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

    /// The pieces of all blocks since the last call, in the order in which they came.
    pub(crate) fn take_pieces(&mut self) -> Vec<Piece<FrameRef>> {
        std::mem::take(&mut self.pieces)
    }

    /// A section all of whose blocks were looked up.
    pub(crate) fn section(&mut self, draft: Draft) {
        self.outline.give(draft);
    }

    fn new_number(&mut self) -> u32 {
        self.frames.push(None);
        self.frames.len() as u32 - 1
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

    /// Compresses what is full, makes tables of what is complete, and hands on packs that became
    /// full by it.
    pub(crate) fn compress(&mut self, packs: &SyncSender<Pack>) -> Result<(), StoreError> {
        let threads = self.inner.threads();
        let domain = &self.domain;
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
                    none => none.insert(Packer::new(ZSTD_LEVEL, domain)?),
                };
                raw.frame = Some(packer.pack(&raw.bytes)?);
                Ok::<(), StoreError>(())
            },
        )?;
        for raw in std::mem::take(&mut self.full) {
            let Some(frame) = raw.frame else { continue };
            self.frames[raw.number as usize] = Some(UsedFrame {
                id: frame.id,
                blocks: frame.blocks,
            });
            self.stored_bytes += frame.stored.len() as u64;
            self.stored_frames += 1;
            self.push(&frame, raw.fingerprints, packs)?;
        }
        self.settle(packs)
    }

    fn push(
        &mut self,
        frame: &Frame,
        fingerprints: Vec<Fingerprint>,
        packs: &SyncSender<Pack>,
    ) -> Result<(), StoreError> {
        self.filling.0.extend_from_slice(&fingerprints);
        self.filling.1.push(frame.id);
        match self.pack.push(frame, fingerprints) {
            Some(pack) => self.hand_on(pack, packs),
            None => Ok(()),
        }
    }

    fn hand_on(&mut self, pack: Pack, packs: &SyncSender<Pack>) -> Result<(), StoreError> {
        packs.send(pack).map_err(|_| StoreError::WriterStopped)?;
        self.handed_on.push_back(std::mem::take(&mut self.filling));
        if self.handed_on.len() > UNCOMMITTED_PACKS
            && let Some((fingerprints, ids)) = self.handed_on.pop_front()
        {
            for fingerprint in fingerprints {
                self.pending.remove(&fingerprint);
            }
            for id in ids {
                self.pending_ids.remove(&id);
            }
        }
        Ok(())
    }

    fn settle(&mut self, packs: &SyncSender<Pack>) -> Result<(), StoreError> {
        let mut tables = Vec::new();
        {
            let (inner, frames) = (self.inner, &self.frames);
            let name = |frame: FrameRef| match frame {
                FrameRef::New(number) => frames[number as usize],
                FrameRef::Stored(frame) => Some(frame),
            };
            self.outline
                .settle(inner, &self.domain, &name, &mut |table| {
                    tables.push(table);
                    Ok(())
                })?;
        }
        tables
            .into_iter()
            .try_for_each(|table| self.table(table, packs))
    }

    /// A table of the manifest, which is stored if it is not yet.
    fn table(&mut self, table: Frame, packs: &SyncSender<Pack>) -> Result<(), StoreError> {
        let known = self.pending_ids.contains_key(&table.id)
            || self.inner.find(&table.id, Reach::Lasting)?.is_some();
        if known {
            return Ok(());
        }
        self.pending_ids.insert(table.id, None);
        self.table_bytes += table.stored.len() as u64;
        self.push(&table, Vec::new(), packs)
    }

    /// Everything that is left is packed; the disk that all sections make.
    pub(crate) fn finish(&mut self, packs: &SyncSender<Pack>) -> Result<Manifest, StoreError> {
        if !self.open.bytes.is_empty() {
            self.full.push(std::mem::take(&mut self.open));
        }
        self.compress(packs)?;
        let outline = std::mem::replace(&mut self.outline, Outline::new(0));
        let mut tables = Vec::new();
        let manifest = outline.finish(&self.domain, &mut |table| {
            tables.push(table);
            Ok(())
        })?;
        for table in tables {
            self.table(table, packs)?;
        }
        if let Some(pack) = self.pack.finish() {
            self.hand_on(pack, packs)?;
        }
        Ok(manifest)
    }
}
