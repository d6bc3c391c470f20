//! `az resource list`: all tracked resources of a subscription or group, whatever their type.

use std::sync::Arc;

use serde_json::{Value, json};
use wire::{ArmError, ResourceId};

use super::{Reply, page_reply, page_request};
use crate::errors;
use crate::operation::Call;
use crate::state::Server;

pub const KIND: &str = "Microsoft.Resources/resources";
const TERMS_MAX: usize = 8;

pub async fn all(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let filter = terms(call.query.get("$filter").unwrap_or_default())?;
    let page = server
        .catalog
        .list_below(&call.permit, page_request(&call)?)
        .await
        .map_err(errors::catalog)?;
    let tracked = page.resources.iter().filter(|one| one.location.is_some());
    let value: Vec<Value> = tracked
        .filter(|one| !one.id.resource_type().is(super::groups::KIND))
        .filter(|one| fits(&filter, &one.id, one.location.as_deref(), &one.tags))
        .map(|one| {
            json!({
                "id": one.id.to_string(),
                "name": one.id.name(),
                "type": one.id.resource_type().to_string(),
                "location": one.location,
                "tags": one.tags,
                "createdTime": one.system.created_at.to_string(),
                "changedTime": one.system.changed_at.to_string(),
                "provisioningState": one.state.as_str(),
            })
        })
        .collect();
    Ok(page_reply(&call, value, page.next))
}

/// `name eq 'value' and …`; names in lower case.
fn terms(text: &str) -> Result<Vec<(String, String)>, ArmError> {
    let bad = || {
        errors::invalid(
            "$filter",
            "The filter must be terms of the form: name eq 'value', joined by 'and'; the names are \
             resourceGroup, resourceType, location, name, tagName and tagValue.",
        )
    };
    let mut terms = Vec::new();
    for term in text.split(" and ").filter(|_| !text.trim().is_empty()) {
        let (name, value) = term.split_once(" eq ").ok_or_else(bad)?;
        let value = value
            .trim()
            .strip_prefix('\'')
            .and_then(|value| value.strip_suffix('\''));
        let name = name.trim().to_lowercase();
        let known = [
            "resourcegroup",
            "resourcetype",
            "location",
            "name",
            "tagname",
            "tagvalue",
        ];
        if !known.contains(&name.as_str()) || terms.len() == TERMS_MAX {
            return Err(bad());
        }
        terms.push((name, value.ok_or_else(bad)?.replace("''", "'")));
    }
    Ok(terms)
}

fn fits(
    terms: &[(String, String)],
    id: &ResourceId,
    location: Option<&str>,
    tags: &std::collections::BTreeMap<String, String>,
) -> bool {
    terms.iter().all(|(name, value)| match name.as_str() {
        "resourcegroup" => id
            .resource_group()
            .is_some_and(|group| group.eq_ignore_ascii_case(value)),
        "resourcetype" => id.resource_type().is(value),
        "location" => location
            .is_some_and(|known| wire::Location::new(known) == wire::Location::new(value.as_str())),
        "name" => id.name().eq_ignore_ascii_case(value),
        "tagname" => tags.keys().any(|tag| tag.eq_ignore_ascii_case(value)),
        _ => tags.values().any(|tag| tag == value),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters() {
        let id = "/subscriptions/11111111-1111-4111-8111-111111111111/resourceGroups/rg/providers/Microsoft.Compute/galleries/g";
        let id = ResourceId::parse(id).unwrap();
        let tags = [("a".to_string(), "1".to_string())].into();
        let check = |text: &str, expected: Option<bool>| {
            let seen = terms(text)
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
        check("tagName eq 'a' and tagValue eq '1'", Some(true));
        check("tagName eq 'b'", Some(false));
        check("location eq 'North'", Some(true));
        check("substringof('x', name)", None);
        check("size eq '1'", None);
    }
}
