//! In and out again, blocks stored once, children from their parents.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use disk::{BLOCK_SIZE, CHUNK_SIZE, DiskDigest, MemDisk, ReadAt, digest_of};
use proptest::prelude::*;
use store::place::{Entry, MemoryPlace, Place};
use store::{Store, StoreError};

use crate::{block, changed, changes_of, disk_of, memory_store, seeds, whole};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn comes_back_as_it_went_in(seeds in seeds(), tail in 0..BLOCK_SIZE, from in 0usize..2_000_000) {
        let disk = disk_of(&seeds, tail);
        let store = memory_store();
        let ingested = store.ingest(&disk).expect("ingest");
        prop_assert_eq!(ingested.digest, digest_of(&disk).expect("digest").0);
        prop_assert_eq!(ingested.logical_bytes, disk.size());

        let stored = store.disk(&ingested.digest).expect("disk");
        prop_assert_eq!(&whole(&stored), disk.as_bytes());
        prop_assert_eq!(&digest_of(&stored).expect("digest").0, &ingested.digest);
        let from = from.min(disk.as_bytes().len());
        let len = (disk.as_bytes().len() - from).min(10_000);
        let mut part = vec![0xee; len];
        stored.read_at(from as u64, &mut part).expect("read a part");
        prop_assert_eq!(&part, &disk.as_bytes()[from..from + len]);
        prop_assert!(store.verify(&ingested.digest).expect("verify").is_sound());

        let again = store.ingest(&disk).expect("ingest again");
        prop_assert_eq!((again.digest, again.new_bytes, again.stored_bytes), (ingested.digest, 0, 0));
        prop_assert_eq!(store.list().expect("list").len(), 1);
    }

    #[test]
    fn a_child_is_the_same_as_its_whole_disk(
        seeds in prop::collection::vec(0..2000u32, 1..600),
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..3000u32), 0..30),
    ) {
        let parent = disk_of(&seeds, 0);
        let edits: Vec<_> =
            edits.iter().map(|(at, seed)| (at.index(seeds.len()) as u64, *seed)).collect();
        let expected = changed(&parent, &edits);
        let store = memory_store();
        let parent = store.ingest(&parent).expect("parent");
        let child = store.ingest_child(&parent.digest, &changes_of(&edits)).expect("child");
        prop_assert_eq!(&whole(&store.disk(&child.digest).expect("disk")), expected.as_bytes());
        prop_assert!(store.verify(&child.digest).expect("verify").is_sound());

        let other = memory_store().ingest(&expected).expect("ingest");
        prop_assert_eq!(child.digest, other.digest);
        prop_assert_eq!(child.data_bytes, other.data_bytes);
        let again = store.ingest(&expected).expect("ingest");
        prop_assert_eq!((again.digest, again.new_bytes), (child.digest, 0));
    }
}

#[test]
fn a_block_is_stored_once() {
    let store = memory_store();
    let mut seeds: Vec<u32> = (1..=100).collect();
    seeds.extend(1..=100);
    seeds.extend([0; 100]);
    let first = store.ingest(&disk_of(&seeds, 0)).expect("ingest");
    assert_eq!(first.data_bytes, 200 * BLOCK_SIZE as u64);
    assert_eq!(first.new_bytes, 100 * BLOCK_SIZE as u64);
    seeds.reverse();
    seeds.push(101);
    let second = store.ingest(&disk_of(&seeds, 0)).expect("ingest");
    assert_eq!(second.new_bytes, BLOCK_SIZE as u64);
    let usage = store.usage().expect("usage");
    assert_eq!((usage.disks, usage.raw_bytes), (2, 101 * BLOCK_SIZE as u64));
    assert_eq!(usage.stored_bytes, first.stored_bytes + second.stored_bytes);
}

#[test]
fn a_child_reads_only_the_chunks_that_changed() {
    let place = MemoryPlace::new();
    let seeds: Vec<u32> = (1..=1024).collect();
    let parent = crate::store_in(place.clone())
        .ingest(&disk_of(&seeds, 0))
        .expect("parent");
    let counted = Arc::new(Counted {
        inner: place,
        bytes: Default::default(),
    });
    let store = crate::store_in(Arc::clone(&counted));
    let before = counted.bytes.load(Ordering::SeqCst);
    store
        .ingest_child(&parent.digest, &changes_of(&[(300, 5000)]))
        .expect("child");
    let read = counted.bytes.load(Ordering::SeqCst) - before;
    // One chunk of four, and manifests.
    assert!(
        read < parent.stored_bytes / 2,
        "{read} of {} bytes",
        parent.stored_bytes
    );
}

/// Counts what is read from packs.
struct Counted {
    inner: MemoryPlace,
    bytes: AtomicU64,
}

impl Place for Counted {
    fn put(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.inner.put(name, bytes)
    }
    fn get_range(&self, name: &str, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        if name.starts_with("packs/") {
            self.bytes.fetch_add(len as u64, Ordering::SeqCst);
        }
        self.inner.get_range(name, offset, len)
    }
    fn size(&self, name: &str) -> io::Result<Option<u64>> {
        self.inner.size(name)
    }
    fn list(&self, prefix: &str) -> io::Result<Vec<Entry>> {
        self.inner.list(prefix)
    }
    fn delete(&self, name: &str) -> io::Result<()> {
        self.inner.delete(name)
    }
}

/// A changed file dirties its data, an inode table and a directory, far apart.
#[test]
fn a_small_change_costs_a_small_manifest() {
    let store = memory_store();
    let seeds: Vec<u32> = (1..=12_000).map(|seed| seed * 4).collect();
    let parent = store.ingest(&disk_of(&seeds, 0)).expect("parent");
    let edits = [(3, 60_000), (5000, 60_004), (11_000, 60_008)];
    let child = store.ingest_child(&parent.digest, &changes_of(&edits));
    let child = child.expect("child");
    let added = child.stored_bytes + child.manifest_bytes;
    assert!(added <= 40 << 10, "{child:?}");
    let other = memory_store();
    for digest in [&parent.digest, &child.digest] {
        let moved = Store::replicate(&store, &other, digest, &|_| ()).expect("replicate");
        assert!(*digest != child.digest || moved.frame_bytes + moved.manifest_bytes <= added);
    }
}

#[test]
fn packs_are_cut_and_all_of_them_are_found_again() {
    let place = MemoryPlace::new();
    // Incompressible, so that there is more than one pack.
    let seeds: Vec<u32> = (1..=6000).map(|seed| seed * 4).collect();
    let disk = disk_of(&seeds, 0);
    let ingested = crate::store_in(place.clone())
        .ingest(&disk)
        .expect("ingest");
    let store = crate::store_in(place);
    let usage = store.usage().expect("usage");
    assert!(usage.packs >= 3, "{usage:?}");
    assert_eq!(usage.stored_bytes, ingested.stored_bytes);
    assert_eq!(store.ingest(&disk).expect("again").new_bytes, 0);
    assert!(store.verify(&ingested.digest).expect("verify").is_sound());
}

#[test]
fn ingests_from_many_threads_store_every_block_once() {
    let store = memory_store();
    let disks: Vec<MemDisk> = (0..6u32)
        .map(|n| disk_of(&(1 + n * 50..400 + n * 50).collect::<Vec<_>>(), 0))
        .collect();
    let digests: Vec<DiskDigest> = std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for disk in disks.iter().chain(&disks) {
            let store: Store = store.clone();
            threads.push(scope.spawn(move || store.ingest(disk).expect("ingest").digest));
        }
        threads
            .into_iter()
            .map(|thread| thread.join().expect("thread"))
            .collect()
    });
    for (disk, digest) in disks.iter().zip(&digests) {
        assert_eq!(whole(&store.disk(digest).expect("disk")), disk.as_bytes());
    }
    let usage = store.usage().expect("usage");
    assert_eq!((usage.disks, usage.raw_bytes), (6, 649 * BLOCK_SIZE as u64));
}

#[test]
fn small_and_empty_disks() {
    for size in [0, 1, BLOCK_SIZE - 1, BLOCK_SIZE, CHUNK_SIZE, CHUNK_SIZE + 1] {
        for fill in [0, 7] {
            let disk = MemDisk::from(vec![fill; size]);
            let store = memory_store();
            let ingested = store.ingest(&disk).expect("ingest");
            assert_eq!(
                whole(&store.disk(&ingested.digest).expect("disk")),
                disk.as_bytes()
            );
            assert!(store.verify(&ingested.digest).expect("verify").is_sound());
        }
    }
}

#[test]
fn what_is_not_there_is_an_error() {
    let store = memory_store();
    let digest = DiskDigest::from_bytes([1; 32]);
    assert!(!store.has(&digest));
    assert!(matches!(
        store.disk(&digest),
        Err(StoreError::UnknownDisk(_))
    ));
    let parent = store.ingest(&disk_of(&[1, 2], 0)).expect("parent").digest;
    let outside = store.ingest_child(&parent, &changes_of(&[(2, 1)]));
    assert!(matches!(
        outside,
        Err(StoreError::ChangeOutside { block: 2, .. })
    ));
    let mut one = vec![0; 1];
    let disk = store.disk(&parent).expect("disk");
    assert!(disk.read_at(2 * BLOCK_SIZE as u64, &mut one).is_err());
    assert_eq!(block(0), [0; BLOCK_SIZE]);
}
