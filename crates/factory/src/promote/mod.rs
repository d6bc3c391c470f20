//! Promote: one image version goes to the next stage's gallery, with the same disks and the same number, once every
//! gate of that stage has said yes.
//!
//! A promotion acts as the stage's own principal in both tenants, whoever asked for it, and its rights are read anew
//! at every step. Nothing is built, and of the disk only what a region lacks is copied. Where a gate waits for people
//! the job ends, and an approval submits it again: what waits is a record, not a process.

mod decide;
mod expire;
mod gates;
mod plan;
mod record;
mod rights;
#[cfg(test)]
mod tests;
mod verify;

use std::sync::Arc;

use access::{Action, Permit, SystemReason};
use async_trait::async_trait;
use catalog::{CatalogError, Draft, Outcome, Precondition, Resource};
use jobs::{JobContext, JobError, JobKind, OnUndo, StepError, StepHandle};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use wire::promotion::{Gate, PromotionProperties, PromotionState};
use wire::{Location, ProvisioningState, ResourceId};

pub use decide::{Approved, OpinionError, approve, cancel, reject};
pub use expire::Promotions;
pub use plan::{
    PipelineProblem, Request, RequestError, check_pipeline, id_of, request, version_id,
};
pub(crate) use verify::{Held, Read, copies};
pub use verify::{Verified, VerifiedStage, verify};

use crate::disks::Disks;
use crate::factory::Factory;
use crate::publish;
use crate::replicate::{self, Copy, RegionResult, want_of};
use record::Record;

pub const PIPELINE_TYPE: &str = "Bullion.Factory/pipelines";
pub const PROMOTION_TYPE: &str = "Bullion.Factory/promotions";
/// On the image definition of a stage: the id of the one pipeline that promotes to it. Who may only ask for promotions
/// cannot bring a pipeline of their own, with fewer gates.
pub const PIPELINE_TAG: &str = "bullion-pipeline";
const PROMOTION_WRITE: &str = "Bullion.Factory/promotions/write";
const VERSION_WRITE: &str = "Microsoft.Compute/galleries/images/versions/write";
const VERSION_DELETE: &str = "Microsoft.Compute/galleries/images/versions/delete";
/// Failure codes that decide what becomes of the promotion.
const GATE_FAILED: &str = "GateFailed";
const REGION_UNAVAILABLE: &str = "RegionUnavailable";

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PromoteInput {
    pub promotion: ResourceId,
}

/// What takes a promotion's effects back.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum PromoteUndo {
    Unpublish { version: ResourceId },
}

/// The job.
pub struct Promote(pub Arc<Factory>);

/// What is promoted, as the first step found it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Source {
    disks: Disks,
    home: Location,
    /// What the build wrote down about the version.
    facts: Map<String, Value>,
    os_disk: Value,
    data_disks: Value,
    end_of_life: Value,
    tags: std::collections::BTreeMap<String, String>,
    published_date: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum GateOutcome {
    Passed,
    Waiting,
}

#[async_trait]
impl JobKind for Promote {
    const NAME: &'static str = "promote";
    type Input = PromoteInput;
    type Undo = PromoteUndo;

    async fn run(
        &self,
        cx: &mut JobContext<PromoteUndo>,
        input: PromoteInput,
    ) -> Result<Value, JobError> {
        let record = Record::of(&self.0, &input.promotion).await?;
        let promotion = record.read().await?;
        let nothing = || OnUndo::Nothing("it only looks, and writes down what it saw");
        let source = cx
            .step_once("source", nothing(), |step| {
                self.source(step, &record, &promotion)
            })
            .await?
            .value;
        for gate in &promotion.to.gates {
            let name = format!("gate {}", gate.name());
            let outcome = cx
                .step_once(&name, nothing(), |step| {
                    self.gate(step, &record, &promotion, gate, &source)
                })
                .await?;
            if outcome.value == GateOutcome::Waiting {
                return Ok(json!({ "waiting": gate.name() }));
            }
        }
        let home = home_of(&promotion)?;
        let bits = OnUndo::Nothing("a disk that no version names is the store's own matter");
        cx.step_once("copy", bits, |step| {
            self.bring(step, &record, &promotion, &source, &home)
        })
        .await?;
        let version = plan::version_id(&promotion.to, &promotion.version).map_err(refused)?;
        let undo = OnUndo::Call(PromoteUndo::Unpublish { version });
        let version = cx
            .step_once("publish", undo, |step| {
                self.publish(step, &record, &input.promotion, &promotion, &source)
            })
            .await?
            .value;
        let rest = OnUndo::Nothing("replicas are looked after by the replication reconciler");
        let behind = cx
            .step_once("replicate", rest, |step| {
                self.replicate(step, &record, &promotion, &source)
            })
            .await?
            .value;
        Ok(json!({
            "versionId": version,
            "diskDigest": source.disks.os.to_string(),
            "regionsBehind": behind,
        }))
    }

    async fn undo(
        &self,
        cx: &StepHandle,
        undo: PromoteUndo,
        _output: Option<Value>,
    ) -> Result<(), StepError> {
        let PromoteUndo::Unpublish { version } = undo;
        self.unpublish(&version, &cx.job().to_string()).await
    }

    async fn settle(
        &self,
        cx: &StepHandle,
        input: &PromoteInput,
        outcome: &Outcome,
    ) -> Result<(), StepError> {
        let record = Record::of(&self.0, &input.promotion).await?;
        record.settle(outcome, cx.clock().now()).await
    }
}

impl Promote {
    /// Reads the version of the stage before, and whether this pipeline may promote to this stage at all.
    async fn source(
        &self,
        step: StepHandle,
        record: &Record,
        promotion: &PromotionProperties,
    ) -> Result<Source, StepError> {
        let catalog = &self.0.catalog;
        let rights = rights::rights(&*self.0.auth, promotion).await?;
        check_binding(&self.0, &rights.own, promotion).await?;
        let version = match catalog.get(&rights.source).await {
            Ok(version) => version,
            Err(CatalogError::NotFound { id }) => {
                let message = format!(
                    "version {} is not in the stage `{}`; promote it there first",
                    promotion.version, promotion.from.name
                );
                let found = CatalogError::NotFound { id };
                return Err(StepError::failed("ResourceNotFound", message).because(found));
            }
            Err(error) => return Err(error.into()),
        };
        let source = source_of(&version, step.clock().now())?;
        let proof = self
            .0
            .proof_for_use(&rights.source, &version.id, &source.disks.os);
        let proof = proof.await?;
        step.log(match proof {
            Some(_) => "the signed provenance is about this disk",
            None => "there is no provenance of this disk",
        });
        let digest = source.disks.os.to_string();
        let built_by = source.facts.get("builtBy").cloned().unwrap_or_default();
        let built_by = serde_json::from_value(built_by).ok();
        record
            .change(|promotion| {
                promotion.disk_digest = Some(digest.clone());
                promotion.built_by = built_by;
            })
            .await?;
        step.log(format!(
            "version {} is the disk {digest}",
            promotion.version
        ));
        Ok(source)
    }

    async fn gate(
        &self,
        step: StepHandle,
        record: &Record,
        promotion: &PromotionProperties,
        gate: &Gate,
        source: &Source,
    ) -> Result<GateOutcome, StepError> {
        // Consent or role withdrawn since the step before: not even a gate is asked any more.
        let rights = rights::rights(&*self.0.auth, promotion).await?;
        if let Gate::DeployAndCheck { region, .. } = gate {
            self.bring(step.clone(), record, promotion, source, region)
                .await?;
        }
        gates::ask(&self.0, &step, record, &rights.own, gate, source).await
    }

    /// Makes sure that a region of the stage holds the disk. A region that cannot is tried again.
    async fn bring(
        &self,
        step: StepHandle,
        record: &Record,
        promotion: &PromotionProperties,
        source: &Source,
        region: &Location,
    ) -> Result<RegionResult, StepError> {
        let rights = rights::rights(&*self.0.auth, promotion).await?;
        let copy = copy_to(promotion, &rights.own, &source.disks, &source.home, region);
        let progress = |percent: u8| step.progress(format!("{region}: {percent} %"));
        match copy.run(&self.0, &progress).await? {
            RegionResult::Failed { reason } => Err(StepError::transient(
                REGION_UNAVAILABLE,
                format!("region {region}: {reason}"),
            )),
            done => {
                step.detail(serde_json::to_value(&done).unwrap_or_default());
                record.copied(region, &done, step.clock().now()).await?;
                Ok(done)
            }
        }
    }

    /// Makes the version a resource of the stage, with the disk and number that it has in the stage before.
    async fn publish(
        &self,
        step: StepHandle,
        record: &Record,
        id: &ResourceId,
        promotion: &PromotionProperties,
        source: &Source,
    ) -> Result<ResourceId, StepError> {
        let catalog = &self.0.catalog;
        let state = record.read().await?.state;
        if state.ended() && state != PromotionState::Succeeded {
            // Whoever ended it was told that it ended: nothing may come of it any more.
            return Err(StepError::failed("Conflict", "the promotion has ended"));
        }
        let rights = rights::rights(&*self.0.auth, promotion).await?;
        check_binding(&self.0, &rights.own, promotion).await?;
        let there = catalog.get(&rights.source).await?;
        if Disks::of(&there).as_ref() != Some(&source.disks) {
            let message = format!("`{}` has another disk than before", there.id);
            return Err(StepError::failed("Conflict", message));
        }
        self.0
            .proof_for_use(&rights.source, &there.id, &source.disks.os)
            .await?;
        let own = rights.own;
        let draft = draft(id, promotion, source, &step.job().to_string());
        if !publish::is_there(catalog, &own).await? {
            publish::ask(&*self.0.ask, own.tenant(), own.scope(), &draft).await?;
            match catalog.put(&own, draft, Precondition::Absent).await {
                Ok(put) => {
                    step.log(format!("published {}", put.resource.id));
                    return Ok(put.resource.id);
                }
                Err(CatalogError::Precondition { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let there = catalog.get(&own.to_read_own()).await?;
        if Disks::of(&there).as_ref() == Some(&source.disks) {
            step.log(format!("{} is there, with this disk", there.id));
            return Ok(there.id);
        }
        let message = format!("`{}` is there with another disk", there.id);
        Err(StepError::failed("Conflict", message))
    }

    /// The stage's other regions. One that fails holds up nobody: the reconciler goes on with it.
    async fn replicate(
        &self,
        step: StepHandle,
        record: &Record,
        promotion: &PromotionProperties,
        source: &Source,
    ) -> Result<Vec<String>, StepError> {
        let rights = rights::rights(&*self.0.auth, promotion).await?;
        let home = home_of(promotion)?;
        let mut behind = Vec::new();
        for region in &promotion.to.target_regions {
            if step.cancelled() {
                return Err(StepError::canceled());
            }
            let mut copy = copy_to(promotion, &rights.own, &source.disks, &home, &region.name);
            copy.want = want_of(
                region.storage_account_type.as_deref(),
                Some(region.replica_count),
            );
            let name = &region.name;
            let progress = |percent: u8| step.progress(format!("{name}: {percent} %"));
            let done = copy.run(&self.0, &progress).await?;
            if let RegionResult::Failed { reason } = &done {
                step.log(format!("region {name} is behind: {reason}"));
                behind.push(name.to_string());
            }
            record.copied(name, &done, step.clock().now()).await?;
        }
        Ok(behind)
    }

    /// Takes the version back if this job made it. Under the system's right: what was begun is taken back even where
    /// the stage's principal lost its own.
    async fn unpublish(&self, version: &ResourceId, job: &str) -> Result<(), StepError> {
        let tenant = record::tenant_of(&self.0, version).await?;
        let action = Action::new(VERSION_DELETE);
        let permit = Permit::system(SystemReason::JobStatus, action, version.clone(), tenant);
        let there = match self.0.catalog.get(&permit.to_read_own()).await {
            Ok(there) => there,
            Err(CatalogError::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let made_by = there.properties.pointer("/bullion/promotion/job");
        if made_by.and_then(Value::as_str) != Some(job) {
            return Ok(());
        }
        let same = Precondition::Match(there.etag);
        match self.0.catalog.delete(&permit, same).await {
            Ok(_) | Err(CatalogError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// The stage's image definition.
async fn definition(factory: &Factory, own: &Permit) -> Result<Resource, StepError> {
    let definition = own
        .scope()
        .parent()
        .and_then(|id| own.to_read_ancestor(&id));
    let definition = definition.ok_or_else(|| refused(RequestError::Broken))?;
    Ok(factory.catalog.get(&definition).await?)
}

/// The stage's definition says which pipeline promotes to it.
async fn check_binding(
    factory: &Factory,
    own: &Permit,
    promotion: &PromotionProperties,
) -> Result<(), StepError> {
    let definition = definition(factory, own).await?;
    let bound = definition.tags.get(PIPELINE_TAG);
    if bound.is_some_and(|bound| bound.eq_ignore_ascii_case(&promotion.pipeline)) {
        return Ok(());
    }
    let message = format!(
        "the image definition `{}` does not name the pipeline `{}` in its tag `{PIPELINE_TAG}`",
        definition.id, promotion.pipeline
    );
    Err(StepError::failed("Conflict", message))
}

fn refused(error: RequestError) -> StepError {
    StepError::failed("BadRequest", error.to_string())
}

/// Where the stage keeps its versions first.
fn home_of(promotion: &PromotionProperties) -> Result<Location, StepError> {
    let first = promotion.to.target_regions.first();
    let first = first.map(|region| region.name.clone());
    first.ok_or_else(|| refused(RequestError::Broken))
}

fn copy_to(
    promotion: &PromotionProperties,
    own: &Permit,
    disks: &Disks,
    home: &Location,
    region: &Location,
) -> Copy {
    let wanted = promotion
        .to
        .target_regions
        .iter()
        .find(|wanted| wanted.name.folded() == region.folded());
    Copy {
        version: own.scope().clone(),
        tenant: own.tenant(),
        disks: disks.clone(),
        home: home.clone(),
        from: home.clone(),
        region: region.clone(),
        place: region.clone(),
        want: want_of(
            wanted.and_then(|wanted| wanted.storage_account_type.as_deref()),
            wanted.map(|wanted| wanted.replica_count),
        ),
    }
}

fn source_of(version: &Resource, now: jiff::Timestamp) -> Result<Source, StepError> {
    let disks = Disks::of(version).filter(|_| version.state == ProvisioningState::Succeeded);
    let disks = disks.ok_or_else(|| {
        let message = format!("`{}` is not ready ({})", version.id, version.state.as_str());
        StepError::failed("Conflict", message)
    })?;
    if !replicate::domains_of(version).is_empty() {
        let message = format!(
            "`{}` has a key of its own, and goes into no other version",
            version.id
        );
        return Err(StepError::failed("OperationNotAllowed", message));
    }
    let mut facts = version.properties["bullion"]
        .as_object()
        .cloned()
        .unwrap_or_default();
    for own in ["replication", "allocation", "home", "promotion"] {
        facts.remove(own);
    }
    // Whoever built it stays known in every stage: they never approve it.
    facts.entry("builtBy").or_insert_with(
        || json!({ "tenant": version.tenant, "principal": version.system.created_by }),
    );
    let now = now.round(jiff::Unit::Second).unwrap_or(now);
    Ok(Source {
        disks,
        home: Location::new(version.location.clone().unwrap_or_default()),
        facts,
        os_disk: version.properties["storageProfile"]["osDiskImage"].clone(),
        data_disks: data_disks_of(version),
        end_of_life: version.properties["publishingProfile"]["endOfLifeDate"].clone(),
        tags: version.tags.clone(),
        published_date: now.to_string(),
    })
}

/// What the version shows of its data disks, without where they came from: that is no source of the copy.
fn data_disks_of(version: &Resource) -> Value {
    let mut shown = version.properties["storageProfile"]["dataDiskImages"].clone();
    for disk in shown.as_array_mut().into_iter().flatten() {
        if let Some(disk) = disk.as_object_mut() {
            disk.remove("source");
        }
    }
    shown
}

fn draft(id: &ResourceId, promotion: &PromotionProperties, source: &Source, job: &str) -> Draft {
    let regions: Vec<Value> = promotion
        .to
        .target_regions
        .iter()
        .map(|region| {
            json!({
                "name": region.name,
                "regionalReplicaCount": region.replica_count,
                "storageAccountType": region.storage_account_type.as_deref().unwrap_or("Standard_LRS"),
            })
        })
        .collect();
    let home = promotion.to.target_regions.first();
    let home = home.map_or_else(|| source.home.clone(), |region| region.name.clone());
    let mut facts = source.facts.clone();
    facts.insert("home".into(), json!(home));
    facts.insert("copiedFrom".into(), json!(promotion.source_version_id));
    facts.insert("promotion".into(), json!({ "id": id, "job": job }));
    facts.insert("replication".into(), json!({}));
    let mut properties = json!({
        "publishingProfile": {
            "targetRegions": regions,
            "replicaCount": 1,
            "excludeFromLatest": false,
            "publishedDate": source.published_date,
            "storageAccountType": "Standard_LRS",
            "replicationMode": "Full",
        },
        "storageProfile": {
            "source": { "id": promotion.source_version_id },
            "osDiskImage": source.os_disk,
        },
        "safetyProfile": { "reportedForPolicyViolation": false },
        "bullion": facts,
    });
    if !source.disks.data.is_empty() {
        properties["storageProfile"]["dataDiskImages"] = source.data_disks.clone();
    }
    if !source.end_of_life.is_null() {
        properties["publishingProfile"]["endOfLifeDate"] = source.end_of_life.clone();
    }
    Draft::new(properties)
        .location(home.as_str())
        .tags(source.tags.clone())
        .state(ProvisioningState::Succeeded)
}

/// While a job with this text has not ended, a promotion is worked on.
pub fn exclusive(promotion: &ResourceId) -> String {
    format!("promotion {}", promotion.folded())
}
