//! The other store has the same disk, and got only what it did not have.

use std::cell::RefCell;

use proptest::prelude::*;
use store::{Moved, Progress, Store, StoreError};

use crate::{changed, changes_of, disk_of, memory_store, seeds, whole};
use disk::{BLOCK_SIZE, DiskDigest};

fn copy(from: &Store, to: &Store, digest: &DiskDigest) -> (Moved, Vec<Progress>) {
    let seen = RefCell::new(Vec::new());
    let moved = Store::replicate(from, to, digest, &|now| seen.borrow_mut().push(now));
    (moved.expect("replicate"), seen.into_inner())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_copy_is_the_disk(first in seeds(), second in seeds(), there in seeds()) {
        let (from, to) = (memory_store(), memory_store());
        to.ingest(&disk_of(&there, 0)).expect("ingest");
        for disk in [disk_of(&first, 1), disk_of(&second, 2)] {
            let digest = from.ingest(&disk).expect("ingest").digest;
            copy(&from, &to, &digest);
            prop_assert_eq!(&whole(&to.disk(&digest).expect("disk")), disk.as_bytes());
            prop_assert!(to.verify(&digest).expect("verify").is_sound());
        }
    }
}

#[test]
fn a_child_moves_only_what_is_new() {
    let (from, to) = (memory_store(), memory_store());
    let disk = disk_of(&(1..=3000).collect::<Vec<_>>(), 0);
    let parent = from.ingest(&disk).expect("ingest");
    let edits: Vec<_> = (0..20).map(|n| (n * 100, 10_000 + n as u32)).collect();
    let child = from
        .ingest_child(&parent.digest, &changes_of(&edits))
        .expect("child");

    let (all, progress) = copy(&from, &to, &parent.digest);
    assert_eq!(all.frame_bytes, parent.stored_bytes);
    let (first, last) = (progress[0], progress[progress.len() - 1]);
    assert_eq!((first.frames_done, first.frames_total), (0, all.frames));
    assert_eq!(
        (last.frames_done, last.bytes_done),
        (last.frames_total, last.bytes_total)
    );

    let (new, _) = copy(&from, &to, &child.digest);
    assert_eq!((new.frames, new.frame_bytes), (2, child.stored_bytes));
    let (nothing, _) = copy(&from, &to, &child.digest);
    assert_eq!(
        (nothing.frames, nothing.frame_bytes, nothing.manifest_bytes),
        (0, 0, 0)
    );
    assert_eq!(
        whole(&to.disk(&child.digest).expect("disk")),
        changed(&disk, &edits).as_bytes()
    );

    // The receiver knows the blocks, not only the frames.
    assert_eq!(
        to.ingest(&changed(&disk, &edits))
            .expect("ingest")
            .new_bytes,
        0
    );
    assert_eq!(
        to.usage().expect("usage").raw_bytes,
        3020 * BLOCK_SIZE as u64
    );
}

#[test]
fn to_itself_there_is_nothing_to_do() {
    let store = memory_store();
    let digest = store.ingest(&disk_of(&[1, 2], 0)).expect("ingest").digest;
    assert_eq!(copy(&store, &store.clone(), &digest).0.frames, 0);
    let unknown = DiskDigest::from_bytes([3; 32]);
    let error = Store::replicate(&store, &memory_store(), &unknown, &|_| ());
    assert!(matches!(error, Err(StoreError::UnknownDisk(_))));
}

/// Both ways at once, as two zones do it: no lock waits for the other.
#[test]
fn both_ways_at_once() {
    let (a, b) = (memory_store(), memory_store());
    let of = |store: &Store, first: u32| -> Vec<DiskDigest> {
        let disks = (0..8).map(|n| disk_of(&(first + n * 9..first + 500).collect::<Vec<_>>(), 0));
        disks
            .map(|disk| store.ingest(&disk).expect("ingest").digest)
            .collect()
    };
    let (in_a, in_b) = (of(&a, 1), of(&b, 1000));
    std::thread::scope(|scope| {
        scope.spawn(|| in_a.iter().for_each(|digest| drop(copy(&a, &b, digest))));
        scope.spawn(|| in_b.iter().for_each(|digest| drop(copy(&b, &a, digest))));
    });
    for digest in in_a.iter().chain(&in_b) {
        assert!(a.has(digest) && b.has(digest));
    }
}

/// Blocks that do not compress.
fn noise(range: std::ops::RangeInclusive<u32>) -> Vec<u32> {
    range.map(|seed| seed * 4).collect()
}

#[test]
fn of_a_frame_with_little_of_use_only_that_moves() {
    let (from, to) = (memory_store(), memory_store());
    let parent = from.ingest(&disk_of(&noise(1..=800), 0)).expect("ingest");
    copy(&from, &to, &parent.digest);
    // The other store has never seen this disk, in whose frames blocks of the child lie.
    from.ingest(&disk_of(&noise(2000..=2400), 0))
        .expect("ingest");
    let edits = [
        (7, 2005 * 4),
        (8, 2006 * 4),
        (300, 2100 * 4),
        (301, 2399 * 4),
    ];
    let child = from
        .ingest_child(&parent.digest, &changes_of(&edits))
        .expect("child");
    assert_eq!(child.new_bytes, 0);

    let (moved, progress) = copy(&from, &to, &child.digest);
    assert_eq!((moved.frames, moved.frames_present), (1, 50));
    assert!(moved.frame_bytes <= 4 * BLOCK_SIZE as u64 + 64, "{moved:?}");
    assert!(
        progress
            .last()
            .is_some_and(|last| last.frames_done == last.frames_total)
    );
    assert!(to.verify(&child.digest).expect("verify").is_sound());
    assert_eq!(copy(&from, &to, &child.digest).0.manifest_bytes, 0);
}

#[test]
fn blocks_that_are_there_in_other_frames_do_not_move() {
    let (from, to) = (memory_store(), memory_store());
    // The same blocks, but packed from another start: no frame is the same.
    to.ingest(&disk_of(&noise(3..=400), 0)).expect("ingest");
    let disk = disk_of(&noise(1..=400), 0);
    let digest = from.ingest(&disk).expect("ingest").digest;
    let (moved, _) = copy(&from, &to, &digest);
    assert!(moved.frame_bytes <= 2 * BLOCK_SIZE as u64 + 64, "{moved:?}");
    assert_eq!(whole(&to.disk(&digest).expect("disk")), disk.as_bytes());
    assert!(to.verify(&digest).expect("verify").is_sound());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Disks go to and fro between stores that have different histories.
    #[test]
    fn histories_do_not_matter(
        first in seeds(), second in seeds(), third in seeds(),
        edits in prop::collection::vec((0..300u64, 0..5000u32), 1..40),
    ) {
        let (left, right) = (memory_store(), memory_store());
        right.ingest(&disk_of(&third, 0)).expect("ingest");
        let parent = disk_of(&first, 0);
        let digest = left.ingest(&parent).expect("ingest").digest;
        left.ingest(&disk_of(&second, 9)).expect("ingest");
        let mut edits = edits;
        edits.retain(|(block, _)| *block < first.len() as u64);
        let child = left.ingest_child(&digest, &changes_of(&edits)).expect("child").digest;
        let expected = changed(&parent, &edits);
        copy(&left, &right, &child);
        prop_assert_eq!(&whole(&right.disk(&child).expect("disk")), expected.as_bytes());
        prop_assert!(right.verify(&child).expect("verify").is_sound());
        // And from there to a third one, and back to one that has all of it.
        let empty = memory_store();
        copy(&right, &empty, &child);
        prop_assert!(empty.verify(&child).expect("verify").is_sound());
        let (back, _) = copy(&right, &left, &child);
        prop_assert_eq!(back.frame_bytes, 0);
    }
}
