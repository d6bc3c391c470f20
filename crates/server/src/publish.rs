//! A client's PUT of an image version: where an existing one is replicated, or a new one made from another.
//!
//! A new version has the same disk as its source, so nothing is copied but what a region lacks.

use std::sync::Arc;

use access::Action;
use async_trait::async_trait;
use catalog::{Catalog, Draft, NewJob, Outcome, Precondition, Resource};
use jiff::{Timestamp, Unit};
use jobs::{JobContext, JobError, JobKind, NoUndo, OnUndo, StepError, StepHandle};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use wire::{ArmError, ErrorCode, ProvisioningState, ResourceId};

use crate::body::ResourceBody;
use crate::errors;
use crate::exchange::Reply;
use crate::operation::Call;
use crate::resources::{put_reply_of, store, submit_with, tracked, versions};
use crate::state::Server;
use crate::work::Work;

const WRITE: &str = "Microsoft.Compute/galleries/images/versions/write";
/// What a copy takes over: it is the same disk, from the same build.
const FACTS: &str = "bullion";

/// Regions, counts and dates may change; the replication reconciler brings the stores to it.
pub async fn update(
    server: &Arc<Server>,
    call: &Call,
    old: &Resource,
    body: ResourceBody,
    location: &str,
) -> Result<Reply, ArmError> {
    let draft = tracked(body, location, Some(old)).state(old.state);
    let put = store(server, call, Some(old), draft).await?;
    server.work.nudge_replication();
    Ok(put_reply_of(put.created, versions::shown(&put.resource)))
}

pub async fn create(
    server: &Arc<Server>,
    call: &Call,
    mut body: ResourceBody,
    location: &str,
) -> Result<Reply, ArmError> {
    let source = source(server, call).await?;
    let mut facts = source.properties.get(FACTS).cloned().unwrap_or_default();
    if source.state != ProvisioningState::Succeeded || facts.get("diskDigest").is_none() {
        return Err(errors::conflict(format!(
            "The source '{}' is not ready ({}).",
            source.id,
            source.state.as_str()
        )));
    }
    if let Some(facts) = facts.as_object_mut() {
        facts.remove("replication");
        facts.insert("copiedFrom".into(), source.id.to_string().into());
    }
    body.properties.insert(FACTS.into(), facts);
    for (key, value) in source.properties["storageProfile"]
        .as_object()
        .into_iter()
        .flatten()
    {
        let profile = body
            .properties
            .entry("storageProfile")
            .or_insert_with(|| json!({}));
        if profile.get(key).is_none() {
            profile[key] = value.clone();
        }
    }
    body.properties["publishingProfile"]["publishedDate"] = published_now().into();
    let draft = tracked(body, location, None).state(ProvisioningState::Creating);
    let job = NewJob {
        kind: PublishCopy::NAME.into(),
        input: json!({ "version": call.id }),
        exclusive: Some(format!("version {}", call.id.folded())),
        visible_at: Vec::new(),
    };
    let (put, job) = submit_with(server, call, None, draft, job).await?;
    let reply = put_reply_of(put.created, versions::shown(&put.resource));
    server.polled(reply, call, &call.id, job)
}

/// Whole seconds: clients parse at most six digits of a fraction.
fn published_now() -> String {
    let now = Timestamp::now();
    now.round(Unit::Second).unwrap_or(now).to_string()
}

/// The version that the body links to and the caller may read.
async fn source(server: &Server, call: &Call) -> Result<Resource, ArmError> {
    const PATH: &str = "properties.storageProfile.source.id";
    let Some(permit) = call.links.first() else {
        return Err(errors::invalid(
            PATH,
            "A new image version needs a source: the id of another gallery image version.",
        ));
    };
    let scope = permit.scope();
    if !scope.resource_type().is(versions::KIND) {
        return Err(errors::invalid(
            PATH,
            format!(
                "The source id: {scope} must either be a managed image, virtual machine or another \
                 gallery image version. This server takes gallery image versions."
            ),
        ));
    }
    server.catalog.get(&permit.to_read_own()).await.map_err(|_| {
        ArmError::new(
            ErrorCode::NotFound,
            format!(
                "Source {scope} is not found. Please check source exists, and is in the same region as \
                 gallery image version being created."
            ),
        )
        .with_target(PATH)
    })
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PublishCopyInput {
    pub version: ResourceId,
}

/// Brings the bits of a new version to every region of it; then the version may be used.
pub struct PublishCopy {
    pub catalog: Arc<dyn Catalog>,
    pub work: Arc<dyn Work>,
}

#[async_trait]
impl JobKind for PublishCopy {
    const NAME: &'static str = "publish-copy";
    type Input = PublishCopyInput;
    type Undo = NoUndo;

    async fn run(
        &self,
        cx: &mut JobContext<NoUndo>,
        input: PublishCopyInput,
    ) -> Result<Value, JobError> {
        let nothing = OnUndo::Nothing("replicas of a version that failed are deleted with it");
        cx.step_once("replicate", nothing, |step| {
            self.replicate(step, &input.version)
        })
        .await?;
        Ok(Value::Null)
    }

    async fn undo(
        &self,
        _cx: &StepHandle,
        undo: NoUndo,
        _output: Option<Value>,
    ) -> Result<(), StepError> {
        match undo {}
    }

    async fn settle(
        &self,
        cx: &StepHandle,
        input: &PublishCopyInput,
        outcome: &Outcome,
    ) -> Result<(), StepError> {
        let state = match outcome {
            Outcome::Succeeded(_) => ProvisioningState::Succeeded,
            Outcome::Failed(_) | Outcome::Canceled(_) => ProvisioningState::Failed,
        };
        let permit = cx.permit(&Action::new(WRITE), &input.version).await?;
        let version = self.catalog.get(&permit.to_read_own()).await?;
        let etag = Precondition::Match(version.etag.clone());
        let draft = Draft::from_resource(version).state(state);
        self.catalog.put(&permit, draft, etag).await?;
        Ok(())
    }
}

impl PublishCopy {
    async fn replicate(&self, step: StepHandle, version: &ResourceId) -> Result<(), StepError> {
        let permit = step.permit(&Action::new(WRITE), version).await?;
        let version = self.catalog.get(&permit.to_read_own()).await?;
        tokio::select! {
            copied = self.work.replicate(&step, &version) => copied,
            () = step.until_cancelled() => Err(StepError::canceled()),
        }
    }
}
