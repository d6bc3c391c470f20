//! A process that is not our child, named so that a recycled id is never taken for it: its id and
//! the clock tick at which it started. It must not start anything.

use crate::ProcessError;
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::io;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The unit of times in `/proc`, fixed for all programs whatever the kernel's own tick is.
const TICKS_PER_SECOND: f64 = 100.0;

/// Identity of a running process: survives our restart (store the two numbers), does not survive
/// the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProcessId {
    /// Process id.
    pub pid: u32,
    /// Ticks after boot at which it started (`/proc/<pid>/stat`, field 22).
    pub start_ticks: u64,
}

impl ProcessId {
    /// The process that has this id now, if it lives.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
        let start_ticks = start_ticks(&stat)?;
        Some(Self { pid, start_ticks })
    }

    /// Whether exactly this process lives (a zombie does not).
    #[must_use]
    pub fn is_alive(&self) -> bool {
        Self::of(self.pid) == Some(*self)
    }

    /// How long ago it started, to a hundredth of a second. Counts on when it has ended.
    #[must_use]
    pub fn age(&self) -> Duration {
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
        let uptime = uptime.split(' ').next().and_then(|text| text.parse().ok());
        let started = self.start_ticks as f64 / TICKS_PER_SECOND;
        Duration::from_secs_f64((uptime.unwrap_or(started) - started).max(0.0))
    }

    /// Ends it at once, and waits until it is gone. Nothing happens when it is gone already.
    ///
    /// # Errors
    /// [`ProcessError::Signal`], for example when it belongs to another user.
    pub async fn kill(&self) -> Result<(), ProcessError> {
        let Some(handle) = self.open()? else {
            return Ok(());
        };
        match pidfd_send_signal(&handle, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => self.wait_on(handle).await,
            Err(error) => Err(self.failed(error.into())),
        }
    }

    /// Waits until it is gone.
    ///
    /// # Errors
    /// [`ProcessError::Signal`] when the kernel gives no handle to it.
    pub async fn gone(&self) -> Result<(), ProcessError> {
        match self.open()? {
            Some(handle) => self.wait_on(handle).await,
            None => Ok(()),
        }
    }

    /// The handle is taken first and the identity compared after, so it cannot change in between.
    fn open(&self) -> Result<Option<OwnedFd>, ProcessError> {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else {
            return Ok(None);
        };
        match pidfd_open(pid, PidfdFlags::NONBLOCK) {
            Ok(handle) => Ok(self.is_alive().then_some(handle)),
            Err(rustix::io::Errno::SRCH) => Ok(None),
            Err(error) => Err(self.failed(error.into())),
        }
    }

    async fn wait_on(&self, handle: OwnedFd) -> Result<(), ProcessError> {
        // SAFETY: the handle owns its descriptor, gives out the same one each time, and keeps it
        // open until the registration is dropped with it.
        #[allow(unsafe_code)]
        let handle = unsafe { AsyncFd::register_with_interest(handle, Interest::READABLE) };
        let handle = handle.map_err(|error| self.failed(error.into()))?;
        let ready = handle.readable().await;
        ready.map(drop).map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> ProcessError {
        ProcessError::Signal {
            pid: self.pid,
            source,
        }
    }
}

fn start_ticks(stat: &[u8]) -> Option<u64> {
    let close = stat.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(stat.get(close + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    // Field 3 of the file is the first here; the start time is field 22.
    let state = fields.next()?;
    if matches!(state, "Z" | "X" | "x") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_start_and_refuses_the_dead() {
        let check = |stat: &[u8], expected| assert_eq!(start_ticks(stat), expected);
        let rest = b" 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20";
        check(&[b"7 (x) y) S", &rest[..]].concat(), Some(4242));
        check(&[b"7 (x) Z", &rest[..]].concat(), None);
        check(b"7 (x) S 1 2", None);
        check(b"", None);
    }

    #[test]
    fn a_recycled_id_is_another_process() {
        let me = ProcessId::of(std::process::id()).unwrap();
        assert!(me.is_alive());
        assert!(me.age() < Duration::from_secs(3600));
        let other = ProcessId {
            start_ticks: me.start_ticks + 1,
            ..me
        };
        assert!(!other.is_alive());
    }
}
