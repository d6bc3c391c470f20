//! A running program: its output as it comes, its end, and the killing of its tree. It must not
//! let output grow without bound.

use crate::command::{OnLine, ask_to_kill};
use crate::{ProcessError, ProcessId, Stream, Tail};
use std::io::PipeWriter;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

/// A line longer than this is handed on in pieces.
const MAX_LINE: usize = 16 * 1024;
/// How much of a stream goes into an error.
const ERROR_TAIL: usize = 4 * 1024;

/// How a program ended and what it said last.
#[derive(Debug)]
pub struct Output {
    /// Its exit status or signal.
    pub status: ExitStatus,
    /// The end of its standard output (empty when that went to a file).
    pub stdout: Vec<u8>,
    /// The end of its standard error.
    pub stderr: Vec<u8>,
    /// How many bytes of the two were not kept.
    pub dropped: u64,
}

impl Output {
    /// Standard output as text.
    #[must_use]
    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// The end of standard error, or of standard output when that is empty: what to show a person.
    #[must_use]
    pub fn tail(&self) -> String {
        let said = if self.stderr.trim_ascii().is_empty() {
            &self.stdout
        } else {
            &self.stderr
        };
        let start = said.len().saturating_sub(ERROR_TAIL);
        String::from_utf8_lossy(&said[start..]).trim().to_owned()
    }
}

type Shared<T> = Arc<Mutex<T>>;

fn lock<T>(shared: &Shared<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A started program. Dropping it ends the program and all its descendants: `SIGTERM` to its
/// group, then `SIGKILL` to what is left, done by the supervisor without us.
pub struct Child {
    program: String,
    pid: u32,
    supervisor: tokio::process::Child,
    lifeline: Option<PipeWriter>,
    stdout: Shared<Tail>,
    stderr: Shared<Tail>,
    pumps: Vec<JoinHandle<()>>,
}

impl Child {
    pub(crate) fn new(
        program: String,
        pid: u32,
        mut supervisor: tokio::process::Child,
        lifeline: PipeWriter,
        stdin: Option<Vec<u8>>,
        on_line: Option<OnLine>,
        limit: usize,
    ) -> Self {
        let stdout = Arc::new(Mutex::new(Tail::new(limit)));
        let stderr = Arc::new(Mutex::new(Tail::new(limit)));
        let on_line = on_line.map(|on_line| Arc::new(Mutex::new(on_line)));
        let mut pumps = Vec::new();
        if let Some(from) = supervisor.stdout.take() {
            let pump = pump(Stream::Stdout, from, Arc::clone(&stdout), on_line.clone());
            pumps.push(tokio::spawn(pump));
        }
        if let Some(from) = supervisor.stderr.take() {
            let pump = pump(Stream::Stderr, from, Arc::clone(&stderr), on_line);
            pumps.push(tokio::spawn(pump));
        }
        if let Some((mut to, bytes)) = supervisor.stdin.take().zip(stdin) {
            pumps.push(tokio::spawn(async move {
                // A program may end without reading all of it; its status tells whether that is bad.
                if let Err(error) = to.write_all(&bytes).await {
                    tracing::debug!(%error, "program did not read its whole input");
                }
            }));
        }
        Self {
            program,
            pid,
            supervisor,
            lifeline: Some(lifeline),
            stdout,
            stderr,
            pumps,
        }
    }

    /// The program as it was asked for.
    #[must_use]
    pub fn program(&self) -> &str {
        &self.program
    }

    /// The program's identity, if it still runs.
    #[must_use]
    pub fn id(&self) -> Option<ProcessId> {
        ProcessId::of(self.pid)
    }

    /// What it has said on standard error so far, its end.
    #[must_use]
    pub fn stderr_tail(&self) -> String {
        lock(&self.stderr).text(ERROR_TAIL)
    }

    /// Waits for the end of the program and of everything it started. May be called again after
    /// it was cancelled.
    ///
    /// # Errors
    /// [`ProcessError::Wait`].
    pub async fn wait(&mut self) -> Result<Output, ProcessError> {
        let ended = self.supervisor.wait().await;
        let status = ended.map_err(|source| ProcessError::Wait {
            program: self.program.clone(),
            source,
        })?;
        // The tree is gone, so the streams are at their end; the pumps only have to see it.
        while let Some(pump) = self.pumps.last_mut() {
            if let Err(error) = pump.await {
                tracing::warn!(program = self.program, %error, "output reader failed");
            }
            self.pumps.pop();
        }
        let (stdout, stderr) = (lock(&self.stdout), lock(&self.stderr));
        Ok(Output {
            status,
            stdout: stdout.to_vec(),
            stderr: stderr.to_vec(),
            dropped: stdout.dropped() + stderr.dropped(),
        })
    }

    /// Ends it: `SIGTERM`, the grace period, `SIGKILL`; returns when all of it is gone.
    ///
    /// # Errors
    /// [`ProcessError::Wait`].
    pub async fn stop(mut self) -> Result<Output, ProcessError> {
        self.lifeline = None;
        self.wait().await
    }

    /// Ends it with `SIGKILL` at once; returns when all of it is gone.
    ///
    /// # Errors
    /// [`ProcessError::Wait`].
    pub async fn kill(mut self) -> Result<Output, ProcessError> {
        if let Some(lifeline) = self.lifeline.take() {
            ask_to_kill(&lifeline);
        }
        self.wait().await
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        for pump in &self.pumps {
            pump.abort();
        }
    }
}

async fn pump(
    stream: Stream,
    mut from: impl AsyncRead + Unpin,
    tail: Shared<Tail>,
    on_line: Option<Shared<OnLine>>,
) {
    let mut buffer = vec![0u8; 16 * 1024];
    let mut line = Vec::new();
    loop {
        let got = match from.read(&mut buffer).await {
            Ok(0) => break,
            Ok(got) => got,
            Err(error) => {
                tracing::warn!(%error, ?stream, "cannot read a program's output");
                break;
            }
        };
        lock(&tail).push(&buffer[..got]);
        if let Some(on_line) = &on_line {
            for piece in buffer[..got].split_inclusive(|&byte| byte == b'\n') {
                line.extend_from_slice(piece);
                if line.ends_with(b"\n") || line.len() >= MAX_LINE {
                    hand_on(stream, &mut line, on_line);
                }
            }
        }
    }
    if let Some(on_line) = &on_line
        && !line.is_empty()
    {
        hand_on(stream, &mut line, on_line);
    }
}

fn hand_on(stream: Stream, line: &mut Vec<u8>, on_line: &Shared<OnLine>) {
    let text = String::from_utf8_lossy(line);
    lock(on_line)(stream, text.trim_end_matches(['\n', '\r']));
    line.clear();
}
