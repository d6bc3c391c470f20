//! `rest`: one request as it is, with the sign-in and waiting for nothing.

use std::io::Read;

use wire::{ResourceId, TenantId};

use super::scope::Finder;
use crate::api;
use crate::args::{Rest, Scope};
use crate::client::{Ask, Client, Reply};
use crate::error::{CliError, Exit};
use crate::io::Io;

/// A request body larger than this is not typed by a person.
const BODY_BYTES_MAX: u64 = 64 * 1024 * 1024;

pub async fn run(client: &Client, args: &Rest, io: &mut Io) -> Result<Exit, CliError> {
    let body = args
        .body
        .as_deref()
        .map(|body| read_body(body, io))
        .transpose()?;
    let tenant = tenant(client, args).await?;
    let operation = format!("{} {}", args.method.to_uppercase(), args.path);
    let path = with_version(client, &args.path)?;
    let ask = Ask {
        operation: &operation,
        tenant,
        method: &args.method,
        path: &path,
        body: body.as_ref(),
    };
    let reply = client.send(ask).await?;
    talk(io, &reply);
    if !reply.body.is_null() {
        io.json(&reply.body)?;
    }
    Ok(Exit::Done)
}

fn read_body(written: &str, io: &mut Io) -> Result<serde_json::Value, CliError> {
    let text = match written.strip_prefix('@') {
        _ if written == "-" => {
            let mut text = String::new();
            let mut limited = (&mut io.input).take(BODY_BYTES_MAX);
            limited
                .read_to_string(&mut text)
                .map_err(|source| CliError::ReadFile {
                    path: "-".into(),
                    source,
                })?;
            text
        }
        Some(path) => std::fs::read_to_string(path).map_err(|source| CliError::ReadFile {
            path: path.into(),
            source,
        })?,
        None => written.to_owned(),
    };
    serde_json::from_str(&text)
        .map_err(|error| CliError::Usage(format!("the body is not JSON: {error}")))
}

async fn tenant(client: &Client, args: &Rest) -> Result<TenantId, CliError> {
    if let Some(tenant) = &args.tenant {
        return tenant
            .parse()
            .map_err(|error: wire::IdKindError| CliError::Usage(error.to_string()));
    }
    let path = args.path.split('?').next().unwrap_or("");
    // A list's path is no resource id, so only the subscription at its start is looked at.
    let head: Vec<&str> = path.split('/').take(3).collect();
    let subscription = ResourceId::parse(&head.join("/"))
        .ok()
        .and_then(|id| id.subscription());
    match subscription {
        Some(subscription) => {
            let scope = Scope::default();
            Finder::new(client, &scope).tenant_of(subscription).await
        }
        None => Ok(client.home()),
    }
}

fn with_version(client: &Client, path: &str) -> Result<String, CliError> {
    let path = path
        .strip_prefix(client.profile().url.as_str())
        .unwrap_or(path);
    if !path.starts_with('/') {
        return Err(CliError::Usage(format!("`{path}` must start with `/`")));
    }
    if path.contains("api-version=") {
        return Ok(path.to_owned());
    }
    let bare = path.split('?').next().unwrap_or(path);
    let version = ResourceId::parse(bare).map_or(api::BULLION, |id| api::version_of(&id));
    let separator = if path.contains('?') { '&' } else { '?' };
    Ok(format!("{path}{separator}api-version={version}"))
}

/// The status and the headers that say how to go on.
fn talk(io: &mut Io, reply: &Reply) {
    io.say(format!("HTTP {}", reply.status));
    for name in [
        "azure-asyncoperation",
        "location",
        "retry-after",
        "etag",
        "x-bullion-run",
    ] {
        if let Some(value) = reply.header(name) {
            let line = format!("{name}: {value}");
            io.say(line);
        }
    }
}
