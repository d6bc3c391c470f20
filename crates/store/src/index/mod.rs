//! What a store has: where each frame is, and which block is in which frame.
//!
//! The index follows from pack footers, so there is nothing that could disagree with the packs.
//! What a store knows of all its packs costs some 40 bytes a block, and stays in memory up to a
//! limit. Beyond it, packs that were not used lately are known by name, by a sample of their
//! blocks ([`hooks`]) and by what is noted in the place itself of their frames ([`runs`]); their
//! footers are read again when a lookup leads there ([`keep`]). A frame is always found; a block
//! that is stored may not be, and is then stored again.

mod filter;
mod hooks;
mod keep;
mod limits;
mod merge;
mod names;
mod opening;
mod runs;
mod table;

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::codec::{PACKS, hex};
use crate::frame::{Coding, FrameId};
use crate::pack::{HEADER_LEN, PackFooter};
use crate::section::UsedFrame;
use hooks::Hooks;
pub(crate) use keep::Reach;
use limits::Limits;
use names::{Names, Packs};
pub(crate) use runs::{FOLDER, ROOT, check_files};
use runs::{NotedPack, Runs};
use table::{At, Key, Table};

/// A block, as one domain knows it. Domains have different secrets, so one's fingerprints tell
/// nothing about another's, and nobody can look for two blocks with one fingerprint.
///
/// With 2^32 blocks, 16 TiB of distinct data, two have the same one with a chance of 10^-10; the
/// digest of a disk that is read back would tell.
pub(crate) type Fingerprint = [u8; 12];

/// Where a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) id: FrameId,
    pub(crate) pack: u32,
    /// Counted in the pack.
    pub(crate) nth: u32,
    pub(crate) offset: u32,
    pub(crate) len: u32,
    pub(crate) blocks: u8,
    pub(crate) coding: Coding,
}

impl Location {
    pub(crate) fn used(&self) -> UsedFrame {
        UsedFrame {
            id: self.id,
            blocks: self.blocks,
        }
    }
}

/// Where a block is: of its place in a pack, the frame is the upper 28 bits, the block in it the lower four.
fn block_at(pack: u32, nth: u32, slot: u32) -> At {
    At {
        pack,
        nth: nth << 4 | slot,
    }
}

impl Key for FrameId {
    fn head(&self) -> u64 {
        self.0.head()
    }
}

/// Where a block was found in a pack that is not in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Matched {
    frame: UsedFrame,
    slot: u8,
}

/// Fingerprints come from a keyed hash, so their first bytes are as good as any hash of them.
#[derive(Default)]
pub(crate) struct FirstBytes(u64);

impl Hasher for FirstBytes {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(head) = bytes.first_chunk() {
            self.0 = u64::from_le_bytes(*head);
        }
    }

    /// Array lengths are hashed too, and say nothing.
    fn write_usize(&mut self, _: usize) {}
}

pub(crate) type ByFingerprint<V> = HashMap<Fingerprint, V, BuildHasherDefault<FirstBytes>>;

/// Which of two places of one frame counts from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Precedence {
    /// The one that is known.
    Known,
    /// The new one, because the other is about to go.
    New,
}

/// What a pack is good for. What comes first is taken first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    Current,
    /// Noted as nobody's before the store was opened: what is nowhere else is found there.
    Noted,
    /// For those who began to read before. Nothing new is built on it.
    Retired,
    /// No longer in the place, or not to be understood.
    Gone,
}

/// How much of a pack is in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Named,
    /// Where its frames are.
    Frames,
    /// Which blocks are in them, too.
    Blocks,
}

/// A pack that is or was in the place. Its number is never given to another one.
#[derive(Debug)]
struct KnownPack {
    about: NotedPack,
    standing: Standing,
    level: Level,
    /// What was noted in the place leads to it.
    is_covered: bool,
    /// When it was last of use.
    used: AtomicU32,
    /// The last stretch of a disk of which something was found in it; 0 is none.
    matched: AtomicU32,
    frames: Arc<[Location]>,
}

#[derive(Debug)]
pub(crate) struct Index {
    packs: Packs,
    pack_names: Names,
    by_id: Table<FrameId>,
    by_fingerprint: Table<Fingerprint>,
    /// Blocks that are looked for now, of packs that there is no room for.
    matched: ByFingerprint<Matched>,
    /// Packs not in memory in which something was found lately, no more than [`keep::MAX_NEAR`].
    near: Vec<u32>,
    hooks: Hooks,
    /// For everything together, in bytes.
    room: u64,
    limits: Limits,
    /// What leads to what is noted took at its highest.
    runs_bytes: usize,
    /// It was told that the room is too small.
    is_told: bool,
    /// Frames of packs that are in memory.
    loaded_frames: usize,
    clock: AtomicU32,
    /// Counts what is looked up together.
    stretch: u32,
    runs: Arc<Runs>,
    /// Packs that are there and could not be understood.
    pub(crate) damaged: Vec<String>,
}

/// What all packs come to.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) packs: u64,
    pub(crate) pack_bytes: u64,
    pub(crate) frames: u64,
    pub(crate) stored_bytes: u64,
    pub(crate) table_bytes: u64,
    pub(crate) raw_blocks: u64,
}

/// What the index of a store takes, and how much of the store it knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IndexUse {
    /// Memory, as its tables are laid out.
    pub bytes: u64,
    /// With a lower limit than this it would take more than the limit.
    pub least_bytes: u64,
    pub packs: u64,
    /// Packs whose blocks are all known.
    pub known_packs: u64,
    pub hooks: u64,
    /// One block in so many is a hook.
    pub one_in: u64,
    /// Sorted lists of frames in the place that a lookup may have to read a page of.
    pub runs: u64,
}

impl Index {
    /// With at most this much memory, if there is room for a pack or two.
    pub(crate) fn new(bytes: u64) -> Index {
        let limits = Limits::of(bytes, 0);
        Index {
            packs: Packs::default(),
            pack_names: Names::new(),
            by_id: Table::new(),
            by_fingerprint: Table::new(),
            matched: ByFingerprint::default(),
            near: Vec::new(),
            hooks: Hooks::new(limits.hooks),
            room: bytes,
            limits,
            runs_bytes: 0,
            is_told: false,
            loaded_frames: 0,
            clock: AtomicU32::new(0),
            stretch: 0,
            runs: Arc::new(Runs::default()),
            damaged: Vec::new(),
        }
    }

    /// Takes up a pack that is durably in the place.
    pub(crate) fn add(
        &mut self,
        name: &str,
        file_bytes: u64,
        footer: &PackFooter,
        precedence: Precedence,
    ) {
        let Some(key) = pack_key(name) else { return };
        self.damaged.retain(|damaged| damaged != name);
        let pack = match self.pack_names.get(&key) {
            Some(known) => known,
            None => self.name_pack(NotedPack::new(key, file_bytes, footer)),
        };
        // It was retired, perhaps, and now its frames are wanted again.
        self.packs[pack as usize].standing = Standing::Current;
        self.load(pack, footer, Level::Blocks, precedence);
    }

    fn name_pack(&mut self, about: NotedPack) -> u32 {
        let pack = self.packs.len() as u32;
        self.pack_names.put(about.name, pack);
        self.packs.push(KnownPack {
            about,
            standing: Standing::Current,
            level: Level::Named,
            is_covered: false,
            used: AtomicU32::new(0),
            matched: AtomicU32::new(0),
            frames: Arc::new([]),
        });
        self.fit();
        pack
    }

    /// Takes what a footer says into memory.
    fn load(&mut self, pack: u32, footer: &PackFooter, level: Level, precedence: Precedence) {
        let known = &mut self.packs[pack as usize];
        let before = known.level;
        known.used = AtomicU32::new(self.clock.fetch_add(1, Ordering::Relaxed));
        if before == Level::Named {
            let frames = footer.frames.iter().zip(0u32..);
            let frames = frames.map(|(packed, nth)| Location {
                id: packed.id,
                pack,
                nth,
                offset: packed.offset as u32,
                len: packed.len,
                blocks: packed.blocks,
                coding: packed.coding,
            });
            known.frames = frames.collect();
            self.loaded_frames += known.frames.len();
        }
        known.level = before.max(level);
        let standing = known.standing;
        if let Some(frame) = footer.frames.first() {
            let (frames, any) = (footer.frames.len(), frame.id);
            self.by_id.reserve(frames, self.limits.frames, any);
        }
        if level == Level::Blocks {
            let (blocks, most) = (keep::blocks_of(footer), self.limits.blocks);
            self.by_fingerprint
                .reserve(blocks, most, Fingerprint::default());
            let all = footer.frames.iter().flat_map(|frame| &frame.fingerprints);
            self.by_fingerprint.fetch(all);
        }
        for (packed, nth) in footer.frames.iter().zip(0u32..) {
            let better = |other: u32| {
                precedence == Precedence::New || self.packs[other as usize].standing > standing
            };
            self.by_id
                .put(packed.id, At { pack, nth }, |known| better(known.pack));
            if level < Level::Blocks {
                continue;
            }
            for (fingerprint, slot) in packed.fingerprints.iter().zip(0u32..) {
                let at = block_at(pack, nth, slot);
                self.by_fingerprint
                    .put(*fingerprint, at, |known| better(known.pack));
                self.hooks.add(Hooks::key(fingerprint), pack, better);
            }
        }
    }

    /// Lets no lookup lead to these packs any more. Who knows a place in them can still read it.
    pub(crate) fn retire(&mut self, packs: &[u32]) {
        for pack in packs {
            self.packs[*pack as usize].standing = Standing::Retired;
        }
        self.forget_blocks();
        // What is in another pack too is found there from now on.
        let there = self.packs.iter();
        for at in there.filter(|pack| pack.standing < Standing::Retired) {
            for frame in at.frames.iter() {
                let at = At {
                    pack: frame.pack,
                    nth: frame.nth,
                };
                self.by_id.put(frame.id, at, |known| {
                    self.packs[known.pack as usize].standing >= Standing::Retired
                });
            }
        }
    }

    fn forget_blocks(&mut self) {
        let packs = &self.packs;
        let stays = |pack: u32| packs[pack as usize].standing < Standing::Retired;
        self.by_fingerprint.retain(|at| stays(at.pack));
        self.matched = ByFingerprint::default();
        self.hooks.retain(stays);
        for known in self.packs.iter_mut() {
            if known.standing >= Standing::Retired {
                known.level = known.level.min(Level::Frames);
            }
        }
    }

    /// A pack is noted as nobody's.
    pub(crate) fn set_noted(&mut self, name: &str) {
        if let Some(pack) = self.pack_number(name) {
            self.packs[pack as usize].standing = Standing::Noted;
        }
    }

    /// Packs that are no longer in the place.
    pub(crate) fn forget(&mut self, packs: &[u32]) {
        for pack in packs {
            let known = &mut self.packs[*pack as usize];
            known.standing = Standing::Gone;
            known.level = Level::Named;
            self.loaded_frames -= known.frames.len();
            known.frames = Arc::new([]);
        }
        let packs = &self.packs;
        let stays = |at: At| packs[at.pack as usize].standing != Standing::Gone;
        self.pack_names.retain(stays);
        self.by_id.retain(stays);
        self.by_fingerprint.retain(stays);
        self.matched = ByFingerprint::default();
    }

    /// Whether a pack of this name is in the place, as far as was seen.
    pub(crate) fn knows_pack(&self, name: &str) -> bool {
        self.pack_number(name).is_some()
    }

    /// The frame that a block is in, and where in it, as far as it is in memory.
    pub(crate) fn block(&self, fingerprint: &Fingerprint) -> Option<(UsedFrame, u8)> {
        let Some(at) = self.by_fingerprint.get(fingerprint) else {
            let found = self.matched.get(fingerprint)?;
            return Some((found.frame, found.slot));
        };
        let pack = &self.packs[at.pack as usize];
        if pack.standing >= Standing::Retired {
            return None;
        }
        self.touch(pack);
        self.was_of_use(pack);
        let frame = pack.frames.get((at.nth >> 4) as usize)?;
        Some((frame.used(), (at.nth & 15) as u8))
    }

    /// Where a frame is, as far as it is in memory.
    fn resident(&self, id: &FrameId, reach: Reach) -> Option<Location> {
        let at = self.by_id.get(id)?;
        let pack = &self.packs[at.pack as usize];
        if pack.standing > reach.worst() {
            return None;
        }
        self.touch(pack);
        pack.frames.get(at.nth as usize).copied()
    }

    fn touch(&self, pack: &KnownPack) {
        let now = self.clock.load(Ordering::Relaxed);
        pack.used.store(now, Ordering::Relaxed);
    }

    fn was_of_use(&self, pack: &KnownPack) {
        // Written once a stretch, as all who look read it.
        if pack.matched.load(Ordering::Relaxed) != self.stretch {
            pack.matched.store(self.stretch, Ordering::Relaxed);
        }
    }

    /// The name of a pack.
    pub(crate) fn pack(&self, number: u32) -> String {
        pack_name(&self.packs[number as usize].about.name)
    }

    /// A pack that is in the place, by name.
    pub(crate) fn pack_number(&self, name: &str) -> Option<u32> {
        self.pack_names.get(&pack_key(name)?)
    }

    /// Packs to which a lookup may lead.
    pub(crate) fn live_packs(&self) -> impl Iterator<Item = u32> {
        let numbered = self.packs.iter().zip(0u32..);
        numbered
            .filter(|(pack, _)| pack.standing < Standing::Retired)
            .map(|(_, number)| number)
    }

    /// The length of a pack's file.
    pub(crate) fn pack_len(&self, number: u32) -> u64 {
        u64::from(self.packs[number as usize].about.file_bytes)
    }

    /// Where the frames of a pack end in its file.
    fn frames_end(&self, number: u32) -> u64 {
        HEADER_LEN as u64 + self.frame_bytes(number)
    }

    /// All frames of a pack, as stored.
    pub(crate) fn frame_bytes(&self, number: u32) -> u64 {
        u64::from(self.packs[number as usize].about.frame_bytes)
    }

    /// Packs that are in the place, retired ones included.
    pub(crate) fn pack_numbers(&self) -> impl Iterator<Item = u32> {
        let numbered = self.packs.iter().zip(0u32..);
        numbered
            .filter(|(pack, _)| pack.standing != Standing::Gone)
            .map(|(_, number)| number)
    }

    pub(crate) fn totals(&self) -> Totals {
        let there = self.packs.iter();
        let there = there.filter(|pack| pack.standing != Standing::Gone);
        there.fold(Totals::default(), |sum, pack| {
            let about = &pack.about;
            let stored = about.frame_bytes - about.table_bytes;
            Totals {
                packs: sum.packs + 1,
                pack_bytes: sum.pack_bytes + u64::from(about.file_bytes),
                frames: sum.frames + u64::from(about.frames - about.tables),
                stored_bytes: sum.stored_bytes + u64::from(stored),
                table_bytes: sum.table_bytes + u64::from(about.table_bytes),
                raw_blocks: sum.raw_blocks + u64::from(about.blocks),
            }
        })
    }
}

pub(crate) fn pack_name(key: &[u8; 16]) -> String {
    format!("{PACKS}{}.pack", hex(key))
}

/// The 32 digits of a pack's name; what has another name is none.
pub(crate) fn pack_key(name: &str) -> Option<[u8; 16]> {
    let digits = name.strip_prefix(PACKS)?.strip_suffix(".pack")?;
    crate::codec::unhex(digits)
}
