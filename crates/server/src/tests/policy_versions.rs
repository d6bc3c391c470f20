//! Versions of definitions and initiatives over HTTP, what chooses among them, and changes of assignments.

use serde_json::{Value, json};

use super::policies::{AUTHORIZATION, assign, at, made, subscription};
use super::site::{Answer, GROUP, Site};

/// A definition of this version: what is called so does not comply.
fn named(version: Option<&str>, name: &str) -> Value {
    let mut body = json!({ "properties": {
        "mode": "All",
        "policyRule": {
            "if": { "field": "name", "equals": name },
            "then": { "effect": "audit" },
        },
    } });
    if let Some(version) = version {
        body["properties"]["version"] = version.into();
    }
    body
}

fn numbers(answer: &Answer) -> Vec<&str> {
    let all = answer.body["value"].as_array().unwrap();
    all.iter()
        .map(|one| one["name"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn a_definition_keeps_its_versions() {
    let site = Site::start().await.with_group().await;
    let path = at(&subscription(), "policyDefinitions", "d");
    let versions = format!("{path}/versions");
    let one = |version: &str| format!("{versions}/{version}");
    assert_eq!(site.put(&one("1.0.0"), named(None, "x")).await.status, 404);
    made(&site, &path, named(None, "x")).await;
    made(&site, &path, named(Some("1.1.0"), "y")).await;
    // The same version again replaces its text.
    made(&site, &path, named(None, "z")).await;
    let seen = site.get(&path).await;
    assert_eq!(
        seen.body["properties"]["versions"],
        json!(["1.1.0", "1.0.0"])
    );
    assert_eq!(seen.body["properties"]["version"], "1.1.0");
    assert_eq!(seen.body["properties"]["policyRule"]["if"]["equals"], "z");
    let put = site.put(&one("2.0.0"), named(None, "w")).await;
    assert_eq!(put.status, 201, "{:?}", put.body);
    assert_eq!(put.body["name"], "2.0.0");
    assert_eq!(
        put.body["type"],
        "Microsoft.Authorization/policyDefinitions/versions"
    );
    assert_eq!(
        site.put(&one("2.0.0"), named(Some("2.0.0"), "v"))
            .await
            .status,
        200
    );
    assert_eq!(site.put(&one("1.5.0"), named(None, "u")).await.status, 201);
    // An earlier version does not become what the definition is.
    let earlier = made(&site, &path, named(Some("1.0.0"), "t")).await;
    assert_eq!(earlier.body["properties"]["version"], "2.0.0");
    let listed = site.get(&versions).await;
    assert_eq!(numbers(&listed), ["2.0.0", "1.5.0", "1.1.0", "1.0.0"]);
    let rule = |answer: &Answer| answer.body["properties"]["policyRule"]["if"]["equals"].clone();
    for (version, name) in [
        ("2.0.0", "v"),
        ("1.5.0", "u"),
        ("1.1.0", "z"),
        ("1.0.0", "t"),
    ] {
        assert_eq!(rule(&site.get(&one(version)).await), name, "{version}");
    }
    let all = format!(
        "{}/{AUTHORIZATION}/listPolicyDefinitionVersions",
        subscription()
    );
    assert_eq!(numbers(&site.ask("POST", &all, None).await).len(), 4);
    let built_in = format!("/{AUTHORIZATION}/listPolicySetDefinitionVersions");
    assert_eq!(numbers(&site.ask("POST", &built_in, None).await).len(), 1);

    for (version, code) in [
        ("1.0", 400),
        ("one", 400),
        ("01.0.0", 400),
        ("1.0.0.0", 400),
        ("1.0.0-", 400),
        ("3.0.0-preview", 201),
    ] {
        assert_eq!(
            site.put(&one(version), named(None, "x")).await.status,
            code,
            "{version}"
        );
    }
    let other = site.put(&one("4.0.0"), named(Some("4.0.1"), "x")).await;
    assert_eq!(
        (other.status, other.code()),
        (400, "InvalidCreatePolicyDefinitionRequest")
    );

    // The newest goes, and the one before it takes its place.
    assert_eq!(site.delete(&one("3.0.0-preview")).await.status, 200);
    assert_eq!(site.delete(&one("2.0.0")).await.status, 200);
    assert_eq!(site.delete(&one("2.0.0")).await.status, 204);
    assert_eq!(site.get(&path).await.body["properties"]["version"], "1.5.0");
    assert_eq!(
        numbers(&site.get(&versions).await),
        ["1.5.0", "1.1.0", "1.0.0"]
    );
    assert_eq!(site.delete(&path).await.status, 200);
    assert_eq!(site.get(&one("1.0.0")).await.status, 404);
    made(&site, &path, named(None, "x")).await;
    assert_eq!(numbers(&site.get(&versions).await), ["1.0.0"]);
    let last = site.delete(&one("1.0.0")).await;
    assert_eq!(
        (last.status, last.code()),
        (400, "InvalidDeletePolicyDefinitionRequest")
    );
}

#[tokio::test]
async fn assignments_and_members_mean_versions() {
    let site = Site::start().await.with_group().await;
    let path = at(&subscription(), "policyDefinitions", "d");
    for version in ["1.0.0", "1.1.0", "2.0.0"] {
        made(&site, &path, named(Some(version), version)).await;
    }
    let assignment = at(GROUP, "policyAssignments", "a");
    let with = |version: Value| {
        let mut body = assign(&path, json!({}));
        body["properties"]["definitionVersion"] = version;
        body
    };
    let expand =
        "?api-version=2025-11-01&$expand=LatestDefinitionVersion,%20EffectiveDefinitionVersion";
    for (given, kept, effective) in [
        (Value::Null, "2.*.*", "2.0.0"),
        ("1.*.*".into(), "1.*.*", "1.1.0"),
        ("1.0.*".into(), "1.0.*", "1.0.0"),
        ("1.1.0".into(), "1.1.0", "1.1.0"),
    ] {
        made(&site, &assignment, with(given)).await;
        let plain = site.get(&assignment).await.body["properties"].clone();
        assert_eq!(plain["definitionVersion"], kept);
        assert!(plain.get("effectiveDefinitionVersion").is_none());
        let seen = site.get(&format!("{assignment}{expand}")).await;
        assert_eq!(
            seen.body["properties"]["effectiveDefinitionVersion"],
            effective
        );
        assert_eq!(seen.body["properties"]["latestDefinitionVersion"], "2.0.0");
    }
    for wrong in [
        json!("3.*.*"),
        json!("*.*.*"),
        json!("1.*.2"),
        json!("x"),
        json!(1),
    ] {
        let seen = site.put(&assignment, with(wrong.clone())).await;
        assert_eq!(seen.status, 400, "{wrong}: {:?}", seen.body);
    }
    // What an assignment means does not go away.
    let used = site.delete(&format!("{path}/versions/1.1.0")).await;
    assert_eq!(
        (used.status, used.code()),
        (400, "InvalidDeletePolicyDefinitionRequest")
    );
    assert_eq!(
        site.delete(&format!("{path}/versions/1.0.0")).await.status,
        200
    );

    // A text that needs more is refused where an assignment means it, and taken where none does.
    let mut more = named(Some("1.1.0"), "x");
    more["properties"]["parameters"] = json!({ "must": { "type": "String" } });
    let refused = site.put(&path, more.clone()).await;
    assert_eq!(
        (refused.status, refused.code()),
        (400, "MissingPolicyParameter")
    );
    more["properties"]["version"] = "2.1.0".into();
    made(&site, &path, more).await;

    let set = at(&subscription(), "policySetDefinitions", "s");
    let of = |version: &str| {
        json!({ "properties": { "policyDefinitions": [
        { "policyDefinitionId": path, "definitionVersion": version },
    ] } })
    };
    let unknown = site.put(&set, of("7.*.*")).await;
    assert_eq!(
        (unknown.status, unknown.code()),
        (404, "PolicyDefinitionNotFound")
    );
    made(&site, &set, of("1.*.*")).await;
    let seen = site.get(&format!("{set}{expand}")).await;
    let member = &seen.body["properties"]["policyDefinitions"][0];
    assert_eq!(member["effectiveDefinitionVersion"], "1.1.0");
    assert_eq!(member["latestDefinitionVersion"], "2.1.0");
    let version = format!("{set}/versions/1.1.0");
    assert_eq!(site.put(&version, of("2.0.*")).await.status, 201);
    assert_eq!(
        numbers(&site.get(&format!("{set}/versions")).await),
        ["1.1.0", "1.0.0"]
    );
}

#[tokio::test]
async fn an_assignment_is_patched() {
    let site = Site::start().await.with_group().await;
    let path = at(&subscription(), "policyDefinitions", "d");
    made(&site, &path, named(None, "x")).await;
    let assignment = at(GROUP, "policyAssignments", "a");
    let patch = async |body: Value| site.ask("PATCH", &assignment, Some(body)).await;
    let absent = patch(json!({})).await;
    assert_eq!(
        (absent.status, absent.code()),
        (404, "PolicyAssignmentNotFound")
    );
    let mut body = assign(&path, json!({}));
    body["properties"]["displayName"] = "The assignment".into();
    made(&site, &assignment, body).await;
    let selectors =
        json!([{ "name": "s", "selectors": [{ "kind": "resourceLocation", "in": ["north"] }] }]);
    let overrides = json!([{ "kind": "policyEffect", "value": "Disabled" }]);
    let seen = patch(
        json!({ "location": "north", "identity": { "type": "SystemAssigned" },
        "properties": { "resourceSelectors": selectors } }),
    )
    .await;
    assert_eq!(seen.status, 200, "{:?}", seen.body);
    let seen = patch(json!({ "properties": { "overrides": overrides } })).await;
    assert_eq!(seen.body["location"], "north");
    assert_eq!(seen.body["identity"]["type"], "SystemAssigned");
    let inside = &seen.body["properties"];
    assert_eq!(inside["displayName"], "The assignment");
    assert_eq!(inside["resourceSelectors"], selectors);
    assert_eq!(inside["overrides"], overrides);
    for wrong in [
        json!({ "properties": { "displayName": "no" } }),
        json!({ "properties": { "overrides": [{ "kind": "colour" }] } }),
        json!({ "properties": { "resourceSelectors": "x" } }),
        json!({ "properties": 1 }),
        json!([]),
    ] {
        let seen = patch(wrong.clone()).await;
        assert_eq!(seen.status, 400, "{wrong}: {:?}", seen.body);
    }
    let none = patch(json!({ "properties": { "overrides": [] } })).await;
    assert_eq!(none.body["properties"]["overrides"], json!([]));
}
