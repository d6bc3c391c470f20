//! `Microsoft.Compute/locations/publishers` and what is below it: the platform images that this server offers, as
//! bare lists, which is how Azure's clients read them. Every region offers the same.

use std::collections::BTreeSet;
use std::sync::Arc;

use factory::source::Product;
use serde_json::{Value, json};
use wire::{ArmError, ErrorCode, VersionNumber};

use super::Reply;
use crate::errors;
use crate::operation::Call;
use crate::state::Server;

pub const PUBLISHERS: &str = "Microsoft.Compute/locations/publishers";
pub const OFFERS: &str = "Microsoft.Compute/locations/publishers/artifacttypes/offers";
pub const SKUS: &str = "Microsoft.Compute/locations/publishers/artifacttypes/offers/skus";
pub const VERSIONS: &str =
    "Microsoft.Compute/locations/publishers/artifacttypes/offers/skus/versions";

/// The products below the call's path, in a region that there is.
fn asked(server: &Server, call: &Call) -> Result<Vec<Product>, ArmError> {
    let location = call.id.part("locations").unwrap_or_default();
    server.need_region(location, "location")?;
    let mut products = server.work.products();
    let fits = |key: &str, have: &str| {
        call.id
            .part(key)
            .is_none_or(|want| want.eq_ignore_ascii_case(have))
    };
    products.retain(|product| {
        fits("publishers", &product.publisher)
            && fits("offers", &product.offer)
            && fits("skus", &product.sku)
    });
    if products.is_empty() && call.id.part("publishers").is_some() {
        return Err(ArmError::new(
            ErrorCode::NotFound,
            "Artifact: VMImage was not found.",
        ));
    }
    Ok(products)
}

/// One entry for each name.
fn listed(call: &Call, names: BTreeSet<String>) -> Reply {
    let location = call.id.part("locations").unwrap_or_default();
    let path = call.path.trim_end_matches('/');
    let entries = names
        .into_iter()
        .map(|name| json!({ "location": location, "name": name, "id": format!("{path}/{name}") }));
    Reply::ok(Value::Array(entries.collect()))
}

pub async fn publishers(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let products = asked(&server, &call)?.into_iter();
    Ok(listed(
        &call,
        products.map(|product| product.publisher).collect(),
    ))
}

pub async fn offers(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let products = asked(&server, &call)?.into_iter();
    Ok(listed(
        &call,
        products.map(|product| product.offer).collect(),
    ))
}

pub async fn skus(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let products = asked(&server, &call)?.into_iter();
    Ok(listed(&call, products.map(|product| product.sku).collect()))
}

/// Oldest first unless it is asked otherwise; `$top` counts from the first.
pub async fn versions(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let products = asked(&server, &call)?;
    let mut names: Vec<String> = Vec::new();
    for product in &products {
        names.extend(server.work.versions_of(product).await);
    }
    names.sort_by_key(|name| (name.parse::<VersionNumber>().ok(), name.clone()));
    let order = call.query.get("$orderby").unwrap_or_default();
    if order.to_ascii_lowercase().ends_with(" desc") {
        names.reverse();
    }
    if let Some(top) = call.query.get("$top") {
        let top = top.parse::<usize>();
        names.truncate(top.map_err(|_| errors::invalid("$top", "$top must be a number."))?);
    }
    let location = call.id.part("locations").unwrap_or_default();
    let path = call.path.trim_end_matches('/');
    let entries = names
        .into_iter()
        .map(|name| json!({ "location": location, "name": name, "id": format!("{path}/{name}") }));
    Ok(Reply::ok(Value::Array(entries.collect())))
}

pub async fn version(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let products = asked(&server, &call)?;
    let name = call.id.name();
    if !products
        .iter()
        .any(|product| product.versions.iter().any(|known| known == name))
    {
        return Err(ArmError::new(
            ErrorCode::NotFound,
            "Artifact: VMImage was not found.",
        ));
    }
    let sku = call.id.part("skus").unwrap_or_default();
    let generation = if sku.ends_with("gen2") { "V2" } else { "V1" };
    Ok(Reply::ok(json!({
        "location": call.id.part("locations"),
        "name": name,
        "id": call.path,
        "properties": {
            "osDiskImage": { "operatingSystem": "Linux" },
            "dataDiskImages": [],
            "hyperVGeneration": generation,
            "architecture": "x64",
            "automaticOSUpgradeProperties": { "automaticOSUpgradeSupported": false },
            "features": [],
        },
    })))
}
