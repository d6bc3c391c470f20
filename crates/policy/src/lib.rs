//! Azure Policy's language: definitions compiled once, evaluated for resources, and explained.
//!
//! This crate computes. It opens no file and no socket and reads no clock: documents, aliases, resources,
//! related resources and "now" are given by the caller, so that the same code answers a unit test without
//! a server and a request inside of one. What is supported, and what Bullion does where Azure's
//! documentation is silent, is in `docs/POLICY.md`.

pub mod alias;
pub mod applies;
pub mod case;
pub mod condition;
pub mod definition;
pub mod effect;
pub mod error;
pub mod evaluate;
pub mod existence;
pub mod expr;
pub mod field;
pub mod json;
pub mod operator;
pub mod parameters;
pub mod request;
pub mod scan;
pub mod scope;
pub mod verdict;
pub mod version;

pub use alias::Aliases;
pub use definition::{Compiled, Definition, Initiative, compile};
pub use error::{EvaluationError, Fault};
