//! What is done to machines that are there: start, restart, power off, deallocate, generalize.
//!
//! Switching is a job, alone with its machine. A generalized machine may be made images of, and does not start again.

use std::sync::Arc;

use catalog::{Draft, Resource};
use factory::deploy::{GENERALIZED, PowerChange};
use http::StatusCode;
use wire::{ArmError, ErrorCode, ProvisioningState};

use super::{Reply, machines, need, store};
use crate::errors;
use crate::operation::Call;
use crate::state::Server;

const FACTS: &str = "bullion";
/// What the codes of a machine's power begin with.
const POWER: &str = "PowerState/";

pub async fn start(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    switch(&server, &call, PowerChange::Start).await
}

pub async fn restart(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    switch(&server, &call, PowerChange::Restart).await
}

pub async fn power_off(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let at_once = call
        .query
        .get("skipShutdown")
        .is_some_and(|skip| skip.eq_ignore_ascii_case("true"));
    let change = match at_once {
        true => PowerChange::PowerOffAtOnce,
        false => PowerChange::PowerOff,
    };
    switch(&server, &call, change).await
}

pub async fn deallocate(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    switch(&server, &call, PowerChange::Deallocate).await
}

/// Azure starts the machine elsewhere; here there is one place, so that is a restart.
pub async fn redeploy(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    switch(&server, &call, PowerChange::Restart).await
}

async fn switch(server: &Server, call: &Call, change: PowerChange) -> Result<Reply, ArmError> {
    let machine = need(server, call).await?;
    call.preconditions.check(Some(&machine))?;
    need_deployed(&machine)?;
    let starts = match change {
        PowerChange::Start => Some("start"),
        PowerChange::Restart => Some("restart"),
        PowerChange::PowerOff | PowerChange::PowerOffAtOnce | PowerChange::Deallocate => None,
    };
    if let Some(operation) = starts.filter(|_| is_generalized(&machine)) {
        return Err(not_allowed(format!(
            "Operation '{operation}' is not allowed on VM '{}' since the VM is generalized.",
            machine.id.name()
        )));
    }
    let mut job = server.work.switch(&call.id, change);
    job.exclusive = Some(machines::exclusive(&call.id));
    let job = server.submit(&call.permit, job).await?;
    server.polled(Reply::new(StatusCode::ACCEPTED, None), call, &call.id, job)
}

/// Says that the system in the machine was prepared to be copied. That it was is the caller's word, as in Azure.
pub async fn generalize(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let machine = need(&server, &call).await?;
    need_deployed(&machine)?;
    need_off(&server, &machine, "generalize").await?;
    let mut draft = Draft::from_resource(machine.clone());
    draft.properties[FACTS][GENERALIZED] = true.into();
    store(&server, &call, Some(&machine), draft).await?;
    Ok(Reply::new(StatusCode::OK, None))
}

/// Azure captures machines with unmanaged disks this way; there are none.
pub async fn capture(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let machine = need(&server, &call).await?;
    Err(not_allowed(format!(
        "The virtual machine '{}' has managed disks: make an image of it instead of capturing it.",
        machine.id.name()
    )))
}

pub fn is_generalized(machine: &Resource) -> bool {
    machine.properties[FACTS][GENERALIZED] == true
}

fn need_deployed(machine: &Resource) -> Result<(), ArmError> {
    if machine.state == ProvisioningState::Succeeded {
        return Ok(());
    }
    Err(errors::conflict(format!(
        "The virtual machine '{}' is not ready ({}).",
        machine.id.name(),
        machine.state.as_str()
    )))
}

/// The bits of a machine that runs, or is on its way, change while they are read.
pub async fn need_off(
    server: &Server,
    machine: &Resource,
    operation: &str,
) -> Result<(), ArmError> {
    let view = server.work.instance_view(machine).await;
    let statuses = view["statuses"].as_array().into_iter().flatten();
    let mut power = statuses.filter_map(|status| status["code"].as_str()?.strip_prefix(POWER));
    let Some(state) = power.find(|state| !matches!(*state, "stopped" | "deallocated")) else {
        return Ok(());
    };
    Err(not_allowed(format!(
        "Operation '{operation}' is not allowed on VM '{}' since the VM is {state}.",
        machine.id.name()
    )))
}

pub fn not_allowed(message: String) -> ArmError {
    ArmError::new(ErrorCode::OperationNotAllowed, message)
}
