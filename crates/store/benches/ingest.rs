//! How fast a store is, in GB of data per second and in seconds of processor time.
//!
//! `cargo bench -p store` measures a made-up disk; `BULLION_BENCH_DISK=<raw image>` adds a real
//! one, and `BULLION_BENCH_NEXT=<raw image>` the next version of it, as a second ingest.
//! Processor time is the figure to compare: time on the clock depends on who else is busy.

use std::error::Error;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use disk::export::{Options, export};
use disk::image::{Format, Image, Limits};
use disk::{BLOCK_SIZE, CowDisk, DiskDigest, MemDisk, ReadAt, WriteAt, digest_of};
use store::keys::FakeKeys;
use store::{Domain, FileDisk, ImageFile, Keys, Store, StoreOptions};
use uuid::Uuid;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const MIB: usize = 1 << 20;
/// The made-up disk: this much, of which half is data.
const MADE_UP_BYTES: usize = 512 * MIB;
/// Blocks changed for a child: 8 MiB here and there.
const CHANGED_BLOCKS: u64 = 2048;

fn main() -> Result<()> {
    let mut out = io::stdout().lock();
    measure(&mut out, "made-up disk", &made_up(), None)?;
    if let Some(path) = std::env::var_os("BULLION_BENCH_DISK") {
        let disk = FileDisk::open(path.as_ref())?;
        let next = match std::env::var_os("BULLION_BENCH_NEXT") {
            Some(next) => Some(FileDisk::open(next.as_ref())?),
            None => None,
        };
        measure(
            &mut out,
            &path.to_string_lossy(),
            &disk,
            next.as_ref().map(|n| n as &dyn ReadAt),
        )?;
    }
    Ok(())
}

/// Text-like, random, repeated and zero blocks, always the same.
fn made_up() -> MemDisk {
    let mut disk = MemDisk::new(MADE_UP_BYTES);
    let mut state = 1u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut bytes = [0; BLOCK_SIZE];
    for chunk in (0..MADE_UP_BYTES / MIB).step_by(2) {
        for at in (0..MIB).step_by(BLOCK_SIZE) {
            match next() % 8 {
                0 => {}
                1 | 2 => bytes.fill_with(|| next() as u8),
                _ => bytes.fill_with(|| b"etaoin shrdlu\n\0\0\0"[(next() % 17) as usize]),
            }
            let offset = (chunk * MIB + at) as u64;
            disk.write_at(offset, &bytes).expect("within the disk");
        }
    }
    disk
}

struct Report<'a> {
    out: &'a mut dyn Write,
    data: u64,
}

impl Report<'_> {
    fn time<T>(&mut self, what: &str, run: impl FnOnce() -> Result<T>) -> Result<T> {
        let (clock, cpu) = (Instant::now(), cpu_seconds()?);
        let done = run()?;
        let (wall, cpu) = (clock.elapsed().as_secs_f64(), cpu_seconds()? - cpu);
        let rate = self.data as f64 / 1e9 / wall;
        writeln!(
            self.out,
            "{what:<24}{wall:>8.2} s {cpu:>8.2} CPU s {rate:>8.2} GB/s"
        )?;
        Ok(done)
    }
}

/// User and system time of this process so far, in hundredths.
fn cpu_seconds() -> Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit(')').next().ok_or("no fields")?;
    let ticks = |n: usize| -> Result<f64> {
        Ok(fields
            .split_whitespace()
            .nth(n)
            .ok_or("too few fields")?
            .parse()?)
    };
    Ok((ticks(11)? + ticks(12)?) / 100.0)
}

/// Every hundredth block or so becomes another.
fn change(disk: &dyn ReadAt) -> Result<disk::Changes> {
    let mut cow = CowDisk::new(disk);
    let blocks = disk.size() / BLOCK_SIZE as u64;
    for n in 0..CHANGED_BLOCKS {
        let block = n * (blocks / CHANGED_BLOCKS);
        cow.write_at(block * BLOCK_SIZE as u64, format!("changed {n}").as_bytes())?;
    }
    Ok(cow.into_changes()?)
}

fn measure(
    out: &mut dyn Write,
    name: &str,
    disk: &dyn ReadAt,
    next: Option<&dyn ReadAt>,
) -> Result<()> {
    let folder = tempfile::tempdir()?;
    // As a server has its regions: encrypted, in one domain.
    let options = StoreOptions {
        keys: Keys::Service(Arc::new(FakeKeys::default())),
        domain: Some(Domain::random()),
        ..StoreOptions::default()
    };
    let open = |name: &str| Store::open(&folder.path().join(name), options.clone());
    let (one, two) = (open("one")?, open("two")?);
    let file = folder.path().join("disk.raw");
    let changes = change(disk)?;
    let mut report = Report { out, data: 0 };

    digest_of(disk)?;
    let first = one.ingest(disk)?;
    drop(one);
    fs::remove_dir_all(folder.path().join("one"))?;
    let one = open("one")?;
    report.data = first.data_bytes;
    writeln!(
        report.out,
        "\n{name}: {} MB of data",
        first.data_bytes / 1_000_000
    )?;

    report.time("digest (1 thread)", || Ok(digest_of(disk)?))?;
    report.time("ingest", || Ok(one.ingest(disk)?))?;
    report.time("ingest again", || Ok(one.ingest(disk)?))?;
    let child = report.time("ingest child", || {
        Ok(one.ingest_child(&first.digest, &changes)?)
    })?;
    report.time("checkout", || Ok(one.checkout(&first.digest, &file)?))?;
    let morph = report.time("checkout of the child", || {
        Ok(one.checkout(&child.digest, &file)?)
    })?;
    report.time("verify", || Ok(one.verify(&first.digest)?))?;
    let moved = report.time("replicate", || {
        Ok(Store::replicate(&one, &two, &first.digest, &|_| ())?)
    })?;
    let more = report.time("replicate the child", || {
        Ok(Store::replicate(&one, &two, &child.digest, &|_| ())?)
    })?;
    images(&mut report, &one, &first.digest, folder.path())?;
    if let Some(next) = next {
        from_another_history(&mut report, next, &two, open("three")?)?;
        let second = report.time("ingest next", || Ok(one.ingest(next)?))?;
        writeln!(
            report.out,
            "next: new {} B, stored {} B, manifest {} B",
            second.new_bytes, second.stored_bytes, second.manifest_bytes
        )?;
    }
    report.time("open", || {
        drop(one);
        Ok(open("one")?)
    })?;
    writeln!(
        report.out,
        "new {} B, stored {} + {} B, child {} + {} B, morph {} B, moved {} + {} B, then {} + {} B",
        first.new_bytes,
        first.stored_bytes,
        first.manifest_bytes,
        child.stored_bytes,
        child.manifest_bytes,
        morph.written_bytes,
        moved.frame_bytes,
        moved.manifest_bytes,
        more.frame_bytes,
        more.manifest_bytes,
    )?;
    file_is_right(&file, &child.digest)
}

/// Out as an image of each kind, and that read again in full.
fn images(report: &mut Report<'_>, store: &Store, digest: &DiskDigest, at: &Path) -> Result<()> {
    let disk = store.disk(digest)?;
    for format in [
        Format::Qcow2,
        Format::VhdFixed,
        Format::VhdDynamic,
        Format::Vhdx,
    ] {
        let path = at.join(format.name());
        let options = Options {
            format,
            id: Uuid::nil(),
        };
        report.time(&format!("write {format}"), || {
            let mut file = ImageFile::create(&path)?;
            export(&disk, &options, &mut file, &|_| true)?;
            Ok(file.finish()?)
        })?;
        report.time(&format!("read {format} (1 thread)"), || {
            let image = Image::open(FileDisk::open(&path)?, Limits::default())?;
            Ok(digest_of(&image)?)
        })?;
        fs::remove_file(&path)?;
    }
    Ok(())
}

/// The next version comes from a store that never saw this one, so that no frame is the same.
fn from_another_history(
    report: &mut Report<'_>,
    next: &dyn ReadAt,
    to: &Store,
    other: Store,
) -> Result<()> {
    let alone = other.ingest(next)?;
    let moved = report.time("replicate next, strange", || {
        Ok(Store::replicate(&other, to, &alone.digest, &|_| ())?)
    })?;
    writeln!(
        report.out,
        "next from a strange store: stored there {} B, moved {} + {} B",
        alone.stored_bytes, moved.frame_bytes, moved.manifest_bytes
    )?;
    Ok(())
}

fn file_is_right(file: &Path, digest: &disk::DiskDigest) -> Result<()> {
    let found = digest_of(&FileDisk::open(file)?)?.0;
    if found == *digest {
        Ok(())
    } else {
        Err(format!("checkout holds {found}").into())
    }
}
