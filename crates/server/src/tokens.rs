//! The installation's signing keys: made at the first start, replaced with age, kept until no token of
//! theirs can still be valid.

use access::{Identity, KeyError, NewToken, SigningKey, TokenError, TokenVerifier};
use catalog::{AuthStore, CatalogError, StoredKey};
use jiff::{Timestamp, ToSpan as _};
use serde_json::{Value, json};
use uuid::Uuid;
use wire::TenantId;

/// A key signs for this long, then a start makes a new one.
const SIGNS_DAYS: i64 = 60;
const RETIRES_DAYS: i64 = 90;

#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    #[error("cannot read or keep the signing keys")]
    Keep(#[from] CatalogError),
    #[error("cannot use a signing key")]
    Key(#[from] KeyError),
}

pub struct Tokens {
    /// Newest first; that one signs.
    keys: Vec<SigningKey>,
    verifier: TokenVerifier,
}

impl Tokens {
    pub async fn load(auth: &dyn AuthStore, now: Timestamp) -> Result<Tokens, TokensError> {
        let days = |count: i64| (count * 24).hours();
        let mut stored = auth.signing_keys().await?;
        let fresh = stored
            .first()
            .is_some_and(|key| key.made_at + days(SIGNS_DAYS) > now);
        if !fresh {
            let key = SigningKey::generate(Uuid::new_v4().to_string())?;
            let made = StoredKey {
                kid: key.id().to_string(),
                private_pem: key.pem().to_string(),
                made_at: now,
                retires_at: now + days(RETIRES_DAYS),
            };
            auth.add_signing_key(made.clone()).await?;
            stored.insert(0, made);
        }
        let keys = stored
            .into_iter()
            .map(|key| SigningKey::from_pem(key.kid, key.private_pem))
            .collect::<Result<Vec<_>, _>>()?;
        let verifier = TokenVerifier::new(&keys)?;
        Ok(Tokens { keys, verifier })
    }

    pub fn mint(&self, token: &NewToken<'_>) -> Result<String, KeyError> {
        self.keys.first().ok_or(KeyError::Read)?.mint(token)
    }

    pub fn verify(
        &self,
        token: &str,
        now: u64,
        audience_ok: impl Fn(&str) -> bool,
        issuer_ok: impl Fn(TenantId, &str) -> bool,
    ) -> Result<Identity, TokenError> {
        self.verifier.verify(token, now, audience_ok, issuer_ok)
    }

    /// The public halves, as a JWKS document.
    pub fn key_set(&self) -> Value {
        let keys: Vec<Value> = self
            .keys
            .iter()
            .map(|key| {
                let (modulus, exponent) = key.public_components();
                json!({
                    "kty": "RSA",
                    "use": "sig",
                    "alg": "RS256",
                    "kid": key.id(),
                    "n": modulus,
                    "e": exponent,
                })
            })
            .collect();
        json!({ "keys": keys })
    }
}
