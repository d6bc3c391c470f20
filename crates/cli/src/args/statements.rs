//! Arguments of `sbom`, `statement`, `verify` and `affected`.

use clap::{Args, Subcommand, ValueEnum};

use super::Scope;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Bill {
    /// SPDX 2.3
    Spdx,
    /// CycloneDX 1.6
    Cyclonedx,
}

#[derive(Debug, Subcommand)]
pub enum Sbom {
    /// Print the bill of materials of a version, as JSON
    #[command(after_help = "Examples:
  bullion sbom show golden/debian-12/1.0.0 > debian.spdx.json
  bullion sbom show golden/debian-12/latest --format cyclonedx")]
    Show {
        /// `gallery/definition/version`, or a resource id
        version: String,
        /// What it is written as
        #[arg(long, value_enum, default_value = "spdx")]
        format: Bill,
        #[command(flatten)]
        scope: Scope,
    },
    /// The packages that were added, removed, upgraded or downgraded from one version to another
    #[command(after_help = "Examples:
  bullion sbom diff golden/debian-12/1.0.0 golden/debian-12/1.0.1
  bullion sbom diff golden/debian-12/1.0.0 shop/web/latest --output json")]
    Diff {
        /// The version that is compared with
        before: String,
        /// The version whose changes are told
        after: String,
        #[command(flatten)]
        scope: Scope,
    },
}

#[derive(Debug, Subcommand)]
pub enum Statement {
    /// The statements that there are about a version
    #[command(after_help = "Example:
  bullion statement list golden/debian-12/1.0.0")]
    List {
        /// `gallery/definition/version`, or a resource id
        version: String,
        #[command(flatten)]
        scope: Scope,
    },
    /// Print one statement; the server checks its signature before it answers
    #[command(after_help = "Examples:
  bullion statement show golden/debian-12/1.0.0 provenance
  bullion statement show golden/debian-12/1.0.0 tests
  bullion statement show golden/debian-12/1.0.0 provenance --envelope > provenance.dsse.json

An envelope is DSSE with an in-toto statement in it; `--key` prints the public key that it can be checked with.")]
    Show {
        /// `gallery/definition/version`, or a resource id
        version: String,
        /// provenance, tests, spdx or cyclonedx
        name: String,
        /// The signed envelope instead of what is in it
        #[arg(long, conflicts_with = "key")]
        envelope: bool,
        /// The public key of the signature, in PEM
        #[arg(long)]
        key: bool,
        #[command(flatten)]
        scope: Scope,
    },
}

#[derive(Debug, Args)]
pub struct Affected {
    /// An advisory, such as `CVE-2024-0727`, or a package, such as `openssl<3.0.15`
    pub query: String,

    /// Subscription, by name or id; all that are visible unless given
    #[arg(long, short = 's', value_name = "NAME|ID")]
    pub subscription: Option<String>,
}

#[derive(Debug, Args)]
pub struct Verify {
    /// `gallery/definition/version`, or a resource id
    pub version: String,

    /// Take the first disk from the store where it is still there, and build only what is on it
    #[arg(long)]
    pub reuse_base: bool,

    #[command(flatten)]
    pub scope: Scope,
}
