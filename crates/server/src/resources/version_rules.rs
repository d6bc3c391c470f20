//! Rules of what a client's PUT may say of an image version: regions, replicas, storage, dates, safety.
//!
//! Pure but for which regions and zones there are. What is right is written down with its defaults, so that a reader
//! never has to know them.

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use wire::compute::PublishingProfile;
use wire::{ArmError, ErrorCode, Location};

use super::unchanged;
use crate::body;
use crate::errors;
use crate::operation::Call;
use crate::state::Server;

const REPLICAS_MAX: i32 = 100;
const REGIONS_MAX: usize = 100;
const REGIONS: &str = "properties.publishingProfile.targetRegions";
const STORAGE: &str = "properties.publishingProfile.storageAccountType";
const STRATEGY: &str = "properties.publishingProfile.storageAccountStrategy";
const MODE: &str = "properties.publishingProfile.replicationMode";
const LRS: &str = "Standard_LRS";
const ZRS: &str = "Standard_ZRS";
const PREFERS_ZRS: &str = "PreferStandard_ZRS";
const STORAGE_TYPES: [&str; 4] = [LRS, ZRS, "Premium_LRS", "PremiumV2_LRS"];
const STRATEGIES: [&str; 2] = [PREFERS_ZRS, "DefaultStandard_LRS"];
const MODES: [&str; 2] = ["Full", "Shallow"];
const FIXED: [&str; 3] = [
    "storageAccountType",
    "storageAccountStrategy",
    "replicationMode",
];
/// What only the service writes of a safety profile.
const SAFETY_READ_ONLY: [&str; 2] = ["reportedForPolicyViolation", "policyViolations"];
const ALLOW_DELETION: &str = "allowDeletionOfReplicatedLocations";

/// Target regions, replica counts, dates: defaults written down, rules held.
pub fn settle_profile(
    server: &Server,
    call: &Call,
    location: &str,
    old: Option<&Map<String, Value>>,
    properties: &mut Map<String, Value>,
) -> Result<(), ArmError> {
    settle_safety(old, properties)?;
    let old = old.and_then(|old| old.get("publishingProfile"));
    let old = old.and_then(Value::as_object);
    let mut profile = match properties.remove("publishingProfile") {
        Some(Value::Object(profile)) => profile,
        _ => old.cloned().unwrap_or_default(),
    };
    body::keep(&mut profile, old, &["targetRegions"]);
    body::keep(&mut profile, old, &FIXED);
    body::read_only(&mut profile, old, &["publishedDate"]);
    let regions = profile.get("targetRegions").and_then(Value::as_array);
    if regions.is_none_or(Vec::is_empty) {
        profile.insert("targetRegions".into(), json!([{ "name": location }]));
    }
    settle_storage(server, call, &mut profile)?;
    if let Some(old) = old {
        for key in FIXED {
            let path = format!("properties.publishingProfile.{key}");
            let kept = old.get(key).filter(|kept| !kept.is_null());
            if kept.is_some() {
                unchanged("galleryImageVersion", &path, kept, profile.get(key))?;
            }
        }
    }
    let typed: PublishingProfile = body::typed(&profile)?;
    check_regions(server, call, location, &typed)?;
    let path = "properties.publishingProfile.endOfLifeDate";
    check_end_of_life(old, &profile, path)?;
    check_removed(old, &typed, properties)?;
    let default = typed.replica_count.unwrap_or(1);
    profile.insert("replicaCount".into(), default.into());
    profile.insert("excludeFromLatest".into(), typed.exclude_from_latest.into());
    for region in regions_of(&mut profile) {
        if region
            .get("regionalReplicaCount")
            .is_none_or(Value::is_null)
        {
            region["regionalReplicaCount"] = default.into();
        }
    }
    properties.insert("publishingProfile".into(), Value::Object(profile));
    Ok(())
}

fn regions_of(profile: &mut Map<String, Value>) -> impl Iterator<Item = &mut Value> {
    let regions = profile.get_mut("targetRegions");
    let regions = regions.and_then(Value::as_array_mut);
    let objects = regions.into_iter().flatten();
    objects.filter(|region| region.is_object())
}

/// A word of a list, as Azure writes it; clients write any case.
fn one_of(value: &Value, known: &[&'static str], path: &str) -> Result<&'static str, ArmError> {
    let text = value.as_str().unwrap_or_default();
    let found = known.iter().find(|one| one.eq_ignore_ascii_case(text));
    found.copied().ok_or_else(|| {
        errors::invalid(
            path,
            format!(
                "The value {value} of parameter '{path}' must be one of {}.",
                known.join(", ")
            ),
        )
    })
}

/// Where the replicas are kept: the profile's type or strategy, and each region's.
fn settle_storage(
    server: &Server,
    call: &Call,
    profile: &mut Map<String, Value>,
) -> Result<(), ArmError> {
    let given =
        |of: &Map<String, Value>, key: &str| of.get(key).filter(|value| !value.is_null()).cloned();
    let mode = match given(profile, "replicationMode") {
        Some(mode) => one_of(&mode, &MODES, MODE)?,
        None => MODES[0],
    };
    profile.insert("replicationMode".into(), mode.into());
    let mut types = STORAGE_TYPES.to_vec();
    if !call.version.at_least(2025, 3, 3) {
        types.pop();
    }
    let usual = usual_storage(profile, &types)?;
    let prefers = profile.get("storageAccountStrategy").is_some();
    for region in regions_of(profile) {
        let name = Location::new(region["name"].as_str().unwrap_or_default());
        let zones = server.work.zones(&name);
        let asked = region
            .get("storageAccountType")
            .filter(|value| !value.is_null());
        let storage = match asked {
            Some(asked) => one_of(asked, &types, REGIONS)?,
            // A strategy takes what the region has.
            None if prefers && zones < 2 => LRS,
            None => usual,
        };
        if storage == ZRS && zones == 1 {
            return Err(errors::invalid(
                REGIONS,
                format!(
                    "ZRS storage account type is not supported in this region. The region '{name}' has \
                     one zone."
                ),
            ));
        }
        let kept = server.work.check_storage(&name, storage);
        kept.map_err(|why| errors::invalid(REGIONS, why))?;
        region["storageAccountType"] = storage.into();
    }
    check_unsupported(profile)
}

/// The type of regions that say none, from the profile's type or strategy, which exclude each other.
fn usual_storage(
    profile: &mut Map<String, Value>,
    types: &[&'static str],
) -> Result<&'static str, ArmError> {
    let given =
        |key: &str| -> Option<Value> { profile.get(key).filter(|value| !value.is_null()).cloned() };
    match (given("storageAccountStrategy"), given("storageAccountType")) {
        (Some(_), Some(_)) => Err(errors::invalid(
            STRATEGY,
            "The storageAccountStrategy cannot be used together with the storageAccountType.",
        )),
        (Some(strategy), None) => {
            let strategy = one_of(&strategy, &STRATEGIES, STRATEGY)?;
            profile.insert("storageAccountStrategy".into(), strategy.into());
            Ok(if strategy == PREFERS_ZRS { ZRS } else { LRS })
        }
        (None, storage) => {
            let storage = match storage {
                Some(storage) => one_of(&storage, types, STORAGE)?,
                None => LRS,
            };
            profile.insert("storageAccountType".into(), storage.into());
            Ok(storage)
        }
    }
}

/// What is refused rather than kept and not done.
fn check_unsupported(profile: &Map<String, Value>) -> Result<(), ArmError> {
    let edges = profile
        .get("targetExtendedLocations")
        .and_then(Value::as_array);
    if edges.is_some_and(|edges| !edges.is_empty()) {
        return Err(errors::invalid(
            "properties.publishingProfile.targetExtendedLocations",
            "This installation has no edge zones.",
        ));
    }
    Ok(())
}

fn check_regions(
    server: &Server,
    call: &Call,
    location: &str,
    profile: &PublishingProfile,
) -> Result<(), ArmError> {
    let regions = &profile.target_regions;
    if regions.len() > REGIONS_MAX {
        let message = format!("A version has at most {REGIONS_MAX} target regions.");
        return Err(errors::invalid(REGIONS, message));
    }
    check_count(profile.replica_count, "replicaCount")?;
    for (index, region) in regions.iter().enumerate() {
        if regions[..index]
            .iter()
            .any(|other| other.name == region.name)
        {
            return Err(errors::invalid(
                REGIONS,
                "Duplicate regions are not allowed in target publishing regions.",
            ));
        }
        server.need_region(region.name.as_str(), REGIONS)?;
        check_count(region.regional_replica_count, "regionalReplicaCount")?;
    }
    if !regions
        .iter()
        .any(|region| region.name == Location::new(location))
    {
        let names: Vec<&str> = regions.iter().map(|region| region.name.as_str()).collect();
        return Err(errors::invalid(
            REGIONS,
            format!(
                "Gallery image version publishing profile regions '{}' must contain the location of \
                 image version '{location}'.",
                names.join(", ")
            ),
        ));
    }
    let shallow = profile.replication_mode.as_deref() == Some(MODES[1]);
    let counts = |region: &wire::compute::TargetRegion| {
        region.regional_replica_count.or(profile.replica_count)
    };
    if shallow && (regions.len() > 1 || regions.iter().any(|one| counts(one).unwrap_or(1) != 1)) {
        let message = format!(
            "The image version '{}' with replication mode Shallow is kept in its source region only, with \
             one replica.",
            call.id.name()
        );
        return Err(errors::invalid(REGIONS, message));
    }
    Ok(())
}

fn check_count(count: Option<i32>, name: &str) -> Result<(), ArmError> {
    match count {
        Some(count) if !(1..=REPLICAS_MAX).contains(&count) => Err(errors::invalid(
            REGIONS,
            format!(
                "The value {count} of parameter {name} is out of range. The value must be between 1 and \
                 {REPLICAS_MAX}, inclusive."
            ),
        )),
        _ => Ok(()),
    }
}

/// A region is dropped only where the safety profile lets it.
fn check_removed(
    old: Option<&Map<String, Value>>,
    new: &PublishingProfile,
    properties: &Map<String, Value>,
) -> Result<(), ArmError> {
    let Some(old) = old else {
        return Ok(());
    };
    let old: PublishingProfile = body::typed(old)?;
    let kept = |name: &Location| new.target_regions.iter().any(|region| region.name == *name);
    let dropped: Vec<&str> = old
        .target_regions
        .iter()
        .filter(|region| !kept(&region.name))
        .map(|region| region.name.as_str())
        .collect();
    let allowed = properties
        .get("safetyProfile")
        .is_some_and(|safety| safety[ALLOW_DELETION] == true);
    if dropped.is_empty() || allowed {
        return Ok(());
    }
    let message = format!(
        "Removing the image version from the regions '{}' is not allowed unless \
         'safetyProfile.{ALLOW_DELETION}' is true.",
        dropped.join(", ")
    );
    Err(ArmError::new(ErrorCode::OperationNotAllowed, message).with_target(REGIONS))
}

/// Members that are there are booleans, and what the service reports is the service's.
fn settle_safety(
    old: Option<&Map<String, Value>>,
    properties: &mut Map<String, Value>,
) -> Result<(), ArmError> {
    const PATH: &str = "properties.safetyProfile";
    let old = old.and_then(|old| old.get("safetyProfile"));
    let old = old.and_then(Value::as_object);
    let mut safety = match properties.remove("safetyProfile") {
        Some(Value::Object(safety)) => safety,
        None | Some(Value::Null) => Map::new(),
        Some(_) => return Err(body::wrong_type(PATH, "an object")),
    };
    body::read_only(&mut safety, old, &SAFETY_READ_ONLY);
    for key in [ALLOW_DELETION, "blockDeletionBeforeEndOfLife"] {
        match safety.get(key) {
            None | Some(Value::Bool(_)) => {}
            Some(Value::Null) => drop(safety.remove(key)),
            Some(_) => return Err(body::wrong_type(&format!("{PATH}.{key}"), "true or false")),
        }
    }
    safety
        .entry("reportedForPolicyViolation")
        .or_insert(false.into());
    properties.insert("safetyProfile".into(), Value::Object(safety));
    Ok(())
}

/// A date that is set or moved must lie ahead; one that has passed may stay. `path` is what the member is called.
pub fn check_end_of_life(
    old: Option<&Map<String, Value>>,
    new: &Map<String, Value>,
    path: &str,
) -> Result<(), ArmError> {
    let date = new.get("endOfLifeDate").filter(|date| !date.is_null());
    let kept = old.and_then(|old| old.get("endOfLifeDate"));
    let Some(date) = date.filter(|date| kept != Some(*date)) else {
        return Ok(());
    };
    let Some(end) = date.as_str().and_then(moment) else {
        return Err(errors::invalid(path, format!("{date} is not a date.")));
    };
    if end <= Timestamp::now() {
        return Err(errors::invalid(
            path,
            "EndOfLifeDate must be set to a future date.",
        ));
    }
    Ok(())
}

/// Clients write whole dates, and times with and without a zone.
pub fn moment(text: &str) -> Option<Timestamp> {
    text.parse().ok().or_else(|| {
        let time: jiff::civil::DateTime = text.parse().ok()?;
        Some(time.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp())
    })
}
