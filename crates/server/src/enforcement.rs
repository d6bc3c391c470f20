//! Policies at request time: what the assigned ones say of a write, asked in one place for every row that writes.
//!
//! A policy sees the request as Azure's policies see it, before the resource's own rules: what modify and append
//! make of it goes the same way as what the client sent, through every check of the handler and of its links. A job
//! that makes a version on its own asks right before it writes it; a promotion is asked about it before it starts, too.

use std::sync::Arc;

use access::Permit;
use async_trait::async_trait;
use catalog::{Catalog, CatalogError};
use comply::{Comply, Write, WriteKind};
use factory::publish::Ask;
use http::Method;
use serde_json::{Map, Value, json};
use wire::{ApiVersion, ArmError, Location, ResourceId, TenantId};

use crate::limits::{self, Limits};
use crate::operation::Operation;
use crate::path::Shape;
use crate::resources::{present, subscriptions, tags};
use crate::state::Server;
use crate::{errors, resources};

/// Members of a resource's envelope that a policy may change.
const ENVELOPE: [&str; 8] = [
    "location",
    "tags",
    "identity",
    "plan",
    "zones",
    "sku",
    "kind",
    "managedBy",
];

/// What `requestContext().apiVersion` is of a job's write: the newest version of galleries that clients use.
const JOBS_VERSION: &str = "2026-03-03";

/// Who it is that a job writes as, where a refusal is noted.
const JOBS_HOLDER: &str = "system/jobs";

/// Whether policies are asked about what the row does to `id`.
pub fn reaches(row: &Operation, id: &ResourceId) -> bool {
    let writes = [Method::PUT, Method::PATCH, Method::DELETE].contains(&row.method);
    // A subscription is judged, but made by whoever it is given to, under no policy yet.
    writes
        && row.shape == Shape::Named
        && row.kind != subscriptions::KIND
        // What they are a change of is asked about by their handler.
        && row.kind != tags::KIND
        && comply::kinds::reached(id)
}

/// The body to go on with: the client's, with what the assigned policies make of it; or their refusal.
pub async fn decided(
    server: &Server,
    row: &Operation,
    permit: &Permit,
    id: &ResourceId,
    version: &ApiVersion,
    body: Value,
) -> Result<Value, ArmError> {
    if !reaches(row, id) {
        return Ok(body);
    }
    let existing = match server.catalog.get(&permit.to_read_own()).await {
        Ok(existing) => Some(present(&existing)),
        Err(CatalogError::NotFound { .. }) => None,
        Err(error) => return Err(errors::catalog(error)),
    };
    let removes = row.method == Method::DELETE;
    let (kind, resource) = match (removes, &existing) {
        // Nothing to protect; the handler says so.
        (true, None) => return Ok(body),
        (true, Some(existing)) => (WriteKind::Delete, existing.clone()),
        // No resource at all; the handler says what is wrong.
        (false, _) if !body.is_object() => return Ok(body),
        (false, None) => (WriteKind::Create, asked(id, &body, None)),
        (false, Some(old)) => (WriteKind::Update, asked(id, &body, Some(old))),
    };
    let write = Write {
        tenant: permit.tenant(),
        kind,
        resource: resource.clone(),
        existing,
        api_version: version.to_string(),
    };
    let decision = server
        .comply
        .decide(write)
        .await
        .map_err(|error| resources::policies::failed("evaluating policies", error))?;
    if !decision.denials.is_empty() {
        let (tenant, holder) = (permit.tenant(), permit.holder());
        let noted = server
            .comply
            .note_refusal(tenant, &holder, id, &decision.denials);
        noted.await;
        return Err(comply::disallowed(id.name(), kind, &decision.denials));
    }
    if decision.changed && !removes {
        return Ok(changed(body, &resource, &decision.resource));
    }
    Ok(body)
}

/// The refusal, if there is one, of a resource that a job is to make because of a request. Nothing is changed in it: a
/// job writes what it made.
pub async fn foreseen(
    server: &Server,
    tenant: TenantId,
    id: &ResourceId,
    body: &Value,
    version: &ApiVersion,
) -> Result<(), ArmError> {
    refusal(&server.comply, tenant, id, body, version.to_string()).await
}

/// The same for a version that a job is about to write, and whether there is room for it.
pub struct Gate {
    pub comply: Arc<Comply>,
    pub catalog: Arc<dyn Catalog>,
    pub limits: Limits,
}

#[async_trait]
impl Ask for Gate {
    async fn may_write(&self, tenant: TenantId, resource: Value) -> Result<(), ArmError> {
        let id = resource["id"].as_str().unwrap_or_default();
        let id =
            ResourceId::parse(id).map_err(|error| errors::internal("a version's id", &error))?;
        refusal(
            &self.comply,
            tenant,
            &id,
            &resource,
            JOBS_VERSION.to_owned(),
        )
        .await?;
        let location = resource["location"].as_str().unwrap_or_default();
        let location = Location::new(location);
        limits::need_room_for(&*self.catalog, &self.limits, tenant, &id, &location).await
    }
}

async fn refusal(
    comply: &Comply,
    tenant: TenantId,
    id: &ResourceId,
    body: &Value,
    api_version: String,
) -> Result<(), ArmError> {
    if !comply::kinds::reached(id) {
        return Ok(());
    }
    let kind = WriteKind::Create;
    let write = Write {
        tenant,
        kind,
        resource: asked(id, body, None),
        existing: None,
        api_version,
    };
    let decision = comply.decide(write).await;
    let decision =
        decision.map_err(|error| resources::policies::failed("evaluating policies", error))?;
    if decision.denials.is_empty() {
        return Ok(());
    }
    let noted = comply.note_refusal(tenant, JOBS_HOLDER, id, &decision.denials);
    noted.await;
    Err(comply::disallowed(id.name(), kind, &decision.denials))
}

/// The resource as the request would leave it. Clients leave out of an update what they do not know, and the
/// handlers keep that; so a policy must not take it for missing.
fn asked(id: &ResourceId, body: &Value, old: Option<&Value>) -> Value {
    let mut resource = body.clone();
    resource["id"] = id.to_string().into();
    resource["name"] = id.name().into();
    resource["type"] = comply::kinds::of(id).into();
    let Some(old) = old else {
        return resource;
    };
    let given = |value: Option<&Value>| match value {
        None | Some(Value::Null) => false,
        Some(Value::Object(object)) => !object.is_empty(),
        Some(_) => true,
    };
    if !given(resource.get("location")) && old.get("location").is_some() {
        resource["location"] = old["location"].clone();
    }
    let mut inside = match resource.get("properties") {
        Some(Value::Object(inside)) => inside.clone(),
        None | Some(Value::Null) => Map::new(),
        Some(_) => return resource,
    };
    for (key, value) in old["properties"].as_object().into_iter().flatten() {
        if !given(inside.get(key)) {
            inside.insert(key.clone(), value.clone());
        }
    }
    resource["properties"] = Value::Object(inside);
    resource
}

/// The client's body with the differences between `before` and `after`, and nothing else of either.
fn changed(mut body: Value, before: &Value, after: &Value) -> Value {
    for key in ENVELOPE {
        if before.get(key) == after.get(key) {
            continue;
        }
        match (after.get(key), body.as_object_mut()) {
            (Some(value), Some(body)) => body.insert(key.into(), value.clone()),
            (None, Some(body)) => body.remove(key),
            (_, None) => None,
        };
    }
    let of = |whole: &Value| match whole.get("properties") {
        Some(Value::Object(inside)) => inside.clone(),
        _ => Map::new(),
    };
    let (before, after) = (of(before), of(after));
    if before == after {
        return body;
    }
    if !body["properties"].is_object() {
        body["properties"] = json!({});
    }
    if let Some(inside) = body["properties"].as_object_mut() {
        for key in before.keys().chain(after.keys()) {
            match (before.get(key), after.get(key)) {
                (old, new) if old == new => {}
                (_, Some(new)) => drop(inside.insert(key.clone(), new.clone())),
                (_, None) => drop(inside.remove(key)),
            }
        }
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str =
        "/subscriptions/11111111-1111-4111-8111-111111111111/resourceGroups/g/providers/M.C/vms/v";

    #[test]
    fn what_a_client_left_out_is_seen_but_not_sent() {
        let id = ResourceId::parse(ID).unwrap();
        let old = json!({ "location": "north", "tags": { "a": "1" },
                          "properties": { "kept": { "x": 1 }, "given": 1, "other": 2 } });
        let body = json!({ "name": "V", "properties": { "given": 2, "kept": {} } });
        let seen = asked(&id, &body, Some(&old));
        let expected = json!({ "id": ID, "name": "v", "type": "M.C/vms", "location": "north",
                               "properties": { "kept": { "x": 1 }, "given": 2, "other": 2 } });
        assert_eq!(seen, expected);
        let mut after = seen.clone();
        after["tags"] = json!({ "pet": "no" });
        after["properties"]["kept"]["x"] = 2.into();
        let sent = changed(body.clone(), &seen, &after);
        let expected = json!({ "name": "V", "tags": { "pet": "no" },
                               "properties": { "given": 2, "kept": { "x": 2 } } });
        assert_eq!(sent, expected);
        assert_eq!(changed(body.clone(), &seen, &seen), body);
        for odd in [json!({ "properties": [] }), json!({ "properties": 1 })] {
            assert_eq!(
                asked(&id, &odd, Some(&old))["properties"],
                odd["properties"]
            );
        }
    }

    #[test]
    fn what_is_reached() {
        let group = "/subscriptions/11111111-1111-4111-8111-111111111111/resourceGroups/g";
        let check = |method: &str, kind: &str, id: &str, expected: bool| {
            let mut rows = crate::table::all().iter();
            let row = rows
                .find(|row| row.method == method && row.kind == kind)
                .unwrap();
            let id = ResourceId::parse(id).unwrap();
            assert_eq!(reaches(row, &id), expected, "{method} {kind}");
        };
        let machine = format!("{group}/providers/Microsoft.Compute/virtualMachines/m");
        let kind = "Microsoft.Compute/virtualMachines";
        check("PUT", kind, &machine, true);
        check("DELETE", kind, &machine, true);
        check("GET", kind, &machine, false);
        check("PUT", "Microsoft.Resources/resourceGroups", group, true);
        let assignment = format!("{group}/providers/Microsoft.Authorization/policyAssignments/a");
        check(
            "PUT",
            "Microsoft.Authorization/policyAssignments",
            &assignment,
            false,
        );
        let region = "/providers/Bullion.Factory/regions/r";
        check("PUT", "Bullion.Factory/regions", region, false);
    }
}
