//! Who works on a job: claims, leases, heartbeats, and how a job ends.

use std::time::Duration;

use jiff::Timestamp;
use sqlx::SqliteConnection;

use super::jobs::JobRecord;
use super::{SqliteCatalog, commit, failed, rows};
use crate::clock::later;
use crate::error::{CatalogError, Result};
use crate::jobs::{Asked, Claimed, JOB_JSON_BYTES_MAX, JobFailure, JobState, Lease, Outcome};

impl SqliteCatalog {
    pub(super) async fn claim_job(
        &self,
        holder: &str,
        kinds: &[&str],
        lease_for: Duration,
    ) -> Result<Option<Claimed>> {
        const OPERATION: &str = "claim a job";
        let now = self.now();
        let mut tx = self.write(OPERATION).await?;
        // A job that unwinds stays Undoing through claims: it never goes forward again.
        let row = sqlx::query_as::<_, JobRecord>(
            "update jobs set holder = ?1, lease_until = ?2, claims = claims + 1,
                 state = case state when 'Queued' then 'Running' else state end,
                 started_at = coalesce(started_at, ?3)
             where job = (select job from jobs
                          where ended_at is null and lease_until <= ?3 and not_before <= ?3
                            and kind in (select value from json_each(?4))
                          order by job limit 1)
             returning *",
        )
        .bind(holder)
        .bind(rows::micros(later(now, lease_for)))
        .bind(rows::micros(now))
        .bind(rows::to_json("job kinds", kinds, JOB_JSON_BYTES_MAX)?)
        .fetch_optional(&mut *tx)
        .await
        .map_err(failed(OPERATION))?;
        commit(tx, OPERATION).await?;
        let Some(row) = row else { return Ok(None) };
        let job = row.into_job()?;
        let lease = Lease {
            job: job.id,
            holder: holder.to_owned(),
            claim: job.claims,
        };
        Ok(Some(Claimed { lease, job }))
    }

    pub(super) async fn next_claimable(&self, kinds: &[&str]) -> Result<Option<Timestamp>> {
        let at = sqlx::query_scalar::<_, Option<i64>>(
            "select min(max(lease_until, not_before)) from jobs
             where ended_at is null and kind in (select value from json_each(?1))",
        )
        .bind(rows::to_json("job kinds", kinds, JOB_JSON_BYTES_MAX)?)
        .fetch_one(&self.readers)
        .await
        .map_err(failed("look for the next job"))?;
        Ok(at.map(rows::time))
    }

    pub(super) async fn prolong(&self, lease: &Lease, lease_for: Duration) -> Result<Asked> {
        const OPERATION: &str = "prolong a lease";
        let mut tx = self.write(OPERATION).await?;
        let asked = sqlx::query_scalar::<_, bool>(
            "update jobs set lease_until = ?4
             where job = ?1 and holder = ?2 and claims = ?3 and ended_at is null returning cancel_asked",
        )
        .bind(lease.job.to_string())
        .bind(&lease.holder)
        .bind(i64::from(lease.claim))
        .bind(rows::micros(later(self.now(), lease_for)))
        .fetch_optional(&mut *tx)
        .await
        .map_err(failed(OPERATION))?;
        commit(tx, OPERATION).await?;
        match asked {
            Some(true) => Ok(Asked::Stop),
            Some(false) => Ok(Asked::GoOn),
            None => Err(CatalogError::LeaseLost { job: lease.job }),
        }
    }

    pub(super) async fn give_back(&self, lease: &Lease, not_before: Timestamp) -> Result<()> {
        const OPERATION: &str = "release a job";
        let mut tx = self.write(OPERATION).await?;
        hold(&mut tx, lease).await?;
        // Asked to stop: there is nothing to wait for.
        sqlx::query(
            "update jobs set holder = null, lease_until = 0,
                 not_before = case cancel_asked when 1 then 0 else ?2 end,
                 state = case state when 'Running' then 'Queued' else state end
             where job = ?1",
        )
        .bind(lease.job.to_string())
        .bind(rows::micros(not_before))
        .execute(&mut *tx)
        .await
        .map_err(failed(OPERATION))?;
        commit(tx, OPERATION).await
    }

    pub(super) async fn take_back_all(&self) -> Result<u64> {
        const OPERATION: &str = "end the leases of earlier processes";
        let mut tx = self.write(OPERATION).await?;
        let ended = sqlx::query(
            "update jobs set holder = null, lease_until = 0,
                 state = case state when 'Running' then 'Queued' else state end
             where ended_at is null and holder is not null",
        )
        .execute(&mut *tx)
        .await
        .map_err(failed(OPERATION))?
        .rows_affected();
        commit(tx, OPERATION).await?;
        Ok(ended)
    }

    pub(super) async fn turn_to_undo(&self, lease: &Lease, error: &JobFailure) -> Result<()> {
        const OPERATION: &str = "begin to undo a job";
        let mut tx = self.write(OPERATION).await?;
        hold(&mut tx, lease).await?;
        sqlx::query(
            "update jobs set state = 'Undoing', failure = coalesce(failure, ?2) where job = ?1",
        )
        .bind(lease.job.to_string())
        .bind(rows::to_json("failure", error, JOB_JSON_BYTES_MAX)?)
        .execute(&mut *tx)
        .await
        .map_err(failed(OPERATION))?;
        commit(tx, OPERATION).await
    }

    pub(super) async fn end_job(&self, lease: &Lease, outcome: &Outcome) -> Result<()> {
        const OPERATION: &str = "finish a job";
        let (state, output, failure) = match outcome {
            Outcome::Succeeded(output) => (JobState::Succeeded, Some(output), None),
            Outcome::Failed(failure) => (JobState::Failed, None, Some(failure)),
            Outcome::Canceled(failure) => (JobState::Canceled, None, Some(failure)),
        };
        let output = output
            .map(|output| rows::to_json("output", output, JOB_JSON_BYTES_MAX))
            .transpose()?;
        let failure = failure
            .map(|failure| rows::to_json("failure", failure, JOB_JSON_BYTES_MAX))
            .transpose()?;
        let mut tx = self.write(OPERATION).await?;
        hold(&mut tx, lease).await?;
        sqlx::query(
            "update jobs set state = ?2, output = ?3, failure = ?4, ended_at = ?5, holder = null, lease_until = 0
             where job = ?1",
        )
        .bind(lease.job.to_string())
        .bind(state.as_str())
        .bind(output)
        .bind(failure)
        .bind(rows::micros(self.now()))
        .execute(&mut *tx)
        .await
        .map_err(failed(OPERATION))?;
        commit(tx, OPERATION).await
    }
}

/// Every write of a runner begins with this, in its transaction: only the last claim of an open job may write.
pub(super) async fn hold(tx: &mut SqliteConnection, lease: &Lease) -> Result<()> {
    let held = sqlx::query_scalar::<_, bool>(
        "select exists (select 1 from jobs where job = ?1 and holder = ?2 and claims = ?3 and ended_at is null)",
    )
    .bind(lease.job.to_string())
    .bind(&lease.holder)
    .bind(i64::from(lease.claim))
    .fetch_one(tx)
    .await
    .map_err(failed("check a lease"))?;
    if held {
        Ok(())
    } else {
        Err(CatalogError::LeaseLost { job: lease.job })
    }
}
