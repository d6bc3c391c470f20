//! Tables answer as the evaluator does: for rules and resources that are made up, by one property; for
//! rows that come and go; and for a folder of definitions, if `BULLION_POLICY_BUILTINS` names one.

use std::sync::Arc;

use policy::evaluate::Surroundings;
use policy::parameters;
use policy::scan::{Around, Outcome, Plan, Policy, Row, ScanError, Table};
use policy::verdict::{Question, State};
use policy::{Aliases, Compiled, compile, json};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

const KIND: &str = "Test.Provider/things";

fn surroundings() -> Surroundings {
    Surroundings {
        now: "2026-03-01T12:00:00Z".parse().expect("an instant"),
        resource_group: json!({"name": "group", "location": "east", "tags": {"env": "prod"}}),
        subscription: json!({"subscriptionId": "s"}),
        request: json!({"apiVersion": "2026-01-01", "identity": {}}),
        policy: json!({"assignmentId": "a"}),
    }
}

/// A policy for a test; nothing if the definition cannot be compiled or lacks values.
fn policy(definition: &Value, assignment: Value, exemptions: Vec<Value>) -> Option<Policy> {
    let aliases = Arc::new(Aliases::default());
    let Ok(Compiled::Definition(definition)) = compile(definition, &aliases) else {
        return None;
    };
    let parameters = given(&definition.parameters)?;
    Some(Policy {
        definition: Arc::new(*definition),
        parameters,
        reference: None,
        assignment,
        exemptions,
        attestations: Vec::new(),
        hierarchy: json!({"s": "mg"}),
        around: surroundings(),
        aliases,
    })
}

/// The defaults, and some value of its type for what has none.
fn given(declared: &Map<String, Value>) -> Option<Map<String, Value>> {
    let mut values = Map::new();
    for (name, declaration) in declared {
        if declaration.get("defaultValue").is_none() {
            let allowed = declaration.get("allowedValues").and_then(Value::as_array);
            let some = match declaration["type"].as_str()?.to_lowercase().as_str() {
                "array" => json!(["a", "b"]),
                "object" => json!({}),
                "boolean" => json!(true),
                "integer" | "float" => json!(3),
                "datetime" => json!("2026-01-01T00:00:00Z"),
                _ => json!("a"),
            };
            let first = allowed.and_then(|allowed| allowed.first());
            values.insert(name.clone(), first.cloned().unwrap_or(some));
        }
    }
    parameters::effective(declared, &values, "parameters").ok()
}

fn expected(policy: &Policy, resource: &Value, around: &Surroundings) -> Outcome {
    let verdict = Question {
        definition: &policy.definition,
        parameters: &policy.parameters,
        reference: None,
        assignment: &policy.assignment,
        resource,
        related: &[],
        exemptions: &policy.exemptions,
        attestations: &policy.attestations,
        hierarchy: &policy.hierarchy,
        around,
        aliases: &policy.aliases,
    }
    .answer();
    let searches = verdict.effect.is_some_and(|e| e.looks_for_existence());
    match verdict.state {
        Some(State::Exempt) | None => Outcome::of(verdict.state),
        Some(_) if searches && verdict.condition == Some(true) => Outcome::Search,
        state => Outcome::of(state),
    }
}

/// Every way to ask a table about these resources, against the evaluator.
fn check(policy: &Policy, resources: &[Value], what: &str) {
    let mut plan = Plan::new(policy.clone());
    let mut other = Plan::new(policy.clone());
    let mut table = Table::new([&plan]);
    let group = json!({"name": "other", "location": "west"});
    let around = |at: usize| Around {
        group: (at.is_multiple_of(3)).then_some(&group),
        subscription: None,
    };
    let mut rows: Vec<Row> = Vec::new();
    for (at, resource) in resources.iter().enumerate() {
        let row = match at % 2 {
            0 => table.insert(resource.to_string().as_bytes(), around(at)),
            _ => table.insert_value(resource, around(at)),
        };
        rows.push(row.expect("a table takes any object"));
    }
    let answers = plan.scan(&table).expect("the table is of this plan");
    for (at, (row, resource)) in rows.iter().zip(resources).enumerate() {
        let mut surroundings = surroundings();
        if at.is_multiple_of(3) {
            surroundings.resource_group = group.clone();
        }
        let wanted = expected(policy, resource, &surroundings);
        let scanned = answers[row.segment as usize].of(row.index as usize);
        assert_eq!(scanned, wanted, "scan of {what}: {resource}");
        let one = other.outcome(&table, *row).expect("a row of the table");
        assert_eq!(one, wanted, "one row of {what}: {resource}");
    }
}

fn alias(rest: &str) -> String {
    format!("{KIND}/{rest}")
}

/// Fields that rules of the property name.
fn field() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("type".to_owned()),
        Just("name".to_owned()),
        Just("fullName".to_owned()),
        Just("kind".to_owned()),
        Just("location".to_owned()),
        Just("id".to_owned()),
        Just("tags".to_owned()),
        Just("tags.env".to_owned()),
        Just("tags['Cost Center']".to_owned()),
        Just("identity.type".to_owned()),
        Just("[concat('tags[', parameters('tag'), ']')]".to_owned()),
        Just("[concat('tags.', field('kind'))]".to_owned()),
        Just("Other.Provider/others/size".to_owned()),
        Just(alias("size")),
        Just(alias("Size")),
        Just(alias("deep.text")),
        Just(alias("list")),
        Just(alias("list[*]")),
        Just(alias("objects[*].name")),
        Just(alias("objects[*].inner[*]")),
        Just(alias("sku.name")),
    ]
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        Just(json!("prod")),
        Just(json!("PROD")),
        Just(json!("dev")),
        Just(json!("3")),
        Just(json!(3)),
        Just(json!(3.0)),
        Just(json!(7)),
        Just(json!(true)),
        Just(json!("true")),
        Just(json!("east")),
        Just(json!("East ")),
        Just(json!("p*d")),
        Just(json!("env")),
        Just(json!("")),
        Just(json!(KIND)),
        Just(json!("2026-01-01T00:00:00Z")),
    ]
}

fn target() -> impl Strategy<Value = Value> {
    prop_oneof![
        4 => scalar(),
        1 => Just(json!("[parameters('tag')]")),
        1 => Just(json!("[field('name')]")),
        1 => Just(json!("[resourceGroup().name]")),
        1 => Just(json!("[utcNow()]")),
        1 => Just(json!("[length(field('Test.Provider/things/list'))]")),
        1 => Just(json!("[int(field('tags.env'))]")),
    ]
}

fn leaf() -> impl Strategy<Value = Value> {
    let operator = prop_oneof![
        Just("equals"),
        Just("notEquals"),
        Just("like"),
        Just("notLike"),
        Just("match"),
        Just("matchInsensitively"),
        Just("contains"),
        Just("notContains"),
        Just("containsKey"),
        Just("less"),
        Just("greaterOrEquals"),
        Just("exists"),
        Just("in"),
        Just("notIn"),
    ];
    let value = prop_oneof![
        field().prop_map(|field| json!({ "field": field })),
        field().prop_map(
            |field| json!({ "value": format!("[field('{}')]", field.replace('\'', "''")) })
        ),
        Just(json!({"value": "[substring(field('name'), 0, 3)]"})),
        Just(json!({"value": "[resourceGroup().location]"})),
        Just(json!({"value": "[field('type')]"})),
        (counted(), operator.clone(), scalar()).prop_map(|(list, operator, target)| {
            let target = fitting(operator, target);
            json!({"count": {"field": list, "where": {"field": list, operator: target}}})
        }),
        Just(json!({"count": {"value": ["dev", "prod"], "name": "v",
            "where": {"field": "tags.env", "equals": "[current('v')]"}}})),
    ];
    (value, operator, target()).prop_map(|(mut leaf, operator, target)| {
        leaf[operator] = fitting(operator, target);
        leaf
    })
}

fn counted() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(alias("list[*]")),
        Just(alias("objects[*]")),
        Just(alias("objects[*].inner[*]")),
    ]
}

/// A target that the compiler takes for the test.
fn fitting(operator: &str, target: Value) -> Value {
    match operator {
        "exists" => json!(target == json!("prod")),
        "in" | "notIn" => json!([target, "dev", 7]),
        "like" | "notLike" | "match" | "matchInsensitively" | "containsKey" => {
            target.as_str().map_or(json!("p*"), |text| json!(text))
        }
        "less" | "greaterOrEquals" if !(target.is_string() || target.is_number()) => json!(3),
        _ => target,
    }
}

fn condition() -> impl Strategy<Value = Value> {
    leaf().prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 1..4).prop_map(|all| json!({ "allOf": all })),
            prop::collection::vec(inner.clone(), 1..4).prop_map(|any| json!({ "anyOf": any })),
            inner.prop_map(|not| json!({ "not": not })),
        ]
    })
}

fn then() -> impl Strategy<Value = Value> {
    let operations = json!([{"operation": "addOrReplace", "field": "tags.env", "value": "[int(field('tags.env'))]"}]);
    prop_oneof![
        3 => Just(json!({"effect": "audit"})),
        1 => Just(json!({"effect": "deny"})),
        1 => Just(json!({"effect": "manual"})),
        1 => Just(json!({"effect": "[if(equals(field('location'), 'east'), 'audit', 'disabled')]"})),
        1 => Just(json!({"effect": "denyAction", "details": {"actionNames": ["delete"]}})),
        1 => Just(json!({"effect": "modify", "details": {"roleDefinitionIds": ["r"], "operations": operations}})),
        1 => Just(json!({"effect": "auditIfNotExists", "details": {"type": "Test.Provider/others"}})),
    ]
}

fn resource() -> impl Strategy<Value = Value> {
    let place = prop_oneof![
        Just("s/resourceGroups/g"),
        Just("s/resourceGroups/h"),
        Just("t")
    ];
    let kind = prop_oneof![
        6 => Just(KIND), 1 => Just("test.provider/THINGS"), 1 => Just("Test.Provider/things/parts"),
        1 => Just("Microsoft.Resources/subscriptions"),
    ];
    let objects = prop::collection::vec(
        (scalar(), prop::collection::vec(scalar(), 0..3))
            .prop_map(|(name, inner)| json!({"name": name, "inner": inner})),
        0..3,
    );
    let parts = (
        (place, kind, 0..4u8, scalar(), scalar()),
        (scalar(), scalar(), scalar(), scalar()),
        (prop::collection::vec(scalar(), 0..3), objects, any::<u16>()),
    );
    parts.prop_map(|((place, kind, name, location, env), (size, text, sku, odd), (list, objects, drop))| {
        let mut resource = json!({
            "id": format!("/subscriptions/{place}/providers/Test.Provider/things/thing{name}"),
            "type": kind, "name": format!("thing{name}"), "kind": env, "location": location,
            "tags": {"env": env, "cost center": odd}, "identity": {"type": sku}, "sku": {"name": sku},
            "properties": {"size": size, "deep": {"TEXT": text}, "list": list, "objects": objects},
        });
        if let Value::Object(object) = &mut resource {
            let names = ["id", "type", "name", "location", "tags", "properties", "kind", "identity"];
            for (bit, name) in names.iter().enumerate() {
                // Each is missing once in eight.
                if drop >> (2 * bit) & 3 == 3 && (drop >> bit) & 1 == 1 {
                    object.shift_remove(*name);
                }
            }
            if drop & 7 == 5 {
                object.insert("properties".to_owned(), odd);
            }
        }
        resource
    })
}

fn assignment() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({})),
        Just(json!({"scope": "/subscriptions/s"})),
        Just(
            json!({"scope": "/providers/Microsoft.Management/managementGroups/mg",
            "notScopes": ["/subscriptions/s/resourceGroups/h"]})
        ),
        Just(
            json!({"scope": "/subscriptions/s/resourceGroups/g/providers/Test.Provider/things/thing1"})
        ),
        Just(
            json!({"scope": "/subscriptions/s", "resourceSelectors": [{"selectors": [
            {"kind": "resourceLocation", "in": ["east"]}, {"kind": "resourceType", "in": [KIND]}]}]})
        ),
        Just(
            json!({"overrides": [{"kind": "policyEffect", "value": "deny", "selectors": [
            {"kind": "resourceLocation", "notIn": ["east"]}]}]})
        ),
    ]
}

fn exemptions() -> impl Strategy<Value = Vec<Value>> {
    prop_oneof![
        3 => Just(Vec::new()),
        1 => Just(vec![json!({"scope": "/subscriptions/s/resourceGroups/g"})]),
        1 => Just(vec![json!({"scope": "/subscriptions/s/resourceGroups/g/providers/Test.Provider/things/thing2"})]),
        1 => Just(vec![json!({"scope": "/subscriptions/s", "expiresOn": "2020-01-01T00:00:00Z"})]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_table_answers_as_the_evaluator_does(
        condition in condition(), then in then(), all in any::<bool>(), assignment in assignment(),
        exemptions in exemptions(), resources in prop::collection::vec(resource(), 1..12),
    ) {
        let definition = json!({
            "mode": if all { "All" } else { "Indexed" },
            "parameters": {"tag": {"type": "String", "defaultValue": "env"}},
            "policyRule": {"if": condition, "then": then},
        });
        if let Some(policy) = policy(&definition, assignment, exemptions) {
            check(&policy, &resources, &definition.to_string());
        }
    }
}

#[test]
fn names_without_case_and_twice() {
    let definition = json!({"mode": "All", "policyRule": {"then": {"effect": "audit"}, "if":
        {"allOf": [{"field": "tags.Env", "equals": "x"}, {"field": alias("a.b"), "equals": 1}]}}});
    let policy = policy(&definition, json!({}), Vec::new()).expect("a policy");
    let mut plan = Plan::new(policy.clone());
    for text in [
        r#"{"TYPE": "Other/kind", "type": "Test.Provider/things", "tags": {"env": "x"}, "Properties": {"A": {"B": 1}}}"#,
        r#"{"type": "Other/kind", "type": "Test.Provider/things", "tags": {"env": "y", "Env": "x"}, "properties": {"a": {"b": 1}}}"#,
        r#"{"type": "Test.Provider/things", "Tags": {"Env": "x"}, "tags": {"env": "y"}, "properties": {"a": {"b": 2}, "a": {"b": 1}}}"#,
        r#"{"type": "Test.Provider/things", "tags": {"ENV": "x", "enV": "y"}, "properties": {"A": {"b": 2}, "a": {"B": 1}}}"#,
        r#"{"type": "Test.Provider/things", "tags": {"ENV": "x", "enV": "y", "ENV": "z"}, "properties": {"a": {"b": 1}}}"#,
        r#"{"type": "Test.Provider/things", "tags": "x", "properties": {"a": [{"b": 1}]}}"#,
        r#"{"type": 7, "id": "/subscriptions/s/resourceGroups/g/providers/Test.Provider/things/t", "tags": {"env": "x"}, "properties": {"a": {"b": 1}, "c": "\u00e9\n"}}"#,
        "[1, 2]",
        "\"text\"",
    ] {
        let mut table = Table::new([&plan]);
        let row = table
            .insert(text.as_bytes(), Around::default())
            .expect(text);
        let resource = serde_json::from_str(text).expect("JSON");
        let wanted = expected(&policy, &resource, &surroundings());
        assert_eq!(plan.outcome(&table, row), Ok(wanted), "{text}");
        plan = Plan::new(policy.clone());
    }
}

#[test]
fn rows_come_and_go() {
    let definition = json!({"mode": "All", "policyRule": {"then": {"effect": "audit"}, "if":
        {"allOf": [{"field": "type", "equals": KIND}, {"field": alias("size"), "greater": 3}]}}});
    let mut plan = Plan::new(policy(&definition, json!({}), Vec::new()).expect("a policy"));
    let mut table = Table::new([&plan]);
    let thing = |size: usize| json!({"type": KIND, "properties": {"size": size}}).to_string();
    let around = Around::default();
    let rows: Vec<Row> = (0..100)
        .map(|size| table.insert(thing(size).as_bytes(), around).expect("a row"))
        .collect();
    let counted = |plan: &mut Plan, table: &Table| {
        let answers = plan.scan(table).expect("a scan");
        answers
            .iter()
            .map(|a| a.count(Outcome::NonCompliant))
            .sum::<usize>()
    };
    assert_eq!(counted(&mut plan, &table), 96);
    // Many new values, so that those of no use any more are forgotten on the way.
    for size in 1_000..9_000 {
        let row = rows[size % 50];
        assert_eq!(
            table.replace(row, thing(size).as_bytes(), around).ok(),
            Some(row)
        );
        assert_eq!(plan.outcome(&table, row), Ok(Outcome::NonCompliant));
    }
    assert_eq!(counted(&mut plan, &table), 100);
    for row in &rows[..50] {
        table.remove(*row);
        assert_eq!(plan.outcome(&table, *row), Err(ScanError::NoRow));
    }
    assert_eq!(counted(&mut plan, &table), 50);
    let again = table.insert(thing(1).as_bytes(), around).expect("a row");
    assert_eq!(plan.outcome(&table, again), Ok(Outcome::Compliant));
    // Another type is another row.
    let other = json!({"type": "Test.Provider/others"}).to_string();
    let moved = table
        .replace(again, other.as_bytes(), around)
        .expect("a row");
    assert_ne!(moved, again);
    assert!(!table.holds(again));
    assert_eq!(plan.outcome(&table, moved), Ok(Outcome::NotApplicable));
    assert_eq!(table.len(), 51);
    assert!(table.insert(b"{", around).is_err());
    let deep = format!(
        "{{\"type\": \"{KIND}\", \"properties\": {{\"size\": {}",
        "[".repeat(100_000)
    );
    assert!(table.insert(deep.as_bytes(), around).is_err());
}

#[test]
fn a_table_is_of_its_plans() {
    let rule = |field: &str| {
        let rule = json!({"if": {"field": field, "equals": "x"}, "then": {"effect": "audit"}});
        let definition = json!({"mode": "All", "policyRule": rule});
        Plan::new(policy(&definition, json!({}), Vec::new()).expect("a policy"))
    };
    let (mine, mut other) = (rule("tags.a"), rule("tags.b"));
    let mut table = Table::new([&mine]);
    let thing = json!({"type": KIND}).to_string();
    let row = table
        .insert(thing.as_bytes(), Around::default())
        .expect("a row");
    assert_eq!(other.outcome(&table, row), Err(ScanError::OtherTable));
    assert_eq!(other.scan(&table).err(), Some(ScanError::OtherTable));
}

/// Resources that a rule has something to say about, made of the rule's own fields and targets.
fn made_for(rule: &Value, seed: u64) -> Value {
    let mut state = seed;
    let mut random = |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below.max(1)
    };
    let mut pairs = Vec::new();
    conditions(rule, &mut pairs);
    let kinds: Vec<&str> = pairs
        .iter()
        .filter(|(field, _)| field == "type")
        .flat_map(|(_, target)| match target {
            Value::Array(items) => items.iter().filter_map(Value::as_str).collect(),
            single => single.as_str().into_iter().collect::<Vec<_>>(),
        })
        .collect();
    let kind = kinds.get(random(kinds.len())).copied().unwrap_or(KIND);
    let mut resource = json!({
        "id": format!("/subscriptions/s/resourceGroups/g/providers/{kind}/r"),
        "type": kind, "name": "r", "location": "eastus", "properties": {},
    });
    for (field, target) in &pairs {
        let mut value = match target {
            Value::Array(items) => items.get(random(items.len())).cloned().unwrap_or_default(),
            single => single.clone(),
        };
        match random(5) {
            0 => continue,
            1 => value = json!("other"),
            2 => value = json!(random(100)),
            _ => {}
        }
        let path = match field.rsplit_once('/') {
            Some((_, rest)) => format!("properties.{rest}"),
            None => field.replace("['", ".").replace("']", ""),
        };
        place(&mut resource, &path, value);
    }
    resource
}

/// Pairs of a field and what it is compared with.
fn conditions(rule: &Value, pairs: &mut Vec<(String, Value)>) {
    match rule {
        Value::Object(object) => {
            if let Some(field) = object.get("field").and_then(Value::as_str) {
                let target = object
                    .iter()
                    .find(|(key, _)| *key != "field" && *key != "where");
                let target = target.map(|(_, target)| target.clone()).unwrap_or_default();
                if !field.starts_with('[') {
                    pairs.push((field.to_owned(), target));
                }
            }
            object.values().for_each(|inner| conditions(inner, pairs));
        }
        Value::Array(items) => items.iter().for_each(|inner| conditions(inner, pairs)),
        _ => {}
    }
}

fn place(value: &mut Value, path: &str, leaf: Value) {
    let (first, rest) = path
        .split_once('.')
        .map_or((path, None), |(a, b)| (a, Some(b)));
    let (key, list) = match first.strip_suffix("[*]") {
        Some(key) => (key, true),
        None => (first, false),
    };
    let Value::Object(object) = value else {
        return;
    };
    let inner = object.entry(key).or_insert(Value::Null);
    match (list, rest) {
        (false, None) => *inner = leaf,
        (true, None) => match inner {
            Value::Array(items) => items.push(leaf),
            _ => *inner = json!([leaf]),
        },
        (false, Some(rest)) => {
            if !inner.is_object() {
                *inner = json!({});
            }
            place(inner, rest, leaf);
        }
        (true, Some(rest)) => {
            if !inner.is_array() {
                *inner = json!([{}, {}]);
            }
            for item in inner.as_array_mut().into_iter().flatten() {
                place(item, rest, leaf.clone());
            }
        }
    }
}

fn files(folder: &std::path::Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        match path.is_dir() {
            true => files(&path, found),
            false if path.extension().is_some_and(|end| end == "json") => found.push(path),
            false => {}
        }
    }
}

#[test]
fn definitions_of_a_folder() {
    let Some(folder) = std::env::var_os("BULLION_POLICY_BUILTINS") else {
        return;
    };
    let mut paths = Vec::new();
    files(folder.as_ref(), &mut paths);
    let mut compared = 0;
    for path in paths {
        let text = std::fs::read_to_string(&path).expect("a readable file");
        let Ok(definition) = json::parse(&text) else {
            continue;
        };
        let Some(policy) = policy(
            &definition,
            json!({"scope": "/subscriptions/s"}),
            Vec::new(),
        ) else {
            continue;
        };
        let rule = &definition["properties"]["policyRule"]["if"];
        let resources: Vec<Value> = (0..24).map(|seed| made_for(rule, seed)).collect();
        check(&policy, &resources, &path.display().to_string());
        compared += 1;
    }
    assert!(compared > 0, "the folder holds no definition");
}
