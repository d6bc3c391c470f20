//! `Microsoft.Authorization/locks`: what keeps a scope and all below it from being deleted, or from being changed.
//!
//! `access` holds them against every action, whoever asks for it; here they are only written and shown.

use std::sync::Arc;

use access::LockLevel;
use catalog::{Draft, Record, Resource};
use http::StatusCode;
use serde_json::{Map, Value, json};
use wire::{ArmError, ResourceType};

use super::roles::Filter;
use super::{Reply, delete, find, need, page_reply, page_request, properties, put_reply_of, store};
use crate::body::ResourceBody;
use crate::errors;
use crate::operation::Call;
use crate::state::Server;

pub const KIND: &str = "Microsoft.Authorization/locks";
const NAME_CHARS_MAX: usize = 90;
const NOTES_CHARS_MAX: usize = 512;
const OWNERS_MAX: usize = 20;

pub async fn put(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let name = call.id.name();
    if name.chars().count() > NAME_CHARS_MAX || name.ends_with('.') {
        let message = format!(
            "The lock name has at most {NAME_CHARS_MAX} characters and does not end with a period."
        );
        return Err(errors::invalid("lockName", message));
    }
    let body = ResourceBody::parse(&call.body, &call.id)?;
    let level = body.properties.get("level").and_then(Value::as_str);
    let level = level.and_then(LockLevel::named).ok_or_else(|| {
        errors::invalid(
            "properties.level",
            "The lock level must be CanNotDelete or ReadOnly.",
        )
    })?;
    let mut stored = json!({ "level": level.as_str() });
    if let Some(notes) = notes(&body.properties)? {
        stored["notes"] = notes.into();
    }
    match body.properties.get("owners") {
        None | Some(Value::Null) => {}
        Some(Value::Array(owners)) if owners.len() <= OWNERS_MAX => {
            stored["owners"] = owners.clone().into();
        }
        Some(_) => {
            let message = format!("The owners are a list of at most {OWNERS_MAX}.");
            return Err(errors::invalid("properties.owners", message));
        }
    }
    let old = find(&server, &call).await?;
    let draft = Draft::new(stored).record(Record::Lock(level));
    let put = store(&server, &call, old.as_ref(), draft).await?;
    Ok(put_reply_of(put.created, shown(&put.resource)))
}

fn notes(given: &Map<String, Value>) -> Result<Option<String>, ArmError> {
    match given.get("notes") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.chars().count() <= NOTES_CHARS_MAX => {
            Ok(Some(text.clone()))
        }
        Some(_) => Err(errors::invalid(
            "properties.notes",
            format!("The notes are a text of at most {NOTES_CHARS_MAX} characters."),
        )),
    }
}

fn shown(resource: &Resource) -> Value {
    json!({
        "id": resource.id.to_string(),
        "type": KIND,
        "name": resource.id.name(),
        "properties": properties(resource),
    })
}

pub async fn get(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    Ok(Reply::ok(shown(&need(&server, &call).await?)))
}

pub async fn remove(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let removed = delete(&server, &call).await?;
    match removed.status {
        // az reads no body, and Azure sends none.
        StatusCode::OK => Ok(Reply::new(StatusCode::OK, None)),
        _ => Ok(removed),
    }
}

/// At the scope and below it; `atScope()` leaves out what is below.
pub async fn all(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let filter = Filter::of(&call, &[])?;
    let page = match filter.at_scope {
        true => page_request(&call)?.directly(),
        false => page_request(&call)?,
    };
    let page = server
        .catalog
        .list(&call.permit, &ResourceType::new(KIND), page)
        .await
        .map_err(errors::catalog)?;
    let value = page.resources.iter().map(shown).collect();
    Ok(page_reply(&call, value, page.next))
}
