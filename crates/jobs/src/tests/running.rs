//! A runner at work: retries, panics, cancellation, stopping, what is seen meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use catalog::{CANCELED, JobRow, JobState, JobStore, StepState};
use serde_json::json;
use tokio::sync::Notify;

use super::shop::{Mood, Order, Selling, Shop};
use crate::report::lock;
use crate::testing::{self, Trial};
use crate::{Cancel, JobId, Reconciler, Runner, RunnerBuilder, Submit};

/// Turns of the clock that a test may need before what it waits for is there.
const TURNS_MAX: usize = 10_000;
const TURN: Duration = Duration::from_secs(1);
const GRACE: Duration = Duration::from_secs(5);

fn start(shop: &Shop) -> Runner {
    let mut builder = RunnerBuilder::new(shop.catalog.clone(), shop.catalog.clone());
    builder.workers(3).register(shop.kind());
    builder.start()
}

async fn submit(shop: &Shop, runner: &Runner) -> JobId {
    let order = Order {
        article: "pan".into(),
    };
    runner
        .jobs()
        .submit::<Selling>(&shop.permit(), &order, Submit::default())
        .await
        .expect("submit")
}

async fn row(shop: &Shop, job: JobId) -> JobRow {
    shop.catalog
        .job(&shop.permit(), job)
        .await
        .expect("read the job")
}

/// Turns the clock until the state is there.
async fn until(shop: &Shop, mut there: impl AsyncFnMut() -> bool) {
    for _ in 0..TURNS_MAX {
        if there().await {
            return;
        }
        shop.clock.advance(TURN);
        tokio::task::yield_now().await;
    }
    panic!("what the test waits for does not come");
}

async fn ended(shop: &Shop, job: JobId) -> JobRow {
    until(shop, async || row(shop, job).await.state.ended()).await;
    row(shop, job).await
}

/// Turns the clock while something is waited for that ends by the clock. Each turn waits for its place at the
/// database's one connection, so that time does not outrun what is being written.
async fn while_time_goes<T>(shop: &Shop, work: impl Future<Output = T>) -> T {
    let time = async {
        for _ in 0..TURNS_MAX {
            shop.clock.advance(TURN);
            shop.catalog.next_due(&[]).await.expect("look");
        }
    };
    tokio::select! {
        done = work => done,
        () = time => panic!("it does not end"),
    }
}

/// A job alone with a mood: how it ends, how often the article was made, what is left on the shelf.
async fn check(mood: Mood, state: JobState, code: Option<&str>, made: u32, goods: usize) {
    let shop = Shop::new().await.mood(mood);
    let runner = start(&shop);
    let job = submit(&shop, &runner).await;
    let row = ended(&shop, job).await;
    assert_eq!(
        (
            row.state,
            row.failure.as_ref().map(|failure| failure.code.as_str())
        ),
        (state, code),
        "{mood:?}"
    );
    assert_eq!(
        (*lock(&shop.shelf.made), lock(&shop.shelf.goods).len()),
        (made, goods),
        "{mood:?}"
    );
    while_time_goes(&shop, runner.stop(GRACE)).await;
}

#[tokio::test]
async fn endings() {
    check(Mood::Good, JobState::Succeeded, None, 1, 2).await;
    check(Mood::Transient(2), JobState::Succeeded, None, 3, 2).await;
    check(Mood::Transient(99), JobState::Failed, Some("Busy"), 3, 0).await;
    check(
        Mood::Panics,
        JobState::Failed,
        Some("InternalServerError"),
        1,
        0,
    )
    .await;
}

#[tokio::test]
async fn a_job_that_is_canceled_ends_so_whether_or_not_it_listens() {
    for mood in [Mood::Waits, Mood::Deaf] {
        let shop = Shop::new().await.mood(mood);
        let runner = start(&shop);
        let job = submit(&shop, &runner).await;
        shop.shelf.begun.notified().await;
        assert_eq!(
            runner
                .jobs()
                .cancel(&shop.permit(), job)
                .await
                .expect("cancel"),
            JobState::Running
        );
        let row = ended(&shop, job).await;
        assert_eq!(
            (row.state, row.failure.map(|failure| failure.code)),
            (JobState::Canceled, Some(CANCELED.into()))
        );
        assert_eq!(*lock(&shop.shelf.status), "pan canceled");
        while_time_goes(&shop, runner.stop(GRACE)).await;
    }
}

#[tokio::test]
async fn a_job_that_was_canceled_before_it_began_does_nothing() {
    let shop = Shop::new().await;
    let builder = RunnerBuilder::new(shop.catalog.clone(), shop.catalog.clone());
    let order = Order {
        article: "pan".into(),
    };
    let job = builder
        .jobs()
        .submit::<Selling>(&shop.permit(), &order, Submit::default())
        .await
        .expect("submit");
    builder
        .jobs()
        .cancel(&shop.permit(), job)
        .await
        .expect("cancel");
    let row = testing::drive(&shop, job, || Arc::new(crate::faults::None)).await;
    assert_eq!(
        (row.state, *lock(&shop.shelf.made)),
        (JobState::Canceled, 0)
    );
}

#[tokio::test]
async fn a_stopped_runner_gives_its_jobs_back_and_another_ends_them() {
    let shop = Shop::new().await.mood(Mood::Deaf);
    let runner = start(&shop);
    let job = submit(&shop, &runner).await;
    shop.shelf.begun.notified().await;
    while_time_goes(&shop, runner.stop(GRACE)).await;
    assert_eq!(row(&shop, job).await.state, JobState::Queued);
    let shop = shop.mood(Mood::Good);
    let row = testing::drive(&shop, job, || Arc::new(crate::faults::None)).await;
    shop.check_done(&row).await;
    assert_eq!((row.claims, *lock(&shop.shelf.made)), (2, 2));
}

#[tokio::test]
async fn a_stopping_runner_lets_a_step_end_within_its_grace() {
    let shop = Shop::new().await.mood(Mood::Held);
    let runner = start(&shop);
    let job = submit(&shop, &runner).await;
    shop.shelf.begun.notified().await;
    shop.shelf.go_on.notify_one();
    while_time_goes(&shop, runner.stop(Duration::from_secs(3600))).await;
    let row = testing::drive(&shop, job, || Arc::new(crate::faults::None)).await;
    shop.check_done(&row).await;
    assert_eq!(
        *lock(&shop.shelf.made),
        1,
        "the step that ended is not done again"
    );
}

#[tokio::test]
async fn two_jobs_do_the_same_step_once() {
    let shop = Shop::new().await.mood(Mood::Held);
    let runner = start(&shop);
    let (first, second) = (submit(&shop, &runner).await, submit(&shop, &runner).await);
    shop.shelf.begun.notified().await;
    let running = async |job| row(&shop, job).await.state == JobState::Running;
    until(&shop, async || {
        running(first).await && running(second).await
    })
    .await;
    shop.shelf.go_on.notify_one();
    for job in [first, second] {
        assert_eq!(ended(&shop, job).await.state, JobState::Succeeded);
    }
    assert_eq!(*lock(&shop.shelf.made), 1);
    while_time_goes(&shop, runner.stop(GRACE)).await;
}

#[tokio::test]
async fn a_running_step_is_seen() {
    let shop = Shop::new().await.mood(Mood::Held);
    let runner = start(&shop);
    let job = submit(&shop, &runner).await;
    shop.shelf.begun.notified().await;
    let permit = shop.permit();
    until(&shop, async || {
        !shop
            .catalog
            .log(&permit, job, 0, 9)
            .await
            .expect("log")
            .lines
            .is_empty()
    })
    .await;
    let detail = json!({ "weight": 3 });
    until(&shop, async || {
        shop.catalog.steps(&permit, job).await.expect("steps")[0]
            .progress
            .detail
            == detail
    })
    .await;
    let log = shop.catalog.log(&permit, job, 0, 9).await.expect("log");
    assert_eq!(
        (log.lines[0].text.as_str(), log.done),
        ("making pan", false)
    );
    assert_eq!(
        shop.catalog.steps(&permit, job).await.expect("steps")[0].state,
        StepState::Running
    );
    shop.shelf.go_on.notify_one();
    let waited = while_time_goes(&shop, async { runner.jobs().wait(&permit, job).await })
        .await
        .expect("wait");
    assert_eq!(waited.state, JobState::Succeeded);
    while_time_goes(&shop, runner.stop(GRACE)).await;
}

#[tokio::test]
async fn rights_that_were_taken_end_a_job_that_needs_them() {
    let shop = Shop::new().await.mood(Mood::Held);
    let runner = start(&shop);
    let job = submit(&shop, &runner).await;
    shop.shelf.begun.notified().await;
    shop.dismiss().await;
    shop.shelf.go_on.notify_one();
    let failure = ended(&shop, job).await.failure.expect("failed");
    assert_eq!(
        (failure.code.as_str(), failure.step.as_deref()),
        ("AuthorizationFailed", Some("put"))
    );
    while_time_goes(&shop, runner.stop(GRACE)).await;
}

#[tokio::test]
async fn a_lock_that_was_put_meanwhile_ends_a_job_that_it_keeps() {
    let shop = Shop::new().await.mood(Mood::Held);
    let runner = start(&shop);
    let job = submit(&shop, &runner).await;
    shop.shelf.begun.notified().await;
    shop.shut().await;
    shop.shelf.go_on.notify_one();
    let failure = ended(&shop, job).await.failure.expect("failed");
    assert_eq!(
        (failure.code.as_str(), failure.step.as_deref()),
        ("ScopeLocked", Some("put"))
    );
    while_time_goes(&shop, runner.stop(GRACE)).await;
}

#[tokio::test]
async fn what_cannot_be_taken_back_is_said() {
    let shop = Shop::new().await.mood(Mood::NoWayBack);
    let runner = start(&shop);
    shop.dismiss().await;
    let job = submit(&shop, &runner).await;
    let row = ended(&shop, job).await;
    let failure = row.failure.expect("failed");
    assert_eq!(failure.code, "AuthorizationFailed");
    assert!(
        failure
            .message
            .ends_with("1 of its steps could not be taken back"),
        "{}",
        failure.message
    );
    while_time_goes(&shop, runner.stop(GRACE)).await;
}

struct Counter {
    passes: AtomicU32,
    passed: Notify,
}

#[async_trait]
impl Reconciler for Counter {
    fn name(&self) -> &'static str {
        "counter"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(60)
    }

    async fn reconcile(&self, _: &Cancel) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        self.passed.notify_one();
        match self.passes.fetch_add(1, Ordering::SeqCst) {
            0 => Err("the first pass fails".into()),
            _ => Ok(()),
        }
    }
}

#[tokio::test]
async fn a_reconciler_comes_at_once_then_by_time_and_by_nudge() {
    let shop = Shop::new().await;
    let counter = Arc::new(Counter {
        passes: 0.into(),
        passed: Notify::new(),
    });
    let mut builder = RunnerBuilder::new(shop.catalog.clone(), shop.catalog.clone());
    builder.reconcile(counter.clone());
    let runner = builder.start();
    counter.passed.notified().await;
    runner.jobs().nudge("counter");
    counter.passed.notified().await;
    while_time_goes(&shop, counter.passed.notified()).await;
    assert!(counter.passes.load(Ordering::SeqCst) >= 3);
    while_time_goes(&shop, runner.stop(GRACE)).await;
}
