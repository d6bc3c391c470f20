//! The activity log: a line with each write and none without, and a chain that shows what was done to it.

use serde_json::json;

use super::Backend;
use super::world::World;
use crate::activity::{
    ActivityRange, ActivityStatus, CHAIN_START, Checkpoint, Entry, Keep, Note, Recorded, Trimmed,
};
use crate::clock::{Clock, ManualClock, later};
use crate::error::CatalogError;
use crate::resource::{Draft, Precondition};

pub(super) async fn run<B: Backend>(fresh: &impl AsyncFn(ManualClock) -> B) {
    writes_leave_lines(fresh).await;
    lines_are_linked_and_trimmed(fresh).await;
    what_receivers_lack_is_kept_longer(fresh).await;
}

fn sign(end: &Checkpoint) -> String {
    format!("signed {} {}", end.seq, end.hash)
}

/// Removes everything before then that no receiver waits for.
async fn trim<B: Backend>(world: &World<B>, before: jiff::Timestamp) -> Trimmed {
    let keep = Keep {
        since: before,
        unsent_since: jiff::Timestamp::UNIX_EPOCH,
    };
    world.catalog.trim_activity(keep).await.expect("trim")
}

async fn all<B: Backend>(world: &World<B>) -> Vec<Recorded> {
    let permit = world.read(&world.id("")).await;
    let range = ActivityRange {
        from: jiff::Timestamp::UNIX_EPOCH,
        to: later(world.clock.now(), super::world::DAY),
        before: None,
    };
    world
        .catalog
        .activity(&permit, range, 100)
        .await
        .expect("activities")
}

async fn writes_leave_lines<B: Backend>(fresh: &impl AsyncFn(ManualClock) -> B) {
    let world = World::new(fresh).await;
    assert_eq!(all(&world).await, [], "nobody asked for a log yet");
    world.catalog.keep_activity("node");
    world.put("/resourceGroups/a").await;
    let id = world.id("/resourceGroups/a");
    let permit = world.write(&id).await;
    // Refused by the catalog: nothing is stored, and so nothing is told.
    let again = world
        .catalog
        .put(&permit, Draft::new(json!({})), Precondition::Absent)
        .await;
    assert!(matches!(again, Err(CatalogError::Precondition { .. })));
    world
        .catalog
        .delete(&permit, Precondition::None)
        .await
        .expect("delete");
    let mut entry = Entry::of(&permit, ActivityStatus::Refused);
    entry.code = Some("AuthorizationFailed".into());
    let note = Note {
        tenant: world.tenant,
        entry,
    };
    world.catalog.note(vec![note]).await.expect("note");
    let lines = all(&world).await;
    let seen: Vec<(&str, ActivityStatus)> = lines
        .iter()
        .map(|line| (line.entry.id.as_str(), line.entry.status))
        .collect();
    let text = id.to_string();
    let expected = [
        (text.as_str(), ActivityStatus::Refused),
        (&text, ActivityStatus::Succeeded),
        (&text, ActivityStatus::Succeeded),
    ];
    assert_eq!(seen, expected, "newest first");
    let page = ActivityRange {
        from: jiff::Timestamp::UNIX_EPOCH,
        to: later(world.clock.now(), super::world::DAY),
        before: Some((lines[0].at, lines[0].row)),
    };
    let scope = world.read(&id).await;
    let rest = world
        .catalog
        .activity(&scope, page, 1)
        .await
        .expect("a page");
    assert_eq!(rest, lines[1..2]);
}

async fn lines_are_linked_and_trimmed<B: Backend>(fresh: &impl AsyncFn(ManualClock) -> B) {
    let world = World::new(fresh).await;
    let catalog = &world.catalog;
    catalog.keep_activity("node");
    assert_eq!(catalog.link_activity(&sign).await.expect("link"), 0);
    for name in ["a", "b", "c"] {
        world.put(&format!("/resourceGroups/{name}")).await;
    }
    assert_eq!(catalog.activity_chain("node", 0).await.expect("chain"), []);
    assert_eq!(catalog.link_activity(&sign).await.expect("link"), 3);
    let chain = catalog.activity_chain("node", 0).await.expect("chain");
    let mut hash = CHAIN_START.to_owned();
    for (index, line) in chain.iter().enumerate() {
        assert_eq!(line.seq, index as u64 + 1);
        hash = line.hash_after(&hash);
        assert_eq!(line.hash, hash);
    }
    let points = catalog
        .activity_checkpoints("node", 0)
        .await
        .expect("checkpoints");
    assert_eq!(points.len(), 1);
    assert_eq!((points[0].seq, points[0].hash.as_str()), (3, hash.as_str()));
    assert_eq!(points[0].signed, sign(&points[0]));

    // All are old enough: the chain goes on where it was.
    world.clock.advance(super::world::DAY);
    assert_eq!(trim(&world, world.clock.now()).await.removed, 3);
    world.put("/resourceGroups/d").await;
    assert_eq!(catalog.link_activity(&sign).await.expect("link"), 1);
    let rest = catalog.activity_chain("node", 0).await.expect("chain");
    assert_eq!((rest.len(), rest[0].seq), (1, 4));
    assert_eq!(rest[0].hash, rest[0].hash_after(&hash));
    assert_eq!(trim(&world, world.clock.now()).await.removed, 0);

    catalog
        .name_activity_key("node", "key")
        .await
        .expect("name");
    catalog
        .name_activity_key("node", "another")
        .await
        .expect("name");
    let nodes = catalog.activity_nodes().await.expect("nodes");
    assert_eq!(nodes, [("node".to_owned(), "key".to_owned())]);
}

/// Three lines, each with a checkpoint of its own.
async fn three_lines<B: Backend>(world: &World<B>) {
    for name in ["a", "b", "c"] {
        world.put(&format!("/resourceGroups/{name}")).await;
        assert_eq!(world.catalog.link_activity(&sign).await.expect("link"), 1);
    }
}

async fn what_receivers_lack_is_kept_longer<B: Backend>(fresh: &impl AsyncFn(ManualClock) -> B) {
    let world = World::new(fresh).await;
    let catalog = &world.catalog;
    catalog.keep_activity("node");
    three_lines(&world).await;
    let name = async |sinks: &[&str]| {
        let sinks: Vec<String> = sinks.iter().map(|sink| (*sink).to_owned()).collect();
        let named = catalog.name_activity_sinks("node", &sinks).await;
        named.expect("name receivers");
    };
    let sent = async |sink: &str| catalog.activity_sent("node", sink).await.expect("sent");
    let note = async |sink: &str, seq| {
        let noted = catalog.note_activity_sent("node", sink, seq).await;
        noted.expect("note");
    };
    name(&["quick", "slow"]).await;
    assert_eq!(sent("quick").await, Some(0), "everything that is kept");
    note("quick", 3).await;
    note("quick", 2).await;
    assert_eq!(sent("quick").await, Some(3), "never back");
    note("slow", 1).await;
    name(&["quick", "slow", "late"]).await;
    assert_eq!((sent("slow").await, sent("late").await), (Some(1), Some(0)));
    note("nobody", 3).await;
    assert_eq!(sent("nobody").await, None);
    assert_eq!(
        catalog.activity_sent("other", "slow").await.expect("sent"),
        None
    );

    world.clock.advance(super::world::DAY);
    let now = world.clock.now();
    assert_eq!(trim(&world, now).await.removed, 0, "`late` has none yet");
    name(&["quick", "slow"]).await;
    let expected = Trimmed {
        removed: 1,
        unsent_to: None,
    };
    assert_eq!(trim(&world, now).await, expected);
    let keep = Keep {
        since: now,
        unsent_since: now,
    };
    let expected = Trimmed {
        removed: 2,
        unsent_to: Some(3),
    };
    assert_eq!(catalog.trim_activity(keep).await.expect("trim"), expected);
    // Whoever comes now has missed nothing that it could have had.
    name(&["new"]).await;
    assert_eq!((sent("new").await, sent("slow").await), (Some(3), None));
}
