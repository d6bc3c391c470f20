//! `verify`: a version is built again at the server, and this says whether the disks are the same.

use serde_json::{Value, json};

use super::image::locate;
use super::scope::Located;
use crate::api;
use crate::args::statements::Verify;
use crate::client::{Ask, Client};
use crate::error::{CliError, Exit};
use crate::io::{Format, Io, table};

pub async fn run(client: &Client, args: &Verify, io: &mut Io) -> Result<Exit, CliError> {
    let Located { tenant, id } = locate(client, &args.version, &args.scope).await?;
    let path = api::below(&id, "/verifyBuild", api::BULLION);
    let base = match args.reuse_base {
        true => "Reuse",
        false => "Rebuild",
    };
    let body = json!({ "base": base });
    let ask = Ask {
        operation: "build the version again",
        tenant,
        method: "POST",
        path: &path,
        body: Some(&body),
    };
    io.goes_on = vec![format!(
        "Stopped waiting. The server goes on building {} again; nothing comes of it.",
        args.version
    )];
    let found = client.output(ask).await?;
    show(io, &args.version, &found)
}

/// What the server found, and what this ends with.
fn show(io: &mut Io, version: &str, found: &Value) -> Result<Exit, CliError> {
    let text = |name: &str| found[name].as_str().unwrap_or_default().to_owned();
    let Some(matches) = found["matches"].as_bool() else {
        return Err(CliError::BadAnswer {
            operation: "build the version again".into(),
            why: "it does not say whether the disks match".into(),
        });
    };
    let exit = match matches {
        true => Exit::Done,
        false => Exit::Refuted,
    };
    if io.format == Format::Json {
        io.json(found)?;
        return Ok(exit);
    }
    if text("promise") == "Bits" {
        io.line(text("diskDigest"))?;
        io.say(format!("{version}: {}.", text("message")));
        return Ok(exit);
    }
    if matches {
        io.line(text("diskDigest"))?;
        let what = match found["promise"].as_str() {
            Some("Files") => "has the same files; a machine built it, which writes no disk twice",
            _ => "is the same",
        };
        io.say(format!("{version} was built again and {what}."));
        return Ok(exit);
    }
    let differences = found["differences"].as_array().into_iter().flatten();
    let rows: Vec<Vec<String>> = differences
        .map(|one| {
            let text = |name: &str| one[name].as_str().unwrap_or_default().to_owned();
            vec![text("change"), text("path")]
        })
        .collect();
    if !rows.is_empty() {
        io.line(table(&["CHANGE", "PATH"], &rows))?;
    }
    if let Some(more) = found["more"].as_u64().filter(|more| *more > 0) {
        io.say(format!("{more} more files differ."));
    }
    io.say(format!(
        "{version} is the disk {}, and was built again as {}: {}.",
        text("diskDigest"),
        text("rebuiltDigest"),
        text("message")
    ));
    Ok(exit)
}
