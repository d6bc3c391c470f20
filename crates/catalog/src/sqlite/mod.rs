//! The embedded backend: one SQLite file, one connection that writes, a few that read.
//!
//! Opening, migrating and transactions; the statements are in [`crate::sql`]. Every write is one `BEGIN IMMEDIATE`
//! transaction.

mod connections;
mod group;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use tokio::sync::watch;

use crate::clock::{Clock, SystemClock};
use crate::error::{CatalogError, Fault, Result};
use crate::sql::{Engine, SqlCatalog, Turn};
use connections::{Borrowed, Connections};
use group::{GroupWrite, Writers};

/// Readers beside the one writer.
const READERS: usize = 4;
/// How long a statement waits for another process's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// The catalog in a SQLite database.
pub type SqliteCatalog = SqlCatalog<SqliteEngine>;

/// A SQLite database.
#[derive(Clone)]
pub struct SqliteEngine {
    writers: Writers,
    readers: Connections,
    /// Holds an in-memory database open; runs no statement.
    anchor: Option<Connections>,
}

#[async_trait]
impl Engine for SqliteEngine {
    type Reader = Borrowed;
    type Write = GroupWrite;
    const SHARED: bool = false;

    async fn reader(&self) -> sqlx::Result<Borrowed> {
        self.readers.get().await
    }

    async fn begin(&self) -> sqlx::Result<GroupWrite> {
        self.writers.begin().await
    }

    /// There is one writer anyway.
    async fn take_turn(&self, _: &mut GroupWrite, _: Turn) -> sqlx::Result<()> {
        Ok(())
    }

    /// The triggers that note a change number it.
    async fn number_changes(&self) -> sqlx::Result<()> {
        Ok(())
    }

    /// A data folder has one server.
    fn tell_others(&self) {}

    async fn close(&self) {
        self.readers.close().await;
        self.writers.close().await;
        if let Some(anchor) = &self.anchor {
            anchor.close().await;
        }
    }
}

/// What may differ from the usual.
#[derive(Clone)]
pub struct SqliteOptions {
    pub clock: Arc<dyn Clock>,
    pub access: FileAccess,
}

/// Whether the file may be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileAccess {
    /// Created and migrated as needed.
    ReadWrite,
    /// Every write fails, and so does opening one that is not there. For tests and for looking at a copy.
    ReadOnly,
}

impl Default for SqliteOptions {
    fn default() -> SqliteOptions {
        SqliteOptions {
            clock: Arc::new(SystemClock),
            access: FileAccess::ReadWrite,
        }
    }
}

impl SqliteCatalog {
    /// Opens the file, makes it if there is none, and brings its tables up to date.
    pub async fn open(path: &Path) -> Result<SqliteCatalog> {
        SqliteCatalog::open_with(path, SqliteOptions::default()).await
    }

    pub async fn open_with(path: &Path, options: SqliteOptions) -> Result<SqliteCatalog> {
        let fail = |source: sqlx::Error| CatalogError::Open {
            at: path.display().to_string(),
            source: source.into(),
        };
        let file = SqliteConnectOptions::new()
            .filename(path)
            .busy_timeout(BUSY_TIMEOUT)
            .foreign_keys(true)
            .synchronous(SqliteSynchronous::Full);
        let file = match options.access {
            FileAccess::ReadWrite => file
                .create_if_missing(true)
                .journal_mode(SqliteJournalMode::Wal),
            FileAccess::ReadOnly => file.read_only(true),
        };
        let writer = Connections::open(file.clone(), 1).await.map_err(fail)?;
        if options.access == FileAccess::ReadWrite {
            migrate(&writer).await?;
        }
        let readers = Connections::open(file.pragma("query_only", "on"), READERS);
        Ok(SqliteCatalog {
            engine: SqliteEngine {
                writers: Writers::new(writer),
                readers: readers.await.map_err(fail)?,
                anchor: None,
            },
            clock: options.clock,
            written: watch::Sender::new(0),
            rights: Arc::default(),
            cache: Some(Arc::default()),
            node: Arc::default(),
        })
    }

    /// A database that ends with the value: for tests and trials.
    pub async fn in_memory(clock: Arc<dyn Clock>) -> Result<SqliteCatalog> {
        let fail = |source: sqlx::Error| CatalogError::Open {
            at: "memory".into(),
            source: source.into(),
        };
        // This text gives each database a name of its own, under which further connections find it.
        let options: SqliteConnectOptions = "sqlite::memory:".parse().map_err(fail)?;
        let options = options.foreign_keys(true);
        // An operation that is dropped may take its connection along; the database must not go with it.
        let anchor = Connections::open(options.clone(), 1).await.map_err(fail)?;
        // Readers of a shared cache meet the writer's table locks, so there is one connection for both.
        let only = Connections::open(options, 1).await.map_err(fail)?;
        migrate(&only).await?;
        Ok(SqliteCatalog {
            engine: SqliteEngine {
                writers: Writers::new(only.clone()),
                readers: only,
                anchor: Some(anchor),
            },
            clock,
            written: watch::Sender::new(0),
            rights: Arc::default(),
            cache: Some(Arc::default()),
            node: Arc::default(),
        })
    }
}

async fn migrate(connections: &Connections) -> Result<()> {
    let fail = |source| CatalogError::Migrate { source };
    let mut connection = connections
        .get()
        .await
        .map_err(|error| fail(error.into()))?;
    let run = sqlx::migrate!("migrations/sqlite")
        .run(&mut *connection)
        .await;
    run.map_err(|source| fail(Fault::from(source)))
}
