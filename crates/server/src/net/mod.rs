//! Bytes to requests: certificates, the TLS listener and its limits.
//!
//! Must not know ARM, OAuth or any route; it hands each request to the service it was given.

pub mod listen;
pub mod stall;
pub mod tls;
