//! What is known of disks: signed statements about them, and the packages in them.
//!
//! Both are named by the disk's digest, which is one in every gallery and tenant. So a permit's scope cannot bound them:
//! whoever asks must have read a version with that disk under the same permit. What a statement says is not known here.
//!
//! Of bodies one member is known: the digest of a version's disk, by which the database has an index of versions.

use access::Permit;
use async_trait::async_trait;
use jiff::Timestamp;
use wire::ResourceId;

use crate::error::Result;
use crate::resource::Continuation;

/// Bytes of one statement.
pub const STATEMENT_BYTES_MAX: usize = 16 << 20;
/// Packages of one disk.
pub const PACKAGES_MAX: usize = 100_000;
/// Versions that one answer of [`Statements::versions_using`] holds.
pub const VERSIONS_USING_MAX: usize = 5_000;

/// One signed statement about a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredStatement {
    /// What it is called among those of its disk: `provenance`.
    pub name: String,
    pub at: Timestamp,
    /// A DSSE envelope, as JSON.
    pub envelope: String,
}

/// A package, as it is found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoredPackage {
    pub name: String,
    pub source: String,
    /// All that is known of it, as JSON; the same package always has the same text.
    pub body: String,
}

/// The packages of one disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredBill {
    /// What the system in the disk says it is, as JSON.
    pub system: String,
    pub packages: Vec<StoredPackage>,
}

/// A package in disks whose systems say the same of themselves: what is judged once, however many disks have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackageUse {
    pub system: String,
    /// The package's number in this catalog.
    pub package: i64,
    /// As in [`StoredPackage::body`].
    pub body: String,
}

/// Versions whose disks have some package.
#[derive(Clone, Debug)]
pub struct VersionsUsing {
    pub found: Vec<VersionUsing>,
    /// Where the next answer begins; none after the last.
    pub next: Option<Continuation>,
}

/// A version, and which of the uses its disk has: their places among those that were asked for, ascending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionUsing {
    pub version: ResourceId,
    pub uses: Vec<usize>,
}

/// Statements and packages, by the digest of the disk.
#[async_trait]
pub trait Statements: Send + Sync {
    /// Keeps a statement; one of the same name gives way.
    async fn keep_statement(
        &self,
        permit: &Permit,
        disk: &str,
        statement: &StoredStatement,
    ) -> Result<()>;
    /// The statement of that name, if there is one.
    async fn statement(
        &self,
        permit: &Permit,
        disk: &str,
        name: &str,
    ) -> Result<Option<StoredStatement>>;
    /// Names and times of all statements about a disk, by name.
    async fn statement_names(
        &self,
        permit: &Permit,
        disk: &str,
    ) -> Result<Vec<(String, Timestamp)>>;
    /// Keeps the packages of a disk; what was kept of it before gives way.
    async fn keep_bill(&self, permit: &Permit, disk: &str, bill: &StoredBill) -> Result<()>;
    /// The packages of a disk, by their text.
    async fn bill(&self, permit: &Permit, disk: &str) -> Result<Option<StoredBill>>;
    /// Every use of packages that are called so, or were built from a source that is.
    async fn uses_of_package(&self, permit: &Permit, name: &str) -> Result<Vec<PackageUse>>;
    /// The versions at or below the permit's scope whose disks have some of the uses, in the order of lists: up to `limit`
    /// after the place where an answer before it ended.
    async fn versions_using(
        &self,
        permit: &Permit,
        uses: &[PackageUse],
        after: Option<&Continuation>,
        limit: usize,
    ) -> Result<VersionsUsing>;
}
