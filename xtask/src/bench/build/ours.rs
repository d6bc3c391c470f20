//! Our own builds, as a user starts them, with what the record of each run says.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::meter::{Cost, Meter};
use crate::progress::Step;
use crate::quickstart::{Client, Place, server};
use crate::workspace;

const EXAMPLE: &str = "examples/golden-debian";
const IMAGE: &str = "golden/debian-12";
const TEMPLATE: &str = "bench";
const CHILD: &str = "bench-child";
/// The api-version that lets a template be changed.
const TEMPLATES: &str = "api-version=2026-11-01";
/// What a server has fetched before: lists and packages.
const FETCHED: [&str; 2] = ["cache/archive", "cache/debs"];
const FILES_MAX: usize = 100_000;

/// A few letters, repeated, and the same in base64.
struct Content(&'static str);

const ONE: Content = Content("b25l");
const TWO: Content = Content("dHdv");

impl Content {
    fn uri(&self) -> String {
        format!("data:;base64,{}", self.0.repeat(super::REPEATED))
    }
}

/// What one run cost, its boot left out, and bytes that it added to the store, before compression.
#[derive(Debug, Clone, Copy)]
pub struct Made {
    pub cost: Cost,
    pub new_bytes: u64,
}

/// Builds once so that all packages are there, and then measures on an empty data folder.
pub fn measure(folder: &Path, binary: &Path) -> Result<Vec<(&'static str, Made)>> {
    let warm = folder.join("warm");
    if !FETCHED
        .iter()
        .all(|part| warm.join("data").join(part).is_dir())
    {
        with_server(&warm, binary, |bench| {
            bench.template(TEMPLATE, &bench.whole(&ONE))?;
            bench.run(TEMPLATE, "fetching packages").map(drop)
        })?;
    }
    let cold = folder.join("cold");
    if cold.exists() {
        Place::choose(Some(cold.clone()))?.delete()?;
    }
    Place::choose(Some(cold.clone()))?.create()?;
    for part in FETCHED {
        link_all(&warm.join("data").join(part), &cold.join("data").join(part))?;
    }
    with_server(&cold, binary, |bench| {
        bench.template(TEMPLATE, &bench.whole(&ONE))?;
        let whole = bench.run(TEMPLATE, "a whole image")?;
        bench.template(CHILD, &bench.child())?;
        bench.run(CHILD, "fetching the child's packages")?;
        bench.template(TEMPLATE, &bench.whole(&TWO))?;
        let changed = bench.run(TEMPLATE, "one file changed")?;
        let child = bench.run(CHILD, "a child image")?;
        let same = bench.run(TEMPLATE, "nothing changed")?;
        Ok(vec![
            ("ours, whole image", whole),
            ("ours, one file changed", changed),
            ("ours, child image with nginx", child),
            ("ours, nothing changed", same),
        ])
    })
}

struct Bench {
    client: Client,
    /// Of the server.
    pid: u32,
    definition: String,
    child_definition: String,
    group: String,
}

fn with_server<T>(
    folder: &Path,
    binary: &Path,
    work: impl FnOnce(&Bench) -> Result<T>,
) -> Result<T> {
    let place = Place::choose(Some(folder.to_owned()))?;
    place.create()?;
    let running = server::start(&place, binary)?;
    let done =
        Bench::prepare(&place, binary.to_owned(), running.pid).and_then(|bench| work(&bench));
    let stopped = server::stop(&place);
    let done = done?;
    stopped.map(|()| done)
}

impl Bench {
    fn prepare(place: &Place, binary: PathBuf, pid: u32) -> Result<Bench> {
        let client = Client::login(place, binary)?;
        let step = Step::begin("regions and galleries");
        let example = workspace::root().join(EXAMPLE);
        client.json(&["apply", &example.to_string_lossy(), "--yes"], &step)?;
        let definition = client.json(&["image", "show", IMAGE], &step)?;
        let definition = definition["id"]
            .as_str()
            .context("an image definition has an id")?
            .to_owned();
        let child_definition = format!("{}-nginx", definition);
        let body = json!({ "location": "north", "properties": {
            "osType": "Linux", "osState": "Generalized", "hyperVGeneration": "V2",
            "identifier": { "publisher": "Bench", "offer": "debian", "sku": "nginx" },
        }});
        put(
            &client,
            &format!("{child_definition}?api-version=2024-03-03"),
            &body,
            &step,
        )?;
        let group = definition
            .split("/providers/")
            .next()
            .unwrap_or_default()
            .to_owned();
        step.done("");
        Ok(Bench {
            client,
            pid,
            definition,
            child_definition,
            group,
        })
    }

    fn template(&self, name: &str, properties: &Value) -> Result<()> {
        let step = Step::begin(format!("template {name}"));
        let path = format!(
            "{}/providers/Microsoft.VirtualMachineImages/imageTemplates/{name}?{TEMPLATES}",
            self.group
        );
        put(
            &self.client,
            &path,
            &json!({ "location": "north", "properties": properties }),
            &step,
        )?;
        step.done("");
        Ok(())
    }

    /// Several steps, the last of which has a file of 1 KB.
    fn whole(&self, content: &Content) -> Value {
        json!({
            "source": { "type": "PlatformImage", "publisher": "Debian", "offer": "debian-12", "sku": "12-gen2", "version": "latest" },
            "customize": [
                { "type": "Shell", "name": "harden", "inline": ["echo 'PermitRootLogin no' > /etc/ssh/sshd_config.d/10-bench.conf"] },
                { "type": "Shell", "name": "user", "inline": ["useradd --system bench"] },
                { "type": "Shell", "name": "limits", "inline": ["echo 'kernel.kptr_restrict = 2' > /etc/sysctl.d/90-bench.conf"] },
                { "type": "File", "name": "file", "destination": "/etc/bench/notice", "sourceUri": content.uri() },
            ],
            "distribute": [target(&self.definition, "golden")],
            "vmProfile": { "osDiskSizeGB": 2 },
        })
    }

    fn child(&self) -> Value {
        json!({
            "source": { "type": "SharedImageVersion", "imageVersionId": format!("{}/versions/latest", self.definition) },
            "customize": [{ "type": "Bullion.Packages", "name": "nginx", "packages": ["nginx"] }],
            "distribute": [target(&self.child_definition, "nginx")],
        })
    }

    fn run(&self, template: &str, what: &str) -> Result<Made> {
        let step = Step::begin(what);
        let meter = Meter::start(self.pid);
        let run = self.client.json(&["build", "run", template], &step);
        let seen = meter.stop();
        let run = run?;
        let properties = &run["properties"];
        if properties["runState"] != "Succeeded" {
            bail!("{what} did not succeed: {properties:#}");
        }
        let (from, to) = (
            time(&properties["startTime"])?,
            time(&properties["endTime"])?,
        );
        let mut cost = Cost {
            cpu: seen.between(from, to),
            wall: seconds(from, to),
            memory: seen.memory,
        };
        let steps: Vec<&Value> = properties["steps"]
            .as_array()
            .into_iter()
            .flatten()
            .collect();
        let mut new_bytes = 0;
        for done in &steps {
            if done["stage"] == "test" && done["how"] == "run" {
                let (from, to) = (time(&done["startTime"])?, time(&done["endTime"])?);
                cost.cpu -= seen.between(from, to);
                cost.wall -= seconds(from, to);
            } else if done["how"] == "run" {
                new_bytes += done["detail"]["newBytes"].as_u64().unwrap_or_default();
            }
        }
        step.done(&format!(
            "{:.2} s of processor time, {:.2} s",
            cost.cpu, cost.wall
        ));
        for done in steps {
            let (stage, name) = (done["stage"].as_str(), done["name"].as_str());
            let took = done["seconds"].as_f64().unwrap_or_default();
            let used = match (time(&done["startTime"]), time(&done["endTime"])) {
                (Ok(from), Ok(to)) => seen.between(from, to),
                _ => 0.0,
            };
            eprintln!(
                "  {:<10} {:<20} {:<6} {used:>7.2} {took:>8.2}",
                stage.unwrap_or_default(),
                name.unwrap_or_default(),
                done["how"].as_str().unwrap_or_default()
            );
        }
        Ok(Made { cost, new_bytes })
    }
}

fn put(client: &Client, path: &str, body: &Value, step: &Step) -> Result<()> {
    client
        .json(&["rest", "PUT", path, "--body", &body.to_string()], step)
        .map(drop)
}

fn target(definition: &str, output: &str) -> Value {
    json!({
        "type": "SharedImage", "runOutputName": output, "galleryImageId": definition,
        "versioning": { "scheme": "Latest", "major": 1 },
        "targetRegions": [{ "name": "north" }],
    })
}

fn time(value: &Value) -> Result<Timestamp> {
    let text = value.as_str().context("a time is missing")?;
    text.parse().with_context(|| format!("`{text}` is no time"))
}

fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64()
}

fn link_all(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    let entries = fs::read_dir(from).with_context(|| format!("cannot list {}", from.display()))?;
    for entry in entries.take(FILES_MAX) {
        let path = entry
            .with_context(|| format!("cannot list {}", from.display()))?
            .path();
        let target = to.join(path.file_name().context("an entry has a name")?);
        if path.is_dir() {
            link_all(&path, &target)?;
        } else {
            fs::hard_link(&path, &target)
                .with_context(|| format!("cannot link {}", path.display()))?;
        }
    }
    Ok(())
}
