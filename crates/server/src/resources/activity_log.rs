//! `az monitor activity-log list`: what was done in a subscription, in the shape of Azure Monitor's events.

use std::sync::Arc;

use access::Visible;
use catalog::{ActivityRange, Actor, Entry, Recorded};
use jiff::{Timestamp, ToSpan as _};
use serde_json::{Map, Value, json};
use wire::{ArmError, ResourceId};

use super::Reply;
use crate::errors;
use crate::filter::{self, Relation, Term};
use crate::operation::Call;
use crate::state::Server;

pub const KIND: &str = "Microsoft.Insights/eventTypes/values";
pub const CATEGORIES: &str = "Microsoft.Insights/eventCategories";
/// Lines of one page.
const PAGE: usize = 200;
/// Lines that are looked at for one page; the next link goes on where it ended.
const LOOKED_AT_MAX: usize = 20_000;
/// How far back a question without a beginning looks.
const DAYS_DEFAULT: i64 = 90;
const NAMES: [&str; 12] = [
    "eventtimestamp",
    "resourcegroupname",
    "resourceuri",
    "resourceid",
    "resourceprovider",
    "resourcetype",
    "correlationid",
    "status",
    "caller",
    "eventchannels",
    "levels",
    "operationname",
];

pub async fn values(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let filter = filter::terms(call.query.get("$filter").unwrap_or_default(), &NAMES)?;
    let mut range = range(&filter)?;
    if let Some(token) = call.query.get("$skiptoken") {
        range.before = Some(place(token)?);
    }
    let select = call.query.get("$select").map(|names| {
        let names = names.split(',').map(|name| name.trim().to_lowercase());
        names.collect::<Vec<_>>()
    });
    let mut shown = Vec::new();
    let mut looked_at = 0;
    let next = loop {
        let lines = server
            .activities
            .activity(&call.permit, range.clone(), catalog::ACTIVITY_MAX)
            .await
            .map_err(errors::catalog)?;
        looked_at += lines.len();
        let ended = lines.len() < catalog::ACTIVITY_MAX;
        let mut full = None;
        for line in &lines {
            range.before = Some((line.at, line.row));
            let event = event(line);
            let id = ResourceId::parse(&line.entry.id);
            if !id.map_or(*call.permit.visible() == Visible::All, |id| {
                call.permit.may_see(&id)
            }) {
                continue;
            }
            if fits(&filter, line, &event) {
                shown.push(selected(event, select.as_deref()));
            }
            if shown.len() == PAGE {
                full = range.before;
                break;
            }
        }
        match full {
            Some(place) => break Some(place),
            None if ended => break None,
            None if looked_at >= LOOKED_AT_MAX => break range.before,
            None => {}
        }
    };
    let mut body = json!({ "value": shown });
    if let Some((at, row)) = next {
        let token = format!("{}-{row}", at.as_microsecond());
        let version = call.version.to_string();
        let mut query = vec![("api-version", version.as_str()), ("$skiptoken", &token)];
        for name in ["$filter", "$select"] {
            query.extend(call.query.get(name).map(|value| (name, value)));
        }
        body["nextLink"] = call.base.url(&call.path, &query).into();
    }
    Ok(Reply::ok(body))
}

pub async fn categories(_: Arc<Server>, _: Call) -> Result<Reply, ArmError> {
    let one = json!({ "value": "Administrative", "localizedValue": "Administrative" });
    Ok(Reply::ok(json!({ "value": [one] })))
}

fn place(token: &str) -> Result<(Timestamp, u64), ArmError> {
    let bad = || errors::invalid("$skiptoken", "The $skiptoken is not valid.");
    let (at, row) = token.split_once('-').ok_or_else(bad)?;
    let at = at
        .parse()
        .ok()
        .and_then(|at| Timestamp::from_microsecond(at).ok());
    Ok((at.ok_or_else(bad)?, row.parse().map_err(|_| bad())?))
}

fn range(filter: &[Term]) -> Result<ActivityRange, ArmError> {
    let now = Timestamp::now();
    let mut range = ActivityRange {
        from: now - (DAYS_DEFAULT * 24).hours(),
        to: now,
        before: None,
    };
    for term in filter.iter().filter(|term| term.name == "eventtimestamp") {
        let at = time(&term.value).ok_or_else(|| {
            errors::invalid("$filter", format!("'{}' is not a time.", term.value))
        })?;
        match term.relation {
            Relation::AtLeast => range.from = at,
            Relation::AtMost => range.to = at,
            _ => {
                return Err(errors::invalid(
                    "$filter",
                    "eventTimestamp takes 'ge' and 'le'.",
                ));
            }
        }
    }
    Ok(range)
}

/// With or without a zone, as clients send them.
fn time(text: &str) -> Option<Timestamp> {
    text.parse().ok().or_else(|| {
        let time: jiff::civil::DateTime = text.parse().ok()?;
        Some(time.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp())
    })
}

fn fits(filter: &[Term], line: &Recorded, event: &Value) -> bool {
    let id = ResourceId::parse(&line.entry.id).ok();
    filter.iter().all(|term| {
        let value = term.value.as_str();
        let same = |text: Option<&str>| text.is_some_and(|text| text.eq_ignore_ascii_case(value));
        let holds = match term.name.as_str() {
            // Decided by the range, and by there being one channel and one level alone.
            "eventtimestamp" | "eventchannels" | "levels" => return true,
            "resourcegroupname" => same(id.as_ref().and_then(ResourceId::resource_group)),
            "resourceuri" | "resourceid" => {
                let asked = ResourceId::parse(value).ok();
                asked.is_some_and(|asked| id.as_ref().is_some_and(|id| id.is_within(&asked)))
            }
            "resourceprovider" => same(
                event
                    .pointer("/resourceProviderName/value")
                    .and_then(Value::as_str),
            ),
            "resourcetype" => same(event.pointer("/resourceType/value").and_then(Value::as_str)),
            "operationname" => same(Some(&line.entry.action)),
            "correlationid" => same(event["correlationId"].as_str()),
            "status" => same(event.pointer("/status/value").and_then(Value::as_str)),
            "caller" => same(event["caller"].as_str()),
            _ => false,
        };
        (term.relation == Relation::NotEqual) != holds
    })
}

fn selected(event: Value, select: Option<&[String]>) -> Value {
    let (Value::Object(members), Some(select)) = (&event, select) else {
        return event;
    };
    let chosen = members
        .iter()
        .filter(|(name, _)| select.contains(&name.to_lowercase()));
    let chosen: Map<String, Value> = chosen
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    Value::Object(chosen)
}

fn named(text: &str) -> Value {
    json!({ "value": text, "localizedValue": text })
}

/// Who it was, and what its token said.
fn caller(actor: &Actor) -> (String, Value) {
    match actor {
        Actor::Principal {
            principal,
            app,
            tenant,
        } => (
            principal.to_string(),
            json!({ "appid": app, "tid": tenant,
                    "http://schemas.microsoft.com/identity/claims/objectidentifier": principal }),
        ),
        Actor::System(reason) => (format!("system/{reason}"), json!({})),
        Actor::Nobody => (String::new(), json!({})),
    }
}

/// What Azure has no member for.
fn details(entry: &Entry) -> Value {
    // Texts alone: az refuses anything else here.
    let mut properties = json!({ "entity": entry.id, "outcome": entry.status.as_str() });
    for (name, value) in [
        ("statusCode", entry.code.clone()),
        (
            "rights",
            Some(entry.rights.join(", ")).filter(|rights| !rights.is_empty()),
        ),
        ("count", entry.count.map(|count| count.to_string())),
    ] {
        if let Some(value) = value {
            properties[name] = value.into();
        }
    }
    properties
}

/// One line as Azure Monitor shows it.
fn event(line: &Recorded) -> Value {
    let entry = &line.entry;
    let id = ResourceId::parse(&entry.id).ok();
    let kind = id
        .as_ref()
        .map(|id| id.resource_type().to_string())
        .unwrap_or_default();
    let (provider, _) = kind.split_once('/').unwrap_or((&kind, ""));
    let (caller, claims) = caller(&entry.actor);
    let status = match entry.status {
        catalog::ActivityStatus::Refused => "Failed",
        status => status.as_str(),
    };
    let level = if status == "Failed" {
        "Error"
    } else {
        "Informational"
    };
    let correlation = entry.correlation.unwrap_or(entry.event).to_string();
    let at = line.at.to_string();
    json!({
        "authorization": { "action": entry.action, "scope": entry.id, "role": Value::Null },
        "caller": caller,
        "channels": "Operation",
        "claims": claims,
        "correlationId": correlation,
        "description": "",
        "eventDataId": entry.event,
        "eventName": named("EndRequest"),
        "category": named("Administrative"),
        "eventTimestamp": at,
        "httpRequest": { "clientRequestId": entry.request, "clientIpAddress": entry.address,
                         "method": Value::Null },
        "id": format!("{}/events/{}/ticks/{}", entry.id, entry.event, line.at.as_microsecond()),
        "level": level,
        "operationId": entry.request.unwrap_or(entry.event),
        "operationName": named(&entry.action),
        "resourceGroupName": id.as_ref().and_then(ResourceId::resource_group),
        "resourceId": entry.id,
        "resourceProviderName": named(provider),
        "resourceType": named(&kind),
        "status": named(status),
        "subStatus": named(entry.code.as_deref().unwrap_or_default()),
        "submissionTimestamp": at,
        "subscriptionId": id.as_ref().and_then(ResourceId::subscription),
        "tenantId": line.tenant,
        "properties": details(entry),
    })
}
