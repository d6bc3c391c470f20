//! Syslog: RFC 5424 with structured data, over UDP (RFC 5426), TCP with octet counting (RFC 6587), TLS (RFC 5425) and
//! datagram socket files.
//!
//! Syslog has no confirmation. Over TCP and TLS a batch is a connection: we end our side, and the receiver's orderly end
//! after that says that it has read everything; one that drops what it did not read resets the connection. Its end need
//! not be signed over TLS, as common receivers (rsyslog) do not sign it. Datagrams are gone once the system has taken them.

use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;

use catalog::ActivityStatus;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket, UnixDatagram};
use tokio_rustls::TlsConnector;

use super::address::Protocol;
use super::record::Kind;
use super::{Record, SendError, SinkAddress, SinkError, trust};

/// `log audit` of RFC 5424.
const FACILITY: u8 = 13;
/// The number that RFC 5612 sets aside for those that have none of their own.
const ELEMENT: &str = "activity@32473";
const HOST_CHARS_MAX: usize = 255;
/// A receiver that talks: what it says is not for us.
const TALK_BYTES_MAX: u64 = 64 * 1024;

enum Way {
    Udp {
        host: String,
        port: u16,
    },
    Tcp {
        host: String,
        port: u16,
    },
    Tls {
        host: String,
        port: u16,
        tls: TlsConnector,
        name: ServerName<'static>,
    },
    Unix(PathBuf),
}

pub struct Syslog {
    way: Way,
    /// This host, as every message names it.
    host: String,
}

impl Syslog {
    pub(super) fn new(sink: &SinkAddress) -> Result<Syslog, SinkError> {
        let (host, port) = (sink.host().to_owned(), sink.port());
        let way = match sink.protocol() {
            Protocol::Unix => Way::Unix(sink.socket().to_owned()),
            Protocol::Tcp => Way::Tcp { host, port },
            Protocol::Tls => {
                let name = ServerName::try_from(host.clone()).map_err(|cause| SinkError::Tls {
                    sink: sink.to_string(),
                    cause: cause.into(),
                })?;
                Way::Tls {
                    host,
                    port,
                    tls: TlsConnector::from(trust::config(sink)?),
                    name,
                }
            }
            Protocol::Udp | Protocol::Otlp => Way::Udp { host, port },
        };
        let host = rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned();
        Ok(Syslog {
            way,
            host: word(&host, HOST_CHARS_MAX),
        })
    }

    pub(super) async fn send(&self, records: &[Record]) -> Result<(), SendError> {
        match &self.way {
            Way::Udp { host, port } => self.over_udp(host, *port, records).await,
            Way::Unix(path) => {
                let socket = UnixDatagram::unbound().map_err(SendError::Connect)?;
                socket.connect(path).map_err(SendError::Connect)?;
                for record in records {
                    let sent = socket.send(self.message(record).as_bytes()).await;
                    sent.map_err(SendError::CutOff)?;
                }
                Ok(())
            }
            Way::Tcp { host, port } => {
                let stream = connect(host, *port).await?;
                self.over_stream(stream, records).await
            }
            Way::Tls {
                host,
                port,
                tls,
                name,
            } => {
                let stream = connect(host, *port).await?;
                let stream = tls.connect(name.clone(), stream).await;
                self.over_stream(stream.map_err(SendError::Connect)?, records)
                    .await
            }
        }
    }

    async fn over_udp(&self, host: &str, port: u16, records: &[Record]) -> Result<(), SendError> {
        let found = tokio::net::lookup_host((host, port)).await;
        let to = found.map_err(SendError::Connect)?.next();
        let nobody = || SendError::Connect(io::ErrorKind::AddrNotAvailable.into());
        let to = to.ok_or_else(nobody)?;
        let any: std::net::IpAddr = match to.is_ipv4() {
            true => std::net::Ipv4Addr::UNSPECIFIED.into(),
            false => std::net::Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0))
            .await
            .map_err(SendError::Connect)?;
        socket.connect(to).await.map_err(SendError::Connect)?;
        for record in records {
            let sent = socket.send(self.message(record).as_bytes()).await;
            sent.map_err(SendError::CutOff)?;
        }
        // What the network has said meanwhile, such as that nobody listens.
        match socket.take_error() {
            Ok(None) => Ok(()),
            Ok(Some(error)) | Err(error) => Err(SendError::CutOff(error)),
        }
    }

    async fn over_stream(
        &self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        records: &[Record],
    ) -> Result<(), SendError> {
        let mut frames = String::new();
        for record in records {
            let message = self.message(record);
            let _ = write!(frames, "{} {message}", message.len());
        }
        let sent = stream.write_all(frames.as_bytes()).await;
        sent.map_err(SendError::CutOff)?;
        stream.shutdown().await.map_err(SendError::CutOff)?;
        let mut talk = stream.take(TALK_BYTES_MAX);
        let ended = tokio::io::copy(&mut talk, &mut tokio::io::sink()).await;
        match ended {
            Ok(TALK_BYTES_MAX) => Err(SendError::CutOff(io::ErrorKind::InvalidData.into())),
            Ok(_) => Ok(()),
            // TLS without its own last word.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
            Err(error) => Err(SendError::CutOff(error)),
        }
    }

    /// One message of RFC 5424.
    pub(super) fn message(&self, record: &Record) -> String {
        let priority = FACILITY * 8 + severity(record.kind);
        let (time, host) = (record.time(), &self.host);
        let (process, word) = (std::process::id(), record.kind.word());
        let mut message =
            format!("<{priority}>1 {time:.6} {host} bullion {process} {word} [{ELEMENT}");
        let (seq, at) = (record.seq.to_string(), record.at.to_string());
        let parameters = [
            ("node", &record.node),
            ("seq", &seq),
            ("at", &at),
            ("tenant", &record.tenant),
            ("idKey", &record.id_key),
            ("hash", &record.hash),
        ];
        for (name, value) in parameters
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
        {
            let _ = write!(message, " {name}=\"");
            for letter in value.chars() {
                match letter {
                    '"' | '\\' | ']' => message.extend(['\\', letter]),
                    control if control.is_control() => message.push(char::REPLACEMENT_CHARACTER),
                    letter => message.push(letter),
                }
            }
            message.push('"');
        }
        // The mark says that the text is UTF-8.
        let _ = write!(message, "] \u{feff}{}", record.text);
        message
    }
}

async fn connect(host: &str, port: u16) -> Result<TcpStream, SendError> {
    TcpStream::connect((host, port))
        .await
        .map_err(SendError::Connect)
}

fn severity(kind: Kind) -> u8 {
    const WARNING: u8 = 4;
    const NOTICE: u8 = 5;
    const INFORMATIONAL: u8 = 6;
    match kind {
        Kind::Gap | Kind::Done(ActivityStatus::Refused) => WARNING,
        Kind::Done(ActivityStatus::Failed) => NOTICE,
        Kind::Done(_) | Kind::Checkpoint => INFORMATIONAL,
    }
}

/// Text as the header of a message may hold it; `-` stands for nothing.
fn word(text: &str, chars_max: usize) -> String {
    let printed = text.chars().filter(char::is_ascii_graphic);
    match printed.take(chars_max).collect::<String>() {
        nothing if nothing.is_empty() => "-".to_owned(),
        word => word,
    }
}
