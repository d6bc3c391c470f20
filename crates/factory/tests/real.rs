//! One real image, from the package archive to a running machine: a real Debian is installed,
//! customised, tattooed, booted by UEFI and by BIOS, published, replicated and deployed; and a
//! second build of the same pin in another folder, under another umask, makes the same disks.
//!
//! Needs root, apt's mirrors and QEMU; it fails where one is missing.

// What it measured is worth reading; the harness shows it when asked to.
#![allow(clippy::print_stdout)]

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use catalog::{Draft, JobState};
use factory::build::{SandboxProgram, TreeExecutor};
use factory::deploy::{
    DeleteMachine, DeleteMachineInput, Deploy, DeployInput, PowerState, machine_image,
};
use factory::source::AptArchive;
use factory::testing::World;
use factory::{Factory, Parts};
use machine::{Guest, Hypervisor, MachineError, MachineSpec};
use serde_json::{Value, json};
use wire::factory::{How, RunProperties, Stage, StepState};

const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----
MIIBmTCCAT+gAwIBAgIUBat0D+2/ELJ/1OpDXmatIW8yof0wCgYIKoZIzj0EAwIw
IjEgMB4GA1UEAwwXRXhhbXBsZSBFbnRlcnByaXNlIFJvb3QwHhcNMjYxMTIxMDQw
MjEyWhcNNDYxMTE2MDQwMjEyWjAiMSAwHgYDVQQDDBdFeGFtcGxlIEVudGVycHJp
c2UgUm9vdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABMUMP2nz5b7Qn0guS2a3
JgCIAh9D688NWPfbbeVAbfl9t0Omp9pUdDnQQDLgOpsfKpyvBlcMKmNo7pwX5iUu
s0ajUzBRMB0GA1UdDgQWBBRpNjf9i7JAqaH3aBL1XvGGN1+NKzAfBgNVHSMEGDAW
gBRpNjf9i7JAqaH3aBL1XvGGN1+NKzAPBgNVHRMBAf8EBTADAQH/MAoGCCqGSM49
BAMCA0gAMEUCIQDIIjpmbvrKpeYOv11+mTFPKaWBVlgD85LGOAtuSc1z4QIgYyXH
DypP74BCdXLyC5/EFVl/JfnVsJZTp6B3a6R7Mhw=
-----END CERTIFICATE-----
";
const VM_WRITE: &str = "Microsoft.Compute/virtualMachines/write";
const VM_DELETE: &str = "Microsoft.Compute/virtualMachines/delete";

/// Tests that ask the machine: two that pass. `last_check` decides of a third.
const TESTS: &str = "
def test_time_service(host):
    assert host.package('chrony').is_installed
    assert host.service('chrony').is_enabled

def test_as_root(host):
    with host.sudo():
        assert host.file('/etc/shadow').mode == 0o640
    assert host.user().name == 'bullion'

def test_last_check(host):
    assert host.run(\"LAST_CHECK\").rc == 0
";

/// What Ansible must be able to do in an image: look at it, make a file of a template, change what is there.
const PLAYBOOK: &str = "- hosts: all
  tasks:
    - name: who is let in
      ansible.builtin.copy:
        dest: /etc/people
        content: \"{{ people | join(' ') }} on {{ ansible_distribution }}\\n\"
        mode: '0644'
    - name: a group for them
      ansible.builtin.group:
        name: operators
        system: true
";

/// The benchmark of the example: two rules, one of which Debian does not keep.
const SCAP: &str = include_str!("../../../examples/scanned-image/scap/images.xml");
const BROKEN_RULE: &str = "xccdf_example_rule_umask";

/// The template; `last_check` runs in the machine, started with `firmware`.
fn template(world: &World, version: &str, firmware: &str, last_check: &str) -> Value {
    let harden = "mkdir -p /etc/ssh/sshd_config.d
echo 'PermitRootLogin no' > /etc/ssh/sshd_config.d/10-hardening.conf";
    json!({
        "source": {
            "type": "PlatformImage",
            "publisher": "Debian", "offer": "debian-12", "sku": "12-gen2", "version": version,
        },
        "customize": [
            { "type": "Bullion.Packages", "name": "tools", "packages": ["ansible-core", "chrony"] },
            { "type": "File", "name": "motd", "destination": "/etc/motd", "mode": "0644",
              "sourceUri": "data:;base64,V2VsY29tZS4K" },
            { "type": "Shell", "name": "harden", "inline": harden.lines().collect::<Vec<_>>() },
            { "type": "Bullion.Ansible", "name": "play", "playbook": PLAYBOOK,
              "variables": { "people": ["ada", "grace"] } },
            { "type": "Bullion.CaCertificate", "name": "enterprise-ca", "certificate": CERTIFICATE },
        ],
        "validate": {
            "continueDistributeOnFailure": false,
            "bullion": { "firmware": [firmware] },
            "inVMValidations": [
                { "type": "Bullion.Service", "name": "ssh-active", "service": "ssh" },
                { "type": "Bullion.SshdOption", "name": "no-root", "option": "permitrootlogin", "value": "no" },
                { "type": "Bullion.Tattoo", "name": "tattoo" },
                { "type": "Shell", "name": "content", "inline": [
                    "grep -q Welcome /etc/motd",
                    "test -x /usr/sbin/chronyd",
                    "test -e /etc/ssl/certs/enterprise-ca.pem",
                    "grep -qx 'ada grace on Debian' /etc/people",
                    "getent group operators",
                    last_check,
                ] },
                { "type": "Bullion.Testinfra", "name": "python", "inline": [TESTS.replace("LAST_CHECK", last_check)] },
            ],
        },
        "distribute": [{
            "type": "SharedImage",
            "runOutputName": "golden",
            "galleryImageId": world.definition.to_string(),
            "versioning": { "scheme": "Latest", "major": 1 },
            "targetRegions": [{ "name": "north" }, { "name": "south" }],
        }],
        "vmProfile": { "osDiskSizeGB": 2 },
        "buildTimeoutInMinutes": 60,
    })
}

/// The template whose checks pass, with scanners that look at the disk first.
fn scanned(world: &World) -> Value {
    let folder = world.folder.path().join("scap");
    std::fs::create_dir_all(&folder).expect("make a folder");
    std::fs::write(folder.join("images.xml"), SCAP).expect("write a file");
    let mut properties = template(world, "latest", "Bios", "true");
    let checks = properties["validate"]["inVMValidations"].as_array_mut();
    checks.expect("checks").extend([
        json!({
            "type": "Bullion.OpenScap", "name": "images", "content": "images.xml",
            "profile": "xccdf_example_profile_standard",
            "failsFrom": "Medium", "rules": { BROKEN_RULE: "Warn" },
        }),
        // Of a system that does not run it thinks that it should be restarted.
        json!({
            "type": "Bullion.Lynis", "name": "lynis", "minScore": 30,
            "rules": { "KRNL-5830": "Warn", "LOGG-2138": "Warn" },
        }),
    ]);
    properties
}

/// What the scanners found is what is true of the disk.
fn scanners_saw_it(record: &RunProperties) {
    let detail = |name: &str| {
        let step = record.steps.iter().find(|step| step.name == name);
        step.expect("a scan").detail.clone()
    };
    let images = detail("scan images");
    assert_eq!(images["passed"], 1, "it is Debian: {images}");
    assert_eq!(images["broken"][0]["rule"], BROKEN_RULE, "{images}");
    let lynis = detail("scan lynis");
    assert!(lynis["passed"].as_u64() > Some(50), "{lynis}");
}

/// The real tools on a world's folder; machines as given, or QEMU.
fn real(world: &World, hypervisor: Option<Arc<dyn Hypervisor>>) -> Arc<Factory> {
    let cache = world.folder.path().join("cache");
    let program = SandboxProgram::new(env!("CARGO_BIN_EXE_build-sandbox"));
    let executor = TreeExecutor::new(&cache.join("build"), program).expect("an executor");
    executor.check().expect("root and its tools");
    world.factory_with(Parts {
        provider: Arc::new(AptArchive::new(&cache)),
        builder: Arc::new(executor),
        regions: Some(Arc::clone(&world.regions)),
        served: Some(Arc::clone(&world.served)),
        hypervisor,
        fetch: None,
        web: None,
    })
}

/// Digests of all disks that a run made, by step.
fn disks(record: &RunProperties) -> Vec<(String, String)> {
    let of = |stage: Stage| matches!(stage, Stage::Source | Stage::Build | Stage::Tattoo);
    let steps = record.steps.iter().filter(|step| of(step.stage));
    steps
        .filter_map(|step| {
            let digest = step.detail["digest"].as_str()?;
            Some((
                format!("{}/{}", step.stage.as_str(), step.name),
                digest.to_owned(),
            ))
        })
        .collect()
}

fn how(record: &RunProperties, stage: Stage, name: &str) -> Option<How> {
    let step = record
        .steps
        .iter()
        .find(|step| step.stage == stage && step.name == name);
    step.and_then(|step| step.how)
}

fn show(what: &str, record: &RunProperties) {
    println!("{what}: {:?} {}", record.run_state, record.message);
    for step in &record.steps {
        let seconds = step.seconds.unwrap_or_default();
        let (stage, name) = (step.stage.as_str(), &step.name);
        println!(
            "  {stage:>9} {name:<14} {:?} {:?} {seconds:.1} s {}",
            step.state, step.how, step.detail
        );
    }
}

/// Links every file of a folder into another, so that nothing is fetched twice.
fn link_all(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("make a folder");
    for entry in std::fs::read_dir(from).expect("list a folder").flatten() {
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            link_all(&path, &target);
        } else {
            std::fs::hard_link(&path, &target).expect("link a file");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_real_image() {
    let world = World::new(&["north", "south"]).await;
    let factory = real(&world, None);
    println!("machines run on {:?}", factory.acceleration().await);

    world
        .set_template(template(&world, "latest", "Uefi", "test -f /nowhere"))
        .await;
    let started = Instant::now();
    let (begun, job) = world.run(&factory).await;
    let failed = world.record(&begun.run).await;
    show(
        &format!("failing check, {:.1} s", started.elapsed().as_secs_f64()),
        &failed,
    );
    assert_eq!(job.state, JobState::Failed, "{}", failed.message);
    assert!(
        failed.message.contains("check `content` (Shell) failed"),
        "{}",
        failed.message
    );
    let test = failed
        .steps
        .iter()
        .find(|step| step.stage == Stage::Test)
        .expect("a test");
    let passed = test.detail["checks"]
        .as_array()
        .expect("checks")
        .iter()
        .filter(|check| check["passed"] == true);
    assert_eq!(passed.count(), 5, "{}", test.detail);
    assert!(
        failed
            .message
            .contains("check `python: test_last_check` (Bullion.Testinfra) failed"),
        "{}",
        failed.message
    );
    assert!(world.versions().await.is_empty());

    world.set_template(scanned(&world)).await;
    let started = Instant::now();
    let (begun, job) = world.run(&factory).await;
    let record = world.record(&begun.run).await;
    show(
        &format!("fixed check, {:.1} s", started.elapsed().as_secs_f64()),
        &record,
    );
    assert_eq!(job.state, JobState::Succeeded, "{}", record.message);
    assert!(
        record
            .steps
            .iter()
            .all(|step| step.state == StepState::Succeeded)
    );
    assert_eq!(how(&record, Stage::Source, "base"), Some(How::Found));
    scanners_saw_it(&record);
    assert_eq!(how(&record, Stage::Tattoo, "write"), Some(How::Found));
    assert_eq!(how(&record, Stage::Test, "bios"), Some(How::Run));
    assert_eq!(world.versions().await, ["1.0.0"]);
    assert_eq!(disks(&record), disks(&failed));

    same_again(&world, &record).await;
    foreign(&world, &factory, &record).await;
    deploy(&world, factory).await;
}

/// The same pin in another folder, under another umask, makes the same disks.
async fn same_again(world: &World, record: &RunProperties) {
    let other = World::new(&["north", "south"]).await;
    for part in ["cache/debs", "cache/archive"] {
        link_all(
            &world.folder.path().join(part),
            &other.folder.path().join(part),
        );
    }
    let version = world.definition.child("versions", "1.0.0").expect("an id");
    let version = world.get(&version).await.expect("the version");
    let pinned = version.properties["bullion"]["tattoo"]["source.version"]
        .as_str()
        .expect("a pin");
    other
        .set_template(template(&other, pinned, "Bios", "true"))
        .await;
    let factory = real(&other, Some(Arc::new(NoMachines)));
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let started = Instant::now();
    let (begun, _) = other.run(&factory).await;
    rustix::process::umask(before);
    let again = other.record(&begun.run).await;
    show(
        &format!("second build, {:.1} s", started.elapsed().as_secs_f64()),
        &again,
    );
    assert_eq!(how(&again, Stage::Source, "base"), Some(How::Run));
    let made = disks(&again);
    assert_eq!(made.len(), 8, "{made:?}");
    assert_eq!(made, disks(record));
}

/// The same disk as something that nobody here built: customised in a machine, proved, and written as a VHD.
async fn foreign(world: &World, factory: &Arc<Factory>, record: &RunProperties) {
    let image = world
        .group
        .extension("Microsoft.Compute", "images", "foreign")
        .expect("an id");
    let digest = record
        .outputs
        .as_ref()
        .and_then(|outputs| outputs.disk_digest.clone());
    let body = json!({
        "storageProfile": { "osDisk": { "osType": "Linux", "osState": "Generalized" } },
        "bullion": { "diskDigest": digest },
    });
    world.put(&image, Draft::new(body).location("north")).await;
    let secrets = world
        .folder
        .path()
        .join("secrets")
        .join(world.clerk.tenant.to_string());
    std::fs::create_dir_all(&secrets).expect("a folder");
    std::fs::write(secrets.join("ci"), "hunter22-and-more").expect("a secret");
    let template = |last: &str| {
        json!({
            "source": { "type": "ManagedImage", "imageId": image.to_string() },
            "customize": [
                { "type": "File", "name": "note", "destination": "/etc/foreign/note", "sourceUri": "data:;base64,V2VsY29tZS4K" },
                { "type": "Shell", "name": "script", "inline": ["echo used $TOKEN", last],
                  "secrets": [{ "name": "TOKEN", "file": "ci" }] },
                { "type": "Bullion.KernelCommandLine", "name": "words", "add": ["bullion.test=1"], "remove": ["console=tty0"] },
            ],
            "optimize": { "vmBoot": { "state": "Enabled" } },
            "validate": { "inVMValidations": [
                { "type": "Bullion.Tattoo", "name": "tattoo" },
                { "type": "Shell", "name": "content", "inline": [
                    "grep -q Welcome /etc/foreign/note",
                    "test -f /etc/done",
                    "grep -q bullion.test=1 /proc/cmdline",
                    "! grep -q console=tty0 /proc/cmdline",
                    // Written so that the log of this command is not what it finds.
                    "! grep -rqs hunter2[2]-and-more /etc /root /home /var/log",
                ] },
            ] },
            "distribute": [{ "type": "VHD", "runOutputName": "vhd" }],
            "buildTimeoutInMinutes": 60,
        })
    };
    world
        .set_template(template("echo $TOKEN > /etc/leaked; touch /etc/done"))
        .await;
    let started = Instant::now();
    let (begun, job) = world.run(factory).await;
    let leaked = world.record(&begun.run).await;
    show(
        &format!("a secret left, {:.1} s", started.elapsed().as_secs_f64()),
        &leaked,
    );
    assert_eq!(job.state, JobState::Failed);
    assert!(
        leaked.message.contains("left the secret `TOKEN`"),
        "{}",
        leaked.message
    );

    world.set_template(template("touch /etc/done")).await;
    let started = Instant::now();
    let (begun, job) = world.run(factory).await;
    let record = world.record(&begun.run).await;
    show(
        &format!("foreign, {:.1} s", started.elapsed().as_secs_f64()),
        &record,
    );
    assert_eq!(job.state, JobState::Succeeded, "{}", record.message);
    assert_eq!(how(&record, Stage::Build, "machine"), Some(How::Run));
    let uri = record.outputs.expect("outputs").artifacts["vhd"].clone();
    let name = uri.split_once("/blobs/").expect("a blob").1;
    let vhd = std::fs::metadata(world.folder.path().join(name)).expect("the VHD");
    assert_eq!(vhd.len() % (1 << 20), 512);
}

/// A machine in the second region from `latest`, through a restart of the server, to its end.
async fn deploy(world: &World, factory: Arc<Factory>) {
    let vm = world
        .group
        .extension("Microsoft.Compute", "virtualMachines", "web-1")
        .expect("an id");
    let key =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ5N0uRbl0wVvkUUz5cnnkHSyKpHDCZ3zrCOjDtB4e0q dev";
    let body = json!({
        "hardwareProfile": { "vmSize": "Standard_B2s" },
        "storageProfile": { "imageReference": { "id": world.definition.to_string() } },
        "osProfile": {
            "computerName": "web-1", "adminUsername": "azureuser",
            "linuxConfiguration": { "ssh": { "publicKeys": [{ "keyData": key }] } },
        },
    });
    world.put(&vm, Draft::new(body).location("south")).await;
    let started = Instant::now();
    let input = DeployInput { vm: vm.clone() };
    let (runner, job) = world
        .submit::<Deploy>(&factory, VM_WRITE, &vm, &input)
        .await;
    assert!(runner.run_next().await);
    let row = world.job(VM_WRITE, &vm, job).await;
    println!(
        "deploy, {:.1} s: {:?}",
        started.elapsed().as_secs_f64(),
        row.output
    );
    assert_eq!(row.state, JobState::Succeeded, "{:?}", row.failure);
    let image = machine_image(&world.get(&vm).await.expect("the machine")).expect("what it runs");
    assert_eq!(image["exactVersion"], "1.0.0");
    assert_eq!(image["tattooMatches"], true);
    assert_eq!(image["tattoo"]["source.publisher"], "Debian");

    // The server starts again and finds it running.
    drop(runner);
    drop(factory);
    let factory = real(world, None);
    let report = factory.adopt_machines().await.expect("look for machines");
    assert_eq!(report.running, std::slice::from_ref(&vm));
    assert_eq!(factory.power_state(&vm).await, PowerState::Running);

    let input = DeleteMachineInput { vm: vm.clone() };
    let (runner, job) = world
        .submit::<DeleteMachine>(&factory, VM_DELETE, &vm, &input)
        .await;
    assert!(runner.run_next().await);
    let row = world.job(VM_DELETE, &vm, job).await;
    assert_eq!(row.state, JobState::Succeeded, "{:?}", row.failure);
    assert!(world.get(&vm).await.is_none());
    assert_eq!(factory.power_state(&vm).await, PowerState::Stopped);
}

/// A host without machines: the second build is compared, not booted.
struct NoMachines;

#[async_trait::async_trait]
impl Hypervisor for NoMachines {
    async fn start(&self, spec: MachineSpec) -> Result<Arc<dyn Guest>, MachineError> {
        let reason = "there are no machines here".to_owned();
        Err(MachineError::Spec {
            name: spec.name,
            reason,
        })
    }

    async fn adopt(&self, _dir: &Path) -> Result<Option<Arc<dyn Guest>>, MachineError> {
        Ok(None)
    }

    fn acceleration(&self) -> &machine::Acceleration {
        static NONE: std::sync::OnceLock<machine::Acceleration> = std::sync::OnceLock::new();
        NONE.get_or_init(|| machine::Acceleration {
            accel: machine::Accel::Tcg,
            why: "nothing is started".to_owned(),
        })
    }
}
