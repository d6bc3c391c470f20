//! `Microsoft.Compute/images`: managed images, each an OS disk and maybe data disks, of which gallery versions and machines'
//! templates are made.
//!
//! What an image is made from and what it is never change; its tags do.

use std::sync::Arc;

use catalog::Resource;
use serde_json::{Map, Value, json};
use wire::{ArmError, ErrorCode, Location, NameRule, ProvisioningState};

use super::bits::{self, Bits, Place, Source};
use super::{
    Reply, data_disks, delete, find, list, power, present, properties, put_reply, settle_location,
    show, store, submit_with, tracked,
};
use crate::body::{self, ResourceBody};
use crate::import::Origins;
use crate::operation::{Call, Link};
use crate::state::Server;
use crate::{errors, import};

pub const KIND: &str = "Microsoft.Compute/images";
const OS_DISK: &str = "properties.storageProfile.osDisk";
const SOURCES: [Place; 3] = [
    (
        "/properties/sourceVirtualMachine/id",
        "properties.sourceVirtualMachine.id",
    ),
    (
        "/properties/storageProfile/osDisk/snapshot/id",
        "properties.storageProfile.osDisk.snapshot.id",
    ),
    (
        "/properties/storageProfile/osDisk/managedDisk/id",
        "properties.storageProfile.osDisk.managedDisk.id",
    ),
];
const URI: Place = (
    "/properties/storageProfile/osDisk/blobUri",
    "properties.storageProfile.osDisk.blobUri",
);
const KEPT: [&str; 3] = ["storageProfile", "sourceVirtualMachine", "hyperVGeneration"];

fn sources(body: &Value) -> Vec<Source> {
    bits::sources(body, &SOURCES, URI, None)
}

pub fn links(body: &Value) -> Vec<Link> {
    let mut sources = sources(body);
    sources.extend(data_disks::sources(&data_disks::OF_IMAGE, body));
    bits::links(sources)
}

pub async fn put(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    NameRule::ImageDefinition
        .check(call.id.name())
        .map_err(|error| errors::invalid("imageName", error.to_string()))?;
    let mut body = ResourceBody::parse(&call.body, &call.id)?;
    bits::hide_signatures(&mut body.properties);
    let old = find(&server, &call).await?;
    let location = settle_location(&call, &body, old.as_ref())?;
    server.need_region(&location, "location")?;
    let kept = old.as_ref().map(properties);
    body::read_only(&mut body.properties, kept.as_ref(), &["bullion"]);
    body::keep(&mut body.properties, kept.as_ref(), &KEPT);
    if let Some(old) = &old {
        check_fixed(&properties(old), &body.properties)?;
        body.properties = properties(old);
        let draft = tracked(body, &location, Some(old)).state(old.state);
        return Ok(put_reply(&store(&server, &call, Some(old), draft).await?));
    }
    let missing = errors::invalid(
        OS_DISK,
        "An image needs exactly one source: a virtual machine, or the OS disk's snapshot, managedDisk or \
         blobUri.",
    );
    let asked = data_disks::asked(&data_disks::OF_IMAGE, &call.body)?;
    let of_body = sources(&call.body);
    data_disks::need_other_than(&data_disks::OF_IMAGE, &asked, &of_body)?;
    let found = bits::find(&server, &call, of_body, missing).await;
    if let Ok(Bits::Machine(machine)) = &found {
        take_machine(&mut body.properties, machine, &location)?;
        power::need_off(&server, machine, "Create Image").await?;
    }
    settle(&mut body.properties)?;
    let facts = match &found {
        Ok(Bits::Machine(machine)) => bits::facts_of_machine(machine),
        Ok(Bits::Of(source)) => bits::facts_of(source),
        _ => bits::facts_from(&body.properties, &[URI]),
    };
    body.properties.insert("bullion".into(), facts);
    let mut origins = match found? {
        Bits::Of(_) => Origins::default(),
        Bits::From(origin) => origin.into(),
        Bits::Machine(machine) => bits::origins_of_machine(&machine),
    };
    data_disks::find(
        &server,
        &call,
        &data_disks::OF_IMAGE,
        asked,
        &mut body.properties,
        &mut origins,
    )
    .await?;
    if origins.is_empty() {
        let draft = tracked(body, &location, None);
        return Ok(put_reply(&store(&server, &call, None, draft).await?));
    }
    let draft = tracked(body, &location, None).state(ProvisioningState::Creating);
    let job = import::job(&call.id, origins);
    let (put, job) = submit_with(&server, &call, None, draft, job).await?;
    server.polled(put_reply(&put), &call, &call.id, job)
}

/// What an image says of the system of the machine that it is made from.
fn take_machine(
    properties: &mut Map<String, Value>,
    machine: &Resource,
    location: &str,
) -> Result<(), ArmError> {
    let name = machine.id.name();
    if !power::is_generalized(machine) {
        return Err(power::not_allowed(format!(
            "The operation 'Create Image' requires the Virtual Machine '{name}' to be Generalized."
        )));
    }
    let home = machine.location.clone().unwrap_or_default();
    if Location::new(home.as_str()) != Location::new(location) {
        let message = format!(
            "The virtual machine '{name}' is in the location '{home}', and so must be its image."
        );
        return Err(errors::invalid("location", message));
    }
    let generation = bits::generation_of(machine);
    properties.insert("hyperVGeneration".into(), generation.into());
    let profile = properties
        .entry("storageProfile")
        .or_insert_with(|| json!({}));
    let disk = &mut profile["osDisk"];
    disk["osType"] = "Linux".into();
    disk["osState"] = "Generalized".into();
    if disk["caching"].is_null() {
        disk["caching"] = "ReadWrite".into();
    }
    data_disks::inherit(&data_disks::OF_IMAGE, properties, machine)
}

/// Defaults written down, and what an image must say about its system.
fn settle(properties: &mut Map<String, Value>) -> Result<(), ArmError> {
    if properties
        .get("hyperVGeneration")
        .is_none_or(Value::is_null)
    {
        properties.insert("hyperVGeneration".into(), "V1".into());
    }
    one_of(
        properties.get("hyperVGeneration"),
        "properties.hyperVGeneration",
        &["V1", "V2"],
    )?;
    let profile = properties
        .entry("storageProfile")
        .or_insert_with(|| json!({}));
    let disk = profile.get("osDisk").filter(|disk| disk.is_object());
    let Some(disk) = disk else {
        let message = format!("Required parameter '{OS_DISK}' is missing (null).");
        return Err(errors::invalid(OS_DISK, message));
    };
    one_of(
        disk.get("osType"),
        "properties.storageProfile.osDisk.osType",
        &["Linux", "Windows"],
    )?;
    one_of(
        disk.get("osState"),
        "properties.storageProfile.osDisk.osState",
        &["Generalized", "Specialized"],
    )
}

fn one_of(value: Option<&Value>, target: &str, known: &[&str]) -> Result<(), ArmError> {
    let text = value.and_then(Value::as_str);
    let fit = text.is_some_and(|text| known.iter().any(|one| one.eq_ignore_ascii_case(text)));
    if fit {
        return Ok(());
    }
    let message = match value.filter(|value| !value.is_null()) {
        None => format!("Required parameter '{target}' is missing (null)."),
        Some(_) => format!(
            "The value of parameter '{target}' must be one of {}.",
            known.join(", ")
        ),
    };
    Err(errors::invalid(target, message))
}

/// Clients send back what they read, which changes nothing.
fn check_fixed(old: &Map<String, Value>, new: &Map<String, Value>) -> Result<(), ArmError> {
    let of = |properties: &Map<String, Value>| {
        let body = json!({ "properties": properties });
        let disk = |key: &str| {
            body.pointer(&format!("/properties/storageProfile/osDisk/{key}"))
                .cloned()
        };
        (
            sources(&body),
            ["osType", "osState"].map(disk),
            body["properties"]["hyperVGeneration"].clone(),
        )
    };
    if of(old) == of(new) {
        return data_disks::check_fixed(&data_disks::OF_IMAGE, old, new);
    }
    Err(ArmError::new(
        ErrorCode::PropertyChangeNotAllowed,
        "Changing property 'image.properties.storageProfile' is not allowed.",
    )
    .with_target("image.properties.storageProfile"))
}

pub async fn get(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    show(&server, &call).await
}

pub async fn remove(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    delete(&server, &call).await
}

pub async fn all(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    list(&server, &call, KIND, |image| Some(present(image))).await
}
