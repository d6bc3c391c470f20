//! Replicate: every region that a version names shall hold its disk. A run waits for it, and a
//! reconciler goes on with what a run did not get done; both do the same idempotent thing. One
//! region's failure is no other region's.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use access::{Action, Permit, SystemReason};
use async_trait::async_trait;
use catalog::{CatalogError, Resource};
use disk::DiskDigest;
use jobs::{Cancel, Reconciler, StepError, StepHandle};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use store::{Moved, Store};
use tokio::sync::watch;
use wire::compute::{
    AggregatedReplicationState, PublishingProfile, RegionalReplicationState,
    RegionalReplicationStatus, ReplicationStatus, TargetRegion,
};
use wire::{Location, ProvisioningState, ResourceId, TenantId};

use crate::factory::Factory;
use crate::pipeline::{chain, change};
use crate::publish::versions;
use crate::regions::{Regions, Spread};

/// The reconciler's name, for nudges.
pub const RECONCILER: &str = "replicate";
const PERIOD: Duration = Duration::from_secs(60);
const VERSION_READ: &str = "Microsoft.Compute/galleries/images/versions/read";
const VERSION_WRITE: &str = "Microsoft.Compute/galleries/images/versions/write";
/// Percent between two writes of how far a copy is.
const PROGRESS_STEP: u8 = 10;

/// One disk on its way to one region.
#[derive(Debug, Clone)]
pub struct Copy {
    pub version: ResourceId,
    pub tenant: TenantId,
    pub digest: DiskDigest,
    pub home: Location,
    pub region: Location,
    pub spread: Spread,
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
    /// Whether every zone that shall hold the disk does. Blocks.
    pub fn is_there(&self, regions: &Regions) -> bool {
        let stores = regions.spread(&self.region, self.spread);
        stores.is_ok_and(|stores| stores.iter().all(|(_, store)| store.has(&self.digest)))
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
        let (sender, mut percent) = watch::channel(0u8);
        let copied = self.copy(&factory.regions, sender);
        tokio::pin!(copied);
        let result = loop {
            tokio::select! {
                result = &mut copied => break result,
                Ok(()) = percent.changed() => {
                    let done = *percent.borrow_and_update();
                    progress(done);
                    self.tell(factory, RegionalReplicationState::Replicating, done, "").await?;
                }
            }
        };
        match result {
            Ok(moved) => {
                self.tell(factory, RegionalReplicationState::Completed, 100, "")
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
        regions: &Arc<Regions>,
        percent: watch::Sender<u8>,
    ) -> Result<Moved, String> {
        let (copy, regions) = (self.clone(), Arc::clone(regions));
        let done = tokio::task::spawn_blocking(move || copy.copy_blocking(&regions, &percent));
        done.await.map_err(|error| chain(&error))?
    }

    fn copy_blocking(
        &self,
        regions: &Regions,
        percent: &watch::Sender<u8>,
    ) -> Result<Moved, String> {
        let targets = regions
            .spread(&self.region, self.spread)
            .map_err(|error| chain(&error))?;
        let mut total = Moved::default();
        for (zone, target) in targets {
            let source = self.source(regions, &target)?;
            let moved = Store::replicate(&source, &target, &self.digest, &|progress| {
                let share = progress.bytes_done * 100 / progress.bytes_total.max(1);
                let share = u8::try_from(share.min(99)).unwrap_or(99);
                percent.send_if_modified(|last| {
                    let further = share >= last.saturating_add(PROGRESS_STEP);
                    if further {
                        *last = share;
                    }
                    further
                });
            });
            let moved = moved.map_err(|error| format!("zone {zone}: {}", chain(&error)))?;
            total.frames += moved.frames;
            total.frame_bytes += moved.frame_bytes;
            total.manifest_bytes += moved.manifest_bytes;
            total.frames_present += moved.frames_present;
        }
        Ok(total)
    }

    /// The home region's copy, or any other: a home that lost it is healed from where it went.
    fn source(&self, regions: &Regions, target: &Arc<Store>) -> Result<Arc<Store>, String> {
        if target.has(&self.digest) {
            return Ok(Arc::clone(target));
        }
        let elsewhere = || {
            regions
                .names()
                .into_iter()
                .find_map(|region| regions.holder(&region, &self.digest))
        };
        let holder = regions.holder(&self.home, &self.digest).or_else(elsewhere);
        holder.ok_or_else(|| format!("no region holds the disk {}", self.digest))
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

/// Brings what is there to what is wanted, for all versions of all tenants.
pub struct Replicate(pub Arc<Factory>);

#[async_trait]
impl Reconciler for Replicate {
    fn name(&self) -> &'static str {
        RECONCILER
    }

    fn period(&self) -> Duration {
        PERIOD
    }

    async fn reconcile(&self, stop: &Cancel) -> Result<(), Box<dyn Error + Send + Sync>> {
        let factory = &self.0;
        factory.look_for_regions().await;
        let mut first_error: Option<StepError> = None;
        for tenant in factory.auth.tenants().await? {
            let action = Action::new(VERSION_READ);
            let permit = Permit::system(
                SystemReason::Reconcile,
                action,
                ResourceId::root(),
                tenant.tenant,
            );
            for version in versions(&factory.catalog, &permit).await? {
                let copies = copies(&version, tenant.tenant);
                let mut whole = !copies.is_empty();
                for copy in copies {
                    if stop.is_raised() {
                        return Ok(());
                    }
                    match bring(factory, &version, copy).await {
                        Ok(there) => whole &= there,
                        Err(error) => {
                            // The next region and version may do better; the pass still failed.
                            tracing::warn!(version = %version.id, error = %error, "replication failed");
                            first_error.get_or_insert(error);
                            whole = false;
                        }
                    }
                }
                if whole && version.state == ProvisioningState::Failed {
                    heal(factory, &version).await?;
                }
            }
        }
        first_error.map_or(Ok(()), |error| Err(error.into()))
    }
}

/// What a version asks for, region by region, its own region first. Nothing while a job makes the version, or once it
/// is deleted.
fn copies(version: &Resource, tenant: TenantId) -> Vec<Copy> {
    match version.state {
        ProvisioningState::Succeeded | ProvisioningState::Failed => wanted(version, tenant),
        _ => Vec::new(),
    }
}

fn wanted(version: &Resource, tenant: TenantId) -> Vec<Copy> {
    let digest = version.properties["bullion"]["diskDigest"].as_str();
    let Some(digest) = digest.and_then(|text| text.parse::<DiskDigest>().ok()) else {
        return Vec::new();
    };
    let home = Location::new(version.location.clone().unwrap_or_default());
    let mut regions = profile(version).target_regions;
    regions.sort_by_key(|region| region.name != home);
    let copy = |region: TargetRegion| Copy {
        version: version.id.clone(),
        tenant,
        digest,
        home: home.clone(),
        spread: Spread::of(region.storage_account_type.as_deref()),
        region: region.name,
    };
    regions.into_iter().map(copy).collect()
}

/// Brings the disk of a new version to every region that it names. A region that fails keeps no other from getting
/// it; the failure names those that failed, and the reconciler tries them again.
pub async fn everywhere(
    factory: &Arc<Factory>,
    step: &StepHandle,
    version: &Resource,
) -> Result<(), StepError> {
    let copies = wanted(version, version.tenant);
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

/// Copies one disk to one region unless it is there and known to be. Whether it is there now.
async fn bring(factory: &Arc<Factory>, version: &Resource, copy: Copy) -> Result<bool, StepError> {
    let state = &version.properties["bullion"]["replication"][copy.region.folded()]["state"];
    let known = *state == json!(RegionalReplicationState::Completed);
    let (regions, wanted) = (Arc::clone(&factory.regions), copy.clone());
    let there = crate::pipeline::blocking(move || Ok(wanted.is_there(&regions))).await?;
    if there && known {
        return Ok(true);
    }
    if let RegionResult::Failed { reason } = copy.run(factory, &|_| {}).await? {
        tracing::warn!(version = %copy.version, region = %copy.region, reason, "a region has no replica");
        return Ok(false);
    }
    Ok(true)
}
