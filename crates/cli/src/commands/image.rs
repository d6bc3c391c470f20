//! `image` and `version`: what is in the galleries.

use serde_json::Value;
use wire::{ResourceId, VersionNumber};

use super::scope::{Finder, Located, bodies};
use crate::api;
use crate::args::{Image, Scope, Version};
use crate::client::Client;
use crate::error::{CliError, Exit};
use crate::io::{Format, Io, table};

pub async fn images(client: &Client, args: Image, io: &mut Io) -> Result<Exit, CliError> {
    match args {
        Image::List { scope } => {
            let items = bodies(Finder::new(client, &scope).definitions().await?);
            let columns = [
                ("GALLERY", ""),
                ("NAME", "/name"),
                ("PUBLISHER", "/properties/identifier/publisher"),
                ("OFFER", "/properties/identifier/offer"),
                ("SKU", "/properties/identifier/sku"),
                ("LOCATION", "/location"),
            ];
            print(io, &items, &columns, |item| {
                let id = item["id"]
                    .as_str()
                    .and_then(|id| ResourceId::parse(id).ok());
                id.and_then(|id| id.part("galleries").map(str::to_owned))
                    .unwrap_or_default()
            })?;
        }
        Image::Show { image, scope } => {
            let image = Finder::new(client, &scope).definition(&image).await?;
            let body = client
                .get(
                    "show the image definition",
                    image.tenant,
                    &api::path(&image.id),
                )
                .await?;
            io.json(&body)?;
        }
    }
    Ok(Exit::Done)
}

pub async fn versions(client: &Client, args: Version, io: &mut Io) -> Result<Exit, CliError> {
    match args {
        Version::List { image, scope } => {
            let image = Finder::new(client, &scope).definition(&image).await?;
            let items = list(client, &image).await?;
            let columns = [
                ("VERSION", "/name"),
                ("STATE", "/properties/provisioningState"),
                ("PUBLISHED", "/properties/publishingProfile/publishedDate"),
                ("REGIONS", ""),
                ("DISK", "/properties/bullion/diskDigest"),
            ];
            print(io, &items, &columns, regions)?;
        }
        Version::Show { path, scope } => {
            let found = locate(client, &path, &scope).await?;
            let url = format!("{}&$expand=ReplicationStatus", api::path(&found.id));
            let body = client.get("show the version", found.tenant, &url).await?;
            io.json(&body)?;
        }
        Version::Export {
            path,
            out,
            format,
            lun,
            scope,
        } => {
            let found = locate(client, &path, &scope).await?;
            return super::export::run(client, &found, &out, (format, lun), io).await;
        }
    }
    Ok(Exit::Done)
}

async fn list(client: &Client, image: &Located) -> Result<Vec<Value>, CliError> {
    let path = api::below(&image.id, "/versions", api::COMPUTE_GALLERY);
    let mut items = client.list("list versions", image.tenant, &path).await?;
    items.sort_by_key(number);
    Ok(items)
}

fn number(item: &Value) -> Option<VersionNumber> {
    item["name"].as_str()?.parse().ok()
}

/// The id of `gallery/definition/version`; `latest` is the highest number that may be latest.
pub async fn locate(client: &Client, written: &str, scope: &Scope) -> Result<Located, CliError> {
    let finder = Finder::new(client, scope);
    if written.starts_with('/') && !written.ends_with("/latest") {
        return finder.by_id(written).await;
    }
    let Some((image, version)) = written.rsplit_once('/') else {
        return Err(CliError::Usage(format!(
            "`{written}` is not `gallery/definition/version`, such as `golden/debian-12/1.0.0`"
        )));
    };
    let image = finder
        .definition(image.trim_end_matches("/versions"))
        .await?;
    let name = if version == "latest" {
        let items = list(client, &image).await?;
        let excluded = |item: &&Value| {
            let flag = item.pointer("/properties/publishingProfile/excludeFromLatest");
            flag.and_then(Value::as_bool) != Some(true)
                && item["properties"]["provisioningState"] == "Succeeded"
        };
        let latest = items
            .iter()
            .rfind(excluded)
            .and_then(|item| item["name"].as_str());
        latest.map(str::to_owned).ok_or_else(|| {
            CliError::failed(
                format!("`{}` has no version yet", image.id.name()),
                "build one with `bullion build run TEMPLATE`",
            )
        })?
    } else {
        version.to_owned()
    };
    let id = image
        .id
        .child("versions", &name)
        .map_err(|error| CliError::Usage(format!("`{written}`: {error}")))?;
    Ok(Located {
        tenant: image.tenant,
        id,
    })
}

fn regions(item: &Value) -> String {
    let regions = item
        .pointer("/properties/publishingProfile/targetRegions")
        .and_then(Value::as_array);
    let names = regions
        .into_iter()
        .flatten()
        .filter_map(|region| region["name"].as_str());
    names.collect::<Vec<_>>().join(",")
}

/// A table whose columns are JSON pointers; the empty pointer is computed.
fn print(
    io: &mut Io,
    items: &[Value],
    columns: &[(&str, &str)],
    computed: impl Fn(&Value) -> String,
) -> Result<(), CliError> {
    if io.format == Format::Json {
        return io.json(&items);
    }
    let header: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
    let cell = |item: &Value, pointer: &str| match pointer {
        "" => computed(item),
        pointer => item
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or("")
            .to_owned(),
    };
    let rows: Vec<Vec<String>> = items
        .iter()
        .map(|item| {
            columns
                .iter()
                .map(|(_, pointer)| cell(item, pointer))
                .collect()
        })
        .collect();
    io.line(table(&header, &rows))
}
