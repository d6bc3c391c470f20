//! The feed of changes: what is written is told, once, in order, and only if it was committed.

use serde_json::json;
use wire::ResourceId;

use super::Backend;
use super::world::World;
use crate::changes::{CHANGES_MAX, ChangeKind, Changes};
use crate::clock::ManualClock;
use crate::resource::{Draft, Precondition};

const GALLERY: &str = "/resourceGroups/rg/providers/Microsoft.Compute/galleries/g";

pub(super) async fn run<B: Backend>(fresh: &impl AsyncFn(ManualClock) -> B) {
    writes_are_told_in_order(&World::new(fresh).await).await;
    a_refused_write_is_not_told(&World::new(fresh).await).await;
    a_reader_ahead_of_the_feed_is_told(&World::new(fresh).await).await;
    followers_wake(&World::new(fresh).await).await;
}

async fn after<B: Backend>(world: &World<B>, seq: u64) -> Vec<(u64, ResourceId, ChangeKind)> {
    let found = world.catalog.changes_after(seq, CHANGES_MAX).await;
    let Changes::Next(changes) = found.expect("changes") else {
        panic!("nothing was lost");
    };
    assert!(changes.iter().all(|change| change.tenant == world.tenant));
    changes
        .into_iter()
        .map(|change| (change.seq, change.id, change.what))
        .collect()
}

async fn writes_are_told_in_order<B: Backend>(world: &World<B>) {
    let start = world.catalog.latest_change().await.expect("latest");
    let (gallery, image) = (world.id(GALLERY), world.id(&format!("{GALLERY}/images/d")));
    world.put(GALLERY).await;
    world.put(&format!("{GALLERY}/images/d")).await;
    world.put(GALLERY).await;
    let permit = world.write(&gallery).await;
    let removed = world.catalog.delete_tree(&permit, Precondition::None).await;
    assert_eq!(removed.expect("delete").len(), 2);
    let told = after(world, start).await;
    let expected = [
        (start + 1, gallery.clone(), ChangeKind::Written),
        (start + 2, image.clone(), ChangeKind::Written),
        (start + 3, gallery.clone(), ChangeKind::Written),
    ];
    assert_eq!(told[..3], expected);
    let mut gone: Vec<ResourceId> = told[3..].iter().map(|(_, id, _)| id.clone()).collect();
    gone.sort();
    assert_eq!(gone, [gallery, image]);
    assert!(
        told[3..]
            .iter()
            .all(|(_, _, what)| *what == ChangeKind::Removed)
    );
    assert_eq!(
        world.catalog.latest_change().await.expect("latest"),
        start + 5
    );
    let one = world
        .catalog
        .changes_after(start, 1)
        .await
        .expect("changes");
    assert!(matches!(one, Changes::Next(changes) if changes.len() == 1));
    assert!(after(world, start + 5).await.is_empty());
}

async fn a_refused_write_is_not_told<B: Backend>(world: &World<B>) {
    let start = world.catalog.latest_change().await.expect("latest");
    let id = world.id("/resourceGroups/none/providers/Microsoft.Compute/galleries/g");
    let permit = world.write(&id).await;
    let refused = world
        .catalog
        .put(&permit, Draft::new(json!({})), Precondition::None)
        .await;
    refused.expect_err("there is no such group");
    let latest = world.catalog.latest_change().await.expect("latest");
    assert_eq!(latest, start);
}

async fn a_reader_ahead_of_the_feed_is_told<B: Backend>(world: &World<B>) {
    let latest = world.catalog.latest_change().await.expect("latest");
    let found = world.catalog.changes_after(latest + 7, 10).await;
    assert_eq!(found.expect("changes"), Changes::Lost { latest });
}

async fn followers_wake<B: Backend>(world: &World<B>) {
    let mut wakeups = world.catalog.wakeups();
    wakeups.mark_unchanged();
    world.put(GALLERY).await;
    assert!(wakeups.has_changed().expect("a sender"));
}
