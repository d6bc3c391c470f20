//! `compliance`: states of resources under policies, as PolicyInsights answers them, and their reasons.

use std::collections::{BTreeMap, HashSet};

use serde_json::{Value, json};
use wire::policy::{Explanation, PolicyExplanation, PolicyState};
use wire::{ResourceId, TenantId};

use super::scope::{Finder, GROUP, Located, VM};
use crate::api;
use crate::args::Scope;
use crate::args::compliance::{Compliance, PolicyScope};
use crate::client::{Ask, Client};
use crate::error::{CliError, Exit};
use crate::io::{Format, Io, table};

/// Pages of states of one scope.
const PAGES_MAX: usize = 10_000;
/// Deciding expressions that are shown of one policy.
const EXPRESSIONS_MAX: usize = 10;

pub async fn run(client: &Client, args: Compliance, io: &mut Io) -> Result<Exit, CliError> {
    match args {
        Compliance::Summary { scope } => summary(client, &scope, io).await,
        Compliance::List {
            state,
            filter,
            scope,
        } => list(client, &scope, state.as_deref(), filter.as_deref(), io).await,
        Compliance::Explain { machine, scope } => explain(client, &machine, &scope, io).await,
    }
}

/// A scope and what people call it.
#[derive(Debug, Clone)]
pub struct Place {
    pub name: String,
    pub at: Located,
}

impl From<Located> for Place {
    fn from(at: Located) -> Place {
        Place {
            name: at.id.name().to_owned(),
            at,
        }
    }
}

/// The scope that was named, or every subscription that is visible.
pub async fn scopes(client: &Client, scope: &PolicyScope) -> Result<Vec<Place>, CliError> {
    let names = Scope {
        subscription: scope.subscription.clone(),
        resource_group: scope.resource_group.clone(),
    };
    let finder = Finder::new(client, &names);
    if let Some(id) = &scope.scope {
        return Ok(vec![finder.by_id(id).await?.into()]);
    }
    if let Some(group) = &scope.resource_group {
        return Ok(vec![finder.find(GROUP, group).await?.into()]);
    }
    let found = finder.in_scope().await?.into_iter();
    Ok(found
        .map(|one| Place {
            at: Located {
                tenant: one.tenant,
                id: ResourceId::subscription_scope(one.id),
            },
            name: one.name,
        })
        .collect())
}

async fn post(
    client: &Client,
    operation: &str,
    tenant: TenantId,
    path: &str,
) -> Result<Value, CliError> {
    let ask = Ask {
        operation,
        tenant,
        method: "POST",
        path,
        body: None,
    };
    Ok(client.send(ask).await?.body)
}

fn below(at: &Located, rest: &str) -> String {
    let rest = format!("/providers/Microsoft.PolicyInsights/policyStates/latest/{rest}");
    api::below(&at.id, &rest, api::POLICY_INSIGHTS)
}

/// Asks at each scope. Whoever sees one subscription need not see the policies of every other.
async fn everywhere<T>(
    scopes: &[Place],
    ask: impl AsyncFn(&Located) -> Result<T, CliError>,
) -> Result<Vec<(Place, T)>, CliError> {
    let mut found = Vec::new();
    let mut refused = None;
    for place in scopes {
        match ask(&place.at).await {
            Ok(answer) => found.push((place.clone(), answer)),
            Err(error @ CliError::Arm { .. }) if error.is_forbidden() => refused = Some(error),
            Err(error) => return Err(error),
        }
    }
    match refused {
        Some(error) if found.is_empty() => Err(error),
        _ => Ok(found),
    }
}

async fn summary(client: &Client, scope: &PolicyScope, io: &mut Io) -> Result<Exit, CliError> {
    let scopes = scopes(client, scope).await?;
    let operation = "summarize the states of policies";
    let found = everywhere(&scopes, async |at| {
        post(client, operation, at.tenant, &below(at, "summarize")).await
    });
    let found = found.await?;
    if io.format == Format::Json {
        let shown = found.iter().map(|(place, body)| {
            json!({
                "scope": place.at.id.to_string(),
                "results": body["value"][0]["results"],
                "policyAssignments": body["value"][0]["policyAssignments"],
            })
        });
        io.json(&shown.collect::<Vec<_>>())?;
        return Ok(Exit::Done);
    }
    let mut rows = Vec::new();
    for (place, body) in &found {
        let assignments = body["value"][0]["policyAssignments"].as_array();
        for one in assignments.into_iter().flatten() {
            let id = one["policyAssignmentId"].as_str().unwrap_or_default();
            let counts = counts(&one["results"]);
            let count = |state: &str| counts.get(state).copied().unwrap_or_default();
            let (compliant, not) = (count("compliant"), count("noncompliant"));
            let other = counts.values().sum::<u64>() - compliant - not;
            rows.push(vec![
                place.name.clone(),
                id.rsplit('/').next().unwrap_or_default().to_owned(),
                compliant.to_string(),
                not.to_string(),
                other.to_string(),
            ]);
        }
    }
    if rows.is_empty() {
        io.say("No policy is assigned that reaches a resource here.");
        return Ok(Exit::Done);
    }
    let header = ["SCOPE", "ASSIGNMENT", "COMPLIANT", "NON-COMPLIANT", "OTHER"];
    io.line(table(&header, &rows))?;
    Ok(Exit::Done)
}

/// Resources by state, states in lower case as Azure writes them.
fn counts(results: &Value) -> BTreeMap<String, u64> {
    let details = results["resourceDetails"].as_array();
    let mut counts = BTreeMap::new();
    for one in details.into_iter().flatten() {
        let state = one["complianceState"].as_str().unwrap_or_default();
        let count = one["count"].as_u64().unwrap_or_default();
        *counts.entry(state.to_lowercase()).or_default() += count;
    }
    counts
}

async fn list(
    client: &Client,
    scope: &PolicyScope,
    state: Option<&str>,
    filter: Option<&str>,
    io: &mut Io,
) -> Result<Exit, CliError> {
    let state = state.map(|state| format!("complianceState eq '{}'", state.replace('\'', "''")));
    let filter = filter.map(|filter| format!("({filter})"));
    let terms: Vec<String> = state.into_iter().chain(filter).collect();
    let scopes = scopes(client, scope).await?;
    let found = everywhere(&scopes, async |at| {
        states(client, at, &terms.join(" and ")).await
    });
    let found = found.await?;
    let records: Vec<Value> = found.into_iter().flat_map(|(_, records)| records).collect();
    if io.format == Format::Json {
        io.json(&records)?;
        return Ok(Exit::Done);
    }
    let mut states: Vec<PolicyState> = Vec::new();
    for record in records {
        let state = serde_json::from_value(record).map_err(|error| CliError::BadAnswer {
            operation: "list the states of policies".into(),
            why: error.to_string(),
        })?;
        states.push(state);
    }
    let rank = |state: &PolicyState| match state.compliance_state.as_str() {
        "NonCompliant" => 0,
        "Error" => 1,
        "Compliant" => 3,
        _ => 2,
    };
    states.sort_by(|a, b| {
        let key = |one: &PolicyState| (rank(one), one.resource_id.clone());
        key(a).cmp(&key(b))
    });
    let last = |id: &str| id.rsplit('/').next().unwrap_or_default().to_owned();
    let rows: Vec<Vec<String>> = states
        .iter()
        .map(|one| {
            let reference = one.policy_definition_reference_id.as_deref();
            let policy = match reference.filter(|name| !name.is_empty()) {
                Some(reference) => format!("{}/{reference}", one.policy_assignment_name),
                None => one.policy_assignment_name.clone(),
            };
            vec![
                last(&one.resource_id),
                policy,
                one.compliance_state.clone(),
                time(one.since.as_deref().unwrap_or(&one.timestamp)),
                one.reason.clone().unwrap_or_default(),
            ]
        })
        .collect();
    if rows.is_empty() {
        io.say("There is no such state.");
        return Ok(Exit::Done);
    }
    io.line(table(
        &["RESOURCE", "POLICY", "STATE", "SINCE", "REASON"],
        &rows,
    ))?;
    Ok(Exit::Done)
}

/// To the second: people compare times, and nobody does so by the microsecond.
fn time(text: &str) -> String {
    match text.split_once('.') {
        Some((whole, _)) => format!("{whole}Z"),
        None => text.to_owned(),
    }
}

/// All states at a scope, page by page.
async fn states(client: &Client, at: &Located, filter: &str) -> Result<Vec<Value>, CliError> {
    let operation = "list the states of policies";
    let mut path = below(at, "queryResults");
    if !filter.is_empty() {
        let encoded: String = url_encoded(filter);
        path.push_str(&format!("&$filter={encoded}"));
    }
    let mut records = Vec::new();
    let mut next = Some(path);
    let mut seen = HashSet::new();
    while let Some(path) = next {
        if seen.len() == PAGES_MAX || !seen.insert(path.clone()) {
            return Err(CliError::BadAnswer {
                operation: operation.into(),
                why: "its pages do not end".into(),
            });
        }
        let mut body = post(client, operation, at.tenant, &path).await?;
        if let Value::Array(page) = body["value"].take() {
            records.extend(page);
        }
        next = body["@odata.nextLink"].as_str().map(str::to_owned);
    }
    Ok(records)
}

fn url_encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match plain(byte) {
            true => encoded.push(char::from(byte)),
            false => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

async fn explain(
    client: &Client,
    machine: &str,
    scope: &Scope,
    io: &mut Io,
) -> Result<Exit, CliError> {
    let at = Finder::new(client, scope).find(VM, machine).await?;
    let operation = format!("explain the compliance of {}", at.id.name());
    let rest = "/providers/Bullion.Factory/compliance/default";
    let path = api::below(&at.id, rest, api::BULLION);
    let body = client.get(&operation, at.tenant, &path).await?;
    let inside = body.get("properties").cloned().unwrap_or_default();
    let explained: Explanation =
        serde_json::from_value(inside.clone()).map_err(|error| CliError::BadAnswer {
            operation: operation.clone(),
            why: error.to_string(),
        })?;
    if io.format == Format::Json {
        io.json(&inside)?;
    } else {
        tell(&explained, io)?;
    }
    let state = explained.compliance_state.as_deref().unwrap_or("Compliant");
    match state {
        "NonCompliant" | "Error" | "Conflict" => Ok(Exit::Failure),
        _ => Ok(Exit::Done),
    }
}

fn tell(explained: &Explanation, io: &mut Io) -> Result<(), CliError> {
    let name = explained.resource_id.rsplit('/').next().unwrap_or_default();
    let Some(state) = explained.compliance_state.as_deref() else {
        return io.line(format!("{name}: no policy is assigned that reaches it"));
    };
    io.line(format!("{name}: {state}"))?;
    if let Some(image) = &explained.machine_image {
        let text = |key: &str| image[key].as_str().unwrap_or("unknown").to_owned();
        let behind = image["versionsBehind"].as_i64();
        let behind = behind.map_or(String::new(), |behind| format!(", {behind} behind"));
        io.line(format!(
            "image: runs version {}, latest is {}{behind}",
            text("exactVersion"),
            text("latestVersion"),
        ))?;
    }
    for policy in &explained.policies {
        tell_policy(policy, io)?;
    }
    Ok(())
}

fn tell_policy(policy: &PolicyExplanation, io: &mut Io) -> Result<(), CliError> {
    let named = |shown: &str, id: &str| match shown.is_empty() {
        true => id.rsplit('/').next().unwrap_or_default().to_owned(),
        false => shown.to_owned(),
    };
    io.line(format!(
        "\n{}: {} ({}, since {})",
        policy.compliance_state,
        named(
            &policy.policy_definition_display_name,
            &policy.policy_definition_id
        ),
        policy.effect,
        time(&policy.since),
    ))?;
    let through = match &policy.policy_set_definition_display_name {
        Some(set) => format!(", through the initiative {set}"),
        None => String::new(),
    };
    let assignment = named(
        &policy.policy_assignment_display_name,
        &policy.policy_assignment_id,
    );
    let scope = &policy.policy_assignment_scope;
    io.line(format!("  assigned by {assignment} at {scope}{through}"))?;
    for (label, text) in [("why", &policy.reason), ("message", &policy.message)] {
        if let Some(text) = text {
            io.line(format!("  {label}: {text}"))?;
        }
    }
    let decided = policy
        .evaluated_expressions
        .iter()
        .filter(|one| one.decided);
    for one in decided.take(EXPRESSIONS_MAX) {
        io.line(format!(
            "  because: {} is {}, and {} {} is {}",
            one.expression.as_deref().unwrap_or_default(),
            one.expression_value,
            one.operator.as_deref().unwrap_or_default(),
            one.target_value,
            one.result.as_deref().unwrap_or_default(),
        ))?;
    }
    for fix in &policy.fixes {
        io.line(format!("  would fix it: {fix}"))?;
    }
    Ok(())
}
