//! The client's side: submit a job, cancel it, wait for its end, nudge a reconciler.

use std::sync::Arc;
use std::time::Duration;

use access::Permit;
use catalog::{
    CatalogError, Draft, JobId, JobRow, JobState, JobStore, NewJob, Precondition, Put, later,
};
use wire::ResourceId;

use crate::kind::JobKind;
use crate::report::lock;
use crate::runner::Signals;

/// How often a job of another process is looked at while somebody waits for it.
const LOOK: Duration = Duration::from_secs(2);

/// Submits jobs and follows them. Cheap to clone.
#[derive(Clone)]
pub struct Jobs {
    store: Arc<dyn JobStore>,
    signals: Arc<Signals>,
}

/// What may be said of a job beside its input.
#[derive(Clone, Debug, Default)]
pub struct Submit {
    /// While a job with the same text has not ended, another is refused.
    pub exclusive: Option<String>,
    /// Resources, besides the permit's scope, whose readers may read this job.
    pub visible_at: Vec<ResourceId>,
}

impl Jobs {
    pub(crate) fn new(store: Arc<dyn JobStore>, signals: Arc<Signals>) -> Jobs {
        Jobs { store, signals }
    }

    /// Stores a job, to be run as the permit's identity. It is on disk when this returns.
    pub async fn submit<K: JobKind>(
        &self,
        permit: &Permit,
        input: &K::Input,
        submit: Submit,
    ) -> Result<JobId, CatalogError> {
        let job = self
            .store
            .submit(permit, new_job::<K>(input, submit)?)
            .await?;
        self.signals.work.notify_one();
        Ok(job)
    }

    /// Puts the resource at the permit's scope and submits the job that completes it, both or neither.
    pub async fn put_and_submit<K: JobKind>(
        &self,
        permit: &Permit,
        draft: Draft,
        precondition: Precondition,
        input: &K::Input,
        submit: Submit,
    ) -> Result<(Put, JobId), CatalogError> {
        let new = new_job::<K>(input, submit)?;
        let done = self
            .store
            .put_and_submit(permit, draft, precondition, new)
            .await?;
        self.signals.work.notify_one();
        Ok(done)
    }

    /// Asks a job to stop and take back what it did. Answers the state in which it was asked.
    pub async fn cancel(&self, permit: &Permit, job: JobId) -> Result<JobState, CatalogError> {
        let state = self.store.cancel(permit, job).await?;
        // A runner elsewhere learns it from its next heartbeat.
        if let Some(cancel) = lock(&self.signals.running).get(&job) {
            cancel.raise();
        }
        self.signals.work.notify_one();
        Ok(state)
    }

    /// The job, once it has ended.
    pub async fn wait(&self, permit: &Permit, job: JobId) -> Result<JobRow, CatalogError> {
        let clock = self.store.clock();
        let mut ended = self.signals.ended.subscribe();
        loop {
            ended.mark_unchanged();
            let row = self.store.job(permit, job).await?;
            if row.state.ended() {
                return Ok(row);
            }
            tokio::select! {
                _ = ended.changed() => {}
                () = clock.sleep_until(later(clock.now(), LOOK)) => {}
            }
        }
    }

    /// Has a reconciler of this process look now. No effect if there is none of the name.
    pub fn nudge(&self, reconciler: &str) {
        if let Some(nudge) = lock(&self.signals.nudges).get(reconciler) {
            nudge.notify_one();
        }
    }

    /// A job was submitted through the store itself: have a worker of this process look now.
    pub fn wake(&self) {
        self.signals.work.notify_one();
    }

    pub fn store(&self) -> &Arc<dyn JobStore> {
        &self.store
    }
}

fn new_job<K: JobKind>(input: &K::Input, submit: Submit) -> Result<NewJob, CatalogError> {
    let input = serde_json::to_value(input).map_err(|error| CatalogError::Mismatch {
        why: format!("the input of a {} job cannot be stored: {error}", K::NAME),
    })?;
    Ok(NewJob {
        kind: K::NAME.to_owned(),
        input,
        exclusive: submit.exclusive,
        visible_at: submit.visible_at,
    })
}
