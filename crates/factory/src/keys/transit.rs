//! The transit engine of Vault and OpenBao as a key service. It encrypts and decrypts the secret of a domain with a key
//! that never leaves it; rotating and forgetting that key is done there.

use std::path::PathBuf;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::{Certificate, Client, Method, StatusCode};
use serde_json::{Value, json};
use store::{DomainId, KeyError, KeyService};

const TIMEOUT: Duration = Duration::from_secs(20);
/// An answer is a few hundred bytes.
const MAX_ANSWER_BYTES: usize = 64 << 10;
const MAX_TOKEN_BYTES: usize = 4 << 10;
/// How every ciphertext of transit begins; a version, a colon and base64 follow.
const MARK: &str = "vault:v";
/// Where the token is if no file is named.
const TOKEN_VARIABLE: &str = "VAULT_TOKEN";

/// Where a key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransitSettings {
    /// `https://vault.example:8200`.
    pub address: String,
    /// The path that the engine is mounted at.
    pub mount: String,
    /// The key's name. Its type must be one of authenticated encryption, such as `aes256-gcm96`, which is transit's own
    /// choice too.
    pub key: String,
    pub namespace: Option<String>,
    /// Read anew for each call, so that an agent can renew it; `VAULT_TOKEN` of the environment if there is none.
    pub token_file: Option<PathBuf>,
    /// Certificates that the server's own may come from, in PEM, beside those that are known anyway.
    pub ca_file: Option<PathBuf>,
}

/// A key in a transit engine.
#[derive(Debug)]
pub struct Transit {
    settings: TransitSettings,
}

impl Transit {
    pub fn new(settings: TransitSettings) -> Transit {
        Transit { settings }
    }

    /// Whether bytes were wrapped by a transit engine, whichever that was.
    fn wrapped(bytes: &[u8]) -> bool {
        version_of(bytes).is_some()
    }

    /// The newest version of the key.
    pub fn latest(&self) -> Result<u64, KeyError> {
        let answer = self.ask(Method::GET, "keys", None)?;
        let latest = answer["data"]["latest_version"].as_u64();
        latest.ok_or_else(|| self.refused("its answer has no version of the key"))
    }

    fn refused(&self, what: impl Into<String>) -> KeyError {
        KeyError::Refused {
            service: self.name(),
            what: what.into(),
        }
    }

    fn unavailable(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> KeyError {
        KeyError::Unavailable {
            service: self.name(),
            source: source.into(),
        }
    }

    fn token(&self) -> Result<String, KeyError> {
        let token = match &self.settings.token_file {
            None => std::env::var(TOKEN_VARIABLE)
                .map_err(|_| self.refused(format!("the environment has no {TOKEN_VARIABLE}")))?,
            Some(path) => std::fs::read_to_string(path).map_err(|source| KeyError::File {
                doing: "read the token in",
                path: path.clone(),
                source,
            })?,
        };
        let token = token.trim();
        match token.len() {
            1..=MAX_TOKEN_BYTES => Ok(token.to_owned()),
            _ => Err(self.refused("its token is empty or too long")),
        }
    }

    fn client(&self) -> Result<Client, KeyError> {
        let mut builder = Client::builder()
            .timeout(TIMEOUT)
            .redirect(reqwest::redirect::Policy::none());
        if let Some(path) = &self.settings.ca_file {
            let pem = std::fs::read(path).map_err(|source| KeyError::File {
                doing: "read the certificates in",
                path: path.clone(),
                source,
            })?;
            let known = Certificate::from_pem_bundle(&pem);
            let known = known.map_err(|error| self.refused(error.to_string()))?;
            builder = builder.tls_certs_merge(known);
        }
        builder.build().map_err(|error| self.unavailable(error))
    }

    /// One request, on a thread of its own: who calls may be on one that drives others.
    fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value, KeyError> {
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .map_err(|error| self.unavailable(error))?;
                runtime.block_on(self.send(method, path, body))
            });
            let lost = |_| Err(self.unavailable("the request was lost"));
            asked.join().unwrap_or_else(lost)
        })
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Value, KeyError> {
        let TransitSettings {
            address,
            mount,
            key,
            namespace,
            ..
        } = &self.settings;
        let (address, mount) = (address.trim_end_matches('/'), mount.trim_matches('/'));
        let url = format!("{address}/v1/{mount}/{path}/{key}");
        let mut request = self.client()?.request(method, url);
        request = request.header("X-Vault-Token", self.token()?);
        if let Some(namespace) = namespace {
            request = request.header("X-Vault-Namespace", namespace);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let fault = |error: reqwest::Error| self.unavailable(error.without_url());
        let mut answer = request.send().await.map_err(fault)?;
        let status = answer.status();
        let mut bytes = Vec::new();
        while let Some(more) = answer.chunk().await.map_err(fault)? {
            bytes.extend_from_slice(&more);
            if bytes.len() > MAX_ANSWER_BYTES {
                return Err(self.unavailable("its answer is too long"));
            }
        }
        let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        if status.is_success() {
            return Ok(body);
        }
        let said: Vec<&str> = body["errors"]
            .as_array()
            .map(|all| all.iter().filter_map(Value::as_str).collect())
            .unwrap_or_default();
        let said = format!("{} {}", status.as_u16(), said.join("; "));
        let said = said.trim_end().to_owned();
        match status {
            // Sealed, standing by, too busy: another moment will do.
            StatusCode::TOO_MANY_REQUESTS => Err(self.unavailable(said)),
            status if status.is_server_error() => Err(self.unavailable(said)),
            _ => Err(self.refused(said)),
        }
    }
}

impl KeyService for Transit {
    fn name(&self) -> String {
        let TransitSettings { mount, key, .. } = &self.settings;
        format!("transit {}/{key}", mount.trim_matches('/'))
    }

    fn wrap(&self, domain: &DomainId, secret: &[u8; 32]) -> Result<Vec<u8>, KeyError> {
        let body = json!({
            "plaintext": STANDARD.encode(secret),
            "associated_data": STANDARD.encode(domain.as_bytes()),
        });
        let answer = self.ask(Method::POST, "encrypt", Some(body))?;
        let wrapped = answer["data"]["ciphertext"].as_str().unwrap_or_default();
        match Transit::wrapped(wrapped.as_bytes()) {
            true => Ok(wrapped.as_bytes().to_vec()),
            false => Err(self.refused("its answer has no ciphertext")),
        }
    }

    fn unwrap(&self, domain: &DomainId, wrapped: &[u8]) -> Result<[u8; 32], KeyError> {
        let wrapped = std::str::from_utf8(wrapped).ok();
        let wrapped = wrapped.filter(|text| Transit::wrapped(text.as_bytes()));
        let Some(wrapped) = wrapped else {
            return Err(KeyError::WrongKey {
                service: self.name(),
            });
        };
        let body = json!({
            "ciphertext": wrapped,
            "associated_data": STANDARD.encode(domain.as_bytes()),
        });
        let answer = self.ask(Method::POST, "decrypt", Some(body))?;
        let secret = answer["data"]["plaintext"].as_str();
        let secret = secret.and_then(|text| STANDARD.decode(text).ok());
        let secret = secret.and_then(|bytes| bytes.try_into().ok());
        secret.ok_or_else(|| self.refused("its answer has no secret of 32 bytes"))
    }

    fn is_newest(&self, wrapped: &[u8]) -> Result<bool, KeyError> {
        match version_of(wrapped) {
            None => Ok(false),
            Some(version) => Ok(version == self.latest()?),
        }
    }
}

/// The version of the key that made a ciphertext.
fn version_of(wrapped: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(wrapped).ok()?;
    let (version, _) = text.strip_prefix(MARK)?.split_once(':')?;
    version.parse().ok()
}
