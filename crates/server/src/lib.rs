//! The daemon: HTTPS, OAuth endpoints and the ARM operation table over the catalog, the jobs and the factory.
//!
//! Only this crate knows the HTTP framework. It decides who may do what to which resource and says so in
//! Azure's shapes; what a build does is the factory's, what a disk holds is the store's.

mod activity;
mod admin_consent;
mod advisories;
mod app;
mod assertions;
mod attempts;
mod audit;
mod banner;
mod bearer;
mod blobs;
mod body;
mod data;
mod directory;
mod dispatch;
mod doctor;
mod enforcement;
mod engine;
mod errors;
mod exchange;
mod filter;
mod graph;
mod hierarchy;
mod import;
mod issuers;
mod limits;
mod machine_tokens;
mod managed;
mod metadata;
mod net;
mod oauth;
mod openapi;
mod operation;
mod options;
mod patch;
mod path;
mod people;
mod production;
mod publish;
mod rates;
mod removal;
mod resources;
mod sign_in;
mod sinks;
mod start;
mod state;
mod storage;
mod table;
#[cfg(test)]
mod tests;
mod tokens;
mod work;

pub use audit::{
    AuditError, Proof, export as export_activity, send as send_activity, verify as verify_activity,
};
pub use doctor::{Check, doctor};
pub use factory::build::sandbox::{SANDBOX_ARGUMENT, enter as enter_sandbox};
pub use factory::import::fixed_footer;
pub use options::{OptionsError, ServeOptions};
pub use sinks::{SinkAddress, SinkAddressError};
pub use start::{Running, ServeError, serve, start};
