//! A dedup domain: those who trust each other enough to share blocks, and the secret they share.
//!
//! Everything that depends on the secret is derived here: fingerprints, and what frames and
//! tables are sealed with. The secret itself is written nowhere but wrapped (see [`crate::keys`]),
//! except in stores that are not encrypted.

use std::fmt;
use std::sync::Arc;

use disk::LeafHash;

use crate::index::Fingerprint;
use crate::seal::Sealer;

const ID_CONTEXT: &str = "bullion domain id v1";
const FINGERPRINT_CONTEXT: &str = "bullion domain fingerprints v1";

/// Which domain it is. It follows from the secret and does not tell it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainId(pub(crate) [u8; 16]);

impl DomainId {
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    pub(crate) fn of(secret: &[u8; 32]) -> DomainId {
        let hash = blake3::derive_key(ID_CONTEXT, secret);
        let mut id = [0; 16];
        id.copy_from_slice(&hash[..16]);
        DomainId(id)
    }
}

impl fmt::Display for DomainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::codec::hex(&self.0))
    }
}

impl fmt::Debug for DomainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Whether what a domain stores is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AtRest {
    Sealed,
    Plain,
}

/// A domain whose secret is known. Clones are the same domain.
#[derive(Clone)]
pub struct Domain(Arc<Secrets>);

struct Secrets {
    id: DomainId,
    secret: [u8; 32],
    at_rest: AtRest,
    fingerprints: [u8; 32],
    frames: Sealer,
    tables: Sealer,
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Domain").field(&self.0.id).finish()
    }
}

impl Domain {
    /// A new domain, which shares nothing with any other.
    pub fn random() -> Domain {
        Domain::new(rand::random(), AtRest::Sealed)
    }

    /// A new domain in which nothing is encrypted, for bundles that need no key.
    pub fn unsealed() -> Domain {
        Domain::new(rand::random(), AtRest::Plain)
    }

    /// The domain of a secret that was kept elsewhere.
    pub fn from_secret(secret: [u8; 32]) -> Domain {
        Domain::new(secret, AtRest::Sealed)
    }

    pub(crate) fn new(secret: [u8; 32], at_rest: AtRest) -> Domain {
        Domain(Arc::new(Secrets {
            id: DomainId::of(&secret),
            at_rest,
            fingerprints: blake3::derive_key(FINGERPRINT_CONTEXT, &secret),
            frames: Sealer::new(
                &secret,
                "bullion domain frame tags v1",
                "bullion domain frame keys v1",
            ),
            tables: Sealer::new(
                &secret,
                "bullion domain table tags v1",
                "bullion domain table keys v1",
            ),
            secret,
        }))
    }

    pub fn id(&self) -> DomainId {
        self.0.id
    }

    /// For whoever keeps it: a key service, or the key of a bundle. It opens everything.
    pub fn secret(&self) -> &[u8; 32] {
        &self.0.secret
    }

    pub(crate) fn at_rest(&self) -> AtRest {
        self.0.at_rest
    }

    /// Whether frames of one may lie in a store of the other as they are.
    pub(crate) fn shares_frames(&self, other: &Domain) -> bool {
        match (self.0.at_rest, other.0.at_rest) {
            (AtRest::Plain, AtRest::Plain) => true,
            (AtRest::Sealed, AtRest::Sealed) => self.0.id == other.0.id,
            _ => false,
        }
    }

    /// What seals frames, if anything does.
    pub(crate) fn frames(&self) -> Option<&Sealer> {
        (self.0.at_rest == AtRest::Sealed).then_some(&self.0.frames)
    }

    /// What seals the tables of manifests, if anything does.
    pub(crate) fn tables(&self) -> Option<&Sealer> {
        (self.0.at_rest == AtRest::Sealed).then_some(&self.0.tables)
    }

    /// The leaf of the disk digest is at hand anyway, so the block is not hashed a second time.
    /// Without the secret a fingerprint says nothing about the block.
    pub(crate) fn fingerprint(&self, leaf: &LeafHash) -> Fingerprint {
        let hash = blake3::keyed_hash(&self.0.fingerprints, leaf);
        let mut fingerprint = Fingerprint::default();
        fingerprint.copy_from_slice(&hash.as_bytes()[..size_of::<Fingerprint>()]);
        fingerprint
    }
}
