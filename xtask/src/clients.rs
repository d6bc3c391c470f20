//! Real clients of others that the tests drive: az, the Python SDK, the npm SDK and schemathesis, each in an environment of
//! its own, with its versions written down.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};

use crate::program::Program;
use crate::progress::Step;
use crate::workspace;

/// All packages with their versions; a change of it makes a new environment.
const AZ: &str = include_str!("../clients/az.txt");
const SDK: &str = include_str!("../clients/sdk.txt");
/// What sends requests that it makes of our OpenAPI document.
const OPENAPI: &str = include_str!("../clients/openapi.txt");
/// The packages for node.
const NPM: [&str; 2] = ["@azure/arm-compute@24.1.0", "@azure/identity@4.13.1"];
/// Azure's storage, emulated by its makers.
const AZURITE: [&str; 1] = ["azurite@3.37.0"];
const PYTHON: &str = "/usr/bin/python3";
/// Parts of the tests that run at once may want the same client.
static INSTALLING: Mutex<()> = Mutex::new(());

/// The folder that az is in, or why it cannot be had.
pub fn az_folder(log: &Path, step: &Step) -> Result<Result<PathBuf, String>> {
    let folder = workspace::target_folder()?.join("test-clients/az");
    if !python(&folder, AZ, "az.txt", log, step)? {
        let why = "cannot install az; xtask/clients/az.txt says which";
        return Ok(Err(why.to_owned()));
    }
    Ok(Ok(folder.join("bin")))
}

/// The program that stands for Azure's blob storage, or why it cannot be had.
pub fn azurite(log: &Path, step: &Step) -> Result<Result<PathBuf, String>> {
    let folder = workspace::target_folder()?.join("test-clients/azurite");
    if !npm(&folder, &AZURITE, log, step)? {
        return Ok(Err(format!("cannot install {} for node", AZURITE[0])));
    }
    Ok(Ok(folder.join("node_modules/.bin/azurite-blob")))
}

/// The programs of the part `az`, or why they cannot be run.
pub fn az(log: &Path, step: &Step) -> Result<Result<Vec<Program>, String>> {
    let folder = match az_folder(log, step)? {
        Ok(folder) => folder,
        Err(why) => return Ok(Err(why)),
    };
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", folder.display());
    let run = |tenants: &str, script: &str| {
        let script = workspace::root().join(script);
        let program = below_dev(tenants)?.arg(script.as_os_str());
        Ok(program.env("PATH", &path))
    };
    let programs: Result<Vec<Program>> = [
        run("2", "xtask/clients/az-commands.sh"),
        run("2", "xtask/clients/az-generic.sh"),
        run("2", "xtask/clients/az-galleries.sh"),
        run("2", "xtask/clients/az-disks.sh"),
        run("1", "xtask/clients/az-keys.sh"),
        run("1", "xtask/clients/az-policy.sh"),
        run("3", "examples/promote-with-az/promote.sh"),
    ]
    .into_iter()
    .collect();
    programs.map(Ok)
}

/// The programs of the part `sdk`, or why they cannot be run.
pub fn sdk(log: &Path, step: &Step) -> Result<Result<Vec<Program>, String>> {
    let clients = workspace::target_folder()?.join("test-clients");
    let (python_home, node_home) = (clients.join("sdk"), clients.join("npm"));
    let openapi_home = clients.join("openapi");
    if !python(&openapi_home, OPENAPI, "openapi.txt", log, step)? {
        let why = "cannot install schemathesis; xtask/clients/openapi.txt says which";
        return Ok(Err(why.to_owned()));
    }
    if !python(&python_home, SDK, "sdk.txt", log, step)? {
        let why = "cannot install the Python SDK; xtask/clients/sdk.txt says which";
        return Ok(Err(why.to_owned()));
    }
    if !npm(&node_home, &NPM, log, step)? {
        let why = format!("cannot install {} for node", NPM.join(" and "));
        return Ok(Err(why));
    }
    // node finds its packages beside the script.
    let script = workspace::root().join("xtask/clients/sdk.mjs");
    std::fs::copy(&script, node_home.join("sdk.mjs"))
        .with_context(|| format!("cannot copy {}", script.display()))?;
    let script = workspace::root().join("xtask/clients/sdk.py");
    let with_python = below_dev("2")?
        .arg(python_home.join("bin/python").as_os_str())
        .arg(script.as_os_str());
    // node reads the CA that it trusts when it starts.
    let with_node = below_dev("2")?
        .args([
            "sh",
            "-c",
            "NODE_EXTRA_CA_CERTS=$BULLION_CA exec node \"$0\"",
        ])
        .arg(node_home.join("sdk.mjs").as_os_str());
    let with_openapi = below_dev("1")?
        .arg(
            workspace::root()
                .join("xtask/clients/openapi.sh")
                .as_os_str(),
        )
        .env("SCHEMATHESIS", openapi_home.join("bin/st"));
    Ok(Ok(vec![with_python, with_node, with_openapi]))
}

fn below_dev(tenants: &str) -> Result<Program> {
    let bullion = workspace::target_folder()?.join("debug/bullion");
    Ok(Program::new(&bullion)
        .args(["dev", "--tenants", tenants, "--"])
        .in_folder(workspace::root()))
}

fn marker(folder: &Path) -> PathBuf {
    folder.join("installed.txt")
}

fn is_current(folder: &Path, wanted: &str) -> bool {
    std::fs::read_to_string(marker(folder)).is_ok_and(|installed| installed == wanted)
}

fn emptied(folder: &Path) -> Result<()> {
    if folder.exists() {
        std::fs::remove_dir_all(folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    Ok(())
}

fn all_run(programs: Vec<Program>, log: &Path, step: &Step) -> Result<bool> {
    for program in programs {
        let detail = step.detail();
        let status = program.run_into(log, move |line| detail.set(line))?;
        if !status.success() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn mark(folder: &Path, installed: &str) -> Result<()> {
    let marker = marker(folder);
    std::fs::write(&marker, installed).with_context(|| format!("cannot write {}", marker.display()))
}

/// Makes the environment anew unless it is of that list. pip's own settings say where packages come from.
pub fn python(folder: &Path, wanted: &str, list: &str, log: &Path, step: &Step) -> Result<bool> {
    let _one_at_a_time = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    if is_current(folder, wanted) {
        return Ok(true);
    }
    emptied(folder)?;
    let make = Program::new(PYTHON)
        .args(["-m", "venv"])
        .arg(folder.as_os_str());
    let list = workspace::root().join("xtask/clients").join(list);
    let fill = Program::new(folder.join("bin/pip"))
        .args([
            "install",
            "--disable-pip-version-check",
            "--no-deps",
            "--no-input",
        ])
        .arg("--requirement")
        .arg(list.as_os_str());
    let done = all_run(vec![make, fill], log, step)?;
    if done {
        mark(folder, wanted)?;
    }
    Ok(done)
}

/// The same for node. npm's own settings say where packages come from.
fn npm(folder: &Path, packages: &[&str], log: &Path, step: &Step) -> Result<bool> {
    let _one_at_a_time = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    let wanted = packages.join(" ");
    if !is_current(folder, &wanted) {
        emptied(folder)?;
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
        let install = Program::new("npm")
            .args(["install", "--no-audit", "--no-fund", "--no-package-lock"])
            .args(packages)
            .in_folder(folder);
        if !all_run(vec![install], log, step)? {
            return Ok(false);
        }
        mark(folder, &wanted)?;
    }
    Ok(true)
}
