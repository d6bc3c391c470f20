//! The few reads of Microsoft Graph that Azure's clients do beside ARM: who a principal is, by name, client id or object
//! id. What they show are this server's applications and their principals in the caller's tenant.
//!
//! A directory, not a store: whoever has any role in the tenant may look people up in it; nothing is changed here.

use std::sync::Arc;

use access::Identity;
use axum::body::Body;
use catalog::{Audience, PrincipalRecord};
use http::request::Parts;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;
use wire::{AppId, ArmError, TenantId};

use crate::exchange::{self, Base, Query, Reply};
use crate::oauth::OTHER_AUDIENCES;
use crate::state::Server;
use crate::{bearer, errors, path};

/// Where Graph is on this server; the cloud's metadata says so.
pub const ROOT: &str = "graph";
const IDS_MAX: usize = 1000;
const BODY_BYTES_MAX: usize = 256 * 1024;
const TERMS_MAX: usize = 10;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    Principals,
    Principal(String),
    Applications,
    Application(String),
    /// Users and groups: there are none.
    Nobody,
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
        ["v1.0" | "beta", "serviceprincipals"] => Ask::Principals,
        ["v1.0" | "beta", "serviceprincipals", id] => Ask::Principal((*id).to_string()),
        ["v1.0" | "beta", "applications"] => Ask::Applications,
        ["v1.0" | "beta", "applications", id] => Ask::Application((*id).to_string()),
        ["v1.0" | "beta", "users" | "groups"] => Ask::Nobody,
        ["v1.0" | "beta", "directoryobjects", "getbyids"] => Ask::ByIds,
        _ => by_key(folded.get(1).copied().unwrap_or_default()),
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
        Ok(value) => Reply::ok(value),
        Err(refusal) => refusal.into(),
    }
}

async fn reply(
    server: &Arc<Server>,
    ask: Ask,
    parts: &Parts,
    body: Body,
) -> Result<Value, Refusal> {
    let own = Base::of(&parts.headers, &server.url);
    let caller = bearer::identity_for(server, &parts.headers, |audience| {
        let audience = audience.trim_end_matches('/');
        let graph = audience.strip_suffix(&format!("/{ROOT}"));
        audience == OTHER_AUDIENCES[1].trim_end_matches('/')
            || graph.is_some_and(|base| base == own.as_str() || server.is_own_url(base))
    })
    .await?;
    let method = if ask == Ask::ByIds {
        Method::POST
    } else {
        Method::GET
    };
    if parts.method != method {
        return Err(unsupported("This method is not supported here."));
    }
    let principals = directory(server, &caller).await?;
    let query = Query::parse(parts.uri.query())?;
    let filter = Filter::parse(query.get("$filter").unwrap_or_default())?;
    let tenant = caller.tenant;
    match ask {
        Ask::Principals => Ok(listed(
            &own,
            "servicePrincipals",
            principals.iter().map(principal),
            &filter,
        )),
        Ask::Applications => {
            let homes = principals
                .iter()
                .filter(|one| one.application.home == tenant);
            Ok(listed(
                &own,
                "applications",
                homes.map(application),
                &filter,
            ))
        }
        Ask::Nobody => Ok(listed(&own, "users", std::iter::empty(), &filter)),
        Ask::Principal(id) => one(principals.iter().map(principal), &id),
        Ask::Application(id) => {
            let homes = principals
                .iter()
                .filter(|one| one.application.home == tenant);
            one(homes.map(application), &id)
        }
        Ask::ByIds => {
            let bytes = exchange::read_body(parts, body, BODY_BYTES_MAX).await?;
            by_ids(&exchange::json(&bytes)?, &principals)
        }
        Ask::Unknown => Err(Refusal::new(
            StatusCode::NOT_FOUND,
            "Request_ResourceNotFound",
            "This server answers the reads of Graph that ARM's clients do: service principals, applications, getByIds.",
        )),
    }
}

/// The principals of the caller's tenant, for whoever has a role in it.
async fn directory(server: &Server, caller: &Identity) -> Result<Vec<PrincipalRecord>, Refusal> {
    let grants = server
        .auth
        .grants(caller.tenant, caller.principal)
        .await
        .map_err(errors::catalog)?;
    if grants.is_empty() {
        return Err(Refusal::new(
            StatusCode::FORBIDDEN,
            "Authorization_RequestDenied",
            "Insufficient privileges to complete the operation.",
        ));
    }
    let principals = server.auth.principals(caller.tenant).await;
    Ok(principals.map_err(errors::catalog)?)
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
        "servicePrincipalType": "Application",
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

fn by_ids(body: &Value, principals: &[PrincipalRecord]) -> Result<Value, Refusal> {
    let ids = body.get("ids").and_then(Value::as_array);
    let ids = ids
        .filter(|ids| ids.len() <= IDS_MAX)
        .ok_or_else(|| unsupported(&format!("'ids' must be a list of at most {IDS_MAX} ids.")))?;
    let value: Vec<Value> = principals
        .iter()
        .map(principal)
        .filter(|one| ids.contains(&one["id"]))
        .collect();
    Ok(json!({ "value": value }))
}

fn unsupported(message: &str) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, "Request_UnsupportedQuery", message)
}

/// What clients filter by: terms that must all hold.
#[derive(Debug, Default, PartialEq, Eq)]
struct Filter(Vec<Term>);

#[derive(Debug, PartialEq, Eq)]
enum Term {
    /// A member is this, or a list holds it.
    Is(String, String),
    StartsWith(String, String),
}

impl Filter {
    fn parse(text: &str) -> Result<Filter, Refusal> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(Filter::default());
        }
        let mut terms = Vec::new();
        let mut rest = text;
        for _ in 0..TERMS_MAX {
            let Some((term, after)) = term(rest) else {
                break;
            };
            terms.push(term);
            if after.is_empty() {
                return Ok(Filter(terms));
            }
            let Some(next) = after.strip_prefix("and ") else {
                break;
            };
            rest = next.trim_start();
        }
        Err(unsupported("This filter is not supported."))
    }

    fn fits(&self, of: &Value) -> bool {
        let same = |value: &Value, wanted: &str| {
            value
                .as_str()
                .is_some_and(|text| text.eq_ignore_ascii_case(wanted))
        };
        self.0.iter().all(|term| match term {
            Term::Is(name, wanted) => match &of[name] {
                Value::Array(list) => list.iter().any(|value| same(value, wanted)),
                value => same(value, wanted),
            },
            Term::StartsWith(name, wanted) => of[name]
                .as_str()
                .is_some_and(|text| text.to_lowercase().starts_with(&wanted.to_lowercase())),
        })
    }
}

/// The first term of a filter, and what comes after it.
fn term(text: &str) -> Option<(Term, &str)> {
    if let Some(rest) = text.strip_prefix("startswith(") {
        let (name, rest) = rest.split_once(',')?;
        let (value, rest) = quoted(rest.trim_start())?;
        let rest = rest.trim_start().strip_prefix(')')?;
        let term = Term::StartsWith(plain(name)?, value);
        return Some((term, rest.trim_start()));
    }
    if let Some((name, rest)) = text.split_once("/any(")
        && plain(name).is_some()
    {
        let (variable, rest) = rest.split_once(':')?;
        let rest = rest.trim_start().strip_prefix(variable.trim())?;
        let (value, rest) = quoted(rest.trim_start().strip_prefix("eq ")?.trim_start())?;
        let rest = rest.trim_start().strip_prefix(')')?;
        return Some((Term::Is(plain(name)?, value), rest.trim_start()));
    }
    let (name, rest) = text.split_once(" eq ")?;
    let (value, rest) = quoted(rest.trim_start())?;
    Some((Term::Is(plain(name)?, value), rest.trim_start()))
}

fn plain(name: &str) -> Option<String> {
    let name = name.trim();
    let fit = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
    fit.then(|| name.to_string())
}

/// A text in single quotes; two of them stand for one.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut rest = text.strip_prefix('\'')?;
    loop {
        let (part, after) = rest.split_once('\'')?;
        value.push_str(part);
        match after.strip_prefix('\'') {
            Some(more) => {
                value.push('\'');
                rest = more;
            }
            None => return Some((value, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters() {
        let shown = json!({
            "appId": "A1", "displayName": "It's CI", "servicePrincipalNames": ["a1", "b"],
        });
        let check = |text: &str, expected: Option<bool>| {
            let seen = Filter::parse(text).ok().map(|filter| filter.fits(&shown));
            assert_eq!(seen, expected, "{text}");
        };
        check("", Some(true));
        check("appId eq 'a1'", Some(true));
        check("appId eq 'a2'", Some(false));
        check("servicePrincipalNames/any(c:c eq 'B')", Some(true));
        check("servicePrincipalNames/any(c:c eq 'c')", Some(false));
        check("startswith(displayName,'it''s')", Some(true));
        check("startswith(displayName,'x') and appId eq 'a1'", Some(false));
        check("displayName eq 'It''s CI' and appId eq 'a1'", Some(true));
        check("unknown eq 'x'", Some(false));
        for text in [
            "appId eq a1",
            "appId eq 'a1",
            "appId ne 'a1'",
            "appId eq 'a1' or appId eq 'a2'",
            "a/any(c:d eq 'x')",
            "a/any(",
            "startswith(a)",
            "x' eq 'y'",
            "appId eq 'a1' and",
        ] {
            check(text, None);
        }
    }
}
