//! What a job is to its author: [`JobKind`]; and its form without type parameters, which the runner keeps.

use std::sync::Arc;

use async_trait::async_trait;
use catalog::{Outcome, StepRow};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::context::{JobContext, StepHandle};
use crate::error::{JobError, StepError};
use crate::report::Session;

/// A kind of job. `run` is replayed from its top after a crash or a retry: finished steps answer from the journal, so
/// anything that is not a function of the input (time, random, what is `latest`) goes through a step.
#[async_trait]
pub trait JobKind: Send + Sync + 'static {
    /// Stored with each job: it may never change its meaning.
    const NAME: &'static str;
    type Input: Serialize + DeserializeOwned + Send + Sync + 'static;
    /// Everything that a job of this kind may have to take back, stored before the action that it takes back.
    type Undo: Serialize + DeserializeOwned + Send + Sync + 'static;

    async fn run(
        &self,
        cx: &mut JobContext<Self::Undo>,
        input: Self::Input,
    ) -> Result<Value, JobError>;

    /// Takes back one step. `output` is what its action answered; none if it may have run in part, or not at all.
    /// Must be idempotent.
    async fn undo(
        &self,
        cx: &StepHandle,
        undo: Self::Undo,
        output: Option<Value>,
    ) -> Result<(), StepError>;

    /// The last word, whatever the ending: writes the final state on the resource that the job worked for. Must be
    /// idempotent.
    async fn settle(
        &self,
        cx: &StepHandle,
        input: &Self::Input,
        outcome: &Outcome,
    ) -> Result<(), StepError> {
        let _ = (cx, input, outcome);
        Ok(())
    }
}

/// The undo of a kind that never has any: it has no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NoUndo {}

#[async_trait]
pub(crate) trait AnyKind: Send + Sync {
    async fn run(&self, session: Arc<Session>, journal: Vec<StepRow>) -> Result<Value, JobError>;
    async fn undo(
        &self,
        cx: StepHandle,
        undo: Value,
        output: Option<Value>,
    ) -> Result<(), StepError>;
    async fn settle(&self, cx: StepHandle, outcome: &Outcome) -> Result<(), StepError>;
}

pub(crate) struct Erased<K>(pub K);

#[async_trait]
impl<K: JobKind> AnyKind for Erased<K> {
    async fn run(&self, session: Arc<Session>, journal: Vec<StepRow>) -> Result<Value, JobError> {
        let input = input::<K>(&session)?;
        let mut context = JobContext::new(session, journal);
        self.0.run(&mut context, input).await
    }

    async fn undo(
        &self,
        cx: StepHandle,
        undo: Value,
        output: Option<Value>,
    ) -> Result<(), StepError> {
        let undo = serde_json::from_value(undo);
        let undo = undo.map_err(|error| {
            StepError::failed("BadUndo", "the stored undo cannot be read").because(error)
        })?;
        self.0.undo(&cx, undo, output).await
    }

    async fn settle(&self, cx: StepHandle, outcome: &Outcome) -> Result<(), StepError> {
        let input = input::<K>(&cx.session)?;
        self.0.settle(&cx, &input, outcome).await
    }
}

fn input<K: JobKind>(session: &Session) -> Result<K::Input, StepError> {
    let input = K::Input::deserialize(&session.job.input);
    input.map_err(|error| {
        StepError::failed("BadInput", "the stored input cannot be read").because(error)
    })
}
