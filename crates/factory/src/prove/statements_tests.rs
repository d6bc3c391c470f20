//! What a build leaves signed, and that it is looked at before a disk is used.

use catalog::{Draft, JobState, Statements as _};
use serde_json::{Value, json};
use wire::{ProvisioningState, ResourceId};

use super::{PROVENANCE, PROVENANCE_INVALID, TATTOO, open};
use crate::deploy::{Deploy, DeployInput};
use crate::testing::World;

const MACHINE_WRITE: &str = "Microsoft.Compute/virtualMachines/write";

/// A world with a version.
async fn built() -> (World, ResourceId) {
    let world = World::new(&["north"]).await;
    let (_, job) = world.run(&world.factory()).await;
    assert_eq!(job.state, JobState::Succeeded, "{:?}", job.failure);
    let version = world.definition.child("versions", "1.0.0").unwrap();
    (world, version)
}

/// Deploys a machine from the version; what became of it.
async fn deployed(world: &World, version: &ResourceId) -> Value {
    let machines = ("Microsoft.Compute", "virtualMachines");
    let vm = world.group.extension(machines.0, machines.1, "web-1");
    let vm = vm.unwrap();
    let body = json!({ "storageProfile": { "imageReference": { "id": version.to_string() } } });
    let draft = Draft::new(body)
        .location("north")
        .state(ProvisioningState::Creating);
    world.put(&vm, draft).await;
    let (factory, input) = (world.factory(), DeployInput { vm: vm.clone() });
    let submitted = world.submit::<Deploy>(&factory, MACHINE_WRITE, &vm, &input);
    let (runner, _) = submitted.await;
    assert!(runner.run_next().await);
    world.get(&vm).await.unwrap().properties["bullion"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_record_in_the_disk_is_signed() {
    let (world, version) = built().await;
    let found = world.get(&version).await.unwrap();
    let disk = found.properties["bullion"]["diskDigest"].as_str().unwrap();
    let permit = world.clerk_permit("Microsoft.Compute/galleries/images/versions/read", &version);
    let kept = world.catalog.statement(&permit, disk, TATTOO).await;
    let kept = kept.unwrap().expect("a statement");
    let opened = open(&kept, disk, &world.factory().statement_keys()).unwrap();
    assert_eq!(
        opened.statement.predicate["record"],
        found.properties["bullion"]["tattoo"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_machine_is_made_from_a_disk_whose_provenance_proves_nothing() {
    let check = async |change: fn(&mut Value), told: Option<&str>| {
        let (world, version) = built().await;
        world.tamper(&version, PROVENANCE, change).await;
        let machine = deployed(&world, &version).await;
        let Some(told) = told else {
            assert_eq!(machine["exactVersion"], "1.0.0", "{machine}");
            return;
        };
        assert_eq!(machine["error"]["code"], PROVENANCE_INVALID, "{machine}");
        let message = machine["error"]["message"].as_str().unwrap();
        assert!(message.contains(told), "{message}");
        assert!(world.machines.running().is_empty());
    };
    check(|_| {}, None).await;
    check(
        |envelope| envelope["payload"] = "e30=".into(),
        Some("signed by none"),
    )
    .await;
    check(|envelope| *envelope = json!({}), Some("no signed envelope")).await;
}

/// A statement of another disk is signed as well, and proves nothing of this one.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_of_another_disk_proves_nothing() {
    let (world, version) = built().await;
    let before = world.get(&version).await.unwrap();
    let digest = |version: &catalog::Resource| {
        let digest = version.properties["bullion"]["diskDigest"].as_str();
        digest.unwrap().to_owned()
    };
    let permit = world.clerk_permit(
        "Microsoft.Compute/galleries/images/versions/write",
        &version,
    );
    let kept = world
        .catalog
        .statement(&permit, &digest(&before), PROVENANCE)
        .await;
    let kept = kept.unwrap().expect("a statement");
    world.replace_disk(&version).await;
    let after = digest(&world.get(&version).await.unwrap());
    let moved = world.catalog.keep_statement(&permit, &after, &kept).await;
    moved.unwrap();
    let machine = deployed(&world, &version).await;
    assert_eq!(machine["error"]["code"], PROVENANCE_INVALID, "{machine}");
    let message = machine["error"]["message"].as_str().unwrap();
    assert!(message.contains("another disk"), "{message}");
}
