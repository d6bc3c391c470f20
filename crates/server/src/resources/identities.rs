//! `Microsoft.ManagedIdentity/userAssignedIdentities`: identities that are resources of their own, to be assigned to
//! machines and other resources.

use std::sync::Arc;

use catalog::{NewIdentity, Record};
use http::StatusCode;
use serde_json::{Value, json};
use wire::{AppId, ArmError, PrincipalId};

use super::{
    Reply, delete, find, list, need, present, put_reply_of, settle_location, store, tracked,
};
use crate::body::ResourceBody;
use crate::errors;
use crate::operation::Call;
use crate::state::Server;

pub const KIND: &str = "Microsoft.ManagedIdentity/userAssignedIdentities";
const NAME_CHARS: std::ops::RangeInclusive<usize> = 3..=128;

pub async fn put(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let name = call.id.name();
    let fit = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let begins = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if !NAME_CHARS.contains(&name.len()) || !name.bytes().all(fit) || !begins {
        return Err(errors::invalid(
            "resourceName",
            "The name of an identity has 3 to 128 letters, digits, '-' and '_', and begins with a letter or digit.",
        ));
    }
    let mut body = ResourceBody::parse(&call.body, &call.id)?;
    let old = find(&server, &call).await?;
    let location = settle_location(&call, &body, old.as_ref())?;
    server.need_region(&location, "location")?;
    let tenant = call.permit.tenant();
    let record = match &old {
        Some(old) => {
            body.properties = super::properties(old);
            Record::Plain
        }
        None => {
            let (app, principal) = (AppId::random(), PrincipalId::random());
            let stored = json!({ "tenantId": tenant, "principalId": principal, "clientId": app });
            if let Value::Object(stored) = stored {
                body.properties = stored;
            }
            Record::ManagedIdentity(Some(NewIdentity {
                app,
                principal,
                display_name: name.to_string(),
            }))
        }
    };
    let draft = tracked(body, &location, old.as_ref()).record(record);
    let put = store(&server, &call, old.as_ref(), draft).await?;
    Ok(put_reply_of(put.created, shown(&put.resource)))
}

/// Changes the tags.
pub async fn patch(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let body = ResourceBody::parse(&call.body, &call.id)?;
    let old = need(&server, &call).await?;
    let mut draft = catalog::Draft::from_resource(old.clone());
    if call.body.get("tags").is_some() {
        draft.tags = body.tags;
    }
    let put = store(&server, &call, Some(&old), draft).await?;
    Ok(Reply::ok(shown(&put.resource)))
}

/// Without the provisioning state, which this type has not.
fn shown(resource: &catalog::Resource) -> Value {
    let mut shown = present(resource);
    if let Some(inside) = shown["properties"].as_object_mut() {
        inside.remove("provisioningState");
    }
    shown
}

pub async fn get(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    Ok(Reply::ok(shown(&need(&server, &call).await?)))
}

pub async fn remove(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let removed = delete(&server, &call).await?;
    match removed.status {
        StatusCode::OK => Ok(Reply::new(StatusCode::OK, None)),
        _ => Ok(removed),
    }
}

pub async fn all(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    list(&server, &call, KIND, |one| Some(shown(one))).await
}
