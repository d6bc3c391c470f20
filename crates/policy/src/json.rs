//! JSON with comments, as policy files are written by hand, and members looked up without case.
//!
//! The reader keeps its own stack, so that a deeply nested document costs memory within its limit and
//! never the thread's stack. It must not accept anything else that JSON does not have.

use serde_json::{Map, Value};

/// The largest document that is read: what Azure takes as the body of a definition.
pub const BODY_BYTES_MAX: usize = 1 << 20;
/// Deepest nesting of a document: two levels for each of 512 conditionals, and room around them.
pub const DEPTH_MAX: usize = 1100;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {reason}")]
pub struct JsonError {
    pub line: usize,
    pub column: usize,
    pub reason: String,
}

/// Reads one document of at most `BODY_BYTES_MAX`.
pub fn parse(text: &str) -> Result<Value, JsonError> {
    parse_within(text, BODY_BYTES_MAX)
}

/// Reads one document of at most `limit` bytes.
pub fn parse_within(text: &str, limit: usize) -> Result<Value, JsonError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = Reader { text, at: 0 };
    if text.len() > limit {
        return Err(reader.error(format!("the document has more than {limit} bytes")));
    }
    let value = reader.document()?;
    reader.blanks()?;
    match reader.peek() {
        None => Ok(value),
        Some(_) => Err(reader.error("text after the end of the document")),
    }
}

/// The member of an object, its name compared without case, as Resource Manager does.
pub fn member<'v>(object: &'v Map<String, Value>, name: &str) -> Option<&'v Value> {
    object.get(name).or_else(|| {
        object
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    })
}

/// The same for any value; only objects have members.
pub fn get<'v>(value: &'v Value, name: &str) -> Option<&'v Value> {
    value.as_object().and_then(|object| member(object, name))
}

/// A text member.
pub fn text<'v>(value: &'v Value, name: &str) -> Option<&'v str> {
    get(value, name).and_then(Value::as_str)
}

/// A list member; empty where there is none.
pub fn list<'v>(value: &'v Value, name: &str) -> &'v [Value] {
    get(value, name)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// The key under which the object already holds this name, whatever its case.
pub fn key_of(object: &Map<String, Value>, name: &str) -> String {
    if object.contains_key(name) {
        return name.to_owned();
    }
    object
        .keys()
        .find(|key| key.eq_ignore_ascii_case(name))
        .cloned()
        .unwrap_or_else(|| name.to_owned())
}

/// Changes a value as a JSON merge patch says: members are merged, a null removes, all else replaces.
pub fn patch(value: &mut Value, with: &Value) {
    let Value::Object(changes) = with else {
        *value = with.clone();
        return;
    };
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    let Value::Object(object) = value else {
        return;
    };
    for (name, change) in changes {
        let key = key_of(object, name);
        match change {
            Value::Null => drop(object.shift_remove(&key)),
            change => patch(object.entry(key).or_insert(Value::Null), change),
        }
    }
}

enum Open {
    Array(Vec<Value>),
    Object(Map<String, Value>, String),
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
}

impl Reader<'_> {
    fn error(&self, reason: impl Into<String>) -> JsonError {
        let before = &self.text.as_bytes()[..self.at.min(self.text.len())];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        let start = before.iter().rposition(|byte| *byte == b'\n');
        JsonError {
            line,
            column: before.len() - start.map_or(0, |at| at + 1) + 1,
            reason: reason.into(),
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn blanks(&mut self) -> Result<(), JsonError> {
        loop {
            let rest = &self.text[self.at..];
            if rest.starts_with([' ', '\t', '\r', '\n']) {
                self.at += 1;
            } else if rest.starts_with("//") {
                self.at += rest.find('\n').unwrap_or(rest.len());
            } else if let Some(comment) = rest.strip_prefix("/*") {
                let end = comment.find("*/");
                self.at += end.ok_or_else(|| self.error("a comment that does not end"))? + 4;
            } else {
                return Ok(());
            }
        }
    }

    fn document(&mut self) -> Result<Value, JsonError> {
        let mut open: Vec<Open> = Vec::new();
        loop {
            self.blanks()?;
            let mut value = match self.peek() {
                Some(b'[') => {
                    self.at += 1;
                    self.blanks()?;
                    if self.peek() == Some(b']') {
                        self.at += 1;
                        Value::Array(Vec::new())
                    } else {
                        self.push(&mut open, Open::Array(Vec::new()))?;
                        continue;
                    }
                }
                Some(b'{') => {
                    self.at += 1;
                    self.blanks()?;
                    if self.peek() == Some(b'}') {
                        self.at += 1;
                        Value::Object(Map::new())
                    } else {
                        let key = self.key()?;
                        self.push(&mut open, Open::Object(Map::new(), key))?;
                        continue;
                    }
                }
                _ => self.scalar()?,
            };
            // A value is complete: hand it to what it stands in, and close what that completes.
            loop {
                self.blanks()?;
                let Some(inside) = open.pop() else {
                    return Ok(value);
                };
                match self.give(inside, value)? {
                    Given::More(inside) => {
                        open.push(inside);
                        break;
                    }
                    Given::Closed(closed) => value = closed,
                }
            }
        }
    }

    fn push(&self, open: &mut Vec<Open>, inside: Open) -> Result<(), JsonError> {
        if open.len() >= DEPTH_MAX {
            return Err(self.error(format!("nested more than {DEPTH_MAX} levels deep")));
        }
        open.push(inside);
        Ok(())
    }

    fn give(&mut self, inside: Open, value: Value) -> Result<Given, JsonError> {
        let next = self.peek();
        self.at += usize::from(next.is_some());
        match (inside, next) {
            (Open::Array(mut items), Some(b',')) => {
                items.push(value);
                Ok(Given::More(Open::Array(items)))
            }
            (Open::Array(mut items), Some(b']')) => {
                items.push(value);
                Ok(Given::Closed(Value::Array(items)))
            }
            (Open::Object(mut map, key), Some(b',')) => {
                map.insert(key, value);
                let key = self.key()?;
                Ok(Given::More(Open::Object(map, key)))
            }
            (Open::Object(mut map, key), Some(b'}')) => {
                map.insert(key, value);
                Ok(Given::Closed(Value::Object(map)))
            }
            (Open::Array(_), _) => Err(self.error("expected ',' or ']'")),
            (Open::Object(..), _) => Err(self.error("expected ',' or '}'")),
        }
    }

    fn key(&mut self) -> Result<String, JsonError> {
        self.blanks()?;
        if self.peek() != Some(b'"') {
            return Err(self.error("expected a member's name in quotes"));
        }
        let Value::String(key) = self.scalar()? else {
            return Err(self.error("expected a member's name in quotes"));
        };
        self.blanks()?;
        if self.peek() != Some(b':') {
            return Err(self.error("expected ':'"));
        }
        self.at += 1;
        Ok(key)
    }

    /// A string, number or word; how those are written is `serde_json`'s to judge.
    fn scalar(&mut self) -> Result<Value, JsonError> {
        let rest = &self.text.as_bytes()[self.at..];
        let length = match rest.first() {
            None => return Err(self.error("the document ends too early")),
            Some(b'"') => {
                let mut escaped = false;
                let end = rest.iter().skip(1).position(|byte| {
                    let ends = *byte == b'"' && !escaped;
                    escaped = *byte == b'\\' && !escaped;
                    ends
                });
                end.ok_or_else(|| self.error("a string that does not end"))? + 2
            }
            Some(_) => rest
                .iter()
                .position(|byte| !(byte.is_ascii_alphanumeric() || b"+-.".contains(byte)))
                .unwrap_or(rest.len()),
        };
        let token = &self.text[self.at..self.at + length];
        let value = serde_json::from_str(token).map_err(|_| {
            self.error("expected a value: an object, list, string, number, true, false or null")
        })?;
        self.at += length;
        Ok(value)
    }
}

enum Given {
    More(Open),
    Closed(Value),
}
