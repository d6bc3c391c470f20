//! Roles at management groups, lists with what is inherited, custom roles, deny assignments and locks, as clients ask for
//! them.

use serde_json::{Value, json};

use super::policies::{MANAGEMENT, at, subscription};
use super::site::{Answer, GROUP, SUBSCRIPTION, Site};

const READER: &str = "acdd72a7-3385-48ef-bd42-f606fba81ae7";
const OWNER: &str = "8e3af657-a8ff-443c-a75c-2fe8c4bcb635";
const CUSTOM: &str = "44444444-4444-4444-8444-444444444444";

fn guid(number: u32) -> String {
    format!("22222222-2222-4222-8222-{number:012}")
}

fn gallery(name: &str) -> String {
    format!("{GROUP}/providers/Microsoft.Compute/galleries/{name}")
}

async fn give(site: &Site, scope: &str, principal: &str, role: &str, number: u32) -> Answer {
    let body = json!({ "properties": { "roleDefinitionId": role, "principalId": principal } });
    site.put(&at(scope, "roleAssignments", &guid(number)), body)
        .await
}

async fn given(site: &Site, scope: &str, principal: &str, role: &str, number: u32) {
    let seen = give(site, scope, principal, role, number).await;
    assert_eq!(seen.status, 201, "{:?}", seen.body);
}

/// The names of a list's items, those of the operator's own assignment left out.
async fn names(site: &Site, path: &str) -> Vec<String> {
    let seen = site.get(path).await;
    assert_eq!(seen.status, 200, "{path}: {:?}", seen.body);
    let items = seen.body["value"].as_array().unwrap().iter();
    items
        .filter(|one| one["properties"]["scope"] != "/")
        .map(|one| one["name"].as_str().unwrap().to_string())
        .collect()
}

#[tokio::test]
async fn a_role_at_a_management_group_holds_in_it_as_long_as_one_is_in_it() {
    let site = Site::start().await.with_group().await;
    let group = |name: &str| format!("{MANAGEMENT}/{name}");
    assert_eq!(site.put(&group("top"), json!({})).await.status, 200);
    let below = json!({ "properties": { "details": { "parent": { "id": group("top") } } } });
    assert_eq!(site.put(&group("low"), below).await.status, 200);
    site.put(&gallery("g"), json!({ "location": "north" }))
        .await;
    let (token, principal) = site.stranger().await;
    given(&site, &group("top"), &principal, READER, 1).await;
    let seen = async || {
        let list = site.ask_as(&token, "GET", "/subscriptions", None).await;
        let listed = list.body["value"].as_array().unwrap().len();
        let read = site.ask_as(&token, "GET", &gallery("g"), None).await;
        (read.status, listed)
    };
    assert_eq!(seen().await, (403, 0));
    let member = format!("{}/subscriptions/{SUBSCRIPTION}", group("low"));
    assert_eq!(site.ask("PUT", &member, None).await.status, 200);
    assert_eq!(seen().await, (200, 1));
    let write = site.ask_as(&token, "DELETE", &gallery("g"), None).await;
    assert_eq!(write.status, 403);
    // Whoever may assign roles at the group may do so below it.
    assert_eq!(site.delete(&member).await.status, 200);
    assert_eq!(seen().await, (403, 0), "moved away");
}

#[tokio::test]
async fn lists_show_what_holds_at_a_scope() {
    let site = Site::start().await.with_group().await;
    let group = format!("{MANAGEMENT}/top");
    assert_eq!(site.put(&group, json!({})).await.status, 200);
    let member = format!("{group}/subscriptions/{SUBSCRIPTION}");
    assert_eq!(site.ask("PUT", &member, None).await.status, 200);
    site.put(&gallery("g"), json!({ "location": "north" }))
        .await;
    let (token, principal) = site.stranger().await;
    let scopes = [
        group.clone(),
        subscription(),
        GROUP.to_string(),
        gallery("g"),
    ];
    for (number, scope) in (1u32..).zip(&scopes) {
        given(&site, scope, &principal, READER, number).await;
    }
    let list = |scope: &str, filter: &str| {
        let path = at(scope, "roleAssignments", "");
        let path = path.trim_end_matches('/');
        format!("{path}?api-version=2022-04-01&$filter={filter}")
    };
    let all = |numbers: &[u32]| numbers.iter().map(|one| guid(*one)).collect::<Vec<_>>();
    for (scope, filter, expected) in [
        (GROUP, "", all(&[1, 2, 3, 4])),
        (GROUP, "atScope()", all(&[1, 2, 3])),
        (scopes[1].as_str(), "atScope()", all(&[1, 2])),
        (scopes[1].as_str(), "", all(&[1, 2, 3, 4])),
        (group.as_str(), "atScope()", all(&[1])),
    ] {
        assert_eq!(
            names(&site, &list(scope, filter)).await,
            expected,
            "{scope} {filter}"
        );
    }
    for filter in [
        format!("principalId%20eq%20'{principal}'"),
        format!("assignedTo('{principal}')"),
    ] {
        let mut seen = names(&site, &list(&subscription(), &filter)).await;
        seen.sort();
        assert_eq!(seen, all(&[1, 2, 3, 4]), "{filter}");
        let filter = format!("atScope()%20and%20{filter}");
        let mut seen = names(&site, &list(GROUP, &filter)).await;
        seen.sort();
        assert_eq!(seen, all(&[1, 2, 3]), "{filter}");
    }
    let bad = site.get(&list(GROUP, "principalId%20ne%20'x'")).await;
    assert_eq!(bad.code(), "InvalidFilterInQueryString");
    // An inherited one names the definition as the asked subscription lists it.
    let seen = site.get(&list(&subscription(), "atScope()")).await;
    let roles: Vec<&str> = seen.body["value"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|one| one["properties"]["roleDefinitionId"].as_str())
        .collect();
    let prefix = format!("/subscriptions/{SUBSCRIPTION}/providers/");
    assert!(
        roles.iter().all(|role| role.starts_with(&prefix)),
        "{roles:?}"
    );
    // Who holds nothing but a gallery sees what is there, and not what is above.
    for number in 1..4 {
        let path = at(&scopes[number - 1], "roleAssignments", &guid(number as u32));
        assert_eq!(site.delete(&path).await.status, 200);
    }
    let seen = site
        .ask_as(&token, "GET", &list(&subscription(), ""), None)
        .await;
    assert_eq!(seen.body["value"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn an_assignment_is_to_somebody_and_stays_as_it_is() {
    let site = Site::start().await.with_group().await;
    let (_, principal) = site.stranger().await;
    let nobody = "99999999-9999-4999-8999-999999999999";
    let seen = give(&site, GROUP, nobody, READER, 1).await;
    assert_eq!((seen.status, seen.code()), (400, "PrincipalNotFound"));
    let seen = give(&site, GROUP, &principal, CUSTOM, 1).await;
    assert_eq!(seen.code(), "RoleDefinitionDoesNotExist");
    let path = at(GROUP, "roleAssignments", &guid(1));
    let asked = |extra: Value| {
        let mut inside = json!({ "roleDefinitionId": READER, "principalId": principal });
        for (key, value) in extra.as_object().unwrap() {
            inside[key] = value.clone();
        }
        json!({ "properties": inside })
    };
    let seen = site
        .put(&path, asked(json!({ "principalType": "User" })))
        .await;
    assert_eq!((seen.status, seen.code()), (400, "UnmatchedPrincipalType"));
    let seen = site
        .put(&path, asked(json!({ "condition": "1 == 1" })))
        .await;
    assert_eq!((seen.status, seen.code()), (400, "InvalidParameter"));
    let made = site
        .put(&path, asked(json!({ "principalType": "ServicePrincipal" })))
        .await;
    assert_eq!(made.status, 201, "{:?}", made.body);
    assert_eq!(made.body["properties"]["principalType"], "ServicePrincipal");
    assert_eq!(made.body["properties"]["condition"], Value::Null);
    let same = site
        .put(&path, asked(json!({ "description": "why" })))
        .await;
    assert_eq!(same.status, 200);
    assert_eq!(same.body["properties"]["description"], "why");
    let seen = give(&site, GROUP, &principal, OWNER, 1).await;
    assert_eq!(
        (seen.status, seen.code()),
        (400, "RoleAssignmentUpdateNotPermitted")
    );
    let seen = give(&site, GROUP, &principal, READER, 2).await;
    assert_eq!((seen.status, seen.code()), (409, "RoleAssignmentExists"));
    assert!(seen.message().contains("role assignment already exists"));
}

#[tokio::test]
async fn a_subscription_has_so_many_assignments() {
    let dir = tempfile::tempdir().unwrap();
    let limits = "[limits]\nrole_assignments = 2\n";
    std::fs::write(dir.path().join("bullion.toml"), limits).unwrap();
    let site = Site::start_in(dir.path()).await.with_group().await;
    let (_, principal) = site.stranger().await;
    let give = async |scope: &str, number| give(&site, scope, &principal, READER, number).await;
    let subscription = GROUP.split("/resourceGroups").next().unwrap();
    let one = give(subscription, 1).await;
    assert_eq!((one.status, give(GROUP, 2).await.status), (201, 201));
    let gallery = gallery("g");
    let made = site.put(&gallery, json!({ "location": "north" })).await;
    assert_eq!(made.status, 201, "{:?}", made.body);
    let seen = give(&gallery, 3).await;
    assert_eq!(
        (seen.status, seen.code()),
        (400, "RoleAssignmentLimitExceeded")
    );
    assert_eq!(
        give("", 4).await.status,
        201,
        "above the subscription nothing is counted"
    );
    assert_eq!(
        site.delete(&at(GROUP, "roleAssignments", &guid(2)))
            .await
            .status,
        200
    );
    assert_eq!(give(&gallery, 3).await.status, 201);
}

fn role(name: &str, actions: &[&str], scopes: &[&str]) -> Value {
    json!({ "properties": {
        "roleName": name, "description": "d", "type": "CustomRole",
        "permissions": [{ "actions": actions, "notActions": [] }], "assignableScopes": scopes,
    } })
}

#[tokio::test]
async fn a_custom_role_is_made_held_changed_and_removed() {
    let site = Site::start().await.with_group().await;
    site.put(&gallery("g"), json!({ "location": "north" }))
        .await;
    let (token, principal) = site.stranger().await;
    let here = subscription();
    let path = at(&here, "roleDefinitions", CUSTOM);
    let made = site
        .put(
            &path,
            role("Galleries", &["Microsoft.Compute/galleries/read"], &[&here]),
        )
        .await;
    assert_eq!(made.status, 201, "{:?}", made.body);
    assert_eq!(made.body["id"], json!(path));
    assert_eq!(made.body["properties"]["type"], "CustomRole");
    given(&site, GROUP, &principal, &path, 1).await;
    let may = async |method: &str| {
        let body = (method == "PUT").then(|| json!({ "location": "north" }));
        let seen = site.ask_as(&token, method, &gallery("g"), body).await;
        seen.status
    };
    assert_eq!((may("GET").await, may("PUT").await), (200, 403));
    let more = &["Microsoft.Compute/galleries/*"];
    let seen = site.put(&path, role("Galleries", more, &[&here])).await;
    assert_eq!(seen.status, 201, "{:?}", seen.body);
    assert_eq!((may("GET").await, may("PUT").await), (200, 200));

    let list = |scope: &str, filter: &str| {
        let path = at(scope, "roleDefinitions", "");
        let path = path.trim_end_matches('/');
        format!("{path}?api-version=2022-05-01-preview&$filter={filter}")
    };
    let named = "roleName%20eq%20'Galleries'";
    assert_eq!(names(&site, &list(GROUP, named)).await, [CUSTOM]);
    let custom = "type%20eq%20'CustomRole'";
    assert_eq!(names(&site, &list(&here, custom)).await, [CUSTOM]);
    let elsewhere = "/subscriptions/55555555-5555-4555-8555-555555555555";
    site.put(elsewhere, json!({})).await;
    assert!(names(&site, &list(elsewhere, custom)).await.is_empty());
    let seen = site.get(&at(elsewhere, "roleDefinitions", CUSTOM)).await;
    assert_eq!(
        (seen.status, seen.code()),
        (404, "RoleDefinitionDoesNotExist")
    );
    let seen = give(&site, elsewhere, &principal, CUSTOM, 3).await;
    assert_eq!(seen.code(), "RoleDefinitionDoesNotExist", "not assignable");

    let seen = site.delete(&path).await;
    assert_eq!(
        (seen.status, seen.code()),
        (400, "RoleDefinitionHasAssignments")
    );
    let assignment = at(GROUP, "roleAssignments", &guid(1));
    assert_eq!(site.delete(&assignment).await.status, 200);
    assert_eq!(may("GET").await, 403);
    assert_eq!(site.delete(&path).await.status, 200);
    assert_eq!(site.delete(&path).await.status, 204);
    assert_eq!(site.get(&path).await.status, 404);
}

#[tokio::test]
async fn custom_roles_that_are_refused() {
    let site = Site::start().await.with_group().await;
    let here = subscription();
    let path = at(&here, "roleDefinitions", CUSTOM);
    let other = at(
        &here,
        "roleDefinitions",
        "55555555-5555-4555-8555-555555555555",
    );
    let read = &["*/read"];
    assert_eq!(
        site.put(&path, role("Mine", read, &[&here])).await.status,
        201
    );
    let built_in = at(&here, "roleDefinitions", READER);
    for (path, body, code) in [
        (
            &other,
            role("mine", read, &[&here]),
            "RoleDefinitionWithSameNameExists",
        ),
        (
            &other,
            role("READER", read, &[&here]),
            "RoleDefinitionWithSameNameExists",
        ),
        (
            &built_in,
            role("x", read, &[&here]),
            "RoleDefinitionUpdateNotPermitted",
        ),
        (
            &other,
            role("x", &["Microsoft.Compute/galleris/read"], &[&here]),
            "InvalidActionOrNotAction",
        ),
        (&other, role("x", read, &[]), "InvalidScope"),
        (&other, role("x", read, &["/"]), "InvalidParameter"),
        (&other, role("", read, &[&here]), "InvalidParameter"),
        (
            &other,
            json!({ "properties": { "roleName": "x", "assignableScopes": [here] } }),
            "InvalidParameter",
        ),
    ] {
        let seen = site.put(path, body).await;
        assert_eq!(seen.code(), code, "{:?}", seen.body);
    }
    assert_eq!(
        site.delete(&built_in).await.code(),
        "RoleDefinitionUpdateNotPermitted"
    );

    // A role is written by whoever may write it at all of its scopes.
    let (token, principal) = site.stranger().await;
    given(&site, GROUP, &principal, OWNER, 1).await;
    let own = at(
        GROUP,
        "roleDefinitions",
        "66666666-6666-4666-8666-666666666666",
    );
    let put = async |path: &str, body| site.ask_as(&token, "PUT", path, Some(body)).await;
    assert_eq!(put(&own, role("own", read, &[GROUP])).await.status, 201);
    let seen = put(&own, role("own", read, &[GROUP, &here])).await;
    assert_eq!(
        (seen.status, seen.code()),
        (403, "LinkedAuthorizationFailed")
    );
    let stolen = at(GROUP, "roleDefinitions", CUSTOM);
    let seen = put(&stolen, role("stolen", &["*"], &[GROUP])).await;
    assert_eq!((seen.status, seen.code()), (403, "AuthorizationFailed"));
    let seen = site.ask_as(&token, "DELETE", &stolen, None).await;
    assert_eq!((seen.status, seen.code()), (403, "AuthorizationFailed"));
}

#[tokio::test]
async fn what_is_denied_is_denied_to_an_owner() {
    let site = Site::start().await.with_group().await;
    site.put(&gallery("g"), json!({ "location": "north" }))
        .await;
    let (token, principal) = site.stranger().await;
    given(&site, GROUP, &principal, OWNER, 1).await;
    let path = at(GROUP, "denyAssignments", CUSTOM);
    let deny = |actions: &[&str], principals: Value, except: Value| {
        json!({ "properties": {
            "denyAssignmentName": "frozen", "permissions": [{ "actions": actions }],
            "principals": principals, "excludePrincipals": except,
        } })
    };
    let everyone =
        json!([{ "id": "00000000-0000-0000-0000-000000000000", "type": "SystemDefined" }]);
    let this = json!([{ "id": principal, "type": "ServicePrincipal" }]);
    for (body, code) in [
        (
            deny(&["*/read"], this.clone(), json!([])),
            "InvalidParameter",
        ),
        (deny(&[], this.clone(), json!([])), "InvalidParameter"),
        (
            deny(&["*"], everyone.clone(), json!([])),
            "InvalidParameter",
        ),
        (deny(&["*"], json!([]), json!([])), "InvalidParameter"),
        (
            deny(&["x/y/write"], this.clone(), json!([])),
            "InvalidActionOrNotAction",
        ),
        (
            deny(&["*"], json!([{ "id": CUSTOM, "type": "User" }]), json!([])),
            "PrincipalNotFound",
        ),
    ] {
        let seen = site.put(&path, body).await;
        assert_eq!(seen.code(), code, "{:?}", seen.body);
    }
    let body = deny(&["Microsoft.Compute/*"], this, json!([]));
    let made = site.put(&path, body).await;
    assert_eq!(made.status, 201, "{:?}", made.body);
    let may = async |method: &str| {
        let body = (method == "PUT").then(|| json!({ "location": "north" }));
        let seen = site.ask_as(&token, method, &gallery("g"), body).await;
        (seen.status, seen.code().to_string())
    };
    assert_eq!(may("GET").await.0, 200);
    let denied = (403, "DenyAssignmentAuthorizationFailed".to_string());
    assert_eq!(may("PUT").await, denied);
    assert_eq!(may("DELETE").await, denied);
    let lists = format!("{GROUP}/providers/Microsoft.Authorization/denyAssignments");
    assert_eq!(names(&site, &lists).await, [CUSTOM]);
    let operator = site
        .get("/providers/Bullion.Factory/applications/operator")
        .await;
    let operator = operator.body["properties"]["principalId"].clone();
    let body = deny(&["*/delete"], everyone, json!([{ "id": operator }]));
    let seen = site.put(&path, body).await;
    assert_eq!(seen.status, 200, "{:?}", seen.body);
    assert_eq!(may("PUT").await.0, 200);
    assert_eq!(may("DELETE").await, denied);
    assert_eq!(site.delete(&path).await.status, 204);
    assert_eq!(may("DELETE").await.0, 200);
}

#[tokio::test]
async fn a_lock_is_held_against_everybody() {
    let site = Site::start().await.with_group().await;
    site.put(&gallery("g"), json!({ "location": "north" }))
        .await;
    let lock = |scope: &str, name: &str| at(scope, "locks", name);
    let level = |level: &str| json!({ "properties": { "level": level, "notes": "n" } });
    let refused = site.put(&lock(GROUP, "l"), level("Sometimes")).await;
    assert_eq!(refused.code(), "InvalidParameter");
    let made = site
        .put(&lock(&gallery("g"), "l"), level("cannotdelete"))
        .await;
    assert_eq!(made.status, 201, "{:?}", made.body);
    assert_eq!(made.body["properties"]["level"], "CanNotDelete");
    for path in [gallery("g"), GROUP.to_string()] {
        let seen = site.delete(&path).await;
        assert_eq!((seen.status, seen.code()), (409, "ScopeLocked"), "{path}");
        let message = seen.message();
        assert!(
            message
                .contains("cannot perform delete operation because following scope(s) are locked"),
            "{message}"
        );
    }
    let body = json!({ "location": "north", "properties": { "description": "x" } });
    assert_eq!(site.put(&gallery("g"), body.clone()).await.status, 200);
    let other = gallery("other");
    let made = site
        .put(&lock(&subscription(), "s"), level("ReadOnly"))
        .await;
    assert_eq!(made.status, 201);
    let seen = site.put(&other, json!({ "location": "north" })).await;
    assert_eq!((seen.status, seen.code()), (409, "ScopeLocked"));
    assert!(seen.message().contains("cannot perform write operation"));
    let all = format!("{}/providers/Microsoft.Authorization/locks", subscription());
    assert_eq!(names(&site, &all).await.len(), 2);
    let here = format!("{all}?api-version=2016-09-01&$filter=atScope()");
    assert_eq!(names(&site, &here).await, ["s"]);
    assert_eq!(site.get(&lock(&subscription(), "s")).await.status, 200);
    assert_eq!(site.delete(&lock(&subscription(), "s")).await.status, 200);
    assert_eq!(
        site.put(&other, json!({ "location": "north" }))
            .await
            .status,
        201
    );

    assert_eq!(site.delete(&lock(&gallery("g"), "l")).await.status, 200);
    assert_eq!(site.delete(&lock(&gallery("g"), "l")).await.status, 204);
    assert_eq!(site.delete(&gallery("g")).await.status, 200);
}

#[tokio::test]
async fn operations_can_be_read() {
    let site = Site::start().await;
    let path = "/providers/Microsoft.Authorization/providerOperations/Microsoft.Compute";
    let seen = site.get(path).await;
    let names = seen.body["operations"].as_array().unwrap();
    let galleries = json!("Microsoft.Compute/galleries/write");
    assert!(names.iter().any(|one| one["name"] == galleries));
    let all = "/providers/Microsoft.Authorization/providerOperations";
    assert!(site.get(all).await.body["value"].as_array().unwrap().len() > 3);
    assert_eq!(site.get(&format!("{all}/x")).await.status, 404);
}
