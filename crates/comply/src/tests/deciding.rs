//! Requests: what is denied, what is changed, who gives way, and how it is told.

use serde_json::{Value, json};
use wire::ErrorCode;

use super::world::{GALLERY, VM, World, effect, field, is_machine};
use crate::{WriteKind, disallowed};

/// Assignments that refuse the creation of a machine with this body.
async fn denied_by(world: &World, body: Value) -> Vec<String> {
    let decision = world.decide(&format!("{VM}/new"), body).await;
    let names = decision.denials.into_iter();
    names.map(|denial| denial.policy_assignment_name).collect()
}

#[tokio::test]
async fn deny_refuses_and_says_why() {
    let world = World::new().await;
    let outside = json!({ "allOf": [is_machine(), field("location", "notIn", json!(["south"]))] });
    world.policy("place", outside.clone(), effect("deny")).await;
    world.policy("watched", outside, effect("audit")).await;
    assert!(
        denied_by(&world, json!({ "location": "south" }))
            .await
            .is_empty()
    );
    let decision = world
        .decide(&format!("{VM}/new"), json!({ "location": "north" }))
        .await;
    let error = disallowed("new", WriteKind::Create, &decision.denials);
    assert_eq!(error.code, ErrorCode::RequestDisallowedByPolicy);
    let assignment = world.assignment_id("", "place");
    let expected = format!(
        "Resource 'new' was disallowed by policy. Policy identifiers: \
         '[{{\"policyAssignment\":{{\"name\":\"Assigned place\",\"id\":\"{assignment}\"}},\"policyDefinition\":\
         {{\"name\":\"The place\",\"id\":\"{}\"}}}}]'.",
        decision.denials[0].policy_definition_id
    );
    assert_eq!(error.message, expected);
    let body = error.body();
    let info = &body.additional_info[0];
    assert_eq!(info["type"], "PolicyViolation");
    assert_eq!(info["info"]["policyAssignmentId"], assignment.to_string());
    let expressions = &info["info"]["evaluationDetails"]["evaluatedExpressions"];
    let expected = json!({
        "result": "True", "expressionKind": "Field", "expression": "location",
        "path": "policyRule.if.allOf[1]", "expressionValue": "north", "targetValue": ["south"],
        "operator": "NotIn",
    });
    assert_eq!(expressions[1], expected);
}

#[tokio::test]
async fn an_assignment_acts_at_once_and_where_it_is() {
    let world = World::new().await;
    let all = denied_by(&world, json!({ "location": "south" })).await;
    assert!(all.is_empty());
    let id = world.definition("no", is_machine(), effect("deny")).await;
    world.group("other", &[]).await;
    world
        .assign("/resourceGroups/other", "elsewhere", &id, json!({}))
        .await;
    world
        .assign("/resourceGroups/rg", "here", &id, json!({}))
        .await;
    let not = json!({ "notScopes": [world.id("/resourceGroups/RG").to_string()] });
    world.assign("", "around", &id, not).await;
    world
        .assign(
            "",
            "softly",
            &id,
            json!({ "enforcementMode": "DoNotEnforce" }),
        )
        .await;
    assert_eq!(
        denied_by(&world, json!({ "location": "south" })).await,
        ["here"]
    );
    world
        .remove(&world.assignment_id("/resourceGroups/rg", "here"))
        .await;
    assert!(
        denied_by(&world, json!({ "location": "south" }))
            .await
            .is_empty()
    );
}

#[tokio::test]
async fn what_a_body_says_of_its_scope_does_not_count() {
    let world = World::new().await;
    let id = world.definition("no", is_machine(), effect("deny")).await;
    world.group("other", &[]).await;
    let lie = json!({ "scope": world.id("").to_string() });
    world
        .assign("/resourceGroups/other", "lying", &id, lie)
        .await;
    assert!(denied_by(&world, json!({})).await.is_empty());
}

#[tokio::test]
async fn what_is_changed_is_judged_as_it_has_become() {
    let world = World::new().await;
    let untagged = json!({ "allOf": [is_machine(), field("tags['team']", "exists", false)] });
    world.policy("must", untagged.clone(), effect("deny")).await;
    let details = json!({
        "roleDefinitionIds": ["/providers/Microsoft.Authorization/roleDefinitions/x"],
        "operations": [{ "operation": "add", "field": "tags['team']", "value": "[resourceGroup().tags['team']]" }],
    });
    let then = json!({ "effect": "modify", "details": details });
    world.policy("inherit", untagged, then).await;
    world.group("rg", &[("team", "blue")]).await;
    let decision = world
        .decide(&format!("{VM}/new"), json!({ "location": "south" }))
        .await;
    assert!(decision.denials.is_empty(), "{:?}", decision.denials);
    assert!(decision.changed);
    assert_eq!(decision.resource["tags"]["team"], "blue");
    assert_eq!(decision.resource["type"], VM);
    assert_eq!(decision.changes[0]["operation"], "add");
    let own = json!({ "location": "south", "tags": { "team": "red" } });
    let decision = world.decide(&format!("{VM}/new"), own).await;
    assert!(!decision.changed);
    assert_eq!(decision.resource["tags"]["team"], "red");
}

#[tokio::test]
async fn those_that_change_one_property_give_way_or_refuse() {
    #[track_caller]
    fn check(decision: &crate::Decision, tag: Value, denied: usize) {
        assert_eq!(decision.resource["tags"]["team"], tag);
        assert_eq!(decision.denials.len(), denied, "{:?}", decision.denials);
    }
    let set = |value: &str, conflict: &str| {
        json!({ "effect": "modify", "details": {
            "roleDefinitionIds": ["x"],
            "conflictEffect": conflict,
            "operations": [{ "operation": "addOrReplace", "field": "tags['team']", "value": value }],
        }})
    };
    let world = World::new().await;
    let machine = format!("{VM}/new");
    world.policy("a", is_machine(), set("blue", "deny")).await;
    check(&world.decide(&machine, json!({})).await, json!("blue"), 0);
    world.policy("b", is_machine(), set("red", "audit")).await;
    check(&world.decide(&machine, json!({})).await, json!("blue"), 0);
    world.policy("b", is_machine(), set("red", "deny")).await;
    check(&world.decide(&machine, json!({})).await, Value::Null, 2);
}

#[tokio::test]
async fn an_exemption_lets_pass_until_it_ends() {
    let world = World::new().await;
    world.policy("no", is_machine(), effect("deny")).await;
    let exemption =
        world.id("/resourceGroups/rg/providers/Microsoft.Authorization/policyExemptions/e");
    let about = world.assignment_id("", "no").to_string();
    let until = |text: &str| json!({ "policyAssignmentId": about, "exemptionCategory": "Waiver", "expiresOn": text });
    world.put(&exemption, until("2100-01-01T00:00:00Z")).await;
    assert!(denied_by(&world, json!({})).await.is_empty());
    world.put(&exemption, until("2020-01-01T00:00:00Z")).await;
    assert_eq!(denied_by(&world, json!({})).await, ["no"]);
}

#[tokio::test]
async fn a_policy_that_cannot_be_evaluated_refuses() {
    let world = World::new().await;
    let failing = json!({ "allOf": [is_machine(), { "value": "[div(1, 0)]", "equals": 1 }] });
    world.policy("failing", failing, effect("audit")).await;
    let decision = world.decide(&format!("{VM}/new"), json!({})).await;
    assert_eq!(decision.denials.len(), 1);
    let message = disallowed("new", WriteKind::Create, &decision.denials).message;
    assert!(message.contains("cannot be evaluated"), "{message}");
    let group = world.decide(GALLERY, json!({})).await;
    assert!(group.denials.is_empty(), "{:?}", group.denials);
}

#[tokio::test]
async fn a_definition_that_is_gone_or_broken_refuses() {
    let world = World::new().await;
    world
        .assign(
            "",
            "dangling",
            &world
                .id("/providers/Microsoft.Authorization/policyDefinitions/none")
                .to_string(),
            json!({}),
        )
        .await;
    assert_eq!(denied_by(&world, json!({})).await, ["dangling"]);
    world.remove(&world.assignment_id("", "dangling")).await;
    let broken = json!({ "anyOf": "nonsense" });
    world.policy("broken", broken, effect("audit")).await;
    assert_eq!(denied_by(&world, json!({})).await, ["broken"]);
    // What policies consist of is never held up by them.
    let assignment = world.assignment_id("", "broken");
    let decision = world
        .decide_as(WriteKind::Delete, &assignment, json!({}))
        .await;
    assert!(decision.denials.is_empty());
}

#[tokio::test]
async fn deny_action_protects_a_resource_and_its_group() {
    let world = World::new().await;
    let kept = json!({ "allOf": [is_machine(), field("tags['keep']", "equals", "yes")] });
    let details = json!({ "actionNames": ["delete"] });
    let then = json!({ "effect": "denyAction", "details": details });
    world.policy("kept", kept, then).await;
    let machine = world.machine_id("one");
    world.tagged(&machine, &[("keep", "yes")], json!({})).await;
    let body = json!({ "tags": { "keep": "yes" } });
    let decision = world.decide_as(WriteKind::Delete, &machine, body).await;
    assert_eq!(decision.denials.len(), 1);
    let message = disallowed("one", WriteKind::Delete, &decision.denials).message;
    assert!(
        message.starts_with("Deletion of resource 'one' was disallowed"),
        "{message}"
    );
    let free = world
        .decide_as(WriteKind::Delete, &machine, json!({}))
        .await;
    assert!(free.denials.is_empty());
    let group = world.id("/resourceGroups/rg");
    let decision = world.decide_as(WriteKind::Delete, &group, json!({})).await;
    assert_eq!(decision.denials.len(), 1);
    world.tagged(&machine, &[], json!({})).await;
    let decision = world.decide_as(WriteKind::Delete, &group, json!({})).await;
    assert!(decision.denials.is_empty());
}

#[tokio::test]
async fn messages_of_an_assignment_are_told() {
    let world = World::new().await;
    let id = world.definition("no", is_machine(), effect("deny")).await;
    let messages = json!({ "nonComplianceMessages": [{ "message": "Ask the platform team." }] });
    world.assign("", "no", &id, messages).await;
    let decision = world.decide(&format!("{VM}/new"), json!({})).await;
    let message = disallowed("new", WriteKind::Create, &decision.denials).message;
    assert!(
        message.contains("Reasons: 'Ask the platform team.'."),
        "{message}"
    );
}

#[tokio::test]
async fn a_management_group_reaches_the_subscriptions_below_it() {
    let world = World::new().await;
    let group = |name: &str| {
        wire::ResourceId::root()
            .extension("Microsoft.Management", "managementGroups", name)
            .unwrap()
    };
    let parent = |name: &str| json!({ "details": { "parent": { "id": group(name).to_string() } } });
    world.put(&group("top"), json!({})).await;
    world.put(&group("middle"), parent("top")).await;
    world.put(&group("beside"), parent("top")).await;
    let id = world.definition("no", is_machine(), effect("deny")).await;
    for name in ["top", "beside"] {
        let assignment =
            group(name).extension("Microsoft.Authorization", "policyAssignments", name);
        world
            .put(&assignment.unwrap(), json!({ "policyDefinitionId": id }))
            .await;
    }
    assert!(denied_by(&world, json!({})).await.is_empty());
    let moved = catalog::Draft::new(json!({ "managementGroup": "Middle" }));
    world.put_draft(&world.id(""), moved).await;
    assert_eq!(denied_by(&world, json!({})).await, ["top"]);
}
