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

use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use disk::{BLOCK_SIZE, DiskDigest, leaf_hashes};

use crate::bulk::{Batch, Buffers, batches};
use crate::domain::Domain;
use crate::error::StoreError;
use crate::frame::{FRAME_BLOCKS, Frame};
use crate::index::{Fingerprint, Location, Precedence};
use crate::manifest::Manifest;
use crate::outline::{Draft, Outline};
use crate::pack::Pack;
use crate::parallel;
use crate::section::{Piece, SECTION_BLOCKS};
use crate::session::{FrameRef, Session, write_packs};
use crate::store::{Inner, Store, Writer};
use crate::walk::Stretch;

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
        if Arc::ptr_eq(&from.0, &to.0) || to.has(digest) {
            let outside = from.0.outside(digest)?;
            let mut frames_present = 0;
            from.0.each_frame(&outside, &mut |used| {
                frames_present += u64::from(used.blocks > 0);
                Ok(true)
            })?;
            return Ok(Moved {
                frames_present,
                ..Moved::default()
            });
        }
        let writer = to.0.writer();
        let manifest = from.0.manifest(digest)?;
        let session = Session::new(&to.0, Outline::new(manifest.size))?;
        let copy = Copy {
            from: &from.0,
            as_they_are: from.0.domain()?.shares_frames(&session.domain),
            manifest: &manifest,
            progress,
        };
        let moved = copy.run(session, &writer)?;
        from.carry_trace(to, digest);
        Ok(moved)
    }
}

/// One disk on its way.
struct Copy<'a> {
    from: &'a Inner,
    /// Frames mean the same at both ends.
    as_they_are: bool,
    manifest: &'a Manifest,
    progress: &'a dyn Fn(Progress),
}

impl Copy<'_> {
    fn run(&self, mut session: Session<'_>, _: &Writer<'_>) -> Result<Moved, StoreError> {
        let to = session.inner;
        let mut state = Progress::default();
        let mut present = 0;
        let mut plans = Vec::new();
        // What there is to do is known before the first byte moves, for those who watch.
        self.from.each_stretch(self.manifest, |stretch| {
            let plan = Plan::new(self, &session, stretch)?;
            state.frames_total += plan.missing.len() as u64;
            let bytes = plan.missing.iter().map(|(_, at)| u64::from(at.len));
            state.bytes_total += bytes.sum::<u64>();
            plans.push(plan.stretch.branch);
            Ok(())
        })?;
        (self.progress)(state);
        let manifest = write_packs(to, Precedence::Known, |packs| {
            for branch in &plans {
                let stretch = self.from.stretch(self.manifest, branch)?;
                let plan = Plan::new(self, &session, stretch)?;
                present += (plan.stretch.frames.len() - plan.missing.len()) as u64;
                let mut done = |received: &Received| {
                    state.frames_done += 1;
                    state.bytes_done += received.frame.stored.len() as u64;
                    (self.progress)(state);
                };
                self.move_stretch(&plan, &mut session, packs, &mut done)?;
                give_sections(&mut session, plan);
                session.compress(packs)?;
            }
            session.finish(packs)
        })?;
        let root = manifest.encode(&session.domain)?;
        if manifest.digest != self.manifest.digest {
            return Err(StoreError::WrongContent {
                expected: self.manifest.digest,
                found: manifest.digest,
            });
        }
        to.publish(&manifest.digest, &root)?;
        Ok(Moved {
            frames: session.stored_frames,
            frame_bytes: session.stored_bytes,
            manifest_bytes: session.table_bytes + root.len() as u64,
            frames_present: present,
        })
    }

    fn move_stretch(
        &self,
        plan: &Plan,
        session: &mut Session<'_>,
        packs: &SyncSender<Pack>,
        done: &mut dyn FnMut(&Received),
    ) -> Result<(), StoreError> {
        let to = session.inner;
        let (whole, mut parts): (Vec<_>, Vec<_>) = plan
            .missing
            .iter()
            .partition(|(number, at)| self.as_they_are && plan.moves_whole(*number, at));
        receive(
            self.from,
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
            self.from,
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
                        session.block(&index, block, received.fingerprints[slot], bytes);
                    }
                }
                done(received);
            },
        )
    }
}

/// What is to be done for 512 MiB of a disk.
struct Plan {
    stretch: Stretch,
    /// Pieces in frames that the receiver has.
    base: Vec<Piece<FrameRef>>,
    /// Frames that it has not, by their number in the stretch.
    missing: Vec<(u32, Location)>,
    /// The pieces in them, by frame.
    pieces: Vec<Piece>,
}

impl Plan {
    fn new(copy: &Copy<'_>, session: &Session<'_>, stretch: Stretch) -> Result<Plan, StoreError> {
        let at = copy
            .from
            .locate_all(&stretch.frames, &copy.manifest.digest)?;
        let there = at.iter().map(|at| session.frame(&at.id));
        let there: Vec<Option<FrameRef>> = there.collect::<Result<_, _>>()?;
        let mut plan = Plan {
            base: Vec::new(),
            missing: (0u32..)
                .zip(at)
                .filter(|(number, _)| there[*number as usize].is_none())
                .collect(),
            pieces: Vec::new(),
            stretch,
        };
        for piece in &plan.stretch.pieces {
            match there[piece.frame as usize] {
                None => plan.pieces.push(*piece),
                Some(frame) => plan.base.push(Piece {
                    block: piece.block,
                    frame,
                    slot: piece.slot,
                    count: piece.count,
                }),
            }
        }
        plan.pieces
            .sort_unstable_by_key(|piece| (piece.frame, piece.slot));
        Ok(plan)
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

/// Hands the session every section of a stretch, with what was found and made for it.
fn give_sections(session: &mut Session<'_>, plan: Plan) {
    let mut pieces = plan.base;
    pieces.extend(session.take_pieces());
    pieces.sort_unstable_by_key(|piece| piece.block);
    let mut rest = pieces.as_slice();
    for section in &plan.stretch.sections {
        let end = (u64::from(section.index) + 1) * u64::from(SECTION_BLOCKS);
        let (own, after) =
            rest.split_at(rest.partition_point(|piece| u64::from(piece.block) < end));
        rest = after;
        session.section(Draft {
            index: section.index,
            chunks: section.chunks,
            pieces: own.to_vec(),
        });
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
    fingerprints: Vec<Fingerprint>,
}

fn whole_entry(plan: &Plan, number: u32) -> Option<(u32, Location)> {
    let at = plan.missing.binary_search_by_key(&number, |(n, _)| *n);
    at.ok().map(|at| plan.missing[at])
}

/// Reads frames in groups, checks them on all threads, and hands them out in order.
fn receive(
    from: &Inner,
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
    let threads = session.inner.threads();
    for group in work.chunks_mut(threads * BATCHES_PER_THREAD) {
        let domain = session.domain.clone();
        parallel::for_each(threads, group, Buffers::new, |buffers, work| {
            check(from, &domain, buffers, work)
        })?;
        let all = group.iter().flat_map(|work| &work.received);
        let all = all.flat_map(|received| &received.fingerprints);
        session.inner.warm(all)?;
        for received in group.iter_mut().flat_map(|work| work.received.drain(..)) {
            take(session, &received);
        }
        session.compress(packs)?;
    }
    Ok(())
}

fn check(
    from: &Inner,
    to: &Domain,
    buffers: &mut Buffers,
    work: &mut Work,
) -> Result<(), StoreError> {
    let Work { batch, received } = work;
    batch.unpacked(from, buffers, |number, at, stored, raw| {
        let mut leaves = [[0; 32]; FRAME_BLOCKS];
        let leaves = &mut leaves[..raw.len() / BLOCK_SIZE];
        leaf_hashes(raw, leaves);
        let fingerprints = leaves.iter().map(|leaf| to.fingerprint(leaf)).collect();
        let frame = Frame {
            id: at.id,
            coding: at.coding,
            blocks: at.blocks,
            stored: stored.to_vec(),
        };
        received.push(Received {
            number,
            frame,
            raw: raw.to_vec(),
            fingerprints,
        });
        Ok(())
    })
}
