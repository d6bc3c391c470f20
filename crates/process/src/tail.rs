//! A byte buffer that keeps the end of what was written to it. A program that prints for an hour
//! must not fill our memory, and what it said last is what explains its end.

use std::collections::VecDeque;

/// The last bytes of a stream, and how many came before them.
#[derive(Debug, Clone)]
pub struct Tail {
    kept: VecDeque<u8>,
    limit: usize,
    dropped: u64,
}

impl Tail {
    /// Keeps at most `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            kept: VecDeque::new(),
            limit,
            dropped: 0,
        }
    }

    /// Appends `bytes`, forgetting the oldest beyond the limit.
    pub fn push(&mut self, bytes: &[u8]) {
        let skip = bytes.len().saturating_sub(self.limit);
        let bytes_kept = &bytes[skip..];
        let excess = (self.kept.len() + bytes_kept.len()).saturating_sub(self.limit);
        self.kept.drain(..excess);
        self.kept.extend(bytes_kept);
        self.dropped += (skip + excess) as u64;
    }

    /// How many bytes were forgotten.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// The kept bytes.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        self.kept.iter().copied().collect()
    }

    /// The last `limit` of the kept bytes as text, what is not UTF-8 replaced.
    #[must_use]
    pub fn text(&self, limit: usize) -> String {
        let skip = self.kept.len().saturating_sub(limit);
        let bytes: Vec<u8> = self.kept.iter().skip(skip).copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn keeps_exactly_the_end(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..20),
            limit in 0usize..50,
        ) {
            let mut tail = Tail::new(limit);
            for piece in &pieces {
                tail.push(piece);
            }
            let all = pieces.concat();
            let start = all.len().saturating_sub(limit);
            prop_assert_eq!(tail.to_vec(), all[start..].to_vec());
            prop_assert_eq!(tail.dropped(), start as u64);
        }
    }
}
