//! How fast policies are evaluated, ours and three others in the same run.
//!
//! Times are processor time of the thread that works, so that it does not matter who else is busy; where
//! a second one stands, it is time on the clock.
//!
//! `cargo xtask bench policy` runs this. `BULLION_POLICY_BUILTINS=<folder>` takes the ten definitions from
//! a folder of Azure's own, such as `built-in-policies/policyDefinitions` of its public repository.

mod machines;
mod peers;
mod policies;

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use anyhow::{Context, Result, ensure};
use policy::scan::{Around, Outcome, Plan, Row, Table};

use crate::machines::{Numbers, some, write};
use crate::peers::Measured;
use crate::policies::{Document, documents, plans};

const MACHINES: usize = 100_000;
/// Machines that the other engines are asked about: enough for a steady figure.
const PEER_MACHINES: usize = 5_000;
const MANY_MACHINES: usize = 1_000_000;
/// Variants of the ten policies, for fifty and for a thousand.
const FIFTY: usize = 5;
const THOUSAND: usize = 100;
const CHANGES: usize = 2_000;
/// How long the hot scan is repeated.
const HOT: Duration = Duration::from_secs(3);

fn main() -> Result<()> {
    let (documents, from) = documents()?;
    println!("ten policies on virtual machines: {from}");
    // First, while nothing else has taken memory.
    many(&documents)?;
    let machines = some(MACHINES);
    let bytes: usize = machines.iter().map(String::len).sum();
    println!(
        "\n{MACHINES} machines, {} bytes of JSON each",
        bytes / MACHINES
    );
    let violations = hundred_thousand(&documents, &machines)?;
    changes(&documents, &machines)?;
    peers(&documents, &machines[..PEER_MACHINES], violations)
}

fn violations(plans: &mut [Plan], table: &Table) -> Result<usize> {
    let mut found = 0;
    for plan in plans {
        let answers = plan.scan(table)?;
        found += answers
            .iter()
            .map(|a| a.count(Outcome::NonCompliant))
            .sum::<usize>();
    }
    Ok(found)
}

fn per_second(evaluations: usize, took: Duration) -> String {
    let rate = evaluations as f64 / took.as_secs_f64();
    match rate {
        rate if rate >= 1e7 => format!("{:.0} million/s", rate / 1e6),
        rate if rate >= 1e6 => format!("{:.1} million/s", rate / 1e6),
        rate => format!("{:.0} thousand/s", rate / 1e3),
    }
}

/// Processor time of this thread since a moment.
#[derive(Clone, Copy)]
pub struct Cpu(Duration);

impl Cpu {
    pub fn now() -> Cpu {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Cpu(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
    }

    pub fn elapsed(self) -> Duration {
        Cpu::now().0 - self.0
    }
}

/// Resident memory at its highest, in MiB.
fn peak() -> Result<usize> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib = line
        .and_then(|line| line.split_whitespace().nth(1))
        .context("no VmHWM")?;
    Ok(kib.parse::<usize>()? / 1024)
}

/// A million machines and fifty policies, on two cores: each takes half of the machines.
fn many(documents: &[Document]) -> Result<()> {
    const SHARDS: usize = 2;
    let shard = |number: usize| -> Result<([Duration; 4], usize)> {
        let mut plans = plans(documents, FIFTY)?;
        let mut table = Table::new(&plans);
        let mut numbers = Numbers::new(number as u64 + 11);
        let mut text = String::new();
        let mut ingest = Duration::ZERO;
        for machine in 0..MANY_MACHINES / SHARDS {
            text.clear();
            write(machine, &mut numbers, &mut text);
            let start = Cpu::now();
            table.insert(text.as_bytes(), Around::default())?;
            ingest += start.elapsed();
        }
        let (start, clock) = (Cpu::now(), Instant::now());
        let found = violations(&mut plans, &table)?;
        let (first, clock) = (start.elapsed(), clock.elapsed());
        let start = Cpu::now();
        ensure!(
            violations(&mut plans, &table)? == found,
            "a second scan finds the same"
        );
        Ok(([ingest, first, clock, start.elapsed()], found))
    };
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..SHARDS)
            .map(|number| scope.spawn(move || shard(number)))
            .collect();
        threads.into_iter().map(|thread| thread.join()).collect()
    });
    let mut slowest = [Duration::ZERO; 4];
    let mut found = 0;
    for result in results {
        let (times, more) = result.map_err(|_| anyhow::anyhow!("a shard failed"))??;
        for (slot, took) in slowest.iter_mut().zip(times) {
            *slot = (*slot).max(took);
        }
        found += more;
    }
    let [ingest, first, clock, again] = slowest;
    println!(
        "\n{MANY_MACHINES} machines x 50 policies, two threads of half each: {found} violations"
    );
    println!("  ingest from JSON        {ingest:>10.2?}");
    println!("  first full scan         {first:>10.2?}  {clock:.2?} on the clock");
    println!("  full scan again         {again:>10.2?}");
    println!("  memory at its highest   {:>6} MiB", peak()?);
    Ok(())
}

/// Returns the violations of the first machines, which the other engines must find too.
fn hundred_thousand(documents: &[Document], machines: &[String]) -> Result<usize> {
    let evaluations = machines.len() * documents.len();
    let start = Cpu::now();
    let mut ready = plans(documents, 1)?;
    let mut table = Table::new(&ready);
    for machine in machines {
        table.insert(machine.as_bytes(), Around::default())?;
    }
    let ingest = start.elapsed();
    let found = violations(&mut ready, &table)?;
    let cold = start.elapsed();
    println!("{MACHINES} machines x 10 policies, one thread: {found} violations");
    println!(
        "  ingest alone            {ingest:>10.2?}  {} machines",
        per_second(machines.len(), ingest)
    );
    println!(
        "  ingest and first scan   {cold:>10.2?}  {} evaluations",
        per_second(evaluations, cold)
    );
    let (start, mut rounds) = (Cpu::now(), 0);
    while start.elapsed() < HOT {
        ensure!(
            violations(&mut ready, &table)? == found,
            "every scan finds the same"
        );
        rounds += 1;
    }
    let hot = start.elapsed() / rounds;
    println!(
        "  hot scan                {hot:>10.2?}  {} evaluations",
        per_second(evaluations, hot)
    );
    let mut ready = plans(documents, 1)?;
    let mut table = Table::new(&ready);
    for machine in &machines[..PEER_MACHINES] {
        table.insert(machine.as_bytes(), Around::default())?;
    }
    violations(&mut ready, &table)
}

/// One machine changes, and a thousand policies are asked about it. All of them are on machines.
fn changes(documents: &[Document], machines: &[String]) -> Result<()> {
    let mut ready = plans(documents, THOUSAND)?;
    let mut table = Table::new(&ready);
    let rows: Vec<Row> = machines[..PEER_MACHINES]
        .iter()
        .map(|machine| table.insert(machine.as_bytes(), Around::default()))
        .collect::<Result<_, _>>()?;
    for plan in &mut ready {
        plan.scan(&table)?;
    }
    let mut numbers = Numbers::new(99);
    let mut took = Vec::with_capacity(CHANGES);
    for change in 0..CHANGES {
        // Another machine's properties, under a name of its own; one in ten has a tag that is new.
        let mut text = String::new();
        write(2 * MACHINES + change, &mut numbers, &mut text);
        if change % 10 == 0 {
            text = text.replacen(
                "\"owner\":\"team-",
                &format!("\"owner\":\"new-{change}-"),
                1,
            );
        }
        let row = rows[numbers.below(rows.len())];
        let start = Cpu::now();
        let row = table.replace(row, text.as_bytes(), Around::default())?;
        for plan in &mut ready {
            std::hint::black_box(plan.outcome(&table, row)?);
        }
        took.push(start.elapsed());
    }
    took.sort();
    println!(
        "one changed machine x {} policies, from its JSON to all outcomes",
        ready.len()
    );
    println!("  half are done within    {:>10.2?}", took[CHANGES / 2]);
    println!(
        "  99 of 100 within        {:>10.2?}",
        took[CHANGES * 99 / 100]
    );
    Ok(())
}

fn peers(documents: &[Document], machines: &[String], ours: usize) -> Result<()> {
    println!(
        "\nthe same ten policies in other engines, {} machines, one thread",
        machines.len()
    );
    println!("  (ours finds {ours} violations among them)");
    let show = |name: &str, measured: Result<Measured>| match measured {
        Ok(measured) => println!(
            "  {name:<24}{:>10.2?}  {} evaluations, {} violations",
            measured.took,
            per_second(measured.evaluations, measured.took),
            measured.violations
        ),
        Err(error) => println!("  {name:<24}failed: {error:#}"),
    };
    show(
        "regorus, Azure Policy",
        peers::azure_policy(documents, machines),
    );
    show("regorus, Rego", peers::rego(machines));
    show("cedar-policy", peers::cedar(machines));
    Ok(())
}
