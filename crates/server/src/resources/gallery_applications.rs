//! `Microsoft.Compute/galleries/applications` and their versions: packages that a gallery lists, as metadata.
//!
//! The package is named by a URI, which is kept and not read: nothing here copies or installs it.

use std::sync::Arc;

use catalog::Resource;
use jiff::{Timestamp, Unit};
use serde_json::{Map, Value};
use wire::{ArmError, NameRule, VersionNumber};

use super::version_rules::{check_end_of_life, settle_profile};
use super::{
    Reply, delete, find, list, present, properties, put_reply, settle_location, show, store,
    tracked, unchanged,
};
use crate::body::{self, ResourceBody};
use crate::errors;
use crate::operation::Call;
use crate::state::Server;

pub const KIND: &str = "Microsoft.Compute/galleries/applications";
pub const VERSION: &str = "Microsoft.Compute/galleries/applications/versions";
const OS_TYPES: [&str; 2] = ["Linux", "Windows"];
const OS_TYPE: &str = "supportedOSType";
/// What names a version's package and how it is handled; none of it changes.
const FIXED: [&str; 2] = ["source", "manageActions"];
const NEEDED: [(&str, &str); 3] = [
    ("source", "mediaLink"),
    ("manageActions", "install"),
    ("manageActions", "remove"),
];

pub async fn put(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    NameRule::ImageDefinition
        .check(call.id.name())
        .map_err(|error| errors::invalid("galleryApplicationName", error.to_string()))?;
    let mut body = ResourceBody::parse(&call.body, &call.id)?;
    let old = find(&server, &call).await?;
    let location = settle_location(&call, &body, old.as_ref())?;
    let kept = old.as_ref().map(properties);
    body::keep(&mut body.properties, kept.as_ref(), &[OS_TYPE]);
    let system = body.properties.get(OS_TYPE).and_then(Value::as_str);
    if !system.is_some_and(|system| OS_TYPES.contains(&system)) {
        let message = format!("'{OS_TYPE}' must be one of {}.", OS_TYPES.join(", "));
        return Err(errors::invalid("properties.supportedOSType", message));
    }
    if let Some(kept) = &kept {
        let path = "properties.supportedOSType";
        let types = (kept.get(OS_TYPE), body.properties.get(OS_TYPE));
        unchanged("galleryApplication", path, types.0, types.1)?;
    }
    let path = "properties.endOfLifeDate";
    check_end_of_life(kept.as_ref(), &body.properties, path)?;
    let draft = tracked(body, &location, old.as_ref());
    Ok(put_reply(
        &store(&server, &call, old.as_ref(), draft).await?,
    ))
}

pub async fn put_version(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    call.id
        .name()
        .parse::<VersionNumber>()
        .map_err(|error| errors::invalid("galleryApplicationVersionName", error.to_string()))?;
    let mut body = ResourceBody::parse(&call.body, &call.id)?;
    let old = find(&server, &call).await?;
    let location = settle_location(&call, &body, old.as_ref())?;
    let kept = old.as_ref().map(properties);
    body::read_only(&mut body.properties, kept.as_ref(), &["replicationStatus"]);
    settle_package(kept.as_ref(), &mut body.properties)?;
    settle_profile(
        &server,
        &call,
        &location,
        kept.as_ref(),
        &mut body.properties,
    )?;
    if old.is_none() {
        let now = Timestamp::now();
        let now = now.round(Unit::Second).unwrap_or(now);
        body.properties["publishingProfile"]["publishedDate"] = now.to_string().into();
    }
    let draft = tracked(body, &location, old.as_ref());
    Ok(put_reply(
        &store(&server, &call, old.as_ref(), draft).await?,
    ))
}

/// The package and its commands: there, and the same as before.
fn settle_package(
    old: Option<&Map<String, Value>>,
    new: &mut Map<String, Value>,
) -> Result<(), ArmError> {
    let old = old.and_then(|old| old.get("publishingProfile"));
    let old = old.and_then(Value::as_object);
    let profile = match new.get_mut("publishingProfile") {
        Some(Value::Object(profile)) => profile,
        // Taken from the old one as a whole.
        _ if old.is_some() => return Ok(()),
        _ => return Err(missing("publishingProfile")),
    };
    body::keep(profile, old, &FIXED);
    for (group, key) in NEEDED {
        let text = profile.get(group).and_then(|group| group.get(key));
        if text.and_then(Value::as_str).is_none_or(str::is_empty) {
            return Err(missing(&format!("publishingProfile.{group}.{key}")));
        }
    }
    for key in FIXED.into_iter().filter(|_| old.is_some()) {
        let path = format!("properties.publishingProfile.{key}");
        let before = old.and_then(|old| old.get(key));
        unchanged("galleryApplicationVersion", &path, before, profile.get(key))?;
    }
    Ok(())
}

fn missing(path: &str) -> ArmError {
    let path = format!("galleryApplicationVersion.properties.{path}");
    let message = format!("Required parameter '{path}' is missing (null).");
    errors::invalid(&path, message)
}

pub async fn get(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    show(&server, &call).await
}

pub async fn remove(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    delete(&server, &call).await
}

pub async fn all(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let shown = |one: &Resource| Some(present(one));
    list(&server, &call, KIND, shown).await
}

pub async fn all_versions(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let shown = |one: &Resource| Some(present(one));
    list(&server, &call, VERSION, shown).await
}
