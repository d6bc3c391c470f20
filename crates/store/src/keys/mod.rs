//! Who keeps the secrets of domains: a key service wraps a secret, and the store keeps what comes
//! of it. Losing the service makes a store unreadable until it is back; erasing the wrapped
//! secret makes it unreadable for good.
//!
//! A service sees one small secret for each domain and never a block of a disk.

mod fake;
mod file;
mod record;
mod text;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

pub use fake::FakeKeys;
pub use file::{KeyFile, read_secret, write_secret};
pub(crate) use record::{KEYS, State, read_record, write_record};
pub use text::{SealedTextError, is_sealed, open_text, seal_text};

use crate::domain::DomainId;

/// The longest wrapped secret that is kept: services add a name, a version and a check to it.
pub(crate) const MAX_WRAPPED_BYTES: usize = 4096;

/// Why a secret could not be wrapped or unwrapped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// It may work later.
    #[error("reach the key service {service}")]
    Unavailable {
        service: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It will not work until somebody changes something.
    #[error("the key service {service} refuses: {what}")]
    Refused { service: String, what: String },
    #[error("{doing} the key file {}", path.display())]
    File {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the key file {} is damaged: {what}", path.display())]
    DamagedFile { path: PathBuf, what: &'static str },
    #[error("{service} does not have the key that this domain's secret is wrapped with")]
    WrongKey { service: String },
}

/// Wraps the secrets of domains. Calls may take a while and may fail.
pub trait KeyService: Send + Sync + fmt::Debug {
    /// What is written beside a wrapped secret, for people: no secret, and under 200 bytes.
    fn name(&self) -> String;

    /// With the newest key that the service has.
    fn wrap(&self, domain: &DomainId, secret: &[u8; 32]) -> Result<Vec<u8>, KeyError>;

    /// With any key that the service had and has not forgotten.
    fn unwrap(&self, domain: &DomainId, wrapped: &[u8]) -> Result<[u8; 32], KeyError>;

    /// Whether this was wrapped with the newest key.
    fn is_newest(&self, wrapped: &[u8]) -> Result<bool, KeyError>;
}

/// Where the secret of a store's domain is kept.
#[derive(Debug, Clone, Default)]
pub enum Keys {
    /// Nobody keeps it. What is encrypted opens locked, and no store is made.
    #[default]
    Unknown,
    /// A new store is not encrypted.
    Off,
    /// A new store is encrypted.
    Service(Arc<dyn KeyService>),
}
