//! Scanners on fakes: what counts is the template's to say, and what was found is kept.

use catalog::{JobRow, JobState, StoredStatement};
use serde_json::{Value, json};
use wire::factory::{How, RunProperties};
use wire::template::Severity;

use crate::build::{Broken, Scanned};
use crate::prove::{TESTS, open};
use crate::testing::{World, template_properties};

const CONTENT: &str = "images.xml";

fn found() -> Scanned {
    let broken = |rule: &str, severity| Broken {
        rule: rule.to_owned(),
        severity,
        text: format!("about {rule}"),
    };
    Scanned {
        score: Some(61.5),
        passed: 30,
        not_applicable: 4,
        broken: vec![
            broken("umask", Severity::Low),
            broken("root-login", Severity::High),
        ],
    }
}

/// A world whose scanners find that, and a template that has them look.
async fn world(validator: Value) -> World {
    let world = World::new(&["north"]).await;
    world.builder.scanned.lock().unwrap().0 = found();
    let scap = world.folder.path().join("scap");
    std::fs::create_dir(&scap).unwrap();
    std::fs::write(scap.join(CONTENT), "<content/>").unwrap();
    ask(&world, validator).await;
    world
}

async fn ask(world: &World, validator: Value) {
    let mut properties = template_properties(&world.definition, &["north"], "hello");
    let checks = properties["validate"]["inVMValidations"].as_array_mut();
    checks.unwrap().push(validator);
    world.set_template(properties).await;
}

async fn run(world: &World) -> (RunProperties, JobRow) {
    let (begun, job) = world.run(&world.factory()).await;
    (world.record(&begun.run).await, job)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_counts_is_the_templates_to_say() {
    let check = async |limits: Value, expected: Result<(), &str>| {
        let mut validator =
            json!({ "type": "Bullion.OpenScap", "name": "cis", "content": CONTENT });
        let given = limits.as_object().unwrap().clone();
        validator.as_object_mut().unwrap().extend(given);
        let world = world(validator).await;
        let (record, job) = run(&world).await;
        match expected {
            Ok(()) => assert_eq!(
                job.state,
                JobState::Succeeded,
                "{limits}: {}",
                record.message
            ),
            Err(part) => {
                assert_eq!(job.state, JobState::Failed, "{limits}");
                assert!(
                    record.message.contains(part),
                    "{limits}: {}",
                    record.message
                );
                assert!(world.versions().await.is_empty());
            }
        }
    };
    check(json!({}), Err("High root-login about root-login")).await;
    check(json!({ "rules": { "root-login": "Warn" } }), Ok(())).await;
    let low = json!({ "rules": { "root-login": "Warn" }, "failsFrom": "Low" });
    check(low, Err("Low umask about umask")).await;
    let named = json!({ "rules": { "root-login": "Warn", "umask": "Fail" } });
    check(named, Err("Low umask")).await;
    let scored = |least: f64| json!({ "rules": { "root-login": "Warn" }, "minScore": least });
    check(scored(61.5), Ok(())).await;
    check(scored(62.0), Err("the score is below 62.0")).await;
    check(
        json!({ "content": "none.xml" }),
        Err("the server has no `none.xml`"),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_found_is_kept_and_found_again() {
    let world = world(json!({ "type": "Bullion.Lynis", "rules": { "root-login": "Warn" } })).await;
    let asked = || world.builder.scanned.lock().unwrap().1;
    for how in [How::Run, How::Found] {
        let (record, job) = run(&world).await;
        assert_eq!(job.state, JobState::Succeeded, "{}", record.message);
        let mut steps = record.steps.iter();
        let step = steps
            .find(|step| step.name == "scan Bullion.Lynis")
            .unwrap();
        assert_eq!(step.how, Some(how));
        assert_eq!(step.detail["score"], 61.5, "{}", step.detail);
        assert_eq!(step.detail["checks"].as_array().unwrap().len(), 1);
        assert_eq!(asked(), 1);
    }
    let version = world.definition.child("versions", "1.0.0").unwrap();
    let found = world.get(&version).await.unwrap();
    let shown = json!([{
        "name": "scan Bullion.Lynis", "scanner": "a fake scanner 1", "score": 61.5,
        "passedRules": 30, "brokenRules": 2, "notApplicableRules": 4,
    }]);
    assert_eq!(found.properties["bullion"]["scans"], shown);
    let disk = found.properties["bullion"]["diskDigest"].as_str().unwrap();
    let mut told = String::new();
    let keys = world.factory().statement_keys();
    let look = |envelope: &mut Value| {
        let kept = StoredStatement {
            name: TESTS.into(),
            at: jiff::Timestamp::UNIX_EPOCH,
            envelope: envelope.to_string(),
        };
        let opened = open(&kept, disk, &keys).unwrap();
        told = opened.statement.predicate["configuration"].to_string();
    };
    world.tamper(&version, TESTS, look).await;
    for part in ["a fake scanner 1", "61.5", "about umask"] {
        assert!(told.contains(part), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_disk_that_a_machine_wrote_is_mounted_for_a_scanner() {
    let world = world(json!({ "type": "Bullion.Lynis" })).await;
    let mut properties = world.get(&world.template).await.unwrap().properties;
    properties["vmProfile"] = json!({ "osDiskSizeGB": 2, "bullion": { "executor": "Machine" } });
    world.set_template(properties).await;
    let (record, job) = run(&world).await;
    assert_eq!(job.state, JobState::Failed);
    assert!(
        record.message.contains("mounts no disk"),
        "{}",
        record.message
    );
}
