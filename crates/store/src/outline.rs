//! The manifest of a disk while the disk is being taken in: sections become tables as soon as all
//! their frames have names, so what is held in memory does not grow with the disk's data.

use std::collections::{BTreeMap, HashMap};

use disk::ChunkHash;

use crate::domain::Domain;
use crate::error::StoreError;
use crate::frame::{Frame, FrameId};
use crate::manifest::{BranchRef, Manifest};
use crate::section::{
    BRANCH_SECTIONS, Piece, SECTION_CHUNKS, Section, SectionRef, Shape, UsedFrame, encode_branch,
    push_piece,
};
use crate::session::FrameRef;
use crate::store::Inner;

/// A section whose blocks are all looked up, but whose frames may not have names yet.
pub(crate) struct Draft {
    pub(crate) index: u32,
    pub(crate) chunks: [ChunkHash; SECTION_CHUNKS],
    /// In order of the disk.
    pub(crate) pieces: Vec<Piece<FrameRef>>,
}

enum Branch {
    /// As another disk has it.
    Kept(BranchRef),
    Changed(BTreeMap<u32, SectionRef>),
}

pub(crate) struct Outline {
    shape: Shape,
    size: u64,
    branches: BTreeMap<u32, Branch>,
    drafts: Vec<Draft>,
}

impl Outline {
    /// Of a disk of which nothing is known.
    pub(crate) fn new(size: u64) -> Outline {
        Outline {
            shape: Shape::of(size),
            size,
            branches: BTreeMap::new(),
            drafts: Vec::new(),
        }
    }

    /// Of a disk that is this one but for the sections that will be given.
    pub(crate) fn of(parent: &Manifest) -> Outline {
        let kept = |branch: &BranchRef| (branch.index, Branch::Kept(*branch));
        Outline {
            branches: parent.branches.iter().map(kept).collect(),
            ..Outline::new(parent.size)
        }
    }

    pub(crate) fn give(&mut self, draft: Draft) {
        self.drafts.push(draft);
    }

    /// Makes tables of drafts all of whose frames have names, and hands them to `put`.
    pub(crate) fn settle(
        &mut self,
        inner: &Inner,
        domain: &Domain,
        name: &dyn Fn(FrameRef) -> Option<UsedFrame>,
        put: &mut dyn FnMut(Frame) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut waiting = Vec::new();
        for draft in std::mem::take(&mut self.drafts) {
            match finished(&draft, name) {
                None => waiting.push(draft),
                Some(section) => self.set(inner, domain, &section, put)?,
            }
        }
        self.drafts = waiting;
        Ok(())
    }

    fn set(
        &mut self,
        inner: &Inner,
        domain: &Domain,
        section: &Section,
        put: &mut dyn FnMut(Frame) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let branch = section.index / BRANCH_SECTIONS;
        let known = self
            .branches
            .entry(branch)
            .or_insert_with(|| Branch::Changed(BTreeMap::new()));
        if let Branch::Kept(kept) = known {
            // Of the other disk only the branches that change are looked at.
            let alone = Manifest::new(self.size, Vec::new());
            let sections = inner.branch(&alone, kept)?;
            let sections = sections.into_iter().map(|known| (known.index, known));
            *known = Branch::Changed(sections.collect());
        }
        let Branch::Changed(sections) = known else {
            return Ok(());
        };
        if section.pieces.is_empty() {
            sections.remove(&section.index);
            return Ok(());
        }
        let frame = section.encode(domain)?;
        let entry = SectionRef {
            index: section.index,
            id: frame.id,
            top: self.shape.section_top(&section.chunks),
            blocks: section.blocks(),
        };
        sections.insert(section.index, entry);
        put(frame)
    }

    /// The root, when every draft is settled.
    pub(crate) fn finish(
        self,
        domain: &Domain,
        put: &mut dyn FnMut(Frame) -> Result<(), StoreError>,
    ) -> Result<Manifest, StoreError> {
        assert!(self.drafts.is_empty(), "every frame has a name by now");
        let mut branches = Vec::with_capacity(self.branches.len());
        for (index, branch) in self.branches {
            let sections: Vec<SectionRef> = match branch {
                Branch::Kept(kept) => {
                    branches.push(kept);
                    continue;
                }
                Branch::Changed(sections) => sections.into_values().collect(),
            };
            if sections.is_empty() {
                continue;
            }
            let frame = encode_branch(domain, &sections)?;
            branches.push(BranchRef {
                index,
                id: frame.id,
                top: self.shape.branch_top(&sections),
                blocks: sections.iter().map(|section| section.blocks).sum(),
            });
            put(frame)?;
        }
        Ok(Manifest::new(self.size, branches))
    }
}

/// The section that a draft is, if all its frames have names.
fn finished(draft: &Draft, name: &dyn Fn(FrameRef) -> Option<UsedFrame>) -> Option<Section> {
    let mut numbers: HashMap<FrameId, u32> = HashMap::new();
    let mut section = Section {
        index: draft.index,
        chunks: draft.chunks,
        frames: Vec::new(),
        pieces: Vec::with_capacity(draft.pieces.len()),
    };
    for piece in &draft.pieces {
        let used = name(piece.frame)?;
        let frame = *numbers.entry(used.id).or_insert_with(|| {
            section.frames.push(used);
            section.frames.len() as u32 - 1
        });
        let Piece {
            block, slot, count, ..
        } = *piece;
        push_piece(
            &mut section.pieces,
            Piece {
                block,
                frame,
                slot,
                count,
            },
        );
    }
    Some(section)
}
