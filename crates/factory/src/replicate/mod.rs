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
use jobs::{Cancel, Reconciler, StepError};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use store::{Moved, Store};
use tokio::sync::watch;
use wire::compute::{
    AggregatedReplicationState, PublishingProfile, RegionalReplicationState,
    RegionalReplicationStatus, ReplicationStatus,
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
        let action = Action::new(VERSION_WRITE);
        let permit = Permit::system(
            SystemReason::Reconcile,
            action,
            self.version.clone(),
            self.tenant,
        );
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
                for copy in copies(&version, tenant.tenant) {
                    if stop.is_raised() {
                        return Ok(());
                    }
                    if let Err(error) = bring(factory, &version, copy).await {
                        // The next region and version may do better; the pass still failed.
                        tracing::warn!(version = %version.id, error = %error, "replication failed");
                        first_error.get_or_insert(error);
                    }
                }
            }
        }
        first_error.map_or(Ok(()), |error| Err(error.into()))
    }
}

/// What a version asks for, region by region.
fn copies(version: &Resource, tenant: TenantId) -> Vec<Copy> {
    let digest = version.properties["bullion"]["diskDigest"].as_str();
    let Some(digest) = digest.and_then(|text| text.parse::<DiskDigest>().ok()) else {
        return Vec::new();
    };
    if version.state != ProvisioningState::Succeeded {
        return Vec::new();
    }
    let home = Location::new(version.location.clone().unwrap_or_default());
    let regions = profile(version).target_regions.into_iter();
    regions
        .map(|region| Copy {
            version: version.id.clone(),
            tenant,
            digest,
            home: home.clone(),
            spread: Spread::of(region.storage_account_type.as_deref()),
            region: region.name,
        })
        .collect()
}

/// Copies one disk to one region unless it is there and known to be.
async fn bring(factory: &Arc<Factory>, version: &Resource, copy: Copy) -> Result<(), StepError> {
    let state = &version.properties["bullion"]["replication"][copy.region.folded()]["state"];
    let known = *state == json!(RegionalReplicationState::Completed);
    let (regions, wanted) = (Arc::clone(&factory.regions), copy.clone());
    let there = crate::pipeline::blocking(move || Ok(wanted.is_there(&regions))).await?;
    if there && known {
        return Ok(());
    }
    if let RegionResult::Failed { reason } = copy.run(factory, &|_| {}).await? {
        tracing::warn!(version = %copy.version, region = %copy.region, reason, "a region has no replica");
    }
    Ok(())
}
