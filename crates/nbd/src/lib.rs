//! Disks as network block devices: a server of the NBD protocol, and a small client for tests.
//!
//! Fixed newstyle negotiation, TLS by STARTTLS, structured replies, block status of
//! `base:allocation`, several connections to one disk. Clients are strangers: every length, count
//! and time that they choose has a limit here. This crate must not know what a disk is made of;
//! that is behind [`Export`].
//!
//! Threads, not tasks: disks are read with blocking calls. One thread for each connection answers
//! what is in memory at once, and a pool shared by all does what must wait.

mod client;
mod export;
#[doc(hidden)]
pub mod fuzzing;
mod handshake;
mod link;
mod pool;
mod protocol;
mod server;
mod session;
mod tls;

pub use client::{Client, ClientError, RemoteDisk, Status};
pub use export::{Export, ExportMap, Exports};
pub use protocol::{MAX_PAYLOAD, NbdError};
pub use server::{Listen, Options, ServeError, Server, Tls};
pub use tls::TlsError;
