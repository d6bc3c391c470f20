//! The tables that a manifest is cut into: a section says what 8 MiB of a disk are made of, a
//! branch names the sections of 512 MiB.
//!
//! A table is stored like a frame, named by its stored bytes, so versions share those that did not
//! change. What a table refers to is readable by anyone, for sweeping and copying need it; which
//! block lies where, and the hashes of what the disk holds, are sealed.

use disk::{BLOCK_SIZE, BLOCKS_PER_CHUNK, CHUNK_SIZE, ChunkHash, chunk_count, node_above};

use crate::codec::{Reader, push_varint};
use crate::domain::Domain;
use crate::error::StoreError;
use crate::frame::{Coding, FRAME_BLOCKS, Frame, FrameId, ID_LEN, Packing};

/// Chunks in a section: 8 MiB.
pub(crate) const SECTION_CHUNKS: usize = 8;
/// Blocks in a section.
pub(crate) const SECTION_BLOCKS: u32 = (SECTION_CHUNKS * BLOCKS_PER_CHUNK) as u32;
pub(crate) const SECTION_BYTES: u64 = (SECTION_CHUNKS * CHUNK_SIZE) as u64;
/// Sections in a branch: 512 MiB.
pub(crate) const BRANCH_SECTIONS: u32 = 64;

const SECTION: u8 = 1;
const BRANCH: u8 = 2;

/// A frame that a disk uses, as its manifest says. A [`crate::FrameSource`] can read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UsedFrame {
    pub(crate) id: FrameId,
    pub(crate) blocks: u8,
}

impl UsedFrame {
    pub fn id(&self) -> &FrameId {
        &self.id
    }

    /// What the blocks of this frame are known by in memory. Whoever has another way to read the
    /// frame, or none, has another key: frames of other domains have other names.
    pub(crate) fn cache_key(&self) -> [u8; ID_LEN] {
        self.id.0
    }
}

/// Neighbouring blocks of a disk that are neighbours in one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece<F = u32> {
    /// The first block, counted on the disk.
    pub(crate) block: u32,
    /// The frame: by its number in the table that the piece belongs to, unless told otherwise.
    pub(crate) frame: F,
    /// The first block, counted in the frame.
    pub(crate) slot: u8,
    pub(crate) count: u8,
}

impl<F> Piece<F> {
    /// The block after the last.
    pub(crate) fn end(&self) -> u64 {
        u64::from(self.block) + u64::from(self.count)
    }
}

/// Adds a piece, as part of the last one where it continues that within a section.
pub(crate) fn push_piece<F: Copy + PartialEq>(pieces: &mut Vec<Piece<F>>, piece: Piece<F>) {
    if let Some(last) = pieces.last_mut()
        && last.frame == piece.frame
        && last.end() == u64::from(piece.block)
        && last.slot + last.count == piece.slot
        && last.block / SECTION_BLOCKS == piece.block / SECTION_BLOCKS
    {
        last.count += piece.count;
        return;
    }
    pieces.push(piece);
}

/// How many nodes of one level lie under one of a higher level, and how many of those there are.
/// A disk that is smaller than a section or branch has a lower tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    size: u64,
    leaves: usize,
}

impl Shape {
    pub(crate) fn of(size: u64) -> Shape {
        Shape {
            size,
            leaves: chunk_count(size).next_power_of_two(),
        }
    }

    /// Chunks under the top of a section.
    pub(crate) fn section_width(&self) -> usize {
        self.leaves.min(SECTION_CHUNKS)
    }

    /// Sections under the top of a branch.
    pub(crate) fn branch_width(&self) -> usize {
        (self.leaves / SECTION_CHUNKS).clamp(1, BRANCH_SECTIONS as usize)
    }

    /// Branches under the top of the disk.
    pub(crate) fn root_width(&self) -> usize {
        (self.leaves / (SECTION_CHUNKS * BRANCH_SECTIONS as usize)).max(1)
    }

    pub(crate) fn section_top(&self, chunks: &[ChunkHash; SECTION_CHUNKS]) -> ChunkHash {
        node_above(&chunks[..self.section_width()])
    }

    pub(crate) fn branch_top(&self, sections: &[SectionRef]) -> ChunkHash {
        let mut tops = [ChunkHash::ZERO; BRANCH_SECTIONS as usize];
        for section in sections {
            tops[(section.index % BRANCH_SECTIONS) as usize] = section.top;
        }
        node_above(&tops[..self.branch_width()])
    }

    /// Sections that the disk has.
    pub(crate) fn sections(&self) -> u64 {
        self.size.div_ceil(SECTION_BYTES)
    }

    /// The block after the last of a branch.
    pub(crate) fn end_of_branch(&self, branch: u32) -> u64 {
        let end = (u64::from(branch) + 1) * u64::from(SECTION_BLOCKS * BRANCH_SECTIONS);
        end.min(self.size.div_ceil(BLOCK_SIZE as u64))
    }

    /// Blocks that a section has: fewer at the end of the disk.
    fn blocks(&self, section: u32) -> u32 {
        let blocks = self.size.div_ceil(BLOCK_SIZE as u64);
        let first = u64::from(section) * u64::from(SECTION_BLOCKS);
        blocks.saturating_sub(first).min(SECTION_BLOCKS.into()) as u32
    }
}

/// What 8 MiB of a disk are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Counted on the disk. It is not stored, so that sections of equal content are one.
    pub(crate) index: u32,
    pub(crate) chunks: [ChunkHash; SECTION_CHUNKS],
    pub(crate) frames: Vec<UsedFrame>,
    pub(crate) pieces: Vec<Piece>,
}

/// A section as its branch knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SectionRef {
    /// Counted on the disk.
    pub(crate) index: u32,
    pub(crate) id: FrameId,
    pub(crate) top: ChunkHash,
    /// Blocks that are not zero.
    pub(crate) blocks: u32,
}

/// What of a table can be read without a key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refs {
    Frames(Vec<UsedFrame>),
    /// Places in the branch, and the sections there.
    Sections(Vec<(u32, FrameId)>),
}

impl Section {
    pub(crate) fn blocks(&self) -> u32 {
        self.pieces.iter().map(|piece| u32::from(piece.count)).sum()
    }

    pub(crate) fn encode(&self, domain: &Domain) -> Result<Frame, StoreError> {
        let mut head = vec![SECTION];
        head.extend_from_slice(&(self.frames.len() as u16).to_le_bytes());
        for frame in &self.frames {
            head.extend_from_slice(&frame.id.0);
            head.push(frame.blocks);
        }
        let mut body = Vec::new();
        let bits = self.chunks.iter().enumerate();
        body.push(bits.fold(0, |sum, (bit, hash)| {
            sum | (u8::from(*hash != ChunkHash::ZERO) << bit)
        }));
        for hash in self.chunks.iter().filter(|hash| **hash != ChunkHash::ZERO) {
            body.extend_from_slice(hash.as_bytes());
        }
        let start = self.index * SECTION_BLOCKS;
        let (mut free, mut next) = (start, 0u32);
        for run in self.runs() {
            push_varint(&mut body, run.block - free);
            push_varint(&mut body, zigzag(run.frame.wrapping_sub(next) as i32));
            body.push(run.slot);
            push_varint(&mut body, run.count);
            free = run.block + run.count;
            next = run.last_frame + 1;
        }
        table(domain, head, &body)
    }

    /// Pieces joined across frames that follow each other in the table.
    fn runs(&self) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        let mut last: Option<&Piece> = None;
        for piece in &self.pieces {
            let goes_on = last.is_some_and(|last| {
                last.end() == u64::from(piece.block)
                    && last.frame + 1 == piece.frame
                    && last.slot + last.count == self.frames[last.frame as usize].blocks
                    && piece.slot == 0
            });
            match runs.last_mut() {
                Some(run) if goes_on => {
                    run.count += u32::from(piece.count);
                    run.last_frame = piece.frame;
                }
                _ => runs.push(Run {
                    block: piece.block,
                    frame: piece.frame,
                    last_frame: piece.frame,
                    slot: piece.slot,
                    count: u32::from(piece.count),
                }),
            }
            last = Some(piece);
        }
        runs
    }

    /// Reads what `encode` wrote and checks everything that it says about itself.
    pub(crate) fn decode(
        domain: &Domain,
        coding: Coding,
        stored: &[u8],
        (shape, index): (&Shape, u32),
    ) -> Result<Section, &'static str> {
        let (refs, head_len) = read_refs(stored)?;
        let Refs::Frames(frames) = refs else {
            return Err("it is no section");
        };
        let body = open_table(domain, coding, stored, head_len)?;
        let mut reader = Reader::new(&body);
        let chunks = read_chunks(&mut reader)?;
        let pieces = read_pieces(&mut reader, &frames, index, shape.blocks(index))?;
        Ok(Section {
            index,
            chunks,
            frames,
            pieces,
        })
    }
}

/// Pieces as they are stored: a run goes on from the end of one frame into the next.
struct Run {
    block: u32,
    frame: u32,
    last_frame: u32,
    slot: u8,
    count: u32,
}

/// Small for small numbers of either sign.
fn zigzag(value: i32) -> u32 {
    ((value << 1) ^ (value >> 31)) as u32
}

fn unzigzag(value: u32) -> i32 {
    (value >> 1) as i32 ^ -((value & 1) as i32)
}

/// The stored form of a table: the head as it is, the body sealed if anything is.
fn table(domain: &Domain, head: Vec<u8>, body: &[u8]) -> Result<Frame, StoreError> {
    let packing = Packing::Raw;
    let mut stored = head;
    let sealed = match domain.tables() {
        Some(sealer) => {
            let body = sealer.seal(&stored, body)?;
            stored.extend_from_slice(&body);
            true
        }
        None => {
            stored.extend_from_slice(body);
            false
        }
    };
    Ok(Frame::new(Coding { packing, sealed }, 0, stored))
}

fn open_table(
    domain: &Domain,
    coding: Coding,
    stored: &[u8],
    head_len: usize,
) -> Result<Vec<u8>, &'static str> {
    let (head, body) = stored.split_at(head_len);
    match (coding.sealed, domain.tables()) {
        (false, _) => Ok(body.to_vec()),
        (true, None) => Err("it is sealed in a store that is not encrypted"),
        (true, Some(sealer)) => {
            let mut opened = Vec::new();
            sealer
                .open(head, body, &mut opened)
                .map_err(|_| "it was sealed with another secret")?;
            Ok(opened)
        }
    }
}

/// What a table refers to, and where its body begins.
pub(crate) fn read_refs(stored: &[u8]) -> Result<(Refs, usize), &'static str> {
    let mut reader = Reader::new(stored);
    let kind = reader.u8()?;
    let count = usize::from(reader.u16()?);
    let refs = match kind {
        SECTION if count <= SECTION_BLOCKS as usize => {
            let mut frames = Vec::with_capacity(count.min(reader.remaining() / (ID_LEN + 1)));
            for _ in 0..count {
                let id = FrameId(reader.array()?);
                let blocks = reader.u8()?;
                if !(1..=FRAME_BLOCKS).contains(&usize::from(blocks)) {
                    return Err("a frame has an impossible number of blocks");
                }
                frames.push(UsedFrame { id, blocks });
            }
            Refs::Frames(frames)
        }
        BRANCH if count <= BRANCH_SECTIONS as usize => {
            let mut sections: Vec<(u32, FrameId)> = Vec::with_capacity(count);
            for _ in 0..count {
                let at = u32::from(reader.u8()?);
                let after = sections.last().is_none_or(|(last, _)| *last < at);
                if at >= BRANCH_SECTIONS || !after {
                    return Err("its sections are out of order");
                }
                sections.push((at, FrameId(reader.array()?)));
            }
            Refs::Sections(sections)
        }
        _ => return Err("it is no table of a known kind"),
    };
    Ok((refs, stored.len() - reader.remaining()))
}

fn read_chunks(reader: &mut Reader<'_>) -> Result<[ChunkHash; SECTION_CHUNKS], &'static str> {
    let bits = reader.u8()?;
    let mut chunks = [ChunkHash::ZERO; SECTION_CHUNKS];
    for (bit, chunk) in chunks.iter_mut().enumerate() {
        if bits >> bit & 1 == 1 {
            *chunk = ChunkHash::from_bytes(reader.array()?);
        }
    }
    Ok(chunks)
}

fn read_pieces(
    reader: &mut Reader<'_>,
    frames: &[UsedFrame],
    index: u32,
    blocks: u32,
) -> Result<Vec<Piece>, &'static str> {
    let first = index
        .checked_mul(SECTION_BLOCKS)
        .ok_or("it lies outside the disk")?;
    let mut pieces: Vec<Piece> = Vec::new();
    let (mut free, mut next) = (0u32, 0u32);
    while !reader.is_empty() {
        let gap = reader.varint()?;
        let mut frame = next.wrapping_add_signed(unzigzag(reader.varint()?));
        let mut slot = reader.u8()?;
        let mut left = reader.varint()?;
        let start = free.checked_add(gap).ok_or("a run leaves the section")?;
        let end = start.checked_add(left).filter(|end| *end <= blocks);
        free = end.ok_or("a run leaves the section")?;
        if left == 0 {
            return Err("a run is empty");
        }
        while left > 0 {
            let blocks = frames
                .get(frame as usize)
                .ok_or("a run leaves the frames")?
                .blocks;
            let room = blocks.checked_sub(slot).filter(|room| *room > 0);
            let count = room
                .ok_or("a run leaves its frame")?
                .min(left.min(255) as u8);
            pieces.push(Piece {
                block: first + free - left,
                frame,
                slot,
                count,
            });
            left -= u32::from(count);
            frame += 1;
            slot = 0;
        }
        next = frame;
    }
    Ok(pieces)
}

/// The sections of 512 MiB of a disk, in order.
pub(crate) fn encode_branch(domain: &Domain, sections: &[SectionRef]) -> Result<Frame, StoreError> {
    let mut head = vec![BRANCH];
    head.extend_from_slice(&(sections.len() as u16).to_le_bytes());
    let mut body = Vec::new();
    for section in sections {
        head.push((section.index % BRANCH_SECTIONS) as u8);
        head.extend_from_slice(&section.id.0);
        body.extend_from_slice(section.top.as_bytes());
        body.extend_from_slice(&(section.blocks as u16).to_le_bytes());
    }
    table(domain, head, &body)
}

/// Reads what `encode_branch` wrote for branch `index`.
pub(crate) fn decode_branch(
    domain: &Domain,
    coding: Coding,
    stored: &[u8],
    (shape, index): (&Shape, u32),
) -> Result<Vec<SectionRef>, &'static str> {
    let (refs, head_len) = read_refs(stored)?;
    let Refs::Sections(refs) = refs else {
        return Err("it is no branch");
    };
    let body = open_table(domain, coding, stored, head_len)?;
    let mut reader = Reader::new(&body);
    let first = index
        .checked_mul(BRANCH_SECTIONS)
        .ok_or("it lies outside the disk")?;
    let mut sections = Vec::with_capacity(refs.len());
    for (at, id) in refs {
        let index = first + at;
        let top = ChunkHash::from_bytes(reader.array()?);
        let blocks = u32::from(reader.u16()?);
        if u64::from(index) >= shape.sections() || blocks > SECTION_BLOCKS {
            return Err("a section lies outside the disk");
        }
        sections.push(SectionRef {
            index,
            id,
            top,
            blocks,
        });
    }
    match reader.is_empty() {
        true => Ok(sections),
        false => Err("it goes on after its end"),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::AtRest;

    /// A section with pieces wherever `gaps` leave room for them, and the size of its disk.
    pub(crate) fn sample(index: u32, gaps: &[u8]) -> (Section, u64) {
        let first = index * SECTION_BLOCKS;
        let (mut pieces, mut frames, mut block) = (Vec::new(), Vec::new(), first);
        for (number, gap) in gaps.iter().enumerate() {
            block += u32::from(gap % 3);
            let blocks = 1 + (gap / 3) % 16;
            let slot = if gap % 5 == 0 { blocks - 1 } else { 0 };
            let count = blocks - slot;
            if block + u32::from(count) > first + SECTION_BLOCKS {
                break;
            }
            frames.push(UsedFrame {
                id: FrameId([number as u8; ID_LEN]),
                blocks,
            });
            pieces.push(Piece {
                block,
                frame: frames.len() as u32 - 1,
                slot,
                count,
            });
            block += u32::from(count);
        }
        let mut chunks = [ChunkHash::ZERO; SECTION_CHUNKS];
        for (at, chunk) in chunks.iter_mut().enumerate() {
            *chunk = ChunkHash::from_bytes([(at % 3) as u8; 32]);
        }
        let section = Section {
            index,
            chunks,
            frames,
            pieces,
        };
        (section, u64::from(block) * BLOCK_SIZE as u64 + 1)
    }

    fn domains() -> [Domain; 2] {
        [AtRest::Sealed, AtRest::Plain].map(|at_rest| Domain::new([3; 32], at_rest))
    }

    proptest! {
        #[test]
        fn reads_back_what_was_written(
            gaps in prop::collection::vec(any::<u8>(), 0..200),
            index in 0..3u32,
        ) {
            let (section, size) = sample(index, &gaps);
            let shape = Shape::of(size);
            for domain in domains() {
                let frame = section.encode(&domain).expect("encode");
                let read = Section::decode(&domain, frame.coding, &frame.stored, (&shape, index));
                prop_assert_eq!(read.as_ref(), Ok(&section));
                let refs = read_refs(&frame.stored).expect("refs").0;
                prop_assert_eq!(refs, Refs::Frames(section.frames.clone()));
            }
        }

        /// With a right seal, as a liar would write it: an error or a section, no panic.
        #[test]
        fn nonsense_never_panics(
            gaps in prop::collection::vec(any::<u8>(), 0..20),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            cut in any::<prop::sample::Index>(),
        ) {
            let (section, size) = sample(0, &gaps);
            let plain = Domain::new([3; 32], AtRest::Plain);
            let mut stored = section.encode(&plain).expect("encode").stored;
            for (at, byte) in damage {
                let at = at.index(stored.len());
                stored[at] = byte;
            }
            for stored in [&stored[..], &stored[..cut.index(stored.len())]] {
                crate::fuzzing::table(stored, size);
            }
        }
    }

    #[test]
    fn a_branch_reads_back() {
        let shape = Shape::of(100 * SECTION_BYTES);
        let sections: Vec<SectionRef> = [64, 65, 99]
            .map(|index| SectionRef {
                index,
                id: FrameId([index as u8; ID_LEN]),
                top: ChunkHash::from_bytes([7; 32]),
                blocks: index,
            })
            .to_vec();
        for domain in domains() {
            let frame = encode_branch(&domain, &sections).expect("encode");
            let read = |index| decode_branch(&domain, frame.coding, &frame.stored, (&shape, index));
            assert_eq!(read(1).as_ref(), Ok(&sections));
            assert!(read(2).is_err(), "outside the disk");
        }
    }
}
