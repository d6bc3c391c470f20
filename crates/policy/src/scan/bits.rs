//! Sets of rows, one bit for each.

/// Rows of one word.
pub const WORD: usize = 64;

/// A set of the rows `0..len`. Bits behind the last row are never set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bits {
    words: Vec<u64>,
    len: usize,
}

impl Bits {
    pub fn none(len: usize) -> Bits {
        Bits {
            words: vec![0; len.div_ceil(WORD)],
            len,
        }
    }

    pub fn words(&self) -> &[u64] {
        &self.words
    }

    pub(super) fn word_mut(&mut self, word: usize) -> &mut u64 {
        &mut self.words[word]
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// Rows in the set.
    pub fn count(&self) -> usize {
        self.words
            .iter()
            .map(|word| word.count_ones() as usize)
            .sum()
    }

    pub fn has(&self, row: usize) -> bool {
        self.words
            .get(row / WORD)
            .is_some_and(|word| word >> (row % WORD) & 1 == 1)
    }

    pub(super) fn put(&mut self, row: usize, on: bool) {
        if row >= self.len {
            self.len = row + 1;
            self.words.resize(self.len.div_ceil(WORD), 0);
        }
        let bit = 1 << (row % WORD);
        match on {
            true => self.words[row / WORD] |= bit,
            false => self.words[row / WORD] &= !bit,
        }
    }

    /// The rows in the set, lowest first.
    pub fn rows(&self) -> impl Iterator<Item = usize> + '_ {
        self.words.iter().enumerate().flat_map(|(index, word)| {
            let mut left = *word;
            std::iter::from_fn(move || {
                let bit = left.trailing_zeros() as usize;
                (left != 0).then(|| {
                    left &= left - 1;
                    index * WORD + bit
                })
            })
        })
    }

    pub(super) fn add(&mut self, other: &Bits) {
        for (word, other) in self.words.iter_mut().zip(&other.words) {
            *word |= other;
        }
    }

    pub(super) fn take_away(&mut self, other: &Bits) {
        for (word, other) in self.words.iter_mut().zip(&other.words) {
            *word &= !other;
        }
    }
}
