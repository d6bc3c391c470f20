//! The database goes away, or the process or the caller does: a typed error, and nothing half stored.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::task::{Context, Waker};

use access::{Action, Permit, SystemReason};
use serde_json::json;
use wire::{ResourceId, ResourceType, TenantId};

use super::open;
use crate::clock::ManualClock;
use crate::error::CatalogError;
use crate::jobs::{JobStore, NewJob};
use crate::resource::{Catalog, Draft, PageRequest, Precondition, UniqueKey};
use crate::sql::Engine as _;
use crate::sqlite::{FileAccess, SqliteCatalog, SqliteOptions};

const KIND: &str = "Bullion.Factory/regions";
/// Names the database of the writer that a test kills.
const VICTIM: &str = "CATALOG_TEST_VICTIM";
/// Pairs that it has written before it is killed.
const PAIRS_BEFORE_KILL: usize = 20;
/// Kills, each at another moment of a write.
const KILLS: usize = 4;

fn tenant() -> TenantId {
    "8e3af657-a8ff-443c-a75c-2fe8c4bcb635"
        .parse()
        .expect("a tenant id")
}

fn permit(name: &str) -> Permit {
    let id = ResourceId::root()
        .extension("Bullion.Factory", "regions", name)
        .expect("an id");
    Permit::system(
        SystemReason::Reconcile,
        Action::new(format!("{KIND}/write")),
        id,
        tenant(),
    )
}

fn root() -> Permit {
    Permit::system(
        SystemReason::Reconcile,
        Action::new(format!("{KIND}/read")),
        ResourceId::root(),
        tenant(),
    )
}

/// One write of many rows: resource, unique key, job, place.
async fn write_pair(catalog: &SqliteCatalog, name: &str) -> Result<(), CatalogError> {
    let draft = Draft::new(json!({})).unique(UniqueKey::new("region", &[name]));
    let job = NewJob {
        kind: "k".into(),
        input: json!(name),
        exclusive: None,
        visible_at: Vec::new(),
    };
    catalog
        .put_and_submit(&permit(name), draft, Precondition::Absent, job)
        .await
        .map(drop)
}

/// Every resource has its job and its key, and every job its resource.
async fn assert_whole(catalog: &SqliteCatalog) -> usize {
    let page = catalog
        .list(&root(), &ResourceType::new(KIND), PageRequest::largest())
        .await
        .expect("list");
    let jobs = catalog.jobs(&root(), 1000).await.expect("list");
    let resources: BTreeSet<String> = page
        .resources
        .iter()
        .map(|resource| resource.id.to_string())
        .collect();
    let scopes: BTreeSet<String> = jobs.iter().map(|job| job.scope.to_string()).collect();
    assert_eq!(resources, scopes);
    assert_eq!(jobs.len(), scopes.len());
    let mut connection = catalog.engine.reader().await.expect("a connection");
    let keys = sqlx::query_scalar::<_, i64>("select count(*) from unique_keys")
        .fetch_one(&mut *connection)
        .await;
    assert_eq!(usize::try_from(keys.expect("count")), Ok(jobs.len()));
    let sound = sqlx::query_scalar::<_, String>("pragma integrity_check")
        .fetch_one(&mut *connection)
        .await;
    assert_eq!(sound.expect("check"), "ok");
    jobs.len()
}

#[tokio::test]
async fn a_read_only_database_reads_and_says_why_it_does_not_write() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.db");
    let catalog = open(&path, ManualClock::default(), FileAccess::ReadWrite).await;
    write_pair(&catalog, "a").await.expect("write");
    catalog.close().await;
    let catalog = open(&path, ManualClock::default(), FileAccess::ReadOnly).await;
    let refused = write_pair(&catalog, "b").await;
    assert!(
        matches!(&refused, Err(error @ CatalogError::Database { .. }) if error.is_transient()),
        "{refused:?}"
    );
    assert_eq!(assert_whole(&catalog).await, 1);
    let none = folder.path().join("none.db");
    let options = SqliteOptions {
        access: FileAccess::ReadOnly,
        ..Default::default()
    };
    let none = SqliteCatalog::open_with(&none, options);
    assert!(matches!(none.await, Err(CatalogError::Open { .. })));
}

#[tokio::test]
async fn a_closed_database_is_an_error_of_the_operation() {
    let catalog = SqliteCatalog::in_memory(std::sync::Arc::new(ManualClock::default()))
        .await
        .expect("open");
    catalog.close().await;
    let read = catalog.get(&permit("a")).await;
    assert!(
        matches!(read, Err(CatalogError::Database { .. })),
        "{read:?}"
    );
    let write = write_pair(&catalog, "a").await;
    assert!(
        matches!(write, Err(CatalogError::Database { .. })),
        "{write:?}"
    );
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.db");
    std::fs::write(&path, [b'x'; 8192]).expect("write");
    let refused = SqliteCatalog::open(&path).await;
    assert!(matches!(
        refused.map(drop),
        Err(CatalogError::Open { .. } | CatalogError::Migrate { .. })
    ));
}

#[tokio::test]
async fn what_cannot_be_read_is_corrupt_and_not_a_default() {
    let catalog = SqliteCatalog::in_memory(std::sync::Arc::new(ManualClock::default()))
        .await
        .expect("open");
    write_pair(&catalog, "a").await.expect("write");
    for spoil in [
        "update resources set state = 'Odd'",
        "update resources set state = 'Succeeded', properties = '{'",
        "update resources set properties = '{}', id = '/other/id'",
    ] {
        let mut connection = catalog.engine.reader().await.expect("a connection");
        sqlx::query(spoil)
            .execute(&mut *connection)
            .await
            .expect("spoil");
        drop(connection);
        let read = catalog.get(&permit("a")).await;
        assert!(
            matches!(read, Err(CatalogError::Corrupt { .. })),
            "{spoil}: {read:?}"
        );
    }
}

/// A client that hangs up drops its request wherever that stands.
async fn check_dropped_writes(catalog: &SqliteCatalog) {
    for polls in 0..60 {
        let name = format!("r{polls}");
        let mut write = Box::pin(write_pair(catalog, &name));
        for _ in 0..polls {
            if write
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()))
                .is_ready()
            {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(write);
    }
    write_pair(catalog, "last").await.expect("writing goes on");
    assert!(assert_whole(catalog).await >= 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_write_is_whole_or_not_at_all() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.db");
    check_dropped_writes(&open(&path, ManualClock::default(), FileAccess::ReadWrite).await).await;
    let clock = std::sync::Arc::new(ManualClock::default());
    check_dropped_writes(&SqliteCatalog::in_memory(clock).await.expect("open")).await;
}

/// Not a test of its own: what [`a_killed_writer_leaves_whole_writes`] runs in another process, and kills.
#[tokio::test]
async fn victim() {
    let Ok(path) = std::env::var(VICTIM) else {
        return;
    };
    let catalog = open(
        Path::new(&path),
        ManualClock::default(),
        FileAccess::ReadWrite,
    )
    .await;
    loop {
        write_pair(&catalog, &uuid::Uuid::now_v7().to_string())
            .await
            .expect("write");
        writeln!(std::io::stderr(), "written").expect("tell");
    }
}

#[tokio::test]
async fn a_killed_writer_leaves_whole_writes() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.db");
    let mut at_least = 0;
    for _ in 0..KILLS {
        kill_a_writer(&path);
        at_least += PAIRS_BEFORE_KILL;
        let catalog = open(&path, ManualClock::default(), FileAccess::ReadWrite).await;
        let whole = assert_whole(&catalog).await;
        assert!(
            whole >= at_least,
            "what was confirmed is there: {whole} of {at_least}"
        );
        catalog.close().await;
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "a test kills its own program; `process` would be an arrow to a crate below"
)]
fn kill_a_writer(path: &Path) {
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["sqlite::tests::faults::victim", "--exact", "--nocapture"])
        .env(VICTIM, path)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start the writer");
    let told = BufReader::new(child.stderr.take().expect("its stderr"));
    let written = told
        .lines()
        .map_while(Result::ok)
        .filter(|line| line == "written")
        .take(PAIRS_BEFORE_KILL)
        .count();
    child.kill().expect("kill");
    child.wait().expect("wait");
    assert_eq!(written, PAIRS_BEFORE_KILL, "the writer ended by itself");
}
