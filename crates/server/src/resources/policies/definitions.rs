//! Policy definitions and initiatives (`policySetDefinitions`), with their versions. Built-in ones are read-only and
//! the same for every tenant; the others live in management groups and subscriptions.

use std::sync::Arc;

use catalog::Resource;
use http::StatusCode;
use policy::Fault;
use serde_json::{Map, Value, json};
use wire::{ArmError, ErrorCode};

use super::lookup::{self, Found};
use super::parameters::{self, Giver};
use super::{
    DEFINITION, Reply, SET, check_common, check_name, draft, keep, not_found, remove, scope, shown,
};
use crate::body::ResourceBody;
use crate::hierarchy::{Hierarchy, every};
use crate::operation::Call;
use crate::resources::{find, page_reply, properties};
use crate::state::Server;

const NAME_CHARS_MAX: usize = 128;
const FIRST_VERSION: &str = "1.0.0";
const VERSION_CHARS_MAX: usize = 64;
/// Of a definition's text, as in Azure.
const DEFINITION_BYTES_MAX: usize = 1 << 20;

/// The two kinds that share this module.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Definition,
    Set,
}

impl Kind {
    fn of(call: &Call) -> Kind {
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

    fn type_name(self) -> &'static str {
        match self {
            Kind::Definition => DEFINITION,
            Kind::Set => SET,
        }
    }

    fn noun(self) -> &'static str {
        match self {
            Kind::Definition => "policy definition",
            Kind::Set => "policy set definition",
        }
    }

    fn missing(self) -> ErrorCode {
        match self {
            Kind::Definition => ErrorCode::PolicyDefinitionNotFound,
            Kind::Set => ErrorCode::PolicySetDefinitionNotFound,
        }
    }

    fn invalid(self) -> ErrorCode {
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
    let mut body = ResourceBody::parse(&call.body, &call.id)?;
    let old = find(server, call).await?;
    let inside = &mut body.properties;
    check_common(inside)?;
    settle_type(inside, kind, call.id.name())?;
    settle_version(inside, old.as_ref(), kind)?;
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
        name_references(inside);
    }
    let bytes = serde_json::to_string(inside).map_or(usize::MAX, |text| text.len());
    if bytes > DEFINITION_BYTES_MAX {
        let message = format!(
            "The {} '{}' is larger than {DEFINITION_BYTES_MAX} bytes.",
            kind.noun(),
            call.id.name()
        );
        return Err(ArmError::new(kind.invalid(), message));
    }
    let document = json!({ "name": call.id.name(), "properties": inside });
    compile(kind, call.id.name(), &document)?;
    if kind == Kind::Set {
        check_members(server, call, &body.properties).await?;
    }
    if old.is_some() {
        keeps_assignments(server, call, &document).await?;
    }
    let mut body = body;
    (body.location, body.identity) = (None, None);
    let replaced = match kind {
        Kind::Definition => StatusCode::CREATED,
        Kind::Set => StatusCode::OK,
    };
    keep(server, call, old.as_ref(), draft(body), replaced).await
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

/// The one version that is kept. `versions` is ours.
fn settle_version(
    inside: &mut Map<String, Value>,
    old: Option<&Resource>,
    kind: Kind,
) -> Result<(), ArmError> {
    let kept = old.and_then(|old| old.properties.get("version").cloned());
    let version = match inside.get("version").filter(|given| !given.is_null()) {
        Some(given) => given.clone(),
        None => kept.unwrap_or_else(|| FIRST_VERSION.into()),
    };
    let text = version.as_str().unwrap_or_default();
    let numbers = text.split('-').next().unwrap_or_default();
    let parts: Vec<&str> = numbers.split('.').collect();
    let number = |part: &&str| part.parse::<u32>().is_ok();
    if text.len() > VERSION_CHARS_MAX || parts.len() != 3 || !parts.iter().all(number) {
        let message = "The version must be of the form 1.2.3 or 1.2.3-preview.";
        return Err(ArmError::new(kind.invalid(), message).with_target("properties.version"));
    }
    inside.insert("versions".into(), json!([version]));
    inside.insert("version".into(), version);
    Ok(())
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
    inside: &Map<String, Value>,
) -> Result<(), ArmError> {
    let tenant = call.permit.tenant();
    let hierarchy = Hierarchy::load(server, tenant).await?;
    let home = scope(call);
    let name = call.id.name();
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
        let empty = Map::new();
        let given = member["parameters"].as_object().unwrap_or(&empty);
        parameters::check(Giver::Set(name), given, &found)?;
    }
    Ok(())
}

/// A new text must not leave assignments and initiatives without a value that they would need.
async fn keeps_assignments(server: &Server, call: &Call, document: &Value) -> Result<(), ArmError> {
    let changed = Found {
        id: call.id.clone(),
        document: document.clone(),
    };
    for user in lookup::users(server, call.permit.tenant(), &call.id).await? {
        let inside = properties(&user);
        let empty = Map::new();
        if user.id.resource_type().is(SET) {
            let members = inside.get("policyDefinitions").and_then(Value::as_array);
            let named = members.into_iter().flatten().filter(|member| {
                let id = member["policyDefinitionId"].as_str().unwrap_or_default();
                lookup::definition_id(id).as_ref() == Some(&call.id)
            });
            for member in named {
                let given = member["parameters"].as_object().unwrap_or(&empty);
                parameters::check(Giver::Set(user.id.name()), given, &changed)?;
            }
        } else {
            let given = inside
                .get("parameters")
                .and_then(Value::as_object)
                .unwrap_or(&empty);
            parameters::check(Giver::Assignment(user.id.name()), given, &changed)?;
        }
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
    super::show(&server, &call, kind.missing()).await
}

pub async fn delete(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let kind = Kind::of(&call);
    let users = lookup::users(&server, call.permit.tenant(), &call.id).await?;
    if let Some(user) = users.first() {
        let noun = match user.id.resource_type() {
            kind if kind.is(SET) => "policy set definition",
            _ => "policy assignment",
        };
        let code = match kind {
            Kind::Definition => ErrorCode::InvalidDeletePolicyDefinitionRequest,
            Kind::Set => ErrorCode::InvalidDeletePolicySetDefinitionRequest,
        };
        let message = format!(
            "The {} '{}' cannot be deleted. It is referenced by the {noun} '{}'. Please delete all policy \
             assignments and policy set definitions referencing the policy.",
            kind.noun(),
            call.id.name(),
            user.id
        );
        return Err(ArmError::new(code, message));
    }
    remove(&server, &call).await
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
        let own = every(server, &call.permit, kind.type_name()).await?;
        found.extend(own.iter().map(shown));
        if !filter.exact {
            for above in hierarchy.at_or_above(&call.id).into_iter().skip(1) {
                let permit = crate::hierarchy::looking(above, tenant);
                let inherited = every(server, &permit, kind.type_name()).await?;
                found.extend(inherited.iter().map(shown));
            }
        }
    }
    found.retain(|one| filter.takes(one));
    Ok(page_reply(call, found, None))
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

/// The versions of a definition: the one that is kept.
pub async fn versions(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let document = current(&server, &call).await?;
    Ok(page_reply(&call, vec![version_of(&document)], None))
}

pub async fn version(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let kind = Kind::of(&call);
    let mut of = call.clone();
    let missing = || not_found(kind.missing(), call.id.name());
    of.id = call.id.parent().ok_or_else(missing)?;
    of.permit = call.permit.to_read_ancestor(&of.id).ok_or_else(missing)?;
    let document = current(&server, &of).await?;
    let version = version_of(&document);
    match version["name"].as_str() == Some(call.id.name()) {
        true => Ok(Reply::ok(version)),
        false => Err(missing()),
    }
}

async fn current(server: &Server, call: &Call) -> Result<Value, ArmError> {
    let kind = Kind::of(call);
    let home = scope(call);
    let own = match home.is_root() {
        true => None,
        false => find(server, call).await?.as_ref().map(shown),
    };
    // Clients ask for the versions of a built-in one at their subscription, too.
    let built_in = || lookup::built_in_named(kind.type_name(), call.id.name()).cloned();
    own.or_else(built_in)
        .ok_or_else(|| not_found(kind.missing(), call.id.name()))
}

fn version_of(document: &Value) -> Value {
    let mut inside = document["properties"].clone();
    let version = inside["version"]
        .as_str()
        .unwrap_or(FIRST_VERSION)
        .to_string();
    if let Some(inside) = inside.as_object_mut() {
        inside.remove("versions");
        inside.insert("version".into(), version.clone().into());
    }
    let text = |name: &str| document[name].as_str().unwrap_or_default();
    json!({
        "id": format!("{}/versions/{version}", text("id")),
        "name": version,
        "type": format!("{}/versions", text("type")),
        "properties": inside,
    })
}
