//! Bits leave when nothing has them any more, and not before.

use std::sync::Arc;
use std::time::Duration;

use access::{Action, Permit, SystemReason};
use catalog::{Catalog, Precondition};
use disk::DiskDigest;
use jobs::{CancelSource, JobState, Reconciler};
use serde_json::json;
use store::region::{Kind, Want};
use wire::{Location, ResourceId};

use super::{Done, NOTE, Reclaim};
use crate::Factory;
use crate::domains::{DomainName, DomainSetting, KeyChoice};
use crate::export::ImageFormat;
use crate::testing::World;

const DELETE: &str = "Microsoft.Compute/galleries/images/versions/delete";
const WRITE: &str = "Microsoft.Compute/galleries/images/versions/write";

async fn published(world: &World) -> (Arc<Factory>, ResourceId, DiskDigest) {
    let factory = world.factory();
    let (_, job) = world.run(&factory).await;
    assert_eq!(job.state, JobState::Succeeded, "{:?}", job.failure);
    let version = world.definition.child("versions", "1.0.0").unwrap();
    let resource = world.get(&version).await.unwrap();
    let digest = resource.properties["bullion"]["diskDigest"]
        .as_str()
        .unwrap();
    (factory, version, digest.parse().unwrap())
}

fn system(world: &World, action: &str, version: &ResourceId) -> Permit {
    Permit::system(
        SystemReason::Reconcile,
        Action::new(action),
        version.clone(),
        world.clerk.tenant,
    )
}

fn holds(world: &World, region: &str, digest: &DiskDigest) -> bool {
    world
        .regions
        .holder(&Location::new(region), digest)
        .is_some()
}

fn bytes(world: &World, region: &str) -> u64 {
    world
        .regions
        .region(&Location::new(region))
        .unwrap()
        .bytes()
}

async fn pass(reclaim: &Reclaim) -> Done {
    let never = CancelSource::new();
    reclaim.pass(&never.token()).await.unwrap()
}

/// Passes, an hour apart, until one does nothing more.
async fn settle(world: &World, reclaim: &Reclaim) {
    for _ in 0..100 {
        world.clock.advance(Duration::from_secs(3600));
        pass(reclaim).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_version_gives_its_room_back_after_the_grace() {
    let world = World::new(&["north", "south"]).await;
    let (factory, version, digest) = published(&world).await;
    let reclaim = Reclaim::new(Arc::clone(&factory));
    pass(&reclaim).await;
    settle(&world, &reclaim).await;
    assert!(holds(&world, "north", &digest) && holds(&world, "south", &digest));
    let before = bytes(&world, "south");
    let permit = system(&world, DELETE, &version);
    world
        .catalog
        .delete(&permit, Precondition::None)
        .await
        .unwrap();
    assert_eq!(pass(&reclaim).await, Done::default());
    assert!(holds(&world, "north", &digest), "it is within its grace");
    // A restart in between loses nothing of the time that passed.
    drop(reclaim);
    let reclaim = Reclaim::new(world.factory());
    settle(&world, &reclaim).await;
    assert!(!holds(&world, "north", &digest) && !holds(&world, "south", &digest));
    assert!(bytes(&world, "south") < before, "its room is free");
}

/// The note is written whenever all was read, and at no other time.
#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_came_or_went_nothing_is_read() {
    let world = World::new(&["north"]).await;
    let (factory, version, _) = published(&world).await;
    let note = factory.data.join("regions").join(NOTE);
    let reclaim = Reclaim::new(factory);
    let reads = async || {
        let _ = std::fs::remove_file(&note);
        pass(&reclaim).await;
        note.exists()
    };
    assert!(reads().await, "what is used is not known yet");
    assert!(!reads().await);
    let catalog: Arc<dyn Catalog> = world.catalog.clone();
    let tag = async |id: &ResourceId, action: &str| {
        let permit = system(&world, action, id);
        crate::pipeline::change(&catalog, &permit, |draft| {
            draft.properties["note"] = "of no concern here".into();
        })
        .await
        .unwrap();
    };
    let definition = "Microsoft.Compute/galleries/images/write";
    tag(&world.definition, definition).await;
    assert!(!reads().await, "a definition has no disk");
    tag(&version, WRITE).await;
    assert!(reads().await, "a version may have another one");
    assert!(!reads().await);
    stored_beside(&world);
    assert!(reads().await, "a store has a disk more");
}

/// A disk that no resource names.
fn stored_beside(world: &World) {
    let store = world.regions.store(&Location::new("north")).unwrap();
    store
        .ingest(&disk::MemDisk::from(vec![9; 1 << 20]))
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_is_dropped_gives_its_room_back_and_the_others_keep_theirs() {
    let world = World::new(&["north", "south"]).await;
    let (factory, version, digest) = published(&world).await;
    let reclaim = Reclaim::new(Arc::clone(&factory));
    pass(&reclaim).await;
    let permit = system(&world, WRITE, &version);
    let catalog: Arc<dyn Catalog> = world.catalog.clone();
    crate::pipeline::change(&catalog, &permit, |draft| {
        let regions = &mut draft.properties["publishingProfile"]["targetRegions"];
        regions
            .as_array_mut()
            .unwrap()
            .retain(|region| region["name"] == "north");
    })
    .await
    .unwrap();
    settle(&world, &reclaim).await;
    assert!(holds(&world, "north", &digest));
    assert!(!holds(&world, "south", &digest));
    assert_eq!(bytes(&world, "south"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_waits_for_nothing_that_another_one_still_needs() {
    let world = World::new(&["north", "south"]).await;
    let (factory, version, digest) = published(&world).await;
    let south = world.regions.region(&Location::new("south")).unwrap();
    south.delete(&digest).unwrap();
    south.members()[0].goes_away("for the test");
    let reclaim = Reclaim::new(Arc::clone(&factory));
    pass(&reclaim).await;
    let permit = system(&world, WRITE, &version);
    let catalog: Arc<dyn Catalog> = world.catalog.clone();
    crate::pipeline::change(&catalog, &permit, |draft| {
        let regions = &mut draft.properties["publishingProfile"]["targetRegions"];
        regions
            .as_array_mut()
            .unwrap()
            .retain(|region| region["name"] == "south");
    })
    .await
    .unwrap();
    settle(&world, &reclaim).await;
    assert!(
        holds(&world, "north", &digest),
        "the only copy stays until south has it"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn fewer_replicas_free_stores_and_more_fill_them() {
    let world = World::new(&["north"]).await;
    let north = Location::new("north");
    let zones: Vec<String> = ["1", "2", "3"].map(str::to_owned).into();
    world.regions.define(&north, &zones).unwrap();
    let (factory, version, digest) = published(&world).await;
    let region = world.regions.region(&north).unwrap();
    let copies = || region.holders(&digest).len();
    let catalog: Arc<dyn Catalog> = world.catalog.clone();
    let permit = system(&world, WRITE, &version);
    let ask = async |kind: &str| {
        crate::pipeline::change(&catalog, &permit, |draft| {
            let regions = &mut draft.properties["publishingProfile"]["targetRegions"];
            regions[0]["storageAccountType"] = kind.into();
        })
        .await
        .unwrap();
    };
    let never = CancelSource::new();
    let replicate = crate::replicate::Replicate::new(Arc::clone(&factory));
    let reclaim = Reclaim::new(Arc::clone(&factory));
    assert_eq!(copies(), 1);
    ask("Standard_ZRS").await;
    replicate.reconcile(&never.token()).await.unwrap();
    assert_eq!(copies(), 3);
    let status = crate::replicate::replication_status(&world.get(&version).await.unwrap());
    assert_eq!(status["summary"][0]["state"], "Completed");
    ask("Standard_LRS").await;
    pass(&reclaim).await;
    assert_eq!(copies(), 1);
    assert!(
        region.check(Kind::PremiumLrs).is_err(),
        "no store is labelled premium"
    );
    let placement = region
        .place(&digest, Want::new(Kind::StandardLrs, 5))
        .unwrap();
    assert_eq!((placement.copies, placement.shared), (1, 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_a_key_of_its_own_leaves_what_others_share() {
    let world = World::new(&["north"]).await;
    let (factory, version, digest) = published(&world).await;
    let set = version.to_string();
    let set = set.split("/galleries/").next().unwrap();
    let set = ResourceId::parse(&format!("{set}/diskEncryptionSets/own")).unwrap();
    let setting = DomainSetting {
        set: set.clone(),
        tenant: world.clerk.tenant,
        region: Location::new("north"),
        key: KeyChoice::Same,
        rotates: false,
    };
    world.regions.put_domain(&setting).unwrap();
    let place = DomainName::of(&set).place(&Location::new("north"));
    let catalog: Arc<dyn Catalog> = world.catalog.clone();
    let permit = system(&world, WRITE, &version);
    crate::pipeline::change(&catalog, &permit, |draft| {
        let region = &mut draft.properties["publishingProfile"]["targetRegions"][0];
        region["encryption"] = json!({ "osDiskImage": { "diskEncryptionSetId": set.to_string() } });
    })
    .await
    .unwrap();
    let reclaim = Reclaim::new(Arc::clone(&factory));
    pass(&reclaim).await;
    assert!(
        holds(&world, "north", &digest),
        "the only copy stays until the domain has it"
    );
    let never = CancelSource::new();
    let replicate = crate::replicate::Replicate::new(Arc::clone(&factory));
    replicate.reconcile(&never.token()).await.unwrap();
    assert!(holds(&world, place.as_str(), &digest));
    settle(&world, &reclaim).await;
    assert!(
        !holds(&world, "north", &digest),
        "nobody shares it any more"
    );
    assert!(holds(&world, place.as_str(), &digest));
    let resource = world.get(&version).await.unwrap();
    let status = crate::replicate::replication_status(&resource);
    assert_eq!(status["summary"][0]["state"], "Completed");
    let found = factory.export(&digest, &[], ImageFormat::Raw).await;
    assert!(found.is_err(), "no region has it for everybody");
    let places = crate::replicate::domains_of(&resource);
    assert_eq!(places, std::slice::from_ref(&place));
    let found = factory.export(&digest, &places, ImageFormat::Raw).await;
    assert!(found.is_ok());

    // Erased, it takes room until it is deleted by its name; then that comes back.
    world
        .regions
        .erase_domain(&DomainName::of(&set), true)
        .unwrap();
    let kept = factory.export(&digest, &places, ImageFormat::Raw).await;
    assert!(kept.is_err(), "what was exported before is no way round");
    let permit = system(&world, DELETE, &version);
    world
        .catalog
        .delete(&permit, Precondition::None)
        .await
        .unwrap();
    settle(&world, &reclaim).await;
    assert_eq!(bytes(&world, place.as_str()), 0);
}
