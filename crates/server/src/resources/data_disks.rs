//! Data disks in the bodies of image versions and managed images: their rules, where their bits come from, and what is
//! shown of them.
//!
//! Versions and images write the same things under other names, which [`Shape`] holds. What the disks are is kept in
//! the facts, as [`factory::disks`] reads it. Must not read bits: that is the importer's.

use access::Permit;
use catalog::Resource;
use factory::disks::{DATA_DISKS, DATA_DISKS_MAX};
use factory::import::Imported;
use serde_json::{Map, Value, json};
use wire::{ArmError, ErrorCode};

use super::bits::{self, Bits, Source};
use super::disks;
use crate::body;
use crate::errors;
use crate::import::Origins;
use crate::operation::Call;
use crate::state::Server;

const FACTS: &str = "bullion";
const PROFILE: &str = "storageProfile";
const GIB: u64 = 1 << 30;

/// How a type writes its data disks.
pub struct Shape {
    /// The list in the storage profile.
    pub list: &'static str,
    /// What stands in the place of a source of the disk to boot from, not of the whole image.
    os: &'static str,
    /// Pointers to ids of disks and snapshots, in an element.
    ids: &'static [&'static str],
    uri: &'static str,
    account: Option<&'static str>,
    caching: &'static str,
    size: &'static str,
    /// The list and the source, for people.
    target: &'static str,
    source: &'static str,
    kind: &'static str,
}

pub const OF_VERSION: Shape = Shape {
    list: "dataDiskImages",
    os: ".osDiskImage.",
    ids: &["/source/id"],
    uri: "/source/uri",
    account: Some("/source/storageAccountId"),
    caching: "hostCaching",
    size: "sizeInGB",
    target: "properties.storageProfile.dataDiskImages",
    source: "properties.storageProfile.dataDiskImages.source.id",
    kind: "galleryImageVersion",
};

pub const OF_IMAGE: Shape = Shape {
    list: "dataDisks",
    os: ".osDisk.",
    ids: &["/snapshot/id", "/managedDisk/id"],
    uri: "/blobUri",
    account: None,
    caching: "caching",
    size: "diskSizeGB",
    target: "properties.storageProfile.dataDisks",
    source: "properties.storageProfile.dataDisks",
    kind: "image",
};

/// A data disk of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub lun: u32,
    /// None where the image that the resource is made of has the disk.
    pub source: Option<Source>,
}

impl Shape {
    fn elements<'a>(&self, properties: &'a Value) -> &'a [Value] {
        let list = properties[PROFILE][self.list].as_array();
        list.map_or(&[], Vec::as_slice)
    }

    /// The sources that an element names; more than one is wrong.
    fn sources_of(&self, element: &Value) -> Vec<Source> {
        let text = |pointer: &str| {
            let text = element.pointer(pointer).and_then(Value::as_str);
            text.filter(|text| !text.is_empty()).map(str::to_owned)
        };
        let mut ids = self.ids.iter().filter_map(|pointer| text(pointer));
        match text(self.uri) {
            // Older api-versions have the storage account in the place of the id.
            Some(uri) if self.account.is_some() => vec![Source::Vhd {
                uri,
                account: self.account.and_then(text).or_else(|| ids.next()),
                target: self.source,
            }],
            uri => {
                let named = ids.map(|id| Source::named(id, self.source));
                let vhd = uri.map(|uri| Source::Vhd {
                    uri,
                    account: None,
                    target: self.source,
                });
                named.chain(vhd).collect()
            }
        }
    }

    /// The list in a resource's properties, for writing.
    fn list_of<'a>(
        &self,
        properties: &'a mut Map<String, Value>,
    ) -> Result<&'a mut Vec<Value>, ArmError> {
        let profile = properties.entry(PROFILE).or_insert_with(|| json!({}));
        let Some(members) = profile.as_object_mut() else {
            return Err(body::wrong_type("properties.storageProfile", "an object"));
        };
        let list = members.entry(self.list).or_insert_with(|| json!([]));
        if list.is_null() {
            *list = json!([]);
        }
        list.as_array_mut()
            .ok_or_else(|| body::wrong_type(self.target, "an array"))
    }
}

/// All sources of a body's data disks, in its order, for the rights that they take.
pub fn sources(shape: &Shape, body: &Value) -> Vec<Source> {
    let elements = shape.elements(&body["properties"]).iter();
    elements.flat_map(|one| shape.sources_of(one)).collect()
}

/// The data disks of a body, its rules held.
pub fn asked(shape: &Shape, body: &Value) -> Result<Vec<Asked>, ArmError> {
    let list = &body["properties"][PROFILE][shape.list];
    if !list.is_null() && !list.is_array() {
        return Err(body::wrong_type(shape.target, "an array"));
    }
    let elements = shape.elements(&body["properties"]);
    if elements.len() > DATA_DISKS_MAX {
        let message = format!("An image has at most {DATA_DISKS_MAX} data disks.");
        return Err(errors::invalid(shape.target, message));
    }
    let mut asked: Vec<Asked> = Vec::new();
    for element in elements {
        let lun = lun_of(element, shape.target)?;
        if asked.iter().any(|known| known.lun == lun) {
            let message = "Duplicated lun numbers have been detected in the input data disks. Lun number must \
                           be unique for each data disk";
            return Err(errors::invalid(shape.target, message));
        }
        let mut sources = shape.sources_of(element).into_iter();
        let (source, None) = (sources.next(), sources.next()) else {
            let message = format!("The data disk with lun {lun} has more than one source.");
            return Err(errors::invalid(shape.target, message));
        };
        asked.push(Asked { lun, source });
    }
    Ok(asked)
}

/// The number of a data disk, wherever one is written.
pub fn lun_of(element: &Value, target: &str) -> Result<u32, ArmError> {
    let lun = &element["lun"];
    if lun.is_null() {
        let message = format!("Required parameter '{target}.lun' is missing (null).");
        return Err(errors::invalid(target, message));
    }
    let number = lun.as_u64().and_then(|lun| u32::try_from(lun).ok());
    let last = DATA_DISKS_MAX - 1;
    number
        .filter(|lun| usize::try_from(*lun).is_ok_and(|lun| lun <= last))
        .ok_or_else(|| {
            let message = format!(
                "The value {lun} of parameter lun is out of range. The value must be between 0 and {last}, inclusive"
            );
            errors::invalid(target, message)
        })
}

/// Data disks with sources of their own go with a source of the disk to boot from, not with a whole image; and no source
/// is named twice.
pub fn need_other_than(shape: &Shape, asked: &[Asked], os: &[Source]) -> Result<(), ArmError> {
    let own: Vec<&Source> = asked.iter().filter_map(|one| one.source.as_ref()).collect();
    let whole = os.iter().any(|source| !source.target().contains(shape.os));
    if whole && !own.is_empty() {
        let message = "The source has data disks of its own, or none: data disks with sources are given together \
                       with a source of the OS disk only.";
        return Err(errors::invalid(shape.target, message));
    }
    let mut names: Vec<String> = own.into_iter().chain(os).map(Source::folded).collect();
    names.sort();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        None => Ok(()),
        Some(pair) => {
            let shown: String = pair[0].chars().take(200).collect();
            let message = format!(
                "Two disks have the source '{shown}'. Each disk needs a source of its own."
            );
            Err(errors::invalid(shape.target, message))
        }
    }
}

/// Takes over the data disks that a source has and the body does not mention: their numbers and caching.
pub fn inherit(
    shape: &Shape,
    properties: &mut Map<String, Value>,
    source: &Resource,
) -> Result<(), ArmError> {
    let of_source = &source.properties[PROFILE];
    let lists = [&OF_VERSION, &OF_IMAGE].map(|other| (other, &of_source[other.list]));
    let Some((other, theirs)) = lists.into_iter().find(|(_, list)| list.is_array()) else {
        return Ok(());
    };
    let ours = shape.list_of(properties)?;
    for theirs in theirs.as_array().into_iter().flatten() {
        if theirs["lun"].is_null() || ours.iter().any(|known| known["lun"] == theirs["lun"]) {
            continue;
        }
        let caching = theirs[other.caching].as_str().unwrap_or("None");
        ours.push(json!({ "lun": theirs["lun"], shape.caching: caching }));
    }
    Ok(())
}

/// Looks the data disks of a new resource up, and writes down what they are: those that are known as facts, others as
/// origins for the job. The facts of the source must be there already.
pub async fn find(
    server: &Server,
    call: &Call,
    shape: &Shape,
    asked: Vec<Asked>,
    properties: &mut Map<String, Value>,
    origins: &mut Origins,
) -> Result<(), ArmError> {
    let facts = properties.get(FACTS).map(|facts| &facts[DATA_DISKS]);
    let mut facts: Vec<Value> = facts.and_then(Value::as_array).cloned().unwrap_or_default();
    let sources = asked.iter().filter_map(|one| one.source.clone()).collect();
    // Their links come after those of the disk to boot from.
    let first = call.links.len() - bits::links(sources).len().min(call.links.len());
    let mut permits = call.links[first..].iter();
    for Asked { lun, source } in asked {
        let Some(source) = source else {
            if facts.iter().any(|fact| fact["lun"] == lun) {
                continue;
            }
            let message = format!("The data disk with lun {lun} has no source.");
            return Err(errors::invalid(shape.target, message));
        };
        let permit = match bits::links(vec![source.clone()]).is_empty() {
            true => None,
            false => permits.next(),
        };
        facts.push(fact_of(server, call, shape, (lun, source), permit, origins).await?);
    }
    facts.sort_by_key(|fact| fact["lun"].as_u64());
    show(shape, properties, facts)
}

/// What is known of one data disk.
async fn fact_of(
    server: &Server,
    call: &Call,
    shape: &Shape,
    (lun, source): (u32, Source),
    permit: Option<&Permit>,
    origins: &mut Origins,
) -> Result<Value, ArmError> {
    let shown = source.folded();
    let resource = match bits::find_one(server, call, source, permit).await? {
        Bits::From(origin) => {
            origins.data.insert(lun, origin);
            let whence = bits::without_query(&shown);
            return Ok(json!({ "lun": lun, "importedFrom": whence }));
        }
        Bits::Of(resource) | Bits::Machine(resource) => resource,
    };
    let kind = resource.id.resource_type();
    if !kind.is(disks::DISK) && !kind.is(disks::SNAPSHOT) {
        let message = format!(
            "The source of a data disk must be a disk, a snapshot or a VHD, not '{}'.",
            resource.id
        );
        return Err(errors::invalid(shape.source, message));
    }
    Ok(json!({
        "lun": lun,
        "diskDigest": resource.properties[FACTS]["diskDigest"],
        "logicalBytes": disks::bytes_of(&resource.properties),
        "copiedFrom": resource.id.to_string(),
    }))
}

/// Writes the facts down, and what is shown of them: one element each, in their order.
fn show(
    shape: &Shape,
    properties: &mut Map<String, Value>,
    facts: Vec<Value>,
) -> Result<(), ArmError> {
    if facts.is_empty() {
        return Ok(());
    }
    let given = std::mem::take(shape.list_of(properties)?);
    let shown = facts.iter().map(|fact| {
        let element = given.iter().find(|one| one["lun"] == fact["lun"]).cloned();
        let mut element = element.unwrap_or_else(|| json!({ "lun": fact["lun"] }));
        if element[shape.caching].is_null() {
            element[shape.caching] = "None".into();
        }
        if let Some(bytes) = fact["logicalBytes"].as_u64() {
            element[shape.size] = bytes.div_ceil(GIB).into();
        }
        element
    });
    *shape.list_of(properties)? = shown.collect();
    let known = properties.entry(FACTS).or_insert_with(|| json!({}));
    known[DATA_DISKS] = facts.into();
    Ok(())
}

/// What a data disk that was read is.
pub fn brought(properties: &mut Value, lun: u32, imported: &Imported) {
    let shape = match properties.get("publishingProfile") {
        Some(_) => OF_VERSION,
        None => OF_IMAGE,
    };
    let facts = properties[FACTS][DATA_DISKS].as_array_mut();
    for fact in facts
        .into_iter()
        .flatten()
        .filter(|fact| fact["lun"] == lun)
    {
        fact["diskDigest"] = imported.digest.to_string().into();
        fact["logicalBytes"] = imported.logical_bytes.into();
    }
    let shown = properties[PROFILE][shape.list].as_array_mut();
    for element in shown.into_iter().flatten().filter(|one| one["lun"] == lun) {
        element[shape.size] = imported.logical_bytes.div_ceil(GIB).into();
    }
}

/// What the disks are made from may be repeated, and left out, but not changed.
pub fn check_fixed(
    shape: &Shape,
    old: &Map<String, Value>,
    new: &Map<String, Value>,
) -> Result<(), ArmError> {
    let body = |of: &Map<String, Value>| json!({ "properties": of });
    let new = asked(shape, &body(new))?;
    if new.is_empty() {
        return Ok(());
    }
    let old = asked(shape, &body(old))?;
    let same = |one: &Asked| {
        let known = old.iter().find(|known| known.lun == one.lun);
        known.is_some_and(|known| match (&one.source, &known.source) {
            (None, _) => true,
            (Some(new), Some(old)) => new.folded() == old.folded(),
            (Some(_), None) => false,
        })
    };
    if new.len() == old.len() && new.iter().all(same) {
        return Ok(());
    }
    let target = format!("{}.{}", shape.kind, shape.target);
    let message = format!("Changing property '{target}' is not allowed.");
    Err(ArmError::new(ErrorCode::PropertyChangeNotAllowed, message).with_target(target))
}

/// The numbers of the data disks that a machine has.
pub fn luns_of_machine(machine: &Resource) -> Vec<u32> {
    let list = machine.properties[PROFILE][OF_IMAGE.list].as_array();
    let luns = list
        .into_iter()
        .flatten()
        .filter_map(|disk| disk["lun"].as_u64());
    luns.filter_map(|lun| u32::try_from(lun).ok()).collect()
}
