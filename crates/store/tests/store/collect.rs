//! What is deleted gives its room back, and nothing else is lost, whenever it stops.

use std::collections::BTreeMap;
use std::sync::Arc;

use disk::{DiskDigest, MemDisk};
use proptest::prelude::*;
use store::place::{Entry, Fault, FaultyPlace, MemoryPlace, Place};
use store::{Collect, Store, StoreError, StoredDisk};

use crate::{changed, changes_of, disk_of, memory_store, options, seeds, store_in, whole};

const HOUR: u64 = 3600;

fn at(now: u64) -> Collect {
    let grace = 24 * HOUR;
    Collect { now, grace }
}

const AT_ONCE: Collect = Collect { now: 5, grace: 0 };

/// Blocks that do not compress: frames are as long as their blocks.
fn noise(first: u32, count: u32) -> Vec<u32> {
    (first..first + count).map(|seed| seed * 4).collect()
}

#[test]
fn what_is_deleted_goes_after_the_grace_period_and_not_before() {
    let place = MemoryPlace::new();
    let store = store_in(place.clone());
    let kept = disk_of(&noise(1, 40), 0);
    let kept_digest = store.ingest(&kept).expect("ingest").digest;
    let gone = store
        .ingest(&disk_of(&noise(100, 40), 0))
        .expect("ingest")
        .digest;
    assert!(store.delete(&gone).expect("delete"));
    assert!(!store.delete(&gone).expect("delete again"));
    assert!(!store.has(&gone));

    let first = store.collect(at(HOUR)).expect("collect");
    assert_eq!(
        (
            first.retired_packs,
            first.removed_packs,
            first.waiting_packs
        ),
        (1, 0, 1)
    );
    let early = store.collect(at(24 * HOUR)).expect("collect");
    assert_eq!(
        (
            early.retired_packs,
            early.removed_packs,
            early.waiting_packs
        ),
        (0, 0, 1)
    );
    // The time is noted in the store, not in the process.
    drop(store);
    let store = store_in(place.clone());
    let late = store.collect(at(25 * HOUR)).expect("collect");
    assert_eq!(
        (late.removed_packs, late.removed_bytes),
        (1, first.retired_bytes)
    );
    assert_eq!(place.list("packs/").expect("list").len(), 1);
    assert_eq!(store.usage().expect("usage").packs, 1);
    assert_eq!(
        whole(&store.disk(&kept_digest).expect("disk")),
        kept.as_bytes()
    );
    // The same disk can come again, under the same name of its pack.
    let again = store.ingest(&disk_of(&noise(100, 40), 0)).expect("ingest");
    assert!(again.new_bytes > 0 && store.verify(&gone).expect("verify").is_sound());
}

#[test]
fn a_clock_that_was_ahead_only_delays() {
    let store = memory_store();
    let gone = store
        .ingest(&disk_of(&noise(1, 9), 0))
        .expect("ingest")
        .digest;
    store.delete(&gone).expect("delete");
    store.collect(at(1000 * HOUR)).expect("collect");
    assert_eq!(store.collect(at(HOUR)).expect("collect").removed_packs, 0);
    assert_eq!(
        store.collect(at(26 * HOUR)).expect("collect").removed_packs,
        1
    );
}

#[test]
fn packs_with_little_left_are_copied_out_while_they_are_read() {
    let place = MemoryPlace::new();
    let store = store_in(place.clone());
    // One pack of both: the disk that stays needs a quarter of it.
    let big = disk_of(&noise(1, 400), 0);
    let small = disk_of(&noise(1, 96), 0);
    let big_digest = store.ingest(&big).expect("ingest").digest;
    let digest = store.ingest(&small).expect("ingest").digest;
    let before = place.list("packs/").expect("list");
    store.delete(&big_digest).expect("delete");
    let opened = store.disk(&digest).expect("open before");
    let done = store.collect(AT_ONCE).expect("collect");
    assert_eq!(
        (done.retired_packs, done.removed_packs, done.copied_frames),
        (1, 1, 6)
    );
    let after = place.list("packs/").expect("list");
    let largest = |packs: &[Entry]| packs.iter().max_by_key(|pack| pack.bytes).cloned();
    let (before, after_it) = (largest(&before), largest(&after));
    let (before, after_it) = (before.expect("a pack"), after_it.expect("a pack"));
    assert!(!after.contains(&before) && after_it.bytes * 2 < before.bytes);
    assert_eq!(whole(&opened), small.as_bytes(), "opened before");
    for store in [store, store_in(place)] {
        assert!(store.verify(&digest).expect("verify").is_sound());
        assert_eq!(store.ingest(&small).expect("again").new_bytes, 0);
        assert_eq!(store.collect(AT_ONCE).expect("collect").removed_packs, 0);
    }
}

#[test]
fn what_is_needed_again_is_garbage_no_longer() {
    let place = MemoryPlace::new();
    let disk = disk_of(&noise(1, 40), 0);
    let store = store_in(place.clone());
    let digest = store.ingest(&disk).expect("ingest").digest;
    store.delete(&digest).expect("delete");
    assert_eq!(store.collect(at(HOUR)).expect("collect").retired_packs, 1);
    drop(store);
    // Another process finds the pack before it is gone.
    let store = store_in(place);
    assert_eq!(store.ingest(&disk).expect("again").new_bytes, 0);
    let done = store.collect(at(100 * HOUR)).expect("collect");
    assert_eq!((done.waiting_packs, done.removed_packs), (0, 0));
    assert!(store.verify(&digest).expect("verify").is_sound());
}

#[test]
fn what_cannot_be_understood_is_left_alone() {
    let place = MemoryPlace::new();
    let store = store_in(place.clone());
    let big = store
        .ingest(&disk_of(&noise(1, 400), 0))
        .expect("ingest")
        .digest;
    let small = store
        .ingest(&disk_of(&noise(1, 96), 0))
        .expect("ingest")
        .digest;
    let other = store
        .ingest(&disk_of(&noise(900, 20), 0))
        .expect("ingest")
        .digest;
    store.delete(&big).expect("delete");

    // With a manifest that says nothing, what it needs is unknown.
    let manifest = format!("manifests/{}.disk", other.to_hex());
    place.tamper(&manifest, |bytes| bytes[60] ^= 1);
    assert!(matches!(
        store.collect(AT_ONCE),
        Err(StoreError::Damaged { .. })
    ));
    place.tamper(&manifest, |bytes| bytes[60] ^= 1);

    // A frame that rots in a pack with little left keeps the pack.
    let pack = place.list("packs/").expect("list");
    let pack = pack
        .iter()
        .max_by_key(|entry| entry.bytes)
        .expect("a pack")
        .name
        .clone();
    place.tamper(&pack, |bytes| bytes[5000] ^= 1);
    let done = store.collect(AT_ONCE).expect("collect");
    assert_eq!((done.removed_packs, done.damaged_packs), (0, vec![pack]));
    assert!(!store.verify(&small).expect("verify").is_sound());
    assert!(store.verify(&other).expect("verify").is_sound());
}

#[test]
fn a_collection_may_stop_anywhere() {
    let (big, small) = (disk_of(&noise(1, 400), 0), disk_of(&noise(1, 96), 3));
    let other = disk_of(&noise(900, 30), 0);
    let before = MemoryPlace::new();
    let store = store_in(before.clone());
    let big_digest = store.ingest(&big).expect("ingest").digest;
    let held: Vec<(DiskDigest, &MemDisk)> = [&small, &other]
        .map(|disk| (store.ingest(disk).expect("ingest").digest, disk))
        .to_vec();
    drop(store);
    let work = |store: &Store| {
        store.delete(&big_digest)?;
        store.collect(AT_ONCE)
    };
    for fault in [
        Fault::Error(std::io::ErrorKind::StorageFull),
        Fault::Torn,
        Fault::Crash,
        Fault::TornCrash,
    ] {
        for at in 0.. {
            let place = before.snapshot();
            let faulty = Arc::new(FaultyPlace::new(place.clone(), fault, at));
            let done = Store::open_place(Box::new(Arc::clone(&faulty)), options())
                .and_then(|store| work(&store));
            let untouched = faulty.operations() <= at;
            let store = store_in(place.clone());
            for (digest, disk) in &held {
                let stored = store.disk(digest).expect("still there");
                assert_eq!(
                    whole(&stored),
                    disk.as_bytes(),
                    "{fault:?} at {at}: {done:?}"
                );
            }
            work(&store).expect("done again");
            for (digest, disk) in &held {
                let stored = store.disk(digest).expect("still there");
                assert_eq!(whole(&stored), disk.as_bytes(), "{fault:?} at {at}, again");
            }
            let left: u64 = store.usage().expect("usage").stored_bytes;
            assert!(
                left < 140 * 4096,
                "{fault:?} at {at}: {left} bytes are left"
            );
            if untouched {
                break;
            }
        }
    }
}

/// What may happen to a store.
#[derive(Debug, Clone)]
enum Step {
    Ingest(Vec<u32>),
    /// Of the n-th disk that is there.
    Child(usize, Vec<(u64, u32)>),
    Delete(usize),
    Open(usize),
    /// So many hours later.
    Collect(u64),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let edits = prop::collection::vec((0..100u64, 0..5000u32), 1..6);
    prop_oneof![
        4 => seeds().prop_map(Step::Ingest),
        3 => (0..9usize, edits).prop_map(|(parent, edits)| Step::Child(parent, edits)),
        4 => (0..9usize).prop_map(Step::Delete),
        2 => (0..9usize).prop_map(Step::Open),
        4 => (0..40u64).prop_map(Step::Collect),
        1 => Just(Step::Reopen),
    ]
}

/// What the store must be like.
struct Model {
    place: MemoryPlace,
    store: Store,
    disks: BTreeMap<String, (DiskDigest, MemDisk)>,
    /// Disks that are being read, and until when they must stay readable at least.
    open: Vec<(u64, StoredDisk, MemDisk)>,
    now: u64,
}

impl Model {
    fn nth(&self, n: usize) -> Option<(DiskDigest, MemDisk)> {
        let count = self.disks.len().max(1);
        self.disks.values().nth(n % count).cloned()
    }

    fn keep(&mut self, digest: DiskDigest, disk: MemDisk) {
        self.disks.insert(digest.to_hex(), (digest, disk));
    }

    fn apply(&mut self, step: &Step) {
        match step {
            Step::Ingest(seeds) => {
                let disk = disk_of(seeds, 0);
                let digest = self.store.ingest(&disk).expect("ingest").digest;
                self.keep(digest, disk);
            }
            Step::Child(parent, edits) => {
                let Some((digest, parent)) = self.nth(*parent) else {
                    return;
                };
                let blocks = (parent.as_bytes().len() / 4096) as u64;
                let mut edits: Vec<_> = edits.clone();
                edits.retain(|(block, _)| *block < blocks);
                let child = changed(&parent, &edits);
                let taken = self.store.ingest_child(&digest, &changes_of(&edits));
                self.keep(taken.expect("child").digest, child);
            }
            Step::Delete(n) => {
                let Some((digest, _)) = self.nth(*n) else {
                    return;
                };
                assert!(self.store.delete(&digest).expect("delete"));
                self.disks.remove(&digest.to_hex());
            }
            Step::Open(n) => {
                let Some((digest, disk)) = self.nth(*n) else {
                    return;
                };
                let stored = self.store.disk(&digest).expect("open");
                self.open.push((self.now + 24 * HOUR, stored, disk));
            }
            Step::Collect(hours) => {
                self.now += hours * HOUR;
                self.store.collect(at(self.now)).expect("collect");
                self.open.retain(|(until, ..)| *until > self.now);
                for (_, stored, disk) in &self.open {
                    assert_eq!(whole(stored), disk.as_bytes(), "opened before");
                }
            }
            Step::Reopen => {
                self.open.clear();
                self.store = store_in(self.place.clone());
            }
        }
    }

    fn check(&self) {
        let listed = self.store.list().expect("list");
        assert_eq!(listed.len(), self.disks.len());
        for (digest, disk) in self.disks.values() {
            assert_eq!(
                whole(&self.store.disk(digest).expect("disk")),
                disk.as_bytes()
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn whatever_happens_what_is_there_is_there(steps in prop::collection::vec(step(), 1..24)) {
        let place = MemoryPlace::new();
        let store = store_in(place.clone());
        let (disks, open) = (BTreeMap::new(), Vec::new());
        let mut model = Model { place, store, disks, open, now: HOUR };
        for step in &steps {
            model.apply(step);
            model.check();
        }
        for (digest, _) in model.disks.values() {
            model.store.delete(digest).expect("delete");
        }
        model.store.collect(at(model.now)).expect("collect");
        model.store.collect(at(model.now + 24 * HOUR)).expect("collect");
        prop_assert_eq!(model.place.list("packs/").expect("list").len(), 0);
    }
}
