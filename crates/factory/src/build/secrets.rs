//! Secrets of a build: looked up by reference when a step needs them, taken out of every line that is logged, and
//! searched for in what the step wrote. A value is never stored, shown or part of a key.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use disk::Changes;
use serde_json::Value;
use wire::TenantId;

use super::customizer::{Secret, SecretPlace};

/// Before the name of a variable of the server's environment that builds may ask for.
const VARIABLE_PREFIX: &str = "BULLION_SECRET_";
const VALUE_BYTES_MAX: usize = 64 << 10;
/// Shorter values would be found everywhere.
const VALUE_BYTES_MIN: usize = 6;
const VAULT_TIMEOUT: Duration = Duration::from_secs(20);
/// Of an answer of the vault.
const VAULT_BYTES_MAX: usize = 1 << 20;
const HIDDEN: &str = "***";

/// Why there is no value.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("the secret `{name}` is not there: {why}")]
    Missing { name: String, why: String },
    #[error(
        "the secret `{name}` has {bytes} bytes; it must have {VALUE_BYTES_MIN} to {VALUE_BYTES_MAX}, and no zero byte"
    )]
    BadValue { name: String, bytes: usize },
    #[error("ask the vault for the secret `{name}`")]
    Vault {
        name: String,
        #[source]
        source: reqwest::Error,
    },
}

/// A secret with its value.
#[derive(Clone)]
pub struct SecretValue {
    name: String,
    value: String,
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretValue({})", self.name)
    }
}

impl SecretValue {
    pub fn new(name: &str, value: &str) -> Result<SecretValue, SecretError> {
        // A file's last line end is not part of what it holds.
        let value = value.trim_end_matches(['\n', '\r']);
        let good =
            (VALUE_BYTES_MIN..=VALUE_BYTES_MAX).contains(&value.len()) && !value.contains('\0');
        if !good {
            return Err(SecretError::BadValue {
                name: name.to_owned(),
                bytes: value.len(),
            });
        }
        Ok(SecretValue {
            name: name.to_owned(),
            value: value.to_owned(),
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn reveal(&self) -> &str {
        &self.value
    }

    /// Whether the value stands in the changed blocks, as it is or as Windows writes texts, also where it crosses from one
    /// to the next.
    pub(super) fn is_in(&self, changes: &Changes) -> bool {
        let wide: Vec<u8> = self
            .value
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        [self.value.as_bytes(), &wide]
            .iter()
            .any(|needle| stands_in(needle, changes))
    }
}

/// Whether these bytes stand in the changed blocks.
fn stands_in(needle: &[u8], changes: &Changes) -> bool {
    let (mut text, mut last): (Vec<u8>, Option<u64>) = (Vec::new(), None);
    for (index, block) in changes.iter() {
        let follows = last.is_some_and(|last| last + 1 == index);
        let tail = if follows {
            text.len().min(needle.len() - 1)
        } else {
            0
        };
        text.drain(..text.len() - tail);
        if let Some(block) = block {
            text.extend_from_slice(&block[..]);
        }
        if holds(&text, needle) {
            return true;
        }
        last = Some(index);
    }
    false
}

fn holds(text: &[u8], needle: &[u8]) -> bool {
    let Some(first) = needle.first() else {
        return false;
    };
    let starts = |(at, byte): (usize, &u8)| byte == first && text[at..].starts_with(needle);
    text.iter().enumerate().any(starts)
}

/// Takes secrets out of lines.
pub struct Redacted(Vec<String>);

impl Redacted {
    pub fn new(secrets: &[SecretValue]) -> Redacted {
        // A value of several lines is logged line by line.
        let lines = secrets.iter().flat_map(|secret| secret.value.lines());
        let long = lines.filter(|line| line.len() >= VALUE_BYTES_MIN);
        Redacted(long.map(str::to_owned).collect())
    }

    pub fn line<'a>(&self, line: &'a str) -> Cow<'a, str> {
        let found = |line: &str, value: &String| line.contains(value.as_str());
        if !self.0.iter().any(|value| found(line, value)) {
            return Cow::Borrowed(line);
        }
        let hidden = |line: String, value: &String| line.replace(value.as_str(), HIDDEN);
        Cow::Owned(self.0.iter().fold(line.to_owned(), hidden))
    }
}

/// The variables of the server's environment.
type Variables = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// Where secrets are looked up.
#[derive(Clone)]
pub struct Secrets {
    /// `{folder}/{tenant}/{name}` are the files of a tenant.
    folder: PathBuf,
    /// The tenant whose builds may use the server's environment and its vault.
    operator: Option<TenantId>,
    variables: Variables,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets")
            .field("folder", &self.folder)
            .field("operator", &self.operator)
            .finish_non_exhaustive()
    }
}

impl Secrets {
    pub fn new(folder: PathBuf, operator: Option<TenantId>) -> Secrets {
        Secrets::with(folder, operator, Arc::new(|name| std::env::var(name).ok()))
    }

    fn with(folder: PathBuf, operator: Option<TenantId>, variables: Variables) -> Secrets {
        Secrets {
            folder,
            operator,
            variables,
        }
    }

    pub async fn look_up(
        &self,
        secrets: &[Secret],
        tenant: TenantId,
    ) -> Result<Vec<SecretValue>, SecretError> {
        let mut values = Vec::with_capacity(secrets.len());
        for secret in secrets {
            let text = self.value(secret, tenant).await?;
            values.push(SecretValue::new(&secret.name, &text)?);
        }
        Ok(values)
    }

    async fn value(&self, secret: &Secret, tenant: TenantId) -> Result<String, SecretError> {
        let missing = |why: String| SecretError::Missing {
            name: secret.name.clone(),
            why,
        };
        let own = self.operator == Some(tenant);
        match &secret.place {
            SecretPlace::Environment(_) | SecretPlace::Vault { .. } if !own => Err(missing(
                "the server's environment and vault serve the operator's own tenant; use a file"
                    .to_owned(),
            )),
            SecretPlace::Environment(name) => {
                let variable = format!("{VARIABLE_PREFIX}{name}");
                let why = format!("the server's environment has no {variable}");
                (self.variables)(&variable).ok_or_else(|| missing(why))
            }
            SecretPlace::File(name) => {
                let path = self.folder.join(tenant.to_string()).join(name);
                std::fs::read_to_string(&path)
                    .map_err(|error| missing(format!("{}: {error}", path.display())))
            }
            SecretPlace::Vault { path, field } => self.of_vault(secret, path, field).await,
        }
    }

    /// One field of a version 2 key-value store, by the address and token in the server's environment.
    async fn of_vault(
        &self,
        secret: &Secret,
        path: &str,
        field: &str,
    ) -> Result<String, SecretError> {
        let missing = |why: String| SecretError::Missing {
            name: secret.name.clone(),
            why,
        };
        let variable = |name: &str| {
            let why = format!("the server's environment has no {name}");
            (self.variables)(name).ok_or_else(|| missing(why))
        };
        let (address, token) = (variable("VAULT_ADDR")?, variable("VAULT_TOKEN")?);
        let fault = |source: reqwest::Error| SecretError::Vault {
            name: secret.name.clone(),
            source: source.without_url(),
        };
        let client = reqwest::Client::builder()
            .timeout(VAULT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none());
        let url = format!("{}/v1/{path}", address.trim_end_matches('/'));
        let asked = client.build().map_err(fault)?.get(url);
        let answer = asked
            .header("X-Vault-Token", token)
            .send()
            .await
            .map_err(fault)?;
        if !answer.status().is_success() {
            return Err(missing(format!(
                "the vault answers {}",
                answer.status().as_u16()
            )));
        }
        let body = limited(answer).await.map_err(fault)?;
        let body: Value = serde_json::from_slice(&body)
            .map_err(|_| missing("the vault's answer is not understood".to_owned()))?;
        let found = body["data"]["data"][field]
            .as_str()
            .or(body["data"][field].as_str());
        found
            .map(str::to_owned)
            .ok_or_else(|| missing(format!("{path} has no field {field}")))
    }
}

/// The beginning of a body: more than the limit is not JSON that anybody would keep a secret in.
async fn limited(mut answer: reqwest::Response) -> Result<Vec<u8>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(piece) = answer.chunk().await? {
        let room = VAULT_BYTES_MAX - body.len();
        body.extend_from_slice(&piece[..piece.len().min(room)]);
        if body.len() == VAULT_BYTES_MAX {
            break;
        }
    }
    Ok(body)
}

#[cfg(test)]
#[path = "vault_tests.rs"]
mod vault_tests;

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(place: SecretPlace) -> Secret {
        Secret {
            name: "TOKEN".to_owned(),
            place,
        }
    }

    #[tokio::test]
    async fn files_are_the_tenants_own() {
        let folder = tempfile::tempdir().unwrap();
        let (mine, other) = (TenantId::random(), TenantId::random());
        std::fs::create_dir(folder.path().join(mine.to_string())).unwrap();
        std::fs::write(
            folder.path().join(mine.to_string()).join("ci"),
            "hunter22\n",
        )
        .unwrap();
        let secrets = Secrets::new(folder.path().to_owned(), Some(mine));
        let asked = [secret(SecretPlace::File("ci".to_owned()))];
        let found = secrets.look_up(&asked, mine).await.unwrap();
        assert_eq!(found[0].reveal(), "hunter22");
        assert!(!format!("{found:?}").contains("hunter22"));
        assert!(secrets.look_up(&asked, other).await.is_err());
        let asked = [secret(SecretPlace::Environment("CI".to_owned()))];
        let error = secrets
            .look_up(&asked, other)
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("operator's own tenant"), "{error}");
    }

    #[test]
    fn values_are_taken_out_of_lines() {
        let secret = SecretValue::new("T", "hunter22\nsecond line\nab").unwrap();
        let redacted = Redacted::new(&[secret]);
        let check = |line: &str, expected: &str| assert_eq!(redacted.line(line), expected);
        check("+ curl -u me:hunter22 x", "+ curl -u me:*** x");
        check("second line, hunter22", "***, ***");
        check("about", "about");
        assert!(SecretValue::new("T", "short").is_err());
    }

    #[test]
    fn values_are_found_in_blocks_and_across_them() {
        let secret = SecretValue::new("T", "hunter22").unwrap();
        let check = |at: usize, blocks: [u64; 2], expected: bool| {
            let mut bytes = vec![1u8; 2 * 4096];
            bytes[at..at + 8].copy_from_slice(b"hunter22");
            let mut changes = Changes::new();
            for (index, block) in blocks.into_iter().zip(bytes.chunks(4096)) {
                changes.set(index, block.try_into().unwrap());
            }
            assert_eq!(secret.is_in(&changes), expected, "{at} {blocks:?}");
        };
        check(10, [4, 5], true);
        check(4096 - 3, [4, 5], true);
        check(4096 - 3, [4, 6], false);
        check(2 * 4096 - 8, [4, 9], true);
    }

    #[test]
    fn values_are_found_as_windows_writes_them() {
        let secret = SecretValue::new("T", "hünter22").unwrap();
        let wide: Vec<u8> = "x hünter22"
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        let mut block = [0u8; 4096];
        block[101..101 + wide.len()].copy_from_slice(&wide);
        let mut changes = Changes::new();
        changes.set(7, &block);
        assert!(secret.is_in(&changes));
        block[101 + 8] ^= 1;
        changes.set(7, &block);
        assert!(!secret.is_in(&changes));
    }
}
