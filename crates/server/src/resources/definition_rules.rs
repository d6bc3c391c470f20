//! Rules of what an image definition says: which system, which features, which machines suit it.
//!
//! Pure. What an image is never changes; what is said about it may.

use serde_json::{Map, Value, json};
use wire::{ArmError, ErrorCode};

use super::unchanged;
use crate::body;
use crate::errors;
use crate::operation::Call;

const FIXED: [&str; 4] = ["osType", "osState", "hyperVGeneration", "architecture"];
const FIXED_IDENTIFIER: [&str; 3] = ["publisher", "offer", "sku"];
const FEATURES: &str = "properties.features";
const FEATURES_MAX: usize = 16;
const SECURITY: &str = "SecurityType";
/// Features of Azure's with the values that it knows.
const KNOWN_FEATURES: [(&str, &[&str]); 5] = [
    (
        SECURITY,
        &[
            "None",
            "Standard",
            "TrustedLaunch",
            "TrustedLaunchSupported",
            "ConfidentialVM",
            "ConfidentialVmSupported",
            "TrustedLaunchAndConfidentialVmSupported",
        ],
    ),
    ("IsAcceleratedNetworkSupported", &["True", "False"]),
    ("IsHibernateSupported", &["True", "False"]),
    (
        "DiskControllerTypes",
        &["SCSI", "NVMe", "SCSI,NVMe", "SCSI, NVMe"],
    ),
    (
        "DiskControllerType",
        &["SCSI", "NVMe", "SCSI,NVMe", "SCSI, NVMe"],
    ),
];
const DISK_TYPES: [&str; 7] = [
    "Standard_LRS",
    "StandardSSD_LRS",
    "StandardSSD_ZRS",
    "Premium_LRS",
    "Premium_ZRS",
    "PremiumV2_LRS",
    "UltraSSD_LRS",
];
const ARCHITECTURES: [&str; 2] = ["x64", "Arm64"];
const VCPUS_MAX: i64 = 80;
const MEMORY_GB_MAX: i64 = 4096;
const TEXT_CHARS_MAX: usize = 4096;

/// Defaults that depend on the version are written down at the first PUT.
pub fn defaults(call: &Call, properties: &mut Map<String, Value>) {
    let second = call.version.at_least(2025, 3, 3);
    let absent =
        |properties: &Map<String, Value>, key: &str| properties.get(key).is_none_or(Value::is_null);
    if absent(properties, "hyperVGeneration") {
        let generation = if second { "V2" } else { "V1" };
        properties.insert("hyperVGeneration".into(), generation.into());
    }
    if absent(properties, "architecture") {
        properties.insert("architecture".into(), "x64".into());
    }
    let is_second = properties["hyperVGeneration"] == "V2";
    if second && is_second && absent(properties, "features") {
        let feature = json!({ "name": SECURITY, "value": "TrustedLaunchSupported" });
        properties.insert("features".into(), json!([feature]));
    }
}

pub fn need_members(properties: &Map<String, Value>) -> Result<(), ArmError> {
    let missing = |path: &str| {
        errors::invalid(
            path,
            format!("Required parameter '{path}' is missing (null)."),
        )
    };
    for key in ["osType", "osState", "identifier"] {
        if properties.get(key).is_none_or(Value::is_null) {
            return Err(missing(&format!("galleryImage.properties.{key}")));
        }
    }
    for key in FIXED_IDENTIFIER {
        if properties["identifier"].get(key).is_none_or(Value::is_null) {
            return Err(missing(&format!(
                "galleryImage.properties.identifier.{key}"
            )));
        }
    }
    Ok(())
}

/// Everything that may be wrong with the definition alone.
pub fn check(properties: &Map<String, Value>) -> Result<(), ArmError> {
    check_recommended(properties)?;
    check_features(properties)?;
    check_disallowed(properties)?;
    check_plan(properties)?;
    let architecture = properties.get("architecture").and_then(Value::as_str);
    let known = |text: &str| {
        ARCHITECTURES
            .iter()
            .any(|one| one.eq_ignore_ascii_case(text))
    };
    if !architecture.is_some_and(known) {
        let message = format!(
            "The architecture must be one of {}.",
            ARCHITECTURES.join(", ")
        );
        return Err(errors::invalid("properties.architecture", message));
    }
    for key in [
        "description",
        "eula",
        "privacyStatementUri",
        "releaseNoteUri",
    ] {
        let path = format!("properties.{key}");
        match properties.get(key) {
            None | Some(Value::Null) => {}
            Some(Value::String(text)) if text.chars().count() <= TEXT_CHARS_MAX => {}
            Some(Value::String(_)) => {
                let message = format!(
                    "The value of parameter '{path}' has at most {TEXT_CHARS_MAX} characters."
                );
                return Err(errors::invalid(&path, message));
            }
            Some(_) => return Err(body::wrong_type(&path, "a string")),
        }
    }
    Ok(())
}

/// `recommended.vCPUs` and `.memory` are ranges.
fn check_recommended(properties: &Map<String, Value>) -> Result<(), ArmError> {
    let Some(recommended) = properties.get("recommended").and_then(Value::as_object) else {
        return Ok(());
    };
    for (member, most) in [("vCPUs", VCPUS_MAX), ("memory", MEMORY_GB_MAX)] {
        let path = format!("recommended.{member}");
        let bound = |key: &str| -> Result<Option<i64>, ArmError> {
            let Some(value) = recommended.get(member).and_then(|range| range.get(key)) else {
                return Ok(None);
            };
            match value.as_i64() {
                _ if value.is_null() => Ok(None),
                Some(number) if (1..=most).contains(&number) => Ok(Some(number)),
                _ => Err(errors::invalid(
                    &path,
                    format!(
                        "The value {value} of parameter {path}.{key} is out of range. The value must \
                         be between 1 and {most}, inclusive."
                    ),
                )),
            }
        };
        if let (Some(min), Some(max)) = (bound("min")?, bound("max")?)
            && min > max
        {
            return Err(errors::invalid(
                &path,
                format!(
                    "The minimum value of {path} must not be greater than the maximum value of {path}."
                ),
            ));
        }
    }
    Ok(())
}

fn check_features(properties: &Map<String, Value>) -> Result<(), ArmError> {
    let features = match properties.get("features") {
        None | Some(Value::Null) => return Ok(()),
        Some(Value::Array(features)) if features.len() <= FEATURES_MAX => features,
        Some(_) => {
            let message =
                format!("The features are a list of at most {FEATURES_MAX} of name and value.");
            return Err(errors::invalid(FEATURES, message));
        }
    };
    let mut seen: Vec<&str> = Vec::new();
    for feature in features {
        let text = |key: &str| feature.get(key).and_then(Value::as_str);
        let (Some(name), Some(value)) = (text("name"), text("value")) else {
            let message = "Each feature has a name and a value, both text.";
            return Err(errors::invalid(FEATURES, message));
        };
        if seen.iter().any(|other| other.eq_ignore_ascii_case(name)) {
            let message = format!("The feature '{name}' is given twice.");
            return Err(errors::invalid(FEATURES, message));
        }
        seen.push(name);
        let known = KNOWN_FEATURES
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name));
        // Azure adds features now and then: one that is not known here is kept as it is.
        let Some((_, values)) = known else {
            continue;
        };
        if !values.iter().any(|known| known.eq_ignore_ascii_case(value)) {
            let message = format!(
                "The value '{value}' of the feature '{name}' must be one of {}.",
                values.join("; ")
            );
            return Err(errors::invalid(FEATURES, message));
        }
        let needs_second = name.eq_ignore_ascii_case(SECURITY)
            && !["None", "Standard"]
                .iter()
                .any(|plain| plain.eq_ignore_ascii_case(value));
        if needs_second && properties.get("hyperVGeneration") == Some(&json!("V1")) {
            let message =
                format!("The security type '{value}' needs an image of the Hyper-V generation V2.");
            return Err(errors::invalid(FEATURES, message));
        }
    }
    Ok(())
}

fn check_disallowed(properties: &Map<String, Value>) -> Result<(), ArmError> {
    const PATH: &str = "properties.disallowed.diskTypes";
    let types = properties
        .get("disallowed")
        .and_then(|disallowed| disallowed.get("diskTypes"));
    let types = match types {
        None | Some(Value::Null) => return Ok(()),
        Some(Value::Array(types)) => types,
        Some(_) => return Err(body::wrong_type(PATH, "a list of disk types")),
    };
    let known = |text: &str| {
        DISK_TYPES
            .iter()
            .any(|known| known.eq_ignore_ascii_case(text))
    };
    match types.iter().find(|one| !one.as_str().is_some_and(known)) {
        None => Ok(()),
        Some(other) => Err(errors::invalid(
            PATH,
            format!(
                "The disk type {other} is not one of {}.",
                DISK_TYPES.join(", ")
            ),
        )),
    }
}

fn check_plan(properties: &Map<String, Value>) -> Result<(), ArmError> {
    let plan = properties.get("purchasePlan").and_then(Value::as_object);
    for (key, value) in plan.into_iter().flatten() {
        let known = ["name", "publisher", "product"].contains(&key.as_str());
        if !known || !(value.is_string() || value.is_null()) {
            let path = format!("properties.purchasePlan.{key}");
            let message = "A purchase plan has a name, a publisher and a product, all text.";
            return Err(errors::invalid(&path, message));
        }
    }
    Ok(())
}

/// What may not change between two PUTs.
pub fn check_fixed(old: &Map<String, Value>, new: &Map<String, Value>) -> Result<(), ArmError> {
    let path = |key: &str| format!("properties.{key}");
    for key in FIXED {
        unchanged("galleryImage", &path(key), old.get(key), new.get(key))?;
    }
    let null = Value::Null;
    let identifier = |of: &Map<String, Value>| of.get("identifier").unwrap_or(&null).clone();
    for key in FIXED_IDENTIFIER {
        unchanged(
            "galleryImage",
            &path(&format!("identifier.{key}")),
            identifier(old).get(key),
            identifier(new).get(key),
        )?;
    }
    let plan = |of: &Map<String, Value>| of.get("purchasePlan").unwrap_or(&null).clone();
    unchanged(
        "galleryImage",
        &path("purchasePlan"),
        Some(&plan(old)),
        Some(&plan(new)),
    )?;
    let allowed = new.get("allowUpdateImage") == Some(&Value::Bool(true));
    let features = |of: &Map<String, Value>| of.get("features").unwrap_or(&null).clone();
    if features(old) == features(new) || allowed {
        return Ok(());
    }
    Err(ArmError::new(
        ErrorCode::PropertyChangeNotAllowed,
        "Changing property 'galleryImage.properties.features' is not allowed unless \
         'properties.allowUpdateImage' is true.",
    )
    .with_target("galleryImage.properties.features"))
}
