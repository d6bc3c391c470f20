//! Taking in a bundle: the receiver checks everything and keeps blocks its own way.
//!
//! The disk becomes visible only after it was read back from the store and had the right digest,
//! so a bundle that lies gives an error and no disk.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use disk::{BLOCK_SIZE, ChunkHash, DiskDigest, LeafHash, leaf_hashes};

use crate::bundle::{
    CHECK_CONTEXT, ELSEWHERE, END, FRAME_HEADER_LEN, GROUP, GROUP_HEADER_LEN, GROUPED, HEADER_LEN,
    MAGIC, PIECE_LEN, SEALED, STRETCH, TRACE_ABOUT, TRACED, VERSION, WITHOUT,
};
use crate::codec::Reader;
use crate::delta::{self, Group, TOGETHER};
use crate::domain::{AtRest, Domain, DomainId};
use crate::error::StoreError;
use crate::frame::{Coding, FRAME_BLOCKS, FrameId, Unpacker, frame_id, is_possible};
use crate::index::{Fingerprint, Precedence};
use crate::manifest::{MAX_DISK_BYTES, Manifest};
use crate::outline::{Draft, Outline};
use crate::pack::Pack;
use crate::parallel;
use crate::seal::OVERHEAD;
use crate::section::{BRANCH_SECTIONS, Piece, SECTION_BLOCKS, SECTION_CHUNKS, Shape};
use crate::serve::{MAX_TRACE_BYTES, Trace};
use crate::session::{FrameRef, Session, write_packs};
use crate::store::Store;
use crate::view::StoredDisk;

/// The longest table of a stretch: every block a piece of its own, and all chunk hashes.
const MAX_TABLE_BYTES: u32 = 4 << 20;
/// Blocks of a stretch.
const STRETCH_BLOCKS: u32 = SECTION_BLOCKS * BRANCH_SECTIONS;

/// What a bundle brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Unbundled {
    pub digest: DiskDigest,
    pub logical_bytes: u64,
    pub data_bytes: u64,
    /// Frames that the store made of blocks it did not have.
    pub frames: u64,
    /// The same in bytes, as stored.
    pub stored_bytes: u64,
    /// The whole bundle.
    pub bytes: u64,
}

impl Store {
    /// Takes in a bundle with the key that it was made with; one that is not sealed needs none.
    pub fn unbundle(
        &self,
        from: &mut dyn Read,
        key: Option<&Domain>,
    ) -> Result<Unbundled, StoreError> {
        let mut reader = Counted {
            from,
            bytes: 0,
            check: blake3::Hasher::new_derive_key(CHECK_CONTEXT),
        };
        let mut bytes = [0; HEADER_LEN];
        reader.fill(&mut bytes)?;
        let header = Header::parse(&bytes).map_err(damaged)?;
        let key = header.key(key)?;
        let _writer = self.0.writer();
        let present = header.present.map(|present| self.disk(&present));
        let mut taking = Taking {
            reader,
            key,
            shape: Shape::of(header.size),
            grouped: header.grouped,
            present: present.transpose()?,
            session: Session::new(&self.0, Outline::new(header.size))?,
        };
        let trace = match header.is_traced {
            true => Some(taking.trace(&header.digest)?),
            false => None,
        };
        let manifest = write_packs(&self.0, Precedence::Known, |packs| taking.run(packs))?;
        if manifest.digest != header.digest {
            return Err(damaged("its hashes do not make its digest"));
        }
        let root = manifest.encode(&taking.session.domain)?;
        let unbundled = Unbundled {
            digest: manifest.digest,
            logical_bytes: manifest.size,
            data_bytes: manifest.data_bytes(),
            frames: taking.session.stored_frames,
            stored_bytes: taking.session.stored_bytes,
            bytes: taking.reader.bytes,
        };
        self.check_content(manifest)?;
        self.0.publish(&header.digest, &root)?;
        if let Some(trace) = trace {
            self.0.take_trace(&header.digest, &trace);
        }
        Ok(unbundled)
    }

    /// Reads a disk that nobody can see yet, and holds it against its digest.
    fn check_content(&self, manifest: Manifest) -> Result<(), StoreError> {
        let expected = manifest.digest;
        let disk = StoredDisk::of(Arc::new(self.clone()), manifest, &self.0.own_cache())?;
        match self.digest_again(&disk)? {
            found if found == expected => Ok(()),
            _ => Err(damaged("its blocks do not make its digest")),
        }
    }
}

fn damaged(what: &'static str) -> StoreError {
    StoreError::DamagedBundle { what }
}

/// What a bundle begins with.
struct Header {
    sealed: bool,
    size: u64,
    digest: DiskDigest,
    present: Option<DiskDigest>,
    grouped: bool,
    is_traced: bool,
    domain: DomainId,
}

impl Header {
    fn parse(bytes: &[u8]) -> Result<Header, &'static str> {
        let mut reader = Reader::new(bytes);
        if reader.take(8)? != MAGIC {
            return Err("it is not a bundle");
        }
        let (version, flags) = (reader.u32()?, reader.u32()?);
        if version != VERSION || flags & !(SEALED | WITHOUT | GROUPED | TRACED) != 0 {
            return Err("it has an unknown version");
        }
        if flags & GROUPED != 0 && flags & WITHOUT == 0 {
            return Err("it refers to a disk that it does not name");
        }
        let size = reader.u64()?;
        if size > MAX_DISK_BYTES {
            return Err("its disk is larger than disks can be");
        }
        let digest = DiskDigest::from_bytes(reader.array()?);
        let present = DiskDigest::from_bytes(reader.array()?);
        Ok(Header {
            sealed: flags & SEALED != 0,
            size,
            digest,
            present: (flags & WITHOUT != 0).then_some(present),
            grouped: flags & GROUPED != 0,
            is_traced: flags & TRACED != 0,
            domain: DomainId(reader.array()?),
        })
    }

    fn key(&self, given: Option<&Domain>) -> Result<Domain, StoreError> {
        match (self.sealed, given) {
            (false, _) => Ok(Domain::new([0; 32], AtRest::Plain)),
            (true, Some(key)) if key.id() == self.domain => Ok(key.clone()),
            (true, Some(_)) => Err(StoreError::BundleKey {
                what: "the key that was given is another bundle's",
            }),
            (true, None) => Err(StoreError::BundleKey {
                what: "it is sealed, and its key was not given",
            }),
        }
    }
}

/// A bundle on its way in.
struct Taking<'a, 'b> {
    reader: Counted<'a>,
    key: Domain,
    shape: Shape,
    present: Option<StoredDisk>,
    /// Frames come in groups.
    grouped: bool,
    session: Session<'b>,
}

/// The table of a stretch.
struct Table {
    sections: Vec<(u32, [ChunkHash; SECTION_CHUNKS])>,
    frames: u32,
    /// In frames of the bundle, by frame and slot.
    pieces: Vec<Piece>,
    /// On the other disk, which `frame` counts the blocks of.
    elsewhere: Vec<Piece>,
}

/// A frame of a bundle.
struct Received {
    raw: Vec<u8>,
    leaves: Vec<LeafHash>,
}

/// One frame that stands for itself.
struct Alone {
    coding: Coding,
    blocks: u8,
    stored: Vec<u8>,
    received: Option<Received>,
}

/// Some that come together.
struct Together {
    frames: u8,
    stored: Vec<u8>,
    received: Vec<Received>,
}

impl Received {
    fn new(raw: Vec<u8>) -> Received {
        let mut leaves = [[0; 32]; FRAME_BLOCKS];
        let leaves = &mut leaves[..raw.len() / BLOCK_SIZE];
        leaf_hashes(&raw, leaves);
        let leaves = leaves.to_vec();
        Received { raw, leaves }
    }
}

impl Taking<'_, '_> {
    fn run(&mut self, packs: &SyncSender<Pack>) -> Result<Manifest, StoreError> {
        let mut next = 0;
        loop {
            let mut kind = [0];
            self.reader.fill(&mut kind)?;
            match kind[0] {
                END => break,
                STRETCH => next = self.stretch(next, packs)?,
                _ => return Err(damaged("it goes on with something unknown")),
            }
        }
        let expected = *self.reader.check.finalize().as_bytes();
        let mut check = [0; 32];
        self.reader.fill(&mut check)?;
        match check == expected {
            true => self.session.finish(packs),
            false => Err(damaged("its checksum is wrong")),
        }
    }

    fn trace(&mut self, digest: &DiskDigest) -> Result<Trace, StoreError> {
        let mut len = [0; 4];
        self.reader.fill(&mut len)?;
        let len = u32::from_le_bytes(len);
        if u64::from(len) > MAX_TRACE_BYTES + OVERHEAD as u64 {
            return Err(damaged("its boot trace is too long"));
        }
        let body = self.opened(len as usize, &TRACE_ABOUT);
        let body = body?.ok_or_else(|| damaged("its boot trace was not sealed with its key"))?;
        Trace::decode(&body, digest).map_err(damaged)
    }

    /// So many bytes, opened if they are sealed; nothing if they were not sealed with the bundle's key.
    fn opened(&mut self, len: usize, about: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let mut body = vec![0; len];
        self.reader.fill(&mut body)?;
        let Some(sealer) = self.key.tables() else {
            return Ok(Some(body));
        };
        let mut opened = Vec::new();
        let good = sealer.open(about, &body, &mut opened).is_ok();
        Ok(good.then_some(opened))
    }

    /// One stretch, which is `next` or a later one; the one after it.
    fn stretch(&mut self, next: u32, packs: &SyncSender<Pack>) -> Result<u32, StoreError> {
        let mut head = [0; 8];
        self.reader.fill(&mut head)?;
        let (branch, len) = read_stretch(&head).map_err(|short| damaged(short.into()))?;
        if branch < next || branch as usize >= self.shape.root_width() || len > MAX_TABLE_BYTES {
            return Err(damaged("a part of it is out of order or too long"));
        }
        let body = self.opened(len as usize, &branch.to_le_bytes());
        let body = body?.ok_or_else(|| damaged("a table was not sealed with its key"))?;
        let table = Table::parse(&body, branch, &self.shape).map_err(damaged)?;
        let mut pieces = self.elsewhere(&table)?;
        let mut done = 0;
        while done < table.frames {
            let left = table.frames - done;
            let group = match self.grouped {
                true => self.read_groups(left)?,
                false => self.read_frames(left.min(GROUP as u32))?,
            };
            let domain = &self.session.domain;
            let known = |received: &Received| -> Vec<Fingerprint> {
                let leaves = received.leaves.iter();
                leaves.map(|leaf| domain.fingerprint(leaf)).collect()
            };
            let known: Vec<_> = group.iter().map(known).collect();
            self.session.inner.warm(known.iter().flatten())?;
            for (frame, (received, known)) in (done..).zip(group.iter().zip(&known)) {
                self.take(&table, frame, (received, known))?;
            }
            self.session.compress(packs)?;
            done += group.len() as u32;
        }
        pieces.extend(self.session.take_pieces());
        pieces.sort_unstable_by_key(|piece| piece.block);
        self.give(&table, &pieces)?;
        self.session.compress(packs)?;
        Ok(branch + 1)
    }

    fn give(&mut self, table: &Table, pieces: &[Piece<FrameRef>]) -> Result<(), StoreError> {
        let overlap = pieces
            .windows(2)
            .any(|two| two[0].end() > u64::from(two[1].block));
        if overlap {
            return Err(damaged("two blocks have one place"));
        }
        let mut rest = pieces;
        for (index, chunks) in &table.sections {
            let (start, end) = (index * SECTION_BLOCKS, (index + 1) * SECTION_BLOCKS);
            let own = rest.partition_point(|piece| piece.block < end);
            let (own, after) = rest.split_at(own);
            if own.first().is_some_and(|piece| piece.block < start) {
                break;
            }
            rest = after;
            self.session.section(Draft {
                index: *index,
                chunks: *chunks,
                pieces: own.to_vec(),
            });
        }
        match rest.is_empty() {
            true => Ok(()),
            false => Err(damaged("a block is in no section")),
        }
    }

    /// Blocks that the receiver is told to find on the other disk.
    fn elsewhere(&self, table: &Table) -> Result<Vec<Piece<FrameRef>>, StoreError> {
        let mut pieces = Vec::new();
        let Some(present) = &self.present else {
            return match table.elsewhere.is_empty() {
                true => Ok(pieces),
                false => Err(damaged("it needs a disk that it does not name")),
            };
        };
        for piece in &table.elsewhere {
            let end = piece.frame.checked_add(piece.count.into());
            let end = end.ok_or_else(|| damaged("a block is outside the other disk"))?;
            let mut found = 0;
            for extent in present.extents(piece.frame..end)? {
                found += u32::from(extent.count);
                pieces.push(Piece {
                    block: piece.block + (extent.block - piece.frame),
                    frame: FrameRef::Stored(
                        self.session
                            .inner
                            .locate(&extent.frame, present.digest())?
                            .used(),
                    ),
                    slot: extent.slot,
                    count: extent.count,
                });
            }
            if found != u32::from(piece.count) {
                return Err(damaged("a block is not on the other disk"));
            }
        }
        Ok(split_at_sections(pieces))
    }

    fn take(
        &mut self,
        table: &Table,
        frame: u32,
        (received, known): (&Received, &[Fingerprint]),
    ) -> Result<(), StoreError> {
        let first = table.pieces.partition_point(|piece| piece.frame < frame);
        let index = self.session.inner.index();
        let own = table.pieces[first..].iter();
        for piece in own.take_while(|piece| piece.frame == frame) {
            for step in 0..piece.count {
                let slot = usize::from(piece.slot) + usize::from(step);
                let leaf = received.leaves.get(slot);
                let leaf = leaf.ok_or_else(|| damaged("a block is not in its frame"))?;
                if *leaf == [0; 32] {
                    return Err(damaged("it holds a block of zeros"));
                }
                let bytes = &received.raw[slot * BLOCK_SIZE..][..BLOCK_SIZE];
                let block = piece.block + u32::from(step);
                self.session.block(&index, block, known[slot], bytes);
            }
        }
        Ok(())
    }

    fn read_frames(&mut self, count: u32) -> Result<Vec<Received>, StoreError> {
        let mut group = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let mut head = [0; FRAME_HEADER_LEN];
            self.reader.fill(&mut head)?;
            let (coding, blocks, len) = read_frame(&head).map_err(damaged)?;
            let mut stored = vec![0; len as usize];
            self.reader.fill(&mut stored)?;
            group.push(Alone {
                coding,
                blocks,
                stored,
                received: None,
            });
        }
        let key = &self.key;
        parallel::for_each(
            self.session.inner.threads(),
            &mut group,
            Unpacker::new,
            |unpacker, frame| {
                let id: FrameId = frame_id(frame.coding, frame.blocks, &frame.stored);
                let shape = (id, frame.coding, frame.blocks);
                let mut raw = Vec::new();
                unpacker
                    .unpack(key, shape, &frame.stored, &mut raw)
                    .map_err(damaged)?;
                frame.received = Some(Received::new(raw));
                Ok::<(), StoreError>(())
            },
        )?;
        Ok(group
            .into_iter()
            .filter_map(|frame| frame.received)
            .collect())
    }

    /// Whole groups, as long as they are no more than `left` frames in all.
    fn read_groups(&mut self, left: u32) -> Result<Vec<Received>, StoreError> {
        let (mut groups, mut frames) = (Vec::new(), 0);
        while frames < left.min(GROUP as u32) {
            let mut head = [0; GROUP_HEADER_LEN];
            self.reader.fill(&mut head)?;
            let (count, len) = read_group(&head).map_err(damaged)?;
            frames += u32::from(count);
            if frames > left {
                return Err(damaged("it has more frames than it says"));
            }
            let mut stored = vec![0; len as usize];
            self.reader.fill(&mut stored)?;
            groups.push(Together {
                frames: count,
                stored,
                received: Vec::new(),
            });
        }
        let Some(present) = &self.present else {
            return Err(damaged("it refers to a disk that it does not name"));
        };
        let key = &self.key;
        let threads = self.session.inner.threads();
        parallel::for_each(threads, &mut groups, Vec::new, |opened, group| {
            let plain = match key.frames() {
                None => &group.stored,
                Some(sealer) => {
                    let open = sealer.open(&[group.frames], &group.stored, opened);
                    open.map_err(|_| damaged("a frame was not sealed with its key"))?;
                    &*opened
                }
            };
            let decoded = Group::decode(group.frames, plain, present)?.map_err(damaged)?;
            let mut rest = decoded.raw.as_slice();
            for blocks in &decoded.blocks {
                let (raw, after) = rest.split_at(usize::from(*blocks) * BLOCK_SIZE);
                group.received.push(Received::new(raw.to_vec()));
                rest = after;
            }
            Ok::<(), StoreError>(())
        })?;
        Ok(groups
            .into_iter()
            .flat_map(|group| group.received)
            .collect())
    }
}

/// No piece of a manifest lies in two sections.
fn split_at_sections(pieces: Vec<Piece<FrameRef>>) -> Vec<Piece<FrameRef>> {
    let mut split = Vec::with_capacity(pieces.len());
    for mut piece in pieces {
        let room = SECTION_BLOCKS - piece.block % SECTION_BLOCKS;
        if u32::from(piece.count) > room {
            let room = room as u8;
            split.push(Piece {
                count: room,
                ..piece
            });
            piece.block += u32::from(room);
            piece.slot += room;
            piece.count -= room;
        }
        split.push(piece);
    }
    split
}

fn read_stretch(bytes: &[u8]) -> Result<(u32, u32), crate::codec::Short> {
    let mut reader = Reader::new(bytes);
    Ok((reader.u32()?, reader.u32()?))
}

fn read_group(bytes: &[u8]) -> Result<(u8, u32), &'static str> {
    let mut reader = Reader::new(bytes);
    let (frames, len) = (reader.u8()?, reader.u32()?);
    match (1..=TOGETHER).contains(&usize::from(frames)) && len <= delta::MAX_BYTES {
        true => Ok((frames, len)),
        false => Err("a frame has an impossible shape"),
    }
}

fn read_frame(bytes: &[u8]) -> Result<(Coding, u8, u32), &'static str> {
    let mut reader = Reader::new(bytes);
    let (coding, blocks) = (reader.u8()?, reader.u8()?);
    let coding = Coding::from_byte(coding).ok_or("a frame has an unknown coding")?;
    let len = reader.u32()?;
    match blocks > 0 && is_possible(blocks, len as usize) {
        true => Ok((coding, blocks, len)),
        false => Err("a frame has an impossible shape"),
    }
}

impl Table {
    fn parse(body: &[u8], branch: u32, shape: &Shape) -> Result<Table, &'static str> {
        let mut reader = Reader::new(body);
        let first = branch * BRANCH_SECTIONS;
        let mut table = Table {
            sections: Vec::new(),
            frames: 0,
            pieces: Vec::new(),
            elsewhere: Vec::new(),
        };
        for _ in 0..reader.u32()? {
            let index = reader.u32()?;
            let after = table.sections.last().is_none_or(|(last, _)| *last < index);
            let inside = index >= first && u64::from(index) < shape.sections();
            if !after || !inside || index - first >= BRANCH_SECTIONS {
                return Err("a section is out of order or outside the disk");
            }
            let mut chunks = [ChunkHash::ZERO; SECTION_CHUNKS];
            for chunk in &mut chunks {
                *chunk = ChunkHash::from_bytes(reader.array()?);
            }
            table.sections.push((index, chunks));
        }
        table.frames = reader.u32()?;
        let count = reader.u32()?;
        if table.frames > STRETCH_BLOCKS || reader.remaining() != count as usize * PIECE_LEN {
            return Err("a table has an impossible length");
        }
        let (start, end) = (first * SECTION_BLOCKS, shape.end_of_branch(branch));
        for _ in 0..count {
            let (block, frame) = (reader.u32()?, reader.u32()?);
            let (slot, count) = (reader.u8()?, reader.u8()?);
            let piece = Piece {
                block,
                frame,
                slot,
                count,
            };
            if count == 0 || block < start || piece.end() > end {
                return Err("a block is outside its part of the disk");
            }
            match slot {
                ELSEWHERE => table.elsewhere.push(piece),
                _ if frame < table.frames => table.pieces.push(piece),
                _ => return Err("a block is in no frame"),
            }
        }
        table
            .pieces
            .sort_unstable_by_key(|piece| (piece.frame, piece.slot));
        Ok(table)
    }
}

struct Counted<'a> {
    from: &'a mut dyn Read,
    bytes: u64,
    check: blake3::Hasher,
}

impl Counted<'_> {
    fn fill(&mut self, buf: &mut [u8]) -> Result<(), StoreError> {
        self.from
            .read_exact(buf)
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => damaged("it ends too early"),
                _ => StoreError::ReadBundle(error),
            })?;
        self.bytes += buf.len() as u64;
        self.check.update(buf);
        Ok(())
    }
}

/// For fuzzing: the table of a stretch of a disk of this size.
pub(crate) fn check_table(body: &[u8], branch: u32, size: u64) {
    let _ = Table::parse(body, branch % BRANCH_SECTIONS, &Shape::of(size));
    let _ = Header::parse(body);
    if let Some((frames, group)) = body.split_first() {
        let _ = delta::parse(*frames, group, size);
    }
}
