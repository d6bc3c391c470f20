//! An address in an object store, and how to reach it: endpoint and region from the address, keys
//! from the environment or from a file. This and `object` alone know the library.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::client::{HttpClient, HttpConnector};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::{BackoffConfig, ClientOptions, RetryConfig};

use super::at::AtError;
use super::object::Limits;
use super::parcel::{Courier, ParcelError};

/// Settings that an address may have, for each kind of object store.
const S3_SETTINGS: [&str; 5] = [
    "endpoint",
    "region",
    "virtual_hosted_style_request",
    "allow_http",
    "imdsv1_fallback",
];
const AZURE_SETTINGS: [&str; 5] = [
    "endpoint",
    "account_name",
    "use_emulator",
    "allow_http",
    "authority_id",
];
const GOOGLE_SETTINGS: [&str; 2] = ["base_url", "allow_http"];
const ENDPOINT: &str = "endpoint";
/// Settings and keys that become a part of the name of the cloud's host.
const IN_HOSTS: [&str; 3] = ["region", "account_name", "AZURE_STORAGE_ACCOUNT_NAME"];
/// Settings that make a client ask the host it is on.
const OF_THE_OPERATOR: [&str; 2] = ["imdsv1_fallback", "use_emulator"];
/// Keys that whoever sends a file may give; the first two are the ones that are needed, both or one of them.
const S3_KEYS: &[&str] = &[
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
];
const AZURE_KEYS: &[&str] = &[
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_SAS_KEY",
    "AZURE_STORAGE_ACCOUNT_NAME",
];
/// Names a file with lines `NAME=VALUE`, as they would be in the environment.
const CREDENTIALS: &str = "credentials";
/// A file of keys is longer than this by mistake.
const MAX_CREDENTIALS_BYTES: u64 = 64 << 10;

/// Has all requests sent by the same client.
#[derive(Debug)]
struct By(Courier);

impl HttpConnector for By {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(self.0.clone())
    }
}

fn is_word(text: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    !text.is_empty() && text.bytes().all(good)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    S3,
    Azure,
    Google,
}

impl Kind {
    const ALL: [(&str, Kind); 3] = [("s3", Kind::S3), ("az", Kind::Azure), ("gs", Kind::Google)];

    fn scheme(self) -> &'static str {
        let of = |(scheme, kind): &(&'static str, Kind)| (*kind == self).then_some(*scheme);
        Kind::ALL.iter().find_map(of).unwrap_or_default()
    }

    fn settings(self) -> &'static [&'static str] {
        match self {
            Kind::S3 => &S3_SETTINGS,
            Kind::Azure => &AZURE_SETTINGS,
            Kind::Google => &GOOGLE_SETTINGS,
        }
    }

    /// How variables of the environment begin that this kind reads.
    fn variables(self) -> &'static str {
        match self {
            Kind::S3 => "AWS_",
            Kind::Azure => "AZURE_",
            Kind::Google => "GOOGLE_",
        }
    }
}

/// A bucket or container, and where in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    kind: Kind,
    name: String,
    /// Words joined by `/`; empty for the whole bucket.
    pub(super) prefix: String,
    settings: BTreeMap<String, String>,
    credentials: Option<PathBuf>,
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.kind.scheme(), self.name)?;
        match self.prefix.as_str() {
            "" => Ok(()),
            prefix => write!(f, "/{prefix}"),
        }
    }
}

impl Bucket {
    pub(super) fn parse(scheme: &str, text: &str) -> Result<Bucket, AtError> {
        let kind = Kind::ALL.iter().find(|(known, _)| *known == scheme);
        let Some((_, kind)) = kind else {
            return Err(AtError::Scheme(scheme.to_owned()));
        };
        let url = url::Url::parse(text)?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(AtError::Secret);
        }
        let name = url.host_str().unwrap_or_default();
        if name.is_empty() {
            return Err(AtError::Empty(text.to_owned()));
        }
        let mut bucket = Bucket {
            kind: *kind,
            name: name.to_owned(),
            prefix: prefix(url.path())?,
            settings: BTreeMap::new(),
            credentials: None,
        };
        for (key, value) in url.query_pairs() {
            bucket.set(&key, &value)?;
        }
        Ok(bucket)
    }

    pub(super) fn within(&self, part: &str) -> Bucket {
        let prefix = match self.prefix.as_str() {
            "" => part.to_owned(),
            prefix => format!("{}/{part}", prefix.trim_end_matches('/')),
        };
        Bucket {
            prefix,
            ..self.clone()
        }
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), AtError> {
        let secret = |key: &str| {
            ["key", "secret", "token", "password"]
                .iter()
                .any(|w| key.contains(w))
        };
        match key {
            CREDENTIALS => self.credentials = Some(PathBuf::from(value)),
            key if self.kind.settings().contains(&key) => {
                self.settings.insert(key.to_owned(), value.to_owned());
            }
            key if secret(key) => return Err(AtError::Secret),
            key => return Err(AtError::Setting(key.to_owned())),
        }
        Ok(())
    }

    /// A client of the object store; no request is made.
    pub(super) fn connect(&self, limits: &Limits) -> io::Result<Arc<dyn ObjectStore>> {
        let variables = match &self.credentials {
            Some(file) => variables_of(file)?,
            None => std::env::vars().collect(),
        };
        self.client(variables, limits, None)
    }

    /// The host that the address names.
    pub(super) fn endpoint(&self) -> Option<&str> {
        self.settings.get(ENDPOINT).map(String::as_str)
    }

    /// The same for somebody who is not the operator: with no keys but theirs, which must be there, since a client
    /// without keys asks the host for its own; and by a courier that goes nowhere else, if an endpoint is named.
    pub(super) fn connect_for_others(
        &self,
        keys: &str,
        limits: &Limits,
        courier: Option<Courier>,
    ) -> Result<Arc<dyn ObjectStore>, ParcelError> {
        let (known, needed) = match self.kind {
            Kind::S3 => (S3_KEYS, "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
            Kind::Azure => (
                AZURE_KEYS,
                "AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_KEY",
            ),
            Kind::Google => return Err(ParcelError::Kind),
        };
        if self.credentials.is_some() {
            return Err(ParcelError::Setting(CREDENTIALS.to_owned()));
        }
        if let Some(setting) = OF_THE_OPERATOR
            .iter()
            .find(|name| self.settings.contains_key(**name))
        {
            return Err(ParcelError::Setting((*setting).to_owned()));
        }
        let mut variables = lines_of(keys);
        variables.retain(|(name, _)| known.contains(&name.as_str()));
        let has = |name: &str| variables.iter().any(|(known, _)| known == name);
        let enough = match self.kind {
            Kind::S3 => has(S3_KEYS[0]) && has(S3_KEYS[1]),
            Kind::Azure | Kind::Google => has(AZURE_KEYS[0]) || has(AZURE_KEYS[1]),
        };
        if !enough {
            return Err(ParcelError::NoKeys(needed));
        }
        let settings = self
            .settings
            .iter()
            .chain(variables.iter().map(|(name, value)| (name, value)));
        let mut in_hosts = settings.filter(|(name, _)| IN_HOSTS.contains(&name.as_str()));
        if let Some((name, _)) = in_hosts.find(|(_, value)| !is_word(value)) {
            return Err(ParcelError::NotPlain(name.clone()));
        }
        self.client(variables, limits, courier)
            .map_err(ParcelError::Client)
    }

    fn client(
        &self,
        variables: Vec<(String, String)>,
        limits: &Limits,
        courier: Option<Courier>,
    ) -> io::Result<Arc<dyn ObjectStore>> {
        let of_kind = |(name, value): (String, String)| {
            let rest = name.strip_prefix(self.kind.variables())?;
            Some((rest.to_ascii_lowercase(), value))
        };
        // What the address says goes before what the environment says.
        let mut settings: BTreeMap<String, String> =
            variables.into_iter().filter_map(of_kind).collect();
        settings.extend(self.settings.clone());
        let plain = settings
            .get("endpoint")
            .or(settings.get("endpoint_url"))
            .or(settings.get("base_url"))
            .is_some_and(|endpoint| endpoint.starts_with("http://"));
        let mut client = ClientOptions::new()
            .with_timeout(limits.request)
            .with_connect_timeout(limits.connect)
            .with_http1_only();
        if plain {
            client = client.with_allow_http(true);
        }
        let retry = RetryConfig {
            backoff: BackoffConfig {
                init_backoff: limits.first_backoff,
                max_backoff: limits.last_backoff,
                base: 2.0,
            },
            max_retries: limits.retries,
            retry_timeout: limits.request,
        };
        let prefix = self.kind.variables().to_ascii_lowercase();
        // The library's builders have the same calls, and no trait in common.
        macro_rules! built {
            ($builder:ty, $named:ident) => {{
                let mut builder = <$builder>::new()
                    .with_client_options(client)
                    .with_retry(retry);
                if let Some(courier) = courier {
                    builder = builder.with_http_connector(By(courier));
                }
                for (key, value) in &settings {
                    if let Ok(key) = format!("{prefix}{key}").parse() {
                        builder = builder.with_config(key, value);
                    }
                }
                let built = builder.$named(&self.name).build();
                built.map(|store| Arc::new(store) as Arc<dyn ObjectStore>)
            }};
        }
        let made = match self.kind {
            Kind::S3 => built!(AmazonS3Builder, with_bucket_name),
            Kind::Azure => built!(MicrosoftAzureBuilder, with_container_name),
            Kind::Google => built!(GoogleCloudStorageBuilder, with_bucket_name),
        };
        made.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
    }
}

/// `/a/b/` as `a/b`.
fn prefix(path: &str) -> Result<String, AtError> {
    let plain = |word: &&str| {
        let fits = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
        !word.starts_with('.') && word.bytes().all(fits)
    };
    let words: Vec<&str> = path.split('/').filter(|word| !word.is_empty()).collect();
    match words.iter().find(|word| !plain(word)) {
        Some(word) => Err(AtError::Prefix((*word).to_owned())),
        None => Ok(words.join("/")),
    }
}

/// Lines `NAME=VALUE`; empty ones and those that begin with `#` say nothing.
fn variables_of(file: &Path) -> io::Result<Vec<(String, String)>> {
    let failed = |error: io::Error| {
        let message = format!("the keys in {} cannot be read: {error}", file.display());
        io::Error::new(error.kind(), message)
    };
    if std::fs::metadata(file).map_err(failed)?.len() > MAX_CREDENTIALS_BYTES {
        return Err(failed(io::ErrorKind::FileTooLarge.into()));
    }
    Ok(lines_of(&std::fs::read_to_string(file).map_err(failed)?))
}

fn lines_of(text: &str) -> Vec<(String, String)> {
    let line = |line: &str| {
        let line = line.trim();
        let (name, value) = line.split_once('=').filter(|_| !line.starts_with('#'))?;
        Some((name.trim().to_owned(), value.trim().to_owned()))
    };
    text.lines().filter_map(line).collect()
}
