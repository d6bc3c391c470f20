//! One request and its answer, as handlers see them: base URL, query, JSON body, reply.
//!
//! Bodies are read here and nowhere else, under the limits below. Knows no resource type.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{
    ALLOW, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, HeaderValue, RETRY_AFTER,
};
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use std::fmt;
use std::time::Duration;
use wire::{ArmError, ErrorCode};

use crate::errors;

/// An image template with its files in data URLs fits; a disk does not, and does not belong here.
pub const BODY_BYTES_MAX: usize = 32 * 1024 * 1024;
/// How long a client may take to send a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);
const QUERY_BYTES_MAX: usize = 8 * 1024;
const QUERY_PAIRS_MAX: usize = 32;

/// Seconds; without it az waits 30 s between polls.
pub const RETRY_SECONDS: &str = "1";
pub const ASYNC_OPERATION: HeaderName = HeaderName::from_static("azure-asyncoperation");

/// What a handler answers. The body is JSON or absent but for blobs and pages.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Option<Value>,
    /// What is not JSON, in place of the body; its headers say what it is.
    pub content: Option<Body>,
}

impl Reply {
    pub fn new(status: StatusCode, body: Option<Value>) -> Reply {
        Reply {
            status,
            headers: HeaderMap::new(),
            body,
            content: None,
        }
    }

    pub fn ok(body: Value) -> Reply {
        Reply::new(StatusCode::OK, Some(body))
    }

    pub fn no_content() -> Reply {
        Reply::new(StatusCode::NO_CONTENT, None)
    }

    pub fn with(mut self, name: HeaderName, value: &str) -> Reply {
        // Values are ours (URLs, numbers); one that no header can hold is left out rather than a panic.
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }

    /// Both headers of a long-running operation, so that any client's way of polling works.
    pub fn polled_at(self, status: &str, result: &str) -> Reply {
        self.with(ASYNC_OPERATION, status)
            .with(http::header::LOCATION, result)
            .with(RETRY_AFTER, RETRY_SECONDS)
    }

    pub fn allowing(self, methods: &str) -> Reply {
        self.with(ALLOW, methods)
    }
}

/// The header that says which state the body shows; a reader that has seen that state already gets 304 instead.
pub fn with_etag(reply: Reply, parts: &Parts) -> Reply {
    let etag = reply
        .body
        .as_ref()
        .and_then(|body| body.get("etag")?.as_str());
    let Some(etag) = etag
        .map(str::to_owned)
        .filter(|_| reply.status.is_success())
    else {
        return reply;
    };
    let reads = parts.method == http::Method::GET || parts.method == http::Method::HEAD;
    let seen = parts.headers.get(http::header::IF_NONE_MATCH);
    let seen = seen
        .and_then(|seen| seen.to_str().ok())
        .is_some_and(|list| {
            let mut tags = list
                .split(',')
                .map(|tag| tag.trim().trim_start_matches("W/"));
            tags.any(|tag| tag == "*" || tag == etag)
        });
    let reply = match reads && seen {
        true => Reply::new(StatusCode::NOT_MODIFIED, None),
        false => reply,
    };
    reply.with(http::header::ETAG, &etag)
}

impl From<ArmError> for Reply {
    fn from(error: ArmError) -> Reply {
        let status =
            StatusCode::from_u16(error.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Reply::new(status, Some(errors::envelope(&error)))
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        let mut response = match (self.content, &self.body) {
            (Some(content), _) => Response::new(content),
            (None, Some(body)) => {
                let text = serde_json::to_vec(body).unwrap_or_default();
                let mut response = Response::new(Body::from(text));
                response.headers_mut().insert(
                    CONTENT_TYPE,
                    HeaderValue::from_static("application/json; charset=utf-8"),
                );
                response
            }
            (None, None) => Response::new(Body::empty()),
        };
        *response.status_mut() = self.status;
        response.headers_mut().extend(self.headers);
        response
    }
}

/// `https://host:port` as the client wrote it, so that links it is given work where it stands.
#[derive(Clone, Debug)]
pub struct Base(String);

impl Base {
    pub fn of(headers: &HeaderMap, fallback: &str) -> Base {
        let host = headers.get(HOST).and_then(|host| host.to_str().ok());
        let fit = |host: &&str| {
            !host.is_empty()
                && host.len() <= 260
                && host
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b".:-[]".contains(&byte))
        };
        match host.filter(fit) {
            Some(host) => Base(format!("https://{host}")),
            None => Base(fallback.trim_end_matches('/').to_string()),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// An absolute URL of `path`, which starts with a slash and is encoded here.
    pub fn url(&self, path: &str, query: &[(&str, &str)]) -> String {
        let mut url = format!("{}{}", self.0, encode_path(path));
        for (index, (name, value)) in query.iter().enumerate() {
            let mark = if index == 0 { '?' } else { '&' };
            let value: String = url::form_urlencoded::byte_serialize(value.as_bytes()).collect();
            url.push_str(&format!("{mark}{name}={value}"));
        }
        url
    }
}

fn encode_path(path: &str) -> String {
    use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
    const KEEP: &AsciiSet = &CONTROLS
        .add(b' ')
        .add(b'"')
        .add(b'#')
        .add(b'%')
        .add(b'<')
        .add(b'>')
        .add(b'?')
        .add(b'`')
        .add(b'{')
        .add(b'}');
    utf8_percent_encode(path, KEEP).to_string()
}

/// The query's pairs. Names compare without case, as OData's do here.
#[derive(Clone, Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn parse(text: Option<&str>) -> Result<Query, ArmError> {
        let text = text.unwrap_or_default();
        let pairs: Vec<_> = url::form_urlencoded::parse(text.as_bytes())
            .take(QUERY_PAIRS_MAX + 1)
            .map(|(name, value)| (name.into_owned(), value.into_owned()))
            .collect();
        if text.len() > QUERY_BYTES_MAX || pairs.len() > QUERY_PAIRS_MAX {
            return Err(errors::bad_request(format!(
                "The query is longer than {QUERY_BYTES_MAX} bytes or {QUERY_PAIRS_MAX} parameters."
            )));
        }
        Ok(Query(pairs))
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// Whether `$expand` names `item`, alone or in a comma list.
    pub fn expands(&self, item: &str) -> bool {
        self.get("$expand").is_some_and(|list| {
            list.split(',')
                .any(|one| one.trim().eq_ignore_ascii_case(item))
        })
    }
}

/// Reads a body, within its limits.
pub async fn read_body(parts: &Parts, body: Body, limit: usize) -> Result<Vec<u8>, ArmError> {
    let too_large = || {
        ArmError::new(
            ErrorCode::RequestEntityTooLarge,
            format!("The request body is larger than {limit} bytes."),
        )
    };
    let declared = parts
        .headers
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok())
        .and_then(|length| length.parse::<u64>().ok());
    if declared.is_some_and(|length| length > limit as u64) {
        return Err(too_large());
    }
    match tokio::time::timeout(BODY_TIMEOUT, axum::body::to_bytes(body, limit)).await {
        Ok(Ok(bytes)) => Ok(bytes.into()),
        Ok(Err(error)) if length_limit(&error) => Err(too_large()),
        Ok(Err(_)) => Err(ArmError::new(
            ErrorCode::InvalidRequestContent,
            "The request body ended early.",
        )),
        Err(_) => Err(ArmError::new(
            ErrorCode::InvalidRequestContent,
            "The request body was not received in time.",
        )),
    }
}

fn length_limit(error: &axum::Error) -> bool {
    use std::error::Error as _;
    error
        .source()
        .is_some_and(|cause| cause.is::<http_body_util::LengthLimitError>())
}

/// JSON in which no object has a member twice: readers that take the first and readers that take the last would not
/// agree on what was authorised.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Strict, D::Error> {
        deserializer.deserialize_any(StrictVisitor)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Strict;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Strict, E> {
        Ok(Strict(Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_string<E>(self, value: String) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Strict, A::Error> {
        let mut found = Vec::new();
        while let Some(Strict(item)) = items.next_element()? {
            found.push(item);
        }
        Ok(Strict(Value::Array(found)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Strict, A::Error> {
        let mut found = Map::new();
        while let Some((name, Strict(value))) = members.next_entry::<String, Strict>()? {
            if found.contains_key(&name) {
                let shown: String = name.chars().take(80).collect();
                return Err(serde::de::Error::custom(format!(
                    "the member '{shown}' is given twice"
                )));
            }
            found.insert(name, value);
        }
        Ok(Strict(Value::Object(found)))
    }
}

/// The body as JSON; an empty one is `null`. serde_json itself refuses to nest deeper than 128.
pub fn json(bytes: &[u8]) -> Result<Value, ArmError> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(Value::Null);
    }
    let strict: Result<Strict, _> = serde_json::from_slice(bytes);
    strict.map(|strict| strict.0).map_err(|error| {
        ArmError::new(
            ErrorCode::InvalidRequestContent,
            format!("The request content was invalid and could not be deserialized: '{error}'."),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_could_not_be_in_a_link_is_not_put_in_one() {
        let check = |host: &str, expected: &str| {
            let mut headers = HeaderMap::new();
            if let Ok(host) = HeaderValue::from_str(host) {
                headers.insert(HOST, host);
            }
            assert_eq!(Base::of(&headers, "https://fallback:1/").as_str(), expected);
        };
        check("localhost:8443", "https://localhost:8443");
        check("[::1]:8443", "https://[::1]:8443");
        check("evil/path?x", "https://fallback:1");
        check("", "https://fallback:1");
    }

    #[test]
    fn links_are_encoded() {
        let base = Base::of(&HeaderMap::new(), "https://h");
        assert_eq!(
            base.url(
                "/a b/c",
                &[("api-version", "2024-03-03"), ("$skiptoken", "x&y")]
            ),
            "https://h/a%20b/c?api-version=2024-03-03&$skiptoken=x%26y"
        );
    }

    #[test]
    fn bodies_that_are_not_json() {
        let check = |body: &[u8], fit: bool| assert_eq!(json(body).is_ok(), fit);
        check(b"", true);
        check(b" \n", true);
        check(b"\xef\xbb\xbf{}", true);
        check(b"{", false);
        check(b"{}{}", false);
        check(
            b"{\"a\":1,\"b\":[{\"c\":null,\"d\":-1.5e3,\"e\":18446744073709551615}]}",
            true,
        );
        check(b"{\"a\":1,\"a\":1}", false);
        check(b"[{\"a\":{\"b\":1,\"b\":2}}]", false);
        check(b"\xff", false);
        check("[".repeat(10_000).as_bytes(), false);
    }
}
