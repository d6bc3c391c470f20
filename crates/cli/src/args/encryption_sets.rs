//! Arguments of `encryption-set`.

use clap::Subcommand;

use super::Scope;

#[derive(Debug, Subcommand)]
pub enum EncryptionSet {
    /// Make a key of the tenant's own for versions in a region
    #[command(after_help = "Examples:
  bullion encryption-set create payroll --region north -g images
  bullion encryption-set create payroll --region north -g images \\
      --key-url https://vault.example:8200/v1/transit/keys/TENANT-ID-payroll

The key is made and kept at the server, unless an address of the transit engine of its key service is given. A version is
encrypted with it where one of its target regions names the set.")]
    Create {
        /// Name of the set
        name: String,
        /// Region whose stores it encrypts
        #[arg(long)]
        region: String,
        /// A key of the key service
        #[arg(long, value_name = "URL")]
        key_url: Option<String>,
        #[command(flatten)]
        scope: Scope,
    },
    /// List sets, their keys and what they hold
    #[command(after_help = "Example:
  bullion encryption-set list")]
    List {
        #[command(flatten)]
        scope: Scope,
    },
    /// Show one set
    #[command(after_help = "Example:
  bullion encryption-set show payroll")]
    Show {
        /// Set, by name or resource id
        name: String,
        #[command(flatten)]
        scope: Scope,
    },
    /// Have a new key wrap what the set keeps; no block is written anew
    #[command(after_help = "Example:
  bullion encryption-set rotate payroll")]
    Rotate {
        /// Set, by name or resource id
        name: String,
        #[command(flatten)]
        scope: Scope,
    },
    /// Take the secret away: nothing that the set encrypts can be read by anyone again
    #[command(after_help = "Examples:
  bullion encryption-set erase payroll --dry-run   # what would be lost
  bullion encryption-set erase payroll             # asks first
  bullion encryption-set erase payroll --yes

Exit code: 0 if it was done or is a dry run, 1 if not")]
    Erase {
        /// Set, by name or resource id
        name: String,
        /// Tell what would be lost, and erase nothing
        #[arg(long, conflicts_with = "yes")]
        dry_run: bool,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
        #[command(flatten)]
        scope: Scope,
    },
    /// Delete a set that encrypts no version
    #[command(after_help = "Example:
  bullion encryption-set delete payroll --yes")]
    Delete {
        /// Set, by name or resource id
        name: String,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
        #[command(flatten)]
        scope: Scope,
    },
}
