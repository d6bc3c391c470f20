//! Tenants with keys of their own beside a domain that others share: random steps, held against a model.
//!
//! Whatever happens (blocks packed anew, copies between domains, keys rotated, lost and found, a tenant erased, sweeps, bundles),
//! no key seals two plaintexts, nothing that lives is lost, nothing that was erased can be read, and no block leaves in a
//! bundle that is not of its disk.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::num::NonZero;
use std::sync::{Arc, Mutex, PoisonError};

use disk::{BLOCK_SIZE, Changes, DiskDigest, MemDisk, ReadAt};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use store::fuzzing::{seal_of_root, seals_of_pack, unpacked};
use store::keys::FakeKeys;
use store::place::{Entry, MemoryPlace, Place};
use store::region::{Member, Position, Region, Unlimited, Want};
use store::{Collect, Domain, FrameCache, KeyState, Keys, Store, StoreOptions};

use crate::model::random_disk;

const STEPS: usize = 40;
const STEP_SECONDS: u64 = 60;
const GRACE: u64 = 3 * STEP_SECONDS;
const CACHE_BYTES: u64 = 1 << 20;
/// Stores of each domain, which lie beside each other.
const STORES: usize = 2;
/// What all share who have no key of their own, and tenants with one.
const SHARED: usize = 0;
const DOMAINS: usize = 3;
const SCRUB_STEPS: usize = 10_000;

/// What a run came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DomainReport {
    pub reads: u64,
    pub locked: u64,
    pub rotations: u64,
    pub erasures: u64,
    pub bundles: u64,
    pub collected: u64,
    pub seals: u64,
}

/// A file's name and what was in it.
type Written = (String, Vec<u8>);

/// Remembers every pack and root that was ever written, so that a key that is used again is seen even where what it
/// sealed first is gone.
#[derive(Clone, Default)]
struct Remembering {
    kept: MemoryPlace,
    written: Arc<Mutex<Vec<Written>>>,
}

impl Place for Remembering {
    fn put(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.push((name.to_owned(), bytes.to_vec()));
        self.kept.put(name, bytes)
    }

    fn get_range(&self, name: &str, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        self.kept.get_range(name, offset, len)
    }

    fn size(&self, name: &str) -> io::Result<Option<u64>> {
        self.kept.size(name)
    }

    fn list(&self, prefix: &str) -> io::Result<Vec<Entry>> {
        self.kept.list(prefix)
    }

    fn delete(&self, name: &str) -> io::Result<()> {
        self.kept.delete(name)
    }
}

/// One domain in one region, and what it must hold.
struct Site {
    region: Region,
    places: Vec<Remembering>,
    keys: Arc<FakeKeys>,
    /// Known to the test alone, to look into what was sealed.
    domain: Domain,
    disks: BTreeMap<DiskDigest, MemDisk>,
    scrub: Position,
    away: bool,
    erased: bool,
}

impl Site {
    fn new(name: &str, secret: u8) -> Site {
        let mut site = Site {
            region: Region::new(name),
            places: Vec::new(),
            keys: Arc::new(FakeKeys::default()),
            domain: Domain::from_secret([secret; 32]),
            disks: BTreeMap::new(),
            scrub: Position::default(),
            away: false,
            erased: false,
        };
        for zone in 0..STORES {
            let place = Remembering::default();
            let store = site.open(&place, Some(site.domain.clone()));
            site.region
                .add(Member::open(&zone.to_string(), Region::ONLY, false, store));
            site.places.push(place);
        }
        site
    }

    fn open(&self, place: &Remembering, domain: Option<Domain>) -> Store {
        let options = StoreOptions {
            threads: NonZero::<usize>::MIN,
            keys: Keys::Service(self.keys.clone()),
            domain,
            ..StoreOptions::default()
        };
        Store::open_place(Box::new(place.clone()), options).expect("a store opens, be it locked")
    }

    /// As a process does that knows no secret but what the key service gives it.
    fn reopen(&self) {
        for (member, place) in self.region.members().iter().zip(&self.places) {
            member.comes_back(self.open(place, None));
        }
    }

    fn is_readable(&self) -> bool {
        self.region
            .stores()
            .iter()
            .all(|store| store.domain().is_some())
    }

    fn content(&self, digest: &DiskDigest) -> Result<Vec<u8>, String> {
        let cache = Arc::new(FrameCache::new(CACHE_BYTES));
        let disk = self.region.disk(digest, &[], &cache);
        let disk = disk.map_err(|error| error.to_string())?;
        let mut bytes = vec![0; disk.size() as usize];
        disk.read_at(0, &mut bytes)
            .map_err(|error| error.to_string())?;
        Ok(bytes)
    }
}

struct World {
    rng: ChaCha8Rng,
    sites: Vec<Site>,
    now: u64,
    report: DomainReport,
}

/// One run. Panics, with the seed, where something is wrong.
pub fn run_domains(seed: u64) -> DomainReport {
    let sites = [("shared", 1), ("one", 2), ("two", 3)];
    let mut world = World {
        rng: ChaCha8Rng::seed_from_u64(seed),
        sites: sites.map(|(name, secret)| Site::new(name, secret)).into(),
        now: 1_000_000,
        report: DomainReport::default(),
    };
    for step in 0..STEPS {
        world.now += STEP_SECONDS;
        let at = format!("seed {seed}, step {step}");
        world.step(&at);
        world.check(&at);
    }
    world.settle(&format!("seed {seed}, at the end"));
    world.report
}

impl World {
    fn any(&mut self) -> usize {
        self.rng.random_range(0..DOMAINS)
    }

    fn any_disk(&mut self, site: usize) -> Option<(DiskDigest, MemDisk)> {
        let disks = &self.sites[site].disks;
        let at = self.rng.random_range(0..disks.len().max(1));
        let found = disks.iter().nth(at);
        found.map(|(digest, disk)| (*digest, disk.clone()))
    }

    fn step(&mut self, at: &str) {
        match self.rng.random_range(0..100) {
            0..18 => self.ingest(at),
            18..32 => self.child(at),
            32..50 => self.copy(at),
            50..60 => self.delete(at),
            60..70 => self.collect(at),
            70..75 => self.rotate(at),
            75..82 => self.keys_come_and_go(at),
            82..88 => self.scrub(at),
            88..95 => self.bundle(at),
            95..97 => self.erase(at),
            _ => {
                let site = self.any();
                self.sites[site].reopen();
            }
        }
    }

    fn ingest(&mut self, at: &str) {
        let (site, disk) = (self.any(), random_disk(&mut self.rng));
        let store = self.sites[site].region.stores().remove(0);
        match store.ingest(&disk) {
            Ok(taken) => drop(self.sites[site].disks.insert(taken.digest, disk)),
            Err(error) => assert!(!self.sites[site].is_readable(), "{at}: {error}"),
        }
    }

    /// A disk that differs a little: its new blocks come to lie in new frames.
    fn child(&mut self, at: &str) {
        let site = self.any();
        let Some((digest, parent)) = self.any_disk(site) else {
            return;
        };
        let mut bytes = parent.as_bytes().to_vec();
        if bytes.len() < BLOCK_SIZE {
            return;
        }
        let mut changes = Changes::new();
        for _ in 0..self.rng.random_range(1..4) {
            let block = self.rng.random_range(0..bytes.len() / BLOCK_SIZE);
            let content = [self.rng.random::<u8>(); BLOCK_SIZE];
            bytes[block * BLOCK_SIZE..][..BLOCK_SIZE].copy_from_slice(&content);
            changes.set(block as u64, &content);
        }
        let stores = self.sites[site].region.stores();
        let Some(store) = stores.iter().find(|store| store.has(&digest)) else {
            return;
        };
        match store.ingest_child(&digest, &changes) {
            Ok(taken) => {
                let disk = MemDisk::from(bytes);
                self.sites[site].disks.insert(taken.digest, disk);
            }
            Err(error) => assert!(!self.sites[site].is_readable(), "{at}: {error}"),
        }
    }

    /// Within a domain to its other store, or from one domain to another.
    fn copy(&mut self, at: &str) {
        let (from, to) = (self.any(), self.any());
        let Some((digest, disk)) = self.any_disk(from) else {
            return;
        };
        let readable = self.sites[from].is_readable() && self.sites[to].is_readable();
        let others = match from == to {
            true => Vec::new(),
            false => self.sites[from].region.stores(),
        };
        let site = &mut self.sites[to];
        let want = Want::new(Default::default(), self.rng.random_range(1..3));
        let placement = site.region.place(&digest, want).expect("a place");
        let brought = site.region.bring(&digest, &placement, &others, &Unlimited);
        match brought.failed.first() {
            None => drop(site.disks.insert(digest, disk)),
            Some((_, why)) => assert!(!readable, "{at}: {why}"),
        }
    }

    /// By its name, which no key is needed for.
    fn delete(&mut self, at: &str) {
        let site = self.any();
        if let Some((digest, _)) = self.any_disk(site) {
            let deleted = self.sites[site].region.delete(&digest);
            deleted.unwrap_or_else(|error| panic!("{at}: {error}"));
            self.sites[site].disks.remove(&digest);
        }
    }

    /// Sweeps and packs anew, which no key is needed for either.
    fn collect(&mut self, at: &str) {
        let when = Collect {
            now: self.now,
            grace: GRACE,
        };
        for store in self.sites.iter().flat_map(|site| site.region.stores()) {
            let done = store.collect(when);
            let done = done.unwrap_or_else(|error| panic!("{at}: {error}"));
            self.report.collected += done.removed_packs;
        }
    }

    fn rotate(&mut self, at: &str) {
        let site = self.any();
        let site = &self.sites[site];
        let packs = |site: &Site| -> usize {
            let written = |place: &Remembering| {
                let written = place.written.lock().unwrap_or_else(PoisonError::into_inner);
                let not_keys = written.iter().filter(|(name, _)| name != "keys.bullion");
                not_keys.count()
            };
            site.places.iter().map(written).sum()
        };
        let before = packs(site);
        for store in site.region.stores() {
            match store.rewrap(&*site.keys) {
                Ok(()) => self.report.rotations += 1,
                Err(error) => assert!(site.away || site.erased, "{at}: {error}"),
            }
        }
        assert_eq!(
            packs(site),
            before,
            "{at}: a rotation wrote more than a key"
        );
    }

    fn keys_come_and_go(&mut self, at: &str) {
        let site = self.any();
        let site = &mut self.sites[site];
        site.away = !site.away;
        site.keys.set_away(site.away);
        if !site.away {
            for store in site.region.stores() {
                let known = store.unlock();
                let known = known.unwrap_or_else(|error| panic!("{at}: {error}"));
                assert_eq!(known, !site.erased, "{at}");
            }
        }
    }

    fn scrub(&mut self, at: &str) {
        let site = self.any();
        let Site { region, scrub, .. } = &mut self.sites[site];
        for _ in 0..SCRUB_STEPS {
            let found = region.scrub_step(scrub, &[]);
            assert_eq!(found.problems, Vec::<String>::new(), "{at}");
            if found.ended {
                return;
            }
        }
        panic!("{at}: a scrub never ends");
    }

    /// What leaves in a file is blocks of its disk and no others, whatever they were stored together with.
    fn bundle(&mut self, at: &str) {
        let site = self.any();
        let Some((digest, disk)) = self.any_disk(site) else {
            return;
        };
        let stores = self.sites[site].region.stores();
        let Some(store) = stores.iter().find(|store| store.has(&digest)) else {
            return;
        };
        let mut file = Vec::new();
        match store.bundle(&digest, None, &Domain::unsealed(), &mut file) {
            Ok(_) => {
                let own: BTreeSet<Vec<u8>> = blocks(disk.as_bytes()).collect();
                for block in bundled(&file) {
                    assert!(own.contains(&block), "{at}: a foreign block left");
                }
                self.report.bundles += 1;
            }
            Err(error) => assert!(!self.sites[site].is_readable(), "{at}: {error}"),
        }
    }

    /// A tenant's secret is gone; what all share stays.
    fn erase(&mut self, at: &str) {
        let site = self.rng.random_range(SHARED + 1..DOMAINS);
        for store in self.sites[site].region.stores() {
            store
                .erase()
                .unwrap_or_else(|error| panic!("{at}: {error}"));
            let state = store.key_info().expect("its keys' state").state;
            assert_eq!(state, KeyState::Erased, "{at}");
        }
        self.report.erasures += u64::from(!self.sites[site].erased);
        self.sites[site].erased = true;
    }

    /// What must be there is there, or says why it cannot be read now; what is erased is never read.
    fn check(&mut self, at: &str) {
        for site in &self.sites {
            let any = |digest: &DiskDigest| site.region.has(digest);
            for (digest, disk) in &site.disks {
                assert!(any(digest), "{at}: {digest} is lost");
                self.report.reads += 1;
                match site.content(digest) {
                    Ok(bytes) => {
                        assert_eq!(bytes, disk.as_bytes(), "{at}: a wrong byte");
                        assert!(!site.erased, "{at}: {digest} was erased");
                    }
                    Err(why) => {
                        self.report.locked += 1;
                        let names = why.contains(&site.domain.id().to_string());
                        assert!(!site.is_readable() && names, "{at}: {why}");
                    }
                }
            }
        }
    }

    /// All key services are back: everything can be read that was not erased; and of all that was ever written, no key
    /// sealed two plaintexts.
    fn settle(&mut self, at: &str) {
        let mut seen: HashMap<[u8; 32], [u8; 32]> = HashMap::new();
        for site in &mut self.sites {
            site.away = false;
            site.keys.set_away(false);
            site.reopen();
            assert_eq!(site.is_readable(), !site.erased, "{at}");
        }
        self.check(at);
        for site in &self.sites {
            for place in &site.places {
                let written = place.written.lock().unwrap_or_else(PoisonError::into_inner);
                for (name, bytes) in written.iter() {
                    let seals = match name.split('/').next() {
                        Some("packs") => seals_of_pack(name, bytes, &site.domain),
                        Some("manifests") => {
                            seal_of_root(bytes, &site.domain).map(|seal| vec![seal])
                        }
                        _ => continue,
                    };
                    for (key, plain) in seals.unwrap_or_else(|why| panic!("{at}: {name}: {why}")) {
                        let first = *seen.entry(key).or_insert(plain);
                        assert_eq!(first, plain, "{at}: {name}: a key met two plaintexts");
                        self.report.seals += 1;
                    }
                }
            }
        }
    }
}

/// The blocks of a disk, the last one filled up as it is stored.
fn blocks(bytes: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    bytes.chunks(BLOCK_SIZE).map(|block| {
        let mut block = block.to_vec();
        block.resize(BLOCK_SIZE, 0);
        block
    })
}

/// Every block in a bundle without a key, read as docs/FORMAT.md tells it.
fn bundled(file: &[u8]) -> Vec<Vec<u8>> {
    const HEADER: usize = 104;
    const SECTION: usize = 4 + 8 * 32;
    let number = |bytes: &[u8], at: usize| {
        let four: [u8; 4] = bytes[at..at + 4].try_into().expect("four bytes");
        u32::from_le_bytes(four) as usize
    };
    let (mut at, mut found) = (HEADER, Vec::new());
    while file[at] == 1 {
        let len = number(file, at + 5);
        let table = &file[at + 9..at + 9 + len];
        at += 9 + len;
        let frames = number(table, 4 + number(table, 0) * SECTION);
        for _ in 0..frames {
            let (coding, len) = (file[at], number(file, at + 2));
            let stored = &file[at + 6..at + 6 + len];
            at += 6 + len;
            let raw = unpacked(coding, stored).expect("a frame that is not sealed");
            found.extend(blocks(&raw));
        }
    }
    found
}
