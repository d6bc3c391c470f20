//! The closing table: what ran and what was found, how long it took, what it made, and what to try next.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::Value;

use super::client::Client;
use super::place::Place;
use super::promotion::{self, Arrival, PROD};
use super::server::Running;
use super::verdict::Verdict;
use crate::workspace::{list, text};

/// The stages in the order of the pipeline.
const STAGES: [&str; 6] = ["source", "build", "tattoo", "test", "publish", "replicate"];

/// One run of the template.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Build {
    pub version: String,
    run: String,
    digest: String,
    stages: BTreeMap<String, Stage>,
    boot_seconds: Option<f64>,
    size_gb: Option<u64>,
    bytes: Bytes,
    regions: Vec<String>,
}

/// What a run added to stores, found steps left out: they added nothing this time.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Bytes {
    /// In blocks that the home region's store did not have.
    new: u64,
    /// What those take, compressed.
    stored: u64,
    /// Copied to other regions, compressed.
    moved: u64,
}

/// The steps of one stage together.
#[derive(Debug, Clone, Default, PartialEq)]
struct Stage {
    run: usize,
    found: usize,
    seconds: f64,
}

/// A machine and the image record that was read inside it.
#[derive(Debug, Clone, PartialEq)]
pub struct Machine {
    name: String,
    region: String,
    was_found: bool,
    version: String,
    /// Whether the record inside is the one of that version.
    matches: bool,
    boot_seconds: Option<f64>,
}

impl Build {
    /// Reads the run resource that `bullion build run` prints.
    pub fn of_run(run: &Value) -> Result<Self> {
        let properties = &run["properties"];
        let version_id = text(&properties["outputs"]["versionId"]);
        let version = version_id
            .rsplit('/')
            .next()
            .filter(|name| !name.is_empty());
        let mut build = Self {
            version: version.context("it names no version")?.to_owned(),
            run: text(&run["name"]),
            digest: text(&properties["outputs"]["diskDigest"]),
            boot_seconds: properties["outputs"]["bootSeconds"].as_f64(),
            ..Self::default()
        };
        for step in list(&properties["steps"]) {
            let stage = build.stages.entry(text(&step["stage"])).or_default();
            if step["how"] == "found" {
                // Its details tell what the run did that made it.
                stage.found += 1;
                continue;
            }
            stage.seconds += step["seconds"].as_f64().unwrap_or(0.0);
            if step["detail"]["existed"] == true {
                stage.found += 1;
                continue;
            }
            // A step without a key, such as asking what `latest` is now, is done in every run and never found.
            if !text(&step["key"]).is_empty() || step["stage"] == "publish" {
                stage.run += 1;
            }
            let count = |name: &str| step["detail"][name].as_u64().unwrap_or(0);
            build.bytes.new += count("newBytes");
            build.bytes.stored += count("storedBytes");
            build.bytes.moved += count("movedBytes");
        }
        Ok(build)
    }

    /// Adds what the published version says of itself.
    pub fn with_version(mut self, version: &Value) -> Self {
        let profile = &version["properties"]["storageProfile"]["osDiskImage"];
        self.size_gb = profile["sizeInGB"].as_u64();
        let targets = list(&version["properties"]["publishingProfile"]["targetRegions"]);
        self.regions = targets.iter().map(|region| text(&region["name"])).collect();
        self
    }

    pub fn in_a_word(&self) -> String {
        let run: usize = self.stages.values().map(|stage| stage.run).sum();
        let found: usize = self.stages.values().map(|stage| stage.found).sum();
        match (run, found) {
            (0, _) => "found".to_owned(),
            (_, 0) => format!("built, {run} steps run"),
            _ => format!("built, {run} steps run, {found} found"),
        }
    }
}

impl Stage {
    fn in_a_word(&self) -> String {
        let seconds = format!("{:>8.1} s", self.seconds);
        match (self.run, self.found) {
            (0, 0) => String::new(),
            (0, _) if self.seconds < 0.05 => "found".to_owned(),
            (0, _) => format!("found {seconds}"),
            (_, 0) => format!("run   {seconds}"),
            (run, found) => format!("run   {seconds}  ({found} of {} found)", run + found),
        }
    }
}

impl Machine {
    pub fn of_tattoo(name: &str, region: &str, was_found: bool, tattoo: &Value) -> Self {
        // The record itself, or a resource that holds it.
        let properties = if tattoo["properties"].is_object() {
            &tattoo["properties"]
        } else {
            tattoo
        };
        Self {
            name: name.to_owned(),
            region: region.to_owned(),
            was_found,
            version: text(&properties["exactVersion"])
                .rsplit('/')
                .next()
                .unwrap_or_default()
                .to_owned(),
            matches: properties["tattooMatches"].as_bool().unwrap_or(true),
            boot_seconds: properties["bootSeconds"].as_f64(),
        }
    }

    pub fn in_a_word(&self) -> String {
        let doubt = if self.matches {
            ""
        } else {
            ", but its record is not that version's"
        };
        let how = if self.was_found {
            "found running"
        } else {
            "created"
        };
        let boot = self
            .boot_seconds
            .map_or_else(String::new, |seconds| format!(", booted in {seconds:.0} s"));
        format!("{how}, says it is {}{doubt}{boot}", self.version)
    }
}

/// All that a quickstart has to tell.
pub struct Report<'a> {
    pub builds: &'a [Build],
    /// Each version at each stage after the first.
    pub arrivals: &'a [Arrival],
    pub machines: &'a [Machine],
    /// On one machine, in order of time.
    pub verdicts: &'a [Verdict],
}

pub fn print(client: &Client, running: &Running, place: &Place, report: &Report) {
    println!("\n{}", table(report.builds));
    println!("{}", promotions(report.builds, report.arrivals));
    let released = report.arrivals.iter().find(|arrival| arrival.stage == PROD);
    if let Some(released) = released {
        println!(
            "\n{} was approved by somebody else, with\n  {}\n",
            released.name,
            promotion::approval_command(client, place, &released.name)
        );
    }
    for machine in report.machines {
        println!(
            "machine {} in {}: {}",
            machine.name,
            machine.region,
            machine.in_a_word()
        );
    }
    for verdict in report.verdicts {
        println!("verdict {}: {}", verdict.machine, verdict.in_a_word());
    }
    println!(
        "server  {} (pid {}), data in {}",
        running.url,
        running.pid,
        place.data().display()
    );
    println!("\nNext:");
    println!("  export BULLION_PROFILE={}", client.profile().display());
    println!("  alias bullion={}", client.typed());
    for command in next_commands(report, place) {
        println!("  {command}");
    }
    println!(
        "\nThe server and the machines keep running; `cargo xtask quickstart --stop` stops them."
    );
}

fn next_commands(report: &Report, place: &Place) -> [String; 6] {
    // A machine's key belongs to the server's user.
    let sudo = if place.needs_sudo() { "sudo " } else { "" };
    let run = report.builds.last();
    let promotion = report.arrivals.last();
    [
        format!(
            "{sudo}$(bullion vm ssh {}) cat /etc/bullion-image",
            name_of(report.machines.first())
        ),
        format!(
            "bullion build log {}",
            run.map_or("RUN", |build| build.run.as_str())
        ),
        format!(
            "bullion promotion show {}",
            promotion.map_or("PROMOTION", |arrival| arrival.name.as_str())
        ),
        format!(
            "bullion compliance explain {}",
            name_of(report.machines.last())
        ),
        "eval \"$(bullion env az)\"".to_owned(),
        "az sig image-version list -g images -r golden -i debian-12 -o table".to_owned(),
    ]
}

fn table(builds: &[Build]) -> String {
    let mut rows: Vec<Vec<String>> = Vec::new();
    let row = |name: &str, cell: &dyn Fn(&Build) -> String| {
        std::iter::once(name.to_owned())
            .chain(builds.iter().map(cell))
            .collect::<Vec<_>>()
    };
    rows.push(row("stage", &|build| build.version.clone()));
    for stage in STAGES {
        rows.push(row(stage, &|build| {
            build
                .stages
                .get(stage)
                .map(Stage::in_a_word)
                .unwrap_or_default()
        }));
    }
    rows.push(row("test boot", &|build| {
        build
            .boot_seconds
            .map_or_else(String::new, |boot| format!("{boot:.1} s"))
    }));
    rows.push(row("disk", &|build| {
        build
            .size_gb
            .map_or_else(String::new, |size| format!("{size} GiB"))
    }));
    rows.push(row("new in the store", &|build| {
        format!(
            "{}, stored as {}",
            bytes(build.bytes.new),
            bytes(build.bytes.stored)
        )
    }));
    rows.push(row("copied to regions", &|build| bytes(build.bytes.moved)));
    rows.push(row("regions", &|build| build.regions.join(", ")));
    aligned(&rows)
}

fn name_of(machine: Option<&Machine>) -> &str {
    machine.map_or("MACHINE", |machine| machine.name.as_str())
}

/// What happened to each version on its way, and the digest of its disk in every gallery.
fn promotions(builds: &[Build], arrivals: &[Arrival]) -> String {
    let of = |build: &Build, stage: &str| {
        let mut at = arrivals.iter().filter(|arrival| arrival.stage == stage);
        at.find(|arrival| arrival.version == build.version)
    };
    let mut stages: Vec<&str> = Vec::new();
    for arrival in arrivals {
        if !stages.contains(&arrival.stage.as_str()) {
            stages.push(&arrival.stage);
        }
    }
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut row = |name: String, cell: &dyn Fn(&Build) -> String| {
        rows.push(
            std::iter::once(name)
                .chain(builds.iter().map(cell))
                .collect(),
        );
    };
    row("promotion".to_owned(), &|build| build.version.clone());
    for stage in stages {
        let cell = |build: &Build, tell: &dyn Fn(&Arrival) -> String| {
            of(build, stage).map(tell).unwrap_or_default()
        };
        row(format!("{stage}: rejected"), &|build| {
            cell(build, &|arrival| {
                let rejected = arrival.rejected.as_ref();
                rejected.map_or_else(String::new, |rejected| {
                    format!("once, by {}", rejected.gate)
                })
            })
        });
        row(format!("{stage}: promoted"), &|build| {
            cell(build, &Arrival::in_a_word)
        });
        row(format!("{stage}: copied"), &|build| {
            cell(build, &|arrival| copied(&arrival.moved))
        });
    }
    rows.retain(|row| row.iter().skip(1).any(|cell| !cell.is_empty()));
    let mut text = aligned(&rows);
    for arrival in arrivals {
        if let Some(rejected) = &arrival.rejected {
            text += &format!(
                "\n{} to {} was rejected first by {}\n",
                arrival.version,
                arrival.stage,
                rejected.in_a_word()
            );
        }
    }
    for build in builds {
        let digests = [("eng", build.digest.as_str())].into_iter();
        let there = arrivals.iter().filter(|at| at.version == build.version);
        let digests = digests.chain(there.map(|at| (at.stage.as_str(), at.digest.as_str())));
        for (stage, digest) in digests {
            text += &format!("\n{:<7} {stage:<5} {digest}", build.version);
        }
    }
    text
}

fn copied(moved: &[(String, u64)]) -> String {
    let regions = moved
        .iter()
        .map(|(region, count)| format!("{} to {region}", bytes(*count)));
    regions.collect::<Vec<_>>().join(", ")
}

fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        format!("{}\n", cells.join("   ").trim_end())
    };
    rows.iter().map(line).collect()
}

fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> Value {
        serde_json::json!({"name": "r1", "properties": {
            "outputs": {"versionId": "/subscriptions/s/a/versions/1.0.1", "diskDigest": "bd1:0123456789abcdef0123456789",
                        "bootSeconds": 61.25},
            "steps": [
                {"stage": "source", "how": "run", "key": "", "seconds": 2.1},
                {"stage": "source", "how": "found", "key": "k1", "seconds": 143.0, "detail": {"newBytes": 4_000_000}},
                {"stage": "build", "how": "found", "key": "k2"},
                {"stage": "build", "how": "run", "key": "k3", "seconds": 2.5, "detail": {"newBytes": 4096, "storedBytes": 100}},
                {"stage": "publish", "how": "run", "key": "", "seconds": 0.01, "detail": {"existed": true}},
                {"stage": "replicate", "how": "run", "key": "k4", "seconds": 1.0, "detail": {"movedBytes": 512}}]}})
    }

    #[test]
    fn the_table_tells_run_from_found_and_sums_what_is_new() {
        let build = Build::of_run(&run()).unwrap();
        assert_eq!(build.in_a_word(), "built, 2 steps run, 3 found");
        let table = table(&[build]);
        let cells: Vec<Vec<&str>> = table
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(cells[0], ["stage", "1.0.1"]);
        assert_eq!(cells[1], ["source", "found", "2.1", "s"]);
        assert_eq!(
            cells[2],
            ["build", "run", "2.5", "s", "(1", "of", "2", "found)"]
        );
        assert_eq!(cells[3], ["tattoo"]);
        assert_eq!(cells[5], ["publish", "found"]);
        assert!(
            table.contains("new in the store    4.0 KiB, stored as 100 B"),
            "{table}"
        );
        assert!(table.contains("copied to regions   512 B"), "{table}");
        assert!(table.contains("61.2 s"), "{table}");
    }

    #[test]
    fn every_gallery_and_the_rejected_attempt_are_told() {
        let arrival = |stage: &str| Arrival {
            stage: stage.to_owned(),
            version: "1.0.1".to_owned(),
            digest: "bd1:01".to_owned(),
            moved: vec![("west".to_owned(), 1536)],
            verified: true,
            ..Arrival::default()
        };
        let mut to_test = arrival("test");
        to_test.rejected = Some(promotion::Rejected {
            gate: "works".to_owned(),
            check: "names".to_owned(),
            output: vec!["no address".to_owned(), "exit status 1".to_owned()],
        });
        let build = Build {
            digest: "bd1:01".to_owned(),
            ..Build::of_run(&run()).unwrap()
        };
        let told = promotions(&[build], &[to_test, arrival(PROD)]);
        for line in [
            "test: rejected   once, by works",
            "1.0.1 to test was rejected first by works: names: no address, exit status 1",
            "prod: copied     1.5 KiB to west",
            "1.0.1   eng   bd1:01",
            "1.0.1   test  bd1:01",
            "1.0.1   prod  bd1:01",
        ] {
            assert!(told.lines().any(|there| there == line), "{line}: {told}");
        }
        assert!(!told.contains("prod: rejected"), "{told}");
    }

    #[test]
    fn a_run_without_a_version_is_refused() {
        assert!(Build::of_run(&serde_json::json!({"properties": {}})).is_err());
    }

    #[test]
    fn a_machine_tells_what_it_read_inside() {
        let tattoo =
            serde_json::json!({"properties": {"exactVersion": "1.0.0", "bootSeconds": 59.7}});
        let machine = Machine::of_tattoo("web-1", "south", true, &tattoo);
        assert_eq!(
            machine.in_a_word(),
            "found running, says it is 1.0.0, booted in 60 s"
        );
    }

    #[test]
    fn sizes_are_readable() {
        let check = |count, expected: &str| assert_eq!(bytes(count), expected);
        check(0, "0 B");
        check(1536, "1.5 KiB");
        check(471 << 20, "471.0 MiB");
        check(3 << 40, "3.0 TiB");
    }
}
