//! What a job's code holds while it runs: steps, their log and progress, permits, cancellation.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use access::{Action, Permit};
use catalog::{
    CatalogError, Clock, JobId, Requester, StepEnd, StepHow, StepKey, StepRow, StepStart,
    StepState, later,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use wire::ResourceId;

use crate::error::{JobError, StepError};
use crate::faults::{Fate, Point};
use crate::report::{Abort, Session};

/// How often one action is started before a transient error counts as a failure.
pub(crate) const ATTEMPTS_MAX: u32 = 3;
/// The first pause before a retry; it doubles.
const BACKOFF: Duration = Duration::from_secs(2);
/// How long an action has to return after it was asked to stop; then it is dropped.
const CANCEL_GRACE: Duration = Duration::from_secs(30);

/// A step's value and where it came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Done<T> {
    pub value: T,
    pub how: StepHow,
}

/// What takes a step back.
#[derive(Clone, Debug)]
pub enum OnUndo<U> {
    Call(U),
    /// Nothing to take back, and why.
    Nothing(&'static str),
}

/// The job's side of its journal.
pub struct JobContext<U> {
    handle: StepHandle,
    journal: Vec<StepRow>,
    next_seq: u32,
    undo: std::marker::PhantomData<fn(U)>,
}

/// What an action holds: cheap to clone, and useless once the claim is lost.
#[derive(Clone)]
pub struct StepHandle {
    pub(crate) session: Arc<Session>,
    seq: Option<u32>,
    repeated: bool,
    /// Undo and settle go on when the job was asked to stop: it is what they are for.
    heeds_cancel: bool,
}

impl<U> Deref for JobContext<U> {
    type Target = StepHandle;

    fn deref(&self) -> &StepHandle {
        &self.handle
    }
}

impl<U: Serialize + Send + Sync> JobContext<U> {
    pub(crate) fn new(session: Arc<Session>, journal: Vec<StepRow>) -> JobContext<U> {
        let handle = StepHandle {
            session,
            seq: None,
            repeated: false,
            heeds_cancel: true,
        };
        JobContext {
            handle,
            journal,
            next_seq: 0,
            undo: std::marker::PhantomData,
        }
    }

    /// A handle outside of any step: log and permits, no progress.
    pub fn handle(&self) -> StepHandle {
        self.handle.clone()
    }

    /// A pure step: its result depends on what is in the key alone. If it was done in any job, its result is found.
    pub async fn step<T, F, Fut>(
        &mut self,
        name: &str,
        key: StepKey,
        run: F,
    ) -> Result<Done<T>, JobError>
    where
        T: Serialize + DeserializeOwned + Send,
        F: FnOnce(StepHandle) -> Fut + Send,
        Fut: Future<Output = Result<T, StepError>> + Send,
    {
        self.step_checked(name, key, |_: &T| true, run).await
    }

    /// A pure step whose found result may turn out to be worth nothing (what it names is gone): then it is forgotten
    /// and the step is run.
    pub async fn step_checked<T, C, F, Fut>(
        &mut self,
        name: &str,
        key: StepKey,
        good: C,
        run: F,
    ) -> Result<Done<T>, JobError>
    where
        T: Serialize + DeserializeOwned + Send,
        C: Fn(&T) -> bool + Send + Sync,
        F: FnOnce(StepHandle) -> Fut + Send,
        Fut: Future<Output = Result<T, StepError>> + Send,
    {
        let seq = self.begin(name)?;
        if let Some(done) = self
            .journaled(seq, Some(key))?
            .filter(|done| good(&done.value))
        {
            return Ok(done);
        }
        if let Some(done) = self.found(seq, name, key, &good).await? {
            return Ok(done);
        }
        // The same step of two jobs here is run once; of two on different hosts, the first result counts.
        let flight = self.handle.session.core.flights.of(key);
        let _turn = tokio::select! {
            turn = flight.lock() => turn,
            () = self.handle.session.canceled.raised() => return Err(self.stop(Abort::Canceled)),
            () = self.handle.session.core.stopping.raised() => return Err(self.stop(Abort::Interrupted)),
        };
        if let Some(done) = self.found(seq, name, key, &good).await? {
            return Ok(done);
        }
        let start = StepStart {
            seq,
            name: name.to_owned(),
            key: Some(key),
            undo: None,
        };
        let value = self.act(start, run).await?;
        let kept = self
            .handle
            .session
            .jobs()
            .keep_step_result(&self.handle.session.lease, &key, name, &value)
            .await;
        let kept = self.stored(kept)?;
        self.ended(seq, kept.output, StepHow::Run).await
    }

    /// A step with an effect outside the journal. It is done once per job; a crash between the act and the journal
    /// makes it be done again, so the action must be idempotent. Its undo is stored before it begins.
    pub async fn step_once<T, F, Fut>(
        &mut self,
        name: &str,
        undo: OnUndo<U>,
        run: F,
    ) -> Result<Done<T>, JobError>
    where
        T: Serialize + DeserializeOwned + Send,
        F: FnOnce(StepHandle) -> Fut + Send,
        Fut: Future<Output = Result<T, StepError>> + Send,
    {
        let seq = self.begin(name)?;
        if let Some(done) = self.journaled(seq, None)? {
            return Ok(done);
        }
        let undo = match undo {
            OnUndo::Nothing(_) => None,
            OnUndo::Call(undo) => Some(serde_json::to_value(undo).map_err(|error| {
                StepError::failed("BadUndo", format!("the undo of {name} cannot be stored"))
                    .because(error)
            })?),
        };
        let value = self
            .act(
                StepStart {
                    seq,
                    name: name.to_owned(),
                    key: None,
                    undo,
                },
                run,
            )
            .await?;
        self.ended(seq, value, StepHow::Run).await
    }

    /// The next place in the journal, unless the job has to stop before it.
    fn begin(&mut self, name: &str) -> Result<u32, JobError> {
        let session = &self.handle.session;
        if session.aborted().is_some() {
            return Err(JobError::Interrupted);
        }
        if session.canceled.is_raised() {
            return Err(self.stop(Abort::Canceled));
        }
        if session.core.stopping.is_raised() {
            return Err(self.stop(Abort::Interrupted));
        }
        let seq = self.next_seq;
        if let Some(row) = self
            .journal
            .get(seq as usize)
            .filter(|row| row.name != name)
        {
            let message = format!(
                "step {seq} was {} when the job began and is {name} now",
                row.name
            );
            return Err(JobError::failed("JournalMismatch", message));
        }
        self.next_seq += 1;
        Ok(seq)
    }

    fn stop(&self, why: Abort) -> JobError {
        self.handle.session.abort(why);
        match why {
            Abort::Canceled => JobError::Canceled,
            Abort::Lost => JobError::Lost,
            Abort::Interrupted | Abort::Retry(_) => JobError::Interrupted,
        }
    }

    /// What the journal says of this step, if it ended well with the same inputs.
    fn journaled<T: DeserializeOwned>(
        &self,
        seq: u32,
        key: Option<StepKey>,
    ) -> Result<Option<Done<T>>, JobError> {
        let Some(row) = self.journal.get(seq as usize) else {
            return Ok(None);
        };
        let (StepState::Succeeded, Some(output)) = (row.state, &row.output) else {
            return Ok(None);
        };
        if row.key != key {
            return Ok(None);
        }
        read(&row.name, output.clone(), row.how.unwrap_or(StepHow::Run)).map(Some)
    }

    /// A result from another job, or from this one before a crash, entered into the journal as found.
    async fn found<T: DeserializeOwned>(
        &self,
        seq: u32,
        name: &str,
        key: StepKey,
        good: &(impl Fn(&T) -> bool + Sync),
    ) -> Result<Option<Done<T>>, JobError> {
        let session = &self.handle.session;
        let Some(result) = self.stored(session.jobs().step_result(&key).await)? else {
            return Ok(None);
        };
        // A result of an older shape counts as none: the version mark in the key should have changed with it.
        let usable = serde_json::from_value::<T>(result.output.clone())
            .ok()
            .filter(|value| good(value));
        if usable.is_none() {
            self.stored(
                session
                    .jobs()
                    .forget_step_result(&session.lease, &key)
                    .await,
            )?;
            return Ok(None);
        }
        let start = StepStart {
            seq,
            name: name.to_owned(),
            key: Some(key),
            undo: None,
        };
        self.stored(session.jobs().start_step(&session.lease, &start).await)?;
        self.ended(seq, result.output, StepHow::Found)
            .await
            .map(Some)
    }

    /// Journals the start, runs the action, and journals its failure if it fails.
    async fn act<T, F, Fut>(&self, start: StepStart, run: F) -> Result<Value, JobError>
    where
        T: Serialize,
        F: FnOnce(StepHandle) -> Fut + Send,
        Fut: Future<Output = Result<T, StepError>> + Send,
    {
        let session = &self.handle.session;
        session.show_nothing();
        let row = self.stored(session.jobs().start_step(&session.lease, &start).await)?;
        let handle = StepHandle {
            seq: Some(row.seq),
            repeated: row.attempts > 1,
            ..self.handle.clone()
        };
        let result = match self.meet(Point::BeforeAction(row.seq))? {
            Some(error) => Err(error),
            None => self.until_canceled(run(handle)).await,
        };
        let result = result.and_then(|value| {
            serde_json::to_value(value).map_err(|error| {
                StepError::failed(
                    "BadOutput",
                    format!("the output of {} cannot be stored", row.name),
                )
                .because(error)
            })
        });
        let result = match self.meet(Point::AfterAction(row.seq))? {
            Some(error) => result.and(Err(error)),
            None => result,
        };
        self.stored(session.flush().await)?;
        match result {
            Ok(value) => Ok(value),
            Err(error) => Err(self.failed(&row, error).await),
        }
    }

    async fn until_canceled<T>(
        &self,
        action: impl Future<Output = Result<T, StepError>>,
    ) -> Result<T, StepError> {
        let session = &self.handle.session;
        let patience = async {
            session.canceled.raised().await;
            session
                .clock()
                .sleep_until(later(session.clock().now(), CANCEL_GRACE))
                .await;
        };
        tokio::select! {
            result = action => result,
            () = patience => Err(StepError::Canceled),
        }
    }

    async fn failed(&self, row: &StepRow, error: StepError) -> JobError {
        let session = &self.handle.session;
        if matches!(error, StepError::Lost) {
            return self.stop(Abort::Lost);
        }
        let canceled = session.canceled.is_raised() || matches!(error, StepError::Canceled);
        let failure = if canceled {
            StepError::Canceled.failure(Some(&row.name))
        } else {
            error.failure(Some(&row.name))
        };
        let end = StepEnd::Failed(failure);
        if let Err(error) =
            self.stored(session.jobs().end_step(&session.lease, row.seq, &end).await)
        {
            return error;
        }
        if canceled {
            return self.stop(Abort::Canceled);
        }
        match error {
            StepError::Transient { .. } if row.attempts < ATTEMPTS_MAX => {
                session.abort(Abort::Retry(backoff(session.clock(), row.attempts)));
                JobError::of_step(error, Some(&row.name))
            }
            StepError::Transient {
                code,
                message,
                source,
            } => JobError::of_step(
                StepError::Failed {
                    code,
                    message,
                    source,
                },
                Some(&row.name),
            ),
            error => JobError::of_step(error, Some(&row.name)),
        }
    }

    async fn ended<T: DeserializeOwned>(
        &self,
        seq: u32,
        output: Value,
        how: StepHow,
    ) -> Result<Done<T>, JobError> {
        let session = &self.handle.session;
        let end = StepEnd::Succeeded {
            output: output.clone(),
            how,
        };
        self.stored(session.jobs().end_step(&session.lease, seq, &end).await)?;
        self.meet(Point::AfterStep(seq))?;
        read("a step", output, how)
    }

    /// The journal itself failed: nothing may go on, since nothing would be remembered.
    fn stored<T>(&self, result: Result<T, CatalogError>) -> Result<T, JobError> {
        result.map_err(|error| {
            let session = &self.handle.session;
            match &error {
                CatalogError::LeaseLost { .. } => return self.stop(Abort::Lost),
                error if error.is_transient() => {
                    session.abort(Abort::Retry(backoff(session.clock(), 1)))
                }
                _ => {}
            }
            JobError::from(error)
        })
    }

    /// What a test has in store here: death, a failure, or nothing.
    fn meet(&self, point: Point) -> Result<Option<StepError>, JobError> {
        match self.handle.session.fate(point) {
            Fate::GoOn => Ok(None),
            Fate::Fail => Ok(Some(StepError::failed(
                "InjectedFault",
                "a test made this step fail",
            ))),
            Fate::Die => Err(self.stop(Abort::Lost)),
        }
    }
}

impl StepHandle {
    /// For undo and settle, which do not heed a cancellation.
    pub(crate) fn for_ending(session: Arc<Session>, seq: Option<u32>) -> StepHandle {
        StepHandle {
            session,
            seq,
            repeated: false,
            heeds_cancel: false,
        }
    }

    /// Adds a line to the job's log.
    pub fn log(&self, line: impl Into<String>) {
        self.session.log(line.into());
    }

    /// Says in a few words how far the step is. Visible while it runs.
    pub fn progress(&self, text: impl Into<String>) {
        let text = text.into();
        if let Some(seq) = self.seq {
            self.session.show(seq, |shown| shown.text = Some(text));
        }
    }

    /// Numbers and names that belong to the step: digests, bytes. Visible while it runs, kept when it ended.
    pub fn detail(&self, detail: Value) {
        if let Some(seq) = self.seq {
            self.session.show(seq, |shown| shown.detail = detail);
        }
    }

    /// The job was asked to stop: return [`StepError::Canceled`] soon.
    pub fn cancelled(&self) -> bool {
        self.heeds_cancel && self.session.canceled.is_raised()
    }

    pub async fn until_cancelled(&self) {
        if !self.heeds_cancel {
            std::future::pending::<()>().await;
        }
        self.session.canceled.raised().await;
    }

    /// This action was begun before and its end is not known.
    pub fn repeated(&self) -> bool {
        self.repeated
    }

    pub fn job(&self) -> JobId {
        self.session.job.id
    }

    pub fn requester(&self) -> Requester {
        self.session.job.requester
    }

    pub fn scope(&self) -> &ResourceId {
        &self.session.job.scope
    }

    pub fn clock(&self) -> &dyn Clock {
        self.session.clock()
    }

    /// May whoever asked for this job do this, now? Rights that were taken since the job was asked for are gone.
    pub async fn permit(&self, action: &Action, scope: &ResourceId) -> Result<Permit, StepError> {
        let Requester::Identity(identity) = self.session.job.requester else {
            return Err(StepError::failed(
                "AuthorizationFailed",
                "a job of the system acts for nobody",
            ));
        };
        let tenant = match scope.subscription() {
            None => Some(identity.tenant),
            Some(subscription) => {
                self.session
                    .auth()
                    .subscription_tenant(subscription)
                    .await?
            }
        };
        // An unknown subscription is refused like a foreign one would be: by the own tenant's assignments.
        let tenant = tenant.unwrap_or(identity.tenant);
        let grants = self
            .session
            .auth()
            .grants(identity.tenant, identity.principal)
            .await?;
        Ok(access::authorize(
            &identity, &grants, action, scope, tenant,
        )?)
    }
}

pub(crate) fn backoff(clock: &dyn Clock, attempts: u32) -> jiff::Timestamp {
    let doublings = attempts.saturating_sub(1).min(5);
    later(clock.now(), BACKOFF * 2u32.pow(doublings))
}

fn read<T: DeserializeOwned>(name: &str, output: Value, how: StepHow) -> Result<Done<T>, JobError> {
    let value = serde_json::from_value(output);
    let value = value.map_err(|error| {
        StepError::failed(
            "BadOutput",
            format!("the stored output of {name} cannot be read"),
        )
        .because(error)
    })?;
    Ok(Done { value, how })
}
