//! What a client presents in place of a secret (RFC 7523): a JWT that it signed with the key of a certificate, or a token
//! of an outside issuer.
//!
//! Decides from the bytes, the stored credential and the clock passed in. Where an issuer's keys come from, and whether
//! an assertion was used before, is the caller's to know.

use std::collections::BTreeSet;

use aws_lc_rs::digest::{self, SHA1_FOR_LEGACY_USE_ONLY, SHA256};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{AlgorithmParameters, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation};
use serde::Deserialize;
use wire::AppId;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;

/// `client_assertion_type` of every assertion.
pub const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// The audience of outside tokens, unless a federated credential names others.
pub const FEDERATION_AUDIENCE: &str = "api://AzureADTokenExchange";
/// A certificate's chain may travel in the header.
const ASSERTION_BYTES_MAX: usize = 32 * 1024;
const CERTIFICATE_BYTES_MAX: usize = 16 * 1024;
const CLOCK_SKEW_SECONDS: u64 = 300;
/// An assertion that is good for longer than this is refused: it is made for one request.
const LIFETIME_SECONDS_MAX: u64 = 24 * 3600;
const JTI_BYTES_MAX: usize = 256;
const RSA_BITS_MIN: usize = 2048;
const KEYS_MAX: usize = 64;

/// A client's certificate: its key and the thumbprints by which an assertion names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    der: Vec<u8>,
    subject: String,
    /// Seconds since the epoch.
    not_before: i64,
    not_after: i64,
    modulus: Vec<u8>,
    exponent: Vec<u8>,
}

/// Why a certificate is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    #[error("it is no X.509 certificate, in PEM or in base64")]
    Malformed,
    #[error("its key must be RSA, of {RSA_BITS_MIN} bits or more")]
    Key,
}

/// Why an assertion was refused. The text is for the log and, without any secret, for the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AssertionError {
    #[error("it is malformed")]
    Malformed,
    #[error("it is not signed with an algorithm that is allowed")]
    Algorithm,
    #[error("it names no certificate or key that is registered")]
    UnknownKey,
    #[error("the certificate has expired or is not valid yet")]
    CertificateTime,
    #[error("its signature is wrong")]
    Signature,
    #[error("it has expired")]
    Expired,
    #[error("it is not valid yet, or for too long")]
    Time,
    #[error("it is for another audience")]
    Audience,
    #[error("its issuer and subject are not the ones that are expected")]
    Subject,
    #[error("it has no id of its own (jti)")]
    NoId,
}

/// What an assertion says of itself before anything is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peek {
    pub issuer: String,
    pub subject: String,
}

/// A client's own assertion that was found right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    pub jti: String,
    /// Seconds since the epoch; after that nobody can use it again.
    pub expires: u64,
}

/// Which tokens of an outside issuer an application takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Federation<'a> {
    pub issuer: &'a str,
    pub subject: &'a str,
    pub audiences: &'a [String],
}

/// An issuer's public keys.
#[derive(Debug, Clone)]
pub struct TokenKeys(JwkSet);

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Audience,
    exp: f64,
    #[serde(default)]
    nbf: Option<f64>,
    #[serde(default)]
    jti: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(BTreeSet<String>),
}

impl Certificate {
    /// From PEM (the first certificate of the text) or base64 of the DER.
    pub fn parse(text: &str) -> Result<Certificate, CertificateError> {
        if text.len() > CERTIFICATE_BYTES_MAX {
            return Err(CertificateError::Malformed);
        }
        let body = match text.split_once("-----BEGIN CERTIFICATE-----") {
            Some((_, rest)) => rest.split("-----END").next().unwrap_or_default(),
            None => text,
        };
        let body: String = body.split_ascii_whitespace().collect();
        let der = STANDARD
            .decode(body)
            .map_err(|_| CertificateError::Malformed)?;
        Certificate::from_der(der)
    }

    fn from_der(der: Vec<u8>) -> Result<Certificate, CertificateError> {
        let (rest, parsed) =
            X509Certificate::from_der(&der).map_err(|_| CertificateError::Malformed)?;
        if !rest.is_empty() {
            return Err(CertificateError::Malformed);
        }
        let Ok(PublicKey::RSA(key)) = parsed.public_key().parsed() else {
            return Err(CertificateError::Key);
        };
        let modulus: Vec<u8> = key
            .modulus
            .iter()
            .copied()
            .skip_while(|b| *b == 0)
            .collect();
        if modulus.len() * 8 < RSA_BITS_MIN {
            return Err(CertificateError::Key);
        }
        Ok(Certificate {
            subject: parsed.subject().to_string(),
            not_before: parsed.validity().not_before.timestamp(),
            not_after: parsed.validity().not_after.timestamp(),
            modulus,
            exponent: key.exponent.to_vec(),
            der,
        })
    }

    /// Base64 of the DER, which [`Certificate::parse`] reads again.
    pub fn to_text(&self) -> String {
        STANDARD.encode(&self.der)
    }

    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Seconds since the epoch.
    pub fn not_before(&self) -> i64 {
        self.not_before
    }

    /// Seconds since the epoch.
    pub fn not_after(&self) -> i64 {
        self.not_after
    }

    /// SHA-1, base64url without padding, as `x5t` has it. A name, not a proof.
    pub fn x5t(&self) -> String {
        URL_SAFE_NO_PAD.encode(digest::digest(&SHA1_FOR_LEGACY_USE_ONLY, &self.der))
    }

    /// SHA-256, as `x5t#S256` has it.
    pub fn x5t_s256(&self) -> String {
        URL_SAFE_NO_PAD.encode(digest::digest(&SHA256, &self.der))
    }

    /// SHA-1 in upper-case hexadecimal, as tools show it to people.
    pub fn thumbprint(&self) -> String {
        let digest = digest::digest(&SHA1_FOR_LEGACY_USE_ONLY, &self.der);
        let digits = digest.as_ref().iter();
        digits.map(|byte| format!("{byte:02X}")).collect()
    }

    fn is_named_by(&self, header: &Header) -> bool {
        let same = |given: &Option<String>, own: String| {
            given
                .as_deref()
                .is_some_and(|given| given.trim_end_matches('=') == own)
        };
        // The stronger name decides where both are given.
        match &header.x5t_s256 {
            Some(_) => same(&header.x5t_s256, self.x5t_s256()),
            None => same(&header.x5t, self.x5t()),
        }
    }
}

impl TokenKeys {
    /// From a JWKS document. Only public keys for signatures count; `None` where there are none.
    pub fn parse(document: &[u8]) -> Option<TokenKeys> {
        // One key of a kind that is not known must not make the others useless.
        let document: serde_json::Value = serde_json::from_slice(document).ok()?;
        let listed = document.get("keys")?.as_array()?;
        let keys = listed
            .iter()
            .take(KEYS_MAX)
            .filter_map(|key| serde_json::from_value::<jsonwebtoken::jwk::Jwk>(key.clone()).ok())
            .filter(|key| !matches!(key.algorithm, AlgorithmParameters::OctetKey(_)));
        let set = JwkSet {
            keys: keys.collect(),
        };
        (!set.keys.is_empty()).then_some(TokenKeys(set))
    }

    /// Whether the key that a token names is among them.
    pub fn has_key_of(&self, token: &str) -> bool {
        let header = jsonwebtoken::decode_header(token).ok();
        let Some(kid) = header.and_then(|header| header.kid) else {
            return true;
        };
        self.0.find(&kid).is_some()
    }
}

/// Who an assertion says that it is from, unproved. For finding the credential to check it with.
pub fn peek(assertion: &str) -> Result<Peek, AssertionError> {
    if assertion.len() > ASSERTION_BYTES_MAX {
        return Err(AssertionError::Malformed);
    }
    let claims = jsonwebtoken::dangerous::insecure_decode::<Claims>(assertion)
        .map_err(|_| AssertionError::Malformed)?
        .claims;
    Ok(Peek {
        issuer: claims.iss,
        subject: claims.sub,
    })
}

/// Checks an assertion that a client signed itself: with a certificate of its own, about itself, for this endpoint, now.
pub fn verify_signed(
    assertion: &str,
    certificates: &[Certificate],
    client: AppId,
    now: u64,
    audience_ok: impl Fn(&str) -> bool,
) -> Result<Signed, AssertionError> {
    if assertion.len() > ASSERTION_BYTES_MAX {
        return Err(AssertionError::Malformed);
    }
    let header = jsonwebtoken::decode_header(assertion).map_err(|_| AssertionError::Algorithm)?;
    if !matches!(header.alg, Algorithm::RS256 | Algorithm::PS256) {
        return Err(AssertionError::Algorithm);
    }
    let certificate = certificates
        .iter()
        .find(|certificate| certificate.is_named_by(&header))
        .ok_or(AssertionError::UnknownKey)?;
    let seconds = i64::try_from(now).unwrap_or(i64::MAX);
    if seconds < certificate.not_before || seconds > certificate.not_after {
        return Err(AssertionError::CertificateTime);
    }
    let key = DecodingKey::from_rsa_raw_components(&certificate.modulus, &certificate.exponent);
    let claims = decode(assertion, &key, header.alg)?;
    check_time(&claims, now)?;
    let client = client.to_string();
    if !claims.iss.eq_ignore_ascii_case(&client) || !claims.sub.eq_ignore_ascii_case(&client) {
        return Err(AssertionError::Subject);
    }
    let audience = match &claims.aud {
        Audience::One(one) => audience_ok(one),
        Audience::Many(many) => many.len() == 1 && many.iter().all(|one| audience_ok(one)),
    };
    if !audience {
        return Err(AssertionError::Audience);
    }
    let jti = claims
        .jti
        .filter(|jti| (1..=JTI_BYTES_MAX).contains(&jti.len()));
    Ok(Signed {
        jti: jti.ok_or(AssertionError::NoId)?,
        expires: claims.exp as u64 + CLOCK_SKEW_SECONDS,
    })
}

/// Checks a token of an outside issuer against the keys of that issuer.
pub fn verify_federated(
    token: &str,
    keys: &TokenKeys,
    federation: &Federation<'_>,
    now: u64,
) -> Result<(), AssertionError> {
    if token.len() > ASSERTION_BYTES_MAX {
        return Err(AssertionError::Malformed);
    }
    let header = jsonwebtoken::decode_header(token).map_err(|_| AssertionError::Algorithm)?;
    let symmetric = [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
    if symmetric.contains(&header.alg) {
        return Err(AssertionError::Algorithm);
    }
    let named = |kid: &Option<String>| header.kid.is_none() || *kid == header.kid;
    let candidates = keys.0.keys.iter().filter(|key| named(&key.common.key_id));
    let mut outcome = Err(AssertionError::UnknownKey);
    for candidate in candidates {
        let Ok(key) = DecodingKey::from_jwk(candidate) else {
            continue;
        };
        outcome = decode(token, &key, header.alg);
        if outcome.is_ok() {
            break;
        }
    }
    let claims = outcome?;
    check_time(&claims, now)?;
    if claims.iss != federation.issuer || claims.sub != federation.subject {
        return Err(AssertionError::Subject);
    }
    let wanted = |audience: &String| federation.audiences.contains(audience);
    let audience = match &claims.aud {
        Audience::One(one) => wanted(one),
        Audience::Many(many) => many.iter().any(wanted),
    };
    if !audience {
        return Err(AssertionError::Audience);
    }
    Ok(())
}

/// The claims, if the signature is right. Everything else is checked by the callers, against the clock passed in.
fn decode(token: &str, key: &DecodingKey, algorithm: Algorithm) -> Result<Claims, AssertionError> {
    let mut validation = Validation::new(algorithm);
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    let decoded = jsonwebtoken::decode::<Claims>(token, key, &validation);
    decoded
        .map(|decoded| decoded.claims)
        .map_err(|error| match error.kind() {
            ErrorKind::InvalidSignature => AssertionError::Signature,
            ErrorKind::InvalidAlgorithm => AssertionError::Algorithm,
            _ => AssertionError::Malformed,
        })
}

fn check_time(claims: &Claims, now: u64) -> Result<(), AssertionError> {
    let seconds = |number: f64| {
        let fit = (0.0..1e12).contains(&number);
        fit.then_some(number as u64)
            .ok_or(AssertionError::Malformed)
    };
    let ends = seconds(claims.exp)?;
    if now >= ends.saturating_add(CLOCK_SKEW_SECONDS) {
        return Err(AssertionError::Expired);
    }
    let begins = claims.nbf.map(seconds).transpose()?.unwrap_or(0);
    let too_early = now.saturating_add(CLOCK_SKEW_SECONDS) < begins;
    if too_early || ends > now.saturating_add(LIFETIME_SECONDS_MAX) {
        return Err(AssertionError::Time);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::EncodingKey;
    use serde_json::{Value, json};

    use super::*;
    use crate::SigningKey;

    const NOW: u64 = 1_800_000_000;
    const ENDPOINT: &str = "https://localhost/tenant/oauth2/v2.0/token";

    /// A certificate whose key signs, and the key in PEM.
    fn certificate() -> (Certificate, String) {
        let key = SigningKey::generate("k").unwrap().pem().to_string();
        let pair = rcgen::KeyPair::from_pem(&key).unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["client".to_string()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2029, 1, 1);
        let made = params.self_signed(&pair).unwrap();
        (Certificate::parse(&made.pem()).unwrap(), key)
    }

    fn claims(client: AppId) -> Value {
        json!({
            "iss": client, "sub": client, "aud": ENDPOINT, "jti": "1", "nbf": NOW, "exp": NOW + 600,
        })
    }

    fn sign(header: &Header, claims: &Value, key: &str) -> String {
        let key = EncodingKey::from_rsa_pem(key.as_bytes()).unwrap();
        jsonwebtoken::encode(header, claims, &key).unwrap()
    }

    fn with(mut claims: Value, name: &str, value: Value) -> Value {
        match value.is_null() {
            true => drop(claims.as_object_mut().unwrap().remove(name)),
            false => claims[name] = value,
        }
        claims
    }

    #[test]
    fn a_client_proves_itself_with_its_certificate() {
        use AssertionError as E;
        let (certificate, key) = certificate();
        let (_, other_key) = self::certificate();
        let client = AppId::random();
        let header = |algorithm, s256: bool| Header {
            x5t: (!s256).then(|| certificate.x5t() + "="),
            x5t_s256: s256.then(|| certificate.x5t_s256()),
            ..Header::new(algorithm)
        };
        let rs256 = header(Algorithm::RS256, false);
        let known = [certificate.clone()];
        let check = |assertion: &str, expected: Option<E>| {
            let seen = verify_signed(assertion, &known, client, NOW, |aud| aud == ENDPOINT);
            assert_eq!(seen.err(), expected, "{assertion}");
        };
        check(&sign(&rs256, &claims(client), &key), None);
        check(
            &sign(&header(Algorithm::PS256, true), &claims(client), &key),
            None,
        );
        check(
            &sign(&rs256, &claims(client), &other_key),
            Some(E::Signature),
        );
        check(
            &sign(&header(Algorithm::RS512, true), &claims(client), &key),
            Some(E::Algorithm),
        );
        check(
            &sign(&Header::new(Algorithm::RS256), &claims(client), &key),
            Some(E::UnknownKey),
        );
        for (name, value, expected) in [
            (
                "aud",
                json!("https://localhost/other/oauth2/v2.0/token"),
                E::Audience,
            ),
            ("aud", json!([ENDPOINT, "https://elsewhere"]), E::Audience),
            ("iss", json!(AppId::random()), E::Subject),
            ("sub", json!(AppId::random()), E::Subject),
            ("exp", json!(NOW - 600), E::Expired),
            ("exp", json!(NOW + 90_000), E::Time),
            ("exp", json!(-1.0), E::Malformed),
            ("exp", json!("soon"), E::Malformed),
            ("exp", Value::Null, E::Malformed),
            ("nbf", json!(NOW + 600), E::Time),
            ("jti", Value::Null, E::NoId),
            ("jti", json!("x".repeat(300)), E::NoId),
        ] {
            let assertion = sign(&rs256, &with(claims(client), name, value), &key);
            check(&assertion, Some(expected));
        }
        let late = verify_signed(
            &sign(&rs256, &with(claims(client), "exp", json!(NOW * 2)), &key),
            &known,
            client,
            NOW * 2 - 10,
            |_| true,
        );
        assert_eq!(late.err(), Some(E::CertificateTime));
        // The classic forgeries: no algorithm, and the public key as a shared secret.
        let good = sign(&rs256, &claims(client), &key);
        let parts: Vec<&str> = good.split('.').collect();
        let none =
            URL_SAFE_NO_PAD.encode(json!({ "alg": "none", "x5t": certificate.x5t() }).to_string());
        check(&format!("{none}.{}.", parts[1]), Some(E::Algorithm));
        let shared = EncodingKey::from_secret(certificate.to_text().as_bytes());
        let hs256 = header(Algorithm::HS256, false);
        let forged = jsonwebtoken::encode(&hs256, &claims(client), &shared).unwrap();
        check(&forged, Some(E::Algorithm));
        check("", Some(E::Algorithm));
        check(&"a.".repeat(20_000), Some(E::Malformed));
    }

    #[test]
    fn certificates_are_read_and_named() {
        let (certificate, _) = certificate();
        assert_eq!(
            Certificate::parse(&certificate.to_text()).unwrap(),
            certificate
        );
        assert_eq!(certificate.thumbprint().len(), 40);
        assert!(certificate.not_after() > certificate.not_before());
        for text in [
            "",
            "AAAA",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----",
        ] {
            assert_eq!(Certificate::parse(text), Err(CertificateError::Malformed));
        }
        let small = rcgen::generate_simple_self_signed(vec!["x".to_string()]).unwrap();
        assert_eq!(
            Certificate::parse(&small.cert.pem()),
            Err(CertificateError::Key)
        );
    }

    #[test]
    fn an_outside_token_must_be_exactly_the_expected_one() {
        use AssertionError as E;
        let key = SigningKey::generate("outside").unwrap();
        let crate::VerifyingKey {
            modulus, exponent, ..
        } = key.public();
        let jwk = |kid: &str| json!({ "kty": "RSA", "use": "sig", "kid": kid, "n": modulus, "e": exponent });
        let document = json!({ "keys": [{ "kty": "oct", "k": "AAAA", "kid": "outside" }, { "kty": "new" }, jwk("outside")] });
        let keys = TokenKeys::parse(document.to_string().as_bytes()).unwrap();
        let audiences = [FEDERATION_AUDIENCE.to_string()];
        let federation = Federation {
            issuer: "https://issuer.example",
            subject: "repo:a/b:ref:refs/heads/main",
            audiences: &audiences,
        };
        let good = json!({
            "iss": federation.issuer, "sub": federation.subject,
            "aud": [FEDERATION_AUDIENCE, "x"], "exp": NOW + 300, "iat": NOW,
        });
        let header = |algorithm| Header {
            kid: Some("outside".into()),
            ..Header::new(algorithm)
        };
        let check = |token: &str, expected: Option<E>| {
            assert_eq!(
                verify_federated(token, &keys, &federation, NOW).err(),
                expected
            );
        };
        let token = |claims: &Value| sign(&header(Algorithm::RS256), claims, key.pem());
        check(&token(&good), None);
        check(
            &token(&with(good.clone(), "iss", json!("https://issuer.example/"))),
            Some(E::Subject),
        );
        check(
            &token(&with(
                good.clone(),
                "sub",
                json!("repo:a/b:ref:refs/heads/other"),
            )),
            Some(E::Subject),
        );
        check(
            &token(&with(good.clone(), "aud", json!("x"))),
            Some(E::Audience),
        );
        check(
            &token(&with(good.clone(), "exp", json!(NOW - 301))),
            Some(E::Expired),
        );
        let other = SigningKey::generate("outside").unwrap();
        check(
            &sign(&header(Algorithm::RS256), &good, other.pem()),
            Some(E::Signature),
        );
        let unknown = Header {
            kid: Some("k2".into()),
            ..Header::new(Algorithm::RS256)
        };
        check(&sign(&unknown, &good, key.pem()), Some(E::UnknownKey));
        assert!(!keys.has_key_of(&sign(&unknown, &good, key.pem())));
        assert!(keys.has_key_of(&token(&good)));
        let shared = EncodingKey::from_secret(&[0, 0, 0]);
        let forged = jsonwebtoken::encode(&header(Algorithm::HS256), &good, &shared).unwrap();
        check(&forged, Some(E::Algorithm));
        assert_eq!(peek(&token(&good)).unwrap().issuer, federation.issuer);
        assert_eq!(peek("a.b.c"), Err(E::Malformed));
        for document in [
            "",
            "{}",
            r#"{"keys":[]}"#,
            r#"{"keys":[{"kty":"oct","k":"AAAA"}]}"#,
        ] {
            assert!(
                TokenKeys::parse(document.as_bytes()).is_none(),
                "{document}"
            );
        }
    }
}
