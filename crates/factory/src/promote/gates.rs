//! What each gate of a stage asks, and what it writes down: the answer, when, by whom, and the evidence.

use std::sync::{Arc, Mutex, PoisonError};

use access::Permit;
use disk::DiskDigest;
use jobs::{StepError, StepHandle};
use machine::{DataDisk, Firmware, System};
use serde_json::{Value, json};
use store::{StoreError, Trace};
use wire::Location;
use wire::promotion::{Gate, GateState, PromotionProperties};
use wire::template::Validator;

use super::record::{self, Record};
use super::{GATE_FAILED, GateOutcome, REGION_UNAVAILABLE, Source};
use crate::deploy::firmware_of_generation;
use crate::factory::Factory;
use crate::pipeline::failed;
use crate::prove::Proof;
use crate::serving::{Attachable, ServingError};
use crate::tattoo::Tattoo;
use crate::test::TestSubject;

/// The check that every deployed machine gets first, unless the stage has one of its own.
const IDENTITY_CHECK: &str = "is-this-version";

/// A gate's answer before it is written down.
struct Answer {
    passed: bool,
    message: String,
    evidence: Value,
}

/// Asks one gate. A gate that passed before, in this job or the one before an approval, is not asked again.
pub(super) async fn ask(
    factory: &Arc<Factory>,
    step: &StepHandle,
    record: &Record,
    own: &Permit,
    gate: &Gate,
    source: &Source,
) -> Result<GateOutcome, StepError> {
    let promotion = record.read().await?;
    if record::passed(&promotion, gate.name()) {
        return Ok(GateOutcome::Passed);
    }
    let answer = match gate {
        Gate::TestsPassed { .. } => tests_passed(source),
        Gate::Provenance { .. } => {
            let version = super::version_id(&promotion.from, &promotion.version);
            let version = version.map_err(super::refused)?;
            provenance(
                factory
                    .proof_for_use(own, &version, &source.disks.os)
                    .await?,
            )
        }
        Gate::DeployAndCheck {
            region, validators, ..
        } => {
            let place = Place::of(factory, own, region, &promotion).await?;
            deploy_and_check(factory, step, &place, validators, source).await?
        }
        Gate::Approval {
            count,
            expires_in_hours,
            ..
        } => {
            let needed = usize::try_from(*count).unwrap_or(usize::MAX);
            let hours = i64::from(*expires_in_hours);
            return approval(step, record, gate.name(), needed, hours).await;
        }
    };
    let by = own.identity().map(|identity| identity.principal);
    let time = step.clock().now().to_string();
    record
        .gate(gate.name(), |verdict| {
            verdict.state = if answer.passed {
                GateState::Passed
            } else {
                GateState::Failed
            };
            verdict.time = Some(time.clone());
            verdict.by = by.into_iter().collect();
            verdict.message.clone_from(&answer.message);
            verdict.evidence = answer.evidence.clone();
        })
        .await?;
    if answer.passed {
        step.log(format!("gate {}: passed", gate.name()));
        return Ok(GateOutcome::Passed);
    }
    let message = format!("the gate `{}` said no: {}", gate.name(), answer.message);
    Err(StepError::failed(GATE_FAILED, message))
}

/// A version that a run published has passed the checks of its recipe: one that failed them is never published.
fn tests_passed(source: &Source) -> Answer {
    let fact = |name: &str| source.facts.get(name).cloned().unwrap_or_default();
    let run = fact("run");
    let passed = run.is_string();
    let message = match passed {
        true => String::new(),
        false => "no run is known that built and tested this version".to_owned(),
    };
    let evidence = json!({
        "run": run,
        "recipeDigest": fact("recipeDigest"),
        "bootSeconds": fact("bootSeconds"),
        "diskDigest": source.disks.os.to_string(),
    });
    Answer {
        passed,
        message,
        evidence,
    }
}

/// One that proves nothing has stopped the promotion before.
fn provenance(proof: Option<Proof>) -> Answer {
    match proof {
        Some(proof) => Answer {
            passed: true,
            message: String::new(),
            evidence: proof.evidence(),
        },
        None => Answer {
            passed: false,
            message: "there is no signed provenance of this version".to_owned(),
            evidence: Value::Null,
        },
    }
}

/// Where a machine is deployed, and as whose.
struct Place<'a> {
    region: &'a Location,
    firmware: Firmware,
    system: System,
    /// What the evidence says of it.
    told: Value,
}

impl<'a> Place<'a> {
    /// The stage's: its region, its principal, and the firmware that its image definition asks for.
    async fn of(
        factory: &Factory,
        own: &Permit,
        region: &'a Location,
        promotion: &PromotionProperties,
    ) -> Result<Place<'a>, StepError> {
        let definition = super::definition(factory, own).await?;
        let firmware = firmware_of_generation(&definition.properties);
        let said = |key: &str| definition.properties[key].as_str().unwrap_or_default();
        let system = match said("osType").eq_ignore_ascii_case("Windows") {
            true => System::Windows,
            false => System::Linux,
        };
        if system == System::Windows && said("osState").eq_ignore_ascii_case("Specialized") {
            return Err(StepError::failed(
                GATE_FAILED,
                "a gate that deploys a machine has no way into a specialized Windows; take it out of the stage",
            ));
        }
        let principal = own.identity().map(|identity| identity.principal);
        let told = json!({
            "id": uuid::Uuid::new_v4(),
            "region": region,
            "firmware": firmware,
            "tenant": own.tenant(),
            "principal": principal,
            "imageDefinition": definition.id,
            "sourceVersionId": promotion.source_version_id,
        });
        Ok(Place {
            region,
            firmware,
            system,
            told,
        })
    }
}

/// A machine is deployed in the stage from the version's disk as the stage's region holds it, and the checks are run
/// in it: that it is the version's image first. It is gone afterwards; what it said is the evidence.
async fn deploy_and_check(
    factory: &Arc<Factory>,
    step: &StepHandle,
    place: &Place<'_>,
    validators: &[Validator],
    source: &Source,
) -> Result<Answer, StepError> {
    let region = place.region;
    let hypervisor = factory.hypervisor().await;
    let disk = serve(factory, region, source.disks.os).await?;
    let mut data = Vec::new();
    for one in &source.disks.data {
        data.push((one.lun, serve(factory, region, one.digest).await?));
    }
    let work = factory.work_folder();
    let work = work.map_err(|error| failed("TestFailed", &error))?;
    let subject = TestSubject {
        disk: disk.disk(),
        data_disks: data
            .iter()
            .map(|(lun, served)| as_data(*lun, served))
            .collect(),
        work: work.path().join("machine"),
        system: place.system,
        firmware: place.firmware,
        validators: with_identity(validators),
        tattoo: tattoo(source)?,
    };
    let mut machine = place.told.clone();
    machine["acceleration"] = json!(hypervisor.acceleration().accel.to_string());
    machine["startedAt"] = json!(step.clock().now().to_string());
    step.progress(format!("a machine boots in {region}"));
    let log = |line: &str| step.log(line);
    let traced = Mutex::new(Trace::default());
    let booted = || *traced.lock().unwrap_or_else(PoisonError::into_inner) = disk.trace();
    let report = tokio::select! {
        report = crate::test::run(&**hypervisor, &subject, &log, &booted) => report,
        () = step.until_cancelled() => return Err(StepError::canceled()),
    };
    if !disk.is_traced() {
        let trace = traced.into_inner().unwrap_or_else(PoisonError::into_inner);
        let served = &factory.served;
        served.keep_trace(region, source.disks.os, trace).await;
    }
    machine["endedAt"] = json!(step.clock().now().to_string());
    let (passed, message, mut evidence) = match report {
        Ok(report) => (
            report.passed(),
            report.failures(),
            serde_json::to_value(&report).unwrap_or_default(),
        ),
        // A machine that does not come up is an answer, too.
        Err(error) => (false, crate::pipeline::chain(&error), json!({})),
    };
    evidence["region"] = json!(region);
    evidence["machine"] = machine;
    evidence["diskDigest"] = json!(source.disks.os.to_string());
    Ok(Answer {
        passed,
        message,
        evidence,
    })
}

/// A disk as the region holds it, for as long as the answer lives.
async fn serve(
    factory: &Arc<Factory>,
    region: &Location,
    digest: DiskDigest,
) -> Result<Attachable, StepError> {
    let down = |reason: String| StepError::transient(REGION_UNAVAILABLE, reason);
    let served = factory.served.serve(region, digest).await;
    served.map_err(|error| match &error {
        ServingError::Store(StoreError::UnknownDisk(_)) => {
            down(format!("region {region} lost the disk {digest}"))
        }
        ServingError::Store(_) | ServingError::Region(_) => {
            let why = crate::pipeline::chain(&error);
            down(format!("region {region}: {why}"))
        }
        _ => failed("StoreFailed", &error),
    })
}

fn as_data(lun: u32, served: &Attachable) -> DataDisk {
    DataDisk {
        lun,
        disk: served.disk(),
    }
}

/// What the stage asks, after the question whether this machine is the version at all.
fn with_identity(validators: &[Validator]) -> Vec<Validator> {
    let asked = |validator: &Validator| matches!(validator, Validator::Tattoo { .. });
    let identity = (!validators.iter().any(asked)).then(|| Validator::Tattoo {
        name: IDENTITY_CHECK.to_owned(),
    });
    identity
        .into_iter()
        .chain(validators.iter().cloned())
        .collect()
}

fn tattoo(source: &Source) -> Result<Tattoo, StepError> {
    let facts = source.facts.get("tattoo").and_then(Value::as_object);
    let lines: String = facts
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some(format!("{key}={}\n", value.as_str()?)))
        .collect();
    Tattoo::parse(lines.as_bytes()).map_err(|error| failed("BadVersion", &error))
}

/// Enough different people have said yes, or it is written down until when that is waited for.
async fn approval(
    step: &StepHandle,
    record: &Record,
    name: &str,
    needed: usize,
    hours: i64,
) -> Result<GateOutcome, StepError> {
    let now = step.clock().now();
    let expires = now + jiff::SignedDuration::from_hours(hours);
    let mut outcome = GateOutcome::Waiting;
    record
        .change(|promotion| {
            let approvals = std::mem::take(&mut promotion.approvals);
            let Some(gate) = promotion.gates.iter_mut().find(|gate| gate.name == name) else {
                return;
            };
            outcome = if approvals.len() >= needed {
                gate.state = GateState::Passed;
                gate.time = approvals.last().map(|last| last.time.clone());
                gate.by = approvals.iter().map(|yes| yes.by.principal).collect();
                gate.evidence = json!({ "approvals": approvals });
                gate.message.clear();
                promotion.expires = None;
                // The next gate of this kind starts at none.
                GateOutcome::Passed
            } else {
                gate.state = GateState::Waiting;
                gate.message = format!("{} of {needed} approvals", approvals.len());
                promotion.approvals = approvals;
                promotion.expires.get_or_insert_with(|| expires.to_string());
                GateOutcome::Waiting
            };
        })
        .await?;
    Ok(outcome)
}
