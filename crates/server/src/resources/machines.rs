//! `Microsoft.Compute/virtualMachines` and what a machine really runs (`machineImages/default`).
//!
//! PUT keeps the body and submits the job that deploys; the image and the size are fixed from then on.

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Map, Value, json};
use wire::compute::VirtualMachineProperties;
use wire::{ArmError, ErrorCode, NameRule, ProvisioningState, ResourceId};

use super::{
    Reply, bits, find, list, machine_disks, need, present, properties, put_reply, put_reply_of,
    settle_location, store, submit_with, tracked, unchanged, versions,
};
use crate::body::{self, ResourceBody};
use crate::errors;
use crate::managed;
use crate::operation::{Call, Link};
use crate::state::Server;

pub const KIND: &str = "Microsoft.Compute/virtualMachines";
const IMAGE: &str = "properties.storageProfile.imageReference";
const SHARED_ID: &str = "sharedGalleryImageId";
const COMMUNITY_ID: &str = "communityGalleryImageId";
const KEPT: [&str; 4] = [
    "storageProfile",
    "hardwareProfile",
    "osProfile",
    "networkProfile",
];
const READ_ONLY: [&str; 3] = ["vmId", "timeCreated", "instanceView"];

pub fn links(body: &Value) -> Vec<Link> {
    let id = body.pointer("/properties/storageProfile/imageReference/id");
    id.and_then(Value::as_str)
        .map(|id| Link {
            scope: id.to_string(),
            action: versions::READ,
            target: "properties.storageProfile.imageReference.id",
        })
        .into_iter()
        .chain(managed::links(body))
        .chain(machine_disks::links(body))
        .collect()
}

pub async fn put(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    NameRule::VirtualMachine
        .check(call.id.name())
        .map_err(|error| errors::invalid("vmName", error.to_string()))?;
    let mut body = ResourceBody::parse(&call.body, &call.id)?;
    body::typed::<VirtualMachineProperties>(&body.properties)?;
    let old = find(&server, &call).await?;
    let location = settle_location(&call, &body, old.as_ref())?;
    server.need_region(&location, "location")?;
    let kept = old.as_ref().map(properties);
    body::keep(&mut body.properties, kept.as_ref(), &KEPT);
    body::read_only(&mut body.properties, kept.as_ref(), &READ_ONLY);
    keep_facts(&mut body.properties, kept.as_ref());
    settle_image(&mut body.properties, kept.as_ref())?;
    check_profile(&body.properties)?;
    let identity = managed::settle(&server, &call, body.identity.as_ref(), old.as_ref()).await?;
    body.identity = None;
    match &old {
        None => {
            need_image(&server, &call).await?;
            machine_disks::settle(&call.id, &mut body.properties)?;
            let draft = identity.on(tracked(body, &location, None));
            deploy(&server, &call, None, draft).await
        }
        Some(machine) => {
            check_fixed(&properties(machine), &body.properties)?;
            let change = match machine.state {
                ProvisioningState::Succeeded => {
                    machine_disks::change(machine, &mut body.properties)?
                }
                _ => None,
            };
            if machine.state != ProvisioningState::Succeeded {
                machine_disks::settle(&call.id, &mut body.properties)?;
            }
            let draft = tracked(body, &location, Some(machine)).state(machine.state);
            let draft = identity.on(draft);
            match machine.state {
                ProvisioningState::Failed | ProvisioningState::Canceled => {
                    deploy(&server, &call, Some(machine), draft).await
                }
                ProvisioningState::Succeeded => match change {
                    None => {
                        let put = store(&server, &call, Some(machine), draft).await?;
                        Ok(put_reply(&put))
                    }
                    Some(change) => {
                        machine_disks::need_off(&server, machine).await?;
                        let job = server.work.change_disks(change);
                        submit_change(&server, &call, machine, draft, job).await
                    }
                },
                _ => Err(errors::conflict(format!(
                    "The virtual machine '{}' is being worked on ({}). Retry when that has ended.",
                    call.id.name(),
                    machine.state.as_str()
                ))),
            }
        }
    }
}

async fn deploy(
    server: &Arc<Server>,
    call: &Call,
    old: Option<&catalog::Resource>,
    draft: catalog::Draft,
) -> Result<Reply, ArmError> {
    let state = match old {
        None => ProvisioningState::Creating,
        Some(_) => ProvisioningState::Updating,
    };
    let mut job = server.work.deploy(&call.id);
    job.exclusive = Some(exclusive(&call.id));
    submit_put(server, call, old, draft.state(state), job).await
}

/// A machine that is there and changes by a job.
async fn submit_change(
    server: &Arc<Server>,
    call: &Call,
    old: &catalog::Resource,
    draft: catalog::Draft,
    mut job: catalog::NewJob,
) -> Result<Reply, ArmError> {
    job.exclusive = Some(exclusive(&call.id));
    let draft = draft.state(ProvisioningState::Updating);
    submit_put(server, call, Some(old), draft, job).await
}

async fn submit_put(
    server: &Arc<Server>,
    call: &Call,
    old: Option<&catalog::Resource>,
    draft: catalog::Draft,
    job: catalog::NewJob,
) -> Result<Reply, ArmError> {
    let (put, job) = submit_with(server, call, old, draft, job).await?;
    let reply = put_reply_of(put.created, present(&put.resource));
    server.polled(reply, call, &call.id, job)
}

pub fn exclusive(machine: &ResourceId) -> String {
    format!("machine {}", machine.folded())
}

/// `properties.bullion` is the server's but for the firmware, which is the client's to choose once.
fn keep_facts(new: &mut Map<String, Value>, old: Option<&Map<String, Value>>) {
    let asked = new
        .get("bullion")
        .and_then(|facts| facts.get("firmware"))
        .cloned();
    body::read_only(new, old, &["bullion"]);
    if let (None, Some(firmware)) = (old, asked) {
        new.insert("bullion".into(), json!({ "firmware": firmware }));
    }
}

/// `exactVersion` is ours; an update that leaves it out or sends it back changes nothing. So does one without the image:
/// `az vm disk attach` and `az vm update` take it out of what they read, so as not to need rights on it.
fn settle_image(
    new: &mut Map<String, Value>,
    old: Option<&Map<String, Value>>,
) -> Result<(), ArmError> {
    let place = ["storageProfile", "imageReference"];
    let kept = old.and_then(|old| old.get(place[0])?.get(place[1]));
    let profile = new.get_mut(place[0]).and_then(Value::as_object_mut);
    let reference = profile.and_then(|profile| {
        let reference = profile.entry(place[1]).or_insert(Value::Null);
        if let (true, Some(kept)) = (reference.is_null(), kept) {
            *reference = kept.clone();
        }
        reference.as_object_mut()
    });
    let Some(reference) = reference else {
        let message = format!("Required parameter '{IMAGE}' is missing (null).");
        return Err(errors::invalid(IMAGE, message));
    };
    match kept.and_then(|kept| kept.get("exactVersion")) {
        Some(kept) => reference.insert("exactVersion".into(), kept.clone()),
        None => reference.remove("exactVersion"),
    };
    Ok(())
}

fn check_profile(properties: &Map<String, Value>) -> Result<(), ArmError> {
    let reference = &properties["storageProfile"]["imageReference"];
    let given = |key: &str| reference.get(key).is_some_and(|value| !value.is_null());
    let names = ["id", SHARED_ID, COMMUNITY_ID];
    if names.iter().filter(|key| given(key)).count() != 1 {
        return Err(errors::invalid(
            IMAGE,
            "Machines are made from gallery images: 'imageReference' must have exactly one of 'id' (of an \
             image definition or of one of its versions), 'sharedGalleryImageId' and \
             'communityGalleryImageId'.",
        ));
    }
    if given("version") {
        return Err(errors::invalid(
            IMAGE,
            "The property 'imageReference.id' cannot be used together with property \
             'imageReference.version'.",
        ));
    }
    if properties.get("osProfile").is_none_or(Value::is_null) {
        return Err(errors::invalid(
            "osProfile",
            "Required parameter 'osProfile' is missing (null).",
        ));
    }
    let user = properties["osProfile"]
        .get("adminUsername")
        .and_then(Value::as_str);
    let fit = |user: &str| {
        let mut bytes = user.bytes();
        bytes
            .next()
            .is_some_and(|first| first.is_ascii_lowercase() || first == b'_')
            && user.len() <= 32
            && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b))
            && user != "root"
    };
    if !user.is_some_and(fit) {
        return Err(errors::invalid(
            "osProfile.adminUsername",
            "The admin user name must be 1 to 32 lower-case letters, digits, '-' and '_', begin with a \
             letter or '_', and not be 'root'.",
        ));
    }
    let firmware = properties
        .get("bullion")
        .and_then(|facts| facts.get("firmware"));
    let known = |value: &Value| matches!(value.as_str(), Some("Bios" | "Uefi" | "bios" | "uefi"));
    if firmware.is_some_and(|value| !known(value)) {
        return Err(errors::invalid(
            "bullion.firmware",
            "The firmware must be 'Bios' or 'Uefi'.",
        ));
    }
    Ok(())
}

fn check_fixed(old: &Map<String, Value>, new: &Map<String, Value>) -> Result<(), ArmError> {
    let at = |of: &Map<String, Value>, path: &str| Value::Object(of.clone()).pointer(path).cloned();
    for (path, shown) in [
        ("/storageProfile/imageReference/id", "imageReference"),
        (
            "/storageProfile/imageReference/sharedGalleryImageId",
            "imageReference",
        ),
        (
            "/storageProfile/imageReference/communityGalleryImageId",
            "imageReference",
        ),
        ("/hardwareProfile/vmSize", "vmSize"),
        ("/osProfile/computerName", "osProfile.computerName"),
        ("/osProfile/adminUsername", "osProfile.adminUsername"),
    ] {
        unchanged(
            "virtualMachine",
            shown,
            at(old, path).as_ref(),
            at(new, path).as_ref(),
        )?;
    }
    Ok(())
}

/// The image that the body links to, which the caller may read, must be there.
async fn need_image(server: &Server, call: &Call) -> Result<(), ArmError> {
    let Some(permit) = call.links.first() else {
        let reference = &call.body["properties"]["storageProfile"]["imageReference"];
        let names = [SHARED_ID, COMMUNITY_ID].map(|key| reference[key].as_str());
        let name = names.into_iter().flatten().next().unwrap_or_default();
        return bits::open_image(server, call, name, IMAGE).await.map(drop);
    };
    let scope = permit.scope();
    let kind = scope.resource_type();
    if !kind.is(versions::KIND) && !kind.is(super::images::KIND) {
        let message = format!("'{scope}' is not the id of an image definition or version.");
        return Err(errors::invalid(IMAGE, message));
    }
    if server.exists(&permit.to_read_own()).await? {
        return Ok(());
    }
    Err(ArmError::new(
        ErrorCode::NotFound,
        format!("The gallery image '{scope}' was not found."),
    )
    .with_target(IMAGE))
}

pub async fn get(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let machine = need(&server, &call).await?;
    let mut shown = present(&machine);
    if call.query.expands("instanceView") {
        shown["properties"]["instanceView"] = server.work.instance_view(&machine).await;
    }
    Ok(Reply::ok(shown))
}

/// A machine's power state and the time of its start, which az asks for by its own path.
pub async fn instance_view(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let machine = need(&server, &call).await?;
    Ok(Reply::ok(server.work.instance_view(&machine).await))
}

pub async fn remove(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let Some(machine) = find(&server, &call).await? else {
        return Ok(Reply::no_content());
    };
    call.preconditions.check(Some(&machine))?;
    let mut job = server.work.delete_machine(&call.id);
    job.exclusive = Some(exclusive(&call.id));
    let job = server.submit(&call.permit, job).await?;
    server.polled(Reply::new(StatusCode::ACCEPTED, None), &call, &call.id, job)
}

pub async fn all(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    list(&server, &call, KIND, |machine| Some(present(machine))).await
}

/// `{machine}/providers/Bullion.Factory/machineImages/default`, read under the right to read machines' images.
pub async fn image(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let machine = need(&server, &call).await?;
    let is_default = call.id.name().eq_ignore_ascii_case("default");
    let image = server.work.machine_image(&machine).filter(|_| is_default);
    let Some(properties) = image else {
        return Err(errors::not_found(&call.id));
    };
    Ok(Reply::ok(json!({
        "id": call.id.to_string(),
        "name": call.id.name(),
        "type": call.id.resource_type().to_string(),
        "properties": properties,
    })))
}
