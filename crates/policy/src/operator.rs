//! The tests of conditions: what each one says of a value, of a missing one, and of a wrong kind.

use std::cmp::Ordering;

use serde_json::Value;

use crate::condition::Operator;
use crate::error::EvaluationError;
use crate::expr::compare::same_text;
use crate::expr::{Ordered, equal, order};
use crate::field::location;
use crate::json;

type Outcome = Result<bool, EvaluationError>;

/// For a `value` condition: a null stands for the empty text, as it does in Azure's tag policies.
pub fn value_holds(operator: Operator, value: &Value, target: &Value) -> Outcome {
    let blank = |value: &Value| value.is_null() || value.as_str() == Some("");
    match operator {
        Operator::Equals if value.is_null() => Ok(blank(target)),
        Operator::NotEquals if value.is_null() => Ok(!blank(target)),
        _ => holds(
            operator,
            Some(value).filter(|value| !value.is_null()),
            target,
        ),
    }
}

/// For a type: resource groups have two names for theirs.
pub fn type_holds(operator: Operator, value: &str, target: &Value) -> Outcome {
    const GROUPS: &str = "Microsoft.Resources/subscriptions/resourceGroups";
    let one = |name: &str| match name.eq_ignore_ascii_case("Microsoft.Resources/resourceGroups") {
        true => Value::String(GROUPS.to_owned()),
        false => Value::String(name.to_owned()),
    };
    let folded = |target: &Value| match target {
        Value::String(text) => one(text),
        other => other.clone(),
    };
    let own = one(value);
    match (operator, target) {
        (Operator::Equals | Operator::NotEquals, single) => {
            holds(operator, Some(&own), &folded(single))
        }
        (Operator::In | Operator::NotIn, Value::Array(items)) => {
            holds(operator, Some(&own), &items.iter().map(folded).collect())
        }
        _ => holds(operator, Some(&Value::String(value.to_owned())), target),
    }
}

/// For a location: the names of regions are compared in their folded form.
pub fn location_holds(operator: Operator, value: &str, target: &Value) -> Outcome {
    let folded = |target: &Value| match target {
        Value::String(text) => Value::String(location(text)),
        other => other.clone(),
    };
    let target = match (operator, target) {
        (Operator::Equals | Operator::NotEquals, single) => folded(single),
        (Operator::In | Operator::NotIn, Value::Array(items)) => items.iter().map(folded).collect(),
        _ => return holds(operator, Some(&Value::String(value.to_owned())), target),
    };
    holds(operator, Some(&Value::String(location(value))), &target)
}

/// Whether the test holds; a missing value fails every test, and so passes every negated one.
pub fn holds(operator: Operator, value: Option<&Value>, target: &Value) -> Outcome {
    use Operator as O;
    Ok(match operator {
        O::Equals => value.map_or(target.is_null(), |value| equal(value, target)),
        O::NotEquals => !holds(O::Equals, value, target)?,
        O::Exists => value.is_some() == truth(target)?,
        O::In => {
            let Value::Array(items) = target else {
                return Err(EvaluationError::new("`in` compares with a list"));
            };
            value.is_some_and(|value| items.iter().any(|item| equal(value, item)))
        }
        O::NotIn => !holds(O::In, value, target)?,
        O::Contains => value.is_some_and(|value| contains(value, target)),
        O::NotContains => !holds(O::Contains, value, target)?,
        O::ContainsKey => {
            let key = text(target)?;
            value.is_some_and(|value| json::get(value, key).is_some())
        }
        O::NotContainsKey => !holds(O::ContainsKey, value, target)?,
        O::Like => {
            let pattern = text(target)?;
            value
                .and_then(scalar)
                .is_some_and(|value| like(&value, pattern))
        }
        O::NotLike => !holds(O::Like, value, target)?,
        O::Match => matches(value, target, |a, b| a == b)?,
        O::NotMatch => !holds(O::Match, value, target)?,
        O::MatchInsensitively => {
            matches(value, target, |a, b| a.to_lowercase().eq(b.to_lowercase()))?
        }
        O::NotMatchInsensitively => !holds(O::MatchInsensitively, value, target)?,
        O::Less => ordered(value, target, Ordering::is_lt)?,
        O::LessOrEquals => ordered(value, target, Ordering::is_le)?,
        O::Greater => ordered(value, target, Ordering::is_gt)?,
        O::GreaterOrEquals => ordered(value, target, Ordering::is_ge)?,
    })
}

fn truth(target: &Value) -> Result<bool, EvaluationError> {
    crate::expr::compare::truth(target).map_err(EvaluationError::new)
}

fn text(target: &Value) -> Result<&str, EvaluationError> {
    target
        .as_str()
        .ok_or_else(|| EvaluationError::new("the test compares with a text"))
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        _ => None,
    }
}

fn contains(value: &Value, target: &Value) -> bool {
    match value {
        Value::Array(items) => items.iter().any(|item| equal(item, target)),
        Value::Object(object) => target
            .as_str()
            .is_some_and(|key| json::member(object, key).is_some()),
        _ => match (scalar(value), scalar(target)) {
            (Some(value), Some(target)) => value.to_lowercase().contains(&target.to_lowercase()),
            _ => false,
        },
    }
}

/// `*` stands for any text, everything else for itself without case. Linear in both: the text between
/// two stars is taken where it comes first.
pub fn like(value: &str, pattern: &str) -> bool {
    let parts: Vec<String> = pattern.split('*').map(str::to_lowercase).collect();
    let value = value.to_lowercase();
    let (Some(first), Some(last)) = (parts.first(), parts.last()) else {
        return false;
    };
    if parts.len() == 1 {
        return same_text(&value, first);
    }
    let Some(mut rest) = value
        .strip_prefix(first.as_str())
        .and_then(|rest| rest.strip_suffix(last.as_str()))
    else {
        return false;
    };
    for part in &parts[1..parts.len() - 1] {
        match rest.find(part.as_str()) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}

/// `#` stands for a digit, `?` for a letter, `.` for any character.
fn matches(value: Option<&Value>, target: &Value, same: fn(char, char) -> bool) -> Outcome {
    let pattern = text(target)?;
    let Some(value) = value.and_then(scalar) else {
        return Ok(false);
    };
    let mut value = value.chars();
    for wanted in pattern.chars() {
        let Some(found) = value.next() else {
            return Ok(false);
        };
        let fits = match wanted {
            '#' => found.is_ascii_digit(),
            '?' => found.is_alphabetic(),
            '.' => true,
            _ => same(found, wanted),
        };
        if !fits {
            return Ok(false);
        }
    }
    Ok(value.next().is_none())
}

fn ordered(value: Option<&Value>, target: &Value, accept: fn(Ordering) -> bool) -> Outcome {
    let Some(value) = value else {
        return Ok(false);
    };
    match order(value, target) {
        Ordered::As(order) => Ok(accept(order)),
        Ordered::Never => Err(EvaluationError::new(
            "the value and what it is compared with have no order: both must be numbers, dates or texts",
        )),
    }
}
