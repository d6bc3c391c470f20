//! Processor time, time on the clock, bytes in folders, and whether two files are the same.

use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::time::Instant;

use crate::Result;

/// The kernel counts in hundredths.
const TICKS_PER_SECOND: f64 = 100.0;
const COMPARED_AT_ONCE: usize = 1 << 20;

/// In seconds.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    pub cpu: f64,
    pub wall: f64,
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} / {:.1}", self.cpu, self.wall)
    }
}

/// Started before the work, and read after it.
pub struct Meter {
    cpu: f64,
    clock: Instant,
}

impl Meter {
    pub fn start() -> Result<Meter> {
        Ok(Meter {
            cpu: cpu_seconds()?,
            clock: Instant::now(),
        })
    }

    pub fn read(&self) -> Result<Cost> {
        Ok(Cost {
            cpu: cpu_seconds()? - self.cpu,
            wall: self.clock.elapsed().as_secs_f64(),
        })
    }
}

/// Of this process and of all its children that have ended.
fn cpu_seconds() -> Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let after_name = stat.rsplit_once(')').ok_or("an odd stat file")?.1;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let mut ticks = 0.0;
    for field in fields.get(11..15).ok_or("a short stat file")? {
        ticks += field.parse::<f64>()?;
    }
    Ok(ticks / TICKS_PER_SECOND)
}

pub fn megabytes(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / 1e6)
}

/// The lengths of all files below, or of one file.
pub fn bytes_in(path: &Path) -> Result<u64> {
    let about = fs::symlink_metadata(path)?;
    if !about.is_dir() {
        return Ok(about.len());
    }
    let mut sum = 0;
    for entry in fs::read_dir(path)? {
        sum += bytes_in(&entry?.path())?;
    }
    Ok(sum)
}

pub fn same(one: &Path, two: &Path) -> Result<bool> {
    let (mut one, mut two) = (File::open(one)?, File::open(two)?);
    if one.metadata()?.len() != two.metadata()?.len() {
        return Ok(false);
    }
    let (mut left, mut right) = (vec![0; COMPARED_AT_ONCE], vec![0; COMPARED_AT_ONCE]);
    loop {
        let read = one.read(&mut left)?;
        if read == 0 {
            return Ok(true);
        }
        two.read_exact(&mut right[..read])?;
        if left[..read] != right[..read] {
            return Ok(false);
        }
    }
}
