//! Regions in memory, and random steps that are held against the model.

use std::num::NonZero;
use std::sync::Arc;

use disk::{DiskDigest, ReadAt};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use store::keys::FakeKeys;
use store::region::{Kind, Member, Position, Region, Unlimited, Want};
use store::{Collect, DEFAULT_INDEX_BYTES, Domain, FrameCache, Keys, Store, StoreOptions};

use crate::chaos::Chaos;
use crate::model::{Model, random_disk};

/// Steps of one run.
const STEPS: usize = 40;
/// Seconds that one step takes, and for which garbage is kept.
const STEP_SECONDS: u64 = 60;
const GRACE: u64 = 5 * STEP_SECONDS;
/// Frames that readers share.
const CACHE_BYTES: u64 = 1 << 20;
/// A scrub of a whole region takes fewer steps than this.
const SCRUB_STEPS: usize = 10_000;
/// Operations within which a crash comes.
const CRASH_WITHIN: u64 = 40;

/// Stores of a region: zone, name, premium.
type Layout = &'static [(&'static str, &'static str, bool)];
const HOME: Layout = &[
    ("1", "a", false),
    ("1", "b", true),
    ("2", "a", false),
    ("3", "a", false),
];
const AWAY: Layout = &[("1", "a", true), ("1", "b", true)];

/// What a run came to, so that a test can see that something happened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    pub disks: u64,
    pub reads: u64,
    pub unreadable: u64,
    pub crashes: u64,
    pub damages: u64,
    pub collected: u64,
}

/// So little that a store must let go of most of what it knows: every second one has it.
const TINY_INDEX_BYTES: u64 = 24 << 10;

struct Node {
    member: usize,
    place: Chaos,
    index_bytes: u64,
}

struct Site {
    region: Region,
    nodes: Vec<Node>,
    scrub: Position,
}

struct World {
    rng: ChaCha8Rng,
    sites: Vec<Site>,
    model: Model,
    now: u64,
    /// The one store whose files were changed since all was last found sound.
    dirty: Option<(usize, usize)>,
    report: Report,
    /// What happened so far, for messages.
    history: Vec<String>,
}

/// One run. Panics, with the seed, where something is wrong.
pub fn run(seed: u64) -> Report {
    let mut world = World::new(seed);
    for step in 0..STEPS {
        world.now += STEP_SECONDS;
        world.step(&format!("seed {seed}, step {step}"));
    }
    world.settle(&format!("seed {seed}, at the end"));
    world.report
}

fn options(index_bytes: u64) -> StoreOptions {
    StoreOptions {
        index_bytes,
        threads: NonZero::<usize>::MIN,
        keys: Keys::Service(Arc::new(FakeKeys::default())),
        // All stores of the world trust each other.
        domain: Some(Domain::from_secret([7; 32])),
        ..StoreOptions::default()
    }
}

fn open(place: &Chaos, index_bytes: u64) -> Option<Store> {
    Store::open_place(Box::new(place.clone()), options(index_bytes)).ok()
}

impl Site {
    fn new(name: &str, layout: Layout) -> Site {
        let region = Region::new(name);
        let mut nodes = Vec::new();
        for (member, (zone, name, premium)) in layout.iter().enumerate() {
            let place = Chaos::default();
            let index_bytes = match member % 2 {
                0 => DEFAULT_INDEX_BYTES,
                _ => TINY_INDEX_BYTES,
            };
            let store = open(&place, index_bytes).expect("a new store");
            region.add(Member::open(zone, name, *premium, store));
            nodes.push(Node {
                member,
                place,
                index_bytes,
            });
        }
        Site {
            region,
            nodes,
            scrub: Position::default(),
        }
    }

    fn member(&self, node: usize) -> Arc<Member> {
        Arc::clone(&self.region.members()[self.nodes[node].member])
    }

    /// Opens what a crash or a loss closed, as a restarted server does.
    fn reopen(&self, node: usize) {
        let Node {
            place, index_bytes, ..
        } = &self.nodes[node];
        place.restart();
        match open(place, *index_bytes) {
            Some(store) => self.member(node).comes_back(store),
            None => self.member(node).goes_away("it cannot be opened"),
        }
    }
}

impl World {
    fn new(seed: u64) -> World {
        World {
            rng: ChaCha8Rng::seed_from_u64(seed),
            sites: vec![Site::new("home", HOME), Site::new("away", AWAY)],
            model: Model::new(2),
            now: 1_000_000,
            dirty: None,
            report: Report::default(),
            history: Vec::new(),
        }
    }

    fn told(&mut self, what: String) {
        self.history.push(what);
    }

    /// Stores of the other region.
    fn others(&self, site: usize) -> Vec<Store> {
        self.sites[1 - site].region.stores()
    }

    fn any_node(&mut self) -> (usize, usize) {
        let site = self.rng.random_range(0..self.sites.len());
        let node = self.rng.random_range(0..self.sites[site].nodes.len());
        (site, node)
    }

    fn step(&mut self, at: &str) {
        match self.rng.random_range(0..100) {
            0..20 => self.ingest(at),
            20..32 => self.reconcile(),
            32..42 => self.want_elsewhere(),
            42..50 => self.forget(),
            50..58 => self.collect(),
            58..64 => self.crash(),
            64..72 => self.damage(),
            72..80 => self.lose_zone(),
            80..88 => self.scrub(at),
            _ => self.read(at),
        }
    }

    fn want(&mut self) -> Want {
        let kinds = [Kind::StandardLrs, Kind::PremiumLrs, Kind::StandardZrs];
        let kind = kinds[self.rng.random_range(0..kinds.len())];
        Want::new(kind, self.rng.random_range(1..4))
    }

    /// A disk is taken in by a store of the home region and is wanted there from then on. A crash
    /// may come at any moment of it; then the disk is as if it had never been asked for.
    fn ingest(&mut self, at: &str) {
        let disk = random_disk(&mut self.rng);
        let node = self.rng.random_range(0..self.sites[0].nodes.len());
        // A store builds on blocks that it believes to have: what was changed behind its back and not
        // found yet would go into the new disk, whose only copy this is.
        if self.dirty == Some((0, node)) {
            return;
        }
        let crash = self.rng.random_bool(0.3);
        let after = self.rng.random_range(1..CRASH_WITHIN);
        let site = &self.sites[0];
        if crash {
            site.nodes[node].place.crash_after(after);
        }
        let taken = site.member(node).store().map(|store| store.ingest(&disk));
        if site.nodes[node].place.crashed() {
            self.report.crashes += 1;
            site.reopen(node);
        }
        site.nodes[node].place.restart();
        let Some(Ok(taken)) = taken else { return };
        self.told(format!(
            "ingest {} into {node}, new {}",
            short(&taken.digest),
            taken.new_bytes
        ));
        let known = self.model.disks.insert(taken.digest, disk);
        assert!(
            known.is_none_or(|known| known.size() == taken.logical_bytes),
            "{at}"
        );
        let want = self.want();
        self.model.wanted[0].entry(taken.digest).or_insert(want);
        self.report.disks += 1;
    }

    fn want_elsewhere(&mut self) {
        let Some(digest) = self.model.pick(&mut self.rng) else {
            return;
        };
        let want = match self.want() {
            // The other region has one zone.
            want if want.kind == Kind::StandardZrs => Want::default(),
            want => want,
        };
        self.model.wanted[1].insert(digest, want);
        if self.rng.random_bool(0.3) {
            let want = self.want();
            self.model.wanted[0].insert(digest, want);
        }
    }

    /// A version is deleted, or one region of it.
    fn forget(&mut self) {
        let Some(digest) = self.model.pick(&mut self.rng) else {
            return;
        };
        let everywhere = self.rng.random_bool(0.5);
        let site = self.rng.random_range(0..self.sites.len());
        let elsewhere = 1 - site;
        if everywhere {
            for region in &mut self.model.wanted {
                region.remove(&digest);
            }
        } else if self.complete(elsewhere, &digest) {
            // Only what is whole elsewhere leaves a region; else the last copy could go.
            self.model.wanted[site].remove(&digest);
        }
    }

    fn complete(&self, site: usize, digest: &DiskDigest) -> bool {
        let region = &self.sites[site].region;
        let Some(want) = self.model.wanted[site].get(digest) else {
            return false;
        };
        region.place(digest, *want).is_ok_and(|placement| {
            let has = |member: &Arc<Member>| member.store().is_some_and(|store| store.has(digest));
            placement.members.iter().all(has)
        })
    }

    /// Brings every region to what is wanted, as the server's reconcilers do. Nothing leaves a store
    /// before it is complete where it is wanted.
    fn reconcile(&mut self) {
        self.told("reconcile".to_owned());
        for site in 0..self.sites.len() {
            let others = self.others(site);
            let region = &self.sites[site].region;
            for (digest, want) in &self.model.wanted[site] {
                let Ok(placement) = region.place(digest, *want) else {
                    continue;
                };
                let brought = region.bring(digest, &placement, &others, &Unlimited);
                if brought.failed.is_empty() {
                    // What is away keeps its copy until it is back.
                    let _ = region.withdraw(digest, &placement.members, &others);
                }
            }
        }
        for site in 0..self.sites.len() {
            for store in self.sites[site].region.stores() {
                for disk in store.list().unwrap_or_default() {
                    if !self.model.wanted[site].contains_key(&disk.digest)
                        && self.is_safe(site, &disk.digest)
                    {
                        let _ = store.delete(&disk.digest);
                    }
                }
            }
        }
    }

    /// Whether a region may drop a disk: nobody wants it, or the other region has it and was just
    /// read.
    fn is_safe(&self, site: usize, digest: &DiskDigest) -> bool {
        let elsewhere = 1 - site;
        let Some(want) = self.model.wanted[elsewhere].get(digest) else {
            return true;
        };
        let region = &self.sites[elsewhere].region;
        let others = self.others(elsewhere);
        region.place(digest, *want).is_ok_and(|placement| {
            let sound = |member: &Arc<Member>| region.vouch(digest, member, &others).is_ok();
            placement.members.iter().all(sound)
        })
    }

    fn collect(&mut self) {
        self.told("collect".to_owned());
        let when = Collect {
            now: self.now,
            grace: GRACE,
        };
        for store in self.sites.iter().flat_map(|site| site.region.stores()) {
            if let Ok(done) = store.collect(when) {
                self.report.collected += done.removed_packs;
            }
        }
    }

    /// A server dies in the middle of whatever reconciling it does.
    fn crash(&mut self) {
        let (site, node) = self.any_node();
        let after = self.rng.random_range(1..CRASH_WITHIN);
        self.told(format!("crash of {site} {node} after {after}"));
        self.sites[site].nodes[node].place.crash_after(after);
        match self.rng.random_bool(0.5) {
            true => self.reconcile(),
            false => self.collect(),
        }
        if self.sites[site].nodes[node].place.crashed() {
            self.report.crashes += 1;
        }
        self.sites[site].reopen(node);
    }

    /// Bytes of one store change. Only while every disk in it that is wanted is also whole in a
    /// store that was not touched: what was lost everywhere nobody can bring back.
    fn damage(&mut self) {
        let (site, node) = self.any_node();
        if self.dirty.is_some_and(|dirty| dirty != (site, node)) {
            return;
        }
        let Some(store) = self.sites[site].member(node).store() else {
            return;
        };
        let Ok(held) = store.list() else { return };
        let safe = held.iter().all(|disk| {
            !self.model.is_wanted(&disk.digest) || self.held_elsewhere(&disk.digest, (site, node))
        });
        let place = self.sites[site].nodes[node].place.clone();
        let packs = place.packs();
        if !safe || packs.is_empty() {
            return;
        }
        let pack = &packs[self.rng.random_range(0..packs.len())];
        self.told(format!("damage {} in {site} {node}", pack.name));
        let byte = self.rng.random_range(0..pack.bytes.max(1)) as usize;
        match self.rng.random_range(0..3) {
            0 => place.lose(&pack.name),
            1 => place.tamper(&pack.name, |bytes| bytes.truncate(byte)),
            _ => place.tamper(&pack.name, |bytes| {
                if let Some(byte) = bytes.get_mut(byte) {
                    *byte ^= 0x10;
                }
            }),
        }
        self.dirty = Some((site, node));
        let held: Vec<_> = held.iter().map(|d| short(&d.digest)).collect();
        self.told(format!("held {held:?}"));
        self.report.damages += 1;
        if self.rng.random_bool(0.3) {
            self.sites[site].reopen(node);
        }
    }

    /// Whether a store other than this one has the disk, be it away for the moment.
    fn held_elsewhere(&self, digest: &DiskDigest, but: (usize, usize)) -> bool {
        self.sites.iter().enumerate().any(|(site, held)| {
            (0..held.nodes.len()).any(|node| {
                let store = held.member(node).store();
                (site, node) != but
                    && store.is_some_and(|store| {
                        store.verify(digest).is_ok_and(|report| report.is_sound())
                    })
            })
        })
    }

    /// A zone goes, or one that is gone comes back with what it had.
    fn lose_zone(&mut self) {
        let (site, node) = self.any_node();
        let place = self.sites[site].nodes[node].place.clone();
        let back = place.is_away();
        place.set_away(!back);
        self.told(format!("{site} {node} back: {back}"));
        match back {
            true => self.sites[site].reopen(node),
            // Half of the time it is not noticed until something is asked of it.
            false if self.rng.random_bool(0.5) => {
                self.sites[site].member(node).goes_away("the zone is away");
            }
            false => {}
        }
    }

    fn scrub(&mut self, at: &str) {
        self.told("scrub".to_owned());
        for site in 0..self.sites.len() {
            let others = self.others(site);
            let Site { region, scrub, .. } = &mut self.sites[site];
            let mut steps = 0;
            loop {
                let found = region.scrub_step(scrub, &others);
                self.history.extend(found.problems);
                if found.ended {
                    break;
                }
                steps += 1;
                assert!(steps < SCRUB_STEPS, "{at}: a scrub never ends");
            }
        }
        let all_here = |site: &Site| {
            let stores = site.region.stores().len() == site.nodes.len();
            stores && !site.nodes.iter().any(|node| node.place.is_away())
        };
        if self.sites.iter().all(all_here) {
            self.dirty = None;
        }
    }

    /// A read gives what was stored, or an error; never anything else.
    fn read(&mut self, at: &str) {
        let Some(digest) = self.model.pick(&mut self.rng) else {
            return;
        };
        for site in 0..self.sites.len() {
            self.report.reads += 1;
            match self.content(site, &digest) {
                Ok(bytes) => assert_eq!(
                    bytes,
                    self.model.disks[&digest].as_bytes(),
                    "{at}: a wrong byte"
                ),
                Err(_) => self.report.unreadable += 1,
            }
        }
    }

    fn content(&self, site: usize, digest: &DiskDigest) -> Result<Vec<u8>, String> {
        let cache = Arc::new(FrameCache::new(CACHE_BYTES));
        let region = &self.sites[site].region;
        let disk = region.disk(digest, &self.others(site), &cache);
        let disk = disk.map_err(|error| error.to_string())?;
        let mut bytes = vec![0; disk.size() as usize];
        disk.read_at(0, &mut bytes)
            .map_err(|error| error.to_string())?;
        Ok(bytes)
    }

    /// Everything is back and left alone for a while: all that was asked for is there, whole, and
    /// nothing else takes room.
    fn settle(&mut self, at: &str) {
        for site in &self.sites {
            for node in 0..site.nodes.len() {
                site.nodes[node].place.set_away(false);
                site.reopen(node);
                assert!(
                    site.member(node).store().is_some(),
                    "{at}: a store does not open"
                );
            }
        }
        for _ in 0..3 {
            self.scrub(at);
            self.reconcile();
            self.collect();
            self.now += 2 * GRACE;
        }
        self.collect();
        for site in 0..self.sites.len() {
            for digest in self.model.wanted[site].keys() {
                assert!(
                    self.complete(site, digest),
                    "{at}: {digest} is not where it shall be: {}",
                    self.whereabouts(digest)
                );
                let content = self.content(site, digest);
                let content = content.unwrap_or_else(|error| panic!("{at}: {digest}: {error}"));
                assert_eq!(
                    content,
                    self.model.disks[digest].as_bytes(),
                    "{at}: a wrong byte"
                );
            }
            for store in self.sites[site].region.stores() {
                self.check_store(at, site, &store);
            }
        }
    }

    /// For messages: who has a disk, and whether it is sound there.
    fn whereabouts(&self, digest: &DiskDigest) -> String {
        let mut told = String::new();
        for site in &self.sites {
            for member in site.region.members() {
                let state = match member.store() {
                    None => "away".to_owned(),
                    Some(store) => {
                        format!("{:?}", store.verify(digest).map(|report| report.damaged))
                    }
                };
                told += &format!("\n  {} {}: {state}", site.region.name(), member.shown());
            }
        }
        let wants: Vec<_> = self.model.wanted.iter().map(|w| w.get(digest)).collect();
        let history = self.history.join("\n  ");
        format!("{told}\n  wanted {wants:?}\n  {history}")
    }

    fn check_store(&self, at: &str, site: usize, store: &Store) {
        let held = store.list().expect("a list");
        for disk in &held {
            assert!(
                self.model.wanted[site].contains_key(&disk.digest),
                "{at}: {} is kept for nobody",
                disk.digest
            );
            let report = store.verify(&disk.digest);
            let report = report.unwrap_or_else(|error| panic!("{at}: {}: {error}", disk.digest));
            assert!(report.is_sound(), "{at}: {} is damaged", disk.digest);
        }
        if held.is_empty() {
            let usage = store.usage().expect("usage");
            assert_eq!(
                usage.pack_bytes, 0,
                "{at}: an empty store takes room: {usage:?}"
            );
        }
    }
}

fn short(digest: &DiskDigest) -> String {
    digest.to_string().chars().skip(4).take(8).collect()
}
