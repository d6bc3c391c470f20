//! `ActivityStore` in SQL. The rows of writes are written by the writes.

use std::sync::OnceLock;

use access::{Permit, SystemReason};
use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::json;
use sqlx::FromRow;
use wire::TenantId;

use super::{
    Connection, Engine, Sql, SqlCatalog, again, commit, failed, query, query_as, query_scalar, rows,
};
use crate::activity::{
    ACTIVITY_MAX, ActivityRange, ActivityStatus, ActivityStore, CHAIN_START, Checkpoint, Entry,
    Keep, Linked, Note, Recorded, Sign, Trimmed, key_of,
};
use crate::error::Result;
use crate::resource::BODY_BYTES_MAX;

/// The server whose lines these are.
#[derive(Default)]
pub(crate) struct Node(OnceLock<String>);

#[derive(FromRow)]
struct LineRow {
    row: i64,
    node: String,
    seq: Option<i64>,
    at: i64,
    tenant: String,
    id_key: String,
    body: String,
    hash: Option<String>,
}

impl LineRow {
    fn into_linked(self) -> Linked {
        Linked {
            node: self.node,
            seq: self.seq.unwrap_or_default().unsigned_abs(),
            at: self.at,
            tenant: self.tenant,
            id_key: self.id_key,
            body: self.body,
            hash: self.hash.unwrap_or_default(),
        }
    }

    fn into_recorded(self) -> Result<Recorded> {
        Ok(Recorded {
            row: self.row.unsigned_abs(),
            at: rows::time(self.at),
            tenant: rows::parsed("activity.tenant", &self.tenant)?,
            entry: rows::from_json("activity.body", &self.body)?,
        })
    }
}

impl<E: Engine> SqlCatalog<E> {
    /// The line of a write, in its transaction. What the system does to resources that are there is its own
    /// bookkeeping, told by what it is kept for.
    pub(super) async fn record(
        &self,
        tx: &mut impl Connection,
        permit: &Permit,
        status: ActivityStatus,
        created_or_removed: bool,
    ) -> Result<()> {
        let bookkeeping = match permit.system_reason() {
            Some(SystemReason::JobStatus) => true,
            Some(_) => !created_or_removed,
            None => false,
        };
        match self.node.0.get().filter(|_| !bookkeeping) {
            Some(node) => {
                self.line(tx, node, permit.tenant(), &Entry::of(permit, status))
                    .await
            }
            None => Ok(()),
        }
    }

    async fn line(
        &self,
        tx: &mut impl Connection,
        node: &str,
        tenant: TenantId,
        entry: &Entry,
    ) -> Result<()> {
        query("insert into activity (node, at, tenant, id_key, body) values ($1, $2, $3, $4, $5)")
            .bind(node)
            .bind(rows::micros(self.now()))
            .bind(tenant.to_string())
            .bind(key_of(&entry.id))
            .bind(rows::to_json("an activity", entry, BODY_BYTES_MAX)?)
            .execute(tx)
            .await
            .map(drop)
            .map_err(failed("record an activity"))
    }
}

#[async_trait]
impl<E: Engine> ActivityStore for SqlCatalog<E> {
    fn keep_activity(&self, node: &str) {
        let _ = self.node.0.set(node.to_owned());
    }

    async fn note(&self, notes: Vec<Note>) -> Result<()> {
        const OPERATION: &str = "record refusals";
        let Some(node) = self.node.0.get().filter(|_| !notes.is_empty()) else {
            return Ok(());
        };
        let mut tx = self.write(OPERATION).await?;
        for note in &notes {
            self.line(&mut *tx, node, note.tenant, &note.entry).await?;
        }
        commit(tx, OPERATION).await
    }

    async fn activity(
        &self,
        permit: &Permit,
        range: ActivityRange,
        limit: usize,
    ) -> Result<Vec<Recorded>> {
        const OPERATION: &str = "read activities";
        let (before, row) = range.before.unwrap_or((Timestamp::MAX, u64::MAX));
        let found = query_as::<LineRow>(
            "select * from activity
             where tenant = $1 and at >= $2 and at <= $3 and (at < $4 or (at = $4 and row < $5))
               and (id_key = $6 or (id_key > $7 || '/' and id_key < $7 || '0'))
             order by at desc, row desc limit $8",
        )
        .bind(permit.tenant().to_string())
        .bind(rows::micros(range.from))
        .bind(rows::micros(range.to))
        .bind(rows::micros(before))
        .bind(i64::try_from(row).unwrap_or(i64::MAX))
        .bind(permit.scope().folded())
        .bind(rows::prefix(permit.scope()))
        .bind(i64::try_from(limit.clamp(1, ACTIVITY_MAX)).unwrap_or(1))
        .fetch_all(&mut *self.reader(OPERATION).await?)
        .await
        .map_err(failed(OPERATION))?;
        found.into_iter().map(LineRow::into_recorded).collect()
    }

    async fn link_activity(&self, sign: Sign<'_>) -> Result<usize> {
        let Some(node) = self.node.0.get() else {
            return Ok(0);
        };
        again!(self.link(node, sign).await)
    }

    async fn trim_activity(&self, keep: Keep) -> Result<Trimmed> {
        const OPERATION: &str = "remove old activities";
        let Some(node) = self.node.0.get() else {
            return Ok(Trimmed::default());
        };
        let mut tx = self.write(OPERATION).await?;
        let sent =
            query_scalar::<Option<i64>>("select min(seq) from activity_sinks where node = $1")
                .bind(node)
                .fetch_one(&mut *tx)
                .await
                .map_err(failed(OPERATION))?
                .unwrap_or(i64::MAX);
        let end = query_scalar::<Option<i64>>(
            "select max(seq) from activity_checkpoints where node = $1 and (at < $2 and seq <= $3 or at < $4)",
        )
        .bind(node)
        .bind(rows::micros(keep.since))
        .bind(sent)
        .bind(rows::micros(keep.unsent_since.min(keep.since)))
        .fetch_one(&mut *tx)
        .await
        .map_err(failed(OPERATION))?;
        let Some(end) = end else {
            return Ok(Trimmed::default());
        };
        let removed = query("delete from activity where node = $1 and seq <= $2")
            .bind(node)
            .bind(end)
            .execute(&mut *tx)
            .await
            .map_err(failed(OPERATION))?;
        query("delete from activity_checkpoints where node = $1 and seq < $2")
            .bind(node)
            .bind(end)
            .execute(&mut *tx)
            .await
            .map_err(failed(OPERATION))?;
        commit(tx, OPERATION).await?;
        Ok(Trimmed {
            removed,
            unsent_to: (removed > 0 && end > sent).then_some(end.unsigned_abs()),
        })
    }

    async fn name_activity_key(&self, node: &str, public_key: &str) -> Result<()> {
        const OPERATION: &str = "name the key of activities";
        let mut tx = self.write(OPERATION).await?;
        query(
            "insert into activity_nodes (node, public_key) values ($1, $2) on conflict do nothing",
        )
        .bind(node)
        .bind(public_key)
        .execute(&mut *tx)
        .await
        .map_err(failed(OPERATION))?;
        commit(tx, OPERATION).await
    }

    async fn activity_nodes(&self) -> Result<Vec<(String, String)>> {
        const OPERATION: &str = "list the servers of activities";
        query_as::<(String, String)>("select node, public_key from activity_nodes order by node")
            .fetch_all(&mut *self.reader(OPERATION).await?)
            .await
            .map_err(failed(OPERATION))
    }

    async fn activity_chain(&self, node: &str, after: u64) -> Result<Vec<Linked>> {
        const OPERATION: &str = "read a chain of activities";
        let found = query_as::<LineRow>(
            "select * from activity where node = $1 and seq > $2 order by seq limit $3",
        )
        .bind(node)
        .bind(i64::try_from(after).unwrap_or(i64::MAX))
        .bind(most())
        .fetch_all(&mut *self.reader(OPERATION).await?)
        .await
        .map_err(failed(OPERATION))?;
        Ok(found.into_iter().map(LineRow::into_linked).collect())
    }

    async fn activity_checkpoints(&self, node: &str, from: u64) -> Result<Vec<Checkpoint>> {
        const OPERATION: &str = "read checkpoints of activities";
        let found = query_as::<(i64, i64, String, String)>(
            "select seq, at, hash, signed from activity_checkpoints
             where node = $1 and seq >= $2 order by seq limit $3",
        )
        .bind(node)
        .bind(i64::try_from(from).unwrap_or(i64::MAX))
        .bind(most())
        .fetch_all(&mut *self.reader(OPERATION).await?)
        .await
        .map_err(failed(OPERATION))?;
        let point = |(seq, at, hash, signed): (i64, i64, String, String)| Checkpoint {
            node: node.to_owned(),
            seq: seq.unsigned_abs(),
            at,
            hash,
            signed,
        };
        Ok(found.into_iter().map(point).collect())
    }

    async fn name_activity_sinks(&self, node: &str, sinks: &[String]) -> Result<()> {
        const OPERATION: &str = "name the receivers of activities";
        let named = rows::to_json("receivers", &sinks, BODY_BYTES_MAX)?;
        let mut tx = self.write(OPERATION).await?;
        query(Sql::of(
            "delete from activity_sinks where node = $1 and sink not in (select value from json_each($2))",
            "delete from activity_sinks
             where node = $1 and sink not in (select value from json_array_elements_text($2::json) as named (value))",
        ))
        .bind(node)
        .bind(&named)
        .execute(&mut *tx)
        .await
        .map_err(failed(OPERATION))?;
        // What was trimmed ends where the oldest checkpoint is that has no line.
        let begins = query_scalar::<Option<i64>>(
            "select coalesce((select min(seq) - 1 from activity where node = $1 and seq is not null),
                             (select max(seq) from activity_checkpoints where node = $1), 0)",
        )
        .bind(node)
        .fetch_one(&mut *tx)
        .await
        .map_err(failed(OPERATION))?;
        for sink in sinks {
            query("insert into activity_sinks (node, sink, seq) values ($1, $2, $3) on conflict do nothing")
                .bind(node)
                .bind(sink)
                .bind(begins.unwrap_or_default())
                .execute(&mut *tx)
                .await
                .map_err(failed(OPERATION))?;
        }
        commit(tx, OPERATION).await
    }

    async fn activity_sent(&self, node: &str, sink: &str) -> Result<Option<u64>> {
        const OPERATION: &str = "read what a receiver has of activities";
        let sent =
            query_scalar::<i64>("select seq from activity_sinks where node = $1 and sink = $2")
                .bind(node)
                .bind(sink)
                .fetch_optional(&mut *self.reader(OPERATION).await?)
                .await
                .map_err(failed(OPERATION))?;
        Ok(sent.map(i64::unsigned_abs))
    }

    async fn note_activity_sent(&self, node: &str, sink: &str, seq: u64) -> Result<()> {
        const OPERATION: &str = "note what a receiver has of activities";
        let mut tx = self.write(OPERATION).await?;
        query("update activity_sinks set seq = $3 where node = $1 and sink = $2 and seq < $3")
            .bind(node)
            .bind(sink)
            .bind(i64::try_from(seq).unwrap_or(i64::MAX))
            .execute(&mut *tx)
            .await
            .map_err(failed(OPERATION))?;
        commit(tx, OPERATION).await
    }
}

fn most() -> i64 {
    i64::try_from(ACTIVITY_MAX).unwrap_or(i64::MAX)
}

impl<E: Engine> SqlCatalog<E> {
    async fn link(&self, node: &str, sign: Sign<'_>) -> Result<usize> {
        const OPERATION: &str = "link activities";
        let mut tx = self.write(OPERATION).await?;
        let open = query_as::<LineRow>(
            "select * from activity where node = $1 and seq is null order by row limit $2",
        )
        .bind(node)
        .bind(most())
        .fetch_all(&mut *tx)
        .await
        .map_err(failed(OPERATION))?;
        if open.is_empty() {
            return Ok(0);
        }
        // The last line, or where they were all trimmed, the checkpoint that stayed.
        let end = query_as::<(i64, Option<String>)>(
            "select seq, hash from (select seq, hash from activity where node = $1 and seq is not null
                                    union all select seq, hash from activity_checkpoints where node = $1) as ends
             order by seq desc limit 1",
        )
        .bind(node)
        .fetch_optional(&mut *tx)
        .await
        .map_err(failed(OPERATION))?;
        let (mut seq, mut hash) = match end {
            Some((seq, hash)) => (seq.unsigned_abs(), hash.unwrap_or_default()),
            None => (0, CHAIN_START.to_owned()),
        };
        let mut links = Vec::with_capacity(open.len());
        for line in open {
            let row = line.row;
            seq += 1;
            let mut linked = line.into_linked();
            linked.seq = seq;
            hash = linked.hash_after(&hash);
            links.push(json!({ "row": row, "seq": seq, "hash": hash }));
        }
        query(Sql::of(
            "update activity set seq = link.value ->> 'seq', hash = link.value ->> 'hash'
             from json_each($1) as link where activity.row = link.value ->> 'row'",
            "update activity set seq = link.seq, hash = link.hash
             from json_to_recordset($1::json) as link (row bigint, seq bigint, hash text) where activity.row = link.row",
        ))
        .bind(rows::to_json("links", &links, BODY_BYTES_MAX)?)
        .execute(&mut *tx)
        .await
        .map_err(failed(OPERATION))?;
        let at = rows::micros(self.now());
        let end = Checkpoint {
            node: node.to_owned(),
            seq,
            at,
            hash,
            signed: String::new(),
        };
        query("insert into activity_checkpoints (node, seq, at, hash, signed) values ($1, $2, $3, $4, $5)")
            .bind(node)
            .bind(i64::try_from(seq).unwrap_or(i64::MAX))
            .bind(at)
            .bind(&end.hash)
            .bind(sign(&end))
            .execute(&mut *tx)
            .await
            .map_err(failed(OPERATION))?;
        commit(tx, OPERATION).await?;
        Ok(links.len())
    }
}
