//! Values for parameters, against what a definition or initiative declares, in Azure's words.

use policy::json::member;
use serde_json::{Map, Value};
use wire::{ArmError, ErrorCode};

use super::lookup::Found;

/// Who gives the values.
#[derive(Clone, Copy)]
pub enum Giver<'a> {
    /// An assignment, by name: values are literal.
    Assignment(&'a str),
    /// An initiative, by name: a value may be an expression over the initiative's own parameters.
    Set(&'a str),
}

impl Giver<'_> {
    fn undefined(self, names: &str, of: &str, noun: &str) -> String {
        match self {
            Giver::Assignment(name) => format!(
                "The policy assignment '{name}' has the parameter(s) '{names}' which are not defined in \
                 the {noun} '{of}'."
            ),
            Giver::Set(name) => format!(
                "The policy set definition '{name}' is attempting to assign the parameter(s) '{names}' \
                 which are not defined in the {noun} '{of}'."
            ),
        }
    }

    fn missing(self, names: &str, of: &str, noun: &str) -> String {
        let own = match self {
            Giver::Assignment(name) => format!("policy assignment '{name}'"),
            Giver::Set(name) => format!("policy set definition '{name}'"),
        };
        format!("The {own} is missing the parameter(s) '{names}' as defined in the {noun} '{of}'.")
    }
}

/// Every value has a declaration, every declaration a value, and the values fit.
pub fn check(
    giver: Giver<'_>,
    given: &Map<String, Value>,
    definition: &Found,
) -> Result<(), ArmError> {
    let empty = Map::new();
    let declared = definition.document.pointer("/properties/parameters");
    let declared = declared.and_then(Value::as_object).unwrap_or(&empty);
    let (of, noun) = (definition.id.name(), definition.noun());
    let unknown: Vec<&str> = given
        .keys()
        .filter(|name| member(declared, name).is_none())
        .map(String::as_str)
        .collect();
    if !unknown.is_empty() {
        let message = giver.undefined(&unknown.join(","), of, noun);
        return Err(ArmError::new(ErrorCode::UndefinedPolicyParameter, message));
    }
    let missing: Vec<&str> = declared
        .iter()
        .filter(|(name, declaration)| {
            let default = declaration
                .as_object()
                .and_then(|one| member(one, "defaultValue"));
            default.is_none() && member(given, name).is_none()
        })
        .map(|(name, _)| name.as_str())
        .collect();
    if !missing.is_empty() {
        let message = giver.missing(&missing.join(","), of, noun);
        return Err(ArmError::new(ErrorCode::MissingPolicyParameter, message));
    }
    for (name, value) in given {
        let value = policy::parameters::unwrapped(value);
        let Some(declaration) = member(declared, name) else {
            continue;
        };
        if matches!(giver, Giver::Set(_)) && is_expression(value) {
            continue;
        }
        let one = |value: Value| Map::from_iter([(name.clone(), value)]);
        // Wrapped again, so that an object with a member `value` is not taken for its wrapper.
        let wrapped = serde_json::json!({ "value": value });
        policy::parameters::effective(&one(declaration.clone()), &one(wrapped), "parameters")
            .map_err(|fault| {
                let message = format!(
                    "The value of the parameter '{name}' is not allowed by the {noun} '{of}': {}.",
                    fault.reason
                );
                ArmError::new(ErrorCode::PolicyParameterValueNotAllowed, message)
                    .with_target(format!("properties.{}", fault.path))
            })?;
    }
    Ok(())
}

fn is_expression(value: &Value) -> bool {
    match value {
        Value::String(text) => policy::expr::body(text).is_some(),
        Value::Array(items) => items.iter().any(is_expression),
        Value::Object(object) => object.values().any(is_expression),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use wire::ResourceId;

    fn check_giver(giver: Giver<'_>, given: Value, expected: &str) {
        let id = "/providers/Microsoft.Authorization/policyDefinitions/d";
        let definition = Found {
            id: ResourceId::parse(id).unwrap(),
            document: json!({ "properties": { "parameters": {
                "need": { "type": "Integer" },
                "effect": { "type": "String", "defaultValue": "Audit", "allowedValues": ["Audit", "Deny"] },
                "free": { "type": "Object", "defaultValue": {} },
            } } }),
        };
        let seen = match super::check(giver, given.as_object().unwrap(), &definition) {
            Ok(()) => "fine".to_string(),
            Err(error) => error.code.as_str().to_string(),
        };
        assert_eq!(seen, expected, "{given}");
    }

    #[test]
    fn values_and_declarations() {
        let assignment = Giver::Assignment("a");
        check_giver(assignment, json!({ "need": { "value": 1 } }), "fine");
        check_giver(assignment, json!({ "NEED": { "value": 1 } }), "fine");
        check_giver(assignment, json!({}), "MissingPolicyParameter");
        let more = json!({ "need": { "value": 1 }, "other": { "value": 1 } });
        check_giver(assignment, more, "UndefinedPolicyParameter");
        let wrong = json!({ "need": { "value": "x" } });
        check_giver(assignment, wrong, "PolicyParameterValueNotAllowed");
        let other = json!({ "need": { "value": 1 }, "effect": { "value": "Modify" } });
        check_giver(assignment, other, "PolicyParameterValueNotAllowed");
        let nested = json!({ "need": { "value": 1 }, "free": { "value": { "value": 1 } } });
        check_giver(assignment, nested, "fine");
        let passed = json!({ "need": { "value": "[parameters('n')]" } });
        check_giver(Giver::Set("s"), passed.clone(), "fine");
        check_giver(assignment, passed, "PolicyParameterValueNotAllowed");
    }
}
