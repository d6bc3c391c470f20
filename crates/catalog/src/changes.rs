//! The feed of changes: which resources were written or removed, in the order in which that was committed.
//!
//! For what is kept current beside the resources, such as the states of policies. It says that something happened to a
//! resource, never what; whoever wants to know reads it. It spans all tenants and is no way to read for a caller.

use async_trait::async_trait;
use tokio::sync::watch;
use wire::{ResourceId, TenantId};

use crate::error::Result;

/// The most that one look at the feed answers.
pub const CHANGES_MAX: usize = 1000;

/// The feed, for reconcilers inside the server alone.
#[async_trait]
pub trait ChangeFeed: Send + Sync {
    /// The number of the newest change; 0 before the first.
    async fn latest_change(&self) -> Result<u64>;
    /// The changes after that number, at most `limit` and at most [`CHANGES_MAX`].
    async fn changes_after(&self, after: u64, limit: usize) -> Result<Changes>;
    /// Wakes after each commit of this process that wrote a resource.
    fn wakeups(&self) -> watch::Receiver<u64>;
}

/// What the feed has after a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changes {
    /// In order and without a gap; empty where there are none.
    Next(Vec<Change>),
    /// Some are gone by now, or the number is of another database: look at everything, then go on after `latest`.
    Lost { latest: u64 },
}

/// A resource was written, or is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub seq: u64,
    pub tenant: TenantId,
    pub id: ResourceId,
    pub what: ChangeKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    Written,
    Removed,
}
