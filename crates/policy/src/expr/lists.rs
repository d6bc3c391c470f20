//! Functions of lists and objects, and those that take text or a list.

use serde_json::{Map, Value};

use super::RESULT_CHARS_MAX;
use super::compare::equal;
use super::numbers::whole;
use super::texts::{made, printed, text};
use crate::json::member;

/// The longest list that an expression may make, as in Azure.
const ITEMS_MAX: usize = 32_768;
/// The most numbers that `range` makes, as in Azure.
const RANGE_MAX: usize = 10_000;

fn items_made(items: Vec<Value>) -> Result<Value, String> {
    match items.len() <= ITEMS_MAX {
        true => Ok(Value::Array(items)),
        false => Err(format!("a list has at most {ITEMS_MAX} items")),
    }
}

pub fn concat(arguments: &[Value]) -> Result<Value, String> {
    if arguments.iter().all(Value::is_array) {
        let lists = arguments.iter().filter_map(Value::as_array);
        return items_made(lists.flatten().cloned().collect());
    }
    let mut output = String::new();
    for argument in arguments {
        match argument {
            Value::Array(_) | Value::Object(_) => {
                return Err("`concat` joins texts, or lists, but not both".into());
            }
            scalar => output.push_str(&printed(scalar)),
        }
        if output.len() > 8 * RESULT_CHARS_MAX {
            break;
        }
    }
    made(output)
}

pub fn array(arguments: &[Value]) -> Result<Value, String> {
    Ok(match &arguments[0] {
        Value::Array(items) => Value::Array(items.clone()),
        other => Value::Array(vec![other.clone()]),
    })
}

pub fn create_array(arguments: &[Value]) -> Result<Value, String> {
    items_made(arguments.to_vec())
}

pub fn create_object(arguments: &[Value]) -> Result<Value, String> {
    let (pairs, rest) = arguments.as_chunks::<2>();
    if !rest.is_empty() {
        return Err("`createObject` takes names and values in pairs".into());
    }
    let mut object = Map::new();
    for [key, value] in pairs {
        object.insert(text(key)?.to_owned(), value.clone());
    }
    Ok(Value::Object(object))
}

pub fn contains(arguments: &[Value]) -> Result<Value, String> {
    Ok(Value::Bool(match &arguments[0] {
        Value::String(whole) => whole.contains(&printed(&arguments[1])),
        Value::Array(items) => items.iter().any(|item| match (item, &arguments[1]) {
            (Value::String(item), Value::String(wanted)) => item == wanted,
            (item, wanted) => equal(item, wanted),
        }),
        Value::Object(object) => member(object, text(&arguments[1])?).is_some(),
        _ => return Err("`contains` looks into text, a list or an object".into()),
    }))
}

pub fn empty(arguments: &[Value]) -> Result<Value, String> {
    Ok(Value::Bool(match &arguments[0] {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(object) => object.is_empty(),
        _ => return Err("`empty` takes text, a list or an object".into()),
    }))
}

pub fn length(arguments: &[Value]) -> Result<Value, String> {
    let length = match &arguments[0] {
        Value::Null => 0,
        Value::String(text) => text.chars().count(),
        Value::Array(items) => items.len(),
        Value::Object(object) => object.len(),
        _ => return Err("`length` takes text, a list or an object".into()),
    };
    Ok(Value::from(length))
}

fn end(value: &Value, last: bool) -> Result<Value, String> {
    match value {
        Value::Array(items) => {
            let item = if last { items.last() } else { items.first() };
            Ok(item.cloned().unwrap_or(Value::Null))
        }
        Value::String(text) => {
            let mut chars = text.chars();
            let c = if last {
                chars.next_back()
            } else {
                chars.next()
            };
            Ok(Value::String(c.map(String::from).unwrap_or_default()))
        }
        _ => Err("expected text or a list".into()),
    }
}

pub fn first(arguments: &[Value]) -> Result<Value, String> {
    end(&arguments[0], false)
}

pub fn last(arguments: &[Value]) -> Result<Value, String> {
    end(&arguments[0], true)
}

fn part(arguments: &[Value], skip: bool) -> Result<Value, String> {
    let count = usize::try_from(whole(&arguments[1])?.max(0)).unwrap_or(usize::MAX);
    match (&arguments[0], skip) {
        (Value::Array(items), true) => Ok(items.iter().skip(count).cloned().collect()),
        (Value::Array(items), false) => Ok(items.iter().take(count).cloned().collect()),
        (Value::String(text), true) => Ok(Value::String(text.chars().skip(count).collect())),
        (Value::String(text), false) => Ok(Value::String(text.chars().take(count).collect())),
        _ => Err("expected text or a list".into()),
    }
}

pub fn skip(arguments: &[Value]) -> Result<Value, String> {
    part(arguments, true)
}

pub fn take(arguments: &[Value]) -> Result<Value, String> {
    part(arguments, false)
}

pub fn union(arguments: &[Value]) -> Result<Value, String> {
    if arguments.iter().all(Value::is_object) {
        let mut result = Map::new();
        for object in arguments.iter().filter_map(Value::as_object) {
            merge(&mut result, object);
        }
        return Ok(Value::Object(result));
    }
    let mut result: Vec<Value> = Vec::new();
    for argument in arguments {
        let items = argument
            .as_array()
            .ok_or("`union` takes lists or objects")?;
        for item in items {
            if !result.contains(item) {
                result.push(item.clone());
            }
        }
        if result.len() > ITEMS_MAX {
            break;
        }
    }
    items_made(result)
}

/// Objects in objects are merged too; anything else is replaced.
fn merge(into: &mut Map<String, Value>, from: &Map<String, Value>) {
    for (key, value) in from {
        let key = crate::json::key_of(into, key);
        match (into.get_mut(&key), value) {
            (Some(Value::Object(old)), Value::Object(new)) => merge(old, new),
            _ => {
                into.insert(key, value.clone());
            }
        }
    }
}

pub fn intersection(arguments: &[Value]) -> Result<Value, String> {
    let others = &arguments[1..];
    match &arguments[0] {
        Value::Array(items) => {
            let mut result: Vec<Value> = Vec::new();
            for item in items {
                let everywhere = others
                    .iter()
                    .all(|other| other.as_array().is_some_and(|other| other.contains(item)));
                if everywhere && !result.contains(item) {
                    result.push(item.clone());
                }
            }
            items_made(result)
        }
        Value::Object(object) => {
            let everywhere = |key: &str, value: &Value| {
                others
                    .iter()
                    .all(|other| crate::json::get(other, key) == Some(value))
            };
            let kept = object.iter().filter(|(key, value)| everywhere(key, value));
            Ok(Value::Object(
                kept.map(|(key, value)| (key.clone(), value.clone()))
                    .collect(),
            ))
        }
        _ => Err("`intersection` takes lists or objects".into()),
    }
}

fn position(arguments: &[Value], last: bool) -> Result<Value, String> {
    let found = match &arguments[0] {
        Value::Array(items) if last => items.iter().rposition(|item| item == &arguments[1]),
        Value::Array(items) => items.iter().position(|item| item == &arguments[1]),
        whole => {
            let whole = text(whole)?.to_lowercase();
            let part = text(&arguments[1])?.to_lowercase();
            let at = if last {
                whole.rfind(&part)
            } else {
                whole.find(&part)
            };
            at.map(|at| whole[..at].chars().count())
        }
    };
    let found = found.and_then(|at| i64::try_from(at).ok());
    Ok(Value::from(found.unwrap_or(-1)))
}

pub fn index_of(arguments: &[Value]) -> Result<Value, String> {
    position(arguments, false)
}

pub fn last_index_of(arguments: &[Value]) -> Result<Value, String> {
    position(arguments, true)
}

pub fn range(arguments: &[Value]) -> Result<Value, String> {
    let (start, count) = (whole(&arguments[0])?, whole(&arguments[1])?);
    let most = i64::try_from(RANGE_MAX).unwrap_or(i64::MAX);
    if !(0..=most).contains(&count) {
        return Err(format!("`range` makes 0 to {RANGE_MAX} numbers"));
    }
    let end = start
        .checked_add(count)
        .ok_or("`range` leaves the whole numbers")?;
    Ok((start..end).map(Value::from).collect())
}

pub fn flatten(arguments: &[Value]) -> Result<Value, String> {
    let lists = arguments[0]
        .as_array()
        .ok_or("`flatten` takes a list of lists")?;
    let mut result = Vec::new();
    for list in lists {
        result.extend_from_slice(list.as_array().ok_or("`flatten` takes a list of lists")?);
    }
    items_made(result)
}

pub fn items(arguments: &[Value]) -> Result<Value, String> {
    let object = arguments[0].as_object().ok_or("`items` takes an object")?;
    let mut keys: Vec<&String> = object.keys().collect();
    keys.sort();
    Ok(keys
        .into_iter()
        .map(|key| serde_json::json!({ "key": key, "value": object[key] }))
        .collect())
}

pub fn object_keys(arguments: &[Value]) -> Result<Value, String> {
    let object = arguments[0]
        .as_object()
        .ok_or("`objectKeys` takes an object")?;
    Ok(object.keys().cloned().map(Value::String).collect())
}

pub fn shallow_merge(arguments: &[Value]) -> Result<Value, String> {
    let objects = arguments[0]
        .as_array()
        .ok_or("`shallowMerge` takes a list of objects")?;
    let mut result = Map::new();
    for object in objects {
        let object = object
            .as_object()
            .ok_or("`shallowMerge` takes a list of objects")?;
        result.extend(
            object
                .iter()
                .map(|(key, value)| (key.clone(), value.clone())),
        );
    }
    Ok(Value::Object(result))
}

/// A member or item, or nothing where it is missing or out of range.
pub fn at(value: &Value, key: &Value) -> Option<Value> {
    match (value, key) {
        (Value::Object(object), Value::String(key)) => member(object, key).cloned(),
        (Value::Array(items), Value::Number(_)) => usize::try_from(whole(key).ok()?)
            .ok()
            .and_then(|index| items.get(index))
            .cloned(),
        _ => None,
    }
}

pub fn try_get(arguments: &[Value]) -> Result<Value, String> {
    let mut value = arguments[0].clone();
    for key in &arguments[1..] {
        match at(&value, key) {
            Some(inner) => value = inner,
            None => return Ok(Value::Null),
        }
    }
    Ok(value)
}

pub fn index_from_end(arguments: &[Value]) -> Result<Value, String> {
    match try_index_from_end(arguments)? {
        Value::Null => Err(format!(
            "the list has no element {} from its end",
            arguments[1]
        )),
        found => Ok(found),
    }
}

pub fn try_index_from_end(arguments: &[Value]) -> Result<Value, String> {
    let items = arguments[0]
        .as_array()
        .ok_or("`tryIndexFromEnd` takes a list")?;
    let from_end = usize::try_from(whole(&arguments[1])?).unwrap_or(0);
    let index = items.len().checked_sub(from_end).filter(|_| from_end > 0);
    Ok(index
        .and_then(|index| items.get(index))
        .cloned()
        .unwrap_or(Value::Null))
}

pub fn json(arguments: &[Value]) -> Result<Value, String> {
    crate::json::parse(text(&arguments[0])?).map_err(|error| error.to_string())
}
