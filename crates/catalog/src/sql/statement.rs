//! Statements that run on either database: static text with `$1`, `$2`, … and the values bound to them.
//!
//! The text is the same for both wherever the dialects agree, and [`Sql::of`] names both where they do not. Nothing
//! here knows a table.

use std::marker::PhantomData;
use std::ops::DerefMut;

use async_trait::async_trait;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{
    Arguments as _, Database, FromRow, PgConnection, Postgres, SqliteConnection, Transaction,
};

pub type StatementFuture<'c, T> =
    std::pin::Pin<Box<dyn std::future::Future<Output = T> + Send + 'c>>;
pub type Answer<T> = Result<T, sqlx::Error>;

/// A row that both databases give.
pub trait Row:
    for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin + 'static
{
}

impl<T> Row for T where
    T: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin + 'static
{
}

/// What runs statements: a connection of either database, by itself, from a pool or in a transaction.
pub trait Connection: Send {
    /// The number of rows that were written.
    fn execute(&mut self, statement: Statement) -> StatementFuture<'_, Answer<u64>>;
    fn fetch_all<T: Row>(&mut self, statement: Statement) -> StatementFuture<'_, Answer<Vec<T>>>;
    fn fetch_optional<T: Row>(
        &mut self,
        statement: Statement,
    ) -> StatementFuture<'_, Answer<Option<T>>>;
}

/// The text of a statement.
#[derive(Clone, Copy)]
pub struct Sql {
    pub(super) sqlite: &'static str,
    postgres: &'static str,
}

impl Sql {
    /// For what the dialects say differently.
    pub const fn of(sqlite: &'static str, postgres: &'static str) -> Sql {
        Sql { sqlite, postgres }
    }
}

impl From<&'static str> for Sql {
    fn from(text: &'static str) -> Sql {
        Sql::of(text, text)
    }
}

/// A value bound to a statement.
pub enum Value {
    Text(Option<String>),
    Integer(Option<i64>),
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(Some(text.to_owned()))
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::Text(Some(text))
    }
}

impl From<&String> for Value {
    fn from(text: &String) -> Value {
        Value::Text(Some(text.clone()))
    }
}

impl From<Option<String>> for Value {
    fn from(text: Option<String>) -> Value {
        Value::Text(text)
    }
}

impl From<&Option<String>> for Value {
    fn from(text: &Option<String>) -> Value {
        Value::Text(text.clone())
    }
}

impl From<Option<&str>> for Value {
    fn from(text: Option<&str>) -> Value {
        Value::Text(text.map(str::to_owned))
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Value {
        Value::Integer(Some(number))
    }
}

/// A transaction that may write. Dropped without its commit, nothing of it is kept.
#[async_trait]
pub trait Write: Connection + DerefMut<Target: Connection + Sized> + 'static {
    /// When this is through, what was written is on disk.
    async fn commit(self) -> sqlx::Result<()>;
}

#[async_trait]
impl Write for Transaction<'static, Postgres> {
    async fn commit(self) -> sqlx::Result<()> {
        Transaction::commit(self).await
    }
}

/// A text with its values.
pub struct Statement {
    sql: Sql,
    values: Vec<Value>,
}

impl Statement {
    fn for_sqlite(self) -> Answer<(&'static str, SqliteArguments)> {
        let mut arguments = SqliteArguments::default();
        for value in self.values {
            match value {
                Value::Text(text) => arguments.add(text),
                Value::Integer(number) => arguments.add(number),
            }
            .map_err(sqlx::Error::Encode)?;
        }
        Ok((self.sql.sqlite, arguments))
    }

    fn for_postgres(self) -> Answer<(&'static str, PgArguments)> {
        let mut arguments = PgArguments::default();
        for value in self.values {
            match value {
                Value::Text(text) => arguments.add(text.map(without_nul)),
                Value::Integer(number) => arguments.add(number),
            }
            .map_err(sqlx::Error::Encode)?;
        }
        Ok((self.sql.postgres, arguments))
    }
}

/// PostgreSQL keeps every character but this one, which SQLite does and a log line or a name may hold.
fn without_nul(text: String) -> String {
    if text.contains('\0') {
        text.replace('\0', "\u{fffd}")
    } else {
        text
    }
}

/// A statement whose rows are not looked at.
pub fn query(sql: impl Into<Sql>) -> Query<()> {
    query_as(sql)
}

/// A statement whose rows become `T`.
pub fn query_as<T>(sql: impl Into<Sql>) -> Query<T> {
    Query {
        statement: Statement {
            sql: sql.into(),
            values: Vec::new(),
        },
        rows: PhantomData,
    }
}

/// A statement of whose rows the one column is a `T`.
pub fn query_scalar<T>(sql: impl Into<Sql>) -> Scalar<T> {
    Scalar(query_as(sql))
}

pub struct Query<T> {
    statement: Statement,
    rows: PhantomData<fn() -> T>,
}

impl<T> Query<T> {
    pub fn bind(mut self, value: impl Into<Value>) -> Query<T> {
        self.statement.values.push(value.into());
        self
    }

    /// The number of rows that were written.
    pub async fn execute(self, connection: &mut impl Connection) -> Answer<u64> {
        connection.execute(self.statement).await
    }
}

impl<T: Row> Query<T> {
    pub async fn fetch_all(self, connection: &mut impl Connection) -> Answer<Vec<T>> {
        connection.fetch_all(self.statement).await
    }

    pub async fn fetch_optional(self, connection: &mut impl Connection) -> Answer<Option<T>> {
        connection.fetch_optional(self.statement).await
    }

    pub async fn fetch_one(self, connection: &mut impl Connection) -> Answer<T> {
        let row = self.fetch_optional(connection).await?;
        row.ok_or(sqlx::Error::RowNotFound)
    }
}

pub struct Scalar<T>(Query<(T,)>);

impl<T> Scalar<T>
where
    (T,): Row,
{
    pub fn bind(self, value: impl Into<Value>) -> Scalar<T> {
        Scalar(self.0.bind(value))
    }

    pub async fn fetch_all(self, connection: &mut impl Connection) -> Answer<Vec<T>> {
        let rows = self.0.fetch_all(connection).await?;
        Ok(rows.into_iter().map(|(value,)| value).collect())
    }

    pub async fn fetch_optional(self, connection: &mut impl Connection) -> Answer<Option<T>> {
        let row = self.0.fetch_optional(connection).await?;
        Ok(row.map(|(value,)| value))
    }

    pub async fn fetch_one(self, connection: &mut impl Connection) -> Answer<T> {
        let row = self.0.fetch_one(connection).await?;
        Ok(row.0)
    }
}

/// The same for both databases but for the types, which have no common parent that a generic function could name.
macro_rules! connection {
    ($connection:ty, $into:ident) => {
        impl Connection for $connection {
            fn execute(&mut self, statement: Statement) -> StatementFuture<'_, Answer<u64>> {
                Box::pin(async move {
                    let (text, arguments) = statement.$into()?;
                    let done = sqlx::query_with(text, arguments).execute(self).await?;
                    Ok(done.rows_affected())
                })
            }

            fn fetch_all<T: Row>(
                &mut self,
                statement: Statement,
            ) -> StatementFuture<'_, Answer<Vec<T>>> {
                Box::pin(async move {
                    let (text, arguments) = statement.$into()?;
                    sqlx::query_as_with(text, arguments).fetch_all(self).await
                })
            }

            fn fetch_optional<T: Row>(
                &mut self,
                statement: Statement,
            ) -> StatementFuture<'_, Answer<Option<T>>> {
                Box::pin(async move {
                    let (text, arguments) = statement.$into()?;
                    sqlx::query_as_with(text, arguments)
                        .fetch_optional(self)
                        .await
                })
            }
        }
    };
}

connection!(SqliteConnection, for_sqlite);
connection!(PgConnection, for_postgres);

macro_rules! through {
    ($outer:ty) => {
        impl<D: Database<Connection: Connection>> Connection for $outer {
            fn execute(&mut self, statement: Statement) -> StatementFuture<'_, Answer<u64>> {
                (**self).execute(statement)
            }

            fn fetch_all<T: Row>(
                &mut self,
                statement: Statement,
            ) -> StatementFuture<'_, Answer<Vec<T>>> {
                (**self).fetch_all(statement)
            }

            fn fetch_optional<T: Row>(
                &mut self,
                statement: Statement,
            ) -> StatementFuture<'_, Answer<Option<T>>> {
                (**self).fetch_optional(statement)
            }
        }
    };
}

through!(PoolConnection<D>);
through!(Transaction<'static, D>);
