//! Places at which a test may make a job fail or its runner die.
//!
//! In service nothing is installed here and every place goes on.

/// A moment in a job's life between two writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// The step is journaled as started; its action has not begun.
    BeforeAction(u32),
    /// The action is done; the journal does not say so yet.
    AfterAction(u32),
    /// The journal says so.
    AfterStep(u32),
    BeforeUndo(u32),
    /// The undo is done; the journal does not say so yet.
    AfterUndo(u32),
    /// The job's last word on its resource is written; its row does not say that it ended.
    AfterSettle,
}

/// What happens there.
#[cfg_attr(
    not(any(test, feature = "testing")),
    allow(dead_code, reason = "only tests bring faults")
)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    GoOn,
    /// The action counts as failed.
    Fail,
    /// The process is gone, as by `kill -9`: nothing is written any more, and the lease is not given back.
    Die,
}

pub trait Faults: Send + Sync {
    fn at(&self, point: Point) -> Fate;
}

/// No faults.
pub(crate) struct None;

impl Faults for None {
    fn at(&self, _: Point) -> Fate {
        Fate::GoOn
    }
}
