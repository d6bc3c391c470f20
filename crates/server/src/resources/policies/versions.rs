//! Versions of definitions and initiatives. A definition is its newest version; the earlier ones are resources below it,
//! written before what takes their place, so that a stop in between loses none.

use std::sync::Arc;

use access::Permit;
use catalog::{CatalogError, Draft, Precondition, Put, Resource};
use http::StatusCode;
use policy::version::Version;
use serde_json::{Map, Value, json};
use wire::{ArmError, ResourceId};

use super::definitions::{Kind, check_version, settle};
use super::lookup::{self, FIRST_VERSION, Family, Found, number_of};
use super::parameters::{self, Giver};
use super::{Reply, SET, not_found, shown};
use crate::body::ResourceBody;
use crate::errors;
use crate::hierarchy::{Hierarchy, every, looking};
use crate::operation::Call;
use crate::resources::{find, page_reply, properties};
use crate::state::Server;

/// Versions of one definition.
const VERSIONS_MAX: usize = 100;

/// The definition as ARM shows it, with the numbers of all its versions.
pub fn whole(family: &Family) -> Value {
    let numbers: Vec<String> = family.documents.iter().map(number_of).collect();
    let mut whole = family.documents.first().cloned().unwrap_or_default();
    whole["properties"]["version"] = family.latest().into();
    whole["properties"]["versions"] = json!(numbers);
    whole
}

/// One version as ARM shows it, below its definition.
fn one(of: &ResourceId, document: &Value) -> Value {
    let number = number_of(document);
    let mut inside = document["properties"].clone();
    if let Some(inside) = inside.as_object_mut() {
        inside.remove("versions");
        inside.insert("version".into(), number.clone().into());
    }
    let mut shown = json!({
        "id": format!("{of}/versions/{number}"),
        "name": number,
        "type": format!("{}/versions", of.resource_type()),
        "properties": inside,
    });
    if let Some(system) = document.get("systemData") {
        shown["systemData"] = system.clone();
    }
    shown
}

fn number(resource: &Resource) -> Option<Version> {
    let version = resource.properties.get("version").and_then(Value::as_str);
    Version::parse(version.unwrap_or(FIRST_VERSION))
}

fn number_in(text: &Value) -> Option<Version> {
    text["version"].as_str().and_then(Version::parse)
}

/// Whether a text is of an earlier version than the definition is.
pub fn is_earlier(old: Option<&Resource>, text: &Value) -> bool {
    old.is_some_and(|old| number_in(text) < number(old))
}

/// Before a newer text takes the place of the definition's: that becomes a version of its own.
pub(super) async fn keep_earlier(
    server: &Server,
    call: &Call,
    kind: Kind,
    old: Option<&Resource>,
    text: &Value,
) -> Result<(), ArmError> {
    let Some(old) = old.filter(|old| number(old) != number_in(text)) else {
        return Ok(());
    };
    let family = lookup::family(server, old).await?;
    let known = text["version"].as_str().unwrap_or_default();
    let new = !family.documents.iter().any(|one| number_of(one) == known);
    if new && family.documents.len() >= VERSIONS_MAX {
        let message = format!(
            "The {} '{}' has {VERSIONS_MAX} versions, which is the most that there may be.",
            kind.noun(),
            old.id.name()
        );
        return Err(ArmError::new(kind.invalid(), message));
    }
    if is_earlier(Some(old), text) {
        return Ok(());
    }
    let mut inside = properties(old);
    inside.remove("versions");
    store(server, &call.permit, &old.id, Value::Object(inside))
        .await
        .map(drop)
}

/// Stores a text as a version below its definition.
pub(super) async fn store(
    server: &Server,
    permit: &Permit,
    home: &ResourceId,
    text: Value,
) -> Result<Put, ArmError> {
    let number = text["version"].as_str().unwrap_or(FIRST_VERSION);
    let permit = below(permit, home, number)?;
    let put = server
        .catalog
        .put(&permit, Draft::new(text), Precondition::None);
    put.await.map_err(errors::catalog)
}

fn below(permit: &Permit, home: &ResourceId, number: &str) -> Result<Permit, ArmError> {
    let id = ResourceId::parse(&format!("{home}/versions/{number}"))
        .map_err(|error| errors::internal("a version's id", &error))?;
    let own = permit.to_descendant(&id);
    own.ok_or_else(|| errors::not_found(&id))
}

/// A new text must not leave assignments and initiatives without a value that they would need, as far as it is the text
/// that they mean.
pub(super) async fn keeps_users(
    server: &Server,
    call: &Call,
    old: &Resource,
    document: &Value,
) -> Result<(), ArmError> {
    let mut family = lookup::family(server, old).await?;
    let own = number_of(document);
    family.documents.retain(|one| number_of(one) != own);
    family.documents.push(document.clone());
    let family = Family::new(old.id.clone(), family.documents);
    let means = |version: Option<&str>| {
        let found = family.chosen(version);
        found.filter(|found| number_of(&found.document) == own)
    };
    check_users(server, call, &old.id, &|version| match means(version) {
        Some(found) => Meant::Checked(found),
        None => Meant::Other,
    })
    .await
}

/// What a user's choice of a version comes to.
enum Meant {
    /// This text, for which its values must do.
    Checked(Found),
    /// Another, which was checked before.
    Other,
    /// Nothing is left for it.
    Nothing,
}

/// Whether all that name the definition find what they need, each by the versions that it means.
async fn check_users(
    server: &Server,
    call: &Call,
    id: &ResourceId,
    meant: &(impl Fn(Option<&str>) -> Meant + Sync),
) -> Result<(), ArmError> {
    for user in lookup::users(server, call.permit.tenant(), id).await? {
        let inside = properties(&user);
        if user.id.resource_type().is(SET) {
            let members = inside.get("policyDefinitions").and_then(Value::as_array);
            let named = members.into_iter().flatten().filter(|member| {
                let named = member["policyDefinitionId"].as_str().unwrap_or_default();
                lookup::definition_id(named).as_ref() == Some(id)
            });
            for member in named {
                let version = member["definitionVersion"].as_str();
                let giver = Giver::Set(user.id.name());
                check_user(id, giver, &user.id, &member["parameters"], meant(version))?;
            }
            continue;
        }
        let whole = shown(&user);
        let overrides = policy::scope::version_overrides(&whole);
        let overrides = overrides.filter(|entry| !policy::scope::of_members(entry));
        let overrides = overrides.map(|entry| entry["value"].as_str());
        let own = inside.get("definitionVersion").and_then(Value::as_str);
        let given = inside.get("parameters").unwrap_or(&Value::Null);
        for version in std::iter::once(own).chain(overrides) {
            let giver = Giver::Assignment(user.id.name());
            check_user(id, giver, &user.id, given, meant(version))?;
        }
    }
    Ok(())
}

fn check_user(
    id: &ResourceId,
    giver: Giver<'_>,
    user: &ResourceId,
    given: &Value,
    meant: Meant,
) -> Result<(), ArmError> {
    let empty = Map::new();
    match meant {
        Meant::Other => Ok(()),
        Meant::Checked(found) => {
            parameters::check(giver, given.as_object().unwrap_or(&empty), &found)
        }
        Meant::Nothing => {
            let kind = match id.resource_type().is(SET) {
                true => Kind::Set,
                false => Kind::Definition,
            };
            let message = format!(
                "The version of the {} '{}' cannot be deleted. It is the only one that '{user}' may use.",
                kind.noun(),
                id.name()
            );
            Err(ArmError::new(kind.undeletable(), message))
        }
    }
}

/// The definition itself, of a call that names one of its versions or all of them.
fn home(call: &Call) -> Result<ResourceId, ArmError> {
    let kind = Kind::of(call);
    let own = call.id.resource_type().is(kind.versions());
    let home = match own {
        true => call.id.parent(),
        false => Some(call.id.clone()),
    };
    home.ok_or_else(|| not_found(kind.missing(), call.id.name()))
}

async fn stored(server: &Server, call: &Call) -> Result<Option<Resource>, ArmError> {
    let permit = looking(home(call)?, call.permit.tenant());
    match server.catalog.get(&permit).await {
        Ok(resource) => Ok(Some(resource)),
        Err(CatalogError::NotFound { .. }) => Ok(None),
        Err(error) => Err(errors::catalog(error)),
    }
}

async fn family(server: &Server, call: &Call) -> Result<Family, ArmError> {
    let kind = Kind::of(call);
    let home = home(call)?;
    let rooted = home.parent().is_none_or(|scope| scope.is_root());
    let own = match rooted {
        true => None,
        false => stored(server, call).await?,
    };
    if let Some(own) = own {
        return lookup::family(server, &own).await;
    }
    // Clients ask for the versions of a built-in one at their subscription, too.
    let Some(document) = lookup::built_in_named(kind.type_name(), home.name()) else {
        return Err(not_found(kind.missing(), home.name()));
    };
    let id = document["id"].as_str().unwrap_or_default();
    let id = ResourceId::parse(id).map_err(|error| errors::internal("a built-in id", &error))?;
    Ok(Family::new(id, vec![document.clone()]))
}

pub async fn all(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let family = family(&server, &call).await?;
    let documents = family.documents.iter();
    let value = documents.map(|document| one(&family.id, document));
    Ok(page_reply(&call, value.collect(), None))
}

pub async fn get(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let family = family(&server, &call).await?;
    let wanted = call.id.name();
    let found = family.documents.iter().find(|one| number_of(one) == wanted);
    match found {
        Some(document) => Ok(Reply::ok(one(&family.id, document))),
        None => Err(not_found(Kind::of(&call).missing(), wanted)),
    }
}

pub async fn put(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let kind = Kind::of(&call);
    check_version(call.id.name(), kind, "policyDefinitionVersion")?;
    let mut body = ResourceBody::parse(&call.body, &call.id)?;
    let given = body
        .properties
        .get("version")
        .filter(|given| !given.is_null());
    if given.is_some_and(|given| given.as_str() != Some(call.id.name())) {
        let message = "The version in the request content does not match the one in the path.";
        return Err(ArmError::new(kind.invalid(), message).with_target("properties.version"));
    }
    let version = call.id.name().to_owned();
    body.properties
        .insert("version".into(), version.clone().into());
    let home = home(&call)?;
    let Some(old) = stored(&server, &call).await? else {
        return Err(not_found(kind.missing(), home.name()));
    };
    let before = lookup::family(&server, &old).await?;
    let known = before.documents.iter().any(|one| number_of(one) == version);
    let text = settle(&server, &call, &home, kind, body.properties, Some(&old)).await?;
    keep_earlier(&server, &call, kind, Some(&old), &text).await?;
    let document = match is_earlier(Some(&old), &text) {
        true => store(&server, &call.permit, &home, text).await?.resource,
        false => {
            let held = Precondition::Match(old.etag.clone());
            let put = server
                .catalog
                .put(&call.permit, Draft::new(text), held)
                .await;
            put.map_err(errors::catalog)?.resource
        }
    };
    let status = match known {
        true => StatusCode::OK,
        false => StatusCode::CREATED,
    };
    Ok(Reply::new(status, Some(one(&home, &shown(&document)))))
}

/// Takes one version away. The newest gives way to the one before it; the last stays, with its definition.
pub async fn delete(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let kind = Kind::of(&call);
    let Some(old) = stored(&server, &call).await? else {
        return Ok(Reply::no_content());
    };
    let family = lookup::family(&server, &old).await?;
    let wanted = call.id.name();
    let Some(going) = family.documents.iter().find(|one| number_of(one) == wanted) else {
        return Ok(Reply::no_content());
    };
    let rest = family
        .documents
        .iter()
        .filter(|one| number_of(one) != wanted);
    let rest = Family::new(old.id.clone(), rest.cloned().collect());
    let Some(next) = rest.documents.first() else {
        let message = format!(
            "The version '{wanted}' is the only one of the {} '{}'. Delete that instead.",
            kind.noun(),
            old.id.name()
        );
        return Err(ArmError::new(kind.undeletable(), message));
    };
    check_users(&server, &call, &old.id, &|version| {
        let now = family.chosen(version);
        if now.is_none_or(|now| number_of(&now.document) != wanted) {
            return Meant::Other;
        }
        rest.chosen(version).map_or(Meant::Nothing, Meant::Checked)
    })
    .await?;
    let gone = one(&old.id, going);
    let mut going = wanted.to_owned();
    if number_of(&shown(&old)) == wanted {
        going = number_of(next);
        let earlier = below(&call.permit, &old.id, &going)?;
        let earlier = server.catalog.get(&earlier.to_read_own()).await;
        let text = earlier.map_err(errors::catalog)?.properties;
        let held = Precondition::Match(old.etag.clone());
        let put = server
            .catalog
            .put(&call.permit, Draft::new(text), held)
            .await;
        put.map_err(errors::catalog)?;
    }
    let permit = below(&call.permit, &old.id, &going)?;
    match server.catalog.delete(&permit, Precondition::None).await {
        Ok(_) | Err(CatalogError::NotFound { .. }) => Ok(Reply::ok(gone)),
        Err(error) => Err(errors::catalog(error)),
    }
}

/// Removes a definition with all its versions, and answers what was removed.
pub(super) async fn remove_all(server: &Server, call: &Call) -> Result<Reply, ArmError> {
    let Some(old) = find(server, call).await? else {
        return Ok(Reply::no_content());
    };
    call.preconditions.check(Some(&old))?;
    let gone = whole(&lookup::family(server, &old).await?);
    let held = Precondition::Match(old.etag.clone());
    match server.catalog.delete_tree(&call.permit, held).await {
        Ok(_) => Ok(Reply::ok(gone)),
        Err(CatalogError::NotFound { .. }) => Ok(Reply::no_content()),
        Err(error) => Err(errors::catalog(error)),
    }
}

/// `listPolicyDefinitionVersions`: every version of everything at a scope.
pub async fn definition_versions(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    everything(&server, &call, Kind::Definition).await
}

pub async fn set_versions(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    everything(&server, &call, Kind::Set).await
}

async fn everything(server: &Server, call: &Call, kind: Kind) -> Result<Reply, ArmError> {
    let mut found = Vec::new();
    let scope = call.permit.scope();
    if scope.is_root() {
        let all = match kind {
            Kind::Definition => comply::built_in_definitions(),
            Kind::Set => comply::built_in_initiatives(),
        };
        let id = |document: &Value| ResourceId::parse(document["id"].as_str().unwrap_or_default());
        let own = all
            .iter()
            .filter_map(|document| Some(one(&id(document).ok()?, document)));
        found.extend(own);
        return Ok(page_reply(call, found, None));
    }
    let own = every(server, &call.permit, kind.type_name()).await?;
    let versions = every(server, &call.permit, kind.versions()).await?;
    for definition in &own {
        let family = lookup::family_of(definition, &versions);
        found.extend(
            family
                .documents
                .iter()
                .map(|document| one(&family.id, document)),
        );
    }
    Ok(page_reply(call, found, None))
}

/// Whether `$expand` asks for the versions that are meant and that there are.
#[derive(Clone, Copy)]
pub struct Expand {
    effective: bool,
    latest: bool,
}

impl Expand {
    pub fn of(call: &Call) -> Option<Expand> {
        let asks = |word: &str| {
            let given = call.query.get("$expand").unwrap_or_default();
            given
                .split(',')
                .any(|one| one.trim().eq_ignore_ascii_case(word))
        };
        let expand = Expand {
            effective: asks("EffectiveDefinitionVersion"),
            latest: asks("LatestDefinitionVersion"),
        };
        (expand.effective || expand.latest).then_some(expand)
    }

    /// Adds to an assignment's properties, or to an initiative's member, what was asked for.
    pub async fn fill(
        self,
        server: &Server,
        call: &Call,
        hierarchy: &Hierarchy,
        home: &ResourceId,
        inside: &mut Value,
    ) -> Result<(), ArmError> {
        let tenant = call.permit.tenant();
        let id = inside["policyDefinitionId"].as_str().unwrap_or_default();
        let Some(family) = lookup::usable(server, tenant, hierarchy, id, home).await? else {
            return Ok(());
        };
        if self.effective
            && let Some(found) = family.chosen(inside["definitionVersion"].as_str())
        {
            inside["effectiveDefinitionVersion"] = number_of(&found.document).into();
        }
        if self.latest {
            inside["latestDefinitionVersion"] = family.latest().into();
        }
        Ok(())
    }
}

/// The versions of an initiative's members, where `$expand` asks for them.
pub(super) async fn expand_members(
    server: &Server,
    call: &Call,
    shown: &mut Value,
) -> Result<(), ArmError> {
    let Some(expand) = Expand::of(call) else {
        return Ok(());
    };
    let hierarchy = Hierarchy::load(server, call.permit.tenant()).await?;
    let home = call.id.parent().unwrap_or_else(ResourceId::root);
    let members = shown["properties"]["policyDefinitions"].as_array_mut();
    for member in members.into_iter().flatten() {
        expand.fill(server, call, &hierarchy, &home, member).await?;
    }
    Ok(())
}
