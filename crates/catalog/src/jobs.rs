//! Jobs as they are stored: rows, steps, results of steps, log lines, and the [`JobStore`] through which the `jobs`
//! crate claims and journals them. How a step is run and undone is not known here.
//!
//! Two kinds of right: people's methods take a permit; the runner's take the [`Lease`] that a claim gave it. A lease
//! that was lost (expired, and the job claimed by another) writes nothing.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use access::{Identity, Permit};
use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;
use wire::{ResourceId, TenantId};

use crate::clock::Clock;
use crate::error::Result;
use crate::resource::{Draft, Precondition, Put};

/// Input, output, undo and detail of a job or step: anything larger belongs in the store.
pub const JOB_JSON_BYTES_MAX: usize = 4 << 20;
/// Steps of one job.
pub const STEPS_MAX: u32 = 256;
/// Lines kept of one job's log; the oldest go first.
pub const LOG_LINES_MAX: u64 = 20_000;
/// A longer line is cut.
pub const LOG_LINE_BYTES_MAX: usize = 4096;
/// Lines in one read of a log.
pub const LOG_PAGE_MAX: usize = 2000;
/// Further resources at which a job may be seen.
pub const VISIBLE_AT_MAX: usize = 8;

/// Jobs, their journals and the results of steps.
#[async_trait]
pub trait JobStore: Send + Sync {
    /// The clock by which leases run. A runner takes it from here, so that there is one.
    fn clock(&self) -> Arc<dyn Clock>;

    /// Stores a job to be run as the permit's caller, at the permit's scope.
    async fn submit(&self, permit: &Permit, new: NewJob) -> Result<JobId>;
    /// Puts the resource at the permit's scope and submits the job that completes it: both or neither.
    async fn put_and_submit(
        &self,
        permit: &Permit,
        draft: Draft,
        precondition: Precondition,
        new: NewJob,
    ) -> Result<(Put, JobId)>;
    /// The job, if it is visible at or below the permit's scope.
    async fn job(&self, permit: &Permit, job: JobId) -> Result<JobRow>;
    /// Jobs visible at or below the permit's scope, newest first.
    async fn jobs(&self, permit: &Permit, limit: usize) -> Result<Vec<JobRow>>;
    /// The journal of a job, in order.
    async fn steps(&self, permit: &Permit, job: JobId) -> Result<Vec<StepRow>>;
    /// Log lines from an offset on. `LogPage::next` is the offset to ask for next.
    async fn log(&self, permit: &Permit, job: JobId, from: u64, limit: usize) -> Result<LogPage>;
    /// Asks a job to stop and undo. No effect on one that has ended.
    async fn cancel(&self, permit: &Permit, job: JobId) -> Result<JobState>;

    /// The oldest job of one of these kinds that may run now and that nobody holds. A holder is named by its server,
    /// a slash, and something of its own.
    async fn claim(
        &self,
        holder: &str,
        kinds: &[&str],
        lease_for: Duration,
    ) -> Result<Option<Claimed>>;
    /// When the next job that waits (for a retry, or for its lease to expire) may be claimed.
    async fn next_due(&self, kinds: &[&str]) -> Result<Option<Timestamp>>;
    /// Prolongs a lease and says whether the job was asked to stop.
    async fn heartbeat(&self, lease: &Lease, lease_for: Duration) -> Result<Asked>;
    /// Gives the job back, to be claimed again not before a time.
    async fn release(&self, lease: &Lease, not_before: Timestamp) -> Result<()>;
    /// Ends the leases of all holders whose names start with this server's and a slash. For a process that knows
    /// that the server's earlier ones are dead (it holds the data folder's lock), so that nobody need wait for what
    /// they left to run out. Leases of other servers on the same database end by time alone.
    async fn end_leases(&self, server: &str) -> Result<u64>;
    /// The job turns from going on to unwinding, for good.
    async fn begin_undo(&self, lease: &Lease, error: &JobFailure) -> Result<()>;
    /// The job has ended.
    async fn finish(&self, lease: &Lease, outcome: &Outcome) -> Result<()>;

    /// A step starts (again): keeps its place, and its undo, before anything is done.
    async fn start_step(&self, lease: &Lease, step: &StepStart) -> Result<StepRow>;
    /// What a running step shows of itself.
    async fn step_progress(&self, lease: &Lease, seq: u32, progress: &StepProgress) -> Result<()>;
    /// A step ended.
    async fn end_step(&self, lease: &Lease, seq: u32, end: &StepEnd) -> Result<()>;
    /// The journal of the job that one holds.
    async fn journal(&self, lease: &Lease) -> Result<Vec<StepRow>>;
    /// Appends to the log; drops the oldest lines past the limit.
    async fn append_log(&self, lease: &Lease, lines: &[String]) -> Result<()>;

    /// The result of a step with these inputs, whichever job it ran in.
    async fn step_result(&self, key: &StepKey) -> Result<Option<StepResult>>;
    /// Keeps a result. If there is one already, that one stays and is answered.
    async fn keep_step_result(
        &self,
        lease: &Lease,
        key: &StepKey,
        name: &str,
        output: &Value,
    ) -> Result<StepResult>;
    /// Drops a result that turned out to be worth nothing (what it names is gone).
    async fn forget_step_result(&self, lease: &Lease, key: &StepKey) -> Result<()>;
}

/// A job's id; later ids are larger.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(Uuid);

impl JobId {
    pub(crate) fn fresh() -> JobId {
        JobId(Uuid::now_v7())
    }

    pub fn uuid(self) -> Uuid {
        self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JobId({})", self.0)
    }
}

impl FromStr for JobId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> std::result::Result<JobId, uuid::Error> {
        text.parse().map(JobId)
    }
}

/// The name of a pure step's inputs: a hash over kind, version mark and inputs, made by the `jobs` crate.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StepKey([u8; 32]);

impl StepKey {
    pub fn from_hash(hash: [u8; 32]) -> StepKey {
        StepKey(hash)
    }
}

/// A text that is no step key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a step key is 64 hexadecimal digits")]
pub struct StepKeyError;

impl FromStr for StepKey {
    type Err = StepKeyError;

    fn from_str(text: &str) -> std::result::Result<StepKey, StepKeyError> {
        if text.len() != 64 || !text.is_ascii() {
            return Err(StepKeyError);
        }
        let mut hash = [0; 32];
        for (at, byte) in hash.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).map_err(|_| StepKeyError)?;
        }
        Ok(StepKey(hash))
    }
}

impl fmt::Display for StepKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for StepKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StepKey({self})")
    }
}

/// What is asked for. Tenant, scope and requester are the permit's.
#[derive(Clone, Debug)]
pub struct NewJob {
    pub kind: String,
    pub input: Value,
    /// While a job with the same text has not ended, another is refused (`JobInTheWay`).
    pub exclusive: Option<String>,
    /// Resources, besides the permit's scope, whose readers may read this job.
    pub visible_at: Vec<ResourceId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum JobState {
    /// Waits to be claimed, for the first time or for a retry.
    Queued,
    Running,
    /// Failed or canceled, and taking back what it did.
    Undoing,
    Succeeded,
    Failed,
    Canceled,
}

impl JobState {
    pub fn ended(self) -> bool {
        matches!(
            self,
            JobState::Succeeded | JobState::Failed | JobState::Canceled
        )
    }

    pub fn as_str(self) -> &'static str {
        match self {
            JobState::Queued => "Queued",
            JobState::Running => "Running",
            JobState::Undoing => "Undoing",
            JobState::Succeeded => "Succeeded",
            JobState::Failed => "Failed",
            JobState::Canceled => "Canceled",
        }
    }

    pub(crate) fn stored(text: &str) -> Option<JobState> {
        use JobState::{Canceled, Failed, Queued, Running, Succeeded, Undoing};
        [Queued, Running, Undoing, Succeeded, Failed, Canceled]
            .into_iter()
            .find(|state| state.as_str() == text)
    }
}

/// One job as people see it.
#[derive(Clone, Debug, PartialEq)]
pub struct JobRow {
    pub id: JobId,
    pub kind: String,
    pub tenant: TenantId,
    pub scope: ResourceId,
    pub requester: Requester,
    pub input: Value,
    pub state: JobState,
    pub cancel_asked: bool,
    pub output: Option<Value>,
    pub failure: Option<JobFailure>,
    /// How often it was claimed.
    pub claims: u32,
    pub submitted_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
}

/// As whom a job acts: the identity that asked, kept, and authorised anew for each permit; or the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Requester {
    Identity(Identity),
    System,
}

/// Why a job failed, as its owner is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobFailure {
    pub code: String,
    pub message: String,
    /// The step in which it failed.
    pub step: Option<String>,
}

/// The failure code of a job that was asked to stop.
pub const CANCELED: &str = "Canceled";

/// How a job ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    Succeeded(Value),
    /// The failure kept by `begin_undo` stands, or this one if there was none.
    Failed(JobFailure),
    Canceled(JobFailure),
}

/// The right to work on one job until the lease runs out. Only a claim makes one.
#[derive(Clone, Debug)]
pub struct Lease {
    pub(crate) job: JobId,
    pub(crate) holder: String,
    /// Counts claims: an older claim of the same holder is void as well.
    pub(crate) claim: u32,
}

impl Lease {
    pub fn job(&self) -> JobId {
        self.job
    }
}

/// A job to work on.
#[derive(Clone, Debug)]
pub struct Claimed {
    pub lease: Lease,
    pub job: JobRow,
}

/// What a heartbeat brings back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    GoOn,
    Stop,
}

/// One step of a job's journal.
#[derive(Clone, Debug, PartialEq)]
pub struct StepRow {
    pub seq: u32,
    pub name: String,
    pub key: Option<StepKey>,
    pub state: StepState,
    pub how: Option<StepHow>,
    /// How often it was started.
    pub attempts: u32,
    /// How often its undo failed.
    pub undo_attempts: u32,
    pub progress: StepProgress,
    pub undo: Option<Value>,
    pub output: Option<Value>,
    pub failure: Option<JobFailure>,
    pub started_at: Timestamp,
    pub ended_at: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum StepState {
    Running,
    Succeeded,
    Failed,
    /// Its undo was run.
    Undone,
    /// Its undo failed as often as it may.
    UndoFailed,
}

impl StepState {
    pub fn as_str(self) -> &'static str {
        match self {
            StepState::Running => "Running",
            StepState::Succeeded => "Succeeded",
            StepState::Failed => "Failed",
            StepState::Undone => "Undone",
            StepState::UndoFailed => "UndoFailed",
        }
    }

    pub(crate) fn stored(text: &str) -> Option<StepState> {
        use StepState::{Failed, Running, Succeeded, UndoFailed, Undone};
        [Running, Succeeded, Failed, Undone, UndoFailed]
            .into_iter()
            .find(|state| state.as_str() == text)
    }
}

/// Where a step's result came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StepHow {
    Run,
    Found,
}

impl StepHow {
    pub fn as_str(self) -> &'static str {
        match self {
            StepHow::Run => "run",
            StepHow::Found => "found",
        }
    }

    pub(crate) fn stored(text: &str) -> Option<StepHow> {
        [StepHow::Run, StepHow::Found]
            .into_iter()
            .find(|how| how.as_str() == text)
    }
}

/// What a step shows while it runs and afterwards.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepProgress {
    pub text: Option<String>,
    pub detail: Value,
}

/// The start of a step.
#[derive(Clone, Debug)]
pub struct StepStart {
    pub seq: u32,
    pub name: String,
    pub key: Option<StepKey>,
    pub undo: Option<Value>,
}

/// The end of a step, or of its undo.
#[derive(Clone, Debug)]
pub enum StepEnd {
    Succeeded {
        output: Value,
        how: StepHow,
    },
    Failed(JobFailure),
    Undone,
    /// Its undo failed and is to be tried again.
    UndoRetry(JobFailure),
    /// Its undo failed for good.
    UndoFailed(JobFailure),
}

/// A kept result of a pure step.
#[derive(Clone, Debug, PartialEq)]
pub struct StepResult {
    pub output: Value,
    /// The job in which it was made, for the record of where a thing came from.
    pub made_by: JobId,
    pub made_at: Timestamp,
}

/// Part of a log.
#[derive(Clone, Debug, PartialEq)]
pub struct LogPage {
    pub lines: Vec<LogLine>,
    /// The offset after the last line.
    pub next: u64,
    /// The job has ended and this page reached the end of its log.
    pub done: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct LogLine {
    pub offset: u64,
    pub at: Timestamp,
    pub text: String,
}
