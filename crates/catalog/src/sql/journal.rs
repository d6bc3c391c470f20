//! What a job has done: its steps, the results of pure steps, and its log.

use serde_json::Value;
use sqlx::FromRow;

use super::claims::hold;
use super::{Connection, Engine, Sql, SqlCatalog, commit, failed, query, query_as, rows};
use crate::error::{CatalogError, Result};
use crate::jobs::{
    JOB_JSON_BYTES_MAX, JobId, LOG_LINE_BYTES_MAX, LOG_LINES_MAX, Lease, STEPS_MAX, StepEnd,
    StepHow, StepKey, StepProgress, StepResult, StepRow, StepStart, StepState,
};

impl<E: Engine> SqlCatalog<E> {
    pub(super) async fn write_step_start(
        &self,
        lease: &Lease,
        step: &StepStart,
    ) -> Result<StepRow> {
        const OPERATION: &str = "start a step";
        if step.seq >= STEPS_MAX {
            return Err(CatalogError::TooLarge {
                what: "steps of a job",
                limit: STEPS_MAX as usize,
            });
        }
        let undo = step
            .undo
            .as_ref()
            .map(|undo| rows::to_json("undo", undo, JOB_JSON_BYTES_MAX))
            .transpose()?;
        let mut tx = self.write(OPERATION).await?;
        hold(&mut tx, lease).await?;
        let row = query_as::<StepRecord>(
            "insert into job_steps (job, seq, name, step_key, state, attempts, detail, undo, started_at)
             values ($1, $2, $3, $4, 'Running', 1, 'null', $5, $6)
             on conflict (job, seq) do update set
                 name = excluded.name, step_key = excluded.step_key, state = 'Running', how = null,
                 attempts = job_steps.attempts + 1, progress_text = null, detail = 'null', undo = excluded.undo,
                 output = null, failure = null, ended_at = null
             returning *",
        )
        .bind(lease.job.to_string())
        .bind(i64::from(step.seq))
        .bind(&step.name)
        .bind(step.key.map(|key| key.to_string()))
        .bind(undo)
        .bind(rows::micros(self.now()))
        .fetch_one(&mut *tx)
        .await
        .map_err(failed(OPERATION))?;
        commit(tx, OPERATION).await?;
        row.into_step()
    }

    pub(super) async fn write_progress(
        &self,
        lease: &Lease,
        seq: u32,
        progress: &StepProgress,
    ) -> Result<()> {
        const OPERATION: &str = "write a step's progress";
        let mut tx = self.write(OPERATION).await?;
        hold(&mut tx, lease).await?;
        query("update job_steps set progress_text = $3, detail = $4 where job = $1 and seq = $2")
            .bind(lease.job.to_string())
            .bind(i64::from(seq))
            .bind(&progress.text)
            .bind(rows::to_json(
                "detail",
                &progress.detail,
                JOB_JSON_BYTES_MAX,
            )?)
            .execute(&mut *tx)
            .await
            .map_err(failed(OPERATION))?;
        commit(tx, OPERATION).await
    }

    pub(super) async fn write_step_end(
        &self,
        lease: &Lease,
        seq: u32,
        end: &StepEnd,
    ) -> Result<()> {
        const OPERATION: &str = "end a step";
        let (state, undo_failed) = match end {
            StepEnd::Succeeded { .. } => (Some(StepState::Succeeded), 0),
            StepEnd::Failed(_) => (Some(StepState::Failed), 0),
            StepEnd::Undone => (Some(StepState::Undone), 0),
            StepEnd::UndoRetry(_) => (None, 1),
            StepEnd::UndoFailed(_) => (Some(StepState::UndoFailed), 1),
        };
        let (output, how) = match end {
            StepEnd::Succeeded { output, how } => (
                Some(rows::to_json(
                    "a step's output",
                    output,
                    JOB_JSON_BYTES_MAX,
                )?),
                Some(how.as_str()),
            ),
            _ => (None, None),
        };
        let failure = match end {
            StepEnd::Failed(failure)
            | StepEnd::UndoRetry(failure)
            | StepEnd::UndoFailed(failure) => Some(rows::to_json(
                "a step's failure",
                failure,
                JOB_JSON_BYTES_MAX,
            )?),
            StepEnd::Succeeded { .. } | StepEnd::Undone => None,
        };
        let mut tx = self.write(OPERATION).await?;
        hold(&mut tx, lease).await?;
        query(
            "update job_steps set state = coalesce($3, state), output = coalesce($4, output), how = coalesce($5, how),
                 failure = coalesce($6, failure), undo_attempts = undo_attempts + $7, ended_at = $8
             where job = $1 and seq = $2",
        )
        .bind(lease.job.to_string())
        .bind(i64::from(seq))
        .bind(state.map(StepState::as_str))
        .bind(output)
        .bind(how)
        .bind(failure)
        .bind(i64::from(undo_failed))
        .bind(rows::micros(self.now()))
        .execute(&mut *tx)
        .await
        .map_err(failed(OPERATION))?;
        commit(tx, OPERATION).await
    }

    pub(super) async fn write_log(&self, lease: &Lease, lines: &[String]) -> Result<()> {
        const OPERATION: &str = "append to a log";
        if lines.is_empty() {
            return Ok(());
        }
        let lines: Vec<String> = lines
            .iter()
            .map(|line| cut(line).replace('\0', "\u{fffd}"))
            .collect();
        let mut tx = self.write(OPERATION).await?;
        hold(&mut tx, lease).await?;
        query(Sql::of(
            "insert into job_log (job, line, at, text)
             select $1, coalesce((select max(line) + 1 from job_log where job = $1), 0) + key, $2, value
             from json_each($3)",
            "insert into job_log (job, line, at, text)
             select $1, coalesce((select max(line) + 1 from job_log where job = $1), 0) + key - 1, $2, value
             from json_array_elements_text($3::json) with ordinality as lines (value, key)",
        ))
        .bind(lease.job.to_string())
        .bind(rows::micros(self.now()))
        .bind(rows::to_json("log lines", &lines, usize::MAX)?)
        .execute(&mut *tx)
        .await
        .map_err(failed(OPERATION))?;
        query(
            "delete from job_log where job = $1 and line <= (select max(line) from job_log where job = $1) - $2",
        )
        .bind(lease.job.to_string())
        .bind(i64::try_from(LOG_LINES_MAX).unwrap_or(i64::MAX))
        .execute(&mut *tx)
        .await
        .map_err(failed(OPERATION))?;
        commit(tx, OPERATION).await
    }

    pub(super) async fn write_result(
        &self,
        lease: &Lease,
        key: &StepKey,
        name: &str,
        output: &Value,
    ) -> Result<StepResult> {
        const OPERATION: &str = "keep a step's result";
        let mut tx = self.write(OPERATION).await?;
        hold(&mut tx, lease).await?;
        // The first result stands: two jobs that ran the same step at once go on with the same bytes.
        query(
            "insert into step_results (step_key, name, output, made_by, made_at) values ($1, $2, $3, $4, $5)
             on conflict (step_key) do nothing",
        )
        .bind(key.to_string())
        .bind(name)
        .bind(rows::to_json("a step's output", output, JOB_JSON_BYTES_MAX)?)
        .bind(lease.job.to_string())
        .bind(rows::micros(self.now()))
        .execute(&mut *tx)
        .await
        .map_err(failed(OPERATION))?;
        let kept = result(&mut tx, key).await?;
        commit(tx, OPERATION).await?;
        kept.ok_or_else(|| rows::corrupt("step_results", "gone within its transaction"))
    }

    pub(super) async fn drop_result(&self, lease: &Lease, key: &StepKey) -> Result<()> {
        const OPERATION: &str = "forget a step's result";
        let mut tx = self.write(OPERATION).await?;
        hold(&mut tx, lease).await?;
        query("delete from step_results where step_key = $1")
            .bind(key.to_string())
            .execute(&mut *tx)
            .await
            .map_err(failed(OPERATION))?;
        commit(tx, OPERATION).await
    }
}

pub(super) async fn steps(connection: &mut impl Connection, job: JobId) -> Result<Vec<StepRow>> {
    let found = query_as::<StepRecord>("select * from job_steps where job = $1 order by seq")
        .bind(job.to_string())
        .fetch_all(connection)
        .await
        .map_err(failed("read steps"))?;
    found.into_iter().map(StepRecord::into_step).collect()
}

pub(super) async fn result(
    connection: &mut impl Connection,
    key: &StepKey,
) -> Result<Option<StepResult>> {
    let found = query_as::<(String, String, i64)>(
        "select output, made_by, made_at from step_results where step_key = $1",
    )
    .bind(key.to_string())
    .fetch_optional(connection)
    .await
    .map_err(failed("look for a step's result"))?;
    found
        .map(|(output, made_by, made_at)| {
            Ok(StepResult {
                output: rows::from_json("step_results.output", &output)?,
                made_by: rows::parsed("step_results.made_by", &made_by)?,
                made_at: rows::time(made_at),
            })
        })
        .transpose()
}

/// A row of `job_steps`.
#[derive(FromRow)]
struct StepRecord {
    seq: i64,
    name: String,
    step_key: Option<String>,
    state: String,
    how: Option<String>,
    attempts: i64,
    undo_attempts: i64,
    progress_text: Option<String>,
    detail: String,
    undo: Option<String>,
    output: Option<String>,
    failure: Option<String>,
    started_at: i64,
    ended_at: Option<i64>,
}

impl StepRecord {
    fn into_step(self) -> Result<StepRow> {
        let key = self
            .step_key
            .map(|key| rows::parsed("job_steps.step_key", &key))
            .transpose()?;
        let how = self
            .how
            .map(|how| StepHow::stored(&how).ok_or_else(|| rows::corrupt("job_steps.how", &how)));
        Ok(StepRow {
            seq: u32::try_from(self.seq)
                .map_err(|_| rows::corrupt("job_steps.seq", &self.seq.to_string()))?,
            name: self.name,
            key,
            state: StepState::stored(&self.state)
                .ok_or_else(|| rows::corrupt("job_steps.state", &self.state))?,
            how: how.transpose()?,
            attempts: u32::try_from(self.attempts).unwrap_or(u32::MAX),
            undo_attempts: u32::try_from(self.undo_attempts).unwrap_or(u32::MAX),
            progress: StepProgress {
                text: self.progress_text,
                detail: rows::from_json("job_steps.detail", &self.detail)?,
            },
            undo: rows::maybe_json("job_steps.undo", self.undo.as_deref())?,
            output: rows::maybe_json("job_steps.output", self.output.as_deref())?,
            failure: rows::maybe_json("job_steps.failure", self.failure.as_deref())?,
            started_at: rows::time(self.started_at),
            ended_at: self.ended_at.map(rows::time),
        })
    }
}

/// The line without what is over the limit, cut between characters.
fn cut(line: &str) -> &str {
    &line[..line.floor_char_boundary(LOG_LINE_BYTES_MAX)]
}
