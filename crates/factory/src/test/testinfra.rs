//! Checks written for pytest with testinfra: Python of a tenant, run on this host as nobody, confined, with a way to the
//! machine's SSH port and no other. What it says is read as results; nothing of it is trusted but that it ran.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use machine::MachineInfo;
use process::ProcessError;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesRef, BytesStart, Event};
use quick_xml::{Reader, XmlVersion};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpStream, UnixListener};
use tokio::task::JoinSet;

use super::CheckResult;
use crate::confined::{Confined, ConfinedError, WORK};
use crate::pipeline::chain;

/// Debian's `python3-testinfra` and what it needs.
const PYTEST: &str = "pytest-3";
const MODULE: &str = "/usr/lib/python3/dist-packages/testinfra";
const SOCKET: &str = "ssh.sock";
const RESULT: &str = "result.xml";
const RESULT_BYTES_MAX: u64 = 8 << 20;
/// Test functions of one check.
const CASES_MAX: usize = 500;
/// Connections to the machine at one time.
const CONNECTIONS_MAX: usize = 32;
const OUTPUT_BYTES_MAX: usize = 64 << 10;
/// What pytest ends with when it ran tests, whether or not they passed.
const RAN: [i32; 2] = [0, 1];

/// The way out of the sandbox: what ssh says goes to a socket that only leads to the machine.
const CONNECT: &str = r#"import os, socket, sys, threading
s = socket.socket(socket.AF_UNIX)
s.connect("ssh.sock")
def up():
    while data := os.read(0, 65536):
        s.sendall(data)
    s.shutdown(socket.SHUT_WR)
threading.Thread(target=up, daemon=True).start()
while data := s.recv(65536):
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
"#;

/// One file of tests and the machine that it asks.
pub(super) struct Testinfra<'a> {
    pub name: &'a str,
    pub kind: &'a str,
    /// The Python file.
    pub text: &'a str,
    pub machine: &'a MachineInfo,
    /// A folder of ours.
    pub work: &'a Path,
    pub deadline: Duration,
}

impl Testinfra<'_> {
    /// A result for each test function; what keeps them from being run is a result of its own.
    pub async fn run(&self) -> Vec<CheckResult> {
        let started = Instant::now();
        match self.cases().await {
            Ok(cases) => cases.into_iter().map(|case| self.result(case)).collect(),
            Err(output) => vec![CheckResult {
                name: self.name.to_owned(),
                kind: self.kind.to_owned(),
                passed: false,
                output: super::tail(&output),
                seconds: started.elapsed().as_secs_f64(),
            }],
        }
    }

    fn result(&self, case: Case) -> CheckResult {
        CheckResult {
            name: format!("{}: {}", self.name, case.name),
            kind: self.kind.to_owned(),
            passed: case.passed,
            output: super::tail(&case.output),
            seconds: case.seconds,
        }
    }

    async fn cases(&self) -> Result<Vec<Case>, String> {
        if !Path::new(MODULE).is_dir() {
            return Err(
                "this server has no testinfra: install Debian's python3-testinfra".to_owned(),
            );
        }
        let place = self.prepared().map_err(|error| chain(&error))?;
        let way = way_to(&place.work(), self.machine.ssh_port);
        let _way = way.map_err(|error| format!("open the way to the machine: {error}"))?;
        let command = place.command(PYTEST, self.deadline);
        let command = command.map_err(|error| chain(&error))?;
        let ended = command
            .args(["-q", "--tb=short", "--color=no", "-p", "no:cacheprovider"])
            .args(["--hosts=ssh://machine", "--ssh-config=ssh_config"])
            .arg(format!("--junitxml={RESULT}"))
            .arg("test_image.py")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .output_limit(OUTPUT_BYTES_MAX)
            .output()
            .await;
        let output = match ended {
            Ok(output) => output,
            Err(ProcessError::Deadline { tail, .. }) => {
                let after = self.deadline.as_secs();
                return Err(format!(
                    "the tests did not end within {after} s and were killed\n{tail}"
                ));
            }
            Err(error) => return Err(chain(&error)),
        };
        if !output.status.code().is_some_and(|code| RAN.contains(&code)) {
            let said = output.stdout_text() + &String::from_utf8_lossy(&output.stderr);
            return Err(format!(
                "pytest ran no test ({})\n{}",
                output.status,
                said.trim()
            ));
        }
        let result = place
            .take(RESULT, RESULT_BYTES_MAX)
            .map_err(|error| chain(&error))?;
        let cases = cases(&String::from_utf8_lossy(&result))
            .map_err(|error| format!("what pytest wrote cannot be read: {error}"))?;
        match cases.is_empty()
            || (output.status.code() == Some(1)) != cases.iter().any(|case| !case.passed)
        {
            true => Err("what pytest wrote is not what it ended with".to_owned()),
            false => Ok(cases),
        }
    }

    /// The files that pytest and ssh find.
    fn prepared(&self) -> Result<Confined, ConfinedError> {
        let place = Confined::new(self.work)?;
        let key = fs::read(&self.machine.key_file).map_err(|source| ConfinedError::File {
            operation: "read",
            path: self.machine.key_file.clone(),
            source,
        })?;
        let user = &self.machine.user;
        let config = format!(
            "Host machine\n  User {user}\n  IdentityFile {WORK}/key\n  IdentitiesOnly yes\n  UserKnownHostsFile {WORK}/known_hosts\n  \
             StrictHostKeyChecking yes\n  ProxyCommand /usr/bin/python3 {WORK}/connect.py\n  LogLevel ERROR\n  \
             ControlMaster auto\n  ControlPath /tmp/ssh\n  ControlPersist 60\n"
        );
        place.put("test_image.py", self.text.as_bytes())?;
        place.put("key", &key)?;
        place.put(
            "known_hosts",
            format!("machine {}\n", self.machine.host_key).as_bytes(),
        )?;
        place.put("ssh_config", config.as_bytes())?;
        place.put("connect.py", CONNECT.as_bytes())?;
        Ok(place)
    }
}

/// Passes connections to a socket in the folder on to the machine, until it is dropped.
fn way_to(folder: &Path, port: u16) -> std::io::Result<JoinSet<()>> {
    // The whole path may be longer than the name of a socket can be.
    let folder = File::open(folder)?;
    let socket = format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd());
    let listener = UnixListener::bind(&socket)?;
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666))?;
    let mut way = JoinSet::new();
    way.spawn(async move {
        let mut open = JoinSet::new();
        loop {
            while open.len() >= CONNECTIONS_MAX {
                open.join_next().await;
            }
            let Ok((mut inner, _)) = listener.accept().await else {
                return;
            };
            open.spawn(async move {
                // Either end may go when it likes; the other then sees the end of the stream.
                if let Ok(mut outer) = TcpStream::connect(("127.0.0.1", port)).await {
                    let _ = copy_bidirectional(&mut inner, &mut outer).await;
                }
            });
        }
    });
    Ok(way)
}

/// One test function.
#[derive(Debug, Clone, PartialEq)]
struct Case {
    name: String,
    passed: bool,
    output: String,
    seconds: f64,
}

/// The cases of a JUnit report. One that was skipped has passed, and says why it was not run.
fn cases(xml: &str) -> Result<Vec<Case>, quick_xml::Error> {
    let mut reader = Reader::from_str(xml);
    let mut cases: Vec<Case> = Vec::new();
    let mut inside = false;
    loop {
        let event = reader.read_event()?;
        let (start, ends) = match &event {
            Event::Start(start) => (start, false),
            Event::Empty(start) => (start, true),
            Event::Text(text) => {
                if let (true, Some(case)) = (inside, cases.last_mut()) {
                    case.output.push_str(text);
                }
                continue;
            }
            Event::GeneralRef(reference) => {
                if let (true, Some(case)) = (inside, cases.last_mut()) {
                    case.output.push(character(reference));
                }
                continue;
            }
            Event::End(end) => {
                inside &= !OUTCOMES.contains(&end.local_name().as_ref());
                continue;
            }
            Event::Eof => return Ok(cases),
            _ => continue,
        };
        match start.local_name().as_ref() {
            "testcase" if cases.len() < CASES_MAX => cases.push(Case {
                name: shown(&attribute(start, "name")),
                passed: true,
                output: String::new(),
                seconds: attribute(start, "time").parse().unwrap_or_default(),
            }),
            outcome if OUTCOMES.contains(&outcome) => {
                inside = !ends;
                if let Some(case) = cases.last_mut() {
                    case.passed &= outcome == "skipped";
                    case.output.push_str(&attribute(start, "message"));
                    case.output.push('\n');
                }
            }
            _ => {}
        }
    }
}

/// What stands in a case that did not just pass.
const OUTCOMES: [&str; 3] = ["failure", "error", "skipped"];

/// The function's name without the machine's, which is the same everywhere.
fn shown(name: &str) -> String {
    name.replace("[ssh://machine]", "")
        .replace("ssh://machine-", "")
}

fn character(reference: &BytesRef<'_>) -> char {
    let known = match reference.resolve_char_ref() {
        Ok(Some(number)) => Some(number),
        _ => resolve_predefined_entity(reference).and_then(|text| text.chars().next()),
    };
    known.unwrap_or('\u{fffd}')
}

fn attribute(start: &BytesStart<'_>, name: &str) -> String {
    let found = start.try_get_attribute(name).ok().flatten();
    let value = found.and_then(|found| {
        Some(
            found
                .normalized_value(XmlVersion::Implicit1_0)
                .ok()?
                .into_owned(),
        )
    });
    value.unwrap_or_default()
}
