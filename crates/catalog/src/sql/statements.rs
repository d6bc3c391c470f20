//! `Statements` in SQL. The packages of a disk travel as one JSON text, so that they are a few statements.

use access::Permit;
use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::{Value, json};
use sqlx::FromRow;

use super::resources::check_write;
use super::{Connection, Engine, Sql, SqlCatalog, again, commit, failed, query, query_as, rows};
use crate::error::{CatalogError, Result};
use crate::statements::{
    PACKAGES_MAX, PackageUse, STATEMENT_BYTES_MAX, Statements, StoredBill, StoredPackage,
    StoredStatement,
};

#[derive(FromRow)]
struct StatementRow {
    name: String,
    at: i64,
    envelope: String,
}

#[derive(FromRow)]
struct NameRow {
    name: String,
    at: i64,
}

#[derive(FromRow)]
struct SystemRow {
    system: String,
}

#[derive(FromRow)]
struct PackageRow {
    name: String,
    source: String,
    body: String,
}

#[derive(FromRow)]
struct UseRow {
    disk: String,
    system: String,
    name: String,
    source: String,
    body: String,
}

#[async_trait]
impl<E: Engine> Statements for SqlCatalog<E> {
    async fn keep_statement(
        &self,
        permit: &Permit,
        disk: &str,
        statement: &StoredStatement,
    ) -> Result<()> {
        const OPERATION: &str = "keep a statement";
        check_write(permit)?;
        if statement.envelope.len() > STATEMENT_BYTES_MAX {
            return Err(CatalogError::TooLarge {
                what: "bytes of a statement",
                limit: STATEMENT_BYTES_MAX,
            });
        }
        again!({
            let mut tx = self.write(OPERATION).await?;
            query(
                "insert into statements (disk, name, at, envelope) values ($1, $2, $3, $4)
                 on conflict (disk, name) do update set at = excluded.at, envelope = excluded.envelope",
            )
            .bind(disk)
            .bind(&statement.name)
            .bind(rows::micros(statement.at))
            .bind(&statement.envelope)
            .execute(&mut tx)
            .await
            .map_err(failed(OPERATION))?;
            commit(tx, OPERATION).await
        })
    }

    async fn statement(
        &self,
        _: &Permit,
        disk: &str,
        name: &str,
    ) -> Result<Option<StoredStatement>> {
        let found = query_as::<StatementRow>(
            "select name, at, envelope from statements where disk = $1 and name = $2",
        )
        .bind(disk)
        .bind(name)
        .fetch_optional(&mut *self.reader("read a statement").await?)
        .await
        .map_err(failed("read a statement"))?;
        Ok(found.map(|row| StoredStatement {
            name: row.name,
            at: rows::time(row.at),
            envelope: row.envelope,
        }))
    }

    async fn statement_names(&self, _: &Permit, disk: &str) -> Result<Vec<(String, Timestamp)>> {
        let found =
            query_as::<NameRow>("select name, at from statements where disk = $1 order by name")
                .bind(disk)
                .fetch_all(&mut *self.reader("list statements").await?)
                .await
                .map_err(failed("list statements"))?;
        let named = |row: NameRow| (row.name, rows::time(row.at));
        Ok(found.into_iter().map(named).collect())
    }

    async fn keep_bill(&self, permit: &Permit, disk: &str, bill: &StoredBill) -> Result<()> {
        const OPERATION: &str = "keep the packages of a disk";
        check_write(permit)?;
        if bill.packages.len() > PACKAGES_MAX {
            return Err(CatalogError::TooLarge {
                what: "packages of a disk",
                limit: PACKAGES_MAX,
            });
        }
        let mut packages: Vec<&StoredPackage> = bill.packages.iter().collect();
        // One order for all writers, so that two of them never wait for each other in a circle.
        packages.sort();
        packages.dedup();
        let rows: Vec<Value> = packages
            .iter()
            .map(|package| json!({ "n": package.name, "s": package.source, "b": package.body }))
            .collect();
        let rows = rows::to_json("packages of a disk", &rows, STATEMENT_BYTES_MAX)?;
        again!({
            let mut tx = self.write(OPERATION).await?;
            write_bill(&mut tx, disk, &bill.system, &rows)
                .await
                .map_err(failed(OPERATION))?;
            commit(tx, OPERATION).await
        })
    }

    async fn bill(&self, _: &Permit, disk: &str) -> Result<Option<StoredBill>> {
        const OPERATION: &str = "read the packages of a disk";
        let mut reader = self.reader(OPERATION).await?;
        let system = query_as::<SystemRow>("select system from bills where disk = $1")
            .bind(disk)
            .fetch_optional(&mut *reader)
            .await
            .map_err(failed(OPERATION))?;
        let Some(SystemRow { system }) = system else {
            return Ok(None);
        };
        let packages = query_as::<PackageRow>(
            "select p.name, p.source, p.body from bills b
             join bill_packages u on u.bill = b.id
             join packages p on p.id = u.package
             where b.disk = $1 order by p.body",
        )
        .bind(disk)
        .fetch_all(&mut *reader)
        .await
        .map_err(failed(OPERATION))?;
        let packages = packages.into_iter().map(PackageRow::into_package).collect();
        Ok(Some(StoredBill { system, packages }))
    }

    async fn uses_of_package(&self, _: &Permit, name: &str) -> Result<Vec<PackageUse>> {
        let found = query_as::<UseRow>(
            "select b.disk, b.system, p.name, p.source, p.body from packages p
             join bill_packages u on u.package = p.id
             join bills b on b.id = u.bill
             where p.name = $1 or p.source = $1
             order by b.disk, p.body",
        )
        .bind(name)
        .fetch_all(&mut *self.reader("find a package").await?)
        .await
        .map_err(failed("find a package"))?;
        let used = |row: UseRow| PackageUse {
            disk: row.disk,
            system: row.system,
            package: StoredPackage {
                name: row.name,
                source: row.source,
                body: row.body,
            },
        };
        Ok(found.into_iter().map(used).collect())
    }
}

impl PackageRow {
    fn into_package(self) -> StoredPackage {
        StoredPackage {
            name: self.name,
            source: self.source,
            body: self.body,
        }
    }
}

async fn write_bill(
    tx: &mut impl Connection,
    disk: &str,
    system: &str,
    rows: &str,
) -> sqlx::Result<()> {
    query(
        "insert into bills (disk, system) values ($1, $2)
         on conflict (disk) do update set system = excluded.system",
    )
    .bind(disk)
    .bind(system)
    .execute(tx)
    .await?;
    query("delete from bill_packages where bill in (select id from bills where disk = $1)")
        .bind(disk)
        .execute(tx)
        .await?;
    query(Sql::of(
        "insert into packages (name, source, body)
         select value ->> 'n', value ->> 's', value ->> 'b' from json_each($1) where true
         on conflict (body) do nothing",
        "insert into packages (name, source, body)
         select value ->> 'n', value ->> 's', value ->> 'b' from json_array_elements($1::json)
         on conflict (body) do nothing",
    ))
    .bind(rows)
    .execute(tx)
    .await?;
    query(Sql::of(
        "insert into bill_packages (package, bill)
         select p.id, b.id from json_each($2) join packages p on p.body = value ->> 'b'
         join bills b on b.disk = $1",
        "insert into bill_packages (package, bill)
         select p.id, b.id from json_array_elements($2::json) join packages p on p.body = value ->> 'b'
         join bills b on b.disk = $1",
    ))
    .bind(disk)
    .bind(rows)
    .execute(tx)
    .await
    .map(drop)
}
