//! `Microsoft.VirtualMachineImages/imageTemplates`, its `run` and `cancel`, and its run outputs.
//!
//! Azure refuses to update a template's recipe; so do we, below the api-version from which it is allowed
//! here (a documented quirk: factory as code changes recipes in place).

use std::sync::Arc;

use access::Action;
use catalog::{CatalogError, JOB_JSON_BYTES_MAX, JobId};
use http::StatusCode;
use http::header::HeaderName;
use serde_json::{Map, Value, json};
use wire::template::ImageTemplateProperties;
use wire::{ArmError, ErrorCode, NameRule, ResourceId};

use super::{
    Reply, find, list, need, present, properties, put_reply, settle_location, show, store, tracked,
    versions,
};
use crate::body::{self, ResourceBody};
use crate::errors;
use crate::operation::{Call, Link};
use crate::state::Server;

pub const KIND: &str = "Microsoft.VirtualMachineImages/imageTemplates";
/// Tells a client the id of the run that it started.
const RUN: HeaderName = HeaderName::from_static("x-bullion-run");
pub const OUTPUT_KIND: &str = "Microsoft.VirtualMachineImages/imageTemplates/runOutputs";
const PUBLISH: &str = "Microsoft.Compute/galleries/images/versions/write";
const READ_ONLY: [&str; 5] = [
    "lastRunStatus",
    "exactStagingResourceGroup",
    "provisioningError",
    "createdAt",
    "bullion",
];
/// Room is left for what else a run's input holds.
const RECIPE_BYTES_MAX: usize = JOB_JSON_BYTES_MAX - 16 * 1024;
/// What may change below the version that allows everything; the last only from 2024-02-01.
const CHANGEABLE: [&str; 2] = ["autoRun", "vmProfile"];

/// The galleries that the template publishes to, and the version that it starts from.
pub fn links(body: &Value) -> Vec<Link> {
    let mut links = Vec::new();
    let distribute = body
        .pointer("/properties/distribute")
        .and_then(Value::as_array);
    for target in distribute.into_iter().flatten() {
        if let Some(id) = target.get("galleryImageId").and_then(Value::as_str) {
            links.push(Link {
                scope: id.to_string(),
                action: PUBLISH,
                target: "properties.distribute.galleryImageId",
            });
        }
    }
    let source = body.pointer("/properties/source/imageVersionId");
    if let Some(id) = source.and_then(Value::as_str) {
        links.push(Link {
            scope: id.to_string(),
            action: versions::READ,
            target: "properties.source.imageVersionId",
        });
    }
    links
}

pub async fn put(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    NameRule::ImageTemplate
        .check(call.id.name())
        .map_err(|error| errors::invalid("imageTemplateName", error.to_string()))?;
    let mut body = ResourceBody::parse(&call.body, &call.id)?;
    let old = find(&server, &call).await?;
    let location = settle_location(&call, &body, old.as_ref())?;
    server.need_region(&location, "location")?;
    let kept = old.as_ref().map(properties);
    body::read_only(&mut body.properties, kept.as_ref(), &READ_ONLY);
    body.properties.remove("provisioningState");
    body::typed::<ImageTemplateProperties>(&body.properties)?;
    check_size(&body.properties)?;
    server.work.check_template(&body.properties)?;
    check_targets(&server, &call, &body.properties).await?;
    if let Some(kept) = &kept {
        check_update(&call, kept, &body.properties)?;
    }
    let draft = tracked(body, &location, old.as_ref());
    let put = store(&server, &call, old.as_ref(), draft).await?;
    Ok(put_reply(&put))
}

/// The definitions and regions that the template names must be there. Links were authorised before.
async fn check_targets(
    server: &Server,
    call: &Call,
    properties: &Map<String, Value>,
) -> Result<(), ArmError> {
    for permit in &call.links {
        let scope = permit.scope();
        if permit.action() != &Action::new(PUBLISH) {
            continue;
        }
        let pinned = scope.resource_type().is(versions::KIND);
        let definition = if pinned {
            scope.parent()
        } else {
            Some(scope.clone())
        };
        let fit =
            definition.filter(|definition| definition.resource_type().is(super::images::KIND));
        let Some(definition) = fit else {
            return Err(validation(
                "properties.distribute.galleryImageId",
                format!("'{scope}' is not the id of an image definition."),
            ));
        };
        let above = permit.to_read_ancestor(&definition);
        if !server
            .exists(&above.unwrap_or_else(|| permit.to_read_own()))
            .await?
        {
            return Err(validation(
                "properties.distribute.galleryImageId",
                format!("The image definition '{definition}' does not exist; create it first."),
            ));
        }
    }
    let targets = properties.get("distribute").and_then(Value::as_array);
    for target in targets.into_iter().flatten() {
        let regions = target.get("targetRegions").and_then(Value::as_array);
        let names = regions
            .into_iter()
            .flatten()
            .filter_map(|region| region.get("name"));
        let old_names = target.get("replicationRegions").and_then(Value::as_array);
        for name in names.chain(old_names.into_iter().flatten()) {
            let name = name.as_str().unwrap_or_default();
            server.need_region(name, "properties.distribute.targetRegions")?;
        }
    }
    Ok(())
}

/// A run takes a copy of the recipe with it: what is too large for that is refused here, not at the run.
fn check_size(properties: &Map<String, Value>) -> Result<(), ArmError> {
    let bytes = serde_json::to_vec(properties).map_or(usize::MAX, |text| text.len());
    if bytes <= RECIPE_BYTES_MAX {
        return Ok(());
    }
    Err(ArmError::new(
        ErrorCode::RequestEntityTooLarge,
        format!(
            "The template has {bytes} bytes, more than {RECIPE_BYTES_MAX}. Put large files into a \
             package, or split the template in two."
        ),
    ))
}

fn validation(target: &str, message: String) -> ArmError {
    ArmError::new(ErrorCode::ValidationFailed, message).with_target(target)
}

fn check_update(
    call: &Call,
    old: &Map<String, Value>,
    new: &Map<String, Value>,
) -> Result<(), ArmError> {
    if call.version.at_least(2026, 11, 1) {
        return Ok(());
    }
    let changeable = |key: &str| {
        key == CHANGEABLE[0] || (key == CHANGEABLE[1] && call.version.at_least(2024, 2, 1))
    };
    let differs = |key: &String| !changeable(key) && old.get(key) != new.get(key);
    if !old.keys().chain(new.keys()).any(differs) {
        return Ok(());
    }
    Err(errors::conflict(
        "Update/Upgrade of image templates is currently not supported. From api-version 2026-11-01 on \
         this server allows it.",
    ))
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
    let begun = server.work.begin_run(&call.permit, &template).await?;
    let mut job = begun.job;
    job.exclusive = Some(format!("run {}", call.id.folded()));
    job.visible_at.push(begun.run.clone());
    let job = match server.submit(&call.permit, job).await {
        Ok(job) => job,
        Err(error) => {
            let tenant = call.permit.tenant();
            server.work.abandon_run(&begun.run, tenant).await;
            return Err(error);
        }
    };
    let run = begun.run.to_string();
    let reply = Reply::new(StatusCode::ACCEPTED, Some(json!({ "id": run })));
    let reply = reply.with(RUN, &run);
    server.polled(reply, &call, &call.id, job)
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
