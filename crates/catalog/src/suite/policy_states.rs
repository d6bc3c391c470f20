//! States of policies: kept by key, told as events, never outside of the permit.

use jiff::Timestamp;
use wire::ResourceId;

use super::Backend;
use super::world::{DAY, World, system};
use crate::clock::{Clock, ManualClock};
use crate::error::CatalogError;
use crate::policy_states::{PolicyState, REFUSALS_MAX, Refusal, StateKey, StateWrite, StoredState};

pub(super) async fn run<B: Backend>(fresh: &impl AsyncFn(ManualClock) -> B) {
    states_are_replaced_and_ended(&World::new(fresh).await).await;
    pages_join_to_the_whole(&World::new(fresh).await).await;
    refused_requests_are_events(&World::new(fresh).await).await;
    a_write_stays_within_its_permit(&World::new(fresh).await).await;
}

fn key<B: Backend>(world: &World<B>, machine: &str, reference: &str) -> StateKey {
    let machine =
        format!("/resourceGroups/rg/providers/Microsoft.Compute/virtualMachines/{machine}");
    let assignment = "/providers/Microsoft.Authorization/policyAssignments/a";
    StateKey {
        resource: world.id(&machine),
        assignment: world.id(assignment),
        reference: reference.into(),
    }
}

fn state(key: StateKey, state: PolicyState, since: Timestamp) -> StoredState {
    let reason = (state != PolicyState::Compliant).then(|| "runs 1.0.0".to_owned());
    StoredState {
        key,
        state,
        since,
        reason,
    }
}

async fn write<B: Backend>(world: &World<B>, writes: &[StateWrite]) {
    let permit = system(&ResourceId::root(), world.tenant);
    let written = world
        .catalog
        .write_policy_states(&permit, world.clock.now(), writes)
        .await;
    written.expect("write");
}

async fn all<B: Backend>(world: &World<B>, scope: &ResourceId) -> Vec<StoredState> {
    let permit = system(scope, world.tenant);
    let found = world.catalog.policy_states(&permit, None, 100).await;
    found.expect("read")
}

async fn states_are_replaced_and_ended<B: Backend>(world: &World<B>) {
    let start = world.clock.now();
    let (one, two) = (key(world, "One", "Newest"), key(world, "two", ""));
    let bad = |key: &StateKey| state(key.clone(), PolicyState::NonCompliant, start);
    write(
        world,
        &[StateWrite::Put(bad(&one)), StateWrite::Put(bad(&two))],
    )
    .await;
    assert_eq!(
        all(world, &ResourceId::root()).await,
        [bad(&one), bad(&two)]
    );
    assert_eq!(all(world, &two.resource).await, [bad(&two)]);

    world.clock.advance(DAY);
    let good = state(
        key(world, "ONE", "newest"),
        PolicyState::Compliant,
        world.clock.now(),
    );
    write(
        world,
        &[StateWrite::Put(good.clone()), StateWrite::End(two.clone())],
    )
    .await;
    let now = all(world, &ResourceId::root()).await;
    assert_eq!(now.len(), 1, "keys are compared without case: {now:?}");
    assert_eq!(
        (now[0].state, now[0].since),
        (PolicyState::Compliant, good.since)
    );
    assert_eq!(now[0].reason, None);

    // What is as it was is no event, and neither is the end of nothing.
    write(
        world,
        &[StateWrite::Put(good.clone()), StateWrite::End(two.clone())],
    )
    .await;

    let permit = system(&world.id(""), world.tenant);
    let events = async |from, after| {
        let found = world
            .catalog
            .policy_events(&permit, from, world.clock.now(), after, 100)
            .await;
        found.expect("events")
    };
    let told = events(start, 0).await;
    let states: Vec<Option<PolicyState>> = told.iter().map(|event| event.state).collect();
    let bad = Some(PolicyState::NonCompliant);
    assert_eq!(states, [bad, bad, Some(PolicyState::Compliant), None]);
    assert_eq!(events(world.clock.now(), 0).await, told[2..]);
    assert_eq!(events(start, told[2].seq).await, told[3..]);
}

async fn pages_join_to_the_whole<B: Backend>(world: &World<B>) {
    let since = world.clock.now();
    let mut expected = Vec::new();
    for machine in ["a", "b", "c"] {
        for reference in ["1", "2"] {
            let key = key(world, machine, reference);
            expected.push(state(key, PolicyState::Error, since));
        }
    }
    let writes: Vec<StateWrite> = expected.iter().cloned().map(StateWrite::Put).collect();
    write(world, &writes).await;
    let permit = system(&ResourceId::root(), world.tenant);
    let mut found: Vec<StoredState> = Vec::new();
    for _ in 0..expected.len() {
        let after = found.last().map(|last| last.key.clone());
        let page = world
            .catalog
            .policy_states(&permit, after.as_ref(), 1)
            .await;
        found.extend(page.expect("read"));
    }
    assert_eq!(found, expected);
}

async fn refused_requests_are_events<B: Backend>(world: &World<B>) {
    let from = world.clock.now();
    let permit = system(&ResourceId::root(), world.tenant);
    let refusal = Refusal {
        key: key(world, "New", "Newest"),
        effect: "deny".into(),
        principal: "somebody".into(),
        reason: None,
    };
    let noted = [refusal.clone(), refusal.clone()];
    let written = world.catalog.note_refusals(&permit, from, &noted).await;
    written.expect("write");
    let to = world.clock.now();
    let events = world.catalog.policy_events(&permit, from, to, 0, 100).await;
    let events = events.expect("read");
    assert_eq!(events.len(), 2, "the same request twice is two");
    assert_eq!(events[0].key, refusal.key);
    assert_eq!(events[0].state, Some(PolicyState::NonCompliant));
    let refused = events[0].refused.as_ref().expect("a refusal");
    assert_eq!(refused.effect, "deny");
    assert_eq!(refused.principal, "somebody");
    assert!(all(world, &world.id("")).await.is_empty(), "it is no state");
    let many = vec![refusal; REFUSALS_MAX + 1];
    let too_many = world.catalog.note_refusals(&permit, from, &many).await;
    too_many.expect_err("more than a write may have");
}

async fn a_write_stays_within_its_permit<B: Backend>(world: &World<B>) {
    let one = state(key(world, "one", ""), PolicyState::Error, world.clock.now());
    let permit = system(&world.id("/resourceGroups/other"), world.tenant);
    let writes = [StateWrite::Put(one)];
    let now = world.clock.now();
    let refused = world
        .catalog
        .write_policy_states(&permit, now, &writes)
        .await;
    assert!(
        matches!(refused, Err(CatalogError::Mismatch { .. })),
        "{refused:?}"
    );
    let read = world.read(&world.id("/resourceGroups/rg")).await;
    let refused = world.catalog.write_policy_states(&read, now, &writes).await;
    assert!(
        matches!(refused, Err(CatalogError::ReadOnlyPermit { .. })),
        "{refused:?}"
    );
    assert!(all(world, &ResourceId::root()).await.is_empty());
}
