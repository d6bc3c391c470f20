//! Encryption: what is readable without keys, what is not, and that no key meets two plaintexts.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Arc, Mutex};

use disk::{DiskDigest, MemDisk};
use proptest::prelude::*;
use store::fuzzing::{seal_of_root, seals_of_pack};
use store::keys::FakeKeys;
use store::place::{Entry, MemoryPlace, Place};
use store::{Collect, Domain, KeyFile, KeyState, Keys, Store, StoreError, StoreOptions};

use crate::{block, changed, changes_of, disk_of, options, seeds, whole};

/// Remembers every pack and root that was ever written.
#[derive(Clone, Default)]
struct Remembering {
    inner: MemoryPlace,
    written: Arc<Mutex<Vec<Written>>>,
}

/// A file's name and what was in it.
type Written = (String, Vec<u8>);

impl Place for Remembering {
    fn put(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let entry = (name.to_owned(), bytes.to_vec());
        self.written.lock().expect("no panic").push(entry);
        self.inner.put(name, bytes)
    }
    fn get_range(&self, name: &str, offset: u64, len: usize) -> io::Result<Vec<u8>> {
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

/// A store, what it must hold, and its key service.
struct Site {
    place: Remembering,
    keys: Arc<FakeKeys>,
    domain: Domain,
    store: Store,
    disks: BTreeMap<String, (DiskDigest, MemDisk)>,
    erased: bool,
}

impl Site {
    fn new(secret: u8) -> Site {
        let place = Remembering::default();
        let keys = Arc::new(FakeKeys::default());
        let domain = Domain::from_secret([secret; 32]);
        let given = StoreOptions {
            keys: Keys::Service(keys.clone()),
            domain: Some(domain.clone()),
            ..options()
        };
        let store = Store::open_place(Box::new(place.clone()), given).expect("open");
        Site {
            place,
            keys,
            domain,
            store,
            disks: BTreeMap::new(),
            erased: false,
        }
    }

    /// As a process does that knows no secret but what the key service gives it.
    fn reopen(&mut self) {
        let options = StoreOptions {
            keys: Keys::Service(self.keys.clone()),
            domain: None,
            ..options()
        };
        self.store = Store::open_place(Box::new(self.place.clone()), options).expect("reopen");
    }

    fn keep(&mut self, digest: DiskDigest, disk: MemDisk) {
        self.disks.insert(digest.to_hex(), (digest, disk));
    }

    fn nth(&self, n: usize) -> Option<(DiskDigest, MemDisk)> {
        self.disks
            .values()
            .nth(n % self.disks.len().max(1))
            .cloned()
    }

    fn is_readable(&self) -> bool {
        self.store.domain().is_some()
    }

    /// What must be there is there, or says why it cannot be read now.
    fn check(&self) {
        assert_eq!(self.store.list().expect("list").len(), self.disks.len());
        for (digest, disk) in self.disks.values() {
            assert!(self.store.has(digest), "{digest} is not complete");
            match self.store.disk(digest) {
                Ok(stored) => assert_eq!(whole(&stored), disk.as_bytes()),
                Err(StoreError::Locked { .. }) => assert!(!self.is_readable()),
                Err(error) => panic!("{digest}: {error}"),
            }
        }
        assert_eq!(self.store.scrub().expect("scrub"), []);
    }

    /// Adds every key that was ever used here, and holds it against what it sealed elsewhere.
    fn add_seals(&self, seen: &mut HashMap<[u8; 32], [u8; 32]>) {
        for (name, bytes) in self.place.written.lock().expect("no panic").iter() {
            let seals = match name.split('/').next() {
                Some("packs") => seals_of_pack(name, bytes, &self.domain).expect("a pack"),
                Some("manifests") => vec![seal_of_root(bytes, &self.domain).expect("a root")],
                _ => continue,
            };
            for (key, plain) in seals {
                assert_eq!(
                    *seen.entry(key).or_insert(plain),
                    plain,
                    "{name}: a key twice"
                );
            }
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Ingest(usize, Vec<u32>),
    Child(usize, usize, Vec<(u64, u32)>),
    /// From one site to another, which may be of another domain.
    Replicate(usize, usize, usize),
    Delete(usize, usize),
    Collect(usize),
    Rotate(usize),
    LoseKeys(usize),
    FindKeys(usize),
    Reopen(usize),
    /// The tenant whose domain is its own is gone.
    Erase,
}

const SITES: usize = 3;
/// The site that is a domain of its own.
const TENANT: usize = 2;

fn step() -> impl Strategy<Value = Step> {
    let site = 0..SITES;
    let edits = prop::collection::vec((0..100u64, 0..5000u32), 1..6);
    prop_oneof![
        4 => (site.clone(), seeds()).prop_map(|(at, seeds)| Step::Ingest(at, seeds)),
        3 => (site.clone(), 0..9usize, edits).prop_map(|(at, n, edits)| Step::Child(at, n, edits)),
        4 => (site.clone(), site.clone(), 0..9usize)
            .prop_map(|(from, to, n)| Step::Replicate(from, to, n)),
        3 => (site.clone(), 0..9usize).prop_map(|(at, n)| Step::Delete(at, n)),
        3 => site.clone().prop_map(Step::Collect),
        1 => site.clone().prop_map(Step::Rotate),
        1 => site.clone().prop_map(Step::LoseKeys),
        2 => site.clone().prop_map(Step::FindKeys),
        2 => site.prop_map(Step::Reopen),
        1 => Just(Step::Erase),
    ]
}

fn apply(sites: &mut [Site; SITES], step: &Step) {
    match step {
        Step::Ingest(at, seeds) => {
            let site = &mut sites[*at];
            let disk = disk_of(seeds, 0);
            match site.store.ingest(&disk) {
                Ok(taken) => site.keep(taken.digest, disk),
                Err(error) => assert!(!site.is_readable(), "{error}"),
            }
        }
        Step::Child(at, n, edits) => {
            let site = &mut sites[*at];
            let Some((digest, parent)) = site.nth(*n) else {
                return;
            };
            let mut edits = edits.clone();
            edits.retain(|(block, _)| *block < (parent.as_bytes().len() / 4096) as u64);
            match site.store.ingest_child(&digest, &changes_of(&edits)) {
                Ok(taken) => site.keep(taken.digest, changed(&parent, &edits)),
                Err(error) => assert!(!site.is_readable(), "{error}"),
            }
        }
        Step::Replicate(from, to, n) => {
            let Some((digest, disk)) = sites[*from].nth(*n) else {
                return;
            };
            let readable = sites[*from].is_readable() && sites[*to].is_readable();
            match Store::replicate(&sites[*from].store, &sites[*to].store, &digest, &|_| ()) {
                Ok(_) => sites[*to].keep(digest, disk),
                Err(error) => assert!(!readable, "{error}"),
            }
        }
        Step::Delete(at, n) => {
            let site = &mut sites[*at];
            if let Some((digest, _)) = site.nth(*n) {
                assert!(site.store.delete(&digest).expect("delete"));
                site.disks.remove(&digest.to_hex());
            }
        }
        Step::Collect(at) => {
            let when = Collect { now: 5, grace: 0 };
            sites[*at]
                .store
                .collect(when)
                .expect("collect needs no key");
        }
        Step::Rotate(at) => {
            let site = &sites[*at];
            match site.store.rewrap(&*site.keys) {
                Ok(()) => {}
                Err(StoreError::Locked { .. } | StoreError::Keys(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
        Step::LoseKeys(at) => sites[*at].keys.set_away(true),
        Step::FindKeys(at) => {
            let site = &sites[*at];
            site.keys.set_away(false);
            assert_eq!(site.store.unlock().expect("unlock"), !site.erased);
        }
        Step::Reopen(at) => sites[*at].reopen(),
        Step::Erase => {
            let tenant = &mut sites[TENANT];
            tenant.store.erase().expect("erase");
            tenant.erased = true;
            assert!(!tenant.is_readable());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn no_key_meets_two_plaintexts_and_nothing_live_is_lost(
        steps in prop::collection::vec(step(), 1..24),
    ) {
        // Two places of one domain, and a tenant who is a domain of its own.
        let mut sites = [Site::new(1), Site::new(1), Site::new(2)];
        for step in &steps {
            apply(&mut sites, step);
            sites.iter().for_each(Site::check);
        }
        for site in &mut sites {
            site.keys.set_away(false);
            site.reopen();
            prop_assert_eq!(site.is_readable(), !site.erased);
            site.check();
        }
        let mut seen = HashMap::new();
        sites.iter().for_each(|site| site.add_seals(&mut seen));
    }
}

#[test]
fn nothing_of_a_disk_is_in_an_encrypted_store() {
    let site = Site::new(1);
    // Noise that no compression hides.
    let disk = disk_of(&[4, 8, 12, 16], 0);
    site.store.ingest(&disk).expect("ingest");
    let marks: Vec<Vec<u8>> = [4, 8].map(|seed| block(seed)[100..132].to_vec()).to_vec();
    let open = Store::open_place(
        Box::new(MemoryPlace::new()),
        StoreOptions {
            keys: Keys::Off,
            ..options()
        },
    );
    assert!(open.expect("open").ingest(&disk).is_ok());
    for (name, bytes) in site.place.written.lock().expect("no panic").iter() {
        for mark in &marks {
            let found = bytes.windows(mark.len()).any(|part| part == mark);
            assert!(!found, "{name} tells");
        }
        let secret = bytes.windows(32).any(|part| part == [1; 32]);
        assert!(!secret, "{name} holds the secret");
    }
}

#[test]
fn a_lost_key_file_is_helped_by_the_exported_secret_and_by_nothing_after_erasing() {
    let folder = tempfile::tempdir().expect("folder");
    let (at, path) = (folder.path().join("store"), folder.path().join("one.key"));
    let open = |keys: Keys| {
        let options = StoreOptions {
            keys,
            domain: None,
            ..options()
        };
        Store::open(&at, options).expect("open")
    };
    assert!(matches!(
        Store::open(&at, StoreOptions::default()),
        Err(StoreError::NoKeys)
    ));
    let keys = Arc::new(KeyFile::create(&path).expect("create"));
    let store = open(Keys::Service(keys.clone()));
    let digest = store
        .ingest(&disk_of(&[1, 2, 3], 0))
        .expect("ingest")
        .digest;
    let secret = store.domain().expect("open");
    assert_eq!(
        store.key_info().expect("info").state,
        KeyState::Wrapped {
            service: "key file".into()
        }
    );

    // Rotation: the old key opens nothing once it is dropped from the file.
    keys.rotate().expect("rotate");
    store.rewrap(&*keys).expect("rewrap");
    keys.drop_old().expect("drop");
    drop(store);
    let store = open(Keys::Service(Arc::new(KeyFile::load(&path).expect("load"))));
    assert!(store.verify(&digest).expect("verify").is_sound());
    assert_eq!(store.key_info().expect("info").generation, 2);
    drop(store);

    std::fs::remove_file(&path).expect("lose the key");
    let other = Arc::new(KeyFile::create(&path).expect("another key"));
    let store = open(Keys::Service(other.clone()));
    assert!(matches!(
        store.disk(&digest),
        Err(StoreError::Locked { .. })
    ));
    assert!(matches!(
        store.restore(&Domain::random(), &*other),
        Err(StoreError::WrongSecret)
    ));
    store.restore(&secret, &*other).expect("restore");
    assert!(store.verify(&digest).expect("verify").is_sound());

    let disk = store.disk(&digest).expect("disk");
    store.erase().expect("erase");
    assert!(matches!(
        store.disk(&digest),
        Err(StoreError::Locked { .. })
    ));
    let mut one = [0; 1];
    assert!(
        disk::ReadAt::read_at(&disk, 0, &mut one).is_err(),
        "opened before"
    );
    assert!(store.restore(&secret, &*other).is_err());
    assert!(!store.unlock().expect("unlock"));
    drop((disk, store));
    assert!(open(Keys::Service(other)).domain().is_none());
}
