//! Boot traces: which blocks a machine reads until it is ready, in which order.
//!
//! A trace only says what to load first. A wrong one costs time, never a wrong byte.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use ::disk::{BLOCK_SIZE, DiskDigest};

use crate::codec::{Reader, hex};
use crate::error::StoreError;
use crate::store::{Inner, Store};

const MAGIC: &[u8; 8] = b"BULTRAC\0";
const VERSION: u32 = 1;
const CHECK_CONTEXT: &str = "bullion boot trace v1";
const CHECK_LEN: usize = 32;
/// Blocks of one trace: 1 GiB.
const MAX_BLOCKS: u64 = 1 << 18;
const MAX_RUNS: usize = 1 << 16;
/// Of a trace as it is stored.
pub(crate) const MAX_TRACE_BYTES: u64 = 56 + MAX_RUNS as u64 * 8 + CHECK_LEN as u64;
pub(crate) const TRACES: &str = "traces/";

/// The file of a disk's trace.
pub(crate) fn trace_name(digest: &DiskDigest) -> String {
    format!("{TRACES}{}.trace", hex(digest.as_bytes()))
}

/// Blocks of a disk in the order in which they were first read. None is there twice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trace(Vec<Range<u64>>);

impl Trace {
    /// Runs of blocks, in order of time.
    pub fn runs(&self) -> &[Range<u64>] {
        &self.0
    }

    /// This one, and then what only the other one has.
    pub fn and(&self, other: &Trace) -> Trace {
        let recorder = TraceRecorder::new();
        let block = BLOCK_SIZE as u64;
        for run in self.0.iter().chain(&other.0) {
            recorder.note(run.start * block, (run.end - run.start) * block);
        }
        recorder.trace()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All blocks times their size.
    pub fn bytes(&self) -> u64 {
        let blocks: u64 = self.0.iter().map(|run| run.end - run.start).sum();
        blocks * BLOCK_SIZE as u64
    }

    pub(crate) fn encode(&self, digest: &DiskDigest) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&0u32.to_le_bytes());
        out.extend_from_slice(digest.as_bytes());
        out.extend_from_slice(&(self.0.len() as u32).to_le_bytes());
        out.extend_from_slice(&0u32.to_le_bytes());
        for run in &self.0 {
            out.extend_from_slice(&(run.start as u32).to_le_bytes());
            out.extend_from_slice(&((run.end - run.start) as u32).to_le_bytes());
        }
        let check = blake3::derive_key(CHECK_CONTEXT, &out);
        out.extend_from_slice(&check);
        out
    }

    pub(crate) fn decode(bytes: &[u8], digest: &DiskDigest) -> Result<Trace, &'static str> {
        let (body, check) = bytes
            .split_last_chunk::<CHECK_LEN>()
            .ok_or("it ends too early")?;
        let mut reader = Reader::new(body);
        if reader.take(8)? != MAGIC {
            return Err("it is not a boot trace");
        }
        if (reader.u32()?, reader.u32()?) != (VERSION, 0) {
            return Err("it is a boot trace of an unknown version");
        }
        if blake3::derive_key(CHECK_CONTEXT, body) != *check {
            return Err("its checksum is wrong");
        }
        if reader.array()? != *digest.as_bytes() {
            return Err("it is another disk's");
        }
        let (count, reserved) = (reader.u32()?, reader.u32()?);
        if count as usize > MAX_RUNS || reserved != 0 {
            return Err("it has more runs than a trace can have");
        }
        let mut runs = Vec::new();
        let mut blocks = 0;
        for _ in 0..count {
            let (start, len) = (u64::from(reader.u32()?), u64::from(reader.u32()?));
            blocks += len;
            if len == 0 || blocks > MAX_BLOCKS {
                return Err("it has an impossible run");
            }
            runs.push(start..start + len);
        }
        match reader.is_empty() {
            true => Ok(Trace(runs)),
            false => Err("it goes on after its end"),
        }
    }
}

/// Notes reads, from any thread.
#[derive(Debug, Default)]
pub struct TraceRecorder(Mutex<Recording>);

#[derive(Debug, Default)]
struct Recording {
    seen: HashSet<u64>,
    runs: Vec<Range<u64>>,
}

impl TraceRecorder {
    pub fn new() -> Self {
        Self::default()
    }

    /// A read of so many bytes. Beyond the limits of a trace nothing is noted.
    pub fn note(&self, offset: u64, len: u64) {
        let block = BLOCK_SIZE as u64;
        let mut recording = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Recording { seen, runs } = &mut *recording;
        for at in offset / block..(offset + len).div_ceil(block) {
            if seen.len() as u64 == MAX_BLOCKS || !seen.insert(at) {
                continue;
            }
            let is_full = runs.len() == MAX_RUNS;
            match runs.last_mut() {
                Some(last) if last.end == at => last.end += 1,
                _ if is_full => return,
                _ => runs.push(at..at + 1),
            }
        }
    }

    /// What was noted so far.
    pub fn trace(&self) -> Trace {
        let recording = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Trace(recording.runs.clone())
    }
}

impl Store {
    /// Keeps the boot trace of a disk, instead of the one that it had.
    pub fn put_trace(&self, digest: &DiskDigest, trace: &Trace) -> Result<(), StoreError> {
        let _writer = self.0.writer();
        // Without its disk nothing would ever remove it.
        self.0.manifest(digest)?;
        self.0.put(&trace_name(digest), &trace.encode(digest))
    }

    /// Brings the boot trace of a disk along to another store that has the disk. It means the same
    /// there, and without it the disk is whole all the same.
    pub(crate) fn carry_trace(&self, to: &Store, digest: &DiskDigest) {
        if let Some(trace) = self.trace(digest) {
            to.0.take_trace(digest, &trace);
        }
    }

    /// The boot trace of a disk, if it has one that can be understood.
    pub fn trace(&self, digest: &DiskDigest) -> Option<Trace> {
        let name = trace_name(digest);
        let read = self.0.place.get(&name, MAX_TRACE_BYTES);
        let bytes = read
            .inspect_err(|error| tracing::debug!(name, %error, "a boot trace cannot be read"))
            .ok()??;
        Trace::decode(&bytes, digest)
            .inspect_err(|what| tracing::debug!(name, what, "a boot trace is left out"))
            .ok()
    }
}

/// For fuzzing: reads bytes as a trace, behind its checksum too.
pub(crate) fn check_trace(bytes: &[u8]) {
    let digest = DiskDigest::from_bytes([0; 32]);
    let _ = Trace::decode(bytes, &digest);
    let check = blake3::derive_key(CHECK_CONTEXT, bytes);
    let _ = Trace::decode(&[bytes, &check].concat(), &digest);
}

impl Inner {
    /// Keeps a boot trace that came along with its disk, if that is possible.
    pub(crate) fn take_trace(&self, digest: &DiskDigest, trace: &Trace) {
        if let Err(error) = self.put(&trace_name(digest), &trace.encode(digest)) {
            tracing::warn!(%digest, %error, "a boot trace was not brought along");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn digest() -> DiskDigest {
        DiskDigest::from_bytes([7; 32])
    }

    #[test]
    fn each_block_is_noted_when_it_is_first_read() {
        let recorder = TraceRecorder::new();
        for (offset, len) in [(8192, 512), (0, 4096), (4096, 8192), (12_287, 2)] {
            recorder.note(offset, len);
        }
        assert_eq!(recorder.trace().runs(), [2..3, 0..2, 3..4]);
        assert_eq!(recorder.trace().bytes(), 4 * 4096);
        let other = TraceRecorder::new();
        other.note(4096, 5 * 4096);
        let both = recorder.trace().and(&other.trace());
        assert_eq!(both.runs(), [2..3, 0..2, 3..6]);
    }

    proptest! {
        #[test]
        fn comes_back_and_any_change_is_found(
            reads in prop::collection::vec((0u64..1 << 30, 1u64..100_000), 0..20),
            at in any::<prop::sample::Index>(),
            flip in 1u8..,
        ) {
            let recorder = TraceRecorder::new();
            for (offset, len) in reads {
                recorder.note(offset, len);
            }
            let trace = recorder.trace();
            let mut bytes = trace.encode(&digest());
            prop_assert_eq!(Trace::decode(&bytes, &digest()), Ok(trace));
            prop_assert!(Trace::decode(&bytes, &DiskDigest::from_bytes([8; 32])).is_err());
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            prop_assert!(Trace::decode(&bytes, &digest()).is_err());
            bytes.truncate(at);
            prop_assert!(Trace::decode(&bytes, &digest()).is_err());
        }
    }
}
