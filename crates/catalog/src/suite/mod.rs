//! What every backend must do: one suite, run against each.
//!
//! Each case takes an empty catalog. It uses the public traits alone, so it knows no SQL; but for what a release before
//! wrote.

mod activity;
mod auth;
mod changes;
mod copies;
mod earlier;
mod jobs;
mod policy_states;
#[cfg(feature = "postgres-tests")]
mod postgres;
mod resources;
mod rights;
mod rounds;
mod statements;
mod world;

pub use crate::backend::Backend;
use crate::clock::ManualClock;
pub use copies::copies;
pub use earlier::{BEFORE_VERSIONS_BY_DISK, OLD_VERSION, the_old_version_is_found};
#[cfg(feature = "postgres-tests")]
pub use postgres::{POSTGRES, fresh_postgres};

/// Runs every case. `fresh` makes an empty backend on the clock that it is given.
pub async fn run<B: Backend>(fresh: impl AsyncFn(ManualClock) -> B) {
    resources::run(&fresh).await;
    activity::run(&fresh).await;
    auth::run(&fresh).await;
    rights::run(&fresh).await;
    jobs::run(&fresh).await;
    changes::run(&fresh).await;
    rounds::run(&fresh).await;
    policy_states::run(&fresh).await;
    statements::run(&fresh).await;
}
