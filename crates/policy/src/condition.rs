//! Conditions: the tree of an `if` or an `existenceCondition`, compiled once.

use std::collections::HashMap;

use serde_json::{Map, Value};

use crate::alias::{Alias, Aliases};
use crate::error::Fault;
use crate::expr::{self, Expr};
use crate::field::Field;
use crate::json::member;

/// Deepest nesting of conditions, as Azure has it.
pub const NESTING_MAX: usize = 512;
/// Deepest nesting of counts in counts.
pub const COUNTS_MAX: usize = 16;
/// Conditions of an `if`, and of an existence condition, as Azure has it.
pub const IF_CONDITIONS_MAX: usize = 4_096;
pub const THEN_CONDITIONS_MAX: usize = 128;
/// Calls of functions in one rule, counts of values in one rule, counts over one list, and elements that
/// nested counts of values go through, as Azure has it.
pub const CALLS_MAX: usize = 2_048;
pub const VALUE_COUNTS_MAX: usize = 10;
pub const FIELD_COUNTS_MAX: usize = 5;
pub const ITERATIONS_MAX: usize = 100;
/// Characters of a condition's path that are kept for the explanation.
const PATH_CHARS_MAX: usize = 240;
/// Deepest nesting of lists and objects in a value that a rule gives.
const OPERAND_DEPTH_MAX: usize = 64;

#[derive(Debug, Clone)]
pub enum Node {
    All(Vec<Node>),
    Any(Vec<Node>),
    Not(Box<Node>),
    Leaf(Box<Leaf>),
}

#[derive(Debug, Clone)]
pub struct Leaf {
    /// Where it stands: `if.allOf[1]`.
    pub path: String,
    pub subject: Subject,
    pub operator: Operator,
    pub target: Operand,
}

#[derive(Debug, Clone)]
pub enum Subject {
    Field(Field, String),
    /// A field whose name is an expression.
    Computed(Expr, String),
    Value(Operand, String),
    Count(Box<Count>),
}

#[derive(Debug, Clone)]
pub struct Count {
    pub over: Over,
    pub name: String,
    pub filter: Option<Node>,
}

#[derive(Debug, Clone)]
pub enum Over {
    Field(Field),
    Value(Operand),
}

/// A value of a rule, with its expressions.
#[derive(Debug, Clone)]
pub enum Operand {
    Constant(Value),
    Expression(Expr),
    List(Vec<Operand>),
    Object(Vec<(String, Operand)>),
}

macro_rules! operators {
    ($($variant:ident $name:literal),* $(,)?) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Operator { $($variant),* }

        impl Operator {
            pub const ALL: &[Operator] = &[$(Operator::$variant),*];

            pub fn name(self) -> &'static str {
                match self { $(Operator::$variant => $name),* }
            }
        }
    };
}

operators! {
    Equals "equals", NotEquals "notEquals", Like "like", NotLike "notLike",
    Match "match", NotMatch "notMatch",
    MatchInsensitively "matchInsensitively", NotMatchInsensitively "notMatchInsensitively",
    Contains "contains", NotContains "notContains", In "in", NotIn "notIn",
    ContainsKey "containsKey", NotContainsKey "notContainsKey",
    Less "less", LessOrEquals "lessOrEquals", Greater "greater", GreaterOrEquals "greaterOrEquals",
    Exists "exists",
}

impl Operator {
    fn parse(name: &str) -> Option<Operator> {
        let known = Operator::ALL.iter();
        known
            .copied()
            .find(|operator| operator.name().eq_ignore_ascii_case(name))
    }
}

/// What a rule may refer to while it is compiled.
pub struct Compiler<'a> {
    pub aliases: &'a Aliases,
    /// Names of the parameters.
    pub parameters: &'a Map<String, Value>,
    nesting: usize,
    counts: Vec<String>,
    used: Used,
    /// Whether an alias that the table lacks is taken to lead nowhere, as of Azure's own definitions.
    pub forgives: bool,
    /// Whether there was such an alias so far.
    pub forgave: std::cell::Cell<bool>,
}

/// How much of what is limited a rule has used so far.
#[derive(Default)]
struct Used {
    conditions: usize,
    conditions_max: usize,
    calls: std::cell::Cell<usize>,
    value_counts: usize,
    field_counts: HashMap<String, usize>,
    /// Elements that the counts of values around go through.
    iterations: usize,
}

impl<'a> Compiler<'a> {
    pub fn new(aliases: &'a Aliases, parameters: &'a Map<String, Value>) -> Compiler<'a> {
        Compiler {
            aliases,
            parameters,
            nesting: 0,
            counts: Vec::new(),
            forgives: false,
            forgave: std::cell::Cell::new(false),
            used: Used {
                conditions_max: IF_CONDITIONS_MAX,
                iterations: 1,
                ..Used::default()
            },
        }
    }

    /// From here on the conditions are those of an existence condition.
    pub fn existence_condition(&mut self, value: &Value, path: &str) -> Result<Node, Fault> {
        self.used.conditions = 0;
        self.used.conditions_max = THEN_CONDITIONS_MAX;
        self.condition(value, path)
    }

    pub fn condition(&mut self, value: &Value, path: &str) -> Result<Node, Fault> {
        if self.nesting >= NESTING_MAX {
            let reason = format!("conditions are nested more than {NESTING_MAX} deep");
            return Err(Fault::new(path, reason));
        }
        let Value::Object(object) = value else {
            return Err(Fault::new(path, "a condition is an object"));
        };
        self.nesting += 1;
        let node = self.object(object, path);
        self.nesting -= 1;
        node
    }

    fn object(&mut self, object: &Map<String, Value>, path: &str) -> Result<Node, Fault> {
        let logical = ["allOf", "anyOf", "not"]
            .into_iter()
            .find(|name| member(object, name).is_some());
        let Some(name) = logical else {
            return self
                .leaf(object, path)
                .map(|leaf| Node::Leaf(Box::new(leaf)));
        };
        if object.len() > 1 {
            let reason = format!("`{name}` stands alone, but here with other members");
            return Err(Fault::new(path, reason));
        }
        let inner = member(object, name).unwrap_or(&Value::Null);
        let path = format!("{path}.{name}");
        if name == "not" {
            return Ok(Node::Not(Box::new(self.condition(inner, &path)?)));
        }
        let Value::Array(items) = inner else {
            return Err(Fault::new(
                path,
                format!("`{name}` takes a list of conditions"),
            ));
        };
        if items.is_empty() {
            return Err(Fault::new(
                path,
                format!("`{name}` needs at least one condition"),
            ));
        }
        let mut nodes = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            nodes.push(self.condition(item, &format!("{path}[{index}]"))?);
        }
        Ok(if name == "allOf" {
            Node::All(nodes)
        } else {
            Node::Any(nodes)
        })
    }

    fn leaf(&mut self, object: &Map<String, Value>, path: &str) -> Result<Leaf, Fault> {
        self.used.conditions += 1;
        let most = self.used.conditions_max;
        if self.used.conditions > most {
            return Err(Fault::new(
                path,
                format!("there are more than {most} conditions"),
            ));
        }
        let mut subject = None;
        let mut test = None;
        for (key, value) in object {
            let at = format!("{path}.{key}");
            let folded = key.to_ascii_lowercase();
            let previous = match folded.as_str() {
                "field" => subject.replace(self.field(value, &at)?).is_some(),
                "value" => {
                    let operand = self.operand(value, &at)?;
                    subject
                        .replace(Subject::Value(operand, shown(value)))
                        .is_some()
                }
                "count" => subject.replace(self.count(value, &at)?).is_some(),
                _ => {
                    let operator = Operator::parse(key)
                        .ok_or_else(|| Fault::new(&at, format!("there is no condition `{key}`")))?;
                    let target = self.target(operator, value, &at)?;
                    test.replace((operator, target)).is_some()
                }
            };
            if previous {
                return Err(Fault::new(path, "a condition has one subject and one test"));
            }
        }
        let subject = subject.ok_or_else(|| {
            Fault::new(
                path,
                "expected `field`, `value`, `count`, `allOf`, `anyOf` or `not`",
            )
        })?;
        let (operator, target) =
            test.ok_or_else(|| Fault::new(path, "expected a test such as `equals`"))?;
        Ok(Leaf {
            path: kept(path),
            subject,
            operator,
            target,
        })
    }

    /// The field of this name.
    pub fn named(&self, name: &str) -> Result<Field, String> {
        let field = Field::parse(name, self.aliases);
        let alias = name.contains('/') && name.contains('.');
        if field.is_err() && self.forgives && alias {
            self.forgave.set(true);
            return Ok(Field::Alias(Alias::nowhere(name)));
        }
        field
    }

    fn field(&mut self, value: &Value, path: &str) -> Result<Subject, Fault> {
        let Value::String(text) = value else {
            return Err(Fault::new(path, "a field is a text"));
        };
        match expr::body(text) {
            Some(body) => Ok(Subject::Computed(
                self.expression(body, path)?,
                text.clone(),
            )),
            None => match self.named(expr::unescape(text)) {
                Ok(Field::Tag(name)) if name.is_empty() => {
                    Err(Fault::new(path, format!("`{text}` names no tag")))
                }
                Ok(field) => Ok(Subject::Field(field, text.clone())),
                Err(reason) => Err(Fault::new(path, reason)),
            },
        }
    }

    fn count(&mut self, value: &Value, path: &str) -> Result<Subject, Fault> {
        let Value::Object(object) = value else {
            return Err(Fault::new(path, "`count` is an object"));
        };
        if let Some(key) = object.keys().find(|key| {
            let known = ["field", "value", "name", "where"];
            !known.iter().any(|known| known.eq_ignore_ascii_case(key))
        }) {
            return Err(Fault::new(
                format!("{path}.{key}"),
                format!("`count` has no member `{key}`"),
            ));
        }
        if self.counts.len() >= COUNTS_MAX {
            return Err(Fault::new(
                path,
                format!("counts are nested more than {COUNTS_MAX} deep"),
            ));
        }
        let given = member(object, "name");
        let (over, name) = match (member(object, "field"), member(object, "value")) {
            (Some(_), Some(_)) => {
                return Err(Fault::new(
                    path,
                    "`count` takes `field` or `value`, not both",
                ));
            }
            (None, None) => return Err(Fault::new(path, "`count` needs `field` or `value`")),
            (Some(_), None) if given.is_some() => {
                return Err(Fault::new(path, "`name` goes with `value` alone"));
            }
            (Some(field), None) => self.counted_field(field, path)?,
            (None, Some(value)) => {
                let over = self.operand(value, &format!("{path}.value"))?;
                let name = match given {
                    None => String::new(),
                    Some(Value::String(name)) if !name.is_empty() => name.clone(),
                    Some(_) => return Err(Fault::new(format!("{path}.name"), "a name is a text")),
                };
                (Over::Value(over), name)
            }
        };
        let taken = !name.is_empty()
            && matches!(over, Over::Value(_))
            && self
                .counts
                .iter()
                .any(|other| other.eq_ignore_ascii_case(&name));
        if taken {
            return Err(Fault::new(
                format!("{path}.name"),
                format!("an outer count is named `{name}` too"),
            ));
        }
        let around = self.used.iterations;
        self.take_count(&over, &name, path)?;
        self.counts.push(name.clone());
        let filter = member(object, "where")
            .map(|filter| self.condition(filter, &format!("{path}.where")))
            .transpose();
        self.counts.pop();
        self.used.iterations = around;
        Ok(Subject::Count(Box::new(Count {
            over,
            name,
            filter: filter?,
        })))
    }

    /// Charges a count to what a rule may have of them.
    fn take_count(&mut self, over: &Over, name: &str, path: &str) -> Result<(), Fault> {
        let (used, most, what) = match over {
            Over::Value(operand) => {
                let elements = match operand {
                    Operand::Constant(Value::Array(items)) => items.len(),
                    Operand::List(items) => items.len(),
                    _ => 1,
                };
                self.used.iterations = self.used.iterations.saturating_mul(elements.max(1));
                if self.used.iterations > ITERATIONS_MAX {
                    let reason = format!("counts go through more than {ITERATIONS_MAX} values");
                    return Err(Fault::new(path, reason));
                }
                self.used.value_counts += 1;
                (self.used.value_counts, VALUE_COUNTS_MAX, "values")
            }
            Over::Field(_) => {
                let name = name.to_ascii_lowercase();
                let used = self.used.field_counts.entry(name).or_default();
                *used += 1;
                (*used, FIELD_COUNTS_MAX, "one list")
            }
        };
        match used <= most {
            true => Ok(()),
            false => Err(Fault::new(
                path,
                format!("there are more than {most} counts of {what}"),
            )),
        }
    }

    fn counted_field(&self, value: &Value, path: &str) -> Result<(Over, String), Fault> {
        let at = format!("{path}.field");
        let Value::String(text) = value else {
            return Err(Fault::new(at, "a field is a text"));
        };
        let field = self.named(text).map_err(|reason| Fault::new(&at, reason))?;
        match field.is_list() {
            true => Ok((Over::Field(field), text.clone())),
            false => Err(Fault::new(
                at,
                "only a list can be counted: the field needs `[*]`",
            )),
        }
    }

    fn target(&mut self, operator: Operator, value: &Value, path: &str) -> Result<Operand, Fault> {
        let computed = value
            .as_str()
            .is_some_and(|text| expr::body(text).is_some());
        let refuse = |what: &str| {
            Err(Fault::new(
                path,
                format!("`{}` takes {what}", operator.name()),
            ))
        };
        match operator {
            _ if computed => {}
            Operator::In | Operator::NotIn if !value.is_array() => return refuse("a list"),
            Operator::Exists => {
                let truth = crate::expr::compare::truth(value);
                return match truth {
                    Ok(truth) => Ok(Operand::Constant(Value::Bool(truth))),
                    Err(_) => refuse("true or false"),
                };
            }
            Operator::Like
            | Operator::NotLike
            | Operator::Match
            | Operator::NotMatch
            | Operator::MatchInsensitively
            | Operator::NotMatchInsensitively
            | Operator::ContainsKey
            | Operator::NotContainsKey
                if !value.is_string() =>
            {
                return refuse("a text");
            }
            Operator::Less
            | Operator::LessOrEquals
            | Operator::Greater
            | Operator::GreaterOrEquals
                if !(value.is_string() || value.is_number()) =>
            {
                return refuse("a number, a date or a text");
            }
            _ => {}
        }
        self.operand(value, path)
    }

    /// Any value of the rule: its texts may be expressions, at every depth.
    pub fn operand(&mut self, value: &Value, path: &str) -> Result<Operand, Fault> {
        self.operand_within(value, path, 0)
    }

    fn operand_within(
        &mut self,
        value: &Value,
        path: &str,
        depth: usize,
    ) -> Result<Operand, Fault> {
        if depth > OPERAND_DEPTH_MAX {
            return Err(Fault::new(
                path,
                format!("nested more than {OPERAND_DEPTH_MAX} levels deep"),
            ));
        }
        Ok(match value {
            Value::String(text) => match expr::body(text) {
                Some(body) => Operand::Expression(self.expression(body, path)?),
                None => Operand::Constant(Value::String(expr::unescape(text).to_owned())),
            },
            Value::Array(items) => {
                let mut operands = Vec::with_capacity(items.len());
                for (index, item) in items.iter().enumerate() {
                    operands.push(self.operand_within(
                        item,
                        &format!("{path}[{index}]"),
                        depth + 1,
                    )?);
                }
                folded_list(operands)
            }
            Value::Object(object) => {
                let mut members = Vec::with_capacity(object.len());
                for (key, item) in object {
                    let operand = self.operand_within(item, &format!("{path}.{key}"), depth + 1)?;
                    members.push((key.clone(), operand));
                }
                Operand::Object(members)
            }
            scalar => Operand::Constant(scalar.clone()),
        })
    }

    fn expression(&self, body: &str, path: &str) -> Result<Expr, Fault> {
        let expression = expr::parse(body).map_err(|reason| Fault::new(path, reason))?;
        let mut wrong = None;
        expression.calls(&mut |function, arguments| {
            let calls = self.used.calls.get() + 1;
            self.used.calls.set(calls);
            if calls > CALLS_MAX {
                wrong = Some(format!("a rule has at most {CALLS_MAX} calls of functions"));
            }
            let Some(Expr::Literal(Value::String(name))) = arguments.first() else {
                return;
            };
            let reason = match function.name {
                "parameters" if member(self.parameters, name).is_none() => {
                    Some(format!("there is no parameter `{name}`"))
                }
                "field" => self.named(name).err(),
                _ => None,
            };
            wrong = wrong.take().or(reason);
        });
        match wrong {
            Some(reason) => Err(Fault::new(path, reason)),
            None => Ok(expression),
        }
    }
}

/// A list without expressions is a constant, so that nothing is built for each resource.
fn folded_list(operands: Vec<Operand>) -> Operand {
    let constant = operands.iter().all(|o| matches!(o, Operand::Constant(_)));
    if !constant {
        return Operand::List(operands);
    }
    let values = operands.into_iter().filter_map(|operand| match operand {
        Operand::Constant(value) => Some(value),
        _ => None,
    });
    Operand::Constant(values.collect())
}

/// A path as a condition keeps it: its end, where deep nesting makes it long. A body may hold tens of
/// thousands of conditions, and their paths must not take more than the body.
fn kept(path: &str) -> String {
    let tail = path.char_indices().rev().nth(PATH_CHARS_MAX);
    tail.map_or_else(|| path.to_owned(), |(at, _)| format!("…{}", &path[at..]))
}

fn shown(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}
