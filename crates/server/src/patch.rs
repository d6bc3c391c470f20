//! PATCH for every type that has no rules of its own for it: what is stored, changed by what is sent, goes the way of a
//! PUT, through the same rights, policies and checks.
//!
//! As RFC 7396 has it, except that `tags` are replaced as a whole, as Azure's services do.

use access::Permit;
use catalog::{CatalogError, Resource};
use serde_json::{Map, Value};
use wire::{ArmError, ErrorCode};

use crate::errors;
use crate::operation::Operation;
use crate::resources::present;
use crate::state::Server;

/// What the server says about a resource; sending it changes nothing.
const OURS: [&str; 6] = ["id", "name", "type", "etag", "systemData", "managedBy"];
/// Namespaces whose resources are made anew rather than changed: rights and policies.
const WHOLE: [&str; 3] = [
    "Microsoft.Authorization/",
    "Microsoft.PolicyInsights/",
    "Microsoft.Management/",
];

/// Whether a row for PUT answers PATCH too.
pub fn fits(row: &Operation) -> bool {
    !WHOLE
        .iter()
        .any(|namespace| row.kind.starts_with(namespace))
}

/// The whole body that a PUT would have, and the resource that it was made from.
pub async fn whole(
    server: &Server,
    permit: &Permit,
    patch: Value,
) -> Result<(Value, Resource), ArmError> {
    let Value::Object(patch) = patch else {
        let message = "The request content was invalid: a JSON object is expected.";
        return Err(ArmError::new(ErrorCode::InvalidRequestContent, message));
    };
    let stored = match server.catalog.get(&permit.to_read_own()).await {
        Ok(stored) => stored,
        Err(CatalogError::NotFound { id }) => {
            return Err(errors::catalog(CatalogError::NotFound { id }));
        }
        Err(error) => return Err(errors::catalog(error)),
    };
    let mut whole = present(&stored);
    if let Value::Object(members) = &mut whole {
        members.retain(|name, _| !OURS.contains(&name.as_str()));
        for (name, value) in patch {
            match name.as_str() {
                "tags" if value.is_null() => {}
                "tags" => drop(members.insert(name, value)),
                _ => merge(members, name, value),
            }
        }
    }
    Ok((whole, stored))
}

fn merge(into: &mut Map<String, Value>, name: String, change: Value) {
    match (into.get_mut(&name), change) {
        (_, Value::Null) => drop(into.shift_remove(&name)),
        (Some(Value::Object(old)), Value::Object(changes)) => {
            for (name, change) in changes {
                merge(old, name, change);
            }
        }
        (_, Value::Object(changes)) => {
            let mut new = Map::new();
            for (name, change) in changes {
                merge(&mut new, name, change);
            }
            into.insert(name, Value::Object(new));
        }
        (_, other) => drop(into.insert(name, other)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn members_are_merged_and_null_takes_away() {
        let check = |old: Value, patch: Value, expected: Value| {
            let mut members = old.as_object().cloned().unwrap();
            for (name, change) in patch.as_object().cloned().unwrap() {
                merge(&mut members, name, change);
            }
            assert_eq!(Value::Object(members), expected);
        };
        check(
            json!({ "a": 1, "b": 2 }),
            json!({ "b": 3 }),
            json!({ "a": 1, "b": 3 }),
        );
        check(
            json!({ "a": { "x": 1, "y": 2 } }),
            json!({ "a": { "y": null, "z": 3 } }),
            json!({ "a": { "x": 1, "z": 3 } }),
        );
        check(
            json!({ "a": [1, 2] }),
            json!({ "a": [3] }),
            json!({ "a": [3] }),
        );
        check(
            json!({ "a": 1 }),
            json!({ "a": { "b": null, "c": 1 } }),
            json!({ "a": { "c": 1 } }),
        );
    }
}
