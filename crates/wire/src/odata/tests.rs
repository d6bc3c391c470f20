//! Queries over a few records: what passes, what is refused, and any text at all.

use proptest::prelude::*;
use serde_json::json;

use super::*;

const KNOWN: [&str; 6] = ["id", "state", "age", "time", "groups", "compliant"];

fn records() -> Vec<Value> {
    vec![
        json!({ "id": "/S/a", "state": "NonCompliant", "age": 3, "compliant": false,
                "time": "2026-11-01T00:00:00Z", "groups": ["x", "y"] }),
        json!({ "id": "/s/b", "state": "Compliant", "age": 1, "compliant": true,
                "time": "2026-11-03T00:00:00+01:00", "groups": [] }),
        json!({ "id": "/s/c", "state": "nonCompliant", "compliant": false,
                "time": "2026-11-02T00:00:00Z" }),
    ]
}

/// The last segments of the ids that pass, or the error.
fn check(filter: &str, expected: &str) {
    let texts = Texts {
        filter: Some(filter),
        ..Texts::default()
    };
    let seen = match Query::parse(texts, &KNOWN) {
        Err(error) => error.source.to_string(),
        Ok(query) => {
            let ids = query.run(records());
            let ids = ids
                .iter()
                .map(|one| one["id"].as_str().unwrap()[3..].to_owned());
            ids.collect::<String>()
        }
    };
    assert_eq!(seen, expected, "{filter}");
}

#[test]
fn filters() {
    check("", "abc");
    check("state eq 'NonCompliant'", "ac");
    check("STATE ne 'noncompliant'", "b");
    check("age gt 1 or age eq 1", "ab");
    check("age eq null", "c");
    check("not (age ge 1)", "c");
    check("compliant eq false and id eq '/S/A'", "a");
    check("compliant", "b");
    check("not compliant and not contains(id, 'c')", "a");
    check("id in ('/s/a', '/s/b')", "ab");
    check("startswith(id, '/S') and endswith(tolower(id), 'B')", "b");
    check("substringof('/b', id) eq true", "b");
    check(
        "time gt 2026-11-01T12:00:00Z and time lt '2026-11-02T23:30:00Z'",
        "bc",
    );
    check("time eq datetime'2026-11-02T23:00:00Z'", "b");
    check("groups/any(g: g eq 'Y')", "a");
    check("groups/all(g: g eq 'x')", "bc");
    check("length(state) eq 9", "b");
    check("state eq 'it''s'", "");
    check("(((state eq 'Compliant')))", "b");
}

#[test]
fn filters_that_are_refused() {
    check("colour eq 'red'", "there is no property 'colour'");
    check(
        "state eq",
        "at character 9: a property or a value is expected",
    );
    check("state eq 'x", "at character 10: the quote does not end");
    check(
        "state eq 'x' and",
        "at character 17: a property or a value is expected",
    );
    check(
        "state 'x'",
        "at character 7: the end, 'and' or 'or' is expected",
    );
    check("sleep(5)", "at character 1: there is no function 'sleep'");
    check("contains(id)", "at character 12: ',' is expected");
    check("state eq {", "at character 10: '{' is not expected");
    check(
        "age eq 1:2",
        "at character 8: '1:2' is no number and no time",
    );
    let long = QueryError::TooLong.to_string();
    check(&"(".repeat(100), &long);
    check(&"not ".repeat(100), &long);
    check(&"1 ".repeat(2000), &long);
    check(&" ".repeat(9000), "abc");
    check(&format!("id eq '{}'", "x".repeat(9000)), &long);
}

fn check_apply(texts: Texts<'_>, expected: Value) {
    let seen = match Query::parse(texts, &KNOWN) {
        Err(error) => error.to_string().into(),
        Ok(query) => {
            let shown = query.run(records()).into_iter();
            shown.map(|one| query.selected(one)).collect::<Value>()
        }
    };
    assert_eq!(seen, expected, "{texts:?}");
}

#[test]
fn groups_orders_and_selections() {
    let apply = |apply| Texts {
        apply: Some(apply),
        ..Texts::default()
    };
    check_apply(
        apply("groupby((state), aggregate($count as n, age with sum as ages))"),
        json!([{ "state": "NonCompliant", "n": 2, "ages": 3.0 }, { "state": "Compliant", "n": 1, "ages": 1.0 }]),
    );
    check_apply(
        apply("filter(compliant eq false)/groupby((id))/aggregate($count as n)"),
        json!([{ "n": 2 }]),
    );
    check_apply(
        apply(
            "aggregate(id with countdistinct as ids, age with max as oldest, time with min as first, age with average as mean)",
        ),
        json!([{ "ids": 3, "oldest": 3, "first": "2026-11-01T00:00:00Z", "mean": 2.0 }]),
    );
    check_apply(
        Texts {
            apply: Some("groupby((state), aggregate($count as n))"),
            order: Some("n"),
            select: Some("n"),
            ..Texts::default()
        },
        json!([{ "n": 1 }, { "n": 2 }]),
    );
    check_apply(
        Texts {
            order: Some("state desc, time DESC"),
            select: Some("ID"),
            ..Texts::default()
        },
        json!([{ "id": "/s/c" }, { "id": "/S/a" }, { "id": "/s/b" }]),
    );
    check_apply(
        apply("groupby((colour))"),
        "$apply: there is no property 'colour'".into(),
    );
    check_apply(
        apply("groupby((state))/groupby((id))"),
        "$apply: there is no property 'id'".into(),
    );
    check_apply(
        apply("identity"),
        "$apply: at character 9: '(' is expected".into(),
    );
    check_apply(
        Texts {
            order: Some("id sideways"),
            ..Texts::default()
        },
        "$orderby: at character 1: a property is expected, and after it 'asc' or 'desc'".into(),
    );
}

proptest! {
    #[test]
    fn any_text_is_parsed_or_refused(text in "\\PC{0,80}") {
        let texts = Texts { filter: Some(&text), apply: Some(&text), order: Some(&text), select: Some(&text), top: Some(&text) };
        let _ = Query::parse(texts, &KNOWN);
        if let Ok(filter) = Filter::parse(&text, &["id".to_owned()]) {
            let _ = filter.holds(&json!({ "id": 1 }));
        }
    }

    #[test]
    fn anything_made_of_its_words_is_parsed_or_refused(
        words in prop::collection::vec(prop::sample::select(vec![
            "(", ")", ",", "/", "and", "or", "not", "eq", "in", "state", "groups", "any", "g", ":", "'x'", "1",
            "null", "contains", "groupby", "aggregate", "$count", "as", "n", "filter", "with", "sum",
        ]), 0..40)
    ) {
        let text = words.join(" ");
        let texts = Texts { filter: Some(&text), ..Texts::default() };
        if let Ok(query) = Query::parse(texts, &KNOWN) {
            query.run(records());
        }
        let texts = Texts { apply: Some(&text), ..Texts::default() };
        if let Ok(query) = Query::parse(texts, &KNOWN) {
            query.run(records());
        }
    }
}
