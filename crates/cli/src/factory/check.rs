//! One document against the schema: every key, every value, every reference, every file.
//!
//! The checker interprets the JSON Schema that the types produce, so it knows exactly the keywords
//! that schemars writes for them (a test holds that) and reports every fault of a document at its
//! place instead of stopping at the first, as serde must.

use serde_json::{Map, Value};

use super::content::wrong_content;
use super::folder::Folder;
use super::names::{Names, Unresolved};
use super::problem::{Place, Problems, nearest, one_of};
use super::rules::{FILE_KEY, REFERENCE_KEY, RULE_KEY, rule};
use super::tree::{Key, Node, Position, Tree};

pub struct Checker<'a> {
    pub schema: &'a Value,
    pub names: &'a Names,
    pub folder: &'a Folder,
    pub problems: &'a mut Problems,
}

/// The part of the schema that a value is held against.
#[derive(Clone, Copy)]
struct Against<'a> {
    schema: &'a Value,
    /// What the value is called in messages: `Gallery`, `name`.
    label: &'a str,
}

impl Checker<'_> {
    pub fn document(&mut self, place: &Place, node: &Node) {
        let schema = self.schema;
        self.node(
            place,
            Against {
                schema,
                label: "document",
            },
            node,
        );
    }

    fn report(&mut self, place: &Place, at: Position, what: String, right: Option<String>) {
        let place = Place {
            file: place.file.clone(),
            at,
        };
        self.problems.push(place, what, right);
    }

    fn node(&mut self, place: &Place, against: Against<'_>, node: &Node) {
        let root = self.schema;
        let (schema, label) = (resolve(root, against.schema), against.label);
        let against = Against { schema, label };
        if let Some(words) = words(schema) {
            return self.word(place, against, &words, node);
        }
        if let Some(variants) = schema.get("oneOf").and_then(Value::as_array) {
            return self.tagged(place, against, variants, node);
        }
        match (type_of(schema), &node.value) {
            ("object", Tree::Map(entries)) => self.map(place, against, entries, node.at),
            ("array", Tree::List(items)) => self.list(place, against, items, node.at),
            ("string", Tree::Text(text)) => self.text(place, against, text, node.at),
            ("integer" | "number", Tree::Int(number)) => {
                self.number(place, against, *number as f64, node.at);
            }
            ("number", Tree::Float(number)) => self.number(place, against, *number, node.at),
            ("boolean", Tree::Bool(_)) => {}
            (expected, _) => {
                let right = right_type(expected, schema, node);
                let what = format!(
                    "`{label}` must be {}, not {}",
                    type_name(expected),
                    node.describe()
                );
                self.report(place, node.at, what, Some(right));
            }
        }
    }

    /// A map whose `kind` or `type` says which of several shapes it has.
    fn tagged(&mut self, place: &Place, against: Against<'_>, variants: &[Value], node: &Node) {
        let Some((tag, shapes)) = variants_by_tag(variants) else {
            return self.one_key(place, against, variants, node);
        };
        let label = against.label;
        let all = one_of(shapes.iter().map(|(name, _)| *name));
        let Tree::Map(_) = node.value else {
            let what = format!("`{label}` must be a map of keys, not {}", node.describe());
            return self.report(
                place,
                node.at,
                what,
                Some(format!("start with `{tag}: …`: {all}")),
            );
        };
        let Some(value) = node.get(tag) else {
            let what = format!("`{tag}` is missing");
            return self.report(place, node.at, what, Some(format!("`{tag}` is {all}")));
        };
        let written = value.text().unwrap_or("");
        match shapes.iter().find(|(name, _)| *name == written) {
            Some((name, shape)) => self.node(
                place,
                Against {
                    schema: shape,
                    label: name,
                },
                node,
            ),
            None => {
                let what = format!("unknown `{tag}`: {}", value.describe());
                let near = nearest(written, shapes.iter().map(|(name, _)| *name));
                let right = did_you_mean(near, &format!("`{tag}` is {all}"));
                self.report(place, value.at, what, Some(right));
            }
        }
    }

    /// A map with one key, which says what its value is: `gallery: golden`.
    fn one_key(&mut self, place: &Place, against: Against<'_>, variants: &[Value], node: &Node) {
        let label = against.label;
        let shapes: Vec<(&str, &Value)> = variants.iter().filter_map(only_property).collect();
        let all = format!(
            "it has one of {}",
            one_of(shapes.iter().map(|(key, _)| *key))
        );
        let Tree::Map(entries) = &node.value else {
            let what = format!(
                "`{label}` must be a map of one key, not {}",
                node.describe()
            );
            return self.report(place, node.at, what, Some(all));
        };
        if entries.is_empty() {
            let what = format!("`{label}` has no key");
            return self.report(place, node.at, what, Some(all));
        }
        for (key, value) in entries {
            match shapes.iter().find(|(name, _)| *name == key.text) {
                Some((name, schema)) if value.value != Tree::Null => {
                    let against = Against {
                        schema,
                        label: name,
                    };
                    self.node(place, against, value);
                }
                Some((name, _)) => {
                    let what = format!("`{name}` of `{label}` has no value");
                    self.report(place, key.at, what, None);
                }
                None => {
                    let near = nearest(&key.text, shapes.iter().map(|(name, _)| *name));
                    let what = format!("unknown key `{}` in `{label}`", key.text);
                    self.report(place, key.at, what, Some(did_you_mean(near, &all)));
                }
            }
        }
        if entries.len() > 1 {
            let (second, _) = &entries[1];
            let what = format!("`{label}` has {} keys", entries.len());
            self.report(place, second.at, what, Some(all));
        }
    }

    fn word(&mut self, place: &Place, against: Against<'_>, words: &[&str], node: &Node) {
        let written = node.text().unwrap_or("");
        if words.contains(&written) {
            return;
        }
        let what = format!("`{}` cannot be {}", against.label, node.describe());
        let all = format!("it is {}", one_of(words.iter().copied()));
        let right = did_you_mean(nearest(written, words.iter().copied()), &all);
        self.report(place, node.at, what, Some(right));
    }

    fn map(&mut self, place: &Place, against: Against<'_>, entries: &[(Key, Node)], at: Position) {
        let (schema, label) = (against.schema, against.label);
        let none = Map::new();
        let properties = schema
            .get("properties")
            .and_then(Value::as_object)
            .unwrap_or(&none);
        for (key, value) in entries {
            if let Some(property) = properties.get(&key.text) {
                // A key without a value counts as left out; `required` below sees to the rest.
                if value.value != Tree::Null {
                    self.node(
                        place,
                        Against {
                            schema: property,
                            label: &key.text,
                        },
                        value,
                    );
                }
            } else if schema.get("additionalProperties") == Some(&Value::Bool(true)) {
                // Any value: what it may be is not this language's to say.
            } else if let Some(any @ Value::Object(_)) = schema.get("additionalProperties") {
                self.node(
                    place,
                    Against {
                        schema: any,
                        label: &key.text,
                    },
                    value,
                );
            } else {
                let known = properties.keys().map(String::as_str);
                let all = format!("keys of `{label}`: {}", list(known.clone()));
                let near = nearest(&key.text, known);
                let what = format!("unknown key `{}` in `{label}`", key.text);
                self.report(place, key.at, what, Some(did_you_mean(near, &all)));
            }
        }
        let required = schema.get("required").and_then(Value::as_array);
        for key in required.into_iter().flatten().filter_map(Value::as_str) {
            let given = entries.iter().find(|(found, _)| {
                found.text == key && found.text != "kind" && found.text != "type"
            });
            let empty_at = given.filter(|(_, value)| value.value == Tree::Null);
            if key == "kind" || key == "type" || (given.is_some() && empty_at.is_none()) {
                continue;
            }
            let at = empty_at.map_or(at, |(key, _)| key.at);
            let what = match empty_at {
                Some(_) => format!("`{key}` of `{label}` has no value"),
                None => format!("`{key}` is missing in `{label}`"),
            };
            let right = properties
                .get(key)
                .map(|property| self.expected(property, key));
            self.report(place, at, what, right);
        }
    }

    fn list(&mut self, place: &Place, against: Against<'_>, items: &[Node], at: Position) {
        let (schema, label) = (against.schema, against.label);
        let size = items.len() as u64;
        let bound = |key: &str| schema.get(key).and_then(Value::as_u64);
        if let Some(min) = bound("minItems").filter(|min| size < *min) {
            self.report(
                place,
                at,
                format!(
                    "`{label}` needs at least {min} item{}",
                    if min == 1 { "" } else { "s" }
                ),
                None,
            );
        }
        if let Some(max) = bound("maxItems").filter(|max| size > *max) {
            self.report(
                place,
                at,
                format!("`{label}` has {size} items; {max} is the limit"),
                None,
            );
        }
        if let Some(item_schema) = schema.get("items") {
            for item in items {
                self.node(
                    place,
                    Against {
                        schema: item_schema,
                        label,
                    },
                    item,
                );
            }
        }
    }

    fn number(&mut self, place: &Place, against: Against<'_>, number: f64, at: Position) {
        let bound = |key: &str| against.schema.get(key).and_then(Value::as_f64);
        let (min, max) = (
            bound("minimum").unwrap_or(f64::NEG_INFINITY),
            bound("maximum").unwrap_or(f64::INFINITY),
        );
        if !(min..=max).contains(&number) {
            let what = format!("`{}` is {number}", against.label);
            let right = format!("it must be between {min} and {max}");
            self.report(place, at, what, Some(right));
        }
    }

    fn text(&mut self, place: &Place, against: Against<'_>, text: &str, at: Position) {
        let keyword = |key: &str| against.schema.get(key).and_then(Value::as_str);
        let label = against.label;
        if let Some(rule) = keyword(RULE_KEY).and_then(rule) {
            if !(rule.holds)(text) {
                let what = format!("`{label}` cannot be `{text}`");
                self.report(place, at, what, Some(format!("it must be {}", rule.right)));
            }
        } else if let Some(kind) = keyword(REFERENCE_KEY) {
            self.reference(place, label, kind, text, at);
        } else if let Some(content) = keyword(FILE_KEY) {
            self.file(place, content, text, at);
        }
    }

    fn reference(&mut self, place: &Place, label: &str, kind: &str, text: &str, at: Position) {
        let (what, right) = match self.names.resolve(kind, text) {
            Ok(_) => return,
            Err(Unresolved::Ambiguous(paths)) => (
                format!("`{label}` is `{text}`, which names more than one {kind}"),
                format!("write {}", one_of(paths.iter().map(String::as_str))),
            ),
            Err(Unresolved::Unknown { near, declared }) => {
                let all = match declared.as_slice() {
                    [] => format!("add a document with `kind: {kind}` and `name: {text}`"),
                    names => format!("declared: {}", list(names.iter().map(String::as_str))),
                };
                let what = format!(
                    "`{label}` is `{text}`, but the folder declares no {kind} of that name"
                );
                (what, did_you_mean(near.as_deref(), &all))
            }
        };
        self.report(place, at, what, Some(right));
    }

    fn file(&mut self, place: &Place, content: &str, text: &str, at: Position) {
        let fault = match self.folder.file(text) {
            Err(fault) => Some((fault.what, fault.right)),
            Ok(bytes) => {
                wrong_content(content, text, &bytes).map(|wrong| (wrong.what, wrong.right))
            }
        };
        if let Some((what, right)) = fault {
            self.report(place, at, what, right);
        }
    }

    /// What would be right for a key that is missing.
    fn expected(&self, property: &Value, key: &str) -> String {
        let schema = resolve(self.schema, property);
        let keyword = |name: &str| schema.get(name).and_then(Value::as_str);
        if let Some(rule) = keyword(RULE_KEY).and_then(rule) {
            return format!("add `{key}`: {}", rule.right);
        }
        if let Some(kind) = keyword(REFERENCE_KEY) {
            let declared = self.names.declared(kind);
            return match declared.as_slice() {
                [] => format!("add `{key}`: the name of a document with `kind: {kind}`"),
                names => format!("add `{key}`: {}", one_of(names.iter().map(String::as_str))),
            };
        }
        if let Some(words) = words(schema) {
            return format!("add `{key}`: {}", one_of(words));
        }
        format!("add `{key}`: {}", type_name(type_of(schema)))
    }
}

fn did_you_mean(near: Option<&str>, otherwise: &str) -> String {
    match near {
        Some(near) => format!("did you mean `{near}`? {otherwise}"),
        None => otherwise.to_owned(),
    }
}

fn list<'a>(words: impl Iterator<Item = &'a str>) -> String {
    words
        .map(|word| format!("`{word}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Follows `$ref` and the `anyOf [.., null]` of an optional value.
fn resolve<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    let mut schema = schema;
    loop {
        if let Some(name) = schema.get("$ref").and_then(Value::as_str) {
            let name = name.trim_start_matches("#/$defs/");
            match root.get("$defs").and_then(|defs| defs.get(name)) {
                Some(next) => schema = next,
                None => return schema,
            }
        } else if let Some(first) = schema.get("anyOf").and_then(|any| any.get(0)) {
            schema = first;
        } else {
            return schema;
        }
    }
}

/// The first type that is not `null`.
fn type_of(schema: &Value) -> &str {
    match schema.get("type") {
        Some(Value::String(name)) => name,
        Some(Value::Array(names)) => names
            .iter()
            .filter_map(Value::as_str)
            .find(|name| *name != "null")
            .unwrap_or("null"),
        _ => "object",
    }
}

fn type_name(name: &str) -> &'static str {
    match name {
        "object" => "a map of keys",
        "array" => "a list",
        "string" => "text",
        "integer" => "a whole number",
        "number" => "a number",
        "boolean" => "`true` or `false`",
        _ => "a value",
    }
}

fn right_type(expected: &str, schema: &Value, node: &Node) -> String {
    let rule = schema.get(RULE_KEY).and_then(Value::as_str).and_then(rule);
    match (expected, &node.value) {
        ("string", Tree::Int(_) | Tree::Float(_) | Tree::Bool(_)) => match rule {
            Some(rule) => format!("write it in quotes; it must be {}", rule.right),
            None => "write it in quotes to make it text".into(),
        },
        ("array", _) => "write one item per line, each after `- `".into(),
        ("object", _) => "write `key: value` lines, indented".into(),
        ("integer", Tree::Text(text)) if text.parse::<i64>().is_ok() => {
            "leave out the quotes".into()
        }
        ("number", Tree::Text(text)) if text.parse::<f64>().is_ok() => {
            "leave out the quotes".into()
        }
        _ => format!("write {}", type_name(expected)),
    }
}

/// The allowed words of an enumeration, however schemars wrote it: in one list, or each with a description.
fn words(schema: &Value) -> Option<Vec<&str>> {
    if let Some(words) = schema.get("enum").and_then(Value::as_array) {
        return Some(words.iter().filter_map(Value::as_str).collect());
    }
    let each = schema.get("oneOf")?.as_array()?.iter();
    each.map(|one| one.get("const")?.as_str()).collect()
}

/// The key that tells the shapes apart, and each shape under its value.
fn variants_by_tag(variants: &[Value]) -> Option<(&str, Vec<(&str, &Value)>)> {
    let tag_of = |variant: &'_ Value| -> Option<&'static str> {
        let properties = variant.get("properties")?;
        ["kind", "type"].into_iter().find(|tag| {
            properties
                .get(tag)
                .is_some_and(|property| property.get("const").is_some())
        })
    };
    let tag = tag_of(variants.first()?)?;
    let shapes = variants
        .iter()
        .map(|variant| Some((variant["properties"][tag]["const"].as_str()?, variant)))
        .collect::<Option<Vec<_>>>()?;
    Some((tag, shapes))
}

/// The one key of a map that has no other.
fn only_property(variant: &Value) -> Option<(&str, &Value)> {
    let mut properties = variant.get("properties")?.as_object()?.iter();
    match (properties.next(), properties.next()) {
        (Some((key, schema)), None) => Some((key.as_str(), schema)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::factory::schema::schema;

    /// Keywords that this checker acts on or may ignore. One that is missing here would be a rule
    /// that editors enforce and `bullion` does not.
    const KNOWN: &[&str] = &[
        "$schema",
        "$defs",
        "$ref",
        "title",
        "description",
        "default",
        "format",
        "type",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "minItems",
        "maxItems",
        "oneOf",
        "anyOf",
        "enum",
        "const",
        "minimum",
        "maximum",
        "minLength",
        "pattern",
        RULE_KEY,
        REFERENCE_KEY,
        FILE_KEY,
    ];

    fn walk(value: &Value, names_are_keywords: bool) {
        match value {
            Value::Object(map) => {
                for (key, inner) in map {
                    assert!(
                        !names_are_keywords || KNOWN.contains(&key.as_str()),
                        "unknown keyword {key}"
                    );
                    let names =
                        !(names_are_keywords && ["properties", "$defs"].contains(&key.as_str()));
                    walk(inner, names);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| walk(item, names_are_keywords)),
            _ => {}
        }
    }

    #[test]
    fn every_keyword_of_the_schema_is_known() {
        walk(&schema(), true);
    }

    #[test]
    fn every_rule_in_the_schema_exists() {
        let text = schema().to_string();
        for (at, _) in text.match_indices(RULE_KEY) {
            let name = text[at..].split('"').nth(2).unwrap();
            assert!(rule(name).is_some(), "no rule {name}");
        }
    }
}
