//! Time as an input: the system's clock and a hand-turned one for tests.
//!
//! Everything in `catalog` and `jobs` that asks "what time is it" or "wait" goes through [`Clock`], so that leases
//! expire and backoffs end in a test without anybody waiting. Nothing here knows what the time is used for.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::watch;

/// What time it is, and how to wait for a later one.
#[async_trait]
pub trait Clock: Send + Sync + 'static {
    fn now(&self) -> Timestamp;
    /// Returns as soon as `now()` is at or past `deadline`.
    async fn sleep_until(&self, deadline: Timestamp);
}

/// Adds without overflow: a lease that never ends is better than a panic in the year 9999.
pub fn later(now: Timestamp, by: Duration) -> Timestamp {
    now.checked_add(by).unwrap_or(Timestamp::MAX)
}

/// The clock of the machine we run on.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

#[async_trait]
impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    async fn sleep_until(&self, deadline: Timestamp) {
        let left = Duration::try_from(deadline.duration_since(self.now())).unwrap_or_default();
        tokio::time::sleep(left).await;
    }
}

/// A clock that stands still until a test moves it.
#[derive(Clone, Debug)]
pub struct ManualClock {
    now: Arc<watch::Sender<Timestamp>>,
}

impl ManualClock {
    pub fn starting_at(now: Timestamp) -> ManualClock {
        ManualClock {
            now: Arc::new(watch::Sender::new(now)),
        }
    }

    /// Moves time forward and wakes whoever waited for it.
    pub fn advance(&self, by: Duration) {
        self.now.send_modify(|now| *now = later(*now, by));
    }
}

impl Default for ManualClock {
    /// An arbitrary but fixed instant, the same in every test.
    fn default() -> ManualClock {
        ManualClock::starting_at(Timestamp::constant(1_790_000_000, 0))
    }
}

#[async_trait]
impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *self.now.borrow()
    }

    async fn sleep_until(&self, deadline: Timestamp) {
        let mut seen = self.now.subscribe();
        // The sender lives in `self`, so the wait ends by time alone.
        let _ = seen.wait_for(|now| *now >= deadline).await;
    }
}
