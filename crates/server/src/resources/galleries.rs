//! `Microsoft.Compute/galleries`. A gallery's name is unique within its subscription.
//!
//! Whom it is shared with is [`sharing`]'s, what happens to deleted versions [`soft_delete`]'s.

use std::sync::Arc;

use catalog::UniqueKey;
use serde_json::json;
use wire::compute::GalleryProperties;
use wire::{ArmError, NameRule};

use super::{
    Reply, delete, find, list, need, properties, put_reply_of, settle_location, sharing,
    soft_delete, store_unique, tracked,
};
use crate::body::{self, ResourceBody};
use crate::errors;
use crate::limits;
use crate::operation::Call;
use crate::state::Server;

pub const KIND: &str = "Microsoft.Compute/galleries";
/// `az sig update` sends `identifier: {}`, and old api-versions none of these.
const KEPT: [&str; 3] = ["sharingProfile", "softDeletePolicy", "identifier"];
const READ_ONLY: [&str; 1] = ["sharingStatus"];

pub async fn put(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let name = call.id.name().to_string();
    NameRule::Gallery
        .check(&name)
        .map_err(|error| errors::invalid("galleryName", error.to_string()))?;
    let mut body = ResourceBody::parse(&call.body, &call.id)?;
    body::typed::<GalleryProperties>(&body.properties)?;
    let old = find(&server, &call).await?;
    let location = settle_location(&call, &body, old.as_ref())?;
    let kept = old.as_ref().map(properties);
    if kept.is_none() {
        limits::need_room(&server, &call, KIND, &location).await?;
    }
    body::keep(&mut body.properties, kept.as_ref(), &KEPT);
    body::read_only(&mut body.properties, kept.as_ref(), &READ_ONLY);
    sharing::settle(kept.as_ref(), &mut body.properties)?;
    if soft_delete::settle_policy(kept.as_ref(), &mut body.properties)? {
        server.need_right(&call, sharing::SHARE).await?;
        soft_delete::need_one_location(&server, &call, &location).await?;
    }
    let subscription = call
        .id
        .part("subscriptions")
        .unwrap_or_default()
        .to_string();
    body.properties.insert(
        "identifier".into(),
        json!({ "uniqueName": format!("{subscription}-{}", name.to_uppercase()) }),
    );
    let draft = tracked(body, &location, old.as_ref())
        .unique(UniqueKey::new("gallery", &[&subscription, &name]));
    let taken = format!(
        "The gallery name {name} is not unique within the subscription {subscription}. Please pick another \
         gallery name."
    );
    let put = store_unique(&server, &call, old.as_ref(), draft, &taken).await?;
    Ok(put_reply_of(
        put.created,
        sharing::shown(&server, &put.resource, false),
    ))
}

pub async fn get(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let gallery = need(&server, &call).await?;
    if call
        .query
        .get("$select")
        .is_some_and(|select| select.eq_ignore_ascii_case("Permissions"))
    {
        return Ok(Reply::ok(sharing::permissions_shown(&gallery)));
    }
    let groups = call.query.expands("SharingProfile/Groups");
    Ok(Reply::ok(sharing::shown(&server, &gallery, groups)))
}

pub async fn remove(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    if let Some(gallery) = find(&server, &call).await? {
        sharing::need_reset(&gallery)?;
    }
    delete(&server, &call).await
}

pub async fn all(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let show = |gallery: &catalog::Resource| Some(sharing::shown(&server, gallery, false));
    list(&server, &call, KIND, show).await
}
