//! The installation's signing keys: made at the first start, replaced with age, kept until no token of
//! theirs can still be valid.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use access::{
    Identity, KeyError, LIFETIME_SECONDS, NewToken, SigningKey, TokenError, TokenVerifier,
};
use catalog::{AuthStore, CatalogError, StoredKey};
use jiff::{Timestamp, ToSpan as _};
use serde_json::{Value, json};
use uuid::Uuid;
use wire::TenantId;

/// A key signs for this long, then a start makes a new one.
const SIGNS_DAYS: i64 = 60;
const RETIRES_DAYS: i64 = 90;
/// The shortest time between two looks for keys that other servers made.
const READ_AGAIN: Duration = Duration::from_secs(1);
/// How old our view of the keys gets: so long another server may go on signing with a key that was replaced, and so
/// long a key that retired is still taken.
const VIEW_LIVES: Duration = Duration::from_secs(60);
/// What a replaced key stays for after its last tokens have expired: clocks differ.
const MARGIN_SECONDS: u64 = 300;

#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    #[error("cannot read or keep the signing keys")]
    Keep(#[from] CatalogError),
    #[error("cannot use a signing key")]
    Key(#[from] KeyError),
}

pub struct Tokens {
    auth: Arc<dyn AuthStore>,
    known: RwLock<Arc<Known>>,
    /// When the keys were last read again; one at a time.
    read: tokio::sync::Mutex<Option<Instant>>,
}

struct Known {
    /// Newest first; that one signs.
    keys: Vec<SigningKey>,
    verifier: TokenVerifier,
    read_at: Instant,
}

impl Tokens {
    pub async fn load(auth: Arc<dyn AuthStore>, now: Timestamp) -> Result<Tokens, TokensError> {
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
        Ok(Tokens {
            auth,
            known: RwLock::new(Arc::new(Known::of(stored)?)),
            read: tokio::sync::Mutex::default(),
        })
    }

    pub async fn mint(&self, token: &NewToken<'_>) -> Result<String, KeyError> {
        let known = self.current().await;
        known.keys.first().ok_or(KeyError::Read)?.mint(token)
    }

    /// Makes a key that signs from now on. Tokens of the others are good until they expire, and then so are their keys.
    pub async fn rotate(&self, now: Timestamp) -> Result<String, TokensError> {
        let name = Uuid::new_v4().to_string();
        let id = name.clone();
        let made = tokio::task::spawn_blocking(move || SigningKey::generate(id)).await;
        let key = made.map_err(|_| KeyError::Generate)??;
        let stored = StoredKey {
            kid: name.clone(),
            private_pem: key.pem().to_string(),
            made_at: now,
            retires_at: now + (RETIRES_DAYS * 24).hours(),
        };
        let longest = LIFETIME_SECONDS + VIEW_LIVES.as_secs() + MARGIN_SECONDS;
        let longest = i64::try_from(longest).unwrap_or(i64::MAX).seconds();
        self.auth.rotate_signing_key(stored, now + longest).await?;
        self.take(self.auth.signing_keys().await?)?;
        Ok(name)
    }

    /// The keys as they are stored, without what is secret of them: name, when made, when gone.
    pub async fn list(&self) -> Result<Vec<(String, Timestamp, Timestamp)>, TokensError> {
        let stored = self.auth.signing_keys().await?;
        let shown = stored
            .into_iter()
            .map(|key| (key.kid, key.made_at, key.retires_at));
        Ok(shown.collect())
    }

    /// A token of a key that another server on the same database made since we looked is found by looking again.
    pub async fn verify(
        &self,
        token: &str,
        now: u64,
        audience_ok: impl Fn(&str) -> bool + Sync,
        issuer_ok: impl Fn(TenantId, &str) -> bool + Sync,
    ) -> Result<Identity, TokenError> {
        let known = self.current().await;
        let found = known.verifier.verify(token, now, &audience_ok, &issuer_ok);
        if !matches!(found, Err(TokenError::UnknownKey)) || !self.read_again(&known).await {
            return found;
        }
        let known = self.known();
        known.verifier.verify(token, now, audience_ok, issuer_ok)
    }

    fn known(&self) -> Arc<Known> {
        Arc::clone(&self.known.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The keys as they were at most [`VIEW_LIVES`] ago.
    async fn current(&self) -> Arc<Known> {
        let known = self.known();
        if known.read_at.elapsed() >= VIEW_LIVES {
            self.read_again(&known).await;
            return self.known();
        }
        known
    }

    fn take(&self, stored: Vec<StoredKey>) -> Result<(), KeyError> {
        let known = Arc::new(Known::of(stored)?);
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = known;
        Ok(())
    }

    /// Whether there are other keys now than `seen`. Tokens of made-up keys make us look only so often.
    async fn read_again(&self, seen: &Arc<Known>) -> bool {
        let mut read = self.read.lock().await;
        if !Arc::ptr_eq(&self.known(), seen) {
            return true;
        }
        if read.is_some_and(|at| at.elapsed() < READ_AGAIN) {
            return false;
        }
        *read = Some(Instant::now());
        let stored = match self.auth.signing_keys().await {
            Ok(stored) => stored,
            Err(error) => {
                tracing::warn!(%error, "the signing keys could not be read again");
                return false;
            }
        };
        match self.take(stored) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%error, "a signing key that was made elsewhere cannot be used");
                false
            }
        }
    }

    /// The public halves, as a JWKS document.
    pub fn key_set(&self) -> Value {
        let keys: Vec<Value> = self
            .known()
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

impl Known {
    fn of(stored: Vec<StoredKey>) -> Result<Known, KeyError> {
        let keys = stored
            .into_iter()
            .map(|key| SigningKey::from_pem(key.kid, key.private_pem))
            .collect::<Result<Vec<_>, _>>()?;
        let verifier = TokenVerifier::new(&keys)?;
        Ok(Known {
            keys,
            verifier,
            read_at: Instant::now(),
        })
    }
}
