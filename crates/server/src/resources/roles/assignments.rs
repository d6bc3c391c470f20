//! `Microsoft.Authorization/roleAssignments`: a role, given to a user, group or service principal at a scope.

use std::sync::Arc;

use access::{Assignment, RoleId};
use catalog::{CatalogError, Draft, ObjectKind, Precondition, Record, Resource, UniqueKey};
use http::StatusCode;
use serde_json::{Map, Value, json};
use uuid::Uuid;
use wire::{ArmError, ErrorCode, PrincipalId, ResourceId};

use super::{ASSIGNMENT, Filter, above, definition_id, definitions, list_held, written};
use crate::body::ResourceBody;
use crate::errors;
use crate::hierarchy::looking;
use crate::limits;
use crate::operation::Call;
use crate::resources::{Reply, delete, find, need, page_reply, properties, put_reply_of};
use crate::state::Server;

const DESCRIPTION_MAX: usize = 1024;

pub async fn put(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    check_name(&call)?;
    let body = ResourceBody::parse(&call.body, &call.id)?;
    let assignment = asked(&call, &body.properties)?;
    let description = description(&body.properties)?;
    let old = find(&server, &call).await?;
    if let Some(old) = &old {
        return update(&server, &call, old, &assignment, description).await;
    }
    let scope = &assignment.scope;
    definitions::need_assignable(&server, &call, &assignment.role, scope).await?;
    limits::need_assignment_room(&server, &call).await?;
    let kind = principal_kind(&server, &call, &assignment, &body.properties).await?;
    let mut stored = json!({
        "roleDefinitionId": definition_id(scope, assignment.role.as_str()),
        "principalId": assignment.principal.to_string(),
        "principalType": kind.as_str(),
        "scope": scope.to_string(),
    });
    if let Some(description) = description {
        stored["description"] = description.into();
    }
    let (tenant, principal) = (
        assignment.tenant.to_string(),
        assignment.principal.to_string(),
    );
    let key = [
        scope.folded(),
        &principal,
        assignment.role.as_str(),
        &tenant,
    ];
    let draft = Draft::new(stored)
        .unique(UniqueKey::new("role-assignment", &key))
        .record(Record::RoleAssignment(assignment.clone()));
    call.preconditions.check(None)?;
    let put = server
        .catalog
        .put(&call.permit, draft, Precondition::Absent)
        .await;
    match put {
        Ok(put) => Ok(put_reply_of(put.created, shown(&call.id, &put.resource))),
        Err(CatalogError::Taken { holder, .. }) => Err(ArmError::new(
            ErrorCode::RoleAssignmentExists,
            format!(
                "The role assignment already exists. The ID of the existing role assignment is {}.",
                holder.name().replace('-', "")
            ),
        )),
        Err(error) => Err(errors::catalog(error)),
    }
}

/// Nothing of an assignment changes but what people write beside it.
async fn update(
    server: &Server,
    call: &Call,
    old: &Resource,
    asked: &Assignment,
    description: Option<String>,
) -> Result<Reply, ArmError> {
    let kept = properties(old);
    let text = |key: &str| kept.get(key).and_then(Value::as_str).unwrap_or_default();
    let same = text("principalId") == asked.principal.to_string()
        && RoleId::new(text("roleDefinitionId")) == asked.role;
    if !same {
        return Err(ArmError::new(
            ErrorCode::RoleAssignmentUpdateNotPermitted,
            "Tenant ID, application ID, principal ID, and scope are not allowed to be updated.",
        ));
    }
    let Some(description) = description.filter(|new| *new != text("description")) else {
        return Ok(Reply::ok(shown(&call.id, old)));
    };
    let mut draft = Draft::from_resource(old.clone());
    draft.properties["description"] = description.into();
    let put = crate::resources::store(server, call, Some(old), draft).await?;
    Ok(Reply::ok(shown(&call.id, &put.resource)))
}

fn check_name(call: &Call) -> Result<(), ArmError> {
    if Uuid::try_parse(call.id.name()).is_ok() {
        return Ok(());
    }
    Err(errors::invalid(
        "roleAssignmentName",
        format!(
            "The role assignment ID '{}' is not valid. The role assignment ID must be a GUID.",
            call.id.name()
        ),
    ))
}

/// The assignment that path and body ask for.
fn asked(call: &Call, given: &Map<String, Value>) -> Result<Assignment, ArmError> {
    let text = |key: &str| {
        let value = given.get(key).and_then(Value::as_str);
        value.ok_or_else(|| {
            let target = format!("properties.{key}");
            errors::invalid(
                &target,
                format!("Required parameter '{target}' is missing."),
            )
        })
    };
    if given.get("condition").is_some_and(|value| !value.is_null()) {
        return Err(errors::invalid(
            "properties.condition",
            "Conditions are not evaluated here, so an assignment that has one would give more than it says.",
        ));
    }
    let principal: PrincipalId =
        text("principalId")?
            .parse()
            .map_err(|error: wire::IdKindError| {
                errors::invalid("properties.principalId", error.to_string())
            })?;
    Ok(Assignment {
        tenant: call.permit.tenant(),
        principal,
        role: RoleId::new(text("roleDefinitionId")?),
        scope: call.id.parent().unwrap_or_else(ResourceId::root),
    })
}

fn description(given: &Map<String, Value>) -> Result<Option<String>, ArmError> {
    match given.get("description") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.len() <= DESCRIPTION_MAX => Ok(Some(text.clone())),
        Some(_) => Err(errors::invalid(
            "properties.description",
            format!("The description is a text of at most {DESCRIPTION_MAX} bytes."),
        )),
    }
}

/// Whoever is given a role is in the directory, and is what the client takes it for.
async fn principal_kind(
    server: &Server,
    call: &Call,
    asked: &Assignment,
    given: &Map<String, Value>,
) -> Result<ObjectKind, ArmError> {
    let (tenant, principal) = (call.permit.tenant(), asked.principal);
    let found = server.auth.object(tenant, principal).await;
    let Some(object) = found.map_err(errors::catalog)? else {
        return Err(ArmError::new(
            ErrorCode::PrincipalNotFound,
            format!(
                "Principal {} does not exist in the directory {tenant}. Check that you have the correct principal ID.",
                principal.to_string().replace('-', "")
            ),
        ));
    };
    let said = given.get("principalType").and_then(Value::as_str);
    match said.filter(|said| !said.eq_ignore_ascii_case(object.kind.as_str())) {
        None => Ok(object.kind),
        Some(said) => Err(ArmError::new(
            ErrorCode::UnmatchedPrincipalType,
            format!(
                "The PrincipalId '{}' has type '{}', which is different from specified PrincipalType '{}'.",
                principal.to_string().replace('-', ""),
                object.kind.as_str(),
                said.chars().take(40).collect::<String>()
            ),
        )),
    }
}

/// As Azure shows it at a scope: the definition's id is that of the subscription that is asked.
fn shown(seen_from: &ResourceId, resource: &Resource) -> Value {
    let mut inside = Value::Object(properties(resource));
    let role = inside["roleDefinitionId"].as_str().map(RoleId::new);
    if let Some(role) = role {
        inside["roleDefinitionId"] = definition_id(seen_from, role.as_str()).into();
    }
    written(resource, &mut inside);
    for absent in [
        "condition",
        "conditionVersion",
        "delegatedManagedIdentityResourceId",
    ] {
        inside[absent] = Value::Null;
    }
    json!({
        "id": resource.id.to_string(),
        "type": ASSIGNMENT,
        "name": resource.id.name(),
        "properties": inside,
    })
}

pub async fn get(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    Ok(Reply::ok(shown(&call.id, &need(&server, &call).await?)))
}

/// Answers with what was removed: az reads it.
pub async fn remove(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let Some(old) = find(&server, &call).await? else {
        return Ok(Reply::no_content());
    };
    let removed = delete(&server, &call).await?;
    if removed.status == StatusCode::OK {
        return Ok(Reply::ok(shown(&call.id, &old)));
    }
    Ok(removed)
}

/// At the scope, above it and, unless the filter says otherwise, below it.
pub async fn all(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let filter = Filter::of(&call, &[])?;
    let seen_from = call.id.clone();
    let show = |one: &Resource| Some(shown(&seen_from, one));
    match filter.principals(&server, &call).await? {
        None => list_held(&server, &call, ASSIGNMENT, &filter, show).await,
        Some(principals) => of_principals(&server, &call, &filter, &principals, show).await,
    }
}

/// Those of some principals are found by them, however many others there are.
async fn of_principals(
    server: &Server,
    call: &Call,
    filter: &Filter,
    principals: &[PrincipalId],
    show: impl Fn(&Resource) -> Option<Value>,
) -> Result<Reply, ArmError> {
    let tenant = call.permit.tenant();
    let found = server.auth.assigned(tenant, principals).await;
    let above = match call.permit.visible() {
        access::Visible::All => above(server, call).await?,
        access::Visible::Only(_) => Vec::new(),
    };
    let mut value = Vec::new();
    for id in found.map_err(errors::catalog)? {
        let Some(scope) = id.parent() else { continue };
        let below = !filter.at_scope && call.permit.may_see(&id);
        if !below && scope != call.id && !above.contains(&scope) {
            continue;
        }
        match server.catalog.get(&looking(id, tenant)).await {
            Ok(resource) => value.extend(show(&resource)),
            // Withdrawn while we looked.
            Err(CatalogError::NotFound { .. }) => {}
            Err(error) => return Err(errors::catalog(error)),
        }
    }
    Ok(page_reply(call, value, None))
}
