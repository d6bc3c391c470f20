//! How cost grows with what changed: it must be in proportion to that, not to the disk.

use std::io::Write;
use std::path::Path;

use disk::{BLOCK_SIZE, CowDisk, ReadAt, WriteAt};
use store::{FileDisk, Store};

use crate::meter::{Meter, megabytes};
use crate::{Disks, Result, ours};

/// Blocks that are changed: 8 MiB, and twice, four times, eight times as much.
const STEPS: [u64; 4] = [2048, 4096, 8192, 16384];
/// Blocks that lie together, as a file does.
const RUN: u64 = 32;

pub fn print(out: &mut dyn Write, disks: &Disks, work: &Path) -> Result<()> {
    let options = ours::options();
    let open = |name: &str| Store::open(&work.join(name), options.clone());
    let (one, two) = (open("one")?, open("two")?);
    let disk = FileDisk::open(&disks.first())?;
    let first = one.ingest(&disk)?;
    Store::replicate(&one, &two, &first.digest, &|_| ())?;
    writeln!(
        out,
        "\na child of the first, by changed MB: CPU s to take in, CPU s to replicate, MB moved"
    )?;
    for (number, blocks) in (1u64..).zip(STEPS) {
        let changes = change(&disk, blocks, number)?;
        let meter = Meter::start()?;
        let child = one.ingest_child(&first.digest, &changes)?;
        let ingest = meter.read()?;
        let meter = Meter::start()?;
        let moved = Store::replicate(&one, &two, &child.digest, &|_| ())?;
        let replicate = meter.read()?;
        writeln!(
            out,
            "{:>8} {:>8.2} {:>8.2} {:>8}",
            megabytes(blocks * BLOCK_SIZE as u64),
            ingest.cpu,
            replicate.cpu,
            megabytes(moved.frame_bytes + moved.manifest_bytes),
        )?;
    }
    Ok(())
}

/// Runs of blocks all over the disk become others, as compressible as they were.
fn change(disk: &dyn ReadAt, blocks: u64, seed: u64) -> Result<disk::Changes> {
    let mut cow = CowDisk::new(disk);
    let apart = disk.size() / BLOCK_SIZE as u64 / (blocks / RUN);
    let mut bytes = [0; BLOCK_SIZE];
    for run in 0..blocks / RUN {
        for block in run * apart..run * apart + RUN {
            let mut state = (seed << 32 | block).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            bytes.fill_with(|| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                b"etaoin shrdlu\n\0\0\0"[(state % 17) as usize]
            });
            cow.write_at(block * BLOCK_SIZE as u64, &bytes)?;
        }
    }
    Ok(cow.into_changes()?)
}
