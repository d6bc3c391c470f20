//! `cargo xtask`: the project's automation. It knows the product only as a user does, through its binary and its
//! sources, and depends on none of our crates.

mod bench;
mod clients;
mod deps;
mod garage;
mod generate;
mod interrupt;
mod objects;
mod postgres;
mod program;
mod progress;
mod quickstart;
mod suite;
mod tidy;
mod workspace;

use std::process::ExitCode;

use anyhow::{Result, bail};

const HELP: &str = "\
Automation of Bullion

Usage: cargo xtask <COMMAND> [OPTIONS]

Commands:
  quickstart  install what is missing, build, and take one image from recipe to running machine
  test        install what the tests need and run all of them (CI runs exactly this)
  deps        the Debian packages that are needed, with the reason for each; installs what is missing
  tidy        hold the design's invariants over sources and crate graph
  generate    write the generated references (--check: fail when one is out of date)
  bench       run the benchmarks

Examples:
  cargo xtask quickstart                 # again on the same folder: everything is found
  cargo xtask quickstart --stop          # stop its server and its machine, keep the data
  cargo xtask test --quick               # leave out what boots machines
  cargo xtask deps --list                # only show the table

`cargo xtask <COMMAND> --help` tells more.
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            for cause in error.chain().skip(1) {
                eprintln!("  because: {cause}");
            }
            if interrupt::happened() {
                ExitCode::from(interrupt::EXIT_CODE)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

fn run(args: &[String]) -> Result<ExitCode> {
    let Some((command, rest)) = args.split_first() else {
        print!("{HELP}");
        return Ok(ExitCode::FAILURE);
    };
    match command.as_str() {
        "quickstart" => quickstart::command(rest),
        "test" => suite::command(rest),
        "deps" => deps::command(rest),
        "tidy" => tidy::command(rest),
        "generate" => generate::command(rest),
        "bench" => bench::command(rest),
        "help" | "--help" | "-h" => {
            print!("{HELP}");
            Ok(ExitCode::SUCCESS)
        }
        other => bail!("there is no command `{other}`; `cargo xtask help` lists them"),
    }
}
