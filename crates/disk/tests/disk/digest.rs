//! The digest against its own definition, written out once more in the plainest way.

use disk::{
    BLOCK_SIZE, CHUNK_SIZE, ChunkHash, CowDisk, DiskDigest, MemDisk, ReadAt, WriteAt, chunk_count,
    digest_after, digest_of,
};
use proptest::prelude::*;

use crate::{apply, writes, written};

/// The definition, a hash at a time and with nothing shared.
fn plain_digest(bytes: &[u8]) -> String {
    let zero = [0u8; 32];
    let mut level: Vec<[u8; 32]> = Vec::new();
    for block in bytes.chunks(BLOCK_SIZE) {
        let mut whole = [0; BLOCK_SIZE];
        whole[..block.len()].copy_from_slice(block);
        level.push(if whole == [0; BLOCK_SIZE] {
            zero
        } else {
            blake3::derive_key("bullion disk digest v1 leaf", &whole)
        });
    }
    level.resize(level.len().max(1).next_power_of_two(), zero);
    while level.len() > 1 {
        let parent = |pair: &[[u8; 32]]| {
            if pair == [zero, zero] {
                zero
            } else {
                blake3::derive_key("bullion disk digest v1 node", &pair.concat())
            }
        };
        level = level.chunks(2).map(parent).collect();
    }
    let mut root = (bytes.len() as u64).to_le_bytes().to_vec();
    root.extend_from_slice(&level[0]);
    let digest = blake3::derive_key("bullion disk digest v1 root", &root);
    format!("bd1:{}", digest.map(|byte| format!("{byte:02x}")).concat())
}

/// Says that everything is data, so nothing is skipped.
struct NoHoles<'a>(&'a MemDisk);

impl ReadAt for NoHoles<'_> {
    fn size(&self) -> u64 {
        self.0.size()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        self.0.read_at(offset, buf)
    }
}

/// Fails when a hole is read.
struct OnlyData<'a>(&'a MemDisk);

impl ReadAt for OnlyData<'_> {
    fn size(&self) -> u64 {
        self.0.size()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        self.0.read_at(offset, buf)?;
        let whole_blocks = buf.chunks(BLOCK_SIZE);
        for block in whole_blocks {
            assert!(
                block.iter().any(|byte| *byte != 0),
                "a hole near {offset} was read"
            );
        }
        Ok(())
    }
    fn next_data(&self, offset: u64) -> std::io::Result<Option<std::ops::Range<u64>>> {
        self.0.next_data(offset)
    }
}

fn golden_disk() -> MemDisk {
    let mut disk = MemDisk::new(3 * CHUNK_SIZE + BLOCK_SIZE);
    disk.write_at(0, b"bullion").expect("write");
    disk.write_at(CHUNK_SIZE as u64 - 1, &[1, 2])
        .expect("write");
    disk.write_at(3 * CHUNK_SIZE as u64 + 4095, &[255])
        .expect("write");
    disk
}

/// These values are the format. If one changes, every stored disk has lost its name.
#[test]
fn golden_digests_of_version_1() {
    let check = |disk: MemDisk, expected: &str| {
        let (digest, _) = digest_of(&disk).expect("digest");
        assert_eq!(digest.to_string(), expected);
        assert_eq!(
            plain_digest(disk.as_bytes()),
            expected,
            "by the plain definition"
        );
    };
    check(MemDisk::new(0), GOLDEN[0]);
    check(MemDisk::from(b"a".to_vec()), GOLDEN[1]);
    check(MemDisk::new(CHUNK_SIZE), GOLDEN[2]);
    check(golden_disk(), GOLDEN[3]);
}

const GOLDEN: [&str; 4] = [
    "bd1:f19f8a2971006bf8955b1c3ab11286fafbd6498ed21f829a41eeac1f5832670a",
    "bd1:bbaa3560898ea8756d498b77ad97c163b5796acaa417c19ec59fc25aefc7efdc",
    "bd1:0bdc59a37a59ea66065cc52e237db08108345de8aec0551a4b74387bd41306a4",
    "bd1:60abb13c415c76bb922b40b49a1596924b99bc0bb26d0dbbce42cb63eb95473a",
];

#[test]
fn text_has_exactly_one_spelling() {
    let digest = DiskDigest::from_bytes([0xab; 32]);
    let text = digest.to_string();
    assert_eq!(text.parse(), Ok(digest));
    let json = serde_json::to_string(&digest).expect("serialise");
    assert_eq!(json, format!("\"{text}\""));
    assert_eq!(
        serde_json::from_str::<DiskDigest>(&json).expect("parse"),
        digest
    );
    let upper = text.to_uppercase();
    for wrong in [
        "",
        "bd1:",
        &text[4..],
        &text[..text.len() - 1],
        &upper,
        &format!("{text}0"),
    ] {
        assert!(wrong.parse::<DiskDigest>().is_err(), "{wrong:?} was taken");
    }
}

#[test]
fn size_counts_even_where_all_is_zero() {
    let mut seen = std::collections::BTreeSet::new();
    for size in [0, 1, BLOCK_SIZE, CHUNK_SIZE, CHUNK_SIZE + 1, 4 * CHUNK_SIZE] {
        let (digest, chunks) = digest_of(&MemDisk::new(size)).expect("digest");
        assert!(seen.insert(digest), "size {size} has a name of its own");
        assert_eq!(chunks, vec![ChunkHash::ZERO; chunk_count(size as u64)]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn is_the_plain_definition(size in 0usize..3 * CHUNK_SIZE, seed in writes(CHUNK_SIZE)) {
        let mut disk = MemDisk::new(size);
        let fitting: Vec<_> = seed.into_iter().filter(|write| write.0 < size).collect();
        apply(&mut disk, &fitting);
        let (digest, _) = digest_of(&disk).expect("digest");
        prop_assert_eq!(digest.to_string(), plain_digest(disk.as_bytes()));
    }

    #[test]
    fn does_not_depend_on_order_or_holes(mut writes in writes(2 * CHUNK_SIZE)) {
        // Writes that do not overlap may be done in any order.
        writes.sort();
        for at in (1..writes.len()).rev() {
            if writes[at - 1].0 + writes[at - 1].1 > writes[at].0 {
                writes.remove(at);
            }
        }
        let forward = written(2 * CHUNK_SIZE + 512, &writes);
        writes.reverse();
        let backward = written(2 * CHUNK_SIZE + 512, &writes);
        let expected = digest_of(&forward).expect("digest");
        prop_assert_eq!(&digest_of(&backward).expect("digest"), &expected);
        prop_assert_eq!(&digest_of(&NoHoles(&forward)).expect("digest"), &expected);
        prop_assert_eq!(&digest_of(&OnlyData(&forward)).expect("digest"), &expected);
    }

    #[test]
    fn after_changes_is_the_digest_of_the_whole(
        size in 1usize..5 * CHUNK_SIZE,
        before in writes(CHUNK_SIZE),
        after in writes(5 * CHUNK_SIZE),
    ) {
        let fits = |write: &&(usize, usize, u8)| write.0 < size;
        let parent = written(size, &before.iter().filter(fits).copied().collect::<Vec<_>>());
        let (_, parent_chunks) = digest_of(&parent).expect("digest of the parent");
        let mut cow = CowDisk::new(&parent);
        apply(&mut cow, &after.iter().filter(fits).copied().collect::<Vec<_>>());
        let found = digest_after(size as u64, &parent_chunks, &cow, cow.changes());
        let whole = digest_of(&cow);
        prop_assert_eq!(found.expect("digest after"), whole.expect("digest of the whole"));
    }
}
