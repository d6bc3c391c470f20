//! What every backend must do: one suite, run against each.
//!
//! Each case takes an empty catalog. It uses the public traits alone, so it knows no SQL.

mod auth;
mod jobs;
mod resources;
mod world;

use crate::auth::AuthStore;
use crate::clock::ManualClock;
use crate::jobs::JobStore;
use crate::resource::Catalog;

/// A backend under test.
pub trait Backend: Catalog + AuthStore + JobStore {}

impl<T: Catalog + AuthStore + JobStore> Backend for T {}

/// Runs every case. `fresh` makes an empty backend on the clock that it is given.
pub async fn run<B: Backend>(fresh: impl AsyncFn(ManualClock) -> B) {
    resources::run(&fresh).await;
    auth::run(&fresh).await;
    jobs::run(&fresh).await;
}
