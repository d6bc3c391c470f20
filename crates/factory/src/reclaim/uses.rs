//! Who has which disk where, by the catalog: all resources of all tenants that name a disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use access::{Action, Permit, SystemReason};
use catalog::{Pages, Resource};
use disk::DiskDigest;
use serde_json::Value;
use store::region::Want;
use wire::{Location, ResourceId, TenantId};

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

/// What is asked of each region for each disk.
#[derive(Debug, Default)]
pub struct Uses(BTreeMap<DiskDigest, BTreeMap<String, Vec<Want>>>);

impl Uses {
    /// What is asked of a region; nothing if nobody has the disk there.
    pub fn wants(&self, region: &str, digest: &DiskDigest) -> Vec<Want> {
        let regions = self.0.get(digest);
        regions
            .and_then(|regions| regions.get(region))
            .cloned()
            .unwrap_or_default()
    }

    /// What is asked of all regions.
    pub fn elsewhere(&self, digest: &DiskDigest) -> impl Iterator<Item = (&str, Want)> {
        let regions = self.0.get(digest).into_iter().flatten();
        regions.flat_map(|(region, wants)| wants.iter().map(|want| (region.as_str(), *want)))
    }

    fn add(&mut self, digest: DiskDigest, region: &Location, want: Want) {
        let wants = self.0.entry(digest).or_default();
        let wants = wants.entry(region.folded()).or_default();
        if !wants.contains(&want) {
            wants.push(want);
        }
    }

    fn of_version(&mut self, version: &Resource) {
        for copy in replicate::asked(version) {
            self.add(copy.digest, &copy.region, copy.want);
        }
        // Disks beside the first one, wherever a version names them.
        let mut named = Vec::new();
        digests(&version.properties, 0, &mut named);
        for copy in replicate::asked(version) {
            for digest in &named {
                self.add(*digest, &copy.region, copy.want);
            }
        }
    }

    fn of_resource(&mut self, resource: &Resource) {
        let region = Location::new(resource.location.clone().unwrap_or_default());
        let mut named = Vec::new();
        digests(&resource.properties, 0, &mut named);
        for digest in named {
            self.add(digest, &region, want_of_resource(resource));
        }
    }
}

pub async fn of(factory: &Arc<Factory>) -> Result<Uses, Box<dyn std::error::Error + Send + Sync>> {
    let mut uses = Uses::default();
    for tenant in factory.auth.tenants().await? {
        let permit = reading(tenant.tenant, VERSION_TYPE);
        let mut pages = Pages::of(&*factory.catalog, &permit, VERSION_TYPE);
        while let Some(versions) = pages.next().await? {
            versions.iter().for_each(|version| uses.of_version(version));
        }
        for kind in KINDS {
            let permit = reading(tenant.tenant, kind);
            let mut pages = Pages::of(&*factory.catalog, &permit, kind);
            while let Some(resources) = pages.next().await? {
                resources.iter().for_each(|one| uses.of_resource(one));
            }
        }
    }
    Ok(uses)
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
