//! `sbom`, `statement` and `affected`: what is known of the disks of versions.

use serde_json::{Value, json};

use super::compliance::scopes;
use super::image::locate;
use super::scope::Located;
use super::text;
use crate::api;
use crate::args::Scope;
use crate::args::compliance::PolicyScope;
use crate::args::statements::{Affected, Bill, Sbom, Statement};
use crate::client::{Ask, Client};
use crate::error::{CliError, Exit, render};
use crate::io::{Format, Io, table};

const STATEMENTS: &str = "/providers/Bullion.Factory/statements";

pub async fn sbom(client: &Client, args: Sbom, io: &mut Io) -> Result<Exit, CliError> {
    match args {
        Sbom::Show {
            version,
            format,
            scope,
        } => {
            let name = match format {
                Bill::Spdx => "spdx",
                Bill::Cyclonedx => "cyclonedx",
            };
            let body = statement(client, &version, name, &scope).await?;
            io.json(&body["properties"]["statement"]["predicate"])?;
        }
        Sbom::Diff {
            before,
            after,
            scope,
        } => {
            let before = locate(client, &before, &scope).await?;
            let after = locate(client, &after, &scope).await?;
            let path = api::below(&after.id, "/comparePackages", api::BULLION);
            let body = json!({ "baseVersion": before.id.to_string() });
            let ask = Ask {
                operation: "compare the packages",
                tenant: after.tenant,
                method: "POST",
                path: &path,
                body: Some(&body),
            };
            let reply = match before.tenant == after.tenant {
                true => client.send(ask).await?,
                false => client.send_linked(ask, before.tenant).await?,
            };
            print_changes(io, &items(&reply.body))?;
        }
    }
    Ok(Exit::Done)
}

fn items(body: &Value) -> Vec<Value> {
    body["value"].as_array().cloned().unwrap_or_default()
}

fn print_changes(io: &mut Io, changes: &[Value]) -> Result<(), CliError> {
    if io.format == Format::Json {
        return io.json(&changes);
    }
    let rows: Vec<Vec<String>> = changes
        .iter()
        .map(|change| {
            ["/change", "/name", "/before", "/after"]
                .map(|pointer| text(change, pointer))
                .to_vec()
        })
        .collect();
    io.line(table(&["CHANGE", "PACKAGE", "BEFORE", "AFTER"], &rows))
}

async fn statement(
    client: &Client,
    version: &str,
    name: &str,
    scope: &Scope,
) -> Result<Value, CliError> {
    let Located { tenant, id } = locate(client, version, scope).await?;
    let path = api::below(&id, &format!("{STATEMENTS}/{name}"), api::BULLION);
    client.get("read the statement", tenant, &path).await
}

pub async fn statements(client: &Client, args: Statement, io: &mut Io) -> Result<Exit, CliError> {
    match args {
        Statement::List { version, scope } => {
            let Located { tenant, id } = locate(client, &version, &scope).await?;
            let path = api::below(&id, STATEMENTS, api::BULLION);
            let items = client.list("list the statements", tenant, &path).await?;
            if io.format == Format::Json {
                io.json(&items)?;
                return Ok(Exit::Done);
            }
            let rows: Vec<Vec<String>> = items
                .iter()
                .map(|item| vec![text(item, "/name"), text(item, "/properties/signedAt")])
                .collect();
            io.line(table(&["NAME", "SIGNED"], &rows))?;
        }
        Statement::Show {
            version,
            name,
            envelope,
            key,
            scope,
        } => {
            let body = statement(client, &version, &name, &scope).await?;
            let properties = &body["properties"];
            match (envelope, key) {
                (true, _) => io.json(&properties["envelope"])?,
                (_, true) => io.text(&text(properties, "/publicKey"))?,
                _ => io.json(&properties["statement"])?,
            }
        }
    }
    Ok(Exit::Done)
}

/// Whoever runs this in a pipeline must be able to tell "affected" from "not known", so an error ends otherwise than
/// elsewhere.
pub async fn affected(
    client: Result<Client, CliError>,
    args: &Affected,
    io: &mut Io,
) -> Result<Exit, CliError> {
    let done = match client {
        Ok(client) => look_for_affected(&client, args, io).await,
        Err(error) => Err(error),
    };
    match done {
        Err(CliError::Interrupted) => Err(CliError::Interrupted),
        Err(error) if error.is_closed_output() => Err(error),
        Err(error) => {
            io.say(render(&error));
            Ok(Exit::Unknown)
        }
        done => done,
    }
}

async fn look_for_affected(
    client: &Client,
    args: &Affected,
    io: &mut Io,
) -> Result<Exit, CliError> {
    let asked = PolicyScope {
        subscription: args.subscription.clone(),
        ..PolicyScope::default()
    };
    let mut found = Vec::new();
    for place in scopes(client, &asked).await? {
        let query = percent(&args.query);
        let path = format!(
            "{}&query={query}",
            api::below(
                &place.at.id,
                "/providers/Bullion.Factory/affected",
                api::BULLION
            )
        );
        let items = client.list("ask what is affected", place.at.tenant, &path);
        found.extend(items.await?);
    }
    let exit = match found.is_empty() {
        true => Exit::Done,
        false => Exit::Failure,
    };
    if io.format == Format::Json {
        io.json(&found)?;
        return Ok(exit);
    }
    if found.is_empty() {
        io.say("nothing that you can see is affected");
        return Ok(exit);
    }
    let rows: Vec<Vec<String>> = found.iter().flat_map(rows_of).collect();
    io.line(table(
        &["VERSION", "PACKAGE", "INSTALLED", "FIXED", "MACHINES"],
        &rows,
    ))?;
    Ok(exit)
}

/// One row for each package of an affected version.
fn rows_of(item: &Value) -> Vec<Vec<String>> {
    let id = text(item, "/id");
    let parts: Vec<&str> = id.rsplit('/').collect();
    let short = match parts[..] {
        [version, _, definition, _, gallery, ..] => format!("{gallery}/{definition}/{version}"),
        _ => id.clone(),
    };
    let machines: Vec<&str> = item["virtualMachines"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|machine| machine.as_str()?.rsplit('/').next())
        .collect();
    let packages = item["packages"].as_array().into_iter().flatten();
    packages
        .map(|package| {
            vec![
                short.clone(),
                text(package, "/package"),
                text(package, "/version"),
                text(package, "/fixed"),
                machines.join(","),
            ]
        })
        .collect()
}

/// A value of a query, with everything but letters and digits escaped.
fn percent(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte.is_ascii_alphanumeric() {
            true => char::from(byte).to_string(),
            false => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_for_each_package() {
        let item = json!({
            "id": "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/galleries/golden/images/debian/versions/1.0.0",
            "packages": [{ "package": "libssl3", "version": "3.0.14", "fixed": "3.0.15" }, { "package": "openssl", "version": "3.0.14" }],
            "virtualMachines": ["/subscriptions/s/x/web-1", "/subscriptions/s/x/web-2"],
        });
        assert_eq!(
            rows_of(&item),
            [
                [
                    "golden/debian/1.0.0",
                    "libssl3",
                    "3.0.14",
                    "3.0.15",
                    "web-1,web-2"
                ],
                [
                    "golden/debian/1.0.0",
                    "openssl",
                    "3.0.14",
                    "",
                    "web-1,web-2"
                ],
            ]
        );
        assert_eq!(percent("a<1~b"), "a%3C1%7Eb");
    }
}
