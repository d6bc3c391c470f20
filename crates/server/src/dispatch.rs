//! From a request to its row of the operation table: who calls, what is asked, may they; then the handler.
//!
//! The order is the point. Nothing is looked up before authorisation but whose tenant a subscription is, so a
//! caller without rights learns nothing about what exists; no body is read for one either.

use std::sync::Arc;

use access::{Action, Caller, Forbidden, Grants, Identity, Permit};
use axum::body::Body;
use catalog::CatalogError;
use http::Method;
use http::header::RETRY_AFTER;
use http::request::Parts;
use serde_json::Value;
use wire::{ApiVersion, ArmError, ErrorCode, ResourceId, TenantId};

use crate::activity::{self, Asked};
use crate::exchange::{self, BODY_BYTES_MAX, Base, Query, Reply};
use crate::operation::{Call, Link, Operation, Preconditions, Subject, Tenancy};
use crate::path::{self, ArmPath, PathError, Shape};
use crate::rates::Turn;
use crate::resources::{management_groups, policies, soft_delete};
use crate::state::Server;
use crate::{bearer, enforcement, errors, oauth, patch, table};

/// Scopes that one body may link to.
const LINKS_MAX: usize = 72;
/// How often a write is tried against others of the same resource.
const WRITES_MAX: usize = 4;

pub async fn answer(server: Arc<Server>, parts: &Parts, body: Body) -> Result<Reply, ArmError> {
    let mut asked = Asked::default();
    let outcome = decide(Arc::clone(&server), parts, body, &mut asked).await;
    asked.note(&server.activity, parts, &outcome);
    outcome
}

async fn decide(
    server: Arc<Server>,
    parts: &Parts,
    body: Body,
    asked: &mut Asked,
) -> Result<Reply, ArmError> {
    let caller = bearer::caller(&server, &parts.headers).await?;
    asked.caller = Some(caller.identity);
    let path = path::parse(parts.uri.path()).map_err(bad_path)?;
    let query = Query::parse(parts.uri.query())?;
    let rows = table::rows(&path);
    if rows.is_empty() {
        return Err(unknown_type(&path));
    }
    let Some(row) = row_for(&rows, &parts.method) else {
        let allow: Vec<&str> = rows.iter().map(|row| row.method.as_str()).collect();
        return Ok(oauth::method_not_allowed(parts, &allow.join(", ")));
    };
    asked.row = Some(row);
    let version = api_version(&query)?;
    let id = ResourceId::parse(&path.scope)
        .map_err(|error| errors::bad_request(format!("The resource id is not valid: {error}.")))?;
    let subject = subject(row, &id)?;
    asked.scope = Some(subject.clone());
    let (principal, place) = (caller.identity.principal, subject.subscription());
    let left = match server.rates.take(&parts.method, principal, place) {
        Some(Turn::Wait { seconds }) => return Ok(too_many(seconds)),
        Some(Turn::Taken(header, left)) => Some((header, left)),
        None => None,
    };
    let owner = owner(&server, row, &caller, &subject).await?;
    asked.tenant = Some(owner.tenant);
    let grants = grants(&server, &caller.identity).await?;
    let permit = authorize(row, &caller, &grants, &subject, owner.tenant)?;
    if !owner.known && !makes_subscription(row) {
        let name = subject.part("subscriptions").unwrap_or_default();
        return Err(errors::subscription_not_found(name));
    }
    need_group(&server, &permit).await?;
    let permit = activity::traced(permit, row, &grants, parts);
    let (body, preconditions) = content(&server, row, &permit, parts, body).await?;
    if parts.method == Method::PUT {
        management_groups::need_root(&server, permit.scope(), permit.tenant()).await?;
    }
    let body = enforcement::decided(&server, row, &permit, &id, &version, body).await?;
    let links = links(&server, &caller, grants, &permit, (row.links)(&body)).await?;
    let call = Call {
        permit,
        id,
        version,
        query,
        body,
        base: Base::of(&parts.headers, &server.url),
        path: parts.uri.path().to_string(),
        links,
        preconditions,
        is_head: parts.method == Method::HEAD,
    };
    let reply = run(row, &server, call).await?;
    let reply = exchange::with_etag(reply, parts);
    Ok(match left {
        Some((header, left)) => reply.with(header, &left.to_string()),
        None => reply,
    })
}

/// The body, and what must be true of the resource; of a patch, the whole body that it makes.
async fn content(
    server: &Server,
    row: &Operation,
    permit: &Permit,
    parts: &Parts,
    body: Body,
) -> Result<(Value, Preconditions), ArmError> {
    let preconditions = Preconditions::of(&parts.headers);
    if [Method::GET, Method::HEAD].contains(&parts.method) {
        return Ok((Value::Null, preconditions));
    }
    let body = exchange::json(&exchange::read_body(parts, body, BODY_BYTES_MAX).await?)?;
    if parts.method != Method::PATCH || row.method != Method::PUT {
        return Ok((body, preconditions));
    }
    let (whole, stored) = patch::whole(server, permit, body).await?;
    preconditions.check(Some(&stored))?;
    Ok((whole, Preconditions::matching(&stored)))
}

fn too_many(seconds: u64) -> Reply {
    let message = format!(
        "Number of requests exceeded the limit that is configured for a principal. Please try again after '{seconds}' seconds."
    );
    Reply::from(ArmError::new(ErrorCode::TooManyRequests, message))
        .with(RETRY_AFTER, &seconds.to_string())
}

/// A PUT without conditions of its own looks again when a job or reconciler wrote in between: what the client
/// asked for does not depend on how far a replica is.
async fn run(row: &Operation, server: &Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let again = row.method == Method::PUT && call.preconditions.is_empty();
    let attempts = if again { WRITES_MAX } else { 1 };
    for _ in 1..attempts {
        match (row.run)(Arc::clone(server), call.clone()).await {
            Err(error) if error.code == ErrorCode::PreconditionFailed => {}
            answer => return answer,
        }
    }
    match (row.run)(Arc::clone(server), call).await {
        Err(error) if again && error.code == ErrorCode::PreconditionFailed => {
            Err(errors::conflict(
                "The resource is being changed by other requests at the same time. Retry the request.",
            ))
        }
        answer => answer,
    }
}

fn bad_path(error: PathError) -> ArmError {
    match error {
        PathError::NoType => ArmError::new(
            ErrorCode::NotFound,
            "There is nothing at this path. Resources are below /subscriptions and /providers.",
        ),
        _ => errors::bad_request(format!("The request path is not valid: {error}.")),
    }
}

fn unknown_type(path: &ArmPath) -> ArmError {
    let (namespace, kind) = path.kind.split_once('/').unwrap_or((&path.kind, ""));
    ArmError::new(
        ErrorCode::InvalidResourceType,
        format!(
            "The resource type '{kind}' could not be found in the namespace '{namespace}' at this scope."
        ),
    )
}

/// A HEAD without a row of its own is a GET whose body is dropped; a PATCH without one is a PUT of what the patch makes of
/// the resource.
fn row_for(rows: &[&'static Operation], method: &Method) -> Option<&'static Operation> {
    let of = |method: &Method| rows.iter().find(|row| row.method == *method).copied();
    of(method).or_else(|| match *method {
        Method::HEAD => of(&Method::GET),
        Method::PATCH => of(&Method::PUT).filter(|row| patch::fits(row)),
        _ => None,
    })
}

fn api_version(query: &Query) -> Result<ApiVersion, ArmError> {
    let Some(text) = query.get("api-version") else {
        return Err(ArmError::new(
            ErrorCode::MissingApiVersionParameter,
            "The api-version query parameter (?api-version=) is required for all requests.",
        ));
    };
    text.parse().map_err(|error: wire::ApiVersionError| {
        ArmError::new(ErrorCode::InvalidApiVersionParameter, error.to_string())
    })
}

pub fn subject(row: &Operation, id: &ResourceId) -> Result<ResourceId, ArmError> {
    let subject = match row.subject {
        Subject::Path => Some(id.clone()),
        Subject::Parent => id.parent(),
        Subject::Judged => id.parent().and_then(judged),
        Subject::Meant => soft_delete::meant(id),
        Subject::Own | Subject::Everybody => Some(ResourceId::root()),
    };
    let subject = subject.ok_or_else(|| errors::bad_request("The path names no resource."))?;
    let named = subject.folded().starts_with("/subscriptions/");
    if named && subject.subscription().is_none() {
        return Err(errors::bad_request(
            "The provided subscription identifier is malformed or invalid: a UUID is expected.",
        ));
    }
    Ok(subject)
}

/// The scope that a policy object sits on; any other resource itself.
fn judged(parent: ResourceId) -> Option<ResourceId> {
    let kind = parent.resource_type();
    let object = [policies::DEFINITION, policies::SET, policies::ASSIGNMENT];
    match object.iter().any(|object| kind.is(object)) {
        true => parent.parent(),
        false => Some(parent),
    }
}

struct Owner {
    tenant: TenantId,
    /// Whether the subscription exists, for scopes inside one.
    known: bool,
}

/// Whose the scope is. An unknown subscription is taken as the caller's own, so that asking about it needs
/// the same rights as asking about one that exists.
async fn owner(
    server: &Server,
    row: &Operation,
    caller: &Caller,
    subject: &ResourceId,
) -> Result<Owner, ArmError> {
    let own = caller.identity.tenant;
    if row.tenancy == Tenancy::Installation {
        let tenant = server.installation.tenant;
        return Ok(Owner {
            tenant,
            known: true,
        });
    }
    let Some(subscription) = subject.subscription() else {
        return Ok(Owner {
            tenant: own,
            known: true,
        });
    };
    let found = server
        .auth
        .subscription_tenant(subscription)
        .await
        .map_err(errors::catalog)?;
    Ok(Owner {
        tenant: found.unwrap_or(own),
        known: found.is_some(),
    })
}

fn makes_subscription(row: &Operation) -> bool {
    row.method == Method::PUT && row.kind == crate::resources::subscriptions::KIND
}

async fn grants(server: &Server, identity: &Identity) -> Result<Grants, ArmError> {
    server
        .auth
        .grants(identity.tenant, identity.principal)
        .await
        .map_err(errors::catalog)
}

pub fn authorize(
    row: &Operation,
    caller: &Caller,
    grants: &Grants,
    subject: &ResourceId,
    tenant: TenantId,
) -> Result<Permit, ArmError> {
    let lists = row.shape == Shape::Collection && row.method == Method::GET
        || row.subject == Subject::Everybody;
    let decide = if row.subject == Subject::Own {
        access::authorize_own
    } else if lists {
        access::authorize_list
    } else {
        access::authorize
    };
    decide(
        &caller.identity,
        grants,
        &Action::new(row.action),
        subject,
        tenant,
    )
    .map_err(|refused| refusal(&refused))
}

fn refusal(refused: &Forbidden) -> ArmError {
    tracing::info!(target: "bullion::activity", %refused, "refused");
    refused.to_arm()
}

/// What is asked of a group that is not there is answered about the group, as ARM does.
async fn need_group(server: &Server, permit: &Permit) -> Result<(), ArmError> {
    let Some(group) = permit.scope().group_scope() else {
        return Ok(());
    };
    let Some(permit) = permit.to_read_ancestor(&group) else {
        return Ok(());
    };
    match server.catalog.get(&permit).await {
        Ok(_) => Ok(()),
        Err(CatalogError::NotFound { .. }) => Err(errors::group_not_found(group.name())),
        Err(error) => Err(errors::catalog(error)),
    }
}

/// A permit for each scope that the body links to, in that scope's tenant.
async fn links(
    server: &Server,
    caller: &Caller,
    grants_of_caller: Grants,
    permit: &Permit,
    links: Vec<Link>,
) -> Result<Vec<Permit>, ArmError> {
    if links.is_empty() {
        return Ok(Vec::new());
    }
    if links.len() > LINKS_MAX {
        let message = format!("The request links to more than {LINKS_MAX} resources.");
        return Err(errors::bad_request(message));
    }
    let mut identities = vec![(caller.identity, grants_of_caller)];
    for identity in &caller.auxiliary {
        identities.push((*identity, grants(server, identity).await?));
    }
    let mut permits = Vec::with_capacity(links.len());
    for link in links {
        let scope = link_scope(&link)?;
        let known = match scope.subscription() {
            Some(subscription) => server
                .auth
                .subscription_tenant(subscription)
                .await
                .map_err(errors::catalog)?,
            None => None,
        };
        let tenant = known.unwrap_or(caller.identity.tenant);
        let action = Action::new(link.action);
        let linked = access::authorize_link(permit, &identities, &action, &scope, tenant)
            .map_err(|refused| refusal(&refused))?;
        permits.push(linked);
    }
    Ok(permits)
}

/// A link's id; `…/versions/latest` is about the definition's versions.
fn link_scope(link: &Link) -> Result<ResourceId, ArmError> {
    let scope = ResourceId::parse(&link.scope).ok();
    let placed =
        |scope: &ResourceId| scope.subscription().is_some() || scope.management_group().is_some();
    let fit = scope.filter(placed);
    let Some(scope) = fit else {
        return Err(errors::invalid(
            link.target,
            format!(
                "Property id '{}' at path '{}' is invalid. Expect fully qualified resource Id that \
                 start with '/subscriptions/{{subscriptionId}}'.",
                link.scope.chars().take(200).collect::<String>(),
                link.target
            ),
        ));
    };
    let latest = scope.name().eq_ignore_ascii_case("latest");
    match scope.parent() {
        Some(definition) if latest => Ok(definition),
        _ => Ok(scope),
    }
}
