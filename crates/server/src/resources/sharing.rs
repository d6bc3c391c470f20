//! Whom a gallery is shared with beyond role assignments: its `sharingProfile`, and the action `share` that changes it.
//!
//! How it can be shared at all (`permissions`) is fixed when it is made. Must not read for those it is shared with; that
//! is [`super::shared`]'s.

use std::sync::Arc;

use catalog::{CatalogError, Draft, Precondition, Resource};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use uuid::Uuid;
use wire::{ArmError, ErrorCode};

use super::{Reply, need, present, unchanged};
use crate::body;
use crate::errors;
use crate::operation::Call;
use crate::state::Server;

/// The right to decide who else may use a gallery; Contributor does not have it.
pub const SHARE: &str = "Microsoft.Compute/galleries/share/action";
const PERMISSIONS: &str = "properties.sharingProfile.permissions";
const COMMUNITY_INFO: &str = "properties.sharingProfile.communityGalleryInfo";
/// Azure's limits of direct sharing.
const SUBSCRIPTIONS_MAX: usize = 30;
const TENANTS_MAX: usize = 5;
const PREFIX_CHARS: std::ops::RangeInclusive<usize> = 5..=16;
const TEXT_CHARS_MAX: usize = 1024;
/// How often the profile is written against other writers.
const WRITES_MAX: usize = 4;

/// How a gallery can be shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permissions {
    /// By role assignments alone.
    Private,
    /// With subscriptions and tenants that are named.
    Groups,
    /// With everybody.
    Community,
}

impl Permissions {
    const ALL: [(&str, Permissions); 3] = [
        ("Private", Permissions::Private),
        ("Groups", Permissions::Groups),
        ("Community", Permissions::Community),
    ];

    fn as_str(self) -> &'static str {
        let known = Self::ALL.iter().find(|(_, known)| *known == self);
        known.map_or("Private", |(name, _)| name)
    }

    fn of(properties: &Map<String, Value>) -> Result<Option<Permissions>, ArmError> {
        let profile = properties.get("sharingProfile").unwrap_or(&Value::Null);
        let text = match profile.get("permissions") {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::String(text)) => text,
            Some(_) => return Err(body::wrong_type(PERMISSIONS, "a string")),
        };
        let known = Self::ALL
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(text));
        known.map(|(_, known)| Some(*known)).ok_or_else(|| {
            errors::invalid(
                PERMISSIONS,
                "The sharing permissions must be one of Private, Groups, Community.",
            )
        })
    }
}

/// Brings the profile of a PUT in order.
pub fn settle(
    old: Option<&Map<String, Value>>,
    new: &mut Map<String, Value>,
) -> Result<(), ArmError> {
    let given = new.get("sharingProfile").filter(|given| !given.is_null());
    if given.is_some_and(|given| !given.is_object()) {
        return Err(body::wrong_type("properties.sharingProfile", "an object"));
    }
    let before = match old {
        Some(old) => Some(Permissions::of(old)?.unwrap_or(Permissions::Private)),
        None => None,
    };
    let asked = Permissions::of(new)?.or(before);
    let permissions = asked.unwrap_or(Permissions::Private);
    if let Some(before) = before {
        let (before, after) = (json!(before.as_str()), json!(permissions.as_str()));
        unchanged("gallery", PERMISSIONS, Some(&before), Some(&after))?;
    }
    let none = Value::Null;
    let old_profile = old
        .and_then(|old| old.get("sharingProfile"))
        .unwrap_or(&none);
    let info = new
        .get("sharingProfile")
        .and_then(|given| given.get("communityGalleryInfo"))
        .cloned();
    let info = community_info(permissions, &old_profile["communityGalleryInfo"], info)?;
    let mut profile = json!({ "permissions": permissions.as_str() });
    // Members that only the action `share` changes.
    if let Some(groups) = old_profile.get("groups") {
        profile["groups"] = groups.clone();
    }
    if let Some(info) = info {
        profile["communityGalleryInfo"] = info;
    }
    new.insert("sharingProfile".into(), profile);
    Ok(())
}

/// What everybody sees of a community gallery's publisher, and its public name, which is made once.
fn community_info(
    permissions: Permissions,
    old: &Value,
    new: Option<Value>,
) -> Result<Option<Value>, ArmError> {
    let given = new.filter(|new| new.as_object().is_some_and(|new| !new.is_empty()));
    if permissions != Permissions::Community {
        return match given {
            None => Ok(None),
            Some(_) => Err(errors::invalid(
                COMMUNITY_INFO,
                "The communityGalleryInfo is for galleries whose sharing permissions are Community.",
            )),
        };
    }
    let text = |key: &str| -> Result<String, ArmError> {
        let path = format!("{COMMUNITY_INFO}.{key}");
        let found = given.as_ref().and_then(|given| given.get(key));
        let found = found.filter(|found| !found.is_null()).or(old.get(key));
        match found.and_then(Value::as_str) {
            Some(text) if (1..=TEXT_CHARS_MAX).contains(&text.trim().len()) => Ok(text.into()),
            Some(_) => Err(errors::invalid(
                &path,
                format!("The value of parameter '{path}' has 1 to {TEXT_CHARS_MAX} characters."),
            )),
            None => Err(errors::invalid(
                &path,
                format!("Required parameter '{path}' is missing (null)."),
            )),
        }
    };
    let prefix = text("publicNamePrefix")?;
    let plain = prefix.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if !plain || !PREFIX_CHARS.contains(&prefix.len()) {
        return Err(errors::invalid(
            &format!("{COMMUNITY_INFO}.publicNamePrefix"),
            format!(
                "The public name prefix must be {} to {} letters and digits.",
                PREFIX_CHARS.start(),
                PREFIX_CHARS.end()
            ),
        ));
    }
    let mut info = json!({
        "publisherUri": text("publisherUri")?,
        "publisherContact": text("publisherContact")?,
        "eula": text("eula")?,
        "publicNamePrefix": prefix,
    });
    if old.is_null() {
        info["communityGalleryEnabled"] = false.into();
        info["publicNames"] = json!([format!("{prefix}-{}", Uuid::new_v4())]);
    } else {
        let path = "properties.sharingProfile.communityGalleryInfo.publicNamePrefix";
        let prefixes = (old.get("publicNamePrefix"), info.get("publicNamePrefix"));
        unchanged("gallery", path, prefixes.0, prefixes.1)?;
        for key in ["communityGalleryEnabled", "publicNames"] {
            info[key] = old[key].clone();
        }
    }
    Ok(Some(info))
}

/// A gallery as its owners see it; the groups only where they were asked for, as in Azure.
pub fn shown(server: &Server, gallery: &Resource, groups: bool) -> Value {
    let mut shown = present(gallery);
    let profile = &mut shown["properties"]["sharingProfile"];
    let is_open = profile["communityGalleryInfo"]["communityGalleryEnabled"] == true
        || profile["groups"]
            .as_array()
            .is_some_and(|groups| !groups.is_empty());
    if let Some(profile) = profile.as_object_mut()
        && !groups
    {
        profile.remove("groups");
    }
    if is_open {
        let regions: Vec<Value> = server
            .work
            .regions()
            .iter()
            .map(|region| json!({ "region": region.as_str(), "state": "Succeeded", "details": "" }))
            .collect();
        shown["properties"]["sharingStatus"] =
            json!({ "aggregatedState": "Succeeded", "summary": regions });
    }
    shown
}

/// What `$select=Permissions` leaves of a gallery.
pub fn permissions_shown(gallery: &Resource) -> Value {
    let whole = present(gallery);
    let mut shown = json!({ "properties": {} });
    for key in ["id", "name", "type", "location"] {
        shown[key] = whole[key].clone();
    }
    let mut profile = gallery.properties["sharingProfile"].clone();
    if profile.is_null() {
        profile = json!({ "permissions": "Private" });
    }
    shown["properties"]["sharingProfile"] = profile;
    shown
}

/// Everybody may be using a community gallery: its owner takes it back before deleting it.
pub fn need_reset(gallery: &Resource) -> Result<(), ArmError> {
    let info = &gallery.properties["sharingProfile"]["communityGalleryInfo"];
    if info["communityGalleryEnabled"] == true {
        return Err(errors::conflict(format!(
            "The gallery '{}' is shared to the community. Reset its sharing before deleting it.",
            gallery.id.name()
        )));
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum ShareOperation {
    Add,
    Remove,
    Reset,
    EnableCommunity,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum GroupType {
    Subscriptions,
    #[serde(rename = "AADTenants")]
    Tenants,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Group {
    #[serde(rename = "type")]
    kind: GroupType,
    ids: Vec<Uuid>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SharingUpdate {
    operation_type: ShareOperation,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    groups: Vec<Group>,
}

pub async fn share(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let update = call.body.as_object().cloned().unwrap_or_default();
    let update: SharingUpdate = body::typed(&update)?;
    for _ in 0..WRITES_MAX {
        let gallery = need(&server, &call).await?;
        call.preconditions.check(Some(&gallery))?;
        let profile = changed(&gallery, &update)?;
        let unmoved = Precondition::Match(gallery.etag.clone());
        let mut draft = Draft::from_resource(gallery);
        draft.properties["sharingProfile"] = profile;
        match server.catalog.put(&call.permit, draft, unmoved).await {
            Err(CatalogError::Precondition { .. }) => {}
            Err(error) => return Err(errors::catalog(error)),
            Ok(_) => {
                let said = serde_json::to_value(&update)
                    .map_err(|error| errors::internal("showing a sharing update", &error))?;
                return Ok(Reply::ok(said));
            }
        }
    }
    Err(errors::conflict(
        "The resource is being changed by other requests at the same time. Retry the request.",
    ))
}

/// The profile after `update`.
fn changed(gallery: &Resource, update: &SharingUpdate) -> Result<Value, ArmError> {
    let properties = super::properties(gallery);
    let permissions = Permissions::of(&properties)?.unwrap_or(Permissions::Private);
    let mut profile = gallery.properties["sharingProfile"].clone();
    let fits = match update.operation_type {
        ShareOperation::Add | ShareOperation::Remove => permissions == Permissions::Groups,
        ShareOperation::EnableCommunity => permissions == Permissions::Community,
        ShareOperation::Reset => permissions != Permissions::Private,
    };
    if !fits {
        return Err(ArmError::new(
            ErrorCode::OperationNotAllowed,
            format!(
                "The operation '{:?}' is not allowed on the gallery '{}', whose sharing permissions are {}.",
                update.operation_type,
                gallery.id.name(),
                permissions.as_str()
            ),
        ));
    }
    match update.operation_type {
        ShareOperation::EnableCommunity => {
            profile["communityGalleryInfo"]["communityGalleryEnabled"] = true.into();
        }
        ShareOperation::Reset if permissions == Permissions::Community => {
            profile["communityGalleryInfo"]["communityGalleryEnabled"] = false.into();
        }
        ShareOperation::Reset => profile["groups"] = json!([]),
        ShareOperation::Add | ShareOperation::Remove => {
            profile["groups"] = groups(&profile["groups"], update)?;
        }
    }
    Ok(profile)
}

fn groups(old: &Value, update: &SharingUpdate) -> Result<Value, ArmError> {
    const PATH: &str = "groups";
    if update.groups.iter().all(|group| group.ids.is_empty()) {
        let message = "At least one subscription or tenant must be named.";
        return Err(errors::invalid(PATH, message));
    }
    let old: Vec<Group> = serde_json::from_value(old.clone()).unwrap_or_default();
    let mut all = Vec::new();
    for (kind, most) in [
        (GroupType::Subscriptions, SUBSCRIPTIONS_MAX),
        (GroupType::Tenants, TENANTS_MAX),
    ] {
        let ids = |groups: &[Group]| -> Vec<Uuid> {
            let of_kind = groups.iter().filter(|group| group.kind == kind);
            of_kind.flat_map(|group| group.ids.clone()).collect()
        };
        let named = ids(&update.groups);
        let mut kept = ids(&old);
        kept.retain(|id| !named.contains(id));
        if update.operation_type == ShareOperation::Add {
            kept.extend(named);
            kept.sort();
            kept.dedup();
        }
        if kept.len() > most {
            return Err(errors::invalid(
                PATH,
                format!(
                    "A gallery is shared with at most {SUBSCRIPTIONS_MAX} subscriptions and \
                     {TENANTS_MAX} tenants."
                ),
            ));
        }
        if !kept.is_empty() {
            all.push(Group { kind, ids: kept });
        }
    }
    serde_json::to_value(all).map_err(|error| errors::internal("keeping sharing groups", &error))
}
