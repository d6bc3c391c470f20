//! Where a receiver is: one line of configuration. Reads no file and resolves no name.
//!
//! `syslog+udp://HOST[:514]` (or `syslog://`), `syslog+tcp://HOST[:601]`, `syslog+tls://HOST[:6514]`, `syslog+unix:///dev/log`,
//! `otlp+http://HOST[:4318][/v1/logs]`, `otlp+https://…`. Files follow as `?ca=FILE&identity=FILE&headers=FILE`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Deserialize;
use url::Url;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SinkAddressError {
    #[error("'{0}' is not an address of a receiver")]
    Form(String),
    #[error(
        "'{0}' is no protocol of receivers; these are: syslog+udp, syslog+tcp, syslog+tls, syslog+unix, otlp+http, otlp+https"
    )]
    Protocol(String),
    #[error(
        "the address of a receiver holds no user or password; headers belong in a file: ?headers=FILE"
    )]
    Secret,
    #[error("'{0}' names no host")]
    NoHost(String),
    #[error("'{name}' is no setting of {protocol}")]
    Setting {
        name: String,
        protocol: &'static str,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Udp,
    Tcp,
    Tls,
    Unix,
    Otlp,
}

/// Shows as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct SinkAddress {
    text: String,
    protocol: Protocol,
    host: String,
    port: u16,
    /// Of the socket; for OTLP, where logs are posted.
    path: String,
    ca: Option<PathBuf>,
    identity: Option<PathBuf>,
    headers: Option<PathBuf>,
}

impl fmt::Display for SinkAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl TryFrom<String> for SinkAddress {
    type Error = SinkAddressError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl FromStr for SinkAddress {
    type Err = SinkAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (scheme, _) = text
            .split_once("://")
            .ok_or_else(|| SinkAddressError::Form(text.to_owned()))?;
        let (protocol, port) = match scheme {
            "syslog" | "syslog+udp" => (Protocol::Udp, 514),
            "syslog+tcp" => (Protocol::Tcp, 601),
            "syslog+tls" => (Protocol::Tls, 6514),
            "syslog+unix" => (Protocol::Unix, 0),
            "otlp+http" | "otlp+https" => (Protocol::Otlp, 4318),
            other => return Err(SinkAddressError::Protocol(other.to_owned())),
        };
        let url = Url::parse(text).map_err(|_| SinkAddressError::Form(text.to_owned()))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(SinkAddressError::Secret);
        }
        let host = url.host_str().unwrap_or_default().to_owned();
        if host.is_empty() != (protocol == Protocol::Unix) {
            return Err(SinkAddressError::NoHost(text.to_owned()));
        }
        let path = match (protocol, url.path()) {
            (Protocol::Otlp, "" | "/") => "/v1/logs",
            (_, path) => path,
        };
        let mut address = SinkAddress {
            text: text.to_owned(),
            protocol,
            host,
            port: url.port().unwrap_or(port),
            path: path.to_owned(),
            ca: None,
            identity: None,
            headers: None,
        };
        address.read_settings(&url, scheme)?;
        Ok(address)
    }
}

impl SinkAddress {
    fn read_settings(&mut self, url: &Url, scheme: &str) -> Result<(), SinkAddressError> {
        let secure = matches!(scheme, "syslog+tls" | "otlp+https");
        for (name, value) in url.query_pairs() {
            let file = Some(PathBuf::from(&*value));
            match &*name {
                "ca" if secure => self.ca = file,
                "identity" if secure => self.identity = file,
                "headers" if self.protocol == Protocol::Otlp => self.headers = file,
                _ => {
                    return Err(SinkAddressError::Setting {
                        name: name.into_owned(),
                        protocol: self.protocol.name(),
                    });
                }
            }
        }
        Ok(())
    }

    pub(super) fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// As names are resolved: without the brackets of an IPv6 address.
    pub(super) fn host(&self) -> &str {
        self.host.trim_matches(['[', ']'])
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn socket(&self) -> &Path {
        Path::new(&self.path)
    }

    /// Where OTLP logs are posted.
    pub(super) fn endpoint(&self) -> String {
        let scheme = match self.text.starts_with("otlp+https") {
            true => "https",
            false => "http",
        };
        format!("{scheme}://{}:{}{}", self.host, self.port, self.path)
    }

    /// The only certificate authorities to trust, instead of the host's.
    pub(super) fn ca(&self) -> Option<&Path> {
        self.ca.as_deref()
    }

    /// A certificate and its key, for receivers that ask who sends.
    pub(super) fn identity(&self) -> Option<&Path> {
        self.identity.as_deref()
    }

    /// More headers, `Name: value` on each line.
    pub(super) fn headers(&self) -> Option<&Path> {
        self.headers.as_deref()
    }
}

impl Protocol {
    fn name(self) -> &'static str {
        match self {
            Protocol::Udp => "syslog over UDP",
            Protocol::Tcp => "syslog over TCP",
            Protocol::Tls => "syslog over TLS",
            Protocol::Unix => "syslog to a socket file",
            Protocol::Otlp => "OTLP",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<(Protocol, &str, u16, &str), &str>) {
        match (text.parse::<SinkAddress>(), expected) {
            (Ok(address), Ok((protocol, host, port, path))) => {
                assert_eq!(address.protocol, protocol);
                assert_eq!((address.host(), address.port()), (host, port));
                assert_eq!(address.path, path);
                assert_eq!(address.to_string(), text);
            }
            (Err(error), Err(part)) => {
                let said = error.to_string();
                assert!(said.contains(part), "{said}");
            }
            (outcome, expected) => panic!("{outcome:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn an_address_is_one_line() {
        check(
            "syslog://logs.example",
            Ok((Protocol::Udp, "logs.example", 514, "")),
        );
        check(
            "syslog+tcp://logs.example:10514",
            Ok((Protocol::Tcp, "logs.example", 10514, "")),
        );
        check(
            "syslog+tls://[::1]?ca=/etc/ca.pem",
            Ok((Protocol::Tls, "::1", 6514, "")),
        );
        check(
            "syslog+unix:///dev/log",
            Ok((Protocol::Unix, "", 0, "/dev/log")),
        );
        check(
            "otlp+http://127.0.0.1",
            Ok((Protocol::Otlp, "127.0.0.1", 4318, "/v1/logs")),
        );
        check(
            "otlp+https://otel.example:443/in/v1/logs?headers=/h",
            Ok((Protocol::Otlp, "otel.example", 443, "/in/v1/logs")),
        );
        check("logs.example:514", Err("not an address"));
        check("kafka://logs.example", Err("syslog+tls"));
        check("otlp+https://me:secret@otel.example", Err("?headers=FILE"));
        check("syslog+tcp://", Err("names no host"));
        check("syslog+unix://host/dev/log", Err("names no host"));
        check(
            "syslog+udp://logs.example?ca=/etc/ca.pem",
            Err("'ca' is no setting of syslog over UDP"),
        );
        check(
            "otlp+http://otel.example?ca=/etc/ca.pem",
            Err("'ca' is no setting"),
        );
    }
}
