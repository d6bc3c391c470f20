//! Pipelines and promotions as clients see them: what is refused, who may ask, and who may say yes.

use serde_json::{Value, json};
use wire::AppId;

use super::site::{GROUP, SUBSCRIPTION, Site, answer};

const PIPELINE: &str = "providers/Bullion.Factory/pipelines/golden";
const PROMOTION: &str = "providers/Bullion.Factory/promotions/golden-test-1.0.0";
const OWNER: &str = "8e3af657-a8ff-443c-a75c-2fe8c4bcb635";
const CONTRIBUTOR: &str = "b24988ac-6180-42a0-ab88-20f7382dd24c";

/// Two stages in two groups of one tenant.
fn pipeline(site: &Site) -> Value {
    let definition = |group: &str| {
        format!(
            "/subscriptions/{SUBSCRIPTION}/resourceGroups/{group}/providers/Microsoft.Compute/galleries/g/images/d"
        )
    };
    json!({ "location": "north", "properties": { "stages": [
        { "name": "eng", "tenant": site.tenant, "imageDefinition": definition("factory") },
        {
            "name": "test", "tenant": site.tenant, "imageDefinition": definition("test"),
            "application": AppId::random(),
            "targetRegions": [{ "name": "south", "replicaCount": 1 }],
            "gates": [{ "type": "Approval", "name": "yes" }],
        },
    ] } })
}

pub async fn world() -> (Site, String, String) {
    let site = Site::start().await.with_group().await;
    let test = GROUP.replace("/factory", "/test");
    site.put(&test, json!({ "location": "north" })).await;
    let id = format!("{GROUP}/{PIPELINE}");
    let made = site.put(&id, pipeline(&site)).await;
    assert_eq!(made.status, 201, "{:?}", made.body);
    (site, id, format!("{test}/{PROMOTION}"))
}

pub fn asked(pipeline: &str) -> Value {
    json!({ "properties": { "pipeline": pipeline, "stage": "test", "version": "1.0.0" } })
}

/// A new application with a role, signed in.
async fn person(site: &Site, name: &str, scope: &str, role: &str) -> String {
    let path = format!("/providers/Bullion.Factory/applications/{name}");
    let made = site.put(&path, json!({})).await;
    let text = |key: &str| made.body["properties"][key].as_str().unwrap().to_string();
    let (app, principal) = (text("appId").parse().unwrap(), text("principalId"));
    let secret = site.ask("POST", &format!("{path}/addPassword"), None).await;
    let secret = secret.body["secretText"].as_str().unwrap();
    let body = json!({ "properties": { "roleDefinitionId": role, "principalId": principal } });
    let guid = uuid::Uuid::new_v4();
    let path = format!("{scope}/providers/Microsoft.Authorization/roleAssignments/{guid}");
    assert_eq!(site.put(&path, body).await.status, 201);
    let token = site.token(&site.tenant.to_string(), app, secret).await;
    token.body["access_token"].as_str().unwrap().to_string()
}

#[tokio::test]
async fn a_promotion_waits_for_somebody_else() {
    let (site, pipeline, id) = world().await;
    let made = site.put(&id, asked(&pipeline)).await;
    assert_eq!(made.status, 201, "{:?}", made.body);
    let url = made.headers["azure-asyncoperation"].to_str().unwrap();
    site.wait(url).await;
    let shown = site.get(&id).await;
    assert_eq!(shown.body["properties"]["state"], "WaitingForApproval");
    let again = site.put(&id, asked(&pipeline)).await;
    assert_eq!(
        (again.status, &again.body["properties"]["attempt"]),
        (200, &json!(1)),
        "asked for twice, it is one"
    );

    let test = GROUP.replace("/factory", "/test");
    let owner = person(&site, "owner", &test, OWNER).await;
    let contributor = person(&site, "contributor", &test, CONTRIBUTOR).await;
    let approve = format!("{id}/approve");
    let own = site.ask("POST", &approve, None).await;
    assert_eq!(
        (own.status, own.code()),
        (403, "AuthorizationFailed"),
        "{:?}",
        own.body
    );
    let may_not = site.ask_as(&contributor, "POST", &approve, None).await;
    assert_eq!(may_not.status, 403, "writing is not approving");
    let verify = site.ask("POST", &format!("{id}/verify"), None).await;
    assert_eq!(verify.status, 409, "it has not succeeded");
    let yes = json!({ "comment": "looked at it" });
    let approved = site.ask_as(&owner, "POST", &approve, Some(yes)).await;
    assert_eq!(approved.status, 200, "{:?}", approved.body);
    assert_eq!(
        approved.body["properties"]["approvals"][0]["comment"],
        "looked at it"
    );
    let late = site.ask_as(&owner, "POST", &approve, None).await;
    assert_eq!(late.status, 409);
}

#[tokio::test]
async fn whoever_built_a_version_does_not_approve_it() {
    let (site, pipeline, id) = world().await;
    let group = GROUP.split("/resourceGroups").next().unwrap();
    let asker = person(&site, "asker", group, CONTRIBUTOR).await;
    let made = site
        .ask_as(&asker, "PUT", &id, Some(asked(&pipeline)))
        .await;
    assert_eq!(made.status, 201, "{:?}", made.body);
    let url = made.headers["azure-asyncoperation"].to_str().unwrap();
    site.wait(url).await;
    let approve = format!("{id}/approve");
    let builder = site.ask("POST", &approve, None).await;
    assert_eq!(
        (builder.status, builder.code()),
        (403, "AuthorizationFailed"),
        "{:?}",
        builder.body
    );
    let why = builder.body["error"]["message"].as_str().unwrap();
    assert!(why.contains("whoever built a version"), "{why}");
    let shown = site.get(&id).await;
    assert_eq!(shown.body["properties"]["state"], "WaitingForApproval");
    assert_eq!(shown.body["properties"]["approvals"], json!([]));
}

#[tokio::test]
async fn a_promotion_that_was_rejected_is_asked_for_again() {
    let (site, pipeline, id) = world().await;
    let test = GROUP.replace("/factory", "/test");
    let owner = person(&site, "owner", &test, OWNER).await;
    for (attempt, action) in [(1, "reject"), (2, "cancel")] {
        let made = site.put(&id, asked(&pipeline)).await;
        assert_eq!(
            made.body["properties"]["attempt"], attempt,
            "{:?}",
            made.body
        );
        let url = made.headers["azure-asyncoperation"].to_str().unwrap();
        site.wait(url).await;
        let ended = site
            .ask_as(&owner, "POST", &format!("{id}/{action}"), None)
            .await;
        assert_eq!(ended.status, 200, "{:?}", ended.body);
        let state = if action == "reject" {
            "Rejected"
        } else {
            "Canceled"
        };
        assert_eq!(ended.body["properties"]["state"], state);
        let twice = site
            .ask_as(&owner, "POST", &format!("{id}/{action}"), None)
            .await;
        assert_eq!(twice.status, 409);
    }
    let listed = site
        .get(&format!("{test}/providers/Bullion.Factory/promotions"))
        .await;
    assert_eq!(listed.body["value"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn what_cannot_be_promoted_is_refused() {
    let (site, pipeline, id) = world().await;
    let with = |key: &str, value: Value| {
        let mut body = asked(&pipeline);
        body["properties"][key] = value;
        body
    };
    let other = id.replace("golden-test", "x");
    let template = format!("{GROUP}/providers/Microsoft.VirtualMachineImages/imageTemplates/t");
    for (path, body, status) in [
        (&id, json!({}), 400),
        (&id, with("stage", json!("prod")), 400),
        (&id, with("stage", json!("eng")), 400),
        (&id, with("stage", Value::Null), 400),
        (&id, with("version", json!("latest")), 400),
        (&id, with("version", json!("1.0.1")), 400),
        (&id, with("pipeline", json!(template)), 400),
        (&id, with("pipeline", json!(format!("{pipeline}2"))), 404),
        (&other, asked(&pipeline), 400),
    ] {
        let seen = site.put(path, body.clone()).await;
        assert_eq!(seen.status, status, "{body}: {:?}", seen.body);
    }
    // Who may ask in the stage's group, but may not read the pipeline.
    let test = GROUP.replace("/factory", "/test");
    let blind = person(&site, "blind", &test, CONTRIBUTOR).await;
    let seen = site
        .ask_as(&blind, "PUT", &id, Some(asked(&pipeline)))
        .await;
    assert_eq!(
        (seen.status, seen.code()),
        (403, "LinkedAuthorizationFailed")
    );

    let mut bad = self::pipeline(&site);
    bad["properties"]["stages"][1]["targetRegions"][0]["name"] = "mars".into();
    assert_eq!(site.put(&pipeline, bad.clone()).await.status, 400);
    bad["properties"]["stages"][1]["gates"][0]["count"] = 0.into();
    let seen = site.put(&pipeline, bad).await;
    assert_eq!((seen.status, seen.code()), (400, "ValidationFailed"));
    assert_eq!(site.delete(&pipeline).await.status, 200);
}

/// The stage is of another tenant than the pipeline: a token of each is needed, and the stage's tenant decides.
#[tokio::test]
async fn a_stage_of_another_tenant_is_asked_with_both_tokens() {
    let site = Site::start().await.with_group().await;
    let tenant = "/providers/Bullion.Factory/tenants/production";
    let made = site.put(tenant, json!({})).await;
    let tenant = made.body["properties"]["tenantId"].as_str().unwrap();
    let token = site.sign_in(tenant.parse().unwrap()).await;
    let other = "22222222-2222-4222-8222-222222222222";
    let group = format!("/subscriptions/{other}/resourceGroups/test");
    for (path, body) in [
        (format!("/subscriptions/{other}"), json!({})),
        (group.clone(), json!({ "location": "north" })),
    ] {
        let made = site.ask_as(&token, "PUT", &path, Some(body)).await;
        assert_eq!(made.status, 201, "{:?}", made.body);
    }
    let mut stages = pipeline(&site);
    let stage = &mut stages["properties"]["stages"][1];
    stage["tenant"] = tenant.into();
    let gallery = "providers/Microsoft.Compute/galleries/g/images/d";
    stage["imageDefinition"] = format!("{group}/{gallery}").into();
    let pipeline = format!("{GROUP}/{PIPELINE}");
    let made = site.put(&pipeline, stages).await;
    assert_eq!(made.status, 201, "{:?}", made.body);

    let id = format!("{group}/{PROMOTION}");
    let body = asked(&pipeline);
    let alone = site.ask_as(&token, "PUT", &id, Some(body.clone())).await;
    assert_eq!(
        (alone.status, alone.code()),
        (403, "LinkedAuthorizationFailed")
    );
    let foreign = site.put(&id, body.clone()).await;
    assert_eq!(foreign.code(), "InvalidAuthenticationTokenTenant");
    let url = format!("{}{id}?api-version=2026-11-01", site.running.url);
    let request = site.client.put(url).bearer_auth(&token).json(&body);
    let both = request.header(
        "x-ms-authorization-auxiliary",
        format!("Bearer {}", site.token),
    );
    let made = answer(both).await;
    assert_eq!(made.status, 201, "{:?}", made.body);
    assert_eq!(made.body["properties"]["requestedBy"]["tenant"], tenant);
}
