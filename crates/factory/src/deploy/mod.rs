//! Deploy: a machine is made from a version in its region, starts, and is asked from inside what it
//! is. Its disks are read where the region holds them ([`layers`]); it runs on without the server.

mod data_disks;
#[cfg(test)]
mod data_disks_tests;
mod latest;
mod layers;
mod machines;
mod power;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use access::{Action, Permit, SystemReason};
use async_trait::async_trait;
use base64::Engine;
use catalog::{CatalogError, Outcome, Precondition, Resource};
use disk::DiskDigest;
use jobs::{JobContext, JobError, JobKind, NoUndo, OnUndo, Requester, StepError, StepHandle};
use machine::{Boot, Firmware, Guest, Lifetime, MachineInfo, MachineSpec, Metadata, Network};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use store::StoreError;
use wire::compute::VirtualMachineProperties;
use wire::{Location, ProvisioningState, ResourceId, TenantId};

use crate::disks::Disks;
use crate::domains::{KEPT_IN, kept_in};
use crate::factory::{Factory, make_folder};
use crate::pipeline::{blocking, change, failed, firmware, store_failed};
use crate::publish::{VERSION_READ, VERSION_TYPE, versions};
use crate::replicate::place_of;
use crate::serving::ServingError;
use crate::shared::{self, Consumer, ImageName};
use crate::tattoo::{TATTOO_PATH, Tattoo};
use crate::test::boot_deadline;

pub use machines::{
    AdoptReport, GENERALIZED, MACHINE_TYPE, Machines, PowerState, instance_view, machine_image,
};

pub use data_disks::{ACCESS, ChangeDisks, ChangeDisksInput, Create, LUN, MANAGED_BY, Wanted};
pub use latest::{CONSUMPTION_END, SOFT_DELETED};
use layers::{Attached, LayerError, Which};
use machines::{MACHINE_READ, MACHINE_WRITE};
pub use power::{Power, PowerChange, PowerInput};

const DEFINITION_TYPE: &str = "Microsoft.Compute/galleries/images";
const DEFINITION_READ: &str = "Microsoft.Compute/galleries/images/read";
/// Of a machine's facts: the server that made it.
const SERVER: &str = "server";
const LATEST: &str = "latest";
const DEFAULT_USER: &str = "bullion";
const COMMAND_DEADLINE: std::time::Duration = std::time::Duration::from_secs(120);
/// Keys that a machine gets beside our own.
const KEYS_MAX: usize = 32;

/// A machine that was asked for; its resource says what it shall be.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeployInput {
    pub vm: ResourceId,
}

/// A machine that shall go.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeleteMachineInput {
    pub vm: ResourceId,
}

/// What a deployment may have to take back.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum DeployUndo {
    /// Stops the machine and removes its folder.
    Remove {
        vm: ResourceId,
        region: String,
        #[serde(default)]
        disks: Vec<data_disks::Leaving>,
    },
}

/// What the machine is made from and how.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Plan {
    region: String,
    version: ResourceId,
    digest: DiskDigest,
    /// The domain that the version is in, where it has a key of its own in the region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kept_in: Option<String>,
    #[serde(default)]
    data: Vec<data_disks::Planned>,
    tattoo: BTreeMap<String, String>,
    firmware: Firmware,
    cpus: u8,
    memory_mib: u32,
    user: String,
    hostname: String,
    keys: Vec<String>,
}

impl Plan {
    fn region(&self) -> Location {
        Location::new(&self.region)
    }

    /// Where the bits are.
    fn place(&self) -> Location {
        Location::new(self.kept_in.as_ref().unwrap_or(&self.region))
    }
}

/// What was found in the machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Found {
    boot_seconds: f64,
    tattoo: BTreeMap<String, String>,
    tattoo_matches: bool,
    ssh: Value,
    started_at: String,
}

/// Makes a machine.
pub struct Deploy(pub Arc<Factory>);

#[async_trait]
impl JobKind for Deploy {
    const NAME: &'static str = "deploy-machine";
    type Input = DeployInput;
    type Undo = DeployUndo;

    async fn run(
        &self,
        cx: &mut JobContext<DeployUndo>,
        input: DeployInput,
    ) -> Result<Value, JobError> {
        let (factory, vm) = (Arc::clone(&self.0), input.vm);
        let plan = {
            let (factory, vm) = (Arc::clone(&factory), vm.clone());
            let nothing = OnUndo::Nothing("it only reads");
            let done = cx.step_once("resolve", nothing, |s| async move {
                plan(&factory, &s, &vm).await
            });
            done.await?.value
        };
        let undo = || {
            OnUndo::Call(DeployUndo::Remove {
                vm: vm.clone(),
                region: plan.region.clone(),
                disks: data_disks::taken_back(&plan.data),
            })
        };
        {
            let (factory, vm, plan) = (Arc::clone(&factory), vm.clone(), plan.clone());
            cx.step_once("disk", undo(), |s| async move {
                lay_out(&factory, &s, &vm, &plan).await
            })
            .await?;
        }
        {
            let (factory, vm, plan) = (Arc::clone(&factory), vm.clone(), plan.clone());
            cx.step_once("start", undo(), |s| async move {
                start(&factory, &s, &vm, &plan).await
            })
            .await?;
        }
        let found = {
            let (factory, vm, plan) = (Arc::clone(&factory), vm.clone(), plan.clone());
            let nothing = OnUndo::Nothing("it only looks into the machine");
            cx.step_once("boot", nothing, |s| async move {
                look(&factory, &s, &vm, &plan).await
            })
            .await?
            .value
        };
        let facts = facts(&plan, &found, &factory.server);
        let (written, id, data) = (facts.clone(), vm.clone(), plan.data.clone());
        let nothing = OnUndo::Nothing("the end of the job says how the machine is");
        cx.step_once("record", nothing, |s| async move {
            let permit = s.permit(&Action::new(MACHINE_WRITE), &id).await?;
            change(&factory.catalog, &permit, |draft| {
                draft.properties["bullion"] = written.clone();
                draft.properties["storageProfile"]["imageReference"]["exactVersion"] =
                    written["exactVersion"].clone();
                data_disks::show(draft, &data);
                draft.state = ProvisioningState::Succeeded;
            })
            .await?;
            Ok(())
        })
        .await?;
        Ok(facts)
    }

    async fn undo(
        &self,
        cx: &StepHandle,
        undo: DeployUndo,
        _output: Option<Value>,
    ) -> Result<(), StepError> {
        let DeployUndo::Remove { vm, region, disks } = undo;
        remove(&self.0, &vm, tenant(cx)?, &Location::new(region), disks).await
    }

    async fn settle(
        &self,
        cx: &StepHandle,
        input: &DeployInput,
        outcome: &Outcome,
    ) -> Result<(), StepError> {
        let (state, failure) = match outcome {
            Outcome::Succeeded(_) => return Ok(()),
            Outcome::Failed(failure) => (ProvisioningState::Failed, failure),
            Outcome::Canceled(failure) => (ProvisioningState::Canceled, failure),
        };
        let permit = status_permit(&input.vm, tenant(cx)?);
        let told = change(&self.0.catalog, &permit, |draft| {
            draft.state = state;
            let asked = draft.properties["bullion"]["firmware"].clone();
            draft.properties["bullion"] =
                json!({ "error": { "code": failure.code, "message": failure.message } });
            if !asked.is_null() {
                draft.properties["bullion"]["firmware"] = asked;
            }
        });
        match told.await {
            Ok(()) | Err(CatalogError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn tenant(cx: &StepHandle) -> Result<TenantId, StepError> {
    match cx.requester() {
        Requester::Identity(identity) => Ok(identity.tenant),
        Requester::System => Err(StepError::failed(
            "AuthorizationFailed",
            "a machine is somebody's",
        )),
    }
}

fn status_permit(vm: &ResourceId, tenant: TenantId) -> Permit {
    Permit::system(
        SystemReason::JobStatus,
        Action::new(MACHINE_WRITE),
        vm.clone(),
        tenant,
    )
}

/// Reads what is wanted and settles what it is made from.
async fn plan(factory: &Arc<Factory>, s: &StepHandle, vm: &ResourceId) -> Result<Plan, StepError> {
    let permit = s.permit(&Action::new(MACHINE_READ), vm).await?;
    let resource = factory.catalog.get(&permit).await?;
    let region = Location::new(resource.location.clone().unwrap_or_default());
    factory
        .regions
        .store(&region)
        .map_err(|error| failed("LocationNotAvailable", &error))?;
    let body: VirtualMachineProperties = serde_json::from_value(resource.properties.clone())
        .map_err(|error| failed("InvalidParameter", &error))?;
    let reference = &body.storage_profile.image_reference;
    let open = (reference.shared_gallery_image_id.as_deref())
        .or(reference.community_gallery_image_id.as_deref());
    let (version, definition) = match open {
        Some(open) => open_version_of(factory, s, vm, open, &region).await?,
        None => {
            let id = reference.id.as_deref().unwrap_or_default();
            version_of(factory, s, id, &region).await?
        }
    };
    let disks = Disks::of(&version).ok_or_else(|| {
        StepError::failed(
            "GalleryImageNotFound",
            format!("{} has no disk", version.id),
        )
    })?;
    let digest = disks.os;
    let kept_in = kept_in(&place_of(&version, &region));
    let data = data_disks::plan(factory, s, &resource, (&disks, kept_in.as_deref())).await?;
    factory.proof_for_use(&permit, &version.id, &digest).await?;
    let tattoo = serde_json::from_value(version.properties["bullion"]["tattoo"].clone());
    let size = body
        .hardware_profile
        .and_then(|profile| profile.vm_size)
        .unwrap_or_default();
    let (cpus, memory_mib) = size_of(&size);
    let os = body.os_profile.unwrap_or_default();
    let ssh = os
        .linux_configuration
        .and_then(|linux| linux.ssh)
        .unwrap_or_default();
    let keys = ssh
        .public_keys
        .into_iter()
        .take(KEYS_MAX)
        .map(|key| key.key_data)
        .collect();
    s.log(format!("{} is made from {}", vm.name(), version.id));
    Ok(Plan {
        region: region.as_str().to_owned(),
        version: version.id.clone(),
        digest,
        kept_in,
        data,
        tattoo: tattoo.unwrap_or_default(),
        firmware: firmware_of(&resource, &definition),
        cpus,
        memory_mib,
        user: os.admin_username.unwrap_or_else(|| DEFAULT_USER.to_owned()),
        hostname: os.computer_name.unwrap_or_else(|| vm.name().to_owned()),
        keys,
    })
}

/// The version that an image reference means in a region, and its definition's properties.
async fn version_of(
    factory: &Arc<Factory>,
    s: &StepHandle,
    reference: &str,
    region: &Location,
) -> Result<(Resource, Value), StepError> {
    let id = ResourceId::parse(reference).map_err(|error| failed("InvalidParameter", &error))?;
    let named = id.resource_type().is(VERSION_TYPE);
    let definition = match (named, id.parent()) {
        (true, Some(parent)) => parent,
        _ => id.clone(),
    };
    let found = s.permit(&Action::new(DEFINITION_READ), &definition).await?;
    let found = factory.catalog.get(&found).await.map_err(|error| {
        StepError::failed(
            "GalleryImageNotFound",
            format!("the image {definition}: {error}"),
        )
    })?;
    let permit = s.permit(&Action::new(VERSION_READ), &definition).await?;
    let all = versions(&factory.catalog, &permit).await?;
    let exact = named && !id.name().eq_ignore_ascii_case(LATEST);
    let exact = exact.then(|| id.clone());
    let version = choose(factory, s, &definition, exact, all, region).await?;
    Ok((version, found.properties))
}

/// The same for an image of a gallery that is shared with the machine's subscription, its tenant, or everybody.
async fn open_version_of(
    factory: &Arc<Factory>,
    s: &StepHandle,
    vm: &ResourceId,
    reference: &str,
    region: &Location,
) -> Result<(Resource, Value), StepError> {
    let gone = || {
        StepError::failed(
            "GalleryImageNotFound",
            format!("the image {reference} was not found"),
        )
    };
    let name = ImageName::parse(reference).ok_or_else(gone)?;
    let consumer = Consumer {
        tenant: tenant(s)?,
        subscription: vm.subscription().ok_or_else(gone)?,
    };
    let (catalog, auth) = (&*factory.catalog, &*factory.auth);
    let gallery = shared::find(catalog, auth, &consumer, &name.gallery).await?;
    let gallery = gallery.ok_or_else(gone)?;
    let definitions = shared::inside(catalog, &gallery, DEFINITION_TYPE).await?;
    let definition = definitions
        .into_iter()
        .find(|one| one.id.name().eq_ignore_ascii_case(&name.image))
        .ok_or_else(gone)?;
    let mut all = shared::inside(catalog, &gallery, VERSION_TYPE).await?;
    all.retain(|version| version.id.is_within(&definition.id));
    let exact = match &name.version {
        Some(version) => Some(
            definition
                .id
                .child("versions", version)
                .map_err(|_| gone())?,
        ),
        None => None,
    };
    let version = choose(factory, s, &definition.id, exact, all, region).await?;
    Ok((version, definition.properties))
}

/// The version of `all` that is named, or the latest that the region can use.
async fn choose(
    factory: &Arc<Factory>,
    s: &StepHandle,
    definition: &ResourceId,
    exact: Option<ResourceId>,
    all: Vec<Resource>,
    region: &Location,
) -> Result<Resource, StepError> {
    let now = s.clock().now();
    let candidates: Vec<_> = all
        .iter()
        .filter_map(|version| latest::candidate(version, region, now))
        .collect();
    let (regions, place) = (Arc::clone(&factory.regions), region.clone());
    let definition = definition.clone();
    let chosen = blocking(move || {
        let there = |candidate: &latest::Candidate| {
            let has = |digest: &DiskDigest| regions.holder(&candidate.place, digest).is_some();
            candidate.disks.all().all(has)
        };
        let chosen = match exact {
            Some(wanted) => {
                let found = candidates
                    .into_iter()
                    .find(|candidate| candidate.id == wanted);
                let found = found.filter(there);
                found.ok_or(latest::NoVersion::NotInRegion {
                    image: wanted,
                    region: place.clone(),
                })
            }
            None => latest::latest(&definition, &place, candidates, there),
        };
        chosen.map_err(|error| failed("GalleryImageNotFound", &error))
    })
    .await?;
    let version = all.into_iter().find(|version| version.id == chosen.id);
    let gone = || StepError::failed("GalleryImageNotFound", format!("{} is gone", chosen.id));
    version.ok_or_else(gone)
}

/// What the client chose, else what the definition's generation is.
fn firmware_of(vm: &Resource, definition: &Value) -> Firmware {
    firmware_of_machine(vm).unwrap_or_else(|| firmware_of_generation(definition))
}

/// What is written on the machine.
fn firmware_of_machine(vm: &Resource) -> Option<Firmware> {
    vm.properties["bullion"]["firmware"]
        .as_str()
        .and_then(firmware)
}

/// The firmware that an image definition's properties ask for.
pub(crate) fn firmware_of_generation(definition: &Value) -> Firmware {
    let generation = definition["hyperVGeneration"].as_str().unwrap_or("V1");
    if generation.eq_ignore_ascii_case("V2") {
        Firmware::Uefi
    } else {
        Firmware::Bios
    }
}

/// Sizes of Azure's that machines may have: name, processors, memory (MiB). Any other name is taken as the default.
pub const SIZES: [(&str, u8, u32); 6] = [
    ("Standard_B1ls", 1, 512),
    ("Standard_B1s", 1, 1024),
    ("Standard_B1ms", 1, 2048),
    ("Standard_B2s", 2, 4096),
    ("Standard_B2ms", 2, 8192),
    ("Standard_D2s_v5", 2, 8192),
];
const DEFAULT_SIZE: (u8, u32) = (2, 1024);

/// Processors and memory (MiB) of a size.
fn size_of(name: &str) -> (u8, u32) {
    let known = SIZES
        .iter()
        .find(|(known, ..)| known.eq_ignore_ascii_case(name));
    known.map_or(DEFAULT_SIZE, |(_, cpus, memory)| (*cpus, *memory))
}

/// Gives the machine its disks: layers over the region's, and those that begin empty. Those of a machine that runs are not
/// touched.
async fn lay_out(
    factory: &Arc<Factory>,
    s: &StepHandle,
    vm: &ResourceId,
    plan: &Plan,
) -> Result<(), StepError> {
    let running = factory.guest(vm, &plan.region()).await;
    if running
        .map_err(|error| failed("MachineFailed", &error))?
        .is_some()
    {
        return Ok(());
    }
    let folder = factory.machine_folder(vm, &plan.region());
    make_folder(&folder).map_err(|error| failed("MachineFailed", &error))?;
    let (regions, region, digest) = (Arc::clone(&factory.regions), plan.region(), plan.digest);
    let (id, place) = (vm.clone(), plan.place());
    blocking(move || {
        let whose = (&id, &*folder, Which::Os);
        let laid = layers::lay_out(&regions, whose, (&region, &place), (&digest, None));
        laid.map_err(|error| no_disk(error, &region))
    })
    .await?;
    for planned in &plan.data {
        data_disks::put_on(factory, s, vm, &plan.region(), planned).await?;
    }
    Ok(())
}

/// Turns to fill disks, for all machines together.
pub(crate) fn fills() -> tokio::sync::Semaphore {
    tokio::sync::Semaphore::new(layers::FILLS)
}

fn no_disk(error: LayerError, region: &Location) -> StepError {
    match error {
        LayerError::Store(error) | LayerError::Serving(ServingError::Store(error)) => {
            lost(error, region)
        }
        LayerError::Region(error) | LayerError::Serving(ServingError::Region(error)) => {
            failed("RegionUnavailable", &error)
        }
        other => failed("MachineFailed", &other),
    }
}

fn lost(error: StoreError, region: &Location) -> StepError {
    match error {
        StoreError::UnknownDisk(digest) => StepError::failed(
            "GalleryImageNotFound",
            format!("region {region} lost the disk {digest}"),
        ),
        error => store_failed(&error),
    }
}

/// Starts the machine, or takes it over where an earlier attempt started it.
async fn start(
    factory: &Arc<Factory>,
    s: &StepHandle,
    vm: &ResourceId,
    plan: &Plan,
) -> Result<(), StepError> {
    let folder = factory.machine_folder(vm, &plan.region());
    let there = factory.guest(vm, &plan.region()).await;
    if there
        .map_err(|error| failed("MachineFailed", &error))?
        .is_some()
    {
        return Ok(());
    }
    let hypervisor = factory.hypervisor().await;
    let why = hypervisor.acceleration();
    s.log(format!("machines run on {}: {}", why.accel, why.why));
    let luns: Vec<u32> = plan.data.iter().map(|data| data.wanted.lun).collect();
    let attached = layers::attach(factory, vm, &plan.region(), &luns).await;
    let Attached { os, data, below } = attached.map_err(|error| no_disk(error, &plan.region()))?;
    let mut spec = MachineSpec::new(vm.name(), &folder, os);
    spec.data_disks = data;
    spec.snapshot = false;
    spec.firmware = plan.firmware;
    spec.cpus = plan.cpus;
    spec.memory_mib = plan.memory_mib;
    spec.lifetime = Lifetime::Persistent;
    spec.network = Network::Outbound;
    spec.metadata = Metadata::Cable;
    spec.user = plan.user.clone();
    spec.hostname = plan.hostname.clone();
    let guest = hypervisor
        .start(spec)
        .await
        .map_err(|error| failed("MachineFailed", &error))?;
    factory.machines.keep(vm, guest, below);
    Ok(())
}

/// The machine, once it is ready to log in to.
async fn booted(
    factory: &Arc<Factory>,
    s: &StepHandle,
    vm: &ResourceId,
    region: &Location,
) -> Result<(Arc<dyn Guest>, Boot), StepError> {
    let guest = factory.guest(vm, region).await;
    let guest = guest.map_err(|error| failed("MachineFailed", &error))?;
    let guest = guest.ok_or_else(|| {
        StepError::failed("MachineFailed", "the machine ended before it was ready")
    })?;
    let deadline = boot_deadline(guest.info().accel, machine::System::Linux);
    let boot = tokio::select! {
        boot = guest.wait_ready(deadline) => boot.map_err(|error| failed("BootFailed", &error))?,
        () = s.until_cancelled() => return Err(StepError::canceled()),
    };
    s.log(format!("booted in {:.1} s: {}", boot.seconds, boot.state));
    for (place, digest, trace) in factory.machines.new_traces(vm) {
        factory.served.keep_trace(&place, digest, trace).await;
    }
    layers::fill(factory, vm, region, &guest);
    Ok((guest, boot))
}

/// Waits for the boot and reads the machine's identity from inside it.
async fn look(
    factory: &Arc<Factory>,
    s: &StepHandle,
    vm: &ResourceId,
    plan: &Plan,
) -> Result<Found, StepError> {
    let (guest, boot) = booted(factory, s, vm, &plan.region()).await?;
    let read = guest
        .exec(&format!("cat {TATTOO_PATH}"), COMMAND_DEADLINE)
        .await;
    let read = read.map_err(|error| failed("MachineFailed", &error))?;
    let tattoo = tattoo_read(&read.stdout);
    let tattoo_matches = tattoo == plan.tattoo && !tattoo.is_empty();
    if !tattoo_matches {
        s.log("the tattoo in the machine is not the version's".to_owned());
    }
    add_keys(&*guest, &plan.keys).await?;
    let info = guest.info();
    Ok(Found {
        boot_seconds: boot.seconds,
        tattoo,
        tattoo_matches,
        ssh: login(info),
        started_at: s.clock().now().to_string(),
    })
}

/// Where a machine's SSH server answers, and with which key on this host.
pub(crate) fn login(info: &MachineInfo) -> Value {
    json!({
        "host": "127.0.0.1",
        "port": info.ssh_port,
        "user": info.user,
        "keyFile": info.key_file,
        "hostKey": info.host_key,
    })
}

/// The record as it stands in the machine, if it is one.
fn tattoo_read(text: &str) -> BTreeMap<String, String> {
    let parsed = Tattoo::parse(text.as_bytes());
    parsed
        .map(|tattoo| crate::publish::tattoo_map(&tattoo))
        .unwrap_or_default()
}

/// Gives the machine's user the keys that the client named.
async fn add_keys(guest: &dyn Guest, keys: &[String]) -> Result<(), StepError> {
    if keys.is_empty() {
        return Ok(());
    }
    let text: String = keys.iter().map(|key| format!("{}\n", key.trim())).collect();
    // In base64 nothing of a key can be taken for the shell's.
    let text = base64::engine::general_purpose::STANDARD.encode(text);
    let command =
        format!("umask 077; mkdir -p ~/.ssh; echo {text} | base64 -d >> ~/.ssh/authorized_keys");
    let done = guest.exec(&command, COMMAND_DEADLINE).await;
    let done = done.map_err(|error| failed("MachineFailed", &error))?;
    if done.success() {
        return Ok(());
    }
    Err(StepError::failed(
        "MachineFailed",
        format!("the keys could not be added: {}", done.stderr.trim()),
    ))
}

fn facts(plan: &Plan, found: &Found, server: &str) -> Value {
    let mut facts = json!({
        SERVER: server,
        "versionId": plan.version.to_string(),
        "exactVersion": plan.version.name(),
        "diskDigest": plan.digest.to_string(),
        "firmware": plan.firmware,
        "bootSeconds": found.boot_seconds,
        "tattoo": found.tattoo,
        "tattooMatches": found.tattoo_matches,
        "ssh": found.ssh,
        "startedAt": found.started_at,
        "powerState": PowerState::Running,
    });
    if let Some(kept_in) = &plan.kept_in {
        facts[KEPT_IN] = kept_in.as_str().into();
    }
    facts
}

/// Stops a machine, gives its data disks back and removes its folder. Done twice, it does nothing more.
async fn remove(
    factory: &Arc<Factory>,
    vm: &ResourceId,
    tenant: TenantId,
    region: &Location,
    disks: Vec<data_disks::Leaving>,
) -> Result<(), StepError> {
    let guest = factory
        .guest(vm, region)
        .await
        .map_err(|error| failed("MachineFailed", &error))?;
    if let Some(guest) = guest {
        guest
            .kill()
            .await
            .map_err(|error| failed("MachineFailed", &error))?;
    }
    factory.machines.forget(vm);
    data_disks::give_back(factory, vm, tenant, region, disks).await?;
    let folder = factory.machine_folder(vm, region);
    blocking(move || match std::fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(failed("MachineFailed", &error))
        }
        _ => Ok(()),
    })
    .await
}

/// Removes a machine and then its resource.
pub struct DeleteMachine(pub Arc<Factory>);

const MACHINE_DELETE: &str = "Microsoft.Compute/virtualMachines/delete";

#[async_trait]
impl JobKind for DeleteMachine {
    const NAME: &'static str = "delete-machine";
    type Input = DeleteMachineInput;
    type Undo = NoUndo;

    async fn run(
        &self,
        cx: &mut JobContext<NoUndo>,
        input: DeleteMachineInput,
    ) -> Result<Value, JobError> {
        let (factory, vm) = (Arc::clone(&self.0), input.vm);
        let nothing = || OnUndo::Nothing("what is removed does not come back");
        let (used, id) = (Arc::clone(&factory), vm.clone());
        cx.step_once("machine", nothing(), |s| async move {
            let permit = s.permit(&Action::new(MACHINE_DELETE), &id).await?;
            let resource = match used.catalog.get(&permit.to_read_own()).await {
                Err(CatalogError::NotFound { .. }) => return Ok(()),
                found => found?,
            };
            let region = Location::new(resource.location.clone().unwrap_or_default());
            let disks = data_disks::leaving(&resource);
            remove(&used, &id, resource.tenant, &region, disks).await
        })
        .await?;
        cx.step_once("resource", nothing(), |s| async move {
            let permit = s.permit(&Action::new(MACHINE_DELETE), &vm).await?;
            match factory
                .catalog
                .delete_tree(&permit, Precondition::None)
                .await
            {
                Ok(_) | Err(CatalogError::NotFound { .. }) => Ok(()),
                Err(error) => Err(error.into()),
            }
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
