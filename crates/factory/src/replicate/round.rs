//! The reconciler: what every version asks for against what is there. Copies run side by side, small
//! ones first, so that a large one holds up nobody; one that fails is tried again after a while that
//! grows, and keeps nothing else waiting.
//!
//! A pass looks at what was written since the last one, at what failed and is due, and at a stretch of all others; at
//! all of them again when a store came or went.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use access::{Action, Permit, SystemReason};
use async_trait::async_trait;
use catalog::{Position, Reading, Resource, Round, Stretch, later};
use jiff::Timestamp;
use jobs::{Cancel, Reconciler, StepError};
use serde_json::json;
use tokio::task::JoinSet;
use wire::compute::RegionalReplicationState;
use wire::{ProvisioningState, ResourceId, ResourceType, TenantId};

use super::{Copy, RegionResult, copies, heal};
use crate::factory::Factory;
use crate::publish::{VERSION_READ, VERSION_TYPE};

/// The reconciler's name, for nudges.
pub const RECONCILER: &str = "replicate";
const PERIOD: Duration = Duration::from_secs(60);
/// Copies at one time; those that a job waits for are not among them.
const AT_ONCE: usize = 4;
/// Until a failed copy is tried again: this, then twice that, up to the longest.
const FIRST_WAIT: Duration = Duration::from_secs(30);
const LONGEST_WAIT: Duration = Duration::from_secs(30 * 60);

/// Failures so far of one disk in one region, and when it may be tried again.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    tenant: TenantId,
    failures: u32,
    until: Timestamp,
}

/// What one pass leaves to the next.
#[derive(Debug, Default)]
struct Progress {
    position: Position,
    /// The stores that could be used, by region, when they were last looked at.
    stores: BTreeSet<String>,
    waiting: BTreeMap<(ResourceId, String), Waiting>,
}

/// What a pass has to do.
#[derive(Debug, Default)]
struct Due {
    /// What is not there and may be tried now, with the bytes that it lacks.
    copies: Vec<(u64, Copy)>,
    /// Versions that failed; they are whole once they have all.
    failed: Vec<Resource>,
}

/// Brings what is there to what is wanted, for all versions of all tenants.
pub struct Replicate {
    factory: Arc<Factory>,
    progress: Mutex<Progress>,
}

impl Replicate {
    pub fn new(factory: Arc<Factory>) -> Replicate {
        Replicate {
            factory,
            progress: Mutex::default(),
        }
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Small ones first.
    async fn due(&self) -> Result<Due, Box<dyn Error + Send + Sync>> {
        let factory = &self.factory;
        let (position, again) = self.begin();
        let tenants = factory.auth.tenants().await?;
        let reading = Reading {
            catalog: &*factory.catalog,
            feed: &*factory.feed,
            kind: ResourceType::new(VERSION_TYPE),
            tenants: tenants.iter().map(|tenant| tenant.tenant).collect(),
            permit: &reading,
            stretch: Stretch::default(),
        };
        let mut round = Round::begin(reading, position).await?;
        for (tenant, version) in again {
            round.also(tenant, version);
        }
        let mut due = Due::default();
        while let Some(versions) = round.next().await? {
            for version in versions {
                self.look(version, &mut due).await?;
            }
        }
        due.copies.sort_by_key(|(lacks, _)| *lacks);
        self.progress().position = round.end();
        Ok(due)
    }

    /// Where the pass begins, and what failed before and is due.
    fn begin(&self) -> (Position, Vec<(TenantId, ResourceId)>) {
        let stores = self.factory.regions.usable();
        let now = self.factory.clock.now();
        let mut progress = self.progress();
        if progress.stores != stores {
            progress.stores = stores;
            progress.position.look_again();
        }
        let waiting = progress.waiting.iter();
        let again = waiting
            .filter(|(_, waiting)| waiting.until <= now)
            .map(|((version, _), waiting)| (waiting.tenant, version.clone()))
            .collect();
        (progress.position.clone(), again)
    }

    async fn look(&self, version: Resource, due: &mut Due) -> Result<(), StepError> {
        for copy in copies(&version) {
            if self.may_be_tried(&copy)
                && let Some(lacks) = self.lacks(&version, &copy).await?
            {
                due.copies.push((lacks, copy));
            }
        }
        if version.state == ProvisioningState::Failed {
            due.failed.push(version);
        }
        Ok(())
    }

    /// A version that failed in some regions only is whole once they have it.
    async fn heal_whole(&self, failed: Vec<Resource>) -> Result<(), StepError> {
        for version in failed {
            let (regions, wanted) = (Arc::clone(&self.factory.regions), copies(&version));
            let whole = crate::pipeline::blocking(move || {
                Ok(!wanted.is_empty() && wanted.iter().all(|copy| copy.is_there(&regions)))
            });
            if whole.await? {
                heal(&self.factory, &version).await?;
            }
        }
        Ok(())
    }

    /// Bytes that a region lacks of what a version asks for; `None` if it has all and says so.
    async fn lacks(&self, version: &Resource, copy: &Copy) -> Result<Option<u64>, StepError> {
        let told = &version.properties["bullion"]["replication"][copy.region.folded()];
        let known = told["state"] == json!(RegionalReplicationState::Completed);
        let (regions, wanted) = (Arc::clone(&self.factory.regions), copy.clone());
        let details = told["details"].as_str().unwrap_or_default().to_owned();
        crate::pipeline::blocking(move || {
            Ok(match wanted.is_there(&regions) {
                // More or fewer replicas may share the same stores.
                true if known && wanted.placed(&regions) == details => None,
                true => Some(0),
                false => Some(wanted.lacks(&regions)),
            })
        })
        .await
    }

    fn may_be_tried(&self, copy: &Copy) -> bool {
        let key = (copy.version.clone(), copy.region.folded());
        let known = self.progress().waiting.get(&key).copied();
        known.is_none_or(|known| known.until <= self.factory.clock.now())
    }

    fn note(&self, copy: &Copy, failed: bool) {
        let waiting = &mut self.progress().waiting;
        let key = (copy.version.clone(), copy.region.folded());
        if !failed {
            waiting.remove(&key);
            return;
        }
        let failures = waiting.get(&key).map_or(0, |known| known.failures);
        let wait = FIRST_WAIT
            .saturating_mul(1 << failures.min(10))
            .min(LONGEST_WAIT);
        let entry = Waiting {
            tenant: copy.tenant,
            failures: failures + 1,
            until: later(self.factory.clock.now(), wait),
        };
        waiting.insert(key, entry);
    }
}

fn reading(tenant: TenantId) -> Permit {
    let action = Action::new(VERSION_READ);
    Permit::system(SystemReason::Reconcile, action, ResourceId::root(), tenant)
}

#[async_trait]
impl Reconciler for Replicate {
    fn name(&self) -> &'static str {
        RECONCILER
    }

    fn period(&self) -> Duration {
        PERIOD
    }

    async fn reconcile(&self, stop: &Cancel) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.factory.look_for_regions().await;
        let Due { copies, failed } = self.due().await?;
        let mut due = copies.into_iter();
        let mut running = JoinSet::new();
        let mut first_error: Option<StepError> = None;
        loop {
            while running.len() < AT_ONCE && !stop.is_raised() {
                let Some((_, copy)) = due.next() else { break };
                let factory = Arc::clone(&self.factory);
                running.spawn(async move {
                    let result = copy.run(&factory, &|_| {}).await;
                    (copy, result)
                });
            }
            let Some(done) = running.join_next().await else {
                break;
            };
            let (copy, result) = done?;
            match result {
                Ok(RegionResult::Completed { .. }) => self.note(&copy, false),
                Ok(RegionResult::Failed { reason }) => {
                    tracing::warn!(version = %copy.version, region = %copy.region, reason, "a region has no replica");
                    self.note(&copy, true);
                }
                Err(error) => {
                    // The next region and version may do better; the pass still failed.
                    tracing::warn!(version = %copy.version, %error, "replication failed");
                    self.note(&copy, true);
                    first_error.get_or_insert(error);
                }
            }
        }
        self.heal_whole(failed).await?;
        first_error.map_or(Ok(()), |error| Err(error.into()))
    }
}
