//! The backend for several servers: a PostgreSQL database.
//!
//! Opening, migrating, transactions and locks; the statements are in [`crate::sql`]. Transactions are read committed:
//! each statement sees what others have committed before it, and rows that a write depends on are locked by name.
//! Nothing is assumed to be alone with the database.

mod hints;
mod place;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgListener, PgPoolOptions};
use sqlx::{PgPool, Postgres, Transaction};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use uuid::Uuid;

pub use place::{Place, PlaceError};

use crate::clock::{Clock, SystemClock};
use crate::error::{CatalogError, Fault, Result};
use crate::sql::{Engine, SqlCatalog, Turn};

/// Connections of one server, beside the one that listens. PostgreSQL allows 100 in all if nothing else is said.
const CONNECTIONS_MAX: u32 = 20;
/// How long an operation waits for a connection before it says that the database is too busy, and how long a start
/// tries to reach it.
const CONNECTION_WAIT: Duration = Duration::from_secs(30);
/// After an hour a connection is made anew, so that a server that was moved is found.
const CONNECTION_LIFE: Duration = Duration::from_secs(3600);
/// What the sessions of a server are held to, so that one that hangs or dies keeps no row from the others: a wait for
/// a lock, a statement, a transaction that its owner forgot, a peer that does not answer.
/// No statement here runs long enough to be worth compiling, which takes half a second where the planner expects many rows.
const SESSION: [(&str, &str); 7] = [
    ("jit", "off"),
    ("lock_timeout", "10s"),
    ("statement_timeout", "60s"),
    ("idle_in_transaction_session_timeout", "30s"),
    ("tcp_keepalives_idle", "20"),
    ("tcp_keepalives_interval", "5"),
    ("tcp_keepalives_count", "3"),
];
/// `server_version_num` of the oldest that the migrations and statements were written for.
const SERVER_VERSION_MIN: i32 = 130_000;
/// The first half of our advisory locks; a number that nobody else is likely to use in this database.
const TURNS: i32 = 0x6275_6c6c;
/// Where processes tell each other that resources were written.
const CHANNEL: &str = "bullion_changes";
/// Between tries to listen again after the connection was lost.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);

/// The catalog in a PostgreSQL database.
pub type PostgresCatalog = SqlCatalog<PostgresEngine>;

/// A PostgreSQL database.
#[derive(Clone)]
pub struct PostgresEngine {
    pool: PgPool,
    /// There is something to tell the other processes.
    telling: Arc<Notify>,
    tasks: Arc<tokio::sync::Mutex<JoinSet<()>>>,
}

impl PostgresCatalog {
    /// Connects, and brings the tables up to date. Several servers may do so at once: one migrates, the others wait.
    pub async fn open(place: &Place) -> Result<PostgresCatalog> {
        PostgresCatalog::open_with(place, Arc::new(SystemClock)).await
    }

    pub async fn open_with(place: &Place, clock: Arc<dyn Clock>) -> Result<PostgresCatalog> {
        let fail = |source: sqlx::Error| CatalogError::Connect {
            at: place.to_string(),
            hint: hints::of(&source),
            source: source.into(),
        };
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS_MAX)
            .acquire_timeout(CONNECTION_WAIT)
            .max_lifetime(CONNECTION_LIFE)
            .connect_with(place.options().clone().options(SESSION))
            .await
            .map_err(fail)?;
        check_server(&pool, place).await?;
        // Takes a lock in the database first.
        let migrated = sqlx::migrate!("migrations/postgres").run(&pool).await;
        migrated.map_err(|source| CatalogError::Migrate {
            source: Fault::from(source),
        })?;
        let catalog = SqlCatalog {
            engine: PostgresEngine {
                pool,
                telling: Arc::default(),
                tasks: Arc::default(),
            },
            clock,
            written: watch::Sender::new(0),
            rights: Arc::default(),
            cache: None,
            node: Arc::default(),
        };
        let mut tasks = catalog.engine.tasks.lock().await;
        let name = Uuid::new_v4().to_string();
        let (pool, telling) = (&catalog.engine.pool, &catalog.engine.telling);
        tasks.spawn(tell(pool.clone(), telling.clone(), name.clone()));
        tasks.spawn(listen(pool.clone(), catalog.written.clone(), name));
        drop(tasks);
        Ok(catalog)
    }
}

#[async_trait]
impl Engine for PostgresEngine {
    type Reader = PoolConnection<Postgres>;
    type Write = Transaction<'static, Postgres>;
    const SHARED: bool = true;

    async fn reader(&self) -> sqlx::Result<PoolConnection<Postgres>> {
        self.pool.acquire().await
    }

    /// Whatever the database's own default is.
    async fn begin(&self) -> sqlx::Result<Transaction<'static, Postgres>> {
        self.pool
            .begin_with("BEGIN ISOLATION LEVEL READ COMMITTED")
            .await
    }

    async fn take_turn(
        &self,
        tx: &mut Transaction<'static, Postgres>,
        turn: Turn,
    ) -> sqlx::Result<()> {
        let turn = match turn {
            Turn::Directory => 1,
            Turn::PolicyStates => 2,
        };
        sqlx::query("select pg_advisory_xact_lock($1, $2)")
            .bind(TURNS)
            .bind(turn)
            .execute(&mut **tx)
            .await
            .map(drop)
    }

    async fn number_changes(&self) -> sqlx::Result<()> {
        sqlx::query("select number_changes()")
            .execute(&self.pool)
            .await
            .map(drop)
    }

    fn tell_others(&self) {
        self.telling.notify_one();
    }

    async fn close(&self) {
        // The listener holds a connection, for whose return the pool would wait.
        self.tasks.lock().await.shutdown().await;
        self.pool.close().await;
    }
}

/// Refuses what could not keep our data as it is, before a table is made.
async fn check_server(pool: &PgPool, place: &Place) -> Result<()> {
    let found = sqlx::query_as::<_, (i32, String)>(
        "select current_setting('server_version_num')::int, current_setting('server_encoding')",
    )
    .fetch_one(pool)
    .await;
    let (version, encoding) = found.map_err(|source| CatalogError::Connect {
        at: place.to_string(),
        hint: hints::of(&source),
        source: source.into(),
    })?;
    let unfit = if version < SERVER_VERSION_MIN {
        "use PostgreSQL 13 or later"
    } else if encoding != "UTF8" {
        "make a database with `createdb --encoding UTF8 --template template0`"
    } else {
        return Ok(());
    };
    let found = format!("it is version {version}, and its texts are {encoding}");
    Err(CatalogError::Connect {
        at: place.to_string(),
        hint: unfit,
        source: std::io::Error::other(found).into(),
    })
}

/// Many commits become one notification: its sender waits while the last one is on its way. Sent after the commit and
/// not in it, since PostgreSQL lets only one transaction that notifies commit at a time.
async fn tell(pool: PgPool, telling: Arc<Notify>, name: String) {
    loop {
        telling.notified().await;
        let told = sqlx::query("select pg_notify($1, $2)")
            .bind(CHANNEL)
            .bind(&name)
            .execute(&pool)
            .await;
        if told.is_err() && pool.is_closed() {
            return;
        }
    }
}

/// Wakes followers of the feed when another process wrote. What is missed while the connection is gone is found by
/// looking, and looked for when it is back.
async fn listen(pool: PgPool, written: watch::Sender<u64>, name: String) {
    while !pool.is_closed() {
        if let Ok(mut listener) = PgListener::connect_with(&pool).await
            && listener.listen(CHANNEL).await.is_ok()
        {
            written.send_modify(|commits| *commits += 1);
            while let Ok(Some(told)) = listener.try_recv().await {
                if told.payload() != name {
                    written.send_modify(|commits| *commits += 1);
                }
            }
        }
        tokio::time::sleep(LISTEN_AGAIN).await;
    }
}
