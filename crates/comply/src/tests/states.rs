//! States: what a write, an assignment, an exemption, the time touch, and nothing else.

use policy::verdict::State;
use serde_json::json;
use wire::ResourceId;

use super::world::{DAY, VM, World, effect, field, is_machine};
use crate::{StateQuery, Summary};

fn untagged() -> serde_json::Value {
    json!({ "allOf": [is_machine(), field("tags['team']", "exists", false)] })
}

async fn two_machines(world: &World) {
    world
        .tagged(&world.machine_id("good"), &[("team", "a")], json!({}))
        .await;
    world.tagged(&world.machine_id("bad"), &[], json!({})).await;
}

#[tokio::test]
async fn states_follow_what_is_written() {
    let world = World::new().await;
    two_machines(&world).await;
    assert!(world.states().await.is_empty());
    world.policy("team", untagged(), effect("audit")).await;
    assert_eq!(
        world.states().await,
        ["bad team NonCompliant", "good team Compliant"]
    );
    world
        .tagged(&world.machine_id("bad"), &[("team", "b")], json!({}))
        .await;
    assert_eq!(
        world.states().await,
        ["bad team Compliant", "good team Compliant"]
    );
    world.remove(&world.machine_id("good")).await;
    assert_eq!(world.states().await, ["bad team Compliant"]);
    world.remove(&world.assignment_id("", "team")).await;
    assert!(world.states().await.is_empty());
}

#[tokio::test]
async fn only_what_is_touched_is_judged() {
    let world = World::new().await;
    world.policy("team", untagged(), effect("audit")).await;
    world.policy("other", is_machine(), effect("audit")).await;
    two_machines(&world).await;
    let bad = world.machine_id("bad");
    let write = world.tagged(&bad, &[], json!({ "x": 1 }));
    assert_eq!(world.judged(write).await, 2, "one machine by two policies");
    let region = ResourceId::parse("/providers/Bullion.Factory/regions/r").unwrap();
    let elsewhere = world.put(&region, json!({}));
    assert_eq!(world.judged(elsewhere).await, 0);
    let definition = world
        .definition("third", is_machine(), effect("audit"))
        .await;
    let unused = world.definition("fourth", is_machine(), effect("audit"));
    assert_eq!(world.judged(async { drop(unused.await) }).await, 0);
    world.group("empty", &[]).await;
    let narrow = world.assign("/resourceGroups/empty", "third", &definition, json!({}));
    assert_eq!(
        world.judged(narrow).await,
        1,
        "the group itself by one policy"
    );
    let id = world.in_group(&format!(
        "{VM}/bad/providers/Microsoft.Authorization/policyExemptions/e"
    ));
    let about = world.assignment_id("", "team").to_string();
    let exempt = world.put(&id, json!({ "policyAssignmentId": about }));
    assert_eq!(world.judged(exempt).await, 1, "one machine by one policy");
    assert_eq!(world.judged(async {}).await, 0);
}

#[tokio::test]
async fn since_is_when_the_state_began() {
    let mut world = World::new().await;
    let start = world.now();
    two_machines(&world).await;
    world.clock.advance(DAY);
    let assigned = world.now();
    world.policy("team", untagged(), effect("audit")).await;
    assert_eq!(world.since("good").await, assigned);
    assert!(start < assigned);
    world.clock.advance(DAY);
    world
        .tagged(&world.machine_id("bad"), &[], json!({ "x": 1 }))
        .await;
    assert_eq!(world.since("bad").await, assigned, "still not compliant");
    let repaired = world.now();
    world
        .tagged(&world.machine_id("bad"), &[("team", "b")], json!({}))
        .await;
    assert_eq!(world.since("bad").await, repaired);
    world.clock.advance(DAY);
    world.restart();
    assert_eq!(
        world.since("bad").await,
        repaired,
        "a start forgets nothing"
    );
    assert_eq!(world.since("good").await, assigned);
    let permit = world.permit(&ResourceId::root());
    let all = world
        .comply
        .history(&permit, &StateQuery::default(), start, world.now())
        .await;
    let told: Vec<State> = all
        .unwrap()
        .records
        .iter()
        .map(|one| one.compliance_state)
        .collect();
    assert_eq!(told, [State::NonCompliant, State::Compliant]);
}

#[tokio::test]
async fn exemptions_end_by_themselves() {
    let world = World::new().await;
    two_machines(&world).await;
    world.policy("team", untagged(), effect("audit")).await;
    let id = world.id("/resourceGroups/rg/providers/Microsoft.Authorization/policyExemptions/e");
    let about = world.assignment_id("", "team").to_string();
    let end = catalog::later(world.now(), DAY).to_string();
    world
        .put(
            &id,
            json!({ "policyAssignmentId": about, "expiresOn": end }),
        )
        .await;
    assert_eq!(
        world.states().await,
        ["bad team Exempt", "good team Exempt"]
    );
    world.clock.advance(DAY / 2);
    assert_eq!(
        world.states().await,
        ["bad team Exempt", "good team Exempt"]
    );
    world.clock.advance(DAY / 2);
    assert_eq!(
        world.states().await,
        ["bad team NonCompliant", "good team Compliant"]
    );
}

#[tokio::test]
async fn an_existence_search_looks_again_when_what_it_looks_for_comes_or_goes() {
    let world = World::new().await;
    two_machines(&world).await;
    let details = json!({ "type": "Microsoft.Compute/virtualMachines/extensions",
        "existenceCondition": field("Microsoft.Compute/virtualMachines/extensions/publisher", "equals", "us") });
    let then = json!({ "effect": "auditIfNotExists", "details": details });
    world.policy("agent", is_machine(), then).await;
    assert_eq!(
        world.states().await,
        ["bad agent NonCompliant", "good agent NonCompliant"]
    );
    let extension = world.in_group(&format!("{VM}/good/extensions/agent"));
    let write = world.put(&extension, json!({ "publisher": "us" }));
    assert_eq!(
        world.judged(write).await,
        2,
        "the extension, and its machine"
    );
    assert_eq!(
        world.states().await,
        ["bad agent NonCompliant", "good agent Compliant"]
    );
    world.remove(&extension).await;
    assert_eq!(
        world.states().await,
        ["bad agent NonCompliant", "good agent NonCompliant"]
    );
    let reason = world.reason("good", "agent").await.unwrap();
    assert!(reason.contains("virtualMachines/extensions"), "{reason}");
}

#[tokio::test]
async fn a_group_is_looked_at_by_rules_that_ask_for_it() {
    let world = World::new().await;
    let strange = json!({ "field": "tags['team']", "notEquals": "[resourceGroup().tags['team']]" });
    world
        .policy(
            "same",
            json!({ "allOf": [is_machine(), strange] }),
            effect("audit"),
        )
        .await;
    world.policy("plain", is_machine(), effect("audit")).await;
    world.group("rg", &[("team", "a")]).await;
    two_machines(&world).await;
    assert!(
        world
            .states()
            .await
            .contains(&"good same Compliant".to_owned())
    );
    let write = world.group("rg", &[("team", "b")]);
    // The group by both, and both machines by the one that asks.
    assert_eq!(world.judged(write).await, 4);
    assert!(
        world
            .states()
            .await
            .contains(&"good same NonCompliant".to_owned())
    );
}

#[tokio::test]
async fn conflicts_come_and_go_with_the_other_policy() {
    let world = World::new().await;
    world.tagged(&world.machine_id("one"), &[], json!({})).await;
    let set = |value: &str| {
        json!({ "effect": "modify", "details": { "roleDefinitionIds": ["x"], "operations":
            [{ "operation": "addOrReplace", "field": "tags['team']", "value": value }] }})
    };
    world.policy("a", untagged(), set("blue")).await;
    assert_eq!(world.states().await, ["one a NonCompliant"]);
    world.policy("b", untagged(), set("red")).await;
    assert_eq!(world.states().await, ["one a Conflict", "one b Conflict"]);
    world.remove(&world.assignment_id("", "b")).await;
    assert_eq!(world.states().await, ["one a NonCompliant"]);
}

#[tokio::test]
async fn a_moved_subscription_comes_under_other_policies() {
    let world = World::new().await;
    two_machines(&world).await;
    let group = ResourceId::parse("/providers/Microsoft.Management/managementGroups/top").unwrap();
    world.put(&group, json!({})).await;
    let id = world.definition("team", untagged(), effect("audit")).await;
    let assignment = group.extension("Microsoft.Authorization", "policyAssignments", "team");
    world
        .put(&assignment.unwrap(), json!({ "policyDefinitionId": id }))
        .await;
    assert!(world.states().await.is_empty());
    world
        .put(&world.id(""), json!({ "managementGroup": "top" }))
        .await;
    assert_eq!(
        world.states().await,
        ["bad team NonCompliant", "good team Compliant"]
    );
    let below = world.shown(&group, &StateQuery::default()).await;
    assert_eq!(below.len(), 2);
    world.put(&world.id(""), json!({})).await;
    assert!(world.states().await.is_empty());
}

#[tokio::test]
async fn a_query_chooses_and_pages_join_to_the_whole() {
    let world = World::new().await;
    two_machines(&world).await;
    world.policy("team", untagged(), effect("audit")).await;
    world.policy("none", is_machine(), effect("audit")).await;
    let all = world.states().await;
    assert_eq!(all.len(), 4);
    let paged = StateQuery {
        limit: 1,
        ..StateQuery::default()
    };
    assert_eq!(world.shown(&world.id(""), &paged).await, all);
    let check = async |query: StateQuery, expected: &[&str]| {
        assert_eq!(
            world.shown(&world.id(""), &query).await,
            expected,
            "{query:?}"
        );
    };
    let state = Some(State::Compliant);
    check(
        StateQuery {
            state,
            ..StateQuery::default()
        },
        &["good team Compliant"],
    )
    .await;
    let assignment = Some(world.assignment_id("", "team").to_string().to_uppercase());
    let expected = ["bad team NonCompliant", "good team Compliant"];
    check(
        StateQuery {
            assignment,
            ..StateQuery::default()
        },
        &expected,
    )
    .await;
    let resource_type = Some("Microsoft.Compute/galleries".to_owned());
    check(
        StateQuery {
            resource_type,
            ..StateQuery::default()
        },
        &[],
    )
    .await;
    let by_assignment = world
        .shown(&world.assignment_id("", "team"), &StateQuery::default())
        .await;
    assert_eq!(by_assignment, expected);
    let one = world
        .shown(&world.machine_id("bad"), &StateQuery::default())
        .await;
    assert_eq!(one, ["bad none NonCompliant", "bad team NonCompliant"]);
    let bad = StateQuery {
        after: Some("x".into()),
        ..StateQuery::default()
    };
    world
        .comply
        .states(&world.permit(&world.id("")), &bad)
        .await
        .expect_err("no token");
}

#[tokio::test]
async fn records_have_the_members_of_policy_insights() {
    let world = World::new().await;
    two_machines(&world).await;
    world.policy("team", untagged(), effect("audit")).await;
    world.comply.settle().await.unwrap();
    let query = StateQuery {
        details: true,
        ..StateQuery::default()
    };
    let permit = world.permit(&world.machine_id("bad"));
    let page = world.comply.states(&permit, &query).await.unwrap();
    let record = serde_json::to_value(&page.records[0]).unwrap();
    for (member, expected) in [
        ("complianceState", json!("NonCompliant")),
        ("isCompliant", json!(false)),
        ("resourceType", json!(VM)),
        ("resourceLocation", json!("south")),
        ("resourceGroup", json!("rg")),
        ("policyDefinitionAction", json!("audit")),
        ("policyDefinitionName", json!("team")),
        ("managementGroupIds", json!(world.tenant.to_string())),
        ("complianceReasonCode", json!("Current value must exist.")),
        ("reason", json!("tags['team'] is missing, but must exist")),
    ] {
        assert_eq!(record[member], expected, "{member}");
    }
    let expressions = &record["policyEvaluationDetails"]["evaluatedExpressions"];
    assert_eq!(expressions[1]["expression"], "tags['team']");
}

#[tokio::test]
async fn a_summary_counts_each_resource_once() {
    let world = World::new().await;
    two_machines(&world).await;
    world.policy("team", untagged(), effect("audit")).await;
    let never = json!({ "allOf": [is_machine(), field("location", "equals", "north")] });
    world.policy("place", never, effect("deny")).await;
    world.comply.settle().await.unwrap();
    let permit = world.permit(&world.id(""));
    let summary = world
        .comply
        .summarize(&permit, &StateQuery::default())
        .await
        .unwrap();
    assert_eq!(summary.results.non_compliant_resources, 1);
    assert_eq!(summary.results.non_compliant_policies, 1);
    let counts: Vec<(&str, usize)> = summary
        .results
        .resource_details
        .iter()
        .map(|count| (count.compliance_state.as_str(), count.count))
        .collect();
    assert_eq!(counts, [("noncompliant", 1), ("compliant", 1)]);
    let place = &summary.policy_assignments[0];
    assert_eq!(place.results.non_compliant_resources, 0);
    assert_eq!(place.policy_definitions[0].effect, "deny");
    let page = world
        .comply
        .states(&permit, &StateQuery::default())
        .await
        .unwrap();
    assert_eq!(Summary::of(&page.records), summary);
}

#[tokio::test]
async fn the_golden_images_initiative_tells_its_groups() {
    let world = World::new().await;
    world.versions(&["1.0.0"]).await;
    world.machine("one", "1.0.0").await;
    let set = crate::built_in_initiatives()[0]["id"].as_str().unwrap();
    let gallery = world.in_group(super::world::GALLERY).to_string();
    let parameters = json!({ "parameters": { "approvedGalleries": { "value": [gallery] } } });
    world.assign("", "golden", set, parameters).await;
    let mut states = world.states().await;
    states.sort();
    let expected = [
        "approvedGalleries",
        "imageAge",
        "lifecycleTag",
        "notPastEndOfLife",
        "notRevoked",
        "tattooMatches",
        "versionsBehind",
    ];
    let expected = expected.map(|reference| format!("one golden/{reference} Compliant"));
    assert_eq!(states, expected);
    let permit = world.permit(&world.id(""));
    let summary = world
        .comply
        .summarize(&permit, &StateQuery::default())
        .await
        .unwrap();
    let groups: Vec<&str> = summary.policy_assignments[0]
        .policy_groups
        .iter()
        .map(|group| group.policy_group_name.as_str())
        .collect();
    assert_eq!(groups, ["currency", "origin", "ownership"]);
}

#[tokio::test]
async fn somebody_attests_what_no_rule_can_see() {
    let world = World::new().await;
    world.tagged(&world.machine_id("one"), &[], json!({})).await;
    let then = json!({ "effect": "manual", "details": { "defaultState": "NonCompliant" } });
    world.policy("reviewed", is_machine(), then).await;
    assert_eq!(world.states().await, ["one reviewed NonCompliant"]);
    let id = world.in_group(&format!(
        "{VM}/one/providers/Microsoft.PolicyInsights/attestations/a"
    ));
    let about = world.assignment_id("", "reviewed").to_string();
    let end = catalog::later(world.now(), DAY).to_string();
    let body =
        json!({ "policyAssignmentId": about, "complianceState": "Compliant", "expiresOn": end });
    assert_eq!(world.judged(world.put(&id, body)).await, 1);
    assert_eq!(world.states().await, ["one reviewed Compliant"]);
    world.clock.advance(DAY);
    assert_eq!(world.states().await, ["one reviewed NonCompliant"]);
}

#[tokio::test]
async fn everything_is_judged_on_request_and_once_a_day() {
    let world = World::new().await;
    two_machines(&world).await;
    world.policy("team", untagged(), effect("audit")).await;
    let group = world.permit(&world.id("/resourceGroups/rg"));
    let all = async { world.comply.rescan(&group).await.unwrap() };
    assert_eq!(world.judged(all).await, 3, "the group and two machines");
    let day = async { world.clock.advance(DAY) };
    assert_eq!(world.judged(day).await, 4, "and the subscription");
    assert_eq!(world.judged(async {}).await, 0);
}

#[tokio::test]
async fn only_what_the_permit_shows_is_told() {
    let world = World::new().await;
    two_machines(&world).await;
    world.policy("team", untagged(), effect("audit")).await;
    assert_eq!(world.states().await.len(), 2);
    let reader = world.reader_of(&world.machine_id("bad"));
    let page = world
        .comply
        .states(&reader, &StateQuery::default())
        .await
        .unwrap();
    let ids: Vec<&str> = page
        .records
        .iter()
        .map(|one| one.resource_id.as_str())
        .collect();
    assert_eq!(ids, [world.machine_id("bad").to_string()]);
    let summary = world
        .comply
        .summarize(&reader, &StateQuery::default())
        .await
        .unwrap();
    assert_eq!(summary.results.resource_details.len(), 1);
    let ask = crate::WhatIf::Policy {
        definition: None,
        assignment: json!({ "policyDefinitionId": world.definition("any", is_machine(), effect("audit")).await }),
    };
    let forecast = world.comply.what_if(&reader, ask).await.unwrap();
    assert_eq!(forecast.records.len(), 1);
}
