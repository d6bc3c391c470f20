//! What a machine is told at 169.254.169.254, over the end of a cable.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
use wire::ResourceId;

use super::site::{GROUP, Site};
use super::{galleries, identity};
use crate::metadata::{connection, router};

const TOKEN: &str = "/metadata/identity/oauth2/token?api-version=2018-02-01";
const ARM: &str = "resource=https://management.azure.com/";
const MARK: &str = "Metadata: true\r\n";

struct Seen {
    status: u16,
    text: String,
}

impl Seen {
    fn body(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("{}", self.text))
    }
}

/// One request as a machine sends it.
async fn ask(site: &Site, machine: &str, path: &str, headers: &str) -> Seen {
    let (mut ours, theirs) = duplex(64 * 1024);
    let id = ResourceId::parse(machine).unwrap();
    let service = router(Arc::clone(&site.running.cables.server), id);
    let serving = tokio::spawn(connection(theirs, service));
    let (method, path) = path.split_once(' ').unwrap_or(("GET", path));
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: 169.254.169.254\r\nConnection: close\r\n{headers}\r\n"
    );
    ours.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    ours.read_to_string(&mut answer).await.unwrap();
    serving.await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    Seen {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        text: body.to_owned(),
    }
}

async fn check(site: &Site, machine: &str, path: &str, headers: &str, expected: (u16, &str)) {
    let seen = ask(site, machine, path, headers).await;
    let (status, part) = expected;
    assert!(
        seen.status == status && seen.text.contains(part),
        "{path}: {} {}",
        seen.status,
        seen.text
    );
}

fn member<'a>(body: &'a Value, key: &str) -> &'a str {
    body[key]
        .as_str()
        .unwrap_or_else(|| panic!("no {key} in {body}"))
}

/// A machine with an identity of its own and one that is assigned to it, whose ids these are.
async fn machine(site: &Site, name: &str, kind: &str) -> (String, String, Value) {
    let shared = format!("{GROUP}/providers/{}/shared", identity::IDENTITY);
    let made = site.put(&shared, json!({ "location": "north" })).await;
    let ids = made.body["properties"].clone();
    let definition = galleries::definition(site, GROUP).await;
    let machine = format!("{GROUP}/providers/Microsoft.Compute/virtualMachines/{name}");
    let mut wanted = galleries::machine(&definition);
    wanted["tags"] = json!({ "team": "web", "env": "test" });
    wanted["identity"] = json!({ "type": kind });
    if kind.contains("User") {
        wanted["identity"]["userAssignedIdentities"][&shared] = json!({});
    }
    let made = site.put(&machine, wanted).await;
    assert_eq!(made.status, 201, "{:?}", made.body);
    site.wait(made.header("azure-asyncoperation")).await;
    (machine, shared, ids)
}

#[tokio::test]
async fn a_machine_gets_tokens_of_its_identities() {
    let site = Site::start().await.with_group().await;
    let (machine, shared, ids) = machine(&site, "m", "SystemAssigned, UserAssigned").await;
    let ask = async |more: &str| ask(&site, &machine, &format!("{TOKEN}&{ARM}{more}"), MARK).await;
    let own = ask("").await;
    assert_eq!(own.status, 200, "{}", own.text);
    let own = own.body();
    assert_eq!(own["token_type"], "Bearer");
    assert_eq!(own["resource"], "https://management.azure.com/");
    let expires: i64 = member(&own, "expires_on").parse().unwrap();
    assert!(expires > 0 && member(&own, "expires_in").parse::<u32>().is_ok());
    let may = async |token: &Value, path: &str| {
        let token = member(token, "access_token");
        site.ask_as(token, "GET", path, None).await.status
    };
    assert_eq!(may(&own, GROUP).await, 403, "it has no role yet");
    let shown = site.get(&machine).await;
    let principal = &shown.body["identity"]["principalId"];
    assert_eq!(
        identity::give(&site, &machine, principal, 1).await.status,
        201
    );
    assert_eq!(
        (may(&own, &machine).await, may(&own, GROUP).await),
        (200, 403)
    );

    let client = member(&ids, "clientId");
    let object = member(&ids, "principalId");
    for by in [
        format!("&client_id={client}"),
        format!("&object_id={object}"),
        format!("&msi_res_id={}", shared.to_uppercase()),
        format!("&mi_res_id={shared}"),
    ] {
        let seen = ask(&by).await;
        assert_eq!(
            (seen.status, &seen.body()["client_id"]),
            (200, &ids["clientId"]),
            "{by}"
        );
    }
    let chosen = ask(&format!("&client_id={}", member(&own, "client_id"))).await;
    assert_eq!(chosen.body()["client_id"], own["client_id"]);
    let unknown = "&client_id=99999999-9999-4999-8999-999999999999";
    for (more, part) in [
        (unknown.to_owned(), "Identity not found"),
        (
            format!("&client_id={client}&object_id={object}"),
            "Only one of",
        ),
    ] {
        let seen = ask(&more).await;
        assert!(
            seen.status == 400 && seen.text.contains(part),
            "{more}: {}",
            seen.text
        );
    }

    // An identity that is taken away is gone with the next request.
    let none = json!({ "identity": { "type": "None" } });
    let seen = site.ask("PATCH", &machine, Some(none)).await;
    assert!(seen.status < 300, "{:?}", seen.body);
    let seen = ask("").await;
    assert!(
        seen.status == 400 && seen.text.contains("Identity not found"),
        "{}",
        seen.text
    );
}

#[tokio::test]
async fn what_no_sdk_sends_is_refused() {
    let site = Site::start().await.with_group().await;
    let (machine, ..) = machine(&site, "m", "UserAssigned").await;
    let token = format!("{TOKEN}&{ARM}");
    let check = async |path: &str, headers: &str, status: u16, part: &str| {
        check(&site, &machine, path, headers, (status, part)).await;
    };
    check(&token, MARK, 200, "access_token").await;
    check(&token, "", 400, "Required metadata header not specified").await;
    check(&token, "Metadata: yes\r\n", 400, "Required metadata header").await;
    let passed_on = "Metadata: True\r\nX-Forwarded-For: 192.0.2.1\r\n";
    check(&token, passed_on, 400, "X-Forwarded-For").await;
    check(TOKEN, MARK, 400, "'resource' is missing").await;
    let other = format!("{TOKEN}&resource=https://example.org");
    check(&other, MARK, 400, "invalid_resource").await;
    let path = "/metadata/identity/oauth2/token";
    check(&format!("{path}?{ARM}"), MARK, 400, "newest-versions").await;
    check(
        &format!("{path}?{ARM}&api-version=new"),
        MARK,
        400,
        "not supported",
    )
    .await;
    check(&format!("POST {token}"), MARK, 405, "Only GET").await;
    check(
        "/subscriptions?api-version=2022-12-01",
        MARK,
        404,
        "Not found",
    )
    .await;
    let other = format!("{machine}-2");
    let seen = ask(&site, &other, &token, MARK).await;
    assert_eq!(seen.status, 404, "{}", seen.text);
}

#[tokio::test]
async fn a_machine_learns_what_it_is() {
    let site = Site::start().await.with_group().await;
    let (machine, ..) = machine(&site, "m", "None").await;
    let instance = |path: &str| format!("/metadata/instance{path}api-version=2021-02-01");
    let seen = ask(&site, &machine, &instance("?"), MARK).await;
    assert_eq!(seen.status, 200, "{}", seen.text);
    let compute = &seen.body()["compute"];
    assert_eq!(
        (&compute["name"], &compute["location"]),
        (&json!("m"), &json!("south"))
    );
    assert_eq!(compute["resourceId"], json!(machine));
    assert_eq!(compute["tags"], "env:test;team:web");
    let image = &compute["storageProfile"]["imageReference"]["id"];
    assert!(image.as_str().unwrap().contains("/images/"), "{compute}");
    let check = async |path: &str, status: u16, part: &str| {
        check(&site, &machine, &instance(path), MARK, (status, part)).await;
    };
    check("/compute/name?format=text&", 200, "m").await;
    check("/compute/tagsList/1/value?format=text&", 200, "web").await;
    check("/network/interface/0/ipv4?", 200, "privateIpAddress").await;
    check("/compute?format=text&", 200, "storageProfile/\n").await;
    check("/compute/name?", 400, "format=text").await;
    check("/compute/nothing?", 404, "Not found").await;
    check("?format=xml&", 400, "'json' or 'text'").await;
    let token = format!("{TOKEN}&{ARM}");
    let seen = ask(&site, &machine, &token, MARK).await;
    assert!(
        seen.status == 400 && seen.text.contains("Identity not found"),
        "{}",
        seen.text
    );
    let versions = ask(&site, &machine, "/metadata/versions", MARK).await;
    assert_eq!(versions.body()["apiVersions"][0], "2018-02-01");
}
