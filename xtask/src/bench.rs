//! `cargo xtask bench`: the benchmarks of all crates that have one.

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::workspace;

const HELP: &str = "\
Run the benchmarks

Usage: cargo xtask bench [CRATE...]

Without a crate, those of all crates. Results are printed; the ones that were kept are in docs/BENCHMARKS.md.

Examples:
  cargo xtask bench
  cargo xtask bench store
";

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
        // `--benches` leaves out the unit tests, whose harness does not know benchmark options.
        let metadata = workspace::metadata()?;
        for bench in workspace::benches(&metadata, &name) {
            workspace::cargo()
                .args(["bench", "--package", &name, "--bench", &bench])
                .run()?;
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
