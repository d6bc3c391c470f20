//! One stored disk that machines read, all of them from the same frames.

use std::io;
use std::iter;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use ::disk::{BLOCK_SIZE, DiskDigest, ReadAt};
use nbd::Export;

use super::ahead::Ahead;
use super::{Trace, TraceRecorder};
use crate::view::StoredDisk;

/// Places where somebody reads in order that are remembered.
const STREAMS: usize = 8;
/// How far is read ahead of somebody who reads in order.
const WINDOW: u64 = 1 << 20;

/// A disk of a store or a region, read-only, with read-ahead.
pub struct ServedDisk {
    disk: Arc<StoredDisk>,
    trace: Option<Arc<Trace>>,
    is_followed: Arc<AtomicBool>,
    ahead: Arc<Ahead>,
    recorder: OnceLock<TraceRecorder>,
    /// Where the next read begins of those who read in order.
    streams: [AtomicU64; STREAMS],
    next_stream: AtomicUsize,
}

impl std::fmt::Debug for ServedDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ServedDisk").field(self.digest()).finish()
    }
}

impl ServedDisk {
    pub(super) fn new(disk: StoredDisk, trace: Option<Trace>, ahead: Arc<Ahead>) -> ServedDisk {
        ServedDisk {
            disk: Arc::new(disk),
            trace: trace.map(Arc::new),
            is_followed: Arc::default(),
            ahead,
            recorder: OnceLock::new(),
            streams: [const { AtomicU64::new(u64::MAX) }; STREAMS],
            next_stream: AtomicUsize::new(0),
        }
    }

    /// The same disk for another reader: with its tables and frames, its trace followed once for all, and nothing
    /// noted yet.
    pub fn another(&self) -> ServedDisk {
        ServedDisk {
            disk: Arc::clone(&self.disk),
            trace: self.trace.clone(),
            is_followed: Arc::clone(&self.is_followed),
            ahead: Arc::clone(&self.ahead),
            recorder: OnceLock::new(),
            streams: [const { AtomicU64::new(u64::MAX) }; STREAMS],
            next_stream: AtomicUsize::new(0),
        }
    }

    /// Whether there is a trace of a boot.
    pub fn is_traced(&self) -> bool {
        self.trace.is_some()
    }

    pub fn digest(&self) -> &DiskDigest {
        self.disk.digest()
    }

    /// From now on notes what is read, for [`ServedDisk::recorded`].
    pub fn record(&self) {
        self.recorder.get_or_init(TraceRecorder::new);
    }

    /// What has been read since [`ServedDisk::record`], in the order in which it was first read.
    pub fn recorded(&self) -> Trace {
        self.recorder
            .get()
            .map(TraceRecorder::trace)
            .unwrap_or_default()
    }

    /// Notes a read, and has what follows loaded if it goes on where another one ended.
    fn note(&self, offset: u64, len: usize) {
        let end = offset + len as u64;
        if let Some(recorder) = self.recorder.get() {
            recorder.note(offset, len as u64);
        }
        let known = self.streams.iter().find(|stream| {
            stream
                .compare_exchange(offset, end, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        });
        if known.is_none() {
            let number = self.next_stream.fetch_add(1, Ordering::Relaxed) % STREAMS;
            self.streams[number].store(end, Ordering::Relaxed);
        } else if offset / WINDOW != end / WINDOW {
            let block = BLOCK_SIZE as u64;
            let start = (end / WINDOW + 1) * WINDOW / block;
            let blocks = start..start + WINDOW / block;
            self.ahead.submit(&self.disk, [blocks].into(), u64::MAX);
        }
    }
}

impl ReadAt for ServedDisk {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.disk.read_at(offset, buf)?;
        self.note(offset, buf.len());
        Ok(())
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        self.disk.next_data(offset)
    }
}

impl Export for ServedDisk {
    fn description(&self) -> String {
        self.digest().to_string()
    }

    fn read_ready(&self, offset: u64, buf: &mut [u8]) -> bool {
        let is_ready = self.disk.read_ready(offset, buf);
        if is_ready {
            self.note(offset, buf.len());
        }
        is_ready
    }

    /// Who comes later finds in the cache what the first one had loaded.
    fn attached(&self) {
        if let Some(trace) = &self.trace
            && !self.is_followed.swap(true, Ordering::Relaxed)
        {
            self.ahead.follow(&self.disk, trace);
        }
    }

    fn load(&self, offset: u64, len: u64) -> io::Result<()> {
        let block = BLOCK_SIZE as u64;
        self.disk
            .load_ahead(iter::once(offset / block..(offset + len).div_ceil(block)));
        Ok(())
    }
}
