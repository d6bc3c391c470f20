//! States of policies: two servers that judge the same change tell it once.

use catalog::{PolicyState, PolicyStates, StateKey, StateWrite, StoredState};
use jiff::Timestamp;
use wire::ResourceId;

use super::{GROUP, SUBSCRIPTION, permit, world};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_two_servers_find_is_told_once() {
    let (a, b) = world().await;
    let at = Timestamp::constant(1_790_000_000, 0);
    let id = |text: &str| ResourceId::parse(text).expect("an id");
    let key = StateKey {
        resource: id(GROUP),
        assignment: id(&format!(
            "{SUBSCRIPTION}/providers/Microsoft.Authorization/policyAssignments/a"
        )),
        reference: String::new(),
    };
    let states = [PolicyState::NonCompliant, PolicyState::Compliant];
    for state in states {
        let write = [StateWrite::Put(StoredState {
            key: key.clone(),
            state,
            since: at,
            reason: None,
        })];
        let permit = permit(SUBSCRIPTION);
        let (one, other) = tokio::join!(
            a.write_policy_states(&permit, at, &write),
            b.write_policy_states(&permit, at, &write),
        );
        one.expect("write");
        other.expect("write");
    }
    let told = a.policy_events(&permit(SUBSCRIPTION), at, at, 0, 10).await;
    let told: Vec<_> = told
        .expect("events")
        .into_iter()
        .map(|event| event.state)
        .collect();
    assert_eq!(told, states.map(Some));
}
