//! Durable work: jobs of steps with undo, claimed by lease and heartbeat; and reconcilers.
//!
//! A job is someone's request that ends; its steps are journaled, so that whoever claims it after a crash goes on from
//! the last one that finished, and takes back in reverse what was done when it fails. A reconciler takes no input and
//! runs on a period and on a nudge. What any step does is not known here.

mod cancel;
mod context;
mod error;
mod faults;
#[cfg(feature = "halt")]
mod halt;
mod key;
mod kind;
mod reconcile;
mod report;
mod runner;
mod submit;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod work;

#[cfg(test)]
mod tests;

pub use cancel::{Cancel, CancelSource};
pub use catalog::{
    Clock, JobFailure, JobId, JobRow, JobState, ManualClock, Outcome, Requester, StepHow, StepKey,
    StepRow, StepState, SystemClock,
};
pub use context::{Done, JobContext, OnUndo, StepHandle};
pub use error::{JobError, StepError};
pub use key::step_key;
pub use kind::{JobKind, NoUndo};
pub use reconcile::Reconciler;
pub use runner::{Runner, RunnerBuilder};
pub use submit::{Jobs, Submit};
