//! `store repair`: what is damaged or missing is taken from other stores.

use cli::io::{Format, Io};
use serde_json::json;
use store::Store;
use store::place::At as Address;
use store::region::{Member, Position, Region, Scrubbed};

use super::{At, open, open_place, short};
use crate::offline::Failure;

/// More packs than a store has, so that a fault cannot keep this running.
const MAX_STEPS: u64 = 100_000_000;

#[derive(Debug, clap::Args)]
pub struct Repair {
    #[command(flatten)]
    at: At,

    /// A store that may have what is missing; may be repeated
    #[arg(long, value_name = "PLACE", required = true)]
    from: Vec<Address>,
}

pub(super) fn repair(args: &Repair, io: &mut Io) -> Result<(), Failure> {
    let store = open(&args.at, io)?;
    let mut others = Vec::new();
    for from in &args.from {
        others.push(open_place(from, None, io)?);
    }
    let before = incomplete(&store)?;
    let region = Region::new("store");
    region.add(Member::open("1", Region::ONLY, false, store.clone()));
    let (read, problems) = read_all(&region, &others, io);
    let after = incomplete(&store)?;
    let copied = before.saturating_sub(after);
    match io.format {
        Format::Json => io.json(&json!({
            "readBytes": read.bytes,
            "packs": read.packs,
            "frames": read.frames,
            "damagedFrames": read.damaged,
            "repairedFrames": read.repaired,
            "lostFrames": read.lost,
            "disksCopied": copied,
            "disksIncomplete": after,
            "problems": problems,
        }))?,
        Format::Table => {
            for problem in &problems {
                io.say(problem);
            }
            io.say(format!(
                "Read {} bytes: {} frames were damaged, {} of them came from other stores; {copied} disks were copied again.",
                read.bytes, read.damaged, read.repaired
            ));
        }
    }
    let names: Vec<String> = store
        .list()
        .map_err(|error| Failure::new("cannot list the store", error))?
        .iter()
        .filter(|disk| !store.has(&disk.digest))
        .map(|disk| short(&disk.digest))
        .collect();
    match names.is_empty() {
        true => Ok(()),
        false => Err(
            Failure::plain(format!("no store has all of {}", names.join(", ")))
                .hint("name further stores with `--from`, or `bullion store delete` what is lost"),
        ),
    }
}

fn incomplete(store: &Store) -> Result<usize, Failure> {
    let disks = store
        .list()
        .map_err(|error| Failure::new("cannot list the store", error))?;
    Ok(disks.iter().filter(|disk| !store.has(&disk.digest)).count())
}

/// One round over the whole store, with what it found.
fn read_all(region: &Region, others: &[Store], io: &Io) -> (Scrubbed, Vec<String>) {
    let progress = cli::progress::Progress::start(io);
    let total = region.bytes() >> 20;
    let mut at = Position::default();
    let (mut read, mut problems) = (Scrubbed::default(), Vec::new());
    for _ in 0..MAX_STEPS {
        let found = region.scrub_step(&mut at, others);
        problems.extend(found.problems);
        if found.ended {
            break;
        }
        read = at.round.clone();
        progress.show(format!("reading: {} of {total} MiB", read.bytes >> 20));
    }
    (read, problems)
}
