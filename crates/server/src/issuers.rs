//! The public keys of outside issuers (GitHub, GitLab, any OpenID Connect provider), asked for over HTTPS and kept.
//!
//! Only issuers that a federated credential names are asked, and only as often as is needed to follow their rotation.
//! What they answer is hostile until its signature fits: bounded in size and time, never redirected.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use access::TokenKeys;
use serde::Deserialize;

/// Keys are asked for again after this, used or not.
const AGE_MAX: Duration = Duration::from_secs(3600);
/// A token of an unknown key, or an issuer that did not answer, is no reason to ask more often than this.
const PAUSE: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(10);
const ANSWER_BYTES_MAX: usize = 256 * 1024;
const ISSUERS_MAX: usize = 1000;

#[derive(Debug, thiserror::Error)]
pub enum IssuersError {
    #[error("cannot use the issuers' CA {path}")]
    Ca {
        path: PathBuf,
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Why an issuer has no keys for us. For the log.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("asking failed")]
    Http(#[from] reqwest::Error),
    #[error("the answer has the status {0}")]
    Status(u16),
    #[error("the answer is longer than {ANSWER_BYTES_MAX} bytes")]
    TooLong,
    #[error("the answer is not what is expected: {0}")]
    Answer(&'static str),
}

#[derive(Default)]
struct Known {
    keys: Option<TokenKeys>,
    asked: Option<Instant>,
}

/// All issuers of this server.
pub struct Issuers {
    /// Trusted besides the host's own, PEM.
    ca: Option<reqwest::Certificate>,
    /// Made when it is first needed: most servers never ask.
    http: OnceLock<reqwest::Client>,
    known: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Known>>>>,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

impl Issuers {
    pub fn new(ca: Option<&Path>) -> Result<Issuers, IssuersError> {
        let read = |path: &Path| {
            let failed = |cause: Box<dyn std::error::Error + Send + Sync>| IssuersError::Ca {
                path: path.to_path_buf(),
                cause,
            };
            let pem = std::fs::read(path).map_err(|error| failed(error.into()))?;
            reqwest::Certificate::from_pem(&pem).map_err(|error| failed(error.into()))
        };
        Ok(Issuers {
            ca: ca.map(read).transpose()?,
            http: OnceLock::new(),
            known: Mutex::default(),
        })
    }

    /// The keys of an issuer, asked for anew where they are old or lack the one that the token names.
    pub async fn keys(&self, issuer: &str, token: &str) -> Option<TokenKeys> {
        let entry = self.entry(issuer)?;
        // One request at a time for each issuer; others of the same issuer wait and use its answer.
        let mut known = entry.lock().await;
        let age = known.asked.map(|asked| asked.elapsed());
        let fits = known
            .keys
            .as_ref()
            .is_some_and(|keys| keys.has_key_of(token));
        let ask = match age {
            None => true,
            Some(age) => age > AGE_MAX || (!fits && age > PAUSE),
        };
        if ask {
            known.asked = Some(Instant::now());
            match self.fetch(issuer).await {
                Ok(keys) => known.keys = Some(keys),
                Err(error) => {
                    let cause = crate::errors::chain(&error);
                    tracing::warn!(issuer, cause, "an issuer's keys cannot be had");
                }
            }
        }
        known.keys.clone()
    }

    fn entry(&self, issuer: &str) -> Option<Arc<tokio::sync::Mutex<Known>>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.contains_key(issuer) && known.len() >= ISSUERS_MAX {
            return None;
        }
        Some(Arc::clone(known.entry(issuer.to_string()).or_default()))
    }

    async fn fetch(&self, issuer: &str) -> Result<TokenKeys, FetchError> {
        let url = format!(
            "{}/.well-known/openid-configuration",
            issuer.trim_end_matches('/')
        );
        let discovery: Discovery = serde_json::from_slice(&self.get(&url).await?)
            .map_err(|_| FetchError::Answer("no discovery document"))?;
        if discovery.issuer != issuer {
            return Err(FetchError::Answer("it is of another issuer"));
        }
        let document = self.get(&discovery.jwks_uri).await?;
        TokenKeys::parse(&document).ok_or(FetchError::Answer("no usable key"))
    }

    async fn get(&self, url: &str) -> Result<Vec<u8>, FetchError> {
        let mut answer = self.http()?.get(url).send().await?;
        if !answer.status().is_success() {
            return Err(FetchError::Status(answer.status().as_u16()));
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await? {
            if bytes.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(FetchError::TooLong);
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    fn http(&self) -> Result<&reqwest::Client, FetchError> {
        if let Some(http) = self.http.get() {
            return Ok(http);
        }
        let mut builder = reqwest::Client::builder()
            .https_only(true)
            .redirect(reqwest::redirect::Policy::none())
            .timeout(TIMEOUT)
            .user_agent(concat!("bullion/", env!("CARGO_PKG_VERSION")));
        if let Some(ca) = &self.ca {
            builder = builder.tls_certs_merge([ca.clone()]);
        }
        let made = builder.build()?;
        Ok(self.http.get_or_init(|| made))
    }
}
