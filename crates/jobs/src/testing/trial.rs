//! What a kind of job brings to be tested.

use std::sync::Arc;

use access::Permit;
use async_trait::async_trait;
use catalog::{JobRow, ManualClock, SqliteCatalog};

use crate::kind::JobKind;

/// A world in which one kind of job can be run, and looked at.
#[async_trait]
pub trait Trial: Send + Sync {
    type Kind: JobKind;

    /// The kind, made anew for each runner: what it keeps in memory does not survive a death, what it keeps in the
    /// world does.
    fn kind(&self) -> Self::Kind;
    fn input(&self) -> <Self::Kind as JobKind>::Input;
    /// As whom and where the job is submitted and read.
    fn permit(&self) -> Permit;
    /// In memory, on the clock of the world.
    fn catalog(&self) -> Arc<SqliteCatalog>;
    fn clock(&self) -> ManualClock;

    /// The job's effects are there, once each.
    async fn check_done(&self, job: &JobRow);
    /// The world is as if the job had never been; only its record says so.
    async fn check_undone(&self, job: &JobRow);
}
