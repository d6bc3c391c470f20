//! `signing-key`: the keys of the installation, which are shown and replaced at the server. No private half is ever here.

use serde_json::Value;
use wire::ResourceId;

use super::text;
use crate::api;
use crate::args::signing_keys::{SigningKey, Signs};
use crate::client::{Ask, Client};
use crate::error::{CliError, Exit};
use crate::io::{Format, Io, table};

/// What is signed, where its keys are, and what replaces the one that signs.
const KINDS: [(Signs, &str, &str, &str); 2] = [
    (
        Signs::Tokens,
        "tokens",
        "/providers/Bullion.Factory/signingKeys",
        "/providers/Bullion.Factory/rotateSigningKey",
    ),
    (
        Signs::Statements,
        "statements",
        "/providers/Bullion.Factory/statementKeys",
        "/providers/Bullion.Factory/rotateStatementKey",
    ),
];

pub async fn run(client: &Client, args: SigningKey, io: &mut Io) -> Result<Exit, CliError> {
    let rotated = match args {
        SigningKey::List => None,
        SigningKey::Rotate { signs } => Some(signs),
    };
    let mut found = Vec::new();
    for (signs, what, list, rotate) in KINDS {
        let (method, path) = match rotated {
            None => ("GET", list),
            Some(one) if one == signs => ("POST", rotate),
            Some(_) => continue,
        };
        let path = api::below(&ResourceId::root(), path, api::BULLION);
        let ask = Ask {
            operation: match method {
                "GET" => "list the signing keys",
                _ => "replace the signing key",
            },
            tenant: client.home(),
            method,
            path: &path,
            body: None,
        };
        let body = client.send(ask).await?.body;
        let keys = body["value"].as_array().cloned().unwrap_or_default();
        found.extend(keys.into_iter().map(|key| (what, key)));
    }
    show(io, &found)?;
    if let Some((what, key)) = found.first().filter(|_| rotated.is_some()) {
        io.say(format!("{} signs {what} from now on.", text(key, "/name")));
    }
    Ok(Exit::Done)
}

fn show(io: &mut Io, found: &[(&str, Value)]) -> Result<(), CliError> {
    if io.format == Format::Json {
        let keys: Vec<&Value> = found.iter().map(|(_, key)| key).collect();
        return io.json(&keys);
    }
    let rows: Vec<Vec<String>> = found
        .iter()
        .map(|(what, key)| {
            let state = match key.pointer("/properties/signs") {
                Some(Value::Bool(true)) => "signs",
                _ => "verifies",
            };
            let until = match text(key, "/properties/retiresAt") {
                until if until.is_empty() => "-".to_owned(),
                until => until,
            };
            vec![
                (*what).to_owned(),
                state.to_owned(),
                text(key, "/name"),
                until,
            ]
        })
        .collect();
    io.line(table(&["OF", "STATE", "KEY", "UNTIL"], &rows))
}
