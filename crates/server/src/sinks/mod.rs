//! The activity log on its way to other programs: receivers that speak syslog or OTLP, and what is sent to them.
//!
//! A line counts as sent when the receiver has confirmed it, as far as its protocol can; what was not is sent again, so
//! lines may arrive twice and are told apart by server and number. How a receiver is spoken to is in [`syslog`] and
//! [`otlp`], when in [`stream`]. Nothing here may hold up a request or change the log.

mod address;
mod otlp;
mod record;
pub mod stream;
mod syslog;
#[cfg(test)]
mod tests;
mod trust;

use std::time::Duration;

pub use address::{SinkAddress, SinkAddressError};
pub use record::Record;

/// Of one batch, to the receiver's confirmation.
const SEND_DEADLINE: Duration = Duration::from_secs(30);
/// Receivers of one server.
pub const SINKS_MAX: usize = 8;

/// Why a receiver cannot be used at all: something must be configured anew.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    #[error("cannot use {path} for the receiver {sink}")]
    File {
        sink: String,
        path: String,
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("cannot set up TLS for the receiver {sink}")]
    Tls {
        sink: String,
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Why a batch did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    #[error("the receiver cannot be reached")]
    Connect(#[source] std::io::Error),
    #[error("the connection ended before the receiver had all of it")]
    CutOff(#[source] std::io::Error),
    #[error("the receiver did not confirm in time")]
    Hangs,
    #[error("the receiver cannot be asked")]
    Http(#[source] reqwest::Error),
    #[error("the receiver answered with the status {status}")]
    Status {
        status: u16,
        /// How long it asks to be left alone.
        pause: Option<Duration>,
    },
    /// Sending the same again cannot help.
    #[error("the receiver does not take this: it answered with the status {0}")]
    Refused(u16),
}

/// One receiver, ready to be sent to.
pub struct Sink {
    way: Way,
    deadline: Duration,
}

enum Way {
    Syslog(syslog::Syslog),
    Otlp(otlp::Otlp),
}

impl Sink {
    /// Reads the files that the address names; connects to nothing.
    pub fn new(address: &SinkAddress) -> Result<Sink, SinkError> {
        let way = match address.protocol() {
            address::Protocol::Otlp => Way::Otlp(otlp::Otlp::new(address)?),
            _ => Way::Syslog(syslog::Syslog::new(address)?),
        };
        Ok(Sink {
            way,
            deadline: SEND_DEADLINE,
        })
    }

    /// Sends records in their order. Without an error the receiver has all of them; with one, it may have some.
    pub async fn send(&self, records: &[Record]) -> Result<(), SendError> {
        let sent = async {
            match &self.way {
                Way::Syslog(syslog) => syslog.send(records).await,
                Way::Otlp(otlp) => otlp.send(records).await,
            }
        };
        tokio::time::timeout(self.deadline, sent)
            .await
            .unwrap_or(Err(SendError::Hangs))
    }
}
