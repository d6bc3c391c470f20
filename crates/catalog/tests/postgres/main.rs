//! The PostgreSQL backend: the suite of all backends, and what two servers on one database do to each other.

mod feed;
mod jobs;
mod races;
mod states;

use std::sync::Arc;

use access::{Action, Permit, SystemReason};
use catalog::suite::{self, fresh_postgres};
use catalog::{
    Catalog as _, Draft, ManualClock, Place, PostgresCatalog, Precondition, Put, Record,
};
use serde_json::json;
use wire::{ResourceId, TenantId};

const SUBSCRIPTION: &str = "/subscriptions/2f1a0d3c-5f0e-4a53-9d53-1d7c6a0a52f1";
const GROUP: &str = "/subscriptions/2f1a0d3c-5f0e-4a53-9d53-1d7c6a0a52f1/resourceGroups/rg";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite() {
    suite::run(async |clock: ManualClock| open(&fresh_postgres().await, clock).await).await;
}

#[tokio::test]
async fn servers_that_start_at_once_make_the_tables_once() {
    let place = fresh_postgres().await;
    let open = || open(&place, ManualClock::default());
    let (a, b, c, d) = tokio::join!(open(), open(), open(), open());
    put(&a, SUBSCRIPTION).await;
    for other in [&b, &c, &d] {
        other
            .get(&permit(SUBSCRIPTION))
            .await
            .expect("the same tables");
    }
    for catalog in [a, b, c, d] {
        catalog.close().await;
    }
}

/// A database of the release before has its versions in the index when it is opened.
#[tokio::test]
async fn versions_that_were_there_are_found_by_their_disks() {
    let place = fresh_postgres().await;
    let pool = sqlx::PgPool::connect(&place).await.expect("connect");
    let mut before = sqlx::migrate!("migrations/postgres");
    let kept = before
        .iter()
        .filter(|one| one.version <= suite::BEFORE_VERSIONS_BY_DISK)
        .cloned();
    before.migrations = kept.collect::<Vec<_>>().into();
    before.run(&pool).await.expect("the old tables");
    let written = sqlx::query(suite::OLD_VERSION).execute(&pool).await;
    written.expect("a version");
    pool.close().await;
    let catalog = open(&place, ManualClock::default()).await;
    suite::the_old_version_is_found(&catalog).await;
    catalog.close().await;
}

#[tokio::test]
async fn what_cannot_be_used_says_what_to_do() {
    let server = std::env::var(suite::POSTGRES).expect("checked by the others");
    let elsewhere = server.replace("/postgres?", "/there-is-none?");
    assert_ne!(server, elsewhere);
    let place: Place = elsewhere.parse().expect("a place");
    let refused = PostgresCatalog::open(&place).await.map(drop);
    let said = refused.expect_err("there is none").to_string();
    assert!(said.contains("createdb"), "{said}");
}

/// A character that PostgreSQL cannot keep does not make a write fail.
#[tokio::test]
async fn a_nul_is_replaced() {
    let catalog = world().await.0;
    let draft = Draft::new(json!({"text": "a\0b"})).location("a\0b");
    let put = catalog.put(&permit(GROUP), draft, Precondition::None).await;
    let found = put.expect("put").resource;
    assert_eq!(found.location.as_deref(), Some("a\u{fffd}b"));
    assert_eq!(found.properties, json!({"text": "a\0b"}), "JSON escapes it");
}

async fn open(place: &str, clock: ManualClock) -> PostgresCatalog {
    let place: Place = place.parse().expect("a place");
    PostgresCatalog::open_with(&place, Arc::new(clock))
        .await
        .expect("open")
}

/// Two servers' handles on one database that holds a resource group.
async fn world() -> (PostgresCatalog, PostgresCatalog) {
    let place = fresh_postgres().await;
    let clock = ManualClock::default();
    let pair = (open(&place, clock.clone()).await, open(&place, clock).await);
    put(&pair.0, SUBSCRIPTION).await;
    put(&pair.0, GROUP).await;
    pair
}

fn tenant() -> TenantId {
    "8e3af657-a8ff-443c-a75c-2fe8c4bcb635"
        .parse()
        .expect("a tenant id")
}

fn permit(id: &str) -> Permit {
    let id = ResourceId::parse(id).expect("an id");
    let action = Action::new(format!("{}/write", id.resource_type()));
    Permit::system(SystemReason::Reconcile, action, id, tenant())
}

async fn put(catalog: &PostgresCatalog, id: &str) -> Put {
    let mut draft = Draft::new(json!({}));
    if id == SUBSCRIPTION {
        draft = draft.record(Record::Subscription);
    }
    let put = catalog.put(&permit(id), draft, Precondition::None).await;
    put.expect("put")
}
