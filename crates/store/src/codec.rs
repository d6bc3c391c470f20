//! Reading and writing the fixed little-endian fields of our own files.
//!
//! A reader never reads past what it has and never allocates by what a file claims.

use disk::DiskDigest;

/// A cursor over bytes that may be wrong in any way.
pub(crate) struct Reader<'a>(&'a [u8]);

/// The bytes end before what they promise.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Short;

impl From<Short> for &'static str {
    fn from(_: Short) -> Self {
        "it ends too early"
    }
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Reader(bytes)
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], Short> {
        let (head, rest) = self.0.split_at_checked(len).ok_or(Short)?;
        self.0 = rest;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Short> {
        let (head, rest) = self.0.split_first_chunk().ok_or(Short)?;
        self.0 = rest;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Short> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Short> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Short> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Short> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn remaining(&self) -> usize {
        self.0.len()
    }
}

pub(crate) const MANIFESTS: &str = "manifests/";
pub(crate) const PACKS: &str = "packs/";

pub(crate) fn manifest_name(digest: &DiskDigest) -> String {
    format!("{MANIFESTS}{}.disk", digest.to_hex())
}

/// The digest that a manifest's name stands for.
pub(crate) fn manifest_digest(name: &str) -> Option<DiskDigest> {
    let hex = name.strip_prefix(MANIFESTS)?.strip_suffix(".disk")?;
    format!("bd1:{hex}").parse().ok()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
