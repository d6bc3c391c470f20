//! `Bullion.Factory/pipelines`: the stages that a version goes through, and what each asks.
//!
//! A pipeline gives no right: what it may do in a stage is up to that stage's tenant.

use std::sync::Arc;

use factory::promote::{self, PipelineProblem};
use serde_json::Value;
use wire::{ArmError, ErrorCode};

use super::tenancy::check_name;
use super::{Reply, delete, find, list, present, put_reply, settle_location, show, store, tracked};
use crate::body::ResourceBody;
use crate::operation::Call;
use crate::state::Server;

pub const KIND: &str = promote::PIPELINE_TYPE;

pub async fn put(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    check_name(&call, "pipelineName")?;
    let body = ResourceBody::parse(&call.body, &call.id)?;
    let old = find(&server, &call).await?;
    let location = settle_location(&call, &body, old.as_ref())?;
    let pipeline = promote::check_pipeline(&Value::Object(body.properties.clone()));
    let pipeline = pipeline.map_err(|problems| invalid(&problems))?;
    for stage in &pipeline.stages {
        for region in &stage.target_regions {
            server.need_region(region.name.as_str(), "properties.stages.targetRegions")?;
        }
    }
    let draft = tracked(body, &location, old.as_ref());
    let put = store(&server, &call, old.as_ref(), draft).await?;
    Ok(put_reply(&put))
}

/// All problems at once, each with its place.
pub fn invalid(problems: &[PipelineProblem]) -> ArmError {
    let said =
        |problem: &PipelineProblem| format!("properties.{}: {}.", problem.path, problem.message);
    let message: Vec<String> = problems.iter().map(said).collect();
    let target = problems
        .first()
        .map(|problem| format!("properties.{}", problem.path));
    ArmError::new(ErrorCode::ValidationFailed, message.join(" "))
        .with_target(target.unwrap_or_default())
}

pub async fn get(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    show(&server, &call).await
}

pub async fn remove(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    delete(&server, &call).await
}

pub async fn all(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    list(&server, &call, KIND, |pipeline| Some(present(pipeline))).await
}
