//! Test: the finished disk is booted in a throw-away machine, and checks are run inside it. What is
//! booted is the image itself, on writes that are forgotten; the build environment is not there.
//!
//! A check that fails is a result, not an error. Errors are for a machine that did not get so far.

mod checks;
mod facts;
mod junit;
mod testinfra;
#[cfg(test)]
mod testinfra_tests;
mod windows;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use machine::{
    Accel, DataDisk, Firmware, Guest, Hypervisor, MachineDisk, MachineError, MachineSpec, System,
    SystemState,
};
use serde::{Deserialize, Serialize};
use wire::template::Validator;

pub(crate) use checks::quoted;
pub use checks::{is_for, reason_against};

use crate::tattoo::Tattoo;
use testinfra::Testinfra;

/// Raised whenever a test would come to another result for the same disk and checks.
pub const TEST_FORMAT: u32 = 1;
/// Emulated machines take a minute when the host is idle.
const BOOT_DEADLINE_TCG: Duration = Duration::from_secs(15 * 60);
const BOOT_DEADLINE_KVM: Duration = Duration::from_secs(4 * 60);
/// A generalized Windows is set up in its first start, and restarts once.
const SETUP_DEADLINE_TCG: Duration = Duration::from_secs(3 * 60 * 60);
const SETUP_DEADLINE_KVM: Duration = Duration::from_secs(30 * 60);
const CHECK_DEADLINE: Duration = Duration::from_secs(5 * 60);
/// Output of one check that is kept: its end.
const OUTPUT_BYTES_MAX: usize = 4096;

/// How long a boot may take on what machines run on here.
pub fn boot_deadline(accel: Accel, system: System) -> Duration {
    match (system, accel) {
        (System::Linux, Accel::Kvm) => BOOT_DEADLINE_KVM,
        (System::Linux, Accel::Tcg) => BOOT_DEADLINE_TCG,
        (System::Windows, Accel::Kvm) => SETUP_DEADLINE_KVM,
        (System::Windows, Accel::Tcg) => SETUP_DEADLINE_TCG,
    }
}

/// One check's result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckResult {
    pub name: String,
    pub kind: String,
    pub passed: bool,
    /// What it said, its end.
    pub output: String,
    pub seconds: f64,
}

/// One boot and what was found in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TestReport {
    pub firmware: Firmware,
    pub boot_seconds: f64,
    pub state: SystemState,
    pub checks: Vec<CheckResult>,
}

impl TestReport {
    pub fn passed(&self) -> bool {
        self.checks.iter().all(|check| check.passed)
    }

    /// What failed and what it said, for people.
    pub fn failures(&self) -> String {
        let failed = self.checks.iter().filter(|check| !check.passed);
        let texts: Vec<String> = failed
            .map(|check| {
                let lines = check.output.trim().lines();
                let output: String = lines.flat_map(|line| ["\n  | ", line]).collect();
                format!("check `{}` ({}) failed{output}", check.name, check.kind)
            })
            .collect();
        texts.join("\n")
    }
}

/// What to test.
#[derive(Debug, Clone)]
pub struct TestSubject {
    /// It is not changed.
    pub disk: MachineDisk,
    /// Nor are these.
    pub data_disks: Vec<DataDisk>,
    /// A folder of the machine's own.
    pub work: PathBuf,
    pub system: System,
    pub firmware: Firmware,
    pub validators: Vec<Validator>,
    /// The record that the disk must carry.
    pub tattoo: Tattoo,
}

/// Boots the disk and runs all checks, whether or not one fails. `booted` is called once between
/// the two.
pub async fn run(
    hypervisor: &dyn Hypervisor,
    subject: &TestSubject,
    log: &(dyn Fn(&str) + Send + Sync),
    booted: &(dyn Fn() + Send + Sync),
) -> Result<TestReport, MachineError> {
    let (report, guest) = run_in(hypervisor, subject, log, booted).await?;
    end(&*guest).await;
    Ok(report)
}

/// The same with the machine still running, for whoever wants to look at it.
pub async fn run_in(
    hypervisor: &dyn Hypervisor,
    subject: &TestSubject,
    log: &(dyn Fn(&str) + Send + Sync),
    booted: &(dyn Fn() + Send + Sync),
) -> Result<(TestReport, Arc<dyn Guest>), MachineError> {
    let mut spec = MachineSpec::new("image-test", &subject.work, "");
    if subject.system == System::Windows {
        spec = spec.windows();
    }
    spec.disk = subject.disk.clone();
    spec.data_disks.clone_from(&subject.data_disks);
    spec.firmware = subject.firmware;
    let accel = hypervisor.acceleration().accel;
    let guest = hypervisor.start(spec).await?;
    match boot_and_check(&*guest, accel, subject, log, booted).await {
        Ok(report) => Ok((report, guest)),
        Err(error) => {
            end(&*guest).await;
            Err(error)
        }
    }
}

/// The machine ends with its handle anyway; what it says about ending cannot change a result.
pub async fn end(guest: &dyn Guest) {
    if let Err(error) = guest.kill().await {
        tracing::warn!(%error, "a test machine could not be killed");
    }
}

async fn boot_and_check(
    guest: &dyn Guest,
    accel: Accel,
    subject: &TestSubject,
    log: &(dyn Fn(&str) + Send + Sync),
    booted: &(dyn Fn() + Send + Sync),
) -> Result<TestReport, MachineError> {
    let limit = boot_deadline(accel, subject.system);
    let boot = guest.wait_ready(limit).await?;
    booted();
    log(&format!(
        "booted in {:.1} s ({:?}, {accel}): {}",
        boot.seconds, subject.firmware, boot.state
    ));
    let mut checks = Vec::new();
    let log_result = |check: &CheckResult| {
        let how = if check.passed { "passed" } else { "FAILED" };
        log(&format!("check {}: {how}", check.name));
    };
    for validator in &subject.validators {
        if subject.system == System::Windows || !is_for(validator, subject.system) {
            let results = in_windows(guest, validator, subject).await?;
            results.iter().for_each(log_result);
            checks.extend(results);
            continue;
        }
        if let Validator::Testinfra { inline, .. } = validator {
            let tests = Testinfra {
                name: name(validator),
                kind: validator.kind(),
                text: &inline.join("\n"),
                machine: guest.info(),
                work: &guest.info().dir,
                deadline: CHECK_DEADLINE,
            };
            let results = tests.run().await;
            results.iter().for_each(log_result);
            checks.extend(results);
            continue;
        }
        for asked in asked(validator) {
            let started = Instant::now();
            let output = guest.exec(&asked.command, CHECK_DEADLINE).await?;
            let (passed, text) = match &asked.fact {
                Some(fact) => fact.judge(&output),
                None => checks::judge(validator, &output, &subject.tattoo),
            };
            let check = CheckResult {
                name: asked.name,
                kind: validator.kind().to_owned(),
                passed,
                output: tail(&text),
                seconds: started.elapsed().as_secs_f64(),
            };
            log_result(&check);
            checks.push(check);
        }
    }
    Ok(TestReport {
        firmware: subject.firmware,
        boot_seconds: boot.seconds,
        state: boot.state,
        checks,
    })
}

/// A check that was not made, which is none that passed.
fn not_for(validator: &Validator, system: System) -> CheckResult {
    CheckResult {
        name: name(validator).to_owned(),
        kind: validator.kind().to_owned(),
        passed: false,
        output: format!("a check of this kind cannot be made in a {system:?}"),
        seconds: 0.0,
    }
}

/// One check in a Windows, or one that is for none such.
async fn in_windows(
    guest: &dyn Guest,
    validator: &Validator,
    subject: &TestSubject,
) -> Result<Vec<CheckResult>, MachineError> {
    let script = windows::script(validator).filter(|_| is_for(validator, subject.system));
    let Some(script) = script else {
        return Ok(vec![not_for(validator, subject.system)]);
    };
    let started = Instant::now();
    let output = guest.script(&script, &[], CHECK_DEADLINE).await?;
    let seconds = started.elapsed().as_secs_f64();
    Ok(windows::results(
        validator,
        &output,
        &subject.tattoo,
        seconds,
    ))
}

/// One thing that is run in the machine.
struct Asked {
    name: String,
    command: String,
    fact: Option<facts::Fact>,
}

pub(crate) fn name(validator: &Validator) -> &str {
    match validator.name() {
        "" => validator.kind(),
        name => name,
    }
}

/// A check is one thing; facts are one for each.
fn asked(validator: &Validator) -> Vec<Asked> {
    let name = name(validator);
    let Validator::Facts { facts, .. } = validator else {
        return vec![Asked {
            name: name.to_owned(),
            command: checks::command(validator),
            fact: None,
        }];
    };
    // What cannot be parsed is refused before a machine is started.
    let facts = facts::parse(facts).unwrap_or_default().into_iter();
    let ask = |fact: facts::Fact| Asked {
        name: format!("{name}: {}", fact.name()),
        command: fact.command(),
        fact: Some(fact),
    };
    facts.map(ask).collect()
}

fn tail(text: &str) -> String {
    let mut from = text.len().saturating_sub(OUTPUT_BYTES_MAX);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    text[from..].to_owned()
}

#[cfg(test)]
mod tests {
    use machine::ExecOutput;
    use machine::fake::{BootScript, FakeHypervisor};

    use super::*;

    fn subject(validators: Vec<Validator>) -> TestSubject {
        TestSubject {
            disk: "/nowhere/disk.raw".into(),
            data_disks: Vec::new(),
            work: "/nowhere/machine".into(),
            system: System::Linux,
            firmware: Firmware::Bios,
            validators,
            tattoo: Tattoo {
                image_version: "1.0.0".to_owned(),
                ..Tattoo::default()
            },
        }
    }

    fn answer(status: u32, stdout: &str) -> ExecOutput {
        ExecOutput {
            status,
            stdout: stdout.to_owned(),
            stderr: String::new(),
        }
    }

    fn all_checks() -> Vec<Validator> {
        vec![
            Validator::Service {
                name: "ssh".to_owned(),
                service: "ssh".to_owned(),
            },
            Validator::SshdOption {
                name: "root".to_owned(),
                option: "PermitRootLogin".to_owned(),
                value: "no".to_owned(),
            },
            Validator::Tattoo {
                name: String::new(),
            },
            Validator::Shell {
                name: "motd".to_owned(),
                inline: vec!["test -f /etc/motd".to_owned()],
                script_uri: None,
                sha256_checksum: String::new(),
            },
        ]
    }

    #[tokio::test]
    async fn every_check_is_run_and_failures_are_told() {
        let machines = FakeHypervisor::answering(|_, command| {
            if command.contains("sshd") {
                Some(answer(0, "port 22\npermitrootlogin yes\n"))
            } else if command.contains("bullion-image") {
                Some(answer(0, "format=1\nother=1\n"))
            } else {
                None
            }
        });
        let report = run(&machines, &subject(all_checks()), &|_| {}, &|| {})
            .await
            .unwrap();
        let passed: Vec<bool> = report.checks.iter().map(|check| check.passed).collect();
        assert_eq!(passed, [true, false, false, true]);
        assert!(!report.passed());
        let told = report.failures();
        assert!(
            told.contains(
                "check `root` (Bullion.SshdOption) failed\n  | permitrootlogin is yes, not no"
            ),
            "{told}"
        );
        assert!(told.contains("check `Bullion.Tattoo`"), "{told}");
        assert!(machines.running().is_empty());
    }

    #[tokio::test]
    async fn a_machine_that_does_not_boot_is_an_error_and_is_gone() {
        let machines = FakeHypervisor::new();
        machines.boots(BootScript::Dies("no bootable device".to_owned()));
        let error = run(&machines, &subject(all_checks()), &|_| {}, &|| {})
            .await
            .unwrap_err();
        assert!(error.to_string().contains("no bootable device"), "{error}");
        assert!(machines.running().is_empty());
    }

    #[tokio::test]
    async fn the_whole_tattoo_is_compared() {
        let subject = subject(vec![Validator::Tattoo {
            name: "tattoo".to_owned(),
        }]);
        let text = subject.tattoo.render().unwrap();
        let machines = FakeHypervisor::answering(move |_, _| Some(answer(0, &text)));
        assert!(
            run(&machines, &subject, &|_| {}, &|| {})
                .await
                .unwrap()
                .passed()
        );
    }
}
