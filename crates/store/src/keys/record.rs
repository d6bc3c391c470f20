//! The file of a store that holds its domain's wrapped secret.
//!
//! It is the only file that a rotation changes, and the one that erasing empties.

use super::MAX_WRAPPED_BYTES;
use crate::codec::Reader;

/// The name of the file.
pub(crate) const KEYS: &str = "keys.bullion";

const MAGIC: &[u8; 8] = b"BULKEYS\0";
const VERSION: u32 = 1;
const CONTEXT: &str = "bullion wrapped keys v1";
const MAX_NAME: usize = 200;

const WRAPPED: u32 = 1;
const ERASED: u32 = 2;

/// What became of the secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    Wrapped { service: String, wrapped: Vec<u8> },
    Erased,
}

/// `generation` counts rotations.
pub(crate) fn write_record(generation: u64, state: &State) -> Vec<u8> {
    let (kind, service, wrapped) = match state {
        State::Wrapped { service, wrapped } => (WRAPPED, service.as_str(), wrapped.as_slice()),
        State::Erased => (ERASED, "", [].as_slice()),
    };
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&kind.to_le_bytes());
    bytes.extend_from_slice(&generation.to_le_bytes());
    for part in [service.as_bytes(), wrapped] {
        bytes.extend_from_slice(&(part.len() as u16).to_le_bytes());
        bytes.extend_from_slice(part);
    }
    let check = blake3::derive_key(CONTEXT, &bytes);
    bytes.extend_from_slice(&check);
    bytes
}

pub(crate) fn read_record(bytes: &[u8]) -> Result<(u64, State), &'static str> {
    let (body, check) = bytes.split_last_chunk::<32>().ok_or("it ends too early")?;
    let mut reader = Reader::new(body);
    if reader.take(8)? != MAGIC {
        return Err("it holds no keys");
    }
    if reader.u32()? != VERSION {
        return Err("it has an unknown version");
    }
    if blake3::derive_key(CONTEXT, body) != *check {
        return Err("its checksum is wrong");
    }
    let (kind, generation) = (reader.u32()?, reader.u64()?);
    let mut part = |limit: usize| -> Result<Vec<u8>, &'static str> {
        let len = usize::from(reader.u16()?);
        match len <= limit {
            true => Ok(reader.take(len)?.to_vec()),
            false => Err("a part of it is too long"),
        }
    };
    let service = String::from_utf8(part(MAX_NAME)?).map_err(|_| "its service has no name")?;
    let wrapped = part(MAX_WRAPPED_BYTES)?;
    match kind {
        _ if !reader.is_empty() => Err("it goes on after its end"),
        WRAPPED => Ok((generation, State::Wrapped { service, wrapped })),
        ERASED => Ok((generation, State::Erased)),
        _ => Err("it is in an unknown state"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_what_was_written_or_an_error() {
        let wrapped = State::Wrapped {
            service: "file".into(),
            wrapped: vec![7; 64],
        };
        for state in [wrapped, State::Erased] {
            let bytes = write_record(3, &state);
            assert_eq!(read_record(&bytes), Ok((3, state)));
            for at in 0..bytes.len() {
                let mut broken = bytes.clone();
                broken[at] ^= 4;
                assert!(read_record(&broken).is_err(), "byte {at}");
                assert!(read_record(&bytes[..at]).is_err(), "cut at {at}");
            }
        }
    }
}
