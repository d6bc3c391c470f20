//! Rules of the disk encryption sets that an image version names: `encryption` of its target regions.
//!
//! A region's disks are encrypted by one set, which is in that region and in the version's subscription; where one region
//! encrypts, all do; and what was chosen stays as it is.

use serde_json::{Map, Value};
use wire::{ArmError, ErrorCode, Location, ResourceId};

use super::disk_encryption_sets::{self as sets, need_active};
use crate::errors;
use crate::operation::{Call, Link};
use crate::state::Server;

const TARGET: &str = "properties.publishingProfile.targetRegions.encryption";
const ENCRYPTION: &str = "encryption";

fn regions(profile: &Value) -> impl Iterator<Item = &Value> {
    let regions = profile["targetRegions"].as_array();
    regions.into_iter().flatten()
}

/// Every set that a region names, with the disk that it is for.
fn named(region: &Value) -> Vec<(String, &str)> {
    let encryption = &region[ENCRYPTION];
    let data = encryption["dataDiskImages"]
        .as_array()
        .into_iter()
        .flatten();
    let data = data.map(|disk| (format!("dataDiskImages[lun {}]", disk["lun"]), disk));
    let os = ("osDiskImage".to_owned(), &encryption["osDiskImage"]);
    let all = std::iter::once(os).chain(data);
    let sets = all.filter_map(|(disk, of)| Some((disk, of["diskEncryptionSetId"].as_str()?)));
    sets.filter(|(_, set)| !set.is_empty()).collect()
}

/// Using a set takes the right to read it, in its own tenant.
pub fn links(body: &Value) -> Vec<Link> {
    let profile = &body["properties"]["publishingProfile"];
    let mut links: Vec<Link> = Vec::new();
    for (_, set) in regions(profile).flat_map(named) {
        if !links
            .iter()
            .any(|link| link.scope.eq_ignore_ascii_case(set))
        {
            links.push(Link {
                scope: set.to_owned(),
                action: sets::READ,
                target: TARGET,
            });
        }
    }
    links
}

/// Holds what a profile says about sets against the rules, and against what the version said before.
pub async fn settle(
    server: &Server,
    call: &Call,
    old: Option<&Value>,
    profile: &mut Map<String, Value>,
) -> Result<(), ArmError> {
    if let Some(Value::Array(regions)) = profile.get_mut("targetRegions") {
        for region in regions.iter_mut().filter_map(Value::as_object_mut) {
            // Clients send empty shells where they mean nothing.
            let shell = Value::Object(region.clone());
            check_shape(&shell)?;
            if named(&shell).is_empty() {
                region.remove(ENCRYPTION);
            }
        }
    }
    let profile = Value::Object(profile.clone());
    if let Some(old) = old {
        check_fixed(old, &profile)?;
    }
    check_all(&profile)?;
    for region in regions(&profile) {
        if let Some((_, set)) = named(region).first() {
            let here = Location::new(region["name"].as_str().unwrap_or_default());
            check_set(server, call, set, &here).await?;
        }
    }
    Ok(())
}

fn check_shape(region: &Value) -> Result<(), ArmError> {
    let encryption = &region[ENCRYPTION];
    let is_object = encryption.is_null() || encryption.is_object();
    let data = &encryption["dataDiskImages"];
    if !is_object || !(data.is_null() || data.is_array()) {
        return Err(crate::body::wrong_type(TARGET, "an object with disks"));
    }
    if !encryption["osDiskImage"]["securityProfile"].is_null() {
        let message = "This installation has no confidential machines: 'securityProfile' of an encrypted disk is not supported.";
        return Err(errors::invalid(TARGET, message));
    }
    let all = named(region);
    let Some(((_, first), rest)) = all.split_first() else {
        return Ok(());
    };
    if rest.iter().all(|(_, set)| set.eq_ignore_ascii_case(first)) {
        return Ok(());
    }
    let message = format!(
        "The disks of an image version in one region are encrypted by one disk encryption set. In region '{}' are named: {}.",
        region["name"].as_str().unwrap_or_default(),
        all.iter()
            .map(|(disk, set)| format!("{disk}: {set}"))
            .collect::<Vec<_>>()
            .join(", ")
    );
    Err(errors::invalid(TARGET, message))
}

/// Where one region encrypts, all do.
fn check_all(profile: &Value) -> Result<(), ArmError> {
    let encrypting = regions(profile).find_map(|region| {
        let (disk, set) = named(region).into_iter().next()?;
        Some((region["name"].as_str()?, disk, set))
    });
    let bare = regions(profile).find(|region| named(region).is_empty());
    match (encrypting, bare) {
        (Some((other, disk, set)), Some(bare)) => {
            let message = format!(
                "A disk encryption set is required for disk '{disk}' in target region '{}' since disk encryption set \
                 '{set}' is used for the corresponding disk in region '{other}'",
                bare["name"].as_str().unwrap_or_default()
            );
            Err(errors::invalid(TARGET, message))
        }
        _ => Ok(()),
    }
}

/// A region keeps the set that it has; and a version that has none gets none.
fn check_fixed(old: &Value, new: &Value) -> Result<(), ArmError> {
    let refused = || {
        const PATH: &str =
            "galleryImageVersion.properties.publishingProfile.targetRegions.encryption";
        let message = format!("Changing property '{PATH}' is not allowed.");
        Err(ArmError::new(ErrorCode::PropertyChangeNotAllowed, message).with_target(PATH))
    };
    let set = |region: &Value| -> Option<String> {
        let (_, set) = named(region).into_iter().next()?;
        Some(set.to_lowercase())
    };
    let was_encrypted = regions(old).any(|region| set(region).is_some());
    let name = |region: &Value| Location::new(region["name"].as_str().unwrap_or_default());
    for region in regions(new) {
        let before = regions(old).find(|one| name(one) == name(region));
        let same = match before {
            Some(before) => set(before) == set(region),
            None => was_encrypted || set(region).is_none(),
        };
        if !same {
            return refused();
        }
    }
    Ok(())
}

async fn check_set(
    server: &Server,
    call: &Call,
    named: &str,
    region: &Location,
) -> Result<(), ArmError> {
    let id = ResourceId::parse(named).ok();
    let id = id.filter(|id| id.resource_type().is(sets::KIND));
    let wrong = |why: String| Err(errors::invalid(TARGET, why));
    let Some(id) = id else {
        return wrong(format!("'{named}' is not the id of a disk encryption set."));
    };
    let same = |part: &str| -> bool {
        let (one, other) = (id.part(part), call.id.part(part));
        one.zip(other)
            .is_some_and(|(one, other)| one.eq_ignore_ascii_case(other))
    };
    if !same("subscriptions") {
        return wrong(format!(
            "The disk encryption set '{id}' must be in the subscription of the image version."
        ));
    }
    let permit = call.links.iter().find(|link| *link.scope() == id);
    let missing = || {
        let message = format!("The disk encryption set '{id}' is not found.");
        ArmError::new(ErrorCode::NotFound, message).with_target(TARGET)
    };
    let permit = permit.ok_or_else(missing)?;
    let set = server.catalog.get(&permit.to_read_own()).await;
    let set = set.map_err(|_| missing())?;
    if set.location.as_deref().map(Location::new).as_ref() != Some(region) {
        return wrong(format!(
            "The disk encryption set '{id}' is in location '{}', and cannot encrypt disks in region '{region}'.",
            set.location.unwrap_or_default()
        ));
    }
    need_active(server, &set, TARGET).await
}
