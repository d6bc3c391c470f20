//! Hooks: a sample of the fingerprints of all packs, which stays in memory when what is known of
//! the packs does not. A block that is looked for and is a hook leads to the pack it is in; what
//! lies beside it there is then known too.
//!
//! The sample becomes thinner as the store grows, so its size has a limit and its use does not
//! end at one. It never says that a block is somewhere: it says where to look.

use super::Fingerprint;

/// The part of a fingerprint that is noted of a hook.
pub(crate) type HookKey = [u8; 8];

/// Lists that hooks are divided among, so that none is long to insert into.
const SHARDS: usize = 1024;
/// One fingerprint of `1 << rate` is a hook; so many of a small store.
const FIRST_RATE: u32 = 4;
/// And so few of one of any size: one of 65,536.
const LAST_RATE: u32 = 16;

/// What is kept of a hook: the four bytes of its fingerprint that say whether it is one. With what
/// chooses the list that is 42 bits, less those that are zero in all hooks: with ten million of them, one
/// look in a thousand is needless.
#[derive(Debug, Clone, Copy)]
struct Hook {
    tag: u32,
    pack: u32,
}

/// In order of their tags.
type Shard = Vec<Hook>;

#[derive(Debug)]
pub(crate) struct Hooks {
    shards: Vec<Shard>,
    rate: u32,
    len: usize,
    limit: usize,
}

/// How many hooks take so many bytes, room to grow included.
fn limit_of(bytes: usize) -> usize {
    let rest = bytes.saturating_sub(SHARDS * size_of::<Shard>());
    rest / size_of::<Hook>() / 9 * 8
}

/// Makes room for one more. Doubling would leave a third of all room empty.
fn reserve(hooks: &mut Shard) {
    if hooks.len() == hooks.capacity() {
        hooks.reserve_exact(hooks.len() / 8 + 1);
    }
}

fn tag(key: &HookKey) -> u32 {
    u32::from_le_bytes([key[3], key[4], key[5], key[6]])
}

fn shard(key: &HookKey) -> usize {
    usize::from(u16::from_le_bytes([key[7], key[0]])) % SHARDS
}

impl Hooks {
    /// With at most this much memory.
    pub(crate) fn new(bytes: usize) -> Hooks {
        Hooks {
            shards: vec![Shard::new(); SHARDS],
            rate: FIRST_RATE,
            len: 0,
            limit: limit_of(bytes),
        }
    }

    /// From now on with at most this much memory.
    pub(crate) fn fit(&mut self, bytes: usize) {
        self.limit = limit_of(bytes);
        self.thin();
    }

    pub(crate) fn key(fingerprint: &Fingerprint) -> HookKey {
        let mut key = HookKey::default();
        key.copy_from_slice(&fingerprint[..size_of::<HookKey>()]);
        key
    }

    pub(crate) fn is_sampled(&self, key: &HookKey) -> bool {
        tag(key).trailing_zeros() >= self.rate
    }

    /// The pack that a block may be in.
    pub(crate) fn get(&self, fingerprint: &Fingerprint) -> Option<u32> {
        let key = Hooks::key(fingerprint);
        if !self.is_sampled(&key) {
            return None;
        }
        let hooks = &self.shards[shard(&key)];
        let at = hooks.binary_search_by_key(&tag(&key), |hook| hook.tag);
        Some(hooks[at.ok()?].pack)
    }

    /// Remembers where a block is, if it is one of the sample. `outdated` says of a pack that it is
    /// no use to remember it any more.
    pub(crate) fn add(&mut self, key: HookKey, pack: u32, outdated: impl Fn(u32) -> bool) {
        if !self.is_sampled(&key) {
            return;
        }
        let (hooks, tag) = (&mut self.shards[shard(&key)], tag(&key));
        match hooks.binary_search_by_key(&tag, |hook| hook.tag) {
            Ok(at) if outdated(hooks[at].pack) => hooks[at].pack = pack,
            Ok(_) => {}
            Err(at) => {
                reserve(hooks);
                hooks.insert(at, Hook { tag, pack });
                self.len += 1;
            }
        }
        self.thin();
    }

    /// Remembers many at once, of which the first of two counts. Nothing may be known before.
    pub(crate) fn fill(&mut self, hooks: impl Iterator<Item = (HookKey, u32)>) {
        for (key, pack) in hooks {
            if self.is_sampled(&key) {
                let hooks = &mut self.shards[shard(&key)];
                reserve(hooks);
                hooks.push(Hook {
                    tag: tag(&key),
                    pack,
                });
                self.len += 1;
                self.thin();
            }
        }
        for hooks in &mut self.shards {
            hooks.sort_by_key(|hook| hook.tag);
            hooks.dedup_by_key(|hook| hook.tag);
        }
        self.count();
    }

    /// Takes a sample of the sample, until it is within its limit.
    fn thin(&mut self) {
        while self.len > self.limit && self.rate < LAST_RATE {
            self.halve();
        }
    }

    fn halve(&mut self) {
        self.rate += 1;
        let rate = self.rate;
        self.keep(|hook| hook.tag.trailing_zeros() >= rate);
        for hooks in &mut self.shards {
            hooks.shrink_to_fit();
        }
    }

    /// Forgets those of packs that nothing may be built on.
    pub(crate) fn retain(&mut self, keep: impl Fn(u32) -> bool) {
        self.keep(|hook| keep(hook.pack));
    }

    fn keep(&mut self, keep: impl Fn(&Hook) -> bool) {
        for hooks in &mut self.shards {
            hooks.retain(&keep);
        }
        self.count();
    }

    fn count(&mut self) {
        self.len = self.shards.iter().map(Vec::len).sum();
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// One fingerprint in so many is a hook.
    pub(crate) fn one_in(&self) -> u64 {
        1 << self.rate
    }

    pub(crate) fn bytes(&self) -> usize {
        let room: usize = self.shards.iter().map(Vec::capacity).sum();
        room * size_of::<Hook>() + SHARDS * size_of::<Shard>()
    }
}
