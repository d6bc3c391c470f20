//! The tests that every kind of job passes: run twice, fail at each step, undo twice, die at each step.
//!
//! A kind brings a [`Trial`]: a fresh world, a look at what a finished job leaves, and a look at what an undone one
//! leaves. Time is a hand-turned clock, so retries and leases cost nothing.

mod trial;

use std::sync::Arc;

use catalog::{AuthStore, Clock, JobId, JobRow, JobState, JobStore, StepHow, StepRow, StepState};

pub use crate::faults::{Fate, Faults, Point};
use crate::kind::JobKind;
use crate::runner::{Runner, RunnerBuilder};
use crate::submit::Submit;
pub use trial::Trial;

/// Brings faults to a runner that a test makes by itself.
pub fn bring(builder: &mut RunnerBuilder, faults: Arc<dyn Faults>) {
    builder.faults(faults);
}

/// Claims that a job under test may need.
const CLAIMS_MAX: usize = 100;
/// Steps that a job under test may have.
const STEPS_MAX: u32 = 64;

/// All four, each in fresh worlds.
pub async fn check_kind<T: Trial>(fresh: impl AsyncFn() -> T) {
    runs_twice(&fresh).await;
    fails_at_each_step(&fresh).await;
    undoes_twice(&fresh).await;
    dies_at_each_step(&fresh).await;
}

/// A second job with the same input finds every pure step done, and leaves the same.
pub async fn runs_twice<T: Trial>(fresh: &impl AsyncFn() -> T) {
    let trial = fresh().await;
    for round in 0..2 {
        let job = submit(&trial).await;
        let row = drive(&trial, job, || Arc::new(crate::faults::None)).await;
        assert_eq!(
            row.state,
            JobState::Succeeded,
            "round {round}: {:?}",
            row.failure
        );
        let steps = steps(&trial, job).await;
        let ran =
            |step: &&StepRow| round > 0 && step.key.is_some() && step.how != Some(StepHow::Found);
        let again: Vec<&str> = steps
            .iter()
            .filter(ran)
            .map(|step| step.name.as_str())
            .collect();
        assert!(
            again.is_empty(),
            "done again although nothing changed: {again:?}"
        );
        trial.check_done(&row).await;
    }
}

/// Each step fails, before its action and after it; what was done is taken back.
pub async fn fails_at_each_step<T: Trial>(fresh: &impl AsyncFn() -> T) {
    for seq in 0..STEPS_MAX {
        for point in [Point::BeforeAction(seq), Point::AfterAction(seq)] {
            let trial = fresh().await;
            let fault = OneFault::new(point, Fate::Fail);
            let job = submit(&trial).await;
            let row = drive(&trial, job, || fault.clone()).await;
            if !fault.happened() {
                assert!(seq > 0, "the job has no step");
                return;
            }
            assert_unwound(&trial, &row, point).await;
        }
    }
    panic!("the job has more than {STEPS_MAX} steps");
}

/// The last step fails, and the runner dies after each undo in turn, before the journal says that it was run.
pub async fn undoes_twice<T: Trial>(fresh: &impl AsyncFn() -> T) {
    let last = last_step(fresh).await;
    for seq in (0..=last).rev() {
        for point in [Point::BeforeUndo(seq), Point::AfterUndo(seq)] {
            let trial = fresh().await;
            let failure = OneFault::new(Point::AfterAction(last), Fate::Fail);
            let death = OneFault::new(point, Fate::Die);
            let job = submit(&trial).await;
            let row = drive(&trial, job, || {
                Arc::new(Both(failure.clone(), death.clone()))
            })
            .await;
            assert_unwound(&trial, &row, point).await;
        }
    }
}

/// The runner dies around each step, and another one finishes the same job from the journal.
pub async fn dies_at_each_step<T: Trial>(fresh: &impl AsyncFn() -> T) {
    let last = last_step(fresh).await;
    let around = |seq| {
        [
            Point::BeforeAction(seq),
            Point::AfterAction(seq),
            Point::AfterStep(seq),
        ]
    };
    for point in (0..=last).flat_map(around).chain([Point::AfterSettle]) {
        let trial = fresh().await;
        let death = OneFault::new(point, Fate::Die);
        let job = submit(&trial).await;
        let row = drive(&trial, job, || death.clone()).await;
        assert!(death.happened(), "{point:?} was never reached");
        assert_eq!(
            row.state,
            JobState::Succeeded,
            "after death at {point:?}: {:?}",
            row.failure
        );
        trial.check_done(&row).await;
    }
}

/// Works on a job with a new runner for each claim, as after a restart, until it has ended. The clock is turned to
/// whatever the job waits for.
pub async fn drive<T: Trial>(
    trial: &T,
    job: JobId,
    faults: impl Fn() -> Arc<dyn Faults>,
) -> JobRow {
    let (store, clock) = (trial.catalog(), trial.clock());
    for _ in 0..CLAIMS_MAX {
        let worked = runner(trial, faults()).run_next().await;
        let row = store.job(&trial.permit(), job).await.expect("read the job");
        if row.state.ended() {
            return row;
        }
        let kinds = [<T::Kind as JobKind>::NAME];
        let due = store
            .next_due(&kinds)
            .await
            .expect("look")
            .expect("an open job is due some time");
        let wait =
            std::time::Duration::try_from(due.duration_since(clock.now())).unwrap_or_default();
        assert!(
            worked || !wait.is_zero(),
            "a job that is due was not claimed"
        );
        clock.advance(wait);
    }
    panic!("the job does not end");
}

fn runner<T: Trial>(trial: &T, faults: Arc<dyn Faults>) -> Runner {
    let jobs: Arc<dyn JobStore> = trial.catalog();
    let auth: Arc<dyn AuthStore> = trial.catalog();
    let mut builder = RunnerBuilder::new(jobs, auth);
    builder.register(trial.kind()).faults(faults);
    builder.build()
}

async fn submit<T: Trial>(trial: &T) -> JobId {
    let runner = runner(trial, Arc::new(crate::faults::None));
    let input = trial.input();
    runner
        .jobs()
        .submit::<T::Kind>(&trial.permit(), &input, Submit::default())
        .await
        .expect("submit")
}

async fn steps<T: Trial>(trial: &T, job: JobId) -> Vec<StepRow> {
    trial
        .catalog()
        .steps(&trial.permit(), job)
        .await
        .expect("read the steps")
}

async fn last_step<T: Trial>(fresh: &impl AsyncFn() -> T) -> u32 {
    let trial = fresh().await;
    let job = submit(&trial).await;
    drive(&trial, job, || Arc::new(crate::faults::None)).await;
    steps(&trial, job)
        .await
        .last()
        .expect("the job has a step")
        .seq
}

async fn assert_unwound<T: Trial>(trial: &T, row: &JobRow, point: Point) {
    assert_eq!(row.state, JobState::Failed, "{point:?}");
    for step in steps(trial, row.id).await {
        let open = step.undo.is_some() && step.state != StepState::Undone;
        assert!(
            !open,
            "{point:?}: {} was not taken back: {:?}",
            step.name, step.failure
        );
    }
    trial.check_undone(row).await;
}

/// One fault, once.
struct OneFault {
    point: Point,
    fate: Fate,
    happened: std::sync::atomic::AtomicBool,
}

impl OneFault {
    fn new(point: Point, fate: Fate) -> Arc<OneFault> {
        Arc::new(OneFault {
            point,
            fate,
            happened: false.into(),
        })
    }

    fn happened(&self) -> bool {
        self.happened.load(std::sync::atomic::Ordering::SeqCst)
    }
}

impl Faults for OneFault {
    fn at(&self, point: Point) -> Fate {
        if point != self.point || self.happened() {
            return Fate::GoOn;
        }
        self.happened
            .store(true, std::sync::atomic::Ordering::SeqCst);
        self.fate
    }
}

struct Both(Arc<OneFault>, Arc<OneFault>);

impl Faults for Both {
    fn at(&self, point: Point) -> Fate {
        match self.0.at(point) {
            Fate::GoOn => self.1.at(point),
            fate => fate,
        }
    }
}
