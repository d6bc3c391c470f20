//! The data disks of machines in their bodies: which a new machine gets, which an update puts on or takes off, and
//! `attachDetachDataDisks`, which says the same in other words.
//!
//! Each is a disk with a name and a resource of its own. What is done to the bits is the factory's job.

use std::sync::Arc;

use catalog::Resource;
use factory::deploy::{ChangeDisksInput, Create, Wanted};
use http::StatusCode;
use serde_json::{Map, Value, json};
use wire::{ArmError, NameRule, ResourceId};

use super::{Reply, data_disks, disks, machines, need, power};
use crate::body;
use crate::errors;
use crate::operation::{Call, Link};
use crate::state::Server;

const LIST: &str = "properties.storageProfile.dataDisks";
const DISK_WRITE: &str = "Microsoft.Compute/disks/write";
/// As many as a machine has room for.
pub const DISKS_MAX: usize = 16;
/// Azure's largest disk here.
const GIB_MAX: u64 = 2048;
/// What clients know as the size where none is said.
const GIB_USUAL: u64 = 1023;
const TO_ATTACH: &str = "dataDisksToAttach";
const TO_DETACH: &str = "dataDisksToDetach";

/// A disk that is there takes the right to write to it.
pub fn links(body: &Value) -> Vec<Link> {
    let attached = elements(&body["properties"])
        .iter()
        .filter(|one| is_attach(one));
    let ids = attached.filter_map(|one| one.pointer("/managedDisk/id")?.as_str());
    ids.map(|id| link(id, LIST)).collect()
}

pub fn links_of_action(body: &Value) -> Vec<Link> {
    let all = [TO_ATTACH, TO_DETACH].map(|key| body[key].as_array());
    let all = all.into_iter().flatten().flatten();
    all.filter_map(|one| one["diskId"].as_str())
        .map(|id| link(id, "diskId"))
        .collect()
}

fn link(id: &str, target: &'static str) -> Link {
    Link {
        scope: id.to_owned(),
        action: DISK_WRITE,
        target,
    }
}

fn elements(properties: &Value) -> &[Value] {
    let list = properties["storageProfile"]["dataDisks"].as_array();
    list.map_or(&[], Vec::as_slice)
}

fn is_attach(element: &Value) -> bool {
    let option = element["createOption"].as_str();
    option.is_some_and(|option| option.eq_ignore_ascii_case("Attach"))
}

/// What an element asks for.
fn wanted(machine: &ResourceId, element: &Value) -> Result<Wanted, ArmError> {
    let lun = data_disks::lun_of(element, LIST)?;
    let known = [
        ("Empty", Create::Empty),
        ("FromImage", Create::FromImage),
        ("Attach", Create::Attach),
    ];
    let option = element["createOption"].as_str().unwrap_or_default();
    let create = known
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(option));
    let create = create.map(|(_, create)| *create).ok_or_else(|| {
        let message = format!(
            "The create option of the data disk with lun {lun} must be one of Empty, FromImage, Attach. Make a disk \
             of a snapshot or another disk first, and attach that."
        );
        errors::invalid(LIST, message)
    })?;
    let given = element.pointer("/managedDisk/id").and_then(Value::as_str);
    let name = element["name"].as_str().filter(|name| !name.is_empty());
    let disk = match (given, create) {
        (Some(id), _) => disk_id(id)?,
        (None, Create::Attach) => {
            let message = "Required parameter 'managedDisk.id' is missing (null).";
            return Err(errors::invalid(LIST, message));
        }
        (None, _) => {
            let usual = format!("{}_DataDisk_{lun}", machine.name());
            own_disk(machine, name.unwrap_or(&usual))?
        }
    };
    let gib = match (&element["diskSizeGB"], create) {
        (Value::Null, Create::Empty) => Some(GIB_USUAL),
        (Value::Null, _) => None,
        (size, _) => Some(size_of(size)?),
    };
    Ok(Wanted {
        lun,
        disk,
        create,
        gib,
    })
}

fn size_of(size: &Value) -> Result<u64, ArmError> {
    let fits = size.as_u64().filter(|size| (1..=GIB_MAX).contains(size));
    fits.ok_or_else(|| {
        let message = format!(
            "The value {size} of parameter dataDisk.diskSizeGB is out of range. The value must be between 1 and \
             {GIB_MAX}, inclusive"
        );
        errors::invalid(LIST, message)
    })
}

fn disk_id(id: &str) -> Result<ResourceId, ArmError> {
    let parsed = ResourceId::parse(id).ok();
    let disk = parsed.filter(|id| id.resource_type().is(disks::DISK));
    disk.ok_or_else(|| {
        let shown: String = id.chars().take(200).collect();
        errors::invalid(LIST, format!("'{shown}' is not the id of a disk."))
    })
}

fn own_disk(machine: &ResourceId, name: &str) -> Result<ResourceId, ArmError> {
    NameRule::ImageDefinition
        .check(name)
        .map_err(|error| errors::invalid("dataDisk.name", error.to_string()))?;
    let group = machine.group_scope();
    let id = group.map(|group| format!("{group}/providers/{}/{name}", disks::DISK));
    disk_id(&id.unwrap_or_default())
}

/// The element as it is kept.
fn shown(element: &Value, wanted: &Wanted) -> Value {
    let mut shown = element.clone();
    shown["lun"] = wanted.lun.into();
    shown["name"] = wanted.disk.name().into();
    shown["createOption"] = json!(wanted.create);
    shown["managedDisk"]["id"] = wanted.disk.to_string().into();
    if shown["caching"].is_null() {
        shown["caching"] = "None".into();
    }
    if let Some(gib) = wanted.gib {
        shown["diskSizeGB"] = gib.into();
    }
    shown
}

/// Writes down what a new machine's data disks are, with their names; Azure's rules held.
pub fn settle(machine: &ResourceId, properties: &mut Map<String, Value>) -> Result<(), ArmError> {
    let body = json!({ "storageProfile": properties.get("storageProfile") });
    let list = &body["storageProfile"]["dataDisks"];
    if list.is_null() {
        return Ok(());
    }
    if !list.is_array() {
        return Err(body::wrong_type(LIST, "an array"));
    }
    let mut settled = Vec::new();
    let mut luns = Vec::new();
    for element in elements(&body) {
        let wanted = wanted(machine, element)?;
        luns.push(wanted.lun);
        settled.push(shown(element, &wanted));
    }
    check_luns(luns)?;
    if let Some(profile) = properties.get_mut("storageProfile") {
        profile["dataDisks"] = settled.into();
    }
    Ok(())
}

fn check_luns(mut luns: Vec<u32>) -> Result<(), ArmError> {
    if luns.len() > DISKS_MAX {
        let message = format!(
            "The maximum number of data disks allowed to be attached to a VM of this size is {DISKS_MAX}."
        );
        return Err(power::not_allowed(message));
    }
    luns.sort_unstable();
    match luns.windows(2).find(|pair| pair[0] == pair[1]) {
        None => Ok(()),
        Some(pair) => {
            let message = format!(
                "A disk at LUN {} already exists: lun numbers must be unique for each data disk.",
                pair[0]
            );
            Err(errors::invalid(LIST, message))
        }
    }
}

/// What an update makes of the disks that a machine has. The list stays as it was: the job writes down what it did.
pub fn change(
    machine: &Resource,
    new: &mut Map<String, Value>,
) -> Result<Option<ChangeDisksInput>, ArmError> {
    let asked = json!({ "storageProfile": new.get("storageProfile") });
    let old = elements(&machine.properties);
    if let Some(profile) = new.get_mut("storageProfile").and_then(Value::as_object_mut) {
        match machine.properties["storageProfile"].get("dataDisks") {
            Some(old) => profile.insert("dataDisks".into(), old.clone()),
            None => profile.remove("dataDisks"),
        };
    }
    if asked["storageProfile"]["dataDisks"].is_null() {
        return Ok(None);
    }
    let mut kept = Vec::new();
    let mut attach = Vec::new();
    for element in elements(&asked) {
        if element["toBeDetached"] == true {
            continue;
        }
        let wanted = wanted(&machine.id, element)?;
        let known = old.iter().find(|one| one["lun"] == wanted.lun);
        let is_same = known.is_some_and(|one| {
            let disk = one.pointer("/managedDisk/id").and_then(Value::as_str);
            disk.is_some_and(|disk| disk.eq_ignore_ascii_case(&wanted.disk.to_string()))
        });
        if is_same {
            kept.push(wanted.lun);
            continue;
        }
        if wanted.create == Create::FromImage {
            let message = "A machine that is there gets no more disks of its image: attach disks of their own.";
            return Err(errors::invalid(LIST, message));
        }
        let shown = shown(element, &wanted);
        attach.push((wanted, shown));
    }
    let luns_of_old = old.iter().filter_map(|one| one["lun"].as_u64());
    let luns_of_old = luns_of_old.filter_map(|lun| u32::try_from(lun).ok());
    let detach: Vec<u32> = luns_of_old.filter(|lun| !kept.contains(lun)).collect();
    kept.extend(attach.iter().map(|(wanted, _)| wanted.lun));
    check_luns(kept)?;
    if detach.is_empty() && attach.is_empty() {
        return Ok(None);
    }
    Ok(Some(ChangeDisksInput {
        vm: machine.id.clone(),
        detach,
        attach,
    }))
}

/// `attachDetachDataDisks`: disks by their ids.
pub async fn attach_detach(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let machine = need(&server, &call).await?;
    call.preconditions.check(Some(&machine))?;
    let ids = |key: &str| -> Result<Vec<(ResourceId, Value)>, ArmError> {
        let list = call.body[key].as_array().into_iter().flatten();
        list.map(|one| {
            Ok((
                disk_id(one["diskId"].as_str().unwrap_or_default())?,
                one.clone(),
            ))
        })
        .collect()
    };
    let old = elements(&machine.properties);
    let lun_of_disk = |id: &ResourceId| {
        let is_it = |one: &&Value| {
            let disk = one.pointer("/managedDisk/id").and_then(Value::as_str);
            disk.is_some_and(|disk| disk.eq_ignore_ascii_case(&id.to_string()))
        };
        let lun = old.iter().find(is_it)?["lun"].as_u64()?;
        u32::try_from(lun).ok()
    };
    let mut detach = Vec::new();
    for (id, _) in ids(TO_DETACH)? {
        detach.push(lun_of_disk(&id).ok_or_else(|| {
            let message = format!("The disk '{}' is not attached to the machine.", id.name());
            errors::invalid(TO_DETACH, message)
        })?);
    }
    let mut luns: Vec<u32> = data_disks::luns_of_machine(&machine);
    luns.retain(|lun| !detach.contains(lun));
    let mut attach = Vec::new();
    for (id, asked) in ids(TO_ATTACH)? {
        let free = (0..).find(|lun| !luns.contains(lun)).unwrap_or_default();
        let lun = match asked["lun"].is_null() {
            true => free,
            false => data_disks::lun_of(&asked, TO_ATTACH)?,
        };
        luns.push(lun);
        let element = json!({
            "lun": lun,
            "createOption": "Attach",
            "caching": asked["caching"],
            "managedDisk": { "id": id.to_string() },
        });
        let wanted = wanted(&machine.id, &element)?;
        let shown = shown(&element, &wanted);
        attach.push((wanted, shown));
    }
    check_luns(luns)?;
    let vm = machine.id.clone();
    let input = ChangeDisksInput { vm, detach, attach };
    let job = submit(&server, &call, &machine, input).await?;
    server.polled(Reply::new(StatusCode::ACCEPTED, None), &call, &call.id, job)
}

/// Submits the change of a machine that does not run.
async fn submit(
    server: &Arc<Server>,
    call: &Call,
    machine: &Resource,
    input: ChangeDisksInput,
) -> Result<catalog::JobId, ArmError> {
    need_off(server, machine).await?;
    let mut job = server.work.change_disks(input);
    job.exclusive = Some(machines::exclusive(&machine.id));
    server.submit(&call.permit, job).await
}

/// Disks are put on and taken off while the machine does not run.
pub async fn need_off(server: &Server, machine: &Resource) -> Result<(), ArmError> {
    power::need_off(server, machine, "attach or detach data disks").await
}
