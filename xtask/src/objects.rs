//! An S3-compatible server for the time of the tests: moto, in an environment of its own, on a port of its own. It keeps
//! everything in memory and is stopped by its process id.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::clients;
use crate::program::{self, Program};
use crate::progress::Step;
use crate::workspace;

/// All packages with their versions.
const LIST: &str = include_str!("../clients/moto.txt");
const BUCKET: &str = "golden";
/// What the server takes; it looks at no signature.
const KEYS: &str = "AWS_ACCESS_KEY_ID=test\nAWS_SECRET_ACCESS_KEY=test\n";
/// How long the server may take to start.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Lines of the server's own log that a failed start shows.
const LOG_LINES: usize = 20;
/// The answer to making a bucket is shorter.
const ANSWER_BYTES: u64 = 4096;

pub struct Server {
    process: Child,
    address: SocketAddr,
    keys: PathBuf,
}

impl Server {
    /// The server, or why it cannot be had.
    pub fn start(log: &Path, install_log: &Path, step: &Step) -> Result<Result<Self, String>> {
        let folder = workspace::target_folder()?.join("test-clients/moto");
        if !clients::python(&folder, LIST, "moto.txt", install_log, step)? {
            let why = "cannot install moto; xtask/clients/moto.txt says which";
            return Ok(Err(why.to_owned()));
        }
        let address = free_address()?;
        let process = Program::new(folder.join("bin/moto_server"))
            .args(["--host", &address.ip().to_string()])
            .args(["--port", &address.port().to_string()])
            .start_apart(log)?;
        let keys = folder.join("keys");
        std::fs::write(&keys, KEYS).with_context(|| format!("cannot write {}", keys.display()))?;
        let mut server = Self {
            process,
            address,
            keys,
        };
        server.wait_until_ready(log)?;
        Ok(Ok(server))
    }

    /// For the tests' environment: an address of a bucket, without a prefix.
    pub fn url(&self) -> String {
        format!(
            "s3://{BUCKET}?endpoint=http://{}&region=us-east-1&credentials={}",
            self.address,
            self.keys.display()
        )
    }

    fn wait_until_ready(&mut self, log: &Path) -> Result<()> {
        let began = Instant::now();
        while !make_bucket(self.address) {
            if self.process.try_wait()?.is_some() || began.elapsed() > PATIENCE {
                let text = std::fs::read_to_string(log).unwrap_or_default();
                bail!("moto did not start\n{}", program::tail(&text, LOG_LINES));
            }
            std::thread::park_timeout(LOOK_AGAIN);
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It keeps nothing, so there is nothing to end in order.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A port that nobody has at this moment.
pub fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").context("no port is free")?;
    Ok(listener.local_addr()?)
}

/// Whether the server answers and has the bucket.
fn make_bucket(address: SocketAddr) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut socket = TcpStream::connect_timeout(&address, PATIENCE)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let request = format!(
            "PUT /{BUCKET} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        socket.write_all(request.as_bytes())?;
        let mut answer = String::new();
        socket.take(ANSWER_BYTES).read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}
