//! Why a customizer did not become a disk. The text says what to do where the user can do it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::customizer::InvalidCustomizer;
use crate::source::NotFetched;

#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error(
        "building needs root: it mounts the parent image in namespaces of its own. Start the server as root (`sudo bullion serve`)"
    )]
    NeedsRoot,

    #[error(transparent)]
    Invalid(#[from] InvalidCustomizer),

    #[error("customizer `{customizer}` installs packages, but no pinned archive state was given")]
    NoArchive { customizer: String },

    #[error("customizer `{customizer}` failed ({status}){}", quoted(tail))]
    Failed {
        customizer: String,
        status: String,
        tail: Vec<String>,
    },

    #[error(
        "customizer `{customizer}` did not end within {after:?} and was killed{}",
        quoted(tail)
    )]
    Deadline {
        customizer: String,
        after: Duration,
        tail: Vec<String>,
    },

    #[error(
        "customizer `{customizer}` writes more than the image has room for; make the disk larger"
    )]
    NoSpace {
        customizer: String,
        #[source]
        source: ext4::Ext4Error,
    },

    #[error(
        "customizer `{customizer}` fetched `{file}`, which is not what the pinned archive state holds; \
         is the image's own apt what it should be?"
    )]
    UnknownPackage { customizer: String, file: String },

    #[error(
        "customizer `{customizer}` could not fetch its packages. Check the network, the proxy settings of apt and the \
         mirror; the run goes on from here when it is started again"
    )]
    NotFetched {
        customizer: String,
        #[source]
        source: NotFetched,
    },

    #[error("the pinned archive state in `{}` has no package list that is not compressed", folder.display())]
    NoLists { folder: PathBuf },

    #[error(
        "customizer `{customizer}` wrote more than the {limit} bytes that the image has room for, and was killed; \
         make the disk larger, or write less"
    )]
    TooMuchWritten { customizer: String, limit: u64 },

    #[error(
        "customizer `{customizer}` left the secret `{secret}` in the image; use it without writing it to a file"
    )]
    SecretLeft { customizer: String, secret: String },

    #[error("what the scanner of `{scan}` wrote cannot be used: {reason}")]
    BadScan { scan: String, reason: String },

    #[error("the {kind} customizer `{customizer}` needs a Windows guest, and this image is none")]
    NeedsWindows {
        customizer: String,
        kind: &'static str,
    },

    #[error(
        "the {kind} customizer `{customizer}` cannot be carried out in a Windows: that has File, PowerShell, WindowsRestart and \
         WindowsUpdate"
    )]
    NotForWindows {
        customizer: String,
        kind: &'static str,
    },

    #[error(
        "the source is a Windows in the state {state}: there is a way in only where sysprep has generalized it, because Windows \
         Setup then starts the agent. Run `sysprep /generalize /oobe /shutdown` in it and bring it here anew, or take the \
         customizers and checks out"
    )]
    NoWayIn { state: String },

    #[error(
        "customizer `{customizer}` still finds updates after {rounds} rounds; exclude those that do not install by `filters`{}",
        quoted(tail)
    )]
    UpdatesWithoutEnd {
        customizer: String,
        rounds: usize,
        tail: Vec<String>,
    },

    #[error(
        "Windows says that it is in the state {state}: it is generalized by sysprep, inside it, which was not done. Run \
         `sysprep /generalize /oobe /shutdown` in it and bring it here anew, or make a specialized image with \
         vmProfile.bullion.generalize false"
    )]
    NotSysprepped { state: String },

    #[error(transparent)]
    Windows(#[from] windisk::SystemError),

    #[error("the build machine")]
    Machine(#[from] machine::MachineError),

    #[error("read the disk that the build machine wrote")]
    ReadWritten(#[source] io::Error),

    #[error("the parent image cannot be built on: {reason}")]
    BadParent { reason: String },

    #[error("the build environment could not be set up: {operation} failed: {detail}")]
    Sandbox { operation: String, detail: String },

    #[error("run the build environment")]
    Process(#[from] process::ProcessError),

    #[error("write the changes of customizer `{customizer}`")]
    Write {
        customizer: String,
        #[source]
        source: ext4::Ext4Error,
    },

    #[error("read the parent image")]
    ReadParent(#[from] ext4::Ext4Error),

    #[error("read the partition table of the parent image")]
    Layout(#[from] disk::layout::LayoutError),

    #[error("`{path}` cannot be part of an image: {reason}")]
    BadEntry { path: String, reason: &'static str },

    #[error("{operation} `{}`", path.display())]
    File {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },

    #[error("a worker thread of the build stage ended before its work")]
    Worker(#[source] tokio::task::JoinError),
}

/// The end of the output, each line marked, so that it cannot be taken for ours.
fn quoted(tail: &[String]) -> String {
    tail.iter()
        .fold(String::new(), |text, line| text + "\n  | " + line)
}

impl BuildError {
    pub(super) fn file(
        operation: &'static str,
        path: &Path,
    ) -> impl FnOnce(io::Error) -> BuildError {
        let path = path.to_owned();
        move |source| BuildError::File {
            operation,
            path,
            source,
        }
    }

    pub(super) fn write(customizer: &str) -> impl FnOnce(ext4::Ext4Error) -> BuildError {
        let customizer = customizer.to_owned();
        move |source| match source {
            ext4::Ext4Error::NoSpace { .. } => BuildError::NoSpace { customizer, source },
            source => BuildError::Write { customizer, source },
        }
    }
}
