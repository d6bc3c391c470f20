//! Manifests: which frames a disk is made of, and the hashes that prove it.
//!
//! A manifest names frames, not packs, so the same bytes are valid at every place that has the
//! frames. In memory the runs of the file are cut at frames, because that is how they are read.

use disk::{BLOCK_SIZE, ChunkHash, DiskDigest, chunk_count, digest_of_chunks};

use crate::codec::Reader;
use crate::frame::{FRAME_BLOCKS, FrameId};

const MAGIC: &[u8; 8] = b"BULDISK\0";
const VERSION: u32 = 1;
const CHECK_CONTEXT: &str = "bullion manifest v1";
const CHECK_LEN: usize = 32;

/// The largest disk: blocks are counted with 32 bits.
pub const MAX_DISK_BYTES: u64 = (u32::MAX as u64) * BLOCK_SIZE as u64;
/// The largest manifest that is read: about 2 TiB of data.
pub(crate) const MAX_MANIFEST_BYTES: u64 = 2 << 30;
/// Pieces that a manifest may fall into: 4 GiB of memory, far more than any disk of data needs.
const MAX_PIECES: usize = 1 << 28;

/// Neighbouring blocks of a disk that are neighbours in one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece<F = u32> {
    /// The first block, counted on the disk.
    pub(crate) block: u32,
    /// The frame: in a manifest, by its number in the manifest's table.
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

/// Adds a piece, as part of the last one where it continues that.
pub(crate) fn push_piece<F: Copy + PartialEq>(pieces: &mut Vec<Piece<F>>, piece: Piece<F>) {
    if let Some(last) = pieces.last_mut()
        && last.frame == piece.frame
        && last.end() == u64::from(piece.block)
        && last.slot + last.count == piece.slot
    {
        last.count += piece.count;
        return;
    }
    pieces.push(piece);
}

/// A frame that a disk uses, as its manifest says. A [`crate::FrameSource`] can read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsedFrame {
    pub(crate) id: FrameId,
    pub(crate) blocks: u8,
}

impl UsedFrame {
    /// What the blocks of this frame are known by in memory. Whoever has another way to read the
    /// frame, or none, has another key.
    pub(crate) fn cache_key(&self) -> [u8; 32] {
        self.id.0
    }
}

/// One disk: its size, its hashes, its frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    pub(crate) size: u64,
    pub(crate) digest: DiskDigest,
    pub(crate) chunks: Vec<ChunkHash>,
    pub(crate) frames: Vec<UsedFrame>,
    pub(crate) pieces: Vec<Piece>,
}

impl Manifest {
    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn digest(&self) -> &DiskDigest {
        &self.digest
    }

    pub fn chunks(&self) -> &[ChunkHash] {
        &self.chunks
    }

    /// How many frames it names.
    pub fn frames(&self) -> usize {
        self.frames.len()
    }

    /// Bytes of blocks that are not zero.
    pub fn data_bytes(&self) -> u64 {
        let blocks: u64 = self.pieces.iter().map(|piece| u64::from(piece.count)).sum();
        blocks * BLOCK_SIZE as u64
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.frames.len() * 33 + self.pieces.len() * 13 + 4096);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&0u32.to_le_bytes());
        out.extend_from_slice(&self.size.to_le_bytes());
        out.extend_from_slice(self.digest.as_bytes());
        for group in self.chunks.chunks(8) {
            let bits = group.iter().enumerate();
            out.push(bits.fold(0, |sum, (bit, hash)| {
                sum | (u8::from(*hash != ChunkHash::ZERO) << bit)
            }));
        }
        for hash in self.chunks.iter().filter(|hash| **hash != ChunkHash::ZERO) {
            out.extend_from_slice(hash.as_bytes());
        }
        out.extend_from_slice(&(self.frames.len() as u32).to_le_bytes());
        for frame in &self.frames {
            out.extend_from_slice(&frame.id.0);
            out.push(frame.blocks);
        }
        let runs = self.runs();
        out.extend_from_slice(&(runs.len() as u32).to_le_bytes());
        for run in &runs {
            out.extend_from_slice(&run.block.to_le_bytes());
            out.extend_from_slice(&run.frame.to_le_bytes());
            out.push(run.slot);
            out.extend_from_slice(&run.count.to_le_bytes());
        }
        seal(&mut out);
        out
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
                Some(run) if goes_on => run.count += u32::from(piece.count),
                _ => runs.push(Run {
                    block: piece.block,
                    frame: piece.frame,
                    slot: piece.slot,
                    count: u32::from(piece.count),
                }),
            }
            last = Some(piece);
        }
        runs
    }

    /// Reads a manifest and checks everything that it says about itself.
    pub fn decode(bytes: &[u8]) -> Result<Manifest, &'static str> {
        let (body, check) = bytes
            .split_last_chunk::<CHECK_LEN>()
            .ok_or("it ends too early")?;
        let mut reader = Reader::new(body);
        if reader.take(8)? != MAGIC {
            return Err("it is not a manifest");
        }
        if (reader.u32()?, reader.u32()?) != (VERSION, 0) {
            return Err("it is a manifest of an unknown version");
        }
        if blake3::derive_key(CHECK_CONTEXT, body) != *check {
            return Err("its checksum is wrong");
        }
        let size = reader.u64()?;
        if size > MAX_DISK_BYTES {
            return Err("the disk is larger than disks can be");
        }
        let digest = DiskDigest::from_bytes(reader.array()?);
        let chunks = read_chunks(&mut reader, size)?;
        if digest_of_chunks(size, &chunks) != digest {
            return Err("its hashes do not make its digest");
        }
        let (frames, pieces) = read_tables(&mut reader, size)?;
        Ok(Manifest {
            size,
            digest,
            chunks,
            frames,
            pieces,
        })
    }
}

/// Appends the checksum.
fn seal(out: &mut Vec<u8>) {
    let check = blake3::derive_key(CHECK_CONTEXT, out);
    out.extend_from_slice(&check);
}

/// Pieces as the file has them: a run goes on from the end of one frame into the next.
struct Run {
    block: u32,
    frame: u32,
    slot: u8,
    count: u32,
}

fn read_chunks(reader: &mut Reader<'_>, size: u64) -> Result<Vec<ChunkHash>, &'static str> {
    let count = chunk_count(size);
    let bits = reader.take(count.div_ceil(8))?;
    let mut chunks = Vec::with_capacity(count);
    for index in 0..count {
        chunks.push(if bits[index / 8] >> (index % 8) & 1 == 1 {
            ChunkHash::from_bytes(reader.array()?)
        } else {
            ChunkHash::ZERO
        });
    }
    Ok(chunks)
}

/// All that follows the hashes.
pub(crate) fn read_tables(
    reader: &mut Reader<'_>,
    size: u64,
) -> Result<(Vec<UsedFrame>, Vec<Piece>), &'static str> {
    let frames = read_frames(reader)?;
    let pieces = read_pieces(reader, size, &frames)?;
    if reader.is_empty() {
        Ok((frames, pieces))
    } else {
        Err("it goes on after its end")
    }
}

fn read_frames(reader: &mut Reader<'_>) -> Result<Vec<UsedFrame>, &'static str> {
    let count = reader.u32()? as usize;
    let mut frames = Vec::with_capacity(count.min(reader.remaining() / 33));
    for _ in 0..count {
        let id = FrameId(reader.array()?);
        let blocks = reader.u8()?;
        if !(1..=FRAME_BLOCKS).contains(&usize::from(blocks)) {
            return Err("a frame has an impossible number of blocks");
        }
        frames.push(UsedFrame { id, blocks });
    }
    Ok(frames)
}

fn read_pieces(
    reader: &mut Reader<'_>,
    size: u64,
    frames: &[UsedFrame],
) -> Result<Vec<Piece>, &'static str> {
    let disk_blocks = size.div_ceil(BLOCK_SIZE as u64);
    let mut pieces: Vec<Piece> = Vec::new();
    let mut free_from = 0;
    for _ in 0..reader.u32()? {
        let (block, mut frame, mut slot) = (reader.u32()?, reader.u32()?, reader.u8()?);
        let mut left = reader.u32()?;
        let (start, end) = (u64::from(block), u64::from(block) + u64::from(left));
        if left == 0 || start < free_from || end > disk_blocks {
            return Err("a run is out of order or outside the disk");
        }
        free_from = end;
        while left > 0 {
            let blocks = frames
                .get(frame as usize)
                .ok_or("a run leaves the frames")?
                .blocks;
            let room = blocks.checked_sub(slot).filter(|room| *room > 0);
            let count = room
                .ok_or("a run leaves its frame")?
                .min(left.min(255) as u8);
            if pieces.len() == MAX_PIECES {
                return Err("it has more pieces than any disk");
            }
            let at = (end - u64::from(left)) as u32;
            pieces.push(Piece {
                block: at,
                frame,
                slot,
                count,
            });
            left -= u32::from(count);
            frame += 1;
            slot = 0;
        }
    }
    Ok(pieces)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A manifest of `size` bytes with pieces wherever `gaps` leave room for them.
    pub(crate) fn sample(gaps: &[u8]) -> Manifest {
        let mut pieces = Vec::new();
        let mut frames = Vec::new();
        let mut block = 0u32;
        for (index, gap) in gaps.iter().enumerate() {
            block += u32::from(gap % 3);
            let blocks = 1 + (gap / 3) % 16;
            frames.push(UsedFrame {
                id: FrameId([index as u8; 32]),
                blocks,
            });
            let slot = if gap % 5 == 0 { blocks - 1 } else { 0 };
            let count = blocks - slot;
            pieces.push(Piece {
                block,
                frame: index as u32,
                slot,
                count,
            });
            block += u32::from(count);
        }
        let size = u64::from(block) * BLOCK_SIZE as u64 + 1;
        let chunks: Vec<_> = (0..chunk_count(size))
            .map(|index| ChunkHash::from_bytes([(index % 3) as u8; 32]))
            .collect();
        let digest = digest_of_chunks(size, &chunks);
        Manifest {
            size,
            digest,
            chunks,
            frames,
            pieces,
        }
    }

    #[test]
    fn hashes_of_another_disk_are_refused() {
        let mut manifest = sample(&[40, 7]);
        manifest.chunks[0] = ChunkHash::from_bytes([9; 32]);
        assert_eq!(
            Manifest::decode(&manifest.encode()),
            Err("its hashes do not make its digest")
        );
    }

    proptest! {
        #[test]
        fn reads_back_what_was_written(gaps in prop::collection::vec(any::<u8>(), 0..200)) {
            let manifest = sample(&gaps);
            let decoded = Manifest::decode(&manifest.encode());
            prop_assert_eq!(decoded.as_ref(), Ok(&manifest));
        }

        #[test]
        fn any_changed_byte_is_an_error(
            gaps in prop::collection::vec(any::<u8>(), 1..60),
            at in any::<prop::sample::Index>(),
            flip in 1u8..,
        ) {
            let mut bytes = sample(&gaps).encode();
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            prop_assert!(Manifest::decode(&bytes).is_err());
            bytes.truncate(at);
            prop_assert!(Manifest::decode(&bytes).is_err());
        }

        /// With a right checksum, as a liar would write it: an error or a manifest, no panic.
        #[test]
        fn sealed_nonsense_never_panics(
            gaps in prop::collection::vec(any::<u8>(), 0..20),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = sample(&gaps).encode();
            bytes.truncate(bytes.len() - CHECK_LEN);
            for (at, byte) in damage {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let mut short = bytes[..cut.index(bytes.len())].to_vec();
            for nonsense in [&mut bytes, &mut short] {
                seal(nonsense);
                let _ = Manifest::decode(nonsense);
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(Manifest::decode(&bytes).is_err());
        }
    }
}
