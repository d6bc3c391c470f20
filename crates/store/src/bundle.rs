//! A disk in one file, to be carried where no network reaches.
//!
//! A bundle is sealed with a secret of its own, which whoever shall read it must be given: it tells
//! nothing about any store, and no store's secret opens it. Its frames are made for it, out of the
//! blocks of its disk and no others. Blocks of a disk that the receiver is known to have can be
//! left out; the bundle then says where on that disk they are. What it does bring is compressed
//! against what is like it on that disk.

use std::collections::HashMap;
use std::io::Write;

use disk::{BLOCK_SIZE, DiskDigest};

use crate::bulk::{Buffers, batches};
use crate::delta::{Group, Reference, TOGETHER};
use crate::domain::{AtRest, Domain};
use crate::error::StoreError;
use crate::frame::{Frame, FrameId, Packer};
use crate::manifest::Manifest;
use crate::parallel;
use crate::section::Piece;
use crate::session::ZSTD_LEVEL;
use crate::similar::Similar;
use crate::store::{Inner, Store};
use crate::walk::Stretch;

pub(crate) const MAGIC: &[u8; 8] = b"BULBNDL\0";
pub(crate) const VERSION: u32 = 1;
pub(crate) const SEALED: u32 = 1;
/// Some blocks are where another disk has them.
pub(crate) const WITHOUT: u32 = 2;
/// Frames come in groups, which may be compressed against that disk.
pub(crate) const GROUPED: u32 = 4;
/// A boot trace comes before the blocks.
pub(crate) const TRACED: u32 = 8;
/// Magic, version, flags, size, digest, the other disk's digest, domain.
pub(crate) const HEADER_LEN: usize = 8 + 4 + 4 + 8 + 32 + 32 + 16;
pub(crate) const CHECK_CONTEXT: &str = "bullion bundle v1";

/// In the place of a stretch's number, where a boot trace is sealed.
pub(crate) const TRACE_ABOUT: [u8; 4] = u32::MAX.to_le_bytes();

/// What follows: the table of a stretch, or the end.
pub(crate) const STRETCH: u8 = 1;
pub(crate) const END: u8 = 0;
/// Coding, blocks, length.
pub(crate) const FRAME_HEADER_LEN: usize = 6;
/// In the place of a slot: the block lies on the other disk.
pub(crate) const ELSEWHERE: u8 = 0xff;
/// Block, source, slot, count.
pub(crate) const PIECE_LEN: usize = 10;
/// Frames, length.
pub(crate) const GROUP_HEADER_LEN: usize = 5;

/// Frames that are packed or unpacked side by side.
pub(crate) const GROUP: usize = 256;
/// So many blocks must go into a bundle before the other disk is searched for what is like them,
/// which takes reading all of it: 4 MiB.
const WORTH_A_SEARCH: u64 = 1024;

/// What a bundle was made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Bundled {
    pub frames: u64,
    /// Frames of which nothing had to go into the bundle.
    pub frames_present: u64,
    /// The whole bundle.
    pub bytes: u64,
}

/// Whether a file that begins like this is a bundle.
pub fn is_bundle(head: &[u8]) -> bool {
    head.starts_with(MAGIC)
}

impl Store {
    /// Writes a disk as a bundle for whoever has `key`, without the blocks of `present`.
    pub fn bundle(
        &self,
        digest: &DiskDigest,
        present: Option<&DiskDigest>,
        key: &Domain,
        to: &mut dyn Write,
    ) -> Result<Bundled, StoreError> {
        let manifest = self.manifest(digest)?;
        let known = match present {
            None => Known::new(),
            Some(present) => known(&self.0, present)?,
        };
        let reference = match present {
            None => None,
            Some(present) => Some(self.reference(&manifest, present, &known)?),
        };
        let trace = self.trace(digest);
        let mut bundle = Writer {
            inner: &self.0,
            key,
            known,
            reference,
            to,
            check: blake3::Hasher::new_derive_key(CHECK_CONTEXT),
            made: Bundled {
                frames: 0,
                frames_present: 0,
                bytes: 0,
            },
        };
        bundle.put(&header(
            key,
            manifest.size,
            digest,
            present,
            trace.is_some(),
        ))?;
        if let Some(trace) = trace {
            bundle.trace(&trace.encode(digest))?;
        }
        self.0
            .each_stretch(&manifest, |stretch| bundle.stretch(digest, &stretch))?;
        bundle.put(&[END])?;
        let check = *bundle.check.finalize().as_bytes();
        bundle.put(&check)?;
        Ok(bundle.made)
    }

    fn reference(
        &self,
        manifest: &Manifest,
        present: &DiskDigest,
        known: &Known,
    ) -> Result<Reference, StoreError> {
        let mut blocks = 0;
        self.0.each_stretch(manifest, |stretch| {
            for piece in &stretch.pieces {
                let slots = known.get(&stretch.frames[piece.frame as usize].id);
                let there = |slot| slots.is_some_and(|slots| slots.iter().any(|at| at.0 == slot));
                let of_piece = piece.slot..piece.slot + piece.count;
                blocks += of_piece.filter(|slot| !there(*slot)).count() as u64;
            }
            Ok(())
        })?;
        let disk = self.disk(present)?;
        let similar = (blocks >= WORTH_A_SEARCH).then(|| Similar::of(&disk, self.0.threads()));
        Ok(Reference {
            similar: similar.transpose()?,
            disk,
        })
    }
}

/// Blocks that the receiver has: for each frame the slots and where they are on the other disk.
type Known = HashMap<FrameId, Vec<(u8, u32)>>;

fn known(inner: &Inner, present: &DiskDigest) -> Result<Known, StoreError> {
    let mut known = Known::new();
    inner.each_stretch(&inner.manifest(present)?, |stretch| {
        for piece in &stretch.pieces {
            let id = stretch.frames[piece.frame as usize].id;
            let blocks = (piece.slot..).zip(piece.block..);
            let blocks = blocks.take(usize::from(piece.count));
            known.entry(id).or_default().extend(blocks);
        }
        Ok(())
    })?;
    Ok(known)
}

fn header(
    key: &Domain,
    size: u64,
    digest: &DiskDigest,
    present: Option<&DiskDigest>,
    is_traced: bool,
) -> Vec<u8> {
    let sealed = match key.at_rest() {
        AtRest::Sealed => SEALED,
        AtRest::Plain => 0,
    };
    let without = match present {
        Some(_) => WITHOUT | GROUPED,
        None => 0,
    };
    let traced = if is_traced { TRACED } else { 0 };
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&(sealed | without | traced).to_le_bytes());
    bytes.extend_from_slice(&size.to_le_bytes());
    bytes.extend_from_slice(digest.as_bytes());
    let present = present.map(|present| *present.as_bytes());
    bytes.extend_from_slice(&present.unwrap_or_default());
    bytes.extend_from_slice(key.id().as_bytes());
    bytes
}

/// A bundle being written.
struct Writer<'a> {
    inner: &'a Inner,
    key: &'a Domain,
    known: Known,
    /// None: every frame stands for itself.
    reference: Option<Reference>,
    to: &'a mut dyn Write,
    check: blake3::Hasher,
    made: Bundled,
}

/// Blocks of one frame that go into the bundle, and the frame that is made of them.
struct Packed {
    raw: Vec<u8>,
    made: Option<Frame>,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.made.bytes += bytes.len() as u64;
        self.check.update(bytes);
        self.to.write_all(bytes).map_err(StoreError::WriteBundle)
    }

    fn trace(&mut self, trace: &[u8]) -> Result<(), StoreError> {
        let body = match self.key.tables() {
            Some(sealer) => sealer.seal(&TRACE_ABOUT, trace)?,
            None => trace.to_vec(),
        };
        self.put(&(body.len() as u32).to_le_bytes())?;
        self.put(&body)
    }

    fn stretch(&mut self, digest: &DiskDigest, stretch: &Stretch) -> Result<(), StoreError> {
        let at = self.inner.locate_all(&stretch.frames, digest)?;
        let Layout {
            pieces,
            slots,
            order,
        } = layout(stretch, &self.known, &at);
        self.made.frames += order.len() as u64;
        self.made.frames_present += (at.len() - order.len()) as u64;
        let body = table(stretch, order.len() as u32, &pieces);
        let body = match self.key.tables() {
            Some(sealer) => sealer.seal(&stretch.branch.index.to_le_bytes(), &body)?,
            None => body,
        };
        self.put(&[STRETCH])?;
        self.put(&stretch.branch.index.to_le_bytes())?;
        self.put(&(body.len() as u32).to_le_bytes())?;
        self.put(&body)?;
        // In the order of the packs, which is the order of their numbers in the bundle.
        let wanted = order.iter().map(|number| (*number, at[*number as usize]));
        let (mut buffers, mut group) = (Buffers::new(), Vec::new());
        for batch in batches(wanted) {
            let inner = self.inner;
            batch.unpacked(inner, &mut buffers, |frame, _, _, raw| {
                let used = slots[frame as usize];
                let used = (0..16usize).filter(|slot| used >> slot & 1 == 1);
                let raw = used.flat_map(|slot| &raw[slot * BLOCK_SIZE..][..BLOCK_SIZE]);
                group.push(Packed {
                    raw: raw.copied().collect(),
                    made: None,
                });
                Ok(())
            })?;
            if group.len() >= GROUP {
                self.frames(&mut group)?;
            }
        }
        self.frames(&mut group)
    }

    fn frames(&mut self, group: &mut Vec<Packed>) -> Result<(), StoreError> {
        match self.reference.take() {
            None => self.alone(group),
            Some(reference) => {
                let put = self.together(group, &reference);
                self.reference = Some(reference);
                put
            }
        }
    }

    fn together(
        &mut self,
        packed: &mut Vec<Packed>,
        reference: &Reference,
    ) -> Result<(), StoreError> {
        let key = self.key;
        let mut groups: Vec<(Group, Vec<u8>)> = packed
            .chunks(TOGETHER)
            .map(|frames| {
                let blocks = frames.iter().map(|frame| frame.raw.len() / BLOCK_SIZE);
                let group = Group {
                    blocks: blocks.map(|n| n as u8).collect(),
                    raw: frames
                        .iter()
                        .flat_map(|frame| &frame.raw)
                        .copied()
                        .collect(),
                };
                (group, Vec::new())
            })
            .collect();
        packed.clear();
        parallel::for_each(
            self.inner.threads(),
            &mut groups,
            || (),
            |(), (group, made)| {
                let encoded = group.encode(reference)?;
                *made = match key.frames() {
                    Some(sealer) => sealer.seal(&[group.blocks.len() as u8], &encoded)?,
                    None => encoded,
                };
                Ok::<(), StoreError>(())
            },
        )?;
        for (group, made) in groups {
            self.put(&[group.blocks.len() as u8])?;
            self.put(&(made.len() as u32).to_le_bytes())?;
            self.put(&made)?;
        }
        Ok(())
    }

    fn alone(&mut self, group: &mut Vec<Packed>) -> Result<(), StoreError> {
        let key = self.key;
        parallel::for_each(
            self.inner.threads(),
            group,
            || None::<Packer>,
            |packer, packed| {
                let packer = match packer {
                    Some(packer) => packer,
                    none => none.insert(Packer::new(ZSTD_LEVEL, key)?),
                };
                packed.made = Some(packer.pack(&packed.raw)?);
                Ok::<(), StoreError>(())
            },
        )?;
        for frame in group.drain(..).filter_map(|packed| packed.made) {
            self.put(&[frame.coding.to_byte(), frame.blocks])?;
            self.put(&(frame.stored.len() as u32).to_le_bytes())?;
            self.put(&frame.stored)?;
        }
        Ok(())
    }
}

/// What of a stretch goes into a bundle.
struct Layout {
    /// With the frames of the bundle and the slots there, or on the other disk.
    pieces: Vec<Piece>,
    /// A bit for each slot of a frame that goes in.
    slots: Vec<u16>,
    /// The frames that go in, by their number in the stretch, in the order of the packs.
    order: Vec<u32>,
}

fn layout(stretch: &Stretch, known: &Known, at: &[crate::index::Location]) -> Layout {
    let elsewhere = |piece: &Piece, step: u8| {
        let blocks = known.get(&stretch.frames[piece.frame as usize].id)?;
        let found = blocks.iter().find(|(slot, _)| *slot == piece.slot + step);
        found.map(|(_, block)| *block)
    };
    let mut slots = vec![0u16; stretch.frames.len()];
    for piece in &stretch.pieces {
        for step in 0..piece.count {
            if elsewhere(piece, step).is_none() {
                slots[piece.frame as usize] |= 1 << (piece.slot + step);
            }
        }
    }
    let mut order: Vec<u32> = (0u32..)
        .zip(&slots)
        .filter(|(_, slots)| **slots != 0)
        .map(|(number, _)| number)
        .collect();
    order.sort_unstable_by_key(|number| {
        let at = &at[*number as usize];
        (at.pack, at.offset)
    });
    let mut new = vec![0u32; stretch.frames.len()];
    for (number, frame) in (0u32..).zip(&order) {
        new[*frame as usize] = number;
    }
    let mut pieces = Vec::new();
    for piece in &stretch.pieces {
        for step in 0..piece.count {
            let block = piece.block + u32::from(step);
            let own = || {
                let before = slots[piece.frame as usize] & ((1 << (piece.slot + step)) - 1);
                (new[piece.frame as usize], before.count_ones() as u8)
            };
            let (frame, slot) = match elsewhere(piece, step) {
                Some(there) => (there, ELSEWHERE),
                None => own(),
            };
            pieces.push(Piece {
                block,
                frame,
                slot,
                count: 1,
            });
        }
    }
    Layout {
        pieces: joined(pieces),
        slots,
        order,
    }
}

/// Neighbours become one: in a frame, or on the other disk.
fn joined(pieces: Vec<Piece>) -> Vec<Piece> {
    let mut joined: Vec<Piece> = Vec::new();
    for piece in pieces {
        match joined.last_mut() {
            Some(last)
                if last.end() == u64::from(piece.block)
                    && last.count < u8::MAX
                    && match piece.slot {
                        ELSEWHERE => {
                            last.slot == ELSEWHERE
                                && last.frame.checked_add(last.count.into()) == Some(piece.frame)
                        }
                        slot => {
                            last.slot != ELSEWHERE
                                && last.frame == piece.frame
                                && last.slot + last.count == slot
                        }
                    } =>
            {
                last.count += 1;
            }
            _ => joined.push(piece),
        }
    }
    joined
}

/// Chunk hashes of the sections, and where the blocks come from.
fn table(stretch: &Stretch, frames: u32, pieces: &[Piece]) -> Vec<u8> {
    let mut body = (stretch.sections.len() as u32).to_le_bytes().to_vec();
    for section in &stretch.sections {
        body.extend_from_slice(&section.index.to_le_bytes());
        for chunk in &section.chunks {
            body.extend_from_slice(chunk.as_bytes());
        }
    }
    body.extend_from_slice(&frames.to_le_bytes());
    body.extend_from_slice(&(pieces.len() as u32).to_le_bytes());
    for piece in pieces {
        body.extend_from_slice(&piece.block.to_le_bytes());
        body.extend_from_slice(&piece.frame.to_le_bytes());
        body.extend_from_slice(&[piece.slot, piece.count]);
    }
    body
}
