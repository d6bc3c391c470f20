//! From a manifest down to its frames: loading the tables that it is cut into.
//!
//! Each table is held against the hash that its parent has for it, so what comes out is what the
//! digest stands for. A disk of any size is gone through in stretches of 512 MiB, so memory does
//! not grow with the disk. What needs no key is in [`Inner::each_frame`].

use std::collections::HashMap;

use disk::DiskDigest;

use crate::bulk::batches;
use crate::error::StoreError;
use crate::frame::{FrameId, frame_id};
use crate::index::{Location, Reach};
use crate::manifest::{BranchRef, Manifest, Outside};
use crate::section::{
    Piece, Refs, Section, SectionRef, UsedFrame, decode_branch, push_piece, read_refs,
};
use crate::store::Inner;

/// How often a frame is looked for again that was moved to another pack at this moment.
const MOVES: usize = 3;

/// 512 MiB of a disk: frames and pieces of its sections in one table.
#[derive(Debug)]
pub(crate) struct Stretch {
    pub(crate) branch: BranchRef,
    /// Without their pieces, which are in `pieces`.
    pub(crate) sections: Vec<Section>,
    pub(crate) frames: Vec<UsedFrame>,
    /// In order of the disk. No piece lies in two sections.
    pub(crate) pieces: Vec<Piece>,
}

impl Inner {
    /// Where a frame or table of a disk is.
    pub(crate) fn locate(
        &self,
        used: &UsedFrame,
        disk: &DiskDigest,
    ) -> Result<Location, StoreError> {
        let found = self.find(&used.id, Reach::Lasting)?;
        found
            .filter(|at| at.blocks == used.blocks)
            .ok_or(StoreError::MissingFrame {
                frame: used.id,
                disk: *disk,
            })
    }

    /// Where a frame or table can be read, be it on its way out.
    pub(crate) fn readable(&self, id: &FrameId, disk: &DiskDigest) -> Result<Location, StoreError> {
        let found = self.find(id, Reach::Reading)?;
        found.ok_or(StoreError::MissingFrame {
            frame: *id,
            disk: *disk,
        })
    }

    pub(crate) fn locate_all(
        &self,
        used: &[UsedFrame],
        disk: &DiskDigest,
    ) -> Result<Vec<Location>, StoreError> {
        used.iter().map(|used| self.locate(used, disk)).collect()
    }

    /// A frame as it is stored, and where. It may have moved since it was looked up.
    pub(crate) fn stored(&self, mut at: Location) -> Result<(Location, Vec<u8>), StoreError> {
        let mut tries = 0;
        loop {
            let gone = match self.pack_range(at.pack, at.offset, at.len) {
                Ok(stored) => return Ok((at, stored)),
                Err(error) if error.is_not_found() => error,
                Err(error) => return Err(error),
            };
            let moved = self.find(&at.id, Reach::Reading)?;
            tries += 1;
            match moved.filter(|now| now.pack != at.pack && tries < MOVES) {
                None => return Err(gone),
                Some(now) => at = now,
            }
        }
    }

    /// Stored tables, checked, in the order asked for. Neighbours are read together.
    pub(crate) fn tables(
        &self,
        ids: &[FrameId],
        disk: &DiskDigest,
    ) -> Result<Vec<(Location, Vec<u8>)>, StoreError> {
        let at = ids.iter().map(|id| self.readable(id, disk));
        let at: Vec<Location> = at.collect::<Result<_, _>>()?;
        let mut found: Vec<Option<(Location, Vec<u8>)>> = vec![None; ids.len()];
        for batch in batches((0u32..).zip(at.iter().copied())) {
            let read = batch.stored(self, |number, at, stored| {
                found[number as usize] = Some((*at, stored.to_vec()));
                Ok(())
            });
            match read {
                Err(error) if error.is_not_found() => {
                    for (number, at) in &batch.frames {
                        found[*number as usize] = Some(self.stored(*at)?);
                    }
                }
                other => other?,
            }
        }
        let checked = found.into_iter().flatten().map(|(at, stored)| {
            match frame_id(at.coding, 0, &stored) == at.id {
                true => Ok((at, stored)),
                false => Err(self.damaged_frame(&at, "its bytes are not what was stored")),
            }
        });
        checked.collect()
    }

    /// The sections of a branch.
    pub(crate) fn branch(
        &self,
        manifest: &Manifest,
        branch: &BranchRef,
    ) -> Result<Vec<SectionRef>, StoreError> {
        let domain = self.domain()?;
        let shape = manifest.shape();
        let tables = self.tables(&[branch.id], &manifest.digest)?;
        let mut sections = Vec::new();
        for (at, stored) in &tables {
            sections = decode_branch(&domain, at.coding, stored, (&shape, branch.index))
                .map_err(|what| self.damaged_frame(at, what))?;
            let blocks: u32 = sections.iter().map(|section| section.blocks).sum();
            if shape.branch_top(&sections) != branch.top || blocks != branch.blocks {
                return Err(self.damaged_frame(at, "it is another branch"));
            }
        }
        Ok(sections)
    }

    /// Sections, in the order asked for.
    pub(crate) fn sections(
        &self,
        manifest: &Manifest,
        wanted: &[SectionRef],
    ) -> Result<Vec<Section>, StoreError> {
        let domain = self.domain()?;
        let shape = manifest.shape();
        let ids: Vec<FrameId> = wanted.iter().map(|section| section.id).collect();
        let tables = self.tables(&ids, &manifest.digest)?;
        let read = tables.iter().zip(wanted).map(|((at, stored), wanted)| {
            let damaged = |what| self.damaged_frame(at, what);
            let section = Section::decode(&domain, at.coding, stored, (&shape, wanted.index))
                .map_err(damaged)?;
            let same = shape.section_top(&section.chunks) == wanted.top;
            match same && section.blocks() == wanted.blocks {
                true => Ok(section),
                false => Err(damaged("it is another section")),
            }
        });
        read.collect()
    }

    pub(crate) fn stretch(
        &self,
        manifest: &Manifest,
        branch: &BranchRef,
    ) -> Result<Stretch, StoreError> {
        let refs = self.branch(manifest, branch)?;
        let mut sections = self.sections(manifest, &refs)?;
        let mut stretch = Stretch {
            branch: *branch,
            sections: Vec::new(),
            frames: Vec::new(),
            pieces: Vec::new(),
        };
        let mut numbers = HashMap::new();
        for section in &mut sections {
            let new: Vec<u32> = section
                .frames
                .iter()
                .map(|used| {
                    *numbers.entry(used.id).or_insert_with(|| {
                        stretch.frames.push(*used);
                        stretch.frames.len() as u32 - 1
                    })
                })
                .collect();
            for piece in section.pieces.drain(..) {
                let frame = new[piece.frame as usize];
                push_piece(&mut stretch.pieces, Piece { frame, ..piece });
            }
        }
        stretch.sections = sections;
        Ok(stretch)
    }

    /// Goes through a disk from its beginning to its end.
    pub(crate) fn each_stretch(
        &self,
        manifest: &Manifest,
        mut each: impl FnMut(Stretch) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        for branch in &manifest.branches {
            each(self.stretch(manifest, branch)?)?;
        }
        Ok(())
    }

    /// Calls `each` with every table and frame that a disk needs, tables before what they name.
    /// No key is needed. With `false` what lies below a table is left out.
    pub(crate) fn each_frame(
        &self,
        outside: &Outside,
        each: &mut dyn FnMut(&UsedFrame) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        let table = |id: FrameId| UsedFrame { id, blocks: 0 };
        let disk = &outside.digest;
        for (_, id) in &outside.branches {
            if !each(&table(*id))? {
                continue;
            }
            let mut wanted = Vec::new();
            for (at, stored) in self.tables(&[*id], disk)? {
                let refs = read_refs(&stored).map_err(|what| self.damaged_frame(&at, what))?;
                let Refs::Sections(sections) = refs.0 else {
                    return Err(self.damaged_frame(&at, "it is no branch"));
                };
                for (_, id) in sections {
                    if each(&table(id))? {
                        wanted.push(id);
                    }
                }
            }
            for (at, stored) in self.tables(&wanted, disk)? {
                let refs = read_refs(&stored).map_err(|what| self.damaged_frame(&at, what))?;
                let Refs::Frames(frames) = refs.0 else {
                    return Err(self.damaged_frame(&at, "it is no section"));
                };
                for frame in &frames {
                    each(frame)?;
                }
            }
        }
        Ok(())
    }

    /// An error if a frame that the disk needs is not here.
    pub(crate) fn check_complete(&self, outside: &Outside) -> Result<(), StoreError> {
        self.each_frame(outside, &mut |used| {
            self.locate(used, &outside.digest).map(|_| true)
        })
    }
}
