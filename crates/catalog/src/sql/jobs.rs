//! `JobStore` in SQL: what people ask and see. Claims and journals are in the modules beside.

use std::sync::Arc;
use std::time::Duration;

use access::Permit;
use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::Value;
use sqlx::FromRow;
use wire::ResourceId;

use super::resources::check_write;
use super::{
    Connection, Engine, SqlCatalog, again, commit, failed, query, query_as, query_scalar, rows,
};
use crate::activity::ActivityStatus;
use crate::clock::Clock;
use crate::error::{CatalogError, Result};
use crate::jobs::{
    Asked, Claimed, JOB_JSON_BYTES_MAX, JobFailure, JobId, JobRow, JobState, JobStore,
    LOG_PAGE_MAX, Lease, LogLine, LogPage, NewJob, Outcome, Requester, StepEnd, StepKey,
    StepProgress, StepResult, StepRow, StepStart, VISIBLE_AT_MAX,
};
use crate::resource::{Draft, PAGE_MAX, Precondition, Put};

#[async_trait]
impl<E: Engine> JobStore for SqlCatalog<E> {
    fn clock(&self) -> Arc<dyn Clock> {
        self.clock.clone()
    }

    async fn submit(&self, permit: &Permit, new: NewJob) -> Result<JobId> {
        const OPERATION: &str = "submit a job";
        again!({
            let mut tx = self.write(OPERATION).await?;
            let job = self.submit_in(&mut tx, permit, &new).await?;
            self.record(&mut tx, permit, ActivityStatus::Accepted, true)
                .await?;
            commit(tx, OPERATION).await?;
            Ok(job)
        })
    }

    async fn put_and_submit(
        &self,
        permit: &Permit,
        draft: Draft,
        precondition: Precondition,
        new: NewJob,
    ) -> Result<(Put, JobId)> {
        const OPERATION: &str = "put a resource and submit its job";
        again!({
            let mut tx = self.write(OPERATION).await?;
            self.order(&mut tx, &draft.record).await?;
            let put = self.put_in(&mut tx, permit, &draft, &precondition).await?;
            let job = self.submit_in(&mut tx, permit, &new).await?;
            self.commit_resources(tx, OPERATION).await?;
            Ok((put, job))
        })
    }

    async fn job(&self, permit: &Permit, job: JobId) -> Result<JobRow> {
        let mut reader = self.reader("read a job").await?;
        visible(&mut reader, permit, job).await?.into_job()
    }

    async fn jobs(&self, permit: &Permit, limit: usize) -> Result<Vec<JobRow>> {
        let found = query_as::<JobRecord>(
            "select * from jobs where job in (
                 select job from job_places where tenant = $1
                     and (id_key = $2 or (id_key > $3 || '/' and id_key < $3 || '0')))
             order by job desc limit $4",
        )
        .bind(permit.tenant().to_string())
        .bind(permit.scope().folded())
        .bind(rows::prefix(permit.scope()))
        .bind(i64::try_from(limit.clamp(1, PAGE_MAX)).unwrap_or(1))
        .fetch_all(&mut *self.reader("list jobs").await?)
        .await
        .map_err(failed("list jobs"))?;
        found.into_iter().map(JobRecord::into_job).collect()
    }

    async fn steps(&self, permit: &Permit, job: JobId) -> Result<Vec<StepRow>> {
        let mut reader = self.reader("read a job's steps").await?;
        visible(&mut reader, permit, job).await?;
        super::journal::steps(&mut reader, job).await
    }

    async fn log(&self, permit: &Permit, job: JobId, from: u64, limit: usize) -> Result<LogPage> {
        const OPERATION: &str = "read a job's log";
        let mut reader = self.reader(OPERATION).await?;
        let ended = visible(&mut reader, permit, job).await?.ended_at.is_some();
        let limit = limit.clamp(1, LOG_PAGE_MAX);
        let found = query_as::<(i64, i64, String)>(
            "select line, at, text from job_log where job = $1 and line >= $2 order by line limit $3",
        )
        .bind(job.to_string())
        .bind(i64::try_from(from).unwrap_or(i64::MAX))
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(&mut *reader)
        .await
        .map_err(failed(OPERATION))?;
        let done = ended && found.len() < limit;
        let lines: Vec<LogLine> = found
            .into_iter()
            .map(|(line, at, text)| LogLine {
                offset: line.unsigned_abs(),
                at: rows::time(at),
                text,
            })
            .collect();
        let next = lines.last().map_or(from, |line| line.offset + 1);
        Ok(LogPage { lines, next, done })
    }

    async fn cancel(&self, permit: &Permit, job: JobId) -> Result<JobState> {
        const OPERATION: &str = "cancel a job";
        check_write(permit)?;
        let mut tx = self.write(OPERATION).await?;
        let state = visible(&mut tx, permit, job).await?.into_job()?.state;
        query(
            "update jobs set cancel_asked = true, not_before = 0 where job = $1 and ended_at is null",
        )
        .bind(job.to_string())
        .execute(&mut *tx)
        .await
        .map_err(failed(OPERATION))?;
        self.record(&mut tx, permit, ActivityStatus::Accepted, true)
            .await?;
        commit(tx, OPERATION).await?;
        Ok(state)
    }

    async fn claim(
        &self,
        holder: &str,
        kinds: &[&str],
        lease_for: Duration,
    ) -> Result<Option<Claimed>> {
        self.claim_job(holder, kinds, lease_for).await
    }

    async fn next_due(&self, kinds: &[&str]) -> Result<Option<Timestamp>> {
        self.next_claimable(kinds).await
    }

    async fn heartbeat(&self, lease: &Lease, lease_for: Duration) -> Result<Asked> {
        self.prolong(lease, lease_for).await
    }

    async fn release(&self, lease: &Lease, not_before: Timestamp) -> Result<()> {
        self.give_back(lease, not_before).await
    }

    async fn end_leases(&self, server: &str) -> Result<u64> {
        self.take_back_all(server).await
    }

    async fn begin_undo(&self, lease: &Lease, error: &JobFailure) -> Result<()> {
        self.turn_to_undo(lease, error).await
    }

    async fn finish(&self, lease: &Lease, outcome: &Outcome) -> Result<()> {
        self.end_job(lease, outcome).await
    }

    async fn start_step(&self, lease: &Lease, step: &StepStart) -> Result<StepRow> {
        self.write_step_start(lease, step).await
    }

    async fn step_progress(&self, lease: &Lease, seq: u32, progress: &StepProgress) -> Result<()> {
        self.write_progress(lease, seq, progress).await
    }

    async fn end_step(&self, lease: &Lease, seq: u32, end: &StepEnd) -> Result<()> {
        self.write_step_end(lease, seq, end).await
    }

    async fn journal(&self, lease: &Lease) -> Result<Vec<StepRow>> {
        let mut reader = self.reader("read a journal").await?;
        super::journal::steps(&mut reader, lease.job).await
    }

    async fn append_log(&self, lease: &Lease, lines: &[String]) -> Result<()> {
        self.write_log(lease, lines).await
    }

    async fn step_result(&self, key: &StepKey) -> Result<Option<StepResult>> {
        let mut reader = self.reader("look for a step's result").await?;
        super::journal::result(&mut reader, key).await
    }

    async fn keep_step_result(
        &self,
        lease: &Lease,
        key: &StepKey,
        name: &str,
        output: &Value,
    ) -> Result<StepResult> {
        self.write_result(lease, key, name, output).await
    }

    async fn forget_step_result(&self, lease: &Lease, key: &StepKey) -> Result<()> {
        self.drop_result(lease, key).await
    }
}

impl<E: Engine> SqlCatalog<E> {
    async fn submit_in(
        &self,
        tx: &mut impl Connection,
        permit: &Permit,
        new: &NewJob,
    ) -> Result<JobId> {
        const OPERATION: &str = "submit a job";
        check_write(permit)?;
        if new.visible_at.len() > VISIBLE_AT_MAX {
            return Err(CatalogError::TooLarge {
                what: "places of a job",
                limit: VISIBLE_AT_MAX,
            });
        }
        if let Some(exclusive) = &new.exclusive {
            check_way_is_clear(tx, exclusive).await?;
        }
        let job = JobId::fresh();
        let requester = permit
            .identity()
            .map_or(Requester::System, |identity| Requester::Identity(*identity));
        query(
            "insert into jobs (job, kind, tenant, scope, requester, input, state, exclusive, submitted_at)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        )
        .bind(job.to_string())
        .bind(&new.kind)
        .bind(permit.tenant().to_string())
        .bind(permit.scope().to_string())
        .bind(rows::to_json("requester", &requester, JOB_JSON_BYTES_MAX)?)
        .bind(rows::to_json("input", &new.input, JOB_JSON_BYTES_MAX)?)
        .bind(JobState::Queued.as_str())
        .bind(&new.exclusive)
        .bind(rows::micros(self.now()))
        .execute(&mut *tx)
        .await
        .map_err(failed(OPERATION))?;
        for place in std::iter::once(permit.scope()).chain(&new.visible_at) {
            show_at(tx, permit, job, place).await?;
        }
        Ok(job)
    }
}

/// A row of `jobs`.
#[derive(FromRow)]
pub(super) struct JobRecord {
    job: String,
    kind: String,
    tenant: String,
    scope: String,
    requester: String,
    input: String,
    state: String,
    cancel_asked: bool,
    output: Option<String>,
    failure: Option<String>,
    claims: i64,
    submitted_at: i64,
    started_at: Option<i64>,
    ended_at: Option<i64>,
}

impl JobRecord {
    pub fn into_job(self) -> Result<JobRow> {
        Ok(JobRow {
            id: rows::parsed("jobs.job", &self.job)?,
            kind: self.kind,
            tenant: rows::parsed("jobs.tenant", &self.tenant)?,
            scope: rows::parsed("jobs.scope", &self.scope)?,
            requester: rows::from_json("jobs.requester", &self.requester)?,
            input: rows::from_json("jobs.input", &self.input)?,
            state: JobState::stored(&self.state)
                .ok_or_else(|| rows::corrupt("jobs.state", &self.state))?,
            cancel_asked: self.cancel_asked,
            output: rows::maybe_json("jobs.output", self.output.as_deref())?,
            failure: rows::maybe_json("jobs.failure", self.failure.as_deref())?,
            claims: u32::try_from(self.claims).unwrap_or(u32::MAX),
            submitted_at: rows::time(self.submitted_at),
            started_at: self.started_at.map(rows::time),
            ended_at: self.ended_at.map(rows::time),
        })
    }
}

async fn check_way_is_clear(tx: &mut impl Connection, exclusive: &str) -> Result<()> {
    let running =
        query_scalar::<String>("select job from jobs where exclusive = $1 and ended_at is null")
            .bind(exclusive)
            .fetch_optional(tx)
            .await
            .map_err(failed("look for a job in the way"))?;
    match running {
        None => Ok(()),
        Some(running) => Err(CatalogError::JobInTheWay {
            running: rows::parsed("jobs.job", &running)?,
            exclusive: exclusive.to_owned(),
        }),
    }
}

async fn show_at(
    tx: &mut impl Connection,
    permit: &Permit,
    job: JobId,
    place: &ResourceId,
) -> Result<()> {
    query("insert into job_places (job, tenant, id_key) values ($1, $2, $3) on conflict do nothing")
        .bind(job.to_string())
        .bind(permit.tenant().to_string())
        .bind(place.folded())
        .execute(tx)
        .await
        .map(drop)
        .map_err(failed("show a job at a resource"))
}

/// A job that the permit does not reach is told from one that does not exist by nobody.
async fn visible(
    connection: &mut impl Connection,
    permit: &Permit,
    job: JobId,
) -> Result<JobRecord> {
    let found = query_as::<JobRecord>(
        "select * from jobs where job = $1 and exists (
             select 1 from job_places where job_places.job = jobs.job and job_places.tenant = $2
                 and (id_key = $3 or (id_key > $4 || '/' and id_key < $4 || '0')))",
    )
    .bind(job.to_string())
    .bind(permit.tenant().to_string())
    .bind(permit.scope().folded())
    .bind(rows::prefix(permit.scope()))
    .fetch_optional(connection)
    .await
    .map_err(failed("find a job"))?;
    found.ok_or(CatalogError::NoSuchJob { job })
}
