//! The port against a guest that is a task, and against what no guest says.

use std::sync::Mutex as StdMutex;

use proptest::prelude::*;
use tokio::task::JoinHandle;

use super::fake::{AgentFault, play};
use super::*;

const PATIENCE: Duration = Duration::from_secs(60);
/// Long enough for what a guest of this process does at once.
const SHORT: Duration = Duration::from_millis(300);

const RESTARTS: &str = "shutdown /r";

/// What a guest found: the script and its variables.
type Found = std::sync::Arc<StdMutex<Vec<(String, Vec<(String, String)>)>>>;

/// An agent, and the guest at the other end.
fn pair(fault: AgentFault) -> (Agent, Found, JoinHandle<bool>) {
    let (near, far) = tokio::io::duplex(1 << 16);
    let found = Found::default();
    let seen = std::sync::Arc::clone(&found);
    let guest = tokio::spawn(async move {
        let answer = move |script: &str, variables: &[(String, String)]| {
            seen.lock()
                .unwrap()
                .push((script.to_owned(), variables.to_vec()));
            script.starts_with("fail").then(|| ExecOutput {
                status: -5i32 as u32,
                stdout: "out\n".repeat(5000),
                stderr: "err".to_owned(),
            })
        };
        play(far, "key", fault, &answer).await
    });
    (Agent::over("m", near, "key".to_owned()), found, guest)
}

#[tokio::test]
async fn scripts_run_with_their_variables_and_say_how_they_end() {
    let (agent, found, guest) = pair(AgentFault::None);
    agent.ready().await.unwrap();
    agent.ready().await.unwrap();
    // Longer than one piece, and not of ASCII alone.
    let long = format!("'{}'", "ä".repeat(PIECE_BYTES));
    let token = [("TOKEN", "h\u{fc}nter\n22")];
    assert!(agent.exec(&long, &token, PATIENCE).await.unwrap().success());
    let failed = agent.exec("fail", &[], PATIENCE).await.unwrap();
    assert_eq!(failed.status as i32, -5);
    assert_eq!((failed.stdout.len(), &*failed.stderr), (20_000, "err"));
    {
        let found = found.lock().unwrap();
        assert_eq!(found[0].0, long);
        let expected = ("TOKEN".to_owned(), "h\u{fc}nter\n22".to_owned());
        assert_eq!(found[0].1, [expected]);
        assert_eq!(found[1], ("fail".to_owned(), Vec::new()));
    }
    // A restart is over when the next start has said hello; one that fails is none.
    let restarted = agent.restart(RESTARTS, PATIENCE).await.unwrap();
    assert!(restarted.success());
    let kept = agent
        .restart(&format!("fail {RESTARTS}"), PATIENCE)
        .await
        .unwrap();
    assert_eq!(kept.status as i32, -5);
    assert!(agent.exec("dir", &[], PATIENCE).await.unwrap().success());
    agent.leave(PATIENCE).await.unwrap();
    assert!(guest.await.unwrap(), "the machine goes");
}

/// What is said of a guest with this fault, at the latest when a script was to run.
async fn told(fault: AgentFault) -> String {
    let (agent, _, _guest) = pair(fault);
    let ready = tokio::time::timeout(SHORT, agent.ready()).await;
    let error = match ready {
        Err(_) => return "no hello".to_owned(),
        Ok(Err(error)) => error,
        Ok(Ok(())) => agent.exec("dir", &[], PATIENCE).await.unwrap_err(),
    };
    if fault != AgentFault::DiesInRun {
        return error.to_string();
    }
    // What was not ended is not gone on with.
    let again = agent.exec("dir", &[], PATIENCE).await.unwrap_err();
    assert!(again.to_string().contains("an earlier command"), "{again}");
    error.to_string()
}

#[tokio::test]
async fn whatever_a_guest_does_has_an_end_and_a_reason() {
    for (fault, expected) in [
        (AgentFault::Silent, "no hello"),
        (AgentFault::WrongKey, "has not read this machine's medium"),
        (AgentFault::Garbage, "it said what is no message"),
        (
            AgentFault::Noise,
            "more than 4194304 bytes on the port that are no message",
        ),
        (AgentFault::LongLine, "a line of more than 65536 bytes"),
        (
            AgentFault::Endless,
            "a command said more than 33554432 bytes",
        ),
        (AgentFault::DiesInRun, "the port was closed"),
        (
            AgentFault::RestartsInRun,
            "the guest restarted while a command ran",
        ),
        (AgentFault::WrongNumber, "it said ok and was not asked"),
        (
            AgentFault::Refuses,
            "it could not do what it was told: there is no room[2J",
        ),
    ] {
        let said = told(fault).await;
        assert!(said.contains(expected), "{fault:?}: {said}");
    }
}

#[tokio::test]
async fn a_guest_that_does_not_come_back_or_does_not_end_is_given_up() {
    let (agent, _, _guest) = pair(AgentFault::NoRestart);
    agent.ready().await.unwrap();
    let error = agent.restart(RESTARTS, SHORT).await.unwrap_err();
    let told = "the guest did not come up again within 300ms";
    assert!(error.to_string().contains(told), "{error}");

    let (agent, _, _guest) = pair(AgentFault::Hangs);
    agent.ready().await.unwrap();
    let error = agent.exec("dir", &[], SHORT).await.unwrap_err();
    assert!(matches!(error, MachineError::ExecDeadline { .. }));
    assert!(error.to_string().ends_with("it said: begun"), "{error}");
}

#[tokio::test]
async fn what_windows_could_not_take_is_not_sent() {
    let check = async |script: &str, value: &str, expected: &str| {
        let (agent, found, _guest) = pair(AgentFault::None);
        agent.ready().await.unwrap();
        let error = agent.exec(script, &[("A", value)], PATIENCE).await;
        let error = error.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert!(found.lock().unwrap().is_empty());
    };
    check("dir", &"x".repeat(32_001), "a variable has more than").await;
    let long = "x".repeat(SCRIPT_BYTES_MAX + 1);
    check(&long, "x", "a script has more than").await;
}

/// What is read of these bytes until they end.
fn read(bytes: &[u8]) -> (Vec<Vec<u8>>, String) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (mut lines, mut stream) = (Lines::default(), bytes);
        let mut messages = Vec::new();
        loop {
            match lines.next(&mut stream).await {
                Ok(message) => messages.push(message),
                Err(why) => return (messages, why),
            }
        }
    })
}

#[test]
fn messages_are_found_in_noise() {
    let check = |bytes: &[u8], expected: &[&str]| {
        let (messages, why) = read(bytes);
        let expected: Vec<Vec<u8>> = expected.iter().map(|text| text.as_bytes().into()).collect();
        assert_eq!((messages, &*why), (expected, "the port was closed"));
    };
    check(b"", &[]);
    check(b"#bullion:a\n#bullion:b\r\n", &["a", "b"]);
    check(b"noise #bullion:a\n\n#bullion:b\n#bullion:c", &["b"]);
    let mut long = vec![b'x'; 200_000];
    long.extend(b"#bullion:a\n#bullion:b\n");
    check(&long, &["b"]);
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let (messages, _) = read(&bytes);
        for message in messages {
            let _ = serde_json::from_slice::<Said>(&message);
        }
    }
}
