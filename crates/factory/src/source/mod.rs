//! Source: a platform image becomes a pinned state of a package archive, and that pin a disk.
//!
//! An input that moves is pinned first, and only the pin is built from. Nothing here knows what is
//! later done to the disk, and no host of an archive is named: mirrors come from the caller or from
//! the configuration of the machine that this runs on.

mod archive;
mod boot;
mod bootstrap;
mod content;
mod described;
#[cfg(test)]
mod described_tests;
mod fetching;
mod host_apt;
mod marketplace;
mod memory;
mod pin;
mod python;
mod release;
mod shelf;
mod signature;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod vendor;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use archive::AptArchive;
pub(crate) use fetching::{NotFetched, Watch, watched};
pub use host_apt::SourceLine;
pub use marketplace::Marketplace;
pub(crate) use pin::hex;
pub use pin::{Described, FileState, Pin, StateDigest, SuiteState};
pub(crate) use python::STEADY_HASHES;
pub use vendor::VendorImages;

/// A base operating system as it is asked for: `publisher:offer:sku:version`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlatformImage {
    pub publisher: String,
    pub offer: String,
    pub sku: String,
    /// `latest`, or the version of a state that was pinned before.
    pub version: String,
}

/// The version that means "what the archive holds now".
pub const LATEST: &str = "latest";

impl PlatformImage {
    /// Whether both name the same product, whatever the version.
    pub fn is_product(&self, publisher: &str, offer: &str, sku: &str) -> bool {
        let same = |have: &str, want: &str| have.eq_ignore_ascii_case(want);
        same(&self.publisher, publisher) && same(&self.offer, offer) && same(&self.sku, sku)
    }

    pub fn is_latest(&self) -> bool {
        self.version.eq_ignore_ascii_case(LATEST)
    }
}

impl fmt::Display for PlatformImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            publisher,
            offer,
            sku,
            version,
        } = self;
        write!(f, "{publisher}:{offer}:{sku}:{version}")
    }
}

/// A text that is not `publisher:offer:sku:version`.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a platform image; write publisher:offer:sku:version")]
pub struct ParsePlatformImageError(String);

impl FromStr for PlatformImage {
    type Err = ParsePlatformImageError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = text.split(':').collect();
        match parts.as_slice() {
            [publisher, offer, sku, version] if parts.iter().all(|part| !part.is_empty()) => {
                Ok(PlatformImage {
                    publisher: (*publisher).to_owned(),
                    offer: (*offer).to_owned(),
                    sku: (*sku).to_owned(),
                    version: (*version).to_owned(),
                })
            }
            _ => Err(ParsePlatformImageError(text.to_owned())),
        }
    }
}

/// What a base disk is made from besides the pin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseRequest {
    pub disk_gib: u32,
}

/// Named inputs of a base disk, in order. Their hash is the key of the step that makes it.
pub type BaseInputs = Vec<(String, String)>;

/// Where progress lines go.
pub type LogLine = Arc<dyn Fn(&str) + Send + Sync>;

/// A platform image that is offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Product {
    pub publisher: String,
    pub offer: String,
    pub sku: String,
    /// Those that can be built from, oldest first. `latest` may make a new one.
    pub versions: Vec<String>,
}

impl fmt::Display for Product {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.publisher, self.offer, self.sku)
    }
}

/// Offers platform images. One provider knows one family of products.
#[async_trait::async_trait]
pub trait Provider: Send + Sync {
    /// What is offered.
    fn products(&self) -> Vec<Product>;

    /// Pins what `image` means now. `mirrors` are taken in place of the host's own when given.
    async fn resolve(
        &self,
        image: &PlatformImage,
        mirrors: &[SourceLine],
    ) -> Result<Pin, SourceError>;

    /// Everything that decides the bytes of the disk that [`Self::bootstrap`] makes.
    async fn inputs(&self, pin: &Pin, request: &BaseRequest) -> Result<BaseInputs, SourceError>;

    /// Makes the whole raw disk of the pin in the empty folder `work` and answers its path. Equal
    /// inputs give equal bytes.
    async fn bootstrap(
        &self,
        pin: &Pin,
        request: &BaseRequest,
        work: &Path,
        log: LogLine,
    ) -> Result<PathBuf, SourceError>;

    /// The pinned archive itself, for building more from it. Nothing where there is no archive.
    async fn archive(&self, pin: &Pin) -> Result<Option<Archive>, SourceError>;
}

/// A pinned archive as apt reads it.
#[derive(Debug, Clone)]
pub struct Archive {
    /// Package lists, named as apt wants them for `sources_list`.
    pub lists: PathBuf,
    pub sources_list: String,
    /// Packages that were fetched before.
    pub debs: PathBuf,
    /// How the archive is reached, as lines of an apt configuration.
    pub acquire: String,
    /// The same, as environment.
    pub environment: Vec<(String, String)>,
}

/// Why there is no base disk.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error(
        "there is no platform image `{image}`; known are {known} (version `latest` or a pinned one)"
    )]
    UnknownImage { image: String, known: String },
    #[error(
        "version {version} of {product} was never pinned here; pinned are: {known}. Ask for `latest`, or for one of these"
    )]
    NotPinned {
        product: String,
        version: String,
        known: String,
    },
    #[error(
        "the package sources of this machine name no `{suite}`; name mirrors in the template's source (`mirrors`), or add a source for it to apt"
    )]
    NoMirror { suite: String },
    #[error(
        "a package source has its key inside its own text ({file}); put the key into a file and name that in Signed-By"
    )]
    InlineKey { file: String },
    #[error(
        "`{line}` is not a package source; write `deb [signed-by=FILE] URI SUITE COMPONENT...`"
    )]
    BadSourceLine { line: String },
    #[error(
        "the package archive could not be read. Check the network and the proxy settings of apt ({hint}); the run goes on from here when it is started again"
    )]
    ArchiveUnreachable {
        hint: String,
        #[source]
        source: FetchError,
    },
    #[error(
        "the package archive is not signed by a key of {ring}. Check that the mirror is the distribution's own and that the ring holds its keys"
    )]
    BadSignature {
        ring: String,
        #[source]
        source: process::ProcessError,
    },
    #[error("the description `{}` cannot be used: {reason}", file.display())]
    BadDescription { file: PathBuf, reason: String },
    #[error("the archive's {file} cannot be used: {reason}")]
    BadRelease { file: String, reason: &'static str },
    #[error(
        "packages of the pinned archive state {version} are no longer in the archive as they were signed, and not all of them are kept here; ask for `latest` to pin the present state, or for another mirror if this one sends wrong bytes or has put the release away"
    )]
    ArchiveMoved {
        version: String,
        #[source]
        source: FetchError,
    },
    #[error("the pinned archive state {state} is damaged: {reason}")]
    BadPin { state: String, reason: String },
    #[error("run a program")]
    Process(#[from] process::ProcessError),
    #[error("{operation} `{}`", path.display())]
    File {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("read the new tree")]
    Tree(#[from] ext4::TarError),
    #[error("write the file system")]
    FileSystem(#[from] ext4::Ext4Error),
    #[error("lay out the disk")]
    Layout(#[from] disk::layout::LayoutError),
    #[error("the tree that was installed has no `{path}`, without which it cannot start")]
    Incomplete { path: String },
    #[error("a worker thread of the source stage ended before its work")]
    Worker(#[source] tokio::task::JoinError),
    #[error("{0}")]
    Provider(String),
}

/// How it was seen that packages cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error(transparent)]
    Ended(#[from] process::ProcessError),
    #[error(transparent)]
    GaveUp(#[from] NotFetched),
}

impl SourceError {
    pub(crate) fn file(
        operation: &'static str,
        path: &Path,
    ) -> impl FnOnce(std::io::Error) -> SourceError {
        let path = path.to_owned();
        move |source| SourceError::File {
            operation,
            path,
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<&str>) {
        let parsed = text.parse::<PlatformImage>().ok();
        assert_eq!(parsed.map(|image| image.to_string()).as_deref(), expected);
    }

    #[test]
    fn platform_images_have_four_parts() {
        check(
            "Debian:debian-12:12-gen2:latest",
            Some("Debian:debian-12:12-gen2:latest"),
        );
        check("Debian:debian-12:12-gen2", None);
        check("Debian:debian-12::latest", None);
        check("a:b:c:d:e", None);
    }
}
