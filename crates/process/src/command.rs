//! The builder: what to run and within which limits. It must not interpret a command line (there
//! is no shell here) and must not let the server's own environment through.

use crate::child::Child;
use crate::supervise::{self, Plan};
use crate::{Output, ProcessError, ProcessId, debian_package_of};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

/// The search path that children get and that programs are found on.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Without a deadline of its own, a program has this long.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(600);
/// How much of each output stream is kept, from its end.
pub const DEFAULT_OUTPUT_LIMIT: usize = 1024 * 1024;
/// Between `SIGTERM` and `SIGKILL`.
pub const DEFAULT_TERM_GRACE: Duration = Duration::from_secs(2);

/// What a program reads.
#[derive(Debug, Default)]
pub enum Stdin {
    /// Nothing.
    #[default]
    Null,
    /// These bytes, then the end.
    Bytes(Vec<u8>),
    /// This file, read only.
    File(PathBuf),
}

/// Which stream a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

pub(crate) type OnLine = Box<dyn FnMut(Stream, &str) + Send>;

/// A program, its arguments and its limits. The environment holds `PATH`, `LC_ALL=C.UTF-8` and
/// `TZ=UTC` and what [`Command::env`] adds, nothing of ours.
pub struct Command {
    program: OsString,
    args: Vec<OsString>,
    env: BTreeMap<OsString, OsString>,
    cwd: Option<PathBuf>,
    stdin: Stdin,
    stdout_file: Option<PathBuf>,
    on_line: Option<OnLine>,
    deadline: Duration,
    grace: Duration,
    limit: usize,
}

impl Command {
    /// A command without arguments.
    pub fn new(program: impl Into<OsString>) -> Self {
        let env = [("PATH", DEFAULT_PATH), ("LC_ALL", "C.UTF-8"), ("TZ", "UTC")];
        Self {
            program: program.into(),
            args: Vec::new(),
            env: env.map(|(k, v)| (k.into(), v.into())).into(),
            cwd: None,
            stdin: Stdin::Null,
            stdout_file: None,
            on_line: None,
            deadline: DEFAULT_DEADLINE,
            grace: DEFAULT_TERM_GRACE,
            limit: DEFAULT_OUTPUT_LIMIT,
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets one variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// Sets variables.
    #[must_use]
    pub fn envs<N: Into<OsString>, V: Into<OsString>>(
        mut self,
        vars: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        let vars = vars.into_iter().map(|(n, v)| (n.into(), v.into()));
        self.env.extend(vars);
        self
    }

    /// Passes these variables of our own environment on, where they are set (proxies, for example).
    #[must_use]
    pub fn inherit<'a>(mut self, names: impl IntoIterator<Item = &'a str>) -> Self {
        for name in names {
            if let Some(value) = std::env::var_os(name) {
                self.env.insert(name.into(), value);
            }
        }
        self
    }

    /// The folder to run in. Without it, `/`.
    #[must_use]
    pub fn cwd(mut self, folder: impl Into<PathBuf>) -> Self {
        self.cwd = Some(folder.into());
        self
    }

    /// What it reads.
    #[must_use]
    pub fn stdin(mut self, stdin: Stdin) -> Self {
        self.stdin = stdin;
        self
    }

    /// Standard output goes to this file (made or truncated), whole, instead of being kept.
    #[must_use]
    pub fn stdout_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.stdout_file = Some(file.into());
        self
    }

    /// Called with each line of either stream as it comes, without its end of line.
    #[must_use]
    pub fn on_line(mut self, on_line: impl FnMut(Stream, &str) + Send + 'static) -> Self {
        self.on_line = Some(Box::new(on_line));
        self
    }

    /// It is ended when it runs longer.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// How long it may clean up after `SIGTERM`.
    #[must_use]
    pub fn term_grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// How many bytes of each stream are kept, from the end.
    #[must_use]
    pub fn output_limit(mut self, bytes: usize) -> Self {
        self.limit = bytes;
        self
    }

    /// Runs it to success.
    ///
    /// # Errors
    /// Any [`ProcessError`]; a status other than success is [`ProcessError::Failed`].
    pub async fn run(self) -> Result<Output, ProcessError> {
        let program = self.name();
        let output = self.output().await?;
        if output.status.success() {
            return Ok(output);
        }
        Err(ProcessError::Failed {
            program,
            status: output.status,
            tail: output.tail(),
        })
    }

    /// Runs it to its end, whatever its status.
    ///
    /// # Errors
    /// Any [`ProcessError`] but `Failed`.
    pub async fn output(self) -> Result<Output, ProcessError> {
        let deadline = self.deadline;
        let mut child = self.spawn()?;
        match tokio::time::timeout(deadline, child.wait()).await {
            Ok(ended) => ended,
            Err(_) => {
                let program = child.program().to_owned();
                let output = child.stop().await?;
                Err(ProcessError::Deadline {
                    program,
                    after: deadline,
                    tail: output.tail(),
                })
            }
        }
    }

    /// Starts it. The tree ends with the returned [`Child`]; its deadline is the caller's business.
    /// Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`ProcessError::NotFound`], [`ProcessError::Start`].
    pub fn spawn(mut self) -> Result<Child, ProcessError> {
        let program = self.name();
        let failed = |source| ProcessError::Start {
            program: program.clone(),
            source,
        };
        let mut command = self.prepare()?;
        let bytes = match std::mem::take(&mut self.stdin) {
            Stdin::Bytes(bytes) => Some(bytes),
            Stdin::Null | Stdin::File(_) => None,
        };
        match &self.stdout_file {
            Some(file) => command.stdout(File::create(file).map_err(failed)?),
            None => command.stdout(Stdio::piped()),
        };
        command.stderr(Stdio::piped());
        let (lifeline_read, lifeline) = io::pipe().map_err(failed)?;
        let (report_read, report) = io::pipe().map_err(failed)?;
        let plan = Plan {
            lifeline: lifeline_read.as_raw_fd(),
            report: report.as_raw_fd(),
            grace_ms: i32::try_from(self.grace.as_millis()).unwrap_or(i32::MAX),
        };
        supervise::set_pre_exec(&mut command, move || supervise::become_supervised(plan));
        let child = tokio::process::Command::from(command)
            .spawn()
            .map_err(failed)?;
        drop((lifeline_read, report));
        let pid = read_pid(report_read).map_err(failed)?;
        Ok(Child::new(
            program.clone(),
            pid,
            child,
            lifeline,
            bytes,
            self.on_line,
            self.limit,
        ))
    }

    /// Starts it as a daemon that **outlives us**: own session, no parent, no deadline, both
    /// streams appended to `log`. The caller must record the returned identity where it will be
    /// found after a restart, or nobody will ever end the process.
    ///
    /// # Errors
    /// [`ProcessError::NotFound`], [`ProcessError::Start`].
    pub async fn spawn_daemon(self, log: &Path) -> Result<ProcessId, ProcessError> {
        let program = self.name();
        let failed = |source| ProcessError::Start {
            program: program.clone(),
            source,
        };
        let mut command = self.prepare()?;
        let open = || File::options().create(true).append(true).open(log);
        command.stdin(Stdio::null());
        command.stdout(open().map_err(failed)?);
        command.stderr(open().map_err(failed)?);
        let (report_read, report) = io::pipe().map_err(failed)?;
        let report_fd = report.as_raw_fd();
        supervise::set_pre_exec(&mut command, move || supervise::become_daemon(report_fd));
        // What we start directly ends at once; it is waited for, so that no zombie stays.
        let mut first = tokio::process::Command::from(command)
            .spawn()
            .map_err(failed)?;
        drop(report);
        first.wait().await.map_err(failed)?;
        let pid = read_pid(report_read).map_err(failed)?;
        ProcessId::of(pid).ok_or_else(|| failed(io::Error::other("it ended at once")))
    }

    fn name(&self) -> String {
        self.program.to_string_lossy().into_owned()
    }

    fn prepare(&self) -> Result<std::process::Command, ProcessError> {
        let path = self.env.get(OsStr::new("PATH"));
        let path = path.and_then(|path| path.to_str()).unwrap_or(DEFAULT_PATH);
        let mut command = std::process::Command::new(resolve(&self.program, path)?);
        command.args(&self.args).env_clear().envs(&self.env);
        command.current_dir(self.cwd.as_deref().unwrap_or(Path::new("/")));
        match &self.stdin {
            Stdin::Null => command.stdin(Stdio::null()),
            Stdin::Bytes(_) => command.stdin(Stdio::piped()),
            Stdin::File(file) => {
                let file = File::open(file).map_err(|source| ProcessError::Start {
                    program: self.name(),
                    source,
                })?;
                command.stdin(OwnedFd::from(file))
            }
        };
        Ok(command)
    }
}

/// Tells the tree to end without a grace period. The far end may be gone already, which is fine.
pub(crate) fn ask_to_kill(lifeline: &PipeWriter) {
    use std::io::Write;
    let mut lifeline = lifeline;
    if let Err(error) = lifeline.write_all(&[supervise::KILL_NOW]) {
        tracing::debug!(%error, "process had ended before it was killed");
    }
}

/// A pipe with four bytes in it, or with none when the child died before it wrote.
fn read_pid(mut report: PipeReader) -> io::Result<u32> {
    let mut pid = [0u8; 4];
    report.read_exact(&mut pid)?;
    Ok(u32::from_ne_bytes(pid))
}

pub(crate) fn resolve(program: &OsStr, path: &str) -> Result<PathBuf, ProcessError> {
    let runnable = |file: &Path| {
        file.metadata()
            .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    let found = if program.as_encoded_bytes().contains(&b'/') {
        Some(PathBuf::from(program)).filter(|file| runnable(file))
    } else {
        let mut candidates = path
            .split(':')
            .map(|folder| Path::new(folder).join(program));
        candidates.find(|file| runnable(file))
    };
    found.ok_or_else(|| {
        let program = program.to_string_lossy().into_owned();
        ProcessError::NotFound {
            package: debian_package_of(&program),
            program,
        }
    })
}
