//! Copying a disk to another store: only frames that are not there, and the manifest last.
//!
//! Frames travel as they are stored. The receiver checks each one before it keeps it, and makes
//! its own fingerprints, because its key is its own. What an interrupted copy has moved stays and
//! is not moved again; until the manifest is there, the disk is not.

use std::collections::HashSet;
use std::sync::Arc;

use disk::{BLOCK_SIZE, DiskDigest, leaf_hashes};

use crate::bulk::{Batch, Buffers, batches};
use crate::error::StoreError;
use crate::frame::{FRAME_BLOCKS, Frame};
use crate::index::{Fingerprint, Location, Precedence};
use crate::ingest::write_packs;
use crate::manifest::Manifest;
use crate::pack::{Pack, PackBuilder};
use crate::parallel;
use crate::store::{Inner, Store};
use crate::view::StoredDisk;

/// Reads of up to 1 MiB that each thread has in memory at a time.
const BATCHES_PER_THREAD: usize = 8;

/// How far a copy is. Frames that were there before do not count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    pub frames_done: u64,
    pub frames_total: u64,
    pub bytes_done: u64,
    pub bytes_total: u64,
}

/// What a copy came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Moved {
    pub frames: u64,
    /// Frames, as stored.
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
        let frames = StoredDisk::locate(&from.0, &manifest)?;
        if Arc::ptr_eq(&from.0, &to.0) {
            return Ok(Moved {
                frames_present: frames.len() as u64,
                ..Moved::default()
            });
        }
        let _writer = to.0.writer();
        let missing = missing(&to.0, &frames);
        let mut moved = Moved {
            frames: missing.len() as u64,
            frame_bytes: missing.iter().map(|at| u64::from(at.len)).sum(),
            manifest_bytes: 0,
            frames_present: (frames.len() - missing.len()) as u64,
        };
        copy_frames(&from.0, &to.0, &missing, progress)?;
        moved.manifest_bytes = publish(to, &manifest)?;
        Ok(moved)
    }
}

fn publish(to: &Store, manifest: &Manifest) -> Result<u64, StoreError> {
    if to.has(&manifest.digest) {
        return Ok(0);
    }
    to.0.publish(manifest)?;
    Ok(manifest.encode().len() as u64)
}

fn missing(to: &Inner, frames: &[Location]) -> Vec<Location> {
    let index = to.index();
    let mut seen = HashSet::new();
    let wanted = frames
        .iter()
        .filter(|at| index.number(&at.id).is_none() && seen.insert(at.id));
    wanted.copied().collect()
}

/// A read, and what the receiver made of it.
struct Work {
    batch: Batch,
    frames: Vec<(Frame, Vec<Fingerprint>)>,
}

fn copy_frames(
    from: &Inner,
    to: &Inner,
    missing: &[Location],
    progress: &dyn Fn(Progress),
) -> Result<(), StoreError> {
    let mut state = Progress {
        frames_total: missing.len() as u64,
        bytes_total: missing.iter().map(|at| u64::from(at.len)).sum(),
        ..Progress::default()
    };
    progress(state);
    let batches = batches(missing.iter().zip(0u32..).map(|(at, number)| (number, *at)));
    let mut work: Vec<_> = batches
        .into_iter()
        .map(|batch| Work {
            batch,
            frames: Vec::new(),
        })
        .collect();
    write_packs(to, Precedence::Known, |packs| {
        let mut pack = PackBuilder::default();
        let send = |full: Option<Pack>| match full {
            Some(full) => packs.send(full).map_err(|_| StoreError::WriterStopped),
            None => Ok(()),
        };
        for group in work.chunks_mut(to.threads() * BATCHES_PER_THREAD) {
            parallel::for_each(to.threads(), group, Buffers::new, |buffers, work| {
                receive(from, to, buffers, work)
            })?;
            for (frame, fingerprints) in group.iter_mut().flat_map(|work| work.frames.drain(..)) {
                state.frames_done += 1;
                state.bytes_done += frame.stored.len() as u64;
                send(pack.push(&frame, fingerprints))?;
            }
            progress(state);
        }
        send(pack.finish())
    })
}

fn receive(
    from: &Inner,
    to: &Inner,
    buffers: &mut Buffers,
    work: &mut Work,
) -> Result<(), StoreError> {
    let Work { batch, frames } = work;
    batch.unpacked(from, buffers, |_, at, stored, raw| {
        let mut leaves = [[0; 32]; FRAME_BLOCKS];
        let leaves = &mut leaves[..raw.len() / BLOCK_SIZE];
        leaf_hashes(raw, leaves);
        let fingerprints = leaves.iter().map(|leaf| to.key.fingerprint(leaf)).collect();
        let stored = stored.to_vec();
        let frame = Frame {
            id: at.id,
            codec: at.codec,
            blocks: at.blocks,
            stored,
        };
        frames.push((frame, fingerprints));
        Ok(())
    })
}
