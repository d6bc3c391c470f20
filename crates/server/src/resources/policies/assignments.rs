//! Policy assignments: a definition or an initiative, with values, at a scope.

use std::sync::Arc;

use catalog::Draft;
use http::StatusCode;
use serde_json::{Map, Value, json};
use wire::{ArmError, ErrorCode, ResourceId};

use super::lookup::{self, Family, Found};
use super::parameters::{self, Giver};
use super::versions::Expand;
use super::{
    ASSIGNMENT, Reply, check_common, check_name, draft, keep, need_text, scope, settle_word, shown,
};
use crate::body::{ResourceBody, wrong_type};
use crate::errors;
use crate::hierarchy::{Hierarchy, every, looking};
use crate::managed;
use crate::operation::Call;
use crate::resources::{find, page_reply, properties};
use crate::state::Server;

const NAME_CHARS_MAX: usize = 64;
/// At a management group.
const SHORT_NAME_CHARS_MAX: usize = 24;
/// Scopes that one assignment leaves out, as in Azure.
const NOT_SCOPES_MAX: usize = 400;
const MESSAGES_MAX: usize = 1_000;
const MESSAGE_CHARS_MAX: usize = 1_000;
const SELECTORS_MAX: usize = 10;
const OVERRIDES_MAX: usize = 10;
/// What of an assignment's properties a PATCH changes.
const PATCHED: [&str; 2] = ["resourceSelectors", "overrides"];
const INVALID: ErrorCode = ErrorCode::InvalidCreatePolicyAssignmentRequest;

/// Clients take nothing but 201, new or replaced.
pub async fn put(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let home = scope(&call);
    let chars = match home.management_group() {
        Some(_) => SHORT_NAME_CHARS_MAX,
        None => NAME_CHARS_MAX,
    };
    check_name(&call, "policy assignment", chars)?;
    let mut body = ResourceBody::parse(&call.body, &call.id)?;
    let old = find(&server, &call).await?;
    check_common(&mut body.properties)?;
    let definition = definition(&server, &call, &home, &mut body.properties).await?;
    check_values(&call, &body.properties, &definition)?;
    settle(&call, &home, &mut body.properties, &definition)?;
    let asked = body.identity.take();
    let identity = managed::settle(&server, &call, asked.as_ref(), old.as_ref()).await?;
    let draft = identity.on(draft(body));
    keep(&server, &call, old.as_ref(), draft, StatusCode::CREATED).await
}

/// Changes where an assignment holds and as whom, and nothing else of it; what the body leaves out stays.
pub async fn patch(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let Some(old) = find(&server, &call).await? else {
        let code = ErrorCode::PolicyAssignmentNotFound;
        return Err(super::not_found(code, call.id.name()));
    };
    let body = ResourceBody::parse(&call.body, &call.id)?;
    let mut inside = properties(&old);
    for (name, value) in body.properties {
        let known = PATCHED
            .iter()
            .find(|known| known.eq_ignore_ascii_case(&name));
        let Some(known) = known else {
            let message = format!(
                "The policy assignment '{}' request is invalid. A PATCH changes 'location', 'identity', \
                 'properties.resourceSelectors' and 'properties.overrides'.",
                call.id.name()
            );
            return Err(ArmError::new(INVALID, message).with_target(format!("properties.{name}")));
        };
        inside.insert((*known).into(), value);
    }
    let home = scope(&call);
    let definition = definition(&server, &call, &home, &mut inside).await?;
    settle(&call, &home, &mut inside, &definition)?;
    let mut draft = Draft::from_resource(old.clone());
    draft.properties = Value::Object(inside);
    draft.location = body.location.or(draft.location);
    if let Some(identity) = &body.identity {
        let identity = managed::settle(&server, &call, Some(identity), Some(&old)).await?;
        draft = identity.on(draft);
    }
    let put = crate::resources::store(&server, &call, Some(&old), draft).await?;
    Ok(Reply::ok(shown(&put.resource)))
}

async fn definition(
    server: &Server,
    call: &Call,
    home: &ResourceId,
    inside: &mut Map<String, Value>,
) -> Result<Found, ArmError> {
    let id = need_text(inside, "policyDefinitionId", INVALID)?;
    let name = call.id.name();
    let Some(parsed) = lookup::definition_id(id) else {
        let message = format!(
            "The policy assignment '{name}' request is invalid. 'policyDefinitionId' must be the id of a \
             policy definition or a policy set definition."
        );
        return Err(ArmError::new(INVALID, message).with_target("properties.policyDefinitionId"));
    };
    let tenant = call.permit.tenant();
    let hierarchy = Hierarchy::load(server, tenant).await?;
    let family = lookup::usable(server, tenant, &hierarchy, id, home).await?;
    let family = family.ok_or_else(|| {
        let above = parsed
            .parent()
            .is_some_and(|own| own.is_root() || hierarchy.at_or_above(home).contains(&own));
        if above {
            let code = match parsed.resource_type().is(super::SET) {
                true => ErrorCode::PolicySetDefinitionNotFound,
                false => ErrorCode::PolicyDefinitionNotFound,
            };
            return super::not_found(code, parsed.name());
        }
        let message = format!(
            "The policy definition specified in policy assignment '{name}' is out of scope. Policy \
             definitions should be specified only at or above the policy assignment scope."
        );
        ArmError::new(INVALID, message)
    })?;
    inside.insert("policyDefinitionId".into(), family.id.to_string().into());
    let version = settle_definition_version(inside, &family)?;
    let found = family.chosen(Some(&version));
    found.ok_or_else(|| no_version(call, &family, &version))
}

/// The versions that the assignment means: without a word of its own, the major version that is the newest now.
fn settle_definition_version(
    inside: &mut Map<String, Value>,
    family: &Family,
) -> Result<String, ArmError> {
    let version = match inside.get("definitionVersion") {
        None | Some(Value::Null) => {
            let latest = family.latest();
            let (numbers, suffix) = latest.split_once('-').unwrap_or((&latest, ""));
            let major = numbers.split('.').next().unwrap_or("1");
            match suffix {
                "" => format!("{major}.*.*"),
                suffix => format!("{major}.*.*-{suffix}"),
            }
        }
        Some(Value::String(version)) => version.clone(),
        Some(_) => return Err(wrong_type("properties.definitionVersion", "a string")),
    };
    inside.insert("definitionVersion".into(), version.clone().into());
    for told in ["effectiveDefinitionVersion", "latestDefinitionVersion"] {
        inside.remove(told);
    }
    Ok(version)
}

fn no_version(call: &Call, family: &Family, version: &str) -> ArmError {
    let version: String = version.chars().take(100).collect();
    let message = format!(
        "The policy assignment '{}' request is invalid. There is no version '{version}' of '{}'.",
        call.id.name(),
        family.id
    );
    ArmError::new(INVALID, message).with_target("properties.definitionVersion")
}

fn check_values(
    call: &Call,
    inside: &Map<String, Value>,
    definition: &Found,
) -> Result<(), ArmError> {
    let empty = Map::new();
    let given = match inside.get("parameters") {
        None | Some(Value::Null) => &empty,
        Some(Value::Object(given)) => given,
        Some(_) => return Err(wrong_type("properties.parameters", "an object")),
    };
    for (name, value) in given {
        let wrapped = value
            .as_object()
            .is_some_and(|value| value.contains_key("value"));
        if !wrapped {
            let target = format!("properties.parameters.{name}");
            return Err(wrong_type(&target, "an object with a 'value'"));
        }
    }
    parameters::check(Giver::Assignment(call.id.name()), given, definition)
}

/// Everything else that Azure fills in or refuses.
fn settle(
    call: &Call,
    home: &ResourceId,
    inside: &mut Map<String, Value>,
    definition: &Found,
) -> Result<(), ArmError> {
    let modes = ["Default", "DoNotEnforce"];
    settle_word(inside, "enforcementMode", &modes, INVALID)?;
    inside
        .entry("enforcementMode")
        .or_insert_with(|| "Default".into());
    inside.insert("scope".into(), home.to_string().into());
    settle_not_scopes(home, inside)?;
    let references = references(definition);
    let refused = |what: String| {
        let name = call.id.name();
        let message = format!("The policy assignment '{name}' request is invalid. {what}");
        ArmError::new(INVALID, message)
    };
    for message in items(inside, "nonComplianceMessages", MESSAGES_MAX)? {
        let text = message["message"].as_str().unwrap_or_default();
        if text.is_empty() || text.chars().count() > MESSAGE_CHARS_MAX {
            let what = format!("A non-compliance message has 1 to {MESSAGE_CHARS_MAX} characters.");
            return Err(refused(what));
        }
        let reference = message["policyDefinitionReferenceId"].as_str();
        if reference
            .is_some_and(|name| !references.iter().any(|one| one.eq_ignore_ascii_case(name)))
        {
            let what = "A non-compliance message is for a policyDefinitionReferenceId that the \
                        definition does not have.";
            return Err(refused(what.into()));
        }
    }
    check_selectors(inside).map_err(refused)?;
    check_overrides(inside)?.map_err(refused)
}

fn check_overrides(inside: &Map<String, Value>) -> Result<Result<(), String>, ArmError> {
    for one in items(inside, "overrides", OVERRIDES_MAX)? {
        let kind = one["kind"].as_str().unwrap_or_default();
        let value = one["value"].as_str().unwrap_or_default();
        let fits = match kind.to_ascii_lowercase().as_str() {
            "policyeffect" => policy::effect::Effect::parse(value).is_some(),
            "definitionversion" => policy::version::Pattern::parse(value).is_ok(),
            _ => false,
        };
        if !fits {
            let what = "An override has the kind 'policyEffect' and an effect as its value, or the kind \
                        'definitionVersion' and a version such as '1.*.*'.";
            return Ok(Err(what.into()));
        }
    }
    Ok(Ok(()))
}

/// The list under `name`, of objects; absent is empty.
fn items<'m>(
    inside: &'m Map<String, Value>,
    name: &str,
    max: usize,
) -> Result<&'m [Value], ArmError> {
    let target = format!("properties.{name}");
    match inside.get(name) {
        None | Some(Value::Null) => Ok(&[]),
        Some(Value::Array(items)) if items.len() > max => Err(errors::invalid(
            &target,
            format!("'{name}' has at most {max} entries."),
        )),
        Some(Value::Array(items)) if items.iter().all(Value::is_object) => Ok(items),
        Some(_) => Err(wrong_type(&target, "a list of objects")),
    }
}

pub fn check_selectors(inside: &Map<String, Value>) -> Result<(), String> {
    const KINDS: [&str; 4] = [
        "resourceLocation",
        "resourceType",
        "resourceWithoutLocation",
        "policyDefinitionReferenceId",
    ];
    let entries = match inside.get("resourceSelectors") {
        None | Some(Value::Null) => return Ok(()),
        Some(Value::Array(entries)) if entries.len() <= SELECTORS_MAX => entries,
        Some(_) => {
            return Err(format!(
                "'resourceSelectors' is a list of at most {SELECTORS_MAX}."
            ));
        }
    };
    for entry in entries {
        let Some(selectors) = entry["selectors"].as_array() else {
            return Err("A resource selector needs its list of 'selectors'.".into());
        };
        for selector in selectors {
            let kind = selector["kind"].as_str().unwrap_or_default();
            if !KINDS.iter().any(|known| known.eq_ignore_ascii_case(kind)) {
                return Err(format!(
                    "The kind of a selector is one of {}.",
                    KINDS.join(", ")
                ));
            }
            if selector.get("in").is_some() && selector.get("notIn").is_some() {
                return Err("A selector has 'in' or 'notIn', not both.".into());
            }
        }
    }
    Ok(())
}

fn settle_not_scopes(home: &ResourceId, inside: &mut Map<String, Value>) -> Result<(), ArmError> {
    let target = "properties.notScopes";
    let given = match inside.get("notScopes") {
        None | Some(Value::Null) => &[],
        Some(Value::Array(given)) => given.as_slice(),
        Some(_) => return Err(wrong_type(target, "a list of ids")),
    };
    if given.len() > NOT_SCOPES_MAX {
        let message = format!("'notScopes' has at most {NOT_SCOPES_MAX} entries.");
        return Err(errors::invalid(target, message));
    }
    let mut kept: Vec<Value> = Vec::with_capacity(given.len());
    for one in given {
        let id = one.as_str().and_then(|id| ResourceId::parse(id).ok());
        // Below a management group are other groups and subscriptions, whose ids do not show it.
        let fit = |id: &ResourceId| id.is_within(home) || home.management_group().is_some();
        let Some(id) = id.filter(fit) else {
            let message = format!("Each of 'notScopes' must be the id of a scope below '{home}'.");
            return Err(errors::invalid(target, message));
        };
        kept.push(id.to_string().into());
    }
    inside.insert("notScopes".into(), json!(kept));
    Ok(())
}

/// Names of an initiative's members; of a definition, none.
fn references(definition: &Found) -> Vec<String> {
    let members = definition.document["properties"]["policyDefinitions"].as_array();
    let name = |member: &Value| {
        member["policyDefinitionReferenceId"]
            .as_str()
            .map(str::to_string)
    };
    members.into_iter().flatten().filter_map(name).collect()
}

pub async fn get(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let Some(found) = find(&server, &call).await? else {
        let code = ErrorCode::PolicyAssignmentNotFound;
        return Err(super::not_found(code, call.id.name()));
    };
    let mut shown = vec![shown(&found)];
    expand(&server, &call, &mut shown).await?;
    Ok(Reply::ok(shown.remove(0)))
}

/// Adds which version is meant, and which is the newest, where `$expand` asks for it.
async fn expand(server: &Server, call: &Call, shown: &mut [Value]) -> Result<(), ArmError> {
    let Some(expand) = Expand::of(call) else {
        return Ok(());
    };
    let hierarchy = Hierarchy::load(server, call.permit.tenant()).await?;
    for one in shown {
        let inside = &mut one["properties"];
        let home = inside["scope"].as_str().unwrap_or_default();
        let home = ResourceId::parse(home).unwrap_or_else(|_| ResourceId::root());
        expand.fill(server, call, &hierarchy, &home, inside).await?;
    }
    Ok(())
}

/// Exemptions and attestations of it stay, as in Azure; they are of nothing then.
pub async fn delete(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    super::remove(&server, &call).await
}

pub async fn all(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let mut reach = Reach::Everything;
    let mut of: Option<String> = None;
    for (name, value) in super::terms(call.query.get("$filter").unwrap_or_default())? {
        match (name.as_str(), value) {
            ("policydefinitionid", Some(value)) => of = Some(value),
            (call, None) => reach = Reach::parse(call).ok_or_else(super::bad_filter)?,
            _ => return Err(super::bad_filter()),
        }
    }
    let mut found = reaching(&server, &call, ASSIGNMENT, reach).await?;
    found.retain(|one| {
        let id = one["properties"]["policyDefinitionId"]
            .as_str()
            .unwrap_or_default();
        of.as_ref().is_none_or(|of| id.eq_ignore_ascii_case(of))
    });
    expand(&server, &call, &mut found).await?;
    Ok(page_reply(&call, found, None))
}

/// Which of the objects around a scope a list shows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// At, above and below.
    Everything,
    AtAndAbove,
    AtAndBelow,
    Exact,
}

impl Reach {
    /// From a call in a `$filter`, in lower case.
    pub fn parse(call: &str) -> Option<Reach> {
        Some(match call {
            "atscope()" => Reach::AtAndAbove,
            "atscopeandbelow()" => Reach::AtAndBelow,
            "atexactscope()" => Reach::Exact,
            _ => return None,
        })
    }
}

/// Objects of a type at, below and above the call's scope. Those above hold for the scope, so whoever may list
/// there sees them.
pub async fn reaching(
    server: &Server,
    call: &Call,
    kind: &str,
    reach: Reach,
) -> Result<Vec<Value>, ArmError> {
    let own = every(server, &call.permit, kind).await?;
    let below = matches!(reach, Reach::Everything | Reach::AtAndBelow);
    let at = |id: &ResourceId| id.parent().is_some_and(|home| home == call.id);
    let mut found: Vec<Value> = own
        .iter()
        .filter(|one| below || at(&one.id))
        .map(shown)
        .collect();
    if matches!(reach, Reach::Everything | Reach::AtAndAbove) {
        let tenant = call.permit.tenant();
        let hierarchy = Hierarchy::load(server, tenant).await?;
        for above in hierarchy.at_or_above(&call.id).into_iter().skip(1) {
            let permit = looking(above.clone(), tenant);
            let inherited = every(server, &permit, kind).await?;
            let exact = |one: &&catalog::Resource| one.id.parent().as_ref() == Some(&above);
            found.extend(inherited.iter().filter(exact).map(shown));
        }
    }
    Ok(found)
}
