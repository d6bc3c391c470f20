//! The daemon: HTTPS, OAuth endpoints and the ARM operation table over the catalog, the jobs and the factory.
//!
//! Only this crate knows the HTTP framework. It decides who may do what to which resource and says so in
//! Azure's shapes; what a build does is the factory's, what a disk holds is the store's.

mod data;
mod net;
mod options;

pub use options::{OptionsError, ServeOptions};
