//! What append and modify do to a proposed resource.

use serde_json::{Map, Value, json};

use crate::alias::{Aliases, Step};
use crate::effect::{Change, Operation};
use crate::error::EvaluationError;
use crate::evaluate::Evaluation;
use crate::expr::compare::truth;
use crate::expr::equal;
use crate::field::{Field, resource_type};
use crate::json::key_of;

/// An operation whose texts have become values.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    pub operation: Operation,
    pub field: String,
    pub value: Value,
    steps: Vec<Step>,
}

impl Planned {
    pub fn to_json(&self) -> Value {
        let operation = match self.operation {
            Operation::Add => "add",
            Operation::AddOrReplace => "addOrReplace",
            Operation::Remove => "remove",
            Operation::Append => "append",
        };
        json!({ "operation": operation, "field": self.field, "value": self.value })
    }

    /// Whether both set the same property, without case, to different values.
    pub fn conflicts(&self, other: &Planned) -> bool {
        self.field.eq_ignore_ascii_case(&other.field) && self != other
    }
}

/// The operations whose conditions hold, with their values.
pub fn plan(
    changes: &[Change],
    resource: &Value,
    evaluation: &mut Evaluation<'_>,
    aliases: &Aliases,
) -> Result<Vec<Planned>, EvaluationError> {
    let mut planned = Vec::new();
    for change in changes {
        let at = |error: EvaluationError| EvaluationError::new(format!("{}: {error}", change.path));
        if let Some(condition) = &change.condition {
            let value = evaluation.operand(condition).map_err(at)?;
            if !truth(&value).map_err(|reason| at(EvaluationError::new(reason)))? {
                continue;
            }
        }
        let field = evaluation.operand(&change.field).map_err(at)?;
        let field = field.as_str().unwrap_or_default().to_owned();
        let parsed = Field::parse(&field, aliases).map_err(|r| at(EvaluationError::new(r)))?;
        let steps = steps(&parsed, resource)
            .ok_or_else(|| at(EvaluationError::new(format!("`{field}` cannot be changed"))))?;
        let value = match &change.value {
            Some(value) => evaluation.operand(value).map_err(at)?,
            None => Value::Null,
        };
        planned.push(Planned {
            operation: change.operation,
            field,
            value,
            steps,
        });
    }
    Ok(planned)
}

fn steps(field: &Field, resource: &Value) -> Option<Vec<Step>> {
    let key = |name: &str| Step::Key(name.to_owned());
    Some(match field {
        Field::Tags => vec![key("tags")],
        Field::Tag(name) => vec![key("tags"), key(name)],
        Field::Location => vec![key("location")],
        Field::Kind => vec![key("kind")],
        Field::Plain(path) => path.0.clone(),
        Field::Alias(alias) => alias.path(&resource_type(resource))?.0.clone(),
        Field::Type | Field::Name | Field::FullName | Field::Id => return None,
    })
}

/// Applies one operation. An append that would change what the request says is refused.
pub fn apply(resource: &mut Value, planned: &Planned) -> Result<(), String> {
    walk(resource, &planned.steps, planned)
}

fn walk(value: &mut Value, steps: &[Step], planned: &Planned) -> Result<(), String> {
    let refused = || {
        format!(
            "`{}` does not lead to a property that can be set",
            planned.field
        )
    };
    match steps {
        [] => Err(refused()),
        [Step::Key(key)] => {
            let Some(object) = object(value) else {
                return Err(refused());
            };
            set(object, key, planned)
        }
        [Step::Key(key), Step::Each] => {
            let Some(object) = object(value) else {
                return Err(refused());
            };
            let key = key_of(object, key);
            if planned.operation == Operation::Remove {
                if let Some(Value::Array(items)) = object.get_mut(&key) {
                    items.retain(|item| !(planned.value.is_null() || equal(item, &planned.value)));
                }
                return Ok(());
            }
            let list = object.entry(key).or_insert_with(|| json!([]));
            let Value::Array(items) = list else {
                return Err(refused());
            };
            if !items.iter().any(|item| equal(item, &planned.value)) {
                items.push(planned.value.clone());
            }
            Ok(())
        }
        [Step::Key(key), rest @ ..] => {
            let Some(object) = object(value) else {
                return Err(refused());
            };
            let key = key_of(object, key);
            let removes =
                planned.operation == Operation::Remove || rest.first() == Some(&Step::Each);
            if removes && object.get(&key).is_none_or(Value::is_null) {
                return Ok(());
            }
            walk(
                object.entry(key).or_insert_with(|| json!({})),
                rest,
                planned,
            )
        }
        [Step::Each, rest @ ..] => match value {
            Value::Array(items) => items
                .iter_mut()
                .try_for_each(|item| walk(item, rest, planned)),
            _ => Ok(()),
        },
    }
}

fn object(value: &mut Value) -> Option<&mut Map<String, Value>> {
    if value.is_null() {
        *value = json!({});
    }
    value.as_object_mut()
}

fn set(object: &mut Map<String, Value>, key: &str, planned: &Planned) -> Result<(), String> {
    let key = key_of(object, key);
    let present = object.get(&key).filter(|value| !value.is_null());
    match planned.operation {
        Operation::Remove => drop(object.shift_remove(&key)),
        Operation::Add if present.is_some() => {}
        Operation::Append => match present {
            Some(value) if !equal(value, &planned.value) => {
                return Err(format!(
                    "`{}` has another value than the policy appends",
                    planned.field
                ));
            }
            Some(_) => {}
            None => drop(object.insert(key, planned.value.clone())),
        },
        Operation::Add | Operation::AddOrReplace => {
            object.insert(key, planned.value.clone());
        }
    }
    Ok(())
}
