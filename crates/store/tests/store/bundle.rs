//! A disk in a file is the disk at the other end, or an error.

use disk::{DiskDigest, MemDisk, WriteAt};
use proptest::prelude::*;
use store::{Bundled, Domain, Store, StoreError, Trace, TraceRecorder, Unbundled, is_bundle};

use crate::{changes_of, disk_of, memory_store, seeds, stranger, whole};

fn key() -> Domain {
    Domain::from_secret([7; 32])
}

fn unbundle(store: &Store, mut bytes: &[u8]) -> Result<Unbundled, StoreError> {
    store.unbundle(&mut bytes, Some(&key()))
}

fn bundle(store: &Store, digest: &DiskDigest, without: Option<&DiskDigest>) -> (Vec<u8>, Bundled) {
    let mut bytes = Vec::new();
    let made = store.bundle(digest, without, &key(), &mut bytes);
    let made = made.expect("bundle");
    assert_eq!(made.bytes, bytes.len() as u64);
    assert!(is_bundle(&bytes));
    (bytes, made)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_comes_out_is_the_disk(content in seeds(), there in seeds(), tail in 0..4096usize) {
        let (from, to) = (memory_store(), stranger());
        to.ingest(&disk_of(&there, 0)).expect("ingest");
        let disk = disk_of(&content, tail);
        let digest = from.ingest(&disk).expect("ingest").digest;
        let (bytes, made) = bundle(&from, &digest, None);
        let taken = unbundle(&to, &bytes).expect("unbundle");
        prop_assert_eq!(taken.digest, digest);
        prop_assert_eq!(taken.bytes, made.bytes);
        prop_assert_eq!(&whole(&to.disk(&digest).expect("disk")), disk.as_bytes());
        prop_assert!(to.verify(&digest).expect("verify").is_sound());
        // Once more brings nothing.
        let again = unbundle(&to, &bytes).expect("unbundle again");
        prop_assert_eq!((again.frames, again.stored_bytes), (0, 0));
        // What came in a bundle is known to the next ingest.
        prop_assert_eq!(to.ingest(&disk).expect("ingest").new_bytes, 0);
    }
}

#[test]
fn a_bundle_can_leave_out_what_is_there() {
    let (from, to) = (memory_store(), memory_store());
    let parent_disk = disk_of(&(1..=800).collect::<Vec<_>>(), 0);
    let parent = from.ingest(&parent_disk).expect("ingest").digest;
    let child = from
        .ingest_child(&parent, &changes_of(&[(5, 9001), (700, 9002)]))
        .expect("child");
    let (all, _) = bundle(&from, &child.digest, None);
    let (part, made) = bundle(&from, &child.digest, Some(&parent));
    assert_eq!(made.frames, 1);
    assert!(part.len() < all.len() / 10);

    let missing = unbundle(&to, &part);
    assert!(
        matches!(missing, Err(StoreError::UnknownDisk(_))),
        "{missing:?}"
    );
    assert!(!to.has(&child.digest));
    let (first, _) = bundle(&from, &parent, None);
    unbundle(&to, &first).expect("the parent");
    unbundle(&to, &part).expect("the child");
    assert!(to.verify(&child.digest).expect("verify").is_sound());
}

fn trace() -> Trace {
    let recorder = TraceRecorder::new();
    recorder.note(90_000, 20_000);
    recorder.note(4096, 512);
    recorder.trace()
}

#[test]
fn a_boot_trace_comes_along() {
    let from = memory_store();
    let disk = disk_of(&(1..=800).collect::<Vec<_>>(), 0);
    let parent = from.ingest(&disk).expect("ingest").digest;
    let child = from.ingest_child(&parent, &changes_of(&[(5, 9001)]));
    let child = child.expect("child").digest;
    for digest in [&parent, &child] {
        let (without, _) = bundle(&from, digest, None);
        from.put_trace(digest, &trace()).expect("trace");
        for open in [true, false] {
            let (to, mut bytes) = (stranger(), Vec::new());
            let key = match open {
                true => Domain::unsealed(),
                false => key(),
            };
            from.bundle(digest, None, &key, &mut bytes).expect("bundle");
            let mut reader = bytes.as_slice();
            to.unbundle(&mut reader, Some(&key)).expect("unbundle");
            assert_eq!(to.trace(digest), Some(trace()));
        }
        let to = stranger();
        unbundle(&to, &without).expect("unbundle");
        assert_eq!(to.trace(digest), None);
    }
    // And with a bundle that leaves blocks out.
    let to = stranger();
    unbundle(&to, &bundle(&from, &parent, None).0).expect("the parent");
    unbundle(&to, &bundle(&from, &child, Some(&parent)).0).expect("the child");
    assert_eq!(to.trace(&child), Some(trace()));
}

#[test]
fn a_damaged_bundle_is_an_error_and_no_disk() {
    let from = memory_store();
    let digest = from
        .ingest(&disk_of(&(1..=40).collect::<Vec<_>>(), 7))
        .expect("ingest")
        .digest;
    from.put_trace(&digest, &trace()).expect("trace");
    let (bytes, _) = bundle(&from, &digest, None);
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1 << (at % 8);
        for broken in [changed.as_slice(), &bytes[..at]] {
            let to = memory_store();
            unbundle(&to, broken).expect_err("refused");
            assert!(to.list().expect("list").is_empty(), "byte {at}");
        }
    }
}

/// Where the header has the digest of the other disk.
const PRESENT: std::ops::Range<usize> = 56..88;
const LONG: usize = 6 << 20;

/// A disk that holds the same noise, later by so many bytes: no block of two such disks is the same.
fn noise(seed: u64, later: usize) -> MemDisk {
    let mut disk = MemDisk::new(LONG + 8192);
    let mut state = seed;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    let bytes: Vec<u8> = (0..LONG).map(|_| next()).collect();
    disk.write_at(later as u64, &bytes)
        .expect("within the disk");
    disk
}

#[test]
fn blocks_that_are_new_are_sent_as_what_differs() {
    let (from, to) = (memory_store(), stranger());
    let (old, new) = (noise(1, 0), noise(1, 1000));
    let parent = from.ingest(&old).expect("ingest").digest;
    to.ingest(&old).expect("ingest");
    let child = from.ingest(&new).expect("ingest");
    assert_eq!(child.new_bytes, child.data_bytes, "no block is the same");
    let (part, _) = bundle(&from, &child.digest, Some(&parent));
    assert!(part.len() < LONG / 20, "{} bytes", part.len());
    assert_eq!(part, bundle(&from, &child.digest, Some(&parent)).0);

    // Cut off, or with a flipped bit: an error, and no disk.
    for step in 0..100 {
        let at = part.len() * step / 100;
        let mut changed = part.clone();
        changed[at] ^= 1 << (step % 8);
        for broken in [changed.as_slice(), &part[..at]] {
            unbundle(&to, broken).expect_err("refused");
            assert!(!to.has(&child.digest), "byte {at}");
        }
    }
    unbundle(&to, &part).expect("the child");
    assert_eq!(
        &whole(&to.disk(&child.digest).expect("disk")),
        new.as_bytes()
    );
    assert!(to.verify(&child.digest).expect("verify").is_sound());
}

#[test]
fn another_disk_than_the_one_referred_to_gives_no_disk() {
    let (from, to) = (memory_store(), memory_store());
    let parent = from.ingest(&noise(1, 0)).expect("ingest").digest;
    let child = from.ingest(&noise(1, 1000)).expect("ingest").digest;
    let other = to.ingest(&noise(2, 0)).expect("ingest").digest;
    let (mut part, _) = bundle(&from, &child, Some(&parent));
    let missing = unbundle(&to, &part);
    assert!(
        matches!(missing, Err(StoreError::UnknownDisk(_))),
        "{missing:?}"
    );
    // A liar makes the checksum right.
    part[PRESENT].copy_from_slice(other.as_bytes());
    let end = part.len() - 32;
    let check = blake3::derive_key("bullion bundle v1", &part[..end]);
    part[end..].copy_from_slice(&check);
    unbundle(&to, &part).expect_err("refused");
    assert!(!to.has(&child));
    // Without a reference it goes as well.
    unbundle(&to, &bundle(&from, &child, None).0).expect("the whole of it");
    assert!(to.verify(&child).expect("verify").is_sound());
}
