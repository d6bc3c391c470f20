//! `ChangeFeed` in SQL. The rows are written by triggers, in the transaction of the write that they tell of.

use async_trait::async_trait;
use sqlx::FromRow;
use tokio::sync::watch;

use super::{Engine, SqlCatalog, failed, query_as, query_scalar, rows};
use crate::changes::{CHANGES_MAX, Change, ChangeFeed, ChangeKind, Changes};
use crate::error::Result;

#[derive(FromRow)]
struct ChangeRow {
    seq: i64,
    tenant: String,
    id: String,
    deleted: bool,
}

#[async_trait]
impl<E: Engine> ChangeFeed for SqlCatalog<E> {
    async fn latest_change(&self) -> Result<u64> {
        const OPERATION: &str = "read the newest change";
        self.number(OPERATION).await?;
        let latest = query_scalar::<i64>("select coalesce(max(seq), 0) from changes")
            .fetch_one(&mut *self.reader(OPERATION).await?)
            .await
            .map_err(failed(OPERATION))?;
        Ok(latest.unsigned_abs())
    }

    async fn changes_after(&self, after: u64, limit: usize) -> Result<Changes> {
        const OPERATION: &str = "read changes";
        self.number(OPERATION).await?;
        let from = i64::try_from(after).unwrap_or(i64::MAX);
        let limit = i64::try_from(limit.clamp(1, CHANGES_MAX)).unwrap_or(i64::MAX);
        let found = query_as::<ChangeRow>(
            "select seq, tenant, id, deleted from changes where seq > $1 order by seq limit $2",
        )
        .bind(from)
        .bind(limit)
        .fetch_all(&mut *self.reader(OPERATION).await?)
        .await
        .map_err(failed(OPERATION))?;
        let Some(first) = found.first() else {
            let latest = self.latest_change().await?;
            return Ok(match latest >= after {
                true => Changes::Next(Vec::new()),
                false => Changes::Lost { latest },
            });
        };
        if first.seq != from.saturating_add(1) {
            let latest = self.latest_change().await?;
            return Ok(Changes::Lost { latest });
        }
        let changes: Result<Vec<Change>> = found.into_iter().map(ChangeRow::into_change).collect();
        changes.map(Changes::Next)
    }

    fn wakeups(&self) -> watch::Receiver<u64> {
        self.written.subscribe()
    }
}

impl<E: Engine> SqlCatalog<E> {
    async fn number(&self, operation: &'static str) -> Result<()> {
        self.engine
            .number_changes()
            .await
            .map_err(failed(operation))
    }
}

impl ChangeRow {
    fn into_change(self) -> Result<Change> {
        Ok(Change {
            seq: self.seq.unsigned_abs(),
            tenant: rows::parsed("changes.tenant", &self.tenant)?,
            id: rows::parsed("changes.id", &self.id)?,
            what: match self.deleted {
                true => ChangeKind::Removed,
                false => ChangeKind::Written,
            },
        })
    }
}
