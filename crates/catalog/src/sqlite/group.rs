//! Many writes, one commit: whoever writes while the disk is busy with the last commit shares the next one.
//!
//! A write is a savepoint in a transaction that is shared with those who wait for the same disk. It is told to be done
//! after the commit, never before, and one that fails takes nothing of the others with it. There is no timer: the commit
//! queues for the same lock as the writers do, so it comes after those who waited when the transaction began, and a
//! write that is alone is committed at once.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use async_trait::async_trait;
use sqlx::SqliteConnection;
use tokio::sync::{Mutex, OwnedMutexGuard, watch};

use super::connections::{Borrowed, Connections};
use crate::sql::{Answer, Connection, Row, Statement, StatementFuture, Write};

#[derive(Clone)]
pub struct Writers {
    connections: Connections,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    group: Option<Group>,
    /// The last write ended without an end of its own: it failed, or its caller has gone.
    unfinished: bool,
}

/// A transaction that is open.
struct Group {
    connection: Borrowed,
    outcome: watch::Sender<Option<Outcome>>,
}

type Outcome = Result<(), Arc<sqlx::Error>>;

/// Why a whole group failed, told to each of its writes.
#[derive(Debug, thiserror::Error)]
#[error("the transaction that this write shared failed")]
struct Shared(#[source] Arc<sqlx::Error>);

fn shared(error: Arc<sqlx::Error>) -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::other(Shared(error)))
}

async fn run(connection: &mut SqliteConnection, text: &'static str) -> sqlx::Result<()> {
    sqlx::query(text).execute(connection).await.map(drop)
}

impl Writers {
    pub fn new(connections: Connections) -> Writers {
        Writers {
            connections,
            state: Arc::default(),
        }
    }

    pub async fn begin(&self) -> sqlx::Result<GroupWrite> {
        let mut state = Arc::clone(&self.state).lock_owned().await;
        state.take_back().await;
        if state.group.is_none() {
            let mut connection = self.connections.get().await?;
            connection.set_busy(true);
            run(&mut connection, "begin immediate").await?;
            state.group = Some(Group {
                connection,
                outcome: watch::Sender::new(None),
            });
            // Queues behind those who wait for the lock now.
            tokio::spawn(commit_group(Arc::clone(&self.state)));
        }
        state.unfinished = true;
        let write = GroupWrite { state };
        write.begun().await
    }

    pub async fn close(&self) {
        commit_group(Arc::clone(&self.state)).await;
        self.connections.close().await;
    }
}

async fn commit_group(state: Arc<Mutex<State>>) {
    let mut state = state.lock_owned().await;
    state.take_back().await;
    let Some(mut group) = state.group.take() else {
        return;
    };
    let outcome = run(&mut group.connection, "commit").await;
    if outcome.is_ok() {
        group.connection.set_busy(false);
    }
    group.outcome.send_replace(Some(outcome.map_err(Arc::new)));
}

impl State {
    /// Undoes a write that did not end. Where that fails, the database has ended the transaction by itself (a full
    /// disk does that), and everything in it is gone; the connection is not used again.
    async fn take_back(&mut self) {
        let (true, Some(group)) = (self.unfinished, &mut self.group) else {
            self.unfinished = false;
            return;
        };
        let undone = run(&mut group.connection, "rollback to one; release one").await;
        self.unfinished = false;
        if let Err(error) = undone {
            group.outcome.send_replace(Some(Err(Arc::new(error))));
            self.group = None;
        }
    }
}

/// One write: a savepoint, and the lock of all writers.
pub struct GroupWrite {
    state: OwnedMutexGuard<State>,
}

impl GroupWrite {
    async fn begun(mut self) -> sqlx::Result<GroupWrite> {
        run(&mut self, "savepoint one").await?;
        Ok(self)
    }
}

#[async_trait]
impl Write for GroupWrite {
    async fn commit(mut self) -> sqlx::Result<()> {
        run(&mut self, "release one").await?;
        self.state.unfinished = false;
        let group = self.state.group.as_ref().expect("open while a write is");
        let mut outcome = group.outcome.subscribe();
        drop(self);
        let told = outcome.wait_for(Option::is_some).await;
        match told.as_deref() {
            Ok(Some(Ok(()))) => Ok(()),
            Ok(Some(Err(error))) => Err(shared(Arc::clone(error))),
            // The group is gone without a word: with the runtime.
            Ok(None) | Err(_) => Err(sqlx::Error::WorkerCrashed),
        }
    }
}

impl Deref for GroupWrite {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        &self
            .state
            .group
            .as_ref()
            .expect("open while a write is")
            .connection
    }
}

impl DerefMut for GroupWrite {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        &mut self
            .state
            .group
            .as_mut()
            .expect("open while a write is")
            .connection
    }
}

impl Connection for GroupWrite {
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
