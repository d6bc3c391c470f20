//! A stored disk, read like any other disk.
//!
//! Frames are kept decompressed for a while, in a cache that disks may share. Where they come from,
//! and how they are checked, is the source's matter. Nothing is written.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use disk::{BLOCK_SIZE, ChunkHash, DiskDigest, ReadAt, check_range};

use crate::cache::{Blocks, FrameCache};
use crate::error::StoreError;
use crate::manifest::{Manifest, UsedFrame};
use crate::source::FrameSource;

/// How far `next_data` looks for the end of data before it says what it has.
const MAX_EXTENT_BLOCKS: u64 = 1024;

/// A disk in a store, or in several. Reads from many threads are welcome.
pub struct StoredDisk {
    source: Arc<dyn FrameSource>,
    manifest: Manifest,
    cache: Arc<FrameCache>,
}

impl std::fmt::Debug for StoredDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("StoredDisk")
            .field(&self.manifest.digest)
            .finish()
    }
}

impl StoredDisk {
    /// A disk of this source; its frames are kept in `cache`, which other disks may share.
    pub fn open(
        source: Arc<dyn FrameSource>,
        digest: &DiskDigest,
        cache: &Arc<FrameCache>,
    ) -> Result<Self, StoreError> {
        let manifest = source.manifest(digest)?;
        Ok(StoredDisk {
            source,
            manifest,
            cache: Arc::clone(cache),
        })
    }

    pub fn digest(&self) -> &DiskDigest {
        &self.manifest.digest
    }

    pub fn chunks(&self) -> &[ChunkHash] {
        &self.manifest.chunks
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The cache that its frames are kept in.
    pub fn cache(&self) -> &Arc<FrameCache> {
        &self.cache
    }

    /// The same as [`ReadAt::read_at`], if nothing must be loaded for it. Otherwise `buf` holds
    /// anything.
    pub fn read_ready(&self, offset: u64, buf: &mut [u8]) -> bool {
        check_range(self.size(), offset, buf.len()).is_ok()
            && self
                .read_with(offset, buf, |frame| {
                    self.cache.ready(&frame.cache_key()).ok_or(NotReady)
                })
                .is_ok()
    }

    /// Loads the frames of these blocks that nobody has loaded yet, cheaply, as a whole. What
    /// cannot be loaded is left: who reads it will be told.
    pub fn load_ahead(&self, blocks: impl IntoIterator<Item = Range<u64>>) {
        let mut wanted = Vec::new();
        let mut loading = Vec::new();
        for range in blocks {
            let first = self.piece_after(range.start);
            let touched = self.manifest.pieces[first..]
                .iter()
                .take_while(|piece| u64::from(piece.block) < range.end);
            for piece in touched {
                let frame = self.manifest.frames[piece.frame as usize];
                if let Some(ours) = self.cache.ahead(&frame.cache_key()) {
                    wanted.push(frame);
                    loading.push(Some(ours));
                }
            }
        }
        self.source.read_frames(&wanted, &mut |at, stored, raw| {
            if let Some(ours) = loading.get_mut(at).and_then(Option::take) {
                ours.done(stored, raw);
            }
        });
    }

    /// The first piece that ends after `block`.
    fn piece_after(&self, block: u64) -> usize {
        self.manifest
            .pieces
            .partition_point(|piece| piece.end() <= block)
    }

    fn frame(&self, frame: &UsedFrame) -> Result<Blocks, StoreError> {
        self.cache
            .get(&frame.cache_key(), |raw| self.source.read_frame(frame, raw))
    }

    /// Fills `buf` with what the disk has from `offset`, frame by frame.
    fn read_with<E>(
        &self,
        offset: u64,
        buf: &mut [u8],
        mut frame: impl FnMut(&UsedFrame) -> Result<Blocks, E>,
    ) -> Result<(), E> {
        let block = BLOCK_SIZE as u64;
        let end = offset + buf.len() as u64;
        let mut done = offset;
        for piece in &self.manifest.pieces[self.piece_after(offset / block)..] {
            let at = u64::from(piece.block) * block;
            if at >= end {
                break;
            }
            let (start, stop) = (at.max(offset), (piece.end() * block).min(end));
            let blocks = frame(&self.manifest.frames[piece.frame as usize])?;
            let within = (u64::from(piece.slot) * block + start - at) as usize;
            let len = (stop - start) as usize;
            buf[(done - offset) as usize..(start - offset) as usize].fill(0);
            buf[(start - offset) as usize..][..len].copy_from_slice(&blocks[within..within + len]);
            done = stop;
        }
        buf[(done - offset) as usize..].fill(0);
        Ok(())
    }
}

/// A frame is not in memory.
struct NotReady;

impl ReadAt for StoredDisk {
    fn size(&self) -> u64 {
        self.manifest.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(self.size(), offset, buf.len())?;
        self.read_with(offset, buf, |frame| self.frame(frame))?;
        Ok(())
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        let block = BLOCK_SIZE as u64;
        if offset >= self.size() {
            return Ok(None);
        }
        let pieces = &self.manifest.pieces[self.piece_after(offset / block)..];
        let Some(first) = pieces.first() else {
            return Ok(None);
        };
        let mut end = first.end();
        for piece in &pieces[1..] {
            if u64::from(piece.block) != end || end - u64::from(first.block) > MAX_EXTENT_BLOCKS {
                break;
            }
            end = piece.end();
        }
        Ok(Some(
            (u64::from(first.block) * block).max(offset)..(end * block).min(self.size()),
        ))
    }
}
