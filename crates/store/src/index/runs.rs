//! What of the index is noted in the place, for stores that are larger than memory: which packs
//! there are, with their hooks, and for every frame the pack it is in.
//!
//! ```text
//! index.bullion           what of the following counts
//! index/<32 hex>.packs    a group of packs, in the order of their numbers, and their hooks
//! index/<32 hex>.frames   a part of a run: frames and their packs, sorted, in pages
//! ```
//!
//! All of it follows from the packs and may be lost: then their footers are read again. It leads to
//! a pack and never says what is in one; that is the footer's to say.

use std::sync::Arc;

use super::filter::Filter;
use super::hooks::HookKey;
use super::merge::{Buffers, filter_of};
use crate::codec::{Reader, hex};
use crate::error::StoreError;
use crate::frame::FrameId;
use crate::pack::PackFooter;
use crate::place::Place;

pub(crate) const ROOT: &str = "index.bullion";
pub(crate) const FOLDER: &str = "index/";

const ROOT_MAGIC: &[u8; 8] = b"BULINDX\0";
const GROUP_MAGIC: &[u8; 8] = b"BULIPAK\0";
const PART_MAGIC: &[u8; 8] = b"BULIFRM\0";
const VERSION: u32 = 1;
const ROOT_CONTEXT: &str = "bullion index v1";
const GROUP_CONTEXT: &str = "bullion index packs v1";
const PART_CONTEXT: &str = "bullion index frames v1";
const PAGE_CONTEXT: &str = "bullion index page v1";

const MAX_ROOT_BYTES: u64 = 16 << 20;
const MAX_GROUP_BYTES: u64 = 64 << 20;
/// As many runs as doubling sizes make of any store, and more.
pub(super) const MAX_RUNS: usize = 24;

pub(super) const PAGE_BYTES: usize = 4096;
const PAGE_HEAD: usize = 16;
const ENTRY_BYTES: usize = 12;
pub(super) const PAGE_ENTRIES: usize = (PAGE_BYTES - PAGE_HEAD) / ENTRY_BYTES;
/// 8 MiB, which is written at once; where the index has little memory, less.
pub(super) const PART_PAGES: usize = 2048;
const PART_HEAD: usize = 16;

/// A pack, as the index knows each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotedPack {
    pub(super) name: [u8; 16],
    pub(super) file_bytes: u32,
    /// Frames and tables, as stored.
    pub(super) frame_bytes: u32,
    /// Tables alone.
    pub(super) table_bytes: u32,
    pub(super) frames: u32,
    pub(super) tables: u32,
    pub(super) blocks: u32,
}

impl NotedPack {
    pub(super) fn new(name: [u8; 16], file_bytes: u64, footer: &PackFooter) -> NotedPack {
        let tables = || footer.frames.iter().filter(|frame| frame.blocks == 0);
        NotedPack {
            name,
            file_bytes: file_bytes as u32,
            frame_bytes: footer.frames.iter().map(|frame| frame.len).sum(),
            table_bytes: tables().map(|frame| frame.len).sum(),
            frames: footer.frames.len() as u32,
            tables: tables().count() as u32,
            blocks: footer
                .frames
                .iter()
                .map(|frame| u32::from(frame.blocks))
                .sum(),
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.name);
        let numbers = [
            self.file_bytes,
            self.frame_bytes,
            self.table_bytes,
            self.frames,
            self.tables,
            self.blocks,
        ];
        for number in numbers {
            out.extend_from_slice(&number.to_le_bytes());
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<NotedPack, &'static str> {
        let noted = NotedPack {
            name: reader.array()?,
            file_bytes: reader.u32()?,
            frame_bytes: reader.u32()?,
            table_bytes: reader.u32()?,
            frames: reader.u32()?,
            tables: reader.u32()?,
            blocks: reader.u32()?,
        };
        match noted.table_bytes <= noted.frame_bytes && noted.tables <= noted.frames {
            true => Ok(noted),
            false => Err("it has an impossible pack"),
        }
    }
}

/// A frame's first bytes as a number that sorts as they do, and the number of a pack.
pub(super) type Entry = (u64, u32);

pub(super) fn frame_key(id: &FrameId) -> u64 {
    let mut head = [0; 8];
    head.copy_from_slice(&id.0[..8]);
    u64::from_be_bytes(head)
}

/// Packs that were noted together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    /// The number of each, rising, with what is known of it.
    pub(super) packs: Vec<(u32, NotedPack)>,
    pub(super) hooks: Vec<(HookKey, u32)>,
}

impl Group {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = head(GROUP_MAGIC, self.packs.len());
        for (number, pack) in &self.packs {
            out.extend_from_slice(&number.to_le_bytes());
            pack.write(&mut out);
        }
        out.extend_from_slice(&(self.hooks.len() as u32).to_le_bytes());
        for (key, pack) in &self.hooks {
            out.extend_from_slice(key);
            out.extend_from_slice(&pack.to_le_bytes());
        }
        seal(GROUP_CONTEXT, out)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Group, &'static str> {
        let body = unseal(GROUP_CONTEXT, bytes)?;
        let mut reader = Reader::new(body);
        let mut packs: Vec<(u32, NotedPack)> = Vec::new();
        for _ in 0..read_head(&mut reader, GROUP_MAGIC)? {
            let number = reader.u32()?;
            if packs.last().is_some_and(|(last, _)| *last >= number) {
                return Err("its packs are not in order");
            }
            packs.push((number, NotedPack::read(&mut reader)?));
        }
        let mut hooks = Vec::new();
        for _ in 0..reader.u32()? {
            let (key, pack) = (reader.array()?, reader.u32()?);
            if packs
                .binary_search_by_key(&pack, |(number, _)| *number)
                .is_err()
            {
                return Err("a hook leads to a pack of another group");
            }
            hooks.push((key, pack));
        }
        match reader.is_empty() {
            true => Ok(Group { packs, hooks }),
            false => Err("it is longer than it should be"),
        }
    }
}

fn head(magic: &[u8; 8], count: usize) -> Vec<u8> {
    let mut out = magic.to_vec();
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&(count as u32).to_le_bytes());
    out
}

fn read_head(reader: &mut Reader<'_>, magic: &[u8; 8]) -> Result<u32, &'static str> {
    match reader.take(8)? == magic && reader.u32()? == VERSION {
        true => Ok(reader.u32()?),
        false => Err("it is not of a version that is known"),
    }
}

fn seal(context: &str, mut out: Vec<u8>) -> Vec<u8> {
    let check = blake3::derive_key(context, &out);
    out.extend_from_slice(&check);
    out
}

fn unseal<'a>(context: &str, bytes: &'a [u8]) -> Result<&'a [u8], &'static str> {
    let (body, check) = bytes.split_last_chunk::<32>().ok_or("it ends too early")?;
    match blake3::derive_key(context, body) == *check {
        true => Ok(body),
        false => Err("its checksum is wrong"),
    }
}

/// A name by content: what is written under it is always the same.
pub(super) fn named(bytes: &[u8]) -> [u8; 16] {
    let mut name = [0; 16];
    name.copy_from_slice(&bytes[bytes.len() - 32..][..16]);
    name
}

pub(super) fn group_name(name: &[u8; 16]) -> String {
    format!("{FOLDER}{}.packs", hex(name))
}

pub(super) fn part_name(name: &[u8; 16]) -> String {
    format!("{FOLDER}{}.frames", hex(name))
}

/// A stretch of a run, in one file.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) name: [u8; 16],
    /// The first entry of each page.
    pub(super) fences: Arc<[u64]>,
}

impl Part {
    fn file_bytes(pages: usize) -> usize {
        PART_HEAD + pages * (PAGE_BYTES + 8) + 32
    }

    /// Reads what must be in memory of a part.
    pub(super) fn open(
        place: &dyn Place,
        name: [u8; 16],
        pages: usize,
    ) -> Result<Part, StoreError> {
        let file = part_name(&name);
        let damaged = |what| StoreError::Damaged {
            name: part_name(&name),
            what,
        };
        if pages == 0 || pages > PART_PAGES {
            return Err(damaged("it has an impossible length"));
        }
        let from = PART_HEAD + pages * PAGE_BYTES;
        let tail = place
            .get_range(&file, from as u64, pages * 8 + 32)
            .map_err(|source| StoreError::Get { name: file, source })?;
        let (fences, check) = tail.split_at(pages * 8);
        if tail_check(pages, fences) != *check {
            return Err(damaged("its checksum is wrong"));
        }
        let (fences, _) = fences.as_chunks();
        let fences: Arc<[u64]> = fences.iter().map(|key| u64::from_be_bytes(*key)).collect();
        match fences.is_sorted() {
            true => Ok(Part { name, fences }),
            false => Err(damaged("its pages are not in order")),
        }
    }

    /// Pages, in one read.
    pub(super) fn pages(
        &self,
        place: &dyn Place,
        first: usize,
        count: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        let name = part_name(&self.name);
        let from = PART_HEAD + first * PAGE_BYTES;
        let bytes = place.get_range(&name, from as u64, count * PAGE_BYTES);
        let bytes = bytes.map_err(|source| StoreError::Get {
            name: name.clone(),
            source,
        })?;
        let mut entries = Vec::with_capacity(count * PAGE_ENTRIES);
        for (page, number) in bytes.chunks_exact(PAGE_BYTES).zip(first..) {
            read_page(number, page, &mut entries).map_err(|what| StoreError::Damaged {
                name: name.clone(),
                what,
            })?;
        }
        Ok(entries)
    }
}

/// The file of a part while its entries come, in order. Nothing else is kept of them.
pub(super) struct PartWriter {
    bytes: Vec<u8>,
    fences: Vec<u64>,
    most_pages: usize,
    /// On the last page.
    entries: usize,
    last: Option<Entry>,
}

impl PartWriter {
    /// Of so many pages at most.
    pub(super) fn new(most_pages: usize) -> PartWriter {
        PartWriter {
            bytes: Vec::with_capacity(Part::file_bytes(most_pages)),
            fences: Vec::with_capacity(most_pages),
            most_pages,
            entries: PAGE_ENTRIES,
            last: None,
        }
    }

    /// What one takes in memory.
    pub(super) fn room(most_pages: usize) -> usize {
        Part::file_bytes(most_pages) + most_pages * size_of::<u64>()
    }

    /// Whether the next entry belongs to another part.
    pub(super) fn is_full(&self) -> bool {
        self.entries == PAGE_ENTRIES && self.fences.len() == self.most_pages
    }

    pub(super) fn last(&self) -> Option<Entry> {
        self.last
    }

    pub(super) fn push(&mut self, entry: Entry) {
        let (key, pack) = entry;
        if self.entries == PAGE_ENTRIES {
            self.close_page();
            if self.fences.is_empty() {
                self.bytes.clear();
                self.bytes.extend_from_slice(&head(PART_MAGIC, 0));
            }
            self.bytes.extend_from_slice(&[0; PAGE_HEAD]);
            self.fences.push(key);
            self.entries = 0;
        }
        self.bytes.extend_from_slice(&key.to_be_bytes());
        self.bytes.extend_from_slice(&pack.to_le_bytes());
        self.entries += 1;
        self.last = Some(entry);
    }

    fn close_page(&mut self) {
        let Some(number) = self.fences.len().checked_sub(1) else {
            return;
        };
        let start = PART_HEAD + number * PAGE_BYTES;
        self.bytes.resize(start + PAGE_BYTES, 0);
        let page = &mut self.bytes[start..];
        page[..8].copy_from_slice(&(self.entries as u64).to_le_bytes());
        let check = page_check(number, page);
        page[8..PAGE_HEAD].copy_from_slice(&check);
    }

    /// The part and its file, and an empty one from now on; nothing if nothing came.
    pub(super) fn finish(&mut self) -> Option<(Part, &[u8])> {
        self.close_page();
        self.entries = PAGE_ENTRIES;
        let pages = self.fences.len();
        if pages == 0 {
            return None;
        }
        let from = self.bytes.len();
        for fence in &self.fences {
            self.bytes.extend_from_slice(&fence.to_be_bytes());
        }
        let check = tail_check(pages, &self.bytes[from..]);
        self.bytes.extend_from_slice(&check);
        self.bytes[PART_HEAD - 4..PART_HEAD].copy_from_slice(&(pages as u32).to_le_bytes());
        let part = Part {
            // Parts may have the same fences and differ.
            name: part_key(&self.bytes),
            fences: self.fences.as_slice().into(),
        };
        self.fences.clear();
        Some((part, &self.bytes))
    }
}

fn part_key(bytes: &[u8]) -> [u8; 16] {
    named(&blake3::derive_key(PART_CONTEXT, bytes))
}

fn tail_check(pages: usize, fences: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(PART_CONTEXT);
    hasher.update(&(pages as u64).to_le_bytes()).update(fences);
    *hasher.finalize().as_bytes()
}

fn page_check(number: usize, page: &[u8]) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new_derive_key(PAGE_CONTEXT);
    hasher.update(&(number as u64).to_le_bytes());
    hasher.update(&page[..8]).update(&page[PAGE_HEAD..]);
    let mut check = [0; 8];
    check.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    check
}

fn read_page(number: usize, page: &[u8], into: &mut Vec<Entry>) -> Result<(), &'static str> {
    let mut reader = Reader::new(page);
    let count = reader.u64()?;
    if reader.array()? != page_check(number, page) || count > PAGE_ENTRIES as u64 {
        return Err("a page of it is damaged");
    }
    for _ in 0..count {
        into.push((u64::from_be_bytes(reader.array()?), reader.u32()?));
    }
    Ok(())
}

/// A sorted list of frames, in parts.
#[derive(Debug, Clone, Default)]
pub(super) struct Run {
    pub(super) parts: Vec<Part>,
    /// Which frames it may have.
    filter: Option<Arc<Filter>>,
}

impl Run {
    pub(super) fn of(parts: Vec<Part>, filter: Option<Filter>) -> Run {
        Run {
            parts,
            filter: filter.map(Arc::new),
        }
    }

    pub(super) fn pages(&self) -> usize {
        self.parts.iter().map(|part| part.fences.len()).sum()
    }

    fn packs_of(&self, place: &dyn Place, key: u64) -> Result<Vec<u32>, StoreError> {
        let mut found = Vec::new();
        if self
            .filter
            .as_ref()
            .is_some_and(|known| !known.may_have(key))
        {
            return Ok(found);
        }
        // Entries with one key may lie on both sides of a border.
        let first = self.parts.partition_point(|part| part.fences[0] < key);
        for part in &self.parts[first.saturating_sub(1)..] {
            if part.fences[0] > key {
                break;
            }
            let page = part.fences.partition_point(|fence| *fence < key);
            let from = page.saturating_sub(1);
            let to = part.fences.partition_point(|fence| *fence <= key);
            let entries = part.pages(place, from, to - from)?;
            let same = entries.iter().filter(|(other, _)| *other == key);
            found.extend(same.map(|(_, pack)| *pack));
        }
        Ok(found)
    }

    fn bytes(&self) -> usize {
        let filter = self.filter.as_ref().map_or(0, |filter| filter.bytes());
        filter + self.parts.len() * 64 + self.pages() * 8
    }
}

/// What is noted in the place, and counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Runs {
    pub(super) groups: Vec<[u8; 16]>,
    /// The oldest and largest first.
    pub(super) runs: Vec<Run>,
}

impl Runs {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = head(ROOT_MAGIC, self.groups.len());
        out.extend_from_slice(self.groups.as_flattened());
        out.extend_from_slice(&(self.runs.len() as u32).to_le_bytes());
        for run in &self.runs {
            out.extend_from_slice(&(run.parts.len() as u32).to_le_bytes());
            for part in &run.parts {
                out.extend_from_slice(&part.name);
                out.extend_from_slice(&(part.fences.len() as u32).to_le_bytes());
            }
        }
        seal(ROOT_CONTEXT, out)
    }

    /// What is noted; nothing if there is no note.
    pub(super) fn open(place: &dyn Place, buffers: Buffers) -> Result<Option<Runs>, StoreError> {
        let Some(bytes) = get(place, ROOT, MAX_ROOT_BYTES)? else {
            return Ok(None);
        };
        let names = Names::decode(&bytes).map_err(|what| StoreError::Damaged {
            name: ROOT.to_owned(),
            what,
        })?;
        let open = |run: &Vec<([u8; 16], u32)>| {
            let parts = run.iter();
            parts
                .map(|(name, pages)| Part::open(place, *name, *pages as usize))
                .collect::<Result<Vec<_>, _>>()
                .map(|parts| Run::of(parts, None))
        };
        let mut runs = Runs {
            runs: names.runs.iter().map(open).collect::<Result<_, _>>()?,
            groups: names.groups,
        };
        runs.make_filters(place, buffers)?;
        Ok(Some(runs))
    }

    /// The groups one after the other: all hooks that were ever noted are more than there may be memory for.
    pub(super) fn groups<'a>(
        &'a self,
        place: &'a dyn Place,
    ) -> impl Iterator<Item = Result<Group, StoreError>> + 'a {
        self.groups.iter().map(move |name| {
            let name = group_name(name);
            let bytes = get(place, &name, MAX_GROUP_BYTES)?.ok_or("it is gone");
            let group = bytes.and_then(|bytes| Group::decode(&bytes));
            group.map_err(|what| StoreError::Damaged { name, what })
        })
    }

    /// Packs that a frame may be in.
    pub(super) fn packs_of(&self, place: &dyn Place, id: &FrameId) -> Result<Vec<u32>, StoreError> {
        let key = frame_key(id);
        let mut found = Vec::new();
        for run in self.runs.iter().rev() {
            found.extend(run.packs_of(place, key)?);
        }
        Ok(found)
    }

    /// Gives all lists but the oldest a filter, so that a lookup reads a page of that one and hardly ever another.
    /// Together they are a small part of it.
    pub(super) fn make_filters(
        &mut self,
        place: &dyn Place,
        buffers: Buffers,
    ) -> Result<(), StoreError> {
        for (age, run) in self.runs.iter_mut().enumerate() {
            run.filter = match run.filter.take() {
                _ if age == 0 => None,
                None => Some(Arc::new(filter_of(place, run, buffers)?)),
                known => known,
            };
        }
        Ok(())
    }

    /// What those that are merged to be the next of these shall have.
    pub(super) fn filter_for(&self, merged: &[Run]) -> Option<Filter> {
        let pages: usize = merged.iter().map(Run::pages).sum();
        (!self.runs.is_empty()).then(|| Filter::new(pages * PAGE_ENTRIES))
    }

    pub(super) fn count(&self) -> usize {
        self.runs.len()
    }

    pub(super) fn bytes(&self) -> usize {
        let runs: usize = self.runs.iter().map(Run::bytes).sum();
        runs + self.groups.len() * 16
    }

    /// Files that count.
    pub(super) fn files(&self) -> Vec<String> {
        let parts = self.runs.iter().flat_map(|run| &run.parts);
        let groups = self.groups.iter().map(group_name);
        groups
            .chain(parts.map(|part| part_name(&part.name)))
            .collect()
    }
}

fn get(place: &dyn Place, name: &str, limit: u64) -> Result<Option<Vec<u8>>, StoreError> {
    place.get(name, limit).map_err(|source| StoreError::Get {
        name: name.to_owned(),
        source,
    })
}

/// The file that says what counts.
struct Names {
    groups: Vec<[u8; 16]>,
    runs: Vec<Vec<([u8; 16], u32)>>,
}

impl Names {
    fn decode(bytes: &[u8]) -> Result<Names, &'static str> {
        let mut reader = Reader::new(unseal(ROOT_CONTEXT, bytes)?);
        let mut names = Names {
            groups: Vec::new(),
            runs: Vec::new(),
        };
        for _ in 0..read_head(&mut reader, ROOT_MAGIC)? {
            names.groups.push(reader.array()?);
        }
        for _ in 0..reader.u32()? {
            let mut run = Vec::new();
            for _ in 0..reader.u32()? {
                run.push((reader.array()?, reader.u32()?));
            }
            names.runs.push(run);
        }
        let possible = names.runs.len() <= MAX_RUNS && names.runs.iter().all(|run| !run.is_empty());
        match reader.is_empty() && possible {
            true => Ok(names),
            false => Err("it is not what it should be"),
        }
    }
}

/// For fuzzing: reads bytes as any of the files, behind their checksums too.
pub(crate) fn check_files(bytes: &[u8]) {
    let _ = (Names::decode(bytes), Group::decode(bytes));
    let _ = Names::decode(&seal(ROOT_CONTEXT, bytes.to_vec()));
    let _ = Group::decode(&seal(GROUP_CONTEXT, bytes.to_vec()));
    let _ = read_page(0, bytes, &mut Vec::new());
}
