//! How many requests a server answers: the whole way, from TLS to the database on disk, in one process with its clients.
//!
//! `cargo xtask bench server`. What the server's own threads used of the processor stands beside what the clock says, since
//! the clients take their share of the same cores. `BULLION_BENCH_DATA=<folder>` keeps the data for the next run,
//! `BULLION_BENCH_SECONDS` is how long each question is asked, and `BULLION_BENCH_DATABASE=<postgres url>` puts the catalog
//! into an empty PostgreSQL database, with the small catalog alone.

mod client;
mod measure;
mod seed;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

pub type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// Which part of the bench this process is; the first one starts the others, so that memory is measured alone.
const PHASE: &str = "BULLION_BENCH_PHASE";
const SMALL: usize = 10_000;
const LARGE: usize = 1_000_000;

fn main() -> Result<()> {
    let kept = std::env::var_os("BULLION_BENCH_DATA").map(PathBuf::from);
    let temporary = tempfile::tempdir()?;
    let data = kept.unwrap_or_else(|| temporary.path().join("data"));
    match std::env::var(PHASE).ok().as_deref() {
        Some("measure") => measure::run(&data),
        Some(count) => seed::run(&data, count.parse()?),
        None => all(&data),
    }
}

fn all(data: &Path) -> Result<()> {
    let shared = seed::database().is_some();
    let sizes: &[usize] = if shared { &[SMALL] } else { &[SMALL, LARGE] };
    for size in sizes {
        phase(data, &size.to_string())?;
        phase(data, "measure")?;
    }
    Ok(())
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
