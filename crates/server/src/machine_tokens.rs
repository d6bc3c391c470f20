//! Tokens of a machine's identity, in the manner of an instance metadata service.
//!
//! A machine proves itself by a secret that was issued for its system-assigned identity
//! (`POST {machine}/providers/Bullion.Factory/issueIdentitySecret`), sent as `X-IDENTITY-HEADER`, as clients do where
//! `IDENTITY_ENDPOINT` and `IDENTITY_HEADER` are set. It gets tokens for that identity, and by `client_id` for the
//! user-assigned ones that it has at that moment.

use std::sync::Arc;

use access::{Bearer, ClientSecret, Identity, LIFETIME_SECONDS};
use catalog::{Resource, StoredSecret};
use http::StatusCode;
use http::header::HeaderName;
use http::request::Parts;
use jiff::{Timestamp, ToSpan as _};
use secrecy::SecretString;
use serde_json::{Value, json};
use uuid::Uuid;
use wire::{AppId, ArmError, PrincipalId, TenantId};

use crate::errors;
use crate::exchange::{Base, Query, Reply};
use crate::hierarchy::looking;
use crate::oauth::TokenVersion;
use crate::operation::Call;
use crate::sign_in;
use crate::state::Server;

const HEADER: HeaderName = HeaderName::from_static("x-identity-header");
const PATH: &str = "/metadata/identity/oauth2/token";
const SECRET_DAYS: i64 = 365;
const NAME: &str = "machine";

/// Makes the secret that the machine proves itself with; the one before is good no more.
pub async fn issue_secret(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let tenant = call.permit.tenant();
    let found = server.auth.managed_identity(tenant, &call.id).await;
    let Some((app, _)) = found.map_err(errors::catalog)? else {
        return Err(errors::bad_request(
            "The resource has no system-assigned identity: give it one with identity.type 'SystemAssigned'.",
        ));
    };
    let secret =
        ClientSecret::random().map_err(|error| errors::internal("making a secret", &error))?;
    let hash = server.hash(&secret).await?;
    let before = server.auth.secrets_of(&call.permit).await;
    for old in before.map_err(errors::catalog)? {
        let removed = server.auth.remove_secret(&call.permit, old.id).await;
        removed.map_err(errors::catalog)?;
    }
    let now = Timestamp::now();
    let expires_at = now + (SECRET_DAYS * 24).hours();
    let stored = StoredSecret {
        id: Uuid::new_v4(),
        name: NAME.into(),
        hint: secret.expose().chars().take(3).collect(),
        hash,
        made_at: now,
        expires_at,
    };
    let kept = server.auth.add_secret(&call.permit, stored).await;
    kept.map_err(errors::catalog)?;
    Ok(Reply::ok(json!({
        "identityEndpoint": call.base.url(PATH, &[]),
        "identityHeader": format!("{app}.{}", secret.expose()),
        "clientId": app,
        "expiresOn": expires_at.to_string(),
    })))
}

pub async fn answer(server: &Arc<Server>, base: &Base, parts: &Parts) -> Reply {
    match token(server, base, parts).await {
        Ok(reply) | Err(reply) => reply,
    }
}

fn refused(status: StatusCode, error: &str, description: &str) -> Reply {
    let body = json!({ "error": error, "error_description": description });
    Reply::new(status, Some(body))
}

fn bad(description: &str) -> Reply {
    refused(StatusCode::BAD_REQUEST, "invalid_request", description)
}

async fn token(server: &Arc<Server>, base: &Base, parts: &Parts) -> Result<Reply, Reply> {
    let header = parts
        .headers
        .get(&HEADER)
        .and_then(|value| value.to_str().ok());
    let presented = header.and_then(|text| {
        let (app, secret) = text.split_once('.')?;
        Some((app.parse::<AppId>().ok()?, SecretString::from(secret)))
    });
    let Some((app, secret)) = presented else {
        let message =
            "The X-IDENTITY-HEADER header must hold the secret that was issued for the machine.";
        return Err(bad(message));
    };
    let query = Query::parse(parts.uri.query())?;
    let resource = query.get("resource").unwrap_or_default();
    let resource = sign_in::resource_of(resource, base)
        .ok_or_else(|| bad("The parameter 'resource' names nothing that tokens are given for."))?;
    let key = format!("machine {app}");
    let unknown = || {
        server.attempts.failed(&key);
        let message = "The secret is not that of any machine here.";
        refused(StatusCode::UNAUTHORIZED, "invalid_client", message)
    };
    if !server.attempts.may_try(&key) {
        let message = "Too many attempts. Wait a few minutes.";
        return Err(refused(
            StatusCode::TOO_MANY_REQUESTS,
            "invalid_client",
            message,
        ));
    }
    let known = server
        .auth
        .application(app)
        .await
        .map_err(errors::catalog)?;
    let known = known.filter(|known| known.managed).ok_or_else(unknown)?;
    if !server.secret_fits(app, secret).await? {
        return Err(unknown());
    }
    let tenant = known.home;
    let own = server.sign_in_principal(tenant, app).await?;
    let own = own.ok_or_else(unknown)?;
    let machine = machine(server, tenant, own).await?.ok_or_else(unknown)?;
    let (app, principal) = match query.get("client_id") {
        None => (app, own),
        Some(id) if id.eq_ignore_ascii_case(&app.to_string()) => (app, own),
        Some(id) => assigned(&machine, id)
            .ok_or_else(|| bad("The machine has no identity with this client id."))?,
    };
    let identity = Identity {
        tenant,
        principal,
        app,
    };
    let id = machine.id.to_string();
    let bearer = Bearer::Resource(&id);
    let version = TokenVersion::V1;
    let token = server
        .issue_token(base.as_str(), identity, bearer, &resource, version)
        .await?;
    let mut body = sign_in::answer(&token, LIFETIME_SECONDS, &resource, version);
    body["client_id"] = app.to_string().into();
    Ok(Reply::ok(body))
}

async fn machine(
    server: &Server,
    tenant: TenantId,
    principal: PrincipalId,
) -> Result<Option<Resource>, ArmError> {
    let object = server.auth.object(tenant, principal).await;
    let Some(id) = object
        .map_err(errors::catalog)?
        .and_then(|one| one.resource)
    else {
        return Ok(None);
    };
    let found = server.catalog.get(&looking(id, tenant)).await;
    found.map(Some).map_err(errors::catalog)
}

/// The user-assigned identity with this client id.
fn assigned(machine: &Resource, client: &str) -> Option<(AppId, PrincipalId)> {
    let identity = machine.extra.get("identity")?;
    let all = identity.get("userAssignedIdentities")?.as_object()?;
    let text = |of: &Value, key: &str| of[key].as_str().map(str::to_string);
    let found = all
        .values()
        .find(|one| text(one, "clientId").is_some_and(|id| id.eq_ignore_ascii_case(client)))?;
    let app = text(found, "clientId")?.parse().ok()?;
    Some((app, text(found, "principalId")?.parse().ok()?))
}
