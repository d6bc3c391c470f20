//! Stored disks as they are handed to machines: read without copying them first, and written to on
//! top. What carries them there is the `nbd` crate.
//!
//! All disks of a process share one cache of frames and the threads that read ahead. Who may have a
//! disk was decided before.

mod ahead;
mod disk;
mod overlay;
mod trace;

use std::io;
use std::sync::Arc;

use ::disk::DiskDigest;

use crate::cache::{CacheStats, DEFAULT_CACHE_BYTES, FrameCache};
use crate::error::StoreError;
use crate::source::FrameSource;
use crate::view::StoredDisk;

use ahead::Ahead;
pub use disk::ServedDisk;
pub use overlay::{Overlay, OverlayError};
pub(crate) use trace::{MAX_TRACE_BYTES, TRACES, check_trace, trace_name};
pub use trace::{Trace, TraceRecorder};

/// Threads that read ahead; one follows boot traces while another follows a copy.
const AHEAD_THREADS: usize = 2;

/// What the served disks of a process share.
pub struct Serving {
    cache: Arc<FrameCache>,
    ahead: Arc<Ahead>,
}

impl std::fmt::Debug for Serving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Serving").field(&self.cache).finish()
    }
}

impl Serving {
    /// With a cache of the usual size.
    pub fn new() -> io::Result<Serving> {
        Serving::with_cache(DEFAULT_CACHE_BYTES)
    }

    /// With a cache of so many bytes.
    pub fn with_cache(bytes: u64) -> io::Result<Serving> {
        Ok(Serving {
            cache: Arc::new(FrameCache::new(bytes)),
            ahead: Arc::new(Ahead::start(AHEAD_THREADS)?),
        })
    }

    /// A disk, ready to be served. Its boot trace, if there is one, is followed when the first
    /// client comes.
    pub fn disk(
        &self,
        source: &Arc<dyn FrameSource>,
        digest: &DiskDigest,
    ) -> Result<ServedDisk, StoreError> {
        let disk = StoredDisk::open(Arc::clone(source), digest, &self.cache)?;
        let trace = source.trace(digest);
        Ok(ServedDisk::new(disk, trace, Arc::clone(&self.ahead)))
    }

    pub fn stats(&self) -> CacheStats {
        self.cache.stats()
    }

    /// Waits until nothing is left to be read ahead.
    pub fn wait_ahead(&self) {
        self.ahead.wait();
    }
}
