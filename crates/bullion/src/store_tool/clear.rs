//! `store delete` and `store gc`: what goes for good.

use std::time::SystemTime;

use cli::io::{Format, Io};
use serde_json::json;
use store::{Collect, StoreError};

use super::{At, find, open_maybe_locked, short};
use crate::offline::Failure;

const SECONDS_PER_HOUR: u64 = 3600;

#[derive(Debug, clap::Args)]
pub struct Delete {
    /// Id or digest of the disk, or the beginning of one
    id: String,

    #[command(flatten)]
    at: At,
}

#[derive(Debug, clap::Args)]
pub struct Gc {
    #[command(flatten)]
    at: At,

    /// How long what nobody needs is kept for those who still read it
    #[arg(long, value_name = "HOURS", default_value_t = 24)]
    grace_hours: u64,
}

pub(super) fn delete(args: &Delete, io: &mut Io) -> Result<(), Failure> {
    let store = open_maybe_locked(&args.at, io)?;
    let digest = find(&store, &args.id)?;
    store
        .delete(&digest)
        .map_err(|error| Failure::new("cannot delete the disk", error))?;
    match io.format {
        Format::Json => Ok(io.json(&json!({
            "id": short(&digest),
            "digest": digest.to_string(),
        }))?),
        Format::Table => {
            io.say(format!(
                "Deleted {digest}. `bullion store gc` gives its room back."
            ));
            Ok(())
        }
    }
}

pub(super) fn gc(args: &Gc, io: &mut Io) -> Result<(), Failure> {
    let store = open_maybe_locked(&args.at, io)?;
    let when = Collect {
        now: seconds_now()?,
        grace: args.grace_hours.saturating_mul(SECONDS_PER_HOUR),
    };
    let done = store.collect(when).map_err(|error| {
        let unclear = matches!(error, StoreError::Damaged { .. });
        let failure = Failure::new("cannot collect what no disk needs", error);
        match unclear {
            true => failure.hint(
                "what a damaged disk needs is not known: put or push that disk again, or delete it",
            ),
            false => failure,
        }
    })?;
    match io.format {
        Format::Json => io.json(&done)?,
        Format::Table => {
            io.say(format!(
                "Removed {} packs of {} bytes; {} of {} bytes wait for the grace period.",
                done.removed_packs, done.removed_bytes, done.waiting_packs, done.waiting_bytes
            ));
            for pack in &done.damaged_packs {
                io.say(format!("`{pack}` is damaged and stays as it is"));
            }
        }
    }
    Ok(())
}

fn seconds_now() -> Result<u64, Failure> {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map(|since| since.as_secs())
        .map_err(|error| Failure::new("the clock is before 1970", error))
}
