//! Arguments of `bullion app`.

use camino::Utf8PathBuf;
use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub enum App {
    /// List applications of every tenant that is visible
    #[command(after_help = "Example:
  bullion app list")]
    List {
        /// Only those of this tenant, by name or id
        #[arg(long, value_name = "NAME|ID")]
        tenant: Option<String>,
    },
    /// Show one application: its ids, and who consented to it
    #[command(after_help = "Example:
  bullion app show release-approver")]
    Show(Named),
    /// Secrets that an application signs in with
    #[command(subcommand)]
    Secret(Secret),
}

/// One application.
#[derive(Debug, Clone, Args)]
pub struct Named {
    /// Application, by name, `tenant/name` or client id
    pub application: String,

    /// Tenant that owns it, by name or id; all that are visible unless given
    #[arg(long, value_name = "NAME|ID")]
    pub tenant: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum Secret {
    /// Make a secret; it is shown this once, or goes straight into a profile
    #[command(after_help = "Examples:
  bullion app secret add release-approver --write-profile approver.json
  bullion --profile approver.json promotion approve golden-prod-1.0.0
  bullion app secret add release-approver --days 30 > secret.txt")]
    Add(SecretAdd),
    /// List the secrets of an application; what is secret in them is not kept anywhere
    #[command(after_help = "Example:
  bullion app secret list release-approver")]
    List(Named),
    /// Delete a secret: nobody signs in with it any more
    #[command(after_help = "Example:
  bullion app secret delete release-approver 0b5e… --yes")]
    Delete {
        #[command(flatten)]
        named: Named,
        /// Id of the secret, as `secret list` shows it; its beginning is enough
        #[arg(value_name = "KEY-ID")]
        key: String,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
pub struct SecretAdd {
    #[command(flatten)]
    pub named: Named,

    /// What the secret is for
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub name: String,

    /// Days until it ends; a year unless given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=730))]
    pub days: Option<u16>,

    /// Write a profile that signs in with it, readable by its owner only, and show no secret; an older profile of the
    /// application is replaced, any other file is left alone
    #[arg(long, value_name = "FILE")]
    pub write_profile: Option<Utf8PathBuf>,
}
