//! The client commands of `bullion`.
//!
//! They speak HTTPS to the server like any other client and know nothing of it but the wire. What
//! they take from their surroundings comes through [`io::Io`]; nothing else is read or printed.

mod api;
pub mod args;
pub mod client;
mod commands;
pub mod error;
pub mod factory;
pub mod io;
pub mod plan;
pub mod profile;
pub mod progress;

pub use commands::run;
