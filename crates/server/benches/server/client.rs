//! Clients that cost little: HTTP/1.1 over TLS on kept connections, answers read by their length.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::Result;

const HEAD_BYTES_MAX: usize = 64 << 10;

#[derive(Clone)]
pub struct Target {
    connector: TlsConnector,
    address: std::net::SocketAddr,
}

impl Target {
    pub fn new(address: std::net::SocketAddr, ca: &str) -> Result<Target> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.as_bytes())?)?;
        let config = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Target {
            connector: TlsConnector::from(Arc::new(config)),
            address,
        })
    }

    pub async fn connect(&self) -> Result<Connection> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("localhost")?;
        let stream = self.connector.connect(name, stream).await?;
        Ok(Connection {
            stream,
            buffer: Vec::with_capacity(HEAD_BYTES_MAX),
        })
    }
}

pub struct Connection {
    stream: TlsStream<TcpStream>,
    buffer: Vec<u8>,
}

pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

pub fn request(method: &str, path: &str, token: Option<&str>, body: Option<&str>) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n");
    if let Some(token) = token {
        text.push_str(&format!("Authorization: Bearer {token}\r\n"));
    }
    if let Some(body) = body {
        let kind = match token {
            Some(_) => "application/json",
            None => "application/x-www-form-urlencoded",
        };
        let length = body.len();
        text.push_str(&format!(
            "Content-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{body}"
        ));
    } else {
        text.push_str("\r\n");
    }
    text.into_bytes()
}

impl Connection {
    pub async fn ask(&mut self, request: &[u8]) -> Result<Answer> {
        self.stream.write_all(request).await?;
        self.stream.flush().await?;
        self.buffer.clear();
        let head = loop {
            if let Some(at) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            if self.buffer.len() > HEAD_BYTES_MAX
                || self.stream.read_buf(&mut self.buffer).await? == 0
            {
                return Err("the answer ended early".into());
            }
        };
        let text = std::str::from_utf8(&self.buffer[..head])?;
        let status = text.get(9..12).ok_or("no status")?.parse()?;
        let length = text
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .map_or(Ok(0), str::parse::<usize>)?;
        while self.buffer.len() < head + length {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err("the answer ended early".into());
            }
        }
        Ok(Answer {
            status,
            body: self.buffer[head..head + length].to_vec(),
        })
    }
}

/// What many connections saw.
pub struct Seen {
    pub answers: usize,
    pub took: Duration,
    /// Microseconds, sorted.
    pub each: Vec<u32>,
}

impl Seen {
    pub fn per_second(&self) -> f64 {
        self.answers as f64 / self.took.as_secs_f64()
    }

    /// Milliseconds.
    pub fn quantile(&self, part: f64) -> f64 {
        let last = self.each.len().saturating_sub(1);
        let at = (last as f64 * part) as usize;
        f64::from(self.each.get(at).copied().unwrap_or_default()) / 1000.0
    }
}

/// Asks on `connections` at once for as long as said; `make` gives the n-th request of a connection.
pub async fn many(
    target: &Target,
    connections: usize,
    long: Duration,
    make: impl Fn(usize, usize) -> Vec<u8> + Clone + Send + 'static,
    fine: fn(u16) -> bool,
) -> Result<Seen> {
    let mut tasks = tokio::task::JoinSet::new();
    let begun = Instant::now();
    for number in 0..connections {
        let (target, make) = (target.clone(), make.clone());
        tasks.spawn(async move {
            let mut connection = target.connect().await?;
            let mut each = Vec::new();
            let mut turn = 0;
            while begun.elapsed() < long {
                let request = make(number, turn);
                let asked = Instant::now();
                let answer = connection.ask(&request).await?;
                if !fine(answer.status) {
                    let body = String::from_utf8_lossy(&answer.body).into_owned();
                    return Err(format!("status {}: {body}", answer.status).into());
                }
                each.push(u32::try_from(asked.elapsed().as_micros()).unwrap_or(u32::MAX));
                turn += 1;
            }
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(each)
        });
    }
    let mut each = Vec::new();
    while let Some(done) = tasks.join_next().await {
        each.extend(done??);
    }
    let took = begun.elapsed();
    each.sort_unstable();
    Ok(Seen {
        answers: each.len(),
        took,
        each,
    })
}
