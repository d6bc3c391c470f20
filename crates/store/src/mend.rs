//! Repair: a pack in which frames are no longer what they were is written anew, with those frames
//! from other stores. What no other store has is given up, so that whole disks that need it are seen
//! to be incomplete and can be copied again, and so that no new disk builds on it.
//!
//! Nothing here needs a key where frames are moved as they are stored: a frame is named by a hash of
//! its stored bytes, whoever has them.

use std::collections::BTreeMap;

use disk::{BLOCK_SIZE, leaf_hashes};

use crate::collect::{read_note, write_note};
use crate::error::StoreError;
use crate::frame::{FRAME_BLOCKS, Frame, FrameId, Unpacker, frame_id};
use crate::index::{Fingerprint, Location, Precedence, Reach};
use crate::pack::{Pack, PackBuilder};
use crate::place::Entry;
use crate::session::write_packs;
use crate::store::{Inner, Store, read_footer};

/// What a pack was found to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PackCheck {
    /// Bytes that were read.
    pub bytes: u64,
    pub frames: u64,
    /// Frames whose bytes are not what was stored.
    pub damaged: Vec<FrameId>,
    /// What the pack says about itself is not what it was: the next opening would not find its
    /// frames.
    pub unreadable: bool,
}

impl PackCheck {
    pub fn is_sound(&self) -> bool {
        self.damaged.is_empty() && !self.unreadable
    }
}

/// What a repair came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Mended {
    /// Packs that were written anew.
    pub packs: u64,
    /// Frames that came from other stores, and their stored bytes.
    pub frames: u64,
    pub bytes: u64,
    /// Frames that no store has any more.
    pub lost: u64,
}

impl Mended {
    pub fn add(&mut self, other: &Mended) {
        self.packs += other.packs;
        self.frames += other.frames;
        self.bytes += other.bytes;
        self.lost += other.lost;
    }
}

impl Store {
    /// The packs that lookups lead to, by name.
    pub fn packs(&self) -> Vec<String> {
        let index = self.0.index();
        let live = index.live_packs();
        let mut names: Vec<String> = live.map(|pack| index.pack(pack)).collect();
        names.sort();
        names
    }

    /// Reads a pack and holds every frame against its name. One that is unknown, or gone since it
    /// was asked for, is sound.
    pub fn check_pack(&self, name: &str) -> Result<PackCheck, StoreError> {
        let inner = &*self.0;
        let Some(pack) = inner.index().pack_number(name) else {
            return Ok(PackCheck::default());
        };
        let frames = inner.frames_of(pack)?;
        let read = Read::of(inner, pack, &frames)?;
        let damaged = frames.iter().filter(|at| read.sound(at).is_none());
        Ok(PackCheck {
            bytes: read.bytes.len() as u64,
            frames: frames.len() as u64,
            damaged: damaged.map(|at| at.id).collect(),
            unreadable: fingerprints_of(inner, pack)?.is_none(),
        })
    }

    /// Makes a frame readable again, if one of the others has it: the pack it is in is written anew,
    /// or, if it is in none, a new one is made.
    pub fn mend_frame(
        &self,
        id: &FrameId,
        others: &[Store],
        now: u64,
    ) -> Result<Mended, StoreError> {
        let inner = &*self.0;
        let found = inner.find(id, Reach::Lasting)?;
        if let Some(at) = found {
            let name = inner.index().pack(at.pack);
            return self.mend_pack(&name, others, now);
        }
        let _writer = inner.writer();
        let mut mended = Mended::default();
        match from_others(inner, id, others) {
            None => mended.lost = 1,
            Some((frame, fingerprints)) => {
                mended.frames = 1;
                mended.bytes = frame.stored.len() as u64;
                write_frames(inner, vec![(frame, fingerprints)])?;
            }
        }
        Ok(mended)
    }

    /// Writes a pack anew: what is sound of it, and from the others what is not. The old one waits
    /// to be removed as any pack does that nothing needs. `now` is in seconds since 1970.
    pub fn mend_pack(&self, name: &str, others: &[Store], now: u64) -> Result<Mended, StoreError> {
        let inner = &*self.0;
        let _writer = inner.writer();
        let Some(pack) = inner.index().pack_number(name) else {
            return Ok(Mended::default());
        };
        let frames = inner.frames_here(pack)?;
        let read = Read::of(inner, pack, &frames)?;
        let fingerprints = fingerprints_of(inner, pack)?;
        if fingerprints.is_some() && frames.iter().all(|at| read.sound(at).is_some()) {
            // Another reader's repair was first, or the error was one of the moment.
            return Ok(Mended::default());
        }
        let fingerprints = fingerprints.unwrap_or_default();
        let mut unpacker = Unpacker::new();
        let mut mended = Mended {
            packs: 1,
            ..Mended::default()
        };
        let mut sound = Vec::with_capacity(frames.len());
        for at in &frames {
            let kept = read.sound(at).and_then(|frame| {
                let known = fingerprints.get(&at.id).cloned();
                let known = known
                    .or_else(|| fingerprints_here(inner, &frame, (inner, pack), &mut unpacker))?;
                Some((frame, known))
            });
            if let Some(kept) = kept {
                sound.push(kept);
            } else if let Some(found) = from_others(inner, &at.id, others) {
                mended.frames += 1;
                mended.bytes += found.0.stored.len() as u64;
                sound.push(found);
            } else {
                mended.lost += 1;
            }
        }
        // Where everything was repaired, the new pack is the old one, in its name too.
        if write_frames(inner, sound)?
            .iter()
            .any(|written| written == name)
        {
            return Ok(mended);
        }
        inner.index_mut().retire(&[pack]);
        if mended.lost > 0 {
            // The next opening would find the lost frames in it, and new disks would build on them.
            let name = name.to_owned();
            let removed = inner.place.delete(&name);
            removed.map_err(|source| StoreError::Delete { name, source })?;
            inner.index_mut().forget(&[pack]);
            return Ok(mended);
        }
        let mut note = read_note(&*inner.place)?;
        note.insert(name.to_owned(), now);
        write_note(inner, &note)?;
        Ok(mended)
    }

    /// Removes packs that could not be understood when the store was opened, if every disk is whole
    /// without them. Answers how many went.
    pub fn drop_unreadable_packs(&self) -> Result<u64, StoreError> {
        let _writer = self.0.writer();
        if !self.list()?.iter().all(|disk| self.has(&disk.digest)) {
            return Ok(0);
        }
        let damaged = std::mem::take(&mut self.0.index_mut().damaged);
        for (done, name) in damaged.iter().enumerate() {
            if let Err(source) = self.0.place.delete(name) {
                self.0.index_mut().damaged = damaged[done..].to_vec();
                let name = name.clone();
                return Err(StoreError::Delete { name, source });
            }
        }
        Ok(damaged.len() as u64)
    }
}

/// The frames of a pack, in one read.
struct Read {
    start: u32,
    bytes: Vec<u8>,
}

impl Read {
    /// What cannot be read because it is not there is empty; other errors are the place's.
    fn of(inner: &Inner, pack: u32, frames: &[Location]) -> Result<Read, StoreError> {
        let start = frames.iter().map(|at| at.offset).min().unwrap_or(0);
        let end = frames
            .iter()
            .map(|at| at.offset + at.len)
            .max()
            .unwrap_or(0);
        let nothing = |start| Read {
            start,
            bytes: Vec::new(),
        };
        match inner.pack_range(pack, start, end - start) {
            Ok(bytes) => Ok(Read { start, bytes }),
            Err(error) if error.is_not_found() => Ok(nothing(start)),
            Err(StoreError::Damaged { .. }) => Ok(nothing(start)),
            Err(error) => Err(error),
        }
    }

    fn sound(&self, at: &Location) -> Option<Frame> {
        let from = (at.offset - self.start) as usize;
        let stored = self.bytes.get(from..from + at.len as usize)?;
        (frame_id(at.coding, at.blocks, stored) == at.id).then(|| Frame {
            id: at.id,
            coding: at.coding,
            blocks: at.blocks,
            stored: stored.to_vec(),
        })
    }
}

type Fingerprints = BTreeMap<FrameId, Vec<Fingerprint>>;

/// As the pack's own footer says; `None` if it cannot be understood.
fn fingerprints_of(inner: &Inner, pack: u32) -> Result<Option<Fingerprints>, StoreError> {
    let entry = Entry {
        name: inner.index().pack(pack),
        bytes: inner.index().pack_len(pack),
    };
    let footer = match read_footer(&*inner.place, &entry) {
        Ok(Ok(footer)) => footer,
        Ok(Err(_)) => return Ok(None),
        Err(error) if error.is_gone() => return Ok(None),
        Err(error) => return Err(error),
    };
    let frames = footer.frames.into_iter();
    let known = frames.map(|frame| (frame.id, frame.fingerprints));
    Ok(Some(known.collect()))
}

/// What this store knows the blocks of a frame by. A table has none. A locked store takes them from
/// the other one, if that is of its domain.
fn fingerprints_here(
    inner: &Inner,
    frame: &Frame,
    (other, pack): (&Inner, u32),
    unpacker: &mut Unpacker,
) -> Option<Vec<Fingerprint>> {
    if frame.blocks == 0 {
        return Some(Vec::new());
    }
    let Ok(domain) = inner.domain() else {
        let same = inner.header.domain == other.header.domain;
        let known = same.then(|| fingerprints_of(other, pack).ok()?)?;
        return known.and_then(|mut known| known.remove(&frame.id));
    };
    let mut raw = Vec::new();
    let shape = (frame.id, frame.coding, frame.blocks);
    let unpacked = unpacker.unpack(&domain, shape, &frame.stored, &mut raw);
    unpacked.ok()?;
    let mut leaves = [[0; 32]; FRAME_BLOCKS];
    let leaves = &mut leaves[..raw.len() / BLOCK_SIZE];
    leaf_hashes(&raw, leaves);
    Some(leaves.iter().map(|leaf| domain.fingerprint(leaf)).collect())
}

/// A sound frame of another store, with this store's fingerprints.
fn from_others(inner: &Inner, id: &FrameId, others: &[Store]) -> Option<(Frame, Vec<Fingerprint>)> {
    let mut unpacker = Unpacker::new();
    others.iter().find_map(|other| {
        let at = other.0.find(id, Reach::Reading).ok()??;
        let stored = other.0.pack_range(at.pack, at.offset, at.len).ok()?;
        if frame_id(at.coding, at.blocks, &stored) != *id {
            return None;
        }
        let frame = Frame {
            id: at.id,
            coding: at.coding,
            blocks: at.blocks,
            stored,
        };
        let fingerprints = fingerprints_here(inner, &frame, (&other.0, at.pack), &mut unpacker)?;
        Some((frame, fingerprints))
    })
}

/// Writes packs with these frames, and answers their names.
pub(crate) fn write_frames(
    inner: &Inner,
    frames: Vec<(Frame, Vec<Fingerprint>)>,
) -> Result<Vec<String>, StoreError> {
    let mut names = Vec::new();
    write_packs(inner, Precedence::New, |packs| {
        let mut builder = PackBuilder::default();
        let mut send = |full: Option<Pack>| {
            let Some(full) = full else { return Ok(()) };
            names.push(full.name.clone());
            packs.send(full).map_err(|_| StoreError::WriterStopped)
        };
        for (frame, fingerprints) in frames {
            send(builder.push(&frame, fingerprints))?;
        }
        send(builder.finish())
    })?;
    Ok(names)
}
