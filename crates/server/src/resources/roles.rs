//! `Microsoft.Authorization`: role definitions (the built-in ones) and role assignments at any scope.

use std::sync::Arc;

use access::{Assignment, RoleDefinition, RoleId, built_in_role, built_in_roles};
use catalog::{Draft, Record, UniqueKey};
use http::StatusCode;
use serde_json::{Value, json};
use uuid::Uuid;
use wire::{ArmError, ErrorCode, PrincipalId, ResourceId};

use super::{Reply, delete, find, list, present, properties, put_reply, show, store_unique};
use crate::body::ResourceBody;
use crate::errors;
use crate::operation::Call;
use crate::state::Server;

pub const ASSIGNMENT: &str = "Microsoft.Authorization/roleAssignments";
pub const DEFINITION: &str = "Microsoft.Authorization/roleDefinitions";
/// When the built-in roles were written down, for clients that need a time.
const DEFINED: &str = "2026-11-01T00:00:00Z";

pub async fn put(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let assignment = asked(&call)?;
    let stored = json!({
        "roleDefinitionId": definition_id(&assignment.scope, assignment.role.as_str()),
        "principalId": assignment.principal.to_string(),
        "principalType": "ServicePrincipal",
        "scope": assignment.scope.to_string(),
    });
    if let Some(old) = find(&server, &call).await? {
        let same = |key: &str| properties(&old).get(key) == stored.get(key);
        if same("principalId") && same("roleDefinitionId") {
            return Ok(Reply::ok(present(&old)));
        }
        return Err(errors::conflict(
            "RoleAssignmentUpdateNotPermitted: Tenant ID, application ID, principal ID, and scope are \
             not allowed to be updated.",
        ));
    }
    let tenant = assignment.tenant.to_string();
    let principal = assignment.principal.to_string();
    let key = [
        assignment.scope.folded(),
        &principal,
        assignment.role.as_str(),
        &tenant,
    ];
    let draft = Draft::new(stored)
        .unique(UniqueKey::new("role-assignment", &key))
        .record(Record::RoleAssignment(assignment.clone()));
    let taken = "RoleAssignmentExists: The role assignment already exists.";
    let put = store_unique(&server, &call, None, draft, taken).await?;
    Ok(put_reply(&put))
}

/// The assignment that path and body ask for, checked.
fn asked(call: &Call) -> Result<Assignment, ArmError> {
    if Uuid::try_parse(call.id.name()).is_err() {
        return Err(errors::invalid(
            "roleAssignmentName",
            format!(
                "The role assignment ID '{}' is not valid: a GUID is expected.",
                call.id.name()
            ),
        ));
    }
    let body = ResourceBody::parse(&call.body, &call.id)?;
    let text = |key: &str| {
        let value = body.properties.get(key).and_then(Value::as_str);
        value.ok_or_else(|| {
            let target = format!("properties.{key}");
            errors::invalid(
                &target,
                format!("Required parameter '{target}' is missing."),
            )
        })
    };
    let role = RoleId::new(text("roleDefinitionId")?);
    if built_in_role(&role).is_none() {
        let message = format!(
            "RoleDefinitionDoesNotExist: the role definition '{}' does not exist.",
            role.as_str()
        );
        return Err(ArmError::new(ErrorCode::NotFound, message));
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
        role,
        scope: call.id.parent().unwrap_or_else(ResourceId::root),
    })
}

pub async fn get(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    show(&server, &call).await
}

/// Answers with what was removed: az reads it.
pub async fn remove(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let Some(old) = find(&server, &call).await? else {
        return Ok(Reply::no_content());
    };
    let removed = delete(&server, &call).await?;
    if removed.status == StatusCode::OK {
        return Ok(Reply::ok(present(&old)));
    }
    Ok(removed)
}

/// At the scope and below it; `principalId eq '…'` keeps one principal's.
pub async fn all(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let filter = call.query.get("$filter").unwrap_or_default().to_string();
    let principal = filter_value(&filter, "principalId");
    let at_scope = filter.to_lowercase().contains("atscope()");
    let scope = call.id.clone();
    list(&server, &call, ASSIGNMENT, move |one| {
        let held = one.properties.get("principalId").and_then(Value::as_str);
        let wanted = principal
            .as_deref()
            .is_none_or(|wanted| held == Some(wanted));
        let here = !at_scope || one.id.parent().is_some_and(|parent| parent == scope);
        (wanted && here).then(|| present(one))
    })
    .await
}

/// The value of `name eq 'value'` in a filter.
fn filter_value(filter: &str, name: &str) -> Option<String> {
    let (_, rest) = filter.split_once(&format!("{name} eq '"))?;
    rest.split_once('\'').map(|(value, _)| value.to_string())
}

fn definition_id(scope: &ResourceId, guid: &str) -> String {
    let subscription = scope.subscription();
    let prefix = subscription
        .map(|id| format!("/subscriptions/{id}"))
        .unwrap_or_default();
    format!("{prefix}/providers/{DEFINITION}/{guid}")
}

fn shown(scope: &ResourceId, role: &RoleDefinition) -> Value {
    json!({
        "id": definition_id(scope, role.guid),
        "type": DEFINITION,
        "name": role.guid,
        "properties": {
            "roleName": role.name,
            "type": "BuiltInRole",
            "description": role.description,
            "assignableScopes": ["/"],
            "permissions": [{
                "actions": role.permission.actions,
                "notActions": role.permission.not_actions,
                "dataActions": [],
                "notDataActions": [],
            }],
            "createdOn": DEFINED,
            "updatedOn": DEFINED,
            "createdBy": null,
            "updatedBy": null,
        },
    })
}

pub async fn definition(_server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    match built_in_role(&RoleId::new(call.id.name())) {
        Some(role) => Ok(Reply::ok(shown(&call.id, role))),
        None => Err(errors::not_found(&call.id)),
    }
}

pub async fn definitions(_server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let wanted = filter_value(call.query.get("$filter").unwrap_or_default(), "roleName");
    let named = |role: &&RoleDefinition| wanted.as_deref().is_none_or(|name| role.name == name);
    let value: Vec<Value> = built_in_roles()
        .iter()
        .filter(named)
        .map(|role| shown(&call.id, role))
        .collect();
    Ok(Reply::ok(json!({ "value": value })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters() {
        let check = |filter: &str, expected: Option<&str>| {
            assert_eq!(
                filter_value(filter, "roleName").as_deref(),
                expected,
                "{filter}"
            );
        };
        check("roleName eq 'Reader'", Some("Reader"));
        check("atScope() and roleName eq 'Reader' and x", Some("Reader"));
        check("roleName eq 'Reader", None);
        check("", None);
    }
}
