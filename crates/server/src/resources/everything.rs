//! `az resource list`: all tracked resources of a subscription or group, whatever their type.

use std::sync::Arc;

use catalog::{PageRequest, Resource};
use serde_json::{Value, json};
use wire::{ArmError, ResourceId};

use super::{Reply, page_reply, page_request};
use crate::errors;
use crate::filter::{self, Relation, Term};
use crate::operation::Call;
use crate::state::Server;

pub const KIND: &str = "Microsoft.Resources/resources";
/// Resources looked at for one page; the next link goes on where it ended.
const LOOKED_AT_MAX: usize = 10_000;
const NAMES: [&str; 6] = [
    "resourcegroup",
    "resourcetype",
    "location",
    "name",
    "tagname",
    "tagvalue",
];

pub async fn all(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let filter = filter::terms(call.query.get("$filter").unwrap_or_default(), &NAMES)?;
    let asked = page_request(&call)?;
    let limit = asked.limit();
    let mut value = Vec::new();
    let mut looked_at = 0;
    let mut page = asked;
    let next = loop {
        let found = server
            .catalog
            .list_below(&call.permit, page)
            .await
            .map_err(errors::catalog)?;
        looked_at += found.resources.len();
        let tracked = found.resources.iter().filter(|one| one.location.is_some());
        let fitting = tracked
            .filter(|one| !one.id.resource_type().is(super::groups::KIND))
            .filter(|one| fits(&filter, &one.id, one.location.as_deref(), &one.tags));
        value.extend(fitting.map(|one| shown(&call, one)));
        match found.next {
            // No more than what is missing is asked for, so a page never holds too many.
            Some(next) if value.len() < limit && looked_at < LOOKED_AT_MAX => {
                page = PageRequest::first(limit - value.len()).after(next);
            }
            next => break next,
        }
    };
    Ok(page_reply(&call, value, next))
}

/// As generic lists show a resource; what `$expand` may ask for is left out unless it does.
fn shown(call: &Call, one: &Resource) -> Value {
    let mut shown = json!({
        "id": one.id.to_string(),
        "name": one.id.name(),
        "type": one.id.resource_type().to_string(),
        "location": one.location,
        "tags": one.tags,
    });
    for (name, value) in [
        ("createdTime", one.system.created_at.to_string()),
        ("changedTime", one.system.changed_at.to_string()),
        ("provisioningState", one.state.as_str().to_owned()),
    ] {
        if call.query.expands(name) {
            shown[name] = value.into();
        }
    }
    for name in ["identity", "sku", "kind", "plan", "zones", "managedBy"] {
        if let Some(value) = one.extra.get(name) {
            shown[name] = value.clone();
        }
    }
    shown
}

/// A tag's name and value, where both are asked for, are those of one tag.
fn fits(
    terms: &[Term],
    id: &ResourceId,
    location: Option<&str>,
    tags: &std::collections::BTreeMap<String, String>,
) -> bool {
    let tag_value = terms.iter().find(|term| term.name == "tagvalue");
    terms.iter().all(|term| {
        let holds = |text: &str| {
            let (text, value) = (text.to_lowercase(), term.value.to_lowercase());
            match term.relation {
                Relation::Equal => text == value,
                Relation::NotEqual => text != value,
                Relation::Contains => text.contains(&value),
                Relation::StartsWith => text.starts_with(&value),
                Relation::AtLeast | Relation::AtMost => false,
            }
        };
        match term.name.as_str() {
            "resourcegroup" => id.resource_group().is_some_and(holds),
            "resourcetype" => holds(id.resource_type().as_str()),
            "location" => {
                let folded = wire::Location::new(term.value.as_str());
                match term.relation {
                    Relation::Equal => {
                        location.is_some_and(|known| wire::Location::new(known) == folded)
                    }
                    _ => location.is_some_and(holds),
                }
            }
            "name" => holds(id.name()),
            "tagname" => tags.iter().any(|(tag, value)| {
                holds(tag) && tag_value.is_none_or(|asked| asked.value == *value)
            }),
            _ => tags.values().any(|tag| *tag == term.value),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters() {
        let id = "/subscriptions/11111111-1111-4111-8111-111111111111/resourceGroups/rg/providers/Microsoft.Compute/galleries/g";
        let id = ResourceId::parse(id).unwrap();
        let tags = [("a", "1"), ("b", "2")].map(|(k, v)| (k.to_string(), v.to_string()));
        let tags = tags.into();
        let check = |text: &str, expected: Option<bool>| {
            let seen = filter::terms(text, &NAMES)
                .ok()
                .map(|terms| fits(&terms, &id, Some("north"), &tags));
            assert_eq!(seen, expected, "{text}");
        };
        check("", Some(true));
        check(
            "resourceGroup eq 'RG' and resourceType eq 'microsoft.compute/galleries'",
            Some(true),
        );
        check("resourceType eq 'Microsoft.Compute/images'", Some(false));
        check("resourceType ne 'Microsoft.Compute/images'", Some(true));
        check("tagName eq 'a' and tagValue eq '1'", Some(true));
        check("tagName eq 'a' and tagValue eq '2'", Some(false));
        check("tagName eq 'c'", Some(false));
        check("startswith(tagName, 'A')", Some(true));
        check("location eq 'North'", Some(true));
        check("substringof('G', name)", Some(true));
        check("substringof('x', name)", Some(false));
        check("size eq '1'", None);
    }
}
