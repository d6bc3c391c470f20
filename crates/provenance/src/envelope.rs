//! Signed statements: DSSE envelopes (<https://github.com/secure-systems-lab/dsse>, version 1.0.2) with Ed25519 keys.
//! A payload is read only after its signature was found right.

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Bytes of a payload that is still read.
const PAYLOAD_BYTES_MAX: usize = 64 << 20;
/// More is an attempt to keep a verifier busy.
const SIGNATURES_MAX: usize = 16;
/// DER before the 32 bytes of an Ed25519 public key (RFC 8410).
const SPKI_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// One signature of an envelope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    #[serde(default)]
    pub keyid: String,
    /// Base64.
    pub sig: String,
}

/// A payload, its type, and who signed both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Envelope {
    pub payload_type: String,
    /// Base64.
    pub payload: String,
    pub signatures: Vec<Signature>,
}

/// Why an envelope proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    #[error("the envelope has {count} signatures; the limit is {SIGNATURES_MAX}")]
    TooManySignatures { count: usize },
    #[error("the envelope's payload is over {PAYLOAD_BYTES_MAX} bytes")]
    TooLong,
    #[error("the envelope's {member} is not base64")]
    NotBase64 { member: &'static str },
    #[error("the envelope is of type `{found}`, not `{expected}`")]
    PayloadType { found: String, expected: String },
    #[error("the envelope is signed by none of the trusted keys")]
    NotSigned,
    #[error("the text is no Ed25519 public key in PEM")]
    BadKey,
}

/// A key that signs. It does not say itself when it is shown or debugged.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey({})", self.public.id())
    }
}

impl SigningKey {
    /// The key of a 32-byte seed, which must come from a cryptographic source and is as secret as the key.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).expect("any 32 bytes are a seed");
        let bytes = pair.public_key().as_ref();
        let public = PublicKey(bytes.try_into().expect("Ed25519 keys are 32 bytes"));
        SigningKey { pair, public }
    }

    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// `payload` in an envelope with this key's signature.
    pub fn seal(&self, payload_type: &str, payload: &[u8]) -> Envelope {
        let signature = self.pair.sign(&encoding(payload_type, payload));
        Envelope {
            payload_type: payload_type.to_owned(),
            payload: STANDARD.encode(payload),
            signatures: vec![Signature {
                keyid: self.public.id(),
                sig: STANDARD.encode(signature.as_ref()),
            }],
        }
    }
}

/// A key that verifies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// SHA-256 of the key's DER (SubjectPublicKeyInfo), in hexadecimal.
    pub fn id(&self) -> String {
        hex(&Sha256::digest(self.der()))
    }

    fn der(&self) -> Vec<u8> {
        [&SPKI_PREFIX[..], &self.0].concat()
    }

    /// As `openssl pkey -pubin` reads it.
    pub fn pem(&self) -> String {
        format!(
            "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
            STANDARD.encode(self.der())
        )
    }

    pub fn from_pem(text: &str) -> Result<Self, VerifyError> {
        let body: String = text
            .trim()
            .strip_prefix("-----BEGIN PUBLIC KEY-----")
            .and_then(|rest| rest.strip_suffix("-----END PUBLIC KEY-----"))
            .ok_or(VerifyError::BadKey)?
            .split_ascii_whitespace()
            .collect();
        let der = STANDARD.decode(body).map_err(|_| VerifyError::BadKey)?;
        der.strip_prefix(&SPKI_PREFIX)
            .and_then(|key| key.try_into().ok())
            .map(PublicKey)
            .ok_or(VerifyError::BadKey)
    }
}

impl Envelope {
    /// The payload, if one of `trusted` signed it as `payload_type`. Key ids are hints: each signature is tried with
    /// each key.
    pub fn open(
        &self,
        payload_type: &str,
        trusted: &[PublicKey],
    ) -> Result<(Vec<u8>, PublicKey), VerifyError> {
        if self.signatures.len() > SIGNATURES_MAX {
            return Err(VerifyError::TooManySignatures {
                count: self.signatures.len(),
            });
        }
        if self.payload.len() / 4 * 3 > PAYLOAD_BYTES_MAX {
            return Err(VerifyError::TooLong);
        }
        if self.payload_type != payload_type {
            return Err(VerifyError::PayloadType {
                found: self.payload_type.chars().take(100).collect(),
                expected: payload_type.to_owned(),
            });
        }
        let payload = decode("payload", &self.payload)?;
        let message = encoding(payload_type, &payload);
        for signature in &self.signatures {
            let bytes = decode("signature", &signature.sig)?;
            for key in trusted {
                if UnparsedPublicKey::new(&ED25519, &key.0)
                    .verify(&message, &bytes)
                    .is_ok()
                {
                    return Ok((payload, *key));
                }
            }
        }
        Err(VerifyError::NotSigned)
    }
}

/// What is signed: the pre-authentication encoding of DSSE.
fn encoding(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut message = format!(
        "DSSEv1 {} {payload_type} {} ",
        payload_type.len(),
        payload.len()
    )
    .into_bytes();
    message.extend_from_slice(payload);
    message
}

/// Either alphabet of base64, as DSSE asks of verifiers.
fn decode(member: &'static str, text: &str) -> Result<Vec<u8>, VerifyError> {
    STANDARD
        .decode(text)
        .or_else(|_| URL_SAFE.decode(text))
        .map_err(|_| VerifyError::NotBase64 { member })
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TYPE: &str = "application/vnd.in-toto+json";

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_seed(&[seed; 32])
    }

    #[test]
    fn the_encoding_is_that_of_the_specification() {
        assert_eq!(
            encoding("http://example.com/HelloWorld", b"hello world"),
            b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
        );
    }

    #[test]
    fn keys_are_told_by_their_der_and_survive_pem() {
        // RFC 8032, section 7.1, test 1.
        let seed: [u8; 32] = [
            0x9d, 0x61, 0xb1, 0x9d, 0xef, 0xfd, 0x5a, 0x60, 0xba, 0x84, 0x4a, 0xf4, 0x92, 0xec,
            0x2c, 0xc4, 0x44, 0x49, 0xc5, 0x69, 0x7b, 0x32, 0x69, 0x19, 0x70, 0x3b, 0xac, 0x03,
            0x1c, 0xae, 0x7f, 0x60,
        ];
        let public = *SigningKey::from_seed(&seed).public();
        assert_eq!(
            hex(&public.0),
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
        );
        assert_eq!(PublicKey::from_pem(&public.pem()), Ok(public));
        for bad in [
            "",
            "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
        ] {
            assert_eq!(PublicKey::from_pem(bad), Err(VerifyError::BadKey));
        }
    }

    #[test]
    fn only_what_was_signed_opens() {
        let sealed = key(1).seal(TYPE, b"{}");
        let (payload, by) = sealed
            .open(TYPE, &[*key(2).public(), *key(1).public()])
            .unwrap();
        assert_eq!((payload.as_slice(), by), (&b"{}"[..], *key(1).public()));

        let check = |change: &dyn Fn(&mut Envelope), expected: &str| {
            let mut envelope = sealed.clone();
            change(&mut envelope);
            let error = envelope.open(TYPE, &[*key(1).public()]).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        };
        check(
            &|e| e.payload = STANDARD.encode("{ }"),
            "none of the trusted",
        );
        check(&|e| e.payload = "!".into(), "payload is not base64");
        check(
            &|e| e.signatures[0].sig = "%".into(),
            "signature is not base64",
        );
        check(
            &|e| e.signatures[0].sig = STANDARD.encode([0; 64]),
            "none of",
        );
        check(&|e| e.signatures.clear(), "none of the trusted");
        check(&|e| e.payload_type = "text/plain".into(), "is of type");
        check(
            &|e| e.signatures = vec![e.signatures[0].clone(); SIGNATURES_MAX + 1],
            "17 signatures",
        );
        // Every bit of the signature counts.
        let signature = STANDARD.decode(&sealed.signatures[0].sig).unwrap();
        for bit in 0..signature.len() * 8 {
            let mut changed = signature.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let mut envelope = sealed.clone();
            envelope.signatures[0].sig = STANDARD.encode(changed);
            assert_eq!(
                envelope.open(TYPE, &[*key(1).public()]),
                Err(VerifyError::NotSigned),
                "{bit}"
            );
        }
    }
}
