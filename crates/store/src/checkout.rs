//! Putting a stored disk into a file, from nothing or from another disk that is there already.
//!
//! A file that holds a known disk is changed only where the two differ. While a file is being
//! written its sidecar says so, so an interrupted checkout is never mistaken for a disk. The file
//! must not be in use; nothing here can know.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::OpenOptions;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use disk::{BLOCK_SIZE, DiskDigest, ReadAt, WriteAt};

use crate::bulk::{Buffers, batches};
use crate::error::StoreError;
use crate::file::FileDisk;
use crate::manifest::{BranchRef, Manifest};
use crate::parallel;
use crate::section::{Piece, UsedFrame, push_piece};
use crate::sidecar;
use crate::store::{Store, file_error};
use crate::walk::Stretch;

/// As [`crate::Watch`], from several threads.
pub type SharedWatch<'a> = &'a (dyn Fn(u64) -> bool + Sync);

/// What a checkout had to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkout {
    pub kind: CheckoutKind,
    /// Data written to the file.
    pub written_bytes: u64,
    /// Data of the disk before that became holes.
    pub cleared_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckoutKind {
    /// The file was written from nothing.
    Fresh,
    /// The file held this other disk, and only the difference was written.
    Morphed { from: DiskDigest },
    /// The file held this disk already.
    Unchanged,
}

/// What differs between two disks of one size.
#[derive(Debug, Default, PartialEq, Eq)]
struct Difference {
    /// Pieces of the new disk.
    write: Vec<Piece>,
    /// Blocks that only the old disk has.
    clear: Vec<Range<u64>>,
}

impl Store {
    /// Makes `file` hold exactly this disk, sparse.
    pub fn checkout(&self, digest: &DiskDigest, file: &Path) -> Result<Checkout, StoreError> {
        self.checkout_watched(digest, file, &|_| true)
    }

    /// The same; `watch` is told how many bytes are written, by any thread, and `false` stops it.
    pub fn checkout_watched(
        &self,
        digest: &DiskDigest,
        file: &Path,
        watch: SharedWatch<'_>,
    ) -> Result<Checkout, StoreError> {
        let disk = self.disk(digest)?;
        let held = sidecar::intact(file);
        if held == Some(*digest) {
            let kind = CheckoutKind::Unchanged;
            return Ok(Checkout {
                kind,
                written_bytes: 0,
                cleared_bytes: 0,
            });
        }
        // A disk that this store does not know is no start, and neither is one of another size.
        let before = held.and_then(|held| self.manifest(&held).ok());
        let before = before.filter(|before| before.size == disk.size());
        let kind = match &before {
            Some(before) => CheckoutKind::Morphed {
                from: before.digest,
            },
            None => CheckoutKind::Fresh,
        };
        sidecar::begin(file).map_err(file_error("mark as being written", file))?;
        let target = open_target(file, disk.size(), kind)?;
        let mut writing = Writing {
            store: self,
            before,
            disk: disk.manifest(),
            target,
            path: file,
            watch,
            written: AtomicU64::new(0),
            cleared: 0,
        };
        writing.run()?;
        sidecar::finish(file, writing.target.file(), digest).map_err(file_error("finish", file))?;
        Ok(Checkout {
            kind,
            written_bytes: writing.written.into_inner(),
            cleared_bytes: writing.cleared,
        })
    }
}

/// A file on its way to hold a disk.
struct Writing<'a> {
    store: &'a Store,
    /// What it holds so far.
    before: Option<Manifest>,
    disk: &'a Manifest,
    target: FileDisk,
    path: &'a Path,
    watch: SharedWatch<'a>,
    /// In bytes.
    written: AtomicU64,
    cleared: u64,
}

impl Writing<'_> {
    /// Stretch by stretch; a stretch that both disks share is not looked at.
    fn run(&mut self) -> Result<(), StoreError> {
        let inner = &*self.store.0;
        let old = self.before.take();
        let branches = |manifest: &Manifest| -> BTreeMap<u32, BranchRef> {
            let branches = manifest.branches.iter();
            branches.map(|branch| (branch.index, *branch)).collect()
        };
        let new = branches(self.disk);
        let gone = old.as_ref().map(branches).unwrap_or_default();
        let both: BTreeSet<u32> = new.keys().chain(gone.keys()).copied().collect();
        for index in both {
            let (new, gone) = (new.get(&index), gone.get(&index));
            if new.map(|branch| branch.id) == gone.map(|branch| branch.id) {
                continue;
            }
            let load = |manifest, branch: Option<&BranchRef>| {
                let loaded = branch.map(|branch| inner.stretch(manifest, branch));
                loaded.transpose()
            };
            let new = load(self.disk, new)?;
            let gone = match &old {
                Some(old) => load(old, gone)?,
                None => None,
            };
            let found = difference(gone.as_ref(), new.as_ref());
            for range in &found.clear {
                clear(&mut self.target, range).map_err(file_error("make a hole in", self.path))?;
                self.cleared += (range.end - range.start) * BLOCK_SIZE as u64;
            }
            if let Some(new) = &new {
                self.write(&new.frames, found.write)?;
            }
        }
        Ok(())
    }

    /// Frame by frame in the order of the packs, so that each is decompressed once.
    fn write(&self, frames: &[UsedFrame], mut pieces: Vec<Piece>) -> Result<(), StoreError> {
        let inner = &*self.store.0;
        pieces.sort_unstable_by_key(|piece| (piece.frame, piece.block));
        let mut numbers: Vec<u32> = pieces.iter().map(|piece| piece.frame).collect();
        numbers.dedup();
        let mut located = Vec::with_capacity(numbers.len());
        for number in numbers {
            let at = inner.locate(&frames[number as usize], &self.disk.digest)?;
            located.push((number, at));
        }
        let mut batches = batches(located.into_iter());
        parallel::for_each(
            inner.threads(),
            &mut batches,
            Buffers::new,
            |buffers, batch| {
                batch.unpacked(inner, buffers, |number, _, _, raw| {
                    let first = pieces.partition_point(|piece| piece.frame < number);
                    let of_frame = pieces[first..]
                        .iter()
                        .take_while(|piece| piece.frame == number);
                    for piece in of_frame {
                        write_piece(&self.target, piece, raw)
                            .map_err(file_error("write to", self.path))?;
                        let bytes = u64::from(piece.count) * BLOCK_SIZE as u64;
                        self.written.fetch_add(bytes, Ordering::Relaxed);
                    }
                    Ok(())
                })?;
                match (self.watch)(self.written.load(Ordering::Relaxed)) {
                    true => Ok(()),
                    false => Err(StoreError::Stopped),
                }
            },
        )
    }
}

fn open_target(path: &Path, size: u64, kind: CheckoutKind) -> Result<FileDisk, StoreError> {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .create(true)
        .truncate(kind == CheckoutKind::Fresh);
    let file = options.open(path).map_err(file_error("open", path))?;
    file.set_len(size)
        .map_err(file_error("set the size of", path))?;
    FileDisk::from_file(file).map_err(file_error("measure", path))
}

fn clear(target: &mut FileDisk, blocks: &Range<u64>) -> std::io::Result<()> {
    let start = blocks.start * BLOCK_SIZE as u64;
    let end = (blocks.end * BLOCK_SIZE as u64).min(target.size());
    target.zero_at(start, end - start)
}

fn write_piece(target: &FileDisk, piece: &Piece, raw: &[u8]) -> std::io::Result<()> {
    let start = u64::from(piece.block) * BLOCK_SIZE as u64;
    let from = usize::from(piece.slot) * BLOCK_SIZE;
    // The last block of a disk may be a part of one.
    let len = (target.size() - start).min(u64::from(piece.count) * BLOCK_SIZE as u64) as usize;
    target.write_shared(start, &raw[from..from + len])
}

/// Goes along both disks block by block. A block is the same if it is at the same place of the
/// same frame; the store keeps no block twice, so little is missed.
fn difference(old: Option<&Stretch>, new: Option<&Stretch>) -> Difference {
    let frames = |stretch: Option<&Stretch>| stretch.map_or(Vec::new(), |s| s.frames.clone());
    let pieces = |stretch: Option<&'_ Stretch>| stretch.map_or(Vec::new(), |s| s.pieces.clone());
    let (old_frames, old_pieces) = (frames(old), pieces(old));
    let (new_frames, new_pieces) = (frames(new), pieces(new));
    let in_old: HashMap<_, _> = old_frames
        .iter()
        .zip(0u32..)
        .map(|(used, n)| (used.id, n))
        .collect();
    let same: Vec<Option<u32>> = new_frames
        .iter()
        .map(|used| in_old.get(&used.id).copied())
        .collect();
    let mut found = Difference::default();
    let mut at = 0;
    for piece in &new_pieces {
        for step in 0..piece.count {
            let block = piece.block + u32::from(step);
            let slot = piece.slot + step;
            let before = piece_at(&old_pieces, &mut at, block);
            let kept = before.is_some_and(|before| {
                same[piece.frame as usize] == Some(before.frame)
                    && u32::from(before.slot) + (block - before.block) == u32::from(slot)
            });
            if !kept {
                push_piece(
                    &mut found.write,
                    Piece {
                        block,
                        frame: piece.frame,
                        slot,
                        count: 1,
                    },
                );
            }
        }
    }
    at = 0;
    for piece in &old_pieces {
        for step in 0..piece.count {
            let block = piece.block + u32::from(step);
            if piece_at(&new_pieces, &mut at, block).is_none() {
                let block = u64::from(block);
                match found.clear.last_mut() {
                    Some(last) if last.end == block => last.end += 1,
                    _ => found.clear.push(block..block + 1),
                }
            }
        }
    }
    found
}

/// The piece that holds `block`, for blocks asked for in rising order.
fn piece_at<'a>(pieces: &'a [Piece], at: &mut usize, block: u32) -> Option<&'a Piece> {
    while pieces
        .get(*at)
        .is_some_and(|piece| piece.end() <= u64::from(block))
    {
        *at += 1;
    }
    pieces.get(*at).filter(|piece| piece.block <= block)
}
