//! Work without input: what is there is compared with what is wanted, again and again.
//!
//! After a restart there is no input to remember, so a reconciler has none; it must be idempotent.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use catalog::{Clock, later};
use tokio::sync::Notify;

use crate::cancel::Cancel;

#[async_trait]
pub trait Reconciler: Send + Sync + 'static {
    /// Its name, for nudges and logs.
    fn name(&self) -> &'static str;
    /// The longest that it rests.
    fn period(&self) -> Duration;
    /// One pass. Should look at `stop` between pieces of work.
    async fn reconcile(
        &self,
        stop: &Cancel,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;
}

/// Passes until told to stop: at once, then after each period or nudge. A failed pass is logged and the next one
/// comes in its time.
pub(crate) async fn run(
    reconciler: Arc<dyn Reconciler>,
    clock: Arc<dyn Clock>,
    nudge: Arc<Notify>,
    stop: Cancel,
) {
    while !stop.is_raised() {
        if let Err(error) = reconciler.reconcile(&stop).await {
            tracing::warn!(reconciler = reconciler.name(), error = %Chain(error.as_ref()), "reconciling failed");
        }
        let next = later(clock.now(), reconciler.period());
        tokio::select! {
            () = clock.sleep_until(next) => {}
            () = nudge.notified() => {}
            () = stop.raised() => {}
        }
    }
}

/// An error with its causes, on one line.
pub(crate) struct Chain<'a>(pub &'a (dyn std::error::Error + 'static));

/// Causes shown of one error.
const CAUSES_MAX: usize = 16;

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let causes = std::iter::successors(self.0.source(), |error| error.source());
        causes
            .take(CAUSES_MAX)
            .try_for_each(|cause| write!(f, ": {cause}"))
    }
}
