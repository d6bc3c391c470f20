//! Evaluation of compiled conditions and expressions for one resource.
//!
//! Nothing is fetched: the resource and everything around it are given. Work is counted, and an
//! evaluation that takes too much of it fails as any other error does.

use std::borrow::Cow;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::alias::{Aliases, Indices, Path, select_places};
use crate::condition::{Count, Leaf, Node, Operand, Operator, Over, Subject};
use crate::error::EvaluationError;
use crate::expr::{self, Expr, Function, Need};
use crate::field::{Field, resource_type, within};
use crate::json::member;
use crate::operator;

/// Steps of one evaluation: conditions, calls, elements of lists.
pub const STEPS_MAX: u64 = 1_000_000;
/// Values in a list or object that a function takes or makes, and how deep they may lie, as in Azure.
const VALUE_NODES_MAX: usize = 32_768;
const VALUE_DEPTH_MAX: usize = 128;
/// Evaluated expressions that are kept for the explanation.
const EXPLAINED_MAX: usize = 1_000;
/// Text of a value in an explanation.
const SHOWN_BYTES_MAX: usize = 4_096;

/// What context functions answer.
#[derive(Debug, Clone)]
pub struct Surroundings {
    pub now: Timestamp,
    pub resource_group: Value,
    pub subscription: Value,
    pub request: Value,
    pub policy: Value,
}

/// One condition that was evaluated, for the explanation.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluated {
    pub path: String,
    pub kind: &'static str,
    pub expression: String,
    pub value: Value,
    pub operator: &'static str,
    pub target: Value,
    pub result: bool,
}

impl Evaluated {
    pub fn to_json(&self) -> Value {
        json!({
            "path": self.path,
            "expressionKind": self.kind,
            "expression": self.expression,
            "value": self.value,
            "operator": self.operator,
            "target": self.target,
            "result": self.result,
        })
    }
}

/// The element that a count looks at.
struct Frame {
    name: String,
    place: Place,
    element: Value,
}

/// Where an element stands: the path of its list, and which element of each list on it. Elements of a
/// value that is no property stand nowhere.
type Place = Option<(Path, Indices)>;

type Outcome<T> = Result<T, EvaluationError>;

pub struct Evaluation<'a> {
    /// What conditions look at.
    resource: &'a Value,
    /// What `field()` looks at: also in an existence condition, the resource of the `if`.
    primary: &'a Value,
    parameters: &'a Map<String, Value>,
    around: &'a Surroundings,
    aliases: &'a Aliases,
    frames: Vec<Frame>,
    steps: u64,
    explained: Vec<Evaluated>,
    explains: bool,
}

impl<'a> Evaluation<'a> {
    pub fn new(
        resource: &'a Value,
        parameters: &'a Map<String, Value>,
        around: &'a Surroundings,
        aliases: &'a Aliases,
    ) -> Evaluation<'a> {
        Evaluation {
            resource,
            primary: resource,
            parameters,
            around,
            aliases,
            frames: Vec::new(),
            steps: 0,
            explained: Vec::new(),
            explains: true,
        }
    }

    /// The same evaluation, but nothing is kept to explain it.
    pub fn unexplained(mut self) -> Evaluation<'a> {
        self.explains = false;
        self
    }

    /// Steps that were taken so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The same evaluation for a related resource; `field()` still answers for the first.
    pub fn related(mut self, related: &'a Value) -> Evaluation<'a> {
        self.resource = related;
        self
    }

    pub fn explained(self) -> Vec<Evaluated> {
        self.explained
    }

    fn step(&mut self, work: usize) -> Outcome<()> {
        self.steps = self.steps.saturating_add(1 + work as u64);
        match self.steps <= STEPS_MAX {
            true => Ok(()),
            false => Err(EvaluationError::new(format!(
                "the evaluation takes more than {STEPS_MAX} steps"
            ))),
        }
    }

    pub fn holds(&mut self, node: &Node) -> Outcome<bool> {
        self.step(0)?;
        match node {
            Node::Leaf(leaf) => self.leaf(leaf),
            Node::Not(inner) => Ok(!self.holds(inner)?),
            Node::All(nodes) => {
                for node in nodes {
                    if !self.holds(node)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Node::Any(nodes) => {
                for node in nodes {
                    if self.holds(node)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
        }
    }

    pub fn leaf(&mut self, leaf: &Leaf) -> Outcome<bool> {
        self.leaf_value(leaf)
            .map_err(|error| EvaluationError::new(format!("{}: {error}", leaf.path)))
    }

    fn leaf_value(&mut self, leaf: &Leaf) -> Outcome<bool> {
        let target = match &leaf.target {
            Operand::Constant(target) => Cow::Borrowed(target),
            computed => Cow::Owned(self.operand(computed)?),
        };
        self.step(work(&target))?;
        let (kind, expression, value, result) = match &leaf.subject {
            Subject::Field(field, text) => {
                let (value, result) = self.field_holds(field, leaf.operator, &target)?;
                ("Field", text, value, result)
            }
            Subject::Computed(name, text) => {
                let name = self.expression(name)?;
                let name = expr_text(&name)?;
                let field = Field::parse(name, self.aliases).map_err(EvaluationError::new)?;
                let (value, result) = self.field_holds(&field, leaf.operator, &target)?;
                ("Field", text, value, result)
            }
            Subject::Value(operand, text) => {
                let value = self.operand(operand)?;
                self.step(work(&value))?;
                let result = operator::value_holds(leaf.operator, &value, &target)?;
                ("Value", text, value, result)
            }
            Subject::Count(count) => {
                let counted = Value::from(self.count(count)?);
                let result = operator::holds(leaf.operator, Some(&counted), &target)?;
                ("Count", &count.name, counted, result)
            }
        };
        if self.explains && self.explained.len() < EXPLAINED_MAX {
            self.explained.push(Evaluated {
                path: leaf.path.clone(),
                kind,
                expression: expression.clone(),
                value: bounded(value),
                operator: leaf.operator.name(),
                target: bounded(target.into_owned()),
                result,
            });
        }
        Ok(result)
    }

    fn field_holds(
        &mut self,
        field: &Field,
        operator: Operator,
        target: &Value,
    ) -> Outcome<(Value, bool)> {
        let values = self.values(field, false)?;
        let mut result = true;
        for value in &values {
            let value = value.as_deref();
            self.step(value.map_or(0, work))?;
            result = match (field, value) {
                (Field::Location, Some(Value::String(text))) => {
                    operator::location_holds(operator, text, target)?
                }
                (Field::Type, Some(Value::String(text))) => {
                    operator::type_holds(operator, text, target)?
                }
                _ => operator::holds(operator, value, target)?,
            };
            if !result {
                break;
            }
        }
        let shown = match field.is_list() {
            true => values
                .into_iter()
                .map(|v| v.map_or(Value::Null, Cow::into_owned))
                .collect(),
            false => values
                .into_iter()
                .next()
                .flatten()
                .map_or(Value::Null, Cow::into_owned),
        };
        Ok((shown, result))
    }

    /// What the field has: inside of a count over its list, only what the current element has.
    fn values(&mut self, field: &Field, primary: bool) -> Outcome<Vec<Option<Cow<'a, Value>>>> {
        if field.is_list()
            && let Some(path) = field.path_at(&resource_type(self.resource), self.api_version())
            && let Some(at) = self.counted(path)
        {
            let values = within(path, self.resource, at);
            self.step(values.len())?;
            return Ok(values);
        }
        let resource = if primary { self.primary } else { self.resource };
        let version = match primary {
            true => self.request_version(),
            false => self.api_version(),
        };
        let values = field.values(resource, version);
        self.step(values.len())?;
        Ok(values)
    }

    /// The API version at which the resource is shown. Related resources are shown as they are stored.
    fn api_version(&self) -> Option<&'a str> {
        let own = std::ptr::eq(self.resource, self.primary);
        self.request_version().filter(|_| own)
    }

    pub fn request_version(&self) -> Option<&'a str> {
        crate::json::text(&self.around.request, "apiVersion")
    }

    /// The elements that the counts around stand at, of the lists that a path leads through: a condition
    /// in a count sees the current element as the only one of its list.
    fn counted(&self, path: &Path) -> Option<&[usize]> {
        let shared = |frame: &'_ Frame| -> usize {
            let place = frame.place.as_ref();
            place.map_or(0, |(counted, _)| path.shared_lists(counted))
        };
        // Of equals the last is taken, which is the innermost count.
        let frame = self.frames.iter().max_by_key(|frame| shared(frame))?;
        let (_, at) = frame.place.as_ref()?;
        let lists = shared(frame);
        (lists > 0).then(|| &at[..lists])
    }

    fn count(&mut self, count: &Count) -> Outcome<usize> {
        let elements: Vec<(Place, Value)> = match &count.over {
            Over::Field(field) => self.places(field)?,
            Over::Value(operand) => match self.operand(operand)? {
                Value::Array(items) => items.into_iter().map(|item| (None, item)).collect(),
                Value::Null => Vec::new(),
                // What a missing property is to `field()`.
                Value::String(text) if text.is_empty() => Vec::new(),
                single => vec![(None, single)],
            },
        };
        self.step(elements.len())?;
        let Some(filter) = &count.filter else {
            return Ok(elements.len());
        };
        let mut counted = 0;
        for (place, element) in elements {
            self.step(0)?;
            self.frames.push(Frame {
                name: count.name.clone(),
                place,
                element,
            });
            let holds = self.holds(filter);
            self.frames.pop();
            counted += usize::from(holds?);
        }
        Ok(counted)
    }

    /// The elements of a list, and where each of them stands.
    fn places(&mut self, field: &Field) -> Outcome<Vec<(Place, Value)>> {
        let Some(path) = field.path_at(&resource_type(self.resource), self.api_version()) else {
            return Ok(Vec::new());
        };
        let at = self.counted(path).unwrap_or_default();
        let found = select_places(&path.0, self.resource, at);
        // Charged before they are copied.
        self.step(found.iter().filter_map(|(_, value)| *value).map(work).sum())?;
        let owned = |(at, value): (Indices, Option<&Value>)| {
            (Some((path.clone(), at)), value.cloned().unwrap_or_default())
        };
        Ok(found.into_iter().map(owned).collect())
    }

    pub fn operand(&mut self, operand: &Operand) -> Outcome<Value> {
        match operand {
            Operand::Constant(value) => Ok(value.clone()),
            Operand::Expression(expression) => self.expression(expression),
            Operand::List(items) => items.iter().map(|item| self.operand(item)).collect(),
            Operand::Object(members) => {
                let mut object = Map::new();
                for (key, member) in members {
                    object.insert(key.clone(), self.operand(member)?);
                }
                Ok(Value::Object(object))
            }
        }
    }

    pub fn expression(&mut self, expression: &Expr) -> Outcome<Value> {
        self.step(0)?;
        match expression {
            Expr::Literal(value) => Ok(value.clone()),
            Expr::Call(function, arguments) => self.call(function, arguments),
            Expr::Member { base, key, lenient } => {
                let base = self.expression(base)?;
                let key = self.expression(key)?;
                match expr::lists::at(&base, &key) {
                    Some(value) => Ok(value),
                    None if *lenient => Ok(Value::Null),
                    None => Err(EvaluationError::new(format!(
                        "the value has no member {key}"
                    ))),
                }
            }
        }
    }

    fn call(&mut self, function: &'static Function, arguments: &[Expr]) -> Outcome<Value> {
        if function.need == Need::Lazy {
            return self.lazy(function, arguments);
        }
        let mut values = Vec::with_capacity(arguments.len());
        for argument in arguments {
            let value = self.expression(argument)?;
            // Charged as it is made, so that many large arguments never stand in memory together.
            self.step(work(&value))?;
            bearable(&value, 0, &mut 0).map_err(|reason| named(function, reason))?;
            values.push(value);
        }
        let answer = match function.need {
            Need::Context => Ok(self.context(function.name)),
            Need::Evaluation => self.own(function.name, &values),
            _ => (function.run)(&values).map_err(EvaluationError::new),
        };
        let answer = answer.map_err(|error| named(function, &error.to_string()))?;
        bearable(&answer, 0, &mut 0).map_err(|reason| named(function, reason))?;
        self.step(work(&answer))?;
        Ok(answer)
    }

    /// Functions that evaluate no more than they need.
    fn lazy(&mut self, function: &Function, arguments: &[Expr]) -> Outcome<Value> {
        let truth = |value: &Value| {
            expr::compare::truth(value)
                .map_err(|reason| EvaluationError::new(format!("{}(): {reason}", function.name)))
        };
        match function.name {
            "if" => {
                let condition = self.expression(&arguments[0])?;
                let chosen = if truth(&condition)? { 1 } else { 2 };
                self.expression(&arguments[chosen])
            }
            "coalesce" => {
                for argument in arguments {
                    let value = self.expression(argument)?;
                    if !value.is_null() {
                        return Ok(value);
                    }
                }
                Ok(Value::Null)
            }
            name => {
                let stop = name == "or";
                for argument in arguments {
                    let value = self.expression(argument)?;
                    if truth(&value)? == stop {
                        return Ok(Value::Bool(stop));
                    }
                }
                Ok(Value::Bool(!stop))
            }
        }
    }

    fn context(&self, name: &str) -> Value {
        match name {
            "resourceGroup" => self.around.resource_group.clone(),
            "subscription" => self.around.subscription.clone(),
            "requestContext" => self.around.request.clone(),
            _ => self.around.policy.clone(),
        }
    }

    fn own(&mut self, name: &str, values: &[Value]) -> Outcome<Value> {
        match name {
            "utcNow" => Ok(Value::String(expr::render_instant(self.around.now))),
            "current" => self.current(values.first()),
            "parameters" => {
                let name = expr_text(&values[0])?;
                member(self.parameters, name)
                    .cloned()
                    .ok_or_else(|| EvaluationError::new(format!("parameter `{name}` has no value")))
            }
            _ => {
                let name = expr_text(&values[0])?;
                let field = Field::parse(name, self.aliases).map_err(EvaluationError::new)?;
                let found = self.values(&field, true)?;
                let mut found = found.into_iter();
                Ok(match field.is_list() {
                    true => found
                        .map(|v| v.map_or(Value::Null, Cow::into_owned))
                        .collect(),
                    false => found.next().flatten().map_or_else(missing, Cow::into_owned),
                })
            }
        }
    }

    /// The element of the innermost count, of a named one, or what a field has in it.
    fn current(&self, name: Option<&Value>) -> Outcome<Value> {
        let Some(name) = name else {
            let frame = self.frames.last();
            return frame
                .map(|frame| frame.element.clone())
                .ok_or_else(|| EvaluationError::new("nothing is counted here"));
        };
        let name = expr_text(name)?;
        let named = self
            .frames
            .iter()
            .rev()
            .find(|frame| frame.name.eq_ignore_ascii_case(name));
        if let Some(frame) = named {
            return Ok(match frame.element.is_null() && frame.place.is_some() {
                true => missing(),
                false => frame.element.clone(),
            });
        }
        let unknown = || EvaluationError::new(format!("nothing named `{name}` is counted here"));
        let field = Field::parse(name, self.aliases).map_err(|_| unknown())?;
        let kind = resource_type(self.resource);
        let path = field.path_at(&kind, self.api_version());
        let path = path.ok_or_else(unknown)?;
        if let Some(at) = self.counted(path) {
            let inner_list = path.lists() > at.len();
            let mut values = within(path, self.resource, at).into_iter();
            return Ok(match inner_list {
                true => values
                    .map(|v| v.map_or(Value::Null, Cow::into_owned))
                    .collect(),
                false => values
                    .next()
                    .flatten()
                    .map_or_else(missing, Cow::into_owned),
            });
        }
        Err(unknown())
    }
}

/// What expressions see of a property that is not there.
fn missing() -> Value {
    Value::String(String::new())
}

fn expr_text(value: &Value) -> Outcome<&str> {
    value
        .as_str()
        .ok_or_else(|| EvaluationError::new("expected a text"))
}

fn named(function: &Function, reason: &str) -> EvaluationError {
    EvaluationError::new(format!("{}(): {reason}", function.name))
}

/// Whether a value is small enough to be given to a function or to come from one.
fn bearable(value: &Value, depth: usize, nodes: &mut usize) -> Result<(), &'static str> {
    *nodes += 1;
    if *nodes > VALUE_NODES_MAX || depth > VALUE_DEPTH_MAX {
        return Err("a value is too large or too deep");
    }
    match value {
        Value::Array(items) => items
            .iter()
            .try_for_each(|item| bearable(item, depth + 1, nodes)),
        Value::Object(object) => object
            .values()
            .try_for_each(|item| bearable(item, depth + 1, nodes)),
        _ => Ok(()),
    }
}

/// Steps that it takes to look at a value.
fn work(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len() / 64,
        Value::Array(items) => items.len() + items.iter().map(work).sum::<usize>(),
        Value::Object(object) => object.len() + object.values().map(work).sum::<usize>(),
        _ => 0,
    }
}

/// A value as the explanation keeps it.
fn bounded(value: Value) -> Value {
    let large = match &value {
        Value::String(text) => text.len() > SHOWN_BYTES_MAX,
        Value::Array(_) | Value::Object(_) => value.to_string().len() > SHOWN_BYTES_MAX,
        _ => false,
    };
    match large {
        true => Value::String("(too long to show)".to_owned()),
        false => value,
    }
}
