//! One claimed job, from the claim to its end: forward, or backward when it failed, or given back.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Poll;

use catalog::{
    CANCELED, CatalogError, Claimed, JobFailure, JobState, Outcome, StepEnd, StepRow, StepState,
};
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::context::{ATTEMPTS_MAX, StepHandle, backoff};
use crate::error::{JobError, StepError};
use crate::faults::{Fate, Point};
use crate::kind::AnyKind;
use crate::reconcile::Chain;
use crate::report::{Abort, Session, lock};
use crate::runner::Core;

/// Claims of one job (first run, retries, crashes, restarts) before it is taken to be the cause of the crashes.
const CLAIMS_MAX: u32 = 20;
/// Further claims for undoing it; after them, what is left stays as it is and is said so.
const UNDO_CLAIMS_MAX: u32 = 20;

/// Works on a job until it ends, is given back, or is lost.
pub(crate) async fn work(core: Arc<Core>, kind: Arc<dyn AnyKind>, claimed: Claimed) {
    let session = Arc::new(Session::new(core.clone(), claimed.lease, claimed.job));
    let job = session.job.id;
    lock(&core.running).insert(job, session.cancel.clone());
    let pulse = Guard(tokio::spawn({
        let session = session.clone();
        async move { session.pulse().await }
    }));
    let end = work_beside(&session, &kind, pulse).await;
    let end = match end {
        Ok(Ending::GiveBack(not_before)) => give_back(&session, not_before).await,
        other => other.map(drop),
    };
    if let Err(error) = end {
        // The lease runs out and the job is claimed again, here or elsewhere.
        tracing::warn!(%job, kind = session.job.kind, error = %Chain(&error), "the job could not be journaled");
    }
    lock(&core.running).remove(&job);
    core.ended.send_modify(|count| *count += 1);
    core.work.notify_one();
}

/// The pulse is a task of its own: a job that keeps its thread busy for a while does not lose its lease for it.
async fn work_beside(
    session: &Arc<Session>,
    kind: &Arc<dyn AnyKind>,
    mut pulse: Guard<()>,
) -> Result<Ending, CatalogError> {
    tokio::select! {
        end = drive(session, kind) => end,
        _ = &mut pulse.0 => Ok(Ending::Lost),
        () = session.core.dropping.raised() => Ok(Ending::GiveBack(session.clock().now())),
    }
}

/// How work on a claim ends.
enum Ending {
    Finished,
    GiveBack(jiff::Timestamp),
    /// Another has the job, or (in a test) this process is dead: nothing may be written.
    Lost,
}

/// What is left to do with a job once it does not go forward.
enum Course {
    Finish(Value),
    Unwind(JobFailure),
    End(Ending),
}

async fn give_back(session: &Session, not_before: jiff::Timestamp) -> Result<(), CatalogError> {
    session.flush().await?;
    session.jobs().release(&session.lease, not_before).await
}

async fn drive(session: &Arc<Session>, kind: &Arc<dyn AnyKind>) -> Result<Ending, CatalogError> {
    let course = match (session.job.state, &session.job.failure) {
        (JobState::Undoing, Some(failure)) => Course::Unwind(failure.clone()),
        _ if session.job.claims > CLAIMS_MAX => Course::Unwind(JobFailure {
            code: "TooManyAttempts".to_owned(),
            message: format!("the job was begun {CLAIMS_MAX} times and never came to an end"),
            step: None,
        }),
        _ => forward(session, kind).await?,
    };
    match course {
        Course::End(ending) => Ok(ending),
        Course::Finish(output) => finish(session, kind.as_ref(), Outcome::Succeeded(output)).await,
        Course::Unwind(failure) => unwind(session, kind.as_ref(), failure).await,
    }
}

async fn forward(session: &Arc<Session>, kind: &Arc<dyn AnyKind>) -> Result<Course, CatalogError> {
    let journal = session.jobs().journal(&session.lease).await?;
    let (kind, shared) = (kind.clone(), session.clone());
    // In this task, so that dropping the work drops the action before the job is given back.
    let result = unpanicked(kind.run(shared, journal)).await;
    session.flush().await?;
    Ok(match (session.aborted(), result) {
        (Some(Abort::Lost), _) => Course::End(Ending::Lost),
        (Some(Abort::Interrupted), _) => Course::End(Ending::GiveBack(session.clock().now())),
        (Some(Abort::Retry(at)), _) => Course::End(Ending::GiveBack(at)),
        (Some(Abort::Canceled), _) | (None, Ok(Err(JobError::Canceled))) => {
            Course::Unwind(StepError::Canceled.failure(None))
        }
        (None, Ok(Ok(output))) => Course::Finish(output),
        (None, Ok(Err(JobError::Retry { failure, source }))) => {
            log_failure(session, &failure, source.as_deref());
            if session.job.claims < ATTEMPTS_MAX {
                Course::End(Ending::GiveBack(backoff(
                    session.clock(),
                    session.job.claims,
                )))
            } else {
                Course::Unwind(failure)
            }
        }
        (None, Ok(Err(JobError::Failed { failure, source }))) => {
            log_failure(session, &failure, source.as_deref());
            Course::Unwind(failure)
        }
        (None, Ok(Err(JobError::Interrupted))) => {
            Course::End(Ending::GiveBack(session.clock().now()))
        }
        (None, Ok(Err(JobError::Lost))) => Course::End(Ending::Lost),
        (None, Err(Panicked)) => {
            tracing::error!(job = %session.job.id, kind = session.job.kind, "a job panicked");
            Course::Unwind(JobFailure {
                code: "InternalServerError".to_owned(),
                message: "the job stopped on an error in its program".to_owned(),
                step: None,
            })
        }
    })
}

fn log_failure(
    session: &Session,
    failure: &JobFailure,
    source: Option<&(dyn std::error::Error + Send + Sync + 'static)>,
) {
    let cause = source
        .map(|source| Chain(source).to_string())
        .unwrap_or_default();
    let (job, kind, step) = (
        session.job.id,
        &session.job.kind,
        failure.step.as_deref().unwrap_or(""),
    );
    tracing::warn!(%job, kind, step, code = failure.code, message = failure.message, cause, "a job failed");
}

/// Takes steps back, last first. A step whose end is not known counts as done in part.
async fn unwind(
    session: &Arc<Session>,
    kind: &dyn AnyKind,
    failure: JobFailure,
) -> Result<Ending, CatalogError> {
    if session.job.state != JobState::Undoing {
        session.jobs().begin_undo(&session.lease, &failure).await?;
    }
    let journal = session.jobs().journal(&session.lease).await?;
    let mut left = journal
        .iter()
        .filter(|row| row.state == StepState::UndoFailed)
        .count();
    let to_undo = |row: &&StepRow| {
        row.undo.is_some()
            && matches!(
                row.state,
                StepState::Running | StepState::Succeeded | StepState::Failed
            )
    };
    for row in journal.iter().rev().filter(to_undo) {
        match undo(session, kind, row).await? {
            Undone::Yes => {}
            Undone::Never => left += 1,
            Undone::Later(ending) => return Ok(ending),
        }
    }
    let mut failure = failure;
    if left > 0 {
        failure.message = format!(
            "{}; {left} of its steps could not be taken back",
            failure.message
        );
    }
    let outcome = if failure.code == CANCELED {
        Outcome::Canceled(failure)
    } else {
        Outcome::Failed(failure)
    };
    finish(session, kind, outcome).await
}

enum Undone {
    Yes,
    Never,
    Later(Ending),
}

async fn undo(
    session: &Arc<Session>,
    kind: &dyn AnyKind,
    row: &StepRow,
) -> Result<Undone, CatalogError> {
    let (jobs, lease, seq) = (session.jobs(), &session.lease, row.seq);
    if session.fate(Point::BeforeUndo(seq)) == Fate::Die {
        return Ok(Undone::Later(Ending::Lost));
    }
    let given_up = session.job.claims > CLAIMS_MAX + UNDO_CLAIMS_MAX;
    let result = if given_up {
        Err(StepError::failed(
            "TooManyAttempts",
            "taking the step back was begun too often",
        ))
    } else {
        let handle = StepHandle::for_ending(session.clone(), Some(seq));
        let undo = row.undo.clone().unwrap_or(Value::Null);
        let output = row
            .output
            .clone()
            .filter(|_| row.state == StepState::Succeeded);
        kind.undo(handle, undo, output).await
    };
    if session.fate(Point::AfterUndo(seq)) == Fate::Die {
        return Ok(Undone::Later(Ending::Lost));
    }
    session.flush().await?;
    let Err(error) = result else {
        jobs.end_step(lease, seq, &StepEnd::Undone).await?;
        return Ok(Undone::Yes);
    };
    tracing::warn!(job = %session.job.id, step = row.name, error = %Chain(&error), "taking a step back failed");
    let failure = error.failure(Some(&row.name));
    let attempts = row.undo_attempts + 1;
    if matches!(error, StepError::Transient { .. }) && attempts < ATTEMPTS_MAX {
        jobs.end_step(lease, seq, &StepEnd::UndoRetry(failure))
            .await?;
        return Ok(Undone::Later(Ending::GiveBack(backoff(
            session.clock(),
            attempts,
        ))));
    }
    jobs.end_step(lease, seq, &StepEnd::UndoFailed(failure))
        .await?;
    Ok(Undone::Never)
}

/// The job's last word on its resource, then its end.
async fn finish(
    session: &Arc<Session>,
    kind: &dyn AnyKind,
    outcome: Outcome,
) -> Result<Ending, CatalogError> {
    let settled = kind
        .settle(StepHandle::for_ending(session.clone(), None), &outcome)
        .await;
    if session.fate(Point::AfterSettle) == Fate::Die {
        return Ok(Ending::Lost);
    }
    session.flush().await?;
    match settled {
        Err(StepError::Transient { .. }) if session.job.claims < CLAIMS_MAX => {
            return Ok(Ending::GiveBack(backoff(
                session.clock(),
                session.job.claims,
            )));
        }
        // The job is over either way; that its resource does not say so is for the log.
        Err(error) => {
            tracing::error!(job = %session.job.id, error = %Chain(&error), "settling a job failed")
        }
        Ok(()) => {}
    }
    session.jobs().finish(&session.lease, &outcome).await?;
    Ok(Ending::Finished)
}

/// A panic in a job is that job's failure, not the runner's.
struct Panicked;

async fn unpanicked<F: Future + Send>(work: F) -> Result<F::Output, Panicked> {
    let mut work = std::pin::pin!(work);
    std::future::poll_fn(|cx| {
        // After a panic the work is not polled again, so what it left half done is seen by nobody.
        let polled = catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx)));
        polled.map_or(Poll::Ready(Err(Panicked)), |poll| poll.map(Ok))
    })
    .await
}

/// Takes its task along when it is dropped.
struct Guard<T>(JoinHandle<T>);

impl<T> Drop for Guard<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
