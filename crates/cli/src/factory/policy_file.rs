//! Policies as they lie in files: JSON with comments, a whole definition or its bare properties.
//!
//! Looks at the shape only. What a rule means, and whether it can be compiled, is the server's to say, and that of
//! `bullion policy check`.

use serde_json::{Map, Value};

/// Why a file holds no policy.
#[derive(Debug, PartialEq, Eq)]
pub struct PolicyFault {
    /// Line and column in the file, both from 1, where one character is at fault.
    pub at: Option<(usize, usize)>,
    pub what: String,
    pub right: &'static str,
}

/// The properties of the definition that a file holds.
pub fn parse(bytes: &[u8]) -> Result<Map<String, Value>, PolicyFault> {
    let text = std::str::from_utf8(bytes).map_err(|_| PolicyFault {
        at: None,
        what: "is not text".into(),
        right: "save it as UTF-8 text",
    })?;
    let value: Value = serde_json::from_str(&without_comments(text)).map_err(|error| {
        let full = error.to_string();
        let why = full.split(" at line ").next().unwrap_or(&full);
        PolicyFault {
            at: Some((error.line(), error.column())),
            what: format!("is not valid JSON: {why}"),
            right: "JSON with `//` and `/* */` comments is read, but no comma may stand before a closing bracket",
        }
    })?;
    let shape = |what: &str, right| PolicyFault {
        at: None,
        what: what.into(),
        right,
    };
    const RIGHT: &str =
        "a policy has `mode`, `parameters` and `policyRule`, at the top or inside `properties`";
    let Value::Object(mut whole) = value else {
        return Err(shape("is not a policy: it is no object", RIGHT));
    };
    let properties = match whole.remove("properties") {
        Some(Value::Object(properties)) => properties,
        Some(_) => return Err(shape("has `properties` that are no object", RIGHT)),
        None => whole,
    };
    let Some(Value::Object(rule)) = properties.get("policyRule") else {
        return Err(shape("has no `policyRule`", RIGHT));
    };
    for part in ["if", "then"] {
        if !rule.get(part).is_some_and(Value::is_object) {
            return Err(shape(
                &format!("has a `policyRule` without `{part}`"),
                "a rule is `{\"if\": {…}, \"then\": {\"effect\": …}}`",
            ));
        }
    }
    if !rule["then"].get("effect").is_some_and(Value::is_string) {
        return Err(shape(
            "has a `policyRule` whose `then` has no `effect`",
            "add one, such as `\"effect\": \"audit\"`",
        ));
    }
    for part in ["parameters", "metadata"] {
        if properties.get(part).is_some_and(|value| !value.is_object()) {
            return Err(shape(
                &format!("has `{part}` that are no object"),
                "write one key for each",
            ));
        }
    }
    Ok(properties)
}

/// Blanks where comments were, so that lines and columns stay.
fn without_comments(text: &str) -> String {
    enum At {
        Code,
        Text,
        Escaped,
        Line,
        Block,
    }
    let mut at = At::Code;
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let blank = |c: char| if c == '\n' { '\n' } else { ' ' };
        match (&at, c) {
            (At::Code, '/') if chars.peek() == Some(&'/') => {
                at = At::Line;
                out.push(' ');
            }
            (At::Code, '/') if chars.peek() == Some(&'*') => {
                chars.next();
                at = At::Block;
                out.push_str("  ");
            }
            (At::Code, _) => {
                if c == '"' {
                    at = At::Text;
                }
                out.push(c);
            }
            (At::Text, _) => {
                match c {
                    '"' => at = At::Code,
                    '\\' => at = At::Escaped,
                    _ => {}
                }
                out.push(c);
            }
            (At::Escaped, _) => {
                at = At::Text;
                out.push(c);
            }
            (At::Line, _) => {
                if c == '\n' {
                    at = At::Code;
                }
                out.push(blank(c));
            }
            (At::Block, '*') if chars.peek() == Some(&'/') => {
                chars.next();
                at = At::Code;
                out.push_str("  ");
            }
            (At::Block, _) => out.push(blank(c)),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, at: Option<(usize, usize)>, expected: &str) {
        match parse(text.as_bytes()) {
            Ok(found) => assert_eq!(found["policyRule"]["then"]["effect"], expected, "{text}"),
            Err(fault) => {
                assert!(fault.what.contains(expected), "{text}: {}", fault.what);
                assert_eq!(fault.at, at, "{text}");
            }
        }
    }

    #[test]
    fn files() {
        const RULE: &str = r#""policyRule": {"if": {"field": "type", "like": "a//b/*"}, "then": {"effect": "audit"}}"#;
        check(&format!("{{{RULE}}}"), None, "audit");
        check(&format!("{{\"properties\": {{{RULE}}}}}"), None, "audit");
        check(
            &format!("// why\n{{ /* \" \n */ {RULE}}} // end"),
            None,
            "audit",
        );
        check("{\n  // why\n  \"a\": ,\n}", Some((3, 8)), "expected value");
        check("{\"a\": /* open", Some((1, 13)), "EOF");
        check("[]", None, "no object");
        check("{}", None, "no `policyRule`");
        check(r#"{"policyRule": {"if": {}}}"#, None, "without `then`");
        check(
            r#"{"policyRule": {"if": {}, "then": {}}}"#,
            None,
            "no `effect`",
        );
    }
}
