//! A rule and a resource, with a byte 255 between them. The evaluator must end, soon and with an answer,
//! and a table must give the same one.
#![no_main]

use std::sync::{Arc, OnceLock};

use libfuzzer_sys::fuzz_target;
use policy::evaluate::Surroundings;
use policy::request::{Act, decide};
use policy::scan::{Around, Outcome, Plan, Policy, Table};
use policy::verdict::{Question, State};
use policy::{Aliases, Compiled, compile, json, parameters};
use serde_json::{Map, Value, json};

fuzz_target!(|data: &[u8]| {
    let mut parts = data.split(|byte| *byte == 255);
    let text = |part: Option<&[u8]>| {
        let text = std::str::from_utf8(part?).ok()?;
        json::parse(text).ok()
    };
    let (Some(rule), Some(resource)) = (text(parts.next()), text(parts.next())) else {
        return;
    };
    // A definition, or the condition of one.
    let definition = match json::get(&rule, "policyRule").is_some() {
        true => rule,
        false => json!({
            "mode": "All",
            "parameters": {"a": {"type": "String", "defaultValue": "x"}, "b": {"type": "Array", "defaultValue": [1, "x"]}},
            "policyRule": {"if": rule, "then": {"effect": "audit"}},
        }),
    };
    let aliases = Arc::new(Aliases::default());
    let Ok(Compiled::Definition(definition)) = compile(&definition, &aliases) else {
        return;
    };
    let Ok(parameters) = parameters::effective(&definition.parameters, &Map::new(), "") else {
        return;
    };
    check(
        Policy {
            definition: Arc::new(*definition),
            parameters,
            reference: None,
            assignment: json!({"scope": "/subscriptions/s"}),
            exemptions: Vec::new(),
            attestations: Vec::new(),
            hierarchy: Value::Null,
            around: surroundings().clone(),
            aliases,
        },
        &resource,
    );
});

fn surroundings() -> &'static Surroundings {
    static AROUND: OnceLock<Surroundings> = OnceLock::new();
    AROUND.get_or_init(|| Surroundings {
        now: "2026-03-01T12:00:00Z".parse().unwrap_or_default(),
        resource_group: json!({"name": "g", "location": "east", "tags": {"a": "b"}}),
        subscription: json!({"subscriptionId": "s"}),
        request: json!({"identity": {}}),
        policy: json!({"assignmentId": "a"}),
    })
}

fn check(policy: Policy, resource: &Value) {
    let question = Question {
        definition: &policy.definition,
        parameters: &policy.parameters,
        reference: None,
        assignment: &policy.assignment,
        resource,
        related: &[],
        exemptions: &[],
        attestations: &[],
        hierarchy: &policy.hierarchy,
        around: &policy.around,
        aliases: &policy.aliases,
    };
    let verdict = question.answer();
    let _ = decide(&[question], Act::Write);
    let searches = verdict.effect.is_some_and(|e| e.looks_for_existence());
    let wanted = match verdict.state {
        Some(State::Exempt) | None => Outcome::of(verdict.state),
        Some(_) if searches && verdict.condition == Some(true) => Outcome::Search,
        state => Outcome::of(state),
    };
    let mut plan = Plan::new(policy.clone());
    let mut table = Table::new([&plan]);
    if let Ok(row) = table.insert_value(resource, Around::default()) {
        assert_eq!(plan.outcome(&table, row), Ok(wanted), "as a value");
    }
    let mut plan = Plan::new(policy);
    let mut table = Table::new([&plan]);
    // What is nested deeper than a table reads is refused.
    if let Ok(row) = table.insert(resource.to_string().as_bytes(), Around::default()) {
        let answers = plan.scan(&table).expect("the table is of this plan");
        let found = answers[row.segment as usize].of(row.index as usize);
        assert_eq!(found, wanted, "as JSON");
    }
}
