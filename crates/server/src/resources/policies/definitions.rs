//! Policy definitions and initiatives (`policySetDefinitions`), with their versions. Built-in ones are read-only and
//! the same for every tenant; the others live in management groups and subscriptions.

use std::sync::Arc;

use access::Permit;
use catalog::{Draft, Resource};
use http::StatusCode;
use policy::Fault;
use serde_json::{Map, Value, json};
use wire::{ArmError, ErrorCode, ResourceId};

use super::parameters::{self, Giver};
use super::{DEFINITION, Reply, SET, check_common, check_name, not_found, scope};
use super::{lookup, versions};
use crate::body::ResourceBody;
use crate::hierarchy::{Hierarchy, every};
use crate::operation::Call;
use crate::resources::{find, page_reply};
use crate::state::Server;

const NAME_CHARS_MAX: usize = 128;
const VERSION_CHARS_MAX: usize = 64;
/// Of a definition's text, as in Azure.
const DEFINITION_BYTES_MAX: usize = 1 << 20;

/// The two kinds that share this module.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Definition,
    Set,
}

impl Kind {
    pub fn of(call: &Call) -> Kind {
        let kind = call.id.resource_type();
        if kind
            .as_str()
            .to_lowercase()
            .starts_with(&SET.to_lowercase())
        {
            Kind::Set
        } else {
            Kind::Definition
        }
    }

    pub fn type_name(self) -> &'static str {
        match self {
            Kind::Definition => DEFINITION,
            Kind::Set => SET,
        }
    }

    /// The type of its versions.
    pub fn versions(self) -> &'static str {
        lookup::versions_of(self.type_name())
    }

    pub fn noun(self) -> &'static str {
        match self {
            Kind::Definition => "policy definition",
            Kind::Set => "policy set definition",
        }
    }

    pub fn missing(self) -> ErrorCode {
        match self {
            Kind::Definition => ErrorCode::PolicyDefinitionNotFound,
            Kind::Set => ErrorCode::PolicySetDefinitionNotFound,
        }
    }

    pub fn undeletable(self) -> ErrorCode {
        match self {
            Kind::Definition => ErrorCode::InvalidDeletePolicyDefinitionRequest,
            Kind::Set => ErrorCode::InvalidDeletePolicySetDefinitionRequest,
        }
    }

    pub fn invalid(self) -> ErrorCode {
        match self {
            Kind::Definition => ErrorCode::InvalidCreatePolicyDefinitionRequest,
            Kind::Set => ErrorCode::InvalidCreatePolicySetDefinitionRequest,
        }
    }
}

/// Clients take nothing but 201 for a definition, new or replaced.
pub async fn put_definition(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    put(&server, &call, Kind::Definition).await
}

pub async fn put_set(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    put(&server, &call, Kind::Set).await
}

async fn put(server: &Server, call: &Call, kind: Kind) -> Result<Reply, ArmError> {
    check_name(call, kind.noun(), NAME_CHARS_MAX)?;
    let body = ResourceBody::parse(&call.body, &call.id)?;
    let old = find(server, call).await?;
    let text = settle(server, call, &call.id, kind, body.properties, old.as_ref()).await?;
    call.preconditions.check(old.as_ref())?;
    versions::keep_earlier(server, call, kind, old.as_ref(), &text).await?;
    let replaced = match kind {
        Kind::Definition => StatusCode::CREATED,
        Kind::Set => StatusCode::OK,
    };
    let (resource, created) = match old {
        // The newest stays what the definition is.
        Some(old) if versions::is_earlier(Some(&old), &text) => {
            versions::store(server, &call.permit, &call.id, text).await?;
            (old, false)
        }
        old => {
            let put = crate::resources::store(server, call, old.as_ref(), Draft::new(text)).await?;
            (put.resource, put.created)
        }
    };
    let status = match created {
        true => StatusCode::CREATED,
        false => replaced,
    };
    let family = lookup::family(server, &resource).await?;
    Ok(Reply::new(status, Some(versions::whole(&family))))
}

/// What is stored of a body's properties, for a definition at `home`, whether as what it is or as a version of it.
pub(super) async fn settle(
    server: &Server,
    call: &Call,
    home: &ResourceId,
    kind: Kind,
    mut inside: Map<String, Value>,
    old: Option<&Resource>,
) -> Result<Value, ArmError> {
    let name = home.name();
    check_common(&mut inside)?;
    settle_type(&mut inside, kind, name)?;
    settle_version(&mut inside, old, kind)?;
    if kind == Kind::Definition {
        inside
            .entry("mode")
            .and_modify(|mode| {
                if mode.is_null() {
                    *mode = "Indexed".into();
                }
            })
            .or_insert_with(|| "Indexed".into());
    } else {
        name_references(&mut inside);
    }
    let bytes = serde_json::to_string(&inside).map_or(usize::MAX, |text| text.len());
    if bytes > DEFINITION_BYTES_MAX {
        let noun = kind.noun();
        let message = format!("The {noun} '{name}' is larger than {DEFINITION_BYTES_MAX} bytes.");
        return Err(ArmError::new(kind.invalid(), message));
    }
    let document = json!({ "name": name, "properties": inside });
    compile(kind, name, &document)?;
    if kind == Kind::Set {
        check_members(server, call, home, &inside).await?;
    }
    if let Some(old) = old {
        versions::keeps_users(server, call, old, &document).await?;
    }
    Ok(Value::Object(inside))
}

fn settle_type(inside: &mut Map<String, Value>, kind: Kind, name: &str) -> Result<(), ArmError> {
    let given = inside.get("policyType").and_then(Value::as_str);
    let own = given.is_none_or(|given| {
        ["Custom", "NotSpecified"]
            .iter()
            .any(|word| word.eq_ignore_ascii_case(given))
    });
    if !own {
        let message = format!(
            "The {} '{name}' request is invalid. The policy type must be 'Custom' or not specified.",
            kind.noun()
        );
        return Err(ArmError::new(kind.invalid(), message).with_target("properties.policyType"));
    }
    inside.insert("policyType".into(), "Custom".into());
    Ok(())
}

/// The version that the text has: as it says, else as before. `versions` is told from what is stored.
fn settle_version(
    inside: &mut Map<String, Value>,
    old: Option<&Resource>,
    kind: Kind,
) -> Result<(), ArmError> {
    let kept = old.and_then(|old| old.properties.get("version").cloned());
    let version = match inside.get("version").filter(|given| !given.is_null()) {
        Some(given) => given.clone(),
        None => kept.unwrap_or_else(|| lookup::FIRST_VERSION.into()),
    };
    check_version(
        version.as_str().unwrap_or_default(),
        kind,
        "properties.version",
    )?;
    inside.remove("versions");
    inside.insert("version".into(), version);
    Ok(())
}

pub(super) fn check_version(text: &str, kind: Kind, target: &str) -> Result<(), ArmError> {
    let (numbers, suffix) = text.split_once('-').unwrap_or((text, "preview"));
    let parts: Vec<&str> = numbers.split('.').collect();
    let number = |part: &&str| {
        part.parse::<u32>()
            .is_ok_and(|number| number.to_string() == **part)
    };
    let word = !suffix.is_empty() && suffix.chars().all(|c| c.is_ascii_alphanumeric());
    if text.len() <= VERSION_CHARS_MAX && parts.len() == 3 && parts.iter().all(number) && word {
        return Ok(());
    }
    let message = "The version must be of the form 1.2.3 or 1.2.3-preview.";
    Err(ArmError::new(kind.invalid(), message).with_target(target))
}

/// A member that the author did not name is named by its place, as the engine does.
fn name_references(inside: &mut Map<String, Value>) {
    let members = inside
        .get_mut("policyDefinitions")
        .and_then(Value::as_array_mut);
    for (index, member) in members.into_iter().flatten().enumerate() {
        if let Some(member) = member.as_object_mut()
            && member
                .get("policyDefinitionReferenceId")
                .is_none_or(|given| given.as_str().is_none_or(str::is_empty))
        {
            let name = (index + 1).to_string();
            member.insert("policyDefinitionReferenceId".into(), name.into());
        }
    }
}

fn compile(kind: Kind, name: &str, document: &Value) -> Result<(), ArmError> {
    let compiled = match kind {
        Kind::Definition => policy::definition::definition(document, comply::aliases()).map(drop),
        Kind::Set => policy::definition::initiative(document, comply::aliases()).map(drop),
    };
    compiled.map_err(|fault| refused(kind, name, &fault))
}

/// The engine's fault in Azure's words: which code depends on the place.
fn refused(kind: Kind, name: &str, fault: &Fault) -> ArmError {
    let Fault { path, reason } = fault;
    let noun = kind.noun();
    let (code, what) = if path.starts_with("policyRule") {
        (ErrorCode::InvalidPolicyRule, "rule is invalid")
    } else if path.starts_with("parameters") {
        (ErrorCode::InvalidPolicyParameters, "has invalid parameters")
    } else {
        (kind.invalid(), "request is invalid")
    };
    let message = format!("The {noun} '{name}' {what}: at '{path}': {reason}.");
    ArmError::new(code, message).with_target(format!("properties.{path}"))
}

async fn check_members(
    server: &Server,
    call: &Call,
    set: &ResourceId,
    inside: &Map<String, Value>,
) -> Result<(), ArmError> {
    let tenant = call.permit.tenant();
    let hierarchy = Hierarchy::load(server, tenant).await?;
    let home = set.parent().unwrap_or_else(ResourceId::root);
    let name = set.name();
    let members = inside.get("policyDefinitions").and_then(Value::as_array);
    for member in members.into_iter().flatten() {
        let id = member["policyDefinitionId"].as_str().unwrap_or_default();
        let found = lookup::usable(server, tenant, &hierarchy, id, &home).await?;
        let Some(found) = found.filter(|found| !found.is_set()) else {
            let shown: String = id.chars().take(300).collect();
            let message = format!(
                "The policy set definition '{name}' request is invalid. The policy definition '{shown}' \
                 could not be found at or above the scope '{home}'."
            );
            return Err(ArmError::new(ErrorCode::PolicyDefinitionNotFound, message));
        };
        let version = member["definitionVersion"].as_str();
        let Some(found) = found.chosen(version) else {
            let version: String = version.unwrap_or_default().chars().take(100).collect();
            let message = format!(
                "The policy set definition '{name}' request is invalid. The policy definition '{}' has no \
                 version '{version}'.",
                found.id
            );
            return Err(ArmError::new(ErrorCode::PolicyDefinitionNotFound, message));
        };
        let empty = Map::new();
        let given = member["parameters"].as_object().unwrap_or(&empty);
        parameters::check(Giver::Set(name), given, &found)?;
    }
    Ok(())
}

pub async fn get(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let kind = Kind::of(&call);
    if scope(&call).is_root() {
        return match lookup::built_in_named(kind.type_name(), call.id.name()) {
            Some(document) => Ok(Reply::ok(document.clone())),
            None => Err(not_found(kind.missing(), call.id.name())),
        };
    }
    match find(&server, &call).await? {
        Some(resource) => {
            let family = lookup::family(&server, &resource).await?;
            let mut shown = versions::whole(&family);
            if kind == Kind::Set {
                versions::expand_members(&server, &call, &mut shown).await?;
            }
            Ok(Reply::ok(shown))
        }
        None => Err(not_found(kind.missing(), call.id.name())),
    }
}

pub async fn delete(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let kind = Kind::of(&call);
    let users = lookup::users(&server, call.permit.tenant(), &call.id).await?;
    if let Some(user) = users.first() {
        let noun = match user.id.resource_type() {
            kind if kind.is(SET) => "policy set definition",
            _ => "policy assignment",
        };
        let code = kind.undeletable();
        let message = format!(
            "The {} '{}' cannot be deleted. It is referenced by the {noun} '{}'. Please delete all policy \
             assignments and policy set definitions referencing the policy.",
            kind.noun(),
            call.id.name(),
            user.id
        );
        return Err(ArmError::new(code, message));
    }
    versions::remove_all(&server, &call).await
}

pub async fn definitions(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    list(&server, &call, Kind::Definition).await
}

pub async fn sets(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    list(&server, &call, Kind::Set).await
}

/// The scope's own, those above it and the built-in ones, as `$filter` asks.
async fn list(server: &Server, call: &Call, kind: Kind) -> Result<Reply, ArmError> {
    let filter = Filter::parse(call.query.get("$filter").unwrap_or_default())?;
    let built_in = match kind {
        Kind::Definition => comply::built_in_definitions(),
        Kind::Set => comply::built_in_initiatives(),
    };
    let mut found: Vec<Value> = Vec::new();
    if !filter.exact {
        found.extend(built_in.iter().cloned());
    }
    if !call.id.is_root() {
        let tenant = call.permit.tenant();
        let hierarchy = Hierarchy::load(server, tenant).await?;
        found.extend(families(server, &call.permit, kind).await?);
        if !filter.exact {
            for above in hierarchy.at_or_above(&call.id).into_iter().skip(1) {
                let permit = crate::hierarchy::looking(above, tenant);
                found.extend(families(server, &permit, kind).await?);
            }
        }
    }
    found.retain(|one| filter.takes(one));
    Ok(page_reply(call, found, None))
}

/// The definitions at and below a permit's scope, as ARM shows them.
async fn families(server: &Server, permit: &Permit, kind: Kind) -> Result<Vec<Value>, ArmError> {
    let own = every(server, permit, kind.type_name()).await?;
    let versions = every(server, permit, kind.versions()).await?;
    let shown = |one: &Resource| versions::whole(&lookup::family_of(one, &versions));
    Ok(own.iter().map(shown).collect())
}

/// `$filter` of the lists: `atExactScope()`, `policyType eq '…'`, `category eq '…'`, joined by `and`.
#[derive(Default)]
struct Filter {
    exact: bool,
    policy_type: Option<String>,
    category: Option<String>,
}

impl Filter {
    fn parse(text: &str) -> Result<Filter, ArmError> {
        let mut filter = Filter::default();
        for (name, value) in super::terms(text)? {
            match (name.as_str(), value) {
                ("atexactscope()", None) => filter.exact = true,
                ("atscope()" | "atscopeandbelow()", None) => {}
                ("policytype", Some(value)) => filter.policy_type = Some(value),
                ("category", Some(value)) => filter.category = Some(value),
                _ => return Err(super::bad_filter()),
            }
        }
        Ok(filter)
    }

    fn takes(&self, document: &Value) -> bool {
        let inside = &document["properties"];
        let same = |wanted: &Option<String>, found: &Value| {
            wanted.as_ref().is_none_or(|wanted| {
                let found = found.as_str().unwrap_or_default();
                found.eq_ignore_ascii_case(wanted)
            })
        };
        same(&self.policy_type, &inside["policyType"])
            && same(&self.category, &inside["metadata"]["category"])
    }
}
