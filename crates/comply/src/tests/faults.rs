//! The database fails, the process ends, the feed is lost, a definition is broken: nothing is missed, and nothing that
//! is not known is called compliant.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use access::Permit;
use async_trait::async_trait;
use catalog::{
    Catalog, CatalogError, ChangeFeed, Changes, Draft, MembersPage, Page, PageRequest,
    PolicyStates, Precondition, Put, Refusal, Resource, SqliteCatalog, StateEvent, StateKey,
    StateWrite, StoredState,
};
use jiff::Timestamp;
use serde_json::json;
use tokio::sync::{oneshot, watch};
use wire::{Location, ResourceId, ResourceType};

use super::world::{VM, World, effect, field, is_machine, parts};
use crate::{Comply, StateQuery};

/// A catalog that fails while its switch is on, and forgets changes while its other switch is.
struct Faulty {
    inner: Arc<SqliteCatalog>,
    reads: AtomicBool,
    writes: AtomicBool,
    lost: AtomicBool,
}

type Result<T> = std::result::Result<T, CatalogError>;

impl Faulty {
    fn fail(&self, switch: &AtomicBool) -> Result<()> {
        match switch.load(Ordering::SeqCst) {
            false => Ok(()),
            true => Err(CatalogError::BadToken),
        }
    }
}

#[async_trait]
impl Catalog for Faulty {
    async fn get(&self, permit: &Permit) -> Result<Resource> {
        self.fail(&self.reads)?;
        self.inner.get(permit).await
    }
    async fn get_many(&self, permit: &Permit, ids: &[ResourceId]) -> Result<Vec<Resource>> {
        self.fail(&self.reads)?;
        self.inner.get_many(permit, ids).await
    }
    async fn put(&self, permit: &Permit, draft: Draft, precondition: Precondition) -> Result<Put> {
        self.inner.put(permit, draft, precondition).await
    }
    async fn delete(&self, permit: &Permit, precondition: Precondition) -> Result<Resource> {
        self.inner.delete(permit, precondition).await
    }
    async fn delete_tree(
        &self,
        permit: &Permit,
        precondition: Precondition,
    ) -> Result<Vec<ResourceId>> {
        self.inner.delete_tree(permit, precondition).await
    }
    async fn list(&self, permit: &Permit, of: &ResourceType, page: PageRequest) -> Result<Page> {
        self.inner.list(permit, of, page).await
    }
    async fn list_members(
        &self,
        permit: &Permit,
        of: &ResourceType,
        members: &[&str],
        page: PageRequest,
    ) -> Result<MembersPage> {
        self.inner.list_members(permit, of, members, page).await
    }
    async fn list_below(&self, permit: &Permit, page: PageRequest) -> Result<Page> {
        self.fail(&self.reads)?;
        self.inner.list_below(permit, page).await
    }
    async fn count(
        &self,
        permit: &Permit,
        of: &ResourceType,
        location: Option<&Location>,
    ) -> Result<u64> {
        self.inner.count(permit, of, location).await
    }
    async fn has_children(&self, permit: &Permit) -> Result<bool> {
        self.inner.has_children(permit).await
    }
}

#[async_trait]
impl PolicyStates for Faulty {
    async fn policy_states(
        &self,
        permit: &Permit,
        after: Option<&StateKey>,
        limit: usize,
    ) -> Result<Vec<StoredState>> {
        self.inner.policy_states(permit, after, limit).await
    }
    async fn write_policy_states(
        &self,
        permit: &Permit,
        at: Timestamp,
        writes: &[StateWrite],
    ) -> Result<()> {
        self.fail(&self.writes)?;
        self.inner.write_policy_states(permit, at, writes).await
    }
    async fn note_refusals(
        &self,
        permit: &Permit,
        at: Timestamp,
        refusals: &[Refusal],
    ) -> Result<()> {
        self.inner.note_refusals(permit, at, refusals).await
    }
    async fn policy_events(
        &self,
        permit: &Permit,
        from: Timestamp,
        to: Timestamp,
        after: u64,
        limit: usize,
    ) -> Result<Vec<StateEvent>> {
        self.inner
            .policy_events(permit, from, to, after, limit)
            .await
    }
}

#[async_trait]
impl ChangeFeed for Faulty {
    async fn latest_change(&self) -> Result<u64> {
        self.inner.latest_change().await
    }
    async fn changes_after(&self, after: u64, limit: usize) -> Result<Changes> {
        if self.lost.swap(false, Ordering::SeqCst) {
            let latest = self.inner.latest_change().await?;
            return Ok(Changes::Lost { latest });
        }
        self.inner.changes_after(after, limit).await
    }
    fn wakeups(&self) -> watch::Receiver<u64> {
        self.inner.wakeups()
    }
}

async fn faulty() -> (World, Arc<Faulty>) {
    let mut world = World::new().await;
    let faulty = Arc::new(Faulty {
        inner: world.catalog.clone(),
        reads: AtomicBool::new(false),
        writes: AtomicBool::new(false),
        lost: AtomicBool::new(false),
    });
    let mut own = parts(&world.catalog, &world.clock);
    own.catalog = faulty.clone();
    own.states = faulty.clone();
    own.feed = faulty.clone();
    world.comply = Comply::new(own);
    let untagged = json!({ "allOf": [is_machine(), field("tags['team']", "exists", false)] });
    world.policy("team", untagged, effect("audit")).await;
    world
        .tagged(&world.machine_id("one"), &[("team", "a")], json!({}))
        .await;
    world.comply.settle().await.unwrap();
    (world, faulty)
}

async fn spoil(world: &World) {
    world.tagged(&world.machine_id("one"), &[], json!({})).await;
}

#[tokio::test]
async fn a_database_that_fails_meanwhile_loses_no_change() {
    let (world, faulty) = faulty().await;
    for switch in [&faulty.reads, &faulty.writes] {
        world
            .tagged(&world.machine_id("one"), &[("team", "a")], json!({}))
            .await;
        assert_eq!(world.states().await, ["one team Compliant"]);
        switch.store(true, Ordering::SeqCst);
        spoil(&world).await;
        world.comply.settle().await.expect_err("the database fails");
        world.comply.settle().await.expect_err("and goes on to");
        switch.store(false, Ordering::SeqCst);
        assert_eq!(world.states().await, ["one team NonCompliant"]);
    }
}

#[tokio::test]
async fn a_lost_feed_is_a_look_at_everything() {
    let (world, faulty) = faulty().await;
    spoil(&world).await;
    world.tagged(&world.machine_id("two"), &[], json!({})).await;
    faulty.lost.store(true, Ordering::SeqCst);
    assert_eq!(
        world.states().await,
        ["one team NonCompliant", "two team NonCompliant"]
    );
    faulty.lost.store(true, Ordering::SeqCst);
    let id = world.assignment_id("", "team");
    world.remove(&id).await;
    assert!(world.states().await.is_empty());
}

#[tokio::test]
async fn what_happened_while_nobody_followed_is_found_at_the_start() {
    let (mut world, _) = faulty().await;
    spoil(&world).await;
    world.tagged(&world.machine_id("two"), &[], json!({})).await;
    assert_eq!(world.states().await.len(), 2);
    // Without a follower: one is repaired, one goes.
    let repaired = [("team", "a")];
    world
        .tagged(&world.machine_id("one"), &repaired, json!({}))
        .await;
    world.remove(&world.machine_id("two")).await;
    world.restart();
    assert_eq!(world.states().await, ["one team Compliant"]);
    let root = world.permit(&ResourceId::root());
    let kept = world.catalog.policy_states(&root, None, 10).await.unwrap();
    assert_eq!(kept.len(), 1, "no row of what is gone stays: {kept:?}");
    world.remove(&world.assignment_id("", "team")).await;
    world.restart();
    assert!(world.states().await.is_empty());
    let kept = world.catalog.policy_states(&root, None, 10).await.unwrap();
    assert!(kept.is_empty(), "{kept:?}");
}

#[tokio::test]
async fn a_broken_definition_is_an_error_of_its_resources() {
    let (world, _) = faulty().await;
    let failing =
        json!({ "allOf": [is_machine(), { "value": "[int(field('name'))]", "equals": 1 }] });
    world.policy("failing", failing, effect("audit")).await;
    assert_eq!(
        world.states().await,
        ["one failing Error", "one team Compliant"]
    );
    let reason = world.reason("one", "failing").await.unwrap();
    assert!(reason.contains("int()"), "{reason}");
    world
        .policy("failing", json!({ "anyOf": 7 }), effect("audit"))
        .await;
    let states = world.states().await;
    assert!(
        states.contains(&"one failing Error".to_owned()),
        "{states:?}"
    );
    let reason = world.reason("one", "failing").await.unwrap();
    assert!(reason.contains("is broken"), "{reason}");
    world.policy("failing", is_machine(), effect("audit")).await;
    assert!(
        world
            .states()
            .await
            .contains(&"one failing NonCompliant".to_owned())
    );
}

#[tokio::test]
async fn a_circle_of_management_groups_ends() {
    let (world, _) = faulty().await;
    for (name, parent) in [("a", "b"), ("b", "a")] {
        let id = |name: &str| format!("/providers/Microsoft.Management/managementGroups/{name}");
        let body = json!({ "details": { "parent": { "id": id(parent) } } });
        world
            .put(&ResourceId::parse(&id(name)).unwrap(), body)
            .await;
    }
    world
        .put(&world.id(""), json!({ "managementGroup": "a" }))
        .await;
    assert_eq!(world.states().await, ["one team Compliant"]);
}

/// The running follower, seen from outside: a write shows by itself, and `stop` ends it.
#[tokio::test]
async fn it_follows_by_itself_until_it_is_stopped() {
    let (world, faulty) = faulty().await;
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(Arc::clone(&world.comply).run(async {
        let _ = stopped.await;
    }));
    spoil(&world).await;
    let permit = world.permit(&world.in_group(&format!("{VM}/one")));
    let until = async |wanted: crate::State| loop {
        let page = world
            .comply
            .states(&permit, &StateQuery::default())
            .await
            .unwrap();
        if page.records[0].compliance_state == wanted {
            return;
        }
        tokio::task::yield_now().await;
    };
    until(crate::State::NonCompliant).await;
    faulty.writes.store(true, Ordering::SeqCst);
    world
        .tagged(&world.machine_id("one"), &[("team", "a")], json!({}))
        .await;
    // A failure is tried again when its time has come.
    while world.comply.settle().await.is_ok() {
        tokio::task::yield_now().await;
    }
    faulty.writes.store(false, Ordering::SeqCst);
    world.clock.advance(std::time::Duration::from_secs(60));
    until(crate::State::Compliant).await;
    stop.send(()).unwrap();
    running.await.unwrap();
}
