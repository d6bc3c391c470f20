//! Object stores as places: what they promise, and what a store makes of one that misbehaves.

mod real;
mod server;

use std::io::{ErrorKind, Write};
use std::time::Duration;

use disk::MemDisk;
use store::place::{At, Limits, Place};
use store::{Collect, Store, StoreError};
use tempfile::NamedTempFile;

use crate::{disk_of, options, whole};
use server::{Server, Trouble};

/// Troubles are meant, so little time passes between tries; but a busy machine is none, so an answer
/// may take as long as it does outside of tests.
const QUICK: Limits = Limits {
    request: Duration::from_secs(60),
    connect: Duration::from_secs(60),
    retries: 2,
    first_backoff: Duration::from_millis(1),
    last_backoff: Duration::from_millis(2),
    at_once: 16,
    beat: Duration::from_millis(20),
};

/// For a server that never answers, where a test waits for just this to pass.
const HASTY: Limits = Limits {
    request: Duration::from_secs(2),
    ..QUICK
};

struct World {
    server: Server,
    keys: NamedTempFile,
}

impl World {
    fn new() -> World {
        let mut keys = NamedTempFile::new().expect("a file");
        write!(
            keys,
            "# for tests\nAWS_ACCESS_KEY_ID=me\nAWS_SECRET_ACCESS_KEY = it\n"
        )
        .expect("write");
        World {
            server: Server::start(),
            keys,
        }
    }

    fn at(&self) -> At {
        let (endpoint, keys) = (self.server.endpoint(), self.keys.path().display());
        let at = format!("s3://bucket/some/where?endpoint={endpoint}&region=r&credentials={keys}");
        at.parse().expect("an address")
    }

    fn place(&self) -> Box<dyn Place> {
        self.at().open_with(QUICK).expect("open")
    }

    fn store(&self) -> Store {
        self.store_within(QUICK)
    }

    fn store_within(&self, limits: Limits) -> Store {
        let place = self.at().open_with(limits).expect("open");
        Store::open_place(place, options()).expect("open a store")
    }

    /// The pack that was written first.
    fn pack(&self) -> String {
        let names = self.server.names();
        names
            .into_iter()
            .find(|name| name.contains("/packs/"))
            .expect("a pack")
    }
}

/// More than one pack, and longer than what goes in one request.
fn big() -> MemDisk {
    disk_of(&(1..=2300).map(|seed| seed * 4).collect::<Vec<_>>(), 5)
}

#[test]
fn an_object_store_is_a_place() {
    let world = World::new();
    crate::places::check(&*world.place());
    world.server.trouble(Some(Trouble::IgnoresConditions));
    let place = world.place();
    place.delete("other").expect("delete");
    place.delete("packs/b.pack").expect("delete");
    crate::places::check(&*place);
    for name in ["", "..", "a/../b", ".claim", "a//b", "A"] {
        assert!(place.put(name, b"x").is_err(), "{name:?} was taken");
    }
}

#[test]
fn a_store_lives_in_an_object_store() {
    let world = World::new();
    lives(&world.at(), QUICK);
    assert_eq!(world.server.uploads(), 0, "no upload is left open");
    assert!(
        !world.server.names().iter().any(|name| name.contains("/.")),
        "nothing is left beside it"
    );
}

fn lives(at: &At, limits: Limits) {
    let open =
        || Store::open_place(at.open_with(limits).expect("open"), options()).expect("open a store");
    let (first, second) = (big(), disk_of(&[1, 2, 3, 4, 5], 0));
    let store = open();
    let digest = store.ingest(&first).expect("ingest").digest;
    let other = store.ingest(&second).expect("ingest").digest;
    drop(store);
    let store = open();
    assert_eq!(whole(&store.disk(&digest).expect("disk")), first.as_bytes());
    assert!(store.verify(&digest).expect("verify").is_sound());
    let memory = crate::memory_store();
    Store::replicate(&store, &memory, &digest, &|_| ()).expect("replicate");
    assert_eq!(
        whole(&memory.disk(&digest).expect("disk")),
        first.as_bytes()
    );
    store.delete(&digest).expect("delete");
    let before = store.usage().expect("usage").pack_bytes;
    for now in [100, 200] {
        store.collect(Collect { now, grace: 50 }).expect("collect");
    }
    assert!(
        store.usage().expect("usage").pack_bytes < before / 100,
        "the room is given back"
    );
    drop(store);
    assert_eq!(
        whole(&open().disk(&other).expect("disk")),
        second.as_bytes()
    );
}

#[test]
fn what_passes_is_tried_again() {
    for trouble in [
        Trouble::Says(500, "InternalError"),
        Trouble::Says(503, "SlowDown"),
        Trouble::HalfBody,
    ] {
        let world = World::new();
        let disk = big();
        let store = world.store();
        let digest = store.ingest(&disk).expect("ingest").digest;
        world.server.trouble_for(Some(trouble), 2);
        assert_eq!(
            whole(&store.disk(&digest).expect("disk")),
            disk.as_bytes(),
            "{trouble:?}"
        );
        world.server.trouble_for(Some(trouble), 2);
        let small = disk_of(&[9, 9, 8], 0);
        let digest = store.ingest(&small).expect("ingest").digest;
        assert_eq!(
            whole(&store.disk(&digest).expect("disk")),
            small.as_bytes(),
            "{trouble:?}"
        );
    }
}

/// A trouble that stays: an error that names the store and gives advice, and afterwards everything
/// is as it was.
fn check(trouble: Trouble, kind: ErrorKind, advice: &str) {
    let world = World::new();
    let (held, disk) = (disk_of(&[1, 2, 3], 0), big());
    let limits = match trouble {
        Trouble::Silent => HASTY,
        _ => QUICK,
    };
    let digest = world.store().ingest(&held).expect("ingest").digest;
    let store = world.store_within(limits);
    world.server.trouble(Some(trouble));
    let error = store.ingest(&disk).expect_err("the trouble is seen");
    let source = match &error {
        StoreError::Put { source, .. } | StoreError::Get { source, .. } => source,
        other => panic!("{trouble:?}: {other:?}"),
    };
    assert_eq!(source.kind(), kind, "{trouble:?}: {source:?}");
    let told = source.to_string();
    assert!(
        told.contains("s3://bucket/some/where"),
        "{trouble:?}: {told}"
    );
    assert!(told.contains(advice), "{trouble:?}: {told}");
    world.server.trouble(None);
    let store = match trouble {
        // Which had little time only to see the trouble.
        Trouble::Silent => {
            drop(store);
            world.store()
        }
        _ => store,
    };
    assert_eq!(whole(&store.disk(&digest).expect("disk")), held.as_bytes());
    let again = store.ingest(&disk).expect("it is done again").digest;
    assert_eq!(whole(&store.disk(&again).expect("disk")), disk.as_bytes());
}

#[test]
fn trouble_that_stays_is_told_with_the_store_and_what_to_do() {
    check(
        Trouble::Says(500, "InternalError"),
        ErrorKind::Other,
        "its own log",
    );
    check(
        Trouble::Says(503, "SlowDown"),
        ErrorKind::ResourceBusy,
        "tried again later",
    );
    check(
        Trouble::Says(403, "AccessDenied"),
        ErrorKind::PermissionDenied,
        "keys and rights",
    );
    check(
        Trouble::RefusesWrites(403, "AccessDenied"),
        ErrorKind::PermissionDenied,
        "keys and rights",
    );
    check(
        Trouble::RefusesWrites(507, "XMinioStorageFull"),
        ErrorKind::StorageFull,
        "make room",
    );
    check(Trouble::Silent, ErrorKind::TimedOut, "can be reached");
}

#[test]
fn half_a_body_is_never_taken_for_the_whole() {
    let world = World::new();
    let disk = big();
    let store = world.store();
    let digest = store.ingest(&disk).expect("ingest").digest;
    world.server.trouble(Some(Trouble::HalfBody));
    let read = store.disk(&digest).map(|disk| {
        let mut bytes = vec![0; disk::ReadAt::size(&disk) as usize];
        disk::ReadAt::read_at(&disk, 0, &mut bytes)
    });
    assert!(!matches!(read, Ok(Ok(()))), "{read:?}");
    world.server.trouble(None);
    assert_eq!(whole(&store.disk(&digest).expect("disk")), disk.as_bytes());
}

#[test]
fn a_flipped_bit_is_an_error() {
    let world = World::new();
    let store = world.store();
    let digest = store.ingest(&big()).expect("ingest").digest;
    world.server.change(&world.pack(), |bytes| bytes[1000] ^= 4);
    assert!(!store.verify(&digest).expect("verify").is_sound());
}

#[test]
fn a_stale_list_costs_no_disk() {
    let world = World::new();
    let (first, second) = (big(), disk_of(&[7, 8, 9], 0));
    let store = world.store();
    let digest = store.ingest(&first).expect("ingest").digest;
    // Old lists name packs that are gone, and lack the newest.
    world.server.trouble(Some(Trouble::StaleList));
    store.delete(&digest).expect("delete");
    let newest = store.ingest(&second).expect("ingest").digest;
    drop(store);
    let store = world.store();
    drop(store);
    world.server.trouble(None);
    let store = world.store();
    assert_eq!(
        whole(&store.disk(&newest).expect("disk")),
        second.as_bytes()
    );
    // A list from before the collection names packs that are gone.
    let digest = store.ingest(&first).expect("ingest").digest;
    store.delete(&digest).expect("delete");
    world.server.trouble(Some(Trouble::StaleList));
    for now in [100, 200] {
        store.collect(Collect { now, grace: 50 }).expect("collect");
    }
    drop(store);
    let store = world.store();
    // What was moved to a new pack is in a pack that the old list does not name.
    let read = store.disk(&newest);
    assert!(
        matches!(read, Err(StoreError::MissingFrame { .. })),
        "{read:?}"
    );
    world.server.trouble(None);
    assert_eq!(store.refresh().expect("refresh"), 1);
    assert_eq!(
        whole(&store.disk(&newest).expect("disk")),
        second.as_bytes()
    );
}

#[test]
fn a_prefix_belongs_to_one_process() {
    let world = World::new();
    let place = world.place();
    let second = world
        .at()
        .open_with(QUICK)
        .map(drop)
        .expect_err("it is taken");
    assert_eq!(second.kind(), ErrorKind::WouldBlock);
    drop(place);
    let place = world.place();
    // Another process that does not see this one takes it over: this one writes nothing more.
    let claim = "some/where/.claim";
    world.server.change(claim, |bytes| {
        *bytes = br#"{"owner":"other","host":"elsewhere","pid":1,"beats":0}"#.to_vec();
    });
    let mut refused = None;
    while refused.is_none() {
        refused = place.put("a", b"x").err();
    }
    let told = format!("{:?}", refused.expect("an error"));
    assert!(told.contains("took this store over"), "{told}");
    drop(place);
    assert!(
        world.server.names().iter().any(|name| name == claim),
        "the claim of another stays"
    );
    // Its owner is silent, so the prefix is free again.
    drop(world.place());
}

#[test]
fn a_server_that_is_not_there_is_an_error_at_the_start() {
    let at: At = "s3://bucket?endpoint=http://127.0.0.1:1&region=r&credentials=/dev/null"
        .parse()
        .expect("an address");
    let error = at.open_with(QUICK).map(drop).expect_err("nobody listens");
    assert!(error.to_string().contains("s3://bucket"), "{error}");
}
