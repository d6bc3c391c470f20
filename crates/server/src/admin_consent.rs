//! The page on which an administrator of a tenant consents to an application of another one.
//!
//! Whoever approves proves itself in the same form, with the client id and secret of a principal that may write service
//! principals in the tenant; there is no session. Nothing here gives a right: the application can then be given roles.
//! People's own sign-in will come here with the dashboard; until then the code that a redirect carries redeems nothing.

use std::sync::Arc;

use access::{Action, ClientSecret, Identity};
use axum::body::Body;
use catalog::{ApplicationRecord, Audience};
use http::header::{
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, COOKIE, HeaderName, LOCATION, ORIGIN, REFERRER_POLICY,
    RETRY_AFTER, SET_COOKIE, X_FRAME_OPTIONS,
};
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode};
use secrecy::SecretString;
use serde_json::json;
use url::Url;
use wire::{AppId, ArmError, ErrorCode, ResourceId, TenantId};

use crate::exchange::{self, Base, Query, Reply};
use crate::operation::{Call, Preconditions};
use crate::resources::consents;
use crate::sign_in::{Form, find_tenant};
use crate::state::Server;
use crate::{errors, resources};

const FORM_BYTES_MAX: usize = 16 * 1024;
/// `__Host-`: set by this host over TLS for this host alone.
const COOKIE_NAME: &str = "__Host-consent";
const STATE_BYTES_MAX: usize = 2048;
const API_VERSION: &str = "2026-11-01";
const WRITE: &str = "Bullion.Factory/servicePrincipals/write";

/// How the browser is sent back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// `…/oauth2/authorize`: with a code.
    Authorize,
    /// `…/adminconsent`: with the tenant.
    AdminConsent,
}

/// What the page was opened for.
struct Wanted {
    tenant: TenantId,
    application: ApplicationRecord,
    redirect: Url,
    /// As it is registered, which a URL's own text need not be.
    redirect_text: String,
    state: Option<String>,
}

/// Why there is no page. Shown to a person; never a redirect, as nobody has vouched for where it would go.
struct Refusal {
    status: StatusCode,
    code: u32,
    message: String,
}

impl Refusal {
    fn new(code: u32, message: impl Into<String>) -> Refusal {
        Refusal {
            status: StatusCode::BAD_REQUEST,
            code,
            message: message.into(),
        }
    }
}

impl From<ArmError> for Refusal {
    fn from(error: ArmError) -> Refusal {
        let status =
            StatusCode::from_u16(error.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Refusal {
            status,
            code: 90_033,
            message: error.message,
        }
    }
}

pub async fn answer(
    server: &Arc<Server>,
    base: &Base,
    tenant: &str,
    flow: Flow,
    parts: &Parts,
    body: Body,
) -> Reply {
    let reply = match parts.method {
        Method::POST => submitted(server, base, tenant, flow, parts, body).await,
        _ => opened(server, tenant, flow, parts).await,
    };
    reply.unwrap_or_else(|refusal| {
        tracing::info!(target: "bullion::activity", tenant, code = refusal.code, "consent refused");
        let text = format!(
            "<p>AADSTS{}: {}</p>",
            refusal.code,
            escaped(&refusal.message)
        );
        page(refusal.status, &text, None)
    })
}

async fn opened(
    server: &Server,
    tenant: &str,
    flow: Flow,
    parts: &Parts,
) -> Result<Reply, Refusal> {
    let query = Query::parse(parts.uri.query())?;
    let get = |name: &str| query.get(name).map(str::to_string);
    let wanted = wanted(server, tenant, flow, &get).await?;
    show(server, &wanted, StatusCode::OK, "").await
}

/// What is asked for, each part checked; from a query or from the form that repeats it.
async fn wanted(
    server: &Server,
    tenant: &str,
    flow: Flow,
    get: &(impl Fn(&str) -> Option<String> + Sync),
) -> Result<Wanted, Refusal> {
    let Some(tenant) = find_tenant(server, tenant).await? else {
        return Err(Refusal::new(
            90_002,
            format!("Tenant '{tenant}' not found."),
        ));
    };
    let client = get("client_id").ok_or_else(|| missing("client_id"))?;
    let unknown = || {
        Refusal::new(
            700_016,
            format!(
                "Application with identifier '{client}' was not found, or is not open to this tenant."
            ),
        )
    };
    let app: AppId = client.parse().map_err(|_| unknown())?;
    let application = server
        .auth
        .application(app)
        .await
        .map_err(errors::catalog)?;
    let application = application
        .filter(|one| one.audience == Audience::ManyTenants || one.home == tenant)
        .ok_or_else(unknown)?;
    if flow == Flow::Authorize && get("response_type").as_deref() != Some("code") {
        return Err(Refusal::new(
            700_054,
            "The 'response_type' must be 'code': this page is for an administrator's consent.",
        ));
    }
    let redirect_text = redirect(flow, &application, get)?;
    let redirect = Url::parse(&redirect_text)
        .map_err(|_| Refusal::new(50_011, "The redirect URI is not a URI."))?;
    let state = get("state").filter(|state| !state.is_empty());
    if state
        .as_ref()
        .is_some_and(|state| state.len() > STATE_BYTES_MAX)
    {
        return Err(Refusal::new(90_014, "The 'state' is too long."));
    }
    Ok(Wanted {
        tenant,
        application,
        redirect,
        redirect_text,
        state,
    })
}

fn missing(name: &str) -> Refusal {
    Refusal::new(
        900_144,
        format!("The request must contain the following parameter: '{name}'."),
    )
}

/// Where the browser is sent afterwards: nowhere that the application has not named.
fn redirect(
    flow: Flow,
    application: &ApplicationRecord,
    get: &impl Fn(&str) -> Option<String>,
) -> Result<String, Refusal> {
    let redirect = match get("redirect_uri") {
        Some(redirect) => redirect,
        None if flow == Flow::AdminConsent => {
            let first = application.redirects.first();
            first.cloned().ok_or_else(|| missing("redirect_uri"))?
        }
        None => return Err(missing("redirect_uri")),
    };
    if !application.redirects.contains(&redirect) {
        let shown: String = redirect.chars().take(200).collect();
        return Err(Refusal::new(
            50_011,
            format!(
                "The redirect URI '{shown}' specified in the request does not match the redirect URIs \
                 configured for the application '{}' (redirectUris).",
                application.app
            ),
        ));
    }
    Ok(redirect)
}

/// The form, with a fresh mark that the browser has to bring back in both ways.
async fn show(
    server: &Server,
    wanted: &Wanted,
    status: StatusCode,
    said: &str,
) -> Result<Reply, Refusal> {
    let mark = random()?;
    let tenant = server
        .auth
        .tenant(wanted.tenant)
        .await
        .map_err(errors::catalog)?;
    let tenant = tenant.map_or_else(|| wanted.tenant.to_string(), |found| found.display_name);
    let application = &wanted.application;
    let mut hidden = vec![
        ("client_id", application.app.to_string()),
        ("redirect_uri", wanted.redirect_text.clone()),
        ("response_type", "code".to_string()),
        ("mark", mark.clone()),
    ];
    if let Some(state) = &wanted.state {
        hidden.push(("state", state.clone()));
    }
    let hidden: String = hidden
        .iter()
        .map(|(name, value)| {
            format!(
                "<input type=\"hidden\" name=\"{name}\" value=\"{}\">\n",
                escaped(value)
            )
        })
        .collect();
    let said = match said {
        "" => String::new(),
        said => format!("<p role=\"alert\">{}</p>\n", escaped(said)),
    };
    let text = format!(
        "<h1>Consent to an application</h1>\n{said}\
         <p>The application <strong>{}</strong> ({}) of tenant {} asks to be let into <strong>{}</strong> ({}).</p>\n\
         <p>It gets a service principal here and no right; roles are given to it afterwards. Sign in as an \
         administrator of this tenant to approve.</p>\n\
         <form method=\"post\" autocomplete=\"off\">\n{hidden}\
         <p><label>Client id of the administrator<br>\
         <input name=\"admin_id\" required size=\"40\"></label></p>\n\
         <p><label>Client secret<br>\
         <input name=\"admin_secret\" type=\"password\" size=\"40\"></label></p>\n\
         <p><button name=\"answer\" value=\"approve\">Approve</button>\n\
         <button name=\"answer\" value=\"cancel\" formnovalidate>Cancel</button></p>\n</form>",
        escaped(&application.display_name),
        application.app,
        application.home,
        escaped(&tenant),
        wanted.tenant,
    );
    let cookie = format!("{COOKIE_NAME}={mark}; Path=/; Secure; HttpOnly; SameSite=Strict");
    Ok(page(status, &text, Some(&wanted.redirect)).with(SET_COOKIE, &cookie))
}

async fn submitted(
    server: &Arc<Server>,
    base: &Base,
    tenant: &str,
    flow: Flow,
    parts: &Parts,
    body: Body,
) -> Result<Reply, Refusal> {
    let bytes = exchange::read_body(parts, body, FORM_BYTES_MAX).await?;
    let form = Form::parse(&bytes)
        .map_err(|_| Refusal::new(90_014, "The form holds too many or duplicate fields."))?;
    let get = |name: &str| form.get(name).map(str::to_string);
    let wanted = wanted(server, tenant, flow, &get).await?;
    check_own_form(base, &parts.headers, form.get("mark"))?;
    if form.get("answer") != Some("approve") {
        return Ok(send_back(
            &wanted,
            &[
                ("error", "access_denied"),
                (
                    "error_description",
                    "AADSTS65004: the administrator declined to consent.",
                ),
            ],
        ));
    }
    let again = async |said: &str| show(server, &wanted, StatusCode::UNAUTHORIZED, said).await;
    let admin = form.get("admin_id").unwrap_or_default();
    let key = format!("{} {}", wanted.tenant, admin.to_lowercase());
    if !server.attempts.may_try(&key) {
        let said = "Too many attempts. Wait a few minutes.";
        let reply = show(server, &wanted, StatusCode::TOO_MANY_REQUESTS, said).await?;
        return Ok(reply.with(RETRY_AFTER, &server.attempts.pause_seconds().to_string()));
    }
    let Some(identity) = administrator(server, wanted.tenant, admin, &form).await? else {
        server.attempts.failed(&key);
        return again("The client id or secret is not right.").await;
    };
    match consent(server, base, &wanted, identity).await {
        Ok(()) => {}
        Err(error) if error.code == ErrorCode::AuthorizationFailed => {
            return again("This principal may not consent for the tenant.").await;
        }
        Err(error) => return Err(error.into()),
    }
    let code = random()?;
    let tenant = wanted.tenant.to_string();
    let result = match flow {
        Flow::Authorize => [("code", code.as_str()), ("admin_consent", "True")],
        Flow::AdminConsent => [("admin_consent", "True"), ("tenant", tenant.as_str())],
    };
    Ok(send_back(&wanted, &result))
}

/// A form of another site cannot have the mark that this browser was given.
fn check_own_form(base: &Base, headers: &HeaderMap, mark: Option<&str>) -> Result<(), Refusal> {
    let cookies = headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let kept = cookies
        .flat_map(|line| line.split(';'))
        .find_map(|pair| pair.trim().strip_prefix(COOKIE_NAME)?.strip_prefix('='));
    let origin = headers.get(ORIGIN).and_then(|value| value.to_str().ok());
    let own = origin.is_none_or(|origin| origin == base.as_str());
    match (mark, kept) {
        (Some(mark), Some(kept)) if own && mark == kept => Ok(()),
        _ => Err(Refusal::new(
            165_000,
            "The form is not from this page, or the page is old. Open it again.",
        )),
    }
}

/// Who signed in, by id and secret.
async fn administrator(
    server: &Server,
    tenant: TenantId,
    admin: &str,
    form: &Form,
) -> Result<Option<Identity>, ArmError> {
    let Ok(app) = admin.trim().parse::<AppId>() else {
        return Ok(None);
    };
    let Some(principal) = server.sign_in_principal(tenant, app).await? else {
        return Ok(None);
    };
    let secret = SecretString::from(form.get("admin_secret").unwrap_or_default());
    let fits = server.secret_fits(app, secret).await?;
    Ok(fits.then_some(Identity {
        tenant,
        principal,
        app,
    }))
}

/// Makes the service principal as the administrator, with the administrator's rights. One that is there stays.
async fn consent(
    server: &Arc<Server>,
    base: &Base,
    wanted: &Wanted,
    identity: Identity,
) -> Result<(), ArmError> {
    let app = wanted.application.app;
    let id = ResourceId::root()
        .extension("Bullion.Factory", "servicePrincipals", &app.to_string())
        .map_err(|error| errors::internal("a service principal's id", &error))?;
    let grants = server
        .auth
        .grants(identity.tenant, identity.principal)
        .await
        .map_err(errors::catalog)?;
    let permit = access::authorize(&identity, &grants, &Action::new(WRITE), &id, wanted.tenant)
        .map_err(|refused| refused.to_arm())?;
    let there = server.sign_in_principal(wanted.tenant, app).await?;
    tracing::info!(
        target: "bullion::activity",
        action = WRITE, scope = %id, caller = permit.holder(), there = there.is_some(), "consent"
    );
    if there.is_some() {
        return Ok(());
    }
    let call = Call {
        permit,
        path: id.to_string(),
        id,
        version: API_VERSION
            .parse()
            .map_err(|error: wire::ApiVersionError| errors::internal("an api-version", &error))?,
        query: Query::default(),
        body: json!({ "properties": { "appId": app } }),
        base: base.clone(),
        links: Vec::new(),
        preconditions: Preconditions::default(),
        is_head: false,
    };
    let made: Result<resources::Reply, ArmError> = consents::put(Arc::clone(server), call).await;
    made.map(drop)
}

/// Back to the application, with what it sent along.
fn send_back(wanted: &Wanted, result: &[(&str, &str)]) -> Reply {
    let mut url = wanted.redirect.clone();
    {
        let mut pairs = url.query_pairs_mut();
        pairs.extend_pairs(result);
        if let Some(state) = &wanted.state {
            pairs.append_pair("state", state);
        }
    }
    let gone = format!("{COOKIE_NAME}=; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age=0");
    // 303: the browser must not post the secret on to the application.
    Reply::new(StatusCode::SEE_OTHER, None)
        .with(LOCATION, url.as_str())
        .with(SET_COOKIE, &gone)
        .with(REFERRER_POLICY, "no-referrer")
}

fn page(status: StatusCode, text: &str, redirect: Option<&Url>) -> Reply {
    const HTML: &str = "text/html; charset=utf-8";
    const STYLE: HeaderName = CONTENT_SECURITY_POLICY;
    // A browser checks the redirect after a form against this as well.
    let target = redirect.map(|url| url.origin().ascii_serialization());
    let policy = format!(
        "default-src 'none'; form-action 'self' {}; frame-ancestors 'none'; base-uri 'none'",
        target.unwrap_or_default()
    );
    let html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>Bullion</title>\n</head>\n<body>\n\
         {text}\n</body>\n</html>\n"
    );
    let mut reply = Reply::new(status, None)
        .with(CONTENT_TYPE, HTML)
        .with(STYLE, &policy)
        .with(X_FRAME_OPTIONS, "DENY")
        .with(REFERRER_POLICY, "no-referrer");
    reply.content = Some(Body::from(html));
    reply
}

fn random() -> Result<String, Refusal> {
    let made = ClientSecret::random();
    let made = made.map_err(|error| errors::internal("a random text", &error))?;
    Ok(made.expose().to_string())
}

fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}
