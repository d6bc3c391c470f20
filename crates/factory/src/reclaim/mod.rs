//! Reclaim: what no version, image, disk, snapshot or machine has any more leaves the stores, after a
//! while; and what a region has in more stores than anybody asks for leaves the surplus ones.
//!
//! Nothing is removed on the strength of a list that could not be read to its end, and nothing that a
//! region still waits to get from here. When a disk became unused is noted in the data folder; if the
//! note is lost, the time begins again.

mod note;
#[cfg(test)]
mod tests;
mod uses;

use std::collections::BTreeSet;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use disk::DiskDigest;
use jobs::{Cancel, Reconciler};
use store::region::{Member, Region, Want};
use store::{Collect, Store};
use wire::Location;

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
    /// Stores that may have something to collect, by how people know them; `None` until all were looked at once.
    dirty: Mutex<Option<BTreeSet<String>>>,
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
            dirty: Mutex::new(None),
        }
    }

    async fn pass(&self) -> Result<Done, Box<dyn Error + Send + Sync>> {
        let uses = uses::of(&self.factory).await?;
        let (regions, now) = (Arc::clone(&self.factory.regions), self.factory.clock.now());
        let now = u64::try_from(now.as_second()).unwrap_or(0);
        let path = self.factory.data.join("regions").join(NOTE);
        let dirty = {
            let mut dirty = self.dirty.lock().unwrap_or_else(PoisonError::into_inner);
            dirty.take()
        };
        let worked = tokio::task::spawn_blocking(move || {
            let mut note = Note::read(&path);
            let mut pass = Pass {
                regions: &regions,
                uses: &uses,
                now,
                done: Done::default(),
                first: dirty.is_none(),
                dirty: dirty.unwrap_or_default(),
            };
            for region in regions.names() {
                if let Ok(region) = regions.region(&region) {
                    pass.region(&region, &mut note);
                }
            }
            note.write(&path)?;
            Ok::<_, std::io::Error>((pass.done, pass.dirty))
        });
        let (done, still) = worked.await??;
        *self.dirty.lock().unwrap_or_else(PoisonError::into_inner) = Some(still);
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
}

struct Pass<'a> {
    regions: &'a Regions,
    uses: &'a Uses,
    /// Seconds since 1970.
    now: u64,
    done: Done,
    /// No store was looked at since the start.
    first: bool,
    dirty: BTreeSet<String>,
}

impl Pass<'_> {
    fn region(&mut self, region: &Region, note: &mut Note) {
        let held: BTreeSet<DiskDigest> = region
            .stores()
            .iter()
            .filter_map(|store| store.list().ok())
            .flatten()
            .map(|disk| disk.digest)
            .collect();
        note.forget_others(region.name(), &held);
        for digest in held {
            let wants = self.uses.wants(region.name(), &digest);
            let outcome = match wants.is_empty() {
                true => self.unused(region, &digest, note),
                false => {
                    note.used(region.name(), &digest);
                    self.surplus(region, &digest, &wants)
                }
            };
            if let Err(error) = outcome {
                tracing::warn!(region = region.name(), %digest, error = chain(&error), "a disk stays for now");
            }
        }
        for member in region.members() {
            if let Some(store) = member.store() {
                self.collect(region, &member, &store);
            }
        }
    }

    /// A disk that nobody has in this region.
    fn unused(
        &mut self,
        region: &Region,
        digest: &DiskDigest,
        note: &mut Note,
    ) -> Result<(), store::StoreError> {
        let settings = self.regions.settings();
        let (since, published) = note.unused(region.name(), digest, self.now);
        let kept = match published {
            true => settings.grace,
            false => settings.build_cache.max(settings.grace),
        };
        // A build that found it may be on its way to make something of it.
        let found = self.now.saturating_sub(kept.as_secs());
        if self.regions.was_found_since(digest, found)
            || self.now.saturating_sub(since) < kept.as_secs()
            || self.is_awaited(digest)
        {
            return Ok(());
        }
        region.delete(digest)?;
        self.done.removed += 1;
        self.mark(region);
        note.forget(region.name(), digest);
        Ok(())
    }

    /// Whether a region that shall have the disk has it not yet, be it because it is away.
    fn is_awaited(&self, digest: &DiskDigest) -> bool {
        self.uses.elsewhere(digest).any(|(region, want)| {
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
                _ => return Ok(()),
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

    async fn reconcile(&self, _: &Cancel) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.pass().await.map(drop)
    }
}
