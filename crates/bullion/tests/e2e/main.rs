//! One image through the whole pipeline, by the command line of the real program, while checks fail and the server is
//! killed. Every state that is waited for is one that a user can see.

// A test starts programs as a user does, and says why it failed.
#![allow(clippy::disallowed_methods, clippy::print_stderr)]

mod az;
mod kills;
mod promotion;
#[path = "../support/mod.rs"]
mod support;

use std::time::Duration;

use serde_json::Value;
use support::{Installation, copy_example, edit, wait_for};

const TEMPLATE: &str = "golden-debian";
pub const IMAGE: &str = "golden/debian-12";
/// Bootstrapping a Debian, and booting it in an emulator on a busy machine of two cores.
pub const STAGE_DEADLINE: Duration = Duration::from_secs(1200);
/// A check that cannot pass, put first.
const FAILING_CHECK: &str = "validate:
  - type: Shell
    name: never-true
    inline:
      - echo this is what the check said; exit 7
";

#[test]
fn an_image_is_finished_through_kills_and_a_failing_check() {
    let mut installation = Installation::new();
    az::may_reach_this_host(&installation);
    let folder = installation.beside("factory");
    copy_example(&folder);
    let recipe = folder.join("golden-debian.yaml");
    edit(&recipe, "validate:\n", FAILING_CHECK);

    let run = a_run_survives_kills(&mut installation);
    the_failing_check_published_nothing(&installation, &run);
    edit(&recipe, FAILING_CHECK, "validate:\n");
    let digest = the_next_run_goes_on_from_the_failed_step(&installation);
    building_again_finds_everything(&installation, &digest);
    kills::a_small_build_goes_through_every_kill(&mut installation);
    its_record_is_the_signed_one(&installation);
    it_is_built_again_the_same(&installation, &digest);
    az::finds_the_image_elsewhere(&installation, TEMPLATE);
    promotion::goes_through_every_kill(&mut installation, &digest);
    promotion::stops_without_consent(&installation);
    promotion::waits_for_somebody_else(&mut installation);
    let approved = promotion::waits_for_a_region(&mut installation);
    a_machine_outlives_its_server(&mut installation);
    approved.is_finished(&installation, &digest);
    installation.stop();
    installation.wait_for_quiet();
}

/// Killed while the source is made and again while the image is tested, the server ends the same run.
fn a_run_survives_kills(installation: &mut Installation) -> String {
    apply(installation);
    let started = installation.json(&["build", "run", TEMPLATE, "--no-wait"]);
    let run = started["name"]
        .as_str()
        .expect("a run has a name")
        .to_owned();
    for stage in ["source", "test"] {
        wait_for(&format!("stage {stage} to run"), STAGE_DEADLINE, || {
            let shown = installation.json(&["build", "show", &run]);
            assert_ne!(shown["properties"]["runState"], "Failed", "{shown:#}");
            steps(&shown, stage)
                .iter()
                .any(|step| step["state"] == "Running")
                .then_some(())
        });
        installation.kill();
        wait_for("what the server had started to end", STAGE_DEADLINE, || {
            installation.programs().is_empty().then_some(())
        });
        installation.start();
    }
    installation
        .run(&["build", "watch", &run])
        .failed()
        .tells(&["never-true", "this is what the check said"]);
    run
}

fn the_failing_check_published_nothing(installation: &Installation, run: &str) {
    let shown = installation.json(&["build", "show", run]);
    assert_eq!(shown["properties"]["runState"], "Failed", "{shown:#}");
    assert!(
        steps(&shown, "publish")
            .iter()
            .all(|step| step["state"] != "Succeeded"),
        "{shown:#}"
    );
    assert_eq!(versions(installation), [""; 0]);
    installation.wait_for_quiet();
}

fn the_next_run_goes_on_from_the_failed_step(installation: &Installation) -> String {
    apply(installation);
    let run = installation.json(&["build", "run", TEMPLATE]);
    for stage in ["source", "build"] {
        let steps = named_by_inputs(&run, stage);
        assert!(
            !steps.is_empty() && steps.iter().all(|step| step["how"] == "found"),
            "{stage}: {run:#}"
        );
    }
    assert!(
        steps(&run, "test").iter().any(|step| step["how"] == "run"),
        "{run:#}"
    );
    assert_eq!(versions(installation), ["1.0.0"]);
    let version = installation.json(&["version", "show", &format!("{IMAGE}/1.0.0")]);
    let regions: Vec<&Value> =
        list(&version["properties"]["publishingProfile"]["targetRegions"]).collect();
    assert_eq!(regions.len(), 2, "{version:#}");
    let digest = run["properties"]["outputs"]["diskDigest"]
        .as_str()
        .expect("a run has a digest");
    assert!(digest.starts_with("bd1:"), "{digest}");
    digest.to_owned()
}

fn building_again_finds_everything(installation: &Installation, digest: &str) {
    let run = installation.json(&["build", "run", TEMPLATE]);
    for stage in ["source", "build", "tattoo", "test", "replicate"] {
        let steps = named_by_inputs(&run, stage);
        assert!(
            !steps.is_empty() && steps.iter().all(|step| step["how"] == "found"),
            "{stage}: {run:#}"
        );
    }
    assert_eq!(run["properties"]["outputs"]["diskDigest"], digest);
    assert_eq!(versions(installation), ["1.0.0"]);
}

/// What was exported says which version it is, and that is what was signed.
fn its_record_is_the_signed_one(installation: &Installation) {
    let file = installation.beside("golden.qcow2");
    let file = file.to_string_lossy();
    let version = format!("{IMAGE}/1.0.0");
    let export = ["version", "export", &version, &file, "--format", "qcow2"];
    installation.run(&export).succeeded();
    is_signed(installation, &file, "/images/debian-12/versions/1.0.0");
}

/// The parent is not made again: that mmdebstrap makes the same one is tested where disks are made.
fn it_is_built_again_the_same(installation: &Installation, digest: &str) {
    let version = format!("{IMAGE}/1.0.0");
    let verified = installation.json(&["verify", &version, "--reuse-base"]);
    assert_eq!(verified["matches"], true, "{verified:#}");
    assert_eq!(verified["rebuiltDigest"], digest, "{verified:#}");
    assert_eq!(versions(installation), ["1.0.0"]);
}

#[track_caller]
fn is_signed(installation: &Installation, what: &str, version: &str) {
    let read = installation.json(&["tattoo", "read", what, "--signed"]);
    assert_eq!(read["tattoo"]["image.version"], "1.0.0", "{read:#}");
    let signature = &read["signature"];
    assert_eq!(signature["result"], "good", "{read:#}");
    let id = signature["versionId"].as_str().unwrap_or_default();
    assert!(id.ends_with(version), "{read:#}");
}

fn a_machine_outlives_its_server(installation: &mut Installation) {
    installation.json(&[
        "vm", "create", "web-1", "--image", IMAGE, "--region", "south",
    ]);
    assert_eq!(tattooed_version(installation), "1.0.0");
    is_signed(installation, "web-1", "/images/debian-12/versions/1.0.0");
    let before = installation.programs();
    assert!(!before.is_empty(), "no machine runs");
    installation.kill();
    assert_eq!(installation.programs(), before);
    installation.start();
    assert_eq!(tattooed_version(installation), "1.0.0");
    assert_eq!(
        installation.programs(),
        before,
        "it is the same machine, not another one"
    );
    az::drives_the_machine(installation);
    installation
        .run(&["vm", "delete", "web-1", "--yes"])
        .succeeded();
    installation.wait_for_quiet();
}

pub fn apply(installation: &Installation) {
    let folder = installation.beside("factory");
    let folder = folder.to_string_lossy();
    installation.run(&["apply", &folder, "--yes"]).succeeded();
    installation
        .run(&["plan", &folder, "--detailed-exitcode"])
        .succeeded();
}

fn tattooed_version(installation: &Installation) -> String {
    let tattoo = installation.json(&["vm", "tattoo", "web-1"]);
    let exact = tattoo["properties"]["exactVersion"]
        .as_str()
        .unwrap_or_default();
    exact.rsplit('/').next().unwrap_or_default().to_owned()
}

fn versions(installation: &Installation) -> Vec<String> {
    versions_of(installation, IMAGE)
}

pub fn versions_of(installation: &Installation, image: &str) -> Vec<String> {
    let versions = installation.json(&["version", "list", image]);
    list(&versions)
        .map(|version| version["name"].as_str().unwrap_or_default().to_owned())
        .collect()
}

fn steps<'a>(run: &'a Value, stage: &str) -> Vec<&'a Value> {
    list(&run["properties"]["steps"])
        .filter(|step| step["stage"] == stage)
        .collect()
}

/// The steps that are found when their inputs are the same; the others, such as asking what `latest` is, run each time.
fn named_by_inputs<'a>(run: &'a Value, stage: &str) -> Vec<&'a Value> {
    steps(run, stage)
        .into_iter()
        .filter(|step| step["key"] != "")
        .collect()
}

pub fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}
