//! Manifests: the root of what a disk is made of, and the hashes that prove it.
//!
//! A root names branches, a branch names sections, a section names frames (see
//! [`crate::section`]), all by their content, so the same bytes are valid at every place that has
//! what they name. A change to a disk makes anew the sections it lies in and the way up from them.

use disk::{BLOCK_SIZE, ChunkHash, DiskDigest, digest_of_top, node_above};

use crate::codec::Reader;
use crate::domain::{Domain, DomainId};
use crate::error::StoreError;
use crate::frame::{FrameId, ID_LEN};
use crate::section::{BRANCH_SECTIONS, SECTION_BLOCKS, Shape};

const MAGIC: &[u8; 8] = b"BULDISK\0";
const VERSION: u32 = 1;
const SEALED: u32 = 1;
const CHECK_CONTEXT: &str = "bullion manifest v1";
const CHECK_LEN: usize = 32;

/// The largest disk: blocks are counted with 32 bits.
pub const MAX_DISK_BYTES: u64 = (u32::MAX as u64) * BLOCK_SIZE as u64;
/// Branches of the largest disk.
const MAX_BRANCHES: u32 = u32::MAX / (SECTION_BLOCKS * BRANCH_SECTIONS) + 1;
/// The largest root that is read: one of the largest disk takes 2 MiB.
pub(crate) const MAX_MANIFEST_BYTES: u64 = 4 << 20;

/// A branch as the root knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BranchRef {
    /// Counted on the disk.
    pub(crate) index: u32,
    pub(crate) id: FrameId,
    pub(crate) top: ChunkHash,
    /// Blocks that are not zero.
    pub(crate) blocks: u32,
}

/// One disk: its size, its digest, and where its tables begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    pub(crate) size: u64,
    pub(crate) digest: DiskDigest,
    pub(crate) branches: Vec<BranchRef>,
}

/// What of a manifest can be read without a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outside {
    pub(crate) size: u64,
    pub(crate) digest: DiskDigest,
    pub(crate) domain: DomainId,
    /// Bytes of blocks that are not zero.
    pub(crate) data_bytes: u64,
    pub(crate) branches: Vec<(u32, FrameId)>,
}

/// A checked root that is not opened yet.
struct Parsed<'a> {
    outside: Outside,
    sealed: bool,
    head: &'a [u8],
    body: &'a [u8],
}

impl Manifest {
    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn digest(&self) -> &DiskDigest {
        &self.digest
    }

    /// Bytes of blocks that are not zero.
    pub fn data_bytes(&self) -> u64 {
        self.data_blocks() * BLOCK_SIZE as u64
    }

    fn data_blocks(&self) -> u64 {
        let blocks = self.branches.iter().map(|branch| u64::from(branch.blocks));
        blocks.sum()
    }

    pub(crate) fn shape(&self) -> Shape {
        Shape::of(self.size)
    }

    /// The root over these branches, which are in order.
    pub(crate) fn new(size: u64, branches: Vec<BranchRef>) -> Manifest {
        Manifest {
            size,
            digest: digest_of(size, &branches),
            branches,
        }
    }

    pub(crate) fn encode(&self, domain: &Domain) -> Result<Vec<u8>, StoreError> {
        let sealer = domain.tables();
        let flags = if sealer.is_some() { SEALED } else { 0 };
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&flags.to_le_bytes());
        out.extend_from_slice(&self.size.to_le_bytes());
        out.extend_from_slice(self.digest.as_bytes());
        out.extend_from_slice(domain.id().as_bytes());
        out.extend_from_slice(&self.data_blocks().to_le_bytes());
        out.extend_from_slice(&(self.branches.len() as u32).to_le_bytes());
        let mut body = Vec::new();
        for branch in &self.branches {
            out.extend_from_slice(&branch.index.to_le_bytes());
            out.extend_from_slice(&branch.id.0);
            body.extend_from_slice(branch.top.as_bytes());
            body.extend_from_slice(&branch.blocks.to_le_bytes());
        }
        match sealer {
            Some(sealer) => {
                let body = sealer.seal(&out, &body)?;
                out.extend_from_slice(&body);
            }
            None => out.extend_from_slice(&body),
        }
        let check = blake3::derive_key(CHECK_CONTEXT, &out);
        out.extend_from_slice(&check);
        Ok(out)
    }

    /// What can be read without a key.
    pub(crate) fn outside(bytes: &[u8]) -> Result<Outside, &'static str> {
        parse(bytes).map(|parsed| parsed.outside)
    }

    /// What is readable beside the sealed part, and that part.
    pub(crate) fn sealed_part(bytes: &[u8]) -> Result<(&[u8], &[u8]), &'static str> {
        let parsed = parse(bytes)?;
        match parsed.sealed {
            true => Ok((parsed.head, parsed.body)),
            false => Err("it is not sealed"),
        }
    }

    /// Reads a manifest and checks everything that it says about itself.
    pub(crate) fn decode(bytes: &[u8], domain: &Domain) -> Result<Manifest, &'static str> {
        let parsed = parse(bytes)?;
        let mut opened = Vec::new();
        let body = match (parsed.sealed, domain.tables()) {
            (false, _) => parsed.body,
            (true, None) => return Err("it is sealed in a store that is not encrypted"),
            (true, Some(sealer)) => {
                sealer
                    .open(parsed.head, parsed.body, &mut opened)
                    .map_err(|_| "it was sealed with another secret")?;
                &opened
            }
        };
        Manifest::with_body(&parsed.outside, body)
    }

    /// The part behind the seal.
    pub(crate) fn with_body(outside: &Outside, body: &[u8]) -> Result<Manifest, &'static str> {
        let mut reader = Reader::new(body);
        let mut branches = Vec::with_capacity(outside.branches.len());
        for (index, id) in &outside.branches {
            branches.push(BranchRef {
                index: *index,
                id: *id,
                top: ChunkHash::from_bytes(reader.array()?),
                blocks: reader.u32()?,
            });
        }
        let manifest = Manifest {
            size: outside.size,
            digest: outside.digest,
            branches,
        };
        if !reader.is_empty() {
            return Err("it goes on after its end");
        }
        if digest_of(manifest.size, &manifest.branches) != manifest.digest {
            return Err("its hashes do not make its digest");
        }
        match manifest.data_bytes() == outside.data_bytes {
            true => Ok(manifest),
            false => Err("it does not add up"),
        }
    }
}

fn digest_of(size: u64, branches: &[BranchRef]) -> DiskDigest {
    let mut tops = vec![ChunkHash::ZERO; Shape::of(size).root_width()];
    for branch in branches {
        tops[branch.index as usize] = branch.top;
    }
    digest_of_top(size, &node_above(&tops))
}

fn parse(bytes: &[u8]) -> Result<Parsed<'_>, &'static str> {
    let (body, check) = bytes
        .split_last_chunk::<CHECK_LEN>()
        .ok_or("it ends too early")?;
    let mut reader = Reader::new(body);
    if reader.take(8)? != MAGIC {
        return Err("it is not a manifest");
    }
    let (version, flags) = (reader.u32()?, reader.u32()?);
    if version != VERSION || flags & !SEALED != 0 {
        return Err("it is a manifest of an unknown version");
    }
    if blake3::derive_key(CHECK_CONTEXT, body) != *check {
        return Err("its checksum is wrong");
    }
    let (outside, head_len) = read_outside(body)?;
    let (head, body) = body.split_at(head_len);
    Ok(Parsed {
        outside,
        sealed: flags & SEALED != 0,
        head,
        body,
    })
}

/// The readable part of a root, and its length.
pub(crate) fn read_outside(bytes: &[u8]) -> Result<(Outside, usize), &'static str> {
    let mut reader = Reader::new(bytes);
    reader.take(16)?;
    let size = reader.u64()?;
    if size > MAX_DISK_BYTES {
        return Err("the disk is larger than disks can be");
    }
    let digest = DiskDigest::from_bytes(reader.array()?);
    let domain = DomainId(reader.array()?);
    let blocks = reader.u64()?;
    if blocks > size.div_ceil(BLOCK_SIZE as u64) {
        return Err("it has more blocks than its disk");
    }
    let count = reader.u32()?.min(MAX_BRANCHES + 1);
    let room = reader.remaining() / (ID_LEN + 4);
    let mut branches: Vec<(u32, FrameId)> = Vec::with_capacity(room.min(count as usize));
    for _ in 0..count {
        let index = reader.u32()?;
        let after = branches.last().is_none_or(|(last, _)| *last < index);
        if !after || index as usize >= Shape::of(size).root_width() {
            return Err("its branches are out of order");
        }
        branches.push((index, FrameId(reader.array()?)));
    }
    let outside = Outside {
        size,
        digest,
        domain,
        data_bytes: blocks * BLOCK_SIZE as u64,
        branches,
    };
    Ok((outside, bytes.len() - reader.remaining()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::AtRest;

    fn sample(branches: u8) -> Manifest {
        let branch = |index: u8| BranchRef {
            index: u32::from(index) * 2,
            id: FrameId([index; ID_LEN]),
            top: ChunkHash::from_bytes([index + 1; 32]),
            blocks: 5,
        };
        let size = (u64::from(branches) * 2 + 1) << 29;
        Manifest::new(size, (0..branches).map(branch).collect())
    }

    fn domains() -> [Domain; 2] {
        [AtRest::Sealed, AtRest::Plain].map(|at_rest| Domain::new([3; 32], at_rest))
    }

    #[test]
    fn hashes_of_another_disk_are_refused() {
        let mut manifest = sample(2);
        manifest.branches[0].top = ChunkHash::from_bytes([9; 32]);
        for domain in domains() {
            let bytes = manifest.encode(&domain).expect("encode");
            assert_eq!(
                Manifest::decode(&bytes, &domain),
                Err("its hashes do not make its digest")
            );
        }
    }

    #[test]
    fn another_secret_opens_nothing_but_the_references() {
        let [sealed, _] = domains();
        let bytes = sample(3).encode(&sealed).expect("encode");
        assert!(Manifest::decode(&bytes, &Domain::random()).is_err());
        let outside = Manifest::outside(&bytes).expect("readable");
        assert_eq!(outside.branches.len(), 3);
        assert_eq!(outside.domain, sealed.id());
    }

    proptest! {
        #[test]
        fn reads_back_and_any_changed_byte_is_an_error(
            branches in 0u8..20,
            at in any::<prop::sample::Index>(),
            flip in 1u8..,
        ) {
            let manifest = sample(branches);
            for domain in domains() {
                let mut bytes = manifest.encode(&domain).expect("encode");
                let decoded = Manifest::decode(&bytes, &domain);
                prop_assert_eq!(decoded.as_ref(), Ok(&manifest));
                let at = at.index(bytes.len());
                bytes[at] ^= flip;
                prop_assert!(Manifest::decode(&bytes, &domain).is_err());
                bytes.truncate(at);
                prop_assert!(Manifest::decode(&bytes, &domain).is_err());
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(Manifest::outside(&bytes).is_err());
            crate::fuzzing::manifest(&bytes);
        }
    }
}
