//! `Microsoft.Compute/galleries/images`: image definitions.
//!
//! What an image is (OS, state, generation, publisher/offer/sku) is fixed with the definition; the triple is
//! unique within the gallery.

use std::sync::Arc;

use catalog::UniqueKey;
use serde_json::{Map, Value, json};
use wire::compute::ImageDefinitionProperties;
use wire::{ArmError, NameRule};

use super::{
    Reply, delete, find, list, present, properties, put_reply, settle_location, show, store_unique,
    tracked, unchanged,
};
use crate::body::{self, ResourceBody};
use crate::errors;
use crate::operation::Call;
use crate::state::Server;

pub const KIND: &str = "Microsoft.Compute/galleries/images";

/// What an update that leaves them out does not take away.
const KEPT: [&str; 10] = [
    "osType",
    "osState",
    "hyperVGeneration",
    "identifier",
    "architecture",
    "features",
    "purchasePlan",
    "privacyStatementUri",
    "releaseNoteUri",
    "eula",
];
const FIXED: [&str; 4] = ["osType", "osState", "hyperVGeneration", "architecture"];
const FIXED_IDENTIFIER: [&str; 3] = ["publisher", "offer", "sku"];

pub async fn put(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    NameRule::ImageDefinition
        .check(call.id.name())
        .map_err(|error| errors::invalid("galleryImageName", error.to_string()))?;
    let mut body = ResourceBody::parse(&call.body, &call.id)?;
    let old = find(&server, &call).await?;
    let location = settle_location(&call, &body, old.as_ref())?;
    let kept = old.as_ref().map(properties);
    body::keep(&mut body.properties, kept.as_ref(), &KEPT);
    if kept.is_none() {
        defaults(&call, &mut body.properties);
    }
    need_members(&body.properties)?;
    let definition = body::typed::<ImageDefinitionProperties>(&body.properties)?;
    let identifier = &definition.identifier;
    for (member, rule, value) in [
        ("publisher", NameRule::Publisher, &identifier.publisher),
        ("offer", NameRule::OfferOrSku, &identifier.offer),
        ("sku", NameRule::OfferOrSku, &identifier.sku),
    ] {
        rule.check(value).map_err(|error| {
            errors::invalid(
                &format!("properties.identifier.{member}"),
                error.to_string(),
            )
        })?;
    }
    check_recommended(&body.properties)?;
    if let Some(kept) = &kept {
        check_fixed(kept, &body.properties)?;
    }
    let gallery = call.id.parent().map(|gallery| gallery.folded().to_string());
    let gallery = gallery.unwrap_or_default();
    let key = [
        gallery.as_str(),
        &identifier.publisher,
        &identifier.offer,
        &identifier.sku,
    ];
    let draft =
        tracked(body, &location, old.as_ref()).unique(UniqueKey::new("image-identifier", &key));
    let taken = format!(
        "Gallery image: {} identified by (publisher:{}, offer:{}, sku:{}) already exists. Choose a \
         different publisher, offer, sku combination.",
        call.id.name(),
        identifier.publisher,
        identifier.offer,
        identifier.sku
    );
    let put = store_unique(&server, &call, old.as_ref(), draft, &taken).await?;
    Ok(put_reply(&put))
}

/// Defaults that depend on the version are written down at the first PUT.
fn defaults(call: &Call, properties: &mut Map<String, Value>) {
    let second = call.version.at_least(2025, 3, 3);
    let generation = if second { "V2" } else { "V1" };
    for (key, value) in [("hyperVGeneration", generation), ("architecture", "x64")] {
        if properties.get(key).is_none_or(Value::is_null) {
            properties.insert(key.into(), value.into());
        }
    }
}

fn need_members(properties: &Map<String, Value>) -> Result<(), ArmError> {
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

/// `recommended.vCPUs` and `.memory` are ranges.
fn check_recommended(properties: &Map<String, Value>) -> Result<(), ArmError> {
    let Some(recommended) = properties.get("recommended").and_then(Value::as_object) else {
        return Ok(());
    };
    for (member, most) in [("vCPUs", 80), ("memory", 4096)] {
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

fn check_fixed(old: &Map<String, Value>, new: &Map<String, Value>) -> Result<(), ArmError> {
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
    let json_null = json!(null);
    unchanged(
        "galleryImage",
        &path("purchasePlan"),
        Some(old.get("purchasePlan").unwrap_or(&json_null)),
        Some(new.get("purchasePlan").unwrap_or(&json_null)),
    )
}

pub async fn get(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    show(&server, &call).await
}

pub async fn remove(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    delete(&server, &call).await
}

pub async fn all(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    list(&server, &call, KIND, |image| Some(present(image))).await
}
