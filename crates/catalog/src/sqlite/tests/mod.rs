//! The suite on SQLite, on disk and in memory; and what happens when the database is cut.

mod faults;
mod groups;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::connections::Connections;
use super::{FileAccess, SqliteCatalog, SqliteOptions};
use crate::changes::{ChangeFeed, Changes};
use crate::clock::ManualClock;
use crate::sql::Engine as _;
use crate::suite;

async fn open(path: &Path, clock: ManualClock, access: FileAccess) -> SqliteCatalog {
    let options = SqliteOptions {
        clock: Arc::new(clock),
        access,
    };
    SqliteCatalog::open_with(path, options).await.expect("open")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite_on_disk() {
    let folder = tempfile::tempdir().expect("a folder");
    let count = AtomicU32::new(0);
    suite::run(async |clock: ManualClock| {
        let name = format!("{}.db", count.fetch_add(1, Ordering::Relaxed));
        open(&folder.path().join(name), clock, FileAccess::ReadWrite).await
    })
    .await;
}

#[tokio::test]
async fn the_suite_in_memory() {
    suite::run(async |clock: ManualClock| {
        SqliteCatalog::in_memory(Arc::new(clock))
            .await
            .expect("open")
    })
    .await;
}

/// A database of the release before has its versions in the index when it is opened.
#[tokio::test]
async fn versions_that_were_there_are_found_by_their_disks() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.db");
    let mut before = sqlx::migrate!("migrations/sqlite");
    let kept = before
        .iter()
        .filter(|one| one.version <= suite::BEFORE_VERSIONS_BY_DISK)
        .cloned();
    before.migrations = kept.collect::<Vec<_>>().into();
    let file = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(&path)
        .create_if_missing(true);
    let old = Connections::open(file, 1).await.expect("open");
    let mut connection = old.get().await.expect("a connection");
    before.run(&mut *connection).await.expect("the old tables");
    sqlx::query(suite::OLD_VERSION)
        .execute(&mut *connection)
        .await
        .expect("a version");
    drop(connection);
    old.close().await;
    let catalog = open(&path, ManualClock::default(), FileAccess::ReadWrite).await;
    suite::the_old_version_is_found(&catalog).await;
}

/// The oldest changes are thrown away, and who still needed them is told so.
#[tokio::test]
async fn a_trimmed_feed_says_that_something_is_lost() {
    let catalog = SqliteCatalog::in_memory(Arc::new(ManualClock::default()))
        .await
        .expect("open");
    // As many as the feed keeps and a thousand more, by one statement.
    sqlx::query(
        "with recursive n (i) as (select 1 union all select i + 1 from n where i < 101000)
         insert into changes (tenant, id, deleted)
         select '8e3af657-a8ff-443c-a75c-2fe8c4bcb635', '/subscriptions/s', 0 from n",
    )
    .execute(&mut *catalog.engine.reader().await.expect("a connection"))
    .await
    .expect("changes");
    let latest = catalog.latest_change().await.expect("latest");
    assert_eq!(latest, 101_000);
    let late = catalog.changes_after(999, 1).await.expect("changes");
    assert_eq!(late, Changes::Lost { latest });
    let in_time = catalog.changes_after(1_000, 1).await.expect("changes");
    assert!(matches!(in_time, Changes::Next(changes) if changes[0].seq == 1_001));
}
