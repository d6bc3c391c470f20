//! An engine without tools and machines: regions are a list, jobs succeed at once.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use access::{Action, Permit, SystemReason};
use async_trait::async_trait;
use catalog::{Backend, Draft, NewJob, Precondition, Resource};
use factory::deploy::{ChangeDisksInput, PowerChange};
use factory::disks::DiskDigest;
use factory::domains::{DomainState, Erasure, Phase};
use factory::export::{ExportedImage, ImageFormat};
use factory::import::{ImportSource, Imported, LocalDisk};
use factory::pipeline::Base;
use factory::source::Product;
use jobs::{
    JobContext, JobError, JobKind, Jobs, NoUndo, OnUndo, Runner, RunnerBuilder, StepError,
    StepHandle,
};
use provenance::{PublicKey, SigningKey};
use serde_json::{Map, Value, json};
use wire::promotion::PromotionProperties;
use wire::{ArmError, ErrorCode, Location, ProvisioningState, ResourceId, TenantId};

use crate::engine::{self, Engine, EngineError, EngineParts};
use crate::work::{Begun, DomainAsked, Work};

/// Of every disk that is taken in.
pub const DIGEST: &str = "bd1:0101010101010101010101010101010101010101010101010101010101010101";

/// What is exported of every version.
pub fn exported_disk() -> Vec<u8> {
    (0..1u32 << 20).map(|at| (at / 251) as u8).collect()
}

/// Each byte of the seed of the first key; of the keys after it, one more each.
const FIRST_SEED: u8 = 7;

pub struct FakeWork {
    catalog: Arc<dyn Backend>,
    /// How often the key for statements was replaced.
    key_rotations: AtomicU8,
    regions: Mutex<Vec<Location>>,
    domains: Mutex<BTreeMap<String, DomainState>>,
}

pub struct FakeEngine {
    work: Arc<FakeWork>,
    runner: Runner,
}

pub async fn engine(parts: EngineParts) -> Result<Box<dyn Engine>, EngineError> {
    let (catalog, blobs) = (parts.catalog, parts.blobs);
    let work = Arc::new(FakeWork {
        catalog: Arc::clone(&catalog),
        key_rotations: AtomicU8::new(0),
        regions: Mutex::new(vec![Location::new("north"), Location::new("south")]),
        domains: Mutex::default(),
    });
    let mut builder = RunnerBuilder::new(catalog.clone(), catalog.clone());
    builder.register(Build(catalog.clone()));
    builder.register(Deploy(catalog.clone()));
    builder.register(SwitchOn(catalog.clone()));
    builder.register(SwitchOff(catalog.clone()));
    builder.register(Remove(catalog.clone()));
    builder.register(Promote(catalog.clone()));
    builder.register(VerifyBuild(catalog.clone()));
    engine::register(&mut builder, catalog, work.clone(), blobs, parts.seal);
    let runner = builder.start();
    Ok(Box::new(FakeEngine { work, runner }))
}

#[async_trait]
impl Engine for FakeEngine {
    fn work(&self) -> Arc<dyn Work> {
        self.work.clone()
    }

    fn jobs(&self) -> Jobs {
        self.runner.jobs()
    }

    async fn acceleration(&self) -> String {
        "not at all".into()
    }

    async fn stop(self: Box<Self>) {
        self.runner.stop(Duration::from_secs(5)).await;
    }
}

struct Build(Arc<dyn Backend>);
struct Deploy(Arc<dyn Backend>);
struct SwitchOn(Arc<dyn Backend>);
struct SwitchOff(Arc<dyn Backend>);
struct Remove(Arc<dyn Backend>);
struct Promote(Arc<dyn Backend>);
struct VerifyBuild(Arc<dyn Backend>);

/// A job of one step, which logs a line and changes the resource that the job works for.
macro_rules! one_step {
    ($kind:ident, $name:literal, $action:literal, |$catalog:ident, $permit:ident| $act:expr) => {
        #[async_trait]
        impl JobKind for $kind {
            const NAME: &'static str = $name;
            type Input = ResourceId;
            type Undo = NoUndo;

            async fn run(
                &self,
                cx: &mut JobContext<NoUndo>,
                scope: ResourceId,
            ) -> Result<Value, JobError> {
                let $catalog = self.0.clone();
                cx.step_once("it", OnUndo::Nothing("a fake"), |step| async move {
                    step.log("one line");
                    let $permit = step.permit(&Action::new($action), &scope).await?;
                    $act;
                    Ok(())
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
        }
    };
}

one_step!(
    Build,
    "build-run",
    "Microsoft.VirtualMachineImages/imageTemplates/read",
    |catalog, permit| { catalog.get(&permit).await? }
);
one_step!(
    Deploy,
    "deploy-machine",
    "Microsoft.Compute/virtualMachines/write",
    |catalog, permit| {
        let machine = catalog.get(&permit).await?;
        let draft = Draft::from_resource(machine).state(ProvisioningState::Succeeded);
        catalog.put(&permit, draft, Precondition::None).await?
    }
);
one_step!(
    SwitchOn,
    "switch-on",
    "Microsoft.Compute/virtualMachines/write",
    |catalog, permit| {
        let mut draft = Draft::from_resource(catalog.get(&permit).await?);
        draft.properties["bullion"]["powerState"] = "running".into();
        catalog.put(&permit, draft, Precondition::None).await?
    }
);
one_step!(
    SwitchOff,
    "switch-off",
    "Microsoft.Compute/virtualMachines/write",
    |catalog, permit| {
        let mut draft = Draft::from_resource(catalog.get(&permit).await?);
        draft.state = ProvisioningState::Succeeded;
        draft.properties["bullion"]["powerState"] = "deallocated".into();
        catalog.put(&permit, draft, Precondition::None).await?
    }
);
one_step!(
    Remove,
    "delete-machine",
    "Microsoft.Compute/virtualMachines/delete",
    |catalog, permit| { catalog.delete(&permit, Precondition::None).await? }
);

one_step!(
    VerifyBuild,
    "verify-build",
    "Microsoft.Compute/galleries/images/versions/verifyBuild/action",
    |catalog, permit| { catalog.get(&permit.to_read_own()).await? }
);

one_step!(
    Promote,
    "promote",
    "Bullion.Factory/promotions/write",
    |catalog, permit| {
        let promotion = catalog.get(&permit).await?;
        let mut draft = Draft::from_resource(promotion);
        let approved = draft.properties["approvals"] != json!([]);
        let waits = !approved && draft.properties["gates"] != json!([]);
        if waits {
            draft.properties["gates"][0]["state"] = "Waiting".into();
        }
        // Every version here was built by the operator.
        let builder = catalog::AuthStore::installation(&*catalog).await?;
        draft.properties["builtBy"] = builder.map_or(
            Value::Null,
            |builder| json!({ "tenant": builder.tenant, "principal": builder.operator_principal }),
        );
        draft.properties["state"] = if waits {
            "WaitingForApproval"
        } else {
            "Succeeded"
        }
        .into();
        catalog.put(&permit, draft, Precondition::None).await?
    }
);

fn new_job(kind: &str, scope: &ResourceId) -> NewJob {
    NewJob {
        kind: kind.into(),
        input: json!(scope),
        exclusive: None,
        visible_at: Vec::new(),
    }
}

#[async_trait]
impl Work for FakeWork {
    fn regions(&self) -> Vec<Location> {
        self.regions.lock().unwrap().clone()
    }

    /// The first region has two zones, the others one.
    fn zones(&self, region: &Location) -> usize {
        let regions = self.regions.lock().unwrap();
        match regions.iter().position(|known| known == region) {
            Some(0) => 2,
            Some(_) => 1,
            None => 0,
        }
    }

    fn define_region(&self, region: &Location, _zones: &[String]) -> Result<(), ArmError> {
        let mut regions = self.regions.lock().unwrap();
        if !regions.contains(region) {
            regions.push(region.clone());
        }
        Ok(())
    }

    fn check_storage(&self, _region: &Location, kind: &str) -> Result<(), String> {
        match store::region::Kind::of(Some(kind)) {
            Some(_) => Ok(()),
            None => Err(format!("There is no storage account type '{kind}'.")),
        }
    }

    fn region_state(&self, _region: &Location) -> Value {
        Value::Null
    }

    fn kept_machine(&self, _run: &ResourceId) -> Option<Value> {
        None
    }

    async fn run_in_kept(&self, _run: &ResourceId, lines: &str) -> Option<Result<Value, String>> {
        match lines {
            "true" => Some(Ok(json!({ "exitCode": 0, "stdout": "", "stderr": "" }))),
            "hang" => Some(Err("it was cut".to_owned())),
            _ => None,
        }
    }

    async fn release_machine(&self, _run: &ResourceId) -> bool {
        false
    }

    fn check_template(&self, properties: &Map<String, Value>) -> Result<(), ArmError> {
        match properties.get("impossible") {
            None => Ok(()),
            Some(_) => Err(ArmError::new(ErrorCode::ValidationFailed, "impossible")),
        }
    }

    async fn begin_run(&self, permit: &Permit, template: &Resource) -> Result<Begun, ArmError> {
        let group = template.id.group_scope().unwrap();
        let run = group.extension("Bullion.Factory", "runs", "run-1").unwrap();
        let draft = Draft::new(json!({ "template": template.id.to_string() }));
        let action = Action::new("Bullion.Factory/runs/write");
        let own = Permit::system(
            SystemReason::JobStatus,
            action,
            run.clone(),
            permit.tenant(),
        );
        self.catalog
            .put(&own, draft, Precondition::None)
            .await
            .unwrap();
        let mut job = new_job(Build::NAME, &template.id);
        job.exclusive = Some(factory::pipeline::exclusive(&template.id));
        job.visible_at.push(run.clone());
        Ok(Begun { run, job })
    }

    async fn abandon_run(&self, _run: &ResourceId, _tenant: TenantId) {}

    fn deploy(&self, machine: &ResourceId) -> NewJob {
        new_job(Deploy::NAME, machine)
    }

    fn switch(&self, machine: &ResourceId, change: PowerChange) -> NewJob {
        let kind = match change {
            PowerChange::Start | PowerChange::Restart => SwitchOn::NAME,
            _ => SwitchOff::NAME,
        };
        new_job(kind, machine)
    }

    fn change_disks(&self, change: ChangeDisksInput) -> NewJob {
        new_job(SwitchOff::NAME, &change.vm)
    }

    async fn machine_disk(&self, _machine: &ResourceId, _lun: Option<u32>) -> Option<LocalDisk> {
        Some(LocalDisk::Raw("disk.raw".into()))
    }

    fn metadata_links(&self) -> Vec<(ResourceId, PathBuf)> {
        Vec::new()
    }

    fn delete_machine(&self, machine: &ResourceId) -> NewJob {
        new_job(Remove::NAME, machine)
    }

    async fn import(
        &self,
        _region: &Location,
        source: ImportSource,
    ) -> Result<Imported, StepError> {
        // A file whose bytes are not what they are in most tests is another disk.
        let mut digest: DiskDigest = DIGEST.parse().unwrap();
        let logical_bytes = match source {
            ImportSource::Web(_) => 4096,
            ImportSource::Here(LocalDisk::Raw(_) | LocalDisk::Layer { .. }) => 4096,
            ImportSource::Here(LocalDisk::Zeros { bytes }) => bytes,
            ImportSource::Here(LocalDisk::File(path)) => {
                let bytes = std::fs::read(path).unwrap();
                if let Some(first) = bytes.first().filter(|first| **first != 7) {
                    digest = DiskDigest::from_bytes([*first; 32]);
                }
                bytes.len() as u64
            }
        };
        if logical_bytes == 0 {
            return Err(StepError::failed("InvalidVhd", "it is empty"));
        }
        Ok(Imported {
            digest,
            logical_bytes,
        })
    }

    async fn replicate(&self, step: &StepHandle, version: &Resource) -> Result<(), StepError> {
        step.progress("all there");
        match version.tags.contains_key("unlucky") {
            true => Err(StepError::failed("ReplicationFailed", "no region has it")),
            false => Ok(()),
        }
    }

    fn promote(&self, promotion: &ResourceId) -> NewJob {
        new_job(Promote::NAME, promotion)
    }

    async fn verify_promotion(&self, _promotion: &PromotionProperties) -> Result<Value, ArmError> {
        Ok(json!({ "equal": true, "stages": [] }))
    }

    fn verify_build(&self, version: &ResourceId, _base: Base) -> NewJob {
        new_job("verify-build", version)
    }

    fn statement_keys(&self) -> Vec<PublicKey> {
        let rotations = self.key_rotations.load(Ordering::SeqCst);
        let keys = (0..=rotations).rev();
        keys.map(|seed| *SigningKey::from_seed(&[FIRST_SEED + seed; 32]).public())
            .collect()
    }

    async fn rotate_statement_key(&self) -> Result<(), ArmError> {
        self.key_rotations.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    async fn versions_of(&self, product: &Product) -> Vec<String> {
        product.versions.clone()
    }

    fn products(&self) -> Vec<Product> {
        vec![Product {
            publisher: "Debian".into(),
            offer: "debian-12".into(),
            sku: "12-gen2".into(),
            versions: vec!["12.14.20260101".into(), "12.15.20261118".into()],
        }]
    }

    fn nudge_replication(&self) {}

    fn replication_status(&self, version: &Resource) -> Value {
        let regions = version.properties["publishingProfile"]["targetRegions"].as_array();
        let summary: Vec<Value> = regions
            .into_iter()
            .flatten()
            .map(|region| {
                json!({ "region": region["name"], "state": "Completed", "progress": 100, "details": "" })
            })
            .collect();
        json!({ "aggregatedState": "Completed", "summary": summary })
    }

    async fn instance_view(&self, machine: &Resource) -> Value {
        let power = machine.properties["bullion"]["powerState"].as_str();
        let code = format!("PowerState/{}", power.unwrap_or("running"));
        json!({ "statuses": [{ "code": code }] })
    }

    /// Every key is one, unless its address says `missing`.
    async fn put_domain(&self, asked: DomainAsked) -> Result<DomainState, ArmError> {
        if asked
            .key_url
            .as_deref()
            .is_some_and(|url| url.contains("missing"))
        {
            let message = "The key URL names no key vault of this installation.";
            return Err(ArmError::new(ErrorCode::InvalidParameter, message));
        }
        let mut domains = self.domains.lock().unwrap();
        let state = domains
            .entry(asked.set.folded().to_owned())
            .or_insert_with(|| DomainState {
                domain: "0".repeat(32),
                state: Phase::Active,
                key_path: "/keys/k/1".into(),
                rotated_at: None,
                rotates: asked.rotates,
                stores: Vec::new(),
            });
        if let Some(url) = asked.key_url {
            state.key_path = url;
        }
        Ok(state.clone())
    }

    async fn domain_state(&self, set: &ResourceId) -> Option<DomainState> {
        self.domains.lock().unwrap().get(set.folded()).cloned()
    }

    async fn rotate_domain(&self, set: &ResourceId) -> Result<(), ArmError> {
        if let Some(state) = self.domains.lock().unwrap().get_mut(set.folded()) {
            state.key_path = "/keys/k/2".into();
            state.rotated_at = Some("2026-11-21T10:00:00Z".into());
        }
        Ok(())
    }

    async fn erase_domain(&self, set: &ResourceId, for_real: bool) -> Result<Erasure, ArmError> {
        if let (true, Some(state)) = (for_real, self.domains.lock().unwrap().get_mut(set.folded()))
        {
            state.state = Phase::Erased;
        }
        Ok(Erasure::default())
    }

    async fn remove_domain(&self, set: &ResourceId) -> Result<(), ArmError> {
        self.domains.lock().unwrap().remove(set.folded());
        Ok(())
    }

    /// A disk of a MiB of noise.
    async fn export(
        &self,
        _digest: &DiskDigest,
        _places: &[Location],
        format: ImageFormat,
    ) -> Result<ExportedImage, ArmError> {
        let disk: Arc<Vec<u8>> = Arc::new(exported_disk());
        let digest = DIGEST.parse().unwrap();
        let turns = Arc::new(tokio::sync::Semaphore::new(1));
        Ok(ExportedImage::new(disk, digest, format, turns).unwrap())
    }

    fn machine_image(&self, machine: &Resource) -> Option<Value> {
        (machine.state == ProvisioningState::Succeeded).then(|| json!({ "tattoo": {} }))
    }
}

/// The key that this fake's statements are signed with.
pub fn statement_key() -> SigningKey {
    SigningKey::from_seed(&[FIRST_SEED; 32])
}
