//! What can be wrong with package databases and advisories. It must not hold a whole input: those are hostile.

/// A text from outside that cannot be read, or is larger than anything sensible.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("{what} is {bytes} bytes; the limit is {limit}")]
    TooLong {
        what: &'static str,
        bytes: usize,
        limit: usize,
    },
    #[error("{what} has more than {limit} entries")]
    TooMany { what: &'static str, limit: usize },
    #[error("{what} is not UTF-8 text")]
    NotText { what: &'static str },
    #[error("{what} cannot be read: {reason}")]
    Malformed { what: &'static str, reason: String },
}

/// Longest reason that an error repeats of another's words.
const REASON_CHARS_MAX: usize = 300;

impl ReadError {
    pub(crate) fn malformed(what: &'static str, reason: impl std::fmt::Display) -> Self {
        ReadError::Malformed {
            what,
            reason: reason.to_string().chars().take(REASON_CHARS_MAX).collect(),
        }
    }
}

/// The text of `bytes`, within `limit`.
pub(crate) fn text<'a>(
    what: &'static str,
    bytes: &'a [u8],
    limit: usize,
) -> Result<&'a str, ReadError> {
    if bytes.len() > limit {
        return Err(ReadError::TooLong {
            what,
            bytes: bytes.len(),
            limit,
        });
    }
    std::str::from_utf8(bytes).map_err(|_| ReadError::NotText { what })
}
