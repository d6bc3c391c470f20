//! How many requests a server answers: the whole way, from TLS to the database on disk, in one process with its clients.
//!
//! `cargo xtask bench server`. What the server's own threads used of the processor stands beside what the clock says, since
//! the clients take their share of the same cores. `BULLION_BENCH_DATA=<folder>` keeps the data for the next run,
//! `BULLION_BENCH_SECONDS` is how long each question is asked, and `BULLION_BENCH_DATABASE=<postgres url>` puts the catalog
//! into an empty PostgreSQL database, with the small catalog alone. `BULLION_BENCH_PART=affected` asks what is affected and
//! nothing else.

mod affected;
mod client;
mod measure;
mod seed;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

pub type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// `affected` runs that part alone; with a database, too.
const ALONE: &str = "BULLION_BENCH_PART";
/// Which part of the bench this process is; the first one starts the others, so that memory is measured alone.
const PHASE: &str = "BULLION_BENCH_PHASE";
const FILL_AFFECTED: &str = "fill affected";
const AFFECTED: &str = "affected";
const SMALL: usize = 10_000;
const LARGE: usize = 1_000_000;

fn main() -> Result<()> {
    let kept = std::env::var_os("BULLION_BENCH_DATA").map(PathBuf::from);
    let temporary = tempfile::tempdir()?;
    let data = kept.unwrap_or_else(|| temporary.path().join("data"));
    match std::env::var(PHASE).ok().as_deref() {
        Some("measure") => measure::run(&data),
        Some(FILL_AFFECTED) => {
            tokio::runtime::Runtime::new()?.block_on(affected::fill(&affected_data(&data)))
        }
        Some(AFFECTED) => affected::run(&affected_data(&data)),
        Some(count) => seed::run(&data, count.parse()?),
        None => all(&data),
    }
}

/// Beside the other data, in a folder of its own.
fn affected_data(data: &Path) -> PathBuf {
    data.with_file_name("affected")
}

fn all(data: &Path) -> Result<()> {
    if std::env::var_os(ALONE).is_some_and(|part| part == AFFECTED) {
        return what_is_affected(data);
    }
    let shared = seed::database().is_some();
    let sizes: &[usize] = if shared { &[SMALL] } else { &[SMALL, LARGE] };
    for size in sizes {
        phase(data, &size.to_string())?;
        phase(data, "measure")?;
    }
    // A database of its own for each part is more than one run has where it is not a file.
    match shared {
        true => Ok(()),
        false => what_is_affected(data),
    }
}

fn what_is_affected(data: &Path) -> Result<()> {
    if !affected_data(data).join("bullion.db").exists() {
        phase(data, FILL_AFFECTED)?;
    }
    phase(data, AFFECTED)
}

#[allow(
    clippy::disallowed_methods,
    reason = "the bench runs its own program; `process` would bound what is to be measured"
)]
fn phase(data: &Path, phase: &str) -> Result<()> {
    let status = Command::new(std::env::current_exe()?)
        .env(PHASE, phase)
        .env("BULLION_BENCH_DATA", data)
        .status()?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("phase {phase} failed").into()),
    }
}
