//! Machines that are there are switched on and off: start, restart, power off, deallocate.
//!
//! The machine's disk stays where it is; a deallocated machine differs from a stopped one in its name only, since
//! nothing is paid for here. Must not make a machine: that is [`super::Deploy`]'s.

use std::sync::Arc;
use std::time::Duration;

use access::Action;
use async_trait::async_trait;
use catalog::{CatalogError, Outcome, Resource};
use jobs::{JobContext, JobError, JobKind, NoUndo, OnUndo, StepError, StepHandle};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use wire::compute::VirtualMachineProperties;
use wire::{Location, ProvisioningState, ResourceId};

use super::machines::{MACHINE_READ, PowerState};
use super::{
    LayerError, Plan, Which, booted, data_disks, firmware_of_machine, layers, size_of, start,
    status_permit, tenant,
};
use crate::domains::KEPT_IN;
use crate::factory::Factory;
use crate::pipeline::{change, failed};

/// How long a machine has to shut itself down.
const GRACE: Duration = Duration::from_secs(90);

/// What shall happen to a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PowerChange {
    Start,
    Restart,
    PowerOff,
    /// Without asking the system in it.
    PowerOffAtOnce,
    Deallocate,
}

impl PowerChange {
    /// The state while the machine is being brought down.
    fn on_the_way(self) -> PowerState {
        match self {
            PowerChange::Deallocate => PowerState::Deallocating,
            _ => PowerState::Stopping,
        }
    }

    /// The state after it.
    fn leads_to(self) -> PowerState {
        match self {
            PowerChange::Start | PowerChange::Restart => PowerState::Running,
            PowerChange::PowerOff | PowerChange::PowerOffAtOnce => PowerState::Stopped,
            PowerChange::Deallocate => PowerState::Deallocated,
        }
    }
}

/// A machine and what shall happen to it. Who may ask has been decided.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PowerInput {
    pub vm: ResourceId,
    pub change: PowerChange,
}

/// Switches a machine.
pub struct Power(pub Arc<Factory>);

#[async_trait]
impl JobKind for Power {
    const NAME: &'static str = "switch-machine";
    type Input = PowerInput;
    type Undo = NoUndo;

    async fn run(&self, cx: &mut JobContext<NoUndo>, input: PowerInput) -> Result<Value, JobError> {
        let PowerInput { vm, change: what } = input;
        let nothing = || OnUndo::Nothing("a switched machine is switched again by its owner");
        if what != PowerChange::Start {
            let (factory, vm) = (Arc::clone(&self.0), vm.clone());
            cx.step_once("off", nothing(), |s| async move {
                off(&factory, &s, &vm, what).await
            })
            .await?;
        }
        if what.leads_to() == PowerState::Running {
            let (factory, vm) = (Arc::clone(&self.0), vm.clone());
            cx.step_once(
                "on",
                nothing(),
                |s| async move { on(&factory, &s, &vm).await },
            )
            .await?;
        }
        Ok(json!({ "powerState": what.leads_to() }))
    }

    async fn undo(
        &self,
        _cx: &StepHandle,
        undo: NoUndo,
        _output: Option<Value>,
    ) -> Result<(), StepError> {
        match undo {}
    }

    /// Whatever came of it, the machine says whether it runs.
    async fn settle(
        &self,
        cx: &StepHandle,
        input: &PowerInput,
        outcome: &Outcome,
    ) -> Result<(), StepError> {
        let live = self.0.power_state(&input.vm).await;
        let wanted = input.change.leads_to();
        let ended = matches!(outcome, Outcome::Succeeded(_));
        let state = match (live, wanted) {
            (PowerState::Stopped, PowerState::Deallocated) if ended => PowerState::Deallocated,
            (live, _) => live,
        };
        let permit = status_permit(&input.vm, tenant(cx)?);
        let told = change(&self.0.catalog, &permit, |draft| {
            draft.properties["bullion"]["powerState"] = json!(state);
            if draft.state == ProvisioningState::Updating {
                draft.state = ProvisioningState::Succeeded;
            }
        });
        match told.await {
            Ok(()) | Err(CatalogError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

async fn machine(
    factory: &Arc<Factory>,
    s: &StepHandle,
    vm: &ResourceId,
) -> Result<(Resource, Location), StepError> {
    let permit = s.permit(&Action::new(MACHINE_READ), vm).await?;
    let resource = factory.catalog.get(&permit).await?;
    let region = Location::new(resource.location.clone().unwrap_or_default());
    Ok((resource, region))
}

/// Stops the machine if it runs; twice is fine.
async fn off(
    factory: &Arc<Factory>,
    s: &StepHandle,
    vm: &ResourceId,
    what: PowerChange,
) -> Result<(), StepError> {
    let (_, region) = machine(factory, s, vm).await?;
    let guest = factory.guest(vm, &region).await;
    let Some(guest) = guest.map_err(|error| failed("MachineFailed", &error))? else {
        return Ok(());
    };
    tell(factory, s, vm, what.on_the_way()).await?;
    let stopped = match what {
        PowerChange::PowerOffAtOnce => guest.kill().await,
        _ => guest.stop(GRACE).await.map(|how| s.log(format!("{how:?}"))),
    };
    stopped.map_err(|error| failed("MachineFailed", &error))?;
    factory.machines.forget(vm);
    Ok(())
}

/// Starts the machine from its own disk and waits until it is up.
async fn on(factory: &Arc<Factory>, s: &StepHandle, vm: &ResourceId) -> Result<(), StepError> {
    let (resource, region) = machine(factory, s, vm).await?;
    if !layers::is_there(&factory.machine_folder(vm, &region), Which::Os) {
        return Err(failed("MachineFailed", &LayerError::None(Which::Os)));
    }
    let plan = plan_again(&resource, &region)?;
    let there = factory.guest(vm, &region).await;
    if there
        .map_err(|error| failed("MachineFailed", &error))?
        .is_none()
    {
        tell(factory, s, vm, PowerState::Starting).await?;
    }
    start(factory, s, vm, &plan).await?;
    let (guest, _) = booted(factory, s, vm, &region).await?;
    let permit = status_permit(vm, tenant(s)?);
    let (port, now) = (guest.info().ssh_port, s.clock().now().to_string());
    change(&factory.catalog, &permit, |draft| {
        draft.properties["bullion"]["ssh"]["port"] = port.into();
        draft.properties["bullion"]["startedAt"] = now.clone().into();
    })
    .await?;
    Ok(())
}

/// Says that the machine is on its way; the end of the job says where it came to.
async fn tell(
    factory: &Arc<Factory>,
    s: &StepHandle,
    vm: &ResourceId,
    state: PowerState,
) -> Result<(), StepError> {
    let permit = status_permit(vm, tenant(s)?);
    change(&factory.catalog, &permit, |draft| {
        draft.properties["bullion"]["powerState"] = json!(state);
    })
    .await?;
    Ok(())
}

/// What the machine was made as.
fn plan_again(resource: &Resource, region: &Location) -> Result<Plan, StepError> {
    let facts = &resource.properties["bullion"];
    let never = || StepError::failed("Conflict", "the machine was never deployed");
    let text = |key: &str| facts[key].as_str().ok_or_else(never);
    let body: VirtualMachineProperties = serde_json::from_value(resource.properties.clone())
        .map_err(|error| failed("InvalidParameter", &error))?;
    let size = body.hardware_profile.and_then(|profile| profile.vm_size);
    let (cpus, memory_mib) = size_of(&size.unwrap_or_default());
    let os = body.os_profile.unwrap_or_default();
    Ok(Plan {
        region: region.as_str().to_owned(),
        version: text("versionId")?.parse().map_err(|_| never())?,
        digest: text("diskDigest")?.parse().map_err(|_| never())?,
        kept_in: facts[KEPT_IN].as_str().map(str::to_owned),
        data: data_disks::there(resource),
        tattoo: serde_json::from_value(facts["tattoo"].clone()).unwrap_or_default(),
        firmware: firmware_of_machine(resource).ok_or_else(never)?,
        cpus,
        memory_mib,
        user: os
            .admin_username
            .unwrap_or_else(|| super::DEFAULT_USER.to_owned()),
        hostname: os
            .computer_name
            .unwrap_or_else(|| resource.id.name().to_owned()),
        keys: Vec::new(),
    })
}
