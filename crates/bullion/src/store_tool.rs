//! `store`: reading a store of image bits without the server.
//!
//! A store belongs to one process at a time, so a running server answers for its own stores and
//! these commands say that it must be stopped.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use cli::io::{Format, Io, table};
use serde_json::{Value, json};
use store::{Store, StoreError, StoreOptions};

use crate::offline::Failure;

#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// List the disks that a store holds
    #[command(after_help = "Example:
  bullion store list /var/lib/bullion/regions/north/1")]
    List {
        /// Folder of the store: DATA/regions/REGION/ZONE
        folder: PathBuf,
    },
    /// Show how much a store holds and what it takes
    #[command(after_help = "Example:
  bullion store stat /var/lib/bullion/regions/north/1")]
    Stat {
        /// Folder of the store: DATA/regions/REGION/ZONE
        folder: PathBuf,
    },
    /// Read disks back in full and hold them against their digests
    #[command(after_help = "Examples:
  bullion store verify /var/lib/bullion/regions/north/1
  bullion store verify /var/lib/bullion/regions/north/1 bd1:DIGEST")]
    Verify {
        /// Folder of the store: DATA/regions/REGION/ZONE
        folder: PathBuf,
        /// Digest of one disk; all unless given
        digest: Option<String>,
    },
    /// Write a disk into a raw image file
    #[command(after_help = "Example:
  bullion store export /var/lib/bullion/regions/north/1 bd1:DIGEST disk.raw")]
    Export {
        /// Folder of the store: DATA/regions/REGION/ZONE
        folder: PathBuf,
        /// Digest of the disk
        digest: String,
        /// File to write; it must not exist
        file: PathBuf,
    },
}

pub fn run(command: StoreCommand, io: &mut Io) -> Result<(), Failure> {
    match command {
        StoreCommand::List { folder } => list(&open(&folder)?, io),
        StoreCommand::Stat { folder } => stat(&open(&folder)?, io),
        StoreCommand::Verify { folder, digest } => verify(&open(&folder)?, digest.as_deref(), io),
        StoreCommand::Export {
            folder,
            digest,
            file,
        } => export(&open(&folder)?, &digest, &file, io),
    }
}

fn open(folder: &Path) -> Result<Store, Failure> {
    // Opening makes a store where there is none, which is not what a reader asks for.
    let is_store = folder.join("packs").is_dir() || folder.join("manifests").is_dir();
    if !is_store {
        return Err(
            Failure::plain(format!("`{}` is not a store", folder.display()))
                .hint("a store is a folder such as DATA/regions/north/1"),
        );
    }
    Store::open(folder, StoreOptions::default()).map_err(|error| {
        let in_use = matches!(error, StoreError::InUse { .. });
        let failure = Failure::new(
            format!("cannot open the store `{}`", folder.display()),
            error,
        );
        match in_use {
            true => failure.hint("stop the server that uses it, then run this again"),
            false => failure,
        }
    })
}

fn list(store: &Store, io: &mut Io) -> Result<(), Failure> {
    let disks = store
        .list()
        .map_err(|error| Failure::new("cannot list the store", error))?;
    match io.format {
        Format::Json => {
            let disks: Vec<Value> = disks
                .iter()
                .map(|disk| json!({ "digest": disk.digest.to_string(), "manifestBytes": disk.manifest_bytes }))
                .collect();
            Ok(io.json(&disks)?)
        }
        Format::Table => {
            let rows: Vec<Vec<String>> = disks
                .iter()
                .map(|disk| vec![disk.digest.to_string(), disk.manifest_bytes.to_string()])
                .collect();
            Ok(io.line(table(&["DISK", "MANIFEST BYTES"], &rows))?)
        }
    }
}

fn stat(store: &Store, io: &mut Io) -> Result<(), Failure> {
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

fn verify(store: &Store, digest: Option<&str>, io: &mut Io) -> Result<(), Failure> {
    let mut disks = store
        .list()
        .map_err(|error| Failure::new("cannot list the store", error))?;
    if let Some(digest) = digest {
        disks.retain(|disk| disk.digest.to_string() == digest);
        if disks.is_empty() {
            return Err(not_here(digest));
        }
    }
    let (mut results, mut bad) = (Vec::new(), 0usize);
    for disk in &disks {
        let name = disk.digest.to_string();
        io.say(format!("reading {name}"));
        let problem = match store.verify(&disk.digest) {
            Ok(report) if report.is_sound() => None,
            Ok(report) => Some(format!(
                "{} of {} frames are damaged",
                report.damaged.len(),
                report.frames
            )),
            Err(error) => Some(error.to_string()),
        };
        bad += usize::from(problem.is_some());
        results.push((name, problem));
    }
    match io.format {
        Format::Json => {
            let shown: Vec<Value> = results
                .iter()
                .map(|(name, problem)| json!({ "digest": name, "sound": problem.is_none(), "problem": problem }))
                .collect();
            io.json(&shown)?;
        }
        Format::Table => {
            let rows: Vec<Vec<String>> = results
                .iter()
                .map(|(name, problem)| {
                    vec![
                        name.clone(),
                        problem.clone().unwrap_or_else(|| "sound".into()),
                    ]
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
        .hint("another region may hold a sound copy: verify its store too")),
    }
}

fn export(store: &Store, digest: &str, file: &Path, io: &mut Io) -> Result<(), Failure> {
    let disks = store
        .list()
        .map_err(|error| Failure::new("cannot list the store", error))?;
    let Some(disk) = disks.iter().find(|disk| disk.digest.to_string() == digest) else {
        return Err(not_here(digest));
    };
    if file.exists() {
        return Err(
            Failure::plain(format!("`{}` exists already", file.display()))
                .hint("name a file that does not"),
        );
    }
    let written = store
        .checkout(&disk.digest, file)
        .map_err(|error| Failure::new(format!("cannot write `{}`", file.display()), error))?;
    // The note beside the file is for disks that the store will change again; this one leaves it.
    let _ = std::fs::remove_file(store::sidecar_path(file));
    io.say(format!(
        "Wrote {} bytes of data to `{}`.",
        written.written_bytes,
        file.display()
    ));
    Ok(())
}

fn not_here(digest: &str) -> Failure {
    Failure::plain(format!("the store holds no disk `{digest}`"))
        .hint("`bullion store list` shows what it holds")
}
