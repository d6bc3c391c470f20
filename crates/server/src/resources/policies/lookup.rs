//! What policy objects name each other by: definitions, initiatives and assignments, found by id, and whether they
//! lie where they may be used.

use serde_json::Value;
use wire::{ArmError, ErrorCode, ResourceId, TenantId};

use super::{ASSIGNMENT, DEFINITION, SET, shown};
use crate::errors;
use crate::hierarchy::{Hierarchy, every, looking};
use crate::state::Server;
use catalog::{CatalogError, Resource};

/// A definition or an initiative, whole, as ARM shows it.
pub struct Found {
    pub id: ResourceId,
    pub document: Value,
}

impl Found {
    pub fn is_set(&self) -> bool {
        self.id.resource_type().is(SET)
    }

    /// "policy definition" or "policy set definition", for messages.
    pub fn noun(&self) -> &'static str {
        if self.is_set() {
            "policy set definition"
        } else {
            "policy definition"
        }
    }
}

fn built_in(id: &ResourceId) -> Option<&'static Value> {
    let all = comply::built_in_definitions().iter();
    all.chain(comply::built_in_initiatives()).find(|one| {
        let own = one["id"].as_str().unwrap_or_default();
        own.eq_ignore_ascii_case(id.folded())
    })
}

pub fn built_in_named(kind: &str, name: &str) -> Option<&'static Value> {
    let id = ResourceId::root().extension("Microsoft.Authorization", last(kind), name);
    built_in(&id.ok()?)
}

fn last(kind: &str) -> &str {
    kind.rsplit('/').next().unwrap_or_default()
}

/// The definition or initiative of this id, if it is there and may be used at `scope`: it is built in, or lies at
/// the scope or above it.
pub async fn usable(
    server: &Server,
    tenant: TenantId,
    hierarchy: &Hierarchy,
    id: &str,
    scope: &ResourceId,
) -> Result<Option<Found>, ArmError> {
    let Some(id) = definition_id(id) else {
        return Ok(None);
    };
    if let Some(document) = built_in(&id) {
        let document = document.clone();
        return Ok(Some(Found { id, document }));
    }
    let home = id.parent().unwrap_or_else(ResourceId::root);
    let above = hierarchy.at_or_above(scope).contains(&home);
    if !above {
        return Ok(None);
    }
    let found = get(server, tenant, &id).await?;
    Ok(found.map(|resource| Found {
        document: shown(&resource),
        id,
    }))
}

/// The id, if it is one of a definition or an initiative.
pub fn definition_id(text: &str) -> Option<ResourceId> {
    let id = ResourceId::parse(text).ok()?;
    let kind = id.resource_type();
    (kind.is(DEFINITION) || kind.is(SET)).then_some(id)
}

async fn get(
    server: &Server,
    tenant: TenantId,
    id: &ResourceId,
) -> Result<Option<Resource>, ArmError> {
    match server.catalog.get(&looking(id.clone(), tenant)).await {
        Ok(resource) => Ok(Some(resource)),
        Err(CatalogError::NotFound { .. }) => Ok(None),
        Err(error) => Err(errors::catalog(error)),
    }
}

/// The assignment that an exemption or attestation is of. It must hold at `scope`.
pub async fn assignment(
    server: &Server,
    tenant: TenantId,
    hierarchy: &Hierarchy,
    id: &str,
    scope: &ResourceId,
) -> Result<Resource, ArmError> {
    let missing = || {
        let name: String = last(id).chars().take(200).collect();
        super::not_found(ErrorCode::PolicyAssignmentNotFound, &name)
    };
    let parsed = ResourceId::parse(id).ok();
    let parsed = parsed.filter(|id| id.resource_type().is(ASSIGNMENT));
    let parsed = parsed.ok_or_else(missing)?;
    let home = parsed.parent().unwrap_or_else(ResourceId::root);
    if !hierarchy.at_or_above(scope).contains(&home) {
        return Err(missing());
    }
    get(server, tenant, &parsed).await?.ok_or_else(missing)
}

/// Assignments and initiatives of the tenant that name the definition.
pub async fn users(
    server: &Server,
    tenant: TenantId,
    id: &ResourceId,
) -> Result<Vec<Resource>, ArmError> {
    let permit = looking(ResourceId::root(), tenant);
    let names =
        |text: Option<&str>| text.is_some_and(|text| definition_id(text).as_ref() == Some(id));
    let mut users = every(server, &permit, ASSIGNMENT).await?;
    users.retain(|one| names(one.properties["policyDefinitionId"].as_str()));
    if id.resource_type().is(DEFINITION) {
        let mut sets = every(server, &permit, SET).await?;
        sets.retain(|set| {
            let members = set.properties["policyDefinitions"].as_array();
            let mut members = members.into_iter().flatten();
            members.any(|member| names(member["policyDefinitionId"].as_str()))
        });
        users.extend(sets);
    }
    Ok(users)
}
