//! Who has which disk where, by the catalog: all resources of all tenants that name a disk. There may be a million of
//! them, so whoever asks takes the time for it: a list takes a tenth of the time and rests for the others' requests.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use access::{Action, Permit, SystemReason};
use catalog::{CHANGES_MAX, Change, ChangeKind, Changes, PAGE_MAX, Pages, Resource};
use disk::DiskDigest;
use jobs::Cancel;
use serde_json::Value;
use store::region::Want;
use wire::{Location, ResourceId, TenantId};

use crate::domains::KEPT_IN;
use crate::factory::Factory;
use crate::publish::VERSION_TYPE;
use crate::replicate::{self, want_of};

/// Kinds of resources that have the bits of a disk in the region of their location.
const KINDS: [&str; 4] = [
    "Microsoft.Compute/images",
    "Microsoft.Compute/disks",
    "Microsoft.Compute/snapshots",
    "Microsoft.Compute/virtualMachines",
];
/// How deep a digest may lie in a body.
const DEPTH_MAX: usize = 16;

/// How many times as long as it took to read a page is waited until the next, at most so long.
const REST_FACTOR: u32 = 9;
const REST_MAX: Duration = Duration::from_secs(2);
/// Looks at the feed at one time.
const LOOKS_MAX: usize = 20;

type Failure = Box<dyn Error + Send + Sync>;

/// What is asked of each region for each disk that is there.
#[derive(Debug)]
pub struct Uses {
    /// Disks that no store has are nothing to remember.
    held: BTreeSet<DiskDigest>,
    wants: BTreeMap<DiskDigest, BTreeMap<String, Vec<Want>>>,
}

impl Uses {
    fn among(held: BTreeSet<DiskDigest>) -> Uses {
        Uses {
            held,
            wants: BTreeMap::new(),
        }
    }

    /// What is asked of a region; nothing if nobody has the disk there.
    pub fn wants(&self, region: &str, digest: &DiskDigest) -> Vec<Want> {
        let regions = self.wants.get(digest);
        regions
            .and_then(|regions| regions.get(region))
            .cloned()
            .unwrap_or_default()
    }

    /// What is asked of all regions.
    pub fn elsewhere(&self, digest: &DiskDigest) -> impl Iterator<Item = (&str, Want)> {
        let regions = self.wants.get(digest).into_iter().flatten();
        regions.flat_map(|(region, wants)| wants.iter().map(|want| (region.as_str(), *want)))
    }

    fn add(&mut self, digest: DiskDigest, region: &Location, want: Want) {
        if !self.held.contains(&digest) {
            return;
        }
        let wants = self.wants.entry(digest).or_default();
        let wants = wants.entry(region.folded()).or_default();
        if !wants.contains(&want) {
            wants.push(want);
        }
    }

    fn of(&mut self, resource: &Resource) {
        match resource.id.resource_type().is(VERSION_TYPE) {
            true => self.of_version(resource),
            false => self.of_resource(resource),
        }
    }

    fn of_version(&mut self, version: &Resource) {
        // Wherever a version names them: its own, and those that its facts tell of beside them.
        let mut named = Vec::new();
        digests(&version.properties, 0, &mut named);
        for copy in replicate::asked(version) {
            for digest in &named {
                self.add(*digest, &copy.place, copy.want);
            }
        }
    }

    fn of_resource(&mut self, resource: &Resource) {
        let kept_in = resource.properties["bullion"][KEPT_IN].as_str();
        let region = kept_in.or(resource.location.as_deref());
        let region = Location::new(region.unwrap_or_default());
        let mut named = Vec::new();
        digests(&resource.properties, 0, &mut named);
        for digest in named {
            self.add(digest, &region, want_of_resource(resource));
        }
    }
}

/// Reads all resources, and again those that were written meanwhile. Without an answer it is not known what is used.
///
/// # Errors
/// Those of the catalog; and that more was written meanwhile than could be read again.
pub async fn of(
    factory: &Arc<Factory>,
    held: BTreeSet<DiskDigest>,
    stop: &Cancel,
) -> Result<Option<Uses>, Failure> {
    let from = factory.feed.latest_change().await?;
    let mut uses = Uses::among(held);
    for tenant in factory.auth.tenants().await? {
        for kind in kinds() {
            let permit = reading(tenant.tenant, kind);
            let mut pages = Pages::of(&*factory.catalog, &permit, kind);
            let mut began = Instant::now();
            while let Some(resources) = pages.next().await? {
                resources.iter().for_each(|one| uses.of(one));
                if resources.len() == PAGE_MAX {
                    rest(began.elapsed(), stop).await;
                }
                if stop.is_raised() {
                    return Ok(None);
                }
                began = Instant::now();
            }
        }
    }
    catch_up(factory, from, &mut uses).await?;
    Ok(Some(uses))
}

async fn rest(worked: Duration, stop: &Cancel) {
    let rest = worked.saturating_mul(REST_FACTOR).min(REST_MAX);
    // Over when it is told to stop, too.
    let _ = tokio::time::timeout(rest, stop.raised()).await;
}

async fn catch_up(factory: &Arc<Factory>, from: u64, uses: &mut Uses) -> Result<(), Failure> {
    let mut after = from;
    for _ in 0..LOOKS_MAX {
        let Changes::Next(changes) = factory.feed.changes_after(after, CHANGES_MAX).await? else {
            break;
        };
        let Some(last) = changes.last() else {
            return Ok(());
        };
        after = last.seq;
        let mut written: BTreeMap<(TenantId, &str), Vec<ResourceId>> = BTreeMap::new();
        for change in changes.iter().filter(|one| one.what == ChangeKind::Written) {
            if let Some(kind) = kind_of(change) {
                let ids = written.entry((change.tenant, kind)).or_default();
                ids.push(change.id.clone());
            }
        }
        for ((tenant, kind), ids) in written {
            let permit = reading(tenant, kind);
            let resources = factory.catalog.get_many(&permit, &ids).await?;
            resources.iter().for_each(|one| uses.of(one));
        }
    }
    Err("more was written than could be read again".into())
}

/// Whether what is used may have changed since a change, which moves on to the last that says no.
pub async fn may_differ(factory: &Arc<Factory>, since: &mut u64) -> Result<bool, Failure> {
    for _ in 0..LOOKS_MAX {
        let changes = match factory.feed.changes_after(*since, CHANGES_MAX).await? {
            Changes::Next(changes) => changes,
            Changes::Lost { .. } => return Ok(true),
        };
        let Some(last) = changes.last() else {
            return Ok(false);
        };
        if changes.iter().any(|change| kind_of(change).is_some()) {
            return Ok(true);
        }
        *since = last.seq;
    }
    Ok(true)
}

fn kinds() -> impl Iterator<Item = &'static str> {
    std::iter::once(VERSION_TYPE).chain(KINDS)
}

fn kind_of(change: &Change) -> Option<&'static str> {
    let kind = change.id.resource_type();
    kinds().find(|known| kind.is(known))
}

/// A managed image says that it is zone-resilient; a disk says it by its size.
fn want_of_resource(resource: &Resource) -> Want {
    let resilient = resource.properties.pointer("/storageProfile/zoneResilient");
    match resilient.and_then(Value::as_bool) {
        Some(true) => want_of(Some("Standard_ZRS"), None),
        _ => Want::default(),
    }
}

/// A permit that reads all resources of a kind in a tenant. They are taken page by page: there may be a million of them.
fn reading(tenant: TenantId, kind: &str) -> Permit {
    Permit::system(
        SystemReason::Reconcile,
        Action::new(format!("{kind}/read")),
        ResourceId::root(),
        tenant,
    )
}

/// Every digest in a body, wherever it stands.
fn digests(value: &Value, depth: usize, found: &mut Vec<DiskDigest>) {
    match value {
        Value::String(text) => found.extend(text.parse::<DiskDigest>().ok()),
        Value::Array(items) if depth < DEPTH_MAX => {
            items
                .iter()
                .for_each(|item| digests(item, depth + 1, found));
        }
        Value::Object(members) if depth < DEPTH_MAX => {
            members
                .values()
                .for_each(|item| digests(item, depth + 1, found));
        }
        _ => {}
    }
}
