//! One claim of one job: what its runner and its steps share, and what it writes while it runs.
//!
//! Log lines and progress are gathered and written in batches, beside the heartbeat. Losing the last batch in a crash
//! is accepted; losing a step is not, and steps are not written here.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use catalog::{
    Asked, AuthStore, CatalogError, Clock, JobRow, JobStore, Lease, StepProgress, later,
};
use jiff::Timestamp;
use tokio::sync::Notify;

use crate::cancel::{Cancel, CancelSource};
use crate::faults::{Fate, Faults, Point};
use crate::reconcile::Chain;
use crate::runner::Core;

/// A job whose runner is silent for this long is anybody's.
pub(crate) const LEASE: Duration = Duration::from_secs(60);
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How long lines are gathered before they are written.
const FLUSH_DELAY: Duration = Duration::from_millis(200);
/// Lines gathered at most; more are counted and dropped.
const BUFFER_LINES_MAX: usize = 5000;

/// What everything that works on one claim shares.
pub(crate) struct Session {
    pub core: Arc<Core>,
    pub lease: Lease,
    pub job: JobRow,
    pub cancel: Arc<CancelSource>,
    pub canceled: Cancel,
    buffer: Mutex<Buffer>,
    wake: Notify,
    /// Batches are written one after the other, in the order in which they were taken.
    flushing: tokio::sync::Mutex<()>,
    abort: Mutex<Option<Abort>>,
}

/// Why a run ends before the job does, whatever its code makes of the error that it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Abort {
    Canceled,
    Interrupted,
    Lost,
    /// A step is to be tried again.
    Retry(Timestamp),
}

#[derive(Default)]
struct Buffer {
    lines: Vec<String>,
    dropped: u64,
    progress: Option<(u32, StepProgress)>,
    progress_is_new: bool,
}

impl Session {
    pub fn new(core: Arc<Core>, lease: Lease, job: JobRow) -> Session {
        let cancel = Arc::new(CancelSource::new());
        if job.cancel_asked {
            cancel.raise();
        }
        Session {
            core,
            lease,
            job,
            canceled: cancel.token(),
            cancel,
            buffer: Mutex::default(),
            wake: Notify::new(),
            flushing: tokio::sync::Mutex::default(),
            abort: Mutex::default(),
        }
    }

    pub fn jobs(&self) -> &dyn JobStore {
        self.core.jobs.as_ref()
    }

    pub fn auth(&self) -> &dyn AuthStore {
        self.core.auth.as_ref()
    }

    pub fn clock(&self) -> &dyn Clock {
        self.core.clock.as_ref()
    }

    pub fn fate(&self, point: Point) -> Fate {
        #[cfg(feature = "halt")]
        crate::halt::at(&self.job.kind, point);
        let faults: &dyn Faults = self.core.faults.as_ref();
        faults.at(point)
    }

    /// The first reason stands.
    pub fn abort(&self, why: Abort) {
        lock(&self.abort).get_or_insert(why);
    }

    pub fn aborted(&self) -> Option<Abort> {
        *lock(&self.abort)
    }

    pub fn log(&self, line: String) {
        let mut buffer = lock(&self.buffer);
        if buffer.lines.len() < BUFFER_LINES_MAX {
            buffer.lines.push(line);
        } else {
            buffer.dropped += 1;
        }
        drop(buffer);
        self.wake.notify_one();
    }

    pub fn show(&self, seq: u32, change: impl FnOnce(&mut StepProgress)) {
        let mut buffer = lock(&self.buffer);
        if buffer
            .progress
            .as_ref()
            .is_none_or(|(shown, _)| *shown != seq)
        {
            buffer.progress = Some((seq, StepProgress::default()));
        }
        if let Some((_, progress)) = &mut buffer.progress {
            change(progress);
        }
        buffer.progress_is_new = true;
        drop(buffer);
        self.wake.notify_one();
    }

    /// Forgets what an earlier attempt of a step showed.
    pub fn show_nothing(&self) {
        let mut buffer = lock(&self.buffer);
        buffer.progress = None;
        buffer.progress_is_new = false;
    }

    /// Writes what was gathered.
    pub async fn flush(&self) -> Result<(), CatalogError> {
        let _turn = self.flushing.lock().await;
        let (lines, progress) = self.take();
        if !lines.is_empty() {
            self.jobs().append_log(&self.lease, &lines).await?;
        }
        if let Some((seq, progress)) = progress {
            self.jobs()
                .step_progress(&self.lease, seq, &progress)
                .await?;
        }
        Ok(())
    }

    fn take(&self) -> (Vec<String>, Option<(u32, StepProgress)>) {
        let mut buffer = lock(&self.buffer);
        let mut lines = std::mem::take(&mut buffer.lines);
        let dropped = std::mem::take(&mut buffer.dropped);
        if dropped > 0 {
            lines.push(format!(
                "({dropped} lines came faster than they could be kept)"
            ));
        }
        let new = std::mem::take(&mut buffer.progress_is_new);
        (lines, buffer.progress.clone().filter(|_| new))
    }

    /// Keeps the lease and writes batches; returns when the lease is lost.
    pub async fn pulse(&self) {
        let mut lease_until = later(self.clock().now(), LEASE);
        loop {
            let beat_at = later(self.clock().now(), HEARTBEAT);
            self.flush_until(beat_at).await;
            match self.jobs().heartbeat(&self.lease, LEASE).await {
                Ok(asked) => {
                    lease_until = later(self.clock().now(), LEASE);
                    if asked == Asked::Stop {
                        self.cancel.raise();
                    }
                }
                Err(CatalogError::LeaseLost { .. }) => return,
                Err(error) => {
                    tracing::warn!(job = %self.job.id, error = %Chain(&error), "heartbeat failed");
                    if self.clock().now() >= lease_until {
                        return;
                    }
                }
            }
        }
    }

    async fn flush_until(&self, deadline: Timestamp) {
        loop {
            tokio::select! {
                () = self.clock().sleep_until(deadline) => return,
                () = self.wake.notified() => {}
            }
            let gathered = later(self.clock().now(), FLUSH_DELAY).min(deadline);
            self.clock().sleep_until(gathered).await;
            if let Err(error) = self.flush().await {
                tracing::warn!(job = %self.job.id, error = %Chain(&error), "writing the job's log failed");
            }
        }
    }
}

/// A panic while a lock of ours is held leaves nothing half done: what is behind them is plain data.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
