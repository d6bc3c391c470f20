//! `$apply`: filters, groups and aggregates, one after the other.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::filter::Filter;
use super::lex::{Token, Tokens};
use super::{NAMES_MAX, QueryError, STEPS_MAX, known_name, value};

/// One step of `$apply`.
#[derive(Debug, Clone, PartialEq)]
pub enum Transform {
    Filter(Filter),
    /// One record for each combination of these members, with aggregates over those that fell into it.
    Group {
        by: Vec<String>,
        aggregates: Vec<Aggregate>,
    },
    /// One record out of all.
    Aggregate(Vec<Aggregate>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aggregate {
    of: Over,
    name: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Over {
    Count,
    Distinct(String),
    Sum(String),
    Average(String),
    Min(String),
    Max(String),
}

/// The steps, and the members that records have after them.
pub fn parse(text: &str, known: Vec<String>) -> Result<(Vec<Transform>, Vec<String>), QueryError> {
    let mut tokens = Tokens::of(text)?;
    let mut known = known;
    let mut steps = Vec::new();
    loop {
        if steps.len() == STEPS_MAX {
            return Err(QueryError::TooLong);
        }
        let (step, after) = step(&mut tokens, known)?;
        steps.push(step);
        known = after;
        if !tokens.takes(&Token::Slash) {
            break;
        }
    }
    match tokens.peek() {
        Token::End => Ok((steps, known)),
        _ => Err(tokens.wrong("the end or '/' is expected".into())),
    }
}

fn step(tokens: &mut Tokens, known: Vec<String>) -> Result<(Transform, Vec<String>), QueryError> {
    let unknown = tokens.wrong("'filter', 'groupby' or 'aggregate' is expected".into());
    let word = tokens.word("'filter', 'groupby' or 'aggregate'")?;
    tokens.need(&Token::Open, "'('")?;
    let done = match word.to_lowercase().as_str() {
        "filter" => {
            let filter = Filter::read(tokens, &known)?;
            (Transform::Filter(filter), known)
        }
        "aggregate" => {
            let aggregates = aggregates(tokens, &known)?;
            let after = aggregates.iter().map(|one| one.name.clone()).collect();
            (Transform::Aggregate(aggregates), after)
        }
        "groupby" => group(tokens, &known)?,
        _ => return Err(unknown),
    };
    tokens.need(&Token::Close, "')'")?;
    Ok(done)
}

fn group(tokens: &mut Tokens, known: &[String]) -> Result<(Transform, Vec<String>), QueryError> {
    tokens.need(&Token::Open, "'('")?;
    let mut by = Vec::new();
    loop {
        if by.len() == NAMES_MAX {
            return Err(QueryError::TooLong);
        }
        by.push(known_name(&tokens.word("a property")?, known)?);
        if !tokens.takes(&Token::Comma) {
            break;
        }
    }
    tokens.need(&Token::Close, "')'")?;
    let mut found = Vec::new();
    if tokens.takes(&Token::Comma) {
        if !tokens.takes_word("aggregate") {
            return Err(tokens.wrong("'aggregate' is expected".into()));
        }
        tokens.need(&Token::Open, "'('")?;
        found = aggregates(tokens, known)?;
        tokens.need(&Token::Close, "')'")?;
    }
    let names = found.iter().map(|one: &Aggregate| one.name.clone());
    let after = by.iter().cloned().chain(names).collect();
    let aggregates = found;
    Ok((Transform::Group { by, aggregates }, after))
}

/// `$count as N` and `member with sum as N`, with commas between.
fn aggregates(tokens: &mut Tokens, known: &[String]) -> Result<Vec<Aggregate>, QueryError> {
    let mut found: Vec<Aggregate> = Vec::new();
    loop {
        if found.len() == NAMES_MAX {
            return Err(QueryError::TooLong);
        }
        let of = tokens.word("'$count' or a property")?;
        let of = if of.eq_ignore_ascii_case("$count") {
            Over::Count
        } else {
            let of = known_name(&of, known)?;
            let way = match tokens.takes_word("with") {
                true => tokens.word("'sum', 'min', 'max', 'average' or 'countdistinct'")?,
                false => return Err(tokens.wrong("'with' is expected".into())),
            };
            match way.to_lowercase().as_str() {
                "sum" => Over::Sum(of),
                "min" => Over::Min(of),
                "max" => Over::Max(of),
                "average" => Over::Average(of),
                "countdistinct" => Over::Distinct(of),
                _ => return Err(tokens.wrong(format!("there is no way '{way}' to aggregate"))),
            }
        };
        if !tokens.takes_word("as") {
            return Err(tokens.wrong("'as' is expected".into()));
        }
        let name = tokens.word("a name")?;
        found.push(Aggregate { of, name });
        if !tokens.takes(&Token::Comma) {
            return Ok(found);
        }
    }
}

impl Transform {
    pub fn run(&self, mut records: Vec<Value>) -> Vec<Value> {
        match self {
            Transform::Filter(filter) => {
                records.retain(|record| filter.holds(record));
                records
            }
            Transform::Aggregate(aggregates) => {
                let all: Vec<&Value> = records.iter().collect();
                let mut made = Map::new();
                fill(&mut made, aggregates, &all);
                vec![Value::Object(made)]
            }
            Transform::Group { by, aggregates } => grouped(&records, by, aggregates),
        }
    }
}

fn grouped(records: &[Value], by: &[String], aggregates: &[Aggregate]) -> Vec<Value> {
    let of = |record: &Value, name: &String| {
        let found = value::member(record, name).cloned();
        found.unwrap_or_default()
    };
    // In the order in which groups are first met.
    let mut places: BTreeMap<Vec<String>, usize> = BTreeMap::new();
    let mut groups: Vec<Vec<&Value>> = Vec::new();
    for record in records {
        let key: Vec<String> = by
            .iter()
            .map(|name| value::key(&of(record, name)))
            .collect();
        let place = *places.entry(key).or_insert(groups.len());
        if place == groups.len() {
            groups.push(Vec::new());
        }
        groups[place].push(record);
    }
    let shown = groups.iter().map(|group| {
        let mut made = Map::new();
        for name in by {
            let value = group.first().map(|record| of(record, name));
            made.insert(name.clone(), value.unwrap_or_default());
        }
        fill(&mut made, aggregates, group);
        Value::Object(made)
    });
    shown.collect()
}

fn fill(made: &mut Map<String, Value>, aggregates: &[Aggregate], records: &[&Value]) {
    for one in aggregates {
        made.insert(one.name.clone(), one.of.over(records));
    }
}

impl Over {
    fn over(&self, records: &[&Value]) -> Value {
        let values = |name: &String| {
            let name = name.clone();
            let of = move |record: &&Value| value::member(record, &name).cloned();
            records
                .iter()
                .filter_map(of)
                .filter(|value| !value.is_null())
        };
        let numbers = |name: &String| -> Vec<f64> {
            values(name).filter_map(|value| value.as_f64()).collect()
        };
        match self {
            Over::Count => records.len().into(),
            Over::Distinct(name) => {
                let keys: std::collections::BTreeSet<String> =
                    values(name).map(|value| value::key(&value)).collect();
                keys.len().into()
            }
            Over::Sum(name) => numbers(name).iter().sum::<f64>().into(),
            Over::Average(name) => {
                let numbers = numbers(name);
                match numbers.len() {
                    0 => Value::Null,
                    count => (numbers.iter().sum::<f64>() / count as f64).into(),
                }
            }
            Over::Min(name) => values(name).min_by(value::order).unwrap_or_default(),
            Over::Max(name) => values(name).max_by(value::order).unwrap_or_default(),
        }
    }
}
