//! What a value shall be: itself, or one of goss's matchers. Pure.

use regex::Regex;
use serde_json::Value;

use super::Wrong;

/// Matchers in matchers.
const DEPTH_MAX: usize = 8;
const PATTERN_BYTES_MAX: usize = 4096;
/// Memory of one compiled expression.
const PATTERN_MEMORY_MAX: usize = 1 << 20;

/// How a value is compared.
#[derive(Debug, Clone)]
pub(super) enum Matcher {
    Equal(Value),
    /// Each is in the value, in any order; for texts, as a part of it.
    All(Vec<Matcher>),
    Any(Vec<Matcher>),
    Not(Box<Matcher>),
    Number(Order, f64),
    Regex(Regex),
    Prefix(String),
    Suffix(String),
    Substring(String),
    Element(Box<Matcher>),
    /// The same elements in any order.
    Consists(Vec<Value>),
    Length(Box<Matcher>),
    /// A line of a text, by a pattern.
    Line(Regex),
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Order {
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

impl Matcher {
    /// A plain value is compared; a list is one whose elements are all to be found; an object names the comparison.
    pub fn parse(value: &Value) -> Result<Matcher, Wrong> {
        parse(value, 0)
    }

    /// For texts: a list of parts, `/patterns/` of a line, and `!` before what must not be found.
    pub fn searched(value: &Value) -> Result<Matcher, Wrong> {
        let one = |part: &str| -> Result<Matcher, Wrong> {
            let (denied, part) = match part.strip_prefix('!') {
                Some(part) => (true, part),
                None => (false, part.strip_prefix('\\').unwrap_or(part)),
            };
            let pattern = part
                .strip_prefix('/')
                .and_then(|part| part.strip_suffix('/'));
            let found = match pattern {
                Some(pattern) => Matcher::Line(regex(pattern)?),
                None => Matcher::Substring(part.to_owned()),
            };
            Ok(if denied {
                Matcher::Not(Box::new(found))
            } else {
                found
            })
        };
        match value {
            Value::String(part) => one(part),
            Value::Array(parts) if parts.iter().all(Value::is_string) => {
                let parts = parts.iter().filter_map(Value::as_str).map(one);
                Ok(Matcher::All(parts.collect::<Result<_, _>>()?))
            }
            other => Matcher::parse(other),
        }
    }

    /// Says what is wrong with a value, if something is.
    pub fn against(&self, found: &Value) -> Result<(), String> {
        match self {
            Matcher::Not(inner) => match inner.against(found) {
                Ok(()) => Err(inner.is_found(found)),
                Err(_) => Ok(()),
            },
            Matcher::All(all) => all.iter().try_for_each(|one| one.against(found)),
            Matcher::Any(any) if any.iter().any(|one| one.against(found).is_ok()) => Ok(()),
            other if other.holds(found) => Ok(()),
            Matcher::Equal(value) => Err(format!("it is {found}, not {value}")),
            Matcher::Substring(part) => Err(format!("`{part}` is not found")),
            Matcher::Line(pattern) => Err(format!("no line matches `{pattern}`")),
            other => Err(format!("it is {found}, which is not {}", other.told())),
        }
    }

    fn is_found(&self, found: &Value) -> String {
        match self {
            Matcher::Substring(part) => format!("`{part}` is found"),
            Matcher::Line(pattern) => format!("a line matches `{pattern}`"),
            other => format!("it is {found}, which is {}", other.told()),
        }
    }

    fn holds(&self, found: &Value) -> bool {
        let text = || match found {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            other => other.to_string(),
        };
        match self {
            Matcher::Equal(value) => same(found, value),
            Matcher::All(all) => all.iter().all(|one| one.against(found).is_ok()),
            Matcher::Any(any) => any.iter().any(|one| one.against(found).is_ok()),
            Matcher::Not(inner) => inner.against(found).is_err(),
            Matcher::Number(order, limit) => number(found).is_some_and(|number| match order {
                Order::Greater => number > *limit,
                Order::GreaterOrEqual => number >= *limit,
                Order::Less => number < *limit,
                Order::LessOrEqual => number <= *limit,
            }),
            Matcher::Regex(pattern) => pattern.is_match(&text()),
            Matcher::Line(pattern) => text().lines().any(|line| pattern.is_match(line)),
            Matcher::Prefix(part) => text().starts_with(part),
            Matcher::Suffix(part) => text().ends_with(part),
            Matcher::Substring(part) => text().contains(part),
            Matcher::Element(inner) => elements(found).iter().any(|one| inner.against(one).is_ok()),
            Matcher::Consists(wanted) => {
                let have = elements(found);
                have.len() == wanted.len()
                    && wanted
                        .iter()
                        .all(|one| have.iter().any(|have| same(have, one)))
            }
            Matcher::Length(inner) => {
                let length = found.as_array().map_or_else(|| text().len(), Vec::len);
                inner.against(&Value::from(length)).is_ok()
            }
        }
    }

    fn told(&self) -> String {
        match self {
            Matcher::Equal(value) => value.to_string(),
            Matcher::All(all) => join(all, " and "),
            Matcher::Any(any) => join(any, " or "),
            Matcher::Not(inner) => format!("not {}", inner.told()),
            Matcher::Number(Order::Greater, limit) => format!("greater than {limit}"),
            Matcher::Number(Order::GreaterOrEqual, limit) => format!("at least {limit}"),
            Matcher::Number(Order::Less, limit) => format!("less than {limit}"),
            Matcher::Number(Order::LessOrEqual, limit) => format!("at most {limit}"),
            Matcher::Regex(pattern) | Matcher::Line(pattern) => format!("like `{pattern}`"),
            Matcher::Prefix(part) => format!("something that begins with `{part}`"),
            Matcher::Suffix(part) => format!("something that ends with `{part}`"),
            Matcher::Substring(part) => format!("something with `{part}` in it"),
            Matcher::Element(inner) => format!("a list with {} in it", inner.told()),
            Matcher::Consists(wanted) => format!("made of {}", Value::from(wanted.clone())),
            Matcher::Length(inner) => format!("as long as {}", inner.told()),
        }
    }
}

fn join(all: &[Matcher], word: &str) -> String {
    all.iter().map(Matcher::told).collect::<Vec<_>>().join(word)
}

fn parse(value: &Value, depth: usize) -> Result<Matcher, Wrong> {
    if depth > DEPTH_MAX {
        return Err((
            "matchers are nested too deeply".to_owned(),
            "nest at most 8",
        ));
    }
    let inner = |value: &Value| parse(value, depth + 1);
    let Value::Object(object) = value else {
        return Ok(match value {
            Value::Array(all) => {
                let each = all
                    .iter()
                    .map(|one| inner(one).map(|one| Matcher::Element(Box::new(one))));
                Matcher::All(each.collect::<Result<_, _>>()?)
            }
            plain => Matcher::Equal(plain.clone()),
        });
    };
    let mut parts = object.iter();
    match (parts.next(), parts.next()) {
        (Some((name, argument)), None) => compared(name, argument, depth + 1),
        _ => {
            let right = "write one comparison, such as `{ge: 1000}`, or join several with `and`";
            Err(("a comparison has one name".to_owned(), right))
        }
    }
}

/// One comparison by its name.
fn compared(name: &str, argument: &Value, depth: usize) -> Result<Matcher, Wrong> {
    let inner = |value: &Value| parse(value, depth);
    let several = || -> Result<Vec<Matcher>, Wrong> {
        let list = argument
            .as_array()
            .ok_or_else(|| (format!("`{name}` has no list"), "give it a list"))?;
        list.iter().map(inner).collect()
    };
    let text = || match argument {
        Value::String(text) => Ok(text.clone()),
        _ => Err((format!("`{name}` has no text"), "write the text in quotes")),
    };
    let limit = |order| {
        let limit = number(argument)
            .ok_or_else(|| (format!("`{name}` has no number"), "give it a number"))?;
        Ok(Matcher::Number(order, limit))
    };
    match name {
        "and" => Ok(Matcher::All(several()?)),
        "or" => Ok(Matcher::Any(several()?)),
        "not" => Ok(Matcher::Not(Box::new(inner(argument)?))),
        "equal" => Ok(Matcher::Equal(argument.clone())),
        "gt" => limit(Order::Greater),
        "ge" => limit(Order::GreaterOrEqual),
        "lt" => limit(Order::Less),
        "le" => limit(Order::LessOrEqual),
        "match-regexp" => Ok(Matcher::Regex(regex(&text()?)?)),
        "have-prefix" => Ok(Matcher::Prefix(text()?)),
        "have-suffix" => Ok(Matcher::Suffix(text()?)),
        "contain-substring" => Ok(Matcher::Substring(text()?)),
        "contain-element" => Ok(Matcher::Element(Box::new(inner(argument)?))),
        "contain-elements" => {
            let each = several()?
                .into_iter()
                .map(|one| Matcher::Element(Box::new(one)));
            Ok(Matcher::All(each.collect()))
        }
        "consist-of" => match argument {
            Value::Array(wanted) => Ok(Matcher::Consists(wanted.clone())),
            _ => Err((format!("`{name}` has no list"), "give it a list")),
        },
        "have-len" => Ok(Matcher::Length(Box::new(inner(argument)?))),
        other => Err((
            format!("`{other}` is not a way to compare"),
            "they are equal, not, and, or, gt, ge, lt, le, match-regexp, have-prefix, have-suffix, contain-substring, \
             contain-element, contain-elements, consist-of and have-len",
        )),
    }
}

fn regex(pattern: &str) -> Result<Regex, Wrong> {
    let wrong = || {
        (
            format!("`{pattern}` is not a regular expression"),
            "write it as goss does, in RE2's syntax",
        )
    };
    if pattern.len() > PATTERN_BYTES_MAX {
        return Err(wrong());
    }
    let built = regex::RegexBuilder::new(pattern)
        .size_limit(PATTERN_MEMORY_MAX)
        .build();
    built.map_err(|_| wrong())
}

/// YAML makes numbers of what a machine says as text.
fn same(found: &Value, wanted: &Value) -> bool {
    found == wanted
        || match (found, wanted) {
            (Value::String(text), Value::Number(_)) | (Value::Number(_), Value::String(text)) => {
                let other = if found.is_string() { wanted } else { found };
                text.parse::<f64>()
                    .is_ok_and(|text| number(other) == Some(text))
            }
            _ => false,
        }
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::String(text) => text.trim().parse().ok(),
        other => other.as_f64(),
    }
}

fn elements(found: &Value) -> Vec<Value> {
    match found {
        Value::Array(all) => all.clone(),
        Value::Null => Vec::new(),
        one => vec![one.clone()],
    }
}
