//! `encryption-set`: keys of a tenant's own. The keys themselves are never here.

use serde_json::{Value, json};
use wire::NameRule;

use super::scope::{ENCRYPTION_SET, Finder, Located, bodies};
use super::text;
use crate::api;
use crate::args::Scope;
use crate::args::encryption_sets::EncryptionSet;
use crate::client::{Ask, Client};
use crate::error::{CliError, Exit};
use crate::io::{Format, Io, table};

pub async fn run(client: &Client, args: EncryptionSet, io: &mut Io) -> Result<Exit, CliError> {
    match args {
        EncryptionSet::Create {
            name,
            region,
            key_url,
            scope,
        } => {
            let made = create(client, &name, &region, key_url, &scope).await?;
            print(io, std::slice::from_ref(&made))?;
        }
        EncryptionSet::List { scope } => {
            let found = Finder::new(client, &scope).list(ENCRYPTION_SET).await?;
            print(io, &bodies(found))?;
        }
        EncryptionSet::Show { name, scope } => {
            let set = find(client, &scope, &name).await?;
            let operation = format!("show disk encryption set {}", set.id.name());
            let path = api::path(&set.id);
            io.json(&client.get(&operation, set.tenant, &path).await?)?;
        }
        EncryptionSet::Rotate { name, scope } => {
            let set = find(client, &scope, &name).await?;
            let rotated = act(client, &set, "rotateKey", "replace the key of", None).await?;
            print(io, std::slice::from_ref(&rotated))?;
        }
        EncryptionSet::Erase {
            name,
            dry_run,
            yes,
            scope,
        } => {
            let set = find(client, &scope, &name).await?;
            return erase(client, &set, dry_run, yes, io).await;
        }
        EncryptionSet::Delete { name, yes, scope } => {
            let set = find(client, &scope, &name).await?;
            return delete(client, &set, yes, io).await;
        }
    }
    Ok(Exit::Done)
}

async fn find(client: &Client, scope: &Scope, name: &str) -> Result<Located, CliError> {
    Finder::new(client, scope).find(ENCRYPTION_SET, name).await
}

async fn create(
    client: &Client,
    name: &str,
    region: &str,
    key_url: Option<String>,
    scope: &Scope,
) -> Result<Value, CliError> {
    let wrong = |error: &dyn std::fmt::Display| CliError::Usage(format!("`{name}`: {error}"));
    NameRule::ImageDefinition
        .check(name)
        .map_err(|error| wrong(&error))?;
    let group = Finder::new(client, scope).group().await?;
    let id = group
        .id
        .extension("Microsoft.Compute", "diskEncryptionSets", name)
        .map_err(|error| wrong(&error))?;
    let mut properties = json!({ "encryptionType": "EncryptionAtRestWithCustomerKey" });
    if let Some(url) = key_url {
        properties["activeKey"] = json!({ "keyUrl": url });
    }
    client
        .finish(Ask {
            operation: &format!("create disk encryption set {name}"),
            tenant: group.tenant,
            method: "PUT",
            path: &api::path(&id),
            body: Some(&json!({
                "location": region,
                "identity": { "type": "SystemAssigned" },
                "properties": properties,
            })),
        })
        .await
}

/// One of the actions that a set has.
async fn act(
    client: &Client,
    set: &Located,
    action: &str,
    what: &str,
    body: Option<&Value>,
) -> Result<Value, CliError> {
    client
        .finish(Ask {
            operation: &format!("{what} disk encryption set {}", set.id.name()),
            tenant: set.tenant,
            method: "POST",
            path: &api::below(&set.id, &format!("/{action}"), api::COMPUTE_DISKS),
            body,
        })
        .await
}

async fn erase(
    client: &Client,
    set: &Located,
    dry_run: bool,
    yes: bool,
    io: &mut Io,
) -> Result<Exit, CliError> {
    let name = set.id.name();
    let lost = act(client, set, "erase", "look what is lost with", None).await?;
    if dry_run {
        tell(io, &lost)?;
        return Ok(Exit::Done);
    }
    if !yes {
        io.say(summary(&lost));
    }
    let question = format!("Erase {name}? Nobody can read any of it again.");
    if !io.agreed(yes, &question, "Nothing was erased.")? {
        return Ok(Exit::Failure);
    }
    let confirm = json!({ "confirm": name });
    let erased = act(client, set, "erase", "erase", Some(&confirm)).await?;
    tell(io, &erased)?;
    Ok(Exit::Done)
}

fn tell(io: &mut Io, erasure: &Value) -> Result<(), CliError> {
    match io.format {
        Format::Json => io.json(erasure),
        Format::Table => io.line(summary(erasure)),
    }
}

/// What is lost, or was.
fn summary(erasure: &Value) -> String {
    let list = |field: &str| -> Vec<&str> {
        let items = erasure[field].as_array().into_iter().flatten();
        items.filter_map(Value::as_str).collect()
    };
    let what = match erasure["done"].as_bool() {
        Some(true) => "Erased",
        _ => "To be erased",
    };
    let disks = match list("disks").len() {
        1 => "1 disk".to_owned(),
        many => format!("{many} disks"),
    };
    let mib = erasure["bytes"].as_u64().unwrap_or_default() >> 20;
    let domain = text(erasure, "/domain");
    let mut lines = vec![format!("{what} from domain {domain}: {disks}, {mib} MiB")];
    let named = [
        ("versions", "version:"),
        ("alsoElsewhere", "stays readable in another domain:"),
        (
            "waiting",
            "a store that is away, and is erased when it is back:",
        ),
    ];
    for (field, what) in named {
        lines.extend(list(field).iter().map(|one| format!("  {what} {one}")));
    }
    lines.join("\n")
}

async fn delete(client: &Client, set: &Located, yes: bool, io: &mut Io) -> Result<Exit, CliError> {
    let name = set.id.name();
    let question = format!("Delete disk encryption set {name} and its key?");
    if !io.agreed(yes, &question, "Nothing was deleted.")? {
        return Ok(Exit::Failure);
    }
    client
        .finish(Ask {
            operation: &format!("delete disk encryption set {name}"),
            tenant: set.tenant,
            method: "DELETE",
            path: &api::path(&set.id),
            body: None,
        })
        .await?;
    io.say(format!("Deleted disk encryption set {name}."));
    Ok(Exit::Done)
}

fn print(io: &mut Io, sets: &[Value]) -> Result<(), CliError> {
    if io.format == Format::Json {
        return io.json(&sets);
    }
    let rows: Vec<Vec<String>> = sets
        .iter()
        .map(|set| {
            let rotated = text(set, "/properties/lastKeyRotationTimestamp");
            vec![
                text(set, "/name"),
                text(set, "/location"),
                if rotated.is_empty() {
                    "-".to_owned()
                } else {
                    rotated
                },
                text(set, "/properties/activeKey/keyUrl"),
            ]
        })
        .collect();
    io.line(table(&["NAME", "REGION", "ROTATED", "KEY"], &rows))
}
