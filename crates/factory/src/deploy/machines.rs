//! Machines that run: where each lives, the handles that this process has on them, and how they
//! look from outside. A machine outlives the server; after a restart it is taken over again.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use access::{Action, Permit, SystemReason};
use catalog::{CatalogError, Pages, Resource};
use disk::DiskDigest;
use machine::Guest;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use store::Trace;
use wire::{Location, ResourceId, TenantId};

use super::layers::{self, Below, Which};
use crate::factory::{Factory, FactoryError};
use crate::import::LocalDisk;
use crate::pipeline::change;

pub const MACHINE_TYPE: &str = "Microsoft.Compute/virtualMachines";
pub(super) const MACHINE_READ: &str = "Microsoft.Compute/virtualMachines/read";
pub(super) const MACHINE_WRITE: &str = "Microsoft.Compute/virtualMachines/write";
/// The member of a machine's facts that says that images may be made of it and that it does not start again.
pub const GENERALIZED: &str = "generalized";

/// What of a machine's name is in its folder's: paths to sockets must stay short.
const FOLDER_NAME_CHARS: usize = 24;

/// Whether a machine runs. Those on the way are told by the job that switches it, which ends them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PowerState {
    Starting,
    Running,
    Stopping,
    Stopped,
    Deallocating,
    /// Stopped, and so that Azure would not let one pay for it.
    Deallocated,
}

impl PowerState {
    fn status(self) -> Value {
        let name = match self {
            PowerState::Starting => "starting",
            PowerState::Running => "running",
            PowerState::Stopping => "stopping",
            PowerState::Stopped => "stopped",
            PowerState::Deallocating => "deallocating",
            PowerState::Deallocated => "deallocated",
        };
        json!({
            "code": format!("PowerState/{name}"),
            "level": "Info",
            "displayStatus": format!("VM {name}"),
        })
    }
}

/// What was found when the server started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AdoptReport {
    pub running: Vec<ResourceId>,
    pub stopped: Vec<ResourceId>,
}

/// Handles by machine.
#[derive(Default)]
pub struct Machines(Mutex<HashMap<ResourceId, Kept>>);

/// What this process has of a machine.
struct Kept {
    guest: Arc<dyn Guest>,
    below: Below,
    is_filling: bool,
}

impl Machines {
    pub(super) fn keep(&self, machine: &ResourceId, guest: Arc<dyn Guest>, below: Below) {
        let kept = Kept {
            guest,
            below,
            is_filling: false,
        };
        self.lock().insert(machine.clone(), kept);
    }

    pub(super) fn forget(&self, machine: &ResourceId) {
        self.lock().remove(machine);
    }

    fn find(&self, machine: &ResourceId) -> Option<Arc<dyn Guest>> {
        let kept = self.lock();
        kept.get(machine).map(|kept| Arc::clone(&kept.guest))
    }

    /// Whether somebody has to begin: it runs, and nobody did before.
    pub(super) fn begins_to_fill(&self, machine: &ResourceId) -> bool {
        let mut kept = self.lock();
        let found = kept.get_mut(machine);
        found.is_some_and(|kept| !std::mem::replace(&mut kept.is_filling, true))
    }

    pub(super) fn has_below(&self, machine: &ResourceId, which: Which) -> bool {
        let kept = self.lock();
        kept.get(machine)
            .is_some_and(|kept| kept.below.contains_key(&which))
    }

    pub(super) fn has_any_below(&self, machine: &ResourceId) -> bool {
        let kept = self.lock();
        kept.get(machine).is_some_and(|kept| !kept.below.is_empty())
    }

    pub(super) fn keep_below(&self, machine: &ResourceId, below: Below) {
        if let Some(kept) = self.lock().get_mut(machine) {
            kept.below.extend(below);
        }
    }

    /// What was read of what is below, where nobody knew before what a boot reads.
    pub(super) fn new_traces(&self, machine: &ResourceId) -> Vec<(Location, DiskDigest, Trace)> {
        let kept = self.lock();
        let below = kept.get(machine).into_iter();
        let new = below
            .flat_map(|kept| kept.below.values())
            .filter(|below| !below.is_traced());
        new.map(|below| (below.region().clone(), *below.digest(), below.trace()))
            .collect()
    }

    /// Nothing below is needed any more.
    pub(super) fn is_filled(&self, machine: &ResourceId) {
        let below = self
            .lock()
            .get_mut(machine)
            .map(|kept| std::mem::take(&mut kept.below));
        drop(below);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ResourceId, Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Factory {
    /// The machines that this process has handles on and that run, each with its own folder.
    pub fn running_machines(&self) -> Vec<(ResourceId, PathBuf)> {
        let kept = self.machines.lock();
        let running = kept.iter().filter(|(_, kept)| kept.guest.is_running());
        running
            .map(|(machine, kept)| (machine.clone(), kept.guest.info().dir.clone()))
            .collect()
    }
}

/// Two groups may have machines of one name, so the name alone is not enough.
pub(super) fn folder_name(machine: &ResourceId) -> String {
    let hash = blake3::hash(machine.folded().as_bytes()).to_hex();
    let plain = |letter: &char| letter.is_ascii_alphanumeric() || *letter == '-';
    let name: String = machine
        .name()
        .chars()
        .filter(plain)
        .take(FOLDER_NAME_CHARS)
        .collect();
    format!("{}-{}", name.to_lowercase(), &hash[..8])
}

impl Factory {
    /// The machine's own folder.
    pub(super) fn machine_folder(&self, machine: &ResourceId, region: &Location) -> PathBuf {
        self.data
            .join("machines")
            .join(region.folded())
            .join(folder_name(machine))
    }

    /// The folder of a machine that is there, in whichever region it is.
    fn region_of(&self, machine: &ResourceId) -> Option<Location> {
        let name = folder_name(machine);
        let mut regions = std::fs::read_dir(self.data.join("machines"))
            .ok()?
            .flatten();
        let region = regions.find(|region| region.path().join(&name).is_dir())?;
        Some(Location::new(region.file_name().to_string_lossy()))
    }

    /// The running machine, taken over if an earlier process started it.
    pub(super) async fn guest(
        self: &Arc<Self>,
        machine: &ResourceId,
        region: &Location,
    ) -> Result<Option<Arc<dyn Guest>>, machine::MachineError> {
        if let Some(guest) = self
            .machines
            .find(machine)
            .filter(|guest| guest.is_running())
        {
            return Ok(Some(guest));
        }
        self.machines.forget(machine);
        let folder = self.machine_folder(machine, region);
        if !folder.is_dir() {
            return Ok(None);
        }
        let adopted = self.hypervisor().await.adopt(&folder).await?;
        if let Some(guest) = &adopted {
            let (below, failed) = layers::below_all(self, machine, region, |_| false).await;
            if let Some(error) = failed {
                let error = crate::pipeline::chain(&error);
                tracing::warn!(%machine, error, "a machine that runs waits for a disk");
            }
            self.machines.keep(machine, Arc::clone(guest), below);
            layers::fill(self, machine, region, guest);
        }
        Ok(adopted)
    }

    /// Whether a machine runs, looked at now.
    pub async fn power_state(self: &Arc<Self>, machine: &ResourceId) -> PowerState {
        let Some(region) = self.region_of(machine) else {
            return PowerState::Stopped;
        };
        match self.guest(machine, &region).await {
            Ok(Some(guest)) if guest.is_running() => PowerState::Running,
            Ok(_) => PowerState::Stopped,
            Err(error) => {
                tracing::warn!(%machine, %error, "a machine could not be looked at");
                PowerState::Stopped
            }
        }
    }

    /// Whether this server made the machine; another one on the same catalog may have, and then only that one sees
    /// whether it runs.
    fn is_own(&self, machine: &Resource) -> bool {
        let server = &machine.properties["bullion"][super::SERVER];
        server.as_str().is_none_or(|server| server == self.server)
    }

    /// [`Factory::power_state`], and of another server's machine what that one wrote down last.
    pub async fn shown_power_state(self: &Arc<Self>, machine: &Resource) -> PowerState {
        if self.is_own(machine) {
            return self.power_state(&machine.id).await;
        }
        PowerState::deserialize(&machine.properties["bullion"]["powerState"])
            .unwrap_or(PowerState::Stopped)
    }

    /// The disk that a machine boots from, or the data disk of a number. Nothing while the machine runs.
    pub async fn machine_disk(
        self: &Arc<Self>,
        machine: &ResourceId,
        lun: Option<u32>,
    ) -> Option<LocalDisk> {
        let region = self.region_of(machine)?;
        if self.power_state(machine).await == PowerState::Running {
            return None;
        }
        let folder = self.machine_folder(machine, &region);
        layers::source(&folder, Which::of(lun), &region)
    }

    /// Takes over the machines of this server that run and marks those that do not. For the server's start.
    pub async fn adopt_machines(self: &Arc<Self>) -> Result<AdoptReport, FactoryError> {
        let mut report = AdoptReport::default();
        for tenant in self.auth.tenants().await? {
            for machine in self.all_machines(tenant.tenant).await? {
                let has_power = !machine.properties["bullion"]["versionId"].is_null();
                if !has_power || !self.is_own(&machine) {
                    continue;
                }
                let state = self.power_state(&machine.id).await;
                self.tell_power_state(&machine, tenant.tenant, state)
                    .await?;
                match state {
                    PowerState::Running => report.running.push(machine.id),
                    _ => report.stopped.push(machine.id),
                }
            }
        }
        Ok(report)
    }

    async fn all_machines(&self, tenant: TenantId) -> Result<Vec<Resource>, FactoryError> {
        let permit = startup_permit(MACHINE_READ, ResourceId::root(), tenant);
        let machines = Pages::of(&*self.catalog, &permit, MACHINE_TYPE);
        Ok(machines.all().await?)
    }

    async fn tell_power_state(
        &self,
        machine: &Resource,
        tenant: TenantId,
        state: PowerState,
    ) -> Result<(), FactoryError> {
        let value = json!(told(machine, state));
        if machine.properties["bullion"]["powerState"] == value {
            return Ok(());
        }
        let permit = startup_permit(MACHINE_WRITE, machine.id.clone(), tenant);
        let told = change(&self.catalog, &permit, |draft| {
            draft.properties["bullion"]["powerState"] = value.clone();
        });
        match told.await {
            Ok(()) | Err(CatalogError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// The state to tell: a machine that was deallocated and does not run still is, and one that a job switches is on its
/// way until that job has ended, whoever kills the server meanwhile.
fn told(machine: &Resource, live: PowerState) -> PowerState {
    let kept = &machine.properties["bullion"]["powerState"];
    match (PowerState::deserialize(kept).ok(), live) {
        (
            Some(way @ (PowerState::Starting | PowerState::Stopping | PowerState::Deallocating)),
            _,
        ) => way,
        (Some(PowerState::Deallocated), PowerState::Stopped) => PowerState::Deallocated,
        (_, live) => live,
    }
}

fn startup_permit(action: &str, scope: ResourceId, tenant: TenantId) -> Permit {
    Permit::system(SystemReason::Startup, Action::new(action), scope, tenant)
}

/// Azure's `instanceView` of a machine.
pub fn instance_view(machine: &Resource, power: PowerState) -> Value {
    let state = machine.state.as_str();
    let mut statuses = vec![json!({
        "code": format!("ProvisioningState/{}", state.to_lowercase()),
        "level": "Info",
        "displayStatus": format!("Provisioning {}", state.to_lowercase()),
        "time": machine.properties["bullion"]["startedAt"],
    })];
    // A machine that was never made has no power to be on or off.
    if !machine.properties["bullion"]["versionId"].is_null() || power == PowerState::Running {
        statuses.push(told(machine, power).status());
    }
    if machine.properties["bullion"][GENERALIZED] == true {
        statuses.push(json!({
            "code": "OSState/generalized", "level": "Info", "displayStatus": "VM generalized",
        }));
    }
    let firmware = machine.properties["bullion"]["firmware"].as_str();
    let uefi = firmware.is_some_and(|firmware| firmware.eq_ignore_ascii_case("uefi"));
    json!({
        "hyperVGeneration": if uefi { "V2" } else { "V1" },
        "computerName": machine.properties["osProfile"]["computerName"],
        "osName": machine.properties["bullion"]["tattoo"]["os.version"],
        "statuses": statuses,
    })
}

/// What a machine really runs, once that was read from inside it.
pub fn machine_image(machine: &Resource) -> Option<Value> {
    let facts = machine.properties.get("bullion")?;
    facts.get("versionId").filter(|id| id.is_string())?;
    let mut image = serde_json::Map::new();
    let names = [
        "versionId",
        "exactVersion",
        "diskDigest",
        "tattoo",
        "tattooMatches",
        "bootSeconds",
        "ssh",
    ];
    for name in names {
        if let Some(value) = facts.get(name) {
            image.insert(name.to_owned(), value.clone());
        }
    }
    Some(Value::Object(image))
}
