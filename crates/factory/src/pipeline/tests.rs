//! Whole runs on fakes: what is found, what is taken back, what a reader sees, and what a death of
//! the server at any moment leaves.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use access::Permit;
use async_trait::async_trait;
use catalog::{JobRow, JobState, ManualClock, SqliteCatalog};
use jobs::testing::{self, Trial};
use serde_json::{Value, json};
use wire::factory::{How, RunProperties, Stage, StepState};
use wire::template::RunState;

use super::{Begun, BuildRun, BuildRunInput};
use crate::replicate::replication_status;
use crate::testing::{RUN_ACTION, World, template_properties};

/// A world with one run that is about to be worked on.
struct OneRun {
    world: World,
    begun: Begun,
}

impl OneRun {
    async fn fresh() -> OneRun {
        let world = World::new(&["north"]).await;
        let begun = world.begin_run(&world.factory()).await;
        OneRun { world, begun }
    }
}

#[async_trait]
impl Trial for OneRun {
    type Kind = BuildRun;

    fn kind(&self) -> BuildRun {
        BuildRun(self.world.factory())
    }

    fn input(&self) -> BuildRunInput {
        self.begun.input.clone()
    }

    fn permit(&self) -> Permit {
        self.world.clerk_permit(RUN_ACTION, &self.world.template)
    }

    fn catalog(&self) -> Arc<SqliteCatalog> {
        self.world.catalog.clone()
    }

    fn clock(&self) -> ManualClock {
        self.world.clock.clone()
    }

    async fn check_done(&self, job: &JobRow) {
        assert_eq!(self.world.versions().await, ["1.0.0"]);
        let record = self.world.record(&self.begun.run).await;
        assert_eq!(record.run_state, RunState::Succeeded, "{}", record.message);
        assert!(
            record
                .steps
                .iter()
                .all(|step| step.state == StepState::Succeeded),
            "{record:#?}"
        );
        let output = job.output.clone().unwrap_or_default();
        assert_eq!(
            output["outputs"]["diskDigest"],
            record.outputs.unwrap().disk_digest.unwrap()
        );
        let output = self.world.template.child("runOutputs", "golden").unwrap();
        let output = self.world.get(&output).await.unwrap();
        assert!(
            output.properties["artifactId"]
                .as_str()
                .unwrap()
                .ends_with("/versions/1.0.0")
        );
        assert!(self.world.machines.running().is_empty());
    }

    async fn check_undone(&self, _job: &JobRow) {
        assert!(self.world.versions().await.is_empty());
        let record = self.world.record(&self.begun.run).await;
        assert_eq!(record.run_state, RunState::Failed);
        assert!(!record.message.is_empty());
        assert!(self.world.machines.running().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_found_again_changes_nothing() {
    testing::runs_twice(&OneRun::fresh).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_fails_anywhere_publishes_nothing() {
    testing::fails_at_each_step(&OneRun::fresh).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn taking_back_survives_deaths() {
    testing::undoes_twice(&OneRun::fresh).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_at_any_step_is_survived() {
    testing::dies_at_each_step(&OneRun::fresh).await;
}

/// Works on one run to its end, as after a restart.
async fn work(world: &World) -> (Begun, JobRow) {
    world.run(&world.factory()).await
}

fn how(record: &RunProperties, stage: Stage, name: &str) -> Option<How> {
    let step = record
        .steps
        .iter()
        .find(|step| step.stage == stage && step.name == name);
    step.and_then(|step| step.how)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_check_publishes_nothing_and_the_next_run_goes_on_from_it() {
    let world = World::new(&["north", "south"]).await;
    world.check_fails.store(true, Ordering::SeqCst);
    let (begun, job) = work(&world).await;
    assert_eq!(job.state, JobState::Failed);
    let failed = world.record(&begun.run).await;
    assert!(
        failed.message.contains("check `motd` (Shell) failed"),
        "{}",
        failed.message
    );
    assert!(
        failed.message.contains("motd is empty"),
        "{}",
        failed.message
    );
    let step = failed
        .steps
        .iter()
        .find(|step| step.stage == Stage::Test)
        .unwrap();
    assert_eq!(step.detail["checks"][1]["passed"], false);
    assert!(
        failed
            .steps
            .iter()
            .any(|step| step.state == StepState::Waiting)
    );
    assert!(world.versions().await.is_empty());
    let template = world.get(&world.template).await.unwrap();
    assert_eq!(template.properties["lastRunStatus"]["runState"], "Failed");

    world.check_fails.store(false, Ordering::SeqCst);
    let (begun, job) = work(&world).await;
    assert_eq!(job.state, JobState::Succeeded, "{:?}", job.failure);
    let record = world.record(&begun.run).await;
    assert_eq!(how(&record, Stage::Source, "base"), Some(How::Found));
    assert_eq!(how(&record, Stage::Build, "motd"), Some(How::Found));
    assert_eq!(how(&record, Stage::Tattoo, "write"), Some(How::Found));
    assert_eq!(how(&record, Stage::Test, "bios"), Some(How::Run));
    assert_eq!(world.provider.bootstrapped.load(Ordering::SeqCst), 1);
    assert_eq!(world.versions().await, ["1.0.0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_whose_checks_failed_is_kept_for_a_while_where_that_is_asked_for() {
    let world = World::new(&["north"]).await;
    let mut properties = template_properties(&world.definition, &["north"], "x");
    properties["errorHandling"] = json!({ "onValidationError": "abort" });
    world.set_template(properties).await;
    world.check_fails.store(true, Ordering::SeqCst);
    let factory = world.factory();
    let kept = factory.kept_machines();
    let running = || world.machines.running().len();

    let (first, _) = world.run(&factory).await;
    let shown = kept.of(&first.run).unwrap();
    assert!(
        shown["ssh"]["port"].is_u64() && shown["until"].is_string(),
        "{shown}"
    );
    let minute = std::time::Duration::from_secs(60);
    let ran = kept.run_in(&first.run, "systemctl --failed", minute).await;
    assert!(ran.unwrap().unwrap().success());
    let log = world.machines.log();
    assert!(
        log.iter().any(|line| line.ends_with("systemctl --failed")),
        "{log:?}"
    );
    let (second, _) = world.run(&factory).await;
    assert!(kept.of(&first.run).is_none(), "the template was run again");
    assert!(kept.of(&second.run).is_some());
    assert_eq!(running(), 1);
    assert!(kept.release(&second.run).await);
    assert!(!kept.release(&second.run).await);
    assert_eq!(running(), 0);

    let (third, _) = world.run(&factory).await;
    assert!(kept.of(&third.run).is_some());
    world
        .clock
        .advance(std::time::Duration::from_secs(2 * 60 * 60));
    while running() > 0 {
        tokio::task::yield_now().await;
    }
    assert!(kept.of(&third.run).is_none());

    world.check_fails.store(false, Ordering::SeqCst);
    let (fourth, _) = world.run(&factory).await;
    assert!(kept.of(&fourth.run).is_none(), "what passed is not kept");
    assert_eq!(running(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_forbidden_is_not_written() {
    let world = World::new(&["north", "south"]).await;
    world.ask.refuses.store(true, Ordering::SeqCst);
    let (begun, job) = work(&world).await;
    assert_eq!(job.state, JobState::Failed);
    let failed = world.record(&begun.run).await;
    let message = &failed.message;
    let failure = format!("{:?}", job.failure);
    assert!(failure.contains("RequestDisallowedByPolicy"), "{failure}");
    assert!(message.contains("'1.0.0' was disallowed"), "{message}");
    assert!(world.versions().await.is_empty());

    world.ask.refuses.store(false, Ordering::SeqCst);
    let (begun, job) = work(&world).await;
    assert_eq!(job.state, JobState::Succeeded, "{:?}", job.failure);
    assert_eq!(world.versions().await, ["1.0.0"]);
    let record = world.record(&begun.run).await;
    assert_eq!(how(&record, Stage::Tattoo, "write"), Some(How::Found));
    let asked = world.ask.asked.load(Ordering::SeqCst);
    // What is there is found, and nobody is asked for it.
    world.ask.refuses.store(true, Ordering::SeqCst);
    let (_, job) = work(&world).await;
    assert_eq!(job.state, JobState::Succeeded, "{:?}", job.failure);
    assert_eq!(world.ask.asked.load(Ordering::SeqCst), asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_recipe_makes_the_next_version_and_finds_the_rest() {
    let world = World::new(&["north", "south"]).await;
    work(&world).await;
    let properties = template_properties(&world.definition, &["north", "south"], "changed");
    world.set_template(properties).await;
    let (begun, job) = work(&world).await;
    assert_eq!(job.state, JobState::Succeeded, "{:?}", job.failure);
    assert_eq!(world.versions().await, ["1.0.0", "1.0.1"]);
    let second = world.record(&begun.run).await;
    assert_eq!(how(&second, Stage::Source, "base"), Some(How::Found));
    assert_eq!(how(&second, Stage::Build, "motd"), Some(How::Run));
    let version = world.definition.child("versions", "1.0.1").unwrap();
    let version = world.get(&version).await.unwrap();
    let status = replication_status(&version);
    assert_eq!(status["aggregatedState"], "Completed");
    assert_eq!(status["summary"][1]["region"], "south");
    assert_eq!(
        version.properties["bullion"]["tattoo"]["image.version"],
        "1.0.1"
    );

    // The first recipe again: its version is found, and nothing new is published.
    world
        .set_template(template_properties(
            &world.definition,
            &["north", "south"],
            "welcome",
        ))
        .await;
    let (begun, _) = work(&world).await;
    assert_eq!(world.versions().await, ["1.0.0", "1.0.1"]);
    let again = world.record(&begun.run).await;
    assert!(
        again
            .outputs
            .clone()
            .unwrap()
            .version_id
            .unwrap()
            .ends_with("/versions/1.0.0")
    );
    assert_eq!(how(&again, Stage::Test, "bios"), Some(How::Found));
    assert_eq!(how(&again, Stage::Publish, "version"), Some(How::Found));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_archive_builds_all_of_it_anew() {
    let world = World::new(&["north"]).await;
    work(&world).await;
    world.provider.move_archive();
    let (_, job) = work(&world).await;
    assert_eq!(job.state, JobState::Succeeded, "{:?}", job.failure);
    assert_eq!(world.provider.bootstrapped.load(Ordering::SeqCst), 2);
    assert_eq!(world.versions().await, ["1.0.0", "1.0.1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_lost_a_disk_has_it_built_again() {
    let mut world = World::new(&["north"]).await;
    work(&world).await;
    world.lose_disks();
    let (begun, job) = work(&world).await;
    assert_eq!(job.state, JobState::Succeeded, "{:?}", job.failure);
    let record = world.record(&begun.run).await;
    assert_eq!(how(&record, Stage::Source, "base"), Some(How::Run));
    // The same inputs made the same disk, so the same version.
    assert_eq!(world.versions().await, ["1.0.0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawn_right_stops_the_run() {
    let world = World::new(&["north"]).await;
    let factory = world.factory();
    let begun = world.begin_run(&factory).await;
    let (runner, job) = world
        .submit::<BuildRun>(&factory, RUN_ACTION, &world.template, &begun.input)
        .await;
    world.dismiss_clerk().await;
    assert!(runner.run_next().await);
    let row = world.job(RUN_ACTION, &world.template, job).await;
    assert_eq!(row.state, JobState::Failed);
    assert_eq!(row.failure.unwrap().code, "AuthorizationFailed");
    let failed = world.record(&begun.run).await;
    assert_eq!(failed.run_state, RunState::Failed);
    assert_eq!(world.provider.resolved.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_region_does_not_hold_up_the_other() {
    let world = World::new(&["north", "south", "west"]).await;
    // A file where the store wants its folder of packs: nothing can be written there.
    let packs = world.folder.path().join("regions/south/1/packs");
    let _ = std::fs::remove_dir_all(&packs);
    std::fs::write(&packs, "in the way").unwrap();
    let (begun, job) = work(&world).await;
    assert_eq!(job.state, JobState::Succeeded, "{:?}", job.failure);
    let partly = world.record(&begun.run).await;
    assert_eq!(partly.run_state, RunState::PartiallySucceeded);
    assert!(
        partly
            .message
            .contains("region south does not hold the image yet"),
        "{}",
        partly.message
    );
    let version = world.definition.child("versions", "1.0.0").unwrap();
    let states = async || -> Vec<Value> {
        let status = replication_status(&world.get(&version).await.unwrap());
        let summary = status["summary"].as_array().unwrap().clone();
        summary
            .into_iter()
            .map(|region| region["state"].clone())
            .collect()
    };
    assert_eq!(states().await, ["Completed", "Failed", "Completed"]);

    // As a client's own version is left when a region of it failed.
    let permit = access::Permit::system(
        access::SystemReason::Reconcile,
        access::Action::new("Microsoft.Compute/galleries/images/versions/write"),
        version.clone(),
        world.get(&version).await.unwrap().tenant,
    );
    let catalog = world.factory().catalog.clone();
    crate::pipeline::change(&catalog, &permit, |draft| {
        draft.state = wire::ProvisioningState::Failed;
    })
    .await
    .unwrap();
    std::fs::remove_file(&packs).unwrap();
    std::fs::create_dir(&packs).unwrap();
    let replicate = crate::replicate::Replicate::new(world.factory());
    let never = jobs::CancelSource::new();
    jobs::Reconciler::reconcile(&replicate, &never.token())
        .await
        .unwrap();
    assert_eq!(states().await, ["Completed", "Completed", "Completed"]);
    let healed = world.get(&version).await.unwrap();
    assert_eq!(healed.state, wire::ProvisioningState::Succeeded);
}

/// Stops a run that hangs in its source stage and answers its job and record.
async fn stopped(
    stop: impl AsyncFnOnce(&World, &jobs::Jobs, jobs::JobId),
) -> (JobRow, RunProperties) {
    let world = World::new(&["north"]).await;
    world.provider.hangs.store(true, Ordering::SeqCst);
    let factory = world.factory();
    let begun = world.begin_run(&factory).await;
    let (runner, job) = world
        .submit::<BuildRun>(&factory, RUN_ACTION, &world.template, &begun.input)
        .await;
    let jobs = runner.jobs();
    let stop = async {
        world.provider.hanging.notified().await;
        stop(&world, &jobs, job).await;
    };
    tokio::join!(runner.run_next(), stop);
    let left = std::fs::read_dir(world.folder.path().join("cache/work"))
        .unwrap()
        .count();
    assert_eq!(left, 0, "a work folder stays");
    (
        world.job(RUN_ACTION, &world.template, job).await,
        world.record(&begun.run).await,
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canceled_run_says_so_and_leaves_nothing() {
    let (job, record) = stopped(async |world, jobs, job| {
        let permit = world.clerk_permit(RUN_ACTION, &world.template);
        jobs.cancel(&permit, job).await.unwrap();
    })
    .await;
    assert_eq!(job.state, JobState::Canceled);
    assert_eq!(record.run_state, RunState::Canceled);
    assert_eq!(record.steps[1].state, StepState::Failed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_has_its_time_and_no_more() {
    let (job, record) = stopped(async |world, _, _| {
        world.clock.advance(std::time::Duration::from_secs(3600));
    })
    .await;
    assert_eq!(job.state, JobState::Failed);
    assert_eq!(job.failure.unwrap().code, "BuildTimeout");
    assert!(
        record.message.contains("within its 60 minutes"),
        "{}",
        record.message
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_fails_is_told_and_gone_on_from() {
    let world = World::new(&["north"]).await;
    *world.provider.fail_next.lock().unwrap() = Some("the archive is not reachable".to_owned());
    let (begun, job) = work(&world).await;
    assert_eq!(job.state, JobState::Failed);
    let failed = world.record(&begun.run).await;
    assert_eq!(failed.message, "the archive is not reachable");
    assert_eq!(failed.error.unwrap().code, "SourceFailed");
    let (_, job) = work(&world).await;
    assert_eq!(job.state, JobState::Succeeded, "{:?}", job.failure);

    *world.builder.failing.lock().unwrap() = Some("motd".to_owned());
    world
        .set_template(template_properties(&world.definition, &["north"], "new"))
        .await;
    let (begun, _) = work(&world).await;
    let failed = world.record(&begun.run).await;
    assert!(
        failed.message.contains("the fake said no"),
        "{}",
        failed.message
    );
    assert_eq!(world.versions().await, ["1.0.0"]);
}
