//! Replicate: every region that a version names shall hold its disks, in as many stores as the version asks for. A run
//! waits for it, and a reconciler goes on with what a run did not get done; both do the same idempotent thing. One
//! region's failure is no other region's.

mod links;
mod round;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use access::{Action, Permit, SystemReason};
use catalog::{CatalogError, Resource};
use disk::DiskDigest;
use jobs::{StepError, StepHandle};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use store::Moved;
use store::region::{Kind, Member, Placement, Want};
use tokio::sync::watch;
use wire::compute::{
    AggregatedReplicationState, PublishingProfile, RegionalReplicationState,
    RegionalReplicationStatus, ReplicationStatus, TargetRegion,
};
use wire::{Location, ProvisioningState, ResourceId, TenantId};

use crate::disks::Disks;
use crate::domains::DomainName;
use crate::factory::Factory;
use crate::pipeline::{chain, change};
use crate::regions::Regions;

use links::OnLink;
pub use links::{Link, Links, Share};
pub use round::{RECONCILER, Replicate};

const VERSION_WRITE: &str = "Microsoft.Compute/galleries/images/versions/write";

/// An image's disks on their way to one region.
#[derive(Debug, Clone)]
pub struct Copy {
    pub version: ResourceId,
    pub tenant: TenantId,
    pub disks: Disks,
    pub home: Location,
    /// Where its bits are at home: in the region, or in the domain whose key the version asks for there.
    pub from: Location,
    pub region: Location,
    /// Where they go, likewise.
    pub place: Location,
    pub want: Want,
}

/// How a region came out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all_fields = "camelCase")]
pub enum RegionResult {
    Completed {
        /// Bytes that were sent, as they are stored.
        moved_bytes: u64,
        frames: u64,
        frames_present: u64,
    },
    Failed {
        reason: String,
    },
}

impl RegionResult {
    pub fn is_complete(&self) -> bool {
        matches!(self, RegionResult::Completed { .. })
    }
}

impl Copy {
    /// Whether every store that shall hold a disk does, for all disks. Blocks.
    pub fn is_there(&self, regions: &Regions) -> bool {
        self.placements(regions).is_ok_and(|placements| {
            placements.iter().all(|(digest, placement)| {
                let has =
                    |member: &Arc<Member>| member.store().is_some_and(|store| store.has(digest));
                placement.members.iter().all(has)
            })
        })
    }

    /// Where each disk shall be, the one to boot from first.
    fn placements(&self, regions: &Regions) -> Result<Vec<(DiskDigest, Placement)>, String> {
        let region = regions.region(&self.place).map_err(|error| chain(&error))?;
        let place = |digest: &DiskDigest| {
            let placement = region.place(digest, self.want);
            Ok((*digest, placement.map_err(|error| chain(&error))?))
        };
        self.disks.all().map(place).collect()
    }

    /// What a status says of replicas that share stores; nothing where each has its own. Blocks.
    fn placed(&self, regions: &Regions) -> String {
        self.placements(regions)
            .map(|placements| details(&placements))
            .unwrap_or_default()
    }

    /// About how many bytes a copy would move. Blocks.
    fn lacks(&self, regions: &Regions) -> u64 {
        let data = |digest: &DiskDigest| {
            let holder = regions.holder(&self.from, digest)?;
            let manifest = holder.manifest(digest).ok();
            manifest.map(|manifest| manifest.data_bytes())
        };
        let bytes = self
            .disks
            .all()
            .map(|digest| data(digest).unwrap_or(u64::MAX));
        bytes.fold(0, u64::saturating_add)
    }

    /// Copies what is missing and writes down how it came out. An error is one of writing that
    /// down, never one of copying.
    pub async fn run(
        &self,
        factory: &Arc<Factory>,
        progress: &(dyn Fn(u8) + Send + Sync),
    ) -> Result<RegionResult, StepError> {
        self.tell(factory, RegionalReplicationState::Replicating, 0, "")
            .await?;
        let (sender, mut told) = watch::channel(Share::default());
        let copied = self.copy(factory, sender);
        tokio::pin!(copied);
        let result = loop {
            tokio::select! {
                result = &mut copied => break result,
                Ok(()) = told.changed() => {
                    let share = *told.borrow_and_update();
                    progress(share.percent);
                    let state = RegionalReplicationState::Replicating;
                    self.tell(factory, state, share.percent, &share.shown()).await?;
                }
            }
        };
        match result {
            Ok((moved, details)) => {
                self.tell(factory, RegionalReplicationState::Completed, 100, &details)
                    .await?;
                Ok(RegionResult::Completed {
                    moved_bytes: moved.frame_bytes + moved.manifest_bytes,
                    frames: moved.frames,
                    frames_present: moved.frames_present,
                })
            }
            Err(reason) => {
                self.tell(factory, RegionalReplicationState::Failed, 0, &reason)
                    .await?;
                Ok(RegionResult::Failed { reason })
            }
        }
    }

    async fn copy(
        &self,
        factory: &Arc<Factory>,
        told: watch::Sender<Share>,
    ) -> Result<(Moved, String), String> {
        let (copy, factory) = (self.clone(), Arc::clone(factory));
        let done = tokio::task::spawn_blocking(move || copy.copy_blocking(&factory, told));
        done.await.map_err(|error| chain(&error))?
    }

    /// The home region's copy goes first, then any other: a home that lost it is healed from where it went.
    fn copy_blocking(
        &self,
        factory: &Factory,
        told: watch::Sender<Share>,
    ) -> Result<(Moved, String), String> {
        let regions = &factory.regions;
        let region = regions.region(&self.place).map_err(|error| chain(&error))?;
        let placements = self.placements(regions)?;
        let others = regions.others(&self.place, &self.from);
        let bandwidth = regions.settings().bandwidth;
        let mut flow = OnLink {
            link: factory.links.between(&self.home, &self.region, bandwidth),
            told,
            moved: AtomicU64::new(0),
            disk: 0,
            disks: placements.len(),
        };
        let mut moved = Moved::default();
        let mut failed = Vec::new();
        for (digest, placement) in &placements {
            let brought = region.bring(digest, placement, &others, &flow);
            moved.frames += brought.moved.frames;
            moved.frame_bytes += brought.moved.frame_bytes;
            moved.manifest_bytes += brought.moved.manifest_bytes;
            moved.frames_present += brought.moved.frames_present;
            let why = brought.failed.iter();
            failed.extend(why.map(|(member, why)| format!("{}: {why}", member.shown())));
            flow.disk += 1;
        }
        match failed.is_empty() {
            true => Ok((moved, details(&placements))),
            false => Err(failed.join("; ")),
        }
    }

    async fn tell(
        &self,
        factory: &Arc<Factory>,
        state: RegionalReplicationState,
        progress: u8,
        details: &str,
    ) -> Result<(), StepError> {
        let permit = status_permit(&self.version, self.tenant);
        let status = json!({ "state": state, "progress": progress, "details": details });
        let region = self.region.folded();
        let told = change(&factory.catalog, &permit, |draft| {
            draft.properties["bullion"]["replication"][&region] = status.clone();
        });
        match told.await {
            // A version that was removed meanwhile has no status.
            Ok(()) | Err(CatalogError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Said only where it is not what was asked for word by word.
fn details(placements: &[(DiskDigest, Placement)]) -> String {
    let shared = placements.iter().map(|(_, placement)| placement);
    let shared = shared.filter(|placement| placement.shared > 0);
    let mut said: Vec<String> = shared.map(Placement::to_string).collect();
    // Mostly all disks of an image are placed alike.
    said.dedup();
    said.join("; ")
}

/// Azure's `replicationStatus` of a version: all target regions, in their order.
pub fn replication_status(version: &Resource) -> Value {
    let known: BTreeMap<String, Value> =
        serde_json::from_value(version.properties["bullion"]["replication"].clone())
            .unwrap_or_default();
    let summary: Vec<RegionalReplicationStatus> = profile(version)
        .target_regions
        .iter()
        .map(|region| {
            let found = known
                .get(&region.name.folded())
                .cloned()
                .unwrap_or_default();
            let state = serde_json::from_value(found["state"].clone());
            RegionalReplicationStatus {
                region: region.name.to_string(),
                state: state.unwrap_or(RegionalReplicationState::Unknown),
                details: found["details"].as_str().unwrap_or_default().to_owned(),
                progress: found["progress"]
                    .as_u64()
                    .and_then(|done| u8::try_from(done).ok())
                    .unwrap_or(0),
            }
        })
        .collect();
    let any = |state| summary.iter().any(|region| region.state == state);
    let aggregated_state = if any(RegionalReplicationState::Failed) {
        AggregatedReplicationState::Failed
    } else if any(RegionalReplicationState::Replicating) {
        AggregatedReplicationState::InProgress
    } else if any(RegionalReplicationState::Unknown) || summary.is_empty() {
        AggregatedReplicationState::Unknown
    } else {
        AggregatedReplicationState::Completed
    };
    serde_json::to_value(ReplicationStatus {
        aggregated_state,
        summary,
    })
    .unwrap_or_default()
}

fn profile(version: &Resource) -> PublishingProfile {
    serde_json::from_value(version.properties["publishingProfile"].clone()).unwrap_or_default()
}

/// What a version asks for, region by region, its own region first. One that is not ready asks for nothing yet, and a
/// soft-deleted one for one replica in each region.
pub fn copies(version: &Resource) -> Vec<Copy> {
    match version.state {
        ProvisioningState::Succeeded | ProvisioningState::Updating | ProvisioningState::Failed => {
            asked(version)
        }
        _ => Vec::new(),
    }
}

/// The same, whatever the version's state.
pub fn asked(version: &Resource) -> Vec<Copy> {
    let Some(disks) = Disks::of(version) else {
        return Vec::new();
    };
    let soft_deleted = !version.properties["bullion"]["softDeleted"].is_null();
    let home = Location::new(version.location.clone().unwrap_or_default());
    let from = place_of(version, &home);
    let profile = profile(version);
    let mut regions: Vec<&TargetRegion> = profile.target_regions.iter().collect();
    regions.sort_by_key(|region| region.name != home);
    regions
        .into_iter()
        .map(|region| Copy {
            version: version.id.clone(),
            tenant: version.tenant,
            disks: disks.clone(),
            home: home.clone(),
            from: from.clone(),
            place: place_in(region),
            want: match soft_deleted {
                true => Want::default(),
                false => want(region, &profile),
            },
            region: region.name.clone(),
        })
        .collect()
}

/// The disk encryption set that a target region's disks are encrypted by; one for all disks of a region.
pub fn set_of(region: &TargetRegion) -> Option<ResourceId> {
    let encryption = region.more.get("encryption")?;
    let of_data = encryption["dataDiskImages"].as_array();
    let mut disks =
        std::iter::once(&encryption["osDiskImage"]).chain(of_data.into_iter().flatten());
    disks.find_map(|disk| ResourceId::parse(disk["diskEncryptionSetId"].as_str()?).ok())
}

/// All sets that a version names.
pub fn sets_of(version: &Resource) -> Vec<ResourceId> {
    profile(version)
        .target_regions
        .iter()
        .filter_map(set_of)
        .collect()
}

fn place_in(region: &TargetRegion) -> Location {
    match set_of(region) {
        Some(set) => DomainName::of(&set).place(&region.name),
        None => region.name.clone(),
    }
}

/// Where a version's bits are in a region: in what all share, or in the domain of the key that the version asks for.
pub fn place_of(version: &Resource, region: &Location) -> Location {
    let profile = profile(version);
    let target = profile
        .target_regions
        .iter()
        .find(|one| one.name == *region);
    target.map_or_else(|| region.clone(), place_in)
}

/// The domains with keys of their own that a version is in; none for one that lies in what all share.
pub fn domains_of(version: &Resource) -> Vec<Location> {
    let profile = profile(version);
    let encrypted = profile
        .target_regions
        .iter()
        .filter(|one| set_of(one).is_some());
    encrypted.map(place_in).collect()
}

/// What a target region asks for, with what the profile says for all.
fn want(region: &TargetRegion, profile: &PublishingProfile) -> Want {
    let kind = region.storage_account_type.as_deref();
    let kind = Kind::of(kind.or(profile.storage_account_type.as_deref()));
    let count = region.regional_replica_count.or(profile.replica_count);
    let count = count
        .and_then(|count| u32::try_from(count).ok())
        .unwrap_or(1);
    Want::new(kind.unwrap_or_default(), count)
}

/// What a storage account type and a number of replicas ask for.
pub fn want_of(storage_account_type: Option<&str>, replicas: Option<i32>) -> Want {
    let replicas = replicas
        .and_then(|count| u32::try_from(count).ok())
        .unwrap_or(1);
    Want::new(Kind::of(storage_account_type).unwrap_or_default(), replicas)
}

/// Brings the disks of a new version to every region that it names. A region that fails keeps no other from getting
/// it; the failure names those that failed, and the reconciler tries them again.
pub async fn everywhere(
    factory: &Arc<Factory>,
    step: &StepHandle,
    version: &Resource,
) -> Result<(), StepError> {
    let copies = asked(version);
    if copies.is_empty() {
        return Err(StepError::failed("BadVersion", "the version has no disk"));
    }
    let mut failed = Vec::new();
    for copy in copies {
        let progress = |percent: u8| step.progress(format!("{}: {percent} %", copy.region));
        if let RegionResult::Failed { reason } = copy.run(factory, &progress).await? {
            failed.push(format!("region {}: {reason}", copy.region));
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    let message = format!("Replication failed in {}", failed.join("; "));
    Err(StepError::failed("ReplicationFailed", message))
}

/// A version that failed in some regions only is whole once they have it.
async fn heal(factory: &Arc<Factory>, version: &Resource) -> Result<(), StepError> {
    let permit = status_permit(&version.id, version.tenant);
    let told = change(&factory.catalog, &permit, |draft| {
        draft.state = ProvisioningState::Succeeded;
    });
    match told.await {
        Ok(()) | Err(CatalogError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// For writing down how far a version's replicas are.
fn status_permit(version: &ResourceId, tenant: TenantId) -> Permit {
    let action = Action::new(VERSION_WRITE);
    Permit::system(SystemReason::Reconcile, action, version.clone(), tenant)
}
