//! `store list`, `store status` and `store scrub`: what is there, and whether it is sound.

use cli::io::{Format, Io, table};
use serde_json::{Value, json};
use store::Store;

use super::{At, find, open, short};
use crate::offline::Failure;

#[derive(Debug, clap::Args)]
pub struct Scrub {
    /// Id or digest of one disk, or the beginning of one; all unless given
    id: Option<String>,

    #[command(flatten)]
    at: At,
}

pub(super) fn list(store: &Store, io: &mut Io) -> Result<(), Failure> {
    let failed = |error| Failure::new("cannot list the store", error);
    let mut disks = Vec::new();
    for disk in store.list().map_err(failed)? {
        // What is damaged is listed too; `scrub` says what is wrong with it.
        let sizes = store.sizes(&disk.digest).ok();
        disks.push((disk, sizes));
    }
    match io.format {
        Format::Json => {
            let disks: Vec<Value> = disks
                .iter()
                .map(|(disk, sizes)| {
                    json!({
                        "id": short(&disk.digest),
                        "digest": disk.digest.to_string(),
                        "logicalBytes": sizes.map(|sizes| sizes.logical_bytes),
                        "dataBytes": sizes.map(|sizes| sizes.data_bytes),
                        "manifestBytes": disk.manifest_bytes,
                    })
                })
                .collect();
            Ok(io.json(&disks)?)
        }
        Format::Table => {
            let number = |value: Option<u64>| value.map_or("damaged".into(), |n| n.to_string());
            let rows: Vec<Vec<String>> = disks
                .iter()
                .map(|(disk, sizes)| {
                    vec![
                        short(&disk.digest),
                        number(sizes.map(|sizes| sizes.logical_bytes)),
                        number(sizes.map(|sizes| sizes.data_bytes)),
                        disk.digest.to_string(),
                    ]
                })
                .collect();
            Ok(io.line(table(&["ID", "BYTES", "DATA", "DIGEST"], &rows))?)
        }
    }
}

pub(super) fn status(store: &Store, io: &mut Io) -> Result<(), Failure> {
    let usage = store
        .usage()
        .map_err(|error| Failure::new("cannot measure the store", error))?;
    let shown = serde_json::to_value(&usage)
        .map_err(|error| Failure::new("cannot show the result", error))?;
    match (io.format, &shown) {
        (Format::Table, Value::Object(fields)) => {
            let text = |value: &Value| match value {
                Value::Array(items) => items.len().to_string(),
                other => other.to_string(),
            };
            let rows: Vec<Vec<String>> = fields
                .iter()
                .map(|(key, value)| vec![key.clone(), text(value)])
                .collect();
            Ok(io.line(table(&["WHAT", "COUNT"], &rows))?)
        }
        _ => Ok(io.json(&shown)?),
    }
}

pub(super) fn scrub(args: &Scrub, io: &mut Io) -> Result<(), Failure> {
    let store = open(&args.at, io)?;
    let digests = match &args.id {
        Some(id) => vec![find(&store, id)?],
        None => {
            let disks = store.list();
            let disks = disks.map_err(|error| Failure::new("cannot list the store", error))?;
            disks.iter().map(|disk| disk.digest).collect()
        }
    };
    let (mut results, mut bad) = (Vec::new(), 0usize);
    for digest in &digests {
        io.say(format!("reading {digest}"));
        let problem = match store.verify(digest) {
            Ok(report) if report.is_sound() => None,
            Ok(report) => Some(format!(
                "{} of {} frames are damaged",
                report.damaged.len(),
                report.frames
            )),
            Err(error) => Some(error.to_string()),
        };
        bad += usize::from(problem.is_some());
        results.push((digest, problem));
    }
    match io.format {
        Format::Json => {
            let shown: Vec<Value> = results
                .iter()
                .map(|(digest, problem)| {
                    json!({
                        "id": short(digest),
                        "digest": digest.to_string(),
                        "sound": problem.is_none(),
                        "problem": problem,
                    })
                })
                .collect();
            io.json(&shown)?;
        }
        Format::Table => {
            let rows: Vec<Vec<String>> = results
                .iter()
                .map(|(digest, problem)| {
                    let problem = problem.clone();
                    vec![short(digest), problem.unwrap_or_else(|| "sound".into())]
                })
                .collect();
            io.line(table(&["DISK", "RESULT"], &rows))?;
        }
    }
    match bad {
        0 => Ok(()),
        bad => Err(Failure::plain(format!(
            "{bad} of {} disks are not what their digest says",
            results.len()
        ))
        .hint("another region may hold a sound copy: scrub its store too")),
    }
}
