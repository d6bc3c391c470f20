//! The handlers, one module per resource type, and what they share: presenting, listing, writing once.
//!
//! A handler runs after authorisation and reads and writes under its call's permit. Must not decide who may.

pub mod activity_log;
pub mod applications;
pub mod bits;
pub mod consents;
pub mod credentials;
pub mod data_disks;
pub mod definition_rules;
pub mod disk_access;
pub mod disk_encryption_sets;
pub mod disks;
pub mod everything;
pub mod exports;
pub mod galleries;
pub mod gallery_applications;
pub mod groups;
pub mod identities;
pub mod images;
pub mod locks;
pub mod machine_disks;
pub mod machines;
pub mod managed_images;
pub mod management_groups;
pub mod marketplace;
pub mod operations;
pub mod people;
pub mod pipelines;
pub mod policies;
pub mod power;
pub mod promotions;
pub mod roles;
pub mod runs;
pub mod shared;
pub mod sharing;
pub mod signing_keys;
pub mod soft_delete;
pub mod statements;
pub mod subscriptions;
pub mod tags;
pub mod templates;
pub mod tenancy;
pub mod usages;
pub mod version_keys;
pub mod version_rules;
pub mod versions;

use catalog::{
    CatalogError, Continuation, Draft, JobId, NewJob, PageRequest, Precondition, Put, Resource,
};
use http::StatusCode;
use serde_json::{Map, Value, json};
use wire::{ArmError, ErrorCode, ResourceType};

use crate::body::ResourceBody;
use crate::errors;
pub use crate::exchange::Reply;
use crate::operation::{Call, Preconditions};
use crate::patch;
use crate::state::Server;

/// What a page holds when the client does not say.
const PAGE_DEFAULT: usize = 200;

/// A resource as ARM shows it.
pub fn present(resource: &Resource) -> Value {
    let mut properties = match &resource.properties {
        Value::Object(properties) => properties.clone(),
        _ => Map::new(),
    };
    properties.insert("provisioningState".into(), resource.state.as_str().into());
    let mut shown = Map::new();
    shown.insert("id".into(), resource.id.to_string().into());
    shown.insert("name".into(), resource.id.name().into());
    shown.insert(
        "type".into(),
        resource.id.resource_type().to_string().into(),
    );
    if let Some(location) = &resource.location {
        shown.insert("location".into(), location.clone().into());
    }
    // Types without a location have tags only where somebody gave them some.
    if resource.location.is_some() || !resource.tags.is_empty() {
        shown.insert("tags".into(), json!(resource.tags));
    }
    for (key, value) in &resource.extra {
        shown.insert(key.clone(), value.clone());
    }
    shown.insert("etag".into(), resource.etag.to_string().into());
    shown.insert("systemData".into(), system_data(resource));
    shown.insert("properties".into(), Value::Object(properties));
    Value::Object(shown)
}

fn system_data(resource: &Resource) -> Value {
    json!({
        "createdAt": resource.system.created_at.to_string(),
        "createdBy": resource.system.created_by,
        "createdByType": "Application",
        "lastModifiedAt": resource.system.changed_at.to_string(),
        "lastModifiedBy": resource.system.changed_by,
        "lastModifiedByType": "Application",
    })
}

/// The properties as an object; what the catalog holds always is one.
pub fn properties(resource: &Resource) -> Map<String, Value> {
    match &resource.properties {
        Value::Object(properties) => properties.clone(),
        _ => Map::new(),
    }
}

/// The resource at the call's scope, `None` where there is none.
pub async fn find(server: &Server, call: &Call) -> Result<Option<Resource>, ArmError> {
    match server.catalog.get(&call.permit).await {
        Ok(resource) => Ok(Some(resource)),
        Err(CatalogError::NotFound { .. }) => Ok(None),
        Err(error) => Err(errors::catalog(error)),
    }
}

pub async fn need(server: &Server, call: &Call) -> Result<Resource, ArmError> {
    server
        .catalog
        .get(&call.permit)
        .await
        .map_err(errors::catalog)
}

/// A PATCH that has a row of its own, as the PUT that it comes to.
pub async fn patched(server: &Server, mut call: Call) -> Result<Call, ArmError> {
    let (whole, stored) = patch::whole(server, &call.permit, call.body).await?;
    call.preconditions.check(Some(&stored))?;
    call.body = whole;
    call.preconditions = Preconditions::matching(&stored);
    Ok(call)
}

pub async fn show(server: &Server, call: &Call) -> Result<Reply, ArmError> {
    Ok(Reply::ok(present(&need(server, call).await?)))
}

/// 201 for new, 200 for replaced.
pub fn put_reply(put: &Put) -> Reply {
    put_reply_of(put.created, present(&put.resource))
}

pub fn put_reply_of(created: bool, body: Value) -> Reply {
    let status = if created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Reply::new(status, Some(body))
}

/// Stores `draft` if the resource is still what the handler decided upon.
pub async fn store(
    server: &Server,
    call: &Call,
    old: Option<&Resource>,
    draft: Draft,
) -> Result<Put, ArmError> {
    call.preconditions.check(old)?;
    server
        .catalog
        .put(&call.permit, draft, unmoved(old))
        .await
        .map_err(errors::catalog)
}

/// The same for a draft with a unique key: `taken` is said where another resource holds it.
pub async fn store_unique(
    server: &Server,
    call: &Call,
    old: Option<&Resource>,
    draft: Draft,
    taken: &str,
) -> Result<Put, ArmError> {
    call.preconditions.check(old)?;
    match server.catalog.put(&call.permit, draft, unmoved(old)).await {
        Ok(put) => Ok(put),
        Err(CatalogError::Taken { .. }) => Err(errors::conflict(taken)),
        Err(error) => Err(errors::catalog(error)),
    }
}

/// Stores `draft` and submits the job that completes it: both or neither.
pub async fn submit_with(
    server: &Server,
    call: &Call,
    old: Option<&Resource>,
    draft: Draft,
    job: NewJob,
) -> Result<(Put, JobId), ArmError> {
    call.preconditions.check(old)?;
    let done = server
        .jobs
        .store()
        .put_and_submit(&call.permit, draft, unmoved(old), job)
        .await
        .map_err(errors::catalog)?;
    server.jobs.wake();
    Ok(done)
}

fn unmoved(old: Option<&Resource>) -> Precondition {
    match old {
        Some(old) => Precondition::Match(old.etag.clone()),
        None => Precondition::Absent,
    }
}

/// A draft of a tracked resource: location, tags and the members that ARM itself knows.
pub fn tracked(body: ResourceBody, location: &str, old: Option<&Resource>) -> Draft {
    let mut extra = old.map(|old| old.extra.clone()).unwrap_or_default();
    for (key, value) in [
        ("identity", body.identity),
        ("plan", body.plan),
        ("zones", body.zones),
        ("sku", body.sku),
    ] {
        if let Some(value) = value {
            extra.insert(key.into(), value);
        }
    }
    let mut properties = body.properties;
    // The state is a column of its own and shown from there.
    properties.remove("provisioningState");
    let mut draft = Draft::new(Value::Object(properties));
    draft.location = Some(location.to_string());
    draft.tags = body.tags;
    draft.extra = extra;
    draft
}

/// The location to keep: a resource does not move.
pub fn settle_location(
    call: &Call,
    body: &ResourceBody,
    old: Option<&Resource>,
) -> Result<String, ArmError> {
    let Some(kept) = old.and_then(|old| old.location.clone()) else {
        return body.need_location().map(str::to_string);
    };
    let asked = body.location.as_deref().unwrap_or(&kept);
    if wire::Location::new(asked) != wire::Location::new(kept.as_str()) {
        return Err(errors::conflict(format!(
            "The resource '{}' already exists in location '{kept}'. A resource with the same name \
             cannot be created in location '{asked}'. Please select a new resource name.",
            call.id.name()
        )));
    }
    Ok(kept)
}

/// Removes the resource; 204 where there is none.
pub async fn delete(server: &Server, call: &Call) -> Result<Reply, ArmError> {
    let Some(old) = find(server, call).await? else {
        return Ok(Reply::no_content());
    };
    call.preconditions.check(Some(&old))?;
    match server
        .catalog
        .delete(&call.permit, Precondition::None)
        .await
    {
        Ok(_) => Ok(Reply::new(StatusCode::OK, None)),
        Err(CatalogError::NotFound { .. }) => Ok(Reply::no_content()),
        Err(error) => Err(errors::catalog(error)),
    }
}

/// One page of the call's type in the call's scope.
pub async fn list(
    server: &Server,
    call: &Call,
    of: &str,
    show: impl Fn(&Resource) -> Option<Value>,
) -> Result<Reply, ArmError> {
    let page = server
        .catalog
        .list(&call.permit, &ResourceType::new(of), page_request(call)?)
        .await
        .map_err(errors::catalog)?;
    let value: Vec<Value> = page.resources.iter().filter_map(show).collect();
    Ok(page_reply(call, value, page.next))
}

pub fn page_request(call: &Call) -> Result<PageRequest, ArmError> {
    let page = PageRequest::first(top(call)?.unwrap_or(PAGE_DEFAULT));
    Ok(match skip_token(call)? {
        None => page,
        Some(after) => page.after(after),
    })
}

/// How many items the client wants on a page, if it says.
pub fn top(call: &Call) -> Result<Option<usize>, ArmError> {
    let Some(text) = call.query.get("$top") else {
        return Ok(None);
    };
    match text.parse::<usize>() {
        Ok(limit) if limit > 0 => Ok(Some(limit)),
        _ => Err(errors::invalid("$top", "$top must be a positive number.")),
    }
}

/// Where the page before this one ended.
pub fn skip_token(call: &Call) -> Result<Option<Continuation>, ArmError> {
    let token = call.query.get("$skiptoken").map(str::parse);
    token.transpose().map_err(errors::catalog)
}

/// The list's envelope. The next link repeats what the client asked, api-version included.
pub fn page_reply(call: &Call, value: Vec<Value>, next: Option<Continuation>) -> Reply {
    let mut body = json!({ "value": value });
    if let Some(next) = next {
        let (version, next) = (call.version.to_string(), next.to_string());
        let mut query = vec![("api-version", version.as_str()), ("$skiptoken", &next)];
        for name in ["$top", "$filter", "$expand", "query"] {
            query.extend(call.query.get(name).map(|value| (name, value)));
        }
        body["nextLink"] = call.base.url(&call.path, &query).into();
    }
    Reply::ok(body)
}

/// A property that may not change once it is set.
pub fn unchanged(
    kind: &str,
    path: &str,
    old: Option<&Value>,
    new: Option<&Value>,
) -> Result<(), ArmError> {
    let same = match (old, new) {
        (Some(Value::String(old)), Some(Value::String(new))) => old.eq_ignore_ascii_case(new),
        (old, new) => old == new,
    };
    if same {
        return Ok(());
    }
    Err(ArmError::new(
        ErrorCode::PropertyChangeNotAllowed,
        format!("Changing property '{kind}.{path}' is not allowed."),
    )
    .with_target(format!("{kind}.{path}")))
}
