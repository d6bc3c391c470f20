//! `Microsoft.Authorization/roleDefinitions`: the built-in roles, and a tenant's own.
//!
//! A custom role belongs to its tenant and can be assigned at its assignable scopes and below them. It is written by
//! whoever may write role definitions at every one of those, before and after.

use std::sync::Arc;

use access::{Permissions, Permit, RoleDefinition, RoleId, built_in_role, built_in_roles};
use catalog::{CatalogError, Draft, Precondition, Record, Resource, UniqueKey};
use serde_json::{Map, Value, json};
use uuid::Uuid;
use wire::{ArmError, ErrorCode, ResourceId};

use super::{DEFINITION, Filter, above, definition_id, operations, written};
use crate::body::{ResourceBody, typed};
use crate::errors;
use crate::hierarchy::{every, looking};
use crate::operation::{Call, Link};
use crate::resources::{Reply, properties, put_reply_of};
use crate::state::Server;

const WRITE: &str = "Microsoft.Authorization/roleDefinitions/write";
const DELETE: &str = "Microsoft.Authorization/roleDefinitions/delete";
const SCOPES: &str = "properties.assignableScopes";
/// When the built-in roles were written down, for clients that need a time.
const DEFINED: &str = "2026-11-01T00:00:00Z";
/// As Azure limits them.
const CUSTOM_MAX: usize = 5000;
const NAME_CHARS_MAX: usize = 128;
const DESCRIPTION_CHARS_MAX: usize = 2048;
const SCOPES_MAX: usize = 30;
const PERMISSIONS_MAX: usize = 10;
const ACTIONS_MAX: usize = 2000;

/// The assignable scopes: a role is written by whoever may write it at all of them.
pub fn links(body: &Value) -> Vec<Link> {
    let scopes = body.pointer("/properties/assignableScopes");
    let scopes = scopes.and_then(Value::as_array).into_iter().flatten();
    scopes
        .filter_map(Value::as_str)
        .map(|scope| Link {
            scope: scope.to_string(),
            action: WRITE,
            target: SCOPES,
        })
        .collect()
}

pub async fn put(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let guid = check_name(&call)?;
    let body = ResourceBody::parse(&call.body, &call.id)?;
    let asked = Asked::of(&call, &body.properties)?;
    let permit = at_root(&call)?;
    let old = stored(&server, &permit).await?;
    for scope in old.iter().flat_map(scopes_of) {
        server.right_of(&call.permit, WRITE, &scope).await?;
    }
    check_room(&server, &call, old.as_ref(), &asked).await?;
    let tenant = call.permit.tenant().to_string();
    let key = [tenant.as_str(), &asked.name.to_lowercase()];
    let draft = Draft::new(json!({
        "roleName": asked.name,
        "type": "CustomRole",
        "description": asked.description,
        "assignableScopes": asked.scopes.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "permissions": asked.permissions,
    }))
    .unique(UniqueKey::new("role-definition", &key))
    .record(Record::RoleDefinition {
        role: RoleId::new(&guid),
        permissions: asked.permissions,
    });
    call.preconditions.check(old.as_ref())?;
    let seen = match &old {
        Some(old) => Precondition::Match(old.etag.clone()),
        None => Precondition::Absent,
    };
    match server.catalog.put(&permit, draft, seen).await {
        Ok(put) => Ok(put_reply_of(true, shown_custom(&call.id, &put.resource))),
        Err(CatalogError::Taken { .. }) => Err(same_name()),
        Err(error) => Err(errors::catalog(error)),
    }
}

struct Asked {
    name: String,
    description: String,
    scopes: Vec<ResourceId>,
    permissions: Vec<Permissions>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Given {
    role_name: Option<String>,
    description: Option<String>,
    #[serde(default)]
    assignable_scopes: Vec<String>,
    #[serde(default)]
    permissions: Vec<Permissions>,
}

impl Asked {
    fn of(call: &Call, properties: &Map<String, Value>) -> Result<Asked, ArmError> {
        let given: Given = typed(properties)?;
        let name = given.role_name.unwrap_or_default().trim().to_string();
        if name.is_empty() || name.chars().count() > NAME_CHARS_MAX {
            return Err(errors::invalid(
                "properties.roleName",
                format!("The role name has 1 to {NAME_CHARS_MAX} characters."),
            ));
        }
        let description = given.description.unwrap_or_default();
        if description.chars().count() > DESCRIPTION_CHARS_MAX {
            return Err(errors::invalid(
                "properties.description",
                format!("The description has at most {DESCRIPTION_CHARS_MAX} characters."),
            ));
        }
        check_permissions(&given.permissions)?;
        Ok(Asked {
            name,
            description,
            scopes: scopes(call, &given.assignable_scopes)?,
            permissions: given.permissions,
        })
    }
}

/// The caller's right at each is there: the row's links saw to it, in the order of the body.
fn scopes(call: &Call, given: &[String]) -> Result<Vec<ResourceId>, ArmError> {
    let fit = |text: &String| {
        let scope = ResourceId::parse(text).ok()?;
        let place = scope.subscription().is_some() || scope.management_group().is_some();
        place.then_some(scope)
    };
    let scopes: Vec<ResourceId> = given.iter().filter_map(fit).collect();
    let foreign = call
        .links
        .iter()
        .any(|link| link.tenant() != call.permit.tenant());
    let complete = scopes.len() == given.len() && scopes.len() == call.links.len();
    if scopes.is_empty() || scopes.len() > SCOPES_MAX || !complete || foreign {
        return Err(ArmError::new(
            ErrorCode::InvalidScope,
            format!(
                "A custom role has 1 to {SCOPES_MAX} assignable scopes: management groups, subscriptions, resource groups or resources of its tenant."
            ),
        )
        .with_target(SCOPES));
    }
    Ok(scopes)
}

fn check_permissions(permissions: &[Permissions]) -> Result<(), ArmError> {
    const TARGET: &str = "properties.permissions";
    let lists = |one: &Permissions| {
        let data = one.data_actions.len() + one.not_data_actions.len();
        one.actions.len() + one.not_actions.len() + data
    };
    let all: usize = permissions.iter().map(lists).sum();
    if permissions.is_empty() || permissions.len() > PERMISSIONS_MAX || all > ACTIONS_MAX {
        return Err(errors::invalid(
            TARGET,
            format!(
                "A role has 1 to {PERMISSIONS_MAX} permissions with at most {ACTIONS_MAX} actions."
            ),
        ));
    }
    for one in permissions {
        for action in one.actions.iter().chain(&one.not_actions) {
            if !operations::is_known(action) {
                return Err(unknown_action(action));
            }
        }
        // Nothing here is a data operation; those of Azure may be named.
        for action in one.data_actions.iter().chain(&one.not_data_actions) {
            if action != "*" && !action.to_lowercase().starts_with("microsoft.") {
                return Err(unknown_action(action));
            }
        }
    }
    Ok(())
}

fn unknown_action(action: &str) -> ArmError {
    let action: String = action.chars().take(200).collect();
    ArmError::new(
        ErrorCode::InvalidActionOrNotAction,
        format!("'{action}' does not match any of the actions supported by the providers."),
    )
}

fn check_name(call: &Call) -> Result<String, ArmError> {
    let name = call.id.name();
    let Ok(guid) = Uuid::try_parse(name) else {
        return Err(errors::invalid(
            "roleDefinitionId",
            format!("The role definition ID '{name}' is not valid. It must be a GUID."),
        ));
    };
    if built_in_role(&RoleId::new(name)).is_some() {
        return Err(built_in());
    }
    Ok(guid.to_string())
}

fn built_in() -> ArmError {
    ArmError::new(
        ErrorCode::RoleDefinitionUpdateNotPermitted,
        "Built-in roles cannot be changed or deleted.",
    )
}

fn same_name() -> ArmError {
    ArmError::new(
        ErrorCode::RoleDefinitionWithSameNameExists,
        "A custom role with the same name already exists in this directory. Use a different name.",
    )
}

async fn check_room(
    server: &Server,
    call: &Call,
    old: Option<&Resource>,
    asked: &Asked,
) -> Result<(), ArmError> {
    let taken = built_in_roles()
        .iter()
        .any(|role| role.name.eq_ignore_ascii_case(&asked.name));
    if taken {
        return Err(same_name());
    }
    if old.is_none() && custom(server, call).await?.len() >= CUSTOM_MAX {
        return Err(ArmError::new(
            ErrorCode::RoleDefinitionLimitExceeded,
            format!(
                "Role definition limit exceeded. No more than {CUSTOM_MAX} role definitions can be created."
            ),
        ));
    }
    Ok(())
}

/// The call's right, at the one place where the tenant keeps the definition.
fn at_root(call: &Call) -> Result<Permit, ArmError> {
    let permit = call.permit.to_role_definition();
    permit.ok_or_else(|| errors::bad_request("The path names no role definition."))
}

async fn stored(server: &Server, permit: &Permit) -> Result<Option<Resource>, ArmError> {
    match server.catalog.get(&permit.to_read_own()).await {
        Ok(found) => Ok(Some(found)),
        Err(CatalogError::NotFound { .. }) => Ok(None),
        Err(error) => Err(errors::catalog(error)),
    }
}

async fn custom(server: &Server, call: &Call) -> Result<Vec<Resource>, ArmError> {
    let permit = looking(ResourceId::root(), call.permit.tenant());
    every(server, &permit, DEFINITION).await
}

fn scopes_of(definition: &Resource) -> Vec<ResourceId> {
    let listed = definition.properties["assignableScopes"].as_array();
    let texts = listed.into_iter().flatten().filter_map(Value::as_str);
    texts
        .filter_map(|text| ResourceId::parse(text).ok())
        .collect()
}

/// Whether a role can be assigned at a scope: from where it cannot, it is not there.
pub async fn need_assignable(
    server: &Server,
    call: &Call,
    role: &RoleId,
    scope: &ResourceId,
) -> Result<(), ArmError> {
    if built_in_role(role).is_some() {
        return Ok(());
    }
    let id =
        ResourceId::root().extension("Microsoft.Authorization", "roleDefinitions", role.as_str());
    let found = match id {
        Ok(id) => {
            let permit = looking(id, call.permit.tenant());
            stored(server, &permit).await?
        }
        Err(_) => None,
    };
    if let Some(found) = found {
        let mut line = above(server, call).await?;
        line.push(scope.clone());
        if scopes_of(&found).iter().any(|one| line.contains(one)) {
            return Ok(());
        }
    }
    Err(ArmError::new(
        ErrorCode::RoleDefinitionDoesNotExist,
        format!(
            "The specified role definition with ID '{}' does not exist.",
            role.as_str()
        ),
    ))
}

pub async fn remove(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    if built_in_role(&RoleId::new(call.id.name())).is_some() {
        return Err(built_in());
    }
    let permit = at_root(&call)?;
    let Some(old) = stored(&server, &permit).await? else {
        return Ok(Reply::no_content());
    };
    for scope in scopes_of(&old) {
        server.right_of(&call.permit, DELETE, &scope).await?;
    }
    call.preconditions.check(Some(&old))?;
    match server.catalog.delete(&permit, Precondition::None).await {
        Ok(old) => Ok(Reply::ok(shown_custom(&call.id, &old))),
        Err(CatalogError::NotFound { .. }) => Ok(Reply::no_content()),
        Err(CatalogError::HasChildren { .. }) => Err(ArmError::new(
            ErrorCode::RoleDefinitionHasAssignments,
            "There are existing role assignments referencing role (code: RoleDefinitionHasAssignments). Remove them first.",
        )),
        Err(error) => Err(errors::catalog(error)),
    }
}

fn shown_built_in(seen_from: &ResourceId, role: &RoleDefinition) -> Value {
    json!({
        "id": definition_id(seen_from, role.guid),
        "type": DEFINITION,
        "name": role.guid,
        "properties": {
            "roleName": role.name,
            "type": "BuiltInRole",
            "description": role.description,
            "assignableScopes": ["/"],
            "permissions": [role.permissions()],
            "createdOn": DEFINED,
            "updatedOn": DEFINED,
            "createdBy": null,
            "updatedBy": null,
        },
    })
}

fn shown_custom(seen_from: &ResourceId, definition: &Resource) -> Value {
    let mut inside = Value::Object(properties(definition));
    written(definition, &mut inside);
    json!({
        "id": definition_id(seen_from, definition.id.name()),
        "type": DEFINITION,
        "name": definition.id.name(),
        "properties": inside,
    })
}

pub async fn get(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    if let Some(role) = built_in_role(&RoleId::new(call.id.name())) {
        return Ok(Reply::ok(shown_built_in(&call.id, role)));
    }
    let line = above(&server, &call).await?;
    let near = |scope: &ResourceId| {
        let below = call.id.parent().is_some_and(|from| scope.is_within(&from));
        below || line.contains(scope)
    };
    let found = stored(&server, &at_root(&call)?).await?;
    match found.filter(|found| scopes_of(found).iter().any(near)) {
        Some(found) => Ok(Reply::ok(shown_custom(&call.id, &found))),
        None => Err(ArmError::new(
            ErrorCode::RoleDefinitionDoesNotExist,
            format!(
                "The specified role definition with ID '{}' does not exist.",
                call.id.name()
            ),
        )),
    }
}

/// The roles that can be assigned at the scope; at the tenant's root all of them.
pub async fn all(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let filter = Filter::of(&call, &["rolename", "type"])?;
    let wanted = |name: &str, kind: &str| {
        filter
            .members
            .iter()
            .all(|(key, value)| match key.as_str() {
                "rolename" => name.eq_ignore_ascii_case(value),
                _ => kind.eq_ignore_ascii_case(value),
            })
    };
    let mut value: Vec<Value> = built_in_roles()
        .iter()
        .filter(|role| wanted(role.name, "BuiltInRole"))
        .map(|role| shown_built_in(&call.id, role))
        .collect();
    let mut line = above(&server, &call).await?;
    line.push(call.id.clone());
    for one in custom(&server, &call).await? {
        let name = one.properties["roleName"].as_str().unwrap_or_default();
        let scopes = scopes_of(&one);
        let here = call.id.is_root() || scopes.iter().any(|scope| line.contains(scope));
        if here && wanted(name, "CustomRole") {
            value.push(shown_custom(&call.id, &one));
        }
    }
    Ok(Reply::ok(json!({ "value": value })))
}
