//! How two values compare: without case, and across text, numbers and truth values as Azure coerces.

use std::cmp::Ordering;

use serde_json::Value;

use super::dates;

/// How two values stand to each other, where they can.
pub enum Ordered {
    As(Ordering),
    /// Kinds that have no order between them.
    Never,
}

/// The text of a scalar, as it is compared with text.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::Bool(value) => Some(if *value { "true" } else { "false" }.to_owned()),
        Value::Number(number) => Some(number.to_string()),
        Value::String(text) => Some(text.clone()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok().filter(|n: &f64| n.is_finite()),
        _ => None,
    }
}

/// Text without case, beyond ASCII too.
pub fn same_text(left: &str, right: &str) -> bool {
    left.eq_ignore_ascii_case(right)
        || (!(left.is_ascii() && right.is_ascii()) && left.to_lowercase() == right.to_lowercase())
}

/// Equality of conditions. Text that holds a number or a truth value equals it.
pub fn equal(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::String(left), Value::String(right)) => same_text(left, right),
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Number(_), Value::String(_)) | (Value::String(_), Value::Number(_)) => {
            number(left).is_some() && number(left) == number(right)
        }
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(a, b)| equal(a, b))
        }
        (Value::Object(left), Value::Object(right)) => {
            left.len() == right.len()
                && left
                    .iter()
                    .all(|(key, a)| crate::json::member(right, key).is_some_and(|b| equal(a, b)))
        }
        (Value::Null, Value::Null) => true,
        _ => match (scalar(left), scalar(right)) {
            (Some(left), Some(right)) => same_text(&left, &right),
            _ => false,
        },
    }
}

/// Order of conditions: numbers as numbers, instants as instants, other text without case.
pub fn order(left: &Value, right: &Value) -> Ordered {
    if matches!(left, Value::Number(_)) || matches!(right, Value::Number(_)) {
        return match (number(left), number(right)) {
            (Some(a), Some(b)) => a.partial_cmp(&b).map_or(Ordered::Never, Ordered::As),
            _ => Ordered::Never,
        };
    }
    let (Value::String(left), Value::String(right)) = (left, right) else {
        return Ordered::Never;
    };
    Ordered::As(match (dates::instant(left), dates::instant(right)) {
        (Some(a), Some(b)) => a.cmp(&b),
        _ => left.to_lowercase().cmp(&right.to_lowercase()),
    })
}

/// Order of the functions: as of conditions, but texts that differ in case alone are not the same, and
/// small letters come first.
fn ordered(arguments: &[Value], accept: fn(Ordering) -> bool) -> Result<Value, String> {
    match order(&arguments[0], &arguments[1]) {
        Ordered::As(Ordering::Equal) => {
            let texts = (arguments[0].as_str(), arguments[1].as_str());
            let by_case = texts.0.zip(texts.1).map_or(Ordering::Equal, |(a, b)| {
                let capital = |text: &str| text.chars().map(char::is_uppercase).collect::<Vec<_>>();
                capital(a).cmp(&capital(b))
            });
            Ok(Value::Bool(accept(by_case)))
        }
        Ordered::As(order) => Ok(Value::Bool(accept(order))),
        Ordered::Never => Err("only two numbers or two texts have an order".into()),
    }
}

pub fn less(arguments: &[Value]) -> Result<Value, String> {
    ordered(arguments, Ordering::is_lt)
}

pub fn less_or_equals(arguments: &[Value]) -> Result<Value, String> {
    ordered(arguments, Ordering::is_le)
}

pub fn greater(arguments: &[Value]) -> Result<Value, String> {
    ordered(arguments, Ordering::is_gt)
}

pub fn greater_or_equals(arguments: &[Value]) -> Result<Value, String> {
    ordered(arguments, Ordering::is_ge)
}

/// Equality of the function, which is that of templates: with case, and of one type.
pub fn equals(arguments: &[Value]) -> Result<Value, String> {
    Ok(Value::Bool(same(&arguments[0], &arguments[1])))
}

fn same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            let found = |(key, one): (&String, &Value)| b.get(key).is_some_and(|b| same(one, b));
            a.len() == b.len() && a.iter().all(found)
        }
        (a, b) => a == b,
    }
}

/// A truth value, or the text of one.
pub fn truth(value: &Value) -> Result<bool, String> {
    match value {
        Value::Bool(value) => Ok(*value),
        Value::Number(number) => Ok(number.as_f64() != Some(0.0)),
        Value::String(text) if text.eq_ignore_ascii_case("true") || text == "1" => Ok(true),
        Value::String(text) if text.eq_ignore_ascii_case("false") || text == "0" => Ok(false),
        _ => Err("expected true or false".into()),
    }
}

pub fn not(arguments: &[Value]) -> Result<Value, String> {
    truth(&arguments[0]).map(|value| Value::Bool(!value))
}

pub fn bool(arguments: &[Value]) -> Result<Value, String> {
    truth(&arguments[0]).map(Value::Bool)
}
