//! Deletion: disks go at once, their frames when nothing needs them and a grace period has passed.
//!
//! A collection marks frames that manifests name. A pack with none of them is *retired*: no later
//! ingest builds on it, and it is noted with the time. A pack of which less than half is needed is
//! retired too, after its needed frames were copied to new packs. A retired pack is removed by the
//! first collection after the grace period that still finds nothing in it, so a reader that found
//! its frames there has that long to end.
//!
//! The writer's lock is held throughout: no ingest can build on what is being removed. What a
//! crashed writer left has no manifest and goes the same way. At any moment the note may be lost;
//! then the grace period begins again, and that is all.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;

use disk::DiskDigest;

use crate::bulk::batches;
use crate::codec::{PACKS, Reader, manifest_name};
use crate::error::StoreError;
use crate::frame::{Frame, FrameId, frame_id};
use crate::index::{Location, Reach};
use crate::mend::write_frames;
use crate::serve::trace_name;
use crate::store::{Inner, Store, read_footer};

/// Where retired packs are noted.
pub(crate) const NOTE: &str = "retired.bullion";
const NOTE_MAGIC: &[u8; 8] = b"BULRETD\0";
const NOTE_VERSION: u32 = 1;
const NOTE_CONTEXT: &str = "bullion retired packs v1";
/// Room for some 600,000 packs.
const MAX_NOTE_BYTES: u64 = 16 << 20;

/// When a collection runs, and how long what nobody needs is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Collect {
    /// Seconds since 1970.
    pub now: u64,
    /// In seconds.
    pub grace: u64,
}

/// What a collection did.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Collected {
    /// Packs that became garbage now, and their size.
    pub retired_packs: u64,
    pub retired_bytes: u64,
    /// Packs that are gone, and their size.
    pub removed_packs: u64,
    pub removed_bytes: u64,
    /// Retired packs that wait for their time.
    pub waiting_packs: u64,
    pub waiting_bytes: u64,
    /// Frames that were copied out of packs with little left in them.
    pub copied_frames: u64,
    pub copied_bytes: u64,
    /// Packs that would have been emptied, had they been sound.
    pub damaged_packs: Vec<String>,
}

/// Retired packs, by name, and since when.
pub(crate) type Note = BTreeMap<String, u64>;

impl Store {
    /// Makes a disk unknown. Its frames go with a later [`Store::collect`]. Whether it was there.
    pub fn delete(&self, digest: &DiskDigest) -> Result<bool, StoreError> {
        let _writer = self.0.writer();
        let name = manifest_name(digest);
        let failed = |source| StoreError::Delete {
            name: name.clone(),
            source,
        };
        if !self.0.place.exists(&name).map_err(failed)? {
            return Ok(false);
        }
        self.0.place.delete(&name).map_err(failed)?;
        // It means nothing without its disk, so the disk goes first.
        let trace = trace_name(digest);
        if let Err(error) = self.0.place.delete(&trace) {
            tracing::warn!(trace, %error, "the boot trace of a deleted disk stays");
        }
        Ok(true)
    }

    /// Gives back the room that deleted disks took. With a manifest that cannot be understood
    /// nothing is collected, because what it needs is not known.
    pub fn collect(&self, when: Collect) -> Result<Collected, StoreError> {
        let _writer = self.0.writer();
        let inner = &*self.0;
        let mut note = read_note(&*inner.place)?;
        let needed = self.needed()?;
        let mut done = Collected::default();
        let Sorted { mut dead, sparse } = sort(inner, &needed);
        let mut written = HashSet::new();
        for pack in sparse {
            match copy_out(inner, pack, &needed, &mut done)? {
                None => done.damaged_packs.push(inner.index().pack(pack)),
                Some(names) => {
                    dead.push(pack);
                    written.extend(names);
                }
            }
        }
        // What was copied may have become a pack that was dead before.
        let names: BTreeMap<String, u32> = {
            let index = inner.index();
            let dead = dead.into_iter().map(|pack| (index.pack(pack), pack));
            dead.filter(|(name, _)| !written.contains(name)).collect()
        };
        let retired: Vec<u32> = names.values().copied().collect();
        // What is needed again is no garbage; what is dated after now was dated by another clock.
        note.retain(|name, since| names.contains_key(name) && *since <= when.now);
        for (name, pack) in &names {
            if !note.contains_key(name) {
                note.insert(name.clone(), when.now);
                done.retired_packs += 1;
                done.retired_bytes += inner.index().pack_len(*pack);
            }
        }
        inner.index_mut().retire(&retired);
        write_note(inner, &note)?;
        let mut gone = Vec::new();
        for (name, pack) in &names {
            let bytes = inner.index().pack_len(*pack);
            if when.now - note.get(name).copied().unwrap_or(when.now) < when.grace {
                done.waiting_packs += 1;
                done.waiting_bytes += bytes;
                continue;
            }
            if let Err(source) = inner.place.delete(name) {
                inner.index_mut().forget(&gone);
                let name = name.clone();
                return Err(StoreError::Delete { name, source });
            }
            gone.push(*pack);
            note.remove(name);
            done.removed_packs += 1;
            done.removed_bytes += bytes;
        }
        inner.index_mut().forget(&gone);
        if done.removed_packs > 0 {
            write_note(inner, &note)?;
        }
        Ok(done)
    }

    /// All frames and tables that a disk needs. What a table names is looked at once, however many
    /// disks share it, so this costs what differs between them. No key is needed.
    fn needed(&self) -> Result<Marks, StoreError> {
        let mut needed = Marks::default();
        for disk in self.list()? {
            let outside = self.0.outside(&disk.digest)?;
            self.0.each_frame(&outside, &mut |used| {
                let found = self.0.find(&used.id, Reach::Lasting)?;
                Ok(found.is_none_or(|at| needed.add(&at)))
            })?;
        }
        Ok(needed)
    }
}

/// Which frames are needed: a bit for each, so that a store of any size can be gone through.
#[derive(Default)]
struct Marks(HashMap<u32, Marked>);

#[derive(Default)]
struct Marked {
    frames: Vec<u64>,
    /// What they come to, as stored.
    bytes: u64,
}

impl Marks {
    /// Whether it was not marked before.
    fn add(&mut self, at: &Location) -> bool {
        let pack = self.0.entry(at.pack).or_default();
        let (word, bit) = ((at.nth / 64) as usize, 1 << (at.nth % 64));
        if pack.frames.len() <= word {
            pack.frames.resize(word + 1, 0);
        }
        let is_new = pack.frames[word] & bit == 0;
        if is_new {
            pack.frames[word] |= bit;
            pack.bytes += u64::from(at.len);
        }
        is_new
    }

    fn bytes(&self, pack: u32) -> u64 {
        self.0.get(&pack).map_or(0, |marked| marked.bytes)
    }

    fn has(&self, at: &Location) -> bool {
        let word = self
            .0
            .get(&at.pack)
            .and_then(|pack| pack.frames.get((at.nth / 64) as usize));
        word.is_some_and(|word| word & 1 << (at.nth % 64) != 0)
    }
}

/// Packs that are not worth keeping, by number.
struct Sorted {
    /// Nothing in them is needed from there.
    dead: Vec<u32>,
    /// Less than half of them is.
    sparse: Vec<u32>,
}

/// A frame that is in two packs is needed in one of them.
fn sort(inner: &Inner, needed: &Marks) -> Sorted {
    let index = inner.index();
    let (dead, live): (Vec<u32>, Vec<u32>) = index
        .pack_numbers()
        .partition(|pack| needed.bytes(*pack) == 0);
    let is_sparse = |pack: &u32| needed.bytes(*pack) * 2 < index.frame_bytes(*pack);
    Sorted {
        dead,
        sparse: live.into_iter().filter(is_sparse).collect(),
    }
}

/// Copies what is needed of a pack to new ones, whose names it answers. None if the pack is not
/// what it was; then it stays, for what can still be read in it.
fn copy_out(
    inner: &Inner,
    pack: u32,
    needed: &Marks,
    done: &mut Collected,
) -> Result<Option<Vec<String>>, StoreError> {
    let mut wanted = inner.frames_of(pack)?;
    wanted.retain(|at| needed.has(at));
    let entry = {
        let index = inner.index();
        crate::place::Entry {
            name: index.pack(pack),
            bytes: index.pack_len(pack),
        }
    };
    let Ok(footer) = read_footer(&*inner.place, &entry)? else {
        return Ok(None);
    };
    let fingerprints: BTreeMap<FrameId, _> = footer
        .frames
        .into_iter()
        .map(|frame| (frame.id, frame.fingerprints))
        .collect();
    let mut frames = Vec::with_capacity(wanted.len());
    for batch in batches(wanted.iter().zip(0..).map(|(at, number)| (number, *at))) {
        let read = batch.stored(inner, |_, at, stored| {
            let known = fingerprints.get(&at.id).cloned();
            match known.filter(|_| frame_id(at.coding, at.blocks, stored) == at.id) {
                None => Err(inner.damaged_frame(at, "its bytes are not what was stored")),
                Some(fingerprints) => {
                    let stored = stored.to_vec();
                    let frame = Frame {
                        id: at.id,
                        coding: at.coding,
                        blocks: at.blocks,
                        stored,
                    };
                    frames.push((frame, fingerprints));
                    Ok(())
                }
            }
        });
        match read {
            Err(StoreError::Damaged { .. } | StoreError::DamagedFrame { .. }) => return Ok(None),
            other => other?,
        }
    }
    done.copied_frames += frames.len() as u64;
    done.copied_bytes += wanted.iter().map(|at| u64::from(at.len)).sum::<u64>();
    write_frames(inner, frames).map(Some)
}

/// A note that is lost or cannot be understood only costs time.
pub(crate) fn read_note(place: &dyn crate::place::Place) -> Result<Note, StoreError> {
    match place.get(NOTE, MAX_NOTE_BYTES) {
        Ok(bytes) => Ok(bytes
            .and_then(|bytes| parse_note(&bytes))
            .unwrap_or_default()),
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => Ok(Note::new()),
        Err(source) => Err(StoreError::Get {
            name: NOTE.to_owned(),
            source,
        }),
    }
}

pub(crate) fn write_note(inner: &Inner, note: &Note) -> Result<(), StoreError> {
    let mut bytes = NOTE_MAGIC.to_vec();
    bytes.extend_from_slice(&NOTE_VERSION.to_le_bytes());
    bytes.extend_from_slice(&(note.len() as u32).to_le_bytes());
    for (name, since) in note {
        let name = name
            .strip_prefix(PACKS)
            .and_then(|name| name.strip_suffix(".pack"));
        bytes.extend_from_slice(name.unwrap_or_default().as_bytes());
        bytes.extend_from_slice(&since.to_le_bytes());
    }
    let check = blake3::derive_key(NOTE_CONTEXT, &bytes);
    bytes.extend_from_slice(&check);
    inner.put(NOTE, &bytes)
}

fn parse_note(bytes: &[u8]) -> Option<Note> {
    let (body, check) = bytes.split_last_chunk::<32>()?;
    if blake3::derive_key(NOTE_CONTEXT, body) != *check {
        return None;
    }
    let mut reader = Reader::new(body);
    if reader.take(8).ok()? != NOTE_MAGIC || reader.u32().ok()? != NOTE_VERSION {
        return None;
    }
    let mut note = Note::new();
    for _ in 0..reader.u32().ok()? {
        let name = std::str::from_utf8(reader.take(32).ok()?).ok()?;
        note.insert(format!("{PACKS}{name}.pack"), reader.u64().ok()?);
    }
    reader.is_empty().then_some(note)
}
