//! The catalog in SQL: every statement, written once for both databases.
//!
//! All statements are static text with bound values. Every write is one transaction, so a process that dies, or a
//! future that is dropped, leaves all of it or nothing. What a database does in its own way (opening, transactions,
//! locks) is behind [`Engine`].
//!
//! Writers may run side by side, so a row that a write depends on is locked by the statement that reads it
//! (`for update`), and where the other one wins anyway, the whole write is tried again ([`again`]). SQLite has one
//! writer at a time and needs neither.

mod activity;
mod auth;
mod cache;
mod changes;
mod claims;
#[cfg(any(test, feature = "suite"))]
mod copies;
mod directory;
mod jobs;
mod journal;
mod policy_states;
mod records;
mod resources;
mod rights;
mod rows;
mod statement;
mod statements;

use std::ops::DerefMut;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::watch;

pub(crate) use activity::Node;
pub(crate) use cache::Cache;
pub(crate) use rights::Rights;
pub(crate) use statement::{
    Answer, Connection, Row, Sql, Statement, StatementFuture, Write, query, query_as, query_scalar,
};

use crate::backend::Backend;
use crate::clock::Clock;
use crate::error::{CatalogError, Result};

/// How often a write is tried that others keep getting in the way of.
const TRIES_MAX: u32 = 10;
/// Between tries, times the number of the try.
const TRY_PAUSE: Duration = Duration::from_millis(5);

/// What a database does in its own way.
#[async_trait]
pub trait Engine: Clone + Send + Sync + 'static {
    type Reader: Connection + DerefMut<Target: Connection + Sized> + 'static;
    type Write: Write;
    /// Whether other processes may read and write it, too.
    const SHARED: bool;

    async fn reader(&self) -> sqlx::Result<Self::Reader>;
    /// Begins a transaction that may write.
    async fn begin(&self) -> sqlx::Result<Self::Write>;
    /// Lets one transaction at a time go on from here to its end.
    async fn take_turn(&self, tx: &mut Self::Write, turn: Turn) -> sqlx::Result<()>;
    /// Gives the changes committed so far their numbers, if writing did not.
    async fn number_changes(&self) -> sqlx::Result<()>;
    /// Tells the other processes on this database that resources were written. A hint; may be lost.
    fn tell_others(&self);
    /// Waits for operations under way and lets go of the database.
    async fn close(&self);
}

/// Writes that look at rows of others to decide, and so come one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Who may sign in.
    Directory,
    PolicyStates,
}

/// The catalog in a SQL database: [`crate::Catalog`], [`crate::AuthStore`], [`crate::JobStore`],
/// [`crate::ChangeFeed`], [`crate::PolicyStates`], [`crate::Statements`] and [`crate::ActivityStore`].
#[derive(Clone)]
pub struct SqlCatalog<E> {
    pub(crate) engine: E,
    pub(crate) clock: Arc<dyn Clock>,
    /// Counts the commits that wrote resources, for whoever follows the feed.
    pub(crate) written: watch::Sender<u64>,
    pub(crate) rights: Arc<Rights>,
    /// What is known of resources without asking; none where other processes write, too.
    pub(crate) cache: Option<Arc<Cache>>,
    /// Whose activities these are; empty until a server says so.
    pub(crate) node: Arc<Node>,
}

type Tx<E> = <E as Engine>::Write;

#[async_trait]
impl<E: Engine> Backend for SqlCatalog<E> {
    fn is_shared(&self) -> bool {
        E::SHARED
    }

    async fn close(&self) {
        SqlCatalog::close(self).await;
    }
}

impl<E: Engine> SqlCatalog<E> {
    /// Waits for operations under way and lets go of the database.
    pub async fn close(&self) {
        self.engine.close().await;
    }

    async fn reader(&self, operation: &'static str) -> Result<E::Reader> {
        self.engine.reader().await.map_err(failed(operation))
    }

    /// Starts the one transaction that a write consists of.
    async fn write(&self, operation: &'static str) -> Result<Tx<E>> {
        self.engine.begin().await.map_err(failed(operation))
    }

    async fn take_turn(&self, tx: &mut Tx<E>, turn: Turn) -> Result<()> {
        let taken = self.engine.take_turn(tx, turn).await;
        taken.map_err(failed("wait for another writer"))
    }

    /// Ends a transaction that wrote resources, and wakes whoever follows them.
    async fn commit_resources(&self, tx: Tx<E>, operation: &'static str) -> Result<()> {
        commit(tx, operation).await?;
        self.written.send_modify(|commits| *commits += 1);
        self.engine.tell_others();
        Ok(())
    }

    /// Now, as precise as it is stored.
    fn now(&self) -> Timestamp {
        rows::time(rows::micros(self.clock.now()))
    }
}

/// Names the operation in which the database failed.
pub(crate) fn failed(operation: &'static str) -> impl Fn(sqlx::Error) -> CatalogError {
    move |source| CatalogError::Database {
        operation,
        source: source.into(),
    }
}

async fn commit(tx: impl Write, operation: &'static str) -> Result<()> {
    tx.commit().await.map_err(failed(operation))
}

/// Another writer was there between our look and our write.
#[derive(Debug, thiserror::Error)]
#[error("another writer was faster")]
pub(crate) struct Overtaken;

fn overtaken(operation: &'static str) -> CatalogError {
    CatalogError::Database {
        operation,
        source: Overtaken.into(),
    }
}

/// Whether a write that ended like this is to be tried again; waits a little before it says so.
async fn try_again<T>(outcome: &Result<T>, tries: u32) -> bool {
    let lost =
        matches!(outcome, Err(CatalogError::Database { source, .. }) if source.is_lost_race());
    if !lost || tries >= TRIES_MAX {
        return false;
    }
    tokio::time::sleep(TRY_PAUSE * tries).await;
    true
}

/// Runs a write, from the begin of its transaction to the commit, again while it loses races against other writers.
macro_rules! again {
    ($write:expr) => {{
        let mut tries = 0;
        loop {
            tries += 1;
            let outcome = async { $write }.await;
            if !$crate::sql::try_again(&outcome, tries).await {
                break outcome;
            }
        }
    }};
}
use again;
