//! Why a resource does not comply, in words, and what would change that.
//!
//! Works on the expressions that were evaluated. Which of them decided follows from where they stand in the rule.

use std::collections::HashMap;

use policy::evaluate::Evaluated;
use policy::verdict::{State, Verdict};
use serde_json::Value;

use crate::subject::Subject;
use crate::unit::Unit;

/// Reasons that one text names.
const NAMED_MAX: usize = 5;
/// Characters of a value in a text.
const VALUE_CHARS_MAX: usize = 120;
const IMAGE_ALIAS: &str = "bullion.factory/machineimage.";

/// What is said of a state: nothing where all is well.
pub(crate) fn reason(unit: &Unit, verdict: &Verdict, subject: &Subject) -> Option<String> {
    match verdict.state? {
        State::Error => verdict.error.clone(),
        State::Conflict => Some("policies would set one property to different values".to_owned()),
        State::NonCompliant if verdict.existence.is_some() => {
            let kind = unit
                .existence
                .as_ref()
                .map(|existence| existence.kind.as_str());
            let kind = kind.unwrap_or("resource");
            Some(format!("no {kind} meets the details of the policy"))
        }
        State::NonCompliant => {
            let mut said: Vec<String> = Vec::new();
            for expression in deciding(&verdict.explained) {
                let text = about_image(expression, subject).or_else(|| plain(expression));
                said.extend(text.filter(|text| !said.contains(text)));
            }
            said.truncate(NAMED_MAX);
            (!said.is_empty()).then(|| said.join("; "))
        }
        _ => None,
    }
}

/// What the resource's owner may do about it.
pub(crate) fn fixes(unit: &Unit, verdict: &Verdict, subject: &Subject) -> Vec<String> {
    if verdict.state != Some(State::NonCompliant) {
        return Vec::new();
    }
    if let Some(existence) = unit
        .existence
        .as_ref()
        .filter(|_| verdict.existence.is_some())
    {
        return vec![format!(
            "make a {} that the policy asks for",
            existence.kind
        )];
    }
    let mut fixes: Vec<String> = Vec::new();
    for expression in deciding(&verdict.explained) {
        let fix = fix_image(expression, subject).or_else(|| {
            subject_matter(expression)
                .then(|| format!("change {}: it {}", named(expression), must(expression)))
        });
        fixes.extend(fix.filter(|fix| !fixes.contains(fix)));
    }
    fixes.truncate(NAMED_MAX);
    fixes
}

/// Azure's text for the first expression that decided.
pub(crate) fn code(verdict: &Verdict) -> String {
    match verdict.state {
        Some(State::NonCompliant) if verdict.existence.is_some() => {
            "No related resources match the effect details in the policy definition.".to_owned()
        }
        Some(State::NonCompliant) => {
            let expressions = deciding(&verdict.explained);
            let first = expressions.iter().find(|one| subject_matter(one));
            first.map_or_else(String::new, |one| {
                format!("Current value {}.", must_in_general(one))
            })
        }
        _ => String::new(),
    }
}

/// The expressions without which the rule would not hold: those that made their own part of it hold.
pub(crate) fn deciding(explained: &[Evaluated]) -> Vec<&Evaluated> {
    let own = |one: &&Evaluated| {
        let path = one.path.as_str();
        !path.contains(".where") && !path.contains("existenceCondition")
    };
    let expressions: Vec<&Evaluated> = explained.iter().filter(own).collect();
    // Of alternatives only the last that was looked at held: evaluation stops there.
    let mut last: HashMap<String, usize> = HashMap::new();
    for (prefix, index) in expressions.iter().flat_map(|one| alternatives(&one.path)) {
        let known = last.entry(prefix).or_insert(index);
        *known = index.max(*known);
    }
    let counts = |one: &&&Evaluated| {
        let turned = one.path.split('.').filter(|part| *part == "not").count() % 2 == 1;
        one.result != turned
            && alternatives(&one.path)
                .iter()
                .all(|(prefix, index)| last.get(prefix) == Some(index))
    };
    expressions.iter().filter(counts).copied().collect()
}

/// The steps of a path at which one of several was enough: `anyOf`, and under a `not` its twin.
fn alternatives(path: &str) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    let mut prefix = String::new();
    let mut turned = false;
    for part in path.split('.') {
        turned ^= part == "not";
        let enough = if turned { "allOf[" } else { "anyOf[" };
        prefix.push('.');
        if let Some(index) = part.strip_prefix(enough) {
            let index = index.trim_end_matches(']').parse().unwrap_or(0);
            found.push((format!("{prefix}{enough}"), index));
        }
        prefix.push_str(part);
    }
    found
}

/// Conditions on what a resource is choose the resource; they are not what is wrong with it.
fn subject_matter(expression: &Evaluated) -> bool {
    let name = expression.expression.to_ascii_lowercase();
    expression.kind != "Value"
        && !["type", "kind", "name", "fullname", "id"].contains(&name.as_str())
}

fn plain(expression: &Evaluated) -> Option<String> {
    subject_matter(expression).then(|| {
        let value = match &expression.value {
            Value::Null => "is missing".to_owned(),
            value => format!("is {}", short(value)),
        };
        format!("{} {value}, but {}", named(expression), must(expression))
    })
}

fn named(expression: &Evaluated) -> String {
    match expression.kind {
        "Count" => format!("the count of {}", expression.expression),
        _ => expression.expression.clone(),
    }
}

fn short(value: &Value) -> String {
    let text = match value {
        Value::String(text) => format!("'{text}'"),
        other => other.to_string(),
    };
    match text.char_indices().nth(VALUE_CHARS_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

fn must(expression: &Evaluated) -> String {
    let general = must_in_general(expression);
    match general.strip_suffix("the target value") {
        Some(start) => format!("{start}{}", short(&expression.target)),
        None => general.replace("the target value", &short(&expression.target)),
    }
}

/// What would have to be true for the expression to come out the other way.
fn must_in_general(expression: &Evaluated) -> String {
    let Evaluated {
        operator, target, ..
    } = expression;
    let (plain, negated) = match operator.strip_prefix("not") {
        Some(rest) => (rest.to_ascii_lowercase(), true),
        None => (operator.to_ascii_lowercase(), false),
    };
    let wanted = expression.result == negated;
    let order = |wanted: &str, otherwise: &str, holds: bool| {
        format!(
            "must be {} the target value",
            if holds { wanted } else { otherwise }
        )
    };
    let word = |phrase: &str| match wanted {
        true => format!("must {phrase}"),
        false => format!("must not {phrase}"),
    };
    match plain.as_str() {
        "exists" => {
            let asked = target
                .as_bool()
                .unwrap_or_else(|| target.as_str() != Some("false"));
            let there = expression.result != asked;
            if there {
                "must exist"
            } else {
                "must not exist"
            }
            .to_owned()
        }
        "equals" => word("be equal to the target value"),
        "like" => word("be like the target value"),
        "match" => word("match the target value, in case, too"),
        "matchinsensitively" => word("match the target value"),
        "contains" => word("contain the target value"),
        "in" => word("be in the target value"),
        "containskey" => word("contain the target value as a key"),
        "less" => order("less than", "greater than or equal to", wanted),
        "lessorequals" => order("less than or equal to", "greater than", wanted),
        "greater" => order("greater than", "less than or equal to", wanted),
        _ => order("greater than or equal to", "less than", wanted),
    }
}

/// The last part of a computed alias, if the expression is one.
fn image_alias(expression: &Evaluated) -> Option<String> {
    let name = expression.expression.to_ascii_lowercase();
    name.strip_prefix(IMAGE_ALIAS).map(str::to_owned)
}

fn fact(subject: &Subject, name: &str) -> Option<String> {
    match &subject.image()[name] {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

/// A sentence about the machine's image, with both versions.
fn about_image(expression: &Evaluated, subject: &Subject) -> Option<String> {
    let alias = image_alias(expression)?;
    let fact = |name: &str| fact(subject, name);
    let exact = fact("exactVersion").unwrap_or_else(|| "an unknown version".to_owned());
    let unknown = || format!("runs {exact}, which its gallery does not have");
    Some(match alias.as_str() {
        "versionsbehind" | "latestversion" | "exactversion" => {
            match (fact("latestVersion"), fact("versionsBehind")) {
                (Some(latest), Some(behind)) => {
                    format!("runs {exact}, latest is {latest} ({behind} behind)")
                }
                (Some(latest), None) => format!("{}; latest is {latest}", unknown()),
                _ => format!("runs {exact}, and its image has no latest version"),
            }
        }
        "agedays" | "publisheddate" => match (fact("ageDays"), fact("publishedDate")) {
            (Some(days), Some(date)) => {
                let most = match expression.operator {
                    "greater" | "greaterOrEquals" => {
                        format!(", at most {} days are allowed", short(&expression.target))
                    }
                    _ => String::new(),
                };
                format!("runs {exact} of {date}, {days} days old{most}")
            }
            _ => unknown(),
        },
        "revoked" | "revokedreason" => match (fact("revoked"), fact("revokedReason")) {
            (Some(revoked), why) if revoked == "true" => {
                let why = why.filter(|why| !why.is_empty() && why != "true");
                let why = why.map_or_else(String::new, |why| format!(": {why}"));
                format!("runs {exact}, which is revoked{why}")
            }
            _ => unknown(),
        },
        "endoflifedate" => {
            let end = fact("endOfLifeDate")?;
            format!("runs {exact}, whose life ended at {end}")
        }
        "tattoomatches" => match fact("tattooMatches") {
            Some(_) => format!("the record inside of the machine is not that of version {exact}"),
            None => "the record inside of the machine was not read".to_owned(),
        },
        "sourcegalleryid" | "definitionid" => match fact("sourceGalleryId") {
            Some(gallery) => format!("is made from {gallery}, which is not approved"),
            None => "is not made from an image of a gallery".to_owned(),
        },
        _ => return None,
    })
}

fn fix_image(expression: &Evaluated, subject: &Subject) -> Option<String> {
    let alias = image_alias(expression)?;
    Some(match alias.as_str() {
        "sourcegalleryid" | "definitionid" => {
            "make the machine anew from an image of an approved gallery".to_owned()
        }
        "tattoomatches" => "make the machine anew; nobody knows what it runs".to_owned(),
        _ => match fact(subject, "latestVersion") {
            Some(latest) if fact(subject, "exactVersion").as_ref() != Some(&latest) => {
                format!("make the machine anew from {latest}")
            }
            _ => {
                "publish a newer version of the image, and make the machine anew from it".to_owned()
            }
        },
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn expression(
        path: &str,
        field: &str,
        value: Value,
        test: (&'static str, Value),
        result: bool,
    ) -> Evaluated {
        Evaluated {
            path: format!("policyRule.if{path}"),
            kind: "Field",
            expression: field.to_owned(),
            value,
            operator: test.0,
            target: test.1,
            result,
        }
    }

    #[track_caller]
    fn check(explained: &[Evaluated], expected: &[&str]) {
        let found: Vec<&str> = deciding(explained)
            .into_iter()
            .map(|one| one.expression.as_str())
            .collect();
        assert_eq!(found, expected);
    }

    fn at(path: &str, name: &str, result: bool) -> Evaluated {
        expression(path, name, json!(1), ("equals", json!(1)), result)
    }

    #[test]
    fn what_did_not_hold_did_not_decide() {
        check(
            &[at(".allOf[0]", "a", true), at(".allOf[1]", "b", true)],
            &["a", "b"],
        );
        check(
            &[at(".anyOf[0]", "a", false), at(".anyOf[1]", "b", true)],
            &["b"],
        );
        // The first alternative held in part.
        check(
            &[
                at(".anyOf[0].allOf[0]", "a", true),
                at(".anyOf[0].allOf[1]", "b", false),
                at(".anyOf[1]", "c", true),
            ],
            &["c"],
        );
    }

    #[test]
    fn under_a_not_it_is_the_other_way_round() {
        check(
            &[at(".allOf[0]", "a", true), at(".allOf[1].not", "b", false)],
            &["a", "b"],
        );
        check(
            &[
                at(".not.anyOf[0]", "a", false),
                at(".not.anyOf[1]", "b", false),
            ],
            &["a", "b"],
        );
        check(
            &[
                at(".not.allOf[0]", "a", true),
                at(".not.allOf[1]", "b", false),
            ],
            &["b"],
        );
        check(&[at(".not.not", "a", true)], &["a"]);
    }

    #[test]
    fn texts_say_what_would_be_right() {
        #[track_caller]
        fn check(test: (&'static str, Value), result: bool, expected: &str) {
            let one = expression("", "tags['a']", json!("x"), test, result);
            assert_eq!(must(&one), expected);
        }
        check(("notEquals", json!("y")), true, "must be equal to 'y'");
        check(("equals", json!("x")), true, "must not be equal to 'x'");
        check(("equals", json!("x")), false, "must be equal to 'x'");
        check(("notIn", json!(["p"])), true, "must be in [\"p\"]");
        check(("exists", json!("false")), true, "must exist");
        check(("exists", json!(true)), true, "must not exist");
        check(("exists", json!(true)), false, "must exist");
        check(
            ("greater", json!(5)),
            true,
            "must be less than or equal to 5",
        );
        check(("less", json!(5)), false, "must be less than 5");
        check(
            ("notContainsKey", json!("k")),
            true,
            "must contain 'k' as a key",
        );
    }
}
