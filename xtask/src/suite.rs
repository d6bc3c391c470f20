//! `cargo xtask test`: everything that must hold, in parts. First, cheapest first and one after the other, what takes
//! every core; then two at a time, longest first, what waits for machines, servers and clients. What each part took is
//! the first thing that is printed; the whole output of each is kept in a file, and shown for a part that failed.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::deps::{self, Purpose};
use crate::postgres::Writes;
use crate::program::{self, Program};
use crate::progress::{Step, seconds};
use crate::workspace::{self, Needs, cargo};
use crate::{clients, garage, interrupt, objects, postgres, quickstart};

const HELP: &str = "\
Install what the tests need and run all of them

Usage: cargo xtask test [--quick] [--part NAME]...

Options:
  --quick      leave out what boots machines, drives az or needs a database, and what must be installed for that
  --part NAME  only this part; may be repeated. Parts: format tidy lints licences build unit program boot
               quickstart az sdk postgres s3

The time of each part is printed as it ends; its output is in target/test-logs. CI runs this without options.

Examples:
  cargo xtask test --quick
  cargo xtask test --part tidy --part lints
";

/// Exact, so that what is accepted does not change by itself.
const DENY_VERSION: &str = "0.20.2";
/// Where tests look for the server that they are given.
const POSTGRES: &str = "BULLION_TEST_POSTGRES";
const S3: &str = "BULLION_TEST_S3";
const NODE: &str = "BULLION_TEST_S3_NODE";
const AZ: &str = "BULLION_TEST_AZ";
const AZURITE: &str = "BULLION_TEST_AZURITE";
/// Parts of the second half that run at once. One that boots machines keeps one to one and a half cores busy, with pauses.
const LANES: usize = 2;
/// The package whose tests are of the whole program.
const PROGRAM: &str = "bullion";
/// Lines of a failed part's log that are shown; the rest is in the file.
const SHOWN_LINES: usize = 200;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Format,
    Tidy,
    Lints,
    Licences,
    Build,
    Unit,
    Program,
    Boot,
    Quickstart,
    Az,
    Sdk,
    Postgres,
    S3,
}

impl Part {
    const ALL: [Self; 13] = [
        Self::Format,
        Self::Tidy,
        Self::Lints,
        Self::Licences,
        Self::Build,
        Self::Unit,
        Self::Program,
        Self::Boot,
        Self::Quickstart,
        Self::Az,
        Self::Sdk,
        Self::Postgres,
        Self::S3,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Format => "format",
            Self::Tidy => "tidy",
            Self::Lints => "lints",
            Self::Licences => "licences",
            Self::Build => "build",
            Self::Unit => "unit",
            Self::Postgres => "postgres",
            Self::S3 => "s3",
            Self::Az => "az",
            Self::Sdk => "sdk",
            Self::Program => "program",
            Self::Boot => "boot",
            Self::Quickstart => "quickstart",
        }
    }

    /// What its step is called.
    fn title(self) -> String {
        format!("{:<11} {}", self.name(), self.what())
    }

    fn what(self) -> &'static str {
        match self {
            Self::Format => "cargo fmt --check",
            Self::Tidy => "invariants, generated references",
            Self::Lints => "cargo clippy -D warnings, all targets",
            Self::Licences => "cargo deny: licences, bans, sources",
            Self::Build => "all crates and their tests",
            Self::Unit => "unit and integration tests",
            Self::Postgres => "servers that share a database",
            Self::S3 => "stores in a real S3-compatible server",
            Self::Az => "the real az, against `bullion dev`",
            Self::Sdk => {
                "SDKs for Python and node, requests made of the OpenAPI document, against `bullion dev`"
            }
            Self::Program => "an image's whole way, through kills, also by az",
            Self::Boot => "real disks made, booted and checked",
            Self::Quickstart => "the first hour of a user, twice",
        }
    }

    /// It takes long, or needs more than a toolchain; and it waits more than it computes.
    fn is_for_later(self) -> bool {
        match self {
            Self::Format | Self::Tidy | Self::Lints | Self::Licences | Self::Build | Self::Unit => {
                false
            }
            Self::Program
            | Self::Boot
            | Self::Quickstart
            | Self::Az
            | Self::Sdk
            | Self::Postgres
            | Self::S3 => true,
        }
    }
}

struct Options {
    quick: bool,
    only: Vec<Part>,
}

impl Options {
    fn parse(args: &[String]) -> Result<Option<Self>> {
        let mut options = Self {
            quick: false,
            only: Vec::new(),
        };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--help" | "-h" => return Ok(None),
                "--quick" => options.quick = true,
                "--part" => {
                    let name = args.next().context("`--part` takes the name of a part")?;
                    let part = Part::ALL.into_iter().find(|part| part.name() == name);
                    options
                        .only
                        .push(part.with_context(|| format!("there is no part `{name}`"))?);
                }
                other => bail!("`test` has no option `{other}`; see `cargo xtask test --help`"),
            }
        }
        Ok(Some(options))
    }

    fn parts(&self) -> Vec<Part> {
        let wanted = |part: &Part| {
            if self.only.is_empty() {
                !(self.quick && part.is_for_later())
            } else {
                self.only.contains(part)
            }
        };
        Part::ALL.into_iter().filter(wanted).collect()
    }
}

/// How a part ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    Passed,
    Failed(String),
    /// Not run because what it needs failed, or cannot be had.
    LeftOut(String),
}

struct Outcome {
    part: Part,
    took: Duration,
    ended: Ended,
    tests: Tally,
}

/// What the test runners counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
}

pub fn command(args: &[String]) -> Result<ExitCode> {
    let Some(options) = Options::parse(args)? else {
        print!("{HELP}");
        return Ok(ExitCode::SUCCESS);
    };
    interrupt::watch()?;
    let started = Instant::now();
    deps::install(if options.quick {
        Purpose::Build
    } else {
        Purpose::Test
    })?;
    let logs = workspace::target_folder()?.join("test-logs");
    std::fs::create_dir_all(&logs).with_context(|| format!("cannot create {}", logs.display()))?;
    let parts = options.parts();
    let (later, now): (Vec<Part>, Vec<Part>) =
        parts.into_iter().partition(|part| part.is_for_later());
    let mut outcomes = Vec::new();
    for part in now {
        if interrupt::happened() {
            break;
        }
        let step = Step::begin_silently(part.title());
        let outcome = run_part(part, step, &options, &logs, &outcomes)?;
        outcomes.push(outcome);
    }
    let begin: fn(String) -> Step = match later.len() {
        1 => Step::begin_silently,
        _ => Step::begin_beside,
    };
    let more = in_lanes(&later, |part| {
        run_part(part, begin(part.title()), &options, &logs, &outcomes)
    })?;
    if interrupt::happened() {
        bail!("interrupted; what was built is kept");
    }
    outcomes.extend(more.into_iter().map(|(_, outcome)| outcome));
    report(&outcomes, &logs, started.elapsed());
    let good = outcomes
        .iter()
        .all(|outcome| !matches!(outcome.ended, Ended::Failed(_)));
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Whoever of the lanes is free takes the next part; none begins one after an interrupt or another's error. In the order
/// of `parts`.
fn in_lanes<T: Send>(
    parts: &[Part],
    run: impl Fn(Part) -> Result<T> + Sync,
) -> Result<Vec<(Part, T)>> {
    let queue = Mutex::new(parts.iter().copied());
    let queue = || queue.lock().unwrap_or_else(PoisonError::into_inner);
    let lane = || -> Result<Vec<(Part, T)>> {
        let mut ended = Vec::new();
        while !interrupt::happened() {
            let Some(part) = queue().next() else { break };
            match run(part) {
                Ok(outcome) => ended.push((part, outcome)),
                Err(error) => {
                    queue().by_ref().for_each(drop);
                    return Err(error);
                }
            }
        }
        Ok(ended)
    };
    let lanes: Result<Vec<_>> = std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES).map(|_| scope.spawn(lane)).collect();
        let joined = lanes.into_iter().map(std::thread::ScopedJoinHandle::join);
        joined
            .map(|lane| lane.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let mut ended: Vec<_> = lanes?.into_iter().flatten().collect();
    ended.sort_by_key(|(part, _)| parts.iter().position(|other| other == part));
    Ok(ended)
}

fn run_part(
    part: Part,
    step: Step,
    options: &Options,
    logs: &Path,
    before: &[Outcome],
) -> Result<Outcome> {
    let log = logs.join(format!("{}.log", part.name()));
    // A log of an earlier run would be added to.
    std::fs::write(&log, "").with_context(|| format!("cannot write {}", log.display()))?;
    let build_failed = before
        .iter()
        .any(|outcome| outcome.part == Part::Build && matches!(outcome.ended, Ended::Failed(_)));
    let needs_build = matches!(part, Part::Unit) || part.is_for_later();
    let ended = if build_failed && needs_build {
        Ended::LeftOut("the build failed".to_owned())
    } else {
        execute(part, options, &log, &step)?
    };
    let text = std::fs::read_to_string(&log).unwrap_or_default();
    let tests = tally(&text);
    let took = match &ended {
        Ended::Passed if tests.passed > 0 => step.done(&format!("{} tests", tests.passed)),
        Ended::Passed => step.done(""),
        Ended::LeftOut(why) => step.done(&format!("left out: {why}")),
        Ended::Failed(why) => step.failed(why),
    };
    Ok(Outcome {
        part,
        took,
        ended,
        tests,
    })
}

fn execute(part: Part, options: &Options, log: &Path, step: &Step) -> Result<Ended> {
    let programs = match part {
        Part::Format => vec![cargo().args(["fmt", "--all", "--check", "--", "--files-with-diff"])],
        Part::Tidy => {
            let this = std::env::current_exe().context("cannot find this program")?;
            let itself = || Program::new(&this).in_folder(workspace::root());
            // The command-line reference is made from the built binary, so it is checked after the build.
            vec![itself().arg("tidy")]
        }
        Part::Lints => vec![
            cargo()
                .args(["clippy", "--workspace", "--all-targets", "--locked"])
                .args(features()?)
                .args(["--", "-D", "warnings"]),
        ],
        Part::Licences => return licences(options, log, step),
        Part::Build => {
            let this = std::env::current_exe().context("cannot find this program")?;
            let build = cargo().args(["test", "--no-run", "--workspace", "--locked"]);
            let check = Program::new(this)
                .args(["generate", "--check"])
                .in_folder(workspace::root());
            vec![build.args(features()?), check]
        }
        Part::Unit => unit_tests()?,
        Part::Postgres => return postgres_tests(log, step),
        Part::S3 => return s3_tests(log, step),
        Part::Az => match clients::az(log, step)? {
            Ok(programs) => programs,
            Err(why) => return Ok(Ended::Failed(why)),
        },
        Part::Sdk => match clients::sdk(log, step)? {
            Ok(programs) => programs,
            Err(why) => return Ok(Ended::Failed(why)),
        },
        Part::Program => match (clients::az_folder(log, step)?, clients::azurite(log, step)?) {
            (Ok(az), Ok(azurite)) => boot_tests(|package| package == PROGRAM)?
                .map(|test| test.env(AZ, az).env(AZURITE, azurite))
                .into_iter()
                .collect(),
            (Err(why), _) | (_, Err(why)) => return Ok(Ended::Failed(why)),
        },
        Part::Boot => boot_tests(|package| package != PROGRAM)?
            .into_iter()
            .collect(),
        Part::Quickstart => return quickstart::rehearse(log, step),
    };
    run_all(programs, log, step)
}

fn run_all(programs: Vec<Program>, log: &Path, step: &Step) -> Result<Ended> {
    if programs.is_empty() {
        return Ok(Ended::LeftOut("there is nothing to run yet".to_owned()));
    }
    let mut failed = Vec::new();
    for program in programs {
        let detail = step.detail();
        let status = program.run_into(log, move |line| detail.set(line))?;
        if !status.success() {
            failed.push(program.shown());
        }
    }
    Ok(if failed.is_empty() {
        Ended::Passed
    } else {
        Ended::Failed(failed.join("; "))
    })
}

/// The same features in every part, so that nothing is compiled twice.
fn features() -> Result<Vec<String>> {
    let metadata = workspace::metadata()?;
    let mut list = Vec::new();
    for (feature, _) in Needs::FEATURES {
        let packages = workspace::packages_with_feature(&metadata, feature);
        list.extend(
            packages
                .iter()
                .map(|package| format!("{package}/{feature}")),
        );
    }
    if list.is_empty() {
        return Ok(Vec::new());
    }
    Ok(vec!["--features".to_owned(), list.join(",")])
}

fn unit_tests() -> Result<Vec<Program>> {
    let mut test = cargo().args([
        "test",
        "--workspace",
        "--locked",
        "--no-fail-fast",
        "--lib",
        "--bins",
    ]);
    let targets = workspace::test_targets(&workspace::metadata()?);
    let mut names: Vec<&str> = targets
        .iter()
        .filter(|target| target.needs == Needs::Nothing)
        .map(|target| target.name.as_str())
        .collect();
    names.dedup();
    for name in names {
        test = test.args(["--test", name]);
    }
    let documentation = cargo().args(["test", "--workspace", "--locked", "--doc"]);
    Ok(vec![
        test.args(features()?),
        documentation.args(features()?),
    ])
}

/// One target after the other and one test after the other: an emulated machine takes more than a core.
fn boot_tests(of: impl Fn(&str) -> bool) -> Result<Option<Program>> {
    let test = tests_that_need(Needs::Boot, of)?;
    Ok(test.map(|test| test.args(["--", "--test-threads", "1", "--nocapture"])))
}

/// Against a server that lives as long as they run.
fn postgres_tests(log: &Path, step: &Step) -> Result<Ended> {
    let Some(test) = tests_that_need(Needs::Postgres, |_| true)? else {
        return run_all(Vec::new(), log, step);
    };
    let server = postgres::Server::start(&log.with_extension("server.log"), Writes::Careless)?;
    run_all(vec![test.env(POSTGRES, server.url())], log, step)
}

/// The same tests as everywhere, and those that run only where there is a server; these once more with Garage, where it
/// is installed, which loses a node meanwhile.
fn s3_tests(log: &Path, step: &Step) -> Result<Ended> {
    let server = match objects::Server::start(&log.with_extension("server.log"), log, step)? {
        Ok(server) => server,
        Err(why) => return Ok(Ended::Failed(why)),
    };
    let test = |what: &str| -> Result<Program> {
        Ok(cargo()
            .args(["test", "--workspace", "--locked", "--test", "store"])
            .args(features()?)
            .args(["--", what]))
    };
    let everywhere = test("s3::")?.env(S3, server.url());
    let Some(garage) = garage::installed()? else {
        let how = format!("without Garage; to have it: {}", garage::INSTALL);
        step.talk().say(&how);
        return run_all(vec![everywhere], log, step);
    };
    let cluster = garage::Cluster::start(garage, &log.with_extension("garage.log"))?;
    let with_garage = test("s3::real::")?
        .env(S3, cluster.url()?)
        .env(NODE, cluster.spare()?.to_string());
    run_all(vec![everywhere, with_garage], log, step)
}

/// `of` says of a package's name whether it is meant.
fn tests_that_need(needs: Needs, of: impl Fn(&str) -> bool) -> Result<Option<Program>> {
    let targets = workspace::test_targets(&workspace::metadata()?);
    let mut names: Vec<String> = targets
        .into_iter()
        .filter(|target| target.needs == needs && of(&target.package))
        .map(|target| target.name)
        .collect();
    names.sort();
    names.dedup();
    if names.is_empty() {
        return Ok(None);
    }
    let mut test = cargo().args(["test", "--workspace", "--locked", "--no-fail-fast"]);
    for name in &names {
        test = test.args(["--test", name]);
    }
    Ok(Some(test.args(features()?)))
}

fn licences(options: &Options, log: &Path, step: &Step) -> Result<Ended> {
    let detail = step.detail();
    let Some(deny) = cargo_deny()? else {
        if options.quick {
            return Ok(Ended::LeftOut("cargo-deny is not installed".to_owned()));
        }
        let folder = workspace::target_folder()?.join("tools");
        // Speed of the tool does not matter, the time to compile it does.
        let install = cargo()
            .args([
                "install",
                "cargo-deny",
                "--locked",
                "--version",
                DENY_VERSION,
                "--debug",
                "--root",
            ])
            .arg(folder.as_os_str())
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            .env("CARGO_TARGET_DIR", folder.join("build"));
        let status = install.run_into(log, move |line| detail.set(line))?;
        if !status.success() {
            return Ok(Ended::Failed(format!(
                "cannot install cargo-deny {DENY_VERSION}"
            )));
        }
        return licences_with(folder.join("bin/cargo-deny"), log, step);
    };
    licences_with(deny, log, step)
}

fn licences_with(deny: PathBuf, log: &Path, step: &Step) -> Result<Ended> {
    let detail = step.detail();
    // Advisories need a database from the network; the other three are decided by what is in the repository.
    let check = Program::new(deny).args([
        "--offline",
        "--locked",
        "check",
        "bans",
        "licenses",
        "sources",
    ]);
    let status = check
        .in_folder(workspace::root())
        .run_into(log, move |line| detail.set(line))?;
    Ok(if status.success() {
        Ended::Passed
    } else {
        Ended::Failed("cargo deny check".to_owned())
    })
}

/// A cargo-deny of the wanted version: ours, or one on the path.
fn cargo_deny() -> Result<Option<PathBuf>> {
    let ours = workspace::target_folder()?.join("tools/bin/cargo-deny");
    for candidate in [ours, PathBuf::from("cargo-deny")] {
        let version = Program::new(&candidate).arg("--version").output();
        if version.is_ok_and(|version| version.stdout.trim().ends_with(DENY_VERSION)) {
            return Ok(Some(candidate));
        }
    }
    Ok(None)
}

/// Sums the lines `test result: ok. 3 passed; 0 failed; …` of a log.
fn tally(log: &str) -> Tally {
    let mut sum = Tally::default();
    for line in log.lines().filter(|line| line.starts_with("test result: ")) {
        for (count, word) in line
            .split([' ', ';', '.'])
            .filter(|word| !word.is_empty())
            .collect::<Vec<_>>()
            .windows(2)
            .map(|pair| (pair[0], pair[1]))
        {
            let count: u64 = count.parse().unwrap_or(0);
            match word {
                "passed" => sum.passed += count,
                "failed" => sum.failed += count,
                _ => {}
            }
        }
    }
    sum
}

fn report(outcomes: &[Outcome], logs: &Path, took: Duration) {
    println!();
    for outcome in outcomes {
        let state = match &outcome.ended {
            Ended::Passed => "ok".to_owned(),
            Ended::Failed(why) => format!("FAILED: {why}"),
            Ended::LeftOut(why) => format!("left out: {why}"),
        };
        let tests = match outcome.tests {
            Tally {
                passed: 0,
                failed: 0,
            } => String::new(),
            Tally { passed, failed } => format!("{passed} passed, {failed} failed"),
        };
        println!(
            "{:<11} {:>10}  {tests:<24} {state}",
            outcome.part.name(),
            seconds(outcome.took)
        );
    }
    println!("{:<11} {:>10}", "all", seconds(took));
    for outcome in outcomes
        .iter()
        .filter(|outcome| matches!(outcome.ended, Ended::Failed(_)))
    {
        let log = logs.join(format!("{}.log", outcome.part.name()));
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        println!(
            "\n--- {} failed; the last lines of {}:",
            outcome.part.name(),
            log.display()
        );
        println!("{}", program::tail(&text, SHOWN_LINES));
    }
    let sum = outcomes
        .iter()
        .fold(Tally::default(), |sum, outcome| Tally {
            passed: sum.passed + outcome.tests.passed,
            failed: sum.failed + outcome.tests.failed,
        });
    let parts = outcomes
        .iter()
        .filter(|outcome| matches!(outcome.ended, Ended::Failed(_)))
        .count();
    let verdict = if parts == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {verdict}. {} passed; {} failed; {parts} parts failed",
        sum.passed, sum.failed
    );
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::sync::Condvar;
    use std::sync::mpsc::{RecvTimeoutError, Sender, channel};

    use super::*;

    /// Of what comes at once, unless it never comes.
    const DEADLINE: Duration = Duration::from_secs(60);

    #[test]
    fn what_the_runners_counted_is_summed() {
        let log = "running 2 tests\ntest result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; finished in 0.00s\n\
                   test result: FAILED. 29 passed; 1 failed; 0 ignored\nno test result: ok. 9 passed\n";
        assert_eq!(
            tally(log),
            Tally {
                passed: 31,
                failed: 1
            }
        );
    }

    #[test]
    fn ci_runs_what_a_developer_runs() {
        let script = std::fs::read_to_string(workspace::root().join(".ci/run")).unwrap();
        let commands: Vec<_> = script
            .lines()
            .filter(|line| line.contains("cargo"))
            .collect();
        assert_eq!(commands, ["exec cargo xtask test"]);
    }

    #[track_caller]
    fn check_parts(args: &[&str], expected: &[&str]) {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let options = Options::parse(&args).unwrap().unwrap();
        let names: Vec<_> = options.parts().into_iter().map(Part::name).collect();
        assert_eq!(names, expected);
    }

    #[test]
    fn parts_of_the_second_half_run_at_once_and_are_told_in_order() {
        let (begun, more) = (Mutex::new(0), Condvar::new());
        let parts = [Part::Program, Part::Boot, Part::Az, Part::Sdk];
        let ended = in_lanes(&parts, |part| {
            let mut count = begun.lock().unwrap();
            *count += 1;
            more.notify_all();
            // Nobody ends before as many have begun as there are lanes.
            let waited = more.wait_timeout_while(count, DEADLINE, |count| *count < LANES);
            assert!(!waited.unwrap().1.timed_out());
            Ok(part.name())
        });
        let names = parts.map(|part| (part, part.name()));
        assert_eq!(ended.unwrap(), names);
    }

    thread_local! {
        /// Gone when its thread is.
        static HELD: RefCell<Option<Sender<()>>> = const { RefCell::new(None) };
    }

    #[test]
    fn nothing_more_begins_after_an_error() {
        let (sender, receiver) = channel();
        let (sender, receiver) = (Mutex::new(Some(sender)), Mutex::new(receiver));
        let begun = Mutex::new(Vec::new());
        let ended = in_lanes(&Part::ALL, |part| {
            begun.lock().unwrap().push(part);
            if part == Part::Format {
                HELD.set(sender.lock().unwrap().take());
                bail!("the disk is full");
            }
            // The other lane goes on only when that of the error has ended.
            let end = receiver.lock().unwrap().recv_timeout(DEADLINE);
            assert_eq!(end, Err(RecvTimeoutError::Disconnected));
            Ok(())
        });
        assert_eq!(ended.unwrap_err().to_string(), "the disk is full");
        assert!(begun.lock().unwrap().len() <= LANES);
    }

    #[test]
    fn quick_leaves_out_what_boots_and_a_part_can_be_chosen() {
        let all: Vec<_> = Part::ALL.into_iter().map(Part::name).collect();
        check_parts(&[], &all);
        check_parts(
            &["--quick"],
            &["format", "tidy", "lints", "licences", "build", "unit"],
        );
        check_parts(&["--part", "boot", "--part", "tidy"], &["tidy", "boot"]);
        assert!(Options::parse(&["--part".to_owned(), "unheard-of".to_owned()]).is_err());
    }
}
