//! A short text that is kept where others can read it, such as a column of a database, sealed so that only who has the key
//! can: a secret of its own seals it, and a key service wraps that secret.
//!
//! As text: `bullion-sealed-1 ` and hexadecimal digits of the secret's domain id (16 bytes), the length of the wrapped
//! secret (u16), the wrapped secret, and the sealed text. What the text is about is sealed with it, so that it cannot be put
//! in another one's place.

use super::{KeyError, KeyService, MAX_WRAPPED_BYTES};
use crate::codec::{Reader, hex, unhex_all};
use crate::domain::{Domain, DomainId};
use crate::seal::{CipherError, Sealer};

const MARK: &str = "bullion-sealed-1 ";
const TAGS: &str = "bullion sealed text tags v1";
const KEYS: &str = "bullion sealed text keys v1";
/// Texts are keys and the like.
const MAX_TEXT_BYTES: usize = 64 << 10;

/// Why a text could not be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum SealedTextError {
    #[error("wrap or unwrap the secret of a sealed text")]
    Keys(#[from] KeyError),
    #[error("seal or open a text")]
    Seal(#[from] CipherError),
    #[error("a sealed text is damaged or too long")]
    Damaged,
}

/// Whether a text was sealed by [`seal_text`].
pub fn is_sealed(text: &str) -> bool {
    text.starts_with(MARK)
}

/// Seals a text of at most 64 KiB.
pub fn seal_text(
    service: &dyn KeyService,
    about: &str,
    text: &str,
) -> Result<String, SealedTextError> {
    if text.len() > MAX_TEXT_BYTES {
        return Err(SealedTextError::Damaged);
    }
    let own = Domain::random();
    let wrapped = service.wrap(&own.id(), own.secret())?;
    let len = u16::try_from(wrapped.len()).map_err(|_| SealedTextError::Damaged)?;
    let sealed = Sealer::new(own.secret(), TAGS, KEYS).seal(about.as_bytes(), text.as_bytes())?;
    let mut bytes = own.id().as_bytes().to_vec();
    bytes.extend_from_slice(&len.to_le_bytes());
    bytes.extend_from_slice(&wrapped);
    bytes.extend_from_slice(&sealed);
    Ok(format!("{MARK}{}", hex(&bytes)))
}

/// The text that was sealed for the same `about`.
pub fn open_text(
    service: &dyn KeyService,
    about: &str,
    sealed: &str,
) -> Result<String, SealedTextError> {
    let damaged = |_| SealedTextError::Damaged;
    let digits = sealed.strip_prefix(MARK).ok_or(SealedTextError::Damaged)?;
    if digits.len() > 4 * (MAX_TEXT_BYTES + MAX_WRAPPED_BYTES) {
        return Err(SealedTextError::Damaged);
    }
    let bytes = unhex_all(digits.trim()).ok_or(SealedTextError::Damaged)?;
    let mut reader = Reader::new(&bytes);
    let id = DomainId(reader.array().map_err(damaged)?);
    let len = usize::from(reader.u16().map_err(damaged)?);
    let wrapped = reader.take(len).map_err(damaged)?;
    let body = reader.take(reader.remaining()).map_err(damaged)?;
    let secret = service.unwrap(&id, wrapped)?;
    if DomainId::of(&secret) != id {
        return Err(SealedTextError::Damaged);
    }
    let mut plain = Vec::new();
    Sealer::new(&secret, TAGS, KEYS).open(about.as_bytes(), body, &mut plain)?;
    String::from_utf8(plain).map_err(|_| SealedTextError::Damaged)
}

#[cfg(test)]
mod tests {
    use super::super::KeyFile;
    use super::*;

    #[test]
    fn a_text_opens_with_its_key_and_in_its_place_only() {
        let folder = tempfile::tempdir().expect("folder");
        let keys = KeyFile::create(&folder.path().join("one.key")).expect("a key");
        let other = KeyFile::create(&folder.path().join("two.key")).expect("a key");
        let sealed = seal_text(&keys, "row 1", "the secret").expect("seal");
        assert!(is_sealed(&sealed) && !is_sealed("-----BEGIN"));
        assert!(!sealed.contains("the secret"));
        assert_eq!(
            open_text(&keys, "row 1", &sealed).expect("open"),
            "the secret"
        );
        assert!(open_text(&keys, "row 2", &sealed).is_err());
        assert!(open_text(&other, "row 1", &sealed).is_err());
        let again = seal_text(&keys, "row 1", "the secret").expect("seal");
        assert_ne!(again, sealed, "each has a key of its own");
        for at in MARK.len()..sealed.len() {
            let mut broken = sealed.clone().into_bytes();
            broken[at] = if broken[at] == b'0' { b'1' } else { b'0' };
            let broken = String::from_utf8(broken).expect("text");
            assert!(open_text(&keys, "row 1", &broken).is_err(), "digit {at}");
            assert!(
                open_text(&keys, "row 1", &sealed[..at]).is_err(),
                "cut at {at}"
            );
        }
        keys.rotate().expect("rotate");
        assert!(open_text(&keys, "row 1", &sealed).is_ok());
    }
}
