//! Refresh tokens: random, good for one use, kept as a digest.
//!
//! 256 random bits need no slow hash: nobody guesses them, and the digest alone signs nobody in.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret, SecretString};

use crate::SecretError;

const BYTES: usize = 32;
const PRESENTED_BYTES_MAX: usize = 512;

/// The secret part of a URL that was given out: the same kind of thing, of which the digest alone is kept.
pub type UrlToken = RefreshToken;

#[derive(Debug, Clone)]
pub struct RefreshToken(SecretString);

impl RefreshToken {
    pub fn random() -> Result<Self, SecretError> {
        let mut bytes = [0u8; BYTES];
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| SecretError::Random)?;
        Ok(Self(URL_SAFE_NO_PAD.encode(bytes).into()))
    }

    /// What a client presents; `None` if it is too long to be one.
    pub fn presented(text: &str) -> Option<Self> {
        (text.len() <= PRESENTED_BYTES_MAX).then(|| Self(text.into()))
    }

    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// Under which it is kept.
    pub fn digest(&self) -> String {
        URL_SAFE_NO_PAD.encode(digest(&SHA256, self.expose().as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_known_by_its_digest() {
        let token = RefreshToken::random().unwrap();
        let shown = RefreshToken::presented(token.expose()).unwrap();
        assert_eq!(shown.digest(), token.digest());
        assert_ne!(RefreshToken::random().unwrap().digest(), token.digest());
        assert!(!format!("{token:?}").contains(token.expose()));
        assert!(RefreshToken::presented(&"x".repeat(PRESENTED_BYTES_MAX + 1)).is_none());
    }
}
