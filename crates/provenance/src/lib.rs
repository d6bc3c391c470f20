//! What an image version is made of and who says so: packages, bills of materials, signed statements, and the
//! advisories that concern them. All of it works on bytes in memory: it opens nothing, reads no clock and knows
//! neither galleries nor stores.

mod advisory;
mod cyclonedx;
mod difference;
mod envelope;
mod error;
mod packages;
mod spdx;
mod statement;

pub use advisory::{Advisories, Advisory, AffectedPackage, Hit, Query, osv, oval};
pub use cyclonedx::cyclonedx;
pub use difference::{Change, Difference, difference};
pub use envelope::{Envelope, PublicKey, Signature, SigningKey, VerifyError};
pub use error::ReadError;
pub use packages::{Inventory, OsRelease, Package, Version};
pub use spdx::spdx;
pub use statement::{
    BuildDefinition, BuildMetadata, Builder, Dependency, IN_TOTO_PAYLOAD, PredicateType,
    Provenance, RunDetails, Statement, Subject, disk_digest_set,
};

/// The image that a bill of materials or a statement is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image<'a> {
    /// As people say it: `gallery/definition`.
    pub name: &'a str,
    /// The version in its gallery, `1.0.0`.
    pub version: &'a str,
    /// The disk's digest, with its prefix `bd1:`.
    pub digest: &'a str,
    /// RFC 3339, in UTC: when the version was published. A document about it is no newer, so that it can be made again.
    pub published: &'a str,
}
