//! What can go wrong, named by the operation. A device that was being written when an error
//! came is not to be used: the caller drops its map of changes.

use std::io;

/// A path for a message: bytes that are not UTF-8 are replaced.
pub(crate) fn show(path: &[u8]) -> String {
    format!("/{}", String::from_utf8_lossy(path))
}

#[derive(Debug, thiserror::Error)]
pub enum Ext4Error {
    #[error("cannot open the ext4 file system: {detail}")]
    Open {
        detail: String,
        #[source]
        source: Option<io::Error>,
    },

    #[error("the ext4 file system cannot be written: {reason}")]
    Unsupported { reason: String },

    #[error("{operation} `{path}` failed: {detail}")]
    Operation {
        operation: &'static str,
        path: String,
        detail: String,
        #[source]
        source: Option<io::Error>,
    },

    #[error("no space left in the image while writing `{path}`")]
    NoSpace { path: String },

    #[error("`{path}` does not exist in the image")]
    NotFound { path: String },

    #[error("`{path}` is not a {expected}")]
    WrongType {
        path: String,
        expected: &'static str,
    },

    #[error("`{path}` is not a usable path: {reason}")]
    BadPath { path: String, reason: &'static str },

    #[error("`{path}` is {size} bytes; the limit is {limit}")]
    TooLarge { path: String, size: u64, limit: u64 },

    #[error("cannot read the new content of `{path}`")]
    Content {
        path: String,
        #[source]
        source: io::Error,
    },

    #[error("cannot get the next change")]
    Changes(#[source] Box<dyn std::error::Error + Send + Sync>),

    #[error("cannot finish writing the ext4 file system: {detail}")]
    Commit {
        detail: String,
        #[source]
        source: Option<io::Error>,
    },

    #[error("the clock of an image must be after 1970, not {clock}")]
    BadClock { clock: i64 },
}
