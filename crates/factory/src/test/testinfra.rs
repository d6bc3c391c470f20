//! Checks written for pytest with testinfra: Python of a tenant, run on this host as nobody, confined, with a way to the
//! machine's SSH port and no other. What it says is read as results; nothing of it is trusted but that it ran.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use machine::MachineInfo;
use process::ProcessError;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpStream, UnixListener};
use tokio::task::JoinSet;

use super::CheckResult;
use super::junit::{self, Case};
use crate::confined::{Confined, ConfinedError, WORK};
use crate::pipeline::chain;

/// Debian's `python3-testinfra` and what it needs.
const PYTEST: &str = "pytest-3";
const MODULE: &str = "/usr/lib/python3/dist-packages/testinfra";
const SOCKET: &str = "ssh.sock";
const RESULT: &str = "result.xml";
const RESULT_BYTES_MAX: u64 = 8 << 20;
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
            Ok(cases) => {
                let cases = cases.into_iter();
                cases
                    .map(|mut case| {
                        case.name = shown(&case.name);
                        case.result(self.name, self.kind)
                    })
                    .collect()
            }
            Err(output) => vec![CheckResult {
                name: self.name.to_owned(),
                kind: self.kind.to_owned(),
                passed: false,
                output: super::tail(&output),
                seconds: started.elapsed().as_secs_f64(),
            }],
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
        junit::settled(
            &String::from_utf8_lossy(&result),
            output.status.code() == Some(1),
            "pytest",
        )
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

/// The function's name without the machine's, which is the same everywhere.
fn shown(name: &str) -> String {
    name.replace("[ssh://machine]", "")
        .replace("ssh://machine-", "")
}
