//! `Microsoft.PolicyInsights/policyStates`: the state of every resource under every assignment, asked with OData.

use std::collections::HashSet;
use std::sync::Arc;

use comply::{StateQuery, StateRecord, Summary};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use wire::odata::{OptionError, Query, Texts};
use wire::{ArmError, ErrorCode, ResourceId};

use super::{ASSIGNMENT, DEFINITION, Reply, SET, failed};
use crate::errors;
use crate::operation::Call;
use crate::state::Server;

/// Records of one page, where the client does not say.
pub(super) const PAGE_DEFAULT: usize = 1_000;
/// Records read at once.
pub(super) const READ_AT_ONCE: usize = 2_000;
/// Records that one question over all of them may touch: about half a gigabyte of JSON.
const TOUCHED_MAX: usize = 250_000;
/// How far back `default` looks where the client does not say; Azure's.
const HISTORY_DEFAULT: SignedDuration = SignedDuration::from_hours(24);

/// What a record may have; other names in a query are mistakes.
pub(super) const MEMBERS: [&str; 33] = [
    "timestamp",
    "since",
    "resourceId",
    "resourceName",
    "resourceType",
    "resourceLocation",
    "resourceGroup",
    "resourceTags",
    "subscriptionId",
    "policyAssignmentId",
    "policyAssignmentName",
    "policyAssignmentOwner",
    "policyAssignmentScope",
    "policyAssignmentParameters",
    "policyAssignmentVersion",
    "policyDefinitionId",
    "policyDefinitionName",
    "policyDefinitionAction",
    "policyDefinitionCategory",
    "policyDefinitionReferenceId",
    "policyDefinitionGroupNames",
    "policyDefinitionVersion",
    "policySetDefinitionId",
    "policySetDefinitionName",
    "policySetDefinitionCategory",
    "policySetDefinitionVersion",
    "managementGroupIds",
    "effectiveParameters",
    "complianceState",
    "isCompliant",
    "complianceReasonCode",
    "reason",
    "policyEvaluationDetails",
];

/// The two views that Azure has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum View {
    /// The states as they are.
    Latest,
    /// These, and those that changed from `$from` to `$to`.
    Default,
}

impl View {
    fn of(call: &Call) -> Result<View, ArmError> {
        let found = [View::Latest, View::Default]
            .into_iter()
            .find(|view| call.id.name().eq_ignore_ascii_case(view.name()));
        found.ok_or_else(|| {
            errors::invalid(
                "policyStatesResource",
                "The policy states are 'latest' or 'default'.",
            )
        })
    }

    fn name(self) -> &'static str {
        match self {
            View::Latest => "latest",
            View::Default => "default",
        }
    }
}

/// One question: whose records, and what of them.
pub(super) struct Asked {
    pub view: View,
    pub states: StateQuery,
    /// The definition or initiative that the path names. Its id may be built in or of a group above.
    policy: Option<(bool, String)>,
    from: Option<Timestamp>,
    to: Option<Timestamp>,
    pub odata: Query,
}

pub(super) fn asked(call: &Call, members: &[&str]) -> Result<Asked, ArmError> {
    let option = |name| call.query.get(name);
    let texts = Texts {
        filter: option("$filter"),
        apply: option("$apply"),
        order: option("$orderby"),
        select: option("$select"),
        top: option("$top"),
    };
    let odata = Query::parse(texts, members).map_err(|error| refused(&error))?;
    let time = |name: &'static str| match option(name).filter(|text| !text.is_empty()) {
        None => Ok(None),
        Some(text) => text.parse::<Timestamp>().map(Some).map_err(|_| {
            errors::invalid(
                name,
                format!("{name} must be a time such as 2026-01-31T00:00:00Z."),
            )
        }),
    };
    let mut states = StateQuery {
        details: call.query.expands("PolicyEvaluationDetails"),
        ..StateQuery::default()
    };
    let mut policy = None;
    if let Some(object) = call.id.parent() {
        let kind = object.resource_type();
        if kind.is(ASSIGNMENT) {
            states.assignment = Some(object.to_string());
        } else if kind.is(DEFINITION) || kind.is(SET) {
            policy = Some((kind.is(SET), object.name().to_owned()));
        }
    }
    Ok(Asked {
        view: View::of(call)?,
        states,
        policy,
        from: time("$from")?,
        to: time("$to")?,
        odata,
    })
}

fn refused(error: &OptionError) -> ArmError {
    let OptionError { option, source } = error;
    let message = format!("The query option {option} is not valid: {source}.");
    let code = match *option {
        "$filter" => ErrorCode::InvalidFilterInQueryString,
        _ => ErrorCode::BadRequest,
    };
    ArmError::new(code, message).with_target(*option)
}

impl Asked {
    pub fn takes(&self, record: &StateRecord) -> bool {
        let named = self.policy.as_ref().is_none_or(|(set, name)| {
            let found = match set {
                true => &record.policy_set_definition_name,
                false => &record.policy_definition_name,
            };
            found.eq_ignore_ascii_case(name)
        });
        let at = &record.timestamp;
        named && self.from.is_none_or(|from| at >= &from) && self.to.is_none_or(|to| at <= &to)
    }

    /// All records that the path, the range and `$filter` leave.
    async fn all(&self, server: &Server, call: &Call) -> Result<Vec<StateRecord>, ArmError> {
        let mut found: Vec<StateRecord> = Vec::new();
        let mut touched = 0;
        let mut query = StateQuery {
            limit: READ_AT_ONCE,
            ..self.states.clone()
        };
        loop {
            let page = server.comply.states(&call.permit, &query).await;
            let page = page.map_err(|error| failed("reading policy states", error))?;
            touched += page.records.len();
            bounded(touched)?;
            let records = page.records.into_iter();
            found.extend(records.filter(|one| self.takes(one) && self.fits(one)));
            match page.next {
                Some(next) => query.after = Some(next),
                None => break,
            }
        }
        if self.view == View::Default {
            self.add_history(server, call, &mut found).await?;
        }
        Ok(found)
    }

    /// What changed in the range, besides the states that still hold.
    async fn add_history(
        &self,
        server: &Server,
        call: &Call,
        found: &mut Vec<StateRecord>,
    ) -> Result<(), ArmError> {
        let (from, to) = self.range();
        let mut known: HashSet<_> = found.iter().map(change).collect();
        let mut query = StateQuery {
            limit: READ_AT_ONCE,
            ..self.states.clone()
        };
        let mut touched = found.len();
        loop {
            let page = server.comply.history(&call.permit, &query, from, to).await;
            let page = page.map_err(|error| failed("reading how policy states changed", error))?;
            touched += page.records.len();
            bounded(touched)?;
            for record in page.records {
                if self.takes(&record) && self.fits(&record) && known.insert(change(&record)) {
                    found.push(record);
                }
            }
            match page.next {
                Some(next) => query.after = Some(next),
                None => return Ok(()),
            }
        }
    }

    /// From when to when, where the client says nothing the last day.
    pub fn range(&self) -> (Timestamp, Timestamp) {
        let to = self.to.unwrap_or_else(Timestamp::now);
        let day_before = || to.saturating_sub(HISTORY_DEFAULT).unwrap_or(Timestamp::MIN);
        (self.from.unwrap_or_else(day_before), to)
    }

    fn fits(&self, record: &StateRecord) -> bool {
        let filter = self.odata.filter.as_ref();
        filter.is_none_or(|filter| filter.holds(&json(record)))
    }
}

/// What tells one change of state from another. History is kept in microseconds.
fn change(record: &StateRecord) -> (String, String, String, i64) {
    (
        record.resource_id.to_lowercase(),
        record.policy_assignment_id.to_lowercase(),
        record.policy_definition_reference_id.to_lowercase(),
        record.since.as_microsecond(),
    )
}

pub(super) fn bounded(touched: usize) -> Result<(), ArmError> {
    if touched <= TOUCHED_MAX {
        return Ok(());
    }
    let message = format!(
        "The question touches more than {TOUCHED_MAX} records. Ask at a narrower scope, or without \
         $apply and $orderby."
    );
    Err(ArmError::new(ErrorCode::OperationNotAllowed, message))
}

fn json(record: &StateRecord) -> Value {
    // Names, texts and JSON: there is nothing in a record that JSON cannot hold.
    serde_json::to_value(record).unwrap_or_default()
}

pub async fn query(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let asked = asked(&call, &MEMBERS)?;
    let view = asked.view.name();
    let top = asked.odata.top.unwrap_or(PAGE_DEFAULT).min(TOUCHED_MAX);
    let whole = asked.view == View::Default
        || !asked.odata.apply.is_empty()
        || !asked.odata.order.is_empty();
    let (records, next) = match whole {
        true => {
            let all = asked.all(&server, &call).await?;
            let mut made = asked.odata.run(all.iter().map(json).collect());
            made.truncate(top);
            (made, None)
        }
        false => page(&server, &call, &asked, top).await?,
    };
    let context = context(&call, view);
    let entity = format!("{context}/$entity");
    let value: Vec<Value> = records
        .into_iter()
        .map(|record| {
            let mut shown = asked.odata.selected(record);
            shown["@odata.id"] = Value::Null;
            shown["@odata.context"] = entity.clone().into();
            shown
        })
        .collect();
    let mut body =
        json!({ "@odata.context": context, "@odata.count": value.len(), "value": value });
    // Who says how many wants no more; clients follow every link they are given.
    if let Some(next) = next.filter(|_| asked.odata.top.is_none()) {
        let version = call.version.to_string();
        let mut query = vec![("api-version", version.as_str()), ("$skiptoken", &next)];
        for name in ["$filter", "$select", "$from", "$to", "$expand"] {
            query.extend(call.query.get(name).map(|value| (name, value)));
        }
        body["@odata.nextLink"] = call.base.url(&call.path, &query).into();
    }
    Ok(Reply::ok(body))
}

/// A page of the records as they are, and what asks for the next. It ends with what was read together, so it may
/// hold some more than a page does.
async fn page(
    server: &Server,
    call: &Call,
    asked: &Asked,
    top: usize,
) -> Result<(Vec<Value>, Option<String>), ArmError> {
    let mut query = StateQuery {
        limit: READ_AT_ONCE,
        after: call.query.get("$skiptoken").map(str::to_owned),
        ..asked.states.clone()
    };
    let filter = asked.odata.filter.as_ref();
    let mut found: Vec<Value> = Vec::new();
    let mut touched = 0;
    while found.len() < top && touched < TOUCHED_MAX {
        let page = server.comply.states(&call.permit, &query).await;
        let page = page.map_err(|error| failed("reading policy states", error))?;
        touched += page.records.len();
        let taken = page.records.iter().filter(|one| asked.takes(one)).map(json);
        found.extend(taken.filter(|one| filter.is_none_or(|filter| filter.holds(one))));
        query.after = page.next;
        if query.after.is_none() {
            break;
        }
    }
    if asked.odata.top.is_some() {
        found.truncate(top);
    }
    Ok((found, query.after))
}

pub(super) fn scope_path(call: &Call) -> String {
    let scope = call.id.parent().unwrap_or_else(ResourceId::root);
    scope.to_string()
}

fn context(call: &Call, view: &str) -> String {
    let path = format!(
        "{}/providers/Microsoft.PolicyInsights/policyStates/$metadata",
        scope_path(call).trim_end_matches('/')
    );
    format!("{}#{view}", call.base.url(&path, &[]))
}

pub async fn summarize(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let asked = asked(&call, &MEMBERS)?;
    let view = asked.view.name();
    let plain = asked.view == View::Latest
        && asked.policy.is_none()
        && asked.odata.filter.is_none()
        && asked.from.is_none()
        && asked.to.is_none();
    let summary = match plain {
        true => {
            let made = server.comply.summarize(&call.permit, &asked.states).await;
            made.map_err(|error| failed("summarizing policy states", error))?
        }
        false => Summary::of(&asked.all(&server, &call).await?),
    };
    let mut shown = serde_json::to_value(&summary).unwrap_or_default();
    if let Some(assignments) = shown["policyAssignments"].as_array_mut() {
        assignments.truncate(asked.odata.top.unwrap_or(usize::MAX));
    }
    let path = format!(
        "{}/providers/Microsoft.PolicyInsights/policyStates/{view}/queryResults",
        scope_path(&call).trim_end_matches('/')
    );
    let version = call.version.to_string();
    let mut query = vec![("api-version", version.as_str())];
    for name in ["$filter", "$from", "$to"] {
        query.extend(call.query.get(name).map(|value| (name, value)));
    }
    shown["results"]["queryResultsUri"] = call.base.url(&path, &query).into();
    let context = context(&call, "summary");
    shown["@odata.id"] = Value::Null;
    shown["@odata.context"] = format!("{context}/$entity").into();
    Ok(Reply::ok(json!({
        "@odata.context": context, "@odata.count": 1, "value": [shown],
    })))
}
