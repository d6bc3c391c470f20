//! The client commands of `bullion`. They speak HTTPS like any other client.

pub mod factory;
