//! A client's PUT of an image version: where an existing one is replicated, or a new one made from another.

use std::sync::Arc;

use catalog::Resource;
use wire::ArmError;

use crate::body::ResourceBody;
use crate::errors;
use crate::exchange::Reply;
use crate::operation::Call;
use crate::resources::{put_reply_of, store, tracked, versions};
use crate::state::Server;

/// Regions, counts and dates may change; the replication reconciler brings the stores to it.
pub async fn update(
    server: &Arc<Server>,
    call: &Call,
    old: &Resource,
    body: ResourceBody,
    location: &str,
) -> Result<Reply, ArmError> {
    let draft = tracked(body, location, Some(old)).state(old.state);
    let put = store(server, call, Some(old), draft).await?;
    server.work.nudge_replication();
    Ok(put_reply_of(put.created, versions::shown(&put.resource)))
}

pub async fn create(
    _server: &Arc<Server>,
    _call: &Call,
    _body: ResourceBody,
    _location: &str,
) -> Result<Reply, ArmError> {
    Err(errors::invalid(
        "properties.storageProfile.source.id",
        "The source id must be another gallery image version.",
    ))
}
