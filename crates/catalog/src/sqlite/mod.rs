//! The embedded backend: one SQLite file, one connection that writes, a few that read.
//!
//! Opening, migrating and transactions; the statements are in [`crate::sql`]. Every write is one `BEGIN IMMEDIATE`
//! transaction.

#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Sqlite, SqlitePool, Transaction};
use tokio::sync::watch;

use crate::clock::{Clock, SystemClock};
use crate::error::{CatalogError, Fault, Result};
use crate::sql::{Engine, SqlCatalog, Turn};

/// Readers beside the one writer.
const READERS: u32 = 4;
/// How long a statement waits for another process's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an operation waits for a connection before it says that the database is too busy.
const CONNECTION_WAIT: Duration = Duration::from_secs(30);

/// The catalog in a SQLite database.
pub type SqliteCatalog = SqlCatalog<SqliteEngine>;

/// A SQLite database.
#[derive(Clone)]
pub struct SqliteEngine {
    writer: SqlitePool,
    readers: SqlitePool,
    /// Holds an in-memory database open; runs no statement.
    anchor: Option<SqlitePool>,
}

#[async_trait]
impl Engine for SqliteEngine {
    type Db = Sqlite;
    const SHARED: bool = false;

    async fn reader(&self) -> sqlx::Result<PoolConnection<Sqlite>> {
        self.readers.acquire().await
    }

    async fn begin(&self) -> sqlx::Result<Transaction<'static, Sqlite>> {
        self.writer.begin_with("BEGIN IMMEDIATE").await
    }

    /// There is one writer anyway.
    async fn take_turn(&self, _: &mut Transaction<'static, Sqlite>, _: Turn) -> sqlx::Result<()> {
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
        self.writer.close().await;
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
        let writer = pool(1).connect_with(file.clone()).await.map_err(fail)?;
        let readers = pool(READERS)
            .connect_with(file.pragma("query_only", "on"))
            .await
            .map_err(fail)?;
        let catalog = SqliteCatalog {
            engine: SqliteEngine {
                writer,
                readers,
                anchor: None,
            },
            clock: options.clock,
            written: watch::Sender::new(0),
            rights: Arc::default(),
        };
        if options.access == FileAccess::ReadWrite {
            catalog.migrate().await?;
        }
        Ok(catalog)
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
        let anchor = pool(1).connect_with(options.clone()).await.map_err(fail)?;
        // Readers of a shared cache meet the writer's table locks, so there is one connection for both.
        let only = pool(1).connect_with(options).await.map_err(fail)?;
        let catalog = SqliteCatalog {
            engine: SqliteEngine {
                writer: only.clone(),
                readers: only,
                anchor: Some(anchor),
            },
            clock,
            written: watch::Sender::new(0),
            rights: Arc::default(),
        };
        catalog.migrate().await?;
        Ok(catalog)
    }

    async fn migrate(&self) -> Result<()> {
        let run = sqlx::migrate!("migrations/sqlite")
            .run(&self.engine.writer)
            .await;
        run.map_err(|source| CatalogError::Migrate {
            source: Fault::from(source),
        })
    }
}

fn pool(connections: u32) -> SqlitePoolOptions {
    // Connections are kept for good: there is no server that would tire of them, and an in-memory database lives in
    // its connection.
    SqlitePoolOptions::new()
        .max_connections(connections)
        .min_connections(1)
        .acquire_timeout(CONNECTION_WAIT)
        .idle_timeout(None)
        .max_lifetime(None)
}
