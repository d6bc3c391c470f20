//! A program that a person started through us: our terminal, streams, folder and environment are its own.
//!
//! The opposite of [`crate::Command`], for a program that is the user's and not ours: it has no deadline, and what it
//! leaves running is its own matter. It ends with us all the same.

use std::ffi::{OsStr, OsString};
use std::process::ExitStatus;

use tokio::signal::unix::{SignalKind, signal};

use crate::{ProcessError, debian_package_of};

/// Runs it to its end. SIGTERM and SIGHUP are passed on to it; an interrupt from the terminal reaches it by itself, and
/// does not end us before it.
///
/// # Errors
/// [`ProcessError::NotFound`], [`ProcessError::Start`], [`ProcessError::Wait`].
pub async fn run_foreground(
    program: &OsStr,
    args: &[OsString],
    variables: &[(String, String)],
) -> Result<ExitStatus, ProcessError> {
    let name = program.to_string_lossy().into_owned();
    let failed = |source| ProcessError::Start {
        program: name.clone(),
        source,
    };
    // Before the start, so that no signal finds us without a handler.
    let mut term = signal(SignalKind::terminate()).map_err(failed)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut command = tokio::process::Command::new(program);
    command
        .args(args)
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => ProcessError::NotFound {
            program: name.clone(),
            package: debian_package_of(&name),
        },
        _ => failed(source),
    })?;
    loop {
        let passed_on = tokio::select! {
            ended = child.wait() => {
                return ended.map_err(|source| ProcessError::Wait { program: name, source });
            }
            _ = term.recv() => rustix::process::Signal::TERM,
            _ = hangup.recv() => rustix::process::Signal::HUP,
            _ = interrupt.recv() => continue,
        };
        let pid = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(rustix::process::Pid::from_raw);
        // Not reaped yet, so the id is still the child's own.
        if let Some(Err(error)) = pid.map(|pid| rustix::process::kill_process(pid, passed_on)) {
            tracing::debug!(%error, "the program had ended before a signal was passed on");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    async fn run(script: &str) -> Result<ExitStatus, ProcessError> {
        let args = ["-c".into(), script.into()];
        let variables = [("GREETING".to_owned(), "hello".to_owned())];
        run_foreground(OsStr::new("sh"), &args, &variables).await
    }

    #[tokio::test]
    async fn the_status_is_the_programs() {
        assert_eq!(run("exit 7").await.unwrap().code(), Some(7));
        let seen = run("test \"$GREETING\" = hello && test -n \"$PATH\"").await;
        assert!(seen.unwrap().success());
        assert_eq!(run("kill -9 $$").await.unwrap().signal(), Some(9));
        let none = run_foreground(OsStr::new("no-such-program"), &[], &[]).await;
        assert!(matches!(none, Err(ProcessError::NotFound { .. })));
    }
}
