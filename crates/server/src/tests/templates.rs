//! Templates at the api-versions that clients send: what is refused, what may change, triggers, automatic runs.

use serde_json::{Value, json};

use super::galleries::{definition, template, with};
use super::site::{GROUP, SUBSCRIPTION, Site};

const STRICT: &str = "api-version=2024-02-01";
const LENIENT: &str = "api-version=2023-07-01";
const FLAT: &str = "api-version=2020-02-14";

fn path(name: &str) -> String {
    format!("{GROUP}/providers/Microsoft.VirtualMachineImages/imageTemplates/{name}")
}

/// One request after the other; each answers with the status and says the part.
#[track_caller]
fn check(seen: &super::site::Answer, status: u16, part: &str) {
    let said = seen.body.to_string();
    assert!(
        seen.status == status && said.contains(part),
        "{}: {said}",
        seen.status
    );
}

async fn ready() -> (Site, Value) {
    let site = Site::start().await.with_group().await;
    let definition = definition(&site, GROUP).await;
    let body = template(&definition);
    (site, body)
}

#[tokio::test]
async fn unknown_members_are_refused_from_2024_on_and_dropped_before() {
    let (site, body) = ready().await;
    let odd = with(
        body.clone(),
        "/properties/optimize",
        json!({ "vmboot": { "state": "Enabled" } }),
    );
    let at = |version: &str| format!("{}?{version}", path("t"));
    let said = r#"Unmarshalling entity encountered error: json: unknown field \"vmboot\""#;
    check(&site.put(&at(STRICT), odd.clone()).await, 400, said);
    let made = site.put(&at(LENIENT), odd).await;
    check(&made, 201, r#""optimize":{"vmBoot":{"state":"Enabled"}}"#);
    let wrong = with(body.clone(), "/properties/source/type", json!("Floppy"));
    let seen = site.put(&at(STRICT), wrong.clone()).await;
    check(&seen, 400, r#"{"error":{"code""#);
    let seen = site.put(&at(FLAT), wrong).await;
    check(&seen, 400, r#"{"code":"InvalidRequestContent","message""#);
}

#[tokio::test]
async fn letters_are_no_way_around_the_right_to_publish() {
    let (site, body) = ready().await;
    let lower = with(
        body,
        "/properties/distribute",
        json!([{ "Type": "sharedimage", "runoutputname": "r", "GALLERYIMAGEID": format!("{GROUP}/x") }]),
    );
    let seen = site.put(&format!("{}?{LENIENT}", path("t")), lower).await;
    check(&seen, 400, "Expect fully qualified resource Id");
}

#[tokio::test]
async fn a_template_changes_in_what_azure_lets_change() {
    let (site, body) = ready().await;
    let (strict, lenient) = (
        format!("{}?{STRICT}", path("t")),
        format!("{}?{LENIENT}", path("t")),
    );
    check(&site.put(&strict, body.clone()).await, 201, "Succeeded");
    let patch = async |url: &str, body: Value| site.ask("PATCH", url, Some(body)).await;
    check(
        &patch(&strict, json!({ "tags": { "a": "b" } })).await,
        200,
        r#""tags":{"a":"b"}"#,
    );
    let bigger = json!({ "properties": { "vmProfile": { "osDiskSizeGB": 8 } } });
    check(
        &patch(&lenient, bigger.clone()).await,
        409,
        "is currently not supported",
    );
    check(&patch(&strict, bigger).await, 200, r#""osDiskSizeGB":8"#);
    let odd = json!({ "properties": { "customize": [] } });
    check(&patch(&strict, odd).await, 400, "unknown field");
    // What az sends after a GET: everything, with nulls.
    let mut whole = site.get(&strict).await.body;
    whole["properties"]["validate"] = Value::Null;
    whole["properties"]["buildTimeoutInMinutes"] = json!(0);
    check(&site.put(&lenient, whole.clone()).await, 200, "Succeeded");
    whole["properties"]["buildTimeoutInMinutes"] = json!(30);
    check(
        &site.put(&lenient, whole).await,
        409,
        "is currently not supported",
    );
}

#[tokio::test]
async fn identity_staging_and_network_are_checked() {
    let (site, body) = ready().await;
    let url = format!("{}?{STRICT}", path("t"));
    let put = async |pointer: &str, value: Value| {
        let mut asked = body.clone();
        match pointer {
            "/identity" => asked["identity"] = value,
            pointer => asked = with(asked, pointer, value),
        }
        site.put(&url, asked).await
    };
    let identity = |names: &[&str]| {
        let ids = names.iter().map(|name| {
            let id = format!(
                "{GROUP}/providers/Microsoft.ManagedIdentity/userAssignedIdentities/{name}"
            );
            (id, json!({}))
        });
        json!({ "type": "UserAssigned", "userAssignedIdentities": ids.collect::<serde_json::Map<_, _>>() })
    };
    check(
        &put("/identity", identity(&["a", "b"])).await,
        400,
        "exactly one of type UserAssigned",
    );
    check(
        &put("/identity", json!({ "type": "SystemAssigned" })).await,
        400,
        "exactly one",
    );
    let staging = |name: &str| {
        json!(format!(
            "/subscriptions/{SUBSCRIPTION}/resourceGroups/{name}"
        ))
    };
    let at = "/properties/stagingResourceGroup";
    check(&put(at, staging("none")).await, 400, "does not exist");
    check(&put(at, staging("factory")).await, 400, "is not empty");
    let made = site
        .put(
            staging("stage").as_str().unwrap(),
            json!({ "location": "north" }),
        )
        .await;
    assert_eq!(made.status, 201);
    let network = |value: Value| json!({ "vnetConfig": value });
    let at_profile = "/properties/vmProfile";
    let alone = network(json!({ "containerInstanceSubnetId": "x" }));
    check(&put(at_profile, alone).await, 400, "needs subnetId");
    let late = put("/properties/buildTimeoutInMinutes", json!(961)).await;
    check(&late, 400, "at most 960 minutes");
    check(
        &put(at, staging("stage")).await,
        201,
        "exactStagingResourceGroup",
    );
    let patch = json!({ "identity": identity(&["a"]) });
    check(
        &site.ask("PATCH", &url, Some(patch)).await,
        200,
        "UserAssigned",
    );
}

#[tokio::test]
async fn a_template_that_runs_by_itself_runs_once() {
    let (site, body) = ready().await;
    let body = with(body, "/properties/autoRun", json!({ "state": "Enabled" }));
    let url = format!("{}?{STRICT}", path("t"));
    check(&site.put(&url, body.clone()).await, 201, "Enabled");
    let runs = format!("{GROUP}/providers/Bullion.Factory/runs");
    let listed = site.get(&runs).await;
    assert_eq!(
        listed.body["value"].as_array().unwrap().len(),
        1,
        "{:?}",
        listed.body
    );
}

#[tokio::test]
async fn triggers_wait_for_what_moves() {
    let (site, body) = ready().await;
    let trigger =
        |template: &str, name: &str| format!("{}/triggers/{name}?{STRICT}", path(template));
    let kind = |kind: &str| json!({ "properties": { "kind": kind } });
    let pinned = with(
        body.clone(),
        "/properties/source/version",
        json!("12.1.20260101"),
    );
    let to_version = |mut body: Value| {
        let id = body["properties"]["distribute"][0]["galleryImageId"]
            .as_str()
            .unwrap();
        body["properties"]["distribute"][0]["galleryImageId"] =
            format!("{id}/versions/1.0.0").into();
        body
    };
    for (name, body) in [
        ("moves", body.clone()),
        ("pinned", pinned),
        ("one", to_version(body)),
    ] {
        check(&site.put(&path(name), body).await, 201, "Succeeded");
    }
    let put = async |template: &str, name: &str, body: Value| {
        site.put(&trigger(template, name), body).await
    };
    check(
        &put("none", "a", kind("SourceImage")).await,
        404,
        "not found",
    );
    check(
        &put("pinned", "a", kind("SourceImage")).await,
        400,
        "latest version",
    );
    check(
        &put("one", "a", kind("SourceImage")).await,
        400,
        "distributes to one version",
    );
    check(
        &put("moves", "a", kind("Clock")).await,
        400,
        "unknown variant",
    );
    let made = put("moves", "a", kind("SourceImage")).await;
    check(&made, 201, "Trigger is active.");
    assert_eq!(made.body["properties"]["bullion"], Value::Null);
    check(
        &put("moves", "a", kind("SourceImage")).await,
        200,
        "Healthy",
    );
    check(
        &put("moves", "b", kind("SourceImage")).await,
        409,
        "has the trigger 'a' already",
    );
    let listed = site
        .get(&format!("{}/triggers?{STRICT}", path("moves")))
        .await;
    assert_eq!(listed.body["value"][0]["name"], "a");
    assert_eq!(site.delete(&trigger("moves", "a")).await.status, 200);
    assert_eq!(site.delete(&trigger("moves", "a")).await.status, 204);
}

#[tokio::test]
async fn platform_images_are_listed_as_az_reads_them() {
    let site = Site::start().await;
    let at = format!(
        "/subscriptions/{SUBSCRIPTION}/providers/Microsoft.Compute/locations/north/publishers"
    );
    let made = site.with_group().await;
    let names = async |path: &str| {
        let seen = made.get(path).await;
        let list = seen
            .body
            .as_array()
            .unwrap_or_else(|| panic!("{path}: {:?}", seen.body))
            .clone();
        let names = list
            .iter()
            .map(|one| one["name"].as_str().unwrap().to_owned());
        names.collect::<Vec<_>>()
    };
    assert_eq!(names(&at).await, ["Debian"]);
    let offers = format!("{at}/debian/artifacttypes/vmimage/offers");
    assert_eq!(names(&offers).await, ["debian-12"]);
    let skus = format!("{offers}/debian-12/skus");
    assert_eq!(names(&skus).await, ["12-gen2"]);
    let versions = format!("{skus}/12-gen2/versions");
    assert_eq!(names(&versions).await, ["12.14.20260101", "12.15.20261118"]);
    let last = format!("{versions}?api-version=2024-07-01&$top=1&$orderby=name%20desc");
    assert_eq!(names(&last).await, ["12.15.20261118"]);
    let one = made.get(&format!("{versions}/12.15.20261118")).await;
    check(&one, 200, r#""operatingSystem":"Linux""#);
    check(
        &made.get(&format!("{versions}/1.0.0")).await,
        404,
        "was not found",
    );
    check(
        &made
            .get(&format!("{at}/acme/artifacttypes/vmimage/offers"))
            .await,
        404,
        "was not found",
    );
}
