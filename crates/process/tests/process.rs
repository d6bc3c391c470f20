//! Real programs, run within every limit that the crate promises. `sh` is only ever the program
//! under test here.

use process::{Command, ProcessError, ProcessId, Stdin, Stream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Far more than any wait here needs; it only turns a hang into a failure.
const PATIENCE: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_millis(200);

fn sh(script: &str) -> Command {
    Command::new("sh").arg("-c").arg(script).deadline(PATIENCE)
}

/// The program writes its pid into the file once it is up; this waits for that.
async fn pid_in(file: &Path) -> ProcessId {
    let found = async {
        loop {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            if let Some(pid) = text.strip_suffix('\n').and_then(|pid| pid.parse().ok())
                && let Some(id) = ProcessId::of(pid)
            {
                return id;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, found).await.unwrap()
}

async fn gone(id: ProcessId) {
    tokio::time::timeout(PATIENCE, id.gone())
        .await
        .expect("it is still alive")
        .unwrap();
}

/// A daemon as daemons are made: two forks and a session of its own, deaf to `SIGTERM`.
fn daemon_script(pid_file: &Path) -> String {
    format!(
        "setsid sh -c 'setsid sh -c \"trap : TERM HUP; echo \\$\\$ > {0}.new; mv {0}.new {0}; while :; do sleep 1000; done\" </dev/null >/dev/null 2>&1 & ' & wait",
        pid_file.display()
    )
}

#[tokio::test]
async fn runs_and_captures() {
    let output = sh("echo out; echo err >&2").run().await.unwrap();
    assert_eq!(output.stdout_text(), "out\n");
    assert_eq!(output.stderr, b"err\n");
    assert!(output.status.success());
}

#[tokio::test]
async fn environment_and_folder_are_ours_to_give() {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new("env").env("ONLY", "this").run().await.unwrap();
    let mut names: Vec<_> = output
        .stdout_text()
        .lines()
        .map(|line| line.split('=').next().unwrap().to_owned())
        .collect();
    names.sort();
    assert_eq!(names, ["LC_ALL", "ONLY", "PATH", "TZ"]);
    let output = Command::new("pwd").cwd(folder.path()).run().await.unwrap();
    assert_eq!(
        Path::new(output.stdout_text().trim()),
        folder.path().canonicalize().unwrap()
    );
}

#[tokio::test]
async fn arguments_are_not_a_shell_line() {
    let output = Command::new("printf")
        .args(["%s|", "a b", "$(id)", ";", "*"])
        .run()
        .await
        .unwrap();
    assert_eq!(output.stdout_text(), "a b|$(id)|;|*|");
}

#[tokio::test]
async fn input_from_bytes_and_file() {
    let big: Vec<u8> = (0..3_000_000u32).map(|n| n as u8).collect();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("in");
    std::fs::write(&file, &big).unwrap();
    for stdin in [Stdin::Bytes(big.clone()), Stdin::File(file)] {
        let command = Command::new("cat").stdin(stdin).output_limit(4_000_000);
        assert!(command.run().await.unwrap().stdout == big);
    }
    // A program that does not read is not an error.
    let command = Command::new("true").stdin(Stdin::Bytes(big));
    command.run().await.unwrap();
}

#[tokio::test]
async fn output_to_a_file_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("out");
    let command = sh("head -c 300000 /dev/zero; echo said >&2").stdout_file(&file);
    let output = command.output_limit(10).run().await.unwrap();
    assert_eq!(std::fs::metadata(&file).unwrap().len(), 300_000);
    assert_eq!((output.stdout.len(), output.stderr.len()), (0, 5));
}

#[tokio::test]
async fn output_is_bounded_and_its_end_is_kept() {
    let command = sh("head -c 5000000 /dev/zero; echo the end").output_limit(1000);
    let output = command.run().await.unwrap();
    assert_eq!(output.stdout.len(), 1000);
    assert!(output.stdout.ends_with(b"the end\n"));
    assert_eq!(output.dropped, 5_000_008 - 1000);
}

#[tokio::test]
async fn lines_come_with_their_stream() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&seen);
    sh("echo one; printf 'two\\r\\nthree'; echo bad >&2")
        .on_line(move |stream, line| keep.lock().unwrap().push((stream, line.to_owned())))
        .run()
        .await
        .unwrap();
    let seen = seen.lock().unwrap();
    let of = |wanted| {
        let lines = seen.iter().filter(|(stream, _)| *stream == wanted);
        lines.map(|(_, line)| line.as_str()).collect::<Vec<_>>()
    };
    assert_eq!(of(Stream::Stdout), ["one", "two", "three"]);
    assert_eq!(of(Stream::Stderr), ["bad"]);
}

#[tokio::test]
async fn failures_are_told_apart() {
    async fn check(command: Command, expected: &str) {
        let error = command.run().await.unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
    check(
        sh("echo why >&2; exit 3"),
        "`sh` failed (exit status: 3): why",
    )
    .await;
    check(
        sh("echo only out; exit 1"),
        "`sh` failed (exit status: 1): only out",
    )
    .await;
    check(sh("kill -SEGV $$"), "`sh` failed (signal: 11 (SIGSEGV))").await;
    check(
        Command::new("no-such-thing-here"),
        "`no-such-thing-here` is not installed",
    )
    .await;
    check(
        Command::new("grub-mkimage").env("PATH", "/nowhere"),
        "`grub-mkimage` is not installed; install the Debian package `grub-common`",
    )
    .await;
    check(Command::new("true").cwd("/no/such/folder"), "start `true`").await;
    check(
        Command::new("true").stdin(Stdin::File("/no/such/file".into())),
        "start `true`",
    )
    .await;
}

#[tokio::test]
async fn deadline_ends_it_and_keeps_what_it_said() {
    let start = Instant::now();
    let command = sh("echo last words >&2; exec sleep 1000").deadline(SOON);
    let error = command.run().await.unwrap_err();
    assert!(matches!(&error, ProcessError::Deadline { tail, .. } if tail == "last words"));
    assert!(start.elapsed() < PATIENCE);
}

#[tokio::test]
async fn terminated_program_may_clean_up() {
    let folder = tempfile::tempdir().unwrap();
    let (up, mark) = (folder.path().join("up"), folder.path().join("mark"));
    let script = format!(
        "trap 'echo clean > {}; exit 0' TERM; echo $$ > {}; while :; do sleep 0.01; done",
        mark.display(),
        up.display()
    );
    let child = sh(&script).term_grace(PATIENCE).spawn().unwrap();
    pid_in(&up).await;
    let output = child.stop().await.unwrap();
    assert!(output.status.success());
    assert_eq!(std::fs::read_to_string(&mark).unwrap(), "clean\n");
}

#[tokio::test]
async fn deaf_program_is_killed_after_the_grace_period() {
    let folder = tempfile::tempdir().unwrap();
    let up = folder.path().join("up");
    let script = format!(
        "trap : TERM; echo $$ > {}; while :; do sleep 1; done",
        up.display()
    );
    let child = sh(&script).term_grace(SOON).spawn().unwrap();
    let id = pid_in(&up).await;
    child.stop().await.unwrap();
    assert!(!id.is_alive());
}

/// What ends the tree in the test below.
enum End {
    Stop,
    Kill,
    Drop,
    Deadline,
    CancelledFuture,
    ProgramEnds,
}

async fn escaped_daemon_dies(end: End) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("daemon");
    let command = sh(&daemon_script(&file)).term_grace(SOON);
    match end {
        End::Stop | End::Kill | End::Drop => {
            let command = sh(&format!("{}; exec sleep 1000", daemon_script(&file)));
            let child = command.term_grace(SOON).spawn().unwrap();
            let id = pid_in(&file).await;
            assert!(id.is_alive());
            match end {
                End::Stop => drop(child.stop().await.unwrap()),
                End::Kill => drop(child.kill().await.unwrap()),
                _ => drop(child),
            }
            gone(id).await;
        }
        End::Deadline => {
            let run = sh(&format!("{}; exec sleep 1000", daemon_script(&file)))
                .term_grace(SOON)
                .deadline(Duration::from_secs(3))
                .run();
            let (id, ended) = tokio::join!(pid_in(&file), run);
            ended.unwrap_err();
            assert!(!id.is_alive());
        }
        End::CancelledFuture => {
            let run = sh(&format!("{}; exec sleep 1000", daemon_script(&file)))
                .term_grace(SOON)
                .run();
            let id = tokio::select! {
                _ = run => unreachable!("it runs for a thousand seconds"),
                id = pid_in(&file) => id,
            };
            gone(id).await;
        }
        End::ProgramEnds => {
            // It waits until the daemon is up, then ends well and leaves it behind.
            let wait = format!("until [ -s {} ]; do sleep 0.01; done", file.display());
            let child = sh(&format!("{}; {wait}", daemon_script(&file)));
            drop(command);
            child.run().await.unwrap();
            let pid = std::fs::read_to_string(&file).unwrap();
            assert_eq!(ProcessId::of(pid.trim().parse().unwrap()), None);
        }
    }
}

#[tokio::test]
async fn escaped_daemon_dies_on_stop() {
    escaped_daemon_dies(End::Stop).await;
}

#[tokio::test]
async fn escaped_daemon_dies_on_kill() {
    escaped_daemon_dies(End::Kill).await;
}

#[tokio::test]
async fn escaped_daemon_dies_on_drop() {
    escaped_daemon_dies(End::Drop).await;
}

#[tokio::test]
async fn escaped_daemon_dies_on_deadline() {
    escaped_daemon_dies(End::Deadline).await;
}

#[tokio::test]
async fn escaped_daemon_dies_when_the_future_is_dropped() {
    escaped_daemon_dies(End::CancelledFuture).await;
}

#[tokio::test]
async fn escaped_daemon_dies_when_the_program_ends() {
    escaped_daemon_dies(End::ProgramEnds).await;
}

/// Names the folder for the test below, in the process that it starts and kills.
const ROLE: &str = "PROCESS_TEST_SERVER_FOLDER";

/// Not a test of its own: without the variable it does nothing. With it, it is the server that
/// gets killed: it starts one supervised tree and one daemon, and waits for its death.
#[tokio::test]
async fn server_role() {
    let Some(folder) = std::env::var_os(ROLE) else {
        return;
    };
    let folder = Path::new(&folder);
    let script = format!("{}; exec sleep 1000", daemon_script(&folder.join("child")));
    let mut child = sh(&script).term_grace(SOON).spawn().unwrap();
    let id = Command::new("sleep")
        .arg("1000")
        .spawn_daemon(&folder.join("log"))
        .await
        .unwrap();
    std::fs::write(folder.join("persistent.new"), format!("{}\n", id.pid)).unwrap();
    std::fs::rename(folder.join("persistent.new"), folder.join("persistent")).unwrap();
    child.wait().await.unwrap();
}

#[tokio::test]
async fn killed_server_leaves_daemons_only() {
    let folder = tempfile::tempdir().unwrap();
    // Started by the standard library: no supervisor of ours may do the killing here.
    let mut server = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "server_role", "--test-threads=1"])
        .env(ROLE, folder.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let child = pid_in(&folder.path().join("child")).await;
    let persistent = pid_in(&folder.path().join("persistent")).await;
    server.kill().unwrap();
    server.wait().unwrap();
    gone(child).await;
    assert!(persistent.is_alive());
    persistent.kill().await.unwrap();
    assert!(!persistent.is_alive());
}

#[tokio::test]
async fn daemon_writes_its_log_and_is_nobodys_child() {
    let folder = tempfile::tempdir().unwrap();
    let (log, up) = (folder.path().join("log"), folder.path().join("up"));
    let script = format!("echo hello; echo $$ > {}; exec sleep 1000", up.display());
    let id = sh(&script).spawn_daemon(&log).await.unwrap();
    assert_eq!(pid_in(&up).await.pid, id.pid);
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "hello\n");
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", id.pid)).unwrap();
    let parent = stat.rsplit(") ").next().unwrap().split(' ').nth(1).unwrap();
    assert_ne!(parent, std::process::id().to_string());
    id.kill().await.unwrap();
    id.kill().await.unwrap();
    assert!(!id.is_alive());
}

#[tokio::test]
async fn many_at_once() {
    let runs = (0..40).map(|n| tokio::spawn(sh(&format!("exit {}", n % 2)).output()));
    for (n, run) in runs.collect::<Vec<_>>().into_iter().enumerate() {
        let output = run.await.unwrap().unwrap();
        assert_eq!(output.status.code(), Some((n % 2) as i32));
    }
}
