//! Values as queries compare them: texts without case, times as instants, null below everything.

use std::cmp::Ordering;

use jiff::Timestamp;
use serde_json::Value;

pub fn member<'v>(record: &'v Value, name: &str) -> Option<&'v Value> {
    record.as_object()?.get(name)
}

fn time(text: &str) -> Option<Timestamp> {
    // A cheap look first: most texts are no times.
    let dated = text.len() >= 19 && text.as_bytes()[4] == b'-';
    dated.then(|| text.parse().ok())?
}

/// An order over all values, for sorting: null, then truth values, numbers, texts, the rest.
pub fn order(a: &Value, b: &Value) -> Ordering {
    let rank = |value: &Value| match value {
        Value::Null => 0,
        Value::Bool(_) => 1,
        Value::Number(_) => 2,
        Value::String(_) => 3,
        Value::Array(_) => 4,
        Value::Object(_) => 5,
    };
    match compare(a, b) {
        Some(seen) => seen,
        None => rank(a).cmp(&rank(b)),
    }
}

/// `None` where the two cannot be compared.
pub fn compare(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::Null, Value::Null) => Some(Ordering::Equal),
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        (Value::Number(a), Value::Number(b)) => a.as_f64()?.partial_cmp(&b.as_f64()?),
        (Value::String(a), Value::String(b)) => Some(match (time(a), time(b)) {
            (Some(a), Some(b)) => a.cmp(&b),
            _ => a.to_lowercase().cmp(&b.to_lowercase()),
        }),
        _ => None,
    }
}

pub fn equal(a: &Value, b: &Value) -> bool {
    compare(a, b) == Some(Ordering::Equal)
}

/// What two records of one group have in common.
pub fn key(value: &Value) -> String {
    match value {
        Value::String(text) => format!("\"{}", text.to_lowercase()),
        other => other.to_string(),
    }
}
