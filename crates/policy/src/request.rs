//! What policies do to a request: append and modify change the proposed resource, deny and denyAction
//! refuse it.
//!
//! Nothing is stored or sent here; whoever carries out the request asks first.

use serde_json::{Map, Value, json};

use crate::alias::{Aliases, Step};
use crate::effect::{Change, Effect, Operation};
use crate::error::EvaluationError;
use crate::evaluate::Evaluation;
use crate::expr::compare::truth;
use crate::expr::equal;
use crate::field::{Field, resource_type};
use crate::json::{get, key_of};
use crate::verdict::{Question, State, Verdict};

/// What the request would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Creates the resource, or changes it.
    Write,
    /// Changes nothing but tags: only policies that look at tags have a say.
    WriteTags,
    Delete,
}

/// What the policies say of a request, together.
#[derive(Debug, Clone)]
pub struct Decision {
    /// The resource as append and modify leave it.
    pub resource: Value,
    /// The changes that were made, each with the index of its policy.
    pub changes: Vec<(usize, Planned)>,
    pub denials: Vec<Denial>,
}

/// One policy that refuses the request.
#[derive(Debug, Clone)]
pub struct Denial {
    /// The index of the policy among those that were asked.
    pub policy: usize,
    /// Why, if not because the rule holds: a failed evaluation, or a change that cannot be made.
    pub reason: Option<String>,
    /// The verdict that refuses, with the expressions that were evaluated.
    pub verdict: Verdict,
}

/// Types that denyAction leaves alone, so that nobody is locked out by a policy.
const NEVER_HELD: &[&str] = &[
    "Microsoft.Authorization/policyAssignments",
    "Microsoft.Authorization/denyAssignments",
    "Microsoft.Authorization/locks",
    "Microsoft.Blueprint/blueprintAssignments",
    "Microsoft.Resources/deploymentStacks",
    "Microsoft.Resources/subscriptions",
];

/// Asks all policies about one request. Every question is about the same proposed resource: as the
/// request would leave it, or for a deletion as it is.
pub fn decide(questions: &[Question<'_>], act: Act) -> Decision {
    let proposed = questions.first().map_or(&Value::Null, |q| q.resource);
    let mut decision = Decision {
        resource: proposed.clone(),
        changes: Vec::new(),
        denials: Vec::new(),
    };
    let asked: Vec<(usize, Question<'_>)> = questions
        .iter()
        .copied()
        .enumerate()
        .filter(|(_, question)| question.enforced())
        .filter(|(_, question)| act != Act::WriteTags || question.definition.looks_at_tags())
        .collect();
    if act != Act::Delete {
        decision.change(&asked);
    }
    let kind = resource_type(proposed);
    let held = !NEVER_HELD
        .iter()
        .any(|never| never.eq_ignore_ascii_case(&kind));
    let changed = decision.resource.clone();
    for (index, question) in asked {
        let verdict = Question {
            resource: &changed,
            ..question
        }
        .answer();
        if verdict.refuses(act, held) {
            decision.denials.push(Denial {
                policy: index,
                reason: verdict.error.clone(),
                verdict,
            });
        }
    }
    decision
}

impl Verdict {
    fn refuses(&self, act: Act, held: bool) -> bool {
        let deletes = act == Act::Delete;
        if self.state == Some(State::Exempt) {
            return false;
        }
        match self.effect {
            // A search is made after the request; only the rule itself can fail before.
            Some(effect) if self.error.is_some() && effect.looks_for_existence() => {
                !deletes && self.condition.is_none()
            }
            Some(Effect::DenyAction) => {
                let named = self
                    .actions
                    .iter()
                    .any(|action| action.eq_ignore_ascii_case("delete"));
                deletes && held && (named || self.error.is_some())
            }
            _ if self.error.is_some() => !deletes,
            Some(Effect::Deny) => !deletes && self.state == Some(State::NonCompliant),
            _ => false,
        }
    }

    /// Gives way where another policy changes the same property otherwise.
    fn gives_way(&self) -> bool {
        self.conflict.unwrap_or(Effect::Deny) != Effect::Deny
    }

    fn contests(&self, other: &Verdict) -> Option<&Planned> {
        self.planned
            .iter()
            .find(|mine| other.planned.iter().any(|theirs| theirs.conflicts(mine)))
    }
}

impl Decision {
    /// Makes the changes of append and modify, as far as they do not contradict each other.
    fn change(&mut self, asked: &[(usize, Question<'_>)]) {
        let acting: Vec<(usize, Verdict)> = asked
            .iter()
            .map(|(index, question)| (*index, question.answer()))
            .filter(|(_, verdict)| verdict.state == Some(State::NonCompliant))
            .filter(|(_, verdict)| !verdict.planned.is_empty())
            .collect();
        for (index, verdict) in &acting {
            let rivals = acting.iter().filter(|(other, _)| other != index);
            let mut contested =
                rivals.filter_map(|(_, rival)| Some((rival, verdict.contests(rival)?)));
            if verdict.gives_way() {
                // Nothing of a policy that gives way is done, not even what nobody contests.
                if contested.next().is_some() {
                    continue;
                }
            } else if let Some((_, planned)) = contested.find(|(rival, _)| !rival.gives_way()) {
                let reason = format!("policies conflict over `{}`", planned.field);
                self.refuse(*index, verdict, reason);
                continue;
            }
            if let Some(planned) = verdict.planned.iter().find(|planned| planned.forbidden) {
                if !verdict.gives_way() {
                    let reason = format!("the alias `{}` cannot be modified", planned.field);
                    self.refuse(*index, verdict, reason);
                }
                continue;
            }
            for planned in &verdict.planned {
                let before = self.resource.clone();
                match apply(&mut self.resource, planned) {
                    // What is skipped, or is so already, is no change.
                    Ok(()) if self.resource == before => {}
                    Ok(()) => self.changes.push((*index, planned.clone())),
                    Err(reason) => self.refuse(*index, verdict, reason),
                }
            }
        }
    }

    fn refuse(&mut self, policy: usize, verdict: &Verdict, reason: String) {
        self.denials.push(Denial {
            policy,
            reason: Some(reason),
            verdict: verdict.clone(),
        });
    }
}

/// An operation whose texts have become values.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    pub operation: Operation,
    pub field: String,
    pub value: Value,
    steps: Vec<Step>,
    /// The alias table says that nobody may change it, at the API version of the request.
    forbidden: bool,
}

impl Planned {
    /// Whether nothing is done where this parent of the property is missing: a request that leaves a
    /// whole object out is taken to mean it, unless the object is one that every resource has.
    fn skips_without(&self, parent: &str) -> bool {
        let common = ["properties", "tags", "identity"]
            .iter()
            .any(|common| common.eq_ignore_ascii_case(parent));
        match self.operation {
            Operation::Remove => true,
            Operation::Add | Operation::AddOrReplace => !common,
            Operation::Append => false,
        }
    }

    pub fn to_json(&self) -> Value {
        let operation = match self.operation {
            Operation::Add => "add",
            Operation::AddOrReplace => "addOrReplace",
            Operation::Remove => "remove",
            Operation::Append => "append",
        };
        json!({ "operation": operation, "field": self.field, "value": self.value })
    }

    /// Whether both set the same property, without case, to different values. Two that each add their own
    /// element to a list do not.
    pub fn conflicts(&self, other: &Planned) -> bool {
        let adds = |planned: &Planned| {
            matches!(planned.operation, Operation::Add | Operation::Append)
                && planned.steps.last() == Some(&Step::Each)
        };
        let same = self.operation == other.operation && self.value == other.value;
        self.field.eq_ignore_ascii_case(&other.field) && !same && !(adds(self) && adds(other))
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
        let version = evaluation.request_version();
        let steps = steps(&parsed, resource, version)
            .ok_or_else(|| at(EvaluationError::new(format!("`{field}` cannot be changed"))))?;
        let value = match &change.value {
            Some(value) => evaluation.operand(value).map_err(at)?,
            None => Value::Null,
        };
        planned.push(Planned {
            forbidden: change.operation != Operation::Append
                && matches!(&parsed, Field::Alias(alias)
                    if !alias.may_change(&resource_type(resource), version)),
            operation: change.operation,
            field,
            value,
            steps,
        });
    }
    Ok(planned)
}

fn steps(field: &Field, resource: &Value, api_version: Option<&str>) -> Option<Vec<Step>> {
    let key = |name: &str| Step::Key(name.to_owned());
    Some(match field {
        Field::Tags => vec![key("tags")],
        Field::Tag(name) if name.is_empty() => return None,
        Field::Tag(name) => vec![key("tags"), key(name)],
        Field::Location => vec![key("location")],
        Field::Kind => vec![key("kind")],
        Field::Plain(path) => path.0.clone(),
        Field::Alias(alias) => {
            let kind = resource_type(resource);
            alias.path_at(&kind, api_version)?.0.clone()
        }
        Field::Type | Field::Name | Field::FullName | Field::Id => return None,
    })
}

/// Applies one operation. An append that would change what the request says is refused.
pub fn apply(resource: &mut Value, planned: &Planned) -> Result<(), String> {
    walk(resource, &planned.steps, planned)
}

fn walk(value: &mut Value, steps: &[Step], planned: &Planned) -> Result<(), String> {
    let refused = || format!("`{}` leads to nothing that can be set", planned.field);
    if let [Step::Inner(key), rest @ ..] = steps {
        let mut plain = vec![Step::Key(key.clone())];
        plain.extend_from_slice(rest);
        return walk(holder(value, key), &plain, planned);
    }
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
            if list.is_null() {
                *list = json!([]);
            }
            let Value::Array(items) = list else {
                return Err(refused());
            };
            if planned.operation == Operation::AddOrReplace {
                items.clear();
            }
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
            let needed = planned.skips_without(&key) || rest.first() == Some(&Step::Each);
            if needed && object.get(&key).is_none_or(Value::is_null) {
                return Ok(());
            }
            walk(
                object.entry(key).or_insert_with(|| json!({})),
                rest,
                planned,
            )
        }
        // A way on through `Inner` was taken above.
        [Step::Inner(_), ..] => Err(refused()),
        [Step::Each, rest @ ..] => match value {
            Value::Array(items) => items
                .iter_mut()
                .try_for_each(|item| walk(item, rest, planned)),
            _ => Ok(()),
        },
    }
}

/// What holds a key of an element: the element, or the `properties` in it.
fn holder<'v>(element: &'v mut Value, key: &str) -> &'v mut Value {
    let outside =
        get(element, key).is_some() || !get(element, "properties").is_some_and(Value::is_object);
    if outside {
        return element;
    }
    // That it is an object, and has such an object in it, was just seen.
    let key = element
        .as_object()
        .map_or_else(String::new, |object| key_of(object, "properties"));
    &mut element[key]
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
