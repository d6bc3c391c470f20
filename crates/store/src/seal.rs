//! Sealing bytes so that the same bytes give the same sealed bytes, and a key never meets two.
//!
//! The key of each sealed string depends on a secret and on the string itself, through a tag that
//! is stored in front of it. Whoever has the secret can open it by the tag; to everybody else tag
//! and bytes are noise. What secrets are for and where they are kept is decided elsewhere.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

/// The tag in front, which takes the place of a nonce.
const TAG_LEN: usize = 16;
/// What AES-GCM adds.
const MAC_LEN: usize = 16;
/// How much longer sealed bytes are.
pub(crate) const OVERHEAD: usize = TAG_LEN + MAC_LEN;

/// The secrets of one kind of sealed string.
pub(crate) struct Sealer {
    tags: [u8; 32],
    keys: [u8; 32],
}

/// The cipher refused; it says no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the cipher failed")]
pub struct CipherError;

impl Sealer {
    /// The contexts must be this kind's alone.
    pub(crate) fn new(secret: &[u8; 32], tags: &str, keys: &str) -> Sealer {
        Sealer {
            tags: blake3::derive_key(tags, secret),
            keys: blake3::derive_key(keys, secret),
        }
    }

    /// `about` is not sealed but cannot be changed either; its length must be known to the reader.
    pub(crate) fn seal(&self, about: &[u8], plain: &[u8]) -> Result<Vec<u8>, CipherError> {
        let tag = self.tag(about, plain);
        let mut sealed = Vec::with_capacity(plain.len() + OVERHEAD);
        sealed.extend_from_slice(&tag);
        sealed.extend_from_slice(plain);
        let mac = self
            .cipher(&tag)?
            .seal_in_place_separate_tag(nonce(), Aad::from(about), &mut sealed[TAG_LEN..])
            .map_err(|_| CipherError)?;
        sealed.extend_from_slice(mac.as_ref());
        Ok(sealed)
    }

    /// Puts what was sealed into `into`, whatever was there before.
    pub(crate) fn open(
        &self,
        about: &[u8],
        sealed: &[u8],
        into: &mut Vec<u8>,
    ) -> Result<(), CipherError> {
        let (tag, body) = sealed.split_first_chunk().ok_or(CipherError)?;
        into.clear();
        into.extend_from_slice(body);
        let len = self
            .cipher(tag)?
            .open_in_place(nonce(), Aad::from(about), into)
            .map_err(|_| CipherError)?
            .len();
        into.truncate(len);
        Ok(())
    }

    /// The key that sealed bytes were sealed with, for tests that no key meets two plaintexts.
    pub(crate) fn key_of(&self, sealed: &[u8]) -> Option<[u8; 32]> {
        let (tag, _) = sealed.split_first_chunk::<TAG_LEN>()?;
        Some(self.key(tag))
    }

    fn tag(&self, about: &[u8], plain: &[u8]) -> [u8; TAG_LEN] {
        let mut hasher = blake3::Hasher::new_keyed(&self.tags);
        // The length in front keeps two splits of the same bytes apart.
        hasher
            .update(&(about.len() as u64).to_le_bytes())
            .update(about)
            .update(plain);
        let mut tag = [0; TAG_LEN];
        tag.copy_from_slice(&hasher.finalize().as_bytes()[..TAG_LEN]);
        tag
    }

    fn key(&self, tag: &[u8; TAG_LEN]) -> [u8; 32] {
        *blake3::keyed_hash(&self.keys, tag).as_bytes()
    }

    fn cipher(&self, tag: &[u8; TAG_LEN]) -> Result<LessSafeKey, CipherError> {
        UnboundKey::new(&AES_256_GCM, &self.key(tag))
            .map(LessSafeKey::new)
            .map_err(|_| CipherError)
    }
}

/// Always the same, because each key seals one string only.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sealer(secret: u8) -> Sealer {
        Sealer::new(&[secret; 32], "bullion test tags", "bullion test keys")
    }

    fn opened(sealer: &Sealer, about: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let mut plain = Vec::new();
        sealer.open(about, sealed, &mut plain).ok().map(|()| plain)
    }

    proptest! {
        #[test]
        fn opens_what_was_sealed_and_nothing_else(
            about in prop::collection::vec(any::<u8>(), 0..20),
            plain in prop::collection::vec(any::<u8>(), 0..300),
            at in any::<prop::sample::Index>(),
            flip in 1u8..,
        ) {
            let one = sealer(1);
            let sealed = one.seal(&about, &plain).expect("seal");
            prop_assert_eq!(sealed.len(), plain.len() + OVERHEAD);
            prop_assert_eq!(&one.seal(&about, &plain).expect("seal"), &sealed);
            prop_assert_eq!(opened(&one, &about, &sealed), Some(plain));
            prop_assert_eq!(opened(&sealer(2), &about, &sealed), None);
            prop_assert_eq!(opened(&one, b"something else, and long", &sealed), None);
            let mut broken = sealed.clone();
            broken[at.index(sealed.len())] ^= flip;
            prop_assert_eq!(opened(&one, &about, &broken), None);
            prop_assert_eq!(opened(&one, &about, &sealed[..at.index(sealed.len())]), None);
        }

        #[test]
        fn other_bytes_have_another_key(
            one in prop::collection::vec(any::<u8>(), 0..8),
            two in prop::collection::vec(any::<u8>(), 0..8),
        ) {
            let sealer = sealer(1);
            let key = |plain: &[u8]| sealer.key_of(&sealer.seal(b"", plain).expect("seal"));
            prop_assert_eq!(key(&one) == key(&two), one == two);
        }
    }
}
