//! Files of tests that need no machine: what pytest makes of them, and what they cannot do. `tests/real.rs` has one that
//! asks a machine.

use std::time::Duration;

use machine::{Accel, Firmware, Lifetime, MachineInfo};
use tokio::net::TcpListener;

use super::CheckResult;
use super::testinfra::Testinfra;

const PATIENCE: Duration = Duration::from_secs(300);

/// What comes of a file of tests, with a machine whose SSH port is `port`.
async fn results(text: &str, port: u16, deadline: Duration) -> Vec<CheckResult> {
    let folder = tempfile::tempdir().unwrap();
    let key_file = folder.path().join("id_ed25519");
    std::fs::write(&key_file, "no key").unwrap();
    let machine = MachineInfo {
        name: "m".into(),
        dir: folder.path().to_owned(),
        pid: 1,
        ssh_port: port,
        user: "bullion".into(),
        key_file,
        host_key: "ssh-ed25519 AAAA".into(),
        accel: Accel::Tcg,
        firmware: Firmware::Bios,
        lifetime: Lifetime::Throwaway,
    };
    let tests = Testinfra {
        name: "web",
        kind: "Bullion.Testinfra",
        text,
        machine: &machine,
        work: folder.path(),
        deadline,
    };
    tests.run().await
}

/// The only result, which is that the tests were not run.
async fn refused(text: &str, told: &str) {
    let found = results(text, 1, PATIENCE).await;
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(!found[0].passed && found[0].name == "web", "{found:#?}");
    assert!(found[0].output.contains(told), "{found:#?}");
}

#[tokio::test]
async fn every_function_is_a_result() {
    let text = "import pytest\ndef test_good():\n    pass\ndef test_bad():\n    assert '<a>' == 'b', 'it is <a> & not b'\n\
                @pytest.mark.skip(reason='later')\ndef test_later():\n    pass\n\
                @pytest.fixture\ndef broken():\n    raise ValueError('no')\ndef test_error(broken):\n    pass\n";
    let found = results(text, 1, PATIENCE).await;
    let seen: Vec<(&str, bool)> = found
        .iter()
        .map(|case| (&*case.name, case.passed))
        .collect();
    assert_eq!(
        seen,
        [
            ("web: test_good", true),
            ("web: test_bad", false),
            ("web: test_later", true),
            ("web: test_error", false)
        ]
    );
    assert!(found[1].output.contains("it is <a> & not b"), "{found:#?}");
    assert!(found[2].output.contains("later"), "{found:#?}");
    assert!(found[3].output.contains("ValueError"), "{found:#?}");
}

#[tokio::test]
async fn what_cannot_be_run_says_why() {
    refused(
        "import nothing_like_this\n",
        "No module named 'nothing_like_this'",
    )
    .await;
    refused("def test_(:\n", "SyntaxError").await;
    refused("x = 1\n", "pytest ran no test").await;
    refused("import os\nos._exit(0)\n", "result.xml").await;
    refused("import os\nos.kill(os.getpid(), 9)\n", "pytest ran no test").await;
    let lies = "import os\nopen('result.xml', 'w').write('<a>')\nos._exit(0)\n";
    refused(lies, "what pytest wrote").await;
}

#[tokio::test]
async fn a_file_that_hangs_is_ended_with_all_that_it_started() {
    let text =
        "import os, time\nif os.fork() == 0:\n    os.setsid()\nwhile True:\n    time.sleep(60)\n";
    let found = results(text, 1, Duration::from_secs(3)).await;
    assert!(
        found[0].output.contains("did not end within 3 s"),
        "{found:#?}"
    );
}

#[tokio::test]
async fn nothing_of_the_host_is_reached() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let text = format!(
        "import os, socket, pytest\n\
         def test_port():\n    with pytest.raises(OSError):\n        socket.create_connection(('127.0.0.1', {port}), 5)\n\
         def test_files():\n    assert os.getuid() == 65534\n    assert not os.path.exists('/root')\n    \
         assert os.listdir('/etc') == ['passwd']\n    assert 'CARGO_MANIFEST_DIR' not in os.environ\n\
         def test_memory():\n    with pytest.raises(MemoryError):\n        bytearray(8 << 30)\n"
    );
    let found = results(&text, 1, PATIENCE).await;
    assert_eq!(found.len(), 3, "{found:#?}");
    assert!(found.iter().all(|case| case.passed), "{found:#?}");
}

#[tokio::test]
async fn a_machine_that_does_not_answer_fails_what_asks_it() {
    let text = "def test_asks(host):\n    assert host.run('true').rc == 0\ndef test_does_not():\n    pass\n";
    let found = results(text, 1, PATIENCE).await;
    let seen: Vec<(&str, bool)> = found
        .iter()
        .map(|case| (&*case.name, case.passed))
        .collect();
    assert_eq!(
        seen,
        [("web: test_asks", false), ("web: test_does_not", true)]
    );
}
