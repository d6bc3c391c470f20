//! Taking a disk in: hash, look up, compress what is new, write packs, then the manifest.
//!
//! Nothing is visible before the manifest is written, which is last. What an interrupted ingest
//! leaves behind is whole packs, which the next one finds and uses.

use std::io;
use std::ops::Range;
use std::sync::mpsc::SyncSender;
use std::{iter, vec};

use disk::image::Layer;
use disk::{
    BLOCK_SIZE, BLOCKS_PER_CHUNK, CHUNK_SIZE, Changes, ChunkDigester, ChunkHash, CowDisk,
    DiskDigest, LeafHash, ReadAt, read_sparse,
};

use crate::domain::Domain;
use crate::error::StoreError;
use crate::index::{Fingerprint, Precedence};
use crate::manifest::{MAX_DISK_BYTES, Manifest};
use crate::outline::{Draft, Outline};
use crate::pack::Pack;
use crate::parallel;
use crate::section::{Piece, SECTION_CHUNKS, push_piece};
use crate::serve::Overlay;
use crate::session::{FrameRef, Session, write_packs};
use crate::store::{Inner, Store, Writer};
use crate::view::StoredDisk;

/// Chunks that each thread has in memory at a time.
const CHUNKS_PER_THREAD: usize = 8;

/// What taking a disk in came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Ingested {
    pub digest: DiskDigest,
    /// The size of the disk.
    pub logical_bytes: u64,
    /// Blocks that are not zero.
    pub data_bytes: u64,
    /// Blocks that the store did not have, before compression.
    pub new_bytes: u64,
    /// The same, as stored.
    pub stored_bytes: u64,
    /// What was added to say where the blocks are.
    pub manifest_bytes: u64,
}

/// Told how far an ingest is on the disk, in bytes; `false` stops it.
pub type Watch<'a> = &'a dyn Fn(u64) -> bool;

impl Store {
    /// Takes in a whole disk. Holes are not read.
    pub fn ingest(&self, disk: &dyn ReadAt) -> Result<Ingested, StoreError> {
        self.ingest_watched(disk, &|_| true)
    }

    /// The same; what a stopped ingest has stored is found by the next one.
    pub fn ingest_watched(
        &self,
        disk: &dyn ReadAt,
        watch: Watch<'_>,
    ) -> Result<Ingested, StoreError> {
        let size = disk.size();
        if size > MAX_DISK_BYTES {
            return Err(StoreError::TooLarge {
                size,
                limit: MAX_DISK_BYTES,
            });
        }
        let writer = self.0.writer();
        let intake = Intake {
            view: disk,
            wanted: Wanted::Data { next: 0 },
            parent: None,
            watch,
            draft: None,
        };
        intake.run(&self.0, Outline::new(size), &writer)
    }

    /// Takes in a disk that is another one with changes. Of the parent, only the chunks of 1 MiB
    /// with a change in them are read.
    pub fn ingest_child(
        &self,
        parent: &DiskDigest,
        changes: &Changes,
    ) -> Result<Ingested, StoreError> {
        let writer = self.0.writer();
        let parent = self.disk(parent)?;
        let size = parent.size();
        let blocks = size.div_ceil(BLOCK_SIZE as u64);
        if let Some((block, _)) = changes.iter().find(|(block, _)| *block >= blocks) {
            return Err(StoreError::ChangeOutside { block, size });
        }
        let dirty = Dirty::new(changes.iter().map(|(block, _)| block..block + 1));
        let view = CowDisk::with_changes(&parent, changes);
        self.ingest_dirty(&parent, &view, (dirty, &|_| true), &writer)
    }

    /// Takes in a disk that was written over another one. Of the parent, only the chunks of 1 MiB
    /// that were written to are read, unless the layer has another size.
    pub fn ingest_layer(
        &self,
        parent: &DiskDigest,
        layer: &Layer,
        watch: Watch<'_>,
    ) -> Result<Ingested, StoreError> {
        let stored = self.disk(parent)?;
        if stored.size() != layer.size() {
            return self.ingest_watched(&layer.over(&stored), watch);
        }
        let writer = self.0.writer();
        // Again, now that nothing can be removed: deleted meanwhile means unknown.
        let parent = self.disk(parent)?;
        let view = layer.over(&parent);
        let mut written = Vec::new();
        let mut offset = 0;
        let block = BLOCK_SIZE as u64;
        while let Some(part) = layer.next_written(offset).map_err(StoreError::ReadDisk)? {
            written.push(part.start / block..part.end.div_ceil(block));
            offset = part.end;
        }
        let dirty = Dirty::new(written.into_iter());
        self.ingest_dirty(&parent, &view, (dirty, watch), &writer)
    }

    /// Takes in a disk that was written over one of this store. Of it, only the chunks of 1 MiB
    /// that were written to are read, unless it has another size than the disk below. Nobody may
    /// write to it meanwhile.
    pub fn ingest_overlay(
        &self,
        overlay: &Overlay,
        watch: Watch<'_>,
    ) -> Result<Ingested, StoreError> {
        if overlay.size() != overlay.parent_size() {
            return self.ingest_watched(overlay, watch);
        }
        let writer = self.0.writer();
        let parent = self.disk(overlay.base())?;
        let dirty = Dirty::new(overlay.changed().into_iter());
        self.ingest_dirty(&parent, overlay, (dirty, watch), &writer)
    }

    fn ingest_dirty(
        &self,
        parent: &StoredDisk,
        view: &dyn ReadAt,
        (dirty, watch): (Dirty, Watch<'_>),
        writer: &Writer<'_>,
    ) -> Result<Ingested, StoreError> {
        let wanted = Wanted::Listed(dirty.chunks().into_iter());
        let intake = Intake {
            view,
            wanted,
            parent: Some((parent, dirty)),
            watch,
            draft: None,
        };
        intake.run(&self.0, Outline::of(parent.manifest()), writer)
    }
}

/// Blocks that differ from a parent's, or may: ranges in order, apart from each other.
struct Dirty(Vec<Range<u64>>);

impl Dirty {
    /// The ranges are in order and may touch or overlap.
    fn new(ranges: impl Iterator<Item = Range<u64>>) -> Dirty {
        let mut joined: Vec<Range<u64>> = Vec::new();
        for range in ranges {
            match joined.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => joined.push(range),
            }
        }
        Dirty(joined)
    }

    fn contains(&self, block: u64) -> bool {
        let at = self.0.partition_point(|range| range.end <= block);
        self.0.get(at).is_some_and(|range| range.start <= block)
    }

    fn chunks(&self) -> Vec<usize> {
        let of_chunk = BLOCKS_PER_CHUNK as u64;
        let chunks = self
            .0
            .iter()
            .flat_map(|range| range.start / of_chunk..range.end.div_ceil(of_chunk));
        let mut chunks: Vec<usize> = chunks.map(|chunk| chunk as usize).collect();
        chunks.dedup();
        chunks
    }
}

/// What a parent's section is without the blocks that changed.
fn unchanged(
    inner: &Inner,
    parent: &StoredDisk,
    dirty: &Dirty,
    index: u32,
) -> Result<(Chunks, Vec<Piece<FrameRef>>), StoreError> {
    let Some(section) = parent.section(index)? else {
        return Ok(([ChunkHash::ZERO; SECTION_CHUNKS], Vec::new()));
    };
    let digest = parent.digest();
    let found = inner.locate_all(&section.frames, digest)?;
    inner.warm_near(found.iter().copied())?;
    let mut kept = Vec::with_capacity(section.pieces.len());
    for piece in &section.pieces {
        for step in 0..piece.count {
            let block = piece.block + u32::from(step);
            if !dirty.contains(u64::from(block)) {
                let frame = FrameRef::Stored(found[piece.frame as usize].used());
                push_piece(
                    &mut kept,
                    Piece {
                        block,
                        frame,
                        slot: piece.slot + step,
                        count: 1,
                    },
                );
            }
        }
    }
    Ok((section.chunks, kept))
}

type Chunks = [ChunkHash; SECTION_CHUNKS];

/// Which chunks are looked at.
enum Wanted {
    /// All that may hold data, from this offset on.
    Data { next: u64 },
    /// These.
    Listed(vec::IntoIter<usize>),
}

impl Wanted {
    fn next(&mut self, view: &dyn ReadAt) -> io::Result<Option<usize>> {
        match self {
            Wanted::Listed(list) => Ok(list.next()),
            Wanted::Data { next } => {
                let Some(data) = view.next_data(*next)? else {
                    return Ok(None);
                };
                let chunk = data.start / CHUNK_SIZE as u64;
                *next = (chunk + 1) * CHUNK_SIZE as u64;
                Ok(Some(chunk as usize))
            }
        }
    }
}

/// One disk on its way in.
struct Intake<'a> {
    view: &'a dyn ReadAt,
    wanted: Wanted,
    /// If given, only these blocks of the wanted chunks count; the rest is as in this disk.
    parent: Option<(&'a StoredDisk, Dirty)>,
    watch: Watch<'a>,
    /// The section that the last chunk was in.
    draft: Option<Draft>,
}

/// A chunk that was read and hashed.
struct Scanned {
    index: usize,
    bytes: Vec<u8>,
    leaves: Vec<LeafHash>,
    fingerprints: Vec<Fingerprint>,
    hash: ChunkHash,
}

impl Intake<'_> {
    /// With the right to write, which the caller took before it looked at anything stored.
    fn run(
        mut self,
        inner: &Inner,
        outline: Outline,
        _: &Writer<'_>,
    ) -> Result<Ingested, StoreError> {
        let mut session = Session::new(inner, outline)?;
        let manifest = write_packs(inner, Precedence::Known, |packs| {
            self.scan(&mut session, packs)
        })?;
        let root = manifest.encode(&session.domain)?;
        inner.publish(&manifest.digest, &root)?;
        Ok(Ingested {
            digest: manifest.digest,
            logical_bytes: manifest.size,
            data_bytes: manifest.data_bytes(),
            new_bytes: session.new_blocks * BLOCK_SIZE as u64,
            stored_bytes: session.stored_bytes,
            manifest_bytes: session.table_bytes + root.len() as u64,
        })
    }

    fn scan(
        &mut self,
        session: &mut Session<'_>,
        packs: &SyncSender<Pack>,
    ) -> Result<Manifest, StoreError> {
        let size = self.view.size();
        let threads = session.inner.threads();
        let new = || Scanned {
            index: 0,
            bytes: vec![],
            leaves: vec![],
            fingerprints: vec![],
            hash: ChunkHash::ZERO,
        };
        let mut slots: Vec<_> = iter::repeat_with(new)
            .take(threads * CHUNKS_PER_THREAD)
            .collect();
        loop {
            let mut filled = 0;
            while filled < slots.len()
                && let Some(index) = self.wanted.next(self.view).map_err(StoreError::ReadDisk)?
            {
                slots[filled].index = index;
                filled += 1;
            }
            if filled == 0 {
                break;
            }
            let batch = &mut slots[..filled];
            let (view, domain) = (self.view, &session.domain);
            parallel::for_each(
                threads,
                batch,
                || ChunkDigester::new(size),
                |digester, slot| {
                    slot.read(view, digester, domain)
                        .map_err(StoreError::ReadDisk)
                },
            )?;
            let all = batch.iter().flat_map(|slot| &slot.fingerprints);
            session.inner.warm(all)?;
            self.take(session, batch)?;
            session.compress(packs)?;
            let last = slots[filled - 1].index as u64 + 1;
            if !(self.watch)((last * CHUNK_SIZE as u64).min(size)) {
                return Err(StoreError::Stopped);
            }
        }
        self.end_section(session);
        session.finish(packs)
    }

    /// Looks up the blocks of scanned chunks, in the order of the disk.
    fn take(&mut self, session: &mut Session<'_>, batch: &[Scanned]) -> Result<(), StoreError> {
        for slot in batch {
            self.begin_section(session, (slot.index / SECTION_CHUNKS) as u32)?;
            if let Some(draft) = &mut self.draft {
                draft.chunks[slot.index % SECTION_CHUNKS] = slot.hash;
            }
            let index = session.inner.index();
            let first = (slot.index * BLOCKS_PER_CHUNK) as u32;
            let hashes = slot.leaves.iter().zip(&slot.fingerprints);
            let blocks = slot.bytes.chunks_exact(BLOCK_SIZE).zip(hashes);
            for (at, (bytes, (leaf, fingerprint))) in blocks.enumerate() {
                let block = first + at as u32;
                let counts = self
                    .parent
                    .as_ref()
                    .is_none_or(|(_, dirty)| dirty.contains(u64::from(block)));
                if counts && *leaf != [0; 32] {
                    session.block(&index, block, *fingerprint, bytes);
                }
            }
        }
        Ok(())
    }

    fn begin_section(&mut self, session: &mut Session<'_>, index: u32) -> Result<(), StoreError> {
        if self
            .draft
            .as_ref()
            .is_some_and(|draft| draft.index == index)
        {
            return Ok(());
        }
        self.end_section(session);
        let (chunks, pieces) = match &self.parent {
            Some((parent, dirty)) => unchanged(session.inner, parent, dirty, index)?,
            None => ([ChunkHash::ZERO; SECTION_CHUNKS], Vec::new()),
        };
        self.draft = Some(Draft {
            index,
            chunks,
            pieces,
        });
        Ok(())
    }

    fn end_section(&mut self, session: &mut Session<'_>) {
        if let Some(mut draft) = self.draft.take() {
            draft.pieces.extend(session.take_pieces());
            draft.pieces.sort_unstable_by_key(|piece| piece.block);
            session.section(draft);
        }
    }
}

impl Scanned {
    fn read(
        &mut self,
        view: &dyn ReadAt,
        digester: &mut ChunkDigester,
        domain: &Domain,
    ) -> io::Result<()> {
        let start = self.index as u64 * CHUNK_SIZE as u64;
        let len = (view.size() - start).min(CHUNK_SIZE as u64) as usize;
        self.bytes.resize(len, 0);
        read_sparse(view, start, &mut self.bytes)?;
        self.hash = digester.chunk(self.index, &self.bytes);
        self.leaves.clear();
        self.leaves.extend_from_slice(digester.leaves());
        self.fingerprints.clear();
        let known = self.leaves.iter().map(|leaf| domain.fingerprint(leaf));
        self.fingerprints.extend(known);
        // The last block of a disk is kept whole, as it was hashed.
        self.bytes.resize(len.next_multiple_of(BLOCK_SIZE), 0);
        Ok(())
    }
}
