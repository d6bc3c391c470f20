//! `Statements` in SQL. The packages of a disk travel as one JSON text, so that they are a few statements.

use access::Permit;
use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::{Value, json};
use sqlx::FromRow;
use wire::ResourceType;

use super::resources::{check_write, cut, seen_scopes};
use super::{Connection, Engine, Sql, SqlCatalog, again, commit, failed, query, query_as, rows};
use crate::error::{CatalogError, Result};
use crate::resource::Continuation;
use crate::statements::{
    PACKAGES_MAX, PackageUse, STATEMENT_BYTES_MAX, Statements, StoredBill, StoredPackage,
    StoredStatement, VERSIONS_USING_MAX, VersionUsing, VersionsUsing,
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
    system: String,
    package: i64,
    body: String,
}

#[derive(FromRow)]
struct UsingRow {
    id: String,
    id_key: String,
    sort_key: String,
    /// Places, with commas between.
    uses: String,
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
            "select distinct b.system, p.id as package, p.body from packages p
             cross join bill_packages u cross join bills b
             where (p.name = $1 or p.source = $1) and u.package = p.id and b.id = u.bill
             order by p.body, b.system",
        )
        .bind(name)
        .fetch_all(&mut *self.reader("find a package").await?)
        .await
        .map_err(failed("find a package"))?;
        let used = |row: UseRow| PackageUse {
            system: row.system,
            package: row.package,
            body: row.body,
        };
        Ok(found.into_iter().map(used).collect())
    }

    async fn versions_using(
        &self,
        permit: &Permit,
        uses: &[PackageUse],
        after: Option<&Continuation>,
        limit: usize,
    ) -> Result<VersionsUsing> {
        const OPERATION: &str = "find versions by their packages";
        let limit = limit.clamp(1, VERSIONS_USING_MAX);
        let asked: Vec<Value> = uses
            .iter()
            .enumerate()
            .map(|(at, one)| json!([at, one.package, one.system]))
            .collect();
        let (from, to) = rows::sort_range(permit.scope(), &ResourceType::new(rows::VERSIONS));
        let found = query_as::<UsingRow>(VERSIONS_USING)
            .bind(permit.tenant().to_string())
            .bind(rows::to_json(
                "uses of packages",
                &asked,
                STATEMENT_BYTES_MAX,
            )?)
            .bind(after.map_or(String::new(), |after| after.sort.clone()))
            .bind(from)
            .bind(to)
            .bind(seen_scopes(permit)?)
            // One more than asked for tells whether there is a next answer.
            .bind(i64::try_from(limit + 1).unwrap_or(i64::MAX))
            .fetch_all(&mut *self.reader(OPERATION).await?)
            .await
            .map_err(failed(OPERATION))?;
        UsingRow::all(found, limit)
    }
}

/// The disks first, each once, and then their versions by the index that there is for it: the planner of SQLite would
/// take the list of all versions, and is told. With the plus it compares as the index does, whatever the column's type.
/// That of PostgreSQL would at times read all uses of packages and all versions; `offset` keeps it from that.
const VERSIONS_USING: Sql = Sql::of(
    "with asked as materialized (
         select value ->> 0 as place, value ->> 1 as package, value ->> 2 as system from json_each($2)),
     seen as materialized (select value as scope from json_each($6)),
     disks as materialized (
         select b.disk, group_concat(asked.place) as uses
         from asked cross join bill_packages u cross join bills b
         where u.package = asked.package and b.id = u.bill and b.system = asked.system
         group by b.id)
     select r.id, r.id_key, r.sort_key, disks.uses
     from disks cross join resources as r indexed by versions_by_disk
     where r.tenant = $1 and r.type_key = 'microsoft.compute/galleries/images/versions'
       and json_extract(r.properties, '$.bullion.diskDigest') = +disks.disk
       and r.sort_key > $3 and r.sort_key >= $4 and r.sort_key < $5
       and exists (select 1 from seen where r.id_key = scope
                   or (r.id_key > scope || '/' and r.id_key < scope || '0'))
     order by r.sort_key limit $7",
    "with asked as materialized (
         select value ->> 0 as place, (value ->> 1)::bigint as package, value ->> 2 as system
         from json_array_elements($2::json)),
     seen as materialized (select value as scope from json_array_elements_text($6::json)),
     disks as materialized (
         select b.disk, string_agg(asked.place, ',') as uses
         from asked
         cross join lateral (select bill from bill_packages where package = asked.package offset 0) as u
         join bills b on b.id = u.bill and b.system = asked.system
         group by b.id)
     select r.id, r.id_key, r.sort_key, disks.uses
     from disks cross join lateral (
         select id, id_key, sort_key from resources
         where tenant = $1 and type_key = 'microsoft.compute/galleries/images/versions'
           and (as_json(properties) #>> '{bullion,diskDigest}') collate \"C\" = disks.disk
         offset 0) as r
     where r.sort_key > $3 and r.sort_key >= $4 and r.sort_key < $5
       and exists (select 1 from seen where r.id_key = scope
                   or (r.id_key > scope || '/' and r.id_key < scope || '0'))
     order by r.sort_key limit $7",
);

impl UsingRow {
    fn all(mut rows: Vec<UsingRow>, limit: usize) -> Result<VersionsUsing> {
        let next = cut(&mut rows, limit, |row| (&row.sort_key, &row.id_key));
        let found = rows.into_iter().map(UsingRow::into_version);
        Ok(VersionsUsing {
            found: found.collect::<Result<_>>()?,
            next,
        })
    }

    fn into_version(self) -> Result<VersionUsing> {
        let places = self.uses.split(',');
        let mut uses = places
            .map(|place| rows::parsed("the place of a use", place))
            .collect::<Result<Vec<usize>>>()?;
        uses.sort_unstable();
        Ok(VersionUsing {
            version: rows::parsed("resources.id", &self.id)?,
            uses,
        })
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sqlx::AssertSqlSafe;

    use super::*;
    use crate::clock::ManualClock;
    use crate::sqlite::SqliteCatalog;

    /// Of ten thousand versions those with a disk are found by it, and not by looking at each.
    #[tokio::test]
    async fn versions_are_found_by_the_index_of_their_disks() {
        let catalog = SqliteCatalog::in_memory(Arc::new(ManualClock::default())).await;
        let catalog = catalog.expect("open");
        let text = format!("explain query plan {}", VERSIONS_USING.sqlite);
        let plan = sqlx::query_as::<_, (i64, i64, i64, String)>(AssertSqlSafe(text))
            .fetch_all(&mut *catalog.engine.reader().await.expect("a connection"))
            .await
            .expect("a plan");
        let plan: Vec<String> = plan.into_iter().map(|(.., step)| step).collect();
        let found = "SEARCH r USING INDEX versions_by_disk (tenant=? AND <expr>=?)";
        assert!(plan.iter().any(|step| step == found), "{plan:#?}");
    }
}
