//! `cargo xtask bench`: the benchmarks of all crates that have one.

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::deps::{self, Purpose};
use crate::postgres::{Server, Writes};
use crate::workspace;

mod boot;
mod build;
mod disks;

const HELP: &str = "\
Run the benchmarks

Usage: cargo xtask bench [CRATE...]

Without a crate, those of all crates. Results are printed; the ones that were kept are in docs/BENCHMARKS.md.

The server is measured on SQLite, and again on a PostgreSQL that is installed and runs only as long.

The store is measured beside borg, restic, casync, xdelta3, rsync, qemu-img, qemu-nbd and nbdkit, which are installed,
with four versions of a Debian image, which are made once: that needs root, the package archive and 3 GB.

`build` measures whole builds beside mkosi, which is installed in a tree of its own: root, the package archive and 8 GB.

`boot` measures what a machine reads of its image until somebody can log in: the quickstart's, which is run for it in a
folder of its own if it was not before (4 GB).

Examples:
  cargo xtask bench
  cargo xtask bench store
  cargo xtask bench build
  cargo xtask bench boot
";

/// Not a crate: what the whole program does.
const BUILD: &str = "build";
/// Nor this.
const BOOT: &str = "boot";
/// The crate whose benchmarks need disks and other programs.
const STORE: &str = "store";
/// Where its benchmarks look for the disks.
const STORE_DISKS: &str = "BULLION_BENCH_FOLDER";
/// For those that measure one disk.
const STORE_DISK: &str = "BULLION_BENCH_DISK";

/// The crate whose benchmarks are run on each database.
const SERVER: &str = "server";
const SERVER_DATABASE: &str = "BULLION_BENCH_DATABASE";

/// Benchmarks that are workspaces of their own, because of what they compare with: the crate that they
/// measure, and where they are.
const OWN_WORKSPACES: &[(&str, &str)] = &[("policy", "benches/policy")];

pub fn command(args: &[String]) -> Result<ExitCode> {
    if args.iter().any(|arg| arg == "--help" || arg == "-h") {
        print!("{HELP}");
        return Ok(ExitCode::SUCCESS);
    }
    let mut have = workspace::packages_with_benches(&workspace::metadata()?);
    for (name, _) in OWN_WORKSPACES {
        if !have.iter().any(|have| have == name) {
            have.push((*name).to_owned());
        }
    }
    have.extend([BUILD, BOOT].map(str::to_owned));
    let chosen: Vec<String> = if args.is_empty() {
        have.clone()
    } else {
        args.to_vec()
    };
    if let Some(unknown) = chosen.iter().find(|name| !have.contains(name)) {
        bail!(
            "crate `{unknown}` has no benchmark; these have one: {}",
            have.join(", ")
        );
    }
    if chosen.is_empty() {
        eprintln!("no crate has a benchmark yet");
    }
    for name in chosen {
        match name.as_str() {
            BUILD => {
                build::run()?;
                continue;
            }
            BOOT => {
                boot::run()?;
                continue;
            }
            _ => {}
        }
        // `--benches` leaves out the unit tests, whose harness does not know benchmark options.
        let metadata = workspace::metadata()?;
        let mut environment = Vec::new();
        if name == STORE {
            deps::install(Purpose::Bench)?;
            let folder = workspace::target_folder()?.join("bench-disks");
            disks::make(&folder)?;
            environment.push((STORE_DISK, folder.join("first.raw")));
            environment.push((STORE_DISKS, folder));
        }
        for bench in workspace::benches(&metadata, &name) {
            let cargo = workspace::cargo().args(["bench", "--package", &name, "--bench", &bench]);
            let set = environment.iter();
            set.fold(cargo, |cargo, (name, value)| cargo.env(name, value))
                .run()?;
        }
        if name == SERVER {
            on_postgres()?;
        }
        for (own, folder) in OWN_WORKSPACES.iter().filter(|(own, _)| *own == name) {
            let manifest = format!("{folder}/Cargo.toml");
            // Beside what the workspace builds, and not among the sources.
            let target = workspace::target_folder()?.join("benches").join(own);
            workspace::cargo()
                .args(["run", "--release", "--manifest-path", &manifest])
                .args(["--target-dir", &target.to_string_lossy()])
                .run()?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The server's requests once more, on a database that is reached through a socket.
fn on_postgres() -> Result<()> {
    deps::install(Purpose::Test)?;
    println!("on PostgreSQL:");
    let log = workspace::target_folder()?.join("bench-postgres.log");
    let server = Server::start(&log, Writes::Durable)?;
    workspace::cargo()
        .args(["bench", "--package", SERVER, "--bench", SERVER])
        .env(SERVER_DATABASE, server.url())
        .run()
}
