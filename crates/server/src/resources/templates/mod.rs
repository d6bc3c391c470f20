//! `Microsoft.VirtualMachineImages/imageTemplates`: reading, `run`, `cancel`, run outputs. How a template is written is
//! in [`write`], its triggers are in [`triggers`].

pub mod triggers;
mod write;

use std::sync::Arc;

use catalog::{CatalogError, JobId, Resource};
use http::StatusCode;
use http::header::HeaderName;
use http::request::Parts;
use serde_json::json;
use wire::{ApiVersion, ArmError, ResourceId};

use super::{Reply, find, list, need, present, show};
use crate::errors;
use crate::exchange::Query;
use crate::operation::Call;
use crate::state::Server;

pub use write::{links, patch, put};

pub const KIND: &str = "Microsoft.VirtualMachineImages/imageTemplates";
/// Tells a client the id of the run that it started.
const RUN: HeaderName = HeaderName::from_static("x-bullion-run");
pub const OUTPUT_KIND: &str = "Microsoft.VirtualMachineImages/imageTemplates/runOutputs";

/// A refusal as clients of old api-versions of this namespace read it: up to 2020-02-14 without the envelope.
pub fn as_of(parts: &Parts, mut refusal: Reply) -> Reply {
    const NAMESPACE: &str = "/microsoft.virtualmachineimages/";
    let path = parts.uri.path().to_ascii_lowercase();
    let query = Query::parse(parts.uri.query()).ok();
    let version = query.and_then(|query| query.get("api-version")?.parse::<ApiVersion>().ok());
    let old = version.is_some_and(|version| !version.at_least(2021, 10, 1));
    if old && path.contains(NAMESPACE) {
        let inner = refusal.body.as_mut().and_then(|body| body.get_mut("error"));
        refusal.body = inner.map(serde_json::Value::take);
    }
    refusal
}

pub async fn get(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    show(&server, &call).await
}

/// 202 and 204 are the only answers that clients take; it is done when it is answered, so always 204.
pub async fn remove(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let Some(old) = find(&server, &call).await? else {
        return Ok(Reply::no_content());
    };
    call.preconditions.check(Some(&old))?;
    if active_run(&server, &call).await?.is_some() {
        return Err(in_progress(&call.id));
    }
    match server
        .catalog
        .delete_tree(&call.permit, catalog::Precondition::None)
        .await
    {
        Ok(_) | Err(CatalogError::NotFound { .. }) => Ok(Reply::no_content()),
        Err(error) => Err(errors::catalog(error)),
    }
}

pub async fn all(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    list(&server, &call, KIND, |template| Some(present(template))).await
}

fn in_progress(template: &ResourceId) -> ArmError {
    errors::conflict(format!(
        "A run of the image template '{}' is in progress. Watch it in the list of runs, or cancel it.",
        template.name()
    ))
}

/// The job of a run of this template that has not ended.
async fn active_run(server: &Server, call: &Call) -> Result<Option<JobId>, ArmError> {
    let jobs = server.jobs_at(&call.permit.to_read_own()).await?;
    let active = jobs.into_iter().find(|job| !job.state.ended());
    Ok(active.map(|job| job.id))
}

/// Starts a run: its record first, then the job that fills it.
pub async fn run(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let template = need(&server, &call).await?;
    if active_run(&server, &call).await?.is_some() {
        return Err(in_progress(&call.id));
    }
    let (run, job) = begin(&server, &call, &template).await?;
    let run = run.to_string();
    let reply = Reply::new(StatusCode::ACCEPTED, Some(json!({ "id": run })));
    let reply = reply.with(RUN, &run);
    server.polled(reply, &call, &call.id, job)
}

/// The record of a new run and the job that fills it: both or neither.
async fn begin(
    server: &Server,
    call: &Call,
    template: &Resource,
) -> Result<(ResourceId, JobId), ArmError> {
    let begun = server.work.begin_run(&call.permit, template).await?;
    match server.submit(&call.permit, begun.job).await {
        Ok(job) => Ok((begun.run, job)),
        Err(error) => {
            let tenant = call.permit.tenant();
            server.work.abandon_run(&begun.run, tenant).await;
            Err(error)
        }
    }
}

/// Asks the run to stop; what it had begun is taken back. Nothing to stop is no error.
pub async fn cancel(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    need(&server, &call).await?;
    if let Some(job) = active_run(&server, &call).await? {
        server.cancel(&call.permit, job).await?;
    }
    Ok(Reply::no_content())
}

pub async fn output(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    show(&server, &call).await
}

pub async fn outputs(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    list(&server, &call, OUTPUT_KIND, |output| Some(present(output))).await
}
