//! Reading through sorted lists of frames, part by part, so that memory does not grow with the lists, and merging
//! them.

use super::filter::Filter;
use super::runs::{Entry, PAGE_ENTRIES, PART_PAGES, Part, Run, part_name};
use crate::error::StoreError;
use crate::place::Place;

/// Pages that are read of each list at a time: 64 KiB.
const READ_PAGES: usize = 16;

/// Where in a list the merge is.
struct Cursor<'a> {
    parts: &'a [Part],
    part: usize,
    page: usize,
    buffer: std::vec::IntoIter<Entry>,
    next: Option<Entry>,
}

impl<'a> Cursor<'a> {
    fn new(place: &dyn Place, run: &'a Run) -> Result<Cursor<'a>, StoreError> {
        let mut cursor = Cursor {
            parts: &run.parts,
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
            let count = READ_PAGES.min(part.fences.len() - self.page);
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
    waiting: Vec<Entry>,
    done: Vec<Part>,
}

impl<'a> RunWriter<'a> {
    pub(super) fn new(place: &'a dyn Place) -> RunWriter<'a> {
        RunWriter {
            place,
            waiting: Vec::new(),
            done: Vec::new(),
        }
    }

    pub(super) fn push(&mut self, entry: Entry) -> Result<(), StoreError> {
        if self.waiting.last() == Some(&entry) {
            return Ok(());
        }
        self.waiting.push(entry);
        match self.waiting.len() == PART_PAGES * PAGE_ENTRIES {
            true => self.close(),
            false => Ok(()),
        }
    }

    fn close(&mut self) -> Result<(), StoreError> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let (part, bytes) = Part::encode(&self.waiting);
        let name = part_name(&part.name);
        let put = self.place.put(&name, &bytes);
        put.map_err(|source| StoreError::Put { name, source })?;
        self.waiting.clear();
        self.done.push(part);
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<Run, StoreError> {
        self.close()?;
        Ok(Run::of(self.done))
    }
}

/// One list of several, without packs that are gone.
pub(super) fn merge(
    place: &dyn Place,
    runs: &[Run],
    keep: &dyn Fn(u32) -> bool,
) -> Result<Run, StoreError> {
    let mut cursors = Vec::with_capacity(runs.len());
    for run in runs {
        cursors.push(Cursor::new(place, run)?);
    }
    let mut out = RunWriter::new(place);
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
pub(super) fn filter_of(place: &dyn Place, run: &Run) -> Result<Filter, StoreError> {
    let mut filter = Filter::new(run.pages() * PAGE_ENTRIES);
    let mut cursor = Cursor::new(place, run)?;
    while let Some((key, _)) = cursor.next {
        filter.add(key);
        cursor.advance(place)?;
    }
    Ok(filter)
}
