//! Scans on demand: `triggerEvaluation`, and what its `Location` answers.
//!
//! A scan is nothing that must survive: the server evaluates everything anew when it starts.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::StatusCode;
use http::header::{LOCATION, RETRY_AFTER};
use serde_json::json;
use uuid::Uuid;
use wire::{ArmError, ErrorCode, ResourceId, TenantId};

use super::{Reply, failed};
use crate::errors;
use crate::exchange::RETRY_SECONDS;
use crate::operation::Call;
use crate::state::Server;

pub const RESULT: &str = "Microsoft.PolicyInsights/asyncOperationResults";
/// Scans that are remembered, those that run included.
const SCANS_MAX: usize = 256;

#[derive(Default)]
pub struct Scans(Mutex<VecDeque<Scan>>);

struct Scan {
    id: Uuid,
    tenant: TenantId,
    scope: ResourceId,
    /// `None` while it runs.
    ended: Option<Result<(), ArmError>>,
}

impl Scans {
    fn all(&self) -> MutexGuard<'_, VecDeque<Scan>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The scan that runs at the scope, or a new one and whether it is.
    fn begin(&self, tenant: TenantId, scope: &ResourceId) -> Result<(Uuid, bool), ArmError> {
        let mut scans = self.all();
        let running = scans
            .iter()
            .find(|scan| scan.ended.is_none() && scan.tenant == tenant && scan.scope == *scope);
        if let Some(scan) = running {
            return Ok((scan.id, false));
        }
        if scans.len() == SCANS_MAX {
            let Some(old) = scans.iter().position(|scan| scan.ended.is_some()) else {
                let message =
                    "Too many policy evaluations are running. Retry when some have ended.";
                return Err(ArmError::new(ErrorCode::TooManyRequests, message));
            };
            scans.remove(old);
        }
        let id = Uuid::new_v4();
        scans.push_back(Scan {
            id,
            tenant,
            scope: scope.clone(),
            ended: None,
        });
        Ok((id, true))
    }

    fn end(&self, id: Uuid, ended: Result<(), ArmError>) {
        if let Some(scan) = self.all().iter_mut().find(|scan| scan.id == id) {
            scan.ended = Some(ended);
        }
    }
}

pub async fn trigger(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let scope = call.permit.scope().clone();
    let (id, new) = server.scans.begin(call.permit.tenant(), &scope)?;
    if new {
        let (server, permit) = (Arc::clone(&server), call.permit.clone());
        tokio::spawn(async move {
            let ended = server.comply.rescan(&permit).await;
            let ended = ended.map_err(|error| failed("evaluating policies", error));
            server.scans.end(id, ended);
        });
    }
    let at = scope
        .extension(
            "Microsoft.PolicyInsights",
            "asyncOperationResults",
            &id.to_string(),
        )
        .map_err(|error| errors::internal("a scan's id", &error))?;
    let version = call.version.to_string();
    let url = call.base.url(&at.to_string(), &[("api-version", &version)]);
    Ok(goes_on(&url))
}

fn goes_on(url: &str) -> Reply {
    Reply::new(StatusCode::ACCEPTED, None)
        .with(LOCATION, url)
        .with(RETRY_AFTER, RETRY_SECONDS)
}

pub async fn result(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let (tenant, scope) = (call.permit.tenant(), call.permit.scope());
    let id = call.id.name().parse::<Uuid>().ok();
    let scans = server.scans.all();
    let found = scans
        .iter()
        .find(|scan| Some(scan.id) == id && scan.tenant == tenant && scan.scope == *scope);
    match found.map(|scan| &scan.ended) {
        None => Err(errors::not_found(&call.id)),
        Some(None) => {
            let version = call.version.to_string();
            Ok(goes_on(
                &call.base.url(&call.path, &[("api-version", &version)]),
            ))
        }
        Some(Some(Ok(()))) => Ok(Reply::ok(json!({ "status": "Succeeded" }))),
        Some(Some(Err(error))) => Err(error.clone()),
    }
}
