//! Versions of definitions and initiatives: which one an assignment means, for which resource, and what a new one touches.

use serde_json::{Value, json};

use super::world::{VM, World, effect, field, is_machine};

/// A definition's body: machines without this tag do not comply.
fn needs_tag(version: &str, tag: &str) -> Value {
    let missing = field(&format!("tags['{tag}']"), "exists", false);
    let rule = json!({ "if": { "allOf": [is_machine(), missing] }, "then": effect("audit") });
    json!({ "mode": "All", "version": version, "policyRule": rule })
}

/// Definition `d`: 1.0.0 asks for a tag `one`, 1.1.0 for `two`, 2.0.0 for `three`. A machine with the tag `one` in the
/// south, one with `two` and one with `three` in the north.
async fn world() -> (World, String) {
    let world = World::new().await;
    for (name, place, tag) in [
        ("m1", "south", "one"),
        ("m2", "north", "two"),
        ("m3", "north", "three"),
    ] {
        let tags = [(tag.to_owned(), "x".to_owned())].into();
        let draft = catalog::Draft::new(json!({})).location(place).tags(tags);
        world.put_draft(&world.machine_id(name), draft).await;
    }
    let id = world.id(&format!("/providers/{}/d", crate::kinds::DEFINITIONS));
    world.put(&id, needs_tag("2.0.0", "three")).await;
    for (version, tag) in [("1.0.0", "one"), ("1.1.0", "two")] {
        let at = wire::ResourceId::parse(&format!("{id}/versions/{version}")).unwrap();
        world.put(&at, needs_tag(version, tag)).await;
    }
    (world, id.to_string())
}

/// The machines that comply with an assignment of `d`; `error` where nothing can be said.
async fn check(more: Value, expected: &[&str]) {
    let (world, definition) = world().await;
    world.assign("", "a", &definition, more.clone()).await;
    let states = world.states().await;
    let states = states.iter().map(|state| state.split(' '));
    let seen: Vec<String> = states
        .filter_map(|mut words| {
            let (name, state) = (words.next()?, words.nth(1)?);
            (state != "NonCompliant").then(|| match state {
                "Compliant" => name.to_owned(),
                other => format!("{name} {other}"),
            })
        })
        .filter(|name| name.starts_with('m'))
        .collect();
    assert_eq!(seen, expected, "{more}");
}

fn override_to(version: &str, selectors: Value) -> Value {
    json!({ "kind": "definitionVersion", "value": version, "selectors": selectors })
}

#[tokio::test]
async fn an_assignment_means_a_version() {
    check(json!({}), &["m3"]).await;
    check(json!({ "definitionVersion": "1.*.*" }), &["m2"]).await;
    check(json!({ "definitionVersion": "1.0.*" }), &["m1"]).await;
    check(json!({ "definitionVersion": "2.*.*" }), &["m3"]).await;
    let errors = ["m1 Error", "m2 Error", "m3 Error"];
    check(json!({ "definitionVersion": "3.*.*" }), &errors).await;
}

#[tokio::test]
async fn an_override_means_a_version_for_some_resources() {
    let south = json!([{ "kind": "resourceLocation", "in": ["south"] }]);
    let north = json!([{ "kind": "resourceLocation", "in": ["north"] }]);
    let of = |overrides: Value| json!({ "definitionVersion": "1.*.*", "overrides": overrides });
    let more = of(json!([override_to("1.0.0", south.clone())]));
    check(more, &["m1", "m2"]).await;
    let first = json!([override_to("1.0.0", south), override_to("2.0.0", north)]);
    check(of(first), &["m1", "m3"]).await;
    let all = json!([override_to("2.0.*", json!([]))]);
    check(of(all), &["m3"]).await;
    let other = json!([{ "kind": "policyEffect", "value": "Disabled" }]);
    let more = json!({ "definitionVersion": "1.*.*", "overrides": other });
    check(more, &[]).await;
}

#[tokio::test]
async fn members_of_an_initiative_have_versions() {
    let (world, definition) = world().await;
    let id = world.id(&format!("/providers/{}/s", crate::kinds::SET_DEFINITIONS));
    let member = |reference: &str, version: &str| {
        json!({ "policyDefinitionReferenceId": reference, "policyDefinitionId": definition,
            "definitionVersion": version })
    };
    let two = json!([member("old", "1.0.*"), member("new", "2.*.*")]);
    world
        .put(&id, json!({ "version": "1.1.0", "policyDefinitions": two }))
        .await;
    let earlier = wire::ResourceId::parse(&format!("{id}/versions/1.0.0")).unwrap();
    let one = json!([member("old", "1.1.*")]);
    world
        .put(
            &earlier,
            json!({ "version": "1.0.0", "policyDefinitions": one }),
        )
        .await;
    let set = id.to_string();
    let seen = async |more: Value| {
        world.assign("", "a", &set, more).await;
        let states = world.states().await;
        let fine = states.iter().filter(|state| state.starts_with('m'));
        let fine = fine.filter(|state| state.ends_with(" Compliant"));
        let short = |state: &String| state.replace(" a/", " ").replace(" Compliant", "");
        (fine.map(short).collect::<Vec<_>>(), states.len())
    };
    let newest = (vec!["m1 old".to_owned(), "m3 new".to_owned()], 6);
    assert_eq!(seen(json!({})).await, newest);
    let pinned = seen(json!({ "definitionVersion": "1.0.*" })).await;
    assert_eq!(pinned, (vec!["m2 old".to_owned()], 3));
    // In the south the earlier initiative, which has one member only.
    let south = json!([{ "kind": "resourceLocation", "in": ["south"] }]);
    let more = json!({ "overrides": [override_to("1.0.0", south)] });
    assert_eq!(seen(more).await, (vec!["m3 new".to_owned()], 5));
    let old = json!([{ "kind": "policyDefinitionReferenceId", "in": ["old"] }]);
    let more = json!({ "overrides": [override_to("2.0.0", old)] });
    let both = vec!["m3 old".to_owned(), "m3 new".to_owned()];
    assert_eq!(seen(more).await, (both, 6));
}

#[tokio::test]
async fn a_new_version_touches_whoever_means_it() {
    let (world, definition) = world().await;
    let pin = |version: &str| json!({ "definitionVersion": version });
    world.assign("", "any", &definition, json!({})).await;
    world.assign("", "one", &definition, pin("1.*.*")).await;
    world.assign("", "exact", &definition, pin("1.0.0")).await;
    let at = |version: &str| {
        wire::ResourceId::parse(&format!("{definition}/versions/{version}")).unwrap()
    };
    // Subscription, group and three machines, by the assignment that means it.
    let (newer, between) = (at("1.2.0"), at("1.1.5"));
    let put = world.put(&newer, needs_tag("1.2.0", "three"));
    assert_eq!(world.judged(put).await, 5);
    assert!(
        world
            .states()
            .await
            .contains(&"m3 one Compliant".to_owned())
    );
    let put = world.put(&between, needs_tag("1.1.5", "two"));
    assert_eq!(world.judged(put).await, 0, "nobody means it");
    let gone = world.remove(&newer);
    assert_eq!(world.judged(gone).await, 5);
    assert!(
        world
            .states()
            .await
            .contains(&"m2 one Compliant".to_owned())
    );
    // The newest becomes an earlier one, as it is, and another takes its place.
    let own = wire::ResourceId::parse(&definition).unwrap();
    let moved = async {
        world.put(&at("2.0.0"), needs_tag("2.0.0", "three")).await;
        world.put(&own, needs_tag("2.1.0", "one")).await;
    };
    assert_eq!(world.judged(moved).await, 5, "only what means any version");
    let denied = field("type", "equals", VM);
    let rule = json!({ "if": denied, "then": effect("deny") });
    let deny = json!({ "mode": "All", "version": "1.3.0", "policyRule": rule });
    world.put(&at("1.3.0"), deny).await;
    let new = format!("{VM}/new");
    let decided = world.decide(&new, json!({ "location": "south" })).await;
    let denials = decided.denials;
    assert_eq!(denials.len(), 1, "by the assignment of 1.*.* alone");
}
