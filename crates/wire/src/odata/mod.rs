//! The query options of OData that Azure's policy records are asked with: `$filter`, `$apply`, `$orderby`, `$select`,
//! `$top`. Parsed from text of strangers, and evaluated over records that are JSON objects.
//!
//! Names and texts compare without case, as Azure's service compares them. A member that a record lacks is null.
//! Whatever is parsed is bounded in length, depth and number, and evaluating it takes time linear in the records.

mod apply;
mod filter;
mod lex;
mod value;

use std::cmp::Ordering;

use serde_json::{Map, Value};

pub use apply::Transform;
pub use filter::Filter;

/// Bytes of one option.
pub const TEXT_BYTES_MAX: usize = 8 << 10;
/// Tokens of one option.
pub const TOKENS_MAX: usize = 1_000;
/// Parentheses, functions and `not` inside of each other.
pub const DEPTH_MAX: usize = 32;
/// Members of `$select`, `$orderby`, or one group.
pub const NAMES_MAX: usize = 64;
/// Steps of `$apply`.
pub const STEPS_MAX: usize = 16;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    #[error("it is longer than {TEXT_BYTES_MAX} bytes, {TOKENS_MAX} tokens or {DEPTH_MAX} levels")]
    TooLong,
    #[error("at character {at}: {what}")]
    Syntax { at: usize, what: String },
    #[error("there is no property '{0}'")]
    Unknown(String),
}

/// What a client asked of a list of records.
#[derive(Debug, Clone, Default)]
pub struct Query {
    pub filter: Option<Filter>,
    pub apply: Vec<Transform>,
    pub order: Vec<Order>,
    pub select: Vec<String>,
    pub top: Option<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    pub name: String,
    pub descending: bool,
}

/// The texts of the options, as the query string or the body had them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Texts<'t> {
    pub filter: Option<&'t str>,
    pub apply: Option<&'t str>,
    pub order: Option<&'t str>,
    pub select: Option<&'t str>,
    pub top: Option<&'t str>,
}

/// Which option is wrong, and how.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{option}: {source}")]
pub struct OptionError {
    pub option: &'static str,
    #[source]
    pub source: QueryError,
}

impl Query {
    /// `known` are the members that a record may have; any other name is an error, so that a misspelt one is not
    /// taken for null.
    pub fn parse(texts: Texts<'_>, known: &[&str]) -> Result<Query, OptionError> {
        let wrong = |option| move |source| OptionError { option, source };
        let given = |text: Option<&str>| {
            let text = text.map(str::trim).filter(|text| !text.is_empty());
            text.map(str::to_owned)
        };
        let known: Vec<String> = known.iter().map(|name| (*name).to_owned()).collect();
        let filter = given(texts.filter).map(|text| Filter::parse(&text, &known));
        let filter = filter.transpose().map_err(wrong("$filter"))?;
        let (apply, known) = match given(texts.apply) {
            Some(text) => apply::parse(&text, known).map_err(wrong("$apply"))?,
            None => (Vec::new(), known),
        };
        let order = given(texts.order).map(|text| order(&text, &known));
        let order = order.transpose().map_err(wrong("$orderby"))?;
        let select = given(texts.select).map(|text| names(&text, &known));
        let select = select.transpose().map_err(wrong("$select"))?;
        let top = given(texts.top).map(|text| {
            text.parse::<usize>().map_err(|_| QueryError::Syntax {
                at: 1,
                what: "a number is expected".into(),
            })
        });
        Ok(Query {
            filter,
            apply,
            order: order.unwrap_or_default(),
            select: select.unwrap_or_default(),
            top: top.transpose().map_err(wrong("$top"))?,
        })
    }

    /// Filter, transformations and order, in this order. `$top` and `$select` are of the page that is shown.
    pub fn run(&self, mut records: Vec<Value>) -> Vec<Value> {
        if let Some(filter) = &self.filter {
            records.retain(|record| filter.holds(record));
        }
        for step in &self.apply {
            records = step.run(records);
        }
        if !self.order.is_empty() {
            records.sort_by(|a, b| self.compare(a, b));
        }
        records
    }

    fn compare(&self, a: &Value, b: &Value) -> Ordering {
        let each = self.order.iter().map(|order| {
            let of = |record: &Value| value::member(record, &order.name).cloned();
            let (a, b) = (of(a).unwrap_or_default(), of(b).unwrap_or_default());
            let seen = value::order(&a, &b);
            if order.descending {
                seen.reverse()
            } else {
                seen
            }
        });
        each.fold(Ordering::Equal, Ordering::then)
    }

    /// The members that `$select` names; all, without one.
    pub fn selected(&self, record: Value) -> Value {
        if self.select.is_empty() {
            return record;
        }
        let pick = |name: &String| {
            let found = value::member(&record, name).cloned();
            (name.clone(), found.unwrap_or_default())
        };
        Value::Object(self.select.iter().map(pick).collect::<Map<_, _>>())
    }
}

/// The name as it is written in `known`.
fn known_name(name: &str, known: &[String]) -> Result<String, QueryError> {
    let found = known.iter().find(|one| one.eq_ignore_ascii_case(name));
    found
        .cloned()
        .ok_or_else(|| QueryError::Unknown(name.chars().take(100).collect()))
}

fn names(text: &str, known: &[String]) -> Result<Vec<String>, QueryError> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(QueryError::TooLong);
    }
    let names: Vec<&str> = text.split(',').take(NAMES_MAX + 1).collect();
    if names.len() > NAMES_MAX {
        return Err(QueryError::TooLong);
    }
    names
        .iter()
        .map(|name| known_name(name.trim(), known))
        .collect()
}

fn order(text: &str, known: &[String]) -> Result<Vec<Order>, QueryError> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(QueryError::TooLong);
    }
    let mut orders = Vec::new();
    for (index, part) in text.split(',').enumerate() {
        if index == NAMES_MAX {
            return Err(QueryError::TooLong);
        }
        let words: Vec<&str> = part.split_whitespace().collect();
        let (name, descending) = match words.as_slice() {
            [name] => (name, false),
            [name, way] if way.eq_ignore_ascii_case("asc") => (name, false),
            [name, way] if way.eq_ignore_ascii_case("desc") => (name, true),
            _ => {
                let what = "a property is expected, and after it 'asc' or 'desc'".into();
                return Err(QueryError::Syntax { at: 1, what });
            }
        };
        orders.push(Order {
            name: known_name(name, known)?,
            descending,
        });
    }
    Ok(orders)
}

#[cfg(test)]
mod tests;
