//! The open connections to one SQLite file. Each is a thread of its own, so few are enough.
//!
//! Not a pool of sqlx: that one asks a connection whether it is alive before each use and takes it back by a task, which
//! costs more than most of our statements. A connection that may be in the middle of something is closed rather than
//! given to the next.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection as _, SqliteConnection};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::sql::{Answer, Connection, Row, Statement, StatementFuture};

/// How long an operation waits for a connection before it says that the database is too busy.
const CONNECTION_WAIT: Duration = Duration::from_secs(30);

#[derive(Clone)]
pub struct Connections {
    options: SqliteConnectOptions,
    idle: Arc<Mutex<Vec<SqliteConnection>>>,
    room: Arc<Semaphore>,
}

impl Connections {
    /// Opens the first of up to `count`; the others are opened when they are needed.
    pub async fn open(options: SqliteConnectOptions, count: usize) -> sqlx::Result<Connections> {
        let first = SqliteConnection::connect_with(&options).await?;
        Ok(Connections {
            options,
            idle: Arc::new(Mutex::new(vec![first])),
            room: Arc::new(Semaphore::new(count)),
        })
    }

    pub async fn get(&self) -> sqlx::Result<Borrowed> {
        let room = Arc::clone(&self.room).acquire_owned();
        let place = tokio::time::timeout(CONNECTION_WAIT, room)
            .await
            .map_err(|_| sqlx::Error::PoolTimedOut)?
            .map_err(|_| sqlx::Error::PoolClosed)?;
        let idle = self.lock().pop();
        let connection = match idle {
            Some(connection) => connection,
            None => SqliteConnection::connect_with(&self.options).await?,
        };
        Ok(Borrowed {
            connection: Some(connection),
            idle: Arc::clone(&self.idle),
            busy: false,
            _place: place,
        })
    }

    /// Lets go of the file. What is borrowed goes with its borrower.
    pub async fn close(&self) {
        self.room.close();
        let idle = std::mem::take(&mut *self.lock());
        for connection in idle {
            // What was committed is on disk; a connection that does not close goes with the process.
            let _ = connection.close().await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<SqliteConnection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection for one user at a time; it goes back when this is dropped.
pub struct Borrowed {
    /// Always there until the drop.
    connection: Option<SqliteConnection>,
    idle: Arc<Mutex<Vec<SqliteConnection>>>,
    /// In a transaction that nobody else may end up in.
    busy: bool,
    _place: OwnedSemaphorePermit,
}

impl Borrowed {
    pub fn set_busy(&mut self, busy: bool) {
        self.busy = busy;
    }
}

impl Deref for Borrowed {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        self.connection.as_ref().expect("there until the drop")
    }
}

impl DerefMut for Borrowed {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        self.connection.as_mut().expect("there until the drop")
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        let connection = self.connection.take().filter(|_| !self.busy);
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.extend(connection);
    }
}

impl Connection for Borrowed {
    fn execute(&mut self, statement: Statement) -> StatementFuture<'_, Answer<u64>> {
        (**self).execute(statement)
    }

    fn fetch_all<T: Row>(&mut self, statement: Statement) -> StatementFuture<'_, Answer<Vec<T>>> {
        (**self).fetch_all(statement)
    }

    fn fetch_optional<T: Row>(
        &mut self,
        statement: Statement,
    ) -> StatementFuture<'_, Answer<Option<T>>> {
        (**self).fetch_optional(statement)
    }
}
