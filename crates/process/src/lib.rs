//! Child processes: arguments without a shell, a cleared environment, a deadline, bounded output,
//! and no descendant left behind. Every other crate that needs a program starts it through here.
//!
//! This crate must not know what any program is for, must not print, and must not hand out a way
//! to start a process that has no deadline or owner, except [`Command::spawn_daemon`] and
//! [`run_foreground`], which say so.
//!
//! # How a whole tree is killed
//!
//! Between us and the program stands a supervisor: a fork of this process that never runs anything
//! but system calls. It is a *child subreaper*, so a daemon that leaves its session and its parent
//! becomes its child, not init's. It watches a pipe whose other end only this process holds. The
//! pipe closing (a drop, a deadline, or this process dying in any way, `SIGKILL` included) means:
//! `SIGTERM` to the program's group, a grace period, `SIGKILL` to everything below. A parent-death
//! signal alone would not do: it is tied to the *thread* that forked, and does not reach grandchildren.

mod child;
mod command;
mod error;
mod foreground;
mod identity;
mod packages;
mod supervise;
mod tail;

pub use child::{Child, Output};
pub use command::{
    Command, DEFAULT_DEADLINE, DEFAULT_OUTPUT_LIMIT, DEFAULT_PATH, DEFAULT_TERM_GRACE, Stdin,
    Stream,
};
pub use error::ProcessError;
pub use foreground::run_foreground;
pub use identity::ProcessId;
pub use packages::debian_package_of;
pub use tail::Tail;

/// Where `program` would be found on the search path that children get, or an error that names the
/// package to install. For checks that come before any work (a `doctor` command).
///
/// # Errors
/// [`ProcessError::NotFound`].
pub fn find(program: &str) -> Result<std::path::PathBuf, ProcessError> {
    command::resolve(std::ffi::OsStr::new(program), DEFAULT_PATH)
}
