//! `Microsoft.Resources/tags/default`: the tags of a resource, a group or a subscription by themselves.
//!
//! A change of tags is a change of what has them: policies are asked about it, and its etag moves.

use std::collections::BTreeMap;
use std::sync::Arc;

use catalog::{CatalogError, Draft, Precondition, Resource};
use comply::{Write, WriteKind};
use serde_json::{Value, json};
use wire::{ArmError, ErrorCode};

use super::{Reply, policies, present};
use crate::body;
use crate::errors;
use crate::operation::Call;
use crate::state::Server;

pub const KIND: &str = "Microsoft.Resources/tags";
/// How often a change is tried against others of the same resource.
const TRIES_MAX: usize = 4;

type Tags = BTreeMap<String, String>;

/// The name of this resource is always the same.
fn check_name(call: &Call) -> Result<(), ArmError> {
    match call.id.name().eq_ignore_ascii_case("default") {
        true => Ok(()),
        false => Err(errors::bad_request(
            "The tags of a resource are at '/providers/Microsoft.Resources/tags/default'.",
        )),
    }
}

fn shown(call: &Call, tags: &Tags) -> Value {
    json!({ "id": call.id.to_string(), "name": "default", "type": KIND, "properties": { "tags": tags } })
}

async fn tagged(server: &Server, call: &Call) -> Result<Resource, ArmError> {
    let found = server.catalog.get(&call.permit.to_read_own()).await;
    found.map_err(errors::catalog)
}

pub async fn get(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    check_name(&call)?;
    let resource = tagged(&server, &call).await?;
    Ok(Reply::ok(shown(&call, &resource.tags)))
}

pub async fn put(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let tags = given(&call.body)?;
    change(&server, &call, |_| tags.clone()).await
}

pub async fn patch(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let tags = given(&call.body)?;
    let operation = call
        .body
        .get("operation")
        .and_then(Value::as_str)
        .unwrap_or_default();
    match operation.to_ascii_lowercase().as_str() {
        "replace" => change(&server, &call, |_| tags.clone()).await,
        "merge" => {
            let merged = |mut old: Tags| {
                old.retain(|known, _| !tags.keys().any(|name| name.eq_ignore_ascii_case(known)));
                old.extend(tags.clone());
                old
            };
            change(&server, &call, merged).await
        }
        "delete" => {
            let without = |mut old: Tags| {
                let goes = |known: &str, value: &str| {
                    tags.iter()
                        .any(|(name, asked)| name.eq_ignore_ascii_case(known) && asked == value)
                };
                old.retain(|known, value| !goes(known, value));
                old
            };
            change(&server, &call, without).await
        }
        _ => Err(errors::invalid(
            "operation",
            "The operation must be one of Replace, Merge, Delete.",
        )),
    }
}

pub async fn remove(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    change(&server, &call, |_| Tags::new()).await?;
    Ok(Reply::new(http::StatusCode::OK, None))
}

fn given(body: &Value) -> Result<Tags, ArmError> {
    if !body.is_object() {
        let message = "The request content was invalid: a JSON object is expected.";
        return Err(ArmError::new(ErrorCode::InvalidRequestContent, message));
    }
    let inside = body.get("properties").unwrap_or(&Value::Null);
    if !inside.is_object() {
        return Err(body::wrong_type("properties", "an object"));
    }
    body::tags(inside.get("tags"))
}

async fn change(
    server: &Server,
    call: &Call,
    new: impl Fn(Tags) -> Tags,
) -> Result<Reply, ArmError> {
    check_name(call)?;
    for _ in 0..TRIES_MAX {
        let old = tagged(server, call).await?;
        let mut tags = new(old.tags.clone());
        if tags.len() > catalog::TAGS_MAX {
            let message = format!("A resource has at most {} tags.", catalog::TAGS_MAX);
            return Err(errors::invalid("tags", message));
        }
        allowed(server, call, &old, &mut tags).await?;
        let precondition = Precondition::Match(old.etag.clone());
        let draft = Draft::from_resource(old).tags(tags);
        match server.catalog.put(&call.permit, draft, precondition).await {
            Ok(put) => return Ok(Reply::ok(shown(call, &put.resource.tags))),
            Err(CatalogError::Precondition { .. }) => {}
            Err(error) => return Err(errors::catalog(error)),
        }
    }
    Err(errors::conflict(
        "The resource is being changed by other requests at the same time. Retry the request.",
    ))
}

/// Asks the policies that hold for the resource, and takes over what they make of its tags.
async fn allowed(
    server: &Server,
    call: &Call,
    old: &Resource,
    tags: &mut Tags,
) -> Result<(), ArmError> {
    if !comply::kinds::reached(&old.id) {
        return Ok(());
    }
    let existing = present(old);
    let mut resource = existing.clone();
    resource["tags"] = json!(tags);
    let write = Write {
        tenant: call.permit.tenant(),
        kind: WriteKind::Update,
        resource,
        existing: Some(existing),
        api_version: call.version.to_string(),
    };
    let decision = server.comply.decide(write).await;
    let decision = decision.map_err(|error| policies::failed("evaluating policies", error))?;
    if !decision.denials.is_empty() {
        return Err(comply::disallowed(
            old.id.name(),
            WriteKind::Update,
            &decision.denials,
        ));
    }
    if decision.changed {
        *tags = body::tags(decision.resource.get("tags"))?;
    }
    Ok(())
}
