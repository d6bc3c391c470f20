//! What differs between what the folder says and what the server holds.
//!
//! Only what the folder says is compared: fields that the server adds are its own. Lists of named
//! items are compared by name, so that a step moved or added shows as that.

use serde_json::Value;

use crate::factory::body::sha256;

/// Parts of policies, which mean what they say as a whole: one member more or less is a change.
const WHOLE: &[&str] = &[
    "policyRule",
    "parameters",
    "nonComplianceMessages",
    "notScopes",
];
/// Text longer than this, or of several lines, is shown by its digest.
const SHOWN_CHARS_MAX: usize = 60;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldChange {
    /// `customize[harden].inline`
    pub field: String,
    /// Nothing where the field is new.
    pub old: Option<String>,
    /// Nothing where it goes away.
    pub new: Option<String>,
}

pub fn differences(desired: &Value, live: &Value) -> Vec<FieldChange> {
    let mut changes = Vec::new();
    compare("", desired, live, &mut changes);
    without_checksums(changes)
}

/// A checksum that moves with its content says nothing new.
fn without_checksums(changes: Vec<FieldChange>) -> Vec<FieldChange> {
    let contents: Vec<String> = changes
        .iter()
        .filter_map(|change| change.field.strip_suffix("Uri"))
        .filter_map(|field| field.rsplit_once('.'))
        .map(|(step, _)| format!("{step}.sha256Checksum"))
        .collect();
    changes
        .into_iter()
        .filter(|change| !contents.contains(&change.field))
        .collect()
}

fn compare(field: &str, desired: &Value, live: &Value, changes: &mut Vec<FieldChange>) {
    match (desired, live) {
        _ if WHOLE.contains(&field) => whole(field, desired, live, changes),
        (Value::Object(wanted), Value::Object(held)) => {
            for (key, value) in wanted {
                let inner = join(field, key);
                compare(
                    &inner,
                    value,
                    held.get(key).unwrap_or(&Value::Null),
                    changes,
                );
            }
        }
        (Value::Object(wanted), Value::Null) if !wanted.is_empty() => {
            for (key, value) in wanted {
                compare(&join(field, key), value, &Value::Null, changes);
            }
        }
        (Value::Array(wanted), Value::Array(held)) => lists(field, wanted, held, changes),
        _ if same(field, desired, live) => {}
        _ => changes.push(FieldChange {
            field: field.to_owned(),
            old: shown(live),
            new: shown(desired),
        }),
    }
}

/// Both sides in full: what only the server has is a difference, too.
fn whole(field: &str, desired: &Value, live: &Value, changes: &mut Vec<FieldChange>) {
    match (desired, live) {
        (Value::Object(wanted), Value::Object(held)) => {
            let gone = held.keys().filter(|key| !wanted.contains_key(*key));
            for key in wanted.keys().chain(gone) {
                let side = |object: &serde_json::Map<String, Value>| {
                    object.get(key).cloned().unwrap_or_default()
                };
                whole(&join(field, key), &side(wanted), &side(held), changes);
            }
        }
        (Value::Array(wanted), Value::Array(held)) if wanted.len() == held.len() => {
            for (index, (wanted, held)) in wanted.iter().zip(held).enumerate() {
                whole(&format!("{field}[{index}]"), wanted, held, changes);
            }
        }
        // Case means something in a policy's values; an id is the only text here that has none.
        _ if same(field.split('[').next().unwrap_or(field), desired, live) => {}
        _ => changes.push(FieldChange {
            field: field.to_owned(),
            old: shown(live),
            new: shown(desired),
        }),
    }
}

/// `properties.` is ARM's envelope, not a word of the folder.
fn join(field: &str, key: &str) -> String {
    match (field, key) {
        ("", "properties") => String::new(),
        ("", key) => key.to_owned(),
        (field, key) => format!("{field}.{key}"),
    }
}

fn lists(field: &str, wanted: &[Value], held: &[Value], changes: &mut Vec<FieldChange>) {
    let names = |items: &[Value]| items.iter().map(name_of).collect::<Option<Vec<_>>>();
    let (Some(wanted_names), Some(held_names)) = (names(wanted), names(held)) else {
        if wanted.len() != held.len() || !wanted.iter().zip(held).all(|(a, b)| includes(a, b)) {
            let (old, new) = (shown(&held.into()), shown(&wanted.into()));
            changes.push(FieldChange {
                field: field.to_owned(),
                old,
                new,
            });
        }
        return;
    };
    for (item, name) in wanted.iter().zip(&wanted_names) {
        let inner = format!("{field}[{name}]");
        match held_names
            .iter()
            .position(|held| held.eq_ignore_ascii_case(name))
        {
            Some(at) => compare(&inner, item, &held[at], changes),
            None => changes.push(FieldChange {
                field: inner,
                old: None,
                new: Some("added".into()),
            }),
        }
    }
    let missing = |name: &&String, others: &[String]| {
        !others.iter().any(|other| other.eq_ignore_ascii_case(name))
    };
    for name in held_names
        .iter()
        .filter(|name| missing(name, &wanted_names))
    {
        changes.push(FieldChange {
            field: format!("{field}[{name}]"),
            old: Some("removed".into()),
            new: None,
        });
    }
    let kept = |names: &[String], others: &[String]| -> Vec<String> {
        let kept = names.iter().filter(|name| !missing(name, others));
        kept.map(|name| name.to_lowercase()).collect()
    };
    if kept(&wanted_names, &held_names) != kept(&held_names, &wanted_names) {
        let order = |names: &[String]| Some(names.join(", "));
        changes.push(FieldChange {
            field: format!("{field} (order)"),
            old: order(&held_names),
            new: order(&wanted_names),
        });
    }
}

fn name_of(item: &Value) -> Option<String> {
    let name = item.get("name").or_else(|| item.get("runOutputName"))?;
    name.as_str().map(str::to_owned)
}

fn includes(desired: &Value, live: &Value) -> bool {
    differences(desired, live).is_empty()
}

/// Equal as ARM compares: regions without case and blanks, ids without case.
fn same(field: &str, desired: &Value, live: &Value) -> bool {
    let (Some(wanted), Some(held)) = (desired.as_str(), live.as_str()) else {
        let empty = |value: &Value| match value {
            Value::Null => true,
            Value::Array(items) => items.is_empty(),
            Value::Object(fields) => fields.is_empty(),
            _ => false,
        };
        return desired == live || (empty(desired) && empty(live));
    };
    let last = field.rsplit('.').next().unwrap_or(field);
    match last {
        "location" => wire::Location::new(wanted) == wire::Location::new(held),
        "galleryImageId" => wanted.eq_ignore_ascii_case(held),
        _ if wanted.starts_with("/subscriptions/") || wanted.starts_with("/providers/") => {
            wanted.eq_ignore_ascii_case(held)
        }
        _ if last.ends_with(']') || (last == "name" && field.contains("targetRegions")) => {
            wanted.eq_ignore_ascii_case(held)
        }
        _ => wanted == held,
    }
}

/// A value on one line; contents of files by size and digest.
fn shown(value: &Value) -> Option<String> {
    let text = match value {
        Value::Null => return None,
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    if let Some(encoded) = text
        .strip_prefix("data:")
        .and_then(|rest| rest.split_once(";base64,"))
    {
        use base64::Engine;
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(encoded.1)
            .unwrap_or_default();
        return Some(digest(&bytes));
    }
    if text.chars().count() > SHOWN_CHARS_MAX || text.contains('\n') {
        return Some(digest(text.as_bytes()));
    }
    Some(text)
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}… ({} bytes)", &sha256(bytes)[..12], bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(desired: Value, live: Value, expected: &[&str]) {
        let found: Vec<String> = differences(&desired, &live)
            .into_iter()
            .map(|change| {
                let side = |text: Option<String>| text.unwrap_or_else(|| "-".into());
                format!(
                    "{}: {} -> {}",
                    change.field,
                    side(change.old),
                    side(change.new)
                )
            })
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn only_what_the_folder_says_is_compared() {
        check(
            json!({"location": "north", "properties": {"zones": ["1"]}}),
            json!({"location": "North", "etag": 1, "properties": {"zones": ["1"], "provisioningState": "Succeeded"}}),
            &[],
        );
        check(json!({"tags": {}}), json!({}), &[]);
    }

    #[test]
    fn fields_have_paths_and_both_sides() {
        check(
            json!({"properties": {"identifier": {"sku": "b"}, "size": 3, "new": true}}),
            json!({"properties": {"identifier": {"sku": "a"}, "size": 2}}),
            &["identifier.sku: a -> b", "size: 2 -> 3", "new: - -> true"],
        );
    }

    #[test]
    fn policies_are_compared_whole() {
        check(
            json!({"properties": {"parameters": {}, "policyRule": {"if": {"allOf": [{"field": "a"}, {"field": "b"}]}, "then": {"effect": "audit"}}}}),
            json!({"properties": {"parameters": {"old": {"type": "String"}}, "policyRule": {"if": {"allOf": [{"field": "a"}, {"field": "b", "exists": true}]}, "then": {"effect": "Audit"}}}}),
            &[
                "parameters.old: {\"type\":\"String\"} -> -",
                "policyRule.if.allOf[1].exists: true -> -",
                "policyRule.then.effect: Audit -> audit",
            ],
        );
        check(
            json!({"properties": {"parameters": {}, "notScopes": ["/subscriptions/A"]}}),
            json!({"properties": {"notScopes": ["/subscriptions/a"]}}),
            &[],
        );
    }

    #[test]
    fn steps_are_compared_by_name() {
        check(
            json!({"properties": {"customize": [{"name": "b", "x": 1}, {"name": "a", "x": 1}, {"name": "n"}]}}),
            json!({"properties": {"customize": [{"name": "a", "x": 1, "extra": 2}, {"name": "b", "x": 2}, {"name": "o"}]}}),
            &[
                "customize[b].x: 2 -> 1",
                "customize[n]: - -> added",
                "customize[o]: removed -> -",
                "customize (order): a, b, o -> b, a, n",
            ],
        );
    }

    #[test]
    fn contents_are_shown_by_digest() {
        check(
            json!({"sourceUri": "data:;base64,aGVsbG8="}),
            json!({"sourceUri": "data:;base64,aGVsbA=="}),
            &["sourceUri: sha256:0ebdc3317b75… (4 bytes) -> sha256:2cf24dba5fb0… (5 bytes)"],
        );
        check(
            json!({"inline": ["a", "b"]}),
            json!({"inline": ["a"]}),
            &["inline: [\"a\"] -> [\"a\",\"b\"]"],
        );
    }
}
