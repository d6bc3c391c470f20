//! Arithmetic. Whole numbers stay whole; what does not fit is an error, never another number.

use serde_json::Value;

pub fn whole(value: &Value) -> Result<i64, String> {
    match value {
        Value::Number(number) => number
            .as_i64()
            .or_else(|| number.as_f64().map(|float| float as i64))
            .ok_or_else(|| format!("{number} does not fit a whole number")),
        Value::String(text) => text
            .trim()
            .parse()
            .map_err(|_| format!("`{text}` is no whole number")),
        _ => Err("expected a number".into()),
    }
}

pub fn int(arguments: &[Value]) -> Result<Value, String> {
    whole(&arguments[0]).map(Value::from)
}

pub fn float(arguments: &[Value]) -> Result<Value, String> {
    match &arguments[0] {
        Value::Number(number) => Ok(Value::from(number.as_f64().unwrap_or(0.0))),
        Value::String(text) => match text.trim().parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Value::from(number)),
            _ => Err(format!("`{text}` is no number")),
        },
        _ => Err("expected a number".into()),
    }
}

fn both(arguments: &[Value], work: fn(i64, i64) -> Option<i64>) -> Result<Value, String> {
    let (left, right) = (strict(&arguments[0])?, strict(&arguments[1])?);
    work(left, right)
        .map(Value::from)
        .ok_or_else(|| "division by zero, or a result that fits no whole number".to_owned())
}

fn strict(value: &Value) -> Result<i64, String> {
    match value {
        Value::Number(_) => whole(value),
        _ => Err("expected a number".into()),
    }
}

pub fn add(arguments: &[Value]) -> Result<Value, String> {
    both(arguments, i64::checked_add)
}

pub fn sub(arguments: &[Value]) -> Result<Value, String> {
    both(arguments, i64::checked_sub)
}

pub fn mul(arguments: &[Value]) -> Result<Value, String> {
    both(arguments, i64::checked_mul)
}

pub fn div(arguments: &[Value]) -> Result<Value, String> {
    both(arguments, i64::checked_div)
}

pub fn modulo(arguments: &[Value]) -> Result<Value, String> {
    both(arguments, i64::checked_rem)
}

fn all(arguments: &[Value]) -> Result<Vec<i64>, String> {
    let values = match arguments {
        [Value::Array(items)] => items.as_slice(),
        _ => arguments,
    };
    values.iter().map(strict).collect()
}

pub fn min(arguments: &[Value]) -> Result<Value, String> {
    let least = all(arguments)?.into_iter().min();
    least
        .map(Value::from)
        .ok_or_else(|| "an empty list has no least number".into())
}

pub fn max(arguments: &[Value]) -> Result<Value, String> {
    let most = all(arguments)?.into_iter().max();
    most.map(Value::from)
        .ok_or_else(|| "an empty list has no greatest number".into())
}
