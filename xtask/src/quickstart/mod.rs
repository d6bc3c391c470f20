//! `cargo xtask quickstart`: what a new user does first, done by driving the real program's command line. It must do
//! nothing that a user could not type, and everything that it found done it must leave as it is.

mod client;
mod flow;
mod machine;
mod place;
mod promotion;
mod rehearsal;
mod report;
pub mod server;
mod verdict;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

pub use client::Client;
pub use place::Place;
pub use rehearsal::rehearse;

use crate::deps::{self, Purpose};
use crate::progress::Step;
use crate::{interrupt, workspace};

const HELP: &str = "\
One image, from recipe to production, and what a policy says of a machine

Usage: cargo xtask quickstart [--data DIR] [--stop | --clean] [--binary FILE]

Installs what is missing (apt-get; it says what and why), builds the release binary, starts a server, applies
examples/golden-debian (three tenants: eng, test, prod), builds, tests and publishes version 1.0.0, deploys a machine in
the second region, promotes the version to test (where a check rejects it once) and, approved by somebody else, to prod,
deploys a machine there, changes one file and takes 1.0.1 the same way: the machine in prod is no longer compliant.
The server and the machines keep running. Again on the same folder, everything is found.

Options:
  --data DIR     where all of it lives (default: $XDG_DATA_HOME/bullion-quickstart, ~/.local/share/bullion-quickstart)
  --stop         stop the server and the machines of that folder, keep images and caches
  --clean        the same, then delete the folder
  --binary FILE  use this `bullion` and install and build nothing

Ctrl-C stops the waiting, not the work: the server goes on, and the same command continues from there.

Examples:
  cargo xtask quickstart
  cargo xtask quickstart --data /srv/bullion-try
  cargo xtask quickstart --stop
";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Run,
    Stop,
    Clean,
}

struct Options {
    mode: Mode,
    data: Option<PathBuf>,
    binary: Option<PathBuf>,
}

impl Options {
    fn parse(args: &[String]) -> Result<Option<Self>> {
        let mut options = Self {
            mode: Mode::Run,
            data: None,
            binary: None,
        };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || {
                args.next()
                    .map(PathBuf::from)
                    .with_context(|| format!("`{arg}` takes a path"))
            };
            match arg.as_str() {
                "--help" | "-h" => return Ok(None),
                "--data" => options.data = Some(value()?),
                "--binary" => options.binary = Some(value()?),
                "--stop" | "--clean" if options.mode != Mode::Run => {
                    bail!("choose one of --stop and --clean")
                }
                "--stop" => options.mode = Mode::Stop,
                "--clean" => options.mode = Mode::Clean,
                // What happens without an option, for those who like to say it.
                "--keep" => {}
                other => bail!(
                    "`quickstart` has no option `{other}`; see `cargo xtask quickstart --help`"
                ),
            }
        }
        Ok(Some(options))
    }
}

pub fn command(args: &[String]) -> Result<ExitCode> {
    let Some(options) = Options::parse(args)? else {
        print!("{HELP}");
        return Ok(ExitCode::SUCCESS);
    };
    interrupt::watch()?;
    let place = Place::choose(options.data)?;
    match options.mode {
        Mode::Run => {
            let binary = match options.binary {
                Some(binary) => binary
                    .canonicalize()
                    .with_context(|| format!("no file {}", binary.display()))?,
                None => {
                    deps::install(Purpose::Run)?;
                    release_binary()?
                }
            };
            let done = flow::run(&place, binary);
            if done.is_err() && interrupt::happened() {
                eprintln!(
                    "\nInterrupted. What the server has begun goes on; `cargo xtask quickstart` continues from there, \
                     `cargo xtask quickstart --stop` stops it."
                );
                return Ok(ExitCode::from(interrupt::EXIT_CODE));
            }
            done?;
        }
        Mode::Stop => flow::stop(&place, options.binary)?,
        Mode::Clean => {
            flow::stop(&place, options.binary)?;
            place.delete()?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds the program as it is released.
pub fn release_binary() -> Result<PathBuf> {
    let step = Step::begin("release binary");
    let detail = step.detail();
    let build = workspace::cargo().args(["build", "--release", "--package", "bullion", "--locked"]);
    let finished = build.stdout_while(move |line| detail.set(line))?;
    if !finished.status.success() {
        step.failed("");
        bail!("the build failed:\n{}", finished.stderr);
    }
    step.done("");
    Ok(workspace::target_folder()?.join("release/bullion"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_and_clean_exclude_each_other() {
        let parse = |args: &[&str]| {
            let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
            Options::parse(&args).map(|options| options.map(|options| options.mode))
        };
        assert_eq!(parse(&[]).unwrap(), Some(Mode::Run));
        assert_eq!(parse(&["--stop", "--data", "x"]).unwrap(), Some(Mode::Stop));
        assert_eq!(parse(&["--help"]).unwrap(), None);
        assert!(parse(&["--stop", "--clean"]).is_err());
        assert!(parse(&["--data"]).is_err());
    }
}
