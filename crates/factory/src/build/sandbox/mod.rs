//! A program run as root on an image, apart from the machine: the side that starts it.
//!
//! `unshare` makes the namespaces and starts this executable again inside them; [`enter`] is what
//! it runs there. All mounts are made in that mount namespace, so the kernel undoes them when its
//! last process dies, however it dies, and detaches the loop device with them.
//!
//! What keeps the program in: its own mount, process, host-name and IPC namespaces and, unless it
//! fetches packages, an empty network; the machine's files are unmounted from its view; devices
//! on the image do not open; `/proc` and `/sys` are read-only; capabilities beyond those a package
//! needs are gone. It is still root of the same kernel: build recipes of people you know.

mod child;

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ext4::Meta;
use process::{Command, ProcessError, Stdin};
use serde::{Deserialize, Serialize};

use super::block::RootFs;
use super::error::BuildError;
use crate::source::STEADY_HASHES;

pub use child::enter;

/// Programs of the machine that the sandbox needs, all from essential packages.
pub(super) const PROGRAMS: [&str; 2] = ["unshare", "mount"];

/// The argument by which an executable that calls [`enter`] knows that it shall.
pub const SANDBOX_ARGUMENT: &str = "build-sandbox";

const REPORT: &str = "report.json";
const HOST_NAME: &str = "bullion";
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const TMP_BYTES_MAX: u64 = 2 << 30;
const RUN_BYTES_MAX: u64 = 256 << 20;
const DATA_BYTES_MAX: u64 = 8 << 30;
const TERM_GRACE: Duration = Duration::from_millis(200);

/// How this executable is started again inside the sandbox: something whose `main` calls [`enter`].
#[derive(Debug, Clone)]
pub struct SandboxProgram {
    program: PathBuf,
    arguments: Vec<OsString>,
}

impl SandboxProgram {
    #[must_use]
    pub fn new(program: impl Into<PathBuf>) -> Self {
        SandboxProgram {
            program: program.into(),
            arguments: vec![SANDBOX_ARGUMENT.into()],
        }
    }

    /// The running executable, even if its file was replaced meanwhile.
    #[must_use]
    pub fn this_executable() -> Self {
        SandboxProgram::new(format!("/proc/{}/exe", std::process::id()))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Network {
    None,
    Host,
}

/// A folder of the machine that the program sees below `/run/bullion`. It may write there; what it
/// writes goes to a layer in the step's folder.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Bind {
    pub(super) source: PathBuf,
    pub(super) name: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct JobFile {
    name: String,
    text: String,
}

/// What the two sides agree on, as JSON on the child's standard input.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Job {
    parent: PathBuf,
    offset: u64,
    length: u64,
    /// Layer that is written, in the step's folder.
    upper: String,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    files: Vec<JobFile>,
    binds: Vec<Bind>,
    network: Network,
    #[serde(skip)]
    top: Option<Meta>,
}

/// What the child says in the end; nothing means that it never came to it.
#[derive(Debug, Serialize, Deserialize)]
enum Report {
    /// The sandbox could not be made; the program did not run.
    Refused { operation: String, detail: String },
    Ended {
        code: Option<i32>,
        signal: Option<i32>,
    },
}

/// How the program ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Success,
    Failure { status: String },
    Deadline,
}

impl Job {
    pub(super) fn new(
        parent: &Path,
        root: &RootFs,
        top: Meta,
        arguments: &[&str],
        network: Network,
    ) -> Self {
        let fixed = [
            ("PATH", SEARCH_PATH),
            ("HOME", "/root"),
            ("TZ", "UTC0"),
            ("LC_ALL", "C.UTF-8"),
            ("DEBIAN_FRONTEND", "noninteractive"),
            STEADY_HASHES,
        ];
        Job {
            parent: parent.to_owned(),
            offset: root.range().start,
            length: root.length(),
            upper: String::new(),
            arguments: arguments.iter().map(|text| (*text).to_owned()).collect(),
            environment: fixed
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            files: Vec::new(),
            binds: Vec::new(),
            network,
            top: Some(top),
        }
    }

    /// A file the program finds as `/run/bullion/NAME`.
    pub(super) fn file(mut self, name: &str, text: impl Into<String>) -> Self {
        self.files.push(JobFile {
            name: name.to_owned(),
            text: text.into(),
        });
        self
    }

    pub(super) fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(super) fn bind(mut self, bind: Bind) -> Self {
        self.binds.push(bind);
        self
    }

    /// Where a job that wrote the layer `upper` in `folder` left what it wrote to the bind `name`.
    pub(super) fn written_to(folder: &Path, upper: &str, name: &str) -> PathBuf {
        folder.join(format!("{upper}.{name}.upper"))
    }

    /// Takes away what a job that failed wrote to the layer `upper` in `folder`.
    pub(super) fn remove_layer(folder: &Path, upper: &str) -> Result<(), BuildError> {
        let inside = format!("{upper}.");
        let entries = fs::read_dir(folder).map_err(BuildError::file("list", folder))?;
        for entry in entries.flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name == upper || name.starts_with(&inside) {
                let path = entry.path();
                fs::remove_dir_all(&path).map_err(BuildError::file("remove", &path))?;
            }
        }
        Ok(())
    }

    /// Folders that the child mounts to or writes layers in, all in the step's folder, so that the
    /// child can name them without any character that has a meaning to `mount`.
    fn prepare(&self, folder: &Path) -> Result<(), BuildError> {
        let make = |name: String| {
            let path = folder.join(name);
            fs::create_dir_all(&path).map_err(BuildError::file("make", &path))
        };
        let upper = &self.upper;
        for name in [
            "lower".to_owned(),
            "merged".to_owned(),
            upper.clone(),
            format!("{upper}.work"),
        ] {
            make(name)?;
        }
        for bind in &self.binds {
            let name = &bind.name;
            make(format!("{upper}.{name}.lower"))?;
            make(format!("{upper}.{name}.upper"))?;
            make(format!("{upper}.{name}.work"))?;
        }
        let path = folder.join(upper);
        match &self.top {
            Some(top) => {
                dress_like(&path, top).map_err(BuildError::file("set the owner and time of", &path))
            }
            None => Ok(()),
        }
    }

    /// Runs it in `folder`, with its layer in `folder/upper`.
    pub(super) async fn run(
        mut self,
        program: &SandboxProgram,
        folder: &Path,
        upper: &str,
        deadline: Duration,
        sink: impl Fn(&str) + Send + 'static,
    ) -> Result<Verdict, BuildError> {
        self.upper = upper.to_owned();
        self.parent = self
            .parent
            .canonicalize()
            .map_err(BuildError::file("find", &self.parent))?;
        self.prepare(folder)?;
        let report = folder.join(REPORT);
        if let Err(error) = fs::remove_file(&report)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(BuildError::file("remove", &report)(error));
        }
        let message = serde_json::to_vec(&self).map_err(|error| BuildError::Sandbox {
            operation: "writing the job".to_owned(),
            detail: error.to_string(),
        })?;
        let mut command = Command::new("unshare").args([
            "--mount",
            "--propagation=private",
            "--uts",
            "--ipc",
            "--pid",
            "--fork",
            "--kill-child=KILL",
        ]);
        if self.network == Network::None {
            command = command.arg("--net");
        }
        let ended = command
            .arg("--")
            .arg(&program.program)
            .args(&program.arguments)
            .cwd(folder)
            .stdin(Stdin::Bytes(message))
            .deadline(deadline)
            .term_grace(TERM_GRACE)
            .on_line(move |_, line| sink(line))
            .output()
            .await;
        let output = match ended {
            Ok(output) => output,
            Err(ProcessError::Deadline { .. }) => return Ok(Verdict::Deadline),
            Err(error) => return Err(error.into()),
        };
        let said = fs::read(&report)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok());
        verdict(said).unwrap_or_else(|| {
            Err(BuildError::Sandbox {
                operation: format!("starting `{}`", program.program.display()),
                detail: format!("{}; {}", output.status, output.tail()),
            })
        })
    }
}

fn verdict(said: Option<Report>) -> Option<Result<Verdict, BuildError>> {
    let failure = |status| Ok(Verdict::Failure { status });
    Some(match said? {
        Report::Refused { operation, detail } => Err(BuildError::Sandbox { operation, detail }),
        Report::Ended { code: Some(0), .. } => Ok(Verdict::Success),
        Report::Ended {
            code: Some(code), ..
        } => failure(format!("exit status {code}")),
        Report::Ended { code: None, signal } => {
            failure(format!("killed by signal {}", signal.unwrap_or_default()))
        }
    })
}

/// Otherwise the root directory's own new time would be a change of every step.
fn dress_like(path: &Path, meta: &Meta) -> io::Result<()> {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
    std::os::unix::fs::chown(path, Some(meta.uid), Some(meta.gid))?;
    fs::set_permissions(path, fs::Permissions::from_mode(meta.mode))?;
    let time = Timespec {
        tv_sec: meta.mtime.seconds,
        tv_nsec: i64::from(meta.mtime.nanoseconds),
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    Ok(utimensat(CWD, path, &times, AtFlags::empty())?)
}
