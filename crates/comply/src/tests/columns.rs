//! Many resources at once come out as each by itself.

use serde_json::json;
use wire::ResourceId;

use super::world::{DAY, GALLERY, VM, World, effect, field, is_machine};

/// More than a page, so that columns are used again with what they know.
const MACHINES: usize = 530;

async fn policies(world: &World) {
    let all = |more: serde_json::Value| json!({ "allOf": [is_machine(), more] });
    let policies = [
        (
            "tag",
            all(field("tags['team']", "notIn", json!(["a", "b"]))),
            effect("audit"),
        ),
        ("name", all(field("name", "like", "*8")), effect("deny")),
        (
            "size",
            all(field(
                "Microsoft.Compute/virtualMachines/hardwareProfile.vmSize",
                "equals",
                "big",
            )),
            effect("audit"),
        ),
        (
            "failing",
            all(json!({ "value": "[int(field('tags[number]'))]", "greater": 5 })),
            effect("audit"),
        ),
        (
            "group",
            all(json!({ "field": "tags['team']", "notEquals": "[resourceGroup().tags['team']]" })),
            effect("audit"),
        ),
        (
            "time",
            all(json!({ "value": "[utcNow()]", "greater": "2020-01-01T00:00:00Z" })),
            effect("audit"),
        ),
        (
            "image",
            all(field(
                "Bullion.Factory/machineImage.versionsBehind",
                "greater",
                0,
            )),
            effect("audit"),
        ),
        (
            "kept",
            all(field("tags['team']", "equals", "b")),
            json!({ "effect": "denyAction", "details": { "actionNames": ["delete"] } }),
        ),
        (
            "reviewed",
            is_machine(),
            json!({ "effect": "manual", "details": { "defaultState": "Unknown" } }),
        ),
        (
            "agent",
            is_machine(),
            json!({ "effect": "auditIfNotExists", "details": { "type": format!("{VM}/extensions") } }),
        ),
        (
            "sets",
            all(field("tags['owner']", "exists", false)),
            json!({ "effect": "modify", "details": { "roleDefinitionIds": ["x"],
            "operations": [{ "operation": "add", "field": "tags['owner']", "value": "us" }] } }),
        ),
        (
            "everything",
            field("location", "notEquals", "south"),
            effect("audit"),
        ),
    ];
    for (name, condition, then) in policies {
        world.policy(name, condition, then).await;
    }
    let except = json!({ "notScopes": [world.id("/resourceGroups/other").to_string()] });
    let id = world.assignment_id("", "tag");
    let definition = world
        .id("/providers/Microsoft.Authorization/policyDefinitions/tag")
        .to_string();
    world.assign("", id.name(), &definition, except).await;
}

async fn exemptions(world: &World) {
    let about =
        |name: &str| json!({ "policyAssignmentId": world.assignment_id("", name).to_string() });
    let at = |scope: &str, name: &str| {
        world.id(&format!(
            "{scope}/providers/Microsoft.Authorization/policyExemptions/{name}"
        ))
    };
    world
        .put(&at("/resourceGroups/other", "time"), about("time"))
        .await;
    let one = format!("/resourceGroups/rg/providers/{VM}/m8");
    world.put(&at(&one, "name"), about("name")).await;
    let attested = world.id(&format!(
        "{one}/providers/Microsoft.PolicyInsights/attestations/a"
    ));
    let mut body = about("reviewed");
    body["complianceState"] = "Compliant".into();
    world.put(&attested, body).await;
}

async fn machine(world: &World, at: usize) {
    let group = ["rg", "other"][at % 2];
    let id = world.id(&format!("/resourceGroups/{group}/providers/{VM}/m{at}"));
    let team = ["a", "b", "c"][at % 3];
    let number = ["1", "9", "none"][at / 3 % 3];
    let mut tags = vec![("team", team), ("number", number)];
    if at.is_multiple_of(5) {
        tags.push(("owner", "me"));
    }
    let image = world.in_group(&format!("{GALLERY}/images/d/versions/1.0.{}", at % 2));
    let properties = json!({
        "hardwareProfile": { "vmSize": if at.is_multiple_of(4) { "big" } else { "small" } },
        "storageProfile": { "imageReference": { "id": image.to_string() } },
    });
    world.tagged(&id, &tags, properties).await;
}

#[tokio::test]
async fn each_by_itself_comes_out_as_all_at_once() {
    let mut world = World::new().await;
    world.group("rg", &[("team", "a")]).await;
    world.group("other", &[("team", "b")]).await;
    world.versions(&["1.0.0", "1.0.1"]).await;
    for at in 0..MACHINES {
        machine(&world, at).await;
    }
    let extension = world.in_group(&format!("{VM}/m8/extensions/agent"));
    world.put(&extension, json!({})).await;
    policies(&world).await;
    exemptions(&world).await;
    let at_once = world.states().await;
    for state in [
        "NonCompliant",
        "Compliant",
        "Error",
        "Exempt",
        "Protected",
        "Unknown",
    ] {
        assert!(
            at_once.iter().any(|one| one.ends_with(state)),
            "{state} comes out"
        );
    }
    for at in 0..MACHINES {
        machine(&world, at).await;
    }
    let by_itself = world.states().await;
    assert_eq!(by_itself, at_once);
    world.restart();
    world.clock.advance(DAY);
    assert_eq!(world.states().await, at_once);
    world
        .comply
        .rescan(&world.permit(&ResourceId::root()))
        .await
        .unwrap();
    assert_eq!(world.states().await, at_once);
}
