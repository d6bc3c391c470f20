//! `Bullion.Factory/users`, `…/groups` and `…/groups/members`: people and groups as resources. Graph's endpoints write and
//! show the same.

use std::sync::Arc;

use http::StatusCode;
use serde_json::Value;
use wire::ArmError;

use super::tenancy::check_name;
use super::{Reply, find, list, present, put_reply, show};
use crate::body::ResourceBody;
use crate::directory;
use crate::operation::Call;
use crate::state::Server;

pub use crate::directory::{GROUP, MEMBER, USER};

pub async fn put_user(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let body = ResourceBody::parse(&call.body, &call.id)?;
    let old = find(&server, &call).await?;
    call.preconditions.check(old.as_ref())?;
    let put = directory::write_user(&server, &call.permit, &body.properties, old.as_ref()).await?;
    Ok(put_reply(&put))
}

pub async fn put_group(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    check_name(&call, "groupName")?;
    let body = ResourceBody::parse(&call.body, &call.id)?;
    let old = find(&server, &call).await?;
    call.preconditions.check(old.as_ref())?;
    let put = directory::write_group(&server, &call.permit, &body.properties, old.as_ref()).await?;
    Ok(put_reply(&put))
}

/// The name is the member's object id; a body says nothing more.
pub async fn put_member(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    if call.body != Value::Null {
        ResourceBody::parse(&call.body, &call.id)?;
    }
    let put = directory::add_member(&server, &call.permit).await?;
    Ok(put_reply(&put))
}

pub async fn get(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    show(&server, &call).await
}

pub async fn remove(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let Some(old) = find(&server, &call).await? else {
        return Ok(Reply::no_content());
    };
    call.preconditions.check(Some(&old))?;
    match directory::remove(&server, &call.permit).await? {
        true => Ok(Reply::new(StatusCode::OK, None)),
        false => Ok(Reply::no_content()),
    }
}

pub async fn users(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    list(&server, &call, USER, |one| Some(present(one))).await
}

pub async fn groups(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    list(&server, &call, GROUP, |one| Some(present(one))).await
}

pub async fn members(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    list(&server, &call, MEMBER, |one| Some(present(one))).await
}
