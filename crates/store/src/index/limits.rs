//! How much of the index stays in memory: everything that it holds is counted, and what names of packs and what leads
//! to what is noted leave of the limit is divided among the tables. Both grow with the store, so the tables shrink.

use super::merge::Buffers;
use super::table::Table;
use super::{Fingerprint, Index, IndexUse, KnownPack, Level, Location, Matched};
use crate::frame::FrameId;

/// Of all room, what allocators and what is read at the moment may take.
const SPARE_PART: u64 = 8;
/// Of the rest, what tables have even where names leave less. Then the limit does not hold.
const FLOOR_PART: u64 = 8;

/// Enough for all blocks that are looked for together.
const MATCHED_BYTES: usize = 1 << 20;
const MATCHED_ENTRY_BYTES: usize = size_of::<Fingerprint>() + size_of::<Matched>();

#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// In bytes.
    pub(super) hooks: usize,
    pub(super) blocks: usize,
    pub(super) matched: usize,
    pub(super) frames: usize,
    pub(super) buffers: Buffers,
}

impl Limits {
    /// Where so many bytes of the room are taken. Of 16 parts of the rest, five are for blocks of packs that were used
    /// lately, two for frames, no more than two for what is looked for now, and what is left for hooks.
    pub(super) fn of(room: u64, taken: u64) -> Limits {
        let buffers = Buffers::of(room);
        let rest = tables(room).saturating_sub(taken + buffers.bytes() as u64);
        let rest = rest.max(tables(room) / FLOOR_PART);
        let rest = usize::try_from(rest).unwrap_or(usize::MAX);
        let sixteenth = rest / 16;
        let frame = Table::<FrameId>::bytes_of(4) / 4 + size_of::<Location>();
        let blocks = stepped(Table::<Fingerprint>::most_in(5 * sixteenth), 3);
        let frames = stepped(2 * sixteenth / frame, 3);
        let matched = roomiest((2 * sixteenth).min(MATCHED_BYTES), MATCHED_ENTRY_BYTES);
        let others = Table::<Fingerprint>::bytes_of(blocks)
            + frames * frame
            + map_bytes(matched, MATCHED_ENTRY_BYTES);
        Limits {
            hooks: rest.saturating_sub(others),
            blocks,
            matched,
            frames,
            buffers,
        }
    }
}

/// What is for tables and names.
fn tables(room: u64) -> u64 {
    room - room / SPARE_PART
}

/// The least room for which a limit holds where so many bytes of it are taken.
fn least(room: u64, taken: u64) -> u64 {
    let taken = taken + Buffers::of(room).bytes() as u64;
    let tables = taken + taken / (FLOOR_PART - 1) + 1;
    tables + tables / (SPARE_PART - 1) + 1
}

/// Rounded down, so that it changes seldom while what it follows from changes all the time.
pub(super) fn stepped(number: usize, bits: u32) -> usize {
    let step = number.checked_ilog2().unwrap_or(0).saturating_sub(bits);
    number >> step << step
}

/// What a hash table with room for so many takes: a power of two of entries and a byte each, an
/// eighth of which stays free.
pub(super) fn map_bytes(capacity: usize, entry: usize) -> usize {
    match capacity {
        0 => 0,
        _ => (capacity * 8).div_ceil(7).next_power_of_two() * (entry + 1),
    }
}

/// How many entries such a table may have that stays within so many bytes, the smaller one that it
/// grows out of included.
fn roomiest(bytes: usize, entry: usize) -> usize {
    let buckets = (bytes / (entry + 1)) * 2 / 3;
    match buckets.checked_ilog2() {
        Some(power) => (1usize << power) / 8 * 7,
        None => 0,
    }
}

impl Index {
    fn names_bytes(&self) -> usize {
        self.packs.bytes() + self.pack_names.bytes()
    }

    /// What no limit holds back. While lists are merged, what leads to them is there twice, and it becomes less and
    /// more all the time, which tables cannot follow.
    fn taken(&self) -> u64 {
        (self.names_bytes() + 2 * self.runs_bytes) as u64
    }

    /// Divides what is left beside names of packs and what leads to what is noted.
    pub(super) fn fit(&mut self) {
        self.runs_bytes = self.runs_bytes.max(self.runs.bytes());
        let taken = self.taken();
        self.limits = Limits::of(self.room, taken);
        self.hooks.fit(self.limits.hooks);
        let least = least(self.room, taken);
        if least > self.room && !self.is_told {
            self.is_told = true;
            tracing::warn!(
                limit_bytes = self.room,
                least_bytes = least,
                packs = self.packs.len(),
                "the index takes more memory than its limit and finds few blocks that are stored; give it more"
            );
        }
    }

    pub(crate) fn usage(&self) -> IndexUse {
        let known = |pack: &&KnownPack| pack.level == Level::Blocks;
        let bytes = self.by_fingerprint.bytes()
            + self.by_id.bytes()
            + map_bytes(self.matched.capacity(), MATCHED_ENTRY_BYTES)
            + self.loaded_frames * size_of::<Location>()
            + self.hooks.bytes()
            + size_of_val(&self.near[..])
            + self.names_bytes()
            + self.runs.bytes();
        IndexUse {
            bytes: bytes as u64,
            least_bytes: least(self.room, self.taken()),
            packs: self.pack_numbers().count() as u64,
            known_packs: self.packs.iter().filter(known).count() as u64,
            hooks: self.hooks.len() as u64,
            one_in: self.hooks.one_in(),
            runs: self.runs.count() as u64,
        }
    }
}
