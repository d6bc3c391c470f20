//! Real clients of others that the tests drive: az, in an environment of its own, with every version written down.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::program::Program;
use crate::progress::Step;
use crate::workspace;

/// All packages with their versions; a change of it makes a new environment.
const AZ: &str = include_str!("../clients/az.txt");
const PYTHON: &str = "/usr/bin/python3";

/// The programs of the part `az`, or why they cannot be run.
pub fn az(log: &Path, step: &Step) -> Result<Result<Vec<Program>, String>> {
    let folder = workspace::target_folder()?.join("test-clients/az");
    if !is_current(&folder) && !install(&folder, log, step)? {
        let why = "cannot install az; xtask/clients/az.txt says which";
        return Ok(Err(why.to_owned()));
    }
    let bullion = workspace::target_folder()?.join("debug/bullion");
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", folder.join("bin").display());
    let run = |tenants: &str, script: &str| {
        Program::new(&bullion)
            .args(["dev", "--tenants", tenants, "--"])
            .arg(workspace::root().join(script).as_os_str())
            .env("PATH", &path)
            .in_folder(workspace::root())
    };
    Ok(Ok(vec![
        run("2", "xtask/clients/az-commands.sh"),
        run("3", "examples/promote-with-az/promote.sh"),
    ]))
}

fn marker(folder: &Path) -> PathBuf {
    folder.join("installed.txt")
}

fn is_current(folder: &Path) -> bool {
    std::fs::read_to_string(marker(folder)).is_ok_and(|installed| installed == AZ)
}

/// Makes the environment anew. pip's own settings say where packages come from.
fn install(folder: &Path, log: &Path, step: &Step) -> Result<bool> {
    if folder.exists() {
        std::fs::remove_dir_all(folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    let make = Program::new(PYTHON)
        .args(["-m", "venv"])
        .arg(folder.as_os_str());
    let list = workspace::root().join("xtask/clients/az.txt");
    let fill = Program::new(folder.join("bin/pip"))
        .args([
            "install",
            "--disable-pip-version-check",
            "--no-deps",
            "--no-input",
        ])
        .arg("--requirement")
        .arg(list.as_os_str());
    for program in [make, fill] {
        let detail = step.detail();
        let status = program.run_into(log, move |line| detail.set(line))?;
        if !status.success() {
            return Ok(false);
        }
    }
    let marker = marker(folder);
    std::fs::write(&marker, AZ).with_context(|| format!("cannot write {}", marker.display()))?;
    Ok(true)
}
