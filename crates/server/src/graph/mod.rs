//! What of Microsoft Graph Azure's clients use beside ARM: who a principal is, by name, client id or object id; users,
//! groups and their members.
//!
//! Whoever has any role in the tenant may look people up. What is changed takes the right to change the resource that
//! stands for it, as it would by ARM.

mod filter;
mod people;

use std::collections::HashSet;
use std::sync::Arc;

use access::Grants;
use axum::body::Body;
use catalog::{Audience, ObjectKind, PrincipalRecord};
use http::request::Parts;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;
use wire::{AppId, ArmError, PrincipalId, TenantId};

use self::filter::Filter;
use crate::exchange::{self, Base, Query, Reply};
use crate::oauth::OTHER_AUDIENCES;
use crate::state::Server;
use crate::{bearer, errors, path};

/// Where Graph is on this server; the cloud's metadata says so.
pub const ROOT: &str = "graph";
const IDS_MAX: usize = 1000;
const BODY_BYTES_MAX: usize = 256 * 1024;

/// What is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    Principals,
    Principal(String),
    Applications,
    Application(String),
    People(people::Ask),
    ByIds,
    Unknown,
}

/// The question that a path is; `None` leaves it to others.
pub fn route(parts: &Parts) -> Option<Ask> {
    let segments = path::segments(parts.uri.path()).ok()?;
    let (first, rest) = segments.split_first()?;
    if first != ROOT {
        return None;
    }
    let folded: Vec<String> = rest.iter().map(|one| one.to_lowercase()).collect();
    let folded: Vec<&str> = folded.iter().map(String::as_str).collect();
    let ask = match folded.as_slice() {
        ["v1.0" | "beta", rest @ ..] => match rest {
            ["serviceprincipals"] => Ask::Principals,
            ["serviceprincipals", id] => Ask::Principal((*id).to_string()),
            ["applications"] => Ask::Applications,
            ["applications", id] => Ask::Application((*id).to_string()),
            ["directoryobjects", "getbyids"] => Ask::ByIds,
            rest => match people::route(rest) {
                Some(ask) => Ask::People(ask),
                None => by_key(rest.first().copied().unwrap_or_default()),
            },
        },
        _ => Ask::Unknown,
    };
    Some(ask)
}

/// `servicePrincipals(appId='…')`
fn by_key(segment: &str) -> Ask {
    let key = |of: &str| {
        let rest = segment.strip_prefix(of)?.strip_prefix("(appid='")?;
        rest.strip_suffix("')").map(str::to_string)
    };
    if let Some(app) = key("serviceprincipals") {
        return Ask::Principal(app);
    }
    key("applications").map_or(Ask::Unknown, Ask::Application)
}

/// A refusal in Graph's shape.
struct Refusal {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl Refusal {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Refusal {
        Refusal {
            status,
            code,
            message: message.into(),
        }
    }
}

impl From<ArmError> for Refusal {
    fn from(error: ArmError) -> Refusal {
        let status =
            StatusCode::from_u16(error.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let code = match status.as_u16() {
            401 => "InvalidAuthenticationToken",
            403 => "Authorization_RequestDenied",
            404 => "Request_ResourceNotFound",
            412 => "Request_Conflict",
            500.. => "InternalServerError",
            _ => "Request_BadRequest",
        };
        Refusal::new(status, code, error.message)
    }
}

impl From<Refusal> for Reply {
    fn from(refusal: Refusal) -> Reply {
        let id = Uuid::new_v4().to_string();
        let error = json!({
            "code": refusal.code,
            "message": refusal.message,
            "innerError": { "request-id": id, "client-request-id": id },
        });
        Reply::new(refusal.status, Some(json!({ "error": error })))
    }
}

pub async fn answer(server: &Arc<Server>, ask: Ask, parts: &Parts, body: Body) -> Reply {
    match reply(server, ask, parts, body).await {
        Ok(reply) => reply,
        Err(refusal) => refusal.into(),
    }
}

async fn reply(
    server: &Arc<Server>,
    ask: Ask,
    parts: &Parts,
    body: Body,
) -> Result<Reply, Refusal> {
    let own = Base::of(&parts.headers, &server.url);
    let caller = bearer::identity_for(server, &parts.headers, |audience| {
        let audience = audience.trim_end_matches('/');
        let graph = audience.strip_suffix(&format!("/{ROOT}"));
        audience == OTHER_AUDIENCES[1].trim_end_matches('/')
            || graph.is_some_and(|base| base == own.as_str() || server.is_own_url(base))
    })
    .await?;
    let grants = server.auth.grants(caller.tenant, caller.principal).await;
    let grants = grants.map_err(errors::catalog)?;
    if let Ask::People(ask) = ask {
        let asked = people::Asked {
            server,
            caller,
            grants,
            base: &own,
            method: &parts.method,
        };
        return asked.answer(ask, parts, body).await;
    }
    let method = match ask {
        Ask::ByIds => Method::POST,
        _ => Method::GET,
    };
    if parts.method != method {
        return Err(unsupported("This method is not supported here."));
    }
    need_any_role(&grants)?;
    let query = Query::parse(parts.uri.query())?;
    let filter = Filter::parse(query.get("$filter").unwrap_or_default())?;
    let tenant = caller.tenant;
    let principals = server.auth.principals(tenant).await;
    let principals = principals.map_err(errors::catalog)?;
    let homes = || {
        let own = |one: &&PrincipalRecord| one.application.home == tenant;
        let named = principals.iter().filter(own);
        named
            .filter(|one| !one.application.managed)
            .map(application)
    };
    let value = match ask {
        Ask::Principals => listed(
            &own,
            "servicePrincipals",
            principals.iter().map(principal),
            &filter,
        ),
        Ask::Applications => listed(&own, "applications", homes(), &filter),
        Ask::Principal(id) => one(principals.iter().map(principal), &id)?,
        Ask::Application(id) => one(homes(), &id)?,
        Ask::ByIds => {
            let bytes = exchange::read_body(parts, body, BODY_BYTES_MAX).await?;
            by_ids(server, tenant, &exchange::json(&bytes)?, &principals).await?
        }
        Ask::People(_) | Ask::Unknown => {
            return Err(Refusal::new(
                StatusCode::NOT_FOUND,
                "Request_ResourceNotFound",
                "This server answers what ARM's clients ask of Graph: users, groups, service principals, applications, getByIds.",
            ));
        }
    };
    Ok(Reply::ok(value))
}

/// The directory is for whoever has a role in the tenant.
fn need_any_role(grants: &Grants) -> Result<(), Refusal> {
    if !grants.is_empty() {
        return Ok(());
    }
    Err(Refusal::new(
        StatusCode::FORBIDDEN,
        "Authorization_RequestDenied",
        "Insufficient privileges to complete the operation.",
    ))
}

fn audience(of: Audience) -> &'static str {
    match of {
        Audience::Home => "AzureADMyOrg",
        Audience::ManyTenants => "AzureADMultipleOrgs",
    }
}

fn principal(of: &PrincipalRecord) -> Value {
    let application = &of.application;
    json!({
        "@odata.type": "#microsoft.graph.servicePrincipal",
        "id": of.principal.to_string(),
        "accountEnabled": true,
        "appDisplayName": application.display_name,
        "appId": application.app.to_string(),
        "appOwnerOrganizationId": application.home.to_string(),
        "displayName": application.display_name,
        "servicePrincipalNames": [application.app.to_string()],
        "servicePrincipalType": if application.managed { "ManagedIdentity" } else { "Application" },
        "signInAudience": audience(application.audience),
        "tags": [],
    })
}

fn application(of: &PrincipalRecord) -> Value {
    let application = &of.application;
    json!({
        "@odata.type": "#microsoft.graph.application",
        "id": object_id(application.home, application.app),
        "appId": application.app.to_string(),
        "displayName": application.display_name,
        "identifierUris": [],
        "publisherDomain": format!("{}.bullion.invalid", application.home),
        "signInAudience": audience(application.audience),
        "tags": [],
    })
}

/// Graph's applications have an object id besides the client id; ours is made of it, always the same.
fn object_id(home: TenantId, app: AppId) -> String {
    let name = format!("{home} application {app}");
    Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()).to_string()
}

fn listed(base: &Base, kind: &str, of: impl Iterator<Item = Value>, filter: &Filter) -> Value {
    let value: Vec<Value> = of.filter(|one| filter.fits(one)).collect();
    json!({
        "@odata.context": format!("{}/{ROOT}/v1.0/$metadata#{kind}", base.as_str()),
        "value": value,
    })
}

/// By object id or client id.
fn one(mut of: impl Iterator<Item = Value>, id: &str) -> Result<Value, Refusal> {
    let found = of.find(|one| one["id"] == id || one["appId"] == id);
    found.ok_or_else(|| {
        let shown: String = id.chars().take(100).collect();
        Refusal::new(
            StatusCode::NOT_FOUND,
            "Request_ResourceNotFound",
            format!("Resource '{shown}' does not exist or one of its queried reference-property objects are not present."),
        )
    })
}

async fn by_ids(
    server: &Server,
    tenant: TenantId,
    body: &Value,
    principals: &[PrincipalRecord],
) -> Result<Value, Refusal> {
    let ids = body.get("ids").and_then(Value::as_array);
    let ids = ids
        .filter(|ids| ids.len() <= IDS_MAX)
        .ok_or_else(|| unsupported(&format!("'ids' must be a list of at most {IDS_MAX} ids.")))?;
    let wanted: HashSet<&str> = ids.iter().filter_map(Value::as_str).collect();
    let mut value: Vec<Value> = Vec::new();
    for one in principals {
        if wanted.contains(one.principal.to_string().as_str()) {
            value.push(principal(one));
        }
    }
    for id in wanted.iter().take(IDS_MAX) {
        let Ok(principal) = id.parse::<PrincipalId>() else {
            continue;
        };
        let object = server.auth.object(tenant, principal).await;
        let Some(object) = object.map_err(errors::catalog)? else {
            continue;
        };
        if object.kind != ObjectKind::ServicePrincipal {
            value.extend(people::shown_object(server, tenant, &object).await?);
        }
    }
    Ok(json!({ "value": value }))
}

fn unsupported(message: &str) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, "Request_UnsupportedQuery", message)
}
