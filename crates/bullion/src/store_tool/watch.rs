//! What all long commands of a store have in common: Ctrl-C, a line that moves, and what it cost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use cli::io::Io;
use cli::progress::Progress;
use disk::ReadAt;
use signal_hook::consts::SIGINT;

use crate::offline::Failure;

const MIB: u64 = 1 << 20;

/// Looks whether the user wants to stop, and shows how far the work is.
pub(super) struct Watch {
    stop: Arc<AtomicBool>,
    progress: Progress,
    what: String,
    total: u64,
    /// In MiB; the line is changed only when this does.
    shown: AtomicU64,
}

impl Watch {
    /// `total` is in bytes.
    pub(super) fn start(io: &Io, what: impl Into<String>, total: u64) -> Result<Watch, Failure> {
        let stop = Arc::new(AtomicBool::new(false));
        // The order matters: the second Ctrl-C ends the program, because the first has set the flag.
        signal_hook::flag::register_conditional_default(SIGINT, Arc::clone(&stop))
            .and_then(|_| signal_hook::flag::register(SIGINT, Arc::clone(&stop)))
            .map_err(|error| Failure::new("cannot watch for Ctrl-C", error))?;
        let watch = Watch {
            stop,
            progress: Progress::start(io),
            what: what.into(),
            total,
            shown: AtomicU64::new(u64::MAX),
        };
        watch.at(0);
        Ok(watch)
    }

    /// So many bytes are done; `false` if the user wants to stop.
    pub(super) fn at(&self, bytes: u64) -> bool {
        let now = bytes / MIB;
        if self.shown.swap(now, Ordering::Relaxed) != now {
            let total = self.total / MIB;
            self.progress
                .show(format!("{}: {now} of {total} MiB", self.what));
        }
        !self.stop.load(Ordering::Relaxed)
    }
}

/// Processor time of this process so far, in seconds.
pub(super) fn cpu_seconds() -> f64 {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let seconds = spent.tv_sec as f64 + spent.tv_nsec as f64 / 1e9;
    (seconds * 1000.0).round() / 1000.0
}

/// Counts what is read of a file.
pub(super) struct Counted<D> {
    disk: D,
    read: Arc<AtomicU64>,
}

impl<D> Counted<D> {
    /// With the count, which stays readable when the disk is given away.
    pub(super) fn new(disk: D) -> (Counted<D>, Arc<AtomicU64>) {
        let read = Arc::new(AtomicU64::new(0));
        let counted = Counted {
            disk,
            read: Arc::clone(&read),
        };
        (counted, read)
    }
}

impl<D: ReadAt> ReadAt for Counted<D> {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        self.read.fetch_add(buf.len() as u64, Ordering::Relaxed);
        self.disk.read_at(offset, buf)
    }

    fn next_data(&self, offset: u64) -> std::io::Result<Option<std::ops::Range<u64>>> {
        self.disk.next_data(offset)
    }
}
