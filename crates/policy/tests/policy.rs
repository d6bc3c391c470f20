//! The language by example: every file of `cases` holds cases that must pass, and `refused.json` the
//! definitions that must not compile, with where and why.

use std::sync::Arc;

use jiff::Timestamp;
use policy::case::{self, Library};
use policy::{Aliases, compile, json};
use serde_json::{Value, json};

/// "Now" of cases that name no time.
const NOW: &str = "2026-03-01T12:00:00Z";

fn check(name: &str, text: &str) {
    let document = json::parse(text).expect("a file of cases is JSON");
    let now: Timestamp = NOW.parse().expect("an instant");
    let aliases = Arc::new(Aliases::default());
    let cases = case::cases(&document);
    assert!(!cases.is_empty(), "{name} holds no case");
    let shared = json::get(&document, "shared");
    for found in cases {
        let whole = with_shared(found, shared);
        let outcome = case::run(&whole, &Library::default(), &aliases, now);
        assert!(
            outcome.passed(),
            "{name}: {} ({}): {:?}\n{:#}",
            outcome.id,
            outcome.title,
            outcome.differences,
            outcome.verdict
        );
    }
}

/// A case with what its file says once for all that do not say it themselves.
fn with_shared(case: &Value, shared: Option<&Value>) -> Value {
    let mut whole = case.clone();
    for (name, value) in shared.and_then(Value::as_object).into_iter().flatten() {
        if whole.get(name).is_none() {
            whole[name] = value.clone();
        }
    }
    whole
}

/// Conditions, functions, lists, effects, requests, initiatives and refusals, all about one resource.
#[test]
fn one_resource() {
    check("shared", include_str!("cases/shared.json"));
}

#[test]
fn conditions() {
    check("conditions", include_str!("cases/conditions.json"));
}

#[test]
fn lists_and_counts() {
    check("lists", include_str!("cases/lists.json"));
}

#[test]
fn assignments() {
    check("assignments", include_str!("cases/assignments.json"));
}

#[test]
fn aliases() {
    check("aliases", include_str!("cases/aliases.json"));
}

#[test]
fn requests() {
    check("requests", include_str!("cases/requests.json"));
}

#[test]
fn existence() {
    check("existence", include_str!("cases/existence.json"));
}

/// What Azure's documentation says in so many words.
#[test]
fn documented() {
    check("documented", include_str!("cases/documented.json"));
}

/// Functions are given as pairs of an expression and the value that it has.
#[test]
fn functions() {
    let text = include_str!("cases/functions.json");
    let table = json::parse(text).expect("the table of functions is JSON");
    let now: Timestamp = NOW.parse().expect("an instant");
    let aliases = Arc::new(Aliases::default());
    for (expression, wanted) in table.as_object().expect("an object") {
        let fails = wanted == "(error)";
        let target = if fails { &Value::Null } else { wanted };
        let found = json!({
            "id": expression,
            "definition": {"policyRule": {
                "if": {"value": expression, "equals": target}, "then": {"effect": "audit"}
            }},
            "resource": {"type": "Test.Provider/things", "name": "Thing", "location": "east", "tags": {"a": "b"}},
        });
        let outcome = case::run(&found, &Library::default(), &aliases, now);
        let verdict = &outcome.verdict;
        match fails {
            true => assert_eq!(
                verdict["complianceState"], "Error",
                "{expression}: {verdict:#}"
            ),
            false => assert_eq!(verdict["if"], true, "{expression}: {verdict:#}"),
        }
    }
}

#[test]
fn refused_definitions() {
    let text = include_str!("cases/refused.json");
    let table = json::parse(text).expect("the table of refused definitions is JSON");
    for entry in table.as_array().expect("a list") {
        let refused = compile(&entry["definition"], &Aliases::default());
        let fault = refused.expect_err(&entry.to_string());
        assert_eq!(fault.path, entry["path"], "{fault}");
        let reason = entry["reason"].as_str().expect("a text");
        assert!(fault.reason.contains(reason), "{fault}");
    }
}

/// Azure's own definitions may name aliases that a table has not, and are then of nothing.
#[test]
fn aliases_that_a_table_lacks() {
    let rule = |kind: &str| {
        json!({"properties": {"policyType": kind, "mode": "All", "policyRule": {
            "if": {"field": "Test.Provider/things/none", "exists": false}, "then": {"effect": "audit"}}}})
    };
    let table = || Aliases::read("{}").expect("a table").complete();
    assert!(compile(&rule("Custom"), &table()).is_err());
    let case = json!({"id": "none", "definition": rule("BuiltIn"),
        "resource": {"type": "Test.Provider/things"},
        "expect": {"applicable": false, "complianceState": null}});
    let now: Timestamp = NOW.parse().expect("an instant");
    let outcome = case::run(&case, &Library::default(), &Arc::new(table()), now);
    assert!(outcome.passed(), "{:?}", outcome.differences);
}

fn nested(depth: usize) -> Value {
    let inner = (1..depth).fold(
        json!({"field": "type", "equals": "x"}),
        |inner, _| json!({ "not": inner }),
    );
    json!({"policyRule": {"if": inner, "then": {"effect": "audit"}}})
}

#[test]
fn nesting_has_a_limit() {
    assert!(compile(&nested(512), &Aliases::default()).is_ok());
    let deepest = json!({"id": "deepest", "definition": nested(512), "resource": {"type": "x"},
        "expect": {"if": false}});
    check("deepest", &deepest.to_string());
    let fault = compile(&nested(513), &Aliases::default()).expect_err("too deep");
    assert!(fault.reason.contains("512"), "{fault}");
    assert!(json::parse(&"[".repeat(100_000)).is_err());
}

#[test]
fn documents_may_have_comments() {
    let text = "// first\n{\"a\": /* inside */ [1, 2.5, \"// text\"], \"b\": {}} // last";
    assert_eq!(
        json::parse(text),
        Ok(json!({"a": [1, 2.5, "// text"], "b": {}}))
    );
    for wrong in [
        "",
        "{",
        "{\"a\" 1}",
        "[1,]",
        "[1] 2",
        "\"a",
        "/* a",
        "{a: 1}",
        "nul",
    ] {
        assert!(json::parse(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn evaluation_has_a_limit() {
    let range = "[range(0, 2000)]";
    let rule = json!({
        "id": "work",
        "definition": {"policyRule": {"if": {
            "count": {"value": range, "name": "a", "where": {
                "count": {"value": range, "name": "b", "where": {"value": "[current('b')]", "less": 0}},
                "greater": 0
            }}, "greater": 0
        }, "then": {"effect": "audit"}}},
        "resource": {"type": "Test.Provider/things"},
        "expect": {"complianceState": "Error"}
    });
    check("limit", &rule.to_string());
    // What is looked at counts by its size: few steps over much text are many.
    let text = "x".repeat(1 << 19);
    let rule = json!({
        "id": "long text",
        "definition": {"mode": "All", "policyRule": {"if": {
            "count": {"field": "Test.Provider/things/list[*]", "where": {"field": "tags.long", "contains": "y"}},
            "greater": 0
        }, "then": {"effect": "audit"}}},
        "resource": {"type": "Test.Provider/things", "tags": {"long": text},
            "properties": {"list": vec![0; 1_000]}},
        "expect": {"complianceState": "Error"}
    });
    check("limit", &rule.to_string());
}

#[test]
fn alias_tables() {
    let list = json!([{"namespace": "Test.Provider", "resourceTypes": [{"resourceType": "things",
        "aliases": [{"name": "Test.Provider/size", "defaultPath": "properties.a.size"}]}]}]);
    let lines = "resourceType\talias\tdefaultPath\nTest.Provider/things\tTest.Provider/size\tproperties.a.size\n";
    let object = json!({"Test.Provider/size": "properties.a.size"});
    for text in [list.to_string(), lines.to_owned(), object.to_string()] {
        let aliases = Aliases::read(&text).expect("a table").complete();
        let alias = aliases.find("test.provider/SIZE").expect("an alias");
        assert!(alias.path("Test.Provider/Things").is_some(), "{text}");
        assert!(aliases.find("Test.Provider/things/other").is_err());
    }
}
