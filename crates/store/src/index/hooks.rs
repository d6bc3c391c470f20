//! Hooks: a sample of the fingerprints of all packs, which stays in memory when what is known of
//! the packs does not. A block that is looked for and is a hook leads to the pack it is in; what
//! lies beside it there is then known too.
//!
//! The sample becomes thinner as the store grows, so its size has a limit and its use does not
//! end at one. It never says that a block is somewhere: it says where to look.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use super::{Fingerprint, FirstBytes, map_bytes};

/// The part of a fingerprint that a hook keeps: two blocks that share it cost a needless look.
pub(crate) type HookKey = [u8; 8];

/// So that no growth of one table needs a second copy of all.
const SHARDS: usize = 256;
/// One fingerprint of `1 << rate` is a hook; so many of a small store.
const FIRST_RATE: u32 = 4;
/// And so few of one of any size: one of 65,536.
const LAST_RATE: u32 = 16;
const ENTRY_BYTES: usize = size_of::<HookKey>() + size_of::<[u8; 4]>();

type Shard = HashMap<HookKey, [u8; 4], BuildHasherDefault<FirstBytes>>;

#[derive(Debug)]
pub(crate) struct Hooks {
    shards: Vec<Shard>,
    rate: u32,
    len: usize,
    limit: usize,
}

/// How many hooks take so many bytes. Shards grow one at a time, so what one grows out of hardly counts.
fn limit_of(bytes: usize) -> usize {
    let buckets = bytes / SHARDS / (ENTRY_BYTES + 1);
    // Some shards have more than others, and must not double for it.
    let of_shard = buckets
        .checked_ilog2()
        .map_or(0, |power| (1usize << power) / 8 * 6);
    SHARDS * of_shard
}

impl Hooks {
    /// With at most this much memory.
    pub(crate) fn new(bytes: usize) -> Hooks {
        Hooks {
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            rate: FIRST_RATE,
            len: 0,
            limit: limit_of(bytes),
        }
    }

    /// From now on with at most this much memory.
    pub(crate) fn fit(&mut self, bytes: usize) {
        self.limit = limit_of(bytes);
        while self.len > self.limit && self.rate < LAST_RATE {
            self.thin();
        }
    }

    pub(crate) fn key(fingerprint: &Fingerprint) -> HookKey {
        let mut key = HookKey::default();
        key.copy_from_slice(&fingerprint[..size_of::<HookKey>()]);
        key
    }

    /// Neither the bits that choose a shard, nor those that the table hashes by.
    fn is_sampled(&self, key: &HookKey) -> bool {
        let bits = u16::from_le_bytes([key[3], key[4]]);
        bits.trailing_zeros() >= self.rate
    }

    fn shard(key: &HookKey) -> usize {
        usize::from(key[6])
    }

    /// The pack that a block may be in.
    pub(crate) fn get(&self, fingerprint: &Fingerprint) -> Option<u32> {
        let key = Hooks::key(fingerprint);
        if !self.is_sampled(&key) {
            return None;
        }
        let pack = self.shards[Hooks::shard(&key)].get(&key)?;
        Some(u32::from_le_bytes(*pack))
    }

    /// Remembers where a block is, if it is one of the sample. `outdated` says of a pack that it is
    /// no use to remember it any more.
    pub(crate) fn add(&mut self, key: HookKey, pack: u32, outdated: impl Fn(u32) -> bool) {
        if !self.is_sampled(&key) {
            return;
        }
        let shard = &mut self.shards[Hooks::shard(&key)];
        match shard.get_mut(&key) {
            Some(known) if outdated(u32::from_le_bytes(*known)) => *known = pack.to_le_bytes(),
            Some(_) => {}
            None => {
                shard.insert(key, pack.to_le_bytes());
                self.len += 1;
            }
        }
        while self.len > self.limit && self.rate < LAST_RATE {
            self.thin();
        }
    }

    fn thin(&mut self) {
        self.rate += 1;
        let rate = self.rate;
        for shard in &mut self.shards {
            shard.retain(|key, _| u16::from_le_bytes([key[3], key[4]]).trailing_zeros() >= rate);
            // A table keeps its size until it is told otherwise.
            shard.shrink_to(shard.len() * 2);
        }
        self.len = self.shards.iter().map(HashMap::len).sum();
    }

    /// Forgets those of packs that nothing may be built on.
    pub(crate) fn retain(&mut self, keep: impl Fn(u32) -> bool) {
        for shard in &mut self.shards {
            shard.retain(|_, pack| keep(u32::from_le_bytes(*pack)));
        }
        self.len = self.shards.iter().map(HashMap::len).sum();
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (HookKey, u32)> {
        let shards = self.shards.iter().flatten();
        shards.map(|(key, pack)| (*key, u32::from_le_bytes(*pack)))
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// One fingerprint in so many is a hook.
    pub(crate) fn one_in(&self) -> u64 {
        1 << self.rate
    }

    pub(crate) fn bytes(&self) -> usize {
        let tables = self.shards.iter();
        tables
            .map(|shard| map_bytes(shard.capacity(), ENTRY_BYTES))
            .sum()
    }
}
