//! Whole runs whose source is a Windows: what is done to it without starting it, what a fake of one does in the machine,
//! and what is refused before anything is built.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine;
use catalog::{Draft, Statements as _};
use machine::fake::{AgentFault, FakeHypervisor};
use machine::{ExecOutput, MachineSpec, Network, System};
use serde_json::{Value, json};
use wire::factory::{RunProperties, RunStep, Stage, StepState};
use wire::template::RunState;

use crate::testing::windows::{GENERALIZED, VERSION_TEXT, WindowsDisk, hive_in_state};
use crate::testing::{World, record_on, template_properties};

/// What comes of a template on a Windows disk that says this of itself, brought as a file.
async fn run(state: &str, change: impl FnOnce(&mut Value)) -> (World, RunProperties) {
    run_for("Windows", state, None, change).await
}

/// The same where the image definition is for that, and with these machines.
async fn run_for(
    os_type: &str,
    state: &str,
    machines: Option<FakeHypervisor>,
    change: impl FnOnce(&mut Value),
) -> (World, RunProperties) {
    let world = prepared(os_type, state, machines, change).await;
    let factory = world.factory();
    let (begun, _) = world.run(&factory).await;
    let record = world.record(&begun.run).await;
    (world, record)
}

async fn prepared(
    os_type: &str,
    state: &str,
    machines: Option<FakeHypervisor>,
    change: impl FnOnce(&mut Value),
) -> World {
    let mut world = World::new(&["north"]).await;
    if let Some(machines) = machines {
        world.machines = machines;
    }
    let disk = WindowsDisk {
        hive: Some(hive_in_state(state, 4).await),
        ..WindowsDisk::default()
    };
    std::fs::write(world.folder.path().join("windows.vhd"), disk.make().await).unwrap();
    let definition =
        json!({ "osType": os_type, "osState": "Generalized", "hyperVGeneration": "V1" });
    world
        .put(&world.definition, Draft::new(definition).location("north"))
        .await;
    let mut properties = template_properties(&world.definition, &["north"], "x");
    properties["source"] =
        json!({ "type": "Bullion.Vhd", "uri": "https://localhost:1/blobs/windows.vhd" });
    properties["customize"] = json!([]);
    properties["validate"] = json!({});
    properties["vmProfile"] = json!({});
    change(&mut properties);
    world.set_template(properties).await;
    world
}

async fn refused(state: &str, change: impl FnOnce(&mut Value), told: &str) {
    let (world, record) = run(state, change).await;
    assert_eq!(record.run_state, RunState::Failed);
    assert!(record.message.contains(told), "{}", record.message);
    assert_eq!(world.versions().await, [""; 0]);
    assert_eq!(world.machines.log(), [""; 0], "nothing is started");
}

fn step<'a>(record: &'a RunProperties, stage: Stage, name: &str) -> &'a RunStep {
    let mut steps = record.steps.iter();
    let found = steps.find(|step| step.stage == stage && step.name == name);
    found.expect("the step")
}

#[tokio::test]
async fn a_generalized_windows_is_tattooed_and_published_and_not_booted() {
    let (world, record) = run(GENERALIZED, |_| {}).await;
    assert_eq!(record.run_state, RunState::Succeeded, "{}", record.message);
    assert_eq!(world.machines.log(), [""; 0]);
    let boot = step(&record, Stage::Test, "bios");
    assert_eq!(boot.state, StepState::Skipped);
    assert!(boot.message.contains("this one has none"), "{boot:#?}");
    let version = world.definition.child("versions", "1.0.0").unwrap();
    let version = world.get(&version).await.unwrap();
    let digest = version.properties["bullion"]["diskDigest"]
        .as_str()
        .unwrap();
    let store = world.regions.store(&wire::Location::new("north")).unwrap();
    let disk = store.disk(&digest.parse().unwrap()).unwrap();
    let found = crate::tattoo::read(&disk).unwrap().unwrap();
    let found = crate::tattoo::lines(&found).unwrap();
    assert_eq!(found["image.version"], "1.0.0");
    assert_eq!(found["image.definition"], world.definition.to_string());
    // Nobody said which Windows it is but itself.
    assert_eq!(found["os.version"], VERSION_TEXT);
    // The record is signed beside the disk, as that of any other image.
    let permit = world.permit_of(&world.operator, "read", &version.id).await;
    let kept = world.catalog.statement(&permit, digest, "tattoo").await;
    let kept = kept.unwrap().expect("a statement");
    let opened = crate::prove::open(&kept, digest, &world.factory().statement_keys()).unwrap();
    assert_eq!(opened.statement.predicate["record"], json!(found));
}

#[tokio::test]
async fn a_definition_for_linux_takes_no_windows() {
    let (world, record) = run_for("Linux", GENERALIZED, None, |_| {}).await;
    let told = "the source is a Windows image, and the image definition";
    assert!(record.message.starts_with(told), "{}", record.message);
    assert_eq!(world.versions().await, [""; 0]);
}

fn customized(step: Value) -> impl FnOnce(&mut Value) {
    move |properties| properties["customize"] = json!([step])
}

fn checked(step: Value) -> impl FnOnce(&mut Value) {
    move |properties| properties["validate"] = json!({ "inVMValidations": [step] })
}

fn powershell() -> Value {
    json!({ "type": "PowerShell", "name": "p", "inline": ["dir"] })
}

#[tokio::test]
async fn what_cannot_be_is_refused_with_the_reason_before_a_machine_starts() {
    const COMPLETE: &str = "IMAGE_STATE_COMPLETE";
    refused(COMPLETE, |_| {}, "in the state IMAGE_STATE_COMPLETE").await;
    let told = "there is a way in only where sysprep has generalized it";
    refused(COMPLETE, customized(powershell()), told).await;
    let shell = json!({ "type": "Shell", "name": "s", "inline": ["true"] });
    let told = "the Shell customizer `s` is not for one";
    refused(GENERALIZED, customized(shell.clone()), told).await;
    let told = "the Shell check `s` is not for one";
    refused(GENERALIZED, checked(shell), told).await;
    let file = |place: &str| json!({ "type": "File", "name": "f", "sourceUri": "data:;base64,eA==", "destination": place });
    let told = "the File customizer `f` writes /etc/motd";
    refused(GENERALIZED, customized(file("/etc/motd")), told).await;
    let specialized = |properties: &mut Value| {
        properties["vmProfile"] = json!({ "bullion": { "generalize": false } });
        checked(powershell())(properties);
    };
    refused(
        GENERALIZED,
        specialized,
        "the check `p` needs a generalized Windows",
    )
    .await;

    // A specialized one goes on as it is, and is not started.
    let specialized = |properties: &mut Value| {
        properties["vmProfile"] = json!({ "bullion": { "generalize": false } });
    };
    let (_, record) = run(COMPLETE, specialized).await;
    assert_eq!(record.run_state, RunState::Succeeded, "{}", record.message);
    let boot = step(&record, Stage::Test, "bios");
    assert_eq!(boot.state, StepState::Skipped);
    assert!(boot.message.contains("a specialized Windows"), "{boot:#?}");
}

#[tokio::test]
async fn a_linux_takes_nothing_that_is_for_windows() {
    let file = json!({ "type": "File", "name": "f", "sourceUri": "data:;base64,eA==", "destination": "C:\\x.txt" });
    let pester = json!({ "type": "Bullion.Pester", "name": "t", "inline": ["Describe 'x' { }"] });
    for (place, step, told) in [
        (
            "/customize/0",
            powershell(),
            "the PowerShell customizer `p` needs a Windows source",
        ),
        (
            "/customize/0",
            json!({ "type": "WindowsRestart", "name": "r" }),
            "the WindowsRestart customizer `r` needs",
        ),
        ("/customize/0", file, "the File customizer `f` needs"),
        (
            "/validate/inVMValidations/0",
            powershell(),
            "the PowerShell check `p` needs",
        ),
        (
            "/validate/inVMValidations/0",
            pester,
            "the Bullion.Pester check `t` needs",
        ),
    ] {
        let world = World::new(&["north"]).await;
        let mut properties = template_properties(&world.definition, &["north"], "x");
        *properties.pointer_mut(place).unwrap() = step;
        world.set_template(properties).await;
        let (begun, _) = world.run(&world.factory()).await;
        let record = world.record(&begun.run).await;
        assert!(record.message.contains(told), "{}", record.message);
        assert_eq!(world.machines.log(), [""; 0]);
    }
}

/// What a Windows answers in the whole run below.
#[derive(Default)]
struct Guest {
    /// How often it was asked for updates.
    updates: AtomicUsize,
    /// How each machine was started.
    specs: Mutex<Vec<MachineSpec>>,
    sysprep_fails: bool,
    pester: String,
}

fn answer(status: i32, stdout: &str) -> Option<ExecOutput> {
    Some(ExecOutput {
        status: status as u32,
        stdout: stdout.to_owned(),
        stderr: String::new(),
    })
}

impl Guest {
    fn machines(self) -> (Arc<Guest>, FakeHypervisor) {
        let guest = Arc::new(self);
        let answers = Arc::clone(&guest);
        let machines = FakeHypervisor::answering(move |spec, script| answers.says(spec, script));
        (guest, machines)
    }

    fn says(&self, spec: &MachineSpec, script: &str) -> Option<ExecOutput> {
        assert_eq!(spec.system, System::Windows);
        let engine = base64::engine::general_purpose::STANDARD;
        self.specs.lock().unwrap().push(spec.clone());
        if script.contains("Microsoft.Update.Session") {
            return match self.updates.fetch_add(1, Ordering::SeqCst) {
                0 => answer(101, "result 2 (0x00000000): KB1\r\n"),
                _ => answer(0, "there is nothing to install\r\n"),
            };
        }
        if script.contains("Sysprep.exe") && self.sysprep_fails {
            return answer(1, "setuperr: a package was installed for a user\r\n");
        }
        if script.contains("Invoke-Pester") {
            let failed = i32::from(self.pester.contains("<failure"));
            return answer(failed, &engine.encode(&self.pester));
        }
        if script.contains("SOFTWARE\\Bullion\\Image") {
            return answer(0, &engine.encode(record_on(&spec.disk)?));
        }
        if script.starts_with("installer") {
            return answer(3010, "a restart is asked for\r\n");
        }
        None
    }
}

const PASSED: &str = "<testsuites><testcase name='IIS.is installed' time='0.1'/></testsuites>";
const FAILED: &str = "<testsuites><testcase name='IIS.is installed'><failure message='it is not'/></testcase></testsuites>";

fn everything(properties: &mut Value) {
    properties["customize"] = json!([
        { "type": "File", "name": "motd", "sourceUri": "data:;base64,aGVsbG8=", "destination": "C:/app/motd.txt" },
        { "type": "PowerShell", "name": "install", "inline": ["installer /quiet", "exit $LASTEXITCODE"],
          "runElevated": true, "runAsSystem": true, "validExitCodes": [0, 3010] },
        { "type": "WindowsRestart", "name": "restart", "restartCheckCommand": "sc query w3svc" },
        { "type": "WindowsUpdate", "name": "updates", "filters": ["exclude:$_.Title -like '*Preview*'", "include:$true"] },
    ]);
    properties["validate"] = json!({ "inVMValidations": [
        { "type": "PowerShell", "name": "service", "inline": ["Get-Service w3svc"] },
        { "type": "Bullion.Pester", "name": "tests", "inline": ["Describe 'IIS' { It 'is installed' { } }"] },
        { "type": "Bullion.Tattoo", "name": "tattoo" },
    ] });
}

#[tokio::test]
async fn a_windows_is_customized_checked_and_published() {
    let guest = Guest {
        pester: PASSED.to_owned(),
        ..Guest::default()
    };
    let (guest, machines) = guest.machines();
    let (world, record) = run_for("Windows", GENERALIZED, Some(machines), everything).await;
    assert_eq!(record.run_state, RunState::Succeeded, "{}", record.message);
    assert_eq!(world.versions().await, ["1.0.0"]);
    let log = world.machines.log();
    let at = |text: &str| {
        let found = log.iter().position(|line| line.contains(text));
        found.unwrap_or_else(|| panic!("{text} is not in {log:#?}"))
    };
    let order = [
        at("start build"),
        at("[System.IO.Directory]::CreateDirectory"),
        at("installer /quiet\r\nexit"),
        // `shutdown /r /f /t 0 /c "packer restart"`
        at("c2h1dGRvd24gL3IgL2YgL3QgMCAvYyAicGFja2VyIHJlc3RhcnQi"),
        at("Microsoft.Update.Session"),
        at("System32\\shutdown.exe\" /r /f /t 0"),
        at("Sysprep.exe"),
        at("off build"),
        at("start image-test"),
        at("Get-Service w3svc"),
        at("Invoke-Pester"),
        at("kill image-test"),
    ];
    assert!(order.is_sorted(), "{log:#?}");
    assert_eq!(guest.updates.load(Ordering::SeqCst), 2);
    // Updates come from outside; what is tested finds what is in the image.
    let specs = guest.specs.lock().unwrap();
    let (first, last) = (specs.first().unwrap(), specs.last().unwrap());
    assert_eq!((first.network, first.snapshot), (Network::Outbound, false));
    assert_eq!(std::fs::read(&first.media[0].path).ok(), None, "it is gone");
    assert_eq!((last.network, last.snapshot), (Network::Isolated, true));
    let boot = step(&record, Stage::Test, "bios");
    assert_eq!(boot.state, StepState::Succeeded);
    let names: Vec<&str> = boot.detail["checks"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|check| check["name"].as_str())
        .collect();
    assert_eq!(names, ["service", "tests: IIS.is installed", "tattoo"]);
}

#[tokio::test]
async fn a_windows_whose_check_failed_is_kept_for_commands() {
    let guest = Guest {
        pester: FAILED.to_owned(),
        ..Guest::default()
    };
    let (_, machines) = guest.machines();
    let world = prepared("Windows", GENERALIZED, Some(machines), |properties| {
        everything(properties);
        properties["errorHandling"] = json!({ "onValidationError": "abort" });
    })
    .await;
    let factory = world.factory();
    let (begun, _) = world.run(&factory).await;
    let kept = factory.kept_machines();
    let shown = kept.of(&begun.run).expect("a machine is kept");
    assert_eq!(shown["osType"], "Windows");
    assert_eq!(shown["ssh"], Value::Null, "there is no way to log in");
    let run_in = |lines| kept.run_in(&begun.run, lines, std::time::Duration::from_secs(60));
    let output = run_in("installer /check").await.unwrap().unwrap();
    let said = output.stdout.trim_end();
    assert_eq!((output.status, said), (3010, "a restart is asked for"));
    assert!(kept.release(&begun.run).await);
    assert!(run_in("installer /check").await.is_none());
    assert_eq!(world.machines.running(), [""; 0]);
}

/// What is told of a run in which this went wrong; nothing was published.
async fn failed(guest: Guest, fault: AgentFault, change: impl FnOnce(&mut Value)) -> String {
    let (_, machines) = guest.machines();
    machines.agents(fault);
    let change = |properties: &mut Value| {
        everything(properties);
        change(properties);
    };
    let (world, record) = run_for("Windows", GENERALIZED, Some(machines), change).await;
    assert_eq!(record.run_state, RunState::Failed, "{fault:?}");
    assert_eq!(world.versions().await, [""; 0], "{fault:?}");
    assert_eq!(world.machines.running(), [""; 0], "{fault:?}");
    record.message
}

#[tokio::test]
async fn a_guest_that_does_not_do_what_it_should_ends_the_run() {
    for (fault, told) in [
        (AgentFault::Silent, "its agent has not said hello"),
        (AgentFault::WrongKey, "has not read this machine's medium"),
        (AgentFault::DiesInRun, "ended by itself"),
        (AgentFault::NoRestart, "did not come up again within"),
        (AgentFault::Garbage, "what is no message"),
    ] {
        let message = failed(Guest::default(), fault, |_| {}).await;
        assert!(message.contains(told), "{fault:?}: {message}");
    }
    let sysprep = Guest {
        sysprep_fails: true,
        ..Guest::default()
    };
    let message = failed(sysprep, AgentFault::None, |_| {}).await;
    let told = "customizer `generalise` failed (exit code 1)\n  | setuperr: a package was installed for a user";
    assert!(message.contains(told), "{message}");
    let strict = |properties: &mut Value| {
        properties["customize"][1]["validExitCodes"] = json!([0]);
    };
    let message = failed(Guest::default(), AgentFault::None, strict).await;
    let told = "customizer `install` failed (exit code 3010)\n  | a restart is asked for";
    assert!(message.contains(told), "{message}");
    let tests = Guest {
        pester: FAILED.to_owned(),
        ..Guest::default()
    };
    let message = failed(tests, AgentFault::None, |_| {}).await;
    let told = "check `tests: IIS.is installed` (Bullion.Pester) failed";
    assert!(message.contains(told), "{message}");
}
