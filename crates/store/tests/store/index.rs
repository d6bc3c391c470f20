//! A store of which more would have to be known than there is memory for: it finds all that it
//! holds, within its limit, and whatever becomes of what it noted.

use std::sync::Arc;

use disk::{DiskDigest, MemDisk};
use store::place::{Folder, MemoryPlace, Place};
use store::simulate::{Run, Simulation};
use store::{Collect, Store, StoreError, StoreOptions};

use crate::{changed, changes_of, disk_of, options, whole};

/// Room for some 400 blocks.
const TINY: u64 = 64 << 10;
const DISKS: u32 = 24;
const BLOCKS: u32 = 120;
const NOTE: &str = "index.bullion";

fn tiny(place: &MemoryPlace) -> Result<Store, StoreError> {
    let options = StoreOptions {
        index_bytes: TINY,
        ..options()
    };
    Store::open_place(Box::new(place.clone()), options)
}

/// Each has blocks of its own, and some of the one before.
fn disk(number: u32) -> MemDisk {
    let first = 1000 * number;
    let own = first..first + BLOCKS;
    let shared = first.saturating_sub(1000)..first.saturating_sub(1000) + BLOCKS / 4;
    let seeds: Vec<u32> = own.chain(shared).map(|seed| seed * 4 + 4).collect();
    disk_of(&seeds, 0)
}

fn filled(place: &MemoryPlace) -> (Store, Vec<DiskDigest>) {
    let store = tiny(place).expect("open");
    let digests = (0..DISKS).map(|number| store.ingest(&disk(number)).expect("ingest").digest);
    let digests = digests.collect();
    (store, digests)
}

fn check_all(store: &Store, digests: &[DiskDigest]) {
    for (number, digest) in (0..).zip(digests) {
        assert!(store.has(digest), "disk {number}");
        let stored = store.disk(digest).expect("open the disk");
        assert_eq!(whole(&stored), whole(&disk(number)), "disk {number}");
    }
    assert!(store.scrub().expect("scrub").is_empty());
}

#[test]
fn all_disks_are_found_though_few_packs_are_known() {
    let place = MemoryPlace::new();
    let (store, digests) = filled(&place);
    let known = store.index_use();
    assert_eq!(known.packs, u64::from(DISKS));
    assert!(known.known_packs < known.packs / 2, "{known:?}");
    assert!(known.runs > 0, "{known:?}");
    check_all(&store, &digests);

    let usage = store.usage().expect("usage");
    drop(store);
    let store = tiny(&place).expect("open");
    assert_eq!(store.index_use().packs, known.packs);
    assert_eq!(store.usage().expect("usage"), usage);
    check_all(&store, &digests);
    // What is there is not stored again where the disk says where most of it is.
    let parent = disk(3);
    let edits = [(7, 5), (8, 9)];
    let child = store.ingest_child(&digests[3], &changes_of(&edits));
    let child = child.expect("ingest a child");
    assert_eq!(child.new_bytes, 2 * 4096);
    let stored = store.disk(&child.digest).expect("open the child");
    assert_eq!(whole(&stored), whole(&changed(&parent, &edits)));

    let other = Store::open_place(Box::new(MemoryPlace::new()), options()).expect("open");
    for digest in &digests {
        Store::replicate(&store, &other, digest, &|_| ()).expect("replicate");
    }
    check_all(&other, &digests);
}

#[test]
fn what_is_deleted_goes_and_nothing_else() {
    let place = MemoryPlace::new();
    let (store, digests) = filled(&place);
    let (gone, kept) = digests.split_at(DISKS as usize / 2);
    for digest in gone {
        store.delete(digest).expect("delete");
    }
    let now = Collect { now: 5, grace: 0 };
    let done = store.collect(now).expect("collect");
    assert!(done.removed_packs > 0, "{done:?}");
    let again = store.collect(now).expect("collect again");
    assert_eq!(again.removed_packs, 0, "{again:?}");
    for store in [store, tiny(&place).expect("open")] {
        for (digest, number) in kept.iter().zip(DISKS / 2..) {
            assert!(store.has(digest), "disk {number}");
            let stored = store.disk(digest).expect("open the disk");
            assert_eq!(whole(&stored), whole(&disk(number)), "disk {number}");
        }
    }
}

#[test]
fn what_was_noted_may_be_lost_or_damaged() {
    let place = MemoryPlace::new();
    let (store, digests) = filled(&place);
    drop(store);
    let noted: Vec<String> = place
        .list("index")
        .expect("list")
        .into_iter()
        .map(|entry| entry.name)
        .collect();
    assert!(noted.len() >= 3, "{noted:?}");
    for name in &noted {
        let lost = place.snapshot();
        lost.delete(name).expect("delete");
        check_all(&tiny(&lost).expect("open"), &digests);

        let bytes = place.size(name).expect("size").expect("it is there");
        for at in [0, 9, bytes / 2, bytes - 40, bytes - 1] {
            let damaged = place.snapshot();
            damaged.tamper(name, |bytes| bytes[at as usize] ^= 4);
            // A page is only read when it is needed; then the store says so, once.
            let store = tiny(&damaged).expect("open");
            let complained = !digests.iter().all(|digest| store.has(digest));
            drop(store);
            if complained {
                assert_eq!(damaged.size(NOTE).expect("size"), None, "{name} at {at}");
            }
            check_all(&tiny(&damaged).expect("open again"), &digests);
        }
    }
    // And all of it is noted for fewer packs than there are now.
    let without = place.snapshot();
    let pack = &without.list("packs/").expect("list")[4].name;
    without.delete(pack).expect("delete");
    let store = tiny(&without).expect("open");
    let there = digests.iter().filter(|digest| store.has(digest)).count();
    assert!(there < digests.len() && there > 0);
}

#[test]
fn a_small_store_notes_nothing() {
    let place = MemoryPlace::new();
    let store = Store::open_place(Box::new(place.clone()), options()).expect("open");
    for number in 0..DISKS {
        store.ingest(&disk(number)).expect("ingest");
    }
    assert_eq!(place.list("index").expect("list"), []);
    let known = store.index_use();
    assert_eq!(known.packs, known.known_packs);
}

/// 12 GiB of distinct blocks: more than a thousandth of 10 TiB.
#[test]
fn the_index_stays_within_its_limit() {
    let check = |limit: u64, packs: u64| {
        let mut simulation = Simulation::new(limit).expect("new");
        let count = Simulation::blocks_in_pack();
        let mut most = 0;
        for pack in 0..packs {
            let first = pack * count;
            simulation.ingest(&[Run { first, count }]).expect("ingest");
            most = most.max(simulation.index_use().bytes);
        }
        assert!(most <= limit, "{most} bytes of {limit}");
        for pack in (0..packs).step_by(7) {
            assert!(simulation.finds(pack, 100).expect("find"), "pack {pack}");
            assert!(simulation.finds_nothing(pack).expect("find"));
        }
        assert!(simulation.index_use().bytes <= limit);
        let mut simulation = simulation.reopen(limit).expect("reopen");
        let known = simulation.index_use();
        assert!(known.bytes <= limit, "{known:?}");
        assert_eq!(known.packs, packs);
        for pack in (0..packs).step_by(7) {
            assert!(simulation.finds(pack, 327).expect("find"), "pack {pack}");
        }
        // All of it is there, and hooks lead to most of it.
        let again = Run {
            first: 0,
            count: 40 * count,
        };
        let looked = simulation.ingest(&[again]).expect("ingest again");
        assert!(looked.stored * 50 < looked.blocks, "{looked:?}");
    };
    check(8 << 20, 600);
    check(16 << 20, 600);
}

/// Disks whose blocks are as good as drawn.
struct Drawn {
    state: u64,
    /// Blocks that were ever made.
    fresh: u64,
}

impl Drawn {
    const RUNS: usize = 4096;
    /// Runs that stay together.
    const PIECE: usize = 64;

    fn below(&mut self, most: usize) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state % most as u64) as usize
    }

    fn run(&mut self) -> Run {
        let (first, count) = (self.fresh, 1 + self.below(33) as u64);
        self.fresh += count;
        Run { first, count }
    }

    /// A quarter is new, and the rest lies elsewhere; all of the first one is new.
    fn next(&mut self, disk: &mut Vec<Run>) {
        if disk.is_empty() {
            disk.extend((0..Self::RUNS).map(|_| self.run()));
            return;
        }
        for run in disk.iter_mut() {
            if self.below(4) == 0 {
                *run = self.run();
            }
        }
        for piece in 0..Self::RUNS / Self::PIECE {
            let other = self.below(Self::RUNS / Self::PIECE);
            for at in 0..Self::PIECE {
                disk.swap(piece * Self::PIECE + at, other * Self::PIECE + at);
            }
        }
    }
}

/// Disks of several families in turn lie in more packs than are in memory at once, while those that hooks lead to would fit:
/// what no hook leads to is found in packs that were of use before.
#[test]
fn what_no_hook_leads_to_is_found_in_packs_that_had_to_go() {
    let check = |limit: u64| {
        let mut simulation = Simulation::new(limit).expect("new");
        let mut drawn = Drawn {
            state: 88172645463325252,
            fresh: 0,
        };
        let mut families = [const { Vec::new() }; 3];
        let (mut looked, mut stored) = (0, 0);
        for version in 0..24 {
            let disk = &mut families[version % 3];
            drawn.next(disk);
            let done = simulation.ingest(disk).expect("ingest");
            (looked, stored) = (looked + done.blocks, stored + done.stored);
        }
        // With hooks alone it was 6.5 and 2.5 of a hundred.
        let (lost, found) = (stored - drawn.fresh, looked - drawn.fresh);
        assert!(lost * 200 < found, "{limit}: {lost} of {found}");
    };
    check(8 << 20);
    check(16 << 20);
}

/// Set in the process of its own that a test starts itself in.
const ALONE: &str = "BULLION_TEST_ALONE";

/// What the tables say is not all that a process takes: it is asked of the machine, of a process that does nothing else.
#[tokio::test]
async fn the_whole_process_stays_within_the_limit() {
    let limit = 24 << 20;
    if std::env::var_os(ALONE).is_some() {
        // 40 GiB: half of the room is names, filters and what is merged.
        return fill_within(limit, 2000);
    }
    let own = std::env::current_exe().expect("this test");
    let name = "index::the_whole_process_stays_within_the_limit";
    let run = process::Command::new(own)
        .args(["--exact", name, "--nocapture"])
        .env(ALONE, "1");
    let done = run.run().await;
    done.unwrap_or_else(|error| panic!("{error}"));
}

fn fill_within(limit: u64, packs: u64) {
    let folder = tempfile::tempdir().expect("a folder");
    let noted = Arc::new(Folder::open(folder.path()).expect("a folder"));
    let mut simulation = Simulation::noting_in(noted, limit).expect("new");
    let before = memory("VmRSS:");
    simulation.fill(packs);
    for pack in (0..packs).step_by(40) {
        assert!(simulation.finds(pack, 100).expect("find"), "pack {pack}");
    }
    let known = simulation.index_use();
    assert!(
        known.bytes <= limit && known.least_bytes <= limit,
        "{known:?}"
    );
    let most = memory("VmHWM:") - before;
    assert!(most <= limit, "{most} bytes of {limit}: {known:?}");
    let simulation = simulation.reopen(limit).expect("reopen");
    assert_eq!(simulation.index_use().packs, packs);
    let most = memory("VmHWM:") - before;
    assert!(most <= limit, "{most} bytes of {limit}, opened again");
}

/// A line of what the machine says of this process, in bytes.
fn memory(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.expect(name).trim().trim_end_matches(" kB");
    kib.parse::<u64>().expect("a number") << 10
}

#[test]
fn a_limit_that_is_too_low_for_the_names_of_packs_is_told_and_all_is_found() {
    let (limit, packs, a_pack) = (96 << 10, 800, 256 << 10);
    let mut simulation = Simulation::new(limit).expect("new");
    simulation.fill(100);
    let known = simulation.index_use();
    assert!(known.least_bytes <= limit, "{known:?}");
    simulation.fill(packs - 100);
    let known = simulation.index_use();
    assert!(known.least_bytes > limit, "{known:?}");
    // Nothing is beyond it but what must be, and the pack that was taken up last.
    assert!(known.bytes <= known.least_bytes + a_pack, "{known:?}");
    for pack in (0..packs).step_by(100) {
        assert!(simulation.finds(pack, 327).expect("find"), "pack {pack}");
    }
    let limit = known.least_bytes + 2 * a_pack;
    let simulation = simulation.reopen(limit).expect("reopen");
    let known = simulation.index_use();
    assert!(
        known.bytes <= limit && known.least_bytes <= limit,
        "{known:?}"
    );
}
