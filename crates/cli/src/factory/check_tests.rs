//! The checker and the types against the schema, definition by definition: what the schema allows is taken by both, and
//! what it does not is told.
//!
//! Values are made from the schema itself, so a shape that the checker does not understand cannot be forgotten. Whether a
//! reference or a file is there is not the schema's; other tests look at that.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::check::Checker;
use super::document::Document;
use super::folder::Folder;
use super::names::Names;
use super::problem::{Place, Problems};
use super::rules::{FILE_KEY, REFERENCE_KEY, RULE_KEY, rule};
use super::schema::schema;
use super::tree::{self, Position};

/// Definitions inside definitions; a schema that goes round ends here.
const DEPTH_MAX: usize = 32;
/// A text that keeps each rule.
const TEXTS: &[&str] = &[
    "abc1",
    "1.0.0",
    "/etc/motd",
    "0644",
    "5m",
    "6f1d2c3b-0a4e-4b7d-9c55-2f0b8f1e7a10",
];

/// The schema without what only a folder can answer.
fn shape_alone() -> Value {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(map) => {
                map.remove(REFERENCE_KEY);
                map.remove(FILE_KEY);
                map.values_mut().for_each(strip);
            }
            Value::Array(items) => items.iter_mut().for_each(strip),
            _ => {}
        }
    }
    let mut schema = schema();
    strip(&mut schema);
    schema
}

/// The definition that a place in the schema means, without the null of an optional value.
fn meant<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    let mut schema = schema;
    for _ in 0..DEPTH_MAX {
        schema = match (schema["$ref"].as_str(), schema.pointer("/anyOf/0")) {
            (Some(name), _) => &root["$defs"][name.trim_start_matches("#/$defs/")],
            (None, Some(first)) => first,
            (None, None) => return schema,
        };
    }
    panic!("a definition that goes round: {schema}");
}

fn kind_of(schema: &Value) -> &str {
    let listed = schema["type"].as_array().and_then(|types| types.first());
    let kind = listed.unwrap_or(&schema["type"]).as_str();
    kind.unwrap_or("object")
}

fn properties(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    schema["properties"].as_object().into_iter().flatten()
}

fn required(schema: &Value) -> impl Iterator<Item = &str> {
    let names = schema["required"].as_array().into_iter().flatten();
    names.filter_map(Value::as_str)
}

/// Values that the schema allows: every shape, word and bound of it in one of them at least. The first holds all keys.
fn right(root: &Value, schema: &Value, depth: usize) -> Vec<Value> {
    assert!(depth < DEPTH_MAX, "too deep: {schema}");
    let schema = meant(root, schema);
    if let Some(only) = schema.get("const") {
        return vec![only.clone()];
    }
    if let Some(words) = schema["enum"].as_array() {
        return words
            .iter()
            .filter(|word| word.is_string())
            .cloned()
            .collect();
    }
    if let Some(variants) = schema["oneOf"].as_array() {
        let each = variants.iter();
        return each.flat_map(|one| right(root, one, depth + 1)).collect();
    }
    match kind_of(schema) {
        "object" => right_maps(root, schema, depth),
        "array" => right_lists(root, schema, depth),
        "string" => vec![right_text(schema).into()],
        "boolean" => vec![true.into(), false.into()],
        kind => {
            let bound = |key: &str| schema[key].as_f64();
            let least = bound("minimum").unwrap_or(1.0);
            let most = bound("maximum").unwrap_or(least + 1.0);
            match kind {
                "integer" => vec![json!(least as i64), json!(most as i64)],
                _ => vec![json!(least), json!(f64::midpoint(least, most)), json!(most)],
            }
        }
    }
}

fn right_text(schema: &Value) -> &'static str {
    let Some(name) = schema[RULE_KEY].as_str() else {
        return TEXTS[0];
    };
    let rule = rule(name).expect("a rule");
    let fits = TEXTS.iter().find(|text| (rule.holds)(text));
    fits.unwrap_or_else(|| panic!("none of the texts keeps the rule {name}"))
}

fn right_maps(root: &Value, schema: &Value, depth: usize) -> Vec<Value> {
    let values: Vec<(&String, Vec<Value>)> = properties(schema)
        .map(|(key, property)| (key, right(root, property, depth + 1)))
        .collect();
    let first = |(key, values): &(&String, Vec<Value>)| ((*key).clone(), values[0].clone());
    let whole: Map<String, Value> = values.iter().map(first).collect();
    let mut found = vec![Value::Object(whole.clone())];
    let mut least = whole.clone();
    least.retain(|key, _| required(schema).any(|name| name == key));
    found.push(least.into());
    for (key, values) in &values {
        found.extend(values.iter().skip(1).map(|value| {
            let mut map = whole.clone();
            map.insert((*key).clone(), value.clone());
            Value::Object(map)
        }));
    }
    match &schema["additionalProperties"] {
        Value::Bool(true) => found.push(with(&whole, "anyKey", json!([{ "a": 1.5 }]))),
        any @ Value::Object(_) => {
            let values = right(root, any, depth + 1);
            found.extend(
                values
                    .into_iter()
                    .map(|value| with(&whole, "anyKey", value)),
            );
        }
        _ => {}
    }
    found
}

fn with(map: &Map<String, Value>, key: &str, value: Value) -> Value {
    let mut map = map.clone();
    map.insert(key.to_owned(), value);
    map.into()
}

fn right_lists(root: &Value, schema: &Value, depth: usize) -> Vec<Value> {
    let least = schema["minItems"].as_u64().unwrap_or(0) as usize;
    let items = right(root, &schema["items"], depth + 1).into_iter();
    let mut found: Vec<Value> = items.map(|item| vec![item; least.max(1)].into()).collect();
    if least == 0 {
        found.push(json!([]));
    }
    found
}

/// Values that differ from one that is allowed in a single place.
fn wrong(root: &Value, schema: &Value, depth: usize) -> Vec<Value> {
    assert!(depth < DEPTH_MAX, "too deep: {schema}");
    let schema = meant(root, schema);
    if schema.get("const").is_some() || schema["enum"].is_array() {
        return vec!["no-such-word".into(), json!([])];
    }
    if let Some(variants) = schema["oneOf"].as_array() {
        let each = variants.iter();
        let mut found: Vec<Value> = each.flat_map(|one| wrong(root, one, depth + 1)).collect();
        // A word among others is another one's right.
        found.retain(|value| !value.is_string());
        found.push("no-such-word".into());
        return found;
    }
    let bound = |key: &str| schema[key].as_f64();
    match kind_of(schema) {
        "object" => wrong_maps(root, schema, depth),
        "array" => wrong_lists(root, schema, depth),
        "string" if schema[RULE_KEY].is_string() => vec!["".into(), json!([]), json!(true)],
        "string" => vec![json!([]), json!({}), json!(true)],
        "boolean" => vec!["yes".into(), json!([])],
        _ => {
            let beyond = [
                bound("minimum").map(|least| least - 1.0),
                bound("maximum").map(|most| most + 1.0),
            ];
            let beyond = beyond.into_iter().flatten();
            let mut found: Vec<Value> = beyond.map(|number| json!(number as i64)).collect();
            found.extend(["many".into(), json!([])]);
            found
        }
    }
}

fn wrong_maps(root: &Value, schema: &Value, depth: usize) -> Vec<Value> {
    let whole = right_maps(root, schema, depth).swap_remove(0);
    let whole = whole.as_object().expect("a map");
    let mut found = vec![json!([]), json!(true)];
    for (key, property) in properties(schema) {
        let values = wrong(root, property, depth + 1).into_iter();
        found.extend(values.map(|value| with(whole, key, value)));
    }
    for key in required(schema) {
        let mut map = whole.clone();
        map.remove(key);
        found.push(map.into());
    }
    match &schema["additionalProperties"] {
        Value::Bool(true) => {}
        any @ Value::Object(_) => {
            let values = wrong(root, any, depth + 1).into_iter();
            found.extend(values.map(|value| with(whole, "anyKey", value)));
        }
        _ => found.push(with(whole, "noSuchKey", json!(1))),
    }
    found
}

fn wrong_lists(root: &Value, schema: &Value, depth: usize) -> Vec<Value> {
    let bound = |key: &str| schema[key].as_u64().map(|bound| bound as usize);
    let least = bound("minItems").unwrap_or(0).max(1);
    let items = wrong(root, &schema["items"], depth + 1).into_iter();
    let mut found: Vec<Value> = items.map(|item| vec![item; least].into()).collect();
    found.extend([json!({}), json!(true)]);
    let item = right(root, &schema["items"], depth + 1).swap_remove(0);
    if let Some(least) = bound("minItems") {
        found.push(vec![item.clone(); least.saturating_sub(1)].into());
    }
    if let Some(most) = bound("maxItems") {
        found.push(vec![item; most + 1].into());
    }
    found
}

/// What the checker says of a document.
fn told(schema: &Value, folder: &Folder, document: &Value) -> Problems {
    let text = document.to_string();
    let nodes = tree::parse(&text).unwrap_or_else(|wrong| panic!("{text}: {wrong:?}"));
    let place = Place {
        file: "a.yaml".into(),
        at: Position::START,
    };
    let mut problems = Problems::default();
    let trees: Vec<_> = nodes
        .into_iter()
        .map(|node| (place.clone(), node))
        .collect();
    let names = Names::collect(&trees);
    for (place, node) in &trees {
        let mut checker = Checker {
            schema,
            names: &names,
            folder,
            problems: &mut problems,
        };
        checker.document(place, node);
    }
    problems
}

#[test]
fn the_checker_and_the_types_take_all_that_the_schema_allows() {
    let (schema, folder) = (shape_alone(), tempfile::tempdir().unwrap());
    let folder = Folder::open(folder.path().try_into().unwrap()).unwrap();
    let documents = right(&schema, &schema, 0);
    for document in &documents {
        let problems = told(&schema, &folder, document);
        assert!(problems.is_empty(), "{document:#}: {problems:?}");
        let read = Document::deserialize(document);
        assert!(read.is_ok(), "{document:#}: {read:?}");
    }
}

#[test]
fn the_checker_tells_all_that_the_schema_does_not_allow() {
    let (schema, folder) = (shape_alone(), tempfile::tempdir().unwrap());
    let folder = Folder::open(folder.path().try_into().unwrap()).unwrap();
    for document in wrong(&schema, &schema, 0) {
        let problems = told(&schema, &folder, &document);
        assert!(!problems.is_empty(), "nothing is told of {document:#}");
    }
}
