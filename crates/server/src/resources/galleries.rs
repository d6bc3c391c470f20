//! `Microsoft.Compute/galleries`. A gallery's name is unique within its subscription.

use std::sync::Arc;

use catalog::UniqueKey;
use serde_json::{Map, Value, json};
use wire::compute::GalleryProperties;
use wire::{ArmError, NameRule};

use super::{
    Reply, delete, find, list, present, properties, put_reply, settle_location, show, store_unique,
    tracked,
};
use crate::body::{self, ResourceBody};
use crate::errors;
use crate::operation::Call;
use crate::state::Server;

pub const KIND: &str = "Microsoft.Compute/galleries";
/// `az sig update` sends `identifier: {}`, and old api-versions none of these.
const KEPT: [&str; 3] = ["sharingProfile", "softDeletePolicy", "identifier"];

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
    body::keep(&mut body.properties, kept.as_ref(), &KEPT);
    check_permissions(kept.as_ref(), &body.properties)?;
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
    Ok(put_reply(&put))
}

/// How a gallery is shared is fixed when it is made.
fn check_permissions(
    old: Option<&Map<String, Value>>,
    new: &Map<String, Value>,
) -> Result<(), ArmError> {
    let permissions = |properties: &Map<String, Value>| {
        let profile = properties.get("sharingProfile")?;
        Some(profile.get("permissions")?.as_str()?.to_string())
    };
    let asked = permissions(new);
    if asked
        .as_deref()
        .is_some_and(|asked| !asked.eq_ignore_ascii_case("Private"))
    {
        return Err(errors::invalid(
            "properties.sharingProfile.permissions",
            "This installation shares galleries through role assignments only: the value must be 'Private'.",
        ));
    }
    if old.and_then(permissions).is_some() && asked.is_none() {
        return Err(errors::invalid(
            "properties.sharingProfile.permissions",
            "The sharing permissions of a gallery cannot be removed.",
        ));
    }
    Ok(())
}

pub async fn get(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    show(&server, &call).await
}

pub async fn remove(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    delete(&server, &call).await
}

pub async fn all(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    list(&server, &call, KIND, |gallery| Some(present(gallery))).await
}
