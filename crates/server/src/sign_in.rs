//! The token endpoint: client credentials in (a secret or an assertion), an access token out. What people sign in with is
//! in [`crate::people`].
//!
//! Refusals carry Entra's AADSTS numbers. Secrets are compared by `access`; this module never logs a form.

use std::sync::Arc;

use access::{Bearer, Identity, LIFETIME_SECONDS};
use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use secrecy::SecretString;
use serde_json::{Value, json};
use uuid::Uuid;
use wire::{AppId, ArmError, TenantId};

use crate::assertions::{self, Presented};
use crate::exchange::{Base, Reply};
use crate::oauth::{AUDIENCES, OTHER_AUDIENCES, TokenVersion};
use crate::people;
use crate::state::Server;

const FORM_FIELDS_MAX: usize = 32;

/// A refusal in Entra's shape.
#[derive(Debug)]
pub struct Refusal {
    status: StatusCode,
    error: &'static str,
    code: u32,
    message: String,
}

impl Refusal {
    pub fn bad(error: &'static str, code: u32, message: String) -> Refusal {
        Refusal {
            status: StatusCode::BAD_REQUEST,
            error,
            code,
            message,
        }
    }

    pub fn client(code: u32, message: String) -> Refusal {
        Refusal {
            status: StatusCode::UNAUTHORIZED,
            error: "invalid_client",
            code,
            message,
        }
    }
}

impl From<Refusal> for Reply {
    fn from(refusal: Refusal) -> Reply {
        let trace = Uuid::new_v4();
        let now = Timestamp::now().strftime("%Y-%m-%d %H:%M:%SZ").to_string();
        let description = format!(
            "AADSTS{}: {} Trace ID: {trace} Timestamp: {now}",
            refusal.code, refusal.message
        );
        Reply::new(
            refusal.status,
            Some(json!({
                "error": refusal.error,
                "error_description": description,
                "error_codes": [refusal.code],
                "timestamp": now,
                "trace_id": trace.to_string(),
                "correlation_id": trace.to_string(),
            })),
        )
    }
}

pub enum Failure {
    Refused(Refusal),
    Broken(ArmError),
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Failure {
        Failure::Refused(refusal)
    }
}

impl From<ArmError> for Failure {
    fn from(error: ArmError) -> Failure {
        Failure::Broken(error)
    }
}

pub fn unknown_tenant(tenant: &str) -> Refusal {
    Refusal::bad(
        "invalid_request",
        90002,
        format!(
            "Tenant '{tenant}' not found. Check to make sure you have the correct tenant ID and are \
             signing into the correct cloud."
        ),
    )
}

pub async fn token(
    server: &Arc<Server>,
    base: &Base,
    tenant: &str,
    version: TokenVersion,
    form: &[u8],
    authorization: Option<&str>,
) -> Reply {
    match issue(server, base, tenant, version, form, authorization).await {
        Ok(answer) => Reply::ok(answer),
        Err(Failure::Refused(refusal)) => {
            tracing::info!(target: "bullion::activity", tenant, code = refusal.code, "sign-in refused");
            refusal.into()
        }
        Err(Failure::Broken(error)) => error.into(),
    }
}

/// The fields of a form. One that is given twice is refused, as which of them counts would be a guess.
pub struct Form(Vec<(String, String)>);

impl Form {
    pub fn parse(bytes: &[u8]) -> Result<Form, Refusal> {
        let mut fields: Vec<(String, String)> = Vec::new();
        for (name, value) in url::form_urlencoded::parse(bytes) {
            let twice = fields.iter().any(|(known, _)| *known == name);
            if twice || fields.len() == FORM_FIELDS_MAX {
                return Err(Refusal::bad(
                    "invalid_request",
                    90014,
                    "The request body holds too many or duplicate parameters.".into(),
                ));
            }
            fields.push((name.into_owned(), value.into_owned()));
        }
        Ok(Form(fields))
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(known, value)| known == name && !value.is_empty())
            .map(|(_, value)| value.as_str())
    }

    pub fn need(&self, name: &'static str) -> Result<&str, Refusal> {
        self.get(name).ok_or_else(|| {
            Refusal::bad(
                "invalid_request",
                900144,
                format!("The request body must contain the following parameter: '{name}'."),
            )
        })
    }
}

async fn issue(
    server: &Arc<Server>,
    base: &Base,
    tenant_text: &str,
    version: TokenVersion,
    form: &[u8],
    authorization: Option<&str>,
) -> Result<Value, Failure> {
    let form = Form::parse(form)?;
    let grant = form.need("grant_type")?;
    if !["client_credentials", "password", "refresh_token"].contains(&grant) {
        return Err(Refusal::bad(
            "unsupported_grant_type",
            70003,
            format!("The app requested an unsupported grant type '{grant}'."),
        )
        .into());
    }
    let Some(tenant) = find_tenant(server, tenant_text).await? else {
        return Err(unknown_tenant(tenant_text).into());
    };
    if grant != "client_credentials" {
        let audience = audience(&form, version, base)?;
        let asked = people::Asked {
            server,
            base,
            tenant,
            version,
            audience: &audience,
        };
        return match grant {
            "password" => asked.password(&form).await,
            _ => asked.refresh(&form).await,
        };
    }
    let (client, proof) = credentials(&form, authorization)?;
    let audience = audience(&form, version, base)?;
    let unknown_app = || {
        Refusal::bad(
            "unauthorized_client",
            700016,
            format!(
                "Application with identifier '{client}' was not found in the directory '{tenant}'."
            ),
        )
    };
    let app: AppId = client.parse().map_err(|_| unknown_app())?;
    let principal = server.sign_in_principal(tenant, app).await?;
    let Some(principal) = principal else {
        return Err(unknown_app().into());
    };
    proved(server, base, tenant, app, proof, &audience).await?;
    let identity = Identity {
        tenant,
        principal,
        app,
    };
    let bearer = Bearer::Application;
    let token = server
        .issue_token(base.as_str(), identity, bearer, &audience, version)
        .await?;
    Ok(answer(&token, LIFETIME_SECONDS, &audience, version))
}

/// Whether the client is who it says.
async fn proved(
    server: &Server,
    base: &Base,
    tenant: TenantId,
    app: AppId,
    proof: Proof,
    audience: &str,
) -> Result<(), Failure> {
    match proof {
        Proof::None => {
            let message = "'client_assertion', 'client_secret' or 'request' is required for the \
                           'client_credentials' grant type.";
            return Err(Refusal::client(7_000_216, message.into()).into());
        }
        Proof::Secret(secret) => {
            if !server.secret_fits(app, secret).await? {
                return Err(wrong_secret(app).into());
            }
        }
        Proof::Assertion { kind, assertion } => {
            let presented = Presented {
                kind: &kind,
                assertion: &assertion,
                tenant,
                app,
                resource: audience,
            };
            if let assertions::Outcome::Refused(refused) =
                assertions::check(server, base, &presented).await?
            {
                return Err(Refusal::client(refused.code, refused.message).into());
            }
        }
    }
    Ok(())
}

/// A tenant by its id. Names are no part of sign-in: they may change, tokens must not follow them.
pub async fn find_tenant(server: &Server, text: &str) -> Result<Option<TenantId>, ArmError> {
    match text.parse::<TenantId>() {
        Ok(tenant) => server.tenant_exists(tenant).await,
        Err(_) => Ok(None),
    }
}

fn wrong_secret(client: AppId) -> Refusal {
    Refusal::client(
        7_000_215,
        format!(
            "Invalid client secret provided. Ensure the secret being sent in the request is the \
             client secret value, not the client secret ID, for a secret added to app '{client}'."
        ),
    )
}

/// What a client proves itself with.
enum Proof {
    None,
    Secret(SecretString),
    Assertion { kind: String, assertion: String },
}

/// Client id and proof, from the form or from a Basic header.
fn credentials(form: &Form, authorization: Option<&str>) -> Result<(String, Proof), Refusal> {
    let basic = authorization
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"))
        .and_then(|(_, value)| BASE64.decode(value.trim()).ok())
        .and_then(|pair| String::from_utf8(pair).ok());
    if let Some((client, secret)) = basic.as_deref().and_then(|pair| pair.split_once(':')) {
        let decode = |text: &str| {
            percent_encoding::percent_decode_str(text)
                .decode_utf8_lossy()
                .into_owned()
        };
        let secret = SecretString::from(decode(secret));
        return Ok((decode(client), Proof::Secret(secret)));
    }
    let client = form.need("client_id")?.to_string();
    let proof = match (form.get("client_secret"), form.get("client_assertion")) {
        (None, None) => Proof::None,
        (Some(secret), None) => Proof::Secret(SecretString::from(secret)),
        (None, Some(assertion)) => Proof::Assertion {
            kind: form.need("client_assertion_type")?.to_string(),
            assertion: assertion.to_string(),
        },
        (Some(_), Some(_)) => {
            return Err(Refusal::bad(
                "invalid_request",
                90_023,
                "Either 'client_secret' or 'client_assertion' is presented, not both.".into(),
            ));
        }
    };
    Ok((client, proof))
}

/// What the token is for. `/.default` is taken off exactly once: an id may itself end in a slash.
pub fn audience(form: &Form, version: TokenVersion, base: &Base) -> Result<String, Refusal> {
    let resource = match version {
        TokenVersion::V1 => form.need("resource")?,
        TokenVersion::V2 => {
            let scope = form.need("scope")?;
            let asked = scope
                .split(' ')
                .find(|word| !matches!(*word, "openid" | "profile" | "offline_access"))
                .unwrap_or_default();
            asked.strip_suffix("/.default").ok_or_else(|| {
                Refusal::bad(
                    "invalid_scope",
                    1002012,
                    format!(
                        "The provided value for scope {scope} is not valid. Client credential flows \
                         must have a scope value with /.default suffixed to the resource identifier \
                         (application ID URI)."
                    ),
                )
            })?
        }
    };
    resource_of(resource, base).ok_or_else(|| {
        Refusal::bad(
            "invalid_resource",
            500011,
            format!("The resource principal named {resource} was not found in the tenant."),
        )
    })
}

/// The resource as the client wrote it, if tokens are given for it.
pub fn resource_of(resource: &str, base: &Base) -> Option<String> {
    let same = |known: &str| known.trim_end_matches('/') == resource.trim_end_matches('/');
    let ours = AUDIENCES
        .iter()
        .chain(&OTHER_AUDIENCES)
        .any(|one| same(one));
    let known = ours || same(base.as_str()) || same(&format!("{}/graph", base.as_str()));
    known.then(|| resource.to_string())
}

pub fn answer(token: &str, lifetime: u64, audience: &str, version: TokenVersion) -> Value {
    match version {
        TokenVersion::V2 => json!({
            "token_type": "Bearer",
            "expires_in": lifetime,
            "ext_expires_in": lifetime,
            "access_token": token,
        }),
        TokenVersion::V1 => {
            let now = Timestamp::now().as_second();
            json!({
                "token_type": "Bearer",
                "expires_in": lifetime.to_string(),
                "ext_expires_in": lifetime.to_string(),
                "expires_on": (now + lifetime as i64).to_string(),
                "not_before": now.to_string(),
                "resource": audience,
                "access_token": token,
            })
        }
    }
}
