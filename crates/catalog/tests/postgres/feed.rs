//! The feed of changes while two servers write: nothing is lost, nothing told twice, numbers without a gap.

use catalog::suite::fresh_postgres;
use catalog::{Catalog, ChangeFeed, Changes, Draft, ManualClock, PostgresCatalog, Precondition};
use serde_json::json;
use sqlx::{Connection, PgConnection};
use tokio::task::JoinSet;

use super::{GROUP, SUBSCRIPTION, open, permit, put, tenant, world};

const WRITES: usize = 40;
const WRITERS: usize = 4;

async fn write_many(catalog: PostgresCatalog, writer: usize) {
    for n in 0..WRITES {
        let id = format!("{GROUP}/providers/Microsoft.Compute/galleries/g{writer}-{n}");
        let draft = Draft::new(json!({}));
        let put = catalog.put(&permit(&id), draft, Precondition::None).await;
        put.expect("put");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_sees_every_change_once_and_in_order() {
    let (a, b) = world().await;
    let start = b.latest_change().await.expect("latest");
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let server = if writer % 2 == 0 { &a } else { &b };
        writers.spawn(write_many(server.clone(), writer));
    }
    let mut seen = Vec::new();
    let mut after = start;
    while seen.len() < WRITES * WRITERS {
        // Both servers give numbers at the same time.
        let (found, _) = tokio::join!(b.changes_after(after, 7), a.latest_change());
        let Changes::Next(changes) = found.expect("changes") else {
            panic!("nothing was lost");
        };
        for change in changes {
            assert_eq!(change.seq, after + 1, "no gap");
            after = change.seq;
            seen.push(change.id.to_string());
        }
        if writers.is_empty() && seen.len() < WRITES * WRITERS {
            let left = b.latest_change().await.expect("latest");
            assert!(
                left > after,
                "the feed ends at {after} with {} told",
                seen.len()
            );
        }
        while writers.try_join_next().is_some() {}
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), WRITES * WRITERS);
}

/// The number is drawn when the change can be read: a writer that is slow to commit is not passed by.
#[tokio::test]
async fn a_change_that_is_committed_late_is_not_lost() {
    let place = fresh_postgres().await;
    let catalog = open(&place, ManualClock::default()).await;
    put(&catalog, SUBSCRIPTION).await;
    put(&catalog, GROUP).await;
    let start = catalog.latest_change().await.expect("latest");

    let mut connection = PgConnection::connect(&place).await.expect("connect");
    let mut slow = connection.begin().await.expect("begin");
    sqlx::query("update resources set state = 'Updating' where tenant = $1 and id = $2")
        .bind(tenant().to_string())
        .bind(SUBSCRIPTION)
        .execute(&mut *slow)
        .await
        .expect("write");
    put(
        &catalog,
        &format!("{GROUP}/providers/Microsoft.Compute/galleries/g"),
    )
    .await;
    assert_eq!(catalog.latest_change().await.expect("latest"), start + 1);
    slow.commit().await.expect("commit");
    let found = catalog.changes_after(start + 1, 10).await.expect("changes");
    let Changes::Next(changes) = found else {
        panic!("nothing was lost");
    };
    let told: Vec<String> = changes.iter().map(|change| change.id.to_string()).collect();
    assert_eq!(told, [SUBSCRIPTION]);
}

/// A hint, but one that comes: a follower on one server need not wait for its next look.
#[tokio::test]
async fn followers_wake_for_the_other_servers_writes() {
    let (a, b) = world().await;
    let mut wakeups = b.wakeups();
    // Whatever was on its way before counts as well, so each round is one that only a wakes.
    for n in 0..3 {
        wakeups.mark_unchanged();
        put(
            &a,
            &format!("{GROUP}/providers/Microsoft.Compute/galleries/g{n}"),
        )
        .await;
        wakeups.changed().await.expect("a sender");
    }
}
