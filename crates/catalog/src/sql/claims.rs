//! Who works on a job: claims, leases, heartbeats, and how a job ends.

use std::time::Duration;

use jiff::Timestamp;

use super::jobs::JobRecord;
use super::{
    Connection, Engine, Sql, SqlCatalog, commit, failed, query, query_as, query_scalar, rows,
};
use crate::clock::later;
use crate::error::{CatalogError, Result};
use crate::jobs::{Asked, Claimed, JOB_JSON_BYTES_MAX, JobFailure, JobState, Lease, Outcome};

impl<E: Engine> SqlCatalog<E> {
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
        let row = query_as::<JobRecord>(Sql::of(
            "update jobs set holder = $1, lease_until = $2, claims = claims + 1,
                 state = case state when 'Queued' then 'Running' else state end,
                 started_at = coalesce(started_at, $3)
             where job = (select job from jobs
                          where ended_at is null and lease_until <= $3 and not_before <= $3
                            and kind in (select value from json_each($4))
                          order by job limit 1)
             returning *",
            // A job that another server is claiming at this moment is that server's.
            "update jobs set holder = $1, lease_until = $2, claims = claims + 1,
                 state = case state when 'Queued' then 'Running' else state end,
                 started_at = coalesce(started_at, $3)
             where job = (select job from jobs
                          where ended_at is null and lease_until <= $3 and not_before <= $3
                            and kind in (select json_array_elements_text($4::json))
                          order by job limit 1 for update skip locked)
             returning *",
        ))
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
        let at = query_scalar::<Option<i64>>(Sql::of(
            "select min(max(lease_until, not_before)) from jobs
             where ended_at is null and kind in (select value from json_each($1))",
            "select min(greatest(lease_until, not_before)) from jobs
             where ended_at is null and kind in (select json_array_elements_text($1::json))",
        ))
        .bind(rows::to_json("job kinds", kinds, JOB_JSON_BYTES_MAX)?)
        .fetch_one(&mut *self.reader("look for the next job").await?)
        .await
        .map_err(failed("look for the next job"))?;
        Ok(at.map(rows::time))
    }

    pub(super) async fn prolong(&self, lease: &Lease, lease_for: Duration) -> Result<Asked> {
        const OPERATION: &str = "prolong a lease";
        let mut tx = self.write(OPERATION).await?;
        let asked = query_scalar::<bool>(
            "update jobs set lease_until = $4
             where job = $1 and holder = $2 and claims = $3 and ended_at is null returning cancel_asked",
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
        query(
            "update jobs set holder = null, lease_until = 0,
                 not_before = case when cancel_asked then 0 else $2 end,
                 state = case state when 'Running' then 'Queued' else state end
             where job = $1",
        )
        .bind(lease.job.to_string())
        .bind(rows::micros(not_before))
        .execute(&mut *tx)
        .await
        .map_err(failed(OPERATION))?;
        commit(tx, OPERATION).await
    }

    pub(super) async fn take_back_all(&self, server: &str) -> Result<u64> {
        const OPERATION: &str = "end the leases of earlier processes";
        let mut tx = self.write(OPERATION).await?;
        let ended = query(
            "update jobs set holder = null, lease_until = 0,
                 state = case state when 'Running' then 'Queued' else state end
             where ended_at is null and holder > $1 || '/' and holder < $1 || '0'",
        )
        .bind(server)
        .execute(&mut *tx)
        .await
        .map_err(failed(OPERATION))?;
        commit(tx, OPERATION).await?;
        Ok(ended)
    }

    pub(super) async fn turn_to_undo(&self, lease: &Lease, error: &JobFailure) -> Result<()> {
        const OPERATION: &str = "begin to undo a job";
        let mut tx = self.write(OPERATION).await?;
        hold(&mut tx, lease).await?;
        query("update jobs set state = 'Undoing', failure = coalesce(failure, $2) where job = $1")
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
        query(
            "update jobs set state = $2, output = $3, failure = $4, ended_at = $5, holder = null, lease_until = 0
             where job = $1",
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
pub(super) async fn hold(tx: &mut impl Connection, lease: &Lease) -> Result<()> {
    // Locked, so that nobody claims the job between this look and the write after it.
    let held = query_scalar::<String>(Sql::of(
        "select job from jobs where job = $1 and holder = $2 and claims = $3 and ended_at is null",
        "select job from jobs where job = $1 and holder = $2 and claims = $3 and ended_at is null for update",
    ))
    .bind(lease.job.to_string())
    .bind(&lease.holder)
    .bind(i64::from(lease.claim))
    .fetch_optional(tx)
    .await
    .map_err(failed("check a lease"))?;
    if held.is_some() {
        Ok(())
    } else {
        Err(CatalogError::LeaseLost { job: lease.job })
    }
}
