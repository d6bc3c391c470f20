//! Java's key store of trusted certificates notes when each entry was made, and ends in a hash.
//!
//! Only the dates are changed, and only in a store that is well-formed, holds nothing but
//! certificates, and has the password that Debian's packages use. Anything else is left as it is.

use sha1_smol::Sha1;

const MAGIC: u32 = 0xfeed_feed;
const VERSION: u32 = 2;
const TRUSTED_CERTIFICATE: u32 = 2;
const PASSWORD: &str = "changeit";
const SALT: &[u8] = b"Mighty Aphrodite";
const HASH_BYTES: usize = 20;

/// The store with no entry dated after `epoch` (seconds), or `None` when there is nothing to do.
pub(super) fn clamp_dates(store: &[u8], epoch: i64) -> Option<Vec<u8>> {
    let end = store.len().checked_sub(HASH_BYTES)?;
    let (body, hash) = store.split_at(end);
    if self::hash(body) != hash {
        return None;
    }
    let mut clamped = body.to_vec();
    let latest = epoch.checked_mul(1000)?;
    for at in dates(body)? {
        let date = i64::from_be_bytes(body.get(at..at + 8)?.try_into().ok()?);
        clamped[at..at + 8].copy_from_slice(&date.min(latest).to_be_bytes());
    }
    if clamped == body {
        return None;
    }
    let hash = self::hash(&clamped);
    clamped.extend_from_slice(&hash);
    Some(clamped)
}

fn hash(body: &[u8]) -> [u8; HASH_BYTES] {
    let mut sha = Sha1::new();
    for unit in PASSWORD.encode_utf16() {
        sha.update(&unit.to_be_bytes());
    }
    sha.update(SALT);
    sha.update(body);
    sha.digest().bytes()
}

/// Where the dates are; `None` when the store is not of the expected form.
fn dates(body: &[u8]) -> Option<Vec<usize>> {
    let mut reader = Reader { body, at: 0 };
    if reader.number()? != MAGIC || reader.number()? != VERSION {
        return None;
    }
    let mut dates = Vec::new();
    for _ in 0..reader.number()? {
        if reader.number()? != TRUSTED_CERTIFICATE {
            return None;
        }
        reader.text()?;
        dates.push(reader.at);
        reader.skip(8)?;
        reader.text()?;
        let length = usize::try_from(reader.number()?).ok()?;
        reader.skip(length)?;
    }
    (reader.at == body.len()).then_some(dates)
}

struct Reader<'a> {
    body: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn skip(&mut self, length: usize) -> Option<&[u8]> {
        let end = self.at.checked_add(length)?;
        let bytes = self.body.get(self.at..end)?;
        self.at = end;
        Some(bytes)
    }

    fn number(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.skip(4)?.try_into().ok()?))
    }

    fn text(&mut self) -> Option<()> {
        let length = u16::from_be_bytes(self.skip(2)?.try_into().ok()?);
        self.skip(usize::from(length)).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn store(dates: &[i64]) -> Vec<u8> {
        let mut body = [
            MAGIC.to_be_bytes(),
            VERSION.to_be_bytes(),
            (dates.len() as u32).to_be_bytes(),
        ]
        .concat();
        for (index, date) in dates.iter().enumerate() {
            body.extend(TRUSTED_CERTIFICATE.to_be_bytes());
            body.extend([0, 2, b'c', b'0' + index as u8]);
            body.extend(date.to_be_bytes());
            body.extend(b"\0\x05X.509");
            body.extend([0, 0, 0, 3, 1, 2, 3]);
        }
        let hash = hash(&body);
        body.extend(hash);
        body
    }

    #[test]
    fn dates_after_the_epoch_become_the_epoch() {
        assert_eq!(
            clamp_dates(&store(&[5_000, 99_999]), 10),
            Some(store(&[5_000, 10_000]))
        );
        assert_eq!(clamp_dates(&store(&[5_000]), 10), None);
        assert_eq!(clamp_dates(&store(&[]), 10), None);
    }

    #[test]
    fn other_stores_are_left_alone() {
        let mut wrong_hash = store(&[99_999]);
        *wrong_hash.last_mut().unwrap() ^= 1;
        assert_eq!(clamp_dates(&wrong_hash, 10), None);
        let mut trailing = store(&[99_999]);
        trailing.truncate(trailing.len() - HASH_BYTES);
        trailing.push(0);
        let hash = hash(&trailing);
        trailing.extend(hash);
        assert_eq!(clamp_dates(&trailing, 10), None);
        assert_eq!(clamp_dates(b"", 10), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(mut body in proptest::collection::vec(any::<u8>(), 0..200), headed in any::<bool>()) {
            if headed && body.len() > 12 {
                body[..4].copy_from_slice(&MAGIC.to_be_bytes());
                body[4..12].copy_from_slice(&[0, 0, 0, 2, 0, 0, 0, 3]);
            }
            let hash = hash(&body);
            body.extend(hash);
            let _ = clamp_dates(&body, 10);
        }
    }
}
