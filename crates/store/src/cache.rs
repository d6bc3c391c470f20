//! Decompressed frames, shared by all disks that a process reads.
//!
//! Bounded in bytes. A frame that several want at once is loaded once and the others wait for it.
//! The cache does not know where frames come from, and what is in it was checked by who put it
//! there.

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasherDefault;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use crate::error::StoreError;
use crate::frame::{FRAME_BYTES, ID_LEN};
use crate::index::FirstBytes;

/// Locks that the cache is spread over, so that readers seldom meet.
const SHARDS: usize = 16;
/// What a process keeps unless told otherwise.
pub const DEFAULT_CACHE_BYTES: u64 = 256 << 20;

/// What a frame is known by: see [`crate::manifest::UsedFrame::cache_key`].
pub(crate) type CacheKey = [u8; ID_LEN];

/// The blocks of one frame.
pub(crate) type Blocks = Arc<Vec<u8>>;

/// Decompressed frames. Clones of the `Arc` are the same cache.
pub struct FrameCache {
    shards: [Mutex<Shard>; SHARDS],
    shard_bytes: u64,
    counts: Counts,
}

/// What a cache has done since it was made. Frames are counted, bytes are as stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CacheStats {
    /// Times that a frame was asked for and was there.
    pub hits: u64,
    /// Times that it was not, and somebody was already loading it.
    pub waits: u64,
    /// Frames loaded because somebody asked.
    pub asked_frames: u64,
    /// The same, as stored.
    pub asked_bytes: u64,
    /// Frames loaded before anybody asked.
    pub ahead_frames: u64,
    /// The same, as stored.
    pub ahead_bytes: u64,
    /// Of those, the frames that were asked for later and were there.
    pub ahead_used_frames: u64,
    /// Of those, the frames that were asked for while they were being loaded.
    pub ahead_late_frames: u64,
    /// Frames that had to make room.
    pub evicted_frames: u64,
}

#[derive(Default)]
struct Counts {
    hits: AtomicU64,
    waits: AtomicU64,
    asked_frames: AtomicU64,
    asked_bytes: AtomicU64,
    ahead_frames: AtomicU64,
    ahead_bytes: AtomicU64,
    ahead_used_frames: AtomicU64,
    ahead_late_frames: AtomicU64,
    evicted_frames: AtomicU64,
}

#[derive(Default)]
struct Shard {
    slots: HashMap<CacheKey, Slot, BuildHasherDefault<FirstBytes>>,
    /// Frames that are there, in the order in which they are considered for eviction.
    clock: VecDeque<CacheKey>,
    bytes: u64,
}

enum Slot {
    Loading(Arc<Flight>),
    Ready(Kept),
}

struct Kept {
    blocks: Blocks,
    /// Asked for since the clock came by.
    used: bool,
    /// Loaded before anybody asked, and not asked for yet.
    unasked: bool,
}

/// A frame that is being loaded.
struct Flight {
    why: Why,
    state: Mutex<FlightState>,
    ended: Condvar,
}

struct FlightState {
    over: bool,
    blocks: Option<Blocks>,
    asked: bool,
}

/// Why a frame is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    Asked,
    Ahead,
}

/// What a claim on a frame comes to.
enum Claim<'a> {
    Ready(Blocks),
    Loading(Arc<Flight>),
    Ours(Loading<'a>),
}

/// The duty to load a frame. Dropped without [`Loading::done`], the next who asks has it.
pub(crate) struct Loading<'a> {
    cache: &'a FrameCache,
    key: CacheKey,
    flight: Arc<Flight>,
}

impl std::fmt::Debug for FrameCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("FrameCache").field(&self.stats()).finish()
    }
}

impl Default for FrameCache {
    fn default() -> Self {
        FrameCache::new(DEFAULT_CACHE_BYTES)
    }
}

impl FrameCache {
    /// A cache of so many bytes of blocks; at least a frame for each of its locks.
    pub fn new(bytes: u64) -> FrameCache {
        FrameCache {
            shards: Default::default(),
            shard_bytes: (bytes / SHARDS as u64).max(FRAME_BYTES as u64),
            counts: Counts::default(),
        }
    }

    /// The most that it keeps, in bytes of blocks.
    pub fn capacity(&self) -> u64 {
        self.shard_bytes * SHARDS as u64
    }

    pub fn stats(&self) -> CacheStats {
        let counts = &self.counts;
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        CacheStats {
            hits: get(&counts.hits),
            waits: get(&counts.waits),
            asked_frames: get(&counts.asked_frames),
            asked_bytes: get(&counts.asked_bytes),
            ahead_frames: get(&counts.ahead_frames),
            ahead_bytes: get(&counts.ahead_bytes),
            ahead_used_frames: get(&counts.ahead_used_frames),
            ahead_late_frames: get(&counts.ahead_late_frames),
            evicted_frames: get(&counts.evicted_frames),
        }
    }

    /// A frame that is there. Whether it is asked for again is the caller's matter.
    pub(crate) fn ready(&self, key: &CacheKey) -> Option<Blocks> {
        match self.shard(key).slots.get_mut(key) {
            Some(Slot::Ready(kept)) => Some(self.hit(kept)),
            _ => None,
        }
    }

    /// A frame, loaded by `load` unless it is there or on its way; `load` returns the stored bytes.
    pub(crate) fn get(
        &self,
        key: &CacheKey,
        load: impl Fn(&mut Vec<u8>) -> Result<u64, StoreError>,
    ) -> Result<Blocks, StoreError> {
        loop {
            match self.claim(key, Why::Asked) {
                Claim::Ready(blocks) => return Ok(blocks),
                // If it could not be loaded, we try ourselves, to know why.
                Claim::Loading(flight) => {
                    add(&self.counts.waits, 1);
                    if let Some(blocks) = flight.wait(&self.counts) {
                        return Ok(blocks);
                    }
                }
                Claim::Ours(loading) => {
                    let mut raw = Vec::with_capacity(FRAME_BYTES);
                    let stored = load(&mut raw)?;
                    return Ok(loading.done(stored, raw));
                }
            }
        }
    }

    /// The duty to load a frame that nobody has asked for yet, unless it is there or on its way.
    pub(crate) fn ahead(&self, key: &CacheKey) -> Option<Loading<'_>> {
        match self.claim(key, Why::Ahead) {
            Claim::Ours(loading) => Some(loading),
            Claim::Ready(_) | Claim::Loading(_) => None,
        }
    }

    fn claim(&self, key: &CacheKey, why: Why) -> Claim<'_> {
        let mut shard = self.shard(key);
        match shard.slots.get_mut(key) {
            Some(Slot::Ready(kept)) => Claim::Ready(match why {
                Why::Asked => self.hit(kept),
                Why::Ahead => Arc::clone(&kept.blocks),
            }),
            Some(Slot::Loading(flight)) => Claim::Loading(Arc::clone(flight)),
            None => {
                let flight = Arc::new(Flight::new(why));
                shard.slots.insert(*key, Slot::Loading(Arc::clone(&flight)));
                Claim::Ours(Loading {
                    cache: self,
                    key: *key,
                    flight,
                })
            }
        }
    }

    fn hit(&self, kept: &mut Kept) -> Blocks {
        add(&self.counts.hits, 1);
        if std::mem::take(&mut kept.unasked) {
            add(&self.counts.ahead_used_frames, 1);
        }
        kept.used = true;
        Arc::clone(&kept.blocks)
    }

    fn shard(&self, key: &CacheKey) -> MutexGuard<'_, Shard> {
        // The map hashes by the first bytes, so the lock is chosen by others.
        lock(&self.shards[usize::from(key[8]) % SHARDS])
    }
}

impl Shard {
    /// Puts a frame in and others out.
    fn put(&mut self, key: CacheKey, kept: Kept, room: u64) -> u64 {
        let mut evicted = 0;
        self.bytes += kept.blocks.len() as u64;
        self.slots.insert(key, Slot::Ready(kept));
        // Twice around the clock is enough to find what was not used.
        for _ in 0..2 * self.clock.len() {
            if self.bytes <= room {
                break;
            }
            let Some(oldest) = self.clock.pop_front() else {
                break;
            };
            match self.slots.get_mut(&oldest) {
                Some(Slot::Ready(kept)) if kept.used => {
                    kept.used = false;
                    self.clock.push_back(oldest);
                }
                Some(Slot::Ready(kept)) => {
                    self.bytes -= kept.blocks.len() as u64;
                    self.slots.remove(&oldest);
                    evicted += 1;
                }
                Some(Slot::Loading(_)) | None => {}
            }
        }
        self.clock.push_back(key);
        evicted
    }
}

impl Loading<'_> {
    /// Hands the frame to all who wait for it.
    pub(crate) fn done(self, stored: u64, raw: Vec<u8>) -> Blocks {
        let blocks = Arc::new(raw);
        let counts = &self.cache.counts;
        let asked = self.flight.end(Some(Arc::clone(&blocks)));
        let unasked = match self.flight.why {
            Why::Asked => {
                add(&counts.asked_frames, 1);
                add(&counts.asked_bytes, stored);
                false
            }
            Why::Ahead => {
                add(&counts.ahead_frames, 1);
                add(&counts.ahead_bytes, stored);
                !asked
            }
        };
        let kept = Kept {
            blocks: Arc::clone(&blocks),
            used: false,
            unasked,
        };
        let mut shard = self.cache.shard(&self.key);
        let evicted = shard.put(self.key, kept, self.cache.shard_bytes);
        drop(shard);
        add(&counts.evicted_frames, evicted);
        blocks
    }
}

impl Drop for Loading<'_> {
    fn drop(&mut self) {
        let mut shard = self.cache.shard(&self.key);
        if let Some(Slot::Loading(flight)) = shard.slots.get(&self.key)
            && Arc::ptr_eq(flight, &self.flight)
        {
            shard.slots.remove(&self.key);
        }
        drop(shard);
        self.flight.end(None);
    }
}

impl Flight {
    fn new(why: Why) -> Flight {
        Flight {
            why,
            state: Mutex::new(FlightState {
                over: false,
                blocks: None,
                asked: false,
            }),
            ended: Condvar::new(),
        }
    }

    /// Waits for the end. `None`: it could not be loaded.
    fn wait(&self, counts: &Counts) -> Option<Blocks> {
        let mut state = lock(&self.state);
        if self.why == Why::Ahead && !std::mem::replace(&mut state.asked, true) {
            add(&counts.ahead_late_frames, 1);
        }
        while !state.over {
            state = self
                .ended
                .wait(state)
                .unwrap_or_else(|poison| poison.into_inner());
        }
        state.blocks.clone()
    }

    /// Ends it, if it is not over yet. Whether somebody waited.
    fn end(&self, blocks: Option<Blocks>) -> bool {
        let mut state = lock(&self.state);
        if !state.over {
            state.over = true;
            state.blocks = blocks;
            self.ended.notify_all();
        }
        state.asked
    }
}

fn add(count: &AtomicU64, by: u64) {
    if by > 0 {
        count.fetch_add(by, Ordering::Relaxed);
    }
}

/// What is guarded is whole between any two statements, so a panic elsewhere leaves it sound.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poison| poison.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::thread;

    fn key(number: u8) -> CacheKey {
        let mut key = [number; ID_LEN];
        // All in one shard, so that room is what the test says.
        key[8] = 0;
        key
    }

    #[test]
    fn a_frame_that_many_want_is_loaded_once() {
        const READERS: usize = 8;
        let cache = FrameCache::new(0);
        let loads = AtomicU64::new(0);
        let barrier = Barrier::new(READERS);
        thread::scope(|scope| {
            for _ in 0..READERS {
                scope.spawn(|| {
                    barrier.wait();
                    let got = cache.get(&key(1), |raw| {
                        loads.fetch_add(1, Ordering::Relaxed);
                        raw.push(7);
                        Ok(3)
                    });
                    assert_eq!(**got.unwrap(), [7]);
                });
            }
        });
        assert_eq!(loads.into_inner(), 1);
        let stats = cache.stats();
        assert_eq!((stats.asked_frames, stats.asked_bytes), (1, 3));
        assert_eq!(stats.hits + stats.waits, READERS as u64 - 1);
    }

    #[test]
    fn who_waits_for_a_load_that_fails_tries_again() {
        let cache = FrameCache::new(0);
        let loading = cache.ahead(&key(1)).unwrap();
        assert!(cache.ahead(&key(1)).is_none());
        thread::scope(|scope| {
            let waiting = scope.spawn(|| cache.get(&key(1), |_| Ok(0)).unwrap());
            drop(loading);
            assert!(waiting.join().unwrap().is_empty());
        });
        let failed = cache.get(&key(2), |_| Err(StoreError::Stopped));
        assert!(matches!(failed, Err(StoreError::Stopped)));
        assert!(
            cache.get(&key(2), |_| Ok(0)).is_ok(),
            "an error is not kept"
        );
    }

    #[test]
    fn what_is_used_stays_and_what_is_not_goes() {
        // Room for two frames in the shard.
        let cache = FrameCache::new((SHARDS * 2 * FRAME_BYTES) as u64);
        let load = |raw: &mut Vec<u8>| {
            raw.resize(FRAME_BYTES, 1);
            Ok(1)
        };
        cache.get(&key(1), load).unwrap();
        cache.get(&key(2), load).unwrap();
        assert!(cache.ready(&key(1)).is_some());
        cache.get(&key(3), load).unwrap();
        assert!(cache.ready(&key(1)).is_some());
        assert!(cache.ready(&key(2)).is_none());
        assert_eq!(cache.stats().evicted_frames, 1);
    }

    #[test]
    fn frames_loaded_ahead_are_counted_when_they_are_used() {
        let cache = FrameCache::new(1 << 20);
        cache.ahead(&key(1)).unwrap().done(5, vec![1]);
        assert!(cache.ready(&key(1)).is_some());
        assert!(cache.ready(&key(1)).is_some());
        let stats = cache.stats();
        assert_eq!((stats.ahead_frames, stats.ahead_bytes), (1, 5));
        assert_eq!((stats.ahead_used_frames, stats.hits), (1, 2));
    }
}
