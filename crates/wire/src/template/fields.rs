//! The members of a template's body, as a table: what a client may write at which place, and what is said of
//! anything else. From api-version 2024-02-01 on a member that is not known is refused and letters count; before,
//! it is dropped and they do not. This module must not look into values.

use serde_json::{Map, Value};

/// What may stand at a place.
enum Shape {
    /// Anything: whoever reads the value checks it.
    Any,
    /// A list of these.
    List(&'static Shape),
    /// An object with these members.
    Object(&'static [Field]),
    /// An object whose member `type` (or `scheme`, `kind`) says which members it has.
    OneOf(&'static str, &'static [(&'static str, &'static [Field])]),
}

type Field = (&'static str, Shape);

/// A member that nothing knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Unmarshalling entity encountered error: json: unknown field \"{field}\"")]
pub struct UnknownField {
    /// Where it stands, as `properties.optimize`.
    pub place: String,
    pub field: String,
}

/// What becomes of a member that is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strictness {
    Refuse,
    /// It is dropped; a known one is taken however its letters are written.
    Tolerate,
}

/// Brings the properties of a template to the members that are known.
pub fn settle_template(
    properties: &mut Map<String, Value>,
    strictness: Strictness,
) -> Result<(), UnknownField> {
    settle_object(properties, TEMPLATE, strictness, "properties")
}

/// The same for a trigger.
pub fn settle_trigger(
    properties: &mut Map<String, Value>,
    strictness: Strictness,
) -> Result<(), UnknownField> {
    settle_object(properties, TRIGGER, strictness, "properties")
}

use Shape::{Any, List, Object, OneOf};

const TRIGGER: &[Field] = &[
    ("kind", Any),
    ("status", Any),
    ("provisioningState", Any),
    ("bullion", Any),
];

const TEMPLATE: &[Field] = &[
    ("source", OneOf("type", SOURCES)),
    ("customize", List(&OneOf("type", CUSTOMIZERS))),
    ("optimize", Object(OPTIMIZE)),
    ("validate", Object(VALIDATE)),
    ("errorHandling", Object(ERROR_HANDLING)),
    ("distribute", List(&OneOf("type", DISTRIBUTORS))),
    ("vmProfile", Object(VM_PROFILE)),
    ("autoRun", Object(&[("state", Any)])),
    ("buildTimeoutInMinutes", Any),
    ("stagingResourceGroup", Any),
    ("managedResourceTags", Any),
    ("provisioningState", Any),
    ("provisioningError", Any),
    ("lastRunStatus", Any),
    ("exactStagingResourceGroup", Any),
    ("createdAt", Any),
    ("bullion", Any),
];

const SOURCES: &[(&str, &[Field])] = &[
    (
        "PlatformImage",
        &[
            ("publisher", Any),
            ("offer", Any),
            ("sku", Any),
            ("version", Any),
            ("exactVersion", Any),
            (
                "planInfo",
                Object(&[
                    ("planName", Any),
                    ("planProduct", Any),
                    ("planPublisher", Any),
                ]),
            ),
            ("mirrors", Any),
        ],
    ),
    ("ManagedImage", &[("imageId", Any)]),
    (
        "SharedImageVersion",
        &[("imageVersionId", Any), ("exactVersion", Any)],
    ),
    ("Bullion.Disk", &[("diskId", Any)]),
    ("Bullion.Vhd", &[("uri", Any), ("sha256Checksum", Any)]),
];

const POWERSHELL: &[Field] = &[
    ("secrets", Any),
    ("name", Any),
    ("inline", Any),
    ("scriptUri", Any),
    ("sha256Checksum", Any),
    ("runElevated", Any),
    ("runAsSystem", Any),
    ("validExitCodes", Any),
];
const SHELL: &[Field] = &[
    ("name", Any),
    ("inline", Any),
    ("scriptUri", Any),
    ("sha256Checksum", Any),
    ("secrets", Any),
];
const FILE: &[Field] = &[
    ("name", Any),
    ("sourceUri", Any),
    ("destination", Any),
    ("sha256Checksum", Any),
    ("mode", Any),
];

const CUSTOMIZERS: &[(&str, &[Field])] = &[
    ("Shell", SHELL),
    ("File", FILE),
    ("PowerShell", POWERSHELL),
    (
        "WindowsRestart",
        &[
            ("name", Any),
            ("restartCommand", Any),
            ("restartCheckCommand", Any),
            ("restartTimeout", Any),
        ],
    ),
    (
        "WindowsUpdate",
        &[
            ("name", Any),
            ("searchCriteria", Any),
            ("filters", Any),
            ("updateLimit", Any),
        ],
    ),
    ("Bullion.Packages", &[("name", Any), ("packages", Any)]),
    (
        "Bullion.CaCertificate",
        &[("name", Any), ("certificate", Any)],
    ),
    (
        "Bullion.Ansible",
        &[("name", Any), ("playbook", Any), ("variables", Any)],
    ),
    ("Bullion.CloudInit", &[("name", Any), ("userData", Any)]),
    (
        "Bullion.KernelCommandLine",
        &[("name", Any), ("add", Any), ("remove", Any)],
    ),
    (
        "Bullion.PartitionGrowth",
        &[("name", Any), ("enabled", Any)],
    ),
];

const OPTIMIZE: &[Field] = &[
    ("vmBoot", Object(&[("state", Any)])),
    (
        "workload",
        Object(&[("state", Any), ("scriptUri", Any), ("sha256Checksum", Any)]),
    ),
];

const VALIDATE: &[Field] = &[
    ("continueDistributeOnFailure", Any),
    ("sourceValidationOnly", Any),
    ("inVMValidations", List(&OneOf("type", VALIDATORS))),
    ("bullion", Any),
];

const VALIDATORS: &[(&str, &[Field])] = &[
    ("Shell", SHELL),
    ("PowerShell", POWERSHELL),
    ("File", FILE),
    ("Bullion.Service", &[("name", Any), ("service", Any)]),
    (
        "Bullion.SshdOption",
        &[("name", Any), ("option", Any), ("value", Any)],
    ),
    ("Bullion.Tattoo", &[("name", Any)]),
    ("Bullion.Facts", &[("name", Any), ("facts", Any)]),
    (
        "Bullion.Testinfra",
        &[
            ("name", Any),
            ("inline", Any),
            ("scriptUri", Any),
            ("sha256Checksum", Any),
        ],
    ),
    (
        "Bullion.Pester",
        &[
            ("name", Any),
            ("inline", Any),
            ("scriptUri", Any),
            ("sha256Checksum", Any),
        ],
    ),
    (
        "Bullion.OpenScap",
        &[
            ("name", Any),
            ("content", Any),
            ("profile", Any),
            ("failsFrom", Any),
            ("rules", Any),
            ("minScore", Any),
        ],
    ),
    (
        "Bullion.Lynis",
        &[
            ("name", Any),
            ("failsFrom", Any),
            ("rules", Any),
            ("minScore", Any),
        ],
    ),
];

const ERROR_HANDLING: &[Field] = &[("onCustomizerError", Any), ("onValidationError", Any)];

const TARGET_REGION: &[Field] = &[
    ("name", Any),
    ("replicaCount", Any),
    ("storageAccountType", Any),
];

const DISTRIBUTORS: &[(&str, &[Field])] = &[
    (
        "SharedImage",
        &[
            ("runOutputName", Any),
            ("artifactTags", Any),
            ("galleryImageId", Any),
            ("replicationRegions", Any),
            ("replicationMode", Any),
            ("storageAccountType", Any),
            ("excludeFromLatest", Any),
            ("targetRegions", List(&Object(TARGET_REGION))),
            (
                "versioning",
                OneOf("scheme", &[("Latest", &[("major", Any)]), ("Source", &[])]),
            ),
        ],
    ),
    (
        "ManagedImage",
        &[
            ("runOutputName", Any),
            ("artifactTags", Any),
            ("imageId", Any),
            ("location", Any),
        ],
    ),
    (
        "VHD",
        &[("runOutputName", Any), ("artifactTags", Any), ("uri", Any)],
    ),
    (
        "Bullion.File",
        &[
            ("runOutputName", Any),
            ("artifactTags", Any),
            ("format", Any),
            ("uri", Any),
        ],
    ),
    (
        "Bullion.Oci",
        &[
            ("runOutputName", Any),
            ("artifactTags", Any),
            ("format", Any),
            ("reference", Any),
            ("credential", Any),
        ],
    ),
    (
        "Bullion.ObjectStore",
        &[
            ("runOutputName", Any),
            ("artifactTags", Any),
            ("format", Any),
            ("uri", Any),
            ("credential", Any),
        ],
    ),
    (
        "Bullion.AzureGallery",
        &[
            ("runOutputName", Any),
            ("artifactTags", Any),
            ("galleryImageId", Any),
            ("location", Any),
            ("targetRegions", List(&Object(TARGET_REGION))),
            ("excludeFromLatest", Any),
            ("container", Any),
            ("storageAccountId", Any),
            ("sas", Any),
            ("credential", Any),
        ],
    ),
];

const VM_PROFILE: &[Field] = &[
    ("vmSize", Any),
    ("osDiskSizeGB", Any),
    ("userAssignedIdentities", Any),
    (
        "vnetConfig",
        Object(&[
            ("subnetId", Any),
            ("containerInstanceSubnetId", Any),
            ("proxyVmSize", Any),
        ]),
    ),
    ("additionalDataDisks", Any),
    ("bullion", Any),
];

fn settle(
    value: &mut Value,
    shape: &Shape,
    strictness: Strictness,
    place: &str,
) -> Result<(), UnknownField> {
    match (shape, value) {
        (List(each), Value::Array(values)) => {
            for (index, value) in values.iter_mut().enumerate() {
                settle(value, each, strictness, &format!("{place}[{index}]"))?;
            }
            Ok(())
        }
        (Object(fields), Value::Object(object)) => settle_object(object, fields, strictness, place),
        (OneOf(tag, kinds), Value::Object(object)) => {
            settle_tag(object, tag, kinds, strictness);
            let kind = object.get(*tag).and_then(Value::as_str);
            let fields = kinds.iter().find(|(name, _)| Some(*name) == kind);
            let Some((_, fields)) = fields else {
                // The reader of the value says which kinds there are.
                return Ok(());
            };
            let said = object.remove(*tag);
            let settled = settle_object(object, fields, strictness, place);
            object.extend(said.map(|said| ((*tag).to_owned(), said)));
            settled
        }
        // A wrong type is told by the reader of the value.
        _ => Ok(()),
    }
}

/// Where letters do not count, they do not count in the name of a kind either.
fn settle_tag(
    object: &mut Map<String, Value>,
    tag: &str,
    kinds: &[(&str, &[Field])],
    strictness: Strictness,
) {
    if strictness == Strictness::Refuse {
        return;
    }
    let written = object.keys().find(|key| key.eq_ignore_ascii_case(tag));
    let Some(written) = written.cloned() else {
        return;
    };
    let value = object.remove(&written).unwrap_or_default();
    let known = |text: &str| {
        let same = |(name, _): &&(&str, &[Field])| name.eq_ignore_ascii_case(text);
        kinds.iter().find(same).map(|(name, _)| Value::from(*name))
    };
    let settled = value.as_str().and_then(known).unwrap_or(value);
    object.insert(tag.to_owned(), settled);
}

fn settle_object(
    object: &mut Map<String, Value>,
    fields: &[Field],
    strictness: Strictness,
    place: &str,
) -> Result<(), UnknownField> {
    let known = |key: &str| match strictness {
        Strictness::Refuse => fields.iter().find(|(name, _)| *name == key),
        Strictness::Tolerate => fields
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(key)),
    };
    for (key, mut value) in std::mem::take(object) {
        let Some((name, shape)) = known(&key) else {
            if strictness == Strictness::Tolerate {
                continue;
            }
            return Err(UnknownField {
                place: place.to_owned(),
                field: key,
            });
        };
        settle(&mut value, shape, strictness, &format!("{place}.{name}"))?;
        // Of two that differ in letters alone, the last one counts, as in Azure's own reader.
        object.insert((*name).to_owned(), value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(properties: Value, strictness: Strictness, expected: Result<Value, (&str, &str)>) {
        let Value::Object(mut properties) = properties else {
            panic!("not an object")
        };
        let seen = settle_template(&mut properties, strictness).map(|()| Value::Object(properties));
        let expected = expected.map_err(|(place, field)| UnknownField {
            place: place.to_owned(),
            field: field.to_owned(),
        });
        assert_eq!(seen, expected);
    }

    #[test]
    fn what_is_known_is_kept() {
        let body = json!({
            "source": { "type": "SharedImageVersion", "imageVersionId": "x" },
            "customize": [{ "type": "Bullion.Packages", "name": "p", "packages": ["nginx"] }],
            "optimize": { "vmBoot": { "state": "Enabled" } },
            "distribute": [{ "type": "SharedImage", "runOutputName": "r", "galleryImageId": "g",
                "versioning": { "scheme": "Latest", "major": 1 }, "targetRegions": [{ "name": "north" }] }],
        });
        check(body.clone(), Strictness::Refuse, Ok(body.clone()));
        check(body.clone(), Strictness::Tolerate, Ok(body));
    }

    #[test]
    fn what_is_not_known_is_refused_or_dropped() {
        let boot = json!({ "optimize": { "vmboot": { "state": "Enabled" } } });
        check(
            boot.clone(),
            Strictness::Refuse,
            Err(("properties.optimize", "vmboot")),
        );
        let kept = json!({ "optimize": { "vmBoot": { "state": "Enabled" } } });
        check(boot, Strictness::Tolerate, Ok(kept));
        let deep = json!({ "customize": [{ "type": "shell", "Inline": ["x"], "speed": 1 }] });
        let kept = json!({ "customize": [{ "type": "Shell", "inline": ["x"] }] });
        check(deep, Strictness::Tolerate, Ok(kept));
        let strict = json!({ "customize": [{ "type": "Shell" }, { "type": "Shell", "speed": 1 }] });
        check(
            strict,
            Strictness::Refuse,
            Err(("properties.customize[1]", "speed")),
        );
        check(
            json!({ "speed": 1 }),
            Strictness::Refuse,
            Err(("properties", "speed")),
        );
        check(
            json!({ "customize": "x" }),
            Strictness::Refuse,
            Ok(json!({ "customize": "x" })),
        );
    }
}
