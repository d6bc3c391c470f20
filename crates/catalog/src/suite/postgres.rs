//! Where tests find PostgreSQL: a server that the test command started, and in it an empty schema for each case.

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use uuid::Uuid;

/// Names the server to tests: a URL with the right to make schemas.
pub const POSTGRES: &str = "BULLION_TEST_POSTGRES";

/// The URL of an empty database of a test's own, as an operator would write it.
///
/// # Panics
///
/// Where the test command gave no server: a test that does not run must not look as if it had passed.
pub async fn fresh_postgres() -> String {
    let server = std::env::var(POSTGRES).unwrap_or_else(|_| {
        panic!("{POSTGRES} names no server; `cargo xtask test --part postgres` starts one")
    });
    let schema = format!("t{}", Uuid::new_v4().simple());
    let mut connection = PgConnection::connect(&server).await.expect("connect");
    // The name is ours: letters and digits.
    sqlx::query(AssertSqlSafe(format!("create schema {schema}")))
        .execute(&mut connection)
        .await
        .expect("make a schema");
    connection.close().await.expect("close");
    let join = if server.contains('?') { '&' } else { '?' };
    format!("{server}{join}options=-csearch_path%3D{schema}")
}
