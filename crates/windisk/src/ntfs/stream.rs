//! The content of an attribute: bytes in its record, or runs of clusters.

use std::ops::Range;

use super::record::{Attribute, Value};
use super::{Damaged, NtfsError};
use crate::bytes::array;

/// Runs of one file. The worst fragmented hive of a disk has some thousands.
const RUNS_MAX: usize = 1 << 16;

/// The content of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    /// Bytes.
    pub size: u64,
    pub(super) content: Content,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    Resident(Vec<u8>),
    /// What lies behind `initialized` reads as zeros, whatever is on the disk.
    Runs {
        initialized: u64,
        runs: Vec<Run>,
    },
}

/// Clusters in a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Run {
    /// Clusters of the file.
    pub vcn: Range<u64>,
    /// The first of them on the volume; none for a hole.
    pub lcn: Option<u64>,
}

impl Stream {
    /// Of the pieces of one attribute on a volume of `clusters` clusters of `cluster` bytes; none if there are none.
    pub(super) fn of(
        pieces: &[Attribute<'_>],
        clusters: u64,
        cluster: u64,
    ) -> Result<Option<Stream>, NtfsError> {
        let mut runs: Vec<Run> = Vec::new();
        let mut sizes = None;
        let values: Result<Vec<Value<'_>>, NtfsError> =
            pieces.iter().map(Attribute::value).collect();
        let mut values = values?;
        values.sort_by_key(Value::lowest_vcn);
        for value in values {
            match value {
                Value::Resident(bytes) => {
                    return Ok(Some(Stream {
                        size: bytes.len() as u64,
                        content: Content::Resident(bytes.to_vec()),
                    }));
                }
                Value::Mapped {
                    lowest_vcn,
                    size,
                    initialized,
                    pairs,
                } => {
                    if runs.last().map_or(0, |run| run.vcn.end) != lowest_vcn {
                        return Err(NtfsError::Damaged("a part of a file is missing"));
                    }
                    sizes.get_or_insert((size, initialized));
                    mapped(pairs, clusters, &mut runs)?;
                }
            }
        }
        let Some((size, initialized)) = sizes else {
            return Ok(None);
        };
        let room = runs
            .last()
            .map_or(0, |run| run.vcn.end)
            .checked_mul(cluster);
        if initialized > size || room.is_none_or(|room| size > room) {
            return Err(NtfsError::Damaged("a file claims to be longer than it is"));
        }
        Ok(Some(Stream {
            size,
            content: Content::Runs { initialized, runs },
        }))
    }
}

/// Reads mapping pairs: for each run its length, and how far its start is from that of the run before.
fn mapped(pairs: &[u8], clusters: u64, runs: &mut Vec<Run>) -> Result<(), NtfsError> {
    const BAD: &str = "the runs of a file are none";
    let (mut at, mut last) = (0usize, 0i64);
    loop {
        let header = *pairs.get(at).damaged(BAD)?;
        if header == 0 {
            return Ok(());
        }
        let (length_bytes, start_bytes) = (usize::from(header & 15), usize::from(header >> 4));
        let length = number(pairs, at + 1, length_bytes).filter(|length| *length > 0);
        let length = length.damaged(BAD)?.unsigned_abs();
        let lcn = match start_bytes {
            0 => None,
            _ => {
                let step = number(pairs, at + 1 + length_bytes, start_bytes);
                last = last.checked_add(step.damaged(BAD)?).damaged(BAD)?;
                let end = u64::try_from(last)
                    .ok()
                    .and_then(|lcn| lcn.checked_add(length));
                end.filter(|end| *end <= clusters).damaged(BAD)?;
                Some(last.unsigned_abs())
            }
        };
        let vcn = runs.last().map_or(0, |run| run.vcn.end);
        let end = vcn.checked_add(length).damaged(BAD)?;
        if runs.len() == RUNS_MAX {
            return Err(NtfsError::Damaged("a file is in too many pieces"));
        }
        runs.push(Run { vcn: vcn..end, lcn });
        at += 1 + length_bytes + start_bytes;
    }
}

/// A signed number of `length` bytes; none where it has no bytes or too many.
fn number(bytes: &[u8], at: usize, length: usize) -> Option<i64> {
    let given = bytes.get(at..at.checked_add(length)?)?;
    let sign = if given.last()? & 0x80 == 0 { 0 } else { 0xff };
    let mut wide = vec![sign; 8];
    wide.get_mut(..length)?.copy_from_slice(given);
    array(&wide, 0).map(i64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pairs: &[u8], expected: Option<&[(Range<u64>, Option<u64>)]>) {
        let mut runs = Vec::new();
        let done = mapped(pairs, 1000, &mut runs);
        let seen: Vec<_> = runs.into_iter().map(|run| (run.vcn, run.lcn)).collect();
        match expected {
            Some(expected) => assert_eq!(seen, expected),
            None => assert!(done.is_err(), "{seen:?}"),
        }
    }

    #[test]
    fn runs_are_read_and_those_outside_the_volume_refused() {
        check(&[0], Some(&[]));
        check(
            &[0x21, 5, 0x20, 3, 0x11, 2, 0xf0, 0x01, 4, 0],
            Some(&[(0..5, Some(0x320)), (5..7, Some(0x310)), (7..11, None)]),
        );
        check(&[0x11, 5, 5], None);
        check(&[0x11, 0, 5, 0], None);
        check(&[0x11, 5, 0xff, 0], None);
        check(&[0x22, 0xff, 0x0f, 5, 0, 0], None);
        check(&[0x19, 1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 0], None);
        check(&[], None);
    }
}
