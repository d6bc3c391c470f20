//! `$filter` as Resource Manager's own lists take it: terms joined by `and`, without parentheses.
//!
//! Policy's records have the whole of OData (`wire::odata`); what is here is what ARM allows for resources, groups and
//! activities, and nothing more.

use wire::ArmError;

use crate::errors;

const TERMS_MAX: usize = 16;
const TEXT_BYTES_MAX: usize = 8 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    Equal,
    NotEqual,
    AtLeast,
    AtMost,
    /// `substringof('value', name)`
    Contains,
    /// `startswith(name, 'value')`
    StartsWith,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    /// In lower case.
    pub name: String,
    pub relation: Relation,
    pub value: String,
}

/// The terms of a filter; none of an empty one. `known` are the names that may stand in it, in lower case.
pub fn terms(text: &str, known: &[&str]) -> Result<Vec<Term>, ArmError> {
    let bad = || {
        let names = known.join(", ");
        errors::invalid(
            "$filter",
            format!(
                "The filter must be terms of the form: name eq 'value', joined by 'and'; the names are {names}."
            ),
        )
    };
    if text.len() > TEXT_BYTES_MAX {
        return Err(bad());
    }
    let mut terms = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (term, after) = term(rest).ok_or_else(bad)?;
        if !known.contains(&term.name.as_str()) || terms.len() == TERMS_MAX {
            return Err(bad());
        }
        terms.push(term);
        rest = after.trim_start();
        if rest.is_empty() {
            break;
        }
        let joined = rest.get(..4).filter(|and| and.eq_ignore_ascii_case("and "));
        joined.ok_or_else(bad)?;
        rest = rest[4..].trim_start();
        if rest.is_empty() {
            return Err(bad());
        }
    }
    Ok(terms)
}

/// The first term, and what comes after it.
fn term(text: &str) -> Option<(Term, &str)> {
    let (name, rest) = word(text);
    let rest = rest.trim_start();
    if let Some(inside) = rest.strip_prefix('(') {
        return call(&name, inside);
    }
    let (relation, rest) = word(rest);
    let relation = match relation.as_str() {
        "eq" => Relation::Equal,
        "ne" => Relation::NotEqual,
        "ge" | "gt" => Relation::AtLeast,
        "le" | "lt" => Relation::AtMost,
        _ => return None,
    };
    let (value, rest) = value(rest.trim_start())?;
    (!name.is_empty()).then_some((
        Term {
            name,
            relation,
            value,
        },
        rest,
    ))
}

fn call<'t>(function: &str, inside: &'t str) -> Option<(Term, &'t str)> {
    let inside = inside.trim_start();
    let (relation, name, value_text, rest) = match function {
        "substringof" => {
            let (value, rest) = value(inside)?;
            let (name, rest) = word(rest.trim_start().strip_prefix(',')?.trim_start());
            (Relation::Contains, name, value, rest)
        }
        "startswith" => {
            let (name, rest) = word(inside);
            let (value, rest) = value(rest.trim_start().strip_prefix(',')?.trim_start())?;
            (Relation::StartsWith, name, value, rest)
        }
        _ => return None,
    };
    let mut rest = rest.trim_start().strip_prefix(')')?;
    // `substringof('a', name) eq true` says the same.
    let (eq, after) = word(rest.trim_start());
    if eq == "eq" {
        let (truth, after) = word(after.trim_start());
        rest = (truth == "true").then_some(after)?;
    }
    Some((
        Term {
            name,
            relation,
            value: value_text,
        },
        rest,
    ))
}

/// Letters, digits, `.` and `/`, in lower case.
fn word(text: &str) -> (String, &str) {
    let end = text
        .find(|c: char| !(c.is_ascii_alphanumeric() || "._/".contains(c)))
        .unwrap_or(text.len());
    (text[..end].to_ascii_lowercase(), &text[end..])
}

/// A quoted text, in which two quotes are one; or a bare one, up to the next blank.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('\'') else {
        let end = text.find([' ', ')', ',']).unwrap_or(text.len());
        return (end > 0).then(|| (text[..end].to_owned(), &text[end..]));
    };
    let mut found = String::new();
    let mut rest = quoted;
    loop {
        let end = rest.find('\'')?;
        found.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('\'') {
            Some(after) => {
                found.push('\'');
                rest = after;
            }
            None => return Some((found, rest)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, expected: Option<&str>) {
        let seen = terms(text, &["name", "location", "at"]).ok().map(|terms| {
            let shown = terms
                .iter()
                .map(|term| format!("{} {:?} {}", term.name, term.relation, term.value));
            shown.collect::<Vec<_>>().join("; ")
        });
        assert_eq!(seen.as_deref(), expected, "{text}");
    }

    #[test]
    fn terms_joined_by_and() {
        check("", Some(""));
        check("  ", Some(""));
        check("name eq 'a'", Some("name Equal a"));
        check(
            "NAME EQ 'a''b and c' AND location ne 'x'",
            Some("name Equal a'b and c; location NotEqual x"),
        );
        check(
            "at ge 2026-01-01T00:00:00Z and at le '2026-02-01'",
            Some("at AtLeast 2026-01-01T00:00:00Z; at AtMost 2026-02-01"),
        );
        check("substringof('de', name)", Some("name Contains de"));
        check(
            "substringof('de',name) eq true and startswith(location, 'n')",
            Some("name Contains de; location StartsWith n"),
        );
        for bad in [
            "name",
            "name eq",
            "name eq 'a",
            "name like 'a'",
            "other eq 'a'",
            "name eq 'a' or name eq 'b'",
            "name eq 'a' and",
            "(name eq 'a')",
            "length(name)",
            "substringof('a' name)",
            "substringof('a', name) eq false",
            "'a' eq name",
            "name eq 'a' name eq 'b'",
        ] {
            check(bad, None);
        }
        check(&vec!["name eq 'a'"; 17].join(" and "), None);
    }

    proptest! {
        #[test]
        fn no_text_is_a_fault(text in "\\PC{0,60}") {
            let _ = terms(&text, &["name"]);
        }

        #[test]
        fn any_value_comes_back(value in "\\PC{0,30}") {
            let text = format!("name eq '{}'", value.replace('\'', "''"));
            prop_assert_eq!(&terms(&text, &["name"]).unwrap()[0].value, &value);
        }
    }
}
