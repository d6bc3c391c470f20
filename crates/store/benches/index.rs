//! What bounding the index costs: memory, blocks that are stored twice, and time, by a simulation
//! in which versions of disks are lists of numbers. `cargo bench -p store --bench index`.
//!
//! A *family* of disks begins with new blocks; each next version of it keeps most of the last one,
//! at other places, has some runs that another family has too, and the rest is new. Runs are as
//! long as those that two Debian disks share.

use std::error::Error;
use std::fs;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use store::place::Folder;
use store::simulate::{Run, Simulation};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: f64 = (1u64 << 40) as f64;
const BLOCK: u64 = 4096;
/// As between the two rebuilt Debian disks: 121,000 blocks in 7,165 runs.
const MEAN_RUN: u64 = 17;
/// Lookups that a time is the mean of.
const LOOKUPS: u64 = 2000;

/// How disks of a store follow from each other.
struct Churn {
    /// Of one disk.
    blocks: u64,
    families: usize,
    versions: usize,
    /// In hundredths of a disk.
    new: u64,
    /// Of the rest, what comes from another family.
    foreign: u64,
}

fn main() -> Result<()> {
    let mut out = io::stdout().lock();
    // Alone, because it is about the memory of the process.
    if let Ok(tib) = std::env::var("BULLION_BENCH_WHOLE") {
        return whole(&mut out, tib.parse()?, 512 * MIB);
    }
    // As 10 TiB of distinct blocks are to 512 MiB, so are these to 3 MiB.
    let small = Churn {
        blocks: GIB / BLOCK,
        families: 10,
        versions: 200,
        new: 24,
        foreign: 3,
    };
    loss(&mut out, &small, 3 * MIB)?;
    flat(&mut out)?;
    for mib in [6, 12, 48] {
        loss(&mut out, &small, mib * MIB)?;
    }
    Ok(())
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// The next version of a disk.
fn next(
    last: &[Run],
    other: &[Run],
    churn: &Churn,
    random: &mut Random,
    fresh: &mut u64,
) -> Vec<Run> {
    let mut disk = Vec::with_capacity(last.len());
    for run in last {
        let kind = random.below(100);
        if kind < churn.new {
            disk.push(Run {
                first: *fresh,
                count: run.count,
            });
            *fresh += run.count;
        } else if kind < churn.new + churn.foreign && !other.is_empty() {
            disk.push(other[random.below(other.len() as u64) as usize]);
        } else {
            disk.push(*run);
        }
    }
    // Files that survive lie elsewhere, but what lies together mostly stays together.
    let piece = 64;
    let pieces = disk.len() / piece;
    for at in 0..pieces {
        let to = random.below(pieces as u64) as usize;
        if to > at {
            let (left, right) = disk.split_at_mut(to * piece);
            left[at * piece..][..piece].swap_with_slice(&mut right[..piece]);
        }
    }
    disk
}

fn first(churn: &Churn, random: &mut Random, fresh: &mut u64) -> Vec<Run> {
    let (mut disk, mut done) = (Vec::new(), 0);
    while done < churn.blocks {
        let count = 1 + random.below(2 * MEAN_RUN - 1);
        disk.push(Run {
            first: *fresh,
            count,
        });
        (*fresh, done) = (*fresh + count, done + count);
    }
    disk
}

fn loss(out: &mut dyn Write, churn: &Churn, index_bytes: u64) -> Result<()> {
    let mut simulation = Simulation::new(index_bytes)?;
    let (mut random, mut fresh) = (Random(88172645463325252), 0);
    let mut families: Vec<Vec<Run>> = vec![Vec::new(); churn.families];
    let (mut looked, mut stored) = (0, 0);
    let clock = Instant::now();
    for version in 0..churn.versions {
        let family = version % churn.families;
        let disk = match families[family].is_empty() {
            true => first(churn, &mut random, &mut fresh),
            false => {
                let other = random.below(churn.families as u64) as usize;
                let other = families[other].clone();
                next(&families[family], &other, churn, &mut random, &mut fresh)
            }
        };
        let done = simulation.ingest(&disk)?;
        looked += done.blocks;
        stored += done.stored;
        families[family] = disk;
    }
    let known = simulation.index_use();
    writeln!(
        out,
        "limit {:>4} MiB: {} versions, {:.1} GiB distinct, {:.2} GiB stored twice ({:.2} % of what is found by a whole index), \
         index {:.1} MiB, {} of {} packs known, a hook in {}, {} lists, {:.2} us a block",
        index_bytes / MIB,
        churn.versions,
        (fresh * BLOCK) as f64 / GIB as f64,
        ((stored - fresh) * BLOCK) as f64 / GIB as f64,
        100.0 * (stored - fresh) as f64 / (looked - fresh) as f64,
        known.bytes as f64 / MIB as f64,
        known.known_packs,
        known.packs,
        known.one_in,
        known.runs,
        clock.elapsed().as_secs_f64() * 1e6 / looked as f64,
    )?;
    Ok(())
}

/// What a lookup takes.
struct Cost {
    reads: f64,
    /// Of the index itself, without what it reads.
    own_us: f64,
    all_us: f64,
}

/// The mean of [`LOOKUPS`].
fn cost(
    simulation: &Simulation,
    mut look: impl FnMut(u64) -> Result<bool>,
    wrong: &'static str,
) -> Result<Cost> {
    let (reads, reading) = (simulation.reads(), simulation.reading());
    let clock = Instant::now();
    for number in 0..LOOKUPS {
        if !look(number)? {
            return Err(wrong.into());
        }
    }
    let all = clock.elapsed();
    let own = all.saturating_sub(simulation.reading() - reading);
    let mean = |time: Duration| time.as_secs_f64() * 1e6 / LOOKUPS as f64;
    Ok(Cost {
        reads: (simulation.reads() - reads) as f64 / LOOKUPS as f64,
        own_us: mean(own),
        all_us: mean(all),
    })
}

/// Lookups in a store of ten, a hundred … ten thousand versions.
fn flat(out: &mut dyn Write) -> Result<()> {
    const PACKS_PER_VERSION: u64 = 3;
    let mut simulation = Simulation::new(64 * MIB)?;
    let mut random = Random(88172645463325252);
    for versions in [10u64, 100, 1000, 10_000] {
        let count = Simulation::blocks_in_pack();
        while simulation.packs() < versions * PACKS_PER_VERSION {
            let first = simulation.packs() * count;
            simulation.ingest(&[Run { first, count }])?;
        }
        let packs = simulation.packs();
        let anywhere = |_| Ok(simulation.finds(random.below(packs), random.below(328) as usize)?);
        let there = cost(&simulation, anywhere, "a frame is not found")?;
        let absent = |number| Ok(simulation.finds_nothing(number)?);
        let nowhere = cost(&simulation, absent, "what is not there is found")?;
        let known = simulation.index_use();
        writeln!(
            out,
            "{versions:>6} versions, {:.0} GiB distinct: a frame anywhere {:.2} reads, {:.1} us of {:.0}; one that is \
             nowhere {:.2} reads, {:.1} us of {:.0}; index {:.1} MiB, {} of {packs} packs known, {} lists",
            (packs * count * BLOCK) as f64 / GIB as f64,
            there.reads,
            there.own_us,
            there.all_us,
            nowhere.reads,
            nowhere.own_us,
            nowhere.all_us,
            known.bytes as f64 / MIB as f64,
            known.known_packs,
            known.runs,
        )?;
    }
    Ok(())
}

/// What the index of stores of up to so many TiB of distinct blocks takes: as its tables say, and of the machine; and
/// what it finds then.
fn whole(out: &mut dyn Write, most_tib: f64, index_bytes: u64) -> Result<()> {
    let folder = tempfile::tempdir()?;
    // Not in memory, which shall be the index's alone.
    let noted = Arc::new(Folder::open(folder.path())?);
    writeln!(out, "before: {}", memory()?)?;
    let mut simulation = Simulation::noting_in(noted, index_bytes)?;
    let clock = Instant::now();
    let mut most = 0;
    let sizes = [
        0.0625, 0.125, 0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0,
    ];
    for tib in sizes.into_iter().filter(|tib| *tib <= most_tib) {
        let packs = (tib * TIB) as u64 / BLOCK / Simulation::blocks_in_pack();
        while simulation.packs() < packs {
            simulation.fill(256.min(packs - simulation.packs()));
            most = most.max(simulation.index_use().bytes);
        }
        writeln!(
            out,
            "{tib} TiB after {:.0} s:",
            clock.elapsed().as_secs_f64()
        )?;
        tell(out, &simulation, most)?;
    }
    // As a start of the process on a store that is there.
    let clock = Instant::now();
    let simulation = simulation.reopen(index_bytes)?;
    writeln!(
        out,
        "opened again in {:.0} s:",
        clock.elapsed().as_secs_f64()
    )?;
    tell(out, &simulation, simulation.index_use().bytes)
}

/// What a store takes, and what it finds of what is in it.
fn tell(out: &mut dyn Write, simulation: &Simulation, most: u64) -> Result<()> {
    let known = simulation.index_use();
    writeln!(
        out,
        "  {}; index {:.0} MiB at most, {:.0} MiB now, {:.0} MiB at least; {} of {} packs known, {} hooks, one in {}, {} lists",
        memory()?,
        most as f64 / MIB as f64,
        known.bytes as f64 / MIB as f64,
        known.least_bytes as f64 / MIB as f64,
        known.known_packs,
        known.packs,
        known.hooks,
        known.one_in,
        known.runs,
    )?;
    let (packs, count) = (simulation.packs(), Simulation::blocks_in_pack());
    let mut random = Random(88172645463325252);
    let anywhere = |_| Ok(simulation.finds(random.below(packs), random.below(328) as usize)?);
    let there = cost(simulation, anywhere, "a frame is not found")?;
    let absent = |number| Ok(simulation.finds_nothing(number)?);
    let nowhere = cost(simulation, absent, "what is not there is found")?;
    write!(
        out,
        "  a frame anywhere {:.2} reads, {:.1} us of {:.0}; nowhere {:.2} reads, {:.1} us of {:.0}; not found of blocks",
        there.reads, there.own_us, there.all_us, nowhere.reads, nowhere.own_us, nowhere.all_us
    )?;
    // A GiB of each kind: what lay together still does, in groups of so many blocks from all over the store.
    for group in [16, 64, 256, 1024, count] {
        let groups = (GIB / BLOCK).div_ceil(group);
        let run = |_| Run {
            first: random.below(packs) * count + random.below(count - group + 1),
            count: group,
        };
        let disk: Vec<Run> = (0..groups).map(run).collect();
        let looked = simulation.look(&disk)?;
        let missed = 100.0 * looked.stored as f64 / looked.blocks as f64;
        write!(out, ", in groups of {group} {missed:.2} %")?;
    }
    writeln!(out, "; {}", memory()?)?;
    Ok(())
}

/// Of this process, now and at its highest.
fn memory() -> Result<String> {
    let status = fs::read_to_string("/proc/self/status")?;
    let of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        kib.and_then(|kib| kib.parse::<u64>().ok())
            .ok_or("no memory is told")
    };
    let mib = |kib: u64| kib as f64 / 1024.0;
    Ok(format!(
        "process {:.1} MiB at its highest, {:.1} MiB now",
        mib(of("VmHWM:")?),
        mib(of("VmRSS:")?)
    ))
}
