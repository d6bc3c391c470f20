//! The index under a load that no test could store: packs that are made up again when they are
//! read, and disks that are lists of numbered blocks. For benchmarks and tests of the index only:
//! nothing here hashes, compresses or keeps a block.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::StoreError;
use crate::frame::{Coding, FrameId, ID_LEN, Packing};
use crate::index::{Fingerprint, IndexUse, Precedence, Reach, pack_key, pack_name};
use crate::keys::Keys;
use crate::pack::{HEADER_LEN, PackFooter, TRAILER_LEN, made_up_file};
use crate::place::{Entry, MemoryPlace, Place};
use crate::store::{Store, StoreOptions};

/// Blocks in a frame.
const FRAME_BLOCKS: usize = 16;
/// Frames in a pack: 8 MiB of Debian, compressed to two fifths.
const PACK_FRAMES: usize = 328;
const PACK_BLOCKS: usize = PACK_FRAMES * FRAME_BLOCKS;
/// Stored bytes of a frame.
const FRAME_BYTES: u32 = 25 << 10;
/// Blocks of a disk that are looked up together, as an ingest with two threads does.
const STRETCH_BLOCKS: usize = 4096;

/// Blocks with numbers that follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    pub first: u64,
    pub count: u64,
}

/// What a disk came to.
#[derive(Debug, Clone, Copy, Default)]
pub struct Looked {
    pub blocks: u64,
    /// Blocks that were stored, be it for the first time or again.
    pub stored: u64,
}

/// Spreads the bits of a number.
fn mix(number: u64, salt: u64) -> u64 {
    let mut x = number ^ salt.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for factor in [0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb_u64] {
        x = (x ^ x >> 30).wrapping_mul(factor);
    }
    x ^ x >> 31
}

fn fingerprint(block: u64) -> Fingerprint {
    let mut out = Fingerprint::default();
    out[..8].copy_from_slice(&mix(block, 1).to_le_bytes());
    out[8..].copy_from_slice(&mix(block, 2).to_le_bytes()[..4]);
    out
}

fn frame_id(pack: u64, nth: usize) -> FrameId {
    let number = pack * PACK_FRAMES as u64 + nth as u64;
    let mut id = [0; ID_LEN];
    id[..8].copy_from_slice(&mix(number, 3).to_le_bytes());
    id[8..16].copy_from_slice(&mix(number, 4).to_le_bytes());
    FrameId(id)
}

/// What a pack of these blocks says about itself.
fn footer(pack: u64, blocks: &[Run]) -> PackFooter {
    let coding = Coding {
        packing: Packing::Zstd,
        sealed: true,
    };
    let all: Vec<u64> = blocks
        .iter()
        .flat_map(|run| run.first..run.first + run.count)
        .collect();
    PackFooter::made_up(all.chunks(FRAME_BLOCKS).enumerate().map(|(nth, blocks)| {
        let known = blocks.iter().map(|block| fingerprint(*block)).collect();
        (frame_id(pack, nth), coding, FRAME_BYTES, known)
    }))
}

/// A pack that is not kept: its number, and the blocks in it.
type Made = (u64, Vec<Run>);

/// Packs that there are.
#[derive(Default)]
struct Packs {
    made: HashMap<String, Made>,
    /// By number, those that came before all others: full, and of blocks with the numbers that follow from theirs. There
    /// may be half a million, and the memory is the index's.
    filled: Vec<[u8; 16]>,
}

fn filled_with(pack: u64) -> Vec<Run> {
    vec![Run {
        first: pack * PACK_BLOCKS as u64,
        count: PACK_BLOCKS as u64,
    }]
}

impl Packs {
    fn get(&self, name: &str) -> Option<Made> {
        if let Some(made) = self.made.get(name) {
            return Some(made.clone());
        }
        let key = pack_key(name)?;
        let number = self.filled.iter().position(|filled| *filled == key)? as u64;
        Some((number, filled_with(number)))
    }

    fn entries(&self) -> impl Iterator<Item = Entry> {
        let made = self.made.iter().map(|(name, (_, blocks))| Entry {
            name: name.clone(),
            bytes: MadeUp::len(blocks),
        });
        let filled = self.filled.iter().zip(0..).map(|(key, number)| Entry {
            name: pack_name(key),
            bytes: MadeUp::len(&filled_with(number)),
        });
        made.chain(filled)
    }
}

/// Keeps what the index notes, and of packs how they came to be.
#[derive(Clone)]
struct MadeUp {
    noted: Arc<dyn Place>,
    packs: Arc<Mutex<Packs>>,
    /// The footer and the end of the pack that was read last.
    last: Arc<Mutex<(String, Vec<u8>)>>,
    reads: Arc<AtomicU64>,
    /// Time that reads took, in nanoseconds.
    spent: Arc<AtomicU64>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MadeUp {
    fn new(noted: Arc<dyn Place>) -> MadeUp {
        MadeUp {
            noted,
            packs: Arc::default(),
            last: Arc::default(),
            reads: Arc::default(),
            spent: Arc::default(),
        }
    }

    fn made(&self, name: &str) -> Option<Made> {
        locked(&self.packs).get(name)
    }

    fn len(blocks: &[Run]) -> u64 {
        let blocks: u64 = blocks.iter().map(|run| run.count).sum();
        let frames = blocks.div_ceil(FRAME_BLOCKS as u64);
        HEADER_LEN as u64 + frames * u64::from(FRAME_BYTES) + Self::tail(frames, blocks)
    }

    fn tail(frames: u64, blocks: u64) -> u64 {
        frames * 26 + blocks * size_of::<Fingerprint>() as u64 + TRAILER_LEN as u64
    }

    fn read(&self, name: &str, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let Some((pack, blocks)) = self.made(name) else {
            return self.noted.get_range(name, offset, len);
        };
        if offset == 0 {
            return Ok(crate::pack::header()[..len].to_vec());
        }
        let mut last = locked(&self.last);
        if last.0 != name {
            *last = (name.to_owned(), made_up_file(&footer(pack, &blocks)).1);
        }
        let start = MadeUp::len(&blocks) - last.1.len() as u64;
        let from = (offset - start) as usize;
        Ok(last.1[from..from + len].to_vec())
    }
}

impl Place for MadeUp {
    fn put(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.noted.put(name, bytes)
    }

    fn get_range(&self, name: &str, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let clock = Instant::now();
        let bytes = self.read(name, offset, len);
        let spent = clock.elapsed().as_nanos() as u64;
        self.spent.fetch_add(spent, Ordering::Relaxed);
        bytes
    }

    fn size(&self, name: &str) -> io::Result<Option<u64>> {
        match self.made(name) {
            Some((_, blocks)) => Ok(Some(MadeUp::len(&blocks))),
            None => self.noted.size(name),
        }
    }

    fn list(&self, prefix: &str) -> io::Result<Vec<Entry>> {
        let mut all = self.noted.list(prefix)?;
        let packs = locked(&self.packs);
        all.extend(
            packs
                .entries()
                .filter(|entry| entry.name.starts_with(prefix)),
        );
        all.sort();
        Ok(all)
    }

    fn delete(&self, name: &str) -> io::Result<()> {
        locked(&self.packs).made.remove(name);
        self.noted.delete(name)
    }
}

/// A store without blocks.
pub struct Simulation {
    place: MadeUp,
    store: Store,
    /// Of a pack that is not full yet.
    open: Vec<u64>,
    pending: HashSet<u64>,
    packs: u64,
}

fn open(place: &MadeUp, index_bytes: u64) -> Result<Store, StoreError> {
    let options = StoreOptions {
        keys: Keys::Off,
        index_bytes,
        ..StoreOptions::default()
    };
    Store::open_place(Box::new(place.clone()), options)
}

/// The blocks of a disk as an ingest looks them up.
fn stretches(disk: &[Run]) -> impl Iterator<Item = Vec<(u64, Fingerprint)>> {
    let blocks = disk.iter().flat_map(|run| run.first..run.first + run.count);
    let mut blocks = blocks.map(|block| (block, fingerprint(block)));
    std::iter::from_fn(move || {
        let stretch: Vec<_> = blocks.by_ref().take(STRETCH_BLOCKS).collect();
        (!stretch.is_empty()).then_some(stretch)
    })
}

impl Simulation {
    /// What the index notes is kept in memory.
    pub fn new(index_bytes: u64) -> Result<Simulation, StoreError> {
        Simulation::noting_in(Arc::new(MemoryPlace::new()), index_bytes)
    }

    /// What the index notes is kept in this place.
    pub fn noting_in(noted: Arc<dyn Place>, index_bytes: u64) -> Result<Simulation, StoreError> {
        let place = MadeUp::new(noted);
        Ok(Simulation {
            store: open(&place, index_bytes)?,
            place,
            open: Vec::new(),
            pending: HashSet::new(),
            packs: 0,
        })
    }

    /// As after a start of the process, with this much memory.
    pub fn reopen(mut self, index_bytes: u64) -> Result<Simulation, StoreError> {
        self.close_pack();
        let Simulation {
            place,
            store,
            packs,
            ..
        } = self;
        // Two would take twice the memory.
        drop(store);
        Ok(Simulation {
            store: open(&place, index_bytes)?,
            place,
            open: Vec::new(),
            pending: HashSet::new(),
            packs,
        })
    }

    /// Looks up a disk and stores what is not found.
    pub fn ingest(&mut self, disk: &[Run]) -> Result<Looked, StoreError> {
        let mut looked = Looked::default();
        for stretch in stretches(disk) {
            let store = self.store.clone();
            store.0.warm(stretch.iter().map(|(_, known)| known))?;
            for (block, known) in stretch {
                looked.blocks += 1;
                if self.pending.contains(&block) || store.0.index().block(&known).is_some() {
                    continue;
                }
                looked.stored += 1;
                self.pending.insert(block);
                self.open.push(block);
                if self.open.len() == PACK_BLOCKS {
                    self.close_pack();
                }
            }
        }
        self.close_pack();
        Ok(looked)
    }

    /// Looks up a disk: what of it would be stored.
    pub fn look(&self, disk: &[Run]) -> Result<Looked, StoreError> {
        let mut looked = Looked::default();
        for stretch in stretches(disk) {
            let inner = &self.store.0;
            inner.warm(stretch.iter().map(|(_, known)| known))?;
            let index = inner.index();
            looked.blocks += stretch.len() as u64;
            let missed = stretch
                .iter()
                .filter(|(_, known)| index.block(known).is_none());
            looked.stored += missed.count() as u64;
        }
        Ok(looked)
    }

    fn close_pack(&mut self) {
        let blocks = std::mem::take(&mut self.open);
        self.pending.clear();
        let mut runs: Vec<Run> = Vec::new();
        for block in blocks {
            match runs.last_mut() {
                Some(last) if last.first + last.count == block => last.count += 1,
                _ => runs.push(Run {
                    first: block,
                    count: 1,
                }),
            }
        }
        if runs.is_empty() {
            return;
        }
        runs.shrink_to_fit();
        let name = self.take(&runs);
        let made = (self.packs, runs);
        locked(&self.place.packs).made.insert(name, made);
        self.packs += 1;
    }

    /// Has the index take up the next pack, which is of these blocks; the pack's name.
    fn take(&self, runs: &[Run]) -> String {
        let footer = footer(self.packs, runs);
        let (name, _) = made_up_file(&footer);
        let bytes = MadeUp::len(runs);
        let inner = &self.store.0;
        inner.take(&name, bytes, &footer, Precedence::Known);
        name
    }

    /// Has the index take up so many full packs of new blocks, as ingests of them do in the end, before anything else is
    /// taken in. The blocks of the pack `n` have the numbers from `n` times [`Simulation::blocks_in_pack`] on.
    pub fn fill(&mut self, packs: u64) {
        for _ in 0..packs {
            let name = self.take(&filled_with(self.packs));
            locked(&self.place.packs).filled.extend(pack_key(&name));
            self.packs += 1;
        }
    }

    /// Whether a frame of a pack is found where it is; packs count from 0, full ones of 328 frames.
    pub fn finds(&self, pack: u64, nth: usize) -> Result<bool, StoreError> {
        let found = self.store.0.find(&frame_id(pack, nth), Reach::Lasting)?;
        Ok(found.is_some_and(|at| at.nth as usize == nth))
    }

    /// Whether something that is not there is found.
    pub fn finds_nothing(&self, number: u64) -> Result<bool, StoreError> {
        let id = frame_id(u64::MAX / PACK_FRAMES as u64 - 1 - number, 0);
        Ok(self.store.0.find(&id, Reach::Lasting)?.is_none())
    }

    pub fn packs(&self) -> u64 {
        self.packs
    }

    /// Blocks that a full pack has.
    pub fn blocks_in_pack() -> u64 {
        PACK_BLOCKS as u64
    }

    /// Reads of the place so far.
    pub fn reads(&self) -> u64 {
        self.place.reads.load(Ordering::Relaxed)
    }

    /// Time that these reads took, most of it to make packs up. What is left of a lookup's is the index's own.
    pub fn reading(&self) -> Duration {
        Duration::from_nanos(self.place.spent.load(Ordering::Relaxed))
    }

    pub fn index_use(&self) -> IndexUse {
        self.store.index_use()
    }
}
