//! What Azure's clients read of Graph, and what a list shows of the caller's own.

use serde_json::{Value, json};
use wire::AppId;

use super::site::{Answer, GROUP, SUBSCRIPTION, Site};
use super::tenancy::tenant;

const READER: &str =
    "/providers/Microsoft.Authorization/roleDefinitions/acdd72a7-3385-48ef-bd42-f606fba81ae7";

/// A token for Graph.
async fn graph_token(site: &Site, app: AppId, secret: &str) -> String {
    let (app, scope) = (
        app.to_string(),
        format!("{}/graph//.default", site.running.url),
    );
    let form = [
        ("grant_type", "client_credentials"),
        ("client_id", app.as_str()),
        ("client_secret", secret),
        ("scope", &scope),
    ];
    let path = format!("/{}/oauth2/v2.0/token", site.tenant);
    let answer = site.post_form(&path, &form).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    answer.body["access_token"].as_str().unwrap().to_string()
}

/// An application with a secret: its ids and the secret.
async fn application(site: &Site, name: &str) -> (AppId, String, String) {
    let path = format!("/providers/Bullion.Factory/applications/{name}");
    let made = site.put(&path, json!({})).await;
    let text = |key: &str| made.body["properties"][key].as_str().unwrap().to_string();
    let secret = site.ask("POST", &format!("{path}/addPassword"), None).await;
    let secret = secret.body["secretText"].as_str().unwrap().to_string();
    (text("appId").parse().unwrap(), text("principalId"), secret)
}

async fn give(site: &Site, principal: &str, scope: &str) {
    let path = format!(
        "{scope}/providers/Microsoft.Authorization/roleAssignments/{}",
        uuid::Uuid::new_v4()
    );
    let body = json!({ "properties": { "roleDefinitionId": READER, "principalId": principal } });
    assert_eq!(site.put(&path, body).await.status, 201);
}

#[tokio::test]
async fn principals_are_found_by_name_and_id() {
    let site = Site::start().await;
    let (app, principal, _) = application(&site, "ci").await;
    let token = graph_token(&site, site.app, &site.secret).await;
    let ask = async |path: &str| -> Answer {
        site.ask_as(&token, "GET", &format!("/graph/v1.0/{path}?x=y"), None)
            .await
    };
    let find = async |kind: &str, filter: &str| -> Vec<Value> {
        let filter: String = url::form_urlencoded::byte_serialize(filter.as_bytes()).collect();
        let path = format!("/graph/v1.0/{kind}?$filter={filter}");
        let seen = site.ask_as(&token, "GET", &path, None).await;
        assert_eq!(seen.status, 200, "{path}: {:?}", seen.body);
        seen.body["value"].as_array().unwrap().clone()
    };
    let found = find(
        "servicePrincipals",
        &format!("servicePrincipalNames/any(c:c eq '{app}')"),
    )
    .await;
    assert_eq!(found.len(), 1);
    assert_eq!(
        (&found[0]["id"], &found[0]["displayName"]),
        (&json!(principal), &json!("ci"))
    );
    assert_eq!(find("servicePrincipals", "").await.len(), 2);
    assert_eq!(
        find("servicePrincipals", "startswith(displayName,'C')")
            .await
            .len(),
        1
    );
    assert_eq!(
        find("applications", &format!("appId eq '{app}'"))
            .await
            .len(),
        1
    );
    assert_eq!(find("users", "userPrincipalName eq 'x'").await.len(), 0);
    assert_eq!(
        ask(&format!("servicePrincipals/{principal}")).await.body["appId"],
        json!(app)
    );
    assert_eq!(
        ask(&format!("servicePrincipals(appId='{app}')")).await.body["id"],
        json!(principal)
    );
    let shown = find("applications", &format!("appId eq '{app}'")).await;
    let id = shown[0]["id"].as_str().unwrap();
    assert_eq!(
        ask(&format!("applications/{id}")).await.body["appId"],
        json!(app)
    );
    let missing = ask(&format!("servicePrincipals/{app}x")).await;
    assert_eq!(
        (missing.status, missing.code()),
        (404, "Request_ResourceNotFound")
    );
    assert_eq!(ask("me").await.body["appId"], json!(site.app));
    assert_eq!(ask("devices").await.status, 404);

    let ids = json!({ "ids": [principal, "x"], "types": ["servicePrincipal"] });
    let seen = site
        .ask_as(
            &token,
            "POST",
            "/graph/v1.0/directoryObjects/getByIds?x=y",
            Some(ids),
        )
        .await;
    assert_eq!(
        seen.body["value"][0]["@odata.type"],
        "#microsoft.graph.servicePrincipal"
    );
    for (path, body) in [
        ("directoryObjects/getByIds", json!({ "ids": "x" })),
        ("directoryObjects/getByIds", json!([])),
    ] {
        let seen = site
            .ask_as(
                &token,
                "POST",
                &format!("/graph/v1.0/{path}?x=y"),
                Some(body),
            )
            .await;
        assert_eq!(
            (seen.status, seen.code()),
            (400, "Request_UnsupportedQuery")
        );
    }
    let bad = site
        .ask_as(
            &token,
            "GET",
            "/graph/v1.0/servicePrincipals?$filter=not%20me",
            None,
        )
        .await;
    assert_eq!(bad.code(), "Request_UnsupportedQuery");
}

#[tokio::test]
async fn the_directory_is_for_whoever_has_a_role_in_the_tenant() {
    let site = Site::start().await.with_group().await;
    let (app, principal, secret) = application(&site, "ci").await;
    let token = graph_token(&site, app, &secret).await;
    let path = "/graph/v1.0/servicePrincipals?x=y";
    let seen = site.ask_as(&token, "GET", path, None).await;
    assert_eq!(
        (seen.status, seen.code()),
        (403, "Authorization_RequestDenied")
    );
    give(&site, &principal, GROUP).await;
    assert_eq!(site.ask_as(&token, "GET", path, None).await.status, 200);
    // Each audience opens its own door.
    assert_eq!(
        site.ask_as(&site.token, "GET", path, None).await.status,
        401
    );
    assert_eq!(
        site.ask_as(&token, "GET", "/subscriptions", None)
            .await
            .status,
        401
    );
    let (_, other) = tenant(&site, "production").await;
    assert_eq!(site.ask_as(&other, "GET", path, None).await.status, 401);
    assert_eq!(site.ask_as(&token, "DELETE", path, None).await.status, 400);
    let users = "/graph/v1.0/users?x=y";
    assert_eq!(site.ask_as(&other, "GET", users, None).await.status, 401);
}

#[tokio::test]
async fn a_right_anywhere_in_a_subscription_shows_the_subscription() {
    let site = Site::start().await.with_group().await;
    let other = "/subscriptions/55555555-5555-4555-8555-555555555555";
    assert_eq!(
        site.put(other, json!({ "properties": {} })).await.status,
        201
    );
    let (app, principal, secret) = application(&site, "ci").await;
    let token = site.token(&site.tenant.to_string(), app, &secret).await;
    let token = token.body["access_token"].as_str().unwrap();
    let seen = async || {
        let list = site.ask_as(token, "GET", "/subscriptions", None).await;
        assert_eq!(list.status, 200, "{:?}", list.body);
        let of = |one: &Value| one["subscriptionId"].as_str().unwrap().to_string();
        list.body["value"]
            .as_array()
            .unwrap()
            .iter()
            .map(of)
            .collect::<Vec<_>>()
    };
    assert_eq!(seen().await, [] as [&str; 0]);
    give(&site, &principal, GROUP).await;
    assert_eq!(seen().await, [SUBSCRIPTION]);
    let refused = site
        .ask_as(
            token,
            "GET",
            &format!("/subscriptions/{SUBSCRIPTION}"),
            None,
        )
        .await;
    assert_eq!(
        refused.status, 403,
        "what the list shows is no right to read it"
    );
    let tenants = site.ask_as(token, "GET", "/tenants", None).await;
    assert_eq!(
        tenants.body["value"][0]["tenantId"],
        site.tenant.to_string()
    );
}

#[tokio::test]
async fn a_challenge_names_the_tenant_that_has_what_was_asked_for() {
    let site = Site::start().await;
    let (one, token) = tenant(&site, "engineering").await;
    super::tenancy::subscription(&site, &token, SUBSCRIPTION).await;
    let own = &site.running.url;
    for (path, token, named) in [
        (GROUP, "bad", one.to_string()),
        (GROUP, site.token.as_str(), one.to_string()),
        (
            "/subscriptions/55555555-5555-4555-8555-555555555555",
            "bad",
            "common".into(),
        ),
        ("/subscriptions", "bad", "common".into()),
        ("/subscriptions/x", "bad", "common".into()),
    ] {
        let seen = site.ask_as(token, "GET", path, None).await;
        assert_eq!(seen.status, 401, "{path}");
        let challenge = seen.header("www-authenticate");
        assert!(
            challenge.contains(&format!("authorization_uri=\"{own}/{named}\"")),
            "{path}: {challenge}"
        );
    }
}
