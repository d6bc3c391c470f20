//! Changes to a disk, kept beside it instead of in it.
//!
//! The parent is never written. What is kept is blocks, in memory, up to a limit; storing them is
//! the caller's matter.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use crate::hash::is_zero;
use crate::media::check_range;
use crate::{BLOCK_SIZE, ReadAt, WriteAt};

type Block = [u8; BLOCK_SIZE];

/// How much of a disk may be changed in memory before writing is refused.
pub const MAX_CHANGED_BYTES: u64 = 16 << 30;

/// Blocks that differ from a parent, by index. `None` is a block that became zero.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes(BTreeMap<u64, Option<Box<Block>>>);

impl Changes {
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets one block; a block of zeros is kept as `None` and takes no room.
    pub fn set(&mut self, index: u64, block: &Block) {
        self.0
            .insert(index, (!is_zero(block)).then(|| Box::new(*block)));
    }

    pub fn get(&self, index: u64) -> Option<Option<&Block>> {
        self.0.get(&index).map(Option::as_deref)
    }

    /// In order of the disk.
    pub fn iter(&self) -> impl Iterator<Item = (u64, Option<&Block>)> {
        self.0
            .iter()
            .map(|(index, block)| (*index, block.as_deref()))
    }

    /// Blocks, those that became zero included.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Changed blocks times their size.
    pub fn bytes(&self) -> u64 {
        self.len() as u64 * BLOCK_SIZE as u64
    }

    /// The first changed block at or after `index`.
    fn next_at(&self, index: u64) -> Option<(u64, Option<&Block>)> {
        self.0
            .range(index..)
            .next()
            .map(|(index, block)| (*index, block.as_deref()))
    }
}

impl FromIterator<(u64, Option<Box<Block>>)> for Changes {
    fn from_iter<I: IntoIterator<Item = (u64, Option<Box<Block>>)>>(blocks: I) -> Self {
        let mut changes = Changes::new();
        for (index, block) in blocks {
            changes.set(index, block.as_deref().unwrap_or(&[0; BLOCK_SIZE]));
        }
        changes
    }
}

/// A parent with changes on top, readable as one disk, and writable if it owns the changes.
#[derive(Debug)]
pub struct CowDisk<P, C = Changes> {
    parent: P,
    changes: C,
    limit: u64,
}

impl<P: ReadAt, C: Borrow<Changes>> CowDisk<P, C> {
    /// With changes made before: owned, or borrowed to be read only.
    pub fn with_changes(parent: P, changes: C) -> Self {
        CowDisk {
            parent,
            changes,
            limit: MAX_CHANGED_BYTES,
        }
    }

    pub fn parent(&self) -> &P {
        &self.parent
    }

    pub fn changes(&self) -> &Changes {
        self.changes.borrow()
    }
}

impl<P: ReadAt> CowDisk<P> {
    pub fn new(parent: P) -> Self {
        Self::with_changes(parent, Changes::new())
    }

    /// A lower limit than [`MAX_CHANGED_BYTES`].
    pub fn limited(mut self, bytes: u64) -> Self {
        self.limit = bytes.min(MAX_CHANGED_BYTES);
        self
    }

    /// What really changed: a block written back to what the parent holds is dropped.
    pub fn into_changes(self) -> io::Result<Changes> {
        let CowDisk {
            parent,
            mut changes,
            ..
        } = self;
        let mut failed = Ok(());
        changes.0.retain(|index, block| {
            let mut before = [0; BLOCK_SIZE];
            match read_block(&parent, *index, &mut before) {
                Ok(()) => *block.as_deref().unwrap_or(&[0; BLOCK_SIZE]) != before,
                Err(error) => {
                    failed = Err(error);
                    true
                }
            }
        });
        failed.map(|()| changes)
    }

    fn block(&self, index: u64, into: &mut Block) -> io::Result<()> {
        match self.changes.get(index) {
            Some(Some(block)) => *into = *block,
            Some(None) => into.fill(0),
            None => read_block(&self.parent, index, into)?,
        }
        Ok(())
    }
}

/// A whole block; what the last one lacks of a block is zero.
fn read_block(disk: &dyn ReadAt, index: u64, into: &mut Block) -> io::Result<()> {
    let start = index * BLOCK_SIZE as u64;
    let len = disk.size().saturating_sub(start).min(BLOCK_SIZE as u64) as usize;
    into[len..].fill(0);
    disk.read_at(start, &mut into[..len])
}

/// The part of `offset..offset + len` that lies in the block where it begins.
fn first_part(offset: u64, len: usize) -> (u64, Range<usize>) {
    let within = (offset % BLOCK_SIZE as u64) as usize;
    (
        offset / BLOCK_SIZE as u64,
        within..BLOCK_SIZE.min(within + len),
    )
}

impl<P: ReadAt, C: Borrow<Changes> + Send + Sync> ReadAt for CowDisk<P, C> {
    fn size(&self) -> u64 {
        self.parent.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(self.size(), offset, buf.len())?;
        let end = offset + buf.len() as u64;
        let mut at = offset;
        while at < end {
            let rest = &mut buf[(at - offset) as usize..];
            let (index, part) = first_part(at, rest.len());
            // Runs without a change are one read of the parent, not one for each block.
            let until = match self.changes.borrow().next_at(index) {
                Some((changed, block)) if changed == index => {
                    let part_len = part.len();
                    match block {
                        Some(block) => rest[..part_len].copy_from_slice(&block[part]),
                        None => rest[..part_len].fill(0),
                    }
                    at += part_len as u64;
                    continue;
                }
                Some((changed, _)) => (changed * BLOCK_SIZE as u64).min(end),
                None => end,
            };
            self.parent
                .read_at(at, &mut rest[..(until - at) as usize])?;
            at = until;
        }
        Ok(())
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        if offset >= self.size() {
            return Ok(None);
        }
        let below = self.parent.next_data(offset)?;
        let block = BLOCK_SIZE as u64;
        // A block that became zero counts as data: saying so is allowed, and looking past many of
        // them at every call is not cheap.
        let above = self
            .changes
            .borrow()
            .next_at(offset / block)
            .map(|(index, _)| (index * block).max(offset)..((index + 1) * block).min(self.size()));
        Ok(match (below, above) {
            (Some(below), Some(above)) if above.start < below.start => Some(above),
            (Some(below), _) => Some(below),
            (None, above) => above,
        })
    }
}

impl<P: ReadAt> WriteAt for CowDisk<P> {
    fn write_at(&mut self, offset: u64, buf: &[u8]) -> io::Result<()> {
        check_range(self.size(), offset, buf.len())?;
        let mut done = 0;
        let mut current = [0; BLOCK_SIZE];
        while done < buf.len() {
            let (index, part) = first_part(offset + done as u64, buf.len() - done);
            let new = &buf[done..done + part.len()];
            done += part.len();
            self.block(index, &mut current)?;
            if current[part.clone()] == *new {
                continue;
            }
            current[part].copy_from_slice(new);
            if self.changes.bytes() >= self.limit && self.changes.get(index).is_none() {
                return Err(io::Error::new(
                    io::ErrorKind::StorageFull,
                    format!("more than {} bytes of the disk were changed", self.limit),
                ));
            }
            self.changes.set(index, &current);
        }
        Ok(())
    }
}
