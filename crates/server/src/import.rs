//! The job that brings the bits of a new image, disk or snapshot into the stores, and what it shares with the one that
//! does so for a gallery version.
//!
//! A file is named by its blob and looked up when the job reads it. Under whose right is the jobs' matter.

use std::sync::Arc;

use access::{Action, Permit};
use async_trait::async_trait;
use catalog::{Catalog, CatalogError, Draft, NewJob, Outcome, Precondition, Resource};
use factory::import::{ImportSource, Imported};
use jobs::{JobContext, JobError, JobKind, NoUndo, OnUndo, StepError, StepHandle};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use wire::{Location, ProvisioningState, ResourceId};

use crate::blobs::Blobs;
use crate::resources::machines;
use crate::work::Work;

/// Writes of one resource that are tried against those of others.
const WRITES_MAX: usize = 4;
const GIB: u64 = 1 << 30;

/// Where bits come from that no resource has yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Origin {
    /// A file of the blob folder, by its name there.
    Blob(String),
    /// A new disk of so many bytes.
    Zeros(u64),
    /// The disk of a machine that does not run.
    Machine(ResourceId),
}

/// Brings bits in and writes down what they are.
#[derive(Clone)]
pub struct Importer {
    pub catalog: Arc<dyn Catalog>,
    pub work: Arc<dyn Work>,
    pub blobs: Option<Arc<Blobs>>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImportInput {
    pub resource: ResourceId,
    pub origin: Origin,
}

/// The job for everything but versions.
pub struct Import(pub Importer);

pub fn job(resource: &ResourceId, origin: &Origin) -> NewJob {
    NewJob {
        kind: Import::NAME.into(),
        input: json!({ "resource": resource, "origin": origin }),
        exclusive: Some(exclusive(resource, Some(origin), "import")),
        visible_at: Vec::new(),
    }
}

/// With what the job must be alone: a machine whose disk it reads, which must not start, or else its own resource.
pub fn exclusive(resource: &ResourceId, origin: Option<&Origin>, what: &str) -> String {
    match origin {
        Some(Origin::Machine(machine)) => machines::exclusive(machine),
        _ => format!("{what} {}", resource.folded()),
    }
}

/// What a disk's bytes are, as the resource that has them shows it.
pub fn facts(draft: &mut Draft, imported: &Imported) {
    let gib = imported.logical_bytes.div_ceil(GIB);
    let properties = &mut draft.properties;
    properties["bullion"]["diskDigest"] = imported.digest.to_string().into();
    properties["bullion"]["logicalBytes"] = imported.logical_bytes.into();
    if properties.get("publishingProfile").is_some() {
        properties["storageProfile"]["osDiskImage"]["sizeInGB"] = gib.into();
    } else if properties.get("creationData").is_some() {
        properties["diskSizeGB"] = gib.into();
        properties["diskSizeBytes"] = imported.logical_bytes.into();
    } else {
        properties["storageProfile"]["osDisk"]["diskSizeGB"] = gib.into();
    }
}

impl Importer {
    /// Takes the bits in, in the resource's own region, and writes down on it what they are.
    pub async fn bring(
        &self,
        step: StepHandle,
        resource: &ResourceId,
        origin: &Origin,
    ) -> Result<String, StepError> {
        let permit = write_permit(&step, resource).await?;
        let there = self.catalog.get(&permit.to_read_own()).await?;
        let region = Location::new(there.location.unwrap_or_default());
        let source = self.source(origin).await?;
        step.progress("reading the disk");
        let imported = tokio::select! {
            imported = self.work.import(&region, source) => imported?,
            () = step.until_cancelled() => return Err(StepError::canceled()),
        };
        change(&*self.catalog, &permit, |draft| facts(draft, &imported)).await?;
        Ok(imported.digest.to_string())
    }

    async fn source(&self, origin: &Origin) -> Result<ImportSource, StepError> {
        let name = match origin {
            Origin::Zeros(bytes) => return Ok(ImportSource::Zeros { bytes: *bytes }),
            Origin::Blob(name) => name,
            Origin::Machine(machine) => {
                let disk = self.work.machine_disk(machine).await;
                let message = format!("the disk of {} is not there, or in use", machine.name());
                let gone = || StepError::failed("OperationNotAllowed", message);
                return disk.map(ImportSource::Raw).ok_or_else(gone);
            }
        };
        let gone = |message: String| StepError::failed("BlobNotFound", message);
        match &self.blobs {
            Some(blobs) => blobs
                .path(name)
                .map(ImportSource::File)
                .map_err(|error| gone(error.to_string())),
            None => Err(gone("this server has no blob folder".into())),
        }
    }

    /// The resource's state after its job.
    pub async fn settle(
        &self,
        cx: &StepHandle,
        resource: &ResourceId,
        outcome: &Outcome,
    ) -> Result<(), StepError> {
        let state = match outcome {
            Outcome::Succeeded(_) => ProvisioningState::Succeeded,
            Outcome::Failed(_) | Outcome::Canceled(_) => ProvisioningState::Failed,
        };
        let permit = write_permit(cx, resource).await?;
        change(&*self.catalog, &permit, |draft| draft.state = state).await
    }
}

async fn write_permit(step: &StepHandle, resource: &ResourceId) -> Result<Permit, StepError> {
    let action = Action::new(format!("{}/write", resource.resource_type()));
    step.permit(&action, resource).await
}

/// Changes the permit's resource, again where somebody wrote it meanwhile.
async fn change(
    catalog: &dyn Catalog,
    permit: &Permit,
    edit: impl Fn(&mut Draft),
) -> Result<(), StepError> {
    for attempt in 1.. {
        let old: Resource = catalog.get(&permit.to_read_own()).await?;
        let etag = Precondition::Match(old.etag.clone());
        let mut draft = Draft::from_resource(old);
        edit(&mut draft);
        match catalog.put(permit, draft, etag).await {
            Ok(_) => break,
            Err(CatalogError::Precondition { .. }) if attempt < WRITES_MAX => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[async_trait]
impl JobKind for Import {
    const NAME: &'static str = "import";
    type Input = ImportInput;
    type Undo = NoUndo;

    async fn run(
        &self,
        cx: &mut JobContext<NoUndo>,
        input: ImportInput,
    ) -> Result<Value, JobError> {
        let nothing = OnUndo::Nothing("bits that no resource names are the store's own matter");
        let digest = cx
            .step_once("import", nothing, |step| {
                self.0.bring(step, &input.resource, &input.origin)
            })
            .await?;
        Ok(json!({ "diskDigest": digest.value }))
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
        input: &ImportInput,
        outcome: &Outcome,
    ) -> Result<(), StepError> {
        self.0.settle(cx, &input.resource, outcome).await
    }
}
