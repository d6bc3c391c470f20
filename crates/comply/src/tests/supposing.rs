//! Explanations and what-if: what is told of one resource, and of what is not there yet.

use serde_json::json;

use super::world::{GALLERY, VM, World, effect, field, is_machine};
use crate::{ComplyError, WhatIf, built_in_definitions};

#[tokio::test]
async fn an_explanation_tells_value_reason_and_way_out() {
    let world = World::new().await;
    world.versions(&["1.0.0", "1.0.1"]).await;
    world.machine("one", "1.0.0").await;
    let behind = built_in_definitions()[2]["id"].as_str().unwrap();
    let messages = json!({ "nonComplianceMessages": [{ "message": "Roll out the new image." }] });
    world.assign("", "newest", behind, messages).await;
    world
        .policy(
            "placed",
            json!({ "allOf": [is_machine(), field("location", "equals", "north")] }),
            effect("audit"),
        )
        .await;
    world.comply.settle().await.unwrap();
    let permit = world.permit(&world.machine_id("one"));
    let explained = world.comply.explain(&permit).await.unwrap();
    assert_eq!(explained.compliance_state, Some(crate::State::NonCompliant));
    assert_eq!(explained.machine_image.unwrap()["latestVersion"], "1.0.1");
    let worst = &explained.policies[0];
    assert_eq!(
        worst.reason.as_deref(),
        Some("runs 1.0.0, latest is 1.0.1 (1 behind)")
    );
    assert_eq!(worst.message.as_deref(), Some("Roll out the new image."));
    assert_eq!(worst.fixes, ["make the machine anew from 1.0.1"]);
    assert_eq!(worst.since, world.now());
    let decided: Vec<&str> = worst
        .evaluated_expressions
        .iter()
        .filter(|one| one["decided"] == true)
        .filter_map(|one| one["expression"].as_str())
        .collect();
    assert_eq!(
        decided,
        ["type", "Bullion.Factory/machineImage.versionsBehind"]
    );
    assert_eq!(
        explained.policies[1].compliance_state,
        crate::State::Compliant
    );
    let none = world
        .comply
        .explain(&world.permit(&world.machine_id("none")))
        .await;
    assert!(
        matches!(none, Err(ComplyError::NotFound { .. })),
        "{none:?}"
    );
}

#[tokio::test]
async fn a_policy_is_tried_on_what_is_there() {
    let world = World::new().await;
    world.versions(&["1.0.0", "1.0.1"]).await;
    world.machine("old", "1.0.0").await;
    world.machine("new", "1.0.1").await;
    let permit = world.permit(&world.id(""));
    let behind = built_in_definitions()[2]["id"].clone();
    let ask = WhatIf::Policy {
        definition: None,
        assignment: json!({ "properties": { "policyDefinitionId": behind } }),
    };
    let forecast = world.comply.what_if(&permit, ask).await.unwrap();
    let expected = json!({ "Compliant": 1, "NonCompliant": 1 });
    assert_eq!(json!(forecast.summary), expected);
    assert!(forecast.records[0].resource_id.ends_with("/old"));
    assert_eq!(
        forecast.records[0].reason.as_deref(),
        Some("runs 1.0.0, latest is 1.0.1 (1 behind)")
    );
    let own = json!({ "properties": { "mode": "All", "parameters": { "place": { "type": "String" } },
        "policyRule": { "if": { "allOf": [is_machine(), field("location", "equals", "[parameters('place')]")] },
                        "then": effect("deny") } } });
    let assign = |place: &str| WhatIf::Policy {
        definition: Some(own.clone()),
        assignment: json!({ "parameters": { "place": { "value": place } } }),
    };
    let forecast = world
        .comply
        .what_if(&permit, assign("south"))
        .await
        .unwrap();
    assert_eq!(json!(forecast.summary), json!({ "NonCompliant": 2 }));
    let forecast = world
        .comply
        .what_if(&permit, assign("north"))
        .await
        .unwrap();
    assert_eq!(json!(forecast.summary), json!({ "Compliant": 2 }));
    let missing = WhatIf::Policy {
        definition: Some(own),
        assignment: json!({}),
    };
    let refused = world.comply.what_if(&permit, missing).await;
    assert!(
        matches!(refused, Err(ComplyError::Document { .. })),
        "{refused:?}"
    );
    assert!(world.states().await.is_empty(), "nothing was stored");
}

#[tokio::test]
async fn a_resource_is_tried_under_what_is_assigned() {
    let world = World::new().await;
    world
        .policy(
            "place",
            json!({ "allOf": [is_machine(), field("location", "equals", "north")] }),
            effect("deny"),
        )
        .await;
    world.policy("seen", is_machine(), effect("audit")).await;
    let id = world.in_group(&format!("{VM}/new"));
    let ask = |location: &str| WhatIf::Resource {
        resource: json!({ "id": id.to_string(), "name": "new", "type": VM, "location": location }),
        existing: None,
        api_version: "2024-03-01".into(),
    };
    let permit = world.permit(&world.id(""));
    let north = world.comply.what_if(&permit, ask("north")).await.unwrap();
    assert!(north.decision.as_ref().unwrap().denied);
    assert_eq!(json!(north.summary), json!({ "NonCompliant": 2 }));
    let south = world.comply.what_if(&permit, ask("south")).await.unwrap();
    assert!(!south.decision.as_ref().unwrap().denied);
    assert_eq!(
        json!(south.summary),
        json!({ "Compliant": 1, "NonCompliant": 1 })
    );
    let elsewhere = world.permit(&world.in_group(GALLERY));
    let refused = world.comply.what_if(&elsewhere, ask("south")).await;
    assert!(
        matches!(refused, Err(ComplyError::Document { .. })),
        "{refused:?}"
    );
}
