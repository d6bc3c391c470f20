//! The data disks of machines: files in the machine's folder beside the one that it boots from, each of them a resource
//! (`Microsoft.Compute/disks`) that says whose it is. What has bits begins as a layer over them ([`super::layers`]), what has
//! none as an empty file.
//!
//! A disk is the machine's from when it is laid out until it is taken off; then what the machine wrote is in the store
//! and the disk's resource names it. Both are done only while the machine does not run. Must not decide who may.

use std::path::Path;
use std::sync::Arc;

use access::Action;
use async_trait::async_trait;
use catalog::{CatalogError, Draft, Outcome, Precondition, Resource};
use disk::DiskDigest;
use jobs::{JobContext, JobError, JobKind, NoUndo, OnUndo, StepError, StepHandle};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use wire::{Location, ProvisioningState, ResourceId, TenantId};

use super::layers::{self, Which};
use super::machines::{MACHINE_READ, MACHINE_WRITE, PowerState};
use super::{status_permit, tenant};
use crate::disks::Disks;
use crate::domains::KEPT_IN;
use crate::factory::Factory;
use crate::import::ImportSource;
use crate::pipeline::{blocking, change, failed};

pub const DISK_TYPE: &str = "Microsoft.Compute/disks";
const DISK_WRITE: &str = "Microsoft.Compute/disks/write";
/// The member of a disk's facts that names the machine that has it.
pub const MANAGED_BY: &str = "managedBy";
/// And the one of its number there.
pub const LUN: &str = "lun";
/// The member of a disk's facts that keeps which URLs open it, each `until` a time.
pub const ACCESS: &str = "access";
const LIST: &str = "/storageProfile/dataDisks";
const GIB: u64 = 1 << 30;

/// How a machine's data disk begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Create {
    Empty,
    FromImage,
    Attach,
}

/// A data disk that a machine gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Wanted {
    pub lun: u32,
    pub disk: ResourceId,
    pub create: Create,
    /// The size that was asked for; that of its source where none was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gib: Option<u64>,
}

/// The same with its bits found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Planned {
    #[serde(flatten)]
    pub wanted: Wanted,
    /// None where nothing was written yet.
    digest: Option<DiskDigest>,
    /// The domain that they are in, where they are in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kept_in: Option<String>,
    bytes: u64,
}

/// The data disks that a machine's resource lists.
pub(super) fn listed(machine: &Resource) -> Vec<Wanted> {
    let list = machine.properties.pointer(LIST).and_then(Value::as_array);
    let one = |element: &Value| {
        let disk = element.pointer("/managedDisk/id")?.as_str()?;
        Some(Wanted {
            lun: u32::try_from(element["lun"].as_u64()?).ok()?,
            disk: ResourceId::parse(disk).ok()?,
            create: serde_json::from_value(element["createOption"].clone()).ok()?,
            gib: element["diskSizeGB"].as_u64(),
        })
    };
    list.into_iter().flatten().filter_map(one).collect()
}

/// The data disks that a machine has in its folder.
pub(super) fn there(machine: &Resource) -> Vec<Planned> {
    let planned = |wanted: Wanted| Planned {
        digest: None,
        kept_in: None,
        bytes: wanted.gib.unwrap_or_default() * GIB,
        wanted,
    };
    listed(machine).into_iter().map(planned).collect()
}

/// Finds the bits of all data disks of a new machine: those that its resource lists, and those of the image that it does
/// not mention, which it gets as well.
pub(super) async fn plan(
    factory: &Arc<Factory>,
    s: &StepHandle,
    machine: &Resource,
    (image, kept_in): (&Disks, Option<&str>),
) -> Result<Vec<Planned>, StepError> {
    let mut wanted = listed(machine);
    for disk in &image.data {
        if !wanted.iter().any(|known| known.lun == disk.lun) {
            let name = format!("{}_DataDisk_{}", machine.id.name(), disk.lun);
            let id = machine
                .id
                .group_scope()
                .map(|group| format!("{group}/providers/{DISK_TYPE}/{name}"));
            let id = id.and_then(|id| ResourceId::parse(&id).ok());
            let id = id.ok_or_else(|| {
                StepError::failed("InvalidParameter", "the machine is in no group")
            })?;
            wanted.push(Wanted {
                lun: disk.lun,
                disk: id,
                create: Create::FromImage,
                gib: None,
            });
        }
    }
    let mut planned = Vec::new();
    for wanted in wanted {
        planned.push(find(factory, s, &machine.id, wanted, Some((image, kept_in))).await?);
    }
    Ok(planned)
}

async fn find(
    factory: &Arc<Factory>,
    s: &StepHandle,
    machine: &ResourceId,
    wanted: Wanted,
    image: Option<(&Disks, Option<&str>)>,
) -> Result<Planned, StepError> {
    let asked = wanted.gib.unwrap_or_default() * GIB;
    let wrong = |message: String| StepError::failed("InvalidParameter", message);
    let (digest, bytes) = match wanted.create {
        Create::Empty => (None, asked),
        Create::FromImage => {
            let of_image = image.and_then(|(image, _)| image.data_disk(wanted.lun));
            let of_image = of_image.ok_or_else(|| {
                wrong(format!(
                    "the image has no data disk with lun {}",
                    wanted.lun
                ))
            })?;
            (Some(of_image.digest), of_image.logical_bytes.max(asked))
        }
        Create::Attach => {
            let permit = s.permit(&Action::new(DISK_WRITE), &wanted.disk).await?;
            let disk = factory.catalog.get(&permit.to_read_own()).await?;
            need_free(&disk, machine)?;
            need_closed(&disk, s.clock().now())?;
            let facts = &disk.properties["bullion"];
            let bytes = facts["logicalBytes"]
                .as_u64()
                .or(disk.properties["diskSizeBytes"].as_u64());
            let digest = Disks::of(&disk).map(|disks| disks.os);
            (digest, bytes.unwrap_or_default())
        }
    };
    if bytes == 0 {
        return Err(wrong(format!(
            "the data disk with lun {} has no size",
            wanted.lun
        )));
    }
    let of_image = image.filter(|_| matches!(wanted.create, Create::FromImage));
    Ok(Planned {
        wanted,
        digest,
        kept_in: of_image.and_then(|(_, kept_in)| kept_in.map(str::to_owned)),
        bytes,
    })
}

/// A disk is one machine's at a time.
fn need_free(disk: &Resource, machine: &ResourceId) -> Result<(), StepError> {
    let owner = disk.properties["bullion"][MANAGED_BY].as_str();
    if owner.is_none_or(|owner| owner.eq_ignore_ascii_case(&machine.to_string())) {
        return Ok(());
    }
    let message = format!(
        "Disk '{}' cannot be attached as the disk is already owned by VM '{}'.",
        disk.id.name(),
        owner.unwrap_or_default()
    );
    Err(StepError::failed("ConflictingUserInput", message))
}

/// Whoever reads it by a URL must not find another disk than the one that was asked for.
fn need_closed(disk: &Resource, now: jiff::Timestamp) -> Result<(), StepError> {
    let opened = disk.properties["bullion"][ACCESS].as_array();
    let mut ends = opened
        .into_iter()
        .flatten()
        .filter_map(|one| one["until"].as_str());
    let is_open = |end: &str| end.parse::<jiff::Timestamp>().is_ok_and(|end| now < end);
    if !ends.any(is_open) {
        return Ok(());
    }
    let message = format!(
        "There is an active shared access signature outstanding for disk {}. Call EndGetAccess before attaching \
         this disk to the VM.",
        disk.id.name()
    );
    Err(StepError::failed("OperationNotAllowed", message))
}

/// Makes a disk the machine's: its resource says so, and its bits are in the machine's folder. A file that is there was
/// laid out before, and the machine may have written to it.
pub(super) async fn put_on(
    factory: &Arc<Factory>,
    s: &StepHandle,
    machine: &ResourceId,
    region: &Location,
    planned: &Planned,
) -> Result<(), StepError> {
    own(factory, s, machine, region, planned).await?;
    let folder = factory.machine_folder(machine, region);
    let (regions, region, planned) = (
        Arc::clone(&factory.regions),
        region.clone(),
        planned.clone(),
    );
    let vm = machine.clone();
    blocking(move || {
        let which = Which::Data(planned.wanted.lun);
        if layers::is_there(&folder, which) {
            return Ok(());
        }
        let Some(digest) = &planned.digest else {
            let made = empty(&folder, which, planned.bytes);
            return made.map_err(|error| failed("MachineFailed", &error));
        };
        let place = planned.kept_in.as_deref().map(Location::new);
        let place = place.unwrap_or_else(|| region.clone());
        let (whose, bytes) = ((&vm, &*folder, which), Some(planned.bytes));
        let laid = layers::lay_out(&regions, whose, (&region, &place), (digest, bytes));
        laid.map_err(|error| super::no_disk(error, &place))
    })
    .await
}

/// A disk of so many bytes on which nothing was written, sparse.
fn empty(folder: &Path, which: Which, bytes: u64) -> std::io::Result<()> {
    let (file, new) = (which.raw(folder), which.new_file(folder));
    let made = std::fs::File::create(&new)?;
    made.set_len(bytes)?;
    made.sync_all()?;
    std::fs::rename(&new, &file)?;
    std::fs::File::open(folder)?.sync_all()
}

/// The disk's resource is made, or says whose it is from now on.
async fn own(
    factory: &Arc<Factory>,
    s: &StepHandle,
    machine: &ResourceId,
    region: &Location,
    planned: &Planned,
) -> Result<(), StepError> {
    let permit = s
        .permit(&Action::new(DISK_WRITE), &planned.wanted.disk)
        .await?;
    let there = match factory.catalog.get(&permit.to_read_own()).await {
        Ok(there) => Some(there),
        Err(CatalogError::NotFound { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let Some(there) = there else {
        if planned.wanted.create == Create::Attach {
            let message = format!("the disk {} is gone", planned.wanted.disk);
            return Err(StepError::failed("ResourceNotFound", message));
        }
        let draft = new_disk(machine, planned, s.clock().now()).location(region.as_str());
        factory
            .catalog
            .put(&permit, draft, Precondition::Absent)
            .await?;
        return Ok(());
    };
    need_free(&there, machine)?;
    let owned = there.properties["bullion"][MANAGED_BY].is_string();
    if planned.wanted.create != Create::Attach && !owned {
        let message = format!("there is a disk {} already", there.id);
        return Err(StepError::failed("Conflict", message));
    }
    change(&factory.catalog, &permit, |draft| {
        draft.properties["diskState"] = "Attached".into();
        draft.properties["bullion"][MANAGED_BY] = machine.to_string().into();
        draft.properties["bullion"][LUN] = planned.wanted.lun.into();
    })
    .await?;
    Ok(())
}

fn new_disk(machine: &ResourceId, planned: &Planned, now: jiff::Timestamp) -> Draft {
    let now = now.round(jiff::Unit::Second).unwrap_or(now);
    let mut facts = json!({
        MANAGED_BY: machine.to_string(),
        LUN: planned.wanted.lun,
        "logicalBytes": planned.bytes,
    });
    if let Some(digest) = planned.digest {
        facts["diskDigest"] = digest.to_string().into();
    }
    if let Some(kept_in) = &planned.kept_in {
        facts[KEPT_IN] = kept_in.as_str().into();
    }
    Draft::new(json!({
        "creationData": { "createOption": planned.wanted.create },
        "diskSizeGB": planned.bytes.div_ceil(GIB),
        "diskSizeBytes": planned.bytes,
        "diskState": "Attached",
        "uniqueId": uuid::Uuid::new_v4(),
        "timeCreated": now.to_string(),
        "bullion": facts,
    }))
    .state(ProvisioningState::Succeeded)
}

/// Takes a disk off a machine that does not run: what is in it goes into the store under the disk's name, then its file
/// goes. Done twice, it does nothing more.
async fn take_off(
    factory: &Arc<Factory>,
    machine: &ResourceId,
    tenant: TenantId,
    region: &Location,
    (lun, disk): (u32, &ResourceId),
) -> Result<(), StepError> {
    let (folder, which) = (factory.machine_folder(machine, region), Which::Data(lun));
    let imported = match layers::source(&folder, which, region) {
        Some(source) => Some(factory.import(region, ImportSource::Here(source)).await?),
        // A disk that is there and cannot be read stays where it is: nobody else has what was written to it.
        None if layers::is_there(&folder, which) => {
            let message = format!("the {which} of machine {} cannot be read", machine.name());
            return Err(StepError::failed("MachineFailed", message));
        }
        None => None,
    };
    let permit = disk_permit(disk, tenant);
    let told = change(&factory.catalog, &permit, |draft| {
        if !is_of(&draft.properties, machine) {
            return;
        }
        if let Some(facts) = draft.properties["bullion"].as_object_mut() {
            facts.remove(MANAGED_BY);
            facts.remove(LUN);
        }
        draft.properties["diskState"] = "Unattached".into();
        if let Some(imported) = &imported {
            let facts = &mut draft.properties["bullion"];
            facts["diskDigest"] = imported.digest.to_string().into();
            facts["logicalBytes"] = imported.logical_bytes.into();
            // Where it is now, whatever it began as.
            if let Some(facts) = facts.as_object_mut() {
                facts.remove(KEPT_IN);
            }
        }
    });
    match told.await {
        Ok(()) | Err(CatalogError::NotFound { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    blocking(move || {
        let removed = layers::remove(&folder, which);
        removed.map_err(|error| failed("MachineFailed", &error))
    })
    .await
}

/// The system's right, not the requester's: a disk that its machine gives back is given back even where a right was
/// withdrawn meanwhile.
fn disk_permit(disk: &ResourceId, tenant: TenantId) -> access::Permit {
    let action = Action::new(DISK_WRITE);
    access::Permit::system(
        access::SystemReason::JobStatus,
        action,
        disk.clone(),
        tenant,
    )
}

/// A disk of a machine that goes, and whether it goes with it.
pub(super) type Leaving = (Wanted, bool);

/// The disks of a machine that is deleted.
pub(super) fn leaving(machine: &Resource) -> Vec<Leaving> {
    let list = machine.properties.pointer(LIST).and_then(Value::as_array);
    let goes = |lun: u32| {
        let mut elements = list.into_iter().flatten();
        let element = elements.find(|one| one["lun"] == lun);
        let option = element.and_then(|one| one["deleteOption"].as_str());
        option.is_some_and(|option| option.eq_ignore_ascii_case("Delete"))
    };
    let disks = listed(machine).into_iter();
    disks.map(|one| (one.clone(), goes(one.lun))).collect()
}

/// The disks of a deployment that is taken back: what it made goes, what it found stays.
pub(super) fn taken_back(planned: &[Planned]) -> Vec<Leaving> {
    let wanted = planned.iter().map(|one| one.wanted.clone());
    wanted
        .map(|one| (one.clone(), one.create != Create::Attach))
        .collect()
}

/// Gives back the disks of a machine that goes.
pub(super) async fn give_back(
    factory: &Arc<Factory>,
    machine: &ResourceId,
    tenant: TenantId,
    region: &Location,
    leaving: Vec<Leaving>,
) -> Result<(), StepError> {
    for (wanted, goes) in leaving {
        if !goes {
            let disk = (wanted.lun, &wanted.disk);
            take_off(factory, machine, tenant, region, disk).await?;
            continue;
        }
        let permit = disk_permit(&wanted.disk, tenant);
        let there = match factory.catalog.get(&permit.to_read_own()).await {
            Ok(there) => there,
            Err(CatalogError::NotFound { .. }) => continue,
            Err(error) => return Err(error.into()),
        };
        if !is_of(&there.properties, machine) {
            continue;
        }
        match factory
            .catalog
            .delete(&permit, Precondition::Match(there.etag))
            .await
        {
            Ok(_) | Err(CatalogError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Whether a disk is the machine's.
fn is_of(disk: &Value, machine: &ResourceId) -> bool {
    let owner = disk["bullion"][MANAGED_BY].as_str();
    owner.is_some_and(|owner| owner.eq_ignore_ascii_case(&machine.to_string()))
}

/// Writes down on a machine which data disks it got, with their sizes, for readers.
pub(super) fn show(draft: &mut Draft, planned: &[Planned]) {
    for one in planned {
        add(draft, one, &json!({}));
    }
}

fn add(draft: &mut Draft, planned: &Planned, asked: &Value) {
    let Planned { wanted, bytes, .. } = planned;
    if !draft.properties["storageProfile"]["dataDisks"].is_array() {
        draft.properties["storageProfile"]["dataDisks"] = json!([]);
    }
    let list = draft.properties["storageProfile"]["dataDisks"].as_array_mut();
    let Some(list) = list else { return };
    let at = list.iter().position(|one| one["lun"] == wanted.lun);
    let at = at.unwrap_or_else(|| {
        let mut element = asked.clone();
        element["lun"] = wanted.lun.into();
        list.push(element);
        list.len() - 1
    });
    let element = &mut list[at];
    element["name"] = wanted.disk.name().into();
    element["createOption"] = json!(wanted.create);
    element["diskSizeGB"] = bytes.div_ceil(GIB).into();
    element["managedDisk"]["id"] = wanted.disk.to_string().into();
    if element["caching"].is_null() {
        element["caching"] = "None".into();
    }
}

/// Disks that a machine loses, and then those that it gets.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChangeDisksInput {
    pub vm: ResourceId,
    pub detach: Vec<u32>,
    /// Each with the element that the client wrote.
    pub attach: Vec<(Wanted, Value)>,
}

/// Puts disks on a machine that does not run, and takes them off it.
pub struct ChangeDisks(pub Arc<Factory>);

#[async_trait]
impl JobKind for ChangeDisks {
    const NAME: &'static str = "change-disks";
    type Input = ChangeDisksInput;
    type Undo = NoUndo;

    async fn run(
        &self,
        cx: &mut JobContext<NoUndo>,
        input: ChangeDisksInput,
    ) -> Result<Value, JobError> {
        let nothing = || OnUndo::Nothing("what was changed is changed back by the machine's owner");
        for lun in &input.detach {
            let name = format!("detach {lun}");
            cx.step_once(&name, nothing(), |s| self.detach(s, &input.vm, *lun))
                .await?;
        }
        for (wanted, asked) in &input.attach {
            let name = format!("attach {}", wanted.lun);
            cx.step_once(&name, nothing(), |s| {
                self.attach(s, &input.vm, wanted, asked)
            })
            .await?;
        }
        Ok(Value::Null)
    }

    async fn undo(
        &self,
        _cx: &StepHandle,
        undo: NoUndo,
        _output: Option<Value>,
    ) -> Result<(), StepError> {
        match undo {}
    }

    /// Whatever came of it, the machine is as good as before.
    async fn settle(
        &self,
        cx: &StepHandle,
        input: &ChangeDisksInput,
        _outcome: &Outcome,
    ) -> Result<(), StepError> {
        let permit = status_permit(&input.vm, tenant(cx)?);
        let told = change(&self.0.catalog, &permit, |draft| {
            if draft.state == ProvisioningState::Updating {
                draft.state = ProvisioningState::Succeeded;
            }
        });
        match told.await {
            Ok(()) | Err(CatalogError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl ChangeDisks {
    /// The machine, which must not run: what is in its files is nobody's to know while it does.
    async fn machine(
        &self,
        s: &StepHandle,
        vm: &ResourceId,
    ) -> Result<(Resource, Location), StepError> {
        let permit = s.permit(&Action::new(MACHINE_READ), vm).await?;
        let machine = self.0.catalog.get(&permit).await?;
        if self.0.power_state(vm).await == PowerState::Running {
            let message = format!("the machine {} runs", vm.name());
            return Err(StepError::failed("OperationNotAllowed", message));
        }
        let region = Location::new(machine.location.clone().unwrap_or_default());
        Ok((machine, region))
    }

    async fn detach(&self, s: StepHandle, vm: &ResourceId, lun: u32) -> Result<(), StepError> {
        let (machine, region) = self.machine(&s, vm).await?;
        let found = listed(&machine).into_iter().find(|one| one.lun == lun);
        let Some(wanted) = found else { return Ok(()) };
        s.progress("reading the disk");
        take_off(&self.0, vm, machine.tenant, &region, (lun, &wanted.disk)).await?;
        let permit = s.permit(&Action::new(MACHINE_WRITE), vm).await?;
        change(&self.0.catalog, &permit, |draft| {
            let list = draft.properties["storageProfile"]["dataDisks"].as_array_mut();
            if let Some(list) = list {
                list.retain(|one| one["lun"] != lun);
            }
        })
        .await?;
        Ok(())
    }

    async fn attach(
        &self,
        s: StepHandle,
        vm: &ResourceId,
        wanted: &Wanted,
        asked: &Value,
    ) -> Result<(), StepError> {
        let (_, region) = self.machine(&s, vm).await?;
        let planned = find(&self.0, &s, vm, wanted.clone(), None).await?;
        put_on(&self.0, &s, vm, &region, &planned).await?;
        let permit = s.permit(&Action::new(MACHINE_WRITE), vm).await?;
        change(&self.0.catalog, &permit, |draft| {
            add(draft, &planned, asked)
        })
        .await?;
        Ok(())
    }
}
