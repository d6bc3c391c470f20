//! Whole runs whose source is a Windows: what is done to it without starting it, and what is refused because it cannot be.

use catalog::{Draft, Statements as _};
use serde_json::{Value, json};
use wire::factory::{RunProperties, Stage, StepState};
use wire::template::RunState;

use crate::testing::windows::{GENERALIZED, WindowsDisk, hive_in_state};
use crate::testing::{World, template_properties};

/// What comes of a template on a Windows disk that says this of itself, brought as a file.
async fn run(state: &str, change: impl FnOnce(&mut Value)) -> (World, RunProperties) {
    run_for("Windows", state, change).await
}

/// The same where the image definition is for that.
async fn run_for(
    os_type: &str,
    state: &str,
    change: impl FnOnce(&mut Value),
) -> (World, RunProperties) {
    let world = World::new(&["north"]).await;
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
    let factory = world.factory();
    let (begun, _) = world.run(&factory).await;
    let record = world.record(&begun.run).await;
    (world, record)
}

async fn refused(state: &str, change: impl FnOnce(&mut Value), told: &str) {
    let (world, record) = run(state, change).await;
    assert_eq!(record.run_state, RunState::Failed);
    assert!(record.message.contains(told), "{}", record.message);
    assert_eq!(world.versions().await, [""; 0]);
}

#[tokio::test]
async fn a_generalized_windows_is_tattooed_and_published_and_not_booted() {
    let (world, record) = run(GENERALIZED, |_| {}).await;
    assert_eq!(record.run_state, RunState::Succeeded, "{}", record.message);
    let booted = record
        .steps
        .iter()
        .any(|step| step.stage == Stage::Test && step.state == StepState::Succeeded);
    assert!(
        !booted && world.machines.log().is_empty(),
        "{:#?}",
        record.steps
    );
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
    // The record is signed beside the disk, as that of any other image.
    let permit = world.permit_of(&world.operator, "read", &version.id).await;
    let kept = world.catalog.statement(&permit, digest, "tattoo").await;
    let kept = kept.unwrap().expect("a statement");
    let opened = crate::prove::open(&kept, digest, &world.factory().statement_keys()).unwrap();
    assert_eq!(opened.statement.predicate["record"], json!(found));
}

#[tokio::test]
async fn a_definition_for_linux_takes_no_windows() {
    let (world, record) = run_for("Linux", GENERALIZED, |_| {}).await;
    let told = "the source is a Windows image, and the image definition";
    assert!(record.message.starts_with(told), "{}", record.message);
    assert_eq!(world.versions().await, [""; 0]);
}

#[tokio::test]
async fn what_needs_a_running_windows_is_refused_with_the_reason() {
    let as_it_is = |_: &mut Value| {};
    refused(
        "IMAGE_STATE_COMPLETE",
        as_it_is,
        "in the state IMAGE_STATE_COMPLETE",
    )
    .await;
    let specialized = |properties: &mut Value| {
        properties["vmProfile"] = json!({ "bullion": { "generalize": false } });
    };
    let (_, record) = run("IMAGE_STATE_COMPLETE", specialized).await;
    assert_eq!(record.run_state, RunState::Succeeded, "{}", record.message);
    let customized = |properties: &mut Value| {
        properties["customize"] = json!([{ "type": "PowerShell", "name": "p", "inline": ["dir"] }]);
    };
    refused(
        GENERALIZED,
        customized,
        "customizing one needs a Windows guest",
    )
    .await;
    let checked = |properties: &mut Value| {
        properties["validate"] = json!({ "inVMValidations": [{ "type": "Bullion.Tattoo" }] });
    };
    refused(GENERALIZED, checked, "checks in one need a Windows guest").await;
}
