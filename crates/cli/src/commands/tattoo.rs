//! `tattoo read`: a record, and whether the gallery signed it. The record of a disk is read by the program; that of a
//! machine is asked for here.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use wire::ResourceId;

use super::image::locate;
use super::scope::{Finder, Located, VM};
use crate::api;
use crate::args::Scope;
use crate::args::tattoo::ReadTattoo;
use crate::client::Client;
use crate::error::{CliError, Exit};
use crate::io::{Format, Io};

const STATEMENT: &str = "/providers/Bullion.Factory/statements/tattoo";
const IMAGE: &str = "/providers/Bullion.Factory/machineImages/default";

type Record = BTreeMap<String, String>;

/// What is known of a record's signature.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// The statement's signature is right, and it has this record.
    Good { key: String, signed_at: String },
    /// The signature is wrong, or the record is another one.
    Bad(String),
    /// Nobody could be asked, or nothing is known.
    Unchecked(String),
}

pub async fn read(
    client: Result<Client, CliError>,
    args: &ReadTattoo,
    io: &mut Io,
) -> Result<Exit, CliError> {
    let (record, version, verdict) = match (&args.record, client) {
        (None, client) => {
            let client = client?;
            let (record, version) = of_machine(&client, args).await?;
            let (version, verdict) = check(&client, args, &record, version).await;
            (record, version, verdict)
        }
        (Some(record), Ok(client)) => {
            let (version, verdict) = check(&client, args, record, None).await;
            (record.clone(), version, verdict)
        }
        (Some(record), Err(error)) => (record.clone(), None, Verdict::Unchecked(error.to_string())),
    };
    show(io, &args.what, &record, version.as_ref(), &verdict)?;
    Ok(match verdict {
        Verdict::Bad(_) => Exit::Refuted,
        Verdict::Unchecked(_) if args.must_be_signed => Exit::Failure,
        Verdict::Good { .. } | Verdict::Unchecked(_) => Exit::Done,
    })
}

fn show(
    io: &mut Io,
    what: &str,
    record: &Record,
    version: Option<&ResourceId>,
    verdict: &Verdict,
) -> Result<(), CliError> {
    let against = version.map_or_else(String::new, |version| format!(" ({version})"));
    match verdict {
        Verdict::Good { key, signed_at } => io.say(format!(
            "The gallery's signed record is the same{against}; key {key}, {signed_at}."
        )),
        Verdict::Bad(why) => io.say(format!("NOT what the gallery signed{against}: {why}.")),
        Verdict::Unchecked(why) => io.say(format!("Not checked{against}: {why}.")),
    }
    if io.format == Format::Json {
        let mut signature = match verdict {
            Verdict::Good { key, signed_at } => {
                json!({ "result": "good", "keyId": key, "signedAt": signed_at })
            }
            Verdict::Bad(why) => json!({ "result": "bad", "message": why }),
            Verdict::Unchecked(why) => json!({ "result": "unchecked", "message": why }),
        };
        signature["versionId"] = json!(version.map(ResourceId::to_string));
        return io.json(&json!({ "read": what, "tattoo": record, "signature": signature }));
    }
    record
        .iter()
        .try_for_each(|(key, value)| io.line(format!("{key}={value}")))
}

/// The record that was read inside a machine, and the version that it was made from.
async fn of_machine(
    client: &Client,
    args: &ReadTattoo,
) -> Result<(Record, Option<String>), CliError> {
    let missing = |error: CliError| match error {
        CliError::Failed { what, hint } => CliError::Failed {
            what: format!("{what}, and no file `{}`", args.what),
            hint,
        },
        other => other,
    };
    let vm = Finder::new(client, &args.scope).find(VM, &args.what).await;
    let vm = vm.map_err(missing)?;
    let operation = format!("read the tattoo of machine {}", vm.id.name());
    let path = api::below(&vm.id, IMAGE, api::BULLION);
    let body = client.get(&operation, vm.tenant, &path).await?;
    let record: Record = serde_json::from_value(body["properties"]["tattoo"].clone())
        .ok()
        .filter(|record: &Record| !record.is_empty())
        .ok_or_else(|| CliError::BadAnswer {
            operation,
            why: "there is no record in it".into(),
        })?;
    let version = body["properties"]["versionId"].as_str();
    Ok((record, version.map(str::to_owned)))
}

/// Holds the record against the signed one of a version: the one asked for, the machine's, or the record's own.
async fn check(
    client: &Client,
    args: &ReadTattoo,
    record: &Record,
    version: Option<String>,
) -> (Option<ResourceId>, Verdict) {
    let own = || {
        let part = |key: &str| record.get(key).filter(|value| !value.is_empty());
        let (definition, number) = (part("image.definition")?, part("image.version")?);
        Some(format!("{definition}/versions/{number}"))
    };
    let anywhere = Scope {
        resource_group: None,
        ..args.scope.clone()
    };
    let found = match args.version.clone().or(version).or_else(own) {
        Some(written) => locate(client, &written, &anywhere).await,
        None => {
            let why = "it names no version of a gallery; name one with --version";
            return (None, Verdict::Unchecked(why.into()));
        }
    };
    match found {
        Ok(version) => {
            let path = api::below(&version.id, STATEMENT, api::BULLION);
            let Located { tenant, id } = version;
            let answer = client.get("read the signed tattoo", tenant, &path).await;
            let verdict = verdict(record, answer);
            (Some(id), verdict)
        }
        Err(error) => (None, Verdict::Unchecked(error.to_string())),
    }
}

fn verdict(record: &Record, answer: Result<Value, CliError>) -> Verdict {
    let body = match answer {
        Ok(body) => body,
        // The server has looked at the signature, and it proves nothing.
        Err(CliError::Arm { code, message, .. }) if code == "Conflict" => {
            return Verdict::Bad(message.trim_end_matches('.').to_owned());
        }
        Err(error) if error.is_not_found() => {
            return Verdict::Unchecked("nothing signed is known of such a version".into());
        }
        Err(error) => return Verdict::Unchecked(error.to_string()),
    };
    let properties = &body["properties"];
    let signed = &properties["statement"]["predicate"]["record"];
    let Ok(signed) = serde_json::from_value::<Record>(signed.clone()) else {
        return Verdict::Unchecked("the server's statement is not understood".into());
    };
    let keys = record.keys().chain(signed.keys());
    let mut other: Vec<&str> = keys
        .filter(|key| record.get(*key) != signed.get(*key))
        .map(String::as_str)
        .collect();
    other.sort_unstable();
    other.dedup();
    if !other.is_empty() {
        return Verdict::Bad(format!("it differs in {}", other.join(", ")));
    }
    let text = |name: &str| properties[name].as_str().unwrap_or_default().to_owned();
    Verdict::Good {
        key: text("keyId"),
        signed_at: text("signedAt"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::StatusCode;

    fn record(pairs: &[(&str, &str)]) -> Record {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        pairs.iter().map(owned).collect()
    }

    fn refused(status: StatusCode, code: &str) -> CliError {
        CliError::Arm {
            operation: "read".into(),
            status,
            code: code.into(),
            message: "it proves nothing.".into(),
            details: Vec::new(),
        }
    }

    #[test]
    fn a_record_is_good_only_if_all_of_it_was_signed() {
        let signed = || {
            Ok(json!({ "properties": {
                "keyId": "k", "signedAt": "t",
                "statement": { "predicate": { "record": { "format": "1", "image.version": "1.0.0" } } },
            } }))
        };
        let check = |found: &[(&str, &str)], answer, expected: Verdict| {
            assert_eq!(verdict(&record(found), answer), expected);
        };
        let same = [("format", "1"), ("image.version", "1.0.0")];
        let good = Verdict::Good {
            key: "k".into(),
            signed_at: "t".into(),
        };
        check(&same, signed(), good);
        let bad = |why: &str| Verdict::Bad(why.into());
        check(
            &[("format", "1"), ("image.version", "1.0.1")],
            signed(),
            bad("it differs in image.version"),
        );
        check(
            &[("format", "1"), ("image.version", "1.0.0"), ("x", "")],
            signed(),
            bad("it differs in x"),
        );
        check(
            &[("format", "1")],
            signed(),
            bad("it differs in image.version"),
        );
        let tampered = refused(StatusCode::CONFLICT, "Conflict");
        check(&same, Err(tampered), bad("it proves nothing"));
        let unchecked = |answer| {
            let verdict = verdict(&record(&same), answer);
            assert!(matches!(verdict, Verdict::Unchecked(_)), "{verdict:?}");
        };
        unchecked(Err(refused(StatusCode::NOT_FOUND, "ResourceNotFound")));
        unchecked(Err(refused(StatusCode::FORBIDDEN, "AuthorizationFailed")));
        unchecked(Ok(json!({})));
    }
}
