//! Promotions while regions are away, people stop them and others ask for the same.

use std::path::PathBuf;
use std::sync::OnceLock;

use jobs::testing::{Fate, Faults, Point};
use jobs::{JobId, JobState, Jobs, Runner};

use super::*;

/// The steps of a promotion through the two gates of `Chain::fresh`.
const STEPS: u32 = 6;

impl Chain {
    /// A server as after a restart; it works when it is told to.
    fn server(&self, faults: Option<Arc<dyn Faults>>) -> (Runner, Promotions) {
        let mut builder =
            RunnerBuilder::new(self.world.catalog.clone(), self.world.catalog.clone());
        let factory = self.world.factory();
        factory.register(&mut builder);
        if let Some(faults) = faults {
            testing::bring(&mut builder, faults);
        }
        (builder.build(), Promotions(factory))
    }

    /// Turns the clock, has promotions looked after, and works on what there is then. Answers whether there was any.
    async fn later(&self, seconds: u64) -> bool {
        self.world.clock.advance(Duration::from_secs(seconds));
        let (runner, promotions) = self.server(None);
        let stop = jobs::CancelSource::new().token();
        promotions.reconcile(&stop).await.expect("reconcile");
        let mut worked = false;
        // A job that cannot go on is tried a few times before it ends.
        for _ in 0..4 {
            worked |= runner.run_next().await;
            self.world.clock.advance(Duration::from_secs(10));
        }
        worked
    }

    fn boots(&self) -> usize {
        let log = self.world.machines.log();
        log.iter().filter(|line| line.starts_with("start")).count()
    }
}

#[track_caller]
fn check_waits(promotion: &PromotionProperties, failures: u32) {
    let message = &promotion.message;
    assert_eq!(
        promotion.state,
        PromotionState::WaitingForRegion,
        "{message}"
    );
    assert_eq!(promotion.region_failures, failures);
    assert!(promotion.retry_time.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_is_down_loses_nothing() {
    let mut chain = Chain::fresh().await;
    chain.properties["stages"][1]["targetRegions"] =
        json!([{ "name": "west" }, { "name": "south" }]);
    check_waits(&chain.promote("test").await, 1);
    let boots = chain.boots();
    assert!(chain.version("test").await.is_none());

    assert!(!chain.later(0).await, "it was tried without a pause");
    assert!(chain.later(60).await, "it was not tried again");
    check_waits(&chain.promotion("test").await, 2);
    assert!(!chain.later(60).await, "the pause does not grow");
    let west = Location::new("west");
    let west = chain.world.regions.define(&west, &["1".to_owned()]);
    west.unwrap();
    assert!(chain.later(60).await, "it was not tried again");

    let done = chain.promotion("test").await;
    assert_eq!(done.state, PromotionState::Succeeded, "{}", done.message);
    assert_eq!((done.region_failures, &done.retry_time), (0, &None));
    assert_eq!(
        chain.boots(),
        boots,
        "a gate that passed was asked once more"
    );
    let copied: Vec<(&str, bool)> = done
        .copies
        .iter()
        .map(|copy| (copy.region.as_str(), copy.moved_bytes > 0))
        .collect();
    assert_eq!(
        copied,
        [("south", false), ("west", true)],
        "only what is missing"
    );
}

/// The folder of the region's store, put out of reach and back.
fn unplug(chain: &Chain, region: &str) -> impl FnOnce() + use<> {
    let folder: PathBuf = chain.world.folder.path().join("regions").join(region);
    let aside = folder.with_extension("aside");
    std::fs::rename(&folder, &aside).expect("unplug");
    std::fs::write(&folder, "not a folder").expect("unplug");
    move || {
        std::fs::remove_file(&folder).expect("plug in");
        std::fs::rename(&aside, &folder).expect("plug in");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_goes_away_under_a_promotion_is_waited_for() {
    let chain = Chain::fresh().await;
    let plug_in = unplug(&chain, "south");
    check_waits(&chain.promote("test").await, 1);
    assert_eq!(
        chain.promotion("test").await.gates[1].state,
        GateState::NotReached
    );
    plug_in();
    assert!(chain.later(60).await);
    let done = chain.promotion("test").await;
    assert_eq!(done.state, PromotionState::Succeeded, "{}", done.message);
    let verified = verify(&chain.world.factory(), &done).await.unwrap();
    assert!(verified.equal, "{verified:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_is_down_is_counted_once() {
    let mut chain = Chain::with_gates(json!([])).await;
    chain.properties["stages"][1]["targetRegions"] = json!([{ "name": "west" }]);
    let waiting = chain.promote("test").await;
    let record = Record::of(&chain.world.factory(), &chain.id("test")).await;
    let failure = catalog::JobFailure {
        code: REGION_UNAVAILABLE.to_owned(),
        message: "said twice".to_owned(),
        step: None,
    };
    let outcome = Outcome::Failed(failure);
    let now = chain.world.clock.now();
    // As where a server died between the record and the end of its job.
    record.unwrap().settle(&outcome, now).await.unwrap();
    let again = chain.promotion("test").await;
    check_waits(&again, 1);
    assert_eq!(again.retry_time, waiting.retry_time);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_that_waits_for_a_region_is_canceled_for_good() {
    let mut chain = Chain::with_gates(json!([])).await;
    chain.properties["stages"][1]["targetRegions"] = json!([{ "name": "west" }]);
    let mut waiting = chain.promote("test").await;
    cancel(&mut waiting, chain.world.clock.now()).expect("cancel");
    chain.decide("test", &waiting).await;
    assert!(!chain.later(3600).await, "it was tried again");
    assert_eq!(
        chain.promotion("test").await.state,
        PromotionState::Canceled
    );

    // Said after the next try was submitted and before it began: whatever that does, nothing comes of it.
    let chain = Chain::fresh().await;
    let mut running = chain.asked("test");
    running.state = PromotionState::Canceled;
    chain.decide("test", &running).await;
    let ended = chain.work("test").await;
    assert_eq!(ended.state, PromotionState::Canceled);
    assert!(chain.version("test").await.is_none());
}

/// Somebody cancels the job at one moment of its life.
struct CanceledAt {
    point: Point,
    asked: Arc<OnceLock<(Jobs, Permit, JobId)>>,
}

impl Faults for CanceledAt {
    fn at(&self, point: Point) -> Fate {
        if let Some((jobs, permit, job)) = self.asked.get().filter(|_| point == self.point) {
            let asked = jobs.cancel(permit, *job);
            let here = tokio::runtime::Handle::current();
            tokio::task::block_in_place(|| here.block_on(asked)).expect("cancel");
        }
        Fate::GoOn
    }
}

async fn check_canceled(point: Point) -> Chain {
    let chain = asked().await;
    let asked = Arc::new(OnceLock::new());
    let faults = CanceledAt {
        point,
        asked: Arc::clone(&asked),
    };
    let (runner, _) = chain.server(Some(Arc::new(faults)));
    let (jobs, permit) = (runner.jobs(), chain.permit_to("test"));
    let input = PromoteInput {
        promotion: chain.id("test"),
    };
    let job = jobs.submit::<Promote>(&permit, &input, Submit::default());
    let job = job.await.expect("submit");
    assert!(asked.set((jobs, permit.clone(), job)).is_ok());
    assert!(runner.run_next().await);
    let row = chain.world.catalog.job(&permit, job).await.expect("a job");
    assert_eq!(row.state, JobState::Canceled, "{point:?}");
    let promotion = chain.promotion("test").await;
    assert_eq!(promotion.state, PromotionState::Canceled, "{point:?}");
    assert!(chain.version("test").await.is_none(), "{point:?}");
    assert!(chain.world.machines.running().is_empty(), "{point:?}");
    chain
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_is_canceled_at_any_moment_and_leaves_nothing() {
    for seq in 0..STEPS {
        check_canceled(Point::BeforeAction(seq)).await;
        let last = seq + 1 == STEPS;
        if !last {
            check_canceled(Point::AfterStep(seq)).await;
        }
    }
    // After `publish`, and asked for again.
    let chain = check_canceled(Point::BeforeAction(STEPS - 1)).await;
    chain.decide("test", &chain.asked("test")).await;
    let done = chain.work("test").await;
    assert_eq!(done.state, PromotionState::Succeeded, "{}", done.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_that_is_waited_for_survives_restarts() {
    let chain = Chain::with_approval().await;
    let waiting = chain.promote("test").await;
    for _ in 0..3 {
        assert!(
            !chain.later(3600).await,
            "there is nothing to do but to wait"
        );
    }
    let still = chain.promotion("test").await;
    assert_eq!(still, waiting);
    let mut approved = still;
    let by = somebody(chain.stage("test").operator.tenant);
    let now = chain.world.clock.now();
    approve(&mut approved, by, false, &Opinion::default(), now).expect("approve");
    chain.decide("test", &approved).await;
    let done = chain.work("test").await;
    assert_eq!(done.state, PromotionState::Succeeded, "{}", done.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_who_ask_at_once_ask_for_one_promotion() {
    let chain = Chain::fresh().await;
    let record = serde_json::to_value(chain.asked("test")).unwrap();
    let permit = chain.permit_to("test");
    let ask = || {
        let job = catalog::NewJob {
            kind: Promote::NAME.to_owned(),
            input: json!({ "promotion": chain.id("test") }),
            exclusive: Some(exclusive(&chain.id("test"))),
            visible_at: Vec::new(),
        };
        let draft = Draft::new(record.clone());
        let catalog = &chain.world.catalog;
        catalog.put_and_submit(&permit, draft, Precondition::Absent, job)
    };
    let (one, two) = tokio::join!(ask(), ask());
    let lost = [one, two].into_iter().filter_map(Result::err);
    let lost: Vec<CatalogError> = lost.collect();
    assert!(
        matches!(
            lost[..],
            [CatalogError::Precondition { .. } | CatalogError::JobInTheWay { .. }]
        ),
        "{lost:?}"
    );
}

/// The largest file below the folder: where a region keeps the bits.
fn largest(folder: &std::path::Path) -> PathBuf {
    let mut open = vec![folder.to_owned()];
    let mut found: Option<(u64, PathBuf)> = None;
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let bytes = entry.metadata().unwrap().len();
            if entry.file_type().unwrap().is_dir() {
                open.push(entry.path());
            } else if found.as_ref().is_none_or(|(most, _)| bytes > *most) {
                found = Some((bytes, entry.path()));
            }
        }
    }
    found.expect("a file").1
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_or_missing_copy_is_told_by_the_proof() {
    let chain = Chain::with_gates(json!([])).await;
    let done = chain.promote("test").await;
    assert_eq!(done.state, PromotionState::Succeeded, "{}", done.message);
    let plug_in = unplug(&chain, "south");
    let factory = chain.world.factory();
    let verified = verify(&factory, &done).await.unwrap();
    assert!(verified.equal, "north is enough: {verified:?}");
    assert_eq!(verified.stages[1].missing_in, [Location::new("south")]);
    plug_in();

    let pack = largest(&chain.world.folder.path().join("regions/south"));
    let mut bytes = std::fs::read(&pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&pack, bytes).unwrap();
    let verified = verify(&factory, &done).await.unwrap();
    assert!(!verified.equal, "{verified:?}");
}
