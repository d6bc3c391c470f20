//! A stored disk, read like any other disk.
//!
//! Frames are checked when they are read and kept decompressed for a while. Nothing is written.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use disk::{BLOCK_SIZE, ChunkHash, DiskDigest, ReadAt, check_range};

use crate::error::StoreError;
use crate::frame::Unpacker;
use crate::index::Location;
use crate::manifest::{Manifest, Piece};
use crate::store::Inner;

/// How far `next_data` looks for the end of data before it says what it has.
const MAX_EXTENT_BLOCKS: u64 = 1024;

/// A disk in a store. Reads from many threads are welcome.
pub struct StoredDisk {
    inner: Arc<Inner>,
    manifest: Manifest,
    frames: Vec<Location>,
    cache: Mutex<Cache>,
    unpackers: Mutex<Vec<Unpacker>>,
}

impl std::fmt::Debug for StoredDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("StoredDisk")
            .field(&self.manifest.digest)
            .finish()
    }
}

impl StoredDisk {
    pub(crate) fn open(inner: Arc<Inner>, digest: &DiskDigest) -> Result<Self, StoreError> {
        let manifest = inner.manifest(digest)?;
        let frames = Self::locate(&inner, &manifest)?;
        let cache = Mutex::new(Cache::new(inner.options.cached_frames));
        Ok(StoredDisk {
            inner,
            manifest,
            frames,
            cache,
            unpackers: Mutex::default(),
        })
    }

    /// Where the frames of a manifest are, in the order of its table.
    pub(crate) fn locate(inner: &Inner, manifest: &Manifest) -> Result<Vec<Location>, StoreError> {
        let index = inner.index();
        let locate = |used: &crate::manifest::UsedFrame| {
            let found = index.number(&used.id).map(|number| *index.frame(number));
            found
                .filter(|location| location.blocks == used.blocks)
                .ok_or(StoreError::MissingFrame {
                    frame: used.id,
                    disk: manifest.digest,
                })
        };
        manifest.frames.iter().map(locate).collect()
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

    pub(crate) fn frames(&self) -> &[Location] {
        &self.frames
    }

    /// The first piece that ends after `block`.
    fn piece_after(&self, block: u64) -> usize {
        self.manifest
            .pieces
            .partition_point(|piece| piece.end() <= block)
    }

    fn frame(&self, number: u32) -> Result<Arc<Vec<u8>>, StoreError> {
        if let Some(found) = lock(&self.cache).get(number) {
            return Ok(found);
        }
        // Two readers may both decompress a frame; that costs less than making one wait.
        let (at, stored) = self.stored(self.frames[number as usize])?;
        let mut unpacker = lock(&self.unpackers).pop().unwrap_or_else(Unpacker::new);
        let mut raw = Vec::new();
        let unpacked = self.inner.unpack(&at, &stored, &mut unpacker, &mut raw);
        lock(&self.unpackers).push(unpacker);
        unpacked?;
        let raw = Arc::new(raw);
        lock(&self.cache).put(number, Arc::clone(&raw));
        Ok(raw)
    }

    /// A frame as it is stored, and where. Since the disk was opened it may have moved.
    fn stored(&self, at: Location) -> Result<(Location, Vec<u8>), StoreError> {
        let gone = match self.inner.pack_range(at.pack, at.offset, at.len) {
            Ok(stored) => return Ok((at, stored)),
            Err(error) if error.is_not_found() => error,
            Err(error) => return Err(error),
        };
        let moved = {
            let index = self.inner.index();
            index.number(&at.id).map(|number| *index.frame(number))
        };
        match moved.filter(|now| now.pack != at.pack) {
            None => Err(gone),
            Some(now) => {
                let stored = self.inner.pack_range(now.pack, now.offset, now.len)?;
                Ok((now, stored))
            }
        }
    }

    /// Copies what a piece has of `offset..` into `buf`; both overlap.
    fn copy(&self, piece: &Piece, offset: u64, buf: &mut [u8]) -> Result<(), StoreError> {
        let block = BLOCK_SIZE as u64;
        let start = (u64::from(piece.block) * block).max(offset);
        let end = (piece.end() * block).min(offset + buf.len() as u64);
        let frame = self.frame(piece.frame)?;
        let within =
            (u64::from(piece.slot) * block + start - u64::from(piece.block) * block) as usize;
        let len = (end - start) as usize;
        let into = (start - offset) as usize;
        buf[into..into + len].copy_from_slice(&frame[within..within + len]);
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poison| poison.into_inner())
}

impl ReadAt for StoredDisk {
    fn size(&self) -> u64 {
        self.manifest.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(self.size(), offset, buf.len())?;
        buf.fill(0);
        let end = offset + buf.len() as u64;
        let first = self.piece_after(offset / BLOCK_SIZE as u64);
        let touched = self.manifest.pieces[first..]
            .iter()
            .take_while(|piece| u64::from(piece.block) * (BLOCK_SIZE as u64) < end);
        for piece in touched {
            self.copy(piece, offset, buf)?;
        }
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

/// Decompressed frames, the least recently used of which goes first.
struct Cache {
    capacity: usize,
    clock: u64,
    frames: HashMap<u32, (u64, Arc<Vec<u8>>)>,
}

impl Cache {
    fn new(capacity: usize) -> Self {
        Cache {
            capacity: capacity.max(1),
            clock: 0,
            frames: HashMap::new(),
        }
    }

    fn get(&mut self, number: u32) -> Option<Arc<Vec<u8>>> {
        self.clock += 1;
        let (used, frame) = self.frames.get_mut(&number)?;
        *used = self.clock;
        Some(Arc::clone(frame))
    }

    /// Looking for the oldest among some hundred is nothing beside decompressing a frame.
    fn put(&mut self, number: u32, frame: Arc<Vec<u8>>) {
        self.clock += 1;
        if self.frames.len() >= self.capacity && !self.frames.contains_key(&number) {
            let oldest = self.frames.iter().min_by_key(|(_, (used, _))| *used);
            if let Some(oldest) = oldest.map(|(number, _)| *number) {
                self.frames.remove(&oldest);
            }
        }
        self.frames.insert(number, (self.clock, frame));
    }
}
