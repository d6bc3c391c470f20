//! `Microsoft.Compute/galleries/images/versions`.
//!
//! The factory publishes versions; a client's PUT changes where one is replicated, or makes a new one from
//! another version, with the same disk. What a version's disk is never changes.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use wire::compute::{ImageVersionProperties, PublishingProfile};
use wire::{ArmError, ErrorCode, Location, ResourceId, VersionNumber};

use super::bits::{self, Place, Source};
use super::{Reply, delete, find, list, need, present, properties, settle_location};
use crate::body::{self, ResourceBody};
use crate::errors;
use crate::operation::{Call, Link};
use crate::state::Server;

pub const KIND: &str = "Microsoft.Compute/galleries/images/versions";
pub const READ: &str = "Microsoft.Compute/galleries/images/versions/read";
const REPLICAS_MAX: i32 = 100;
const REGIONS_MAX: usize = 100;
/// What clients leave out of an update, or send empty.
const KEPT: [&str; 2] = ["storageProfile", "safetyProfile"];
const READ_ONLY: [&str; 3] = ["bullion", "replicationStatus", "validationsProfile"];
const FIXED_PROFILE: [&str; 3] = [
    "storageAccountType",
    "storageAccountStrategy",
    "replicationMode",
];

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
    let resource = |(id, target)| Source::Resource { id, target };
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
    bits::links(sources(body))
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
    body::typed::<ImageVersionProperties>(&body.properties)?;
    let old = find(&server, &call).await?;
    let location = settle_location(&call, &body, old.as_ref())?;
    let kept = old.as_ref().map(properties);
    move_old_source(&mut body.properties);
    check_source(kept.as_ref(), &body.properties)?;
    body::keep(&mut body.properties, kept.as_ref(), &KEPT);
    body::read_only(&mut body.properties, kept.as_ref(), &READ_ONLY);
    settle_profile(
        &server,
        &call,
        &location,
        kept.as_ref(),
        &mut body.properties,
    )?;
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
        ((Some(Source::Vhd { uri: old, .. }), 0), (Some(Source::Vhd { uri: new, .. }), 0)) => {
            old == new
        }
        _ => false,
    };
    if same {
        return Ok(());
    }
    Err(ArmError::new(
        ErrorCode::PropertyChangeNotAllowed,
        "Changing property 'galleryImageVersion.properties.storageProfile.source.id' is not allowed.",
    )
    .with_target("galleryImageVersion.properties.storageProfile.source.id"))
}

/// Target regions, replica counts, dates: defaults written down, rules held.
fn settle_profile(
    server: &Server,
    call: &Call,
    location: &str,
    old: Option<&Map<String, Value>>,
    properties: &mut Map<String, Value>,
) -> Result<(), ArmError> {
    let old = old.and_then(|old| old.get("publishingProfile"));
    let old = old.and_then(Value::as_object);
    let mut profile = match properties.remove("publishingProfile") {
        Some(Value::Object(profile)) => profile,
        _ => old.cloned().unwrap_or_default(),
    };
    body::keep(&mut profile, old, &["targetRegions"]);
    body::keep(&mut profile, old, &FIXED_PROFILE);
    body::read_only(&mut profile, old, &["publishedDate"]);
    if let Some(old) = old {
        for key in FIXED_PROFILE {
            let path = format!("properties.publishingProfile.{key}");
            super::unchanged("galleryImageVersion", &path, old.get(key), profile.get(key))?;
        }
    }
    let regions = profile.get("targetRegions").and_then(Value::as_array);
    if regions.is_none_or(Vec::is_empty) {
        profile.insert("targetRegions".into(), json!([{ "name": location }]));
    }
    let typed: PublishingProfile = body::typed(&profile)?;
    check_regions(server, call, location, &typed)?;
    check_end_of_life(old, &typed)?;
    fill_counts(&mut profile, &typed);
    properties.insert("publishingProfile".into(), Value::Object(profile));
    Ok(())
}

fn fill_counts(profile: &mut Map<String, Value>, typed: &PublishingProfile) {
    let default = typed.replica_count.unwrap_or(1);
    profile.insert("replicaCount".into(), default.into());
    let storage = typed
        .storage_account_type
        .as_deref()
        .unwrap_or("Standard_LRS");
    profile.insert("storageAccountType".into(), storage.into());
    profile.insert("excludeFromLatest".into(), typed.exclude_from_latest.into());
    if let Some(Value::Array(regions)) = profile.get_mut("targetRegions") {
        for region in regions {
            if region
                .get("regionalReplicaCount")
                .is_none_or(Value::is_null)
            {
                region["regionalReplicaCount"] = default.into();
            }
            if region.get("storageAccountType").is_none_or(Value::is_null) {
                region["storageAccountType"] = storage.into();
            }
        }
    }
}

fn check_regions(
    server: &Server,
    call: &Call,
    location: &str,
    profile: &PublishingProfile,
) -> Result<(), ArmError> {
    const PATH: &str = "properties.publishingProfile.targetRegions";
    let regions = &profile.target_regions;
    if regions.len() > REGIONS_MAX {
        let message = format!("A version has at most {REGIONS_MAX} target regions.");
        return Err(errors::invalid(PATH, message));
    }
    for (index, region) in regions.iter().enumerate() {
        if regions[..index]
            .iter()
            .any(|other| other.name == region.name)
        {
            return Err(errors::invalid(
                PATH,
                "Duplicate regions are not allowed in target publishing regions.",
            ));
        }
        server.need_region(region.name.as_str(), PATH)?;
        let count = region.regional_replica_count.or(profile.replica_count);
        if count.is_some_and(|count| !(1..=REPLICAS_MAX).contains(&count)) {
            return Err(errors::invalid(
                PATH,
                format!(
                    "The value {} of parameter regionalReplicaCount is out of range. The value must \
                     be between 1 and {REPLICAS_MAX}, inclusive.",
                    count.unwrap_or_default()
                ),
            ));
        }
    }
    if !regions
        .iter()
        .any(|region| region.name == Location::new(location))
    {
        let names: Vec<&str> = regions.iter().map(|region| region.name.as_str()).collect();
        return Err(errors::invalid(
            PATH,
            format!(
                "Gallery image version publishing profile regions '{}' must contain the location of \
                 image version '{location}'.",
                names.join(", ")
            ),
        ));
    }
    let mode = profile.replication_mode.as_deref().unwrap_or("Full");
    if !["Full", "Shallow"]
        .iter()
        .any(|known| known.eq_ignore_ascii_case(mode))
    {
        let message = format!("The replication mode '{mode}' is not one of Full, Shallow.");
        return Err(errors::invalid(
            "properties.publishingProfile.replicationMode",
            message,
        ));
    }
    if mode.eq_ignore_ascii_case("Shallow") && regions.len() > 1 {
        let message = format!(
            "The image version '{}' with replication mode Shallow is kept in its source region only.",
            call.id.name()
        );
        return Err(errors::invalid(PATH, message));
    }
    Ok(())
}

/// A date that is set or moved must lie ahead; one that has passed may stay.
fn check_end_of_life(
    old: Option<&Map<String, Value>>,
    profile: &PublishingProfile,
) -> Result<(), ArmError> {
    const PATH: &str = "properties.publishingProfile.endOfLifeDate";
    let Some(date) = &profile.end_of_life_date else {
        return Ok(());
    };
    let kept = old.and_then(|old| old.get("endOfLifeDate"));
    if kept.and_then(Value::as_str) == Some(date) {
        return Ok(());
    }
    let Some(moment) = moment(date) else {
        return Err(errors::invalid(PATH, format!("'{date}' is not a date.")));
    };
    if moment <= Timestamp::now() {
        return Err(errors::invalid(
            PATH,
            "EndOfLifeDate must be set to a future date.",
        ));
    }
    Ok(())
}

/// Clients write whole dates, and times with and without a zone.
fn moment(text: &str) -> Option<Timestamp> {
    text.parse().ok().or_else(|| {
        let time: jiff::civil::DateTime = text.parse().ok()?;
        Some(time.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp())
    })
}

pub async fn get(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let version = need(&server, &call).await?;
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
    if let Some(version) = find(&server, &call).await? {
        let properties = Value::Object(properties(&version));
        let blocks = properties.pointer("/safetyProfile/blockDeletionBeforeEndOfLife");
        let ends = properties
            .pointer("/publishingProfile/endOfLifeDate")
            .and_then(Value::as_str)
            .and_then(moment);
        if blocks == Some(&Value::Bool(true)) && ends.is_some_and(|ends| ends > Timestamp::now()) {
            return Err(errors::conflict(format!(
                "DeleteGalleryImageVersionBlockedBeforeEndOfLife: the image version '{}' may not be \
                 deleted before its end-of-life date.",
                call.id.name()
            )));
        }
    }
    delete(&server, &call).await
}

pub async fn all(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    list(&server, &call, KIND, |version| Some(shown(version))).await
}
