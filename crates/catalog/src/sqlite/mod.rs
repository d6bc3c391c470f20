//! The embedded backend: one SQLite file, one connection that writes, a few that read.
//!
//! All statements are static text with bound values. Every write is one `BEGIN IMMEDIATE` transaction, so a process
//! that dies, or a future that is dropped, leaves all of it or nothing.

mod auth;
mod changes;
mod claims;
mod jobs;
mod journal;
mod policy_states;
mod records;
mod resources;
mod rows;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Sqlite, SqlitePool, Transaction};
use tokio::sync::watch;

use crate::clock::{Clock, SystemClock};
use crate::error::{CatalogError, Fault, Result};

/// Readers beside the one writer.
const READERS: u32 = 4;
/// How long a statement waits for another process's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an operation waits for a connection before it says that the database is too busy.
const CONNECTION_WAIT: Duration = Duration::from_secs(30);

type Tx = Transaction<'static, Sqlite>;

/// The catalog in a SQLite database: [`crate::Catalog`], [`crate::AuthStore`], [`crate::JobStore`],
/// [`crate::ChangeFeed`] and [`crate::PolicyStates`].
#[derive(Clone)]
pub struct SqliteCatalog {
    writer: SqlitePool,
    readers: SqlitePool,
    /// Holds an in-memory database open; runs no statement.
    anchor: Option<SqlitePool>,
    clock: Arc<dyn Clock>,
    /// Counts the commits that wrote resources, for whoever follows the feed.
    written: watch::Sender<u64>,
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
            writer,
            readers,
            anchor: None,
            clock: options.clock,
            written: watch::Sender::new(0),
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
            writer: only.clone(),
            readers: only,
            anchor: Some(anchor),
            clock,
            written: watch::Sender::new(0),
        };
        catalog.migrate().await?;
        Ok(catalog)
    }

    /// Waits for operations under way and lets go of the file.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
        if let Some(anchor) = &self.anchor {
            anchor.close().await;
        }
    }

    async fn migrate(&self) -> Result<()> {
        let run = sqlx::migrate!("migrations/sqlite").run(&self.writer).await;
        run.map_err(|source| CatalogError::Migrate {
            source: Fault::from(source),
        })
    }

    /// Starts the one transaction that a write consists of.
    async fn write(&self, operation: &'static str) -> Result<Tx> {
        self.writer
            .begin_with("BEGIN IMMEDIATE")
            .await
            .map_err(failed(operation))
    }

    /// Ends a transaction that wrote resources, and wakes whoever follows them.
    async fn commit_resources(&self, tx: Tx, operation: &'static str) -> Result<()> {
        commit(tx, operation).await?;
        self.written.send_modify(|commits| *commits += 1);
        Ok(())
    }

    /// Now, as precise as it is stored.
    fn now(&self) -> Timestamp {
        rows::time(rows::micros(self.clock.now()))
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

/// Names the operation in which the database failed.
fn failed(operation: &'static str) -> impl Fn(sqlx::Error) -> CatalogError {
    move |source| CatalogError::Database {
        operation,
        source: source.into(),
    }
}

async fn commit(tx: Tx, operation: &'static str) -> Result<()> {
    tx.commit().await.map_err(failed(operation))
}
