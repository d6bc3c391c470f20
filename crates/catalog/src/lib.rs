//! Metadata: resources, the records that authorisation reads, and durable jobs, in one database.
//!
//! The only crate that knows SQL. It stores and finds; it decides no right (a [`access::Permit`] says what was
//! decided, and every read and write takes its scope from one), interprets no body and runs no job.

mod activity;
mod auth;
mod backend;
mod changes;
mod clock;
mod error;
mod jobs;
mod pages;
mod policy_states;
mod postgres;
mod resource;
mod rounds;
mod sql;
mod sqlite;
mod statements;
#[cfg(any(test, feature = "suite"))]
pub mod suite;

pub use activity::*;
pub use auth::*;
pub use backend::Backend;
pub use changes::*;
pub use clock::{Clock, ManualClock, SystemClock, later};
pub use error::{CatalogError, Fault, Result};
pub use jobs::*;
pub use pages::Pages;
pub use policy_states::*;
pub use postgres::{Place, PlaceError, PostgresCatalog, PostgresEngine};
pub use resource::*;
pub use rounds::{Position, Reading, Round, Stretch};
pub use sql::SqlCatalog;
pub use sqlite::{FileAccess, SqliteCatalog, SqliteEngine, SqliteOptions};
pub use statements::*;
