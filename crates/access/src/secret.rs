//! Client secrets: made at random, shown once, kept as an argon2id hash.

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret, SecretString};

/// 255 random bits: nothing that a person chose, so the cost below guards the hash file, not the guess.
const SECRET_BYTES: usize = 32;
/// OWASP's second argon2id setting: 19 MiB, two passes, one lane.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
/// Longer secrets are refused before any work is spent on them.
const PRESENTED_BYTES_MAX: usize = 512;

#[derive(Debug, Clone)]
pub struct ClientSecret(SecretString);

/// The PHC string. Safe to store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretHash(String);

#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("hashing the secret failed: {0}")]
    Hash(String),
    #[error("the system gave no randomness")]
    Random,
}

impl ClientSecret {
    pub fn random() -> Result<Self, SecretError> {
        let mut bytes = [0u8; SECRET_BYTES];
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| SecretError::Random)?;
        // The text begins with a letter: a command line takes one that begins with `-` for an option.
        bytes[0] &= 0x7f;
        Ok(Self(URL_SAFE_NO_PAD.encode(bytes).into()))
    }

    pub fn from_text(text: String) -> Self {
        Self(text.into())
    }

    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    pub fn hash(&self) -> Result<SecretHash, SecretError> {
        let hash = argon2()?.hash_password(self.expose().as_bytes());
        hash.map(|hash| SecretHash(hash.to_string()))
            .map_err(|error| SecretError::Hash(error.to_string()))
    }
}

impl SecretHash {
    pub fn from_stored(text: String) -> Self {
        Self(text)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Costs about 20 ms of a core: callers run it off the async threads and limit how many run at once.
    pub fn verify(&self, presented: &str) -> bool {
        if presented.len() > PRESENTED_BYTES_MAX {
            return false;
        }
        let Ok(hash) = PasswordHash::new(&self.0) else {
            return false;
        };
        Argon2::default()
            .verify_password(presented.as_bytes(), &hash)
            .is_ok()
    }
}

fn argon2() -> Result<Argon2<'static>, SecretError> {
    let params = Params::new(MEMORY_KIB, PASSES, 1, None)
        .map_err(|error| SecretError::Hash(error.to_string()))?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_no_options_of_a_command_line() {
        for _ in 0..1000 {
            let secret = ClientSecret::random().unwrap();
            let first = secret.expose().chars().next().unwrap();
            assert!(first.is_ascii_alphabetic(), "{first}");
        }
    }

    #[test]
    fn a_hash_fits_its_secret_only() {
        let secret = ClientSecret::random().unwrap();
        let hash = SecretHash::from_stored(secret.hash().unwrap().as_str().to_string());
        assert!(hash.verify(secret.expose()));
        assert!(!hash.verify(""));
        assert!(!hash.verify(&format!("{}x", secret.expose())));
        assert!(!hash.verify(&"x".repeat(PRESENTED_BYTES_MAX + 1)));
        assert!(!SecretHash::from_stored("nonsense".into()).verify(secret.expose()));
        assert!(!format!("{secret:?}").contains(secret.expose()));
    }
}
