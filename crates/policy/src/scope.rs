//! Where an assignment or exemption reaches: scopes, excluded scopes, selectors and overrides.

use jiff::Timestamp;
use serde_json::Value;

use crate::expr::instant;
use crate::field::{location, resource_type};
use crate::json::{get, list, text};

/// Levels of management groups; Azure has six below the root.
const LEVELS_MAX: usize = 16;
/// Kinds of overrides that choose a version: as the API names it, and as its documentation does.
const VERSION_KINDS: [&str; 2] = ["definitionVersion", "policyVersion"];
/// What stands in the id of a management group before its name.
const GROUPS: &str = "/providers/microsoft.management/managementgroups/";

/// A member of a resource, beside or inside of its `properties`.
pub fn own<'v>(value: &'v Value, name: &str) -> Option<&'v Value> {
    get(value, name).or_else(|| get(value, "properties").and_then(|inner| get(inner, name)))
}

pub fn own_text<'v>(value: &'v Value, name: &str) -> Option<&'v str> {
    own(value, name).and_then(Value::as_str)
}

pub(crate) fn own_list<'v>(value: &'v Value, name: &str) -> &'v [Value] {
    own(value, name)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

fn folded(id: &str) -> String {
    id.trim_end_matches('/').to_ascii_lowercase()
}

/// Whether the id is the scope or lies below it, segment by segment.
pub fn within(id: &str, scope: &str) -> bool {
    let (id, scope) = (id.trim_end_matches('/'), scope.trim_end_matches('/'));
    strip_prefix(id, scope)
        .is_some_and(|rest| scope.is_empty() || rest.is_empty() || rest.starts_with('/'))
}

/// What follows a beginning, whatever the case of its letters.
fn strip_prefix<'t>(text: &'t str, start: &str) -> Option<&'t str> {
    let (head, rest) = text.split_at_checked(start.len())?;
    head.eq_ignore_ascii_case(start).then_some(rest)
}

/// The name at the end of an id.
fn short(id: &str) -> &str {
    id.trim_end_matches('/')
        .rsplit('/')
        .next()
        .unwrap_or_default()
}

/// The name of a member of a group, which is written as it is or in an object.
fn member_name(child: &Value) -> Option<&str> {
    let own = text(child, "id").or_else(|| text(child, "name"));
    child.as_str().or(own).map(short)
}

/// The scope that an extension resource, such as an exemption, sits on.
pub fn scope_of(extension: &Value) -> Option<String> {
    if let Some(scope) = own_text(extension, "scope") {
        return Some(scope.to_owned());
    }
    let id = text(extension, "id")?;
    let at = id
        .to_ascii_lowercase()
        .rfind("/providers/microsoft.authorization/")?;
    Some(id[..at].to_owned())
}

/// The same for scopes that may be management groups, whose members the hierarchy tells.
pub fn reaches(scope: &str, resource: &Value, hierarchy: &Value) -> bool {
    let Some(id) = text(resource, "id") else {
        return true;
    };
    match strip_prefix(scope.trim_end_matches('/'), GROUPS) {
        Some(_) if hierarchy.is_null() => true,
        Some(group) => ancestors(id, hierarchy)
            .iter()
            .any(|name| name.eq_ignore_ascii_case(group)),
        None => within(id, scope),
    }
}

/// Names of the management groups above a resource, nearest first.
fn ancestors<'v>(id: &str, hierarchy: &'v Value) -> Vec<&'v str> {
    if let Value::Array(items) = hierarchy
        && items.iter().all(Value::is_string)
    {
        return items.iter().filter_map(Value::as_str).map(short).collect();
    }
    let links = links(hierarchy);
    let mut names: Vec<&str> = Vec::new();
    let mut segments = id.split('/').filter(|segment| !segment.is_empty()).skip(1);
    let mut at = segments.next().map(short).unwrap_or_default();
    while names.len() < LEVELS_MAX {
        let Some((_, parent)) = links
            .iter()
            .find(|(child, _)| child.eq_ignore_ascii_case(at))
        else {
            break;
        };
        names.push(parent);
        at = parent;
    }
    names
}

/// Pairs of child and parent, from any form in which a hierarchy is written.
fn links(hierarchy: &Value) -> Vec<(&str, &str)> {
    let mut links = Vec::new();
    let mut groups: Vec<&Value> = hierarchy.as_array().into_iter().flatten().collect();
    for (key, value) in hierarchy.as_object().into_iter().flatten() {
        match value {
            Value::String(parent) => links.push((short(key), short(parent))),
            Value::Array(items) if items.iter().all(Value::is_string) => {
                let children = items.iter().filter_map(Value::as_str);
                links.extend(children.map(|child| (short(child), short(key))));
            }
            Value::Array(items) => groups.extend(items),
            Value::Object(inner) => {
                let pairs = inner.iter().filter_map(|(k, v)| Some((k, v.as_str()?)));
                links.extend(pairs.map(|(child, parent)| (short(child), short(parent))));
            }
            _ => {}
        }
    }
    for group in groups {
        let Some(name) = text(group, "id").or_else(|| text(group, "name")) else {
            continue;
        };
        let parent = text(group, "parent").or_else(|| text(group, "managementGroup"));
        links.extend(parent.map(|parent| (short(name), short(parent))));
        for member in ["children", "subscriptions"] {
            let children = list(group, member);
            links.extend(
                children
                    .iter()
                    .filter_map(member_name)
                    .map(|child| (child, short(name))),
            );
        }
    }
    links
}

/// Whether the assignment takes the resource: its scope, what it leaves out, its selectors.
pub fn assigned(assignment: &Value, resource: &Value, hierarchy: &Value) -> bool {
    let scope = scope_of(assignment).unwrap_or_default();
    let left_out = own_list(assignment, "notScopes")
        .iter()
        .filter_map(Value::as_str);
    let has_id = text(resource, "id").is_some();
    reaches(&scope, resource, hierarchy)
        && !left_out
            .into_iter()
            .any(|scope| has_id && reaches(scope, resource, hierarchy))
        && selected(assignment, resource)
}

/// All selectors inside of one entry, and any one of several entries.
pub fn selected(holder: &Value, resource: &Value) -> bool {
    let entries = own_list(holder, "resourceSelectors");
    entries.is_empty()
        || entries.iter().any(|entry| {
            list(entry, "selectors")
                .iter()
                .all(|selector| selects(selector, resource, None))
        })
}

fn selects(selector: &Value, resource: &Value, reference: Option<&str>) -> bool {
    let place = text(resource, "location").map(location).unwrap_or_default();
    let kind = text(selector, "kind")
        .unwrap_or_default()
        .to_ascii_lowercase();
    let subject = match kind.as_str() {
        "resourcelocation" => place,
        "resourcetype" => resource_type(resource).to_ascii_lowercase(),
        "resourcewithoutlocation" => {
            return place.is_empty() || place == "global";
        }
        "policydefinitionreferenceid" => reference.unwrap_or_default().to_ascii_lowercase(),
        _ => return false,
    };
    let named = |member: &str| {
        let values = list(selector, member).iter().filter_map(Value::as_str);
        values
            .map(|value| match kind.as_str() {
                "resourcelocation" => location(value),
                _ => value.to_ascii_lowercase(),
            })
            .any(|value| value == subject)
    };
    let inside = get(selector, "in").is_none() || named("in");
    inside && !named("notIn")
}

/// The effect that the assignment puts in the place of the definition's.
pub fn overridden<'v>(
    assignment: &'v Value,
    resource: &Value,
    reference: Option<&str>,
) -> Option<&'v str> {
    replaced(assignment, "policyEffect", resource, reference)
}

/// The version that the assignment means for the resource, in the place of its own `definitionVersion`; with a
/// reference, of that member of an initiative.
pub fn overridden_version<'v>(
    assignment: &'v Value,
    resource: &Value,
    reference: Option<&str>,
) -> Option<&'v str> {
    version_overrides(assignment)
        .filter(|entry| of_members(entry) == reference.is_some())
        .find(|entry| takes(entry, resource, reference))
        .and_then(|entry| text(entry, "value"))
}

/// The overrides that choose a version, in their order.
pub fn version_overrides(assignment: &Value) -> impl Iterator<Item = &Value> {
    let entries = own_list(assignment, "overrides").iter();
    entries.filter(|entry| {
        let kind = text(entry, "kind").unwrap_or_default();
        VERSION_KINDS
            .iter()
            .any(|known| kind.eq_ignore_ascii_case(known))
    })
}

/// Whether an override of the version is about members of an initiative, rather than about what is assigned.
pub fn of_members(entry: &Value) -> bool {
    list(entry, "selectors").iter().any(|selector| {
        text(selector, "kind")
            .is_some_and(|kind| kind.eq_ignore_ascii_case("policyDefinitionReferenceId"))
    })
}

/// Whether the selectors of an override take the resource.
pub fn takes(entry: &Value, resource: &Value, reference: Option<&str>) -> bool {
    list(entry, "selectors")
        .iter()
        .all(|selector| selects(selector, resource, reference))
}

/// The value of the first override of the kind whose selectors take the resource.
fn replaced<'v>(
    assignment: &'v Value,
    wanted: &str,
    resource: &Value,
    reference: Option<&str>,
) -> Option<&'v str> {
    own_list(assignment, "overrides").iter().find_map(|entry| {
        let kind = text(entry, "kind").unwrap_or_default();
        let fits = kind.eq_ignore_ascii_case(wanted) && takes(entry, resource, reference);
        fits.then(|| text(entry, "value")).flatten()
    })
}

/// Whether the time named by `expiresOn` is past. A time that cannot be read is past too.
pub fn expired(holder: &Value, now: Timestamp) -> bool {
    own_text(holder, "expiresOn").is_some_and(|text| instant(text).is_none_or(|end| end <= now))
}

/// Whether an exemption or attestation is of this assignment and reference.
pub(crate) fn concerns(holder: &Value, assignment: &Value, reference: Option<&str>) -> bool {
    let wanted = own_text(holder, "policyAssignmentId");
    let id = text(assignment, "id").or_else(|| text(assignment, "name"));
    wanted.zip(id).is_none_or(|(wanted, id)| {
        let tail = |id: &str| folded(id).rsplit('/').next().unwrap_or_default().to_owned();
        match wanted.contains('/') && id.contains('/') {
            true => folded(wanted) == folded(id),
            false => tail(wanted) == tail(id),
        }
    }) && {
        let references = own_list(holder, "policyDefinitionReferenceIds");
        let single = own_text(holder, "policyDefinitionReferenceId");
        let same = |other: &str| reference.is_some_and(|own| own.eq_ignore_ascii_case(other));
        (references.is_empty() || references.iter().filter_map(Value::as_str).any(same))
            && single.is_none_or(|single| single.is_empty() || same(single))
    }
}

/// The exemption that covers the resource, if one does.
pub fn exempt(
    exemptions: &[Value],
    assignment: &Value,
    reference: Option<&str>,
    resource: &Value,
    hierarchy: &Value,
    now: Timestamp,
) -> bool {
    exemptions.iter().any(|exemption| {
        let scope = scope_of(exemption).unwrap_or_default();
        reaches(&scope, resource, hierarchy)
            && !expired(exemption, now)
            && concerns(exemption, assignment, reference)
            && selected(exemption, resource)
    })
}

/// The state that somebody attested for the resource.
pub fn attested<'v>(
    attestations: &'v [Value],
    assignment: &Value,
    reference: Option<&str>,
    resource: &Value,
    now: Timestamp,
) -> Option<&'v str> {
    let id = text(resource, "id").unwrap_or_default();
    let found = attestations.iter().find(|attestation| {
        let subject = own_text(attestation, "resourceId")
            .or_else(|| own_text(attestation, "scope"))
            .map(str::to_owned)
            .or_else(|| {
                let own = text(attestation, "id")?;
                let at = own
                    .to_ascii_lowercase()
                    .rfind("/providers/microsoft.policyinsights/")?;
                Some(own[..at].to_owned())
            });
        subject.is_none_or(|subject| folded(&subject) == folded(id))
            && concerns(attestation, assignment, reference)
            && !expired(attestation, now)
    });
    found.and_then(|attestation| own_text(attestation, "complianceState"))
}
