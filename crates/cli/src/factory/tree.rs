//! YAML with places: every key and value knows its line and column.
//!
//! serde stops at the first fault and loses places inside tagged enums, so a folder is first read
//! into this tree, checked as a whole, and only then turned into typed documents. Nothing here
//! knows what a document means.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_saphyr::{Location, Spanned};

/// Deepest nesting that is read; the language itself needs six levels.
const DEPTH_MAX: usize = 32;

/// Line and column, both from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub line: u64,
    pub column: u64,
}

impl Position {
    pub const START: Position = Position { line: 1, column: 1 };
}

impl From<Location> for Position {
    fn from(location: Location) -> Position {
        Position {
            line: location.line().max(1),
            column: location.column().max(1),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub at: Position,
    pub value: Tree,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Tree {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    pub at: Position,
    pub text: String,
}

/// Why a file is not YAML that can be read.
#[derive(Debug, PartialEq)]
pub struct NotYaml {
    pub at: Position,
    pub why: String,
    pub right: Option<String>,
}

/// Reads every document of one file; empty documents are left out.
pub fn parse(text: &str) -> Result<Vec<Node>, NotYaml> {
    let options = serde_saphyr::options! {
        with_snippet: false,
        strict_booleans: true,
    };
    let documents: Vec<Spanned<Raw>> = serde_saphyr::from_multiple_with_options(text, options)
        .map_err(|error| not_yaml(text, &error))?;
    documents
        .into_iter()
        .filter(|document| !matches!(document.value, Raw::Null))
        .map(|document| node(document, 0))
        .collect()
}

fn not_yaml(text: &str, error: &serde_saphyr::Error) -> NotYaml {
    let at = error.location().map_or(Position::START, Position::from);
    let full = error.to_string();
    let why = full
        .split(" at line ")
        .next()
        .unwrap_or(&full)
        .trim_end_matches(", set DuplicateKeyPolicy in Options if acceptable");
    let line = text
        .lines()
        .nth(usize::try_from(at.line - 1).unwrap_or(0))
        .unwrap_or("");
    let right = if why.starts_with("duplicate mapping key") {
        Some("keep one of the two".to_string())
    } else if line.trim_start_matches(' ').starts_with('\t') {
        Some("indent with blanks; YAML does not allow tabs".to_string())
    } else {
        None
    };
    NotYaml {
        at,
        why: format!("this is not valid YAML: {why}"),
        right,
    }
}

impl Node {
    /// What a person would call this value.
    pub fn describe(&self) -> String {
        match &self.value {
            Tree::Null => "nothing".into(),
            Tree::Bool(value) => format!("the truth value `{value}`"),
            Tree::Int(value) => format!("the number {value}"),
            // The digits as written are gone: `0644` and `1.0` would both be misquoted.
            Tree::Float(_) => "a number".into(),
            Tree::Text(value) if value.contains('\n') => "text of several lines".into(),
            Tree::Text(value) => format!("the text `{value}`"),
            Tree::List(_) => "a list".into(),
            Tree::Map(_) => "a map of keys".into(),
        }
    }

    pub fn get(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Tree::Map(entries) => entries
                .iter()
                .find(|(found, _)| found.text == key)
                .map(|(_, value)| value),
            _ => None,
        }
    }

    pub fn keys(&self) -> impl Iterator<Item = &str> {
        let entries = match &self.value {
            Tree::Map(entries) => entries.as_slice(),
            _ => &[],
        };
        entries.iter().map(|(key, _)| key.text.as_str())
    }

    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Tree::Text(text) => Some(text),
            _ => None,
        }
    }

    pub fn items(&self) -> &[Node] {
        match &self.value {
            Tree::List(items) => items,
            _ => &[],
        }
    }

    /// The same value without places. A key without a value is a key that is not there.
    pub fn to_json(&self) -> Value {
        match &self.value {
            Tree::Null => Value::Null,
            Tree::Bool(value) => Value::Bool(*value),
            Tree::Int(value) => Value::from(*value),
            Tree::Float(value) => Value::from(*value),
            Tree::Text(value) => Value::String(value.clone()),
            Tree::List(items) => items.iter().map(Node::to_json).collect(),
            Tree::Map(entries) => entries
                .iter()
                .filter(|(_, value)| value.value != Tree::Null)
                .map(|(key, value)| (key.text.clone(), value.to_json()))
                .collect::<serde_json::Map<_, _>>()
                .into(),
        }
    }
}

/// What serde-saphyr fills in; its places are those of a mapping's first key or a block scalar's
/// first line, which is where a reader looks.
enum Raw {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

fn node(raw: Spanned<Raw>, depth: usize) -> Result<Node, NotYaml> {
    let at = Position::from(raw.referenced);
    if depth > DEPTH_MAX {
        return Err(NotYaml {
            at,
            why: format!("nested more than {DEPTH_MAX} deep"),
            right: None,
        });
    }
    let value = match raw.value {
        Raw::Null => Tree::Null,
        Raw::Bool(value) => Tree::Bool(value),
        Raw::Int(value) => Tree::Int(value),
        Raw::Float(value) => Tree::Float(value),
        Raw::Text(value) => Tree::Text(value),
        Raw::List(items) => Tree::List(
            items
                .into_iter()
                .map(|item| node(item, depth + 1))
                .collect::<Result<_, _>>()?,
        ),
        Raw::Map(entries) => Tree::Map(
            entries
                .into_iter()
                .map(|(key, value)| {
                    let key = Key {
                        at: Position::from(key.referenced),
                        text: key.value,
                    };
                    Ok((key, node(value, depth + 1)?))
                })
                .collect::<Result<_, _>>()?,
        ),
    };
    Ok(Node { at, value })
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Raw, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Int(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        // Beyond i64 only "too large" can follow, for which the rounded value is good enough.
        Ok(i64::try_from(value).map_or(Raw::Float(value as f64), Raw::Int))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Raw::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = access.next_key()? {
            entries.push((key, access.next_value()?));
        }
        Ok(Raw::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, line: u64, column: u64, why: &str) {
        let error = parse(text).unwrap_err();
        assert_eq!(
            (error.at.line, error.at.column),
            (line, column),
            "{text:?}: {error:?}"
        );
        assert!(error.why.contains(why), "{text:?}: {}", error.why);
    }

    #[test]
    fn faults_have_places() {
        check("a: 1\na: 2\n", 2, 1, "duplicate mapping key: a");
        check("a: 1\nb: [1\nc: 2\n", 3, 2, "illegal placement");
        check("a:\n  ? [x]\n  : 1\n", 2, 5, "expected string scalar");
    }

    #[test]
    fn values_have_places() {
        let documents = parse("---\nkind: Gallery\nx:\n  - {a: yes}\n---\n---\nb: 2\n").unwrap();
        assert_eq!(documents.len(), 2);
        let item = &documents[0].get("x").unwrap().items()[0];
        assert_eq!(item.get("a").unwrap().at, Position { line: 4, column: 9 });
        assert_eq!(
            item.get("a").unwrap().text(),
            Some("yes"),
            "YAML 1.2: `yes` is text"
        );
    }
}
