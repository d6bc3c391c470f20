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

    /// What [`push_varint`] wrote. One that is longer than it need be is refused, so that there
    /// is one way to write a number.
    pub(crate) fn varint(&mut self) -> Result<u32, &'static str> {
        let mut value = 0u64;
        for shift in (0..35).step_by(7) {
            let byte = self.u8()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                let overlong = byte == 0 && shift > 0;
                let fits = u32::try_from(value).ok().filter(|_| !overlong);
                return fits.ok_or("a number is written in a wrong way");
            }
        }
        Err("a number is written in a wrong way")
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

/// A number of seven bits a byte, the lowest first; the last byte is below 128.
pub(crate) fn push_varint(out: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Exactly two hexadecimal digits for each byte.
pub(crate) fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let mut bytes = [0; N];
    if pairs.len() != bytes.len() || !rest.is_empty() {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(pairs) {
        let digit = |digit: u8| char::from(digit).to_digit(16);
        *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
    }
    Some(bytes)
}

/// The same for any even number of digits.
pub(crate) fn unhex_all(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let digit = |digit: u8| char::from(digit).to_digit(16);
    let byte = |pair: &[u8; 2]| Some((digit(pair[0])? << 4 | digit(pair[1])?) as u8);
    match rest {
        [] => pairs.iter().map(byte).collect(),
        _ => None,
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
