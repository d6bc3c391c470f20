//! The commands against a server: what they print, what they end with, and what they asked for.

use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;

use cli::args::tattoo::ReadTattoo;
use cli::args::{Command, Global, Scope};

use crate::fake::{self, ENG, Fake, HOME};
use crate::harness::{Outcome, Surroundings, shown};

const SUBSCRIPTION: &str = "/subscriptions/11111111-2222-4333-8444-555555555555";
const GROUP: &str = "/subscriptions/11111111-2222-4333-8444-555555555555/resourceGroups/images";

struct Stage {
    fake: Fake,
    surroundings: Surroundings,
    folder: TempDir,
}

async fn stage() -> Stage {
    let fake = fake::start().await;
    let folder = tempfile::tempdir().unwrap();
    let surroundings = Surroundings {
        variables: fake.variables(folder.path()),
        ..Surroundings::default()
    };
    Stage {
        fake,
        surroundings,
        folder,
    }
}

impl Stage {
    async fn run(&self, line: &[&str]) -> Outcome {
        self.surroundings.run(line).await
    }

    /// Runs and compares; what differs from run to run is replaced.
    async fn check(&self, name: &str, line: &[&str]) -> Outcome {
        let outcome = self.run(line).await;
        let text = shown(line, &outcome)
            .replace(&self.fake.url, "https://SERVER")
            .replace(self.folder.path().to_str().unwrap(), "FOLDER");
        insta::assert_snapshot!(name, without_times(&text));
        outcome
    }

    /// A server that holds what `tests/fixtures/valid` says.
    async fn applied(&self) {
        let outcome = self.run(&["apply", "tests/fixtures/valid", "--yes"]).await;
        assert_eq!(outcome.code, 0, "{}", outcome.err);
        self.fake.writes();
    }
}

#[tokio::test]
async fn a_rebuilt_version_is_the_same_or_its_files_are_named() {
    let stage = stage().await;
    stage.applied().await;
    let version = format!(
        "{GROUP}/providers/Microsoft.Compute/galleries/golden/images/debian-12/versions/1.0.0"
    );
    let verify = async |output: Value| {
        stage.fake.state.lock().unwrap().output = output;
        stage.run(&["verify", &version]).await
    };
    let same = verify(json!({ "matches": true, "diskDigest": "bd1:01" })).await;
    assert_eq!(
        (same.code, same.out.as_str()),
        (0, "bd1:01\n"),
        "{}",
        same.err
    );
    let other = json!({ "matches": false, "diskDigest": "bd1:01", "rebuiltDigest": "bd1:02",
        "differences": [{ "path": "/etc/motd", "change": "Content" }], "more": 7, "message": "8 files differ" });
    let other = verify(other).await;
    assert_eq!(other.code, 3, "{}", other.err);
    assert_eq!(other.out, "CHANGE   PATH\nContent  /etc/motd\n");
    for told in ["7 more", "bd1:02: 8 files differ"] {
        assert!(other.err.contains(told), "{}", other.err);
    }
    assert_eq!(verify(Value::Null).await.code, 1);
}

/// 1 is an answer, so what is no answer is 2.
#[tokio::test]
async fn affected_is_told_from_not_known() {
    let stage = stage().await;
    stage.applied().await;
    let ask = ["affected", "xz-utils"];
    assert_eq!(stage.run(&ask).await.code, 0);
    let found = format!("{SUBSCRIPTION}/providers/Bullion.Factory/affected/one");
    stage.fake.put(&found, json!({ "packages": [] }));
    assert_eq!(stage.run(&ask).await.code, 1);
    let nowhere = Surroundings::default().run(&ask).await;
    assert_eq!(nowhere.code, 2);
    assert!(
        nowhere.err.contains("error: no server to talk to"),
        "{}",
        nowhere.err
    );
}

/// A machine's record is held against the signed one of the version that it was made from.
async fn record_of_a_machine(stage: &Stage, vm: &str) {
    let version = format!(
        "{GROUP}/providers/Microsoft.Compute/galleries/golden/images/debian-12/versions/1.0.0"
    );
    let record = json!({ "format": "1", "image.version": "1.0.0" });
    stage.fake.put(
        &format!("{vm}/providers/Bullion.Factory/machineImages/default"),
        json!({ "properties": { "tattoo": record, "versionId": version } }),
    );
    let read = async |signed: Option<Value>| {
        if let Some(record) = signed {
            stage.fake.put(
                &format!("{version}/providers/Bullion.Factory/statements/tattoo"),
                json!({ "properties": { "keyId": "k", "signedAt": "t",
                    "statement": { "predicate": { "record": record } } } }),
            );
        }
        let question = Command::ReadTattoo(ReadTattoo {
            what: "web-1".into(),
            record: None,
            version: None,
            must_be_signed: true,
            scope: Scope::default(),
        });
        let global = Global::default();
        stage.surroundings.run_command(&global, question).await
    };
    let check = |seen: &Outcome, code: u8, told: &str| {
        assert_eq!(seen.code, code, "{}", seen.err);
        assert_eq!(seen.out, "format=1\nimage.version=1.0.0\n");
        assert!(
            seen.err.contains(told) && seen.err.contains(&version),
            "{}",
            seen.err
        );
    };
    check(&read(None).await, 1, "Not checked");
    check(&read(Some(record)).await, 0, "signed record is the same");
    let other = json!({ "format": "1", "image.version": "1.0.1" });
    check(&read(Some(other)).await, 3, "NOT what the gallery signed");
}

/// `(0.1 s)` is another one each time.
fn without_times(text: &str) -> String {
    let lines = text.lines().map(|line| match line.split_once(" (") {
        Some((head, tail)) if tail.ends_with(" s)") => format!("{head} (N s)"),
        _ => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn plan_apply_and_nothing_to_do() {
    let stage = stage().await;
    stage
        .check("plan_all_new", &["plan", "tests/fixtures/valid"])
        .await;
    assert_eq!(stage.fake.writes(), [""; 0], "planning writes nothing");
    stage
        .check(
            "plan_detailed",
            &["plan", "tests/fixtures/valid", "--detailed-exitcode"],
        )
        .await;
    stage
        .check("apply_nobody_to_ask", &["apply", "tests/fixtures/valid"])
        .await;
    stage
        .check(
            "apply_dry_run",
            &["apply", "tests/fixtures/valid", "--dry-run"],
        )
        .await;
    assert_eq!(stage.fake.writes(), [""; 0]);
    stage
        .check("apply_all_new", &["apply", "tests/fixtures/valid", "--yes"])
        .await;
    insta::assert_snapshot!("apply_requests", stage.fake.writes().join("\n"));
    stage
        .check("apply_again", &["apply", "tests/fixtures/valid", "--yes"])
        .await;
    stage
        .check(
            "plan_again",
            &["plan", "tests/fixtures/valid", "--detailed-exitcode"],
        )
        .await;
    assert_eq!(
        stage.fake.writes(),
        [""; 0],
        "a second apply changes nothing"
    );
}

#[tokio::test]
async fn apply_asks_on_a_terminal() {
    let mut stage = stage().await;
    stage.surroundings.typed = Some("no\n".into());
    stage
        .check("apply_declined", &["apply", "tests/fixtures/valid"])
        .await;
    assert_eq!(stage.fake.writes(), [""; 0]);
    stage.surroundings.typed = Some("yes\n".into());
    assert_eq!(stage.run(&["apply", "tests/fixtures/valid"]).await.code, 0);
    assert_eq!(stage.fake.writes().len(), 8);
}

#[tokio::test]
async fn changes_show_both_sides_and_keep_what_others_said() {
    let stage = stage().await;
    stage.applied().await;
    let template =
        format!("{GROUP}/providers/Microsoft.VirtualMachineImages/imageTemplates/golden-debian");
    let gallery = format!("{GROUP}/providers/Microsoft.Compute/galleries/golden");
    {
        let mut state = stage.fake.state.lock().unwrap();
        let live = state.resources.get_mut(&template.to_lowercase()).unwrap();
        live["properties"]["customize"][0]["scriptUri"] = "data:;base64,aGVsbG8=".into();
        live["properties"]["customize"][0]["sha256Checksum"] = "0".into();
        live["properties"]["buildTimeoutInMinutes"] = 30.into();
        live["properties"]["lastRunStatus"] = json!({ "runState": "Succeeded" });
        live["tags"]["owner"] = "somebody".into();
        let live = state.resources.get_mut(&gallery.to_lowercase()).unwrap();
        live["location"] = "North".into();
        live["properties"]["sharingProfile"] = json!({ "permissions": "Private" });
    }
    stage
        .check("plan_changes", &["plan", "tests/fixtures/valid"])
        .await;
    stage
        .check(
            "plan_changes_json",
            &["plan", "tests/fixtures/valid", "--output", "json"],
        )
        .await;
    assert_eq!(
        stage
            .run(&["apply", "tests/fixtures/valid", "--yes"])
            .await
            .code,
        0
    );
    assert_eq!(stage.fake.writes(), [format!("PUT {template}")]);
    let state = stage.fake.state.lock().unwrap();
    let live = &state.resources[&template.to_lowercase()];
    assert_eq!(
        live["tags"]["owner"], "somebody",
        "a tag of somebody else stays"
    );
    assert_eq!(
        live["properties"].get("lastRunStatus"),
        None,
        "a template is the folder's alone"
    );
}

#[tokio::test]
async fn what_was_removed_from_the_folder_is_deleted_only_with_prune() {
    let stage = stage().await;
    stage.applied().await;
    let tags = json!({ "bullion-factory": "test" });
    let compute = format!("{GROUP}/providers/Microsoft.Compute");
    let old = format!("{SUBSCRIPTION}/resourceGroups/old");
    stage.fake.put(
        &format!("{compute}/galleries/former"),
        json!({ "tags": tags }),
    );
    stage.fake.put(
        &format!("{compute}/galleries/former/images/used"),
        json!({ "tags": tags }),
    );
    stage.fake.put(
        &format!("{compute}/galleries/former/images/used/versions/1.0.0"),
        json!({}),
    );
    stage.fake.put(
        &format!("{compute}/galleries/former/images/unused"),
        json!({ "tags": tags }),
    );
    stage.fake.put(
        &format!("{compute}/galleries/foreign"),
        json!({ "tags": { "bullion-factory": "other" } }),
    );
    stage.fake.put(&old, json!({ "tags": tags }));
    stage.fake.put(
        &format!("{old}/providers/Microsoft.Compute/galleries/mine"),
        json!({ "tags": tags }),
    );
    stage
        .check("plan_deletes", &["plan", "tests/fixtures/valid"])
        .await;
    stage
        .check(
            "apply_without_prune",
            &["apply", "tests/fixtures/valid", "--yes"],
        )
        .await;
    assert_eq!(stage.fake.writes(), [""; 0]);
    stage
        .check(
            "apply_prune",
            &["apply", "tests/fixtures/valid", "--yes", "--prune"],
        )
        .await;
    insta::assert_snapshot!("apply_prune_requests", stage.fake.writes().join("\n"));
}

#[tokio::test]
async fn a_resource_of_another_factory_is_not_taken_over() {
    let stage = stage().await;
    stage.applied().await;
    let body =
        json!({ "location": "north", "tags": { "bullion-factory": "other" }, "properties": {} });
    stage.fake.put(
        &format!("{GROUP}/providers/Microsoft.Compute/galleries/golden"),
        body,
    );
    stage
        .check("plan_foreign", &["plan", "tests/fixtures/valid"])
        .await;
}

#[tokio::test]
async fn refusals_have_code_and_way_out() {
    let mut stage = stage().await;
    let refusal = json!({
        "code": "PropertyChangeNotAllowed",
        "message": "Changing property 'galleryImage.properties.osType' is not allowed.",
        "details": [{ "code": "X", "message": "It was Windows", "target": "osType" }],
    });
    stage.fake.state.lock().unwrap().refuse = Some(("/images/debian-12", refusal));
    stage
        .check("refused", &["apply", "tests/fixtures/valid", "--yes"])
        .await;
    stage
        .surroundings
        .variables
        .insert("BULLION_CLIENT_SECRET".into(), "wrong".into());
    stage.check("wrong_secret", &["vm", "list"]).await;
    stage.surroundings.variables.remove("BULLION_CA");
    let outcome = stage.run(&["vm", "list"]).await;
    assert_eq!(outcome.code, 1);
    assert!(
        outcome
            .err
            .contains("does not show a certificate that this profile trusts"),
        "{}",
        outcome.err
    );
    stage
        .surroundings
        .variables
        .insert("BULLION_URL".into(), "https://localhost:1".into());
    let outcome = stage.run(&["vm", "list"]).await;
    assert!(
        outcome
            .err
            .starts_with("error: cannot reach the server at https://localhost:1\n"),
        "{}",
        outcome.err
    );
    assert!(
        outcome
            .err
            .contains("hint: is the server running? `bullion serve` starts it"),
        "{}",
        outcome.err
    );
}

#[tokio::test]
async fn login_writes_a_profile_that_only_its_owner_reads() {
    use std::os::unix::fs::PermissionsExt;
    let mut stage = stage().await;
    let variables = std::mem::take(&mut stage.surroundings.variables);
    stage
        .surroundings
        .variables
        .insert("HOME".into(), variables["HOME"].clone());
    let admin = stage.folder.path().join("admin.json");
    let content = json!({
        "url": stage.fake.url, "ca": "ca.pem", "tenantId": HOME,
        "clientId": "00000000-0000-4000-8000-00000000c000", "clientSecret": fake::SECRET,
    });
    std::fs::write(&admin, content.to_string()).unwrap();
    stage
        .check("login", &["login", "--from", admin.to_str().unwrap()])
        .await;
    let profile = stage.folder.path().join(".config/bullion/profile.json");
    let mode = std::fs::metadata(&profile).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    std::fs::remove_file(stage.folder.path().join("ca.pem")).unwrap();
    assert_eq!(
        stage.run(&["vm", "list"]).await.code,
        1,
        "no subscription yet, but signed in"
    );
    stage.check("env_sh", &["env", "sh"]).await;
    stage.check("logout", &["logout"]).await;
    assert!(!profile.exists());
}

fn run_body(state: &str, steps: Value, error: Value) -> Value {
    let template =
        format!("{GROUP}/providers/Microsoft.VirtualMachineImages/imageTemplates/golden-debian");
    let mut body = json!({
        "template": template, "runState": state, "startTime": "2026-11-21T03:00:00Z", "steps": steps,
        "outputs": {},
    });
    if !error.is_null() {
        body["error"] = error;
    }
    body
}

fn step(stage: &str, name: &str, state: &str, how: Option<&str>, detail: Value) -> Value {
    let mut step = json!({ "stage": stage, "name": name, "state": state, "detail": detail });
    if state == "Succeeded" || state == "Failed" {
        step["seconds"] = json!(1.5);
    }
    if let Some(how) = how {
        step["how"] = how.into();
    }
    step
}

#[tokio::test]
async fn a_build_is_followed_to_its_end() {
    let stage = stage().await;
    stage.applied().await;
    let source = step("source", "debian-12", "Succeeded", Some("found"), json!({}));
    let built = json!({ "newBytes": 5_242_880, "storedBytes": 1000, "logicalBytes": 1, "digest": "bd1:0123456789abcdef0123456789abcdef" });
    let mut last = run_body(
        "Succeeded",
        json!([
            source,
            step("build", "recipe", "Succeeded", Some("run"), built)
        ]),
        Value::Null,
    );
    last["outputs"] = json!({
        "versionId": format!("{GROUP}/providers/Microsoft.Compute/galleries/golden/images/debian-12/versions/1.0.0"),
        "diskDigest": "bd1:01", "bootSeconds": 33.25,
    });
    stage.fake.state.lock().unwrap().run = vec![
        run_body(
            "Running",
            json!([step("source", "debian-12", "Running", None, json!({}))]),
            Value::Null,
        ),
        run_body(
            "Running",
            json!([source, step("build", "recipe", "Running", None, json!({}))]),
            Value::Null,
        ),
        last,
    ];
    stage
        .check("build_run", &["build", "run", "golden-debian"])
        .await;
    stage
        .check("build_show", &["build", "show", "golden-debian-1"])
        .await;
    stage
        .check(
            "build_no_wait",
            &["build", "run", "golden-debian", "-g", "images", "--no-wait"],
        )
        .await;
    stage.check("build_list", &["build", "list"]).await;
    stage.fake.state.lock().unwrap().log = ["one", "two", "three"].map(String::from).into();
    stage
        .check("build_log", &["build", "log", "golden-debian-1"])
        .await;
    let ran =
        json!({ "exitCode": 3, "stdout": "0 loaded units listed.\n", "stderr": "a warning\n" });
    let run = format!("{GROUP}/providers/Bullion.Factory/runs/golden-debian-1");
    stage.fake.put(&format!("{run}/runCommand"), ran);
    let exec: Vec<&str> = "build exec golden-debian-1 -- systemctl --failed"
        .split(' ')
        .collect();
    stage.check("build_exec", &exec).await;
    stage.fake.state.lock().unwrap().busy = true;
    stage
        .check("build_busy", &["build", "run", "golden-debian"])
        .await;
    stage
        .check(
            "build_cancel_nothing",
            &["build", "cancel", "golden-debian"],
        )
        .await;
    let going = run_body("Running", json!([]), Value::Null);
    stage.fake.state.lock().unwrap().run = vec![going];
    stage
        .check("build_cancel", &["build", "cancel", "golden-debian"])
        .await;
    stage
        .check("build_unknown", &["build", "run", "golden"])
        .await;
}

#[tokio::test]
async fn a_failed_check_is_named_with_its_output() {
    let stage = stage().await;
    stage.applied().await;
    let checks = json!({ "checks": [
        { "name": "ssh-is-active", "passed": true, "output": "active" },
        { "name": "no-root-login", "passed": false, "output": "permitrootlogin yes\nexpected: no" },
    ]});
    let error = json!({ "code": "ValidationFailed", "message": "1 of 2 checks failed" });
    let steps = json!([step("test", "checks", "Failed", Some("run"), checks)]);
    stage.fake.state.lock().unwrap().run = vec![run_body("Failed", steps, error)];
    stage
        .check("build_failed", &["build", "run", "golden-debian"])
        .await;
}

#[tokio::test]
async fn checks_are_written_as_junit() {
    let stage = stage().await;
    stage.applied().await;
    let checks = json!({ "checks": [
        { "name": "ssh-is-active", "passed": true, "seconds": 0.25, "output": "active" },
        { "name": "no \"root\" login", "passed": false, "seconds": 1.0, "output": "<a & b>\u{1b}[0m\u{0}]]>" },
    ]});
    let mut stopped = step("test", "boot", "Failed", Some("run"), json!({}));
    stopped["message"] = "the machine did not start".into();
    let file = stage.folder.path().join("checks.xml");
    let file = file.to_str().unwrap();
    let cases = [
        (
            "junit_checks",
            step("test", "checks", "Failed", Some("run"), checks),
        ),
        ("junit_no_checks", stopped),
        (
            "junit_nothing",
            step("build", "recipe", "Succeeded", Some("run"), json!({})),
        ),
    ];
    for (name, step) in cases {
        let error = json!({ "code": "ValidationFailed", "message": "it failed" });
        stage.fake.state.lock().unwrap().run = vec![run_body("Failed", json!([step]), error)];
        let outcome = stage
            .run(&["build", "run", "golden-debian", "--junit", file])
            .await;
        assert_eq!(outcome.code, 1, "{}", outcome.err);
        insta::assert_snapshot!(name, std::fs::read_to_string(file).unwrap());
    }
    let outcome = stage
        .run(&[
            "build",
            "show",
            "golden-debian-1",
            "--junit",
            "/nowhere/c.xml",
        ])
        .await;
    assert!(
        outcome.err.contains("cannot write `/nowhere/c.xml`"),
        "{}",
        outcome.err
    );
}

#[tokio::test]
async fn an_interrupt_stops_following_and_says_how_to_go_on() {
    let stage = stage().await;
    stage.applied().await;
    let running = json!([step("source", "debian-12", "Running", None, json!({}))]);
    stage.fake.state.lock().unwrap().run = vec![run_body("Running", running, Value::Null)];
    let (interrupt, state) = (
        stage.surroundings.interrupt.clone(),
        Arc::clone(&stage.fake.state),
    );
    let watcher = tokio::spawn(async move {
        // The run is being followed once it has been looked at.
        while !state
            .lock()
            .unwrap()
            .asked
            .iter()
            .any(|line| line.contains("/runs/golden-debian-1"))
        {
            tokio::task::yield_now().await;
        }
        interrupt.notify_one();
    });
    stage
        .check("build_interrupted", &["build", "run", "golden-debian"])
        .await;
    watcher.await.unwrap();
}

#[tokio::test]
async fn machines_are_created_from_images() {
    let stage = stage().await;
    stage.applied().await;
    let key = stage.folder.path().join("id.pub");
    std::fs::write(&key, "ssh-ed25519 AAAA me@example\n").unwrap();
    let line = [
        "vm",
        "create",
        "web-1",
        "--image",
        "golden/debian-12",
        "--region",
        "south",
        "--firmware",
        "uefi",
    ];
    let line = [&line[..], &["--ssh-key", key.to_str().unwrap()]].concat();
    stage.check("vm_create", &line).await;
    let vm = format!("{GROUP}/providers/Microsoft.Compute/virtualMachines/web-1");
    {
        let state = stage.fake.state.lock().unwrap();
        insta::assert_snapshot!(
            "vm_body",
            format!("{:#}", state.resources[&vm.to_lowercase()])
        );
    }
    stage.fake.put(
        &format!("{vm}/providers/Bullion.Factory/machineImages/default"),
        json!({ "properties": { "tattoo": { "image_version": "1.0.0", "build_id": "b1" }, "tattooMatches": true } }),
    );
    stage.check("vm_tattoo", &["vm", "tattoo", "web-1"]).await;
    record_of_a_machine(&stage, &vm).await;
    stage.check("vm_list", &["vm", "list"]).await;
    {
        let mut state = stage.fake.state.lock().unwrap();
        let live = state.resources.get_mut(&vm.to_lowercase()).unwrap();
        live["properties"]["bullion"]["ssh"] = json!({
            "host": "127.0.0.1", "port": 2222, "user": "azureuser",
            "keyFile": "/data/id_ed25519", "hostKey": "ssh-ed25519 AAAA",
        });
    }
    stage.check("vm_ssh", &["vm", "ssh", "web-1"]).await;
    let known = stage.folder.path().join(".config/bullion/known_hosts_2222");
    let known = std::fs::read_to_string(known).unwrap();
    assert_eq!(known, "[127.0.0.1]:2222 ssh-ed25519 AAAA\n");
    stage
        .check("vm_delete_nobody_to_ask", &["vm", "delete", "web-1"])
        .await;
    stage
        .check("vm_delete", &["vm", "delete", "web-1", "--yes"])
        .await;
    stage.check("vm_gone", &["vm", "show", "web-1"]).await;
    stage
        .check(
            "vm_private_key",
            &[
                "vm",
                "create",
                "web-1",
                "--image",
                "i",
                "--region",
                "r",
                "--ssh-key",
                "tests/fixtures/bad-certificate/certificates/with-key.pem",
            ],
        )
        .await;
}

#[tokio::test]
async fn versions_are_in_numeric_order_and_latest_is_the_highest() {
    let stage = stage().await;
    stage.applied().await;
    let image = format!("{GROUP}/providers/Microsoft.Compute/galleries/golden/images/debian-12");
    for (version, excluded) in [("1.0.10", false), ("1.0.9", false), ("1.0.11", true)] {
        let body = json!({ "properties": {
            "provisioningState": "Succeeded",
            "publishingProfile": { "excludeFromLatest": excluded, "targetRegions": [{ "name": "north" }] },
            "bullion": { "diskDigest": format!("bd1:{version}") },
        }});
        stage.fake.put(&format!("{image}/versions/{version}"), body);
    }
    stage
        .check("version_list", &["version", "list", "golden/debian-12"])
        .await;
    let latest = stage
        .run(&["version", "show", "golden/debian-12/latest"])
        .await;
    assert!(
        latest.out.contains("\"name\": \"1.0.10\""),
        "{}",
        latest.out
    );
    stage.check("image_list", &["image", "list"]).await;
    stage
        .check("image_unknown", &["image", "show", "golden/debian-13"])
        .await;
}

#[tokio::test]
async fn a_download_goes_on_where_it_was_cut_off() {
    let stage = stage().await;
    stage.applied().await;
    let image = format!("{GROUP}/providers/Microsoft.Compute/galleries/golden/images/debian-12");
    stage.fake.put(
        &format!("{image}/versions/1.0.10"),
        json!({ "properties": {} }),
    );
    // Zeros at places, as on a disk.
    let text = [
        "text of a disk\n".repeat(4000),
        "\0".repeat(30_000),
        "end".into(),
    ]
    .concat();
    {
        let mut state = stage.fake.state.lock().unwrap();
        state.exported = (text.clone(), "\"one\"");
        state.breaks = vec![20_000, 20_000, 50_000];
        state.asked.clear();
    }
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("disk.qcow2");
    let partial = folder.path().join("disk.qcow2.partial");
    let out_text = out.to_str().unwrap();
    let line = [
        "version",
        "export",
        "golden/debian-12/1.0.10",
        out_text,
        "--format",
        "qcow2",
    ];
    let got = stage.run(&line).await;
    assert_eq!(
        (got.code, got.out.as_str()),
        (0, "bd1:1.0.10\n"),
        "{}",
        got.err
    );
    assert!(std::fs::read(&out).unwrap() == text.as_bytes());
    assert!(!partial.exists());
    let asked = stage.fake.state.lock().unwrap().asked.clone();
    let from: Vec<_> = asked
        .iter()
        .filter(|line| line.starts_with("EXPORT"))
        .collect();
    assert_eq!(
        from,
        [
            "EXPORT from 0",
            "EXPORT from 20000",
            "EXPORT from 20000",
            "EXPORT from 50000"
        ]
    );

    let again = stage.run(&line).await;
    assert_eq!(again.code, 1);
    assert!(again.err.contains("exists already"), "{}", again.err);

    // What is there is of another disk: everything is wanted.
    std::fs::rename(&out, &partial).unwrap();
    std::fs::write(folder.path().join("disk.qcow2.partial.tag"), "\"two\"").unwrap();
    let got = stage.run(&line).await;
    assert_eq!(got.code, 0, "{}", got.err);
    assert!(std::fs::read(&out).unwrap() == text.as_bytes());
}

#[tokio::test]
async fn other_clients_are_pointed_here() {
    let stage = stage().await;
    stage.applied().await;
    stage.check("env_az", &["env", "az"]).await;
    stage
        .check(
            "rest_get",
            &["rest", "GET", "/providers/Bullion.Factory/regions/north"],
        )
        .await;
    stage
        .check(
            "rest_tenant",
            &["rest", "get", &format!("{GROUP}?api-version=2024-11-01")],
        )
        .await;
    stage
        .check(
            "rest_not_found",
            &["rest", "GET", "/providers/Bullion.Factory/regions/west"],
        )
        .await;
    assert_eq!(ENG.len(), HOME.len());
}
