//! The suite on SQLite, on disk and in memory; and what happens when the database is cut.

mod faults;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{FileAccess, SqliteCatalog, SqliteOptions};
use crate::clock::ManualClock;
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
