//! `bullion dev`: a throw-away server for the time of one command, with all that a test of a pipeline needs in it.

// A test starts programs as a user does.
#![allow(clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

const POLL: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(60);

struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Place {
        Place {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// The program with temporary folders of its own, so that what is left behind is seen.
    fn dev(&self, args: &[&str]) -> Command {
        let temporary = self.folder.path().join("tmp");
        std::fs::create_dir_all(&temporary).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_bullion"));
        command.arg("dev").args(args).env("TMPDIR", temporary);
        command.current_dir(self.folder.path());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        let output = self.dev(args).output().unwrap();
        assert_eq!(self.left(), 0, "the server's folder is gone");
        output
    }

    fn left(&self) -> usize {
        std::fs::read_dir(self.folder.path().join("tmp"))
            .unwrap()
            .count()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn variables(lines: &str) -> BTreeMap<String, String> {
    let pairs = lines.lines().filter_map(|line| line.split_once('='));
    pairs
        .filter(|(name, _)| name.starts_with("BULLION_"))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// Waits for a state, never for a time.
fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "{what} does not come");
        // Between two looks; nothing is expected to have happened by then.
        std::thread::park_timeout(POLL);
    }
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill")
        .args([name, &child.id().to_string()])
        .status();
    assert!(sent.unwrap().success());
}

fn ended(mut child: Child) -> ExitStatus {
    until("the end", || child.try_wait().unwrap())
}

#[test]
fn a_command_gets_a_world_and_its_status_is_given_on() {
    let place = Place::new();
    let output = place.run(&[
        "--tenants",
        "3",
        "--env-file",
        "dev.env",
        "--",
        "sh",
        "-c",
        "env; exit 7",
    ]);
    assert_eq!(output.status.code(), Some(7), "{}", text(&output.stderr));
    let seen = variables(&text(&output.stdout));
    let written = std::fs::read_to_string(place.folder.path().join("dev.env")).unwrap();
    for (name, value) in variables(&written) {
        assert_eq!(seen.get(&name), Some(&value), "{name}");
    }
    let mut names = vec![
        "BULLION_URL",
        "BULLION_CA",
        "BULLION_CLIENT_ID",
        "BULLION_CLIENT_SECRET",
        "BULLION_TENANT",
        "BULLION_VHD_URI",
        "BULLION_LOCATION",
        "BULLION_ADMIN_CLIENT_ID",
        "BULLION_ADMIN_CLIENT_SECRET",
    ];
    for number in ["1", "2", "3"] {
        for kind in ["TENANT", "SUBSCRIPTION", "IMAGE"] {
            names.push(Box::leak(
                format!("BULLION_{kind}_{number}").into_boxed_str(),
            ));
        }
    }
    for name in names {
        assert!(
            seen.get(name).is_some_and(|value| !value.is_empty()),
            "{name}: {seen:?}"
        );
    }
    assert!(seen["BULLION_IMAGE_2"].starts_with(&format!(
        "/subscriptions/{}/",
        seen["BULLION_SUBSCRIPTION_2"]
    )));
    assert_ne!(seen["BULLION_TENANT_1"], seen["BULLION_TENANT_2"]);
}

#[test]
fn the_program_itself_works_in_the_world() {
    let place = Place::new();
    let program = env!("CARGO_BIN_EXE_bullion");
    let script = format!(
        "set -e
         {program} rest GET $BULLION_IMAGE_1
         {program} rest GET $BULLION_IMAGE_2 --tenant $BULLION_TENANT_2
         {program} rest GET /subscriptions/$BULLION_SUBSCRIPTION_2/resourceGroups --tenant $BULLION_TENANT_2"
    );
    let output = place.run(&["--region", "home", "--", "sh", "-c", &script]);
    let said = text(&output.stdout);
    assert!(output.status.success(), "{said}{}", text(&output.stderr));
    assert_eq!(said.matches("\"diskDigest\"").count(), 2, "{said}");
    assert!(said.contains("\"home\""), "{said}");
}

#[test]
fn mistakes_are_told() {
    let place = Place::new();
    let check = |args: &[&str], code: i32, part: &str| {
        let output = place.run(args);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.contains(part), "{args:?}: {said}");
    };
    check(&["--", "no-such-program"], 127, "no-such-program");
    check(&["--tenants", "0", "--", "true"], 2, "0");
    check(&["--tenants", "many", "--", "true"], 2, "many");
    check(&["--region", "../x", "--", "true"], 1, "../x");
    check(
        &["--env-file", "no/such/folder/file", "--", "true"],
        1,
        "no/such/folder/file",
    );
}

#[test]
fn without_a_command_it_runs_until_it_is_told_to_stop() {
    for name in ["-INT", "-TERM"] {
        let place = Place::new();
        let file = place.folder.path().join("dev.env");
        let mut command = place.dev(&["--env-file", "dev.env"]);
        let child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let written = until("the file", || std::fs::read_to_string(&file).ok());
        let ca = variables(&written)["BULLION_CA"].clone();
        assert!(
            Path::new(&ca).is_file(),
            "whoever sees the file can use what it names"
        );
        signal(&child, name);
        assert_eq!(ended(child).code(), Some(0), "{name}");
        assert_eq!(place.left(), 0);
    }
}

#[test]
fn a_signal_reaches_the_command_and_the_server_goes_with_it() {
    let place = Place::new();
    let script = "trap 'echo told > told; exit 3' TERM; echo > ready; while :; do read -t 1 line < /dev/zero; done";
    let mut command = place.dev(&["--", "bash", "-c", script]);
    let child = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let ready = place.folder.path().join("ready");
    until("the command", || ready.exists().then_some(()));
    signal(&child, "-TERM");
    assert_eq!(ended(child).code(), Some(3));
    assert!(place.folder.path().join("told").exists());
    assert_eq!(place.left(), 0);
}
