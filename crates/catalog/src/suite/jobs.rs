//! Jobs: who sees them, who holds them, what is remembered of them.

use std::time::Duration;

use serde_json::{Value, json};
use wire::TenantId;

use super::Backend;
use super::world::{World, system};
use crate::clock::{Clock, ManualClock, later};
use crate::error::CatalogError;
use crate::jobs::{
    Asked, Claimed, JobFailure, JobState, LOG_LINE_BYTES_MAX, NewJob, Outcome, Requester, StepEnd,
    StepHow, StepKey, StepProgress, StepStart, StepState,
};
use crate::resource::{Draft, Precondition};

const LEASE: Duration = Duration::from_secs(60);
const KINDS: &[&str] = &["build"];

pub(super) async fn run<B: Backend>(fresh: &impl AsyncFn(ManualClock) -> B) {
    a_job_is_seen_where_it_works(&World::new(fresh).await).await;
    exclusive_jobs_come_one_by_one(&World::new(fresh).await).await;
    a_lease_is_one_claim(&World::new(fresh).await).await;
    a_released_job_waits(&World::new(fresh).await).await;
    ended_leases_are_free_at_once(&World::new(fresh).await).await;
    the_journal_remembers(&World::new(fresh).await).await;
    the_first_result_stands(&World::new(fresh).await).await;
    logs_are_read_by_offset(&World::new(fresh).await).await;
    undoing_never_turns_back(&World::new(fresh).await).await;
    a_put_and_its_job_are_one(&World::new(fresh).await).await;
}

fn new_job(exclusive: Option<&str>) -> NewJob {
    NewJob {
        kind: "build".into(),
        input: json!({"n": 1}),
        exclusive: exclusive.map(str::to_owned),
        visible_at: Vec::new(),
    }
}

fn failure(code: &str) -> JobFailure {
    JobFailure {
        code: code.into(),
        message: "it failed".into(),
        step: Some("a".into()),
    }
}

async fn claimed<B: Backend>(world: &World<B>) -> Claimed {
    let permit = world.write(&world.id("/resourceGroups/rg")).await;
    world
        .catalog
        .submit(&permit, new_job(None))
        .await
        .expect("submit");
    world
        .catalog
        .claim("one/1", KINDS, LEASE)
        .await
        .expect("claim")
        .expect("a job")
}

async fn a_job_is_seen_where_it_works<B: Backend>(world: &World<B>) {
    let group = world.id("/resourceGroups/rg");
    let other = world.id("/resourceGroups/other");
    let far = world.id("/resourceGroups/far");
    let permit = world.write(&group).await;
    let job = NewJob {
        visible_at: vec![other.clone()],
        ..new_job(None)
    };
    let job = world.catalog.submit(&permit, job).await.expect("submit");
    for (scope, seen) in [
        (&group, true),
        (&other, true),
        (&world.id(""), true),
        (&far, false),
    ] {
        let permit = world.read(scope).await;
        assert_eq!(
            world.catalog.job(&permit, job).await.is_ok(),
            seen,
            "{scope}"
        );
        assert_eq!(
            world.catalog.jobs(&permit, 10).await.expect("list").len(),
            usize::from(seen),
            "{scope}"
        );
    }
    let foreign = system(&group, TenantId::random());
    let hidden = world.catalog.cancel(&foreign, job).await;
    assert!(
        matches!(hidden, Err(CatalogError::NoSuchJob { .. })),
        "{hidden:?}"
    );
    let row = world.catalog.job(&permit, job).await.expect("read");
    assert_eq!(
        (row.state, row.requester),
        (JobState::Queued, Requester::Identity(world.operator))
    );
    assert_eq!((row.scope, row.input), (group, json!({"n": 1})));
}

async fn exclusive_jobs_come_one_by_one<B: Backend>(world: &World<B>) {
    let permit = world.write(&world.id("/resourceGroups/rg")).await;
    let first = world
        .catalog
        .submit(&permit, new_job(Some("template")))
        .await
        .expect("submit");
    let second = world
        .catalog
        .submit(&permit, new_job(Some("template")))
        .await;
    assert!(
        matches!(second, Err(CatalogError::JobInTheWay { running, .. }) if running == first),
        "{second:?}"
    );
    world
        .catalog
        .submit(&permit, new_job(Some("another")))
        .await
        .expect("submit");
    let held = world
        .catalog
        .claim("one", KINDS, LEASE)
        .await
        .expect("claim")
        .expect("a job");
    assert_eq!(held.job.id, first, "the oldest comes first");
    world
        .catalog
        .finish(&held.lease, &Outcome::Succeeded(json!("done")))
        .await
        .expect("finish");
    let row = world.catalog.job(&permit, first).await.expect("read");
    assert_eq!(
        (row.state, row.output),
        (JobState::Succeeded, Some(json!("done")))
    );
    world
        .catalog
        .submit(&permit, new_job(Some("template")))
        .await
        .expect("the way is clear");
}

async fn a_lease_is_one_claim<B: Backend>(world: &World<B>) {
    let first = claimed(world).await;
    let none = world
        .catalog
        .claim("two", KINDS, LEASE)
        .await
        .expect("claim");
    assert!(none.is_none(), "a held job is not claimed");
    let due = world.catalog.next_due(KINDS).await.expect("look");
    assert_eq!(due, Some(later(world.clock.now(), LEASE)));
    world.clock.advance(LEASE / 2);
    assert_eq!(
        world
            .catalog
            .heartbeat(&first.lease, LEASE)
            .await
            .expect("beat"),
        Asked::GoOn
    );
    world.clock.advance(LEASE / 2);
    assert!(
        world
            .catalog
            .claim("two", KINDS, LEASE)
            .await
            .expect("claim")
            .is_none(),
        "the heartbeat prolonged it"
    );
    world.clock.advance(LEASE);
    assert!(
        world
            .catalog
            .claim("two", &["other"], LEASE)
            .await
            .expect("claim")
            .is_none()
    );
    // The same holder: it is the claim that counts, not the name.
    let second = world
        .catalog
        .claim("one", KINDS, LEASE)
        .await
        .expect("claim")
        .expect("a job");
    assert_eq!(second.job.claims, 2);
    let start = StepStart {
        seq: 0,
        name: "a".into(),
        key: None,
        undo: None,
    };
    let lost = [
        world.catalog.heartbeat(&first.lease, LEASE).await.map(drop),
        world
            .catalog
            .start_step(&first.lease, &start)
            .await
            .map(drop),
        world.catalog.append_log(&first.lease, &["x".into()]).await,
        world.catalog.release(&first.lease, world.clock.now()).await,
        world
            .catalog
            .finish(&first.lease, &Outcome::Succeeded(Value::Null))
            .await,
    ];
    for result in lost {
        assert!(
            matches!(result, Err(CatalogError::LeaseLost { .. })),
            "{result:?}"
        );
    }
    let permit = world.write(&world.id("/resourceGroups/rg")).await;
    world
        .catalog
        .cancel(&permit, second.job.id)
        .await
        .expect("cancel");
    assert_eq!(
        world
            .catalog
            .heartbeat(&second.lease, LEASE)
            .await
            .expect("beat"),
        Asked::Stop
    );
}

async fn ended_leases_are_free_at_once<B: Backend>(world: &World<B>) {
    let held = claimed(world).await;
    for (server, ended) in [("on", 0), ("one/", 0), ("two", 0), ("one", 1)] {
        let found = world.catalog.end_leases(server).await.expect("end leases");
        assert_eq!(found, ended, "{server}");
    }
    let lost = world.catalog.heartbeat(&held.lease, LEASE).await;
    assert!(matches!(lost, Err(CatalogError::LeaseLost { .. })));
    let again = world.catalog.claim("two/1", KINDS, LEASE).await;
    let again = again
        .expect("claim")
        .expect("the same job, without waiting");
    assert_eq!(again.job.id, held.lease.job());
    world
        .catalog
        .finish(&again.lease, &Outcome::Succeeded(Value::Null))
        .await
        .expect("finish");
    assert_eq!(
        world.catalog.end_leases("two").await.expect("end leases"),
        0
    );
}

async fn a_released_job_waits<B: Backend>(world: &World<B>) {
    let held = claimed(world).await;
    let at = later(world.clock.now(), Duration::from_secs(8));
    world
        .catalog
        .release(&held.lease, at)
        .await
        .expect("release");
    let permit = world.write(&world.id("/resourceGroups/rg")).await;
    assert_eq!(
        world
            .catalog
            .job(&permit, held.job.id)
            .await
            .expect("read")
            .state,
        JobState::Queued
    );
    assert!(
        world
            .catalog
            .claim("two", KINDS, LEASE)
            .await
            .expect("claim")
            .is_none()
    );
    assert_eq!(world.catalog.next_due(KINDS).await.expect("look"), Some(at));
    world
        .catalog
        .cancel(&permit, held.job.id)
        .await
        .expect("cancel");
    let again = world
        .catalog
        .claim("two", KINDS, LEASE)
        .await
        .expect("claim")
        .expect("a canceled job waits for nothing");
    assert!(again.job.cancel_asked);
}

async fn the_journal_remembers<B: Backend>(world: &World<B>) {
    let held = claimed(world).await;
    let key = StepKey::from_hash([7; 32]);
    let start = StepStart {
        seq: 0,
        name: "a".into(),
        key: Some(key),
        undo: Some(json!({"remove": "x"})),
    };
    world
        .catalog
        .start_step(&held.lease, &start)
        .await
        .expect("start");
    let progress = StepProgress {
        text: Some("half".into()),
        detail: json!({"bytes": 5}),
    };
    world
        .catalog
        .step_progress(&held.lease, 0, &progress)
        .await
        .expect("show");
    let permit = world.read(&world.id("/resourceGroups/rg")).await;
    let rows = world
        .catalog
        .steps(&permit, held.job.id)
        .await
        .expect("read");
    assert_eq!(
        (rows[0].state, &rows[0].progress, rows[0].key),
        (StepState::Running, &progress, Some(key))
    );
    let again = world
        .catalog
        .start_step(&held.lease, &start)
        .await
        .expect("start");
    assert_eq!(
        (again.attempts, again.progress),
        (2, StepProgress::default())
    );
    let end = StepEnd::Succeeded {
        output: Value::Null,
        how: StepHow::Run,
    };
    world
        .catalog
        .end_step(&held.lease, 0, &end)
        .await
        .expect("end");
    let rows = world.catalog.journal(&held.lease).await.expect("read");
    assert_eq!(
        (rows[0].state, rows[0].how),
        (StepState::Succeeded, Some(StepHow::Run))
    );
    assert_eq!(
        (&rows[0].output, &rows[0].undo),
        (&Some(Value::Null), &start.undo)
    );
    world
        .catalog
        .end_step(&held.lease, 0, &StepEnd::UndoRetry(failure("x")))
        .await
        .expect("end");
    world
        .catalog
        .end_step(&held.lease, 0, &StepEnd::Undone)
        .await
        .expect("end");
    let rows = world.catalog.journal(&held.lease).await.expect("read");
    assert_eq!(
        (rows[0].state, rows[0].undo_attempts),
        (StepState::Undone, 1)
    );
    let far = StepStart {
        seq: crate::jobs::STEPS_MAX,
        ..start
    };
    let refused = world.catalog.start_step(&held.lease, &far).await;
    assert!(
        matches!(refused, Err(CatalogError::TooLarge { .. })),
        "{refused:?}"
    );
}

async fn the_first_result_stands<B: Backend>(world: &World<B>) {
    let held = claimed(world).await;
    let key = StepKey::from_hash([9; 32]);
    assert_eq!(key.to_string().parse(), Ok(key));
    assert!(
        world
            .catalog
            .step_result(&key)
            .await
            .expect("look")
            .is_none()
    );
    for output in [json!("first"), json!("second")] {
        let kept = world
            .catalog
            .keep_step_result(&held.lease, &key, "a", &output)
            .await
            .expect("keep");
        assert_eq!((kept.output, kept.made_by), (json!("first"), held.job.id));
    }
    world
        .catalog
        .forget_step_result(&held.lease, &key)
        .await
        .expect("forget");
    assert!(
        world
            .catalog
            .step_result(&key)
            .await
            .expect("look")
            .is_none()
    );
}

async fn logs_are_read_by_offset<B: Backend>(world: &World<B>) {
    let held = claimed(world).await;
    let permit = world.read(&world.id("/resourceGroups/rg")).await;
    let lines: Vec<String> = (0..5).map(|n| format!("line {n}")).collect();
    world
        .catalog
        .append_log(&held.lease, &lines[..2])
        .await
        .expect("append");
    world
        .catalog
        .append_log(&held.lease, &lines[2..])
        .await
        .expect("append");
    let page = world
        .catalog
        .log(&permit, held.job.id, 1, 3)
        .await
        .expect("read");
    let texts: Vec<&str> = page.lines.iter().map(|line| line.text.as_str()).collect();
    assert_eq!(
        (texts, page.next, page.done),
        (vec!["line 1", "line 2", "line 3"], 4, false)
    );
    let long = "ü".repeat(LOG_LINE_BYTES_MAX);
    world
        .catalog
        .append_log(&held.lease, &[long])
        .await
        .expect("append");
    world
        .catalog
        .finish(&held.lease, &Outcome::Failed(failure("x")))
        .await
        .expect("finish");
    let page = world
        .catalog
        .log(&permit, held.job.id, 5, 100)
        .await
        .expect("read");
    assert!(page.lines[0].text.len() <= LOG_LINE_BYTES_MAX);
    assert!(page.done);
    let end = world
        .catalog
        .log(&permit, held.job.id, page.next, 100)
        .await
        .expect("read");
    assert_eq!((end.lines.len(), end.next, end.done), (0, page.next, true));
}

async fn undoing_never_turns_back<B: Backend>(world: &World<B>) {
    let held = claimed(world).await;
    world
        .catalog
        .begin_undo(&held.lease, &failure("first"))
        .await
        .expect("turn");
    world
        .catalog
        .begin_undo(&held.lease, &failure("second"))
        .await
        .expect("turn");
    world
        .catalog
        .release(&held.lease, world.clock.now())
        .await
        .expect("release");
    let again = world
        .catalog
        .claim("two", KINDS, LEASE)
        .await
        .expect("claim")
        .expect("a job");
    assert_eq!(
        (again.job.state, again.job.failure),
        (JobState::Undoing, Some(failure("first")))
    );
}

async fn a_put_and_its_job_are_one<B: Backend>(world: &World<B>) {
    let id = world.id("/resourceGroups/rg/providers/Microsoft.Compute/virtualMachines/vm");
    let permit = world.write(&id).await;
    let put = async |exclusive| {
        let draft = Draft::new(json!({}));
        world
            .catalog
            .put_and_submit(&permit, draft, Precondition::None, new_job(Some(exclusive)))
            .await
    };
    world
        .catalog
        .submit(&permit, new_job(Some("busy")))
        .await
        .expect("submit");
    let refused = put("busy").await;
    assert!(
        matches!(refused, Err(CatalogError::JobInTheWay { .. })),
        "{refused:?}"
    );
    let nothing = world.catalog.get(&permit).await;
    assert!(
        matches!(nothing, Err(CatalogError::NotFound { .. })),
        "{nothing:?}"
    );
    let (put, job) = put("free").await.expect("put and submit");
    assert!(put.created);
    assert_eq!(
        world.catalog.job(&permit, job).await.expect("read").scope,
        id
    );
}
