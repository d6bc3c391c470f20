//! Reclaim: what no version, image, disk, snapshot or machine has any more leaves the stores, after a
//! while; and what a region has in more stores than anybody asks for leaves the surplus ones.
//!
//! Nothing is removed on the strength of a list that could not be read to its end, and nothing that a
//! region still waits to get from here. When a disk became unused is noted in the data folder; if the
//! note is lost, the time begins again. As long as no such resource, no store and no disk came or went and no time
//! ran out, nothing is asked of the catalog.

mod note;
#[cfg(test)]
mod tests;
mod uses;

use std::collections::BTreeSet;
use std::error::Error;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use disk::DiskDigest;
use jobs::{Cancel, Reconciler};
use store::region::{Member, Region, Want};
use store::{Collect, Store};
use wire::Location;

use crate::domains;
use crate::factory::Factory;
use crate::pipeline::chain;
use crate::regions::Regions;
use note::Note;
use uses::Uses;

/// The reconciler's name, for nudges.
pub const RECONCILER: &str = "reclaim";
const PERIOD: Duration = Duration::from_secs(300);
/// How long at most a pack that nothing needs is kept for those that still read it.
const PACK_GRACE: Duration = Duration::from_secs(3600);
/// In the folder of the regions.
const NOTE: &str = "uses.json";

/// Gives room back.
pub struct Reclaim {
    factory: Arc<Factory>,
    known: Mutex<Known>,
}

/// What one pass leaves to the next.
#[derive(Debug, Clone, Default)]
struct Known {
    /// Up to here no change made a difference since all was looked at; none until it was.
    since: Option<u64>,
    /// What the stores had then.
    held: Vec<(Location, BTreeSet<DiskDigest>)>,
    usable: BTreeSet<String>,
    /// When the first disk may go that is not used, in seconds since 1970.
    due: Option<u64>,
    /// Stores that may have something to collect, by how people know them; `None` until all were looked at once.
    dirty: Option<BTreeSet<String>>,
}

/// What one pass did.
#[derive(Debug, Default, PartialEq, Eq)]
struct Done {
    /// Disks that left a region.
    removed: u64,
    /// Copies that left a store whose region keeps others.
    withdrawn: u64,
    bytes: u64,
}

impl Reclaim {
    pub fn new(factory: Arc<Factory>) -> Reclaim {
        Reclaim {
            factory,
            known: Mutex::default(),
        }
    }

    async fn pass(&self, stop: &Cancel) -> Result<Done, Box<dyn Error + Send + Sync>> {
        let mut known = {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.clone()
        };
        let regions = Arc::clone(&self.factory.regions);
        let listed = tokio::task::spawn_blocking(move || (held(&regions), regions.usable()));
        let (held, usable) = listed.await?;
        let now = u64::try_from(self.factory.clock.now().as_second()).unwrap_or(0);
        let is_same = known.held == held && known.usable == usable;
        let is_due = known.due.is_some_and(|due| due <= now);
        let uses = if is_same && !is_due && !self.may_differ(&mut known).await? {
            None
        } else {
            let since = self.factory.feed.latest_change().await?;
            let all = held.iter().flat_map(|(_, held)| held).copied().collect();
            let Some(uses) = uses::of(&self.factory, all, stop).await? else {
                return Ok(Done::default());
            };
            known = Known {
                since: Some(since),
                held,
                usable,
                due: None,
                dirty: known.dirty,
            };
            Some(uses)
        };
        let (regions, path) = (
            Arc::clone(&self.factory.regions),
            self.factory.data.join("regions").join(NOTE),
        );
        let worked = tokio::task::spawn_blocking(move || work(&regions, known, uses, now, &path));
        let (done, known) = worked.await??;
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = known;
        if done != Done::default() {
            tracing::info!(
                disks = done.removed,
                copies = done.withdrawn,
                bytes = done.bytes,
                "room was given back"
            );
        }
        Ok(done)
    }

    /// Whether the catalog may ask for something else than before.
    async fn may_differ(&self, known: &mut Known) -> Result<bool, Box<dyn Error + Send + Sync>> {
        match &mut known.since {
            Some(since) => uses::may_differ(&self.factory, since).await,
            None => Ok(true),
        }
    }
}

/// What each region has. A store that cannot be listed has nothing that could be given back.
fn held(regions: &Regions) -> Vec<(Location, BTreeSet<DiskDigest>)> {
    let names = regions.places().into_iter();
    let held = names.filter_map(|name| {
        let region = regions.region(&name).ok()?;
        let stores = region.stores();
        let lists = stores.iter().filter_map(|store| store.list().ok());
        let digests = lists.flatten().map(|disk| disk.digest).collect();
        Some((name, digests))
    });
    held.collect()
}

/// Gives back what is not used, where it is known what is, and collects what that left.
fn work(
    regions: &Regions,
    mut known: Known,
    uses: Option<Uses>,
    now: u64,
    path: &Path,
) -> io::Result<(Done, Known)> {
    let mut pass = Pass {
        regions,
        now,
        done: Done::default(),
        first: known.dirty.is_none(),
        dirty: known.dirty.take().unwrap_or_default(),
        due: known.due,
    };
    if let Some(uses) = uses {
        let mut note = Note::read(path);
        for (name, held) in &known.held {
            if let Ok(region) = regions.region(name) {
                pass.region(&region, held, &uses, &mut note);
            }
        }
        note.write(path)?;
    }
    for region in regions.places() {
        if let Ok(region) = regions.region(&region) {
            for member in region.members() {
                if let Some(store) = member.store() {
                    pass.collect(&region, &member, &store);
                }
            }
        }
    }
    known.dirty = Some(pass.dirty);
    known.due = pass.due;
    Ok((pass.done, known))
}

struct Pass<'a> {
    regions: &'a Regions,
    /// Seconds since 1970.
    now: u64,
    done: Done,
    /// No store was looked at since the start.
    first: bool,
    dirty: BTreeSet<String>,
    due: Option<u64>,
}

impl Pass<'_> {
    fn region(
        &mut self,
        region: &Region,
        held: &BTreeSet<DiskDigest>,
        uses: &Uses,
        note: &mut Note,
    ) {
        note.forget_others(region.name(), held);
        for digest in held {
            let wants = uses.wants(region.name(), digest);
            let outcome = match wants.is_empty() {
                true => self.unused(region, digest, uses, note),
                false => {
                    note.used(region.name(), digest);
                    self.surplus(region, digest, &wants)
                }
            };
            if let Err(error) = outcome {
                self.again_at(self.now);
                tracing::warn!(region = region.name(), %digest, error = chain(&error), "a disk stays for now");
            }
        }
    }

    /// Everything is looked at once more then, at the latest.
    fn again_at(&mut self, then: u64) {
        self.due = Some(self.due.map_or(then, |due| due.min(then)));
    }

    /// A disk that nobody has in this region.
    fn unused(
        &mut self,
        region: &Region,
        digest: &DiskDigest,
        uses: &Uses,
        note: &mut Note,
    ) -> Result<(), store::StoreError> {
        let settings = self.regions.settings();
        let (since, published) = note.unused(region.name(), digest, self.now);
        let is_shared = domains::is_shared(region.name());
        let kept = match published {
            // What went into a domain with a key of its own has no business where others are.
            _ if is_shared && has_own_key(digest, uses) => Duration::ZERO,
            true => settings.grace,
            false => settings.build_cache.max(settings.grace),
        };
        // A build that found it may be on its way to make something of it.
        let found = self.now.saturating_sub(kept.max(settings.grace).as_secs());
        if self.regions.was_found_since(digest, found)
            || self.now.saturating_sub(since) < kept.as_secs()
            || self.is_awaited(digest, uses)
        {
            self.again_at(self.now.max(since.saturating_add(kept.as_secs())));
            return Ok(());
        }
        region.delete(digest)?;
        self.done.removed += 1;
        self.mark(region);
        note.forget(region.name(), digest);
        Ok(())
    }

    /// Whether a region that shall have the disk has it not yet, be it because it is away.
    fn is_awaited(&self, digest: &DiskDigest, uses: &Uses) -> bool {
        uses.elsewhere(digest).any(|(region, want)| {
            let region = self.regions.region(&Location::new(region));
            !region.is_ok_and(|region| is_complete(&region, digest, want))
        })
    }

    /// Copies beyond what is asked for, once that is complete.
    fn surplus(
        &mut self,
        region: &Region,
        digest: &DiskDigest,
        wants: &[Want],
    ) -> Result<(), store::StoreError> {
        let mut keep: Vec<Arc<Member>> = Vec::new();
        for want in wants {
            match region.place(digest, *want) {
                Ok(placement) if is_complete(region, digest, *want) => {
                    keep.extend(placement.members);
                }
                _ => {
                    self.again_at(self.now);
                    return Ok(());
                }
            }
        }
        let others = self
            .regions
            .others(&Location::new(region.name()), &Location::new(region.name()));
        let withdrawn = region.withdraw(digest, &keep, &others)?;
        if withdrawn > 0 {
            self.done.withdrawn += withdrawn;
            self.mark(region);
        }
        Ok(())
    }

    fn mark(&mut self, region: &Region) {
        let members = region.members();
        self.dirty
            .extend(members.iter().map(|member| key(region, member)));
    }

    fn collect(&mut self, region: &Region, member: &Member, store: &Store) {
        let key = key(region, member);
        if !self.first && !self.dirty.contains(&key) {
            return;
        }
        let grace = self.regions.settings().grace.min(PACK_GRACE).as_secs();
        let now = self.now;
        match store.collect(Collect { now, grace }) {
            Ok(done) => {
                self.done.bytes += done.removed_bytes;
                match done.waiting_packs {
                    0 => self.dirty.remove(&key),
                    _ => self.dirty.insert(key),
                };
            }
            Err(error) => {
                self.dirty.insert(key);
                tracing::warn!(
                    store = member.shown(),
                    region = region.name(),
                    error = chain(&error),
                    "nothing was collected"
                );
            }
        }
    }
}

fn key(region: &Region, member: &Member) -> String {
    format!("{} {}", region.name(), member.shown())
}

/// Whether somebody has the disk in a domain with a key of its own.
fn has_own_key(digest: &DiskDigest, uses: &Uses) -> bool {
    uses.elsewhere(digest)
        .any(|(place, _)| !domains::is_shared(place))
}

fn is_complete(region: &Region, digest: &DiskDigest, want: Want) -> bool {
    region.place(digest, want).is_ok_and(|placement| {
        let has = |member: &Arc<Member>| member.store().is_some_and(|store| store.has(digest));
        placement.members.iter().all(has)
    })
}

#[async_trait]
impl Reconciler for Reclaim {
    fn name(&self) -> &'static str {
        RECONCILER
    }

    fn period(&self) -> Duration {
        PERIOD
    }

    async fn reconcile(&self, stop: &Cancel) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.pass(stop).await.map(drop)
    }
}
