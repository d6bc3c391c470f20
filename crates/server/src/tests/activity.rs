//! The activity log from outside: what a client's writes and refusals leave, how it is asked for, and that it is proved.

use std::time::Duration;

use serde_json::{Value, json};

use super::site::{GROUP, SUBSCRIPTION, Site};
use crate::audit;

const VALUES: &str = "providers/microsoft.insights/eventtypes/management/values";
const PATIENCE: Duration = Duration::from_secs(60);

async fn events(site: &Site, token: &str, filter: &str) -> Vec<Value> {
    let filter: String = url::form_urlencoded::byte_serialize(filter.as_bytes()).collect();
    let path =
        format!("/subscriptions/{SUBSCRIPTION}/{VALUES}?api-version=2015-04-01&$filter={filter}");
    let answer = site.ask_as(token, "GET", &path, None).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    answer.body["value"].as_array().unwrap().clone()
}

/// Refusals come a moment later than their answers.
async fn until(site: &Site, filter: &str, count: usize) -> Vec<Value> {
    let polls = async {
        loop {
            let found = events(site, &site.token, filter).await;
            if found.len() >= count {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let found = tokio::time::timeout(PATIENCE, polls).await;
    found.unwrap_or_else(|_| panic!("no {count} events with {filter}"))
}

#[tokio::test]
async fn who_did_what_from_where_by_which_right() {
    let site = Site::start().await.with_group().await;
    let gallery = format!("{GROUP}/providers/Microsoft.Compute/galleries/g1");
    let made = site.put(&gallery, json!({ "location": "north" })).await;
    assert_eq!(made.status, 201, "{:?}", made.body);
    let correlation = made.header("x-ms-correlation-request-id").to_string();
    let written = until(&site, &format!("correlationId eq '{correlation}'"), 1).await;
    let event = &written[0];
    assert_eq!(
        event["authorization"]["action"],
        "Microsoft.Compute/galleries/write"
    );
    assert_eq!(event["resourceId"], gallery);
    assert_eq!(event["status"]["value"], "Succeeded");
    assert_eq!(event["httpRequest"]["clientIpAddress"], "127.0.0.1");
    assert_eq!(
        event["httpRequest"]["clientRequestId"],
        made.header("x-ms-request-id")
    );
    let right = event["properties"]["rights"].as_str().unwrap();
    assert!(right.contains("/roleAssignments/"), "{right}");

    // A refusal, and a write that was not done.
    let (stranger, principal) = site.stranger().await;
    let refused = site.ask_as(&stranger, "DELETE", &gallery, None).await;
    assert_eq!(refused.status, 403);
    let failed = site.put(&gallery, json!({ "location": "south" })).await;
    assert_eq!(failed.status, 409, "{:?}", failed.body);
    let by_stranger = until(&site, &format!("caller eq '{principal}'"), 1).await;
    assert_eq!(by_stranger[0]["properties"]["outcome"], "Refused");
    assert_eq!(by_stranger[0]["subStatus"]["value"], "AuthorizationFailed");
    assert_eq!(
        by_stranger[0]["operationName"]["value"],
        "Microsoft.Compute/galleries/delete"
    );
    let both = until(
        &site,
        &format!("resourceId eq '{gallery}' and status eq 'Failed'"),
        2,
    )
    .await;
    assert_eq!(both.len(), 2, "{both:?}");

    // What clients filter by.
    for (filter, some) in [
        (
            "resourceGroupName eq 'FACTORY' and eventTimestamp ge 2020-01-01T00:00:00Z",
            true,
        ),
        ("resourceGroupName eq 'other'", false),
        (
            "eventTimestamp ge 2020-01-01T00:00:00Z and eventTimestamp le 2020-01-02T00:00:00Z",
            false,
        ),
        (
            "resourceProvider eq 'microsoft.compute' and eventChannels eq 'Admin, Operation'",
            true,
        ),
        ("status eq 'Succeeded'", true),
    ] {
        assert_eq!(
            !events(&site, &site.token, filter).await.is_empty(),
            some,
            "{filter}"
        );
    }
    let path = format!(
        "/subscriptions/{SUBSCRIPTION}/{VALUES}?api-version=2015-04-01&$select=eventName,id&$filter="
    );
    let bare = site.get(&path).await;
    assert_eq!(
        bare.body["value"][0].as_object().unwrap().len(),
        2,
        "{:?}",
        bare.body
    );
    for bad in ["size eq '1'", "eventTimestamp ge 'soon'", "caller"] {
        let answer = site.get(&format!("{path}{bad}")).await;
        assert_eq!(
            (answer.status, answer.code()),
            (400, "InvalidParameter"),
            "{bad}"
        );
    }
    // Whoever has no right here sees nothing of it.
    let path = format!("/subscriptions/{SUBSCRIPTION}/{VALUES}?api-version=2015-04-01");
    assert_eq!(site.ask_as(&stranger, "GET", &path, None).await.status, 403);

    let data = site.running.data.clone();
    site.running.stop().await;
    let proofs = audit::verify(&data, None).await.unwrap();
    assert_eq!(proofs.len(), 1);
    let proof = &proofs[0];
    assert_eq!(proof.faults, Vec::<String>::new());
    assert_eq!(
        (proof.first, proof.signed_to),
        (1, proof.last),
        "everything is linked and signed at the stop"
    );
    let mut out = Vec::new();
    let lines = audit::export(&data, None, &mut out).await.unwrap();
    assert_eq!(lines, proof.lines);
    let text = String::from_utf8(out).unwrap();
    assert!(
        text.lines()
            .all(|line| serde_json::from_str::<Value>(line).is_ok())
    );
    assert!(text.contains("AuthorizationFailed"));
}

/// A flood of refusals is counted, not stored.
#[tokio::test]
async fn a_flood_of_refusals_is_counted() {
    let site = Site::start().await.with_group().await;
    let data = site.running.data.clone();
    for _ in 0..300 {
        let refused = site.ask_as("no-token", "GET", GROUP, None).await;
        assert_eq!(refused.status, 401);
    }
    site.running.stop().await;
    let mut out = Vec::new();
    audit::export(&data, None, &mut out).await.unwrap();
    let text = String::from_utf8(out).unwrap();
    let (mut stored, mut counted) = (0, 0);
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        match line["activity"]["code"].as_str() {
            Some("InvalidAuthenticationToken") => stored += 1,
            Some("TooMany") => counted += line["activity"]["count"].as_u64().unwrap(),
            _ => {}
        }
    }
    assert_eq!(stored + counted, 300);
}

#[test]
fn a_damaged_key_is_refused_and_not_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let key = || crate::activity::signing_key(folder.path());
    let made = *key().unwrap().public();
    assert_eq!(*key().unwrap().public(), made);
    let file = folder.path().join("activity-key");
    std::fs::write(&file, b"short").unwrap();
    let error = key().expect_err("it is damaged");
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(
        cause.contains("5 bytes") && cause.contains("backup"),
        "{cause}"
    );
    assert_eq!(std::fs::read(&file).unwrap(), b"short");
}
