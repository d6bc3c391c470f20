//! What clients ask Graph's lists for by `$filter`: terms that must all hold.

use serde_json::Value;

use super::{Refusal, unsupported};

const TERMS_MAX: usize = 10;

/// What clients filter by: terms that must all hold.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Filter(Vec<Term>);

#[derive(Debug, PartialEq, Eq)]
enum Term {
    /// A member is this, or a list holds it.
    Is(String, String),
    StartsWith(String, String),
}

impl Filter {
    pub fn parse(text: &str) -> Result<Filter, Refusal> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(Filter::default());
        }
        let mut terms = Vec::new();
        let mut rest = text;
        for _ in 0..TERMS_MAX {
            let Some((term, after)) = term(rest) else {
                break;
            };
            terms.push(term);
            if after.is_empty() {
                return Ok(Filter(terms));
            }
            let Some(next) = after.strip_prefix("and ") else {
                break;
            };
            rest = next.trim_start();
        }
        Err(unsupported("This filter is not supported."))
    }

    pub fn fits(&self, of: &Value) -> bool {
        let same = |value: &Value, wanted: &str| {
            value
                .as_str()
                .is_some_and(|text| text.eq_ignore_ascii_case(wanted))
        };
        self.0.iter().all(|term| match term {
            Term::Is(name, wanted) => match &of[name] {
                Value::Bool(value) => wanted.eq_ignore_ascii_case(&value.to_string()),
                Value::Array(list) => list.iter().any(|value| same(value, wanted)),
                value => same(value, wanted),
            },
            Term::StartsWith(name, wanted) => of[name]
                .as_str()
                .is_some_and(|text| text.to_lowercase().starts_with(&wanted.to_lowercase())),
        })
    }
}

/// The first term of a filter, and what comes after it.
fn term(text: &str) -> Option<(Term, &str)> {
    if let Some(rest) = text.strip_prefix("startswith(") {
        let (name, rest) = rest.split_once(',')?;
        let (value, rest) = quoted(rest.trim_start())?;
        let rest = rest.trim_start().strip_prefix(')')?;
        let term = Term::StartsWith(plain(name)?, value);
        return Some((term, rest.trim_start()));
    }
    if let Some((name, rest)) = text.split_once("/any(")
        && plain(name).is_some()
    {
        let (variable, rest) = rest.split_once(':')?;
        let rest = rest.trim_start().strip_prefix(variable.trim())?;
        let (value, rest) = quoted(rest.trim_start().strip_prefix("eq ")?.trim_start())?;
        let rest = rest.trim_start().strip_prefix(')')?;
        return Some((Term::Is(plain(name)?, value), rest.trim_start()));
    }
    let (name, rest) = text.split_once(" eq ")?;
    for word in ["true", "false"] {
        if let Some(rest) = rest.trim_start().strip_prefix(word) {
            let term = Term::Is(plain(name)?, word.into());
            return Some((term, rest.trim_start()));
        }
    }
    let (value, rest) = quoted(rest.trim_start())?;
    Some((Term::Is(plain(name)?, value), rest.trim_start()))
}

fn plain(name: &str) -> Option<String> {
    let name = name.trim();
    let fit = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
    fit.then(|| name.to_string())
}

/// A text in single quotes; two of them stand for one.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut rest = text.strip_prefix('\'')?;
    loop {
        let (part, after) = rest.split_once('\'')?;
        value.push_str(part);
        match after.strip_prefix('\'') {
            Some(more) => {
                value.push('\'');
                rest = more;
            }
            None => return Some((value, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn filters() {
        let shown = json!({
            "appId": "A1", "displayName": "It's CI", "servicePrincipalNames": ["a1", "b"],
        });
        let check = |text: &str, expected: Option<bool>| {
            let seen = Filter::parse(text).ok().map(|filter| filter.fits(&shown));
            assert_eq!(seen, expected, "{text}");
        };
        check("", Some(true));
        check("appId eq 'a1'", Some(true));
        check("appId eq 'a2'", Some(false));
        check("servicePrincipalNames/any(c:c eq 'B')", Some(true));
        check("servicePrincipalNames/any(c:c eq 'c')", Some(false));
        check("startswith(displayName,'it''s')", Some(true));
        check("startswith(displayName,'x') and appId eq 'a1'", Some(false));
        check("displayName eq 'It''s CI' and appId eq 'a1'", Some(true));
        check("unknown eq 'x'", Some(false));
        for text in [
            "appId eq a1",
            "appId eq 'a1",
            "appId ne 'a1'",
            "appId eq 'a1' or appId eq 'a2'",
            "a/any(c:d eq 'x')",
            "a/any(",
            "startswith(a)",
            "x' eq 'y'",
            "appId eq 'a1' and",
        ] {
            check(text, None);
        }
    }
}
