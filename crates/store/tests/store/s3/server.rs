//! A small S3-compatible server in this process, which can be told to fail.
//!
//! It keeps objects in memory and does what the client library asks for and nothing more: objects
//! with ranges, lists in pages, uploads in parts, deletion of many.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use futures_util::stream;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// Keys in one answer to a list.
const PAGE: usize = 3;
const BUCKET: &str = "/bucket";
const DATE: &str = "Sat, 21 Nov 2026 09:00:00 GMT";

/// How the server misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// This status and error code for everything.
    Says(u16, &'static str),
    /// The same, for requests that change something.
    RefusesWrites(u16, &'static str),
    /// Half of what was asked for, then the connection ends.
    HalfBody,
    /// No answer.
    Silent,
    /// Lists say what was there when the trouble began.
    StaleList,
    /// Conditions of a write are not looked at.
    IgnoresConditions,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Bytes>,
    uploads: BTreeMap<String, BTreeMap<u32, Bytes>>,
    stale: Vec<(String, usize)>,
    trouble: Option<Trouble>,
    /// Requests that the trouble is for; then it ends.
    times: u64,
    requests: u64,
}

/// The server ends with this.
pub struct Server {
    state: Arc<Mutex<State>>,
    address: SocketAddr,
    _runtime: Runtime,
}

type Answer = Response<BoxBody<Bytes, std::io::Error>>;

impl Server {
    pub fn start() -> Server {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let listener = runtime
            .block_on(TcpListener::bind("127.0.0.1:0"))
            .expect("a port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        runtime.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                let service = service_fn(move |request| answer(Arc::clone(&state), request));
                tokio::spawn(async move {
                    // A client that goes away is no matter of the server's.
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(socket), service)
                        .await;
                });
            }
        });
        Server {
            state,
            address,
            _runtime: runtime,
        }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn trouble(&self, trouble: Option<Trouble>) {
        self.trouble_for(trouble, u64::MAX);
    }

    /// Trouble for so many requests.
    pub fn trouble_for(&self, trouble: Option<Trouble>, times: u64) {
        let mut state = lock(&self.state);
        state.stale = state.listed();
        state.trouble = trouble;
        state.times = times;
    }

    pub fn uploads(&self) -> usize {
        lock(&self.state).uploads.len()
    }

    pub fn names(&self) -> Vec<String> {
        lock(&self.state).objects.keys().cloned().collect()
    }

    pub fn change(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = lock(&self.state);
        let mut bytes = state.objects[name].to_vec();
        change(&mut bytes);
        state.objects.insert(name.to_owned(), bytes.into());
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(|poison| poison.into_inner())
}

impl State {
    fn listed(&self) -> Vec<(String, usize)> {
        let entry = |(name, bytes): (&String, &Bytes)| (name.clone(), bytes.len());
        self.objects.iter().map(entry).collect()
    }

    /// The trouble that this request has.
    fn strikes(&mut self, writes: bool, lists: bool) -> Option<Trouble> {
        self.requests += 1;
        let trouble = self.trouble?;
        let meant = match trouble {
            Trouble::RefusesWrites(..) | Trouble::IgnoresConditions => writes,
            Trouble::HalfBody => !writes && !lists,
            Trouble::StaleList => lists,
            Trouble::Says(..) | Trouble::Silent => true,
        };
        if !meant || self.times == 0 {
            return None;
        }
        self.times -= 1;
        Some(trouble)
    }
}

fn plain(status: u16, body: impl Into<Bytes>) -> Answer {
    let body = Full::new(body.into()).map_err(|never: Infallible| match never {});
    Response::builder()
        .status(status)
        .header("etag", "\"e\"")
        .header("last-modified", DATE)
        .body(body.boxed())
        .expect("an answer")
}

fn error(status: u16, code: &str) -> Answer {
    plain(
        status,
        format!("<Error><Code>{code}</Code><Message>{code}</Message></Error>"),
    )
}

async fn answer(
    state: Arc<Mutex<State>>,
    request: Request<Incoming>,
) -> Result<Answer, Infallible> {
    let (head, body) = request.into_parts();
    let body = body
        .collect()
        .await
        .map(|body| body.to_bytes())
        .unwrap_or_default();
    let query: BTreeMap<String, String> =
        url::form_urlencoded::parse(head.uri.query().unwrap_or("").as_bytes())
            .into_owned()
            .collect();
    let lists = query.contains_key("list-type");
    let writes = !matches!(head.method, Method::GET | Method::HEAD);
    let trouble = lock(&state).strikes(writes, lists);
    match trouble {
        Some(Trouble::Says(status, code) | Trouble::RefusesWrites(status, code)) => {
            return Ok(error(status, code));
        }
        Some(Trouble::Silent) => {
            std::future::pending::<()>().await;
        }
        _ => {}
    }
    let name = head.uri.path().strip_prefix(BUCKET).unwrap_or_default();
    let name = name.trim_start_matches('/').to_owned();
    let mut state = lock(&state);
    let answer = match head.method {
        Method::GET if lists => list(&state, &query, trouble == Some(Trouble::StaleList)),
        Method::GET | Method::HEAD => {
            let range = head
                .headers
                .get("range")
                .and_then(|range| range.to_str().ok());
            get(&state, &name, range, head.method == Method::HEAD, trouble)
        }
        Method::PUT => {
            let conditional = head.headers.contains_key("if-none-match") && trouble.is_none();
            put(&mut state, name, &query, body, conditional)
        }
        Method::POST => post(&mut state, name, &query, &body),
        Method::DELETE => {
            state
                .uploads
                .remove(query.get("uploadId").unwrap_or(&String::new()));
            state.objects.remove(&name);
            plain(204, "")
        }
        _ => error(405, "MethodNotAllowed"),
    };
    Ok(answer)
}

fn list(state: &State, query: &BTreeMap<String, String>, stale: bool) -> Answer {
    let prefix = query.get("prefix").map_or("", String::as_str);
    let after = query.get("continuation-token").map_or("", String::as_str);
    let all = if stale {
        state.stale.clone()
    } else {
        state.listed()
    };
    let mut rest = all
        .into_iter()
        .filter(|(name, _)| name.starts_with(prefix) && name.as_str() > after);
    let page: Vec<_> = rest.by_ref().take(PAGE).collect();
    let contents: String = page
        .iter()
        .map(|(name, len)| {
            format!(
                "<Contents><Key>{name}</Key><Size>{len}</Size><ETag>\"e\"</ETag>\
                 <LastModified>2026-11-21T09:00:00Z</LastModified></Contents>"
            )
        })
        .collect();
    let more = match (rest.next(), page.last()) {
        (Some(_), Some((last, _))) => {
            format!(
                "<IsTruncated>true</IsTruncated><NextContinuationToken>{last}</NextContinuationToken>"
            )
        }
        _ => "<IsTruncated>false</IsTruncated>".to_owned(),
    };
    plain(
        200,
        format!("<ListBucketResult>{more}{contents}</ListBucketResult>"),
    )
}

fn get(
    state: &State,
    name: &str,
    range: Option<&str>,
    head: bool,
    trouble: Option<Trouble>,
) -> Answer {
    let Some(bytes) = state.objects.get(name) else {
        return error(404, "NoSuchKey");
    };
    let len = bytes.len();
    let asked = range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
    let (from, to) = match asked {
        Some((from, to)) => {
            let from: usize = from.parse().unwrap_or(0);
            let to: u64 = to.parse().unwrap_or(u64::MAX);
            (
                from,
                usize::try_from(to)
                    .unwrap_or(usize::MAX)
                    .min(len.saturating_sub(1)),
            )
        }
        None => (0, len.saturating_sub(1)),
    };
    if asked.is_some() && from >= len {
        return error(416, "InvalidRange");
    }
    let part = if len == 0 {
        Bytes::new()
    } else {
        bytes.slice(from..=to)
    };
    let size = part.len();
    let mut answer = match trouble {
        Some(Trouble::HalfBody) => {
            let half: Result<_, std::io::Error> = Ok(Frame::data(part.slice(..size / 2)));
            let broken = Err(std::io::Error::other("the connection ends here"));
            let body = StreamBody::new(stream::iter([half, broken]));
            let mut answer = plain(200, "");
            *answer.body_mut() = BodyExt::boxed(body);
            answer
        }
        _ if head => plain(200, ""),
        _ => plain(200, part),
    };
    let headers = answer.headers_mut();
    headers.insert("content-length", size.into());
    if asked.is_some() {
        let shown = format!("bytes {from}-{to}/{len}");
        headers.insert("content-range", shown.parse().expect("a header"));
        *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    answer
}

fn put(
    state: &mut State,
    name: String,
    query: &BTreeMap<String, String>,
    body: Bytes,
    conditional: bool,
) -> Answer {
    if let Some(upload) = query.get("uploadId") {
        let part = query
            .get("partNumber")
            .and_then(|part| part.parse().ok())
            .unwrap_or(0);
        return match state.uploads.get_mut(upload) {
            Some(parts) => {
                parts.insert(part, body);
                plain(200, "")
            }
            None => error(404, "NoSuchUpload"),
        };
    }
    if conditional && state.objects.contains_key(&name) {
        return error(412, "PreconditionFailed");
    }
    state.objects.insert(name, body);
    plain(200, "")
}

fn post(state: &mut State, name: String, query: &BTreeMap<String, String>, body: &Bytes) -> Answer {
    if query.contains_key("delete") {
        let text = String::from_utf8_lossy(body).into_owned();
        let keys: Vec<&str> = text
            .split("<Key>")
            .skip(1)
            .filter_map(|rest| rest.split("</Key>").next())
            .collect();
        let told: String = keys
            .iter()
            .map(|key| {
                state.objects.remove(*key);
                format!("<Deleted><Key>{key}</Key></Deleted>")
            })
            .collect();
        return plain(200, format!("<DeleteResult>{told}</DeleteResult>"));
    }
    if let Some(upload) = query.get("uploadId") {
        let Some(parts) = state.uploads.remove(upload) else {
            return error(404, "NoSuchUpload");
        };
        let whole: Vec<u8> = parts.values().flatten().copied().collect();
        state.objects.insert(name, whole.into());
        return plain(
            200,
            "<CompleteMultipartUploadResult><ETag>\"e\"</ETag></CompleteMultipartUploadResult>",
        );
    }
    let upload = format!("upload-{}", state.requests);
    state.uploads.insert(upload.clone(), BTreeMap::new());
    plain(
        200,
        format!(
            "<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
        ),
    )
}
