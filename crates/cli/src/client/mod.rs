//! The one HTTPS client: sign-in, requests, errors of ARM.
//!
//! Waiting for long operations is in `wait`, paging in `page`. Nothing here knows what a resource
//! means.

mod download;
mod page;
mod token;
mod wait;

use std::time::Duration;

use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Method, StatusCode};
use serde_json::Value;

use wire::TenantId;

use crate::error::CliError;
use crate::profile::Profile;
pub use download::{Download, From};
use token::Tokens;

/// One request, answer included; long work is polled and never holds a request open.
const REQUEST_SECONDS_MAX: u64 = 120;
const CONNECT_SECONDS_MAX: u64 = 10;
/// The largest answer that is read.
const ANSWER_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Tries of one request that the server answered with 429 or 503.
const TRIES_MAX: u32 = 5;
/// The longest pause that a server may ask for.
const RETRY_AFTER_SECONDS_MAX: u64 = 60;

/// Where an exported image says which disk is in it.
const DISK_DIGEST: &str = "bullion-disk-digest";
/// Where a request carries tokens of other tenants.
const AUXILIARY: &str = "x-ms-authorization-auxiliary";

pub struct Client {
    http: reqwest::Client,
    profile: Profile,
    tokens: Tokens,
}

/// What came back, with the headers that ARM clients look at.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Seconds to wait before asking again.
    pub fn retry_after(&self) -> Option<Duration> {
        let seconds = self.headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
        Some(Duration::from_secs(RETRY_AFTER_SECONDS_MAX.min(seconds)))
    }
}

/// One request to be made.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// Finishes "cannot …" in an error.
    pub operation: &'a str,
    /// Id of the tenant whose token is sent.
    pub tenant: TenantId,
    pub method: &'a str,
    /// Path with its api-version, or an absolute URL that the server gave.
    pub path: &'a str,
    pub body: Option<&'a Value>,
}

impl Client {
    pub fn new(profile: Profile) -> Result<Client, CliError> {
        let mut builder = reqwest::Client::builder()
            .https_only(true)
            .no_proxy_for_loopback(&profile.url)
            .connect_timeout(Duration::from_secs(CONNECT_SECONDS_MAX))
            .timeout(Duration::from_secs(REQUEST_SECONDS_MAX))
            .user_agent(concat!("bullion/", env!("CARGO_PKG_VERSION")));
        if let Some(pem) = &profile.ca {
            let from = profile
                .ca_file
                .as_ref()
                .map_or("the profile".into(), |file| format!("`{file}`"));
            let bad = |source| CliError::BadCa {
                from: from.clone(),
                source,
            };
            let roots = reqwest::Certificate::from_pem_bundle(pem.as_bytes()).map_err(bad)?;
            builder = builder.tls_certs_merge(roots);
        }
        let http = builder.build().map_err(|source| CliError::BadCa {
            from: "the profile".into(),
            source,
        })?;
        Ok(Client {
            http,
            profile,
            tokens: Tokens::default(),
        })
    }

    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// The tenant that the profile signs in to.
    pub fn home(&self) -> TenantId {
        self.profile.tenant
    }

    /// Sends one request; an answer that is not a success is an error with ARM's code and message.
    pub async fn send(&self, ask: Ask<'_>) -> Result<Reply, CliError> {
        let reply = self.send_raw(ask).await?;
        if reply.status.is_success() {
            return Ok(reply);
        }
        Err(arm_error(ask.operation, &reply))
    }

    /// Sends a request whose body links to a resource of another tenant, with a token of that one, too.
    pub async fn send_linked(&self, ask: Ask<'_>, linked: TenantId) -> Result<Reply, CliError> {
        let reply = self
            .send_any(ask, (linked != ask.tenant).then_some(linked))
            .await?;
        if reply.status.is_success() {
            return Ok(reply);
        }
        Err(arm_error(ask.operation, &reply))
    }

    /// Like `send`, but an answer of any status is a reply.
    pub async fn send_raw(&self, ask: Ask<'_>) -> Result<Reply, CliError> {
        self.send_any(ask, None).await
    }

    async fn send_any(&self, ask: Ask<'_>, linked: Option<TenantId>) -> Result<Reply, CliError> {
        let method = Method::from_bytes(ask.method.to_uppercase().as_bytes())
            .map_err(|_| CliError::Usage(format!("`{}` is not an HTTP method", ask.method)))?;
        let url = self.url(ask.operation, ask.path)?;
        for attempt in 1.. {
            let token = self.token(ask.tenant).await?;
            let mut request = self.http.request(method.clone(), &url).bearer_auth(token);
            if let Some(body) = ask.body {
                request = request.json(body);
            }
            if let Some(linked) = linked {
                let token = format!("Bearer {}", self.token(linked).await?);
                request = request.header(AUXILIARY, token);
            }
            let reply = self.exchange(ask.operation, request).await?;
            match reply.status {
                StatusCode::UNAUTHORIZED if attempt == 1 => self.tokens.forget(ask.tenant),
                StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
                    if attempt < TRIES_MAX =>
                {
                    let pause = reply.retry_after().unwrap_or(Duration::from_secs(1));
                    tokio::time::sleep(pause).await;
                }
                _ => return Ok(reply),
            }
        }
        unreachable!("every attempt beyond the limit returns its reply")
    }

    /// A URL on the profile's server; a token must never be sent anywhere else.
    fn url(&self, operation: &str, path: &str) -> Result<String, CliError> {
        if path.starts_with('/') {
            return Ok(format!("{}{path}", self.profile.url));
        }
        let origin = |text: &str| url::Url::parse(text).ok().map(|url| url.origin());
        if origin(path).is_some() && origin(path) == origin(&self.profile.url) {
            return Ok(path.to_owned());
        }
        Err(CliError::BadAnswer {
            operation: operation.to_owned(),
            why: format!("`{path}` is not on {}", self.profile.url),
        })
    }

    async fn exchange(
        &self,
        operation: &str,
        request: reqwest::RequestBuilder,
    ) -> Result<Reply, CliError> {
        let mut response = request
            .send()
            .await
            .map_err(|source| self.classify(operation, source))?;
        let (status, headers) = (response.status(), response.headers().clone());
        tracing::debug!(operation, status = status.as_u16(), "answered");
        let mut bytes = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|source| self.classify(operation, source))?
        {
            if bytes.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(CliError::BadAnswer {
                    operation: operation.into(),
                    why: "it is too large".into(),
                });
            }
            bytes.extend_from_slice(&chunk);
        }
        let body = if bytes.is_empty() {
            Value::Null
        } else {
            // A proxy's HTML page is worth showing, so text stays text.
            serde_json::from_slice(&bytes)
                .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()))
        };
        Ok(Reply {
            status,
            headers,
            body,
        })
    }

    fn classify(&self, operation: &str, source: reqwest::Error) -> CliError {
        let url = self.profile.url.clone();
        if is_tls(&source) {
            CliError::Tls { url, source }
        } else if source.is_connect() {
            CliError::Connect { url, source }
        } else {
            CliError::Transport {
                operation: operation.to_owned(),
                source,
            }
        }
    }
}

trait LoopbackProxy {
    fn no_proxy_for_loopback(self, url: &str) -> Self;
}

impl LoopbackProxy for reqwest::ClientBuilder {
    /// A proxy of the environment cannot reach this machine's own loopback address.
    fn no_proxy_for_loopback(self, url: &str) -> Self {
        let host = url::Url::parse(url)
            .ok()
            .and_then(|url| url.host_str().map(str::to_owned));
        match host.as_deref() {
            Some("localhost" | "127.0.0.1" | "[::1]") => self.no_proxy(),
            _ => self,
        }
    }
}

/// Whether the chain of causes holds a refusal by rustls.
fn is_tls(error: &(dyn std::error::Error + 'static)) -> bool {
    if error.is::<rustls::Error>() {
        return true;
    }
    // An io error's `source` is that of the error it wraps and skips the wrapped error itself.
    let wrapped = error
        .downcast_ref::<std::io::Error>()
        .and_then(std::io::Error::get_ref);
    wrapped.is_some_and(|inner| is_tls(inner)) || error.source().is_some_and(is_tls)
}

fn arm_error(operation: &str, reply: &Reply) -> CliError {
    let error = reply.body.get("error").unwrap_or(&Value::Null);
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let plain = match &reply.body {
        Value::String(text) => text.chars().take(200).collect(),
        _ => format!("the server answered {}", reply.status),
    };
    let details = error.get("details").and_then(Value::as_array);
    CliError::Arm {
        operation: operation.to_owned(),
        status: reply.status,
        code: text(error, "code").unwrap_or_else(|| reply.status.as_u16().to_string()),
        message: text(error, "message")
            .unwrap_or(plain)
            .trim_end_matches('.')
            .to_owned(),
        details: details
            .into_iter()
            .flatten()
            .filter_map(|detail| {
                let message = text(detail, "message")?;
                Some(match text(detail, "target") {
                    Some(target) => format!("{target}: {message}"),
                    None => message,
                })
            })
            .collect(),
    }
}

/// The error of a long operation, which travels in a body that is itself a success.
pub fn operation_error(operation: &str, error: &Value) -> CliError {
    let body = serde_json::json!({ "error": error });
    let reply = Reply {
        status: StatusCode::OK,
        headers: HeaderMap::new(),
        body,
    };
    arm_error(operation, &reply)
}
