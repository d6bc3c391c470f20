//! A small ARM server over HTTPS: enough of the wire for the commands, and a record of what they asked.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use http::{Method, Request, Response, StatusCode};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

pub const HOME: &str = "00000000-0000-4000-8000-00000000a000";
pub const ENG: &str = "00000000-0000-4000-8000-00000000a001";
pub const SECRET: &str = "a secret";
/// The id of the secret of every application.
pub const KEY: &str = "00000000-0000-4000-8000-00000000k001";
/// Items of one page of a list; small, so that every test pages.
const PAGE: usize = 2;
/// Looks at an operation before it has ended.
const POLLS: usize = 2;

#[derive(Default)]
pub struct State {
    /// By lower-case path.
    pub resources: BTreeMap<String, Value>,
    /// `PUT /path` of every request but sign-ins, without the query.
    pub asked: Vec<String>,
    /// Bodies that a run shows, one per look; the last one stays.
    pub run: Vec<Value>,
    pub log: Vec<String>,
    /// Answer to any PUT whose path contains the first.
    pub refuse: Option<(&'static str, Value)>,
    /// Whether a run is said to be in progress.
    pub busy: bool,
    /// What every version is exported as, and its tag.
    pub exported: (String, &'static str),
    /// Where downloads break, one after the other.
    pub breaks: Vec<usize>,
    /// What operations say came of them.
    pub output: Value,
    operations: Vec<usize>,
    url: String,
}

pub struct Fake {
    pub url: String,
    pub ca: String,
    pub state: Arc<Mutex<State>>,
}

struct Reply {
    status: StatusCode,
    headers: Vec<(&'static str, String)>,
    body: Value,
    /// Instead of the body.
    text: Option<String>,
}

fn reply(status: u16, body: Value) -> Reply {
    Reply {
        status: StatusCode::from_u16(status).unwrap(),
        headers: Vec::new(),
        body,
        text: None,
    }
}

/// A part of what is exported, which may end before it said it would.
fn exported(state: &mut State, headers: &http::HeaderMap) -> Reply {
    let header = |name: &str| headers.get(name).map(|value| value.to_str().unwrap());
    let (text, tag) = state.exported.clone();
    let range = header("range").filter(|_| header("if-range") == Some(tag));
    let first = range.map_or(0, |range| {
        let first = range.strip_prefix("bytes=").unwrap().strip_suffix('-');
        first.unwrap().parse::<usize>().unwrap()
    });
    state.asked.push(format!("EXPORT from {first}"));
    let end = match state.breaks.is_empty() {
        true => text.len(),
        false => state.breaks.remove(0),
    };
    let mut answer = reply(if range.is_some() { 206 } else { 200 }, Value::Null);
    answer.headers = vec![
        ("content-length", (text.len() - first).to_string()),
        ("etag", tag.to_owned()),
        ("bullion-disk-digest", "bd1:1.0.10".to_owned()),
        (
            "content-range",
            format!("bytes {first}-{}/{}", text.len() - 1, text.len()),
        ),
    ];
    answer.text = Some(text[first..end.max(first)].to_owned());
    answer
}

fn error(status: u16, code: &str, message: &str) -> Reply {
    reply(
        status,
        json!({ "error": { "code": code, "message": message } }),
    )
}

pub async fn start() -> Fake {
    let (acceptor, ca) = certificates();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!(
        "https://localhost:{}",
        listener.local_addr().unwrap().port()
    );
    let state = Arc::new(Mutex::new(State {
        url: url.clone(),
        ..State::default()
    }));
    let shared = state.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (acceptor, state) = (acceptor.clone(), shared.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                let service = service_fn(|request| answer(state.clone(), request));
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    Fake { url, ca, state }
}

fn certificates() -> (TlsAcceptor, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&key).unwrap();
    let issuer = Issuer::new(params, key);
    let leaf_key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["localhost".into()])
        .unwrap()
        .signed_by(&leaf_key, &issuer)
        .unwrap();
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(leaf_key.serialize_der()));
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], private)
        .unwrap();
    (TlsAcceptor::from(Arc::new(config)), ca.pem())
}

impl Fake {
    /// Variables that point a command at this server.
    pub fn variables(&self, folder: &std::path::Path) -> BTreeMap<String, String> {
        let ca = folder.join("ca.pem");
        std::fs::write(&ca, &self.ca).unwrap();
        let pairs = [
            ("BULLION_URL", self.url.as_str()),
            ("BULLION_CA", ca.to_str().unwrap()),
            ("BULLION_TENANT", HOME),
            ("BULLION_CLIENT_ID", "00000000-0000-4000-8000-00000000c000"),
            ("BULLION_CLIENT_SECRET", SECRET),
            ("HOME", folder.to_str().unwrap()),
        ];
        pairs
            .map(|(name, value)| (name.into(), value.into()))
            .into()
    }

    /// The requests since the last call, reads left out.
    pub fn writes(&self) -> Vec<String> {
        let mut state = self.state.lock().unwrap();
        let asked = std::mem::take(&mut state.asked);
        asked
            .into_iter()
            .filter(|line| !line.starts_with("GET "))
            .collect()
    }

    /// What is at the path; null if nothing is.
    pub fn get(&self, path: &str) -> Value {
        let state = self.state.lock().unwrap();
        let found = state.resources.get(&path.to_lowercase());
        found.cloned().unwrap_or_default()
    }

    pub fn put(&self, path: &str, body: Value) {
        let mut state = self.state.lock().unwrap();
        state
            .resources
            .insert(path.to_lowercase(), stored(path, body));
    }
}

/// A body that does not say how long it is, so that it may be shorter than its headers say.
struct Said {
    text: Option<String>,
    /// What was said is on its way before the end is.
    paused: bool,
}

impl hyper::body::Body for Said {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let said = self.text.take();
        if said.is_none() && !std::mem::replace(&mut self.paused, true) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(said.map(|text| Ok(Frame::data(Bytes::from(text)))))
    }
}

async fn answer(
    state: Arc<Mutex<State>>,
    request: Request<Incoming>,
) -> Result<Response<Said>, Infallible> {
    let (parts, body) = request.into_parts();
    let bytes = read(body).await;
    let reply = {
        let mut state = state.lock().unwrap();
        route(
            &mut state,
            &parts.method,
            &parts.uri,
            &parts.headers,
            &bytes,
        )
    };
    let mut response = Response::builder().status(reply.status);
    for (name, value) in reply.headers {
        response = response.header(name, value);
    }
    let text = if let Some(text) = reply.text {
        text
    } else if reply.body.is_null() {
        String::new()
    } else {
        reply.body.to_string()
    };
    let (text, paused) = (Some(text), false);
    Ok(response.body(Said { text, paused }).unwrap())
}

async fn read(mut body: Incoming) -> Vec<u8> {
    use hyper::body::Body;
    let mut bytes = Vec::new();
    while let Some(Ok(frame)) =
        std::future::poll_fn(|cx| std::pin::Pin::new(&mut body).poll_frame(cx)).await
    {
        bytes.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
    }
    bytes
}

fn route(
    state: &mut State,
    method: &Method,
    uri: &http::Uri,
    headers: &http::HeaderMap,
    bytes: &[u8],
) -> Reply {
    let path = uri.path();
    if let Some(tenant) = path.strip_suffix("/oauth2/v2.0/token") {
        return token(tenant.trim_start_matches('/'), bytes);
    }
    let bearer = headers
        .get("authorization")
        .and_then(|value| value.to_str().ok())
        .unwrap_or("");
    let Some(tenant) = bearer.strip_prefix("Bearer token-of-") else {
        return error(401, "AuthenticationFailed", "There is no token.");
    };
    assert!(uri.query().unwrap_or("").contains("api-version="), "{uri}");
    state.asked.push(format!("{method} {path}"));
    if let Some(refused) = other_tenant(state, tenant, path) {
        return refused;
    }
    let folded = key(path, tenant);
    if folded.contains("/bullion.factory/exports/qcow2") {
        return exported(state, headers);
    }
    if let Some(number) = folded.strip_prefix("/operations/") {
        return operation(state, number.parse().unwrap());
    }
    match method.as_str() {
        "GET" if path.split('/').skip(1).count() % 2 == 1 => list(state, tenant, uri),
        "GET" => get(state, &folded),
        "PUT" => put(state, tenant, path, serde_json::from_slice(bytes).unwrap()),
        "DELETE" => {
            state
                .resources
                .retain(|known, _| *known != folded && !known.starts_with(&format!("{folded}/")));
            reply(204, Value::Null)
        }
        "POST" => post(state, path, bytes),
        _ => error(405, "MethodNotAllowed", "No."),
    }
}

fn token(tenant: &str, bytes: &[u8]) -> Reply {
    let form = String::from_utf8_lossy(bytes).into_owned();
    if !form.contains(&format!("client_secret={}", SECRET.replace(' ', "+"))) {
        return reply(
            401,
            json!({ "error": "invalid_client", "error_description": "AADSTS7000215: Invalid client secret provided." }),
        );
    }
    reply(
        200,
        json!({ "token_type": "Bearer", "expires_in": 3600, "access_token": format!("token-of-{tenant}") }),
    )
}

fn stored(path: &str, mut body: Value) -> Value {
    body["id"] = path.into();
    body["name"] = path.rsplit('/').next().into();
    body
}

/// Where a resource is kept: applications, consents and what is assigned to a whole tenant are the tenant's own.
fn key(path: &str, tenant: &str) -> String {
    let folded = path.to_lowercase();
    let of_tenant = ["applications/", "serviceprincipals/", "roleassignments/"];
    let own = folded
        .strip_prefix("/providers/")
        .and_then(|rest| rest.split_once('/'));
    match own {
        Some((_, rest)) if of_tenant.iter().any(|kind| rest.starts_with(kind)) => {
            format!("/of/{tenant}{folded}")
        }
        _ => folded,
    }
}

/// The tenant that a kept resource belongs to, where it belongs to one.
fn owner(state: &State, folded: &str) -> Option<String> {
    if let Some((tenant, _)) = folded
        .strip_prefix("/of/")
        .and_then(|rest| rest.split_once('/'))
    {
        return Some(tenant.to_owned());
    }
    let subscription = folded.strip_prefix("/subscriptions/")?.split('/').next()?;
    let known = state
        .resources
        .get(&format!("/subscriptions/{subscription}"))?;
    Some(known["tenantId"].as_str()?.to_owned())
}

/// A token is of one tenant.
fn other_tenant(state: &State, tenant: &str, path: &str) -> Option<Reply> {
    let owner = owner(state, &key(path, tenant))?;
    let message = format!("The access token is of tenant {tenant}, not {owner}.");
    (owner != tenant).then(|| error(401, "InvalidAuthenticationTokenTenant", &message))
}

fn get(state: &mut State, folded: &str) -> Reply {
    if folded.contains("/providers/bullion.factory/runs/") && !state.run.is_empty() {
        let more = state.run.len() > 1;
        let properties = if more {
            state.run.remove(0)
        } else {
            state.run[0].clone()
        };
        return reply(200, stored(folded, json!({ "properties": properties })));
    }
    match state.resources.get(folded) {
        Some(found) => reply(200, found.clone()),
        None => error(404, "ResourceNotFound", "The Resource was not found."),
    }
}

/// Everything of the type at or below the scope, a page at a time.
fn list(state: &State, tenant: &str, uri: &http::Uri) -> Reply {
    let folded = uri.path().to_lowercase();
    let (scope, kind) = match folded.split_once("/providers/") {
        Some((scope, rest)) if rest.split('/').count() == 2 => {
            (scope, format!("/providers/{rest}/"))
        }
        _ => {
            let (scope, kind) = folded.rsplit_once('/').unwrap();
            (scope, format!("/{kind}/"))
        }
    };
    let query = uri.query().unwrap_or("");
    let skip = query
        .split("skip=")
        .nth(1)
        .map_or(0, |skip| skip.parse::<usize>().unwrap());
    let all: Vec<&Value> = state
        .resources
        .iter()
        .filter(|(path, body)| {
            let rest = path
                .strip_prefix(scope)
                .and_then(|rest| rest.split_once(kind.as_str()));
            let foreign = body.get("tenantId").is_some_and(|owner| owner != tenant)
                || owner(state, path).is_some_and(|owner| owner != tenant);
            rest.is_some_and(|(_, name)| !name.contains('/')) && !foreign
        })
        .map(|(_, body)| body)
        .collect();
    let page: Vec<&Value> = all.iter().skip(skip).take(PAGE).copied().collect();
    let mut body = json!({ "value": page });
    if all.len() > skip + PAGE {
        let version = query.split('&').next().unwrap();
        body["nextLink"] =
            format!("{}{}?{version}&skip={}", state.url, uri.path(), skip + PAGE).into();
    }
    reply(200, body)
}

fn put(state: &mut State, tenant: &str, path: &str, mut body: Value) -> Reply {
    if let Some((part, error)) = state
        .refuse
        .as_ref()
        .filter(|(part, _)| path.contains(part))
    {
        assert!(!part.is_empty());
        return reply(409, json!({ "error": error }));
    }
    let folded = key(path, tenant);
    // A promotion that is there is answered as it is.
    if let Some(found) = state.resources.get(&folded)
        && folded.contains("/promotions/")
    {
        return reply(200, found.clone());
    }
    let status = if state.resources.contains_key(&folded) {
        200
    } else {
        201
    };
    give_ids(state, path, &folded, &mut body);
    if let Some(id) = path
        .strip_prefix("/subscriptions/")
        .filter(|id| !id.contains('/'))
    {
        // Azure shows a subscription without the envelope in which it is written.
        body = json!({
            "subscriptionId": id,
            "tenantId": tenant,
            "displayName": body["properties"]["displayName"],
            "state": "Enabled",
        });
    } else {
        body["properties"]["provisioningState"] = "Succeeded".into();
    }
    let body = stored(path, body);
    state.resources.insert(folded, body.clone());
    let mut reply = reply(status, body);
    if path.contains("/imageTemplates/") || path.contains("/virtualMachines/") {
        reply.headers = start_operation(state);
    }
    reply
}

/// What the server gives to a resource and the caller cannot choose.
fn give_ids(state: &State, path: &str, folded: &str, body: &mut Value) {
    let count = |kind: &str| {
        state
            .resources
            .keys()
            .filter(|path| path.contains(kind))
            .count()
            + 1
    };
    let given: &[&str] = match folded.rsplit('/').nth(1) {
        Some("tenants") => &["tenantId"],
        Some("applications") => &["appId", "principalId"],
        Some("serviceprincipals") => &["principalId"],
        Some("roleassignments") => {
            let scope = path.split("/providers/Microsoft.Authorization/").next();
            body["properties"]["scope"] = scope.unwrap_or("/").into();
            return;
        }
        _ => return,
    };
    for name in given {
        let old = state
            .resources
            .get(folded)
            .map(|old| old["properties"][name].clone());
        let (letter, kind) = match *name {
            "tenantId" => ('a', "/tenants/"),
            "appId" => ('d', "/applications/"),
            _ if folded.contains("/applications/") => ('e', "/applications/"),
            _ => ('f', "/serviceprincipals/"),
        };
        let new = format!("00000000-0000-4000-8000-00000000{letter}{:03}", count(kind));
        body["properties"][name] = old.unwrap_or_else(|| new.into());
    }
}

fn start_operation(state: &mut State) -> Vec<(&'static str, String)> {
    state.operations.push(0);
    let url = format!(
        "{}/operations/{}?api-version=1",
        state.url,
        state.operations.len() - 1
    );
    vec![("azure-asyncoperation", url), ("retry-after", "0".into())]
}

fn operation(state: &mut State, number: usize) -> Reply {
    state.operations[number] += 1;
    let status = if state.operations[number] < POLLS {
        "InProgress"
    } else {
        "Succeeded"
    };
    let mut reply = reply(200, json!({ "status": status, "properties": state.output }));
    reply.headers = vec![("retry-after", "0".into())];
    reply
}

fn post(state: &mut State, path: &str, bytes: &[u8]) -> Reply {
    // Questions: the answer was put under the path.
    if let Some(found) = state.resources.get(&path.to_lowercase()) {
        return reply(200, found.clone());
    }
    if let Some((promotion, word)) = path.rsplit_once('/')
        && promotion.contains("/promotions/")
    {
        let found = state.resources[&promotion.to_lowercase()].clone();
        let digest = found["properties"]["diskDigest"].clone();
        let stage = |name: &str| json!({ "stage": name, "diskDigest": digest, "computedIn": ["south"], "missingIn": [] });
        return match word {
            "verify" => reply(
                200,
                json!({ "equal": true, "stages": [stage("eng"), stage("test")] }),
            ),
            _ => reply(200, found),
        };
    }
    let key = json!({ "keyId": KEY, "displayName": "laptop", "hint": "a s", "startDateTime": "2026-11-21T04:00:00Z", "endDateTime": "2027-11-21T04:00:00Z" });
    match path.rsplit('/').next() {
        Some("addPassword") => {
            let mut made = key;
            made["secretText"] = SECRET.into();
            return reply(200, made);
        }
        Some("listPasswords") => return reply(200, json!({ "value": [key] })),
        _ => {}
    }
    if path.ends_with("/run") {
        if state.busy {
            return error(
                409,
                "Conflict",
                "A run of the image template is in progress.",
            );
        }
        let group = path.split("/providers/").next().unwrap();
        let run = format!("{group}/providers/Bullion.Factory/runs/golden-debian-1");
        let first = state.run.first().cloned().unwrap_or_default();
        state.resources.insert(
            run.to_lowercase(),
            stored(&run, json!({ "properties": first })),
        );
        let mut reply = reply(202, json!({ "id": run }));
        reply.headers = start_operation(state);
        reply.headers.push(("x-bullion-run", run));
        return reply;
    }
    if path.ends_with("/verifyBuild") {
        let mut reply = reply(202, Value::Null);
        reply.headers = start_operation(state);
        return reply;
    }
    if path.ends_with("/readLog") {
        let offset = serde_json::from_slice::<Value>(bytes).unwrap()["offset"]
            .as_u64()
            .unwrap();
        let lines: Vec<&String> = state.log.iter().skip(offset as usize).take(PAGE).collect();
        let next = offset + lines.len() as u64;
        return reply(200, json!({ "lines": lines, "nextOffset": next }));
    }
    reply(204, Value::Null)
}
