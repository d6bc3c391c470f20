//! Hooks: a sample of the fingerprints of all packs, which stays in memory when what is known of
//! the packs does not. A block that is looked for and is a hook leads to the pack it is in; what
//! lies beside it there is then known too.
//!
//! Blocks whose number ([`number_of`]) is below a bound are hooks. The bound falls as the store grows, so their
//! memory has a limit and is in full use, and their use does not end at a size. A hook never says that a block is
//! somewhere: it says where to look.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use super::limits::{map_bytes, stepped};
use super::{Fingerprint, FirstBytes};

/// The part of a fingerprint that is noted of a hook.
pub(crate) type HookKey = [u8; 8];

/// One fingerprint in so many is a hook of a small store.
const FIRST_ONE_IN: u64 = 1 << FIRST_BITS;
const FIRST_BITS: u32 = 4;

/// What is kept of a hook, in one number: the first bits of its own, and its pack. With twenty million of them, one in a
/// hundred, one look in four hundred is needless.
type Hook = u64;
const TAG_BITS: u32 = 36;
const PACK_BITS: u32 = 64 - TAG_BITS;
const HOOK_BYTES: usize = size_of::<Hook>();

/// Hooks that came last wait to be sorted in, one for so many that are.
const RECENT_PART: usize = 64;
/// As many at least.
const MIN_RECENT: usize = 32;
const RECENT_BYTES: usize = size_of::<HookKey>() + size_of::<u32>();
/// What is let go of when there is no more room.
const THINNED_PART: usize = 8;

#[derive(Debug)]
pub(crate) struct Hooks {
    /// Without gaps: of a large store they are most of what the index takes.
    sorted: Vec<Hook>,
    /// So many there were at once.
    written: usize,
    recent: HashMap<HookKey, u32, BuildHasherDefault<FirstBytes>>,
    /// What is a hook has a tag below this.
    bound: u64,
    limit: usize,
}

/// A number that is as good as any other hash of a block, and of which nothing else depends but whether it is a hook.
fn number_of(key: &HookKey) -> u64 {
    // Stores that were noted before have those whose number ends, so turned, in zeros.
    let first = u32::from_le_bytes([key[3], key[4], key[5], key[6]]).reverse_bits();
    let second = u32::from_le_bytes([key[7], key[0], key[1], key[2]]);
    u64::from(first) << 32 | u64::from(second)
}

/// The bits of a number that are kept. Those before them are zero in all hooks.
fn tag_of(key: &HookKey) -> u64 {
    number_of(key) >> (64 - FIRST_BITS - TAG_BITS)
}

fn hook(tag: u64, pack: u32) -> Hook {
    tag << PACK_BITS | u64::from(pack)
}

fn tag(hook: Hook) -> u64 {
    hook >> PACK_BITS
}

fn pack(hook: Hook) -> u32 {
    (hook & ((1 << PACK_BITS) - 1)) as u32
}

/// So many wait at most among so many.
fn most_recent(sorted: usize) -> usize {
    (sorted / RECENT_PART).max(MIN_RECENT)
}

/// How many hooks take so many bytes.
fn limit_of(bytes: usize) -> usize {
    let all = bytes / HOOK_BYTES;
    let recent = map_bytes(most_recent(all), RECENT_BYTES);
    // Where the room shrinks by a little again and again, the table shall not.
    stepped(bytes.saturating_sub(recent) / HOOK_BYTES, 7)
}

impl Hooks {
    /// With at most this much memory.
    pub(crate) fn new(bytes: usize) -> Hooks {
        Hooks {
            sorted: Vec::new(),
            written: 0,
            recent: HashMap::default(),
            bound: 1 << TAG_BITS,
            limit: limit_of(bytes),
        }
    }

    /// From now on with at most this much memory.
    pub(crate) fn fit(&mut self, bytes: usize) {
        self.limit = limit_of(bytes);
        if self.len() > self.limit {
            self.thin(self.limit);
        }
        if self.sorted.capacity() > self.limit {
            self.sorted.shrink_to(self.limit);
            self.written = self.written.min(self.sorted.capacity());
        }
    }

    pub(crate) fn key(fingerprint: &Fingerprint) -> HookKey {
        let mut key = HookKey::default();
        key.copy_from_slice(&fingerprint[..size_of::<HookKey>()]);
        key
    }

    pub(crate) fn is_sampled(&self, key: &HookKey) -> bool {
        tag_of(key) < self.bound
    }

    fn position(&self, tagged: u64) -> Result<usize, usize> {
        self.sorted.binary_search_by_key(&tagged, |hook| tag(*hook))
    }

    /// The pack that a block may be in.
    pub(crate) fn get(&self, fingerprint: &Fingerprint) -> Option<u32> {
        let key = Hooks::key(fingerprint);
        if !self.is_sampled(&key) {
            return None;
        }
        if let Some(pack) = self.recent.get(&key) {
            return Some(*pack);
        }
        let at = self.position(tag_of(&key)).ok()?;
        Some(pack(self.sorted[at]))
    }

    /// Remembers where a block is, if it is one of the sample. `outdated` says of a pack that it is
    /// no use to remember it any more.
    pub(crate) fn add(&mut self, key: HookKey, pack: u32, outdated: impl Fn(u32) -> bool) {
        // No store has packs with such numbers: they would be two PiB.
        if !self.is_sampled(&key) || pack >> PACK_BITS != 0 {
            return;
        }
        if let Some(known) = self.recent.get_mut(&key) {
            if outdated(*known) {
                *known = pack;
            }
            return;
        }
        let tag = tag_of(&key);
        match self.position(tag) {
            Ok(at) if outdated(self::pack(self.sorted[at])) => self.sorted[at] = hook(tag, pack),
            Ok(_) => {}
            Err(_) => {
                self.recent.insert(key, pack);
                if self.recent.len() >= most_recent(self.sorted.len()) {
                    self.sort_in();
                }
            }
        }
    }

    /// Puts those that came last among the others.
    fn sort_in(&mut self) {
        if self.len() > self.limit {
            self.thin(self.limit - self.limit / THINNED_PART);
        }
        let recent = self.recent.drain();
        let mut recent: Vec<Hook> = recent.map(|(key, pack)| hook(tag_of(&key), pack)).collect();
        recent.sort_unstable();
        // Two blocks with one tag are rare, and one of them is as good.
        recent.dedup_by_key(|hook| tag(*hook));
        let mut end = self.sorted.len();
        let room = end + recent.len();
        if room > self.sorted.capacity() {
            // For all that there will be, at once: what is not written to takes no memory, and a table that was moved
            // to grow would leave a hole as large as it was.
            self.sorted.reserve_exact(self.limit.max(room) - end);
        }
        self.written = self.written.max(room);
        self.sorted.resize(room, 0);
        // From the end on, so that no second table is needed.
        for (before, hook) in recent.iter().enumerate().rev() {
            let at = self.sorted[..end].partition_point(|other| other < hook);
            self.sorted.copy_within(at..end, at + before + 1);
            self.sorted[at + before] = *hook;
            end = at;
        }
    }

    /// Takes a sample of the sample, of so many at most.
    fn thin(&mut self, most: usize) {
        while self.len() > most {
            let kept = self.sorted.len() * most / self.len();
            self.bound = match self.sorted.get(kept) {
                Some(hook) => tag(*hook),
                None => self.bound / 2,
            };
            let bound = self.bound;
            let end = self.sorted.partition_point(|hook| tag(*hook) < bound);
            self.sorted.truncate(end);
            self.recent.retain(|key, _| tag_of(key) < bound);
        }
    }

    /// Forgets those of packs that nothing may be built on.
    pub(crate) fn retain(&mut self, keep: impl Fn(u32) -> bool) {
        self.sorted.retain(|hook| keep(pack(*hook)));
        self.recent.retain(|_, pack| keep(*pack));
    }

    pub(crate) fn len(&self) -> usize {
        self.sorted.len() + self.recent.len()
    }

    /// One fingerprint in so many is a hook.
    pub(crate) fn one_in(&self) -> u64 {
        (FIRST_ONE_IN << TAG_BITS) / self.bound.max(1)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.written * HOOK_BYTES + map_bytes(self.recent.capacity(), RECENT_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fingerprint(number: u32) -> Fingerprint {
        let mut out = Fingerprint::default();
        let hash = blake3::hash(&number.to_le_bytes());
        out.copy_from_slice(&hash.as_bytes()[..12]);
        out
    }

    fn add(hooks: &mut Hooks, numbers: std::ops::Range<u32>) {
        for number in numbers {
            let key = Hooks::key(&fingerprint(number));
            hooks.add(key, number / 100, |_| false);
        }
    }

    #[test]
    fn the_sample_becomes_thinner_and_stays_within_its_limit() {
        let limit = 16 << 10;
        let mut hooks = Hooks::new(limit);
        let mut last = FIRST_ONE_IN;
        for thousand in 0..200 {
            add(&mut hooks, thousand * 1000..(thousand + 1) * 1000);
            assert!(hooks.bytes() <= limit, "{} bytes", hooks.bytes());
            assert!(hooks.one_in() >= last);
            last = hooks.one_in();
            let seen = (thousand + 1) * 1000;
            if seen >= 50_000 {
                // Most of the room is used.
                assert!(hooks.len() * HOOK_BYTES > limit / 2, "{}", hooks.len());
            }
        }
        assert!(last > 60, "one in {last}");
        // All of the sample is there, and leads to where it was.
        let mut found = 0;
        for number in 0..200_000 {
            let known = fingerprint(number);
            match hooks.is_sampled(&Hooks::key(&known)) {
                true => {
                    assert_eq!(hooks.get(&known), Some(number / 100));
                    found += 1;
                }
                false => assert_eq!(hooks.get(&known), None),
            }
        }
        assert_eq!(found, hooks.len());
        // With less room there are fewer, at once.
        hooks.fit(limit / 4);
        assert!(hooks.bytes() <= limit / 4 && hooks.len() > 100);
    }

    #[test]
    fn hooks_of_packs_that_are_gone_go_and_outdated_ones_are_replaced() {
        let mut hooks = Hooks::new(1 << 20);
        add(&mut hooks, 0..10_000);
        hooks.retain(|pack| pack < 50);
        let all = (0..10_000).filter_map(|number| hooks.get(&fingerprint(number)));
        assert!(all.clone().count() > 200 && all.clone().all(|pack| pack < 50));
        for number in 0..5000 {
            let key = Hooks::key(&fingerprint(number));
            hooks.add(key, 7000, |pack| pack < 25);
        }
        for number in 0..5000 {
            let known = fingerprint(number);
            if hooks.is_sampled(&Hooks::key(&known)) {
                let pack = if number < 2500 { 7000 } else { number / 100 };
                assert_eq!(hooks.get(&known), Some(pack));
            }
        }
    }

    #[test]
    fn without_room_there_are_none() {
        let mut hooks = Hooks::new(0);
        add(&mut hooks, 0..20_000);
        assert!(hooks.len() <= 2 * MIN_RECENT, "{}", hooks.len());
    }
}
