//! Reading through sorted lists of frames, part by part, so that memory does not grow with the lists, and merging
//! them.

use super::filter::Filter;
use super::runs::{Entry, PAGE_BYTES, PAGE_ENTRIES, PART_PAGES, Part, PartWriter, Run, part_name};
use crate::error::StoreError;
use crate::place::Place;

/// Pages that are read of each list at a time, at most: 64 KiB.
const READ_PAGES: usize = 16;
/// Lists that are merged at once, mostly less.
const MERGED: usize = 8;
/// Of all room, what a part that is written may take.
const PART_PART: u64 = 64;

/// What is read and written at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Buffers {
    part_pages: usize,
    read_pages: usize,
}

impl Buffers {
    /// Where the index has so much memory.
    pub(super) fn of(room: u64) -> Buffers {
        let pages = usize::try_from(room / PART_PART).unwrap_or(usize::MAX) / PAGE_BYTES;
        let part_pages = pages.clamp(1, PART_PAGES);
        Buffers {
            part_pages,
            read_pages: (part_pages / MERGED).clamp(1, READ_PAGES),
        }
    }

    /// What they take. Where that is next to nothing, single pages that are read do not count.
    pub(super) fn bytes(&self) -> usize {
        let page = PAGE_BYTES + PAGE_ENTRIES * size_of::<Entry>();
        let pages = (self.part_pages / MERGED).min(READ_PAGES);
        PartWriter::room(self.part_pages) + MERGED * pages * page
    }
}

/// Where in a list the merge is.
struct Cursor<'a> {
    parts: &'a [Part],
    read_pages: usize,
    part: usize,
    page: usize,
    buffer: std::vec::IntoIter<Entry>,
    next: Option<Entry>,
}

impl<'a> Cursor<'a> {
    fn new(place: &dyn Place, run: &'a Run, buffers: Buffers) -> Result<Cursor<'a>, StoreError> {
        let mut cursor = Cursor {
            parts: &run.parts,
            read_pages: buffers.read_pages,
            part: 0,
            page: 0,
            buffer: Vec::new().into_iter(),
            next: None,
        };
        cursor.advance(place)?;
        Ok(cursor)
    }

    fn advance(&mut self, place: &dyn Place) -> Result<(), StoreError> {
        loop {
            self.next = self.buffer.next();
            let Some(part) = self.parts.get(self.part).filter(|_| self.next.is_none()) else {
                return Ok(());
            };
            let count = self.read_pages.min(part.fences.len() - self.page);
            self.buffer = part.pages(place, self.page, count)?.into_iter();
            self.page += count;
            if self.page == part.fences.len() {
                (self.part, self.page) = (self.part + 1, 0);
            }
        }
    }
}

/// Writes entries, which come sorted, in parts.
pub(super) struct RunWriter<'a> {
    place: &'a dyn Place,
    buffers: Buffers,
    writer: PartWriter,
    done: Vec<Part>,
    filter: Option<Filter>,
}

impl<'a> RunWriter<'a> {
    /// With a filter of what comes if there is one.
    pub(super) fn new(
        place: &'a dyn Place,
        buffers: Buffers,
        filter: Option<Filter>,
    ) -> RunWriter<'a> {
        RunWriter {
            place,
            buffers,
            writer: PartWriter::new(buffers.part_pages),
            done: Vec::new(),
            filter,
        }
    }

    pub(super) fn push(&mut self, entry: Entry) -> Result<(), StoreError> {
        if self.writer.last() == Some(entry) {
            return Ok(());
        }
        if self.writer.is_full() {
            self.close()?;
        }
        self.writer.push(entry);
        if let Some(filter) = &mut self.filter {
            filter.add(entry.0);
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), StoreError> {
        if let Some((part, bytes)) = self.writer.finish() {
            let name = part_name(&part.name);
            let put = self.place.put(&name, bytes);
            put.map_err(|source| StoreError::Put { name, source })?;
            self.done.push(part);
        }
        Ok(())
    }

    /// Nothing if nothing came.
    pub(super) fn finish(mut self) -> Result<Option<Run>, StoreError> {
        self.close()?;
        let RunWriter { done, filter, .. } = self;
        Ok((!done.is_empty()).then(|| Run::of(done, filter)))
    }
}

/// Writes one list of several, without packs that are gone.
pub(super) fn merge(
    place: &dyn Place,
    runs: &[Run],
    mut out: RunWriter<'_>,
    keep: &dyn Fn(u32) -> bool,
) -> Result<Option<Run>, StoreError> {
    let mut cursors = Vec::with_capacity(runs.len());
    for run in runs {
        cursors.push(Cursor::new(place, run, out.buffers)?);
    }
    loop {
        let ahead = cursors.iter_mut().filter(|cursor| cursor.next.is_some());
        let Some(first) = ahead.min_by_key(|cursor| cursor.next) else {
            return out.finish();
        };
        if let Some(entry) = first.next.filter(|(_, pack)| keep(*pack)) {
            out.push(entry)?;
        }
        first.advance(place)?;
    }
}

/// Which frames a list may have.
pub(super) fn filter_of(
    place: &dyn Place,
    run: &Run,
    buffers: Buffers,
) -> Result<Filter, StoreError> {
    let mut filter = Filter::new(run.pages() * PAGE_ENTRIES);
    let mut cursor = Cursor::new(place, run, buffers)?;
    while let Some((key, _)) = cursor.next {
        filter.add(key);
        cursor.advance(place)?;
    }
    Ok(filter)
}
