//! `Microsoft.Authorization/denyAssignments`: what is taken away at a scope from whoever roles gave it to.
//!
//! Written as Azure's user-assigned ones: for everybody but somebody, or for named principals; changes only, never
//! reads, so that whoever is kept out of a thing can still see why.

use std::sync::Arc;

use access::{Denial, Denied, Permissions};
use catalog::{Draft, ObjectKind, Record, Resource};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use uuid::Uuid;
use wire::{ArmError, ErrorCode, PrincipalId, ResourceId};

use super::{DENIAL, Filter, list_held, operations, written};
use crate::body::{ResourceBody, typed};
use crate::errors;
use crate::operation::Call;
use crate::resources::{Reply, delete, find, need, properties, put_reply_of, store};
use crate::state::Server;

const EVERYONE: &str = "00000000-0000-0000-0000-000000000000";
const NAME_CHARS_MAX: usize = 128;
const PRINCIPALS_MAX: usize = 100;
const PERMISSIONS_MAX: usize = 10;
const ACTIONS_MAX: usize = 500;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Given {
    deny_assignment_name: Option<String>,
    description: Option<String>,
    #[serde(default)]
    permissions: Vec<Permissions>,
    #[serde(default)]
    principals: Vec<Principal>,
    #[serde(default)]
    exclude_principals: Vec<Principal>,
    do_not_apply_to_child_scopes: Option<bool>,
}

#[derive(Deserialize)]
struct Principal {
    id: String,
}

pub async fn put(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    if Uuid::try_parse(call.id.name()).is_err() {
        let message = "The deny assignment ID must be a GUID.";
        return Err(errors::invalid("denyAssignmentId", message));
    }
    let body = ResourceBody::parse(&call.body, &call.id)?;
    let given: Given = typed(&body.properties)?;
    let denial = asked(&server, &call, &given).await?;
    let old = find(&server, &call).await?;
    let stored = stored(&server, &call, &denial, given.description).await?;
    let draft = Draft::new(stored).record(Record::DenyAssignment(denial));
    let put = store(&server, &call, old.as_ref(), draft).await?;
    Ok(put_reply_of(put.created, shown(&put.resource)))
}

async fn asked(server: &Server, call: &Call, given: &Given) -> Result<Denial, ArmError> {
    let name = given.deny_assignment_name.clone().unwrap_or_default();
    if name.trim().is_empty() || name.chars().count() > NAME_CHARS_MAX {
        let message = format!("The name has 1 to {NAME_CHARS_MAX} characters.");
        return Err(errors::invalid("properties.denyAssignmentName", message));
    }
    check_permissions(&given.permissions)?;
    let everyone = given.principals.iter().any(|one| one.id == EVERYONE);
    let except = principals(server, call, &given.exclude_principals).await?;
    let denied = match everyone {
        true => Denied::Everyone,
        false => Denied::These(principals(server, call, &given.principals).await?),
    };
    let wrong = match &denied {
        Denied::Everyone => given.principals.len() > 1 || except.is_empty(),
        Denied::These(these) => these.is_empty(),
    };
    if wrong {
        return Err(errors::invalid(
            "properties.principals",
            "A deny assignment names the principals that it is for, or everyone but at least one who is excluded.",
        ));
    }
    Ok(Denial {
        id: call.id.clone(),
        name,
        scope: call.id.parent().unwrap_or_else(ResourceId::root),
        permissions: given.permissions.clone(),
        denied,
        except,
        here_only: given.do_not_apply_to_child_scopes == Some(true),
    })
}

fn check_permissions(permissions: &[Permissions]) -> Result<(), ArmError> {
    const TARGET: &str = "properties.permissions";
    let count: usize = permissions
        .iter()
        .map(|one| one.actions.len() + one.not_actions.len())
        .sum();
    let none = permissions.iter().any(|one| one.actions.is_empty());
    if permissions.is_empty() || permissions.len() > PERMISSIONS_MAX || none || count > ACTIONS_MAX
    {
        let message = format!(
            "A deny assignment has 1 to {PERMISSIONS_MAX} permissions, each with at least one action, and at most {ACTIONS_MAX} actions in all."
        );
        return Err(errors::invalid(TARGET, message));
    }
    for one in permissions {
        if !one.data_actions.is_empty() || !one.not_data_actions.is_empty() {
            let message = "DataActions and NotDataActions are not supported in deny assignments.";
            return Err(errors::invalid(TARGET, message));
        }
        for action in one.actions.iter().chain(&one.not_actions) {
            if action.to_lowercase().ends_with("/read") {
                let message =
                    format!("Read actions are not permitted in deny assignments: '{action}'.");
                return Err(errors::invalid(TARGET, message));
            }
            if !operations::is_known(action) {
                return Err(ArmError::new(
                    ErrorCode::InvalidActionOrNotAction,
                    format!(
                        "'{action}' does not match any of the actions supported by the providers."
                    ),
                ));
            }
        }
    }
    Ok(())
}

/// Everybody named is in the directory: a slip in an id would deny nobody, or except nobody.
async fn principals(
    server: &Server,
    call: &Call,
    given: &[Principal],
) -> Result<Vec<PrincipalId>, ArmError> {
    if given.len() > PRINCIPALS_MAX {
        let message = format!("At most {PRINCIPALS_MAX} principals can be named.");
        return Err(errors::invalid("properties.principals", message));
    }
    let mut named = Vec::with_capacity(given.len());
    for Principal { id } in given {
        let unknown = || {
            let id: String = id.chars().take(80).collect();
            ArmError::new(
                ErrorCode::PrincipalNotFound,
                format!("Principal {id} does not exist in the directory."),
            )
        };
        let principal: PrincipalId = id.parse().map_err(|_| unknown())?;
        let found = server.auth.object(call.permit.tenant(), principal).await;
        found.map_err(errors::catalog)?.ok_or_else(unknown)?;
        named.push(principal);
    }
    Ok(named)
}

async fn stored(
    server: &Server,
    call: &Call,
    denial: &Denial,
    description: Option<String>,
) -> Result<Value, ArmError> {
    let principals = match &denial.denied {
        Denied::Everyone => json!([{ "id": EVERYONE, "type": "SystemDefined" }]),
        Denied::These(these) => shown_principals(server, call, these).await?,
    };
    Ok(json!({
        "denyAssignmentName": denial.name,
        "description": description.unwrap_or_default(),
        "permissions": denial.permissions,
        "scope": denial.scope.to_string(),
        "doNotApplyToChildScopes": denial.here_only,
        "principals": principals,
        "excludePrincipals": shown_principals(server, call, &denial.except).await?,
        "isSystemProtected": false,
    }))
}

async fn shown_principals(
    server: &Server,
    call: &Call,
    named: &[PrincipalId],
) -> Result<Value, ArmError> {
    let mut shown = Vec::with_capacity(named.len());
    for principal in named {
        let object = server.auth.object(call.permit.tenant(), *principal).await;
        let kind = object.map_err(errors::catalog)?.map(|object| object.kind);
        let kind = kind.unwrap_or(ObjectKind::ServicePrincipal);
        shown.push(json!({ "id": principal, "type": kind.as_str() }));
    }
    Ok(shown.into())
}

fn shown(resource: &Resource) -> Value {
    let mut inside = Value::Object(properties(resource));
    written(resource, &mut inside);
    json!({
        "id": resource.id.to_string(),
        "type": DENIAL,
        "name": resource.id.name(),
        "properties": inside,
    })
}

pub async fn get(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    Ok(Reply::ok(shown(&need(&server, &call).await?)))
}

pub async fn remove(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let removed = delete(&server, &call).await?;
    match removed.status {
        StatusCode::OK => Ok(Reply::no_content()),
        _ => Ok(removed),
    }
}

/// At the scope, above it and, unless the filter says otherwise, below it.
pub async fn all(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let filter = Filter::of(&call, &["denyassignmentname"])?;
    let wanted = filter.principals(&server, &call).await?;
    let fits = |inside: &Map<String, Value>| {
        let name = inside.get("denyAssignmentName").and_then(Value::as_str);
        let named = filter
            .members
            .iter()
            .all(|(_, value)| name.is_some_and(|name| name.eq_ignore_ascii_case(value)));
        let listed = inside.get("principals").and_then(Value::as_array);
        let meant = wanted.as_ref().is_none_or(|wanted| {
            listed.into_iter().flatten().any(|one| {
                let id = one["id"].as_str().unwrap_or_default();
                wanted.iter().any(|principal| principal.to_string() == id)
            })
        });
        named && meant
    };
    let show = |one: &Resource| fits(&properties(one)).then(|| shown(one));
    list_held(&server, &call, DENIAL, &filter, show).await
}
