//! Rebuilding on fakes: the same record gives the same disk, another one is told file by file.

use std::sync::atomic::Ordering;

use catalog::{Draft, JobRow, JobState};
use provenance::IN_TOTO_PAYLOAD;
use serde_json::{Value, json};
use wire::ResourceId;

use super::rebuild::{Base, VERIFY_ACTION, VerifyBuild, VerifyInput};
use crate::prove::{PROVENANCE, RECORD, open};
use crate::testing::{World, template_properties};

async fn built() -> (World, ResourceId) {
    let world = World::new(&["north"]).await;
    let (_, job) = world.run(&world.factory()).await;
    assert_eq!(job.state, JobState::Succeeded, "{:?}", job.failure);
    let version = world.definition.child("versions", "1.0.0").unwrap();
    (world, version)
}

async fn verified(world: &World, version: &ResourceId, base: Base) -> JobRow {
    let (factory, version) = (world.factory(), version.clone());
    let input = VerifyInput {
        version: version.clone(),
        base,
    };
    let submitted = world.submit::<VerifyBuild>(&factory, VERIFY_ACTION, &version, &input);
    let (runner, job) = submitted.await;
    assert!(runner.run_next().await);
    world.job(VERIFY_ACTION, &version, job).await
}

/// Has the record say something else, and signs that.
async fn change_record(world: &World, version: &ResourceId, change: impl FnOnce(&mut Value)) {
    let found = world.get(version).await.unwrap();
    let disk = found.properties["bullion"]["diskDigest"].as_str().unwrap();
    let factory = world.factory();
    let sign = |envelope: &mut Value| {
        let kept = catalog::StoredStatement {
            name: RECORD.into(),
            at: jiff::Timestamp::UNIX_EPOCH,
            envelope: envelope.to_string(),
        };
        let mut statement = open(&kept, disk, &factory.statement_keys())
            .unwrap()
            .statement;
        change(&mut statement.predicate);
        let payload = serde_json::to_vec(&statement).unwrap();
        let sealed = factory
            .statement_key()
            .signing()
            .seal(IN_TOTO_PAYLOAD, &payload);
        *envelope = serde_json::to_value(sealed).unwrap();
    };
    world.tamper(version, RECORD, sign).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_record_gives_the_same_disk() {
    let (world, version) = built().await;
    let made = || world.provider.bootstrapped.load(Ordering::SeqCst);
    for (base, expected) in [(Base::Reuse, 1), (Base::Rebuild, 2)] {
        // What the archive has meanwhile does not count.
        world.provider.move_archive();
        let done = verified(&world, &version, base).await;
        assert_eq!(done.state, JobState::Succeeded, "{:?}", done.failure);
        let output = done.output.unwrap();
        assert_eq!(output["matches"], true, "{output:#}");
        assert_eq!(output["diskDigest"], output["rebuiltDigest"]);
        assert_eq!(made(), expected, "{base:?}");
    }
    assert_eq!(
        world.builder.built.lock().unwrap().len(),
        3,
        "nothing is found"
    );
    assert_eq!(world.versions().await, ["1.0.0"], "nothing is published");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_says_other_things_is_told_file_by_file() {
    let (world, version) = built().await;
    change_record(&world, &version, |record| {
        record["properties"]["customize"] = json!([
            { "type": "Shell", "name": "motd", "inline": ["echo another > /etc/motd"] },
            { "type": "Shell", "name": "more", "inline": ["true"] },
        ]);
    })
    .await;
    let done = verified(&world, &version, Base::Reuse).await;
    assert_eq!(done.state, JobState::Succeeded, "{:?}", done.failure);
    let output = done.output.unwrap();
    assert_eq!(output["matches"], false, "{output:#}");
    let found = output["differences"].as_array().unwrap();
    for expected in [
        json!({ "path": "/etc/built-motd", "change": "Content" }),
        json!({ "path": "/etc/built-more", "change": "Added" }),
    ] {
        assert!(found.contains(&expected), "{output:#}");
    }
    assert!(
        output["message"].as_str().unwrap().contains("differ"),
        "{output:#}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_record_that_is_signed_is_rebuilt_from() {
    let (world, version) = built().await;
    let forge = |envelope: &mut Value| envelope["payload"] = "e30=".into();
    world.tamper(&version, RECORD, forge).await;
    let failure = verified(&world, &version, Base::Reuse)
        .await
        .failure
        .unwrap();
    assert_eq!(failure.code, "ProvenanceInvalid", "{failure:?}");
    world.replace_disk(&version).await;
    let failure = verified(&world, &version, Base::Reuse)
        .await
        .failure
        .unwrap();
    assert_eq!(failure.code, "CannotRebuild", "{failure:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_without_packages_is_built_again_on_its_parents_disk() {
    let (world, parent) = built().await;
    let parent_disk = world.get(&parent).await.unwrap().properties["bullion"]["diskDigest"].clone();
    let mut properties = template_properties(&world.definition, &["north"], "child");
    properties["source"] =
        json!({ "type": "SharedImageVersion", "imageVersionId": parent.to_string() });
    world.set_template(properties).await;
    let (begun, job) = world.run(&world.factory()).await;
    let record = world.record(&begun.run).await;
    assert_eq!(job.state, JobState::Succeeded, "{}", record.message);
    let child = world.definition.child("versions", "1.0.1").unwrap();
    for base in [Base::Reuse, Base::Rebuild] {
        let done = verified(&world, &child, base).await;
        assert_eq!(done.state, JobState::Succeeded, "{:?}", done.failure);
        let output = done.output.unwrap();
        assert_eq!(output["matches"], true, "{output:#}");
        assert_eq!(output["promise"], "Disk", "{output:#}");
    }
    // Its provenance names what it was built on, and no archive.
    let disk = world.get(&child).await.unwrap().properties["bullion"]["diskDigest"].clone();
    let keys = world.factory().statement_keys();
    let look = |envelope: &mut Value| {
        let kept = catalog::StoredStatement {
            name: PROVENANCE.into(),
            at: jiff::Timestamp::UNIX_EPOCH,
            envelope: envelope.to_string(),
        };
        let opened = open(&kept, disk.as_str().unwrap(), &keys).unwrap();
        let built = &opened.statement.predicate["buildDefinition"];
        let from = built["resolvedDependencies"].as_array().unwrap();
        assert_eq!(from.len(), 1, "{from:?}");
        let hex = parent_disk.as_str().unwrap().trim_start_matches("bd1:");
        assert!(from[0]["digest"].to_string().contains(hex), "{from:?}");
    };
    world.tamper(&child, PROVENANCE, look).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_what_was_brought_here_the_bits_are_verified() {
    let (mut world, built) = built().await;
    let digest = world.get(&built).await.unwrap().properties["bullion"]["diskDigest"].clone();
    let brought = world.definition.child("versions", "9.0.0").unwrap();
    let draft = |digest: &str| {
        let target = json!([{ "name": "north" }]);
        let body = json!({
            "publishingProfile": { "targetRegions": target },
            "bullion": { "diskDigest": digest },
        });
        Draft::new(body).location("north")
    };
    let look = async |world: &World, matches: bool, expected: &str| {
        let done = verified(world, &brought, Base::Rebuild).await;
        assert_eq!(done.state, JobState::Succeeded, "{:?}", done.failure);
        let output = done.output.unwrap();
        assert_eq!(
            (&output["promise"], &output["matches"]),
            (&json!("Bits"), &json!(matches))
        );
        assert_eq!(output["rebuiltDigest"], Value::Null);
        let message = output["message"].as_str().unwrap();
        assert!(
            message.contains("was brought here") && message.contains(expected),
            "{message}"
        );
    };
    let other = format!("bd1:{}", "ab".repeat(32));
    world.put(&brought, draft(&other)).await;
    look(&world, false, "no region of it holds").await;
    // A disk of a build under another name is still one that a record is kept of.
    world.put(&brought, draft(digest.as_str().unwrap())).await;
    let done = verified(&world, &brought, Base::Reuse).await;
    assert_eq!(done.output.unwrap()["promise"], "Disk");
    world.replace_disk(&brought).await;
    look(&world, true, "the bits in north are those").await;
    world.lose_disks();
    look(&world, false, "no region of it holds").await;
}
