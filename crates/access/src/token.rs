//! Access tokens: RS256 JWTs with the claims that Entra's have, signed and checked here.
//!
//! The clock is passed in as seconds since the epoch. A token is accepted only for an audience, a tenant and
//! a key that this installation knows; which those are is the caller's to say.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::digest::{self, SHA256, SHA256_OUTPUT_LEN};
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::KeyPair as _;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use wire::{AppId, PrincipalId, TenantId};

use crate::Identity;

/// `az` asks for a new token at every command when less than five minutes are left of it.
pub const LIFETIME_SECONDS: u64 = 3600;
const CLOCK_SKEW_SECONDS: u64 = 60;
const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// One key pair; several are valid while keys rotate.
pub struct SigningKey {
    public: VerifyingKey,
    pem: SecretString,
    encoding: EncodingKey,
}

/// The half of a signing key that everybody may know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyingKey {
    pub id: String,
    /// Both as in a JWKS document, base64url.
    pub modulus: String,
    pub exponent: String,
}

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("making an RSA key failed")]
    Generate,
    #[error("the stored signing key cannot be read")]
    Read,
}

/// Why a token was refused. The text is for the log; callers answer one text for all of them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("the token is malformed")]
    Malformed,
    #[error("the token is signed by an unknown key or not with RS256")]
    UnknownKey,
    #[error("the token's signature is wrong")]
    BadSignature,
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet")]
    NotYetValid,
    #[error("the token is for another audience")]
    WrongAudience,
    #[error("the token is of another issuer")]
    WrongIssuer,
}

/// What clients read from a token: `oid` by Packer, `tid` by the SDKs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    pub aud: String,
    pub iss: String,
    pub iat: u64,
    pub nbf: u64,
    pub exp: u64,
    pub tid: TenantId,
    pub oid: PrincipalId,
    pub sub: PrincipalId,
    /// v1 tokens name the client here, v2 tokens in `azp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub appid: Option<AppId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub azp: Option<AppId>,
    pub idtyp: String,
    /// Of people: the sign-in name, and that the client acts for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upn: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unique_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scp: Option<String>,
    /// Of managed identities: the resource that one belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xms_mirid: Option<String>,
    pub ver: String,
    /// Makes two tokens of one second differ.
    pub uti: String,
}

/// What to mint.
#[derive(Debug, Clone)]
pub struct NewToken<'a> {
    pub identity: Identity,
    pub audience: &'a str,
    pub issuer: &'a str,
    pub v2: bool,
    pub now: u64,
    pub bearer: Bearer<'a>,
}

/// Who a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bearer<'a> {
    Application,
    /// By sign-in name.
    User(&'a str),
    /// The identity of a resource, by the resource's id.
    Resource(&'a str),
}

impl SigningKey {
    pub fn generate(id: impl Into<String>) -> Result<Self, KeyError> {
        let pair = KeyPair::generate(KeySize::Rsa2048).map_err(|_| KeyError::Generate)?;
        let der = pair.as_der().map_err(|_| KeyError::Generate)?;
        let mut pem = String::from("-----BEGIN PRIVATE KEY-----\n");
        for line in STANDARD.encode(der.as_ref()).as_bytes().chunks(64) {
            pem.push_str(&String::from_utf8_lossy(line));
            pem.push('\n');
        }
        pem.push_str("-----END PRIVATE KEY-----\n");
        Self::from_pem(id, pem)
    }

    /// From what [`SigningKey::pem`] gave.
    pub fn from_pem(id: impl Into<String>, pem: String) -> Result<Self, KeyError> {
        let body: String = pem
            .lines()
            .filter(|line| !line.starts_with("-----"))
            .collect();
        let der = STANDARD.decode(body).map_err(|_| KeyError::Read)?;
        let pair = KeyPair::from_pkcs8(&der).map_err(|_| KeyError::Read)?;
        let public = pair.public_key();
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        Ok(Self {
            encoding: EncodingKey::from_rsa_pem(pem.as_bytes()).map_err(|_| KeyError::Read)?,
            public: VerifyingKey {
                id: id.into(),
                modulus: encode(public.modulus().big_endian_without_leading_zero()),
                exponent: encode(public.exponent().big_endian_without_leading_zero()),
            },
            pem: pem.into(),
        })
    }

    pub fn id(&self) -> &str {
        &self.public.id
    }

    /// The private key, to be stored.
    pub fn pem(&self) -> &str {
        self.pem.expose_secret()
    }

    pub fn public(&self) -> &VerifyingKey {
        &self.public
    }

    pub fn mint(&self, token: &NewToken<'_>) -> Result<String, KeyError> {
        let NewToken {
            identity,
            audience,
            issuer,
            v2,
            now,
            bearer,
        } = token;
        let (user, resource) = match *bearer {
            Bearer::Application => (None, None),
            Bearer::User(name) => (Some(name.to_owned()), None),
            Bearer::Resource(id) => (None, Some(id.to_owned())),
        };
        let mut random = [0u8; 16];
        aws_lc_rs::rand::fill(&mut random).map_err(|_| KeyError::Generate)?;
        let claims = Claims {
            aud: (*audience).into(),
            iss: (*issuer).into(),
            iat: *now,
            nbf: *now,
            exp: now + LIFETIME_SECONDS,
            tid: identity.tenant,
            oid: identity.principal,
            sub: identity.principal,
            appid: (!v2).then_some(identity.app),
            azp: v2.then_some(identity.app),
            idtyp: if user.is_some() { "user" } else { "app" }.into(),
            scp: user.is_some().then(|| "user_impersonation".into()),
            unique_name: user.clone(),
            upn: user,
            xms_mirid: resource,
            ver: if *v2 { "2.0" } else { "1.0" }.into(),
            uti: URL_SAFE_NO_PAD.encode(random),
        };
        let header = Header {
            kid: Some(self.public.id.clone()),
            ..Header::new(Algorithm::RS256)
        };
        jsonwebtoken::encode(&header, &claims, &self.encoding).map_err(|_| KeyError::Generate)
    }
}

/// Tokens whose signature is remembered to be good; past this all are forgotten, and checked again as they come.
const REMEMBERED_MAX: usize = 10_000;

/// Checks tokens against the installation's keys. A signature is checked once; everything else about a token each time.
pub struct TokenVerifier {
    keys: Vec<(String, DecodingKey)>,
    /// By SHA-256 of the whole token. Only what was signed by one of the keys gets in, so strangers cannot fill it.
    remembered: Mutex<HashMap<[u8; SHA256_OUTPUT_LEN], Arc<Claims>>>,
}

impl TokenVerifier {
    pub fn new<'a>(keys: impl IntoIterator<Item = &'a VerifyingKey>) -> Result<Self, KeyError> {
        let decode = |key: &VerifyingKey| {
            let decoding = DecodingKey::from_rsa_components(&key.modulus, &key.exponent);
            decoding
                .map(|decoding| (key.id.clone(), decoding))
                .map_err(|_| KeyError::Read)
        };
        Ok(Self {
            keys: keys.into_iter().map(decode).collect::<Result<_, _>>()?,
            remembered: Mutex::default(),
        })
    }

    /// The identity behind a token, if everything about it is right at `now`. `issuer_of` says who must have
    /// issued a token of a tenant; both issuers of a tenant (v1, v2) may be valid.
    pub fn verify(
        &self,
        token: &str,
        now: u64,
        audience_ok: impl Fn(&str) -> bool,
        issuer_ok: impl Fn(TenantId, &str) -> bool,
    ) -> Result<Identity, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::Malformed);
        }
        let claims = self.signed(token)?;
        check_claims(&claims, now, audience_ok, issuer_ok)?;
        let app = claims.appid.or(claims.azp).ok_or(TokenError::Malformed)?;
        Ok(Identity {
            tenant: claims.tid,
            principal: claims.oid,
            app,
        })
    }

    /// What a token says, if one of the keys signed it.
    fn signed(&self, token: &str) -> Result<Arc<Claims>, TokenError> {
        let mut digest = [0; SHA256_OUTPUT_LEN];
        digest.copy_from_slice(digest::digest(&SHA256, token.as_bytes()).as_ref());
        let remembered = || {
            self.remembered
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        if let Some(claims) = remembered().get(&digest) {
            return Ok(Arc::clone(claims));
        }
        let claims = Arc::new(self.check_signature(token)?);
        let mut remembered = remembered();
        if remembered.len() >= REMEMBERED_MAX {
            remembered.clear();
        }
        remembered.insert(digest, Arc::clone(&claims));
        Ok(claims)
    }

    fn check_signature(&self, token: &str) -> Result<Claims, TokenError> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Malformed)?;
        let kid = header.kid.ok_or(TokenError::UnknownKey)?;
        let key = self.keys.iter().find(|(id, _)| *id == kid);
        let (_, key) = key
            .filter(|_| header.alg == Algorithm::RS256)
            .ok_or(TokenError::UnknownKey)?;
        // Times and audience are checked below, against the clock and rule passed in.
        let mut validation = Validation::new(Algorithm::RS256);
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        let decoded = jsonwebtoken::decode::<Claims>(token, key, &validation);
        decoded
            .map(|decoded| decoded.claims)
            .map_err(|error| match error.kind() {
                jsonwebtoken::errors::ErrorKind::InvalidSignature => TokenError::BadSignature,
                _ => TokenError::Malformed,
            })
    }
}

fn check_claims(
    claims: &Claims,
    now: u64,
    audience_ok: impl Fn(&str) -> bool,
    issuer_ok: impl Fn(TenantId, &str) -> bool,
) -> Result<(), TokenError> {
    if now >= claims.exp.saturating_add(CLOCK_SKEW_SECONDS) {
        return Err(TokenError::Expired);
    }
    if now.saturating_add(CLOCK_SKEW_SECONDS) < claims.nbf {
        return Err(TokenError::NotYetValid);
    }
    if !audience_ok(&claims.aud) {
        return Err(TokenError::WrongAudience);
    }
    if !issuer_ok(claims.tid, &claims.iss) {
        return Err(TokenError::WrongIssuer);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn token(key: &SigningKey, now: u64) -> String {
        let identity = Identity {
            tenant: TenantId::random(),
            principal: PrincipalId::random(),
            app: AppId::random(),
        };
        key.mint(&NewToken {
            identity,
            audience: "aud",
            issuer: "iss",
            v2: true,
            now,
            bearer: Bearer::Application,
        })
        .unwrap()
    }

    fn check(
        verifier: &TokenVerifier,
        token: &str,
        audience: &str,
        issuer: &str,
        expected: Option<TokenError>,
    ) {
        let seen = verifier.verify(token, NOW, |aud| aud == audience, |_, iss| iss == issuer);
        assert_eq!(seen.err(), expected);
    }

    #[test]
    fn only_a_right_token_is_accepted() {
        let key = SigningKey::generate("k1").unwrap();
        let other = SigningKey::generate("k1").unwrap();
        let stored = SigningKey::from_pem("k1", key.pem().to_string()).unwrap();
        let verifier = TokenVerifier::new([stored.public()]).unwrap();
        let good = token(&key, NOW);
        check(&verifier, &good, "aud", "iss", None);
        // Seen before, and still held to everything but its signature.
        check(&verifier, &good, "aud", "iss", None);
        let later = verifier.verify(&good, NOW + 4000, |_| true, |_, _| true);
        assert_eq!(later.err(), Some(TokenError::Expired));
        let mut changed = good.clone();
        changed.pop();
        assert!(
            verifier
                .verify(&changed, NOW, |_| true, |_, _| true)
                .is_err()
        );
        check(
            &verifier,
            &good,
            "other",
            "iss",
            Some(TokenError::WrongAudience),
        );
        check(
            &verifier,
            &good,
            "aud",
            "other",
            Some(TokenError::WrongIssuer),
        );
        check(
            &verifier,
            &token(&key, NOW - 4000),
            "aud",
            "iss",
            Some(TokenError::Expired),
        );
        check(
            &verifier,
            &token(&key, NOW + 4000),
            "aud",
            "iss",
            Some(TokenError::NotYetValid),
        );
        check(
            &verifier,
            &token(&other, NOW),
            "aud",
            "iss",
            Some(TokenError::BadSignature),
        );
        check(
            &verifier,
            &token(&SigningKey::generate("k2").unwrap(), NOW),
            "aud",
            "iss",
            Some(TokenError::UnknownKey),
        );
        check(&verifier, "", "aud", "iss", Some(TokenError::Malformed));
        check(
            &verifier,
            &"a.".repeat(9000),
            "aud",
            "iss",
            Some(TokenError::Malformed),
        );
        // `alg: none`, and HS256 keyed with the public modulus: the classic forgeries.
        let parts: Vec<&str> = good.split('.').collect();
        for header in [
            r#"{"alg":"none","kid":"k1"}"#,
            r#"{"alg":"HS256","kid":"k1"}"#,
        ] {
            let forged = format!("{}.{}.", URL_SAFE_NO_PAD.encode(header), parts[1]);
            assert!(
                verifier
                    .verify(&forged, NOW, |_| true, |_, _| true)
                    .is_err(),
                "{header}"
            );
        }
    }
}
