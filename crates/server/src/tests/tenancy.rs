//! Two tenants on one installation: neither sees the other, and what crosses needs a token of each.

use serde_json::{Value, json};
use wire::TenantId;

use super::site::{AUDIENCE, GROUP, SUBSCRIPTION, Site, answer};

pub const SUBSCRIPTION_2: &str = "22222222-2222-4222-8222-222222222222";

pub async fn tenant(site: &Site, name: &str) -> (TenantId, String) {
    let path = format!("/providers/Bullion.Factory/tenants/{name}");
    let made = site
        .put(&path, json!({ "properties": { "displayName": name } }))
        .await;
    assert_eq!(made.status, 201, "{:?}", made.body);
    let id = made.body["properties"]["tenantId"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    (id, site.sign_in(id).await)
}

pub async fn subscription(site: &Site, token: &str, id: &str) {
    let path = format!("/subscriptions/{id}");
    let body = json!({ "properties": { "displayName": "s" } });
    let made = site.ask_as(token, "PUT", &path, Some(body)).await;
    assert_eq!(made.status, 201, "{:?}", made.body);
    let group = format!("{path}/resourceGroups/factory");
    let made = site
        .ask_as(token, "PUT", &group, Some(json!({ "location": "north" })))
        .await;
    assert_eq!(made.status, 201, "{:?}", made.body);
}

#[tokio::test]
async fn a_tenant_does_not_see_another() {
    let site = Site::start().await;
    let (one, token_1) = tenant(&site, "engineering").await;
    let (_, token_2) = tenant(&site, "production").await;
    subscription(&site, &token_1, SUBSCRIPTION).await;
    subscription(&site, &token_2, SUBSCRIPTION_2).await;

    let own = site.ask_as(&token_1, "GET", "/subscriptions", None).await;
    let listed: Vec<&str> = own.body["value"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["subscriptionId"].as_str().unwrap())
        .collect();
    assert_eq!(listed, [SUBSCRIPTION]);
    assert_eq!(own.body["value"][0]["tenantId"], one.to_string());

    for (token, path) in [
        (&token_2, GROUP.to_string()),
        (
            &token_2,
            format!("{GROUP}/providers/Microsoft.Compute/galleries"),
        ),
        (&token_2, format!("/subscriptions/{SUBSCRIPTION}")),
        (&site.token, GROUP.to_string()),
        (&token_1, "/providers/Bullion.Factory/tenants".to_string()),
        (
            &token_1,
            "/providers/Bullion.Factory/regions/north".to_string(),
        ),
    ] {
        let seen = site.ask_as(token, "GET", &path, None).await;
        assert_eq!(
            (seen.status, seen.code()),
            (401, "InvalidAuthenticationTokenTenant"),
            "{path}"
        );
    }
    let taken = json!({ "properties": {} });
    let path = format!("/subscriptions/{SUBSCRIPTION}");
    let seen = site.ask_as(&token_2, "PUT", &path, Some(taken)).await;
    assert_eq!(seen.status, 401, "a subscription is not taken over");
    let elsewhere = json!({ "properties": { "tenant": "production" } });
    let new = "/subscriptions/44444444-4444-4444-8444-444444444444";
    let seen = site.ask_as(&token_1, "PUT", new, Some(elsewhere)).await;
    assert_eq!(seen.status, 401);
    let named = json!({ "properties": { "tenant": "Engineering" } });
    assert_eq!(
        site.ask_as(&token_1, "PUT", new, Some(named)).await.status,
        201
    );
}

#[tokio::test]
async fn a_link_across_tenants_needs_the_other_token() {
    let site = Site::start().await;
    let (_, token_1) = tenant(&site, "engineering").await;
    let (_, token_2) = tenant(&site, "production").await;
    subscription(&site, &token_1, SUBSCRIPTION).await;
    subscription(&site, &token_2, SUBSCRIPTION_2).await;
    let definition = super::galleries::definition_as(&site, &token_1, GROUP).await;
    let machine = GROUP.replace(SUBSCRIPTION, SUBSCRIPTION_2)
        + "/providers/Microsoft.Compute/virtualMachines/m";
    let body = super::galleries::machine(&definition);
    let seen = site
        .ask_as(&token_2, "PUT", &machine, Some(body.clone()))
        .await;
    assert_eq!(
        (seen.status, seen.code()),
        (403, "LinkedAuthorizationFailed"),
        "{:?}",
        seen.body
    );
    let url = format!("{}{machine}?api-version=2026-11-01", site.running.url);
    let request = site.client.put(url).bearer_auth(&token_2).json(&body);
    let seen =
        answer(request.header("x-ms-authorization-auxiliary", format!("Bearer {token_1}"))).await;
    assert_eq!(seen.status, 201, "{:?}", seen.body);
}

#[tokio::test]
async fn tenants_and_regions_are_the_installations() {
    let site = Site::start().await;
    let (id, token) = tenant(&site, "engineering").await;
    let path = "/providers/Bullion.Factory/tenants/engineering";
    let again = site
        .put(
            path,
            json!({ "properties": { "displayName": "E", "tenantId": "x" } }),
        )
        .await;
    assert_eq!(
        (again.status, &again.body["properties"]["tenantId"]),
        (200, &json!(id.to_string()))
    );
    subscription(&site, &token, SUBSCRIPTION).await;
    assert_eq!(site.delete(path).await.status, 409);
    let bad = site
        .put("/providers/Bullion.Factory/tenants/a%20b", json!({}))
        .await;
    assert_eq!(bad.status, 400);

    let region = "/providers/Bullion.Factory/regions/east";
    let zones = |zones: Value| json!({ "properties": { "zones": zones } });
    for (body, status) in [
        (zones(json!(["1", "2"])), 201),
        (zones(json!(["1", "2", "3"])), 200),
        (zones(json!(["1"])), 409),
        (zones(json!(["1", "1"])), 400),
        (zones(json!(["1", "../x"])), 400),
        (zones(json!("1")), 400),
        (zones(json!([])), 200),
    ] {
        let seen = site.put(region, body.clone()).await;
        assert_eq!(seen.status, status, "{body}: {:?}", seen.body);
    }
    let shown = site.get(region).await;
    assert_eq!(shown.body["properties"]["zones"], json!(["1", "2", "3"]));
    let locations = format!("/subscriptions/{SUBSCRIPTION}/locations");
    let seen = site.ask_as(&token, "GET", &locations, None).await;
    let names: Vec<&str> = seen.body["value"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["name"].as_str().unwrap())
        .collect();
    assert!(names.contains(&"east"), "{names:?}");
    let tenants = site.ask_as(&token, "GET", "/tenants", None).await;
    assert_eq!(tenants.body["value"][0]["tenantId"], id.to_string());
}

#[tokio::test]
async fn an_application_signs_in_with_any_of_its_secrets() {
    let site = Site::start().await;
    let path = "/providers/Bullion.Factory/applications/ci";
    let made = site
        .put(path, json!({ "properties": { "displayName": "CI" } }))
        .await;
    let app = made.body["properties"]["appId"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let again = site
        .put(path, json!({ "properties": { "appId": "x" } }))
        .await;
    assert_eq!(
        again.body["properties"]["appId"],
        made.body["properties"]["appId"]
    );
    let tenant = site.tenant.to_string();
    for body in [json!({}), json!({ "displayName": "second" })] {
        let secret = site
            .ask("POST", &format!("{path}/addPassword"), Some(body))
            .await;
        let secret = secret.body["secretText"].as_str().unwrap();
        assert_eq!(site.token(&tenant, app, secret).await.status, 200);
    }
    let far = json!({ "endDateTime": "2200-01-01T00:00:00Z" });
    let seen = site
        .ask("POST", &format!("{path}/addPassword"), Some(far))
        .await;
    assert_eq!(seen.status, 400);
    let (other, _) = self::tenant(&site, "engineering").await;
    let form = site.token(&other.to_string(), app, "x").await;
    assert_eq!(form.body["error_codes"], json!([700016]), "{AUDIENCE}");
    assert_eq!(site.delete(path).await.status, 200);
    assert_eq!(
        site.token(&tenant, app, "x").await.body["error_codes"],
        json!([700016])
    );
}

#[tokio::test]
async fn a_consented_application_signs_in_where_it_was_consented_to() {
    let site = Site::start().await;
    let (one, token_1) = tenant(&site, "engineering").await;
    let (two, token_2) = tenant(&site, "production").await;
    subscription(&site, &token_1, SUBSCRIPTION).await;
    let application = "/providers/Bullion.Factory/applications/promoter";
    let consent = "/providers/Bullion.Factory/servicePrincipals/promoter";
    let put = async |token: &str, path: &str, properties: Value| {
        let body = json!({ "properties": properties });
        site.ask_as(token, "PUT", path, Some(body)).await
    };
    let made = put(&token_2, application, json!({})).await;
    let app = made.body["properties"]["appId"]
        .as_str()
        .unwrap()
        .to_string();
    let asked = json!({ "appId": app });
    let closed = put(&token_1, consent, asked.clone()).await;
    let unknown = json!({ "appId": "99999999-9999-4999-8999-999999999999" });
    let unknown = put(&token_1, consent, unknown).await;
    assert_eq!((closed.status, unknown.status), (404, 404));
    let open = put(&token_2, application, json!({ "multiTenant": true })).await;
    assert_eq!(open.status, 200);
    assert_eq!(
        put(&token_2, consent, asked.clone()).await.status,
        409,
        "at home"
    );
    for (body, status) in [
        (json!({}), 400),
        (json!({ "appId": "x" }), 400),
        (asked.clone(), 201),
        (asked.clone(), 200),
        (json!({ "appId": site.app }), 409),
    ] {
        let seen = put(&token_1, consent, body.clone()).await;
        assert_eq!(seen.status, status, "{body}: {:?}", seen.body);
    }
    let twice = format!("{consent}-2");
    assert_eq!(put(&token_1, &twice, asked).await.status, 409);

    let secret = format!("{application}/addPassword");
    let secret = site.ask_as(&token_2, "POST", &secret, None).await;
    let secret = secret.body["secretText"].as_str().unwrap();
    let app = app.parse().unwrap();
    let shown = site.ask_as(&token_1, "GET", consent, None).await;
    assert_eq!(
        shown.body["properties"]["appOwnerTenantId"],
        two.to_string()
    );
    let principal = shown.body["properties"]["principalId"].clone();
    let role =
        "/providers/Microsoft.Authorization/roleDefinitions/acdd72a7-3385-48ef-bd42-f606fba81ae7";
    let assignment = format!(
        "{GROUP}/providers/Microsoft.Authorization/roleAssignments/22222222-2222-4222-8222-222222222222"
    );
    let given = json!({ "roleDefinitionId": role, "principalId": principal });
    assert_eq!(put(&token_1, &assignment, given).await.status, 201);
    let home = site.token(&two.to_string(), app, secret).await;
    assert_eq!(home.status, 200);
    let guest = site.token(&one.to_string(), app, secret).await;
    let guest = guest.body["access_token"].as_str().unwrap().to_string();
    assert_eq!(site.ask_as(&guest, "GET", GROUP, None).await.status, 200);
    assert_eq!(
        site.ask_as(&guest, "DELETE", consent, None).await.status,
        403
    );

    // Withdrawn: a token that is still valid has no right left, and there is no other to be had.
    let gone = site.ask_as(&token_1, "DELETE", consent, None).await;
    assert_eq!(gone.status, 200, "{:?}", gone.body);
    assert_eq!(site.ask_as(&guest, "GET", GROUP, None).await.status, 403);
    let refused = site.token(&one.to_string(), app, secret).await;
    assert_eq!(refused.body["error_codes"], json!([700016]));
    assert_eq!(site.token(&two.to_string(), app, secret).await.status, 200);
    let listed = site
        .ask_as(
            &token_1,
            "GET",
            "/providers/Bullion.Factory/servicePrincipals",
            None,
        )
        .await;
    assert_eq!(listed.body["value"], json!([]));

    // One that is closed to others again ends their consents.
    let again = put(&token_1, consent, json!({ "appId": app })).await;
    assert_eq!(again.status, 201, "{:?}", again.body);
    let shut = put(&token_2, application, json!({ "multiTenant": false })).await;
    assert_eq!(shut.status, 200);
    let gone = site.ask_as(&token_1, "GET", consent, None).await;
    assert_eq!(gone.status, 404);
    let open = put(&token_2, application, json!({ "multiTenant": true })).await;
    assert_eq!(open.status, 200);

    // An application that goes takes consents of other tenants along.
    let again = put(&token_1, consent, json!({ "appId": app })).await;
    assert_eq!(again.status, 201, "{:?}", again.body);
    assert_ne!(again.body["properties"]["principalId"], principal);
    assert_eq!(
        site.ask_as(&token_2, "DELETE", application, None)
            .await
            .status,
        200
    );
    assert_eq!(
        site.ask_as(&token_1, "GET", consent, None).await.status,
        404
    );
}
