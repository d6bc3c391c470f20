//! Parameters: what a definition declares, and the values that an assignment gives.

use serde_json::{Map, Value};

use crate::error::Fault;
use crate::expr::compare::truth;
use crate::expr::{equal, instant};
use crate::json::{get, key_of, member, text};

/// Parameters of a definition, of an initiative, and of either where it comes with Azure.
pub const DEFINITION_MAX: usize = 20;
pub const INITIATIVE_MAX: usize = 400;
pub const BUILT_IN_MAX: usize = 1_000;

/// Declarations that make sense in themselves.
pub fn check_declarations(
    declared: &Map<String, Value>,
    path: &str,
    most: usize,
) -> Result<(), Fault> {
    if declared.len() > most {
        let reason = format!("there are more than {most} parameters");
        return Err(Fault::new(path, reason));
    }
    for (name, declaration) in declared {
        let at = format!("{path}.{name}");
        let Some(kind) = text(declaration, "type") else {
            return Err(Fault::new(at, "a parameter needs its `type`"));
        };
        if !KINDS.iter().any(|known| known.eq_ignore_ascii_case(kind)) {
            return Err(Fault::new(
                format!("{at}.type"),
                format!("there is no type `{kind}`"),
            ));
        }
        let allowed = get(declaration, "allowedValues").filter(|allowed| !allowed.is_null());
        if allowed.is_some_and(|allowed| !allowed.is_array()) {
            return Err(Fault::new(format!("{at}.allowedValues"), "expected a list"));
        }
        // A parameter that is kept for old assignments alone may have whatever default it once had.
        let deprecated = get(declaration, "metadata")
            .and_then(|metadata| get(metadata, "deprecated"))
            .is_some_and(|deprecated| truth(deprecated) == Ok(true));
        if let Some(value) = get(declaration, "defaultValue").filter(|_| !deprecated) {
            check_value(declaration, value, &format!("{at}.defaultValue"))?;
        }
    }
    Ok(())
}

const KINDS: &[&str] = &[
    "String", "Array", "Object", "Boolean", "Integer", "Float", "DateTime",
];

/// The values that a rule sees: what is given, else the defaults.
pub fn effective(
    declared: &Map<String, Value>,
    given: &Map<String, Value>,
    path: &str,
) -> Result<Map<String, Value>, Fault> {
    for name in given.keys() {
        if member(declared, name).is_none() {
            let at = format!("{path}.{name}");
            return Err(Fault::new(at, format!("there is no parameter `{name}`")));
        }
    }
    let mut values = Map::new();
    for (name, declaration) in declared {
        let at = format!("{path}.{name}");
        let value = match member(given, name) {
            Some(given) => {
                let value = unwrapped(given);
                check_value(declaration, value, &at)?;
                value
            }
            None => match get(declaration, "defaultValue") {
                Some(value) => value,
                None => return Err(Fault::new(at, format!("parameter `{name}` has no value"))),
            },
        };
        values.insert(key_of(&values, name), value.clone());
    }
    Ok(values)
}

/// `{"value": …}`, as assignments write it, or the value itself.
pub fn unwrapped(given: &Value) -> &Value {
    match given {
        Value::Object(object) if object.len() == 1 => member(object, "value").unwrap_or(given),
        _ => given,
    }
}

fn check_value(declaration: &Value, value: &Value, path: &str) -> Result<(), Fault> {
    let kind = text(declaration, "type").unwrap_or_default();
    let word = |words: [&str; 2]| {
        let text = value.as_str().unwrap_or_default();
        words.iter().any(|word| word.eq_ignore_ascii_case(text))
    };
    let fits = match kind.to_ascii_lowercase().as_str() {
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "boolean" => value.is_boolean() || word(["true", "false"]),
        "integer" => value.as_i64().is_some() || value.as_f64().is_some_and(|n| n.fract() == 0.0),
        "float" => value.is_number(),
        "datetime" => value.as_str().is_some_and(|text| instant(text).is_some()),
        _ => true,
    };
    if !fits {
        return Err(Fault::new(path, format!("the value is no {kind}")));
    }
    let allowed = get(declaration, "allowedValues").and_then(Value::as_array);
    // Some of Azure's own definitions have an empty list, and mean that there is none.
    let Some(allowed) = allowed.filter(|allowed| !allowed.is_empty()) else {
        return Ok(());
    };
    let one = |value: &Value| allowed.iter().any(|item| equal(item, value));
    // A list may be one of the allowed values, or made of them.
    let fine = one(value) || value.as_array().is_some_and(|items| items.iter().all(one));
    match fine {
        true => Ok(()),
        false => Err(Fault::new(
            path,
            format!("{value} is not among the allowed values"),
        )),
    }
}
