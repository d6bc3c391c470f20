//! `Microsoft.PolicyInsights/policyEvents`: requests that policies refused and states that changed, asked with OData.

use std::sync::Arc;

use comply::{EventRecord, StateQuery};
use serde_json::{Value, json};
use wire::ArmError;

use super::states::{self, MEMBERS, PAGE_DEFAULT, READ_AT_ONCE, View, bounded, scope_path};
use super::{Reply, failed};
use crate::errors;
use crate::operation::Call;
use crate::state::Server;

/// What an event has beside the members of a state.
const MORE: [&str; 2] = ["tenantId", "principalOid"];

pub async fn query(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let members: Vec<&str> = MEMBERS.iter().chain(&MORE).copied().collect();
    let asked = states::asked(&call, &members)?;
    if asked.view != View::Default {
        let message = "The policy events are 'default'.";
        return Err(errors::invalid("policyEventsResource", message));
    }
    let found = all(&server, &call, &asked).await?;
    let mut made = asked.odata.run(found);
    made.truncate(asked.odata.top.unwrap_or(PAGE_DEFAULT));
    let path = format!(
        "{}/providers/Microsoft.PolicyInsights/policyEvents/$metadata",
        scope_path(&call).trim_end_matches('/')
    );
    let context = format!("{}#default", call.base.url(&path, &[]));
    let entity = format!("{context}/$entity");
    let value: Vec<Value> = made
        .into_iter()
        .map(|event| {
            let mut shown = asked.odata.selected(event);
            shown["@odata.id"] = Value::Null;
            shown["@odata.context"] = entity.clone().into();
            shown
        })
        .collect();
    Ok(Reply::ok(json!({
        "@odata.context": context, "@odata.count": value.len(), "value": value,
    })))
}

/// All events that the path, the range and `$filter` leave, oldest first.
async fn all(server: &Server, call: &Call, asked: &states::Asked) -> Result<Vec<Value>, ArmError> {
    let (from, to) = asked.range();
    let mut query = StateQuery {
        limit: READ_AT_ONCE,
        ..asked.states.clone()
    };
    let filter = asked.odata.filter.as_ref();
    let mut found = Vec::new();
    let mut touched = 0;
    loop {
        let page = server.comply.events(&call.permit, &query, from, to).await;
        let page = page.map_err(|error| failed("reading policy events", error))?;
        touched += page.events.len();
        bounded(touched)?;
        let taken = page
            .events
            .iter()
            .filter(|event| asked.takes(&event.record));
        let shown = taken.map(json_of);
        found.extend(shown.filter(|one| filter.is_none_or(|filter| filter.holds(one))));
        match page.next {
            Some(next) => query.after = Some(next),
            None => return Ok(found),
        }
    }
}

fn json_of(event: &EventRecord) -> Value {
    // Names, texts and JSON: there is nothing in a record that JSON cannot hold.
    let mut shown = serde_json::to_value(event).unwrap_or_default();
    if let Some(shown) = shown.as_object_mut() {
        shown.remove("since");
    }
    shown
}
