//! Copying a disk to another store: only what is not there, and the manifest last.
//!
//! A frame that the receiver has is not moved. One that it has no block of moves as it is stored,
//! if the disk uses most of it. Of any other frame only those blocks move that the disk uses and
//! the receiver lacks, compressed anew: two stores with different histories share few frames but
//! most blocks. The receiver's manifest then names other frames than the sender's; the disk and
//! its digest are the same.
//!
//! The receiver checks each frame before it keeps it, and makes its own fingerprints, because its
//! key is its own. What an interrupted copy has moved stays and is not moved again; until the
//! manifest is there, the disk is not.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use disk::{BLOCK_SIZE, DiskDigest, LeafHash, leaf_hashes};

use crate::bulk::{Batch, Buffers, batches};
use crate::error::StoreError;
use crate::frame::{FRAME_BLOCKS, Frame};
use crate::index::{Fingerprint, Location, Precedence};
use crate::manifest::{Manifest, Piece};
use crate::pack::Pack;
use crate::parallel;
use crate::session::{FrameRef, Session, write_packs};
use crate::store::{Inner, Store};

/// Reads of up to 1 MiB that each thread has in memory at a time.
const BATCHES_PER_THREAD: usize = 8;
/// A frame moves whole if at least so many quarters of it are used: less is cheaper anew.
const USED_QUARTERS: u32 = 3;

/// How far a copy is. Frames that were there before do not count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    pub frames_done: u64,
    pub frames_total: u64,
    /// Of the sender's frames, of which not all need move.
    pub bytes_done: u64,
    pub bytes_total: u64,
}

/// What a copy came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Moved {
    /// Frames that moved, be it with only a part of their blocks.
    pub frames: u64,
    /// What moved of them, compressed.
    pub frame_bytes: u64,
    pub manifest_bytes: u64,
    /// Frames of the disk that were there before.
    pub frames_present: u64,
}

impl Store {
    /// Makes sure that `to` has a disk that `from` has.
    pub fn replicate(
        from: &Store,
        to: &Store,
        digest: &DiskDigest,
        progress: &dyn Fn(Progress),
    ) -> Result<Moved, StoreError> {
        let manifest = from.manifest(digest)?;
        let frames = from.0.locate(&manifest)?;
        let writer = (!Arc::ptr_eq(&from.0, &to.0)).then(|| to.0.writer());
        if writer.is_none() || to.has(digest) {
            return Ok(Moved {
                frames_present: frames.len() as u64,
                ..Moved::default()
            });
        }
        let plan = Plan::new(&to.0, &manifest, &frames);
        let missing = plan.missing.len() as u64;
        let mut session = Session::new(&to.0);
        copy(&from.0, &mut session, &plan, progress)?;
        let mut moved = Moved {
            frames: session.stored_frames,
            frame_bytes: session.stored_bytes,
            manifest_bytes: 0,
            frames_present: frames.len() as u64 - missing,
        };
        let manifest = session.manifest(plan.base, manifest.size, manifest.chunks);
        to.0.publish(&manifest)?;
        moved.manifest_bytes = manifest.encode().len() as u64;
        Ok(moved)
    }
}

/// What is to be done for one disk.
struct Plan {
    /// Pieces in frames that the receiver has.
    base: Vec<Piece<FrameRef>>,
    /// Frames that it has not, by their number in the sender's manifest.
    missing: Vec<(u32, Location)>,
    /// The pieces in them, by frame.
    pieces: Vec<Piece>,
}

impl Plan {
    fn new(to: &Inner, manifest: &Manifest, frames: &[Location]) -> Plan {
        let index = to.index();
        let there: HashMap<u32, u32> = (0u32..)
            .zip(frames)
            .filter_map(|(number, at)| Some((number, index.number(&at.id)?)))
            .collect();
        let mut plan = Plan {
            base: Vec::new(),
            missing: (0u32..)
                .zip(frames.iter().copied())
                .filter(|(number, _)| !there.contains_key(number))
                .collect(),
            pieces: Vec::new(),
        };
        for piece in &manifest.pieces {
            match there.get(&piece.frame) {
                None => plan.pieces.push(*piece),
                Some(stored) => plan.base.push(Piece {
                    block: piece.block,
                    frame: FrameRef::Stored(*stored),
                    slot: piece.slot,
                    count: piece.count,
                }),
            }
        }
        plan.pieces
            .sort_unstable_by_key(|piece| (piece.frame, piece.slot));
        plan
    }

    fn pieces_of(&self, frame: u32) -> &[Piece] {
        let first = self.pieces.partition_point(|piece| piece.frame < frame);
        let rest = &self.pieces[first..];
        &rest[..rest.partition_point(|piece| piece.frame == frame)]
    }

    fn moves_whole(&self, frame: u32, at: &Location) -> bool {
        let used = self.pieces_of(frame).iter().fold(0u32, |used, piece| {
            used | ((1 << piece.count) - 1) << piece.slot
        });
        used.count_ones() * 4 >= u32::from(at.blocks) * USED_QUARTERS
    }
}

/// A read, and what came of it.
struct Work {
    batch: Batch,
    received: Vec<Received>,
}

/// A frame that the receiver has checked.
struct Received {
    number: u32,
    frame: Frame,
    raw: Vec<u8>,
    leaves: Vec<LeafHash>,
    fingerprints: Vec<Fingerprint>,
}

fn copy(
    from: &Inner,
    session: &mut Session<'_>,
    plan: &Plan,
    progress: &dyn Fn(Progress),
) -> Result<(), StoreError> {
    let mut state = Progress {
        frames_total: plan.missing.len() as u64,
        bytes_total: plan.missing.iter().map(|(_, at)| u64::from(at.len)).sum(),
        ..Progress::default()
    };
    progress(state);
    let mut done = |received: &Received| {
        state.frames_done += 1;
        state.bytes_done += received.frame.stored.len() as u64;
        progress(state);
    };
    let (whole, mut parts): (Vec<_>, Vec<_>) = plan
        .missing
        .iter()
        .partition(|(number, at)| plan.moves_whole(*number, at));
    write_packs(session.inner, Precedence::Known, |packs| {
        let to = session.inner;
        receive(
            from,
            to,
            &whole,
            packs,
            session,
            &mut |session, received| {
                let used = plan.pieces_of(received.number);
                let frame = received.frame.clone();
                let index = to.index();
                match session.adopt(&index, frame, &received.fingerprints, used) {
                    true => done(received),
                    // The receiver has a part of it in other frames.
                    false => parts.extend(whole_entry(plan, received.number)),
                }
            },
        )?;
        receive(
            from,
            to,
            &parts,
            packs,
            session,
            &mut |session, received| {
                let index = to.index();
                for piece in plan.pieces_of(received.number) {
                    for step in 0..piece.count {
                        let slot = usize::from(piece.slot + step);
                        let bytes = &received.raw[slot * BLOCK_SIZE..][..BLOCK_SIZE];
                        let block = piece.block + u32::from(step);
                        session.block(&index, block, &received.leaves[slot], bytes);
                    }
                }
                done(received);
            },
        )?;
        session.finish(packs)
    })
}

fn whole_entry(plan: &Plan, number: u32) -> Option<(u32, Location)> {
    let at = plan.missing.binary_search_by_key(&number, |(n, _)| *n);
    at.ok().map(|at| plan.missing[at])
}

/// Reads frames in groups, checks them on all threads, and hands them out in order.
fn receive(
    from: &Inner,
    to: &Inner,
    frames: &[(u32, Location)],
    packs: &SyncSender<Pack>,
    session: &mut Session<'_>,
    take: &mut dyn FnMut(&mut Session<'_>, &Received),
) -> Result<(), StoreError> {
    let mut work: Vec<Work> = batches(frames.iter().copied())
        .into_iter()
        .map(|batch| Work {
            batch,
            received: Vec::new(),
        })
        .collect();
    for group in work.chunks_mut(to.threads() * BATCHES_PER_THREAD) {
        parallel::for_each(to.threads(), group, Buffers::new, |buffers, work| {
            check(from, to, buffers, work)
        })?;
        for received in group.iter_mut().flat_map(|work| work.received.drain(..)) {
            take(session, &received);
        }
        session.compress(packs)?;
    }
    Ok(())
}

fn check(
    from: &Inner,
    to: &Inner,
    buffers: &mut Buffers,
    work: &mut Work,
) -> Result<(), StoreError> {
    let Work { batch, received } = work;
    batch.unpacked(from, buffers, |number, at, stored, raw| {
        let mut leaves = [[0; 32]; FRAME_BLOCKS];
        let leaves = &mut leaves[..raw.len() / BLOCK_SIZE];
        leaf_hashes(raw, leaves);
        let fingerprints = leaves.iter().map(|leaf| to.key.fingerprint(leaf)).collect();
        let frame = Frame {
            id: at.id,
            codec: at.codec,
            blocks: at.blocks,
            stored: stored.to_vec(),
        };
        received.push(Received {
            number,
            frame,
            raw: raw.to_vec(),
            leaves: leaves.to_vec(),
            fingerprints,
        });
        Ok(())
    })
}
