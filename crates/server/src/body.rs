//! The envelope of a resource in a request body: location, tags, properties, and what must not contradict
//! the path. Types know what is inside `properties`; this module does not.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use wire::{ArmError, ErrorCode, ResourceId};

use crate::errors;

const TAGS_MAX: usize = 50;
const TAG_NAME_MAX: usize = 512;
const TAG_VALUE_MAX: usize = 256;

/// A body that is an object, with what every resource has taken out and checked.
#[derive(Debug)]
pub struct ResourceBody {
    pub location: Option<String>,
    pub tags: BTreeMap<String, String>,
    pub properties: Map<String, Value>,
    pub identity: Option<Value>,
    pub plan: Option<Value>,
    pub zones: Option<Value>,
    pub sku: Option<Value>,
}

impl ResourceBody {
    pub fn parse(body: &Value, id: &ResourceId) -> Result<ResourceBody, ArmError> {
        let Value::Object(body) = body else {
            let message = "The request content was invalid: a JSON object is expected.";
            return Err(ArmError::new(ErrorCode::InvalidRequestContent, message));
        };
        let name = text(body, "name")?;
        if name.is_some_and(|name| {
            !id.name()
                .eq_ignore_ascii_case(name.rsplit('/').next().unwrap_or(name))
        }) {
            let message =
                "The resource name in the request content does not match the one in the path.";
            return Err(
                ArmError::new(ErrorCode::InvalidRequestContent, message).with_target("name")
            );
        }
        let properties = match body.get("properties") {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(properties)) => properties.clone(),
            Some(_) => return Err(wrong_type("properties", "an object")),
        };
        let other = |key: &str| body.get(key).filter(|value| !value.is_null()).cloned();
        Ok(ResourceBody {
            location: text(body, "location")?.map(str::to_string),
            tags: tags(body.get("tags"))?,
            properties,
            identity: other("identity"),
            plan: other("plan"),
            zones: other("zones"),
            sku: other("sku"),
        })
    }

    /// The location, which a new resource must have.
    pub fn need_location(&self) -> Result<&str, ArmError> {
        match &self.location {
            Some(location) if !location.trim().is_empty() => Ok(location),
            _ => Err(errors::invalid(
                "location",
                "The location property is required for this definition.",
            )),
        }
    }
}

fn text<'a>(body: &'a Map<String, Value>, key: &str) -> Result<Option<&'a str>, ArmError> {
    match body.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(wrong_type(key, "a string")),
    }
}

pub fn wrong_type(target: &str, expected: &str) -> ArmError {
    ArmError::new(
        ErrorCode::InvalidRequestContent,
        format!("The request content was invalid: '{target}' must be {expected}."),
    )
    .with_target(target)
}

pub fn tags(value: Option<&Value>) -> Result<BTreeMap<String, String>, ArmError> {
    let tags = match value {
        None | Some(Value::Null) => return Ok(BTreeMap::new()),
        Some(Value::Object(tags)) => tags,
        Some(_) => return Err(wrong_type("tags", "an object of strings")),
    };
    if tags.len() > TAGS_MAX {
        let message = format!("A resource has at most {TAGS_MAX} tags.");
        return Err(errors::invalid("tags", message));
    }
    let mut kept: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in tags {
        let Value::String(value) = value else {
            return Err(wrong_type(&format!("tags.{name}"), "a string"));
        };
        if name.is_empty() || name.len() > TAG_NAME_MAX || value.len() > TAG_VALUE_MAX {
            let message = format!(
                "A tag's name has 1 to {TAG_NAME_MAX} characters and its value at most {TAG_VALUE_MAX}."
            );
            return Err(errors::invalid("tags", message));
        }
        if kept.keys().any(|known| known.eq_ignore_ascii_case(name)) {
            let message =
                format!("The tag '{name}' is given twice; tag names do not differ by case.");
            return Err(errors::invalid("tags", message));
        }
        kept.insert(name.clone(), value.clone());
    }
    Ok(kept)
}

/// Reads `value` as a wire type, so that a wrong type inside is told with its place.
pub fn typed<T: serde::de::DeserializeOwned>(
    properties: &Map<String, Value>,
) -> Result<T, ArmError> {
    serde_json::from_value(Value::Object(properties.clone())).map_err(|error| {
        ArmError::new(
            ErrorCode::InvalidRequestContent,
            format!("The request content was invalid and could not be deserialized: '{error}'."),
        )
        .with_target("properties")
    })
}

/// Carries over what the client left out or sent empty: clients' updates drop what they do not know.
pub fn keep(properties: &mut Map<String, Value>, old: Option<&Map<String, Value>>, names: &[&str]) {
    for name in names {
        let given = match properties.get(*name) {
            None | Some(Value::Null) => false,
            Some(Value::Object(value)) => !value.is_empty(),
            Some(_) => true,
        };
        if given {
            continue;
        }
        match old.and_then(|old| old.get(*name)) {
            Some(value) => properties.insert((*name).to_string(), value.clone()),
            None => properties.remove(*name),
        };
    }
}

/// Puts back what only the server writes, whatever the client sent.
pub fn read_only(
    properties: &mut Map<String, Value>,
    old: Option<&Map<String, Value>>,
    names: &[&str],
) {
    for name in names {
        match old.and_then(|old| old.get(*name)) {
            Some(value) => properties.insert((*name).to_string(), value.clone()),
            None => properties.remove(*name),
        };
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(body: Value, expected: Result<(), &str>) {
        let id = ResourceId::parse("/subscriptions/s/resourceGroups/g").unwrap();
        let seen = ResourceBody::parse(&body, &id);
        match (seen, expected) {
            (Ok(_), Ok(())) => {}
            (Err(error), Err(part)) => assert!(error.message.contains(part), "{error}"),
            (seen, expected) => panic!("{body}: {seen:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn envelopes() {
        check(json!({}), Ok(()));
        check(
            json!({"name": "G", "tags": {"a": "b"}, "properties": null}),
            Ok(()),
        );
        check(json!([]), Err("object is expected"));
        check(json!(null), Err("object is expected"));
        check(json!({"name": "other"}), Err("does not match"));
        check(json!({"location": 1}), Err("'location' must be a string"));
        check(
            json!({"properties": []}),
            Err("'properties' must be an object"),
        );
        check(json!({"tags": {"a": 1}}), Err("'tags.a' must be a string"));
        check(json!({"tags": {"a": "1", "A": "2"}}), Err("given twice"));
        check(json!({"tags": {"": "1"}}), Err("1 to 512"));
        let many: Map<String, Value> = (0..51).map(|i| (i.to_string(), json!("x"))).collect();
        check(json!({"tags": many}), Err("at most 50"));
    }

    #[test]
    fn what_clients_omit_is_kept_and_what_is_ours_stays() {
        let old = json!({"identifier": {"uniqueName": "u"}, "state": "Succeeded", "x": 1});
        let mut new = json!({"identifier": {}, "state": "hacked", "x": 2});
        let (old, new) = (old.as_object(), new.as_object_mut().unwrap());
        keep(new, old, &["identifier", "x", "absent"]);
        read_only(new, old, &["state"]);
        assert_eq!(
            Value::Object(new.clone()),
            json!({"identifier": {"uniqueName": "u"}, "state": "Succeeded", "x": 2})
        );
    }
}
