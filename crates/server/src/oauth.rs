//! What is answered without a token: sign-in, discovery, the cloud's metadata, health.
//!
//! Shapes and error texts are Entra's, because clients show them to people. Must not look at resources.

use std::sync::Arc;

use axum::body::Body;
use http::Method;
use http::request::Parts;
use serde_json::{Value, json};
use wire::{ArmError, ErrorCode};

use crate::admin_consent::{self, Flow};
use crate::exchange::{self, Base, Query, Reply};
use crate::machine_tokens;
use crate::path;
use crate::sign_in;
use crate::state::Server;

/// A token request is a handful of short fields, a client assertion being the longest.
const FORM_BYTES_MAX: usize = 64 * 1024;

/// The audiences that clients ask tokens for. The first is what the metadata names.
pub const AUDIENCES: [&str; 2] = [
    "https://management.core.windows.net/",
    "https://management.azure.com/",
];
/// Clients ask for tokens for these as well, though nothing here takes them.
pub const OTHER_AUDIENCES: [&str; 2] = ["https://vault.azure.net", "https://graph.microsoft.com/"];

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    Health,
    Metadata,
    OpenId {
        tenant: String,
    },
    Keys,
    Token {
        tenant: String,
        version: TokenVersion,
    },
    /// Of a machine's identity.
    MachineToken,
    /// A page for people.
    Consent {
        tenant: String,
        flow: Flow,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenVersion {
    /// `resource=`; numbers are answered as strings.
    V1,
    /// `scope=<resource>/.default`
    V2,
}

/// The endpoint that a path names; `None` leaves it to ARM.
pub fn route(_server: &Server, parts: &Parts) -> Option<Endpoint> {
    let segments = path::segments(parts.uri.path()).ok()?;
    let folded: Vec<String> = segments.iter().map(|one| one.to_lowercase()).collect();
    let folded: Vec<&str> = folded.iter().map(String::as_str).collect();
    let tenant = || segments[0].clone();
    match folded.as_slice() {
        ["healthz"] => Some(Endpoint::Health),
        ["metadata", "endpoints"] => Some(Endpoint::Metadata),
        ["metadata", "identity", "oauth2", "token"] => Some(Endpoint::MachineToken),
        [_, "v2.0", ".well-known", "openid-configuration"]
        | [_, ".well-known", "openid-configuration"] => Some(Endpoint::OpenId { tenant: tenant() }),
        [_, "discovery", "v2.0", "keys"] | [_, "discovery", "keys"] => Some(Endpoint::Keys),
        [_, "oauth2", "v2.0", "token"] => Some(Endpoint::Token {
            tenant: tenant(),
            version: TokenVersion::V2,
        }),
        [_, "oauth2", "token"] => Some(Endpoint::Token {
            tenant: tenant(),
            version: TokenVersion::V1,
        }),
        [_, "oauth2", "authorize"] | [_, "oauth2", "v2.0", "authorize"] => {
            Some(Endpoint::Consent {
                tenant: tenant(),
                flow: Flow::Authorize,
            })
        }
        [_, "adminconsent"] | [_, "v2.0", "adminconsent"] => Some(Endpoint::Consent {
            tenant: tenant(),
            flow: Flow::AdminConsent,
        }),
        _ => None,
    }
}

pub async fn answer(server: &Arc<Server>, endpoint: Endpoint, parts: &Parts, body: Body) -> Reply {
    let (methods, allow): (&[Method], _) = match endpoint {
        Endpoint::Token { .. } => (&[Method::POST], "POST"),
        Endpoint::Consent { .. } => (&[Method::GET, Method::POST], "GET, POST"),
        _ => (&[Method::GET, Method::HEAD], "GET, HEAD"),
    };
    if !methods.contains(&parts.method) {
        return method_not_allowed(parts, allow);
    }
    let base = Base::of(&parts.headers, &server.url);
    match endpoint {
        Endpoint::Health => Reply::ok(json!({"status": "ok"})),
        Endpoint::Metadata => metadata(&base, parts),
        Endpoint::MachineToken => machine_tokens::answer(server, &base, parts).await,
        Endpoint::OpenId { tenant } => openid_configuration(server, &base, &tenant).await,
        Endpoint::Keys => Reply::ok(server.tokens.key_set()),
        Endpoint::Consent { tenant, flow } => {
            admin_consent::answer(server, &base, &tenant, flow, parts, body).await
        }
        Endpoint::Token { tenant, version } => {
            let form = match exchange::read_body(parts, body, FORM_BYTES_MAX).await {
                Ok(form) => form,
                Err(error) => return error.into(),
            };
            let basic = parts
                .headers
                .get(http::header::AUTHORIZATION)
                .and_then(|value| value.to_str().ok());
            sign_in::token(server, &base, &tenant, version, &form, basic).await
        }
    }
}

pub fn method_not_allowed(parts: &Parts, allow: &str) -> Reply {
    let error = ArmError::new(
        ErrorCode::MethodNotAllowed,
        format!(
            "The method {} is not allowed here. Allowed: {allow}.",
            parts.method
        ),
    );
    Reply::from(error).allowing(allow)
}

/// One object for az, which a list crashes; a list of it for the clients that ask with 2019-05-01.
fn metadata(base: &Base, parts: &Parts) -> Reply {
    let base = base.as_str();
    let cloud = json!({
        "name": "Bullion",
        "portal": base,
        "resourceManager": base,
        "authentication": {
            "loginEndpoint": base,
            "audiences": AUDIENCES,
            "tenant": "common",
            "identityProvider": "AAD",
        },
        "graph": format!("{base}/graph/"),
        "graphAudience": OTHER_AUDIENCES[1],
        "microsoftGraphResourceId": format!("{base}/graph/"),
        "gallery": format!("{base}/gallery/"),
        "vmImageAliasDoc": format!("{base}/vmimagealiases.json"),
        "media": base,
        "batch": base,
        "suffixes": {
            "storage": "storage.bullion.invalid",
            "keyVaultDns": "vault.bullion.invalid",
            "sqlServerHostname": "database.bullion.invalid",
            "acrLoginServer": "registry.bullion.invalid",
        },
    });
    let query = Query::parse(parts.uri.query()).unwrap_or_default();
    match query.get("api-version") {
        Some("2019-05-01" | "2020-06-01") => Reply::ok(Value::Array(vec![cloud])),
        _ => Reply::ok(cloud),
    }
}

async fn openid_configuration(server: &Arc<Server>, base: &Base, tenant: &str) -> Reply {
    let any = ["common", "organizations", "consumers"]
        .iter()
        .any(|word| tenant.eq_ignore_ascii_case(word));
    let tenant = if any {
        tenant.to_lowercase()
    } else {
        match sign_in::find_tenant(server, tenant).await {
            Ok(Some(found)) => found.to_string(),
            Ok(None) => return sign_in::unknown_tenant(tenant).into(),
            Err(error) => return error.into(),
        }
    };
    let login = format!("{}/{tenant}", base.as_str());
    Reply::ok(json!({
        "issuer": format!("{login}/v2.0"),
        "authorization_endpoint": format!("{login}/oauth2/v2.0/authorize"),
        "token_endpoint": format!("{login}/oauth2/v2.0/token"),
        "device_authorization_endpoint": format!("{login}/oauth2/v2.0/devicecode"),
        "jwks_uri": format!("{login}/discovery/v2.0/keys"),
        "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt", "client_secret_basic"],
        "response_types_supported": ["code", "id_token", "token"],
        "response_modes_supported": ["query", "fragment", "form_post"],
        "subject_types_supported": ["pairwise"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "grant_types_supported": ["client_credentials", "password", "refresh_token"],
        "scopes_supported": ["openid", "offline_access"],
        "claims_supported": ["aud", "iss", "iat", "nbf", "exp", "tid", "oid", "appid", "azp", "sub", "idtyp", "upn", "scp", "xms_mirid", "ver"],
    }))
}
