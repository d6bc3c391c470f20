//! Where long-running operations are polled: the status of a job, and the result once it has ended.
//!
//! Both are extensions of the resource that the job works for and are read with the right to read
//! operations there. A client prefers `Azure-AsyncOperation` (always 200) or `Location` (202 until done).

use std::sync::Arc;

use catalog::{CatalogError, JobId, JobRow, JobState};
use http::StatusCode;
use http::header::RETRY_AFTER;
use serde_json::to_value;
use wire::{ArmError, ArmErrorBody, ErrorCode, OperationState, OperationStatus};

use super::{Reply, present};
use crate::errors;
use crate::exchange::RETRY_SECONDS;
use crate::operation::Call;
use crate::state::Server;

pub const KIND: &str = "Bullion.Factory/operations";
pub const RESULT_KIND: &str = "Bullion.Factory/operationResults";

async fn job(server: &Server, call: &Call) -> Result<JobRow, ArmError> {
    let id: JobId = call
        .id
        .name()
        .parse()
        .map_err(|_| errors::not_found(&call.id))?;
    server
        .jobs
        .store()
        .job(&call.permit, id)
        .await
        .map_err(|error| match error {
            CatalogError::NoSuchJob { .. } => errors::not_found(&call.id),
            error => errors::catalog(error),
        })
}

pub fn state(job: &JobRow) -> OperationState {
    match job.state {
        JobState::Queued | JobState::Running | JobState::Undoing => OperationState::InProgress,
        JobState::Succeeded => OperationState::Succeeded,
        JobState::Failed => OperationState::Failed,
        JobState::Canceled => OperationState::Canceled,
    }
}

fn failure(job: &JobRow) -> Option<ArmErrorBody> {
    let failure = job.failure.as_ref().filter(|_| job.state.ended())?;
    Some(ArmErrorBody {
        code: failure.code.clone(),
        message: failure.message.clone(),
        target: failure.step.clone(),
        details: Vec::new(),
        additional_info: Vec::new(),
    })
}

pub async fn status(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let job = job(&server, &call).await?;
    let state = state(&job);
    let status = OperationStatus {
        id: call.id.to_string(),
        name: job.id.to_string(),
        status: state,
        start_time: job.submitted_at.to_string(),
        end_time: job.ended_at.map(|at| at.to_string()),
        percent_complete: (state == OperationState::Succeeded).then_some(100.0),
        error: failure(&job),
        properties: job.output.clone(),
    };
    let body =
        to_value(status).map_err(|error| errors::internal("an operation's status", &error))?;
    Ok(Reply::ok(body).with(RETRY_AFTER, RETRY_SECONDS))
}

/// 202 while it runs; then the resource, or nothing where the job removed it, or why it failed.
pub async fn result(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let job = job(&server, &call).await?;
    match state(&job) {
        OperationState::InProgress => {
            let url = call
                .base
                .url(&call.path, &[("api-version", &call.version.to_string())]);
            Ok(Reply::new(StatusCode::ACCEPTED, None)
                .with(http::header::LOCATION, &url)
                .with(RETRY_AFTER, RETRY_SECONDS))
        }
        OperationState::Succeeded => match server.catalog.get(&call.permit).await {
            Ok(resource) => Ok(Reply::ok(present(&resource))),
            Err(CatalogError::NotFound { .. }) => Ok(Reply::no_content()),
            Err(error) => Err(errors::catalog(error)),
        },
        OperationState::Failed | OperationState::Canceled => {
            let message = match failure(&job) {
                Some(failure) => format!("{}: {}", failure.code, failure.message),
                None => "The operation did not succeed.".to_string(),
            };
            Err(ArmError::new(ErrorCode::Conflict, message))
        }
    }
}
