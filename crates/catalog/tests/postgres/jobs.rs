//! Jobs of two servers: each is claimed once, and a lease is its holder's until it runs out.

use std::collections::BTreeSet;
use std::time::Duration;

use catalog::{JobStore, NewJob, Outcome, PostgresCatalog, StepStart};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{GROUP, permit, world};

const LEASE: Duration = Duration::from_secs(60);
const JOBS: usize = 60;
const WORKERS: usize = 4;
const KINDS: &[&str] = &["k"];

fn new_job(input: Value) -> NewJob {
    NewJob {
        kind: "k".into(),
        input,
        exclusive: None,
        visible_at: Vec::new(),
    }
}

/// Claims jobs and works each off, until there is none.
async fn work_off(catalog: PostgresCatalog, holder: String) -> Vec<u64> {
    let mut done = Vec::new();
    for _ in 0..=JOBS {
        let claimed = catalog.claim(&holder, KINDS, LEASE).await.expect("claim");
        let Some(claimed) = claimed else { break };
        let step = StepStart {
            seq: 0,
            name: "a".into(),
            key: None,
            undo: None,
        };
        catalog
            .start_step(&claimed.lease, &step)
            .await
            .expect("start");
        let outcome = Outcome::Succeeded(Value::Null);
        catalog
            .finish(&claimed.lease, &outcome)
            .await
            .expect("finish");
        done.push(claimed.job.input.as_u64().expect("a number"));
    }
    done
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_job_is_claimed_once() {
    let servers = world().await;
    for n in 0..JOBS {
        let job = servers.0.submit(&permit(GROUP), new_job(json!(n))).await;
        job.expect("submit");
    }
    let mut workers = JoinSet::new();
    for worker in 0..WORKERS {
        workers.spawn(work_off(servers.0.clone(), format!("a/{worker}")));
        workers.spawn(work_off(servers.1.clone(), format!("b/{worker}")));
    }
    let done: Vec<u64> = workers.join_all().await.into_iter().flatten().collect();
    let different: BTreeSet<u64> = done.iter().copied().collect();
    assert_eq!((done.len(), different.len()), (JOBS, JOBS));
}

/// The start of one server leaves the other's work alone.
#[tokio::test]
async fn a_start_takes_nothing_from_the_other_server() {
    let (a, b) = world().await;
    for _ in 0..2 {
        let job = a.submit(&permit(GROUP), new_job(Value::Null)).await;
        job.expect("submit");
    }
    let held = a
        .claim("a/1", KINDS, LEASE)
        .await
        .expect("claim")
        .expect("a job");
    let other = b
        .claim("b/1", KINDS, LEASE)
        .await
        .expect("claim")
        .expect("a job");
    assert_eq!(b.end_leases("b").await.expect("start again"), 1);
    a.heartbeat(&held.lease, LEASE).await.expect("still held");
    b.heartbeat(&other.lease, LEASE)
        .await
        .expect_err("of the process before");
    let again = a.claim("a/2", KINDS, LEASE).await.expect("claim");
    assert_eq!(again.expect("free").job.id, other.job.id);
}
