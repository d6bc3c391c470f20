//! The installation's signing keys: made at the first start, replaced with age, kept until no token of
//! theirs can still be valid.
//!
//! In the database lie their public halves and, sealed with a key of this server's data folder, their private ones. Another
//! server on the same database checks tokens by the public halves and signs with a key of its own.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use access::{
    Identity, KeyError, LIFETIME_SECONDS, NewToken, SigningKey, TokenError, TokenVerifier,
    VerifyingKey,
};
use catalog::{AuthStore, CatalogError, StoredKey};
use jiff::{Timestamp, ToSpan as _};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use store::KeyFile;
use store::keys::{SealedTextError, open_text, seal_text};
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
    #[error("cannot seal a signing key")]
    Seal(#[from] SealedTextError),
}

/// A key as it is kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    public: VerifyingKey,
    /// The private half.
    sealed: String,
}

/// What the sealed text is about, so that no key is taken for another.
fn about(kid: &str) -> String {
    format!("signing key {kid}")
}

fn sealed(seal: &KeyFile, key: &SigningKey) -> Result<String, TokensError> {
    let kept = Kept {
        public: key.public().clone(),
        sealed: seal_text(seal, &about(key.id()), key.pem())?,
    };
    // Three texts; there is nothing in them that JSON cannot hold.
    Ok(serde_json::to_string(&kept).unwrap_or_default())
}

/// A key as it was kept, with its private half if this server can open that.
fn opened(seal: &KeyFile, stored: StoredKey) -> Result<Opened, KeyError> {
    let StoredKey {
        kid, private_pem, ..
    } = stored;
    let Ok(kept) = serde_json::from_str::<Kept>(&private_pem) else {
        // As versions before wrote it.
        let key = SigningKey::from_pem(kid, private_pem)?;
        return Ok((key.public().clone(), Some(key)));
    };
    let key = match open_text(seal, &about(&kid), &kept.sealed) {
        Ok(pem) => Some(SigningKey::from_pem(kid.clone(), pem)?),
        Err(error) => {
            tracing::debug!(kid, %error, "a signing key is another server's");
            None
        }
    };
    let public = VerifyingKey {
        id: kid,
        ..kept.public
    };
    Ok((public, key))
}

type Opened = (VerifyingKey, Option<SigningKey>);

pub struct Tokens {
    auth: Arc<dyn AuthStore>,
    /// What private halves are sealed with.
    seal: Arc<KeyFile>,
    known: RwLock<Arc<Known>>,
    /// When the keys were last read again; one at a time.
    read: tokio::sync::Mutex<Option<Instant>>,
}

struct Known {
    /// Newest first.
    keys: Vec<VerifyingKey>,
    /// The newest that this server can sign with.
    signer: Option<SigningKey>,
    verifier: TokenVerifier,
    read_at: Instant,
}

impl Tokens {
    pub async fn load(
        auth: Arc<dyn AuthStore>,
        seal: Arc<KeyFile>,
        now: Timestamp,
    ) -> Result<Tokens, TokensError> {
        let days = |count: i64| (count * 24).hours();
        let mut stored = auth.signing_keys().await?;
        for key in &mut stored {
            if serde_json::from_str::<Kept>(&key.private_pem).is_err() {
                // As versions before wrote it: in the open.
                let plain = SigningKey::from_pem(key.kid.clone(), key.private_pem.clone())?;
                let new = sealed(&seal, &plain)?;
                auth.reseal_signing_key(&key.kid, &key.private_pem, &new)
                    .await?;
                key.private_pem = new;
            }
        }
        let mut fresh = false;
        for key in &stored {
            let signs = key.made_at + days(SIGNS_DAYS) > now;
            fresh |= signs && opened(&seal, key.clone())?.1.is_some();
        }
        if !fresh {
            let key = SigningKey::generate(Uuid::new_v4().to_string())?;
            let made = StoredKey {
                kid: key.id().to_string(),
                private_pem: sealed(&seal, &key)?,
                made_at: now,
                retires_at: now + days(RETIRES_DAYS),
            };
            auth.add_signing_key(made.clone()).await?;
            stored.insert(0, made);
        }
        Ok(Tokens {
            auth,
            known: RwLock::new(Arc::new(Known::of(&seal, stored)?)),
            seal,
            read: tokio::sync::Mutex::default(),
        })
    }

    /// What secrets in the catalog are sealed with.
    pub fn seal(&self) -> Arc<KeyFile> {
        Arc::clone(&self.seal)
    }

    pub async fn mint(&self, token: &NewToken<'_>) -> Result<String, KeyError> {
        let known = self.current().await;
        known.signer.as_ref().ok_or(KeyError::Read)?.mint(token)
    }

    /// Makes a key that signs from now on. Tokens of the others are good until they expire, and then so are their keys.
    pub async fn rotate(&self, now: Timestamp) -> Result<String, TokensError> {
        let name = Uuid::new_v4().to_string();
        let id = name.clone();
        let made = tokio::task::spawn_blocking(move || SigningKey::generate(id)).await;
        let key = made.map_err(|_| KeyError::Generate)??;
        let stored = StoredKey {
            kid: name.clone(),
            private_pem: sealed(&self.seal, &key)?,
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
        let known = Arc::new(Known::of(&self.seal, stored)?);
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
                json!({
                    "kty": "RSA",
                    "use": "sig",
                    "alg": "RS256",
                    "kid": key.id,
                    "n": key.modulus,
                    "e": key.exponent,
                })
            })
            .collect();
        json!({ "keys": keys })
    }
}

impl Known {
    fn of(seal: &KeyFile, stored: Vec<StoredKey>) -> Result<Known, KeyError> {
        let (mut keys, mut signer) = (Vec::new(), None);
        for key in stored {
            let (public, own) = opened(seal, key)?;
            keys.push(public);
            signer = signer.or(own);
        }
        let verifier = TokenVerifier::new(&keys)?;
        Ok(Known {
            keys,
            signer,
            verifier,
            read_at: Instant::now(),
        })
    }
}
