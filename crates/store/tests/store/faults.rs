//! The place fails at each operation in turn. Afterwards a reopened store is sound, holds what it
//! held before, and the work can simply be done again.

use std::io::ErrorKind;
use std::sync::Arc;

use disk::{DiskDigest, MemDisk};
use store::place::{Fault, FaultyPlace, MemoryPlace, Place};
use store::{Store, StoreError};

use crate::{changed, changes_of, disk_of, options, store_in, whole};

/// More operations than any scenario here has; reaching it would mean that a fault never stops.
const MAX_OPERATIONS: u64 = 10_000;

const FAULTS: [Fault; 4] = [
    Fault::Error(ErrorKind::StorageFull),
    Fault::Torn,
    Fault::Crash,
    Fault::TornCrash,
];

/// Does `work` with a fault at each operation it makes, and checks what is left each time.
fn check(
    fault: Fault,
    before: &MemoryPlace,
    work: &dyn Fn(&Store) -> Result<DiskDigest, StoreError>,
    held: &[(DiskDigest, &MemDisk)],
    result: &MemDisk,
) {
    for at in 0..MAX_OPERATIONS {
        let place = before.snapshot();
        let faulty = Arc::new(FaultyPlace::new(place.clone(), fault, at));
        let done = Store::open_place(Box::new(Arc::clone(&faulty)), options())
            .and_then(|store| work(&store));
        let untouched = faulty.operations() <= at;
        assert!(
            done.is_err() || untouched || survives(fault),
            "{fault:?} at {at} went unseen"
        );

        let store = store_in(place);
        if let Ok(digest) = &done {
            assert!(store.has(digest), "{fault:?} at {at}: done, but not there");
        }
        for (digest, disk) in held {
            assert_eq!(
                whole(&store.disk(digest).expect("still there")),
                disk.as_bytes()
            );
        }
        for info in store.list().expect("list") {
            if store.has(&info.digest) {
                let sound = store.verify(&info.digest).expect("verify").is_sound();
                assert!(sound, "{fault:?} at {at}: a visible disk is unsound");
            }
        }
        let digest = work(&store).expect("the work is done again");
        assert_eq!(
            whole(&store.disk(&digest).expect("disk")),
            result.as_bytes()
        );
        if untouched {
            return;
        }
    }
    panic!("{fault:?} never ended");
}

/// One failed read may be of something that is then done in another way.
fn survives(fault: Fault) -> bool {
    !matches!(fault, Fault::Crash | Fault::TornCrash)
}

/// More than one pack, so that there is a state between two.
fn big() -> MemDisk {
    disk_of(&(1..=2300).map(|seed| seed * 4).collect::<Vec<_>>(), 5)
}

#[test]
fn ingest() {
    let disk = big();
    for fault in FAULTS {
        let work = |store: &Store| store.ingest(&disk).map(|done| done.digest);
        check(fault, &MemoryPlace::new(), &work, &[], &disk);
    }
}

#[test]
fn ingest_of_a_child() {
    let parent = disk_of(&(0..500).collect::<Vec<_>>(), 0);
    let edits = [(3, 0), (4, 9000), (300, 9001), (499, 7)];
    let child = changed(&parent, &edits);
    let place = MemoryPlace::new();
    let digest = store_in(place.clone())
        .ingest(&parent)
        .expect("parent")
        .digest;
    for fault in FAULTS {
        let changes = changes_of(&edits);
        let work = |store: &Store| {
            store
                .ingest_child(&digest, &changes)
                .map(|done| done.digest)
        };
        check(fault, &place, &work, &[(digest, &parent)], &child);
    }
}

#[test]
fn replicate_into() {
    let (held, disk) = (disk_of(&(1..300).collect::<Vec<_>>(), 0), big());
    let from = crate::memory_store();
    let digest = from.ingest(&disk).expect("ingest").digest;
    let place = MemoryPlace::new();
    let before = store_in(place.clone())
        .ingest(&held)
        .expect("ingest")
        .digest;
    for fault in FAULTS {
        let work = |to: &Store| Store::replicate(&from, to, &digest, &|_| ()).map(|_| digest);
        check(fault, &place, &work, &[(before, &held)], &disk);
    }
}

#[test]
fn a_torn_pack_is_told_of_until_it_is_written_again() {
    let disk = disk_of(&[1, 2, 3], 0);
    let place = MemoryPlace::new();
    let digest = store_in(place.clone())
        .ingest(&disk)
        .expect("ingest")
        .digest;
    let pack = place.list("packs/").expect("list")[0].name.clone();
    place.tamper(&pack, |bytes| bytes.truncate(bytes.len() / 2));

    let store = store_in(place);
    assert_eq!(store.usage().expect("usage").damaged_packs, [pack]);
    assert!(matches!(
        store.disk(&digest),
        Err(StoreError::MissingFrame { .. })
    ));
    store.ingest(&disk).expect("ingest again");
    assert!(store.verify(&digest).expect("verify").is_sound());
    assert!(store.usage().expect("usage").damaged_packs.is_empty());
}

#[test]
fn a_full_place_is_told_from_a_broken_one() {
    let tell = |kind| {
        for at in 0..MAX_OPERATIONS {
            let place = FaultyPlace::new(MemoryPlace::new(), Fault::Error(kind), at);
            let store = Store::open_place(Box::new(place), options());
            match store.and_then(|store| store.ingest(&disk_of(&[1, 2, 3], 0))) {
                Err(error @ StoreError::Put { .. }) => return error.is_no_space(),
                Err(_) => {}
                Ok(_) => break,
            }
        }
        panic!("no write failed");
    };
    assert!(tell(ErrorKind::StorageFull));
    assert!(!tell(ErrorKind::PermissionDenied));
}
