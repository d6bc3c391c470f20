//! Keeping the index within its limit: what is not in memory is noted in the place and read again
//! when a lookup leads there.
//!
//! Nothing here is needed for a store to be whole. What cannot be noted stays in memory, and what
//! was noted and cannot be read any more is made anew from the packs at the next opening.

use std::collections::{BTreeMap, HashSet};
use std::hash::BuildHasherDefault;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::hooks::Hooks;
use super::merge::{RunWriter, merge};
use super::runs::{
    Entry as RunEntry, Group, MAX_RUNS, ROOT, Run, Runs, frame_key, group_name, named,
};
use super::table::At;
use super::{
    ByFingerprint, Fingerprint, FirstBytes, Index, IndexUse, Level, Location, Matched, Precedence,
    Standing,
};
use crate::error::StoreError;
use crate::frame::FrameId;
use crate::pack::PackFooter;
use crate::place::Entry;
use crate::section::UsedFrame;
use crate::store::{Inner, Store, read_known_footer};

/// Packs that are read again for one stretch of a disk: those in which most of it seems to be.
const MAX_WARMED: usize = 128;
/// Packs whose frames nobody noted may take a quarter of the limit before they are.
const UNNOTED_PART: usize = 4;
/// Packs that are read for one stretch where there is no room to keep them.
const MAX_MATCHED: usize = 256;
/// A pack that was of use is tried again for so many stretches.
const NEAR_STRETCHES: u32 = 64;
/// Of packs that may be tried again, those that were of use last; more than are ever read for one stretch.
pub(super) const MAX_NEAR: usize = 1024;
/// An older list is merged with younger ones if it is no more than so many times as long: a lookup reads a page of each
/// list, and each entry is written again as often as this for each list that there is.
const MERGE_RATIO: usize = 8;

/// For whom a frame is looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Something that is written will need it.
    Lasting,
    /// It is only read now.
    Reading,
}

impl Reach {
    pub(super) fn worst(self) -> Standing {
        match self {
            Reach::Lasting => Standing::Noted,
            Reach::Reading => Standing::Retired,
        }
    }
}

impl Store {
    /// What the index takes, and how much of the store is in it.
    pub fn index_use(&self) -> IndexUse {
        self.0.index().usage()
    }
}

impl Index {
    /// Whether all that is known of the store is in memory.
    fn is_whole(&self) -> bool {
        self.runs.runs.is_empty()
    }

    fn has_room(&self, footer: &PackFooter) -> bool {
        let blocks: usize = blocks_of(footer);
        self.by_fingerprint.len() + blocks <= self.limits.blocks
            && self.loaded_frames + footer.frames.len() <= self.limits.frames
            && !self.is_beyond()
    }

    /// Whether tables have more room than they may have by now.
    fn is_beyond(&self) -> bool {
        self.by_fingerprint.is_beyond(self.limits.blocks)
            || self.by_id.is_beyond(self.limits.frames)
    }

    /// What is not noted yet, if that is a good part of what is in memory.
    fn unnoted(&self) -> Option<(Group, Vec<RunEntry>)> {
        let numbered = || self.packs.iter().zip(0u32..);
        let fresh =
            || numbered().filter(|(pack, _)| !pack.is_covered && pack.standing != Standing::Gone);
        let blocks: usize = fresh().map(|(pack, _)| pack.about.blocks as usize).sum();
        let frames: usize = fresh().map(|(pack, _)| pack.frames.len()).sum();
        if blocks * UNNOTED_PART < self.limits.blocks && frames * UNNOTED_PART < self.limits.frames
        {
            return None;
        }
        let packs: Vec<_> = fresh().map(|(pack, number)| (number, pack.about)).collect();
        let entries = fresh().flat_map(|(pack, number)| {
            let frames = pack.frames.iter();
            frames.map(move |at| (frame_key(&at.id), number))
        });
        let mut entries: Vec<RunEntry> = entries.collect();
        entries.sort_unstable();
        let is_fresh = |pack: u32| {
            packs
                .binary_search_by_key(&pack, |(number, _)| *number)
                .is_ok()
        };
        // What is not noted is all in memory.
        let blocks = self.by_fingerprint.iter();
        let blocks = blocks.map(|(known, at)| (Hooks::key(known), at.pack));
        let hooks = blocks.filter(|(key, pack)| self.hooks.is_sampled(key) && is_fresh(*pack));
        let hooks = hooks.collect();
        Some((Group { packs, hooks }, entries))
    }

    /// Lets go of what was not used for longest, until there is room and a quarter more.
    fn evict(&mut self, footer: &PackFooter) {
        let mut loaded: Vec<u32> = (0u32..)
            .zip(self.packs.iter())
            .filter(|(_, pack)| pack.is_covered && pack.level > Level::Named)
            .map(|(number, _)| number)
            .collect();
        loaded.sort_by_key(|pack| *self.packs[*pack as usize].used.get_mut());
        // A table is made anew to become smaller: with little in it, that takes little.
        let is_beyond = self.is_beyond();
        let room = |limit: usize| if is_beyond { 0 } else { limit / 4 * 3 };
        let mut blocks = self.by_fingerprint.len() + blocks_of(footer);
        for pack in loaded {
            let frames = self.loaded_frames + footer.frames.len();
            if blocks <= room(self.limits.blocks) && frames <= room(self.limits.frames) {
                break;
            }
            let known = &mut self.packs[pack as usize];
            if known.level == Level::Blocks {
                blocks = blocks.saturating_sub(known.about.blocks as usize);
            }
            self.loaded_frames -= known.frames.len();
            known.level = Level::Named;
            known.frames = Arc::new([]);
            self.near.push(pack);
        }
        self.forget_far();
        let packs = &self.packs;
        let level = |at: At| packs[at.pack as usize].level;
        self.by_id.retain(|at| level(at) > Level::Named);
        self.by_fingerprint.retain(|at| level(at) == Level::Blocks);
        self.by_id.shrink_to(self.limits.frames);
        self.by_fingerprint.shrink_to(self.limits.blocks);
    }

    /// Whether these packs can be in memory at once.
    fn has_room_for(&self, packs: &[u32]) -> bool {
        let packs = packs.iter().map(|pack| &self.packs[*pack as usize].about);
        let (blocks, frames) = packs.fold((0, 0), |(blocks, frames), about| {
            (
                blocks + about.blocks as usize,
                frames + about.frames as usize,
            )
        });
        // As much as is left after letting go of others.
        blocks <= self.limits.blocks / 4 * 3 && frames <= self.limits.frames / 4 * 3
    }

    /// What was looked for before is forgotten.
    fn next_stretch(&mut self) {
        self.matched.clear();
        if self.matched.capacity() > self.limits.matched * 2 {
            self.matched = ByFingerprint::default();
        }
        self.stretch += 1;
    }

    /// Keeps of the packs that are near those that were of use lately and are not in memory, the last ones first.
    fn forget_far(&mut self) {
        let now = self.stretch;
        let packs = &self.packs;
        let matched = |pack: u32| packs[pack as usize].matched.load(Ordering::Relaxed);
        self.near.retain(|pack| {
            let known = &packs[*pack as usize];
            let last = matched(*pack);
            let is_late = last > 0 && now.saturating_sub(last) <= NEAR_STRETCHES;
            is_late && known.level < Level::Blocks && known.standing < Standing::Retired
        });
        self.near
            .sort_unstable_by_key(|pack| (std::cmp::Reverse(matched(*pack)), *pack));
        self.near.dedup();
        self.near.truncate(MAX_NEAR);
    }

    /// Those of these packs that are not in memory, and after them others that were of use for what was looked for before:
    /// what lies together on a disk is mostly in the same packs, and a sample finds only some of them each time.
    fn with_near(&mut self, mut packs: Vec<u32>) -> Vec<u32> {
        self.forget_far();
        packs.retain(|pack| self.packs[*pack as usize].level < Level::Blocks);
        let known: HashSet<u32> = packs.iter().copied().collect();
        packs.extend(self.near.iter().filter(|number| !known.contains(number)));
        packs.truncate(MAX_MATCHED);
        packs
    }

    /// Notes where the wanted blocks are that a footer has, as far as there is room.
    fn note_matches(
        &mut self,
        pack: u32,
        footer: &PackFooter,
        wanted: &mut HashSet<Fingerprint, BuildHasherDefault<FirstBytes>>,
    ) {
        let known = &self.packs[pack as usize];
        if known.standing >= Standing::Retired {
            return;
        }
        let before = self.matched.len();
        for packed in &footer.frames {
            for (fingerprint, slot) in packed.fingerprints.iter().zip(0u8..) {
                if self.matched.len() >= self.limits.matched || !wanted.remove(fingerprint) {
                    continue;
                }
                let frame = UsedFrame {
                    id: packed.id,
                    blocks: packed.blocks,
                };
                self.matched.insert(*fingerprint, Matched { frame, slot });
            }
        }
        if self.matched.len() > before {
            self.was_of_use(known);
            self.near.push(pack);
        }
    }

    /// Packs not in memory that hooks lead to, those with most of them first.
    fn hooked<'a>(&self, fingerprints: impl Iterator<Item = &'a Fingerprint>) -> Vec<u32> {
        let mut hits: BTreeMap<u32, u32> = BTreeMap::new();
        for fingerprint in fingerprints {
            let Some(pack) = self.hooks.get(fingerprint) else {
                continue;
            };
            let known = &self.packs[pack as usize];
            if known.level < Level::Blocks && known.standing < Standing::Retired {
                *hits.entry(pack).or_default() += 1;
            }
        }
        let mut packs: Vec<(u32, u32)> = hits.into_iter().collect();
        packs.sort_by_key(|(pack, hits)| (std::cmp::Reverse(*hits), *pack));
        packs.truncate(MAX_WARMED);
        packs.into_iter().map(|(pack, _)| pack).collect()
    }

    fn in_pack(&self, pack: u32, id: &FrameId) -> Option<Location> {
        let mut frames = self.packs[pack as usize].frames.iter();
        frames.find(|at| at.id == *id).copied()
    }
}

pub(super) fn blocks_of(footer: &PackFooter) -> usize {
    footer
        .frames
        .iter()
        .map(|frame| frame.fingerprints.len())
        .sum()
}

impl Inner {
    /// Takes a pack that is in the place into the index.
    pub(crate) fn take(&self, name: &str, bytes: u64, footer: &PackFooter, which: Precedence) {
        self.make_room(footer);
        self.index_mut().add(name, bytes, footer, which);
    }

    /// Sees to it that what a footer says fits into memory.
    fn make_room(&self, footer: &PackFooter) {
        if self.index().has_room(footer) {
            return;
        }
        let _tidy = self.tidy.lock().unwrap_or_else(PoisonError::into_inner);
        if self.index().has_room(footer) {
            return;
        }
        let unnoted = self.index().unnoted();
        if let Some((group, entries)) = unnoted
            && let Err(error) = self.note(group, entries)
        {
            tracing::warn!(%error, "the index could not be noted and takes more memory than it should");
        }
        self.index_mut().evict(footer);
    }

    /// Writes down where these frames are, so that they need not be in memory.
    fn note(&self, group: Group, entries: Vec<RunEntry>) -> Result<(), StoreError> {
        let place = &*self.place;
        let put = |name: &str, bytes: &[u8]| {
            place.put(name, bytes).map_err(|source| StoreError::Put {
                name: name.to_owned(),
                source,
            })
        };
        let old = Arc::clone(&self.index().runs);
        let mut next = Runs::clone(&old);
        let bytes = group.encode();
        next.groups.push(named(&bytes));
        put(&group_name(&named(&bytes)), &bytes)?;
        let buffers = self.index().limits.buffers;
        let mut writer = RunWriter::new(place, buffers, None);
        for entry in entries {
            writer.push(entry)?;
        }
        next.runs.extend(writer.finish()?);
        let from = merged_from(&next.runs);
        if from + 1 < next.runs.len() {
            let gone: HashSet<u32> = {
                let index = self.index();
                let numbered = index.packs.iter().zip(0u32..);
                let gone = numbered.filter(|(pack, _)| pack.standing == Standing::Gone);
                gone.map(|(_, number)| number).collect()
            };
            let young = next.runs.split_off(from);
            let writer = RunWriter::new(place, buffers, next.filter_for(&young));
            let one = merge(place, &young, writer, &|pack| !gone.contains(&pack))?;
            next.runs.extend(one);
        }
        next.make_filters(place, buffers)?;
        put(ROOT, &next.encode())?;
        let counts: HashSet<String> = next.files().into_iter().collect();
        {
            let mut index = self.index_mut();
            index.runs = Arc::new(next);
            index.fit();
            for (number, _) in &group.packs {
                index.packs[*number as usize].is_covered = true;
            }
        }
        for name in old.files() {
            if !counts.contains(&name)
                && let Err(error) = place.delete(&name)
            {
                tracing::debug!(name, %error, "a file of an older index stays");
            }
        }
        Ok(())
    }

    /// Reads a pack's footer, if less of it is in memory. Whether that pack can be used.
    fn load(&self, pack: u32, level: Level) -> Result<bool, StoreError> {
        let (entry, frames_end, level) = {
            let index = self.index();
            let known = &index.packs[pack as usize];
            let level = match known.standing {
                Standing::Current | Standing::Noted => level,
                Standing::Retired => level.min(Level::Frames),
                Standing::Gone => return Ok(false),
            };
            if known.level >= level {
                return Ok(true);
            }
            let entry = Entry {
                name: index.pack(pack),
                bytes: index.pack_len(pack),
            };
            (entry, index.frames_end(pack), level)
        };
        match read_known_footer(&*self.place, &entry, frames_end) {
            Ok(Ok(footer)) => {
                self.make_room(&footer);
                let mut index = self.index_mut();
                if index.packs[pack as usize].standing == Standing::Gone {
                    return Ok(false);
                }
                index.load(pack, &footer, level, Precedence::Known);
                Ok(true)
            }
            Ok(Err(what)) => {
                tracing::warn!(pack = entry.name, what, "a pack is left out of the store");
                let mut index = self.index_mut();
                index.forget(&[pack]);
                index.damaged.push(entry.name);
                Ok(false)
            }
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Where a frame or table is.
    pub(crate) fn find(&self, id: &FrameId, reach: Reach) -> Result<Option<Location>, StoreError> {
        let runs = {
            let index = self.index();
            if let Some(found) = index.resident(id, reach) {
                return Ok(Some(found));
            }
            Arc::clone(&index.runs)
        };
        let mut packs = match runs.packs_of(&*self.place, id) {
            Err(error @ StoreError::Damaged { .. }) => {
                self.drop_noted();
                return Err(error);
            }
            // Lists that were merged meanwhile: the new ones say the same.
            Err(error) if error.is_not_found() => {
                let now = Arc::clone(&self.index().runs);
                match Arc::ptr_eq(&now, &runs) {
                    true => return Err(error),
                    false => now.packs_of(&*self.place, id)?,
                }
            }
            packs => packs?,
        };
        {
            let index = self.index();
            let standing = |pack: &u32| index.packs.get(*pack as usize).map(|known| known.standing);
            packs.retain(|pack| standing(pack).is_some_and(|known| known <= reach.worst()));
            packs.sort_by_key(|pack| (standing(pack), *pack));
        }
        for pack in packs {
            if self.load(pack, Level::Frames)?
                && let Some(found) = self.index().in_pack(pack, id)
            {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Reads again what is known of packs in which these blocks seem to be, and of those near by. Where that is more than
    /// there is room for, only what of these blocks is in them is kept, until the next call.
    pub(crate) fn warm<'a>(
        &self,
        fingerprints: impl Iterator<Item = &'a Fingerprint> + Clone,
    ) -> Result<(), StoreError> {
        if self.index().is_whole() {
            return Ok(());
        }
        let hooked = self.index().hooked(fingerprints.clone());
        let has_room = {
            let mut index = self.index_mut();
            index.next_stretch();
            let all = index.with_near(hooked.clone());
            index.has_room_for(&all)
        };
        if has_room {
            self.warm_packs(&hooked)?;
        }
        // Also what had to go for others just now.
        let packs = self.index_mut().with_near(hooked);
        self.match_packs(packs, fingerprints)
    }

    fn match_packs<'a>(
        &self,
        packs: Vec<u32>,
        fingerprints: impl Iterator<Item = &'a Fingerprint>,
    ) -> Result<(), StoreError> {
        if packs.is_empty() {
            return Ok(());
        }
        let mut wanted: HashSet<Fingerprint, BuildHasherDefault<FirstBytes>> = {
            let index = self.index();
            let unknown = fingerprints.filter(|known| index.by_fingerprint.get(known).is_none());
            unknown.copied().collect()
        };
        for pack in packs {
            if wanted.is_empty() {
                break;
            }
            let (entry, frames_end) = {
                let index = self.index();
                let entry = Entry {
                    name: index.pack(pack),
                    bytes: index.pack_len(pack),
                };
                (entry, index.frames_end(pack))
            };
            match read_known_footer(&*self.place, &entry, frames_end) {
                Ok(Ok(footer)) => self.index_mut().note_matches(pack, &footer, &mut wanted),
                // Whoever needs a frame of it is told.
                Ok(Err(what)) => tracing::debug!(pack = entry.name, what, "a pack is passed over"),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads again what is known of the packs that these are in: what is written over a disk is
    /// likely to be in it already, at another place.
    pub(crate) fn warm_near(&self, at: impl Iterator<Item = Location>) -> Result<(), StoreError> {
        if self.index().is_whole() {
            return Ok(());
        }
        let packs: HashSet<u32> = at.map(|at| at.pack).collect();
        let packs: Vec<u32> = packs.into_iter().take(MAX_WARMED).collect();
        self.warm_packs(&packs)
    }

    fn warm_packs(&self, packs: &[u32]) -> Result<(), StoreError> {
        for pack in packs {
            self.load(*pack, Level::Blocks)?;
        }
        Ok(())
    }

    /// Everything that a pack holds, whether lookups lead there or not; nothing if it is gone.
    pub(crate) fn frames_of(&self, pack: u32) -> Result<Vec<Location>, StoreError> {
        match self.load(pack, Level::Frames)? {
            true => Ok(self.index().packs[pack as usize].frames.to_vec()),
            false => Ok(Vec::new()),
        }
    }

    /// The frames for which lookups lead to a pack.
    pub(crate) fn frames_here(&self, pack: u32) -> Result<Vec<Location>, StoreError> {
        let mut here = Vec::new();
        for at in self.frames_of(pack)? {
            let found = self.find(&at.id, Reach::Lasting)?;
            here.extend(found.filter(|found| found.pack == pack));
        }
        Ok(here)
    }
}

/// From which list on lists are merged, so that each is much longer than those after it.
fn merged_from(runs: &[Run]) -> usize {
    let mut from = runs.len().saturating_sub(1);
    let mut young = runs.last().map(Run::pages).unwrap_or(0);
    while from > 0 && (runs[from - 1].pages() <= MERGE_RATIO * young || from + 1 > MAX_RUNS) {
        from -= 1;
        young += runs[from].pages();
    }
    from
}
