//! Where the bits of a new version, image, disk or snapshot come from: a resource that has them, or a VHD by URI.
//!
//! What a body refers to needs a right of its own there; which right that is depends on the type referred to.

use access::Permit;
use catalog::Resource;
use factory::deploy::ACCESS;
use factory::disks::DATA_DISKS;
use factory::shared::ImageName;
use serde_json::{Map, Value, json};
use wire::{ArmError, ErrorCode, ProvisioningState, ResourceId, ResourceType};

use super::{data_disks, disks, images, machines, managed_images, shared, versions};
use crate::blobs::{self, BlobError};
use crate::errors;
use crate::import::{Origin, Origins, SealedUri};
use crate::operation::{Call, Link};
use crate::state::Server;

/// Whoever reads the bits of a disk can make a machine of them, so it takes more than a reader.
const DISK_WRITE: &str = "Microsoft.Compute/disks/write";
const SNAPSHOT_WRITE: &str = "Microsoft.Compute/snapshots/write";
const MACHINE_WRITE: &str = "Microsoft.Compute/virtualMachines/write";
const IMAGE_READ: &str = "Microsoft.Compute/images/read";
/// What a VHD by URI needs at the storage account that it is said to lie in.
const LIST_KEYS: &str = "Microsoft.Storage/storageAccounts/listKeys/action";

/// The source of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Another resource, and where the body names it.
    Resource { id: String, target: &'static str },
    /// A version of a gallery that its owner shares beyond role assignments, by the name that consumers know.
    Open { name: String, target: &'static str },
    Vhd {
        uri: String,
        account: Option<String>,
        target: &'static str,
    },
}

impl Source {
    /// A source that is named by a resource's id or by a shared image's name.
    pub fn named(id: String, target: &'static str) -> Source {
        match ImageName::parse(&id) {
            Some(_) => Source::Open { name: id, target },
            None => Source::Resource { id, target },
        }
    }

    /// Where the body names it.
    pub fn target(&self) -> &'static str {
        match self {
            Source::Resource { target, .. }
            | Source::Open { target, .. }
            | Source::Vhd { target, .. } => target,
        }
    }

    /// Its name; two sources of one name are one. Names of files keep their case.
    pub fn folded(&self) -> String {
        match self {
            Source::Resource { id, .. } => id.to_lowercase(),
            Source::Open { name, .. } => name.to_lowercase(),
            Source::Vhd { uri, .. } => uri.clone(),
        }
    }
}

/// A source, looked up.
pub enum Bits {
    /// These are known already.
    Of(Box<Resource>),
    /// These are to be read by a job.
    From(Origin),
    /// These are to be read from the disk of a machine, which must not run ([`super::power::need_off`]).
    Machine(Box<Resource>),
}

/// What fields with addresses of VHDs are called.
const URIS: [&str; 3] = ["uri", "blobUri", "sourceUri"];

/// A place of a body that may name a source: pointer and its name to people.
pub type Place = (&'static str, &'static str);

/// The texts at the places that are given and not empty.
pub fn given(body: &Value, places: &[Place]) -> Vec<(String, &'static str)> {
    let text = |(pointer, target): &Place| {
        let text = body.pointer(pointer)?.as_str()?;
        (!text.is_empty()).then(|| (text.to_string(), *target))
    };
    places.iter().filter_map(text).collect()
}

/// What a body names: resources at `resources`, and a VHD at `vhd`, that of a storage account where one is said.
pub fn sources(
    body: &Value,
    resources: &[Place],
    vhd: Place,
    account: Option<&str>,
) -> Vec<Source> {
    let resource = |(id, target)| Source::named(id, target);
    let of_uri = |(uri, target)| Source::Vhd {
        uri,
        account: account.map(str::to_string),
        target,
    };
    let named = given(body, resources).into_iter().map(resource);
    named
        .chain(given(body, &[vhd]).into_iter().map(of_uri))
        .collect()
}

/// The right that using a resource's bits takes.
pub fn action(id: &str) -> &'static str {
    let kind = ResourceId::parse(id).map(|id| id.resource_type());
    let is = |other: &str| {
        kind.as_ref()
            .is_ok_and(|kind: &ResourceType| kind.is(other))
    };
    match () {
        () if is(managed_images::KIND) => IMAGE_READ,
        () if is(disks::DISK) => DISK_WRITE,
        () if is(disks::SNAPSHOT) => SNAPSHOT_WRITE,
        () if is(machines::KIND) => MACHINE_WRITE,
        () => versions::READ,
    }
}

/// What a body with these sources links to.
pub fn links(sources: Vec<Source>) -> Vec<Link> {
    let link = |source| match source {
        Source::Resource { id, target } => Some(Link {
            action: action(&id),
            scope: id,
            target,
        }),
        // Its owner's sharing is the right to use it.
        Source::Open { .. } => None,
        Source::Vhd {
            account, target, ..
        } => account.map(|scope| Link {
            scope,
            action: LIST_KEYS,
            target,
        }),
    };
    sources.into_iter().filter_map(link).collect()
}

/// Finds the one source of a new resource, under the permits that its links gave.
pub async fn find(
    server: &Server,
    call: &Call,
    sources: Vec<Source>,
    missing: ArmError,
) -> Result<Bits, ArmError> {
    let mut sources = sources.into_iter();
    let (Some(source), None) = (sources.next(), sources.next()) else {
        return Err(missing);
    };
    find_one(server, call, source, call.links.first()).await
}

/// Finds a source, under the permit that its link gave, if it has one.
pub async fn find_one(
    server: &Server,
    call: &Call,
    source: Source,
    permit: Option<&Permit>,
) -> Result<Bits, ArmError> {
    let (uri, target) = match source {
        Source::Vhd { uri, target, .. } => (uri, target),
        Source::Resource { target, .. } => {
            let source = known(server, permit, target).await?;
            if let Some(origin) = disks::of_machine(&source) {
                // What its machine wrote is in no store yet.
                return Ok(Bits::From(origin));
            }
            need_ready(&source)?;
            if source.id.resource_type().is(machines::KIND) {
                return Ok(Bits::Machine(source));
            }
            return Ok(Bits::Of(source));
        }
        Source::Open { name, target } => {
            return open_version(server, call, &name, target)
                .await
                .map(Bits::Of);
        }
    };
    let refused = |error: BlobError| {
        let shown: String = uri.chars().take(200).collect();
        errors::invalid(
            target,
            format!("The VHD '{shown}' cannot be used: {error}."),
        )
    };
    let own = match &server.blobs {
        Some(blobs) => blobs.name_of(&uri, &call.base, &server.url),
        None => Err(BlobError::None),
    };
    match own {
        Ok(name) => Ok(Bits::From(Origin::Blob(name))),
        Err(BlobError::None | BlobError::Elsewhere { .. })
            if blobs::is_listed(&uri, &server.fetch_hosts) =>
        {
            let sealed = SealedUri::seal(&server.tokens.seal(), &call.id, &uri);
            let too_long = |_| errors::invalid(target, "The address of the VHD is too long.");
            sealed
                .map(|uri| Bits::From(Origin::Web(uri)))
                .map_err(too_long)
        }
        Err(error) => Err(refused(error)),
    }
}

/// The resource that the body links to, if it has bits.
async fn known(
    server: &Server,
    permit: Option<&Permit>,
    target: &'static str,
) -> Result<Box<Resource>, ArmError> {
    let Some(permit) = permit else {
        return Err(errors::invalid(target, "The source is missing."));
    };
    let scope = permit.scope();
    let kind = scope.resource_type();
    let kinds = [
        machines::KIND,
        versions::KIND,
        managed_images::KIND,
        disks::DISK,
        disks::SNAPSHOT,
    ];
    if !kinds.iter().any(|one| kind.is(one)) {
        return Err(errors::invalid(
            target,
            format!(
                "The source id: {scope} must either be a managed image, virtual machine or another \
                 gallery image version."
            ),
        ));
    }
    let source = server
        .catalog
        .get(&permit.to_read_own())
        .await
        .map_err(|_| {
            let message = format!(
                "Source {scope} is not found. Please check source exists, and is in the same region \
                 as gallery image version being created."
            );
            ArmError::new(ErrorCode::NotFound, message).with_target(target)
        })?;
    Ok(Box::new(source))
}

fn need_ready(source: &Resource) -> Result<(), ArmError> {
    let digest = source.properties.pointer("/bullion/diskDigest");
    let is_machine = source.id.resource_type().is(machines::KIND);
    if !is_machine && !factory::replicate::domains_of(source).is_empty() {
        return Err(errors::conflict(format!(
            "The source '{}' is encrypted by a disk encryption set, and no disk, image or version can be made of it.",
            source.id
        )));
    }
    if source.state == ProvisioningState::Succeeded && (is_machine || digest.is_some()) {
        return Ok(());
    }
    Err(errors::conflict(format!(
        "The source '{}' is not ready ({}).",
        source.id,
        source.state.as_str()
    )))
}

/// An image definition that is open to the call's subscription, with its versions. `name` is as consumers know it.
pub async fn open_image(
    server: &Server,
    call: &Call,
    name: &str,
    target: &str,
) -> Result<(Resource, Vec<Resource>), ArmError> {
    let missing = || {
        let shown: String = name.chars().take(200).collect();
        let message = format!("The gallery image '{shown}' was not found.");
        ArmError::new(ErrorCode::NotFound, message).with_target(target)
    };
    let image = ImageName::parse(name).ok_or_else(missing)?;
    let consumer = shared::consumer(&call.permit).ok_or_else(missing)?;
    let (catalog, auth) = (&*server.catalog, &*server.auth);
    let found = factory::shared::find(catalog, auth, &consumer, &image.gallery).await;
    let gallery = found.map_err(errors::catalog)?.ok_or_else(missing)?;
    let all = factory::shared::inside(catalog, &gallery, images::KIND).await;
    let definition = all
        .map_err(errors::catalog)?
        .into_iter()
        .find(|one| one.id.name().eq_ignore_ascii_case(&image.image))
        .ok_or_else(missing)?;
    let all = factory::shared::inside(catalog, &gallery, versions::KIND).await;
    let mut all = all.map_err(errors::catalog)?;
    all.retain(|version| version.id.is_within(&definition.id));
    if let Some(version) = &image.version {
        all.retain(|one| one.id.name() == version);
        if all.is_empty() {
            return Err(missing());
        }
    }
    Ok((definition, all))
}

/// The version that the name means: the one that it says, or the latest.
async fn open_version(
    server: &Server,
    call: &Call,
    name: &str,
    target: &'static str,
) -> Result<Box<Resource>, ArmError> {
    let (_, all) = open_image(server, call, name, target).await?;
    let shown = |one: &Resource| {
        one.properties["publishingProfile"]["excludeFromLatest"] != true || all_is_one(name)
    };
    // In the order of their numbers.
    let latest = all
        .into_iter()
        .rev()
        .find(|one| shown(one) && need_ready(one).is_ok());
    let Some(version) = latest else {
        let message = format!("There is no latest image version exists for \"{name}\"");
        return Err(ArmError::new(ErrorCode::NotFound, message).with_target(target));
    };
    Ok(Box::new(version))
}

/// Whether the name is of one version, not of whatever is the latest.
fn all_is_one(name: &str) -> bool {
    ImageName::parse(name).is_some_and(|name| name.version.is_some())
}

/// What a copy of `source` says of its disk: the same, and whence.
pub fn facts_of(source: &Resource) -> Value {
    let mut facts = source.properties["bullion"].clone();
    if let Some(facts) = facts.as_object_mut() {
        facts.remove("replication");
        facts.remove(ACCESS);
        facts.insert("copiedFrom".into(), source.id.to_string().into());
    }
    facts
}

/// What a copy of one of the disks of `source` says: of the data disk of that number, or of the one to boot from.
pub fn facts_of_disk(source: &Resource, lun: Option<u32>) -> Option<Value> {
    let mut facts = facts_of(source);
    let Some(lun) = lun else {
        if let Some(facts) = facts.as_object_mut() {
            facts.remove(DATA_DISKS);
        }
        return Some(facts);
    };
    let data = facts[DATA_DISKS].as_array()?;
    let mut disk = data.iter().find(|disk| disk["lun"] == lun)?.clone();
    if let Some(disk) = disk.as_object_mut() {
        disk.remove("lun");
        disk.insert("copiedFrom".into(), source.id.to_string().into());
    }
    Some(disk)
}

/// What is said of the disk of a machine that is on its way: whence, and what the machine was made of.
pub fn facts_of_machine(machine: &Resource) -> Value {
    let mut facts = serde_json::json!({ "copiedFrom": machine.id.to_string() });
    let of = &machine.properties["bullion"];
    for key in ["tattoo", "versionId"] {
        if let Some(value) = of.get(key) {
            facts[key] = value.clone();
        }
    }
    let of_data = |lun| json!({ "lun": lun, "copiedFrom": machine.id.to_string() });
    let data: Vec<Value> = data_disks::luns_of_machine(machine)
        .into_iter()
        .map(of_data)
        .collect();
    if !data.is_empty() {
        facts[DATA_DISKS] = data.into();
    }
    facts
}

/// Where the disks of a machine's image come from.
pub fn origins_of_machine(machine: &Resource) -> Origins {
    let of_data = |lun| {
        let machine = machine.id.clone();
        (lun, Origin::MachineData { machine, lun })
    };
    Origins {
        os: Some(Origin::Machine(machine.id.clone())),
        data: data_disks::luns_of_machine(machine)
            .into_iter()
            .map(of_data)
            .collect(),
    }
}

/// The generation of a machine, by its firmware.
pub fn generation_of(machine: &Resource) -> &'static str {
    let firmware = machine.properties["bullion"]["firmware"].as_str();
    match firmware.is_some_and(|firmware| firmware.eq_ignore_ascii_case("uefi")) {
        true => "V2",
        false => "V1",
    }
}

/// What is said of a disk that is on its way.
pub fn facts_from(properties: &Map<String, Value>, places: &[Place]) -> Value {
    let properties = Value::Object(Map::from_iter([(
        "properties".to_string(),
        Value::Object(properties.clone()),
    )]));
    let uri = given(&properties, places).into_iter().next();
    match uri {
        Some((uri, _)) => serde_json::json!({ "importedFrom": without_query(&uri) }),
        None => serde_json::json!({}),
    }
}

/// Takes signatures out of the addresses of VHDs, wherever in a body they are.
pub fn hide_signatures(properties: &mut Map<String, Value>) {
    for (name, value) in properties {
        match value {
            Value::String(uri) if URIS.contains(&name.as_str()) => {
                uri.truncate(without_query(uri).len());
            }
            Value::Object(object) => hide_signatures(object),
            Value::Array(items) => {
                let objects = items.iter_mut().filter_map(Value::as_object_mut);
                objects.for_each(hide_signatures);
            }
            _ => {}
        }
    }
}

/// A URI may carry a signature; what is kept and shown must not.
pub fn without_query(uri: &str) -> &str {
    uri.split(['?', '#']).next().unwrap_or_default()
}
