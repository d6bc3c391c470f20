//! Where things are, by keys that are hashes: a flat table that takes what it says and no more. The standard one leaves
//! a mark where something was removed, and becomes twice as large for that in the end.

/// A key whose first bytes are as good as any hash of it.
pub(super) trait Key: Copy + Eq {
    fn head(&self) -> u64;
}

impl<const N: usize> Key for [u8; N] {
    fn head(&self) -> u64 {
        self.first_chunk()
            .map_or(0, |head| u64::from_le_bytes(*head))
    }
}

/// A pack, and a place in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct At {
    pub(super) pack: u32,
    pub(super) nth: u32,
}

/// No pack has this number.
const NOWHERE: At = At {
    pack: u32::MAX,
    nth: 0,
};

#[derive(Debug, Clone, Copy)]
struct Slot<K> {
    key: K,
    at: At,
}

impl<K> Slot<K> {
    fn is_empty(&self) -> bool {
        self.at.pack == NOWHERE.pack
    }
}

/// Of five slots, one at least stays empty.
#[derive(Debug)]
pub(super) struct Table<K> {
    slots: Vec<Slot<K>>,
    len: usize,
}

/// From this part of all that there may be on, room is made for all of it at once: a table is copied to grow, so the one
/// before must be small.
const JUMP_PART: usize = 8;

impl<K: Key> Table<K> {
    pub(super) fn new() -> Table<K> {
        Table {
            slots: Vec::new(),
            len: 0,
        }
    }

    /// How many fit into so many bytes.
    pub(super) fn most_in(bytes: usize) -> usize {
        bytes / size_of::<Slot<K>>() / 5 * 4
    }

    fn slots_for(entries: usize) -> usize {
        entries.div_ceil(4) * 5
    }

    /// What so many take.
    pub(super) fn bytes_of(entries: usize) -> usize {
        Table::<K>::slots_for(entries) * size_of::<Slot<K>>()
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Slot<K>>()
    }

    fn home(&self, key: &K) -> usize {
        ((u128::from(key.head()) * self.slots.len() as u128) >> 64) as usize
    }

    /// The slot of a key, or the empty one where it belongs.
    fn seek(&self, key: &K) -> Option<usize> {
        if self.slots.is_empty() {
            return None;
        }
        let mut at = self.home(key);
        loop {
            let slot = &self.slots[at];
            if slot.is_empty() || slot.key == *key {
                return Some(at);
            }
            at = self.after(at);
        }
    }

    fn after(&self, slot: usize) -> usize {
        match slot + 1 == self.slots.len() {
            true => 0,
            false => slot + 1,
        }
    }

    pub(super) fn get(&self, key: &K) -> Option<At> {
        let slot = &self.slots[self.seek(key)?];
        (!slot.is_empty()).then_some(slot.at)
    }

    /// Puts a key where it is from now on. `better` says of where it is whether that shall be replaced.
    pub(super) fn put(&mut self, key: K, at: At, better: impl FnOnce(At) -> bool) {
        self.reserve(1, self.len + self.len / JUMP_PART + 4, key);
        let Some(found) = self.seek(&key) else { return };
        let slot = &mut self.slots[found];
        if slot.is_empty() {
            *slot = Slot { key, at };
            self.len += 1;
        } else if better(slot.at) {
            slot.at = at;
        }
    }

    /// Makes room for some more, of which there are `most` in the end. Any key does.
    pub(super) fn reserve(&mut self, more: usize, most: usize, any: K) {
        let needed = self.len + more;
        if needed <= self.slots.len() / 5 * 4 {
            return;
        }
        let wanted = match needed >= most / JUMP_PART {
            true => most.max(needed),
            false => needed * 2,
        };
        self.rebuild(wanted, any);
    }

    /// Brings what is looked at for these keys into the processor's caches, all at a time: one after the other, each
    /// would be waited for.
    pub(super) fn fetch<'a>(&self, keys: impl Iterator<Item = &'a K>)
    where
        K: 'a,
    {
        if !self.slots.is_empty() {
            let packs = keys.map(|key| self.slots[self.home(key)].at.pack);
            std::hint::black_box(packs.fold(0, u32::wrapping_add));
        }
    }

    /// Whether it has more room than for so many.
    pub(super) fn is_beyond(&self, most: usize) -> bool {
        self.slots.len() > Table::<K>::slots_for(most.max(self.len))
    }

    /// Gives back what is more room than for so many.
    pub(super) fn shrink_to(&mut self, most: usize) {
        if self.is_beyond(most)
            && let Some(slot) = self.slots.first()
        {
            let any = slot.key;
            // Not both tables at once, where what is in them is less.
            let mut kept: Vec<Slot<K>> = Vec::with_capacity(self.len);
            kept.extend(self.slots.iter().filter(|slot| !slot.is_empty()));
            *self = Table::new();
            self.rebuild(most.max(kept.len()), any);
            for slot in kept {
                self.put(slot.key, slot.at, |_| false);
            }
        }
    }

    fn rebuild(&mut self, entries: usize, any: K) {
        let empty = Slot {
            key: any,
            at: NOWHERE,
        };
        let slots = vec![empty; Table::<K>::slots_for(entries)];
        let old = std::mem::replace(self, Table { slots, len: 0 });
        for slot in old.slots.iter().filter(|slot| !slot.is_empty()) {
            self.put(slot.key, slot.at, |_| false);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, At)> {
        let there = self.slots.iter().filter(|slot| !slot.is_empty());
        there.map(|slot| (&slot.key, slot.at))
    }

    /// Lets go of others.
    pub(super) fn retain(&mut self, keep: impl Fn(At) -> bool) {
        let Some(start) = self.slots.iter().position(Slot::is_empty) else {
            return;
        };
        // From an empty slot on all round: each moves to where it belongs or stays, and what lies between there and
        // here was moved before.
        let mut at = start;
        for _ in 1..self.slots.len() {
            at = self.after(at);
            let Slot { key, at: place } = self.slots[at];
            if self.slots[at].is_empty() {
                continue;
            }
            self.slots[at].at = NOWHERE;
            match keep(place).then(|| self.seek(&key)).flatten() {
                Some(to) => self.slots[to] = Slot { key, at: place },
                None => self.len -= 1,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn hash(number: u32) -> [u8; 12] {
        let mut out = [0; 12];
        out.copy_from_slice(&blake3::hash(&number.to_le_bytes()).as_bytes()[..12]);
        out
    }

    fn key(number: u32) -> [u8; 12] {
        let mut out = hash(number);
        // A third of them belong at one and the same place, the last.
        if number.is_multiple_of(3) {
            out[..8].fill(255);
        }
        out
    }

    fn check(table: &Table<[u8; 12]>, model: &HashMap<[u8; 12], At>, numbers: u32) {
        assert_eq!(table.len(), model.len());
        assert_eq!(table.iter().count(), model.len());
        for number in 0..numbers {
            let known = key(number);
            assert_eq!(table.get(&known), model.get(&known).copied(), "{number}");
        }
    }

    #[test]
    fn it_has_what_a_map_has() {
        let (mut table, mut model) = (Table::new(), HashMap::new());
        check(&table, &model, 10);
        for round in 0..6 {
            for number in 0..3000 {
                let at = At {
                    pack: (number * 7 + round) % 50,
                    nth: number,
                };
                table.put(key(number), at, |known| known.pack < 5);
                let entry = model.entry(key(number)).or_insert(at);
                if entry.pack < 5 {
                    *entry = at;
                }
            }
            check(&table, &model, 3500);
            let keep = |at: At| at.pack % 4 != round % 4;
            table.retain(keep);
            model.retain(|_, at| keep(*at));
            check(&table, &model, 3500);
        }
        table.retain(|at| at.pack < 3);
        model.retain(|_, at| at.pack < 3);
        table.shrink_to(0);
        check(&table, &model, 3500);
        assert!(table.bytes() <= Table::<[u8; 12]>::bytes_of(model.len()));
    }

    #[test]
    fn it_takes_what_it_says_however_often_others_come_and_go() {
        let most = 4000;
        let mut table = Table::new();
        for round in 0..200u32 {
            table.reserve(1000, most, hash(0));
            for nth in 0..1000 {
                let at = At { pack: round, nth };
                table.put(hash(round * 1000 + nth), at, |_| false);
            }
            assert!(table.bytes() <= Table::<[u8; 12]>::bytes_of(most));
            if table.len() == most {
                table.retain(|at| at.pack + 3 > round);
                assert_eq!(table.len(), 3000);
            }
        }
    }
}
