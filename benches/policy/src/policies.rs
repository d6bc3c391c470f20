//! The ten policies: Azure's own definitions from a folder of them, or ours of the same shape.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use policy::scan::{Plan, Policy};
use policy::{Aliases, Compiled, compile, parameters};
use serde_json::{Map, Value, json};

use crate::machines::Numbers;

/// Our name for a policy, and the name of Azure's definition of the same rule.
pub const POLICIES: &[(&str, &str)] = &[
    ("allowed-sizes", "cccc23c7-8427-4f53-ad12-b6a63eb452b3"),
    ("managed-disks", "06a78e20-9358-41c9-923c-fb736d382a4d"),
    ("encryption-at-host", "fc4d8e41-e223-45ea-9bf5-eada37891d87"),
    ("boot-diagnostics", "fb97d6e1-5c98-4743-a439-23e0977bad9e"),
    ("hotpatch", "6d02d2f7-e38b-4bdc-96f3-adc0a8726abc"),
    ("secure-boot", "97566dd7-78ae-4997-8b36-1c7bfe0d8121"),
    ("virtual-tpm", "1c30f9cd-b84c-49cc-aa2c-9288447cc3b3"),
    ("allowed-places", "e56962a6-4747-49cd-b67b-bf8b01975c4c"),
    ("tag-and-value", "1e30110a-5ceb-460c-a204-c1c3969c6d62"),
    ("one-zone", "42f4f3a2-7d20-4c13-a05d-01857a626c22"),
];
/// The values that the policies are assigned with, for all engines.
pub const SIZES: &[&str] = &[
    "Standard_D2s_v5",
    "Standard_D4s_v5",
    "Standard_E4s_v5",
    "Standard_B2ms",
];
pub const PLACES: &[&str] = &["eastus", "westeurope", "northeurope"];

pub struct Document {
    pub name: &'static str,
    pub text: String,
    pub value: Value,
}

pub const ALIASES: &str = include_str!("../aliases.json");

/// The definitions, and where they are from.
pub fn documents() -> Result<(Vec<Document>, String)> {
    let Some(folder) = std::env::var_os("BULLION_POLICY_BUILTINS") else {
        let ours: Value = serde_json::from_str(include_str!("../policies.json"))?;
        let one = |name: &'static str| Document {
            name,
            text: ours[name].to_string(),
            value: ours[name].clone(),
        };
        let documents = POLICIES.iter().map(|(name, _)| one(name)).collect();
        let note =
            "ours, of the shape of Azure's (BULLION_POLICY_BUILTINS names a folder with those)";
        return Ok((documents, note.to_owned()));
    };
    let mut texts = Vec::new();
    collect(folder.as_ref(), &mut texts)?;
    let mut documents = Vec::new();
    for (name, guid) in POLICIES {
        let found = texts.iter().find_map(|text| {
            let value = policy::json::parse(text).ok()?;
            (value["name"] == *guid).then_some((text, value))
        });
        let Some((_, value)) = found else {
            bail!("the folder has no definition {guid}");
        };
        documents.push(Document {
            name,
            text: value.to_string(),
            value,
        });
    }
    Ok((documents, "Azure's built-ins".to_owned()))
}

fn collect(folder: &Path, texts: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, texts)?;
            continue;
        }
        let text = fs::read_to_string(&path)?;
        if POLICIES.iter().any(|(_, guid)| text.contains(guid)) {
            texts.push(text);
        }
    }
    Ok(())
}

/// The values that a policy is assigned with. Variant 0 is the one that the peers get too; others have
/// other sizes, places and tags.
pub fn values(document: &Document, variant: usize) -> Value {
    let declares = |name: &str| !document.value["properties"]["parameters"][name].is_null();
    let mut values = Map::new();
    let mut numbers = Numbers::new(variant as u64 * 7_919 + 3);
    if declares("listOfAllowedSKUs") {
        let mut sizes = SIZES.to_vec();
        sizes.truncate(if variant == 0 {
            sizes.len()
        } else {
            1 + numbers.below(4)
        });
        values.insert("listOfAllowedSKUs".to_owned(), json!(sizes));
    }
    if declares("listOfAllowedLocations") {
        let mut places = PLACES.to_vec();
        places.truncate(if variant == 0 {
            places.len()
        } else {
            1 + numbers.below(3)
        });
        values.insert("listOfAllowedLocations".to_owned(), json!(places));
    }
    if declares("tagName") {
        let tags = [
            ("environment", "prod"),
            ("owner", "team-7"),
            ("costCenter", "12"),
            ("none", "x"),
        ];
        let (name, value) = tags[if variant == 0 { 0 } else { numbers.below(4) }];
        values.insert("tagName".to_owned(), json!(name));
        values.insert("tagValue".to_owned(), json!(value));
    }
    Value::Object(values)
}

/// Plans of the policies, each in so many variants, compiled as any other policy is.
pub fn plans(documents: &[Document], variants: usize) -> Result<Vec<Plan>> {
    let aliases = Arc::new(Aliases::read(ALIASES)?.complete());
    let mut plans = Vec::new();
    for variant in 0..variants {
        for document in documents {
            let Compiled::Definition(definition) = compile(&document.value, &aliases)? else {
                bail!("{} is no definition", document.name);
            };
            let given = values(document, variant);
            let given = given.as_object().cloned().unwrap_or_default();
            let subscription = "00000000-0000-0000-0000-00000000000";
            plans.push(Plan::new(Policy {
                parameters: parameters::effective(&definition.parameters, &given, "parameters")?,
                definition: Arc::new(*definition),
                reference: None,
                // Of the variants, some leave a resource group out.
                assignment: json!({
                    "id": format!("/providers/Microsoft.Management/managementGroups/all/providers/Microsoft.Authorization/policyAssignments/a{variant}"),
                    "scope": "/providers/Microsoft.Management/managementGroups/all",
                    "notScopes": match variant {
                        0 => json!([]),
                        _ => json!([format!("/subscriptions/{subscription}1/resourceGroups/rg-{variant}")]),
                    },
                }),
                exemptions: Vec::new(),
                attestations: Vec::new(),
                hierarchy: (0..4).map(|n| (format!("{subscription}{n}"), json!("all"))).collect(),
                around: policy::evaluate::Surroundings {
                    now: jiff::Timestamp::UNIX_EPOCH,
                    resource_group: json!({}),
                    subscription: json!({}),
                    request: json!({}),
                    policy: json!({}),
                },
                aliases: Arc::clone(&aliases),
            }));
        }
    }
    Ok(plans)
}
