//! What a machine asks at 169.254.169.254: who it is, and tokens of its identities, as Azure's instance metadata service
//! answers them.
//!
//! Each machine has a cable of its own to this server ([`machine::metadata`]); which one a request comes over says which
//! machine asks, so no secret lies in the machine. Nothing that a request says may change that.

mod instance;
mod token;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use catalog::{CatalogError, Resource};
use http::header::HeaderName;
use http::request::Parts;
use http::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use machine::metadata::MetadataLink;
use serde_json::json;
use tokio::io::DuplexStream;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinHandle, JoinSet};
use wire::{ArmError, ResourceId};

use crate::exchange::{Query, Reply};
use crate::hierarchy::looking;
use crate::net::listen;
use crate::state::Server;
use crate::{errors, path};

/// How soon a machine that was started has its service.
const ROUND: Duration = Duration::from_secs(1);
/// Of one machine that wait to be served.
const CONNECTIONS_WAITING: usize = 8;
/// Of one connection, with all its requests.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(120);
const METADATA: HeaderName = HeaderName::from_static("metadata");
/// Set by whatever passes requests on. A machine that asks for itself is nobody's proxy.
const FORWARDED: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Our ends of the machines' cables.
pub struct Cables {
    /// Whom the machines ask.
    pub(crate) server: Arc<Server>,
    task: JoinHandle<()>,
}

impl Cables {
    /// Serves the machines that this server runs until the stop.
    pub fn serve(server: Arc<Server>, stopped: watch::Receiver<bool>) -> Cables {
        let task = tokio::spawn(run(Arc::clone(&server), stopped));
        Cables { server, task }
    }

    /// Waits for the end that the stop has asked for.
    pub async fn ended(self) -> Result<(), JoinError> {
        let outcome = self.task.await;
        drop(self.server);
        outcome
    }
}

async fn run(server: Arc<Server>, mut stopped: watch::Receiver<bool>) {
    let mut served: HashMap<tokio::task::Id, ResourceId> = HashMap::new();
    let mut links = JoinSet::new();
    loop {
        for (machine, folder) in server.work.metadata_links() {
            if served.values().any(|known| *known == machine) {
                continue;
            }
            let link = link(Arc::clone(&server), machine.clone(), folder);
            served.insert(links.spawn(link).id(), machine);
        }
        tokio::select! {
            // Dropped with what they hold: the machines go on, and the next start takes the cables again.
            _ = stopped.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep(ROUND) => {}
        }
        while let Some(ended) = links.try_join_next_with_id() {
            let id = match ended {
                Ok((id, ())) => id,
                Err(error) => {
                    tracing::error!(%error, "a machine's metadata service ended badly");
                    error.id()
                }
            };
            served.remove(&id);
        }
    }
}

/// Serves one machine until it ends.
async fn link(server: Arc<Server>, id: ResourceId, folder: PathBuf) {
    // Not there: started by an earlier version, or about to end. It is looked for again.
    let Ok(link) = MetadataLink::connect(&folder).await else {
        return;
    };
    tracing::debug!(machine = %id, "its metadata service is there");
    let (sender, mut connections) = mpsc::channel(CONNECTIONS_WAITING);
    let service = router(server, id.clone());
    let mut open = JoinSet::new();
    let mut cable = std::pin::pin!(link.run(sender));
    loop {
        tokio::select! {
            ended = &mut cable => {
                if let Err(error) = ended {
                    tracing::warn!(machine = %id, %error, "its metadata service was cut off");
                }
                return;
            }
            Some(stream) = connections.recv() => {
                open.spawn(connection(stream, service.clone()));
            }
            Some(_) = open.join_next() => {}
        }
    }
}

pub(crate) async fn connection(stream: DuplexStream, service: Router) {
    let service = TowerToHyperService::new(service);
    let served = listen::http().serve_connection(TokioIo::new(stream), service);
    if let Ok(Err(error)) = tokio::time::timeout(CONNECTION_TIMEOUT, served).await {
        tracing::debug!(%error, "a machine's connection ended");
    }
}

struct Machine {
    server: Arc<Server>,
    id: ResourceId,
}

pub(crate) fn router(server: Arc<Server>, id: ResourceId) -> Router {
    let machine = Arc::new(Machine { server, id });
    Router::new().fallback(entry).with_state(machine)
}

async fn entry(State(machine): State<Arc<Machine>>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let reply = match answer(&machine, &parts).await {
        Ok(reply) => reply,
        Err(refusal) => *refusal,
    };
    reply.into_response()
}

/// What is answered instead; apart, since a reply is large.
type Refusal = Box<Reply>;

/// A refusal in the words of the service. Its two halves differ in how they say it.
fn refused(status: StatusCode, error: &str, description: &str) -> Refusal {
    let body = json!({ "error": error, "error_description": description });
    Box::new(Reply::new(status, Some(body)))
}

fn bad(description: &str) -> Refusal {
    refused(StatusCode::BAD_REQUEST, "invalid_request", description)
}

async fn answer(machine: &Machine, parts: &Parts) -> Result<Reply, Refusal> {
    let segments = path::segments(parts.uri.path()).unwrap_or_default();
    let segments: Vec<&str> = segments.iter().map(AsRef::as_ref).collect();
    let lower: Vec<String> = segments.iter().map(|one| one.to_lowercase()).collect();
    let lower: Vec<&str> = lower.iter().map(String::as_str).collect();
    let known = matches!(
        lower.as_slice(),
        ["metadata", "identity", "oauth2", "token"]
            | ["metadata", "versions"]
            | ["metadata", "instance", ..]
    );
    if !known {
        return Err(refused(
            StatusCode::NOT_FOUND,
            "Not found",
            "There is nothing at this path.",
        ));
    }
    if parts.method != Method::GET {
        let what = "Only GET is answered.";
        return Err(refused(
            StatusCode::METHOD_NOT_ALLOWED,
            "Method not allowed",
            what,
        ));
    }
    if parts.headers.contains_key(&FORWARDED) {
        return Err(bad(
            "Requests that were passed on (X-Forwarded-For) are refused.",
        ));
    }
    let marked = parts
        .headers
        .get(&METADATA)
        .and_then(|value| value.to_str().ok());
    if !marked.is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return Err(bad("Required metadata header not specified"));
    }
    let query = Query::parse(parts.uri.query()).map_err(Reply::from)?;
    if lower[1] == "versions" {
        return Ok(Reply::ok(json!({ "apiVersions": instance::VERSIONS })));
    }
    check_version(&query)?;
    let resource = machine.resource().await?;
    match lower[1] {
        "identity" => token::answer(machine, &resource, &query).await,
        _ => instance::answer(&resource, &segments[2..], &query),
    }
}

/// Versions differ in members that were added; any that looks like one of the service's is answered.
fn check_version(query: &Query) -> Result<(), Refusal> {
    let newest = || {
        json!({ "error": "Bad request. api-version was not specified in the request. For more information refer to \
                          aka.ms/azureimds", "newest-versions": instance::VERSIONS })
    };
    let Some(version) = query.get("api-version") else {
        return Err(Reply::new(StatusCode::BAD_REQUEST, Some(newest())).into());
    };
    let parts: Vec<&str> = version.split('-').collect();
    let digits = |part: &&str| part.bytes().all(|byte| byte.is_ascii_digit());
    let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    if lengths != [4, 2, 2] || !parts.iter().all(digits) || version < instance::OLDEST {
        return Err(bad(&format!(
            "The api-version '{version}' is not supported."
        )));
    }
    Ok(())
}

impl Machine {
    /// As it is at this moment: rights and identities that were taken away are gone.
    async fn resource(&self) -> Result<Resource, Refusal> {
        let gone = || {
            refused(
                StatusCode::NOT_FOUND,
                "Not found",
                "The machine is not there.",
            )
        };
        let subscription = self.id.subscription().ok_or_else(gone)?;
        let tenant = self.server.auth.subscription_tenant(subscription).await;
        let tenant = tenant.map_err(unavailable)?.ok_or_else(gone)?;
        let found = self
            .server
            .catalog
            .get(&looking(self.id.clone(), tenant))
            .await;
        found.map_err(|error| match error {
            CatalogError::NotFound { .. } => gone(),
            error => unavailable(error),
        })
    }
}

/// Clients try again after this one.
fn unavailable(error: CatalogError) -> Refusal {
    let _: ArmError = errors::internal("a machine's metadata", &error);
    refused(
        StatusCode::SERVICE_UNAVAILABLE,
        "server_error",
        "Try again in a moment.",
    )
}
