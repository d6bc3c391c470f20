//! The job that brings the bits of a new image, disk or snapshot into the stores, and what it shares with the one that
//! does so for a gallery version.
//!
//! A file is named by its blob and looked up when the job reads it. Under whose right is the jobs' matter.

use std::collections::BTreeMap;
use std::sync::Arc;

use access::{Action, Permit};
use async_trait::async_trait;
use catalog::{Catalog, CatalogError, Draft, NewJob, Outcome, Precondition, Resource};
use factory::import::{ImportSource, Imported, LocalDisk};
use jobs::{JobContext, JobError, JobKind, NoUndo, OnUndo, StepError, StepHandle};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use store::KeyFile;
use store::keys::{SealedTextError, is_sealed, open_text, seal_text};
use wire::{Location, ProvisioningState, ResourceId};

use crate::blobs::Blobs;
use crate::resources::{data_disks, machines};
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
    /// A file at another address. It may carry a signature, so it is shown nowhere.
    Web(SealedUri),
    /// A new disk of so many bytes.
    Zeros(u64),
    /// The disk that a machine boots from; it does not run.
    Machine(ResourceId),
    /// A data disk of a machine that does not run, by its number.
    MachineData { machine: ResourceId, lun: u32 },
}

/// An address as it is kept: sealed where it may carry a signature, so that no copy of the catalog reads what it opens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SealedUri(String);

/// What the sealed text is about, so that no address is taken for that of something else.
fn about(resource: &ResourceId) -> String {
    format!("address of a disk for {}", resource.folded())
}

impl SealedUri {
    /// `resource` is what gets the disk.
    pub fn seal(key: &KeyFile, resource: &ResourceId, uri: &str) -> Result<Self, SealedTextError> {
        match uri.contains('?') {
            true => seal_text(key, &about(resource), uri).map(SealedUri),
            false => Ok(SealedUri(uri.to_owned())),
        }
    }

    pub fn open(&self, key: &KeyFile, resource: &ResourceId) -> Result<String, StepError> {
        // What was asked of an earlier release is not sealed.
        if !is_sealed(&self.0) {
            return Ok(self.0.clone());
        }
        open_text(key, &about(resource), &self.0).map_err(|error| {
            let message = "the address with its signature was sealed by another server: ask that one, or give all servers \
                           of this database the same keys/catalog.key";
            StepError::failed("VhdNotFetched", message).because(error)
        })
    }
}

/// What of a resource's disks is to be brought in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Origins {
    /// Of the disk to boot from, or the only one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub os: Option<Origin>,
    /// Of data disks, by their numbers.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub data: BTreeMap<u32, Origin>,
}

impl Origins {
    pub fn is_empty(&self) -> bool {
        self.os.is_none() && self.data.is_empty()
    }

    fn all(&self) -> impl Iterator<Item = &Origin> {
        self.os.iter().chain(self.data.values())
    }
}

impl From<Origin> for Origins {
    fn from(origin: Origin) -> Origins {
        Origins {
            os: Some(origin),
            data: BTreeMap::new(),
        }
    }
}

/// Brings bits in and writes down what they are.
#[derive(Clone)]
pub struct Importer {
    pub catalog: Arc<dyn Catalog>,
    pub work: Arc<dyn Work>,
    pub blobs: Option<Arc<Blobs>>,
    /// What addresses are sealed with.
    pub seal: Arc<KeyFile>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImportInput {
    pub resource: ResourceId,
    pub origins: Origins,
}

/// The job for everything but versions.
pub struct Import(pub Importer);

pub fn job(resource: &ResourceId, origins: Origins) -> NewJob {
    let exclusive = Some(exclusive(resource, &origins, "import"));
    let input = ImportInput {
        resource: resource.clone(),
        origins,
    };
    NewJob {
        kind: Import::NAME.into(),
        input: json!(input),
        exclusive,
        visible_at: Vec::new(),
    }
}

/// With what the job must be alone: a machine whose disks it reads, which must not start, or else its own resource.
pub fn exclusive(resource: &ResourceId, origins: &Origins, what: &str) -> String {
    let machine = origins.all().find_map(|origin| match origin {
        Origin::Machine(machine) | Origin::MachineData { machine, .. } => Some(machine),
        Origin::Blob(_) | Origin::Web(_) | Origin::Zeros(_) => None,
    });
    match machine {
        Some(machine) => machines::exclusive(machine),
        None => format!("{what} {}", resource.folded()),
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
    /// Brings all disks in, each in a step of its own; the digest of the one to boot from, if that is among them.
    pub async fn bring_all(
        &self,
        cx: &mut JobContext<NoUndo>,
        resource: &ResourceId,
        origins: &Origins,
    ) -> Result<Option<String>, JobError> {
        let nothing = || OnUndo::Nothing("bits that no resource names are the store's own matter");
        let mut digest = None;
        if let Some(origin) = &origins.os {
            let step = |step| self.bring(step, resource, None, origin);
            digest = Some(cx.step_once("import", nothing(), step).await?.value);
        }
        for (lun, origin) in &origins.data {
            let step = |step| self.bring(step, resource, Some(*lun), origin);
            let name = format!("import data disk {lun}");
            cx.step_once(&name, nothing(), step).await?;
        }
        Ok(digest)
    }

    /// Takes the bits in, in the resource's own region, and writes down on it what they are.
    async fn bring(
        &self,
        step: StepHandle,
        resource: &ResourceId,
        lun: Option<u32>,
        origin: &Origin,
    ) -> Result<String, StepError> {
        let permit = write_permit(&step, resource).await?;
        let there = self.catalog.get(&permit.to_read_own()).await?;
        let region = Location::new(there.location.unwrap_or_default());
        let source = self.source(resource, origin).await?;
        step.progress("reading the disk");
        let imported = tokio::select! {
            imported = self.work.import(&region, source) => imported?,
            () = step.until_cancelled() => return Err(StepError::canceled()),
        };
        change(&*self.catalog, &permit, |draft| match lun {
            None => facts(draft, &imported),
            Some(lun) => data_disks::brought(&mut draft.properties, lun, &imported),
        })
        .await?;
        Ok(imported.digest.to_string())
    }

    async fn source(
        &self,
        resource: &ResourceId,
        origin: &Origin,
    ) -> Result<ImportSource, StepError> {
        let of_machine = async |machine: &ResourceId, lun| {
            let disk = self.work.machine_disk(machine, lun).await;
            let message = format!("a disk of {} is not there, or in use", machine.name());
            let gone = || StepError::failed("OperationNotAllowed", message);
            disk.map(ImportSource::Here).ok_or_else(gone)
        };
        let name = match origin {
            Origin::Zeros(bytes) => {
                return Ok(ImportSource::Here(LocalDisk::Zeros { bytes: *bytes }));
            }
            Origin::Web(uri) => return uri.open(&self.seal, resource).map(ImportSource::Web),
            Origin::Blob(name) => name,
            Origin::Machine(machine) => return of_machine(machine, None).await,
            Origin::MachineData { machine, lun } => return of_machine(machine, Some(*lun)).await,
        };
        let gone = |message: String| StepError::failed("BlobNotFound", message);
        match &self.blobs {
            Some(blobs) => blobs
                .path(name)
                .map(|path| ImportSource::Here(LocalDisk::File(path)))
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
        let brought = self.0.bring_all(cx, &input.resource, &input.origins);
        Ok(json!({ "diskDigest": brought.await? }))
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
