//! A stored disk, read like any other disk.
//!
//! Tables are loaded when they are needed. Frames are kept decompressed for a while, in a cache
//! that disks may share. Where both come from, and how they are checked, is the source's matter.
//! Nothing is written.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use disk::{BLOCK_SIZE, DiskDigest, ReadAt, check_range};

use crate::cache::{Blocks, FrameCache};
use crate::error::StoreError;
use crate::manifest::Manifest;
use crate::section::{SECTION_BLOCKS, SECTION_BYTES, Section, SectionRef, UsedFrame};
use crate::source::FrameSource;

/// How far `next_data` looks for the end of data before it says what it has.
const MAX_EXTENT_BLOCKS: u64 = 1024;
/// Sections that an open disk keeps: 4 GiB of a disk in some 10 MB.
const CACHED_SECTIONS: usize = 512;

/// Sections that are loaded side by side.
const LOADING: usize = 8;

/// Neighbouring blocks of a disk that are neighbours in one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The first block, counted on the disk.
    pub block: u32,
    pub frame: UsedFrame,
    /// The first block, counted in the frame.
    pub slot: u8,
    pub count: u8,
}

/// A disk in a store, or in several. Reads from many threads are welcome.
pub struct StoredDisk {
    source: Arc<dyn FrameSource>,
    manifest: Manifest,
    /// By place on the disk.
    refs: BTreeMap<u32, SectionRef>,
    sections: Mutex<Cache>,
    /// Held while a section is loaded, so that many who start at once load it once.
    loading: [Mutex<()>; LOADING],
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
        StoredDisk::of(source, manifest, cache)
    }

    /// The disk of a manifest whose frames are all there, be it visible or not.
    pub(crate) fn of(
        source: Arc<dyn FrameSource>,
        manifest: Manifest,
        cache: &Arc<FrameCache>,
    ) -> Result<Self, StoreError> {
        let mut refs = BTreeMap::new();
        for branch in &manifest.branches {
            let sections = source.branch(&manifest, branch)?;
            refs.extend(sections.into_iter().map(|section| (section.index, section)));
        }
        Ok(StoredDisk {
            source,
            manifest,
            refs,
            sections: Mutex::new(Cache::new()),
            loading: Default::default(),
            cache: Arc::clone(cache),
        })
    }

    pub fn digest(&self) -> &DiskDigest {
        &self.manifest.digest
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The cache that its frames are kept in.
    pub fn cache(&self) -> &Arc<FrameCache> {
        &self.cache
    }

    /// What `blocks` are made of, in order; blocks that are in no extent are zero.
    pub fn extents(&self, blocks: Range<u32>) -> Result<Vec<Extent>, StoreError> {
        let mut found = Vec::new();
        let last = blocks.end.saturating_sub(1) / SECTION_BLOCKS;
        for index in blocks.start / SECTION_BLOCKS..=last {
            let Some(section) = self.section(index)? else {
                continue;
            };
            let first = section
                .pieces
                .partition_point(|piece| piece.end() <= u64::from(blocks.start));
            let touched = section.pieces[first..]
                .iter()
                .take_while(|piece| piece.block < blocks.end);
            for piece in touched {
                let start = piece.block.max(blocks.start);
                let end = (piece.end() as u32).min(blocks.end);
                found.push(Extent {
                    block: start,
                    frame: section.frames[piece.frame as usize],
                    slot: piece.slot + (start - piece.block) as u8,
                    count: (end - start) as u8,
                });
            }
        }
        Ok(found)
    }

    /// A section of the disk; none if it is all zero.
    pub(crate) fn section(&self, index: u32) -> Result<Option<Arc<Section>>, StoreError> {
        let Some(wanted) = self.refs.get(&index) else {
            return Ok(None);
        };
        if let Some(found) = lock(&self.sections).get(index) {
            return Ok(Some(found));
        }
        let _turn = lock(&self.loading[index as usize % LOADING]);
        if let Some(found) = lock(&self.sections).get(index) {
            return Ok(Some(found));
        }
        let mut loaded = self.source.sections(&self.manifest, &[*wanted])?;
        let section = loaded.pop().map(Arc::new);
        if let Some(section) = &section {
            lock(&self.sections).put(index, Arc::clone(section));
        }
        Ok(section)
    }

    /// The first section at or after this one that is not all zero.
    fn next_section(&self, index: u32) -> Result<Option<Arc<Section>>, StoreError> {
        match self.refs.range(index..).next() {
            Some((index, _)) => self.section(*index),
            None => Ok(None),
        }
    }

    /// The same as [`ReadAt::read_at`], if nothing must be loaded for it. Otherwise `buf` holds
    /// anything.
    pub fn read_ready(&self, offset: u64, buf: &mut [u8]) -> bool {
        if check_range(self.size(), offset, buf.len()).is_err() {
            return false;
        }
        let read = self.read_with(
            offset,
            buf,
            |index| match self.refs.contains_key(&index) {
                false => Ok(None),
                true => lock(&self.sections).get(index).map(Some).ok_or(NotReady),
            },
            |frame| self.cache.ready(&frame.cache_key()).ok_or(NotReady),
        );
        read.is_ok()
    }

    /// Loads the frames of these blocks that nobody has loaded yet, cheaply, as a whole. What
    /// cannot be loaded is left: who reads it will be told. Answers how many frames it loaded.
    pub fn load_ahead(&self, blocks: impl IntoIterator<Item = Range<u64>>) -> u64 {
        let mut wanted = Vec::new();
        let mut loading = Vec::new();
        let last = self.manifest.size.div_ceil(BLOCK_SIZE as u64);
        for range in blocks {
            let range = range.start.min(last) as u32..range.end.min(last) as u32;
            for extent in self.extents(range).unwrap_or_default() {
                if let Some(ours) = self.cache.ahead(&extent.frame.cache_key()) {
                    wanted.push(extent.frame);
                    loading.push(Some(ours));
                }
            }
        }
        let mut loaded = 0;
        self.source.read_frames(&wanted, &mut |at, stored, raw| {
            if let Some(ours) = loading.get_mut(at).and_then(Option::take) {
                ours.done(stored, raw);
                loaded += 1;
            }
        });
        loaded
    }

    fn frame(&self, frame: &UsedFrame) -> Result<Blocks, StoreError> {
        self.cache
            .get(&frame.cache_key(), |raw| self.source.read_frame(frame, raw))
    }

    /// Fills `buf` with what the disk has from `offset`, section by section and frame by frame.
    fn read_with<E>(
        &self,
        offset: u64,
        buf: &mut [u8],
        section: impl Fn(u32) -> Result<Option<Arc<Section>>, E>,
        frame: impl Fn(&UsedFrame) -> Result<Blocks, E>,
    ) -> Result<(), E> {
        let block = BLOCK_SIZE as u64;
        let end = offset + buf.len() as u64;
        let mut done = offset;
        for index in (offset / SECTION_BYTES) as u32..end.div_ceil(SECTION_BYTES) as u32 {
            let Some(section) = section(index)? else {
                continue;
            };
            let first = section
                .pieces
                .partition_point(|piece| piece.end() <= offset / block);
            for piece in &section.pieces[first..] {
                let at = u64::from(piece.block) * block;
                if at >= end {
                    break;
                }
                let (start, stop) = (at.max(offset), (piece.end() * block).min(end));
                let blocks = frame(&section.frames[piece.frame as usize])?;
                let within = (u64::from(piece.slot) * block + start - at) as usize;
                let len = (stop - start) as usize;
                buf[(done - offset) as usize..(start - offset) as usize].fill(0);
                buf[(start - offset) as usize..][..len]
                    .copy_from_slice(&blocks[within..within + len]);
                done = stop;
            }
        }
        buf[(done - offset) as usize..].fill(0);
        Ok(())
    }
}

/// A table or frame is not in memory.
struct NotReady;

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poison| poison.into_inner())
}

impl ReadAt for StoredDisk {
    fn size(&self) -> u64 {
        self.manifest.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(self.size(), offset, buf.len())?;
        let (section, frame) = (|index| self.section(index), |used: &_| self.frame(used));
        self.read_with(offset, buf, section, frame)?;
        Ok(())
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        let block = BLOCK_SIZE as u64;
        if offset >= self.size() {
            return Ok(None);
        }
        let from = offset / block;
        let mut index = (from / u64::from(SECTION_BLOCKS)) as u32;
        while let Some(section) = self.next_section(index)? {
            let first = section.pieces.partition_point(|piece| piece.end() <= from);
            let pieces = &section.pieces[first..];
            let Some(first) = pieces.first() else {
                index = section.index + 1;
                continue;
            };
            let mut end = first.end();
            for piece in &pieces[1..] {
                if u64::from(piece.block) != end || end - u64::from(first.block) > MAX_EXTENT_BLOCKS
                {
                    break;
                }
                end = piece.end();
            }
            return Ok(Some(
                (u64::from(first.block) * block).max(offset)..(end * block).min(self.size()),
            ));
        }
        Ok(None)
    }
}

/// Sections that were read last, of which the least recently used goes first.
struct Cache {
    clock: u64,
    entries: HashMap<u32, (u64, Arc<Section>)>,
}

impl Cache {
    fn new() -> Self {
        Cache {
            clock: 0,
            entries: HashMap::new(),
        }
    }

    fn get(&mut self, index: u32) -> Option<Arc<Section>> {
        self.clock += 1;
        let (used, section) = self.entries.get_mut(&index)?;
        *used = self.clock;
        Some(Arc::clone(section))
    }

    /// Looking for the oldest among some hundred is nothing beside reading a table.
    fn put(&mut self, index: u32, section: Arc<Section>) {
        self.clock += 1;
        if self.entries.len() >= CACHED_SECTIONS && !self.entries.contains_key(&index) {
            let oldest = self.entries.iter().min_by_key(|(_, (used, _))| *used);
            if let Some(oldest) = oldest.map(|(index, _)| *index) {
                self.entries.remove(&oldest);
            }
        }
        self.entries.insert(index, (self.clock, section));
    }
}
