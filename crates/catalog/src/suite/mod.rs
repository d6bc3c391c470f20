//! What every backend must do: one suite, run against each.
//!
//! Each case takes an empty catalog. It uses the public traits alone, so it knows no SQL.

mod auth;
mod changes;
mod jobs;
mod policy_states;
mod resources;
mod world;

use crate::auth::AuthStore;
use crate::changes::ChangeFeed;
use crate::clock::ManualClock;
use crate::jobs::JobStore;
use crate::policy_states::PolicyStates;
use crate::resource::Catalog;

/// A backend under test.
pub trait Backend: Catalog + AuthStore + JobStore + ChangeFeed + PolicyStates {}

impl<T: Catalog + AuthStore + JobStore + ChangeFeed + PolicyStates> Backend for T {}

/// Runs every case. `fresh` makes an empty backend on the clock that it is given.
pub async fn run<B: Backend>(fresh: impl AsyncFn(ManualClock) -> B) {
    resources::run(&fresh).await;
    auth::run(&fresh).await;
    jobs::run(&fresh).await;
    changes::run(&fresh).await;
    policy_states::run(&fresh).await;
}
