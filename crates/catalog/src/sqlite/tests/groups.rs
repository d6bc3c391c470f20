//! Writes that share a commit: each is kept or refused by itself, and told after the commit; and what is read from
//! memory is as new as the last write.

use access::{Action, Permit, SystemReason};
use serde_json::json;
use tokio::task::JoinSet;
use wire::{ResourceId, TenantId};

use super::open;
use crate::clock::ManualClock;
use crate::error::CatalogError;
use crate::resource::{Catalog, Draft, Precondition, UniqueKey};
use crate::sqlite::FileAccess;

const WRITERS: usize = 40;
const ROUNDS: usize = 10;

fn permit(tenant: TenantId, name: &str) -> Permit {
    let id = ResourceId::root().extension("Bullion.Factory", "regions", name);
    let action = Action::new("Bullion.Factory/regions/write");
    Permit::system(SystemReason::Reconcile, action, id.expect("an id"), tenant)
}

/// Every third writer asks for a name that another one holds, every fifth goes away in the middle.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_or_forgotten_write_takes_no_other_with_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.db");
    let catalog = open(&path, ManualClock::default(), FileAccess::ReadWrite).await;
    let tenant = TenantId::random();
    let taken = Draft::new(json!({})).unique(UniqueKey::new("x", &["taken"]));
    let first = permit(tenant, "first");
    catalog
        .put(&first, taken.clone(), Precondition::None)
        .await
        .expect("put");
    let mut tasks = JoinSet::new();
    for writer in 0..WRITERS {
        let (catalog, taken) = (catalog.clone(), taken.clone());
        tasks.spawn(async move {
            for round in 0..ROUNDS {
                let own = permit(tenant, &format!("r{writer}-{round}"));
                let draft = match writer % 3 {
                    0 => taken.clone(),
                    _ => Draft::new(json!({ "round": round })),
                };
                let put = catalog.put(&own, draft, Precondition::Absent);
                if writer % 5 == 0 {
                    // Dropped wherever it stands after a few turns of the others.
                    tokio::select! {
                        biased;
                        _ = async { for _ in 0..round { tokio::task::yield_now().await } } => {}
                        _ = put => {}
                    }
                    continue;
                }
                match put.await {
                    Ok(put) => {
                        assert_ne!(writer % 3, 0);
                        let seen = catalog
                            .get(&own.to_read_own())
                            .await
                            .expect("what was written");
                        assert_eq!(seen, put.resource);
                    }
                    Err(error) => assert!(matches!(error, CatalogError::Taken { .. }), "{error:?}"),
                }
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("a writer");
    }
    catalog.close().await;
    let catalog = open(&path, ManualClock::default(), FileAccess::ReadWrite).await;
    for writer in (0..WRITERS).filter(|writer| writer % 5 != 0) {
        for round in 0..ROUNDS {
            let own = permit(tenant, &format!("r{writer}-{round}")).to_read_own();
            assert_eq!(
                catalog.get(&own).await.is_ok(),
                writer % 3 != 0,
                "{writer} {round}"
            );
        }
    }
}

/// One writes, others read all the time: nobody sees an older state than one that was told to be written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_read_from_memory_is_never_older_than_what_was_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.db");
    let catalog = open(&path, ManualClock::default(), FileAccess::ReadWrite).await;
    let own = permit(TenantId::random(), "r");
    let told = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let mut readers = JoinSet::new();
    for _ in 0..4 {
        let (catalog, own, told) = (catalog.clone(), own.to_read_own(), told.clone());
        readers.spawn(async move {
            loop {
                let at_least = told.load(std::sync::atomic::Ordering::SeqCst);
                let seen = match catalog.get(&own).await {
                    Ok(resource) => resource.properties["n"].as_u64().expect("a number"),
                    Err(_) => 0,
                };
                assert!(seen >= at_least, "{seen} after {at_least} was told");
                if seen == 200 {
                    return;
                }
                tokio::task::yield_now().await;
            }
        });
    }
    for number in 1..=200 {
        let draft = Draft::new(json!({ "n": number }));
        catalog
            .put(&own, draft, Precondition::None)
            .await
            .expect("put");
        told.store(number, std::sync::atomic::Ordering::SeqCst);
    }
    while let Some(done) = readers.join_next().await {
        done.expect("a reader");
    }
    catalog
        .delete(&own, Precondition::None)
        .await
        .expect("delete");
    let gone = catalog.get(&own).await;
    assert!(
        matches!(gone, Err(CatalogError::NotFound { .. })),
        "{gone:?}"
    );
}
