//! Computed aliases: a version that is published, revoked or too old changes the states of machines.

use serde_json::json;

use super::world::{DAY, GALLERY, HOUR, VM, World};
use crate::built_in_definitions;

/// Assigns a built-in definition, by the end of its id, under the name `p`.
async fn assign(world: &World, end: &str, parameters: serde_json::Value) {
    let mut all = built_in_definitions().iter();
    let found = all.find_map(|one| one["id"].as_str().filter(|id| id.ends_with(end)));
    let parameters = json!({ "parameters": parameters });
    world.assign("", "p", found.unwrap(), parameters).await;
}

const APPROVED: &str = "c01";
const AGE: &str = "c02";
const BEHIND: &str = "c03";
const REVOKED: &str = "c04";
const END_OF_LIFE: &str = "c05";
const TATTOO: &str = "c06";
const LIFECYCLE: &str = "c07";

#[tokio::test]
async fn a_published_version_makes_its_machines_outdated() {
    let world = World::new().await;
    world.versions(&["1.0.0"]).await;
    world.machine("one", "1.0.0").await;
    world.machine("two", "1.0.0").await;
    assign(&world, BEHIND, json!({})).await;
    assert_eq!(world.states().await, ["one p Compliant", "two p Compliant"]);
    let judged = world.judged(world.version("1.0.1", &[], json!({}))).await;
    assert_eq!(
        judged, 3,
        "both machines, and the version itself, by the one policy"
    );
    assert_eq!(
        world.states().await,
        ["one p NonCompliant", "two p NonCompliant"]
    );
    let reason = world.reason("one", "p").await;
    assert_eq!(
        reason.as_deref(),
        Some("runs 1.0.0, latest is 1.0.1 (1 behind)")
    );
    world.machine("one", "1.0.1").await;
    assert_eq!(
        world.states().await,
        ["one p Compliant", "two p NonCompliant"]
    );
    world
        .version("1.0.2", &[], json!({ "excludeFromLatest": true }))
        .await;
    assert_eq!(
        world.states().await,
        ["one p Compliant", "two p NonCompliant"]
    );
}

#[tokio::test]
async fn how_far_a_replica_is_touches_no_machine() {
    let world = World::new().await;
    world.versions(&["1.0.0"]).await;
    world.machine("one", "1.0.0").await;
    assign(&world, BEHIND, json!({})).await;
    let published = world.now().to_string();
    let write = |percent: u32| {
        let profile = json!({ "publishedDate": published, "percent": percent });
        world.version("1.0.0", &[], profile)
    };
    world.judged(write(1)).await;
    assert_eq!(world.judged(write(2)).await, 1, "the version itself");
}

#[tokio::test]
async fn a_version_of_another_tenants_gallery_counts_too() {
    let world = World::new().await;
    world.versions(&["1.0.0"]).await;
    let other = wire::TenantId::random();
    let subscription = wire::SubscriptionId::random();
    let far = |rest: &str| {
        wire::ResourceId::parse(&format!("/subscriptions/{subscription}{rest}")).unwrap()
    };
    let put = async |id: wire::ResourceId, draft: catalog::Draft| {
        let action = access::Action::new("test/write");
        let reason = access::SystemReason::Reconcile;
        let permit = access::Permit::system(reason, action, id, other);
        let put =
            catalog::Catalog::put(&*world.catalog, &permit, draft, catalog::Precondition::None);
        put.await.unwrap();
    };
    let made = world.tenant_named(other, "other").await;
    assert_eq!(made, other);
    put(
        far(""),
        catalog::Draft::new(json!({})).record(catalog::Record::Subscription),
    )
    .await;
    put(
        far("/resourceGroups/rg"),
        catalog::Draft::new(json!({})).location("south"),
    )
    .await;
    let machine = far(&format!("/resourceGroups/rg/providers/{VM}/away"));
    let reference = json!({ "id": world.version_id("1.0.0").to_string() });
    let properties = json!({ "storageProfile": { "imageReference": reference } });
    put(
        machine.clone(),
        catalog::Draft::new(properties).location("south"),
    )
    .await;
    let mut all = built_in_definitions().iter();
    let definition = all
        .find(|one| one["id"].as_str().unwrap().ends_with(BEHIND))
        .unwrap();
    let assignment = far("/providers/Microsoft.Authorization/policyAssignments/p");
    put(
        assignment,
        catalog::Draft::new(json!({ "policyDefinitionId": definition["id"] })),
    )
    .await;
    world.comply.settle().await.unwrap();
    let action = access::Action::new("test/read");
    let permit = access::Permit::system(access::SystemReason::Reconcile, action, machine, other);
    let state = async || {
        world.comply.settle().await.unwrap();
        let page = world
            .comply
            .states(&permit, &crate::StateQuery::default())
            .await;
        page.unwrap().records[0].compliance_state
    };
    assert_eq!(state().await, crate::State::Compliant);
    world.version("1.0.1", &[], json!({})).await;
    assert_eq!(state().await, crate::State::NonCompliant);
}

#[tokio::test]
async fn images_age_by_themselves() {
    let world = World::new().await;
    world.versions(&["1.0.0"]).await;
    world.machine("one", "1.0.0").await;
    assign(&world, AGE, json!({ "maxAgeDays": { "value": 2 } })).await;
    world.clock.advance(DAY * 2 + HOUR);
    assert_eq!(world.states().await, ["one p Compliant"]);
    world.clock.advance(DAY);
    assert_eq!(world.states().await, ["one p NonCompliant"]);
    let reason = world.reason("one", "p").await.unwrap();
    assert!(reason.contains("3 days old, at most 2 days"), "{reason}");
}

#[tokio::test]
async fn a_revoked_version_is_told_with_its_reason() {
    let world = World::new().await;
    world.versions(&["1.0.0"]).await;
    world.machine("one", "1.0.0").await;
    assign(&world, REVOKED, json!({})).await;
    assert_eq!(world.states().await, ["one p Compliant"]);
    world
        .version("1.0.0", &[("bullion-revoked", "leaks a key")], json!({}))
        .await;
    assert_eq!(world.states().await, ["one p NonCompliant"]);
    let reason = world.reason("one", "p").await;
    assert_eq!(
        reason.as_deref(),
        Some("runs 1.0.0, which is revoked: leaks a key")
    );
    world.remove(&world.version_id("1.0.0")).await;
    assert_eq!(
        world.states().await,
        ["one p NonCompliant"],
        "not known is not fine"
    );
}

#[tokio::test]
async fn a_version_ends() {
    let world = World::new().await;
    let end = catalog::later(world.now(), DAY).to_string();
    world.versions(&[]).await;
    world
        .version("1.0.0", &[], json!({ "endOfLifeDate": end }))
        .await;
    world.machine("one", "1.0.0").await;
    assign(&world, END_OF_LIFE, json!({})).await;
    assert_eq!(world.states().await, ["one p Compliant"]);
    world.clock.advance(DAY);
    assert_eq!(world.states().await, ["one p NonCompliant"]);
}

#[tokio::test]
async fn where_a_machine_comes_from_and_what_it_says_of_itself() {
    let world = World::new().await;
    world.versions(&["1.0.0"]).await;
    world.machine("one", "1.0.0").await;
    let gallery = world.in_group(GALLERY).to_string().to_uppercase();
    assign(
        &world,
        APPROVED,
        json!({ "approvedGalleries": { "value": [gallery] } }),
    )
    .await;
    assert_eq!(world.states().await, ["one p Compliant"]);
    assign(
        &world,
        APPROVED,
        json!({ "approvedGalleries": { "value": ["/other"] } }),
    )
    .await;
    assert_eq!(world.states().await, ["one p NonCompliant"]);
    assign(&world, TATTOO, json!({})).await;
    assert_eq!(world.states().await, ["one p Compliant"]);
    assign(&world, LIFECYCLE, json!({})).await;
    assert_eq!(world.states().await, ["one p Compliant"]);
    assign(&world, LIFECYCLE, json!({ "tagName": { "value": "kind" } })).await;
    assert_eq!(world.states().await, ["one p NonCompliant"]);
}

#[tokio::test]
async fn a_machine_is_refused_for_an_old_version() {
    let world = World::new().await;
    world.versions(&["1.0.0", "1.0.1"]).await;
    assign(&world, BEHIND, json!({ "effect": { "value": "Deny" } })).await;
    let machine = |id: String| json!({ "location": "south", "properties": { "storageProfile": { "imageReference": { "id": id } } } });
    let old = machine(world.version_id("1.0.0").to_string());
    let decision = world.decide(&format!("{VM}/new"), old).await;
    assert_eq!(decision.denials.len(), 1);
    assert!(
        decision.resource.get("machineImage").is_none(),
        "computed, never stored"
    );
    let latest = machine(world.in_group(&format!("{GALLERY}/images/d")).to_string());
    let decision = world.decide(&format!("{VM}/new"), latest).await;
    assert!(decision.denials.is_empty());
}
