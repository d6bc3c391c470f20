//! What can go wrong with a child process. Texts name the program and what to do; they never hold
//! the environment or standard input, which may carry secrets.

use std::io;
use std::process::ExitStatus;
use std::time::Duration;

/// A child process that could not be started, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The program is on no folder of the search path.
    #[error("`{program}` is not installed{}", hint(*package))]
    NotFound {
        /// The program as it was asked for.
        program: String,
        /// The Debian package that holds it, where we know.
        package: Option<&'static str>,
    },
    /// The kernel refused to start it, or a file for its input or output could not be opened.
    #[error("start `{program}`")]
    Start {
        /// The program as it was asked for.
        program: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It did not end in time; it and all its descendants were killed.
    #[error("`{program}` did not end within {after:?}{}", after_colon(tail))]
    Deadline {
        /// The program as it was asked for.
        program: String,
        /// The deadline that it was given.
        after: Duration,
        /// The end of its standard error (or output, when that is empty).
        tail: String,
    },
    /// It ended with a status other than success.
    #[error("`{program}` failed ({status}){}", after_colon(tail))]
    Failed {
        /// The program as it was asked for.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of its standard error (or output, when that is empty).
        tail: String,
    },
    /// Waiting for it failed.
    #[error("wait for `{program}`")]
    Wait {
        /// The program as it was asked for.
        program: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A process named by id could not be looked at or signalled.
    #[error("signal process {pid}")]
    Signal {
        /// The process id.
        pid: u32,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

fn hint(package: Option<&'static str>) -> String {
    package.map_or_else(String::new, |name| {
        format!("; install the Debian package `{name}`")
    })
}

fn after_colon(tail: &str) -> String {
    let tail = tail.trim();
    if tail.is_empty() {
        String::new()
    } else {
        format!(": {tail}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn texts_say_what_to_do() {
        let check = |error: ProcessError, expected: &str| assert_eq!(error.to_string(), expected);
        check(
            ProcessError::NotFound {
                program: "mcopy".into(),
                package: Some("mtools"),
            },
            "`mcopy` is not installed; install the Debian package `mtools`",
        );
        check(
            ProcessError::NotFound {
                program: "frobnicate".into(),
                package: None,
            },
            "`frobnicate` is not installed",
        );
        check(
            ProcessError::Failed {
                program: "tar".into(),
                status: ExitStatus::from_raw(2 << 8),
                tail: "tar: no such file\n".into(),
            },
            "`tar` failed (exit status: 2): tar: no such file",
        );
        check(
            ProcessError::Deadline {
                program: "sleep".into(),
                after: Duration::from_secs(3),
                tail: String::new(),
            },
            "`sleep` did not end within 3s",
        );
    }
}
