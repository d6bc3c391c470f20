//! `Microsoft.Compute/galleries/images/versions`.
//!
//! The factory publishes versions; a client's PUT changes where one is replicated, or makes a new one from
//! another version, with the same disk. What a version's disk is never changes.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use wire::compute::ImageVersionProperties;
use wire::{ArmError, ErrorCode, ResourceId, VersionNumber};

use super::bits::{self, Place, Source};
use super::version_rules::{moment, settle_profile};
use super::{
    Reply, data_disks, delete, find, list, need, present, properties, settle_location, soft_delete,
    store, version_keys,
};
use crate::body::{self, ResourceBody};
use crate::errors;
use crate::limits;
use crate::operation::{Call, Link};
use crate::state::Server;

pub const KIND: &str = "Microsoft.Compute/galleries/images/versions";
pub const READ: &str = "Microsoft.Compute/galleries/images/versions/read";
/// What clients leave out of an update, or send empty.
const KEPT: [&str; 2] = ["safetyProfile", "securityProfile"];
const READ_ONLY: [&str; 3] = ["bullion", "replicationStatus", "validationsProfile"];

const SOURCES: [Place; 5] = [
    (
        "/properties/storageProfile/source/id",
        "properties.storageProfile.source.id",
    ),
    (
        "/properties/storageProfile/source/communityGalleryImageId",
        "properties.storageProfile.source.communityGalleryImageId",
    ),
    (
        "/properties/storageProfile/source/virtualMachineId",
        "properties.storageProfile.source.virtualMachineId",
    ),
    (
        "/properties/storageProfile/osDiskImage/source/id",
        "properties.storageProfile.osDiskImage.source.id",
    ),
    (
        "/properties/publishingProfile/source/managedImage/id",
        "properties.publishingProfile.source.managedImage.id",
    ),
];
pub const URI: Place = (
    "/properties/storageProfile/osDiskImage/source/uri",
    "properties.storageProfile.osDiskImage.source.uri",
);
const ACCOUNT: &str = "/properties/storageProfile/osDiskImage/source/storageAccountId";

/// The sources of a version, wherever the api-version keeps them.
pub fn sources(body: &Value) -> Vec<Source> {
    let resource = |(id, target)| Source::named(id, target);
    let account = body.pointer(ACCOUNT).and_then(Value::as_str);
    let vhd = |(uri, target)| Source::Vhd {
        uri,
        account: account.map(str::to_string),
        target,
    };
    let resources = bits::given(body, &SOURCES).into_iter().map(resource);
    let vhds = bits::given(body, &[URI]).into_iter().map(vhd);
    resources.chain(vhds).collect()
}

/// A PUT from something else needs the right to use that, in its own tenant.
pub fn links(body: &Value) -> Vec<Link> {
    let mut sources = sources(body);
    sources.extend(data_disks::sources(&data_disks::OF_VERSION, body));
    // Those of sources are looked up by their places, so they come first.
    let mut links = bits::links(sources);
    links.extend(version_keys::links(body));
    links
}

pub async fn put(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    call.id.name().parse::<VersionNumber>().map_err(|_| {
        errors::invalid(
            "galleryImageVersionName",
            "The image version name is invalid. The image version name should follow \
             Major(int).Minor(int).Patch(int) format, for e.g: 1.0.0, 2018.12.1 etc",
        )
    })?;
    let mut body = ResourceBody::parse(&call.body, &call.id)?;
    bits::hide_signatures(&mut body.properties);
    let old = find(&server, &call).await?;
    let location = settle_location(&call, &body, old.as_ref())?;
    let kept = old.as_ref().map(properties);
    body::read_only(&mut body.properties, kept.as_ref(), &READ_ONLY);
    body.properties.remove("restore");
    body::typed::<ImageVersionProperties>(&body.properties)?;
    if let Some(old) = old.as_ref().filter(|old| soft_delete::is_deleted(old)) {
        let draft = soft_delete::restored(old, &call.body)?;
        let put = store(&server, &call, Some(old), draft).await?;
        return Ok(Reply::ok(shown(&put.resource)));
    }
    move_old_source(&mut body.properties);
    check_source(kept.as_ref(), &body.properties)?;
    body::keep(&mut body.properties, kept.as_ref(), &KEPT);
    if let Some(kept) = &kept {
        // Checked to be the same; clients send less of it than was stored.
        body::read_only(&mut body.properties, Some(kept), &["storageProfile"]);
    } else {
        soft_delete::need_gallery_location(&server, &call, &location).await?;
        limits::need_room(&server, &call, KIND, &location).await?;
    }
    settle_profile(
        &server,
        &call,
        &location,
        kept.as_ref(),
        &mut body.properties,
    )?;
    if let Some(Value::Object(profile)) = body.properties.get_mut("publishingProfile") {
        let old = kept.as_ref().and_then(|kept| kept.get("publishingProfile"));
        version_keys::settle(&server, &call, old, profile).await?;
    }
    match old {
        Some(old) => crate::publish::update(&server, &call, &old, body, &location).await,
        None => crate::publish::create(&server, &call, body, &location).await,
    }
}

/// api-version 2019-03-01 has the source in the publishing profile.
fn move_old_source(properties: &mut Map<String, Value>) {
    let Some(profile) = properties
        .get_mut("publishingProfile")
        .and_then(Value::as_object_mut)
    else {
        return;
    };
    let Some(source) = profile.remove("source") else {
        return;
    };
    if let Some(id) = source.pointer("/managedImage/id") {
        properties.insert("storageProfile".into(), json!({"source": {"id": id}}));
    }
}

/// The source may be repeated, and left out, but not changed.
fn check_source(
    old: Option<&Map<String, Value>>,
    new: &Map<String, Value>,
) -> Result<(), ArmError> {
    let Some(old) = old else {
        return Ok(());
    };
    let of = |properties: &Map<String, Value>| {
        let mut sources = sources(&json!({ "properties": properties }));
        (sources.pop(), sources.len())
    };
    let id = |text: &String| ResourceId::parse(text).ok();
    let same = match (of(old), of(new)) {
        (_, (None, _)) => true,
        (
            (Some(Source::Resource { id: old, .. }), 0),
            (Some(Source::Resource { id: new, .. }), 0),
        ) => id(&old) == id(&new),
        ((Some(Source::Open { name: old, .. }), 0), (Some(Source::Open { name: new, .. }), 0)) => {
            old.eq_ignore_ascii_case(&new)
        }
        ((Some(Source::Vhd { uri: old, .. }), 0), (Some(Source::Vhd { uri: new, .. }), 0)) => {
            old == new
        }
        _ => false,
    };
    if same {
        return data_disks::check_fixed(&data_disks::OF_VERSION, old, new);
    }
    Err(ArmError::new(
        ErrorCode::PropertyChangeNotAllowed,
        "Changing property 'galleryImageVersion.properties.storageProfile.source.id' is not allowed.",
    )
    .with_target("galleryImageVersion.properties.storageProfile.source.id"))
}

pub async fn get(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let version = need(&server, &call).await?;
    if soft_delete::is_deleted(&version) {
        return Err(errors::not_found(&call.id));
    }
    let mut shown = shown(&version);
    if call.query.expands("ReplicationStatus") {
        shown["properties"]["replicationStatus"] = server.work.replication_status(&version);
    }
    Ok(Reply::ok(shown))
}

/// Without the replication's own bookkeeping, which `$expand` shows in Azure's shape.
pub fn shown(version: &catalog::Resource) -> Value {
    let mut shown = present(version);
    if let Some(facts) = shown["properties"]
        .get_mut("bullion")
        .and_then(Value::as_object_mut)
    {
        facts.remove("replication");
    }
    shown
}

pub async fn remove(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let version = find(&server, &call).await?;
    let Some(version) = version.filter(|version| !soft_delete::is_deleted(version)) else {
        return Ok(Reply::no_content());
    };
    need_end_of_life(&call, &version)?;
    match soft_delete::delete(&server, &call, &version).await? {
        Some(reply) => Ok(reply),
        None => delete(&server, &call).await,
    }
}

/// The safety profile may keep a version from being deleted before its day.
fn need_end_of_life(call: &Call, version: &catalog::Resource) -> Result<(), ArmError> {
    let of = &version.properties;
    let blocks = of.pointer("/safetyProfile/blockDeletionBeforeEndOfLife");
    let ends = of
        .pointer("/publishingProfile/endOfLifeDate")
        .and_then(Value::as_str)
        .and_then(moment);
    if blocks != Some(&Value::Bool(true)) || ends.is_none_or(|ends| ends <= Timestamp::now()) {
        return Ok(());
    }
    Err(ArmError::new(
        ErrorCode::DeleteGalleryImageVersionBlockedBeforeEndOfLife,
        format!(
            "The image version '{}' cannot be deleted before its end of life date, since \
             'safetyProfile.blockDeletionBeforeEndOfLife' is true.",
            call.id.name()
        ),
    ))
}

pub async fn all(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let live = |version: &catalog::Resource| !soft_delete::is_deleted(version);
    list(&server, &call, KIND, |version| {
        live(version).then(|| shown(version))
    })
    .await
}
