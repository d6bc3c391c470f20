//! Builds in a fake Windows: what reaches it, what is logged, and when it is given up.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use machine::fake::FakeHypervisor;
use machine::{ExecOutput, Firmware, System};

use super::customizer::{Action, Customizer, FileContent};
use super::error::BuildError;
use super::executor::{BuildContext, StepOutcome};
use super::machine::MachineBuild;
use super::secrets::SecretValue;
use super::windows_action::{WindowsAction, WindowsPath};

const PATIENCE: Duration = Duration::from_secs(300);
/// What is waited for in vain; long enough for a fake's restart on a busy machine.
const SHORT: Duration = Duration::from_secs(2);

fn customizer(name: &str, action: WindowsAction) -> Customizer {
    Customizer::new(name, Action::Windows(action)).unwrap()
}

fn powershell(line: &str) -> WindowsAction {
    WindowsAction::PowerShell {
        lines: vec![line.to_owned()],
        secrets: Vec::new(),
        exit_codes: Vec::new(),
    }
}

fn answer(status: u32, stdout: &str) -> Option<ExecOutput> {
    Some(ExecOutput {
        status,
        stdout: stdout.to_owned(),
        stderr: String::new(),
    })
}

/// What comes of the customizers, and the lines that were logged.
async fn built(
    machines: &FakeHypervisor,
    customizers: &[Customizer],
) -> (Result<StepOutcome, BuildError>, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let (parent, disk) = (folder.path().join("parent"), folder.path().join("disk"));
    for file in [&parent, &disk] {
        std::fs::write(file, [1; 8192]).unwrap();
    }
    let lines = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&lines);
    let context = BuildContext {
        epoch: 0,
        apt: None,
        secrets: vec![SecretValue::new("TOKEN", "hunter22").unwrap()],
        deadline: PATIENCE,
        on_line: Arc::new(move |line: &str| sink.lock().unwrap().push(line.to_owned())),
        keep: None,
    };
    let build = MachineBuild {
        hypervisor: machines,
        parent: Path::new(&parent),
        disk,
        work: folder.path().join("machine"),
        system: System::Windows,
        firmware: Firmware::Uefi,
        customizers,
        generalize: false,
        context: &context,
    };
    let done = build.run().await;
    let lines = lines.lock().unwrap().clone();
    (done, lines)
}

#[tokio::test]
async fn secrets_are_variables_and_stand_in_no_script_and_no_line() {
    let machines = FakeHypervisor::answering(|_, script| {
        let says = script.starts_with("login");
        answer(
            0,
            if says {
                "token hunter22 is good\r\n"
            } else {
                ""
            },
        )
    });
    let (done, lines) = built(
        &machines,
        &[customizer("p", powershell("login $env:TOKEN"))],
    )
    .await;
    assert_eq!(done.unwrap().tail, ["token *** is good"]);
    assert!(lines.contains(&"token *** is good".to_owned()), "{lines:?}");
    let log = machines.log();
    let script = "script build [TOKEN] login $env:TOKEN\r\n".to_owned();
    assert!(log.contains(&script), "{log:?}");
    assert!(!format!("{log:?} {lines:?}").contains("hunter22"));
}

#[tokio::test]
async fn files_travel_on_the_medium_with_their_hash() {
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("kept");
    std::fs::write(&kept, "an installer").unwrap();
    let media = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&media);
    let machines = FakeHypervisor::answering(move |spec, _| {
        let read = |file: &machine::MediaFile| {
            let text = std::fs::read_to_string(&file.path).unwrap();
            (file.name.clone(), text)
        };
        *seen.lock().unwrap() = spec.media.iter().map(read).collect();
        None
    });
    let file = |content| WindowsAction::File {
        content,
        destination: WindowsPath::parse(r"C:\it's\a.exe").unwrap(),
    };
    let content = FileContent::Kept {
        path: kept,
        sha256: String::new(),
    };
    let customizers = [
        customizer("bytes", file(FileContent::Bytes(b"small".to_vec()))),
        customizer("p", powershell("dir")),
        customizer("kept", file(content)),
    ];
    built(&machines, &customizers).await.0.unwrap();
    let expected = [("0", "small"), ("2", "an installer")];
    let expected = expected.map(|(name, text)| (name.to_owned(), text.to_owned()));
    assert_eq!(*media.lock().unwrap(), expected);
    let log = machines.log();
    // SHA-256 of `an installer`, and the destination, in which no character means anything.
    let hash = crate::source::hex(&<sha2::Sha256 as sha2::Digest>::digest("an installer"));
    let last = log.iter().rfind(|line| line.contains("Copy-Item")).unwrap();
    assert!(last.contains(&format!("-ne '{hash}'")), "{last}");
    assert!(last.contains("BULLION_MEDIUM '2'") && !last.contains("it's"));
}

#[tokio::test]
async fn a_restart_is_over_when_its_check_says_so() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let machines = FakeHypervisor::answering(move |_, script| {
        // `is-up`
        if !script.contains("aXMtdXA=") {
            return None;
        }
        match count.fetch_add(1, Ordering::SeqCst) {
            0 | 1 => answer(1, "not yet"),
            _ => answer(0, "up"),
        }
    });
    let restart = WindowsAction::Restart {
        command: "is not one".to_owned(),
        check: "is-up".to_owned(),
        timeout: PATIENCE,
    };
    // Where the command fails, no restart is waited for.
    let fails = FakeHypervisor::answering(|_, _| answer(5, "access is denied"));
    let (done, _) = built(&fails, &[customizer("r", restart)]).await;
    let error = done.unwrap_err().to_string();
    assert!(error.contains("exit code 5"), "{error}");

    let restart = WindowsAction::Restart {
        command: "shutdown /r".to_owned(),
        check: "is-up".to_owned(),
        timeout: PATIENCE,
    };
    let (done, lines) = built(&machines, &[customizer("r", restart)]).await;
    assert_eq!(done.unwrap().tail, ["up"]);
    assert_eq!(asked.load(Ordering::SeqCst), 3);
    let told = |line: &String| line.starts_with("Windows has restarted in");
    assert!(lines.iter().any(told), "{lines:?}");
}

#[tokio::test]
async fn a_restart_whose_check_never_says_so_is_given_up() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let machines = FakeHypervisor::answering(move |_, script| {
        let checks = script.contains("aXMtdXA=");
        checks.then(|| {
            count.fetch_add(1, Ordering::SeqCst);
            answer(1, "not yet").unwrap()
        })
    });
    let restart = WindowsAction::Restart {
        command: "shutdown /r".to_owned(),
        check: "is-up".to_owned(),
        timeout: SHORT,
    };
    let (done, _) = built(&machines, &[customizer("r", restart)]).await;
    let error = done.unwrap_err().to_string();
    assert!(
        error.contains("`r` did not end within") && error.contains("not yet"),
        "{error}"
    );
    assert!(asked.load(Ordering::SeqCst) > 1);
}

#[tokio::test]
async fn updates_that_are_found_again_and_again_are_given_up() {
    let machines = FakeHypervisor::answering(|_, script| {
        let searches = script.contains("Microsoft.Update.Session");
        searches.then(|| answer(101, "result 4: KB1").unwrap())
    });
    let update = WindowsAction::Update {
        criteria: "IsInstalled=0".to_owned(),
        filters: vec!["include:$true".to_owned()],
        limit: 1,
    };
    let (done, _) = built(&machines, &[customizer("u", update)]).await;
    let error = done.unwrap_err().to_string();
    let told = "`u` still finds updates after 20 rounds";
    assert!(
        error.contains(told) && error.ends_with("| result 4: KB1"),
        "{error}"
    );
}

#[tokio::test]
async fn what_is_for_linux_is_not_tried() {
    let machines = FakeHypervisor::new();
    let shell = Action::Shell {
        lines: vec!["true".to_owned()],
        secrets: Vec::new(),
    };
    let (done, _) = built(&machines, &[Customizer::new("s", shell).unwrap()]).await;
    let error = done.unwrap_err().to_string();
    assert!(
        error.contains("the Shell customizer `s` cannot be"),
        "{error}"
    );
    assert!(machines.running().is_empty());
}
