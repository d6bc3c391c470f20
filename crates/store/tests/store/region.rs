//! Regions: where disks go, and how reads, repairs and returns of stores work.

use std::sync::Arc;

use disk::{DiskDigest, MemDisk};
use store::place::{MemoryPlace, Place};
use store::region::{Kind, Member, PlacementError, Position, Region, Unlimited, Want};
use store::{Collect, FrameCache, FrameSource, Store, TraceRecorder};

use crate::{disk_of, store_in, whole};

/// A region of stores in memory: zone, name and label of each.
struct World {
    region: Region,
    places: Vec<MemoryPlace>,
}

type Layout<'a> = &'a [(&'a str, &'a str, bool)];

const THREE: Layout<'static> = &[("1", "a", false), ("2", "a", false), ("3", "a", false)];

impl World {
    fn new(layout: Layout) -> World {
        let region = Region::new("north");
        let mut places = Vec::new();
        for (zone, name, premium) in layout {
            let place = MemoryPlace::new();
            region.add(Member::open(zone, name, *premium, store_in(place.clone())));
            places.push(place);
        }
        World { region, places }
    }

    fn member(&self, number: usize) -> Arc<Member> {
        Arc::clone(&self.region.members()[number])
    }

    fn store(&self, number: usize) -> Store {
        self.member(number).store().expect("a store")
    }

    /// The disk in the stores that shall have it; answers how many.
    fn spread(&self, disk: &MemDisk, want: Want) -> usize {
        let digest = self.store(0).ingest(disk).expect("ingest").digest;
        let placement = self.region.place(&digest, want).expect("a placement");
        let brought = self.region.bring(&digest, &placement, &[], &Unlimited);
        assert!(brought.failed.is_empty(), "{:?}", brought.failed);
        self.region.holders(&digest).len()
    }
}

fn zrs() -> Want {
    Want::new(Kind::StandardZrs, 1)
}

fn some_disk() -> MemDisk {
    disk_of(&(1..200).collect::<Vec<_>>(), 7)
}

#[test]
fn replicas_get_stores_of_their_own_first_and_share_them_then() {
    let layout: Layout = &[
        ("1", "a", false),
        ("1", "b", true),
        ("1", "c", true),
        ("2", "a", false),
        ("3", "a", false),
    ];
    let check = |kind, replicas, expected: Result<(&[usize], u32), PlacementError>| {
        let world = World::new(layout);
        let digest = world.store(0).ingest(&some_disk()).expect("ingest").digest;
        let placed = world.region.place(&digest, Want::new(kind, replicas));
        let placed = placed.map(|placement| {
            let number = |member: &Arc<Member>| {
                let members = world.region.members();
                let is = |other: &Arc<Member>| Arc::ptr_eq(other, member);
                members.iter().position(is).expect("a member")
            };
            let stores: Vec<usize> = placement.members.iter().map(number).collect();
            (stores, placement.shared)
        });
        let expected = expected.map(|(stores, shared)| (stores.to_vec(), shared));
        assert_eq!(placed, expected, "{kind:?} {replicas}");
    };
    check(Kind::StandardLrs, 1, Ok((&[0], 0)));
    check(Kind::StandardLrs, 2, Ok((&[0, 1], 0)));
    check(Kind::StandardLrs, 5, Ok((&[0, 1, 2], 2)));
    check(Kind::PremiumLrs, 1, Ok((&[1], 0)));
    check(Kind::PremiumLrs, 3, Ok((&[1, 2], 1)));
    check(Kind::StandardZrs, 1, Ok((&[0, 3, 4], 0)));
    check(Kind::StandardZrs, 2, Ok((&[0, 3, 4], 1)));
    let small = World::new(&[("1", "a", false), ("2", "a", false)]);
    let digest = small.store(0).ingest(&some_disk()).expect("ingest").digest;
    let refused = |kind| small.region.place(&digest, Want::new(kind, 1)).map(drop);
    assert_eq!(
        refused(Kind::StandardZrs),
        Err(PlacementError::ZonesMissing { zones: 2 })
    );
    assert_eq!(
        refused(Kind::PremiumLrs),
        Err(PlacementError::PremiumMissing)
    );
}

#[test]
fn a_read_goes_on_in_another_zone_and_repairs_the_first() {
    let world = World::new(THREE);
    let disk = some_disk();
    assert_eq!(world.spread(&disk, zrs()), 3);
    let digest = world.store(0).list().expect("list")[0].digest;
    // Every zone but the last is damaged: one lost its packs, one has a flipped bit in each.
    for pack in world.places[0].list("packs/").expect("list") {
        world.places[0].delete(&pack.name).expect("lose");
    }
    for pack in world.places[1].list("packs/").expect("list") {
        world.places[1].tamper(&pack.name, |bytes| bytes[100] ^= 1);
    }
    for _ in 0..3 {
        // Readers begin at another store each time.
        let cache = Arc::new(FrameCache::new(1 << 20));
        let read = world.region.disk(&digest, &[], &cache).expect("a disk");
        assert_eq!(whole(&read), disk.as_bytes());
    }
    let sound = |number| {
        let report = world.store(number).verify(&digest);
        report.is_ok_and(|report| report.is_sound())
    };
    assert!(sound(1), "it was repaired by the reads");
    // A store that is known to lack something is not asked; the scrub fills it.
    let mut at = Position::default();
    while !world.region.scrub_step(&mut at, &[]).ended {}
    assert!((0..3).all(sound));
}

#[test]
fn a_boot_trace_is_kept_by_all_who_hold_the_disk_and_found_at_any() {
    let world = World::new(&[("1", "a", false), ("1", "b", false), ("1", "c", false)]);
    let disk = some_disk();
    assert_eq!(world.spread(&disk, Want::new(Kind::StandardLrs, 2)), 2);
    let digest = disk::digest_of(&disk).expect("digest").0;
    let traced = |offset| {
        let recorder = TraceRecorder::new();
        recorder.note(offset, 4096);
        recorder.trace()
    };
    world
        .region
        .keep_trace(&digest, &traced(8192))
        .expect("keep");
    world.region.keep_trace(&digest, &traced(0)).expect("keep");
    let both = traced(8192).and(&traced(0));
    for number in 0..3 {
        let store = world.store(number);
        let expected = store.has(&digest).then(|| both.clone());
        assert_eq!(store.trace(&digest), expected);
    }
    // Who holds the disk later has it, too, and so does who reads where one store has lost it.
    let three = Want::new(Kind::StandardLrs, 3);
    assert_eq!(world.spread(&disk, three), 3);
    assert_eq!(world.store(2).trace(&digest), Some(both.clone()));
    for place in &world.places[..2] {
        for entry in place.list("traces/").expect("list") {
            place.delete(&entry.name).expect("delete");
        }
    }
    for _ in 0..3 {
        let readers = world.region.readers(&digest, &[]);
        assert_eq!(FrameSource::trace(&readers, &digest), Some(both.clone()));
    }
    let unknown = DiskDigest::from_bytes([1; 32]);
    assert!(world.region.keep_trace(&unknown, &both).is_err());
}

#[test]
fn what_a_zone_missed_is_brought_when_it_returns() {
    let world = World::new(THREE);
    let disk = some_disk();
    let away = world.store(2);
    world.member(2).goes_away("the rack has no power");
    let digest = world.store(0).ingest(&disk).expect("ingest").digest;
    let placement = world.region.place(&digest, zrs()).expect("a placement");
    let brought = world.region.bring(&digest, &placement, &[], &Unlimited);
    let (member, why) = brought.failed.first().expect("one zone lacks it");
    assert_eq!(
        (member.shown().as_str(), why.as_str()),
        ("store a of zone 3", "the rack has no power")
    );
    assert_eq!(
        world.region.holders(&digest).len(),
        2,
        "the others did not wait"
    );
    world.member(2).comes_back(away);
    let placement = world.region.place(&digest, zrs()).expect("a placement");
    let brought = world.region.bring(&digest, &placement, &[], &Unlimited);
    assert!(brought.failed.is_empty());
    assert_eq!(world.region.holders(&digest).len(), 3);
    // Nothing moves twice.
    let again = world.region.bring(&digest, &placement, &[], &Unlimited);
    assert_eq!(again.moved.frames, 0);
}

#[test]
fn a_copy_is_withdrawn_only_when_what_stays_was_read() {
    let world = World::new(THREE);
    let disk = some_disk();
    world.spread(&disk, zrs());
    let digest = world.store(0).list().expect("list")[0].digest;
    for pack in world.places[0].list("packs/").expect("list") {
        world.places[0].tamper(&pack.name, |bytes| bytes[200] ^= 1);
    }
    let keep = [world.member(0)];
    let withdrawn = world
        .region
        .withdraw(&digest, &keep, &[])
        .expect("withdraw");
    assert_eq!(withdrawn, 2);
    let kept = world.store(0);
    assert_eq!(whole(&kept.disk(&digest).expect("disk")), disk.as_bytes());
    let gone = world.store(1);
    for now in [1_000, 2_000] {
        gone.collect(Collect { now, grace: 10 }).expect("collect");
    }
    assert_eq!(gone.usage().expect("usage").pack_bytes, 0);
}

#[test]
fn a_scrub_finds_and_repairs_damage_and_goes_on_where_it_was() {
    let world = World::new(THREE);
    let disk = some_disk();
    world.spread(&disk, zrs());
    let digest = world.store(0).list().expect("list")[0].digest;
    let pack = world.places[1].list("packs/").expect("list")[0]
        .name
        .clone();
    world.places[1].tamper(&pack, |bytes| bytes[300] ^= 8);
    let mut at = Position::default();
    let mut problems = Vec::new();
    loop {
        // As after a restart: the place is all that is known.
        let kept = format!("{at:?}");
        let found = world.region.scrub_step(&mut at, &[]);
        assert_ne!(kept, format!("{at:?}"), "each step gets on");
        problems.extend(found.problems);
        if found.ended {
            break;
        }
    }
    assert_eq!(at.rounds, 1);
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(
        problems[0].contains("1 frames were damaged, 1 came from other stores"),
        "{problems:?}"
    );
    assert!(world.store(1).verify(&digest).expect("verify").is_sound());
}
