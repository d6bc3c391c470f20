//! `policy what-if`: a policy against everything before it is assigned, and a resource against the assigned policies
//! before it is created. The server evaluates; nothing is stored.

use serde_json::{Value, json};
use wire::policy::WhatIfBody;

use super::compliance::{Place, scopes};
use super::scope::{Finder, Located};
use crate::api;
use crate::args::Scope;
use crate::args::compliance::{WhatIf, WhatIfAbout};
use crate::client::{Ask, Client};
use crate::error::{CliError, Exit};
use crate::io::{Format, Io, table};

const OPERATION: &str = "ask what a policy would do";

pub async fn run(client: &Client, args: &WhatIf, io: &mut Io) -> Result<Exit, CliError> {
    let body = body(&args.about);
    let at = match &args.about {
        WhatIfAbout::Policy { .. } => scopes(client, &args.scope).await?,
        WhatIfAbout::Resource(resource) => vec![home(client, resource).await?.into()],
    };
    let mut answers = Vec::new();
    for Place { name, at } in &at {
        let path = api::below(
            &at.id,
            "/providers/Bullion.Factory/policyWhatIf",
            api::BULLION,
        );
        let ask = Ask {
            operation: OPERATION,
            tenant: at.tenant,
            method: "POST",
            path: &path,
            body: Some(&body),
        };
        let mut answer = client.send(ask).await?.body;
        answers.push((name, at.id.to_string(), answer["properties"].take()));
    }
    if io.format == Format::Json {
        let shown = answers.iter().map(|(_, scope, answer)| {
            let mut shown = answer.clone();
            shown["scope"] = scope.clone().into();
            shown
        });
        io.json(&shown.collect::<Vec<_>>())?;
    } else {
        for (name, _, answer) in &answers {
            tell(name, answer, io)?;
        }
    }
    let denied = answers
        .iter()
        .any(|(_, _, answer)| answer["decision"]["denied"] == true);
    Ok(if denied { Exit::Failure } else { Exit::Done })
}

fn body(about: &WhatIfAbout) -> Value {
    let asked = match about {
        WhatIfAbout::Policy {
            definition,
            parameters,
        } => {
            let wrapped = parameters.iter().map(|(name, value)| {
                // As an assignment writes it already, or the bare value.
                let whole = value
                    .as_object()
                    .is_some_and(|one| one.len() == 1 && one.contains_key("value"));
                let value = if whole {
                    value.clone()
                } else {
                    json!({ "value": value })
                };
                (name.clone(), value)
            });
            let wrapped: serde_json::Map<String, Value> = wrapped.collect();
            WhatIfBody {
                definition: Some(definition.clone()),
                assignment: Some(json!({ "properties": { "parameters": wrapped } })),
                resource: None,
            }
        }
        WhatIfAbout::Resource(resource) => WhatIfBody {
            resource: Some(resource.clone()),
            ..WhatIfBody::default()
        },
    };
    json!({ "properties": asked })
}

/// The resource group that the resource is to be in, or its subscription.
async fn home(client: &Client, resource: &Value) -> Result<Located, CliError> {
    let id = resource["id"].as_str().unwrap_or_default();
    let names = Scope::default();
    let located = Finder::new(client, &names).by_id(id).await.map_err(|_| {
        CliError::Usage(
            "the resource needs an `id` of the form \
             /subscriptions/ID/resourceGroups/GROUP/providers/TYPE/NAME"
                .into(),
        )
    })?;
    let at = located.id.group_scope().or_else(|| {
        let subscription = located.id.subscription()?;
        Some(wire::ResourceId::subscription_scope(subscription))
    });
    let tenant = located.tenant;
    let id = at.unwrap_or(located.id);
    Ok(Located { tenant, id })
}

fn tell(scope: &str, answer: &Value, io: &mut Io) -> Result<(), CliError> {
    let decision = &answer["decision"];
    if decision.is_object() {
        io.line(match decision["denied"] == true {
            true => "The request would be denied.",
            false => "The request would be allowed.",
        })?;
        for denial in decision["denials"].as_array().into_iter().flatten() {
            io.line(format!("  denied by {}", named(denial)))?;
        }
        for change in decision["changes"].as_array().into_iter().flatten() {
            io.line(format!("  changed: {change}"))?;
        }
    }
    let counts = answer["summary"].as_object();
    let counts = counts
        .into_iter()
        .flatten()
        .filter(|(_, count)| **count != json!(0));
    let counts: Vec<String> = counts
        .map(|(state, count)| format!("{count} {state}"))
        .collect();
    io.line(format!(
        "{scope}: {}",
        match counts.is_empty() {
            true => "no resource would be judged".to_owned(),
            false => counts.join(", "),
        }
    ))?;
    let text = |record: &Value, key: &str| record[key].as_str().unwrap_or_default().to_owned();
    let records = answer["records"].as_array();
    let rows: Vec<Vec<String>> = records
        .into_iter()
        .flatten()
        .map(|record| {
            let id = text(record, "resourceId");
            let name = id.rsplit('/').next().unwrap_or_default().to_owned();
            let keys = ["complianceState", "effect", "reason"];
            let rest = keys.map(|key| text(record, key));
            std::iter::once(name).chain(rest).collect()
        })
        .collect();
    if !rows.is_empty() {
        io.line(table(&["RESOURCE", "STATE", "EFFECT", "REASON"], &rows))?;
    }
    Ok(())
}

/// What people call the policy of a denial.
fn named(denial: &Value) -> String {
    let shown = denial["policyDefinitionDisplayName"].as_str();
    let name = denial["policyDefinitionName"].as_str().unwrap_or_default();
    let policy = shown.filter(|shown| !shown.is_empty()).unwrap_or(name);
    let assignment = denial["policyAssignmentId"].as_str().unwrap_or_default();
    format!("{policy}, assigned by {assignment}")
}
