//! All packs, by number and by name, in pieces that stay where they are or are small: a list that is moved to grow leaves
//! a hole as large as it was, which nothing that is larger fits into. With half a million packs such holes were a fifth
//! of what the process took.

use std::ops::{Index, IndexMut};

use super::KnownPack;
use super::table::{At, Table};

/// Packs that lie together.
const PIECE: usize = 1024;
/// Names are spread over so many tables, of which one is made anew at a time.
const TABLES: usize = 64;

type Name = [u8; 16];

/// Packs by their numbers, which begin at 0 and have no gaps.
#[derive(Debug, Default)]
pub(super) struct Packs(Vec<Vec<KnownPack>>);

impl Packs {
    pub(super) fn len(&self) -> usize {
        let full = self.0.len().saturating_sub(1) * PIECE;
        full + self.0.last().map_or(0, Vec::len)
    }

    pub(super) fn get(&self, number: usize) -> Option<&KnownPack> {
        self.0.get(number / PIECE)?.get(number % PIECE)
    }

    pub(super) fn push(&mut self, pack: KnownPack) {
        match self.0.last_mut() {
            Some(piece) if piece.len() < PIECE => piece.push(pack),
            Some(_) => {
                let mut piece = Vec::with_capacity(PIECE);
                piece.push(pack);
                self.0.push(piece);
            }
            // A small store has a small list.
            None => self.0.push(vec![pack]),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &KnownPack> {
        self.0.iter().flatten()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut KnownPack> {
        self.0.iter_mut().flatten()
    }

    pub(super) fn bytes(&self) -> usize {
        let packs: usize = self.0.iter().map(Vec::capacity).sum();
        packs * size_of::<KnownPack>() + self.0.capacity() * size_of::<Vec<KnownPack>>()
    }
}

impl Index<usize> for Packs {
    type Output = KnownPack;

    fn index(&self, number: usize) -> &KnownPack {
        &self.0[number / PIECE][number % PIECE]
    }
}

impl IndexMut<usize> for Packs {
    fn index_mut(&mut self, number: usize) -> &mut KnownPack {
        &mut self.0[number / PIECE][number % PIECE]
    }
}

/// Numbers of packs by their names.
#[derive(Debug)]
pub(super) struct Names(Vec<Table<Name>>);

impl Names {
    pub(super) fn new() -> Names {
        Names(std::iter::repeat_with(Table::new).take(TABLES).collect())
    }

    /// By the end of the name: within a table its beginning says where it is.
    fn table_of(name: &Name) -> usize {
        usize::from(name[15]) % TABLES
    }

    pub(super) fn get(&self, name: &Name) -> Option<u32> {
        let at = self.0[Names::table_of(name)].get(name)?;
        Some(at.pack)
    }

    pub(super) fn put(&mut self, name: Name, pack: u32) {
        self.0[Names::table_of(&name)].put(name, At { pack, nth: 0 }, |_| true);
    }

    pub(super) fn retain(&mut self, keep: impl Fn(At) -> bool) {
        for table in &mut self.0 {
            table.retain(&keep);
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.0.iter().map(Table::bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packs_keep_their_numbers_and_names_lead_to_them() {
        let (mut packs, mut names) = (Packs::default(), Names::new());
        let name = |number: u32| *blake3::hash(&number.to_le_bytes()).as_bytes();
        let name = |number: u32| -> Name { *name(number).first_chunk().unwrap() };
        assert_eq!((packs.len(), packs.bytes()), (0, 0));
        for number in 0..5000u32 {
            assert_eq!(packs.len(), number as usize);
            let mut pack = KnownPack::gone();
            pack.about.file_bytes = number;
            packs.push(pack);
            names.put(name(number), number);
        }
        packs[4321].about.file_bytes += 1;
        packs.iter_mut().for_each(|pack| pack.about.frames = 7);
        names.retain(|at| at.pack != 77);
        for number in 0..5000u32 {
            let known = &packs[number as usize].about;
            let expected = number + u32::from(number == 4321);
            assert_eq!((known.file_bytes, known.frames), (expected, 7));
            let found = (number != 77).then_some(number);
            assert_eq!(names.get(&name(number)), found);
        }
        assert!(packs.get(5000).is_none() && packs.get(4999).is_some());
        let each = (packs.bytes() + names.bytes()) / 5000;
        assert!(each < 2 * size_of::<KnownPack>(), "{each}");
    }
}
