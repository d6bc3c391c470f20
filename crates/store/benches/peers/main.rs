//! The store beside other programs that keep or move versions of disks, on the same disks, in one
//! run.
//!
//! `cargo xtask bench store` makes the disks and says where they are (`BULLION_BENCH_FOLDER`);
//! without them there is nothing to compare, and this says so. Processor time is the figure to
//! compare: time on the clock depends on who else is busy. A program that is not installed is
//! left out. Ours is encrypted and waits until what it wrote is on the device; the others do what
//! they do by default, except that borg, which can do both, is spared the encryption.

mod growth;
mod meter;
mod others;
mod ours;

use std::error::Error;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use meter::{Cost, megabytes};

pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Where the disks are: `first.raw`, and the later versions of it.
const FOLDER: &str = "BULLION_BENCH_FOLDER";

/// A version that comes after the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Built anew from an archive that has moved on: another kernel, many packages.
    Large,
    /// The first with a few packages more, its file system made anew.
    Small,
    /// The same packages, installed on the first where it is.
    InPlace,
}

pub const NEXT: [Next; 3] = [Next::Large, Next::Small, Next::InPlace];

impl Next {
    fn name(self) -> &'static str {
        match self {
            Next::Large => "large",
            Next::Small => "small",
            Next::InPlace => "in-place",
        }
    }
}

/// The disks of one run.
pub struct Disks(PathBuf);

impl Disks {
    pub fn first(&self) -> PathBuf {
        self.0.join("first.raw")
    }

    pub fn next(&self, next: Next) -> PathBuf {
        self.0.join(format!("{}.raw", next.name()))
    }
}

/// What one program did with one pair of disks. What it cannot do is not there.
#[derive(Debug, Default, Clone)]
pub struct Row {
    pub first: Option<Cost>,
    pub first_bytes: Option<u64>,
    pub next: Option<Cost>,
    /// By which its store grew.
    pub added_bytes: Option<u64>,
    /// What goes over the wire to who has the first.
    pub moved: Option<Cost>,
    pub moved_bytes: Option<u64>,
    /// The later version, to a raw file, holes where it can; a bundle, to a store.
    pub restore: Option<Cost>,
    /// Whether the restored file is the disk.
    pub restored_right: Option<bool>,
}

fn main() -> Result<()> {
    let mut out = io::stdout().lock();
    let Some(folder) = std::env::var_os(FOLDER) else {
        writeln!(out, "no disks: `cargo xtask bench store` makes them")?;
        return Ok(());
    };
    let disks = Disks(folder.into());
    let runtime = tokio::runtime::Runtime::new()?;
    // Beside the disks, so that all programs write to one device.
    let work = tempfile::tempdir_in(&disks.0)?;
    for next in NEXT {
        print_head(&mut out, next)?;
        let [row, bundled] = ours::rows(&disks, next, &fresh(work.path())?)?;
        print_row(&mut out, "ours", &row)?;
        print_row(&mut out, "ours, in a bundle", &bundled)?;
        for peer in others::ALL {
            if !peer.is_here() {
                writeln!(out, "{:<22} is not installed", peer.program())?;
                continue;
            }
            let row = runtime.block_on(peer.row(&disks, next, &fresh(work.path())?))?;
            print_row(&mut out, peer.program(), &row)?;
        }
    }
    growth::print(&mut out, &disks, &fresh(work.path())?)
}

/// An empty folder; what was in it is gone.
fn fresh(work: &Path) -> Result<PathBuf> {
    let folder = work.join("now");
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir(&folder)?;
    Ok(folder)
}

fn print_head(out: &mut dyn Write, next: Next) -> Result<()> {
    writeln!(
        out,
        "\n{} (CPU s / s on the clock; MB are 10^6 bytes)\n{:<22}{:>13}{:>9}{:>14}{:>9}{:>14}{:>9}{:>14}",
        next.name(),
        "",
        "first",
        "MB",
        "next",
        "added MB",
        "move",
        "moved MB",
        "restore"
    )?;
    Ok(())
}

fn print_row(out: &mut dyn Write, name: &str, row: &Row) -> Result<()> {
    let cost = |cost: &Option<Cost>| cost.map_or("-".to_owned(), |cost| cost.to_string());
    let bytes = |bytes: &Option<u64>| bytes.map_or("-".to_owned(), megabytes);
    let wrong = match row.restored_right {
        Some(false) => "  WRONG BYTES",
        _ => "",
    };
    writeln!(
        out,
        "{name:<22}{:>13}{:>9}{:>14}{:>9}{:>14}{:>9}{:>14}{wrong}",
        cost(&row.first),
        bytes(&row.first_bytes),
        cost(&row.next),
        bytes(&row.added_bytes),
        cost(&row.moved),
        bytes(&row.moved_bytes),
        cost(&row.restore),
    )?;
    Ok(())
}
