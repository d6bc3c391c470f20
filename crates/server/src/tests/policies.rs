//! Policies over HTTP: what is written, read back and refused, and what the assigned ones do to writes.

use serde_json::{Value, json};

use super::galleries;
use super::site::{Answer, GROUP, SUBSCRIPTION, Site};

pub const AUTHORIZATION: &str = "providers/Microsoft.Authorization";
pub const MANAGEMENT: &str = "/providers/Microsoft.Management/managementGroups";

pub fn subscription() -> String {
    format!("/subscriptions/{SUBSCRIPTION}")
}

pub fn at(scope: &str, kind: &str, name: &str) -> String {
    format!("{scope}/{AUTHORIZATION}/{kind}/{name}")
}

/// Denies resources of a type, in a place that parameters name.
pub fn deny(kind: &str, place: &str) -> Value {
    json!({ "properties": {
        "mode": "All",
        "displayName": "Not there",
        "metadata": { "category": "Tests", "createdBy": "somebody else" },
        "parameters": {
            "place": { "type": "String", "defaultValue": place },
            "effect": { "type": "String", "defaultValue": "Deny", "allowedValues": ["Audit", "Deny", "Disabled"] },
        },
        "policyRule": {
            "if": { "allOf": [
                { "field": "type", "equals": kind },
                { "field": "location", "equals": "[parameters('place')]" },
            ] },
            "then": { "effect": "[parameters('effect')]" },
        },
    } })
}

pub fn assign(definition: &str, parameters: Value) -> Value {
    json!({ "properties": { "policyDefinitionId": definition, "parameters": parameters } })
}

pub async fn made(site: &Site, path: &str, body: Value) -> Answer {
    let answer = site.put(path, body).await;
    assert!(
        [200, 201].contains(&answer.status),
        "{path}: {:?}",
        answer.body
    );
    answer
}

#[tokio::test]
async fn definitions_are_read_back_as_azure_shows_them() {
    let site = Site::start().await.with_group().await;
    let path = at(&subscription(), "policyDefinitions", "Not-There");
    let body = deny("Microsoft.Compute/galleries", "south");
    let made = made(&site, &path, body.clone()).await;
    assert_eq!(made.status, 201);
    // Clients take nothing but 201 for a definition that is there already.
    assert_eq!(site.put(&path, body).await.status, 201);
    let seen = site.get(&path.to_lowercase()).await;
    let seen = &seen.body;
    assert_eq!(seen["name"], "Not-There");
    assert_eq!(seen["type"], "Microsoft.Authorization/policyDefinitions");
    let inside = &seen["properties"];
    assert_eq!(inside["policyType"], "Custom");
    assert_eq!(inside["mode"], "All");
    assert_eq!(inside["version"], "1.0.0");
    assert_eq!(inside["metadata"]["category"], "Tests");
    assert_ne!(inside["metadata"]["createdBy"], "somebody else");
    assert!(inside["metadata"]["updatedOn"].is_string());
    assert!(inside.get("provisioningState").is_none());
    assert!(seen["systemData"]["createdAt"].is_string());
    let versions = site.get(&format!("{path}/versions")).await;
    assert_eq!(versions.body["value"][0]["name"], "1.0.0");
    assert_eq!(
        site.get(&format!("{path}/versions/1.0.0")).await.status,
        200
    );
    assert_eq!(
        site.get(&format!("{path}/versions/2.0.0")).await.status,
        404
    );

    let list = format!(
        "{}/{AUTHORIZATION}/policyDefinitions?api-version=2025-11-01",
        subscription()
    );
    let count = |answer: &Answer| answer.body["value"].as_array().unwrap().len();
    let custom = site
        .get(&format!("{list}&$filter=policyType%20eq%20'Custom'"))
        .await;
    assert_eq!(count(&custom), 1);
    let exact = site.get(&format!("{list}&$filter=atExactScope()")).await;
    assert_eq!(count(&exact), 1);
    let all = site.get(&list).await;
    assert!(count(&all) > 1, "built-in definitions are listed, too");
    let bad = site
        .get(&format!("{list}&$filter=colour%20eq%20'red'"))
        .await;
    assert_eq!(
        (bad.status, bad.code()),
        (400, "InvalidFilterInQueryString")
    );

    let built_in = site
        .get(&format!("/{AUTHORIZATION}/policyDefinitions"))
        .await;
    let id = built_in.body["value"][0]["id"]
        .as_str()
        .unwrap()
        .to_string();
    assert_eq!(
        site.get(&id).await.body["properties"]["policyType"],
        "BuiltIn"
    );
    let versions = site.get(&format!("{}{id}/versions", subscription())).await;
    assert_eq!(versions.body["value"][0]["name"], "1.0.0");
    let missing = site
        .get(&format!("/{AUTHORIZATION}/policyDefinitions/none"))
        .await;
    assert_eq!(
        (missing.status, missing.code()),
        (404, "PolicyDefinitionNotFound")
    );
    assert_eq!(site.put(&id, deny("x", "y")).await.status, 405);
    // Somebody who may read one resource group finds built-in definitions, as clients need to.
    let (token, principal) = site.stranger().await;
    let role = at(
        GROUP,
        "roleAssignments",
        "22222222-2222-4222-8222-222222222222",
    );
    let reader = "acdd72a7-3385-48ef-bd42-f606fba81ae7";
    let body = json!({ "properties": { "roleDefinitionId": reader, "principalId": principal } });
    assert_eq!(site.put(&role, body).await.status, 201);
    assert_eq!(site.ask_as(&token, "GET", &id, None).await.status, 200);
    assert_eq!(site.ask_as(&token, "GET", &path, None).await.status, 403);
}

#[tokio::test]
async fn definitions_that_are_refused() {
    let site = Site::start().await.with_group().await;
    let path = at(&subscription(), "policyDefinitions", "bad");
    let check = async |body: Value, code: &str, part: &str| {
        let seen = site.put(&path, json!({ "properties": body })).await;
        assert_eq!((seen.status, seen.code()), (400, code), "{:?}", seen.body);
        assert!(seen.message().contains(part), "{}", seen.message());
    };
    let rule = |condition: Value| json!({ "policyRule": { "if": condition, "then": { "effect": "audit" } } });
    check(json!({}), "InvalidPolicyRule", "policyRule").await;
    check(
        rule(json!({ "field": "type" })),
        "InvalidPolicyRule",
        "policyRule.if",
    )
    .await;
    check(
        rule(json!({ "value": "[nothing()]", "equals": 1 })),
        "InvalidPolicyRule",
        "policyRule.if.value",
    )
    .await;
    let mut wrong = rule(json!({ "field": "type", "equals": "x" }));
    wrong["parameters"] = json!({ "p": { "type": "Colour" } });
    check(
        wrong.clone(),
        "InvalidPolicyParameters",
        "parameters.p.type",
    )
    .await;
    wrong["parameters"] = json!({});
    wrong["mode"] = "Everything".into();
    check(
        wrong.clone(),
        "InvalidCreatePolicyDefinitionRequest",
        "mode",
    )
    .await;
    wrong["mode"] = "All".into();
    wrong["policyType"] = "BuiltIn".into();
    check(
        wrong.clone(),
        "InvalidCreatePolicyDefinitionRequest",
        "policy type",
    )
    .await;
    wrong["policyType"] = "Custom".into();
    wrong["version"] = "one".into();
    check(
        wrong.clone(),
        "InvalidCreatePolicyDefinitionRequest",
        "1.2.3",
    )
    .await;
    let mut deep = json!({ "field": "type", "equals": "x" });
    for _ in 0..60 {
        deep = json!({ "not": deep });
    }
    let seen = site.put(&path, json!({ "properties": rule(deep) })).await;
    assert!([201, 400].contains(&seen.status), "{:?}", seen.body);
    let long = "x".repeat(2 << 20);
    let seen = site
        .put(
            &path,
            json!({ "properties": rule(json!({ "value": long, "equals": 1 })) }),
        )
        .await;
    assert_eq!(seen.status, 400, "{}", seen.message());
    for body in [
        json!(null),
        json!([]),
        json!({ "properties": 1 }),
        json!("x"),
    ] {
        assert_eq!(site.put(&path, body.clone()).await.status, 400, "{body}");
    }
    let kind = at(GROUP, "policyDefinitions", "here");
    assert_eq!(site.put(&kind, deny("x", "y")).await.status, 404);
}

#[tokio::test]
async fn assignments_and_their_parameters() {
    let site = Site::start().await.with_group().await;
    let definition = at(&subscription(), "policyDefinitions", "d");
    made(&site, &definition, json!({ "properties": {
        "parameters": { "n": { "type": "Integer" }, "more": { "type": "String", "defaultValue": "x" } },
        "policyRule": {
            "if": { "field": "name", "equals": "[concat(parameters('more'), parameters('n'))]" },
            "then": { "effect": "audit" },
        },
    } })).await;
    let path = at(GROUP, "policyAssignments", "a");
    let check = async |body: Value, status: u16, code: &str| {
        let seen = site.put(&path, body.clone()).await;
        assert_eq!(
            (seen.status, seen.code()),
            (status, code),
            "{body}: {:?}",
            seen.body
        );
    };
    let n = |value: Value| json!({ "n": { "value": value } });
    check(json!({}), 400, "InvalidCreatePolicyAssignmentRequest").await;
    check(
        assign("/x/y", json!({})),
        400,
        "InvalidCreatePolicyAssignmentRequest",
    )
    .await;
    check(
        assign(&format!("{definition}2"), n(1.into())),
        404,
        "PolicyDefinitionNotFound",
    )
    .await;
    check(
        assign(&definition, json!({})),
        400,
        "MissingPolicyParameter",
    )
    .await;
    check(
        assign(&definition, n("x".into())),
        400,
        "PolicyParameterValueNotAllowed",
    )
    .await;
    let more = json!({ "n": { "value": 1 }, "other": { "value": 1 } });
    check(assign(&definition, more), 400, "UndefinedPolicyParameter").await;
    check(
        assign(&definition, json!({ "n": 1 })),
        400,
        "InvalidRequestContent",
    )
    .await;
    let with = |key: &str, value: Value| {
        let mut body = assign(&definition, n(1.into()));
        body["properties"][key] = value;
        body
    };
    let invalid = "InvalidCreatePolicyAssignmentRequest";
    check(with("enforcementMode", "Sometimes".into()), 400, invalid).await;
    check(
        with("notScopes", json!(["/subscriptions/x"])),
        400,
        "InvalidParameter",
    )
    .await;
    check(with("nonComplianceMessages", json!([{}])), 400, invalid).await;
    let selectors = json!([{ "selectors": [{ "kind": "colour", "in": [] }] }]);
    check(with("resourceSelectors", selectors), 400, invalid).await;
    check(
        with(
            "overrides",
            json!([{ "kind": "policyEffect", "value": "explode" }]),
        ),
        400,
        invalid,
    )
    .await;
    check(with("enforcementMode", "donotenforce".into()), 201, "").await;
    check(assign(&definition, n(1.into())), 201, "").await;
    let seen = site.get(&path).await;
    let inside = &seen.body["properties"];
    assert_eq!(inside["enforcementMode"], "Default");
    assert_eq!(inside["scope"], GROUP);
    assert_eq!(inside["notScopes"], json!([]));
    assert_eq!(inside["definitionVersion"], "1.*.*");

    // A definition of this subscription is nothing for a scope elsewhere.
    let elsewhere = format!("{MANAGEMENT}/{}", site.tenant);
    let seen = site
        .put(
            &at(&elsewhere, "policyAssignments", "b"),
            assign(&definition, n(1.into())),
        )
        .await;
    assert_eq!(
        (seen.status, seen.code()),
        (400, invalid),
        "{:?}",
        seen.body
    );
    assert!(seen.message().contains("out of scope"));

    let list = format!(
        "{}/{AUTHORIZATION}/policyAssignments?api-version=2025-11-01",
        subscription()
    );
    let names = async |filter: &str| {
        let seen = site.get(&format!("{list}&$filter={filter}")).await;
        let names = seen.body["value"].as_array().unwrap().iter();
        names
            .map(|one| one["name"].as_str().unwrap().to_string())
            .collect::<String>()
    };
    assert_eq!(names("").await, "a");
    assert_eq!(names("atExactScope()").await, "");
    assert_eq!(names("atScope()").await, "");
    assert_eq!(
        names(&format!("policyDefinitionId%20eq%20'{definition}'")).await,
        "a"
    );

    let seen = site.delete(&definition).await;
    assert_eq!(
        (seen.status, seen.code()),
        (400, "InvalidDeletePolicyDefinitionRequest")
    );
    let stricter = json!({ "properties": {
        "parameters": { "n": { "type": "Integer" }, "must": { "type": "String" } },
        "policyRule": { "if": { "field": "name", "equals": "x" }, "then": { "effect": "audit" } },
    } });
    let seen = site.put(&definition, stricter).await;
    assert_eq!(
        (seen.status, seen.code()),
        (400, "MissingPolicyParameter"),
        "{:?}",
        seen.body
    );
    let gone = site.delete(&path).await;
    assert_eq!((gone.status, &gone.body["name"]), (200, &json!("a")));
    assert_eq!(site.delete(&path).await.status, 204);
    assert_eq!(site.get(&path).await.code(), "PolicyAssignmentNotFound");
    assert_eq!(site.delete(&definition).await.status, 200);
}

#[tokio::test]
async fn initiatives_exemptions_and_attestations() {
    let site = Site::start().await.with_group().await;
    let definition = at(&subscription(), "policyDefinitions", "d");
    made(
        &site,
        &definition,
        deny("Microsoft.Compute/galleries", "south"),
    )
    .await;
    let set = at(&subscription(), "policySetDefinitions", "s");
    let members = |members: Value| {
        json!({ "properties": {
        "displayName": "All of it",
        "parameters": { "where": { "type": "String", "defaultValue": "south" } },
        "policyDefinitions": members,
    } })
    };
    let one =
        |parameters: Value| json!([{ "policyDefinitionId": definition, "parameters": parameters }]);
    let seen = site.put(&set, members(json!([]))).await;
    assert_eq!(
        seen.code(),
        "InvalidCreatePolicySetDefinitionRequest",
        "{:?}",
        seen.body
    );
    let seen = site
        .put(&set, members(one(json!({ "nothing": { "value": 1 } }))))
        .await;
    assert_eq!(seen.code(), "UndefinedPolicyParameter");
    let absent = json!([{ "policyDefinitionId": format!("{definition}2") }]);
    assert_eq!(
        site.put(&set, members(absent)).await.code(),
        "PolicyDefinitionNotFound"
    );
    let passed = one(json!({ "place": { "value": "[parameters('where')]" } }));
    assert_eq!(site.put(&set, members(passed.clone())).await.status, 201);
    assert_eq!(site.put(&set, members(passed)).await.status, 200);
    let seen = site.get(&set).await;
    assert_eq!(
        seen.body["properties"]["policyDefinitions"][0]["policyDefinitionReferenceId"],
        "1"
    );
    assert_eq!(
        site.delete(&definition).await.code(),
        "InvalidDeletePolicyDefinitionRequest"
    );

    let assignment = at(&subscription(), "policyAssignments", "all");
    made(
        &site,
        &assignment,
        assign(&set, json!({ "where": { "value": "north" } })),
    )
    .await;
    assert_eq!(
        site.delete(&set).await.code(),
        "InvalidDeletePolicySetDefinitionRequest"
    );
    let gallery = format!("{GROUP}/providers/Microsoft.Compute/galleries/g");
    let body = json!({ "location": "north" });
    assert_eq!(
        site.put(&gallery, body.clone()).await.code(),
        "RequestDisallowedByPolicy"
    );

    let exemption = at(GROUP, "policyExemptions", "e");
    let exempt = |category: &str, references: Value| {
        json!({ "properties": {
        "policyAssignmentId": assignment,
        "exemptionCategory": category,
        "policyDefinitionReferenceIds": references,
        "expiresOn": "2099-01-01T00:00:00Z",
    } })
    };
    let invalid = "InvalidCreatePolicyExemptionRequest";
    assert_eq!(
        site.put(&exemption, exempt("Because", json!([])))
            .await
            .code(),
        invalid
    );
    assert_eq!(
        site.put(&exemption, exempt("Waiver", json!(["2"])))
            .await
            .code(),
        invalid
    );
    let mut late = exempt("Waiver", json!([]));
    late["properties"]["expiresOn"] = "soon".into();
    assert_eq!(site.put(&exemption, late).await.code(), "InvalidParameter");
    assert_eq!(
        site.put(&exemption, exempt("waiver", json!(["1"])))
            .await
            .status,
        201
    );
    assert_eq!(
        site.get(&exemption).await.body["properties"]["exemptionCategory"],
        "Waiver"
    );
    assert_eq!(site.put(&gallery, body).await.status, 201);

    let attestation = format!("{gallery}/providers/Microsoft.PolicyInsights/attestations/t");
    let attest = |state: &str| json!({ "properties": { "policyAssignmentId": assignment, "complianceState": state } });
    assert_eq!(site.put(&attestation, attest("Fine")).await.status, 400);
    assert_eq!(
        site.put(&attestation, attest("Compliant")).await.status,
        201
    );
    let seen = site.get(&attestation).await;
    assert_eq!(seen.body["properties"]["provisioningState"], "Succeeded");
    assert!(seen.body["properties"]["lastComplianceStateChangeAt"].is_string());
    assert_eq!(site.delete(&attestation).await.status, 200);
}

#[tokio::test]
async fn what_is_denied_and_what_is_changed() {
    let site = Site::start().await.with_group().await;
    let scope = subscription();
    let definition = at(&scope, "policyDefinitions", "not-there");
    made(
        &site,
        &definition,
        deny("Microsoft.Compute/galleries", "south"),
    )
    .await;
    let assignment = at(&scope, "policyAssignments", "no");
    let mut body = assign(&definition, json!({}));
    body["properties"]["nonComplianceMessages"] =
        json!([{ "message": "Galleries belong in the north." }]);
    made(&site, &assignment, body).await;

    let gallery = format!("{GROUP}/providers/Microsoft.Compute/galleries/g");
    let seen = site.put(&gallery, json!({ "location": "South" })).await;
    assert_eq!(
        (seen.status, seen.code()),
        (403, "RequestDisallowedByPolicy"),
        "{:?}",
        seen.body
    );
    let info = &seen.body["error"]["additionalInfo"][0];
    assert_eq!(info["type"], "PolicyViolation", "{info}");
    assert!(info["info"].to_string().contains("not-there"), "{info}");
    assert!(
        seen.message().contains("'g' was disallowed by policy"),
        "{}",
        seen.message()
    );
    assert_eq!(site.get(&gallery).await.status, 404, "nothing was stored");
    assert_eq!(
        site.put(&gallery, json!({ "location": "north" }))
            .await
            .status,
        201
    );

    // Not enforced: it counts, and denies nothing.
    let mut body = assign(&definition, json!({ "place": { "value": "north" } }));
    body["properties"]["enforcementMode"] = "DoNotEnforce".into();
    made(&site, &assignment, body).await;
    assert_eq!(
        site.put(&gallery, json!({ "location": "north" }))
            .await
            .status,
        200
    );
    assert_eq!(site.delete(&assignment).await.status, 200);

    // What modify makes of a body is what is stored, beside what the client sent.
    let tags = at(&scope, "policyDefinitions", "tags");
    made(&site, &tags, json!({ "properties": { "mode": "Indexed", "policyRule": {
        "if": { "allOf": [
            { "field": "type", "equals": "Microsoft.Compute/galleries" },
            { "field": "tags['owner']", "exists": false },
        ] },
        "then": { "effect": "modify", "details": {
            "roleDefinitionIds": ["/providers/Microsoft.Authorization/roleDefinitions/b24988ac-6180-42a0-ab88-20f7382dd24c"],
            "operations": [{ "operation": "addOrReplace", "field": "tags['owner']", "value": "factory" }],
        } },
    } } })).await;
    let assignment = at(GROUP, "policyAssignments", "tags");
    made(&site, &assignment, assign(&tags, json!({}))).await;
    let body =
        json!({ "location": "north", "tags": { "a": "1" }, "properties": { "description": "x" } });
    let seen = site.put(&gallery, body).await;
    assert_eq!(seen.status, 200, "{:?}", seen.body);
    assert_eq!(seen.body["tags"], json!({ "a": "1", "owner": "factory" }));
    assert_eq!(
        site.get(&gallery).await.body["properties"]["description"],
        "x"
    );

    // A policy cannot be used to keep its authors from taking it away again.
    let shield = at(&scope, "policyDefinitions", "shield");
    made(
        &site,
        &shield,
        json!({ "properties": { "mode": "All", "policyRule": {
        "if": { "field": "type", "like": "*" },
        "then": { "effect": "denyAction", "details": { "actionNames": ["delete"] } },
    } } }),
    )
    .await;
    let shielded = at(GROUP, "policyAssignments", "shield");
    made(&site, &shielded, assign(&shield, json!({}))).await;
    assert_eq!(
        site.delete(&gallery).await.code(),
        "RequestDisallowedByPolicy"
    );
    assert_eq!(site.delete(&shielded).await.status, 200);
    assert_eq!(site.delete(&gallery).await.status, 200);
}

/// What modify put in is checked like what a client sends: it opens no way around the rules of the type.
#[tokio::test]
async fn a_changed_body_is_validated() {
    let site = Site::start().await.with_group().await;
    let definition = at(&subscription(), "policyDefinitions", "image");
    made(&site, &definition, json!({ "properties": { "mode": "All", "policyRule": {
        "if": { "field": "type", "equals": "Microsoft.Compute/virtualMachines" },
        "then": { "effect": "append", "details": [
            { "field": "Microsoft.Compute/virtualMachines/storageProfile.imageReference.version", "value": "1.0.0" },
        ] },
    } } })).await;
    let image = galleries::definition(&site, GROUP).await;
    let machine = format!("{GROUP}/providers/Microsoft.Compute/virtualMachines/m");
    made(
        &site,
        &machine.replace("/m", "/before"),
        galleries::machine(&image),
    )
    .await;
    made(
        &site,
        &at(GROUP, "policyAssignments", "a"),
        assign(&definition, json!({})),
    )
    .await;
    let seen = site.put(&machine, galleries::machine(&image)).await;
    assert_eq!(
        (seen.status, seen.code()),
        (400, "InvalidParameter"),
        "{:?}",
        seen.body
    );
}

#[tokio::test]
async fn management_groups() {
    let site = Site::start().await.with_group().await;
    let group = |name: &str| format!("{MANAGEMENT}/{name}");
    let root = site.tenant.to_string();
    let below = |parent: &str| json!({ "properties": { "displayName": "D", "details": { "parent": { "id": group(parent) } } } });
    assert_eq!(
        site.get(&group(&root)).await.body["properties"]["displayName"],
        "Tenant Root Group"
    );
    assert_eq!(site.put(&group("top"), json!({})).await.status, 200);
    assert_eq!(site.put(&group("low"), below("TOP")).await.status, 200);
    assert_eq!(
        site.put(&group("low"), json!({})).await.status,
        200,
        "its parent stays"
    );
    assert_eq!(
        site.put(&group("top"), below("low")).await.status,
        400,
        "a circle"
    );
    assert_eq!(site.put(&group("x"), below("none")).await.status, 404);
    let member = format!("{}/subscriptions/{SUBSCRIPTION}", group("low"));
    assert_eq!(site.ask("PUT", &member, None).await.status, 200);
    assert_eq!(
        site.get(&member).await.body["properties"]["displayName"],
        "engineering"
    );
    let elsewhere = member.replace("/low/", "/top/");
    assert_eq!(site.get(&elsewhere).await.status, 404);
    let register = format!("{}/providers/Microsoft.Management/register", subscription());
    let seen = site.ask("POST", &register, None).await;
    assert_eq!(
        seen.body["registrationState"], "Registered",
        "{:?}",
        seen.body
    );
    let unknown = member.replace(SUBSCRIPTION, "99999999-9999-4999-8999-999999999999");
    assert_eq!(site.ask("PUT", &unknown, None).await.status, 404);
    let seen = site
        .get(&format!(
            "{}?api-version=2023-04-01&$expand=children&$recurse=true",
            group("top")
        ))
        .await;
    let children = &seen.body["properties"]["children"];
    assert_eq!(children[0]["name"], "low");
    assert_eq!(children[0]["children"][0]["name"], SUBSCRIPTION);
    let seen = site.get(&format!("{}/descendants", group("top"))).await;
    assert_eq!(seen.body["value"].as_array().unwrap().len(), 2);
    assert_eq!(
        site.delete(&group("low")).await.status,
        400,
        "it has a subscription"
    );
    // Renaming a subscription does not move it.
    let body = json!({ "properties": { "displayName": "renamed" } });
    assert_eq!(site.put(&subscription(), body).await.status, 200);

    let definition = at(&group("top"), "policyDefinitions", "d");
    made(
        &site,
        &definition,
        deny("Microsoft.Compute/galleries", "south"),
    )
    .await;
    let assignment = at(&group("low"), "policyAssignments", "a");
    made(&site, &assignment, assign(&definition, json!({}))).await;
    let gallery = format!("{GROUP}/providers/Microsoft.Compute/galleries/g");
    let south = json!({ "location": "south" });
    assert_eq!(
        site.put(&gallery, south.clone()).await.code(),
        "RequestDisallowedByPolicy"
    );
    let inherited = format!(
        "{}/{AUTHORIZATION}/policyAssignments?api-version=2025-11-01&$filter=atScope()",
        subscription()
    );
    assert_eq!(site.get(&inherited).await.body["value"][0]["name"], "a");

    assert_eq!(site.delete(&member).await.status, 200);
    assert_eq!(site.put(&gallery, south.clone()).await.status, 201);
    assert_eq!(site.delete(&gallery).await.status, 200);
    // The root group is there for policies, though nobody made it.
    let definition = at(&group(&root), "policyDefinitions", "d");
    made(
        &site,
        &definition,
        deny("Microsoft.Compute/galleries", "south"),
    )
    .await;
    made(
        &site,
        &at(&group(&root), "policyAssignments", "a"),
        assign(&definition, json!({})),
    )
    .await;
    assert_eq!(
        site.put(&gallery, south).await.code(),
        "RequestDisallowedByPolicy"
    );
    assert_eq!(site.delete(&group(&root)).await.status, 400);
    assert_eq!(site.delete(&group("low")).await.status, 204);
}

/// A subscription is under the policies of its group, so neither its owner alone nor the group's may move it.
#[tokio::test]
async fn moving_takes_rights_at_both_ends() {
    let site = Site::start().await.with_group().await;
    let group = |name: &str| format!("{MANAGEMENT}/{name}");
    for name in ["strict", "mine"] {
        assert_eq!(site.put(&group(name), json!({})).await.status, 200);
    }
    let member = |name: &str| format!("{}/subscriptions/{SUBSCRIPTION}", group(name));
    assert_eq!(site.ask("PUT", &member("strict"), None).await.status, 200);
    let (token, principal) = site.stranger().await;
    let give = async |scope: &str, role: &str, guid: &str| {
        let body = json!({ "properties": { "roleDefinitionId": role, "principalId": principal } });
        let seen = site.put(&at(scope, "roleAssignments", guid), body).await;
        assert_eq!(seen.status, 201, "{:?}", seen.body);
    };
    let owner = "8e3af657-a8ff-443c-a75c-2fe8c4bcb635";
    let contributor = "b24988ac-6180-42a0-ab88-20f7382dd24c";
    let mine = group("mine");
    give(&mine, owner, "22222222-2222-4222-8222-222222222221").await;
    let moved = async || {
        let seen = site.ask_as(&token, "PUT", &member("mine"), None).await;
        (seen.status, seen.message().to_string())
    };
    assert_eq!(moved().await.0, 403, "no right at the subscription");
    let scope = subscription();
    give(&scope, contributor, "22222222-2222-4222-8222-222222222222").await;
    let (status, message) = moved().await;
    assert_eq!(status, 403, "a contributor gives no rights");
    assert!(message.contains("roleAssignments/write"), "{message}");
    give(&scope, owner, "22222222-2222-4222-8222-222222222223").await;
    let (status, message) = moved().await;
    assert_eq!(status, 403, "it would leave a group that is another's");
    assert!(message.contains("managementGroups/strict"), "{message}");
    give(
        &group("strict"),
        owner,
        "22222222-2222-4222-8222-222222222224",
    )
    .await;
    assert_eq!(moved().await.0, 200);

    // A group itself, likewise.
    let below = json!({ "properties": { "details": { "parent": { "id": group("other") } } } });
    assert_eq!(site.put(&group("other"), json!({})).await.status, 200);
    let seen = site
        .ask_as(&token, "PUT", &group("mine"), Some(below))
        .await;
    assert_eq!(seen.status, 403, "{:?}", seen.body);
}
