//! `Bullion.Factory/applications`: who may sign in, with which secrets. One per name and tenant.

use std::sync::Arc;

use access::ClientSecret;
use catalog::{Audience, CatalogError, Draft, Precondition, Record, StoredSecret};
use http::StatusCode;
use jiff::{Timestamp, ToSpan as _};
use serde_json::{Value, json};
use url::Url;
use uuid::Uuid;
use wire::{AppId, ArmError, ErrorCode, PrincipalId};

use super::tenancy::{check_name, display_name};
use super::{Reply, find, list, present, properties, put_reply, show, store};
use crate::body::{ResourceBody, wrong_type};
use crate::errors;
use crate::operation::Call;
use crate::state::Server;

pub const KIND: &str = "Bullion.Factory/applications";
const SECRET_DAYS_DEFAULT: i64 = 365;
const SECRET_DAYS_MAX: i64 = 730;
const HINT_CHARS: usize = 3;
const REDIRECTS_MAX: usize = 20;
const REDIRECT_BYTES_MAX: usize = 256;

pub async fn put(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    check_name(&call, "applicationName")?;
    let body = ResourceBody::parse(&call.body, &call.id)?;
    let old = find(&server, &call).await?;
    let kept = old.as_ref().map(properties);
    let display_name = display_name(&body.properties, call.id.name())?;
    let many = match body.properties.get("multiTenant") {
        None | Some(Value::Null) => kept
            .as_ref()
            .and_then(|kept| kept.get("multiTenant")?.as_bool())
            .unwrap_or(false),
        Some(Value::Bool(many)) => *many,
        Some(_) => return Err(wrong_type("properties.multiTenant", "true or false")),
    };
    let redirects = match body.properties.get("redirectUris") {
        None | Some(Value::Null) => kept
            .as_ref()
            .and_then(|kept| kept.get("redirectUris"))
            .cloned(),
        given => given.cloned(),
    };
    let redirects = redirect_uris(redirects)?;
    let mut stored = json!({ "displayName": display_name, "multiTenant": many });
    if !redirects.is_empty() {
        stored["redirectUris"] = json!(redirects);
    }
    let id = |key: &str| kept.as_ref()?.get(key)?.as_str().map(str::to_string);
    let app = id("appId").and_then(|text| text.parse().ok());
    let principal = id("principalId").and_then(|text| text.parse().ok());
    let (app, principal) = match (app, principal) {
        (Some(app), Some(principal)) => (app, principal),
        _ => (AppId::random(), PrincipalId::random()),
    };
    stored["appId"] = app.to_string().into();
    stored["principalId"] = principal.to_string().into();
    let audience = if many {
        Audience::ManyTenants
    } else {
        Audience::Home
    };
    let mut draft = Draft::new(stored).record(Record::Application {
        app,
        principal,
        display_name,
        audience,
        redirects,
    });
    draft.tags = body.tags;
    let put = store(&server, &call, old.as_ref(), draft).await?;
    Ok(put_reply(&put))
}

/// Where a browser may be sent after a consent. Compared as they are written, so no pattern and no fragment.
fn redirect_uris(given: Option<Value>) -> Result<Vec<String>, ArmError> {
    const TARGET: &str = "properties.redirectUris";
    let listed = match given {
        None => return Ok(Vec::new()),
        Some(Value::Array(listed)) => listed,
        Some(_) => return Err(wrong_type(TARGET, "a list of URIs")),
    };
    let fit = |text: &&str| {
        text.len() <= REDIRECT_BYTES_MAX
            && Url::parse(text).is_ok_and(|url| {
                let own_machine = url.scheme() == "http" && url.host_str() == Some("localhost");
                (url.scheme() == "https" || own_machine) && url.fragment().is_none()
            })
    };
    let uris: Vec<String> = listed
        .iter()
        .filter_map(|value| value.as_str().filter(fit).map(str::to_string))
        .collect();
    if uris.len() == listed.len() && uris.len() <= REDIRECTS_MAX {
        return Ok(uris);
    }
    Err(errors::invalid(
        TARGET,
        format!(
            "Redirect URIs are at most {REDIRECTS_MAX} absolute https URIs without a fragment; http is \
             allowed for localhost."
        ),
    ))
}

pub async fn get(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    show(&server, &call).await
}

/// With an application go its secrets, its other credentials, and what other tenants had consented to.
pub async fn remove(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let Some(old) = find(&server, &call).await? else {
        return Ok(Reply::no_content());
    };
    call.preconditions.check(Some(&old))?;
    let etag = Precondition::Match(old.etag);
    match server.catalog.delete_tree(&call.permit, etag).await {
        Ok(_) => Ok(Reply::new(StatusCode::OK, None)),
        Err(CatalogError::NotFound { .. }) => Ok(Reply::no_content()),
        Err(error) => Err(errors::catalog(error)),
    }
}

pub async fn all(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    list(&server, &call, KIND, |application| {
        Some(present(application))
    })
    .await
}

/// Makes a secret. The answer is the only time that it is shown.
pub async fn add_password(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    if !server.exists(&call.permit.to_read_own()).await? {
        return Err(errors::not_found(&call.id));
    }
    let now = Timestamp::now();
    let expires_at = expiry(&call.body, now)?;
    let name = call
        .body
        .get("displayName")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let secret = ClientSecret::random().map_err(|error| errors::internal("a secret", &error))?;
    let hash = server.hash(&secret).await?;
    let stored = StoredSecret {
        id: Uuid::new_v4(),
        name: name.chars().take(64).collect(),
        hint: secret.expose().chars().take(HINT_CHARS).collect(),
        hash,
        made_at: now,
        expires_at,
    };
    let (key_id, hint) = (stored.id, stored.hint.clone());
    server
        .auth
        .add_secret(&call.permit, stored)
        .await
        .map_err(errors::catalog)?;
    Ok(Reply::ok(json!({
        "keyId": key_id.to_string(),
        "displayName": name,
        "hint": hint,
        "secretText": secret.expose(),
        "startDateTime": now.to_string(),
        "endDateTime": expires_at.to_string(),
    })))
}

/// The secrets of an application without what is secret in them, expired ones too.
pub async fn list_passwords(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let secrets = server.auth.secrets_of(&call.permit).await;
    let secrets = secrets.map_err(errors::catalog)?;
    let shown: Vec<Value> = secrets
        .iter()
        .map(|secret| {
            json!({
                "keyId": secret.id.to_string(),
                "displayName": secret.name,
                "hint": secret.hint,
                "startDateTime": secret.made_at.to_string(),
                "endDateTime": secret.expires_at.to_string(),
            })
        })
        .collect();
    Ok(Reply::ok(json!({ "value": shown })))
}

/// A secret that is removed signs in no more; tokens that it gave live to their end.
pub async fn remove_password(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let key = call.body.get("keyId").and_then(Value::as_str);
    let key = key.and_then(|key| Uuid::try_parse(key).ok());
    let Some(key) = key else {
        return Err(errors::invalid("keyId", "The id of a secret is expected."));
    };
    let removed = server.auth.remove_secret(&call.permit, key).await;
    match removed.map_err(errors::catalog)? {
        true => Ok(Reply::no_content()),
        false => Err(ArmError::new(
            ErrorCode::NotFound,
            format!("The application has no secret '{key}'."),
        )),
    }
}

fn expiry(body: &Value, now: Timestamp) -> Result<Timestamp, ArmError> {
    let days = |count: i64| now + (count * 24).hours();
    let Some(asked) = body.get("endDateTime").filter(|asked| !asked.is_null()) else {
        return Ok(days(SECRET_DAYS_DEFAULT));
    };
    let asked: Option<Timestamp> = asked.as_str().and_then(|text| text.parse().ok());
    match asked {
        Some(asked) if asked > now && asked <= days(SECRET_DAYS_MAX) => Ok(asked),
        _ => Err(errors::invalid(
            "endDateTime",
            format!("The end must be a time in the next {SECRET_DAYS_MAX} days."),
        )),
    }
}
