//! The door: every request gets an id, a span, a deadline and a panic boundary, and goes to OAuth or ARM.
//!
//! Must not decide anything about resources.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use http::header::{HeaderName, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method};
use tracing::Instrument as _;
use uuid::Uuid;
use wire::{ArmError, ErrorCode};

use crate::activity::RequestIds;
use crate::exchange::{Base, Reply};
use crate::resources::disk_access;
use crate::resources::templates;
use crate::{bearer, blobs, dispatch, errors, graph, oauth, openapi, path, state::Server};

/// A handler that takes longer is given up. Work that takes longer than this is a job's.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);
const REQUEST_ID: HeaderName = HeaderName::from_static("x-ms-request-id");
const CORRELATION_ID: HeaderName = HeaderName::from_static("x-ms-correlation-request-id");
const CLIENT_ID: HeaderName = HeaderName::from_static("x-ms-client-request-id");

pub fn router(server: Arc<Server>) -> Router {
    Router::new().fallback(entry).with_state(server)
}

async fn entry(State(server): State<Arc<Server>>, request: Request) -> Response {
    let began = Instant::now();
    let request_id = Uuid::new_v4();
    let correlation_id = given_id(request.headers(), &CORRELATION_ID).unwrap_or(request_id);
    let client_id = request.headers().get(&CLIENT_ID).cloned();
    let method = request.method().clone();
    let path = request.uri().path().to_string();
    let mut request = request;
    request.extensions_mut().insert(RequestIds {
        request: request_id,
        correlation: correlation_id,
    });
    let span = tracing::info_span!("request", %request_id, %correlation_id);
    let mut reply = guarded(server, request).instrument(span.clone()).await;
    // Queries are left out, they may hold what people typed.
    let status = reply.status.as_u16();
    let milliseconds = began.elapsed().as_millis() as u64;
    span.in_scope(
        || tracing::debug!(target: "bullion::requests", %method, path, status, milliseconds),
    );
    if method == Method::HEAD {
        (reply.body, reply.content) = (None, None);
    }
    let mut response = reply.into_response();
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, value(request_id));
    headers.insert(CORRELATION_ID, value(correlation_id));
    if let Some(client_id) = client_id {
        headers.insert(CLIENT_ID, client_id);
    }
    headers.insert(
        http::header::CACHE_CONTROL,
        HeaderValue::from_static("no-cache, no-store"),
    );
    headers.insert(
        "strict-transport-security",
        HeaderValue::from_static("max-age=31536000"),
    );
    headers.insert(
        "x-content-type-options",
        HeaderValue::from_static("nosniff"),
    );
    response
}

fn given_id(headers: &HeaderMap, name: &HeaderName) -> Option<Uuid> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

fn value(id: Uuid) -> HeaderValue {
    HeaderValue::from_str(&id.to_string()).expect("an id is hexadecimal and dashes")
}

/// Runs the request as a task of its own: a panic ends there, and a write that has begun runs to its end
/// even if the client has gone.
async fn guarded(server: Arc<Server>, request: Request) -> Reply {
    let span = tracing::Span::current();
    let work = tokio::time::timeout(REQUEST_TIMEOUT, route(server, request));
    match tokio::spawn(work.instrument(span)).await {
        Ok(Ok(reply)) => reply,
        Ok(Err(_)) => ArmError::new(
            ErrorCode::ServerTimeout,
            "The request took too long. Try again.",
        )
        .into(),
        Err(error) => errors::internal("a handler panicked", &error).into(),
    }
}

async fn route(server: Arc<Server>, request: Request) -> Reply {
    let (parts, body) = request.into_parts();
    if parts.uri.path() == openapi::PATH && [Method::GET, Method::HEAD].contains(&parts.method) {
        return Reply::ok(openapi::document());
    }
    if let Some(name) = blobs::route(&parts) {
        return blobs::answer(server.blobs.as_deref(), &name, &parts).await;
    }
    if let Some(disk) = disk_access::route(&parts) {
        return disk_access::answer(&server, &disk, &parts).await;
    }
    if let Some(ask) = graph::route(&parts) {
        return graph::answer(&server, ask, &parts, body).await;
    }
    match oauth::route(&server, &parts) {
        Some(endpoint) => oauth::answer(&server, endpoint, &parts, body).await,
        None => {
            let base = Base::of(&parts.headers, &server.url);
            match dispatch::answer(Arc::clone(&server), &parts, body).await {
                Ok(reply) => reply,
                Err(error) => {
                    let refused = error.code.status() == 401;
                    let tenant = match refused {
                        true => asked_tenant(&server, &parts).await,
                        false => String::new(),
                    };
                    templates::as_of(&parts, answer_refused(&base, &tenant, error))
                }
            }
        }
    }
}

/// Whose the path's subscription is, for whoever has no token of that tenant yet: clients read it from the refusal, as
/// Azure lets them.
async fn asked_tenant(server: &Server, parts: &Parts) -> String {
    let segments = path::segments(parts.uri.path()).unwrap_or_default();
    let subscription = match segments.as_slice() {
        [key, id, ..] if key.eq_ignore_ascii_case("subscriptions") => id.parse().ok(),
        _ => None,
    };
    let found = match subscription {
        Some(subscription) => server.auth.subscription_tenant(subscription).await,
        None => Ok(None),
    };
    match found {
        Ok(Some(tenant)) => tenant.to_string(),
        _ => "common".into(),
    }
}

/// A 401 says where to get a token.
fn answer_refused(base: &Base, tenant: &str, error: ArmError) -> Reply {
    let challenge =
        (error.code.status() == 401).then(|| bearer::challenge(base.as_str(), tenant, &error));
    let reply = Reply::from(error);
    match challenge {
        Some(challenge) => reply.with(WWW_AUTHENTICATE, &challenge),
        None => reply,
    }
}
