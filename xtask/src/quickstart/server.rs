//! The server of a quickstart: found running, or started apart from this terminal, and stopped on request.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::place::Place;
use crate::interrupt;
use crate::program::{Program, tail};
use crate::progress::Step;

/// From the start of the process to its address in `server.json`.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// A server lets a running step end before it goes.
const STOP_DEADLINE: Duration = Duration::from_secs(60);
/// How often a state is looked at while it is waited for.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// The port that documentation names; another is taken when it is in use.
const USUAL_ADDRESS: &str = "127.0.0.1:8443";

/// A running server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    pub url: String,
    pub pid: u32,
}

/// The server of this folder, if one runs.
pub fn running(place: &Place) -> Option<Running> {
    let text = place.read_private(&place.data().join("server.json"))?;
    let running = parse(&text)?;
    is_server(running.pid).then_some(running)
}

fn parse(text: &str) -> Option<Running> {
    let value: Value = serde_json::from_str(text).ok()?;
    let pid = u32::try_from(value["pid"].as_u64()?).ok()?;
    Some(Running {
        url: value["url"].as_str()?.to_owned(),
        pid,
    })
}

/// Whether the process is a server of ours: its id alone may have been given to another.
fn is_server(pid: u32) -> bool {
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    command
        .split(|byte| *byte == 0)
        .any(|word| word == b"serve")
}

pub fn start(place: &Place, binary: &Path) -> Result<Running> {
    if let Some(found) = running(place) {
        Step::begin("server").done(&format!(
            "found running at {} (pid {})",
            found.url, found.pid
        ));
        return Ok(found);
    }
    if place.needs_sudo() {
        eprintln!(
            "The server needs root: it assembles disks with loop devices and overlay mounts. It is started with sudo; \
             everything else runs as you."
        );
        Program::new("sudo")
            .arg("-v")
            .run()
            .context("sudo was refused")?;
    }
    let step = Step::begin("server");
    let serve = Program::new(binary)
        .args(["serve", "--listen", address()])
        .arg("--data")
        .arg(place.data());
    // A new session: neither Ctrl-C nor the end of this terminal reaches it.
    let mut child = place
        .privileged(serve.through(&["setsid", "--wait"]))
        .start_apart(&place.log())?;
    let started = wait_until(START_DEADLINE, "the server to start", || {
        if let Some(status) = child.try_wait().context("cannot wait for the server")? {
            let log = std::fs::read_to_string(place.log()).unwrap_or_default();
            bail!(
                "the server ended at once ({status}); {} says:\n{}",
                place.log().display(),
                tail(&log, 20)
            );
        }
        Ok(running(place))
    });
    match started {
        Ok(found) => {
            step.done(&format!(
                "{} (pid {}), log in {}",
                found.url,
                found.pid,
                place.log().display()
            ));
            Ok(found)
        }
        Err(error) => {
            step.failed("");
            Err(error)
        }
    }
}

/// Stops the server, then whatever machine of this folder still runs; what they made stays.
pub fn stop(place: &Place) -> Result<()> {
    match running(place) {
        Some(found) => {
            let step = Step::begin("stop the server");
            end(place, &[found.pid], || is_server(found.pid))?;
            step.done(&format!("pid {}", found.pid));
        }
        None => eprintln!("no server runs on {}", place.data().display()),
    }
    let machines = machines_of(&place.data())?;
    if !machines.is_empty() {
        let step = Step::begin("stop machines");
        let folder = place.data();
        end(place, &machines, || {
            machines_of(&folder).is_ok_and(|left| !left.is_empty())
        })?;
        step.done(&format!("{} stopped", machines.len()));
    }
    Ok(())
}

/// Asks processes to end and waits until they have.
fn end(place: &Place, pids: &[u32], still_there: impl Fn() -> bool) -> Result<()> {
    let pids = pids.iter().map(u32::to_string);
    // One that has just ended by itself makes `kill` fail; what counts is that it is gone.
    place
        .privileged(
            Program::new("kill")
                .arg("-TERM")
                .args(pids.collect::<Vec<_>>()),
        )
        .output()?;
    wait_until(STOP_DEADLINE, "it to end", || {
        Ok((!still_there()).then_some(()))
    })
}

/// Emulators whose files lie in this folder; they outlive the server on purpose.
fn machines_of(folder: &Path) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").context("cannot list processes")? {
        let Ok(entry) = entry else { continue };
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        // A process that ended meanwhile has no command line, and is no machine any more.
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if is_machine(&String::from_utf8_lossy(&command), folder) {
            found.push(pid);
        }
    }
    Ok(found)
}

fn is_machine(command: &str, folder: &Path) -> bool {
    let mut words = command.split('\0');
    let program = words
        .next()
        .unwrap_or_default()
        .rsplit('/')
        .next()
        .unwrap_or_default();
    let inside = format!("{}/", folder.display());
    program.starts_with("qemu-system-") && words.any(|word| word.contains(&inside))
}

fn address() -> &'static str {
    if std::net::TcpListener::bind(USUAL_ADDRESS).is_ok() {
        USUAL_ADDRESS
    } else {
        "127.0.0.1:0"
    }
}

/// Looks until there is something to see, a failure, Ctrl-C or the deadline.
pub fn wait_until<T>(
    deadline: Duration,
    what: &str,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let started = Instant::now();
    loop {
        if let Some(seen) = look()? {
            return Ok(seen);
        }
        if interrupt::happened() {
            bail!("interrupted while waiting for {what}");
        }
        if started.elapsed() > deadline {
            bail!("waited {} s for {what}", deadline.as_secs());
        }
        std::thread::park_timeout(LOOK_AGAIN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_file_is_read_and_rubbish_is_no_server() {
        let check = |text: &str, expected: Option<u32>| {
            assert_eq!(parse(text).map(|running| running.pid), expected, "{text}");
        };
        check(
            r#"{"pid": 7, "url": "https://127.0.0.1:8443", "more": true}"#,
            Some(7),
        );
        check(r#"{"pid": "7", "url": "https://127.0.0.1:8443"}"#, None);
        check("{", None);
    }

    #[test]
    fn a_process_that_is_not_a_server_is_not_taken_for_one() {
        assert!(!is_server(std::process::id()));
    }

    #[test]
    fn a_machine_is_known_by_its_program_and_its_folder() {
        let check = |command: &str, expected: bool| {
            assert_eq!(
                is_machine(command, Path::new("/srv/try")),
                expected,
                "{command}"
            );
        };
        check(
            "/usr/bin/qemu-system-x86_64\0-drive\0file=/srv/try/machines/web-1/disk.raw",
            true,
        );
        check(
            "/usr/bin/qemu-system-x86_64\0-drive\0file=/srv/try-2/machines/web-1/disk.raw",
            false,
        );
        check("vi\0/srv/try/machines/web-1/serial.log", false);
    }

    #[test]
    fn waiting_ends_at_the_deadline() {
        let error = wait_until(Duration::ZERO, "nothing", || Ok(None::<()>)).unwrap_err();
        assert!(error.to_string().contains("nothing"), "{error}");
    }
}
