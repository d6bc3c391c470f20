//! People, groups, machines' identities, and the keys and tokens that all of them live by.

use serde_json::{Value, json};

use super::galleries;
use super::policies::{at, subscription};
use super::site::{AUDIENCE, Answer, GROUP, Site};

const READER: &str = "acdd72a7-3385-48ef-bd42-f606fba81ae7";
const CLIENT: &str = "04b07795-8ddb-461a-bbee-02f9e1bf7b46";
const PASSWORD: &str = "Correct-Horse-1";
pub const IDENTITY: &str = "Microsoft.ManagedIdentity/userAssignedIdentities";

fn bullion(kind: &str, name: &str) -> String {
    format!("/providers/Bullion.Factory/{kind}/{name}")
}

pub async fn give(site: &Site, scope: &str, principal: &Value, number: u32) -> Answer {
    let guid = format!("22222222-2222-4222-8222-{number:012}");
    let body = json!({ "properties": { "roleDefinitionId": READER, "principalId": principal } });
    site.put(&at(scope, "roleAssignments", &guid), body).await
}

async fn user(site: &Site, name: &str) -> Value {
    let body = json!({ "properties": { "passwordProfile": { "password": PASSWORD } } });
    let made = site.put(&bullion("users", name), body).await;
    assert_eq!(made.status, 201, "{:?}", made.body);
    assert!(!made.body.to_string().contains(PASSWORD));
    made.body["properties"]["principalId"].clone()
}

async fn group(site: &Site, name: &str) -> Value {
    let made = site.put(&bullion("groups", name), json!({})).await;
    assert_eq!(made.status, 201, "{:?}", made.body);
    made.body["properties"]["principalId"].clone()
}

fn member(group: &str, principal: &Value) -> String {
    let principal = principal.as_str().unwrap();
    format!("{}/members/{principal}", bullion("groups", group))
}

async fn sign_in(site: &Site, fields: &[(&str, &str)]) -> Answer {
    let scope = format!("{AUDIENCE}/.default openid profile offline_access");
    let mut form = vec![("client_id", CLIENT), ("scope", scope.as_str())];
    form.extend(fields);
    let path = format!("/{}/oauth2/v2.0/token", site.tenant);
    site.post_form(&path, &form).await
}

async fn with_password(site: &Site, name: &str, password: &str) -> Answer {
    let fields = [
        ("grant_type", "password"),
        ("username", name),
        ("password", password),
    ];
    sign_in(site, &fields).await
}

fn text<'a>(answer: &'a Answer, key: &str) -> &'a str {
    answer.body[key].as_str().unwrap_or_default()
}

fn aadsts(answer: &Answer) -> u64 {
    answer.body["error_codes"][0].as_u64().unwrap_or_default()
}

#[tokio::test]
async fn members_of_groups_hold_their_roles_until_they_are_out() {
    let site = Site::start().await.with_group().await;
    let ada = user(&site, "ada@example.org").await;
    let (inner, outer) = (group(&site, "inner").await, group(&site, "outer").await);
    let made = give(&site, GROUP, &outer, 1).await;
    assert_eq!(made.status, 201, "{:?}", made.body);
    assert_eq!(made.body["properties"]["principalType"], "Group");
    let signed_in = with_password(&site, "Ada@Example.org", PASSWORD).await;
    assert_eq!(signed_in.status, 200, "{:?}", signed_in.body);
    let token = text(&signed_in, "access_token");
    let may = async || site.ask_as(token, "GET", GROUP, None).await.status;
    assert_eq!(may().await, 403);
    let made = site.ask("PUT", &member("inner", &ada), None).await;
    assert_eq!(made.status, 201, "{:?}", made.body);
    assert_eq!(may().await, 403);
    let nested = member("outer", &inner);
    assert_eq!(site.ask("PUT", &nested, None).await.status, 201);
    assert_eq!(may().await, 200);
    let lists = format!(
        "{}?api-version=2022-04-01&$filter=assignedTo('{}')",
        at(&subscription(), "roleAssignments", "").trim_end_matches('/'),
        ada.as_str().unwrap()
    );
    let seen = site.get(&lists).await;
    assert_eq!(seen.body["value"].as_array().unwrap().len(), 1);
    let direct = lists
        .replace("assignedTo('", "principalId%20eq%20'")
        .replace("')", "'");
    let seen = site.get(&direct).await;
    assert_eq!(seen.body["value"].as_array().unwrap().len(), 0);
    assert_eq!(site.delete(&nested).await.status, 200);
    assert_eq!(may().await, 403, "on the very next request");
    assert_eq!(site.ask("PUT", &nested, None).await.status, 201);
    assert_eq!(may().await, 200);
    assert_eq!(site.delete(&bullion("groups", "outer")).await.status, 200);
    assert_eq!(may().await, 403);
    let seen = site
        .get(&at(
            GROUP,
            "roleAssignments",
            "22222222-2222-4222-8222-000000000001",
        ))
        .await;
    assert_eq!(seen.status, 404, "roles go with their group");

    let own = member("inner", &inner);
    assert_eq!(site.ask("PUT", &own, None).await.status, 400);
    let nobody = member("inner", &json!("99999999-9999-4999-8999-999999999999"));
    assert_eq!(
        site.ask("PUT", &nobody, None).await.code(),
        "PrincipalNotFound"
    );
    let members = site
        .get(&format!("{}/members", bullion("groups", "inner")))
        .await;
    assert_eq!(members.body["value"][0]["name"], ada);
}

#[tokio::test]
async fn people_sign_in_once_and_stay_signed_in() {
    let site = Site::start().await.with_group().await;
    let ada = user(&site, "ada@example.org").await;
    give(&site, GROUP, &ada, 1).await;
    let wrong = with_password(&site, "ada@example.org", "Wrong-Horse-1").await;
    assert_eq!((wrong.status, aadsts(&wrong)), (400, 50_126));
    let unknown = with_password(&site, "bob@example.org", PASSWORD).await;
    assert_eq!((unknown.status, aadsts(&unknown)), (400, 50_126));
    let first = with_password(&site, "ada@example.org", PASSWORD).await;
    let refresh = async |token: &str| {
        let fields = [("grant_type", "refresh_token"), ("refresh_token", token)];
        sign_in(&site, &fields).await
    };
    let second = refresh(text(&first, "refresh_token")).await;
    assert_eq!(second.status, 200, "{:?}", second.body);
    let token = text(&second, "access_token");
    assert_eq!(site.ask_as(token, "GET", GROUP, None).await.status, 200);
    let third = refresh(text(&second, "refresh_token")).await;
    assert_eq!(third.status, 200);
    // The second comes again: somebody has a copy, and neither is good any more.
    let copied = refresh(text(&second, "refresh_token")).await;
    assert_eq!((copied.status, aadsts(&copied)), (400, 70_000));
    let ended = refresh(text(&third, "refresh_token")).await;
    assert_eq!((ended.status, aadsts(&ended)), (400, 70_000));
    assert_eq!(aadsts(&refresh("made up").await), 70_000);

    let v1 = [
        ("client_id", CLIENT),
        ("resource", AUDIENCE),
        ("grant_type", "password"),
        ("username", "ada@example.org"),
        ("password", PASSWORD),
    ];
    let path = format!("/{}/oauth2/token", site.tenant);
    let seen = site.post_form(&path, &v1).await;
    assert_eq!(seen.status, 200, "{:?}", seen.body);
    assert!(!text(&seen, "expires_on").is_empty());
    let mut other = v1;
    let app = site.app.to_string();
    other[0].1 = &app;
    let seen = site.post_form(&path, &other).await;
    assert_eq!((seen.status, aadsts(&seen)), (401, 7_000_218));

    let last = with_password(&site, "ada@example.org", PASSWORD).await;
    let off = json!({ "properties": { "accountEnabled": false } });
    let path = bullion("users", "ada@example.org");
    assert_eq!(site.put(&path, off).await.status, 200);
    let seen = refresh(text(&last, "refresh_token")).await;
    assert_eq!((seen.status, aadsts(&seen)), (400, 50_057));
    for _ in 0..5 {
        with_password(&site, "ada@example.org", "Wrong-Horse-1").await;
    }
    let seen = with_password(&site, "ada@example.org", PASSWORD).await;
    assert_eq!(aadsts(&seen), 50_053);
    assert_eq!(site.delete(&path).await.status, 200);
    assert_eq!(site.get(&path).await.status, 404);
}

#[tokio::test]
async fn users_that_are_refused() {
    let site = Site::start().await;
    let put = async |name: &str, body: Value| {
        let seen = site.put(&bullion("users", name), body).await;
        (seen.status, seen.code().to_string())
    };
    let invalid = (400, "InvalidParameter".to_string());
    assert_eq!(put("ada", json!({})).await, invalid);
    let weak = json!({ "properties": { "passwordProfile": { "password": "password" } } });
    assert_eq!(put("ada@example.org", weak).await, invalid);
    let other = json!({ "properties": { "userPrincipalName": "bob@example.org" } });
    assert_eq!(put("ada@example.org", other).await, invalid);
    let odd = json!({ "properties": { "accountEnabled": "yes" } });
    let odd = put("ada@example.org", odd).await;
    assert_eq!(odd.1, "InvalidRequestContent");
    let bare = put("ada@example.org", json!({})).await;
    assert_eq!(bare.0, 201);
    let seen = with_password(&site, "ada@example.org", "").await;
    assert_eq!(seen.status, 400, "nobody signs in without a password");
}

/// What `az ad user` and `az ad group` send.
#[tokio::test]
async fn graph_writes_what_its_caller_may() {
    let site = Site::start().await.with_group().await;
    let scope = format!("{}/graph//.default", site.running.url);
    let app = site.app.to_string();
    let form = [
        ("grant_type", "client_credentials"),
        ("client_id", app.as_str()),
        ("client_secret", site.secret.as_str()),
        ("scope", scope.as_str()),
    ];
    let path = format!("/{}/oauth2/v2.0/token", site.tenant);
    let token = site.post_form(&path, &form).await;
    let token = text(&token, "access_token");
    let ask = async |method: &str, path: &str, body: Option<Value>| -> Answer {
        let path = format!("/graph/v1.0/{path}");
        let path = if path.contains('?') {
            path
        } else {
            format!("{path}?x=y")
        };
        site.ask_as(token, method, &path, body).await
    };
    let new = json!({
        "userPrincipalName": "ada@example.org", "displayName": "Ada", "mailNickname": "ada",
        "accountEnabled": true,
        "passwordProfile": { "password": PASSWORD, "forceChangePasswordNextSignIn": false },
    });
    let made = ask("POST", "users", Some(new.clone())).await;
    assert_eq!(made.status, 201, "{:?}", made.body);
    assert_eq!(made.body["@odata.type"], "#microsoft.graph.user");
    let ada = text(&made, "id").to_string();
    assert_eq!(ask("POST", "users", Some(new)).await.status, 400);
    for key in [&ada, "ada@example.org", "ADA@example.org"] {
        let seen = ask("GET", &format!("users/{key}"), None).await;
        assert_eq!(text(&seen, "displayName"), "Ada", "{key}: {:?}", seen.body);
    }
    let change = json!({ "displayName": "Ada L." });
    let seen = ask("PATCH", "users/ada@example.org", Some(change)).await;
    assert_eq!(seen.status, 204, "{:?}", seen.body);
    let list = ask("GET", "users?$filter=startswith(displayName,'ada')", None).await;
    assert_eq!(list.body["value"][0]["displayName"], "Ada L.");
    assert_eq!(
        with_password(&site, "ada@example.org", PASSWORD)
            .await
            .status,
        200
    );

    let new = json!({
        "displayName": "ops", "mailNickname": "ops", "mailEnabled": false, "securityEnabled": true,
    });
    let made = ask("POST", "groups", Some(new)).await;
    assert_eq!(made.status, 201, "{:?}", made.body);
    let ops = text(&made, "id").to_string();
    let filter = "groups?$filter=displayName%20eq%20'ops'%20and%20mailNickname%20eq%20'ops'";
    let list = ask("GET", filter, None).await;
    assert_eq!(list.body["value"][0]["id"], json!(ops));
    let add =
        json!({ "@odata.id": format!("{}/graph/v1.0/directoryObjects/{ada}", site.running.url) });
    let members = format!("groups/{ops}/members");
    let added = ask("POST", &format!("{members}/$ref"), Some(add.clone())).await;
    assert_eq!(added.status, 204, "{:?}", added.body);
    assert_eq!(
        ask("POST", &format!("{members}/$ref"), Some(add))
            .await
            .status,
        400
    );
    let list = ask("GET", &members, None).await;
    assert_eq!(
        list.body["value"][0]["userPrincipalName"],
        "ada@example.org"
    );
    let any = json!({ "securityEnabledOnly": false });
    let seen = ask("POST", "users/ada@example.org/getMemberGroups", Some(any)).await;
    assert_eq!(seen.body["value"], json!([ops]));
    let check = json!({ "groupIds": [ops, ada] });
    let path = format!("directoryObjects/{ada}/checkMemberGroups");
    let seen = ask("POST", &path, Some(check)).await;
    assert_eq!(seen.body["value"], json!([ops]));
    let ids = json!({ "ids": [ada, ops], "types": ["user", "group"] });
    let seen = ask("POST", "directoryObjects/getByIds", Some(ids)).await;
    assert_eq!(seen.body["value"].as_array().unwrap().len(), 2);
    assert_eq!(
        ask("GET", &format!("groups/{ops}/owners"), None)
            .await
            .status,
        200
    );

    let removed = ask("DELETE", &format!("{members}/{ada}/$ref"), None).await;
    assert_eq!(removed.status, 204);
    assert_eq!(
        ask("DELETE", &format!("groups/{ops}"), None).await.status,
        204
    );
    assert_eq!(ask("GET", &format!("groups/{ops}"), None).await.status, 404);
    for (method, path, body, status) in [
        ("POST", "users", json!({ "displayName": "x" }), 400),
        ("POST", "users", json!([]), 400),
        ("POST", "groups", json!({}), 400),
        (
            "POST",
            "groups/x/members/$ref",
            json!({ "@odata.id": "x" }),
            404,
        ),
        ("PUT", "users", json!({}), 400),
        ("GET", "me", Value::Null, 200),
    ] {
        let body = (body != Value::Null).then_some(body);
        let seen = ask(method, path, body).await;
        assert_eq!(seen.status, status, "{method} {path}: {:?}", seen.body);
    }

    // A reader may look, and not write.
    give(&site, GROUP, &json!(ada), 7).await;
    let fields = [
        ("client_id", CLIENT),
        ("grant_type", "password"),
        ("username", "ada@example.org"),
        ("password", PASSWORD),
        ("scope", scope.as_str()),
    ];
    let path = format!("/{}/oauth2/v2.0/token", site.tenant);
    let reader = site.post_form(&path, &fields).await;
    let reader = text(&reader, "access_token");
    let seen = site.ask_as(reader, "GET", "/graph/v1.0/me?x=y", None).await;
    assert_eq!(text(&seen, "userPrincipalName"), "ada@example.org");
    let change =
        Some(json!({ "accountEnabled": true, "passwordProfile": { "password": "Other-Horse-2" } }));
    let path = "/graph/v1.0/users/ada@example.org?x=y";
    let seen = site.ask_as(reader, "PATCH", path, change).await;
    assert_eq!(
        (seen.status, seen.code()),
        (403, "Authorization_RequestDenied")
    );
    let seen = site.ask_as(reader, "DELETE", path, None).await;
    assert_eq!(seen.status, 403);
    assert_eq!(
        ask("DELETE", "users/ada@example.org", None).await.status,
        204
    );
    assert_eq!(
        ask("DELETE", "users/ada@example.org", None).await.status,
        404
    );
}

#[tokio::test]
async fn a_machine_acts_as_its_identity() {
    let site = Site::start().await.with_group().await;
    let definition = galleries::definition(&site, GROUP).await;
    let shared = format!("{GROUP}/providers/{IDENTITY}/shared");
    let made = site
        .put(
            &shared,
            json!({ "location": "north", "tags": { "a": "b" } }),
        )
        .await;
    assert_eq!(made.status, 201, "{:?}", made.body);
    let ids = made.body["properties"].clone();
    let again = site.put(&shared, json!({ "location": "north" })).await;
    assert_eq!((again.status, &again.body["properties"]), (200, &ids));
    let patch = site
        .ask("PATCH", &shared, Some(json!({ "tags": { "c": "d" } })))
        .await;
    assert_eq!(patch.body["tags"]["c"], "d");
    let list = format!("{}/providers/{IDENTITY}", subscription());
    assert_eq!(site.get(&list).await.body["value"][0]["properties"], ids);

    let machine = format!("{GROUP}/providers/Microsoft.Compute/virtualMachines/m");
    let mut wanted = galleries::machine(&definition);
    wanted["identity"] = json!({ "type": "Sometimes" });
    assert_eq!(
        site.put(&machine, wanted.clone()).await.code(),
        "InvalidParameter"
    );
    let mut both = json!({ "type": "SystemAssigned, UserAssigned" });
    both["userAssignedIdentities"][&shared] = json!({});
    wanted["identity"] = both;
    let made = site.put(&machine, wanted.clone()).await;
    assert_eq!(made.status, 201, "{:?}", made.body);
    site.wait(made.header("azure-asyncoperation")).await;
    let shown = site.get(&machine).await;
    let identity = &shown.body["identity"];
    let principal = identity["principalId"].clone();
    assert_eq!(
        identity["userAssignedIdentities"][&shared]["clientId"],
        ids["clientId"]
    );

    let secret = format!("{machine}/providers/Bullion.Factory/issueIdentitySecret");
    let issued = site.ask("POST", &secret, None).await;
    assert_eq!(issued.status, 200, "{:?}", issued.body);
    let endpoint = text(&issued, "identityEndpoint").to_string();
    let token = async |header: &str, more: &str| {
        let url = format!("{endpoint}?api-version=2019-08-01&resource={AUDIENCE}{more}");
        let request = site.client.get(url).header("x-identity-header", header);
        super::site::answer(request).await
    };
    let header = text(&issued, "identityHeader").to_string();
    let own = token(&header, "").await;
    assert_eq!(own.status, 200, "{:?}", own.body);
    let may = async |token: &str| site.ask_as(token, "GET", GROUP, None).await.status;
    assert_eq!(may(text(&own, "access_token")).await, 403);
    assert_eq!(give(&site, GROUP, &principal, 1).await.status, 201);
    assert_eq!(may(text(&own, "access_token")).await, 200);
    let client = format!("&client_id={}", ids["clientId"].as_str().unwrap());
    let other = token(&header, &client).await;
    assert_eq!(may(text(&other, "access_token")).await, 403);
    assert_eq!(give(&site, GROUP, &ids["principalId"], 2).await.status, 201);
    assert_eq!(may(text(&other, "access_token")).await, 200);
    let unknown = "&client_id=99999999-9999-4999-8999-999999999999";
    assert_eq!(token(&header, unknown).await.status, 400);
    assert_eq!(token("", "").await.status, 400);
    assert_eq!(token(&format!("{header}x"), "").await.status, 401);
    let anew = site.ask("POST", &secret, None).await;
    assert_eq!(
        token(&header, "").await.status,
        401,
        "the one before is over"
    );
    assert_eq!(token(text(&anew, "identityHeader"), "").await.status, 200);

    // Without an identity it is nobody, and what it was given is gone.
    wanted["identity"] = json!({ "type": "None" });
    let seen = site.put(&machine, wanted).await;
    assert_eq!(seen.status, 200, "{:?}", seen.body);
    assert_eq!(seen.body.get("identity"), None);
    assert_eq!(may(text(&own, "access_token")).await, 403);
    assert_eq!(token(text(&anew, "identityHeader"), "").await.status, 401);
    assert_eq!(site.ask("POST", &secret, None).await.status, 400);
    assert_eq!(site.delete(&shared).await.status, 200);
    assert_eq!(may(text(&other, "access_token")).await, 403);
}

#[tokio::test]
async fn an_identity_is_assigned_by_whoever_may() {
    let site = Site::start().await.with_group().await;
    let shared = format!("{GROUP}/providers/{IDENTITY}/shared");
    site.put(&shared, json!({ "location": "north" })).await;
    let other = GROUP.replace("/factory", "/other");
    site.put(&other, json!({ "location": "north" })).await;
    let (token, principal) = site.stranger().await;
    let owner = "8e3af657-a8ff-443c-a75c-2fe8c4bcb635";
    let body = json!({ "properties": { "roleDefinitionId": owner, "principalId": principal } });
    let guid = "22222222-2222-4222-8222-222222222222";
    assert_eq!(
        site.put(&at(&other, "roleAssignments", guid), body)
            .await
            .status,
        201
    );
    let definition = super::policies::at(&subscription(), "policyDefinitions", "d");
    let rule = super::policies::deny("Microsoft.Compute/galleries", "south");
    super::policies::made(&site, &definition, rule).await;
    let assignment = at(&other, "policyAssignments", "a");
    let mut wanted = super::policies::assign(&definition, json!({}));
    wanted["location"] = "north".into();
    wanted["identity"] =
        json!({ "type": "UserAssigned", "userAssignedIdentities": { shared: {} } });
    let seen = site
        .ask_as(&token, "PUT", &assignment, Some(wanted.clone()))
        .await;
    assert_eq!(
        (seen.status, seen.code()),
        (403, "LinkedAuthorizationFailed")
    );
    wanted["identity"] = json!({ "type": "SystemAssigned" });
    let seen = site.ask_as(&token, "PUT", &assignment, Some(wanted)).await;
    assert_eq!(seen.status, 201, "{:?}", seen.body);
    let principal = seen.body["identity"]["principalId"].clone();
    assert_eq!(give(&site, GROUP, &principal, 1).await.status, 201);
    assert_eq!(site.delete(&assignment).await.status, 200);
    assert_eq!(
        give(&site, GROUP, &principal, 1).await.code(),
        "PrincipalNotFound"
    );
}

#[tokio::test]
async fn tokens_outlive_the_key_that_signed_them() {
    let dir = tempfile::tempdir().unwrap();
    let site = Site::start_in(dir.path()).await.with_group().await;
    let kid = |token: &str| {
        use base64::Engine as _;
        let header = token.split('.').next().unwrap();
        let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(header);
        let header: Value = serde_json::from_slice(&bytes.unwrap()).unwrap();
        header["kid"].as_str().unwrap().to_string()
    };
    let keys = "/providers/Bullion.Factory/signingKeys";
    let before = site.get(keys).await;
    assert_eq!(before.body["value"].as_array().unwrap().len(), 1);
    let rotated = site
        .ask("POST", "/providers/Bullion.Factory/rotateSigningKey", None)
        .await;
    assert_eq!(rotated.status, 200, "{:?}", rotated.body);
    let shown = rotated.body["value"].as_array().unwrap();
    assert_eq!(shown.len(), 2);
    assert_eq!(shown[0]["properties"]["signs"], true);
    assert!(!rotated.body.to_string().contains("PRIVATE"));
    let fresh = site.sign_in(site.tenant).await;
    assert_eq!(json!(kid(&fresh)), shown[0]["name"]);
    assert_ne!(kid(&fresh), kid(&site.token));
    let path = format!("/{}/discovery/v2.0/keys?x=y", site.tenant);
    let set = site.get(&path).await;
    assert_eq!(set.body["keys"].as_array().unwrap().len(), 2);
    assert_eq!(site.get(GROUP).await.status, 200, "the old one is good");
    assert_eq!(site.ask_as(&fresh, "GET", GROUP, None).await.status, 200);
    let old = site.token.clone();
    site.running.stop().await;
    let site = Site::start_in(dir.path()).await;
    for token in [&old, &fresh, &site.token] {
        assert_eq!(site.ask_as(token, "GET", GROUP, None).await.status, 200);
    }
    assert_eq!(
        kid(&site.token),
        kid(&fresh),
        "a start makes no key of its own"
    );
}
