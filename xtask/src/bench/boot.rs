//! What a machine reads of its image until it asks who logs in, when nothing of the image is on its host: with no
//! trace of an earlier boot, with one, and twenty machines that start at once.
//!
//! The image is the golden Debian of the quickstart, which is run in a folder of its own if it was not before. The disk
//! is served by `bullion store serve`, and its figures are what that counts.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::program::Program;
use crate::progress::Step;
use crate::quickstart::server;
use crate::{quickstart, workspace};

const REGION: &str = "regions/south/1";
const KEY: &str = "keys/stores.key";
const PROMPT: &str = "login:";
/// Without acceleration on a busy host.
const BOOT_DEADLINE: Duration = Duration::from_secs(20 * 60);
/// Machines that start at once, and MiB of memory of each machine, so that all of them find room.
const TOGETHER: usize = 20;
const MEMORY: &str = "512";
const MIB: f64 = (1u64 << 20) as f64;

/// What one boot read of the store, as stored.
struct Boot {
    seconds: f64,
    asked: u64,
    ahead: u64,
    server_cpu: f64,
}

pub fn run() -> Result<()> {
    let folder = workspace::target_folder()?.join("bench-boot");
    let data = folder.join("data");
    let quickstart = |words: &[&str]| {
        let words = words.iter().map(ToString::to_string);
        let place = ["--data".to_owned(), folder.to_string_lossy().into_owned()];
        quickstart::command(&words.chain(place).collect::<Vec<_>>()).map(drop)
    };
    if !data.join(REGION).join("store.bullion").is_file() {
        quickstart(&[])?;
    }
    quickstart(&["--stop"])?;
    let program = workspace::target_folder()?.join("release/bullion");
    let work = folder.join("bench");
    if work.exists() {
        fs::remove_dir_all(&work).with_context(|| format!("cannot remove {}", work.display()))?;
    }
    fs::create_dir_all(&work).with_context(|| format!("cannot make {}", work.display()))?;
    let measured = measure(&program, &data, &work);
    let cleared = fs::remove_dir_all(&work);
    measured?;
    cleared.with_context(|| format!("cannot remove {}", work.display()))
}

fn measure(program: &Path, data: &Path, work: &Path) -> Result<()> {
    // A copy, with no trace in it.
    let store = work.join("store");
    let from = data.join(REGION);
    let copy: [&OsStr; 3] = ["-r".as_ref(), from.as_os_str(), store.as_os_str()];
    Program::new("cp").args(copy).stdout()?;
    let traces = store.join("traces");
    if traces.exists() {
        fs::remove_dir_all(&traces).context("cannot remove the traces of earlier boots")?;
    }
    let bench = Bench {
        program: program.to_owned(),
        store,
        key: data.join(KEY),
        work: work.to_owned(),
    };
    let id = bench.disk()?;
    println!("the golden Debian to `{PROMPT}`, from a store, nothing of it in memory before:");
    for (name, options, machines) in [
        ("first boot", ["--record-trace"].as_slice(), 1),
        ("with its trace", &[], 1),
        ("twenty machines at once", &[], TOGETHER),
    ] {
        let step = Step::begin(name);
        let boot = bench.boot(&id, options, machines)?;
        step.done("");
        let all = boot.asked + boot.ahead;
        println!(
            "{name}: {:.1} MiB fetched, {:.1} MiB before it was asked for ({:.1} %); {:.0} s to the prompt, {:.2} s of \
             the server's processor time",
            all as f64 / MIB,
            boot.ahead as f64 / MIB,
            100.0 * boot.ahead as f64 / all.max(1) as f64,
            boot.seconds,
            boot.server_cpu,
        );
    }
    Ok(())
}

struct Bench {
    program: PathBuf,
    store: PathBuf,
    key: PathBuf,
    work: PathBuf,
}

/// A program that is stopped when it is not needed any more, whatever happens.
struct Stopped(Child);

impl Drop for Stopped {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Bench {
    fn store(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("store").args(words);
        command.arg("--at").arg(&self.store);
        command.arg("--key-file").arg(&self.key);
        command.args(["--output", "json"]);
        command
    }

    /// Every disk of the region boots; any of them will do.
    fn disk(&self) -> Result<String> {
        let listed = self
            .store(&["list"])
            .output()
            .context("cannot list the store")?;
        let listed: Value =
            serde_json::from_slice(&listed.stdout).context("the list is no JSON")?;
        let id = listed[0]["id"].as_str();
        Ok(id.context("the store holds no disk")?.to_owned())
    }

    fn boot(&self, id: &str, options: &[&str], machines: usize) -> Result<Boot> {
        let socket = self.work.join("nbd.sock");
        let told = self.work.join("served.json");
        let out = fs::File::create(&told).context("cannot write the server's output")?;
        let mut serve = self.store(&[&["serve", id], options].concat());
        serve.arg("--socket").arg(&socket).stdout(out);
        let mut server = Stopped(
            serve
                .spawn()
                .context("cannot start `bullion store serve`")?,
        );
        let lines = || fs::read_to_string(&told).unwrap_or_default();
        wait(|| lines().ends_with('\n'), &mut server)?;
        let serving: Value = serde_json::from_str(lines().trim_end())?;
        let url = serving["serving"][0]["urls"][0]
            .as_str()
            .context("no address")?;
        let seconds = self.prompts(url, machines)?;
        Program::new("kill")
            .args(["-TERM", &server.0.id().to_string()])
            .stdout()?;
        server.0.wait().context("the server does not end")?;
        let ended = lines();
        let ended: Value = serde_json::from_str(ended.lines().last().unwrap_or_default())?;
        let (ended, cache) = (&ended["ended"], &ended["ended"]["cache"]);
        let number = |value: &Value| value.as_u64().context("a figure is missing");
        Ok(Boot {
            seconds,
            asked: number(&cache["askedBytes"])?,
            ahead: number(&cache["aheadBytes"])?,
            server_cpu: ended["cpuSeconds"].as_f64().unwrap_or_default(),
        })
    }

    /// Starts machines, and stops each when it asks who logs in; seconds until the last did.
    fn prompts(&self, url: &str, machines: usize) -> Result<f64> {
        let begun = Instant::now();
        let started: Result<Vec<(Stopped, PathBuf)>> = (0..machines)
            .map(|number| {
                let console = self.work.join(format!("console-{number}"));
                // Of the boot before.
                let _ = fs::remove_file(&console);
                let machine = machine(url, &console).spawn();
                Ok((Stopped(machine.context("cannot start QEMU")?), console))
            })
            .collect();
        for (mut machine, console) in started? {
            let says = || {
                let text = fs::read(&console).unwrap_or_default();
                String::from_utf8_lossy(&text).contains(PROMPT)
            };
            wait(says, &mut machine)?;
        }
        Ok(begun.elapsed().as_secs_f64())
    }
}

/// As tests of images boot: two processors, a network that leads nowhere, and nothing that is written stays.
fn machine(url: &str, console: &Path) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    command.args([
        "-machine",
        "q35",
        "-accel",
        "tcg,thread=multi",
        "-smp",
        "2",
        "-m",
        MEMORY,
    ]);
    command.args([
        "-nodefaults",
        "-display",
        "none",
        "-device",
        "virtio-rng-pci",
    ]);
    command.args(["-netdev", "user,id=net,restrict=on"]);
    command.args(["-device", "virtio-net-pci,netdev=net,romfile="]);
    command.args([
        "-drive",
        &format!("if=virtio,format=raw,snapshot=on,file={url}"),
    ]);
    command
        .arg("-serial")
        .arg(format!("file:{}", console.display()));
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

fn wait(there: impl Fn() -> bool, child: &mut Stopped) -> Result<()> {
    server::wait_until(BOOT_DEADLINE, "the machine or its disk", || {
        if there() {
            return Ok(Some(()));
        }
        match child.0.try_wait()? {
            Some(status) => bail!("it ended too early ({status})"),
            None => Ok(None),
        }
    })
}
