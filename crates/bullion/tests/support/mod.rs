//! A real server on a folder of its own, and the real command line to speak to it. Nothing here reaches behind either.

// Each test target uses its own part of this.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// From the start of the process to its address.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// What a killed server started must be gone by then.
const GONE_DEADLINE: Duration = Duration::from_secs(30);
/// Between two looks at a state that is waited for.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

pub struct Installation {
    folder: TempDir,
    /// Of `bullion serve`, beyond its address and folder.
    options: Vec<String>,
    server: Option<Child>,
}

/// What a command left: all of it is interface.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Installation {
    /// An empty folder and a server that has just started on it, signed in as its administrator.
    pub fn new() -> Self {
        Self::with(&[])
    }

    /// The same with more options of `bullion serve`. A server on a database that has an administrator makes none, so
    /// nobody is signed in at it.
    pub fn with(options: &[&str]) -> Self {
        // Disks of a few gigabytes: not on a small /tmp.
        let folder =
            tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("cannot create a folder");
        let mut installation = Self {
            folder,
            options: options.iter().map(|&option| option.to_owned()).collect(),
            server: None,
        };
        installation.start();
        installation
    }

    /// Signs in at this server as the administrator that another one on its database made.
    pub fn login_as_of(&self, other: &Installation) {
        let read = |file: PathBuf| std::fs::read_to_string(file).expect("cannot read a file");
        let parse = |file| serde_json::from_str::<Value>(&read(file)).expect("it is JSON");
        let admin = parse(other.data().join("admin.json"));
        let server = parse(self.data().join("server.json"));
        let text = |of: &Value, key: &str| of[key].as_str().unwrap_or_default().to_owned();
        let secret = self.beside("secret");
        std::fs::write(&secret, text(&admin, "clientSecret")).expect("cannot write a file");
        self.run(&[
            "login",
            "--url",
            &text(&server, "url"),
            "--ca",
            &self.data().join("tls/ca.pem").to_string_lossy(),
            "--tenant",
            &text(&admin, "tenantId"),
            "--client-id",
            &text(&admin, "clientId"),
            "--client-secret-file",
            &secret.to_string_lossy(),
        ])
        .succeeded();
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// A folder beside the data folder.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn start(&mut self) {
        self.start_with(&[]);
    }

    /// A server that stops for good once its jobs come to a place, such as `promote:AfterAction(3)`.
    pub fn start_to_halt_at(&mut self, place: &str) {
        let told = self.beside("halted");
        let _ = std::fs::remove_file(&told);
        let told = told.to_string_lossy();
        self.start_with(&[("BULLION_HALT_AT", place), ("BULLION_HALT_FILE", &told)]);
    }

    pub fn wait_for_halt(&self, deadline: Duration) {
        let told = self.beside("halted");
        wait_for("the server to come to its place", deadline, || {
            told.exists().then_some(())
        });
    }

    /// Kills the server once it has come to the place.
    pub fn kill_at_halt(&mut self, deadline: Duration) {
        self.wait_for_halt(deadline);
        self.kill();
        self.wait_for_programs();
    }

    /// The folder of a region's stores goes where nothing finds it, as when what it is on is not there.
    pub fn unplug_region(&self, region: &str) {
        let folder = self.data().join("regions").join(region);
        std::fs::rename(&folder, self.beside(region)).expect("cannot move a folder");
        std::fs::write(&folder, "").expect("cannot write a file");
    }

    pub fn plug_region_in(&self, region: &str) {
        let folder = self.data().join("regions").join(region);
        std::fs::remove_file(&folder).expect("cannot remove a file");
        std::fs::rename(self.beside(region), &folder).expect("cannot move a folder");
    }

    /// What a killed server had started ends by itself.
    pub fn wait_for_programs(&self) {
        wait_for("what the server had started to end", GONE_DEADLINE, || {
            self.programs().is_empty().then_some(())
        });
    }

    fn start_with(&mut self, environment: &[(&str, &str)]) {
        assert!(self.server.is_none(), "it runs already");
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.beside("server.log"));
        let log = log.expect("cannot write the server's log");
        let mut child = command()
            .args(["serve", "--listen", "127.0.0.1:0", "--data"])
            .arg(self.data())
            .args(&self.options)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("cannot share the log"))
            .stderr(log)
            .spawn()
            .expect("cannot start the server");
        let pid = child.id();
        let data = self.data();
        wait_for("the server to listen", START_DEADLINE, || {
            if let Some(status) = child.try_wait().expect("cannot wait for the server") {
                panic!("the server ended with {status}:\n{}", self.log());
            }
            let text = std::fs::read_to_string(data.join("server.json")).ok()?;
            let server: Value = serde_json::from_str(&text).ok()?;
            (server["pid"] == pid).then_some(())
        });
        self.server = Some(child);
        let admin = data.join("admin.json");
        if admin.exists() {
            self.run(&["login", "--from", &admin.to_string_lossy()])
                .succeeded();
        }
    }

    /// As a power cut would: nothing in the server gets to run.
    pub fn kill(&mut self) {
        let mut child = self.server.take().expect("no server runs");
        child.kill().expect("cannot kill the server");
        child.wait().expect("cannot wait for the server");
    }

    /// As `systemctl stop` would.
    pub fn stop(&mut self) {
        let mut child = self.server.take().expect("no server runs");
        let status = Command::new("kill")
            .args(["-TERM", &child.id().to_string()])
            .status();
        assert!(status.expect("cannot run kill").success());
        let ended = wait_for("the server to stop", START_DEADLINE, || {
            child.try_wait().expect("cannot wait")
        });
        assert!(
            ended.success(),
            "the server ended with {ended}:\n{}",
            self.log()
        );
    }

    pub fn run(&self, args: &[&str]) -> Said {
        self.run_as("profile.json", args)
    }

    /// As whoever the profile beside the data folder is of.
    pub fn run_as(&self, profile: &str, args: &[&str]) -> Said {
        let output = command()
            .args(args)
            .env("BULLION_PROFILE", self.beside(profile))
            .stdin(Stdio::null())
            .output()
            .expect("cannot start the program");
        Said::from(output)
    }

    /// A command that must succeed, and its answer.
    pub fn json(&self, args: &[&str]) -> Value {
        let said = self
            .run(&[args, &["--output", "json"]].concat())
            .succeeded();
        serde_json::from_str(&said.stdout)
            .unwrap_or_else(|error| panic!("{args:?} printed no JSON ({error}): {said:?}"))
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.beside("server.log")).unwrap_or_default()
    }

    /// Waits until no program other than the server works on the folder, and nothing of it is mounted or a loop device.
    pub fn wait_for_quiet(&self) {
        let left = || {
            let mut left = self.programs();
            left.extend(mounts_below(&self.data()));
            left.extend(loops_on(&self.data()));
            left
        };
        wait_for_or(
            "nothing to be left running or mounted",
            GONE_DEADLINE,
            || left().is_empty().then_some(()),
            || format!("{:#?}", left()),
        );
    }

    /// Folders that steps worked in.
    pub fn left_of_steps(&self) -> Vec<String> {
        let all = ["cache/work", "cache/build"].map(|name| self.data().join(name));
        let entries = all.iter().flat_map(std::fs::read_dir).flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| name.starts_with("step-")).collect()
    }

    /// Programs of the machines and builds of this folder.
    pub fn programs(&self) -> Vec<String> {
        let server = self.server.as_ref().map(Child::id);
        let all = processes_on(&self.data());
        all.into_iter()
            .filter(|(pid, _)| Some(*pid) != server)
            .map(|(_, command)| command)
            .collect()
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(60).collect();
            eprintln!("--- the server's last lines:");
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
        if self.server.is_some() {
            self.kill();
        }
        // A deployed machine outlives its server by design; not this test.
        for (pid, _) in processes_on(&self.data()) {
            let _ = Command::new("kill")
                .args(["-KILL", &pid.to_string()])
                .status();
        }
        for mount in mounts_below(&self.data()) {
            let _ = Command::new("umount").args(["--lazy", &mount]).status();
        }
    }
}

impl Said {
    #[track_caller]
    pub fn succeeded(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self
    }

    #[track_caller]
    pub fn failed(self) -> Self {
        assert!(self.code.is_some_and(|code| code != 0), "{self:#?}");
        self
    }

    /// What people read.
    #[track_caller]
    pub fn tells(self, words: &[&str]) -> Self {
        for word in words {
            assert!(
                self.stderr.contains(word),
                "`{word}` is not told: {self:#?}"
            );
        }
        self
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}

/// The program, without what the tester's shell has set for it.
pub fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bullion"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("BULLION_") {
            command.env_remove(name);
        }
    }
    command
}

/// The example factory, copied to where it may be changed.
/// How a script signs in with a profile, but for whom it trusts.
pub fn signed_in(profile: &Path) -> Vec<(&'static str, String)> {
    let text = std::fs::read_to_string(profile).expect("cannot read a profile");
    let profile: Value = serde_json::from_str(&text).expect("it is JSON");
    let names = [
        ("BULLION_URL", "url"),
        ("BULLION_TENANT", "tenantId"),
        ("BULLION_CLIENT_ID", "clientId"),
        ("BULLION_CLIENT_SECRET", "clientSecret"),
    ];
    let text = |(name, key)| (name, profile[key].as_str().unwrap_or_default().to_owned());
    names.into_iter().map(text).collect()
}

pub fn copy_example(to: &Path) {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/golden-debian");
    copy_folder(&example, to);
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("cannot create a folder");
    for entry in std::fs::read_dir(from).expect("cannot list a folder") {
        let from = entry.expect("cannot list a folder").path();
        let to = to.join(from.file_name().expect("an entry has a name"));
        if from.is_dir() {
            copy_folder(&from, &to);
        } else {
            std::fs::copy(&from, &to).expect("cannot copy a file");
        }
    }
}

/// Replaces a text that must be there in a file.
pub fn edit(file: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(file).expect("cannot read a file");
    assert!(
        text.contains(from),
        "{} does not contain {from:?}",
        file.display()
    );
    std::fs::write(file, text.replacen(from, to, 1)).expect("cannot write a file");
}

#[track_caller]
pub fn wait_for<T>(what: &str, deadline: Duration, look: impl FnMut() -> Option<T>) -> T {
    wait_for_or(what, deadline, look, String::new)
}

#[track_caller]
fn wait_for_or<T>(
    what: &str,
    deadline: Duration,
    mut look: impl FnMut() -> Option<T>,
    explain: impl Fn() -> String,
) -> T {
    let began = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(
            began.elapsed() < deadline,
            "waited {} s for {what} {}",
            deadline.as_secs(),
            explain()
        );
        std::thread::park_timeout(LOOK_AGAIN);
    }
}

/// Processes that name something in the folder or stand in it.
fn processes_on(folder: &Path) -> Vec<(u32, String)> {
    let inside = format!("{}/", folder.display());
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")
        .expect("cannot list processes")
        .flatten()
    {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        let stands_in = |link: &str| {
            std::fs::read_link(entry.path().join(link)).is_ok_and(|at| at.starts_with(folder))
        };
        if pid == std::process::id() {
            continue;
        }
        if command.contains(&inside) || stands_in("cwd") || stands_in("root") {
            found.push((pid, command));
        }
    }
    found
}

/// Files of the folder that are loop devices, in whatever namespace those are mounted.
fn loops_on(folder: &Path) -> Vec<String> {
    let inside = format!("{}/", folder.display());
    let devices = std::fs::read_dir("/sys/block").expect("cannot list block devices");
    let files = devices
        .flatten()
        .filter_map(|device| std::fs::read_to_string(device.path().join("loop/backing_file")).ok());
    files.filter(|file| file.starts_with(&inside)).collect()
}

fn mounts_below(folder: &Path) -> Vec<String> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("cannot read the mounts");
    let inside = format!("{}/", folder.display());
    // The newest first: what lies on top must go first.
    mounts
        .lines()
        .rev()
        .filter_map(|line| line.split(' ').nth(1))
        .filter(|at| at.starts_with(&inside))
        .map(str::to_owned)
        .collect()
}
