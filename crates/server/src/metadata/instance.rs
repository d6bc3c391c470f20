//! `/metadata/instance`: what a machine is, as a tree that may be asked for in parts.
//!
//! Only what somebody who runs a command in the machine may know; the tags are, too, as in Azure.

use axum::body::Body;
use catalog::Resource;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{Refusal, bad, refused};
use crate::exchange::{Query, Reply};

/// What `newest-versions` and `/metadata/versions` name.
pub(super) const VERSIONS: [&str; 4] = ["2018-02-01", "2019-08-15", "2020-09-01", "2021-02-01"];
pub(super) const OLDEST: &str = "2017-04-02";
/// What the machine has on its first network, which is the same for all: a private one to each.
const ADDRESS: &str = "10.0.2.15";
const SUBNET: &str = "10.0.2.0";
const PREFIX: &str = "24";
const MAC: &str = "525400123456";

pub(super) fn answer(machine: &Resource, within: &[&str], query: &Query) -> Result<Reply, Refusal> {
    let document = document(machine);
    let mut at = &document;
    for name in within.iter().filter(|name| !name.is_empty()) {
        let inside = match at {
            Value::Array(list) => name.parse::<usize>().ok().and_then(|index| list.get(index)),
            Value::Object(members) => members
                .iter()
                .find(|(known, _)| known.eq_ignore_ascii_case(name))
                .map(|(_, value)| value),
            _ => None,
        };
        let missing = || {
            refused(
                StatusCode::NOT_FOUND,
                "Not found",
                "There is nothing at this path.",
            )
        };
        at = inside.ok_or_else(missing)?;
    }
    match (query.get("format").unwrap_or("json"), at) {
        ("json", Value::Object(_) | Value::Array(_)) => Ok(Reply::ok(at.clone())),
        ("json", _) => Err(bad(
            "This is a value, not a list of values: ask with format=text.",
        )),
        ("text", value) => Ok(text(value)),
        _ => Err(bad("The format is 'json' or 'text'.")),
    }
}

/// A value as it is, or the names of what is inside.
fn text(value: &Value) -> Reply {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Object(members) => {
            let names = members.iter().map(|(name, value)| match value {
                Value::Object(_) | Value::Array(_) => format!("{name}/\n"),
                _ => format!("{name}\n"),
            });
            names.collect()
        }
        Value::Array(list) => (0..list.len()).map(|index| format!("{index}/\n")).collect(),
        other => other.to_string(),
    };
    let mut reply = Reply::new(StatusCode::OK, None);
    reply.content = Some(Body::from(text));
    reply.with(CONTENT_TYPE, "text/plain; charset=utf-8")
}

fn document(machine: &Resource) -> Value {
    let interface = json!({
        "ipv4": {
            "ipAddress": [{ "privateIpAddress": ADDRESS, "publicIpAddress": "" }],
            "subnet": [{ "address": SUBNET, "prefix": PREFIX }],
        },
        "ipv6": { "ipAddress": [] },
        "macAddress": MAC,
    });
    json!({ "compute": compute(machine), "network": { "interface": [interface] } })
}

fn compute(machine: &Resource) -> Value {
    let (id, inside) = (&machine.id, &machine.properties);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let image = &inside["storageProfile"]["imageReference"];
    let exact = image["exactVersion"]
        .as_str()
        .or(inside["bullion"]["versionId"].as_str());
    let version = exact
        .and_then(|id| id.rsplit('/').next())
        .unwrap_or_default();
    let reference = json!({
        "id": text(&image["id"]),
        "sharedGalleryImageId": text(&image["sharedGalleryImageId"]),
        "communityGalleryImageId": text(&image["communityGalleryImageId"]),
        "publisher": text(&image["publisher"]),
        "offer": text(&image["offer"]),
        "sku": text(&image["sku"]),
        "version": version,
        "exactVersion": exact.unwrap_or_default(),
    });
    let tags: Map<String, Value> = machine
        .tags
        .iter()
        .map(|(name, value)| (name.clone(), value.clone().into()))
        .collect();
    let list: Vec<Value> = tags
        .iter()
        .map(|(name, value)| json!({ "name": name, "value": value }))
        .collect();
    let joined: Vec<String> = tags
        .iter()
        .map(|(name, value)| format!("{name}:{}", text(value)))
        .collect();
    json!({
        "azEnvironment": "Bullion",
        "location": machine.location.clone().unwrap_or_default(),
        "name": id.name(),
        "offer": "",
        "osProfile": {
            "adminUsername": text(&inside["osProfile"]["adminUsername"]),
            "computerName": text(&inside["osProfile"]["computerName"]),
        },
        "osType": "Linux",
        "provider": "Microsoft.Compute",
        "publisher": "",
        "resourceGroupName": id.resource_group().unwrap_or_default(),
        "resourceId": id.to_string(),
        "sku": "",
        "storageProfile": { "imageReference": reference },
        "subscriptionId": id.subscription().map(|id| id.to_string()).unwrap_or_default(),
        "tags": joined.join(";"),
        "tagsList": list,
        "version": version,
        // The same for as long as the machine has its name.
        "vmId": Uuid::new_v5(&Uuid::NAMESPACE_URL, id.folded().as_bytes()).to_string(),
        "vmSize": text(&inside["hardwareProfile"]["vmSize"]),
        "zone": "",
    })
}
