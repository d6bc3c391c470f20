//! Arguments of `signing-key`.

use clap::{Subcommand, ValueEnum};

/// What keys of an installation sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Signs {
    /// Tokens of all who sign in
    Tokens,
    /// Statements about images
    Statements,
}

#[derive(Debug, Subcommand)]
pub enum SigningKey {
    /// The keys that sign, and those before them that still verify
    #[command(after_help = "Example:
  bullion signing-key list")]
    List,
    /// Have a new key sign from now on
    #[command(after_help = "Examples:
  bullion signing-key rotate tokens
  bullion signing-key rotate statements

Tokens that the key before signed are good until they expire. Statements that it signed are trusted as before: its public half
stays in `keys/trusted` of the server's data folder, its private half is gone. Where several servers share a database, this
replaces the key of the one that answers; put its new public key into `keys/trusted` of the others.")]
    Rotate {
        /// Which key
        #[arg(value_enum)]
        signs: Signs,
    },
}
