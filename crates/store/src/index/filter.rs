//! Which frames a list may have, in ten bits for each: what it says is not in the list is not, and
//! of what is not, it lets one in a hundred pass. A Bloom filter; it is in memory and never noted.

/// For each frame.
const BITS: usize = 10;
/// Of which so many are set.
const PROBES: u64 = 6;

#[derive(Debug)]
pub(super) struct Filter(Box<[u64]>);

impl Filter {
    /// For so many frames.
    pub(super) fn new(frames: usize) -> Filter {
        let words = (frames * BITS).div_ceil(64).max(1);
        Filter(vec![0; words].into())
    }

    pub(super) fn add(&mut self, key: u64) {
        for (word, bit) in places(key, self.0.len()) {
            self.0[word] |= bit;
        }
    }

    pub(super) fn may_have(&self, key: u64) -> bool {
        places(key, self.0.len()).all(|(word, bit)| self.0[word] & bit != 0)
    }

    pub(super) fn bytes(&self) -> usize {
        self.0.len() * size_of::<u64>()
    }
}

/// The bits of a frame among so many words. Keys are hashes, so their halves are as good as two of them.
fn places(key: u64, words: usize) -> impl Iterator<Item = (usize, u64)> {
    let step = key.rotate_left(32) | 1;
    (0..PROBES).map(move |nth| {
        let hash = u128::from(key.wrapping_add(nth.wrapping_mul(step)));
        let bit = (hash * (words as u128 * 64)) >> 64;
        ((bit / 64) as usize, 1 << (bit % 64))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_passes_and_little_else() {
        let key = |number: u64| {
            let hash = blake3::hash(&number.to_le_bytes());
            let (head, _) = hash.as_bytes().split_first_chunk().unwrap();
            u64::from_be_bytes(*head)
        };
        for frames in [1, 340, 20_000] {
            let mut filter = Filter::new(frames as usize);
            (0..frames).for_each(|number| filter.add(key(number)));
            assert!((0..frames).all(|number| filter.may_have(key(number))));
            let others = frames..frames + 10_000;
            let wrong = others.filter(|number| filter.may_have(key(*number)));
            assert!(wrong.count() < 200, "{frames}");
        }
    }
}
