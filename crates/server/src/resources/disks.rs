//! `Microsoft.Compute/disks` and `Microsoft.Compute/snapshots`: a disk's bits under a name, for images and versions.
//!
//! They are metadata over the image store: no machine runs on one. What a disk was made from never changes.

use std::sync::Arc;

use catalog::Resource;
use factory::deploy::{ACCESS, LUN, MANAGED_BY};
use http::StatusCode;
use serde_json::{Map, Value, json};
use uuid::Uuid;
use wire::{ArmError, ErrorCode, NameRule, ProvisioningState, ResourceId};

use super::bits::{self, Bits, Place, Source};
use super::{
    Reply, data_disks, delete, disk_access, find, list, need, power, present, properties,
    settle_location, store, submit_with, tracked,
};
use crate::body::{self, ResourceBody};
use crate::import::Origin;
use crate::operation::{Call, Link};
use crate::state::Server;
use crate::{errors, import};

pub const DISK: &str = "Microsoft.Compute/disks";
pub const SNAPSHOT: &str = "Microsoft.Compute/snapshots";
const OPTION: &str = "properties.creationData.createOption";
const SIZE: &str = "properties.diskSizeGB";
const GIB: u64 = 1 << 30;
/// Azure's largest disk that an image can be made of.
const SIZE_GIB_MAX: u64 = 2048;
const SOURCES: [Place; 3] = [
    (
        "/properties/creationData/sourceResourceId",
        "properties.creationData.sourceResourceId",
    ),
    (
        "/properties/creationData/galleryImageReference/id",
        "properties.creationData.galleryImageReference.id",
    ),
    (
        "/properties/creationData/imageReference/id",
        "properties.creationData.imageReference.id",
    ),
];
const URI: Place = (
    "/properties/creationData/sourceUri",
    "properties.creationData.sourceUri",
);
const ACCOUNT: &str = "/properties/creationData/storageAccountId";
const KEPT: [&str; 4] = ["creationData", "osType", "hyperVGeneration", "diskSizeGB"];
const READ_ONLY: [&str; 5] = [
    "bullion",
    "diskSizeBytes",
    "diskState",
    "uniqueId",
    "timeCreated",
];

/// How a disk begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CreateOption {
    Empty,
    Import,
    Copy,
    FromImage,
}

impl CreateOption {
    fn of(properties: &Map<String, Value>) -> Result<CreateOption, ArmError> {
        let known = [
            ("Empty", CreateOption::Empty),
            ("Import", CreateOption::Import),
            ("Copy", CreateOption::Copy),
            ("FromImage", CreateOption::FromImage),
        ];
        let text = properties
            .get("creationData")
            .and_then(|data| data.get("createOption"))
            .and_then(Value::as_str);
        let Some(text) = text else {
            let message = format!("Required parameter '{OPTION}' is missing (null).");
            return Err(errors::invalid(OPTION, message));
        };
        let found = known
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(text));
        found.map(|(_, option)| *option).ok_or_else(|| {
            errors::invalid(
                OPTION,
                "The create option must be one of Empty, Import, Copy, FromImage.",
            )
        })
    }
}

fn sources(body: &Value) -> Vec<Source> {
    let account = body.pointer(ACCOUNT).and_then(Value::as_str);
    bits::sources(body, &SOURCES, URI, account)
}

pub fn links(body: &Value) -> Vec<Link> {
    bits::links(sources(body))
}

pub async fn put(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    NameRule::ImageDefinition
        .check(call.id.name())
        .map_err(|error| errors::invalid("diskName", error.to_string()))?;
    let mut body = ResourceBody::parse(&call.body, &call.id)?;
    bits::hide_signatures(&mut body.properties);
    let old = find(&server, &call).await?;
    let location = settle_location(&call, &body, old.as_ref())?;
    server.need_region(&location, "location")?;
    let kept = old.as_ref().map(properties);
    body::keep(&mut body.properties, kept.as_ref(), &KEPT);
    body::read_only(&mut body.properties, kept.as_ref(), &READ_ONLY);
    let option = CreateOption::of(&body.properties)?;
    if let Some(old) = &old {
        check_fixed(&properties(old), &body.properties)?;
        let draft = tracked(body, &location, Some(old)).state(old.state);
        let put = store(&server, &call, Some(old), draft).await?;
        return Ok(Reply::ok(shown(&put.resource)));
    }
    let found = source(&server, &call, option, &body.properties).await?;
    begin(&mut body.properties);
    match found {
        Bits::Machine(machine) => Err(errors::invalid(
            "properties.creationData.sourceResourceId",
            format!("'{}' is no disk, snapshot or image.", machine.id),
        )),
        Bits::Of(source) => {
            copy(&mut body.properties, &source)?;
            let draft = tracked(body, &location, None);
            let put = store(&server, &call, None, draft).await?;
            Ok(Reply::ok(shown(&put.resource)))
        }
        Bits::From(origin) => {
            let facts = bits::facts_from(&body.properties, &[URI]);
            body.properties.insert("bullion".into(), facts);
            let draft = tracked(body, &location, None).state(ProvisioningState::Creating);
            let job = import::job(&call.id, origin.into());
            let (put, job) = submit_with(&server, &call, None, draft, job).await?;
            // Clients of disks know no 201.
            let reply = Reply::new(StatusCode::ACCEPTED, Some(shown(&put.resource)));
            server.polled(reply, &call, &call.id, job)
        }
    }
}

async fn source(
    server: &Server,
    call: &Call,
    option: CreateOption,
    properties: &Map<String, Value>,
) -> Result<Bits, ArmError> {
    let given = sources(&call.body);
    let (fits, what) = match option {
        CreateOption::Empty => (given.is_empty(), "no source"),
        CreateOption::Import => (
            matches!(given.as_slice(), [Source::Vhd { .. }]),
            "a sourceUri",
        ),
        CreateOption::Copy | CreateOption::FromImage => (
            matches!(given.as_slice(), [Source::Resource { .. }]),
            "the id of one resource",
        ),
    };
    let wrong = errors::invalid(
        "properties.creationData",
        format!("The create option '{option:?}' takes {what}."),
    );
    if !fits {
        return Err(wrong);
    }
    if option == CreateOption::Empty {
        return Ok(Bits::From(Origin::Zeros(size(properties)?)));
    }
    bits::find(server, call, given, wrong).await
}

/// Bytes of an empty disk.
fn size(properties: &Map<String, Value>) -> Result<u64, ArmError> {
    let asked = properties.get("diskSizeGB").and_then(Value::as_u64);
    match asked {
        Some(size) if (1..=SIZE_GIB_MAX).contains(&size) => Ok(size * GIB),
        _ => Err(errors::invalid(
            SIZE,
            format!("The size of an empty disk is 1 to {SIZE_GIB_MAX} GiB."),
        )),
    }
}

/// What a disk has from its first day.
fn begin(properties: &mut Map<String, Value>) {
    properties.insert("diskState".into(), "Unattached".into());
    properties.insert("uniqueId".into(), Uuid::new_v4().to_string().into());
    let now = jiff::Timestamp::now();
    let now = now.round(jiff::Unit::Second).unwrap_or(now);
    properties.insert("timeCreated".into(), now.to_string().into());
}

/// Bytes of a disk or snapshot, by its properties.
pub fn bytes_of(properties: &Value) -> u64 {
    let facts = properties["bullion"]["logicalBytes"].as_u64();
    let bytes = facts.or_else(|| properties["diskSizeBytes"].as_u64());
    bytes.unwrap_or_default()
}

/// The data disk of an image that a disk is made from, if it is one.
fn lun_of(properties: &Map<String, Value>) -> Result<Option<u32>, ArmError> {
    let data = properties.get("creationData");
    for key in ["galleryImageReference", "imageReference"] {
        let reference = data.and_then(|data| data.get(key));
        if let Some(reference) = reference.filter(|one| !one["lun"].is_null()) {
            let target = format!("properties.creationData.{key}");
            return data_disks::lun_of(reference, &target).map(Some);
        }
    }
    Ok(None)
}

fn copy(properties: &mut Map<String, Value>, source: &Resource) -> Result<(), ArmError> {
    let lun = lun_of(properties)?;
    let facts = bits::facts_of_disk(source, lun).ok_or_else(|| {
        let message = format!("'{}' has no data disk with this lun.", source.id);
        errors::invalid("properties.creationData", message)
    })?;
    let bytes = facts["logicalBytes"].as_u64();
    properties.insert("bullion".into(), facts);
    let of_version = source
        .properties
        .pointer("/storageProfile/osDiskImage/sizeInGB");
    let gib = bytes
        .map(|bytes| bytes.div_ceil(GIB))
        .or_else(|| of_version.and_then(Value::as_u64));
    if let Some(gib) = gib {
        properties.insert("diskSizeGB".into(), gib.into());
        properties.insert("diskSizeBytes".into(), bytes.unwrap_or(gib * GIB).into());
    }
    if lun.is_some() {
        return Ok(());
    }
    for key in ["osType", "hyperVGeneration"] {
        let known = properties.get(key).is_some_and(|value| !value.is_null());
        if let (false, Some(value)) = (known, source.properties.get(key)) {
            properties.insert(key.into(), value.clone());
        }
    }
    Ok(())
}

fn check_fixed(old: &Map<String, Value>, new: &Map<String, Value>) -> Result<(), ArmError> {
    let option = |properties: &Map<String, Value>| CreateOption::of(properties).ok();
    let named = |properties: &Map<String, Value>| sources(&json!({ "properties": properties }));
    let same = option(old) == option(new)
        && named(old) == named(new)
        && old.get("diskSizeGB") == new.get("diskSizeGB");
    if same {
        return Ok(());
    }
    Err(ArmError::new(
        ErrorCode::PropertyChangeNotAllowed,
        "Changing property 'creationData' or 'diskSizeGB' is not allowed.",
    )
    .with_target("properties.creationData"))
}

/// Where the bits of a disk are that a machine has.
pub fn of_machine(disk: &Resource) -> Option<Origin> {
    let facts = &disk.properties["bullion"];
    let machine = ResourceId::parse(facts[MANAGED_BY].as_str()?).ok()?;
    let lun = u32::try_from(facts[LUN].as_u64()?).ok()?;
    Some(Origin::MachineData { machine, lun })
}

/// Without who may read it by a URL, but with that somebody may.
fn shown(disk: &Resource) -> Value {
    let mut shown = present(disk);
    if let Some(facts) = shown["properties"]["bullion"].as_object_mut() {
        facts.remove(ACCESS);
    }
    let owner = disk.properties["bullion"].get(MANAGED_BY);
    if let Some(owner) = owner {
        shown["managedBy"] = owner.clone();
    }
    if disk_access::is_open(disk) {
        shown["properties"]["diskState"] = "ActiveSAS".into();
    }
    shown
}

pub async fn get(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    Ok(Reply::ok(shown(&need(&server, &call).await?)))
}

pub async fn remove(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    if let Some(disk) = find(&server, &call).await? {
        disk_access::need_closed(&disk, "deleting the disk")?;
        if let Some(owner) = disk.properties["bullion"][MANAGED_BY].as_str() {
            let name = disk.id.name();
            let message = format!("Disk {name} is attached to VM {owner}.");
            return Err(power::not_allowed(message));
        }
    }
    delete(&server, &call).await
}

pub async fn all_disks(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    list(&server, &call, DISK, |disk| Some(shown(disk))).await
}

pub async fn all_snapshots(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    list(&server, &call, SNAPSHOT, |disk| Some(shown(disk))).await
}
