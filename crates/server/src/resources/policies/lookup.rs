//! What policy objects name each other by: definitions, initiatives and assignments, found by id, and whether they
//! lie where they may be used.

use std::cmp::Reverse;

use policy::version::{Pattern, Version};
use serde_json::Value;
use wire::{ArmError, ErrorCode, ResourceId, TenantId};

use super::{ASSIGNMENT, DEFINITION, DEFINITION_VERSION, SET, SET_VERSION, shown};
use crate::errors;
use crate::hierarchy::{Hierarchy, every, looking};
use crate::state::Server;
use catalog::{CatalogError, Resource};

/// A definition or an initiative in one version, whole, as ARM shows it.
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

/// The same in all its versions, the newest first. There is at least one.
pub struct Family {
    pub id: ResourceId,
    pub documents: Vec<Value>,
}

impl Family {
    pub fn new(id: ResourceId, mut documents: Vec<Value>) -> Family {
        let number = |document: &Value| Version::parse(&number_of(document));
        documents.sort_by_cached_key(|document| Reverse(number(document)));
        Family { id, documents }
    }

    pub fn is_set(&self) -> bool {
        self.id.resource_type().is(SET)
    }

    pub fn latest(&self) -> String {
        self.documents
            .first()
            .map_or_else(|| FIRST_VERSION.to_owned(), number_of)
    }

    /// The newest that a pattern such as `1.*.*` means; without one, the newest of all. Nothing, if none does or it is
    /// no pattern.
    pub fn chosen(&self, version: Option<&str>) -> Option<Found> {
        let pattern = version.map(Pattern::parse).transpose().ok()?;
        let numbers = self.documents.iter();
        let numbers: Vec<Option<Version>> = numbers
            .map(|document| Version::parse(&number_of(document)))
            .collect();
        let at = policy::version::newest(&numbers, pattern.as_ref())?;
        Some(Found {
            id: self.id.clone(),
            document: self.documents.get(at)?.clone(),
        })
    }
}

/// What a definition counts as where its author says nothing.
pub const FIRST_VERSION: &str = "1.0.0";

/// The version that a document as ARM shows it has.
pub fn number_of(document: &Value) -> String {
    let version = document.pointer("/properties/version");
    let version = version.and_then(Value::as_str);
    version.unwrap_or(FIRST_VERSION).to_owned()
}

/// The type of the versions of a definition or an initiative.
pub fn versions_of(kind: &str) -> &'static str {
    match kind.eq_ignore_ascii_case(SET) {
        true => SET_VERSION,
        false => DEFINITION_VERSION,
    }
}

/// A definition with its earlier versions, from what is stored.
pub async fn family(server: &Server, own: &Resource) -> Result<Family, ArmError> {
    let permit = looking(own.id.clone(), own.tenant);
    let kind = versions_of(own.id.resource_type().as_str());
    let versions = every(server, &permit, kind).await?;
    Ok(family_of(own, &versions))
}

/// The same where the versions have been read; others' among them are left out.
pub fn family_of(own: &Resource, versions: &[Resource]) -> Family {
    let mut documents = vec![shown(own)];
    let current = number_of(&documents[0]);
    let earlier = versions.iter().filter(|version| {
        version.id.parent().as_ref() == Some(&own.id) && version.id.name() != current
    });
    documents.extend(earlier.map(shown));
    Family::new(own.id.clone(), documents)
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
) -> Result<Option<Family>, ArmError> {
    let Some(id) = definition_id(id) else {
        return Ok(None);
    };
    if let Some(document) = built_in(&id) {
        return Ok(Some(Family::new(id, vec![document.clone()])));
    }
    let home = id.parent().unwrap_or_else(ResourceId::root);
    let above = hierarchy.at_or_above(scope).contains(&home);
    if !above {
        return Ok(None);
    }
    match get(server, tenant, &id).await? {
        Some(resource) => Ok(Some(family(server, &resource).await?)),
        None => Ok(None),
    }
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
