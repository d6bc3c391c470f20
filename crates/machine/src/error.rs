//! What can go wrong with a machine. A boot that fails is explained by the machine's last words,
//! so the variants for that carry the end of the serial console.

use crate::Accel;
use process::ProcessError;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// A machine that could not be started, reached or ended.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The spec cannot be run, for example a relative path.
    #[error("machine `{name}`: {reason}")]
    Spec {
        /// The machine.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file of the machine's folder could not be read or written.
    #[error("{operation} {}", path.display())]
    File {
        /// A verb.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A machine runs in this folder already.
    #[error("a machine runs in {} already (process {pid})", dir.display())]
    Occupied {
        /// The folder.
        dir: PathBuf,
        /// Its QEMU.
        pid: u32,
    },
    /// UEFI firmware is not installed.
    #[error("UEFI firmware {} is not installed; install the Debian package `ovmf`", path.display())]
    NoFirmware {
        /// The file that is missing.
        path: PathBuf,
    },
    /// A program that we need could not be run.
    #[error("run a program for machine `{name}`")]
    Program {
        /// The machine.
        name: String,
        /// What became of it.
        #[source]
        source: ProcessError,
    },
    /// A key could not be made or read.
    #[error("login keys of machine `{name}`: {reason}")]
    Keys {
        /// The machine.
        name: String,
        /// What is wrong with them.
        reason: String,
    },
    /// QEMU ended while we needed the machine.
    #[error(
        "machine `{name}` ended by itself; QEMU said: {}; serial console ended with: {}",
        said(stderr),
        said(serial)
    )]
    Ended {
        /// The machine.
        name: String,
        /// The end of QEMU's standard error.
        stderr: String,
        /// The end of the serial console.
        serial: String,
    },
    /// It did not become ready in time.
    #[error(
        "machine `{name}` was not ready after {after:?} on {accel}; last try: {last}; serial console ended with: {}",
        said(serial)
    )]
    NotReady {
        /// The machine.
        name: String,
        /// The deadline.
        after: Duration,
        /// What it runs on, as an emulated processor is slow.
        accel: Accel,
        /// Why the last login did not work.
        last: String,
        /// The end of the serial console.
        serial: String,
    },
    /// The login did not work.
    #[error("log in to machine `{name}`: {reason}")]
    Login {
        /// The machine.
        name: String,
        /// Why, as the SSH client says.
        reason: String,
    },
    /// The agent in a Windows guest did not do what it was told, or something else speaks for it.
    #[error("the agent in machine `{name}`: {reason}")]
    Agent {
        /// The machine.
        name: String,
        /// What it did.
        reason: String,
    },
    /// The machine showed another host key than the one that was put into it.
    #[error(
        "machine `{name}` has another host key than the one it was given: something else answers there"
    )]
    HostKey {
        /// The machine.
        name: String,
    },
    /// A command did not end in time.
    #[error(
        "a command in machine `{name}` did not end within {after:?}{}",
        output_so_far(output)
    )]
    ExecDeadline {
        /// The machine.
        name: String,
        /// The deadline.
        after: Duration,
        /// The end of what it had said.
        output: String,
    },
    /// QEMU's control socket did not work.
    #[error("control machine `{name}`: {operation}")]
    Control {
        /// The machine.
        name: String,
        /// What was asked.
        operation: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The record of a machine is of a version that this program does not know.
    #[error("{} is of version {found}, this program reads up to {known}", path.display())]
    RecordVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// Ours.
        known: u32,
    },
}

fn said(text: &str) -> &str {
    match text.trim() {
        "" => "(nothing)",
        text => text,
    }
}

fn output_so_far(output: &str) -> String {
    match output.trim() {
        "" => String::new(),
        output => format!("; it said: {output}"),
    }
}

impl MachineError {
    /// For `map_err` on file operations.
    pub(crate) fn file(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File {
            operation,
            path,
            source,
        }
    }
}
