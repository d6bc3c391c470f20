//! The steps of a quickstart, in the order in which a user takes them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::client::{Client, Plan};
use super::machine::{self, Wanted};
use super::place::Place;
use super::promotion::{self, Arrival};
use super::report::{self, Build, Report};
use super::{server, verdict};
use crate::progress::Step;
use crate::{interrupt, workspace};

/// What `examples/golden-debian` calls its parts.
const EXAMPLE: &str = "examples/golden-debian";
const TEMPLATE: &str = "golden-debian";
const IMAGE: &str = "golden/debian-12";
/// A machine from the latest version that was built, in the second region.
const WEB: Wanted = Wanted {
    name: "web-1",
    image: IMAGE,
    region: "south",
    group: "images",
};
/// A machine of production, from the first version that got there; it is what the policy is about.
const SHOP: Wanted = Wanted {
    name: "shop-1",
    image: "golden_prod/debian-12/1.0.0",
    region: "west",
    group: "web",
};
/// The file that is changed for the second version, and what is added to it.
const CHANGED_FILE: &str = "files/issue.net";
const ADDED_LINE: &str = "Questions: platform-team@example.com\n";
/// A factory folder is small; more than this in it is a mistake in the path.
const MAX_EXAMPLE_FILES: usize = 1000;

pub fn run(place: &Place, binary: PathBuf) -> Result<()> {
    place.create()?;
    let running = server::start(place, &binary)?;
    let client = Client::login(place, binary)?;
    let example = workspace::root().join(EXAMPLE);
    finish_earlier_run(&client)?;
    apply(&client, &example, "apply")?;
    let first = build(&client, "first version")?;
    let began = reject(&client, place, &example, &first.version)?;
    let machine = machine::finish(&client, &WEB, began)?;
    let mut arrivals = promote(&client, place, &first.version)?;
    let began = machine::begin(&client, &SHOP)?;
    let changed = change_one_file(place, &example)?;
    apply(&client, &changed, "apply the change")?;
    let second = build(&client, "second version")?;
    let shop = machine::finish(&client, &SHOP, Some(began))?;
    let mut verdicts = Vec::new();
    if !promotion::is_done(&client, promotion::PROD, &second.version) {
        verdicts.push(verdict::before(&client, &SHOP)?);
    }
    arrivals.extend(promote(&client, place, &second.version)?);
    verdicts.push(verdict::after(&client, &SHOP, &second.version)?);
    let report = Report {
        builds: &[first, second],
        arrivals: &arrivals,
        machines: &[machine, shop],
        verdicts: &verdicts,
    };
    report::print(&client, &running, place, &report);
    Ok(())
}

/// An attempt that a check of the stage `test` rejects, and the check as it should be again. Where that was done, it is
/// left out. A machine of the same version boots beside it, if there is memory for both.
fn reject(
    client: &Client,
    place: &Place,
    example: &Path,
    version: &str,
) -> Result<Option<machine::Begun>> {
    if promotion::is_done(client, promotion::TEST, version) {
        return Ok(None);
    }
    stop_if_interrupted()?;
    let stricter = promotion::stricter(example, place)?;
    apply(client, &stricter, "apply a check that fails")?;
    let began = machine::begin(client, &WEB)?;
    promotion::is_rejected(client, promotion::TEST, version)?;
    apply(client, example, "apply the check as it was")?;
    Ok(Some(began))
}

/// Through both stages.
fn promote(client: &Client, place: &Place, version: &str) -> Result<Vec<Arrival>> {
    [promotion::TEST, promotion::PROD]
        .into_iter()
        .map(|stage| {
            stop_if_interrupted()?;
            promotion::promote(client, place, stage, version)
        })
        .collect()
}

/// Deletes the machines and stops the server; images, caches and the catalog stay.
pub fn stop(place: &Place, binary: Option<PathBuf>) -> Result<()> {
    let binary = match binary {
        Some(binary) => binary,
        None => workspace::target_folder()?.join("release/bullion"),
    };
    // Through the server, so that the catalog knows. Where that cannot be, stopping its process has to do.
    if server::running(place).is_some() && binary.is_file() && place.profile().is_file() {
        let client = Client::known(place, binary);
        for machine in [&WEB, &SHOP] {
            machine::delete(&client, machine);
        }
    }
    server::stop(place)
}

/// `plan`, `apply`, and the proof that applying again would change nothing.
fn apply(client: &Client, folder: &Path, name: &str) -> Result<()> {
    stop_if_interrupted()?;
    let step = Step::begin(name);
    let planned = client.plan(folder, &step)?;
    if planned == Plan::Same {
        step.done("found as it is in the folder");
        return Ok(());
    }
    let apply = ["apply", &folder.to_string_lossy(), "--yes"].map(str::to_owned);
    let apply: Vec<&str> = apply.iter().map(String::as_str).collect();
    let first = changes(&client.json(&apply, &step)?);
    let again = changes(&client.json(&apply, &step)?);
    if again != 0 {
        step.failed("");
        bail!(
            "`bullion {}` changed {again} things the second time; it must change nothing",
            apply.join(" ")
        );
    }
    step.done(&format!(
        "{first} created or changed; applying again changed nothing"
    ));
    Ok(())
}

/// How many things an `apply` created, changed or deleted.
fn changes(applied: &Value) -> u64 {
    let count = |name: &str| applied["applied"][name].as_u64().unwrap_or(0);
    count("create") + count("change") + count("delete")
}

/// A quickstart that was interrupted left its run to the server; it ends before anything changes.
fn finish_earlier_run(client: &Client) -> Result<()> {
    let step = Step::begin("earlier run");
    // Before the first apply there is no subscription to look for runs in.
    let runs = client.ask(&["build", "list"]).unwrap_or_default();
    let Some(run) = active_run(&runs) else {
        step.done("none goes on");
        return Ok(());
    };
    match client.json(&["build", "watch", &run], &step) {
        Ok(_) => step.done(&format!("{run} ended")),
        // Whatever it was that failed, the run that comes next will meet it and say so.
        Err(_) => step.done(&format!("{run} ended without a version")),
    };
    stop_if_interrupted()
}

fn active_run(runs: &Value) -> Option<String> {
    let active = |run: &&Value| {
        let state = run["properties"]["runState"].as_str().unwrap_or_default();
        matches!(state, "Running" | "Canceling")
    };
    let found = workspace::list(runs).iter().find(active)?;
    Some(workspace::text(&found["name"]))
}

fn build(client: &Client, name: &str) -> Result<Build> {
    stop_if_interrupted()?;
    let step = Step::begin(name);
    match client.json(&["build", "run", TEMPLATE], &step) {
        Ok(run) => {
            let build = Build::of_run(&run)
                .context("the run that `bullion build run` printed is not complete")?;
            let version = client.json(
                &["version", "show", &format!("{IMAGE}/{}", build.version)],
                &step,
            )?;
            step.done(&format!("{} {}", build.version, build.in_a_word()));
            Ok(build.with_version(&version))
        }
        Err(error) => {
            step.failed(if interrupt::happened() {
                "interrupted"
            } else {
                ""
            });
            Err(error)
        }
    }
}

/// A copy of the example with one file changed: what a commit in the team's repository would be.
fn change_one_file(place: &Place, example: &Path) -> Result<PathBuf> {
    let copy = place.changed_factory();
    copy_example(example, &copy)?;
    let file = copy.join(CHANGED_FILE);
    append(&file, ADDED_LINE)?;
    Step::begin("change").done(&format!("one line added to {}", file.display()));
    Ok(copy)
}

pub fn copy_example(from: &Path, to: &Path) -> Result<()> {
    let mut left = MAX_EXAMPLE_FILES;
    copy_folder(from, to, &mut left)
}

pub fn append(file: &Path, line: &str) -> Result<()> {
    let text =
        std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    std::fs::write(file, text + line).with_context(|| format!("cannot write {}", file.display()))
}

fn copy_folder(from: &Path, to: &Path, left: &mut usize) -> Result<()> {
    std::fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
    for entry in
        std::fs::read_dir(from).with_context(|| format!("cannot list {}", from.display()))?
    {
        let from = entry
            .with_context(|| format!("cannot list {}", from.display()))?
            .path();
        let Some(name) = from.file_name() else {
            continue;
        };
        *left = left
            .checked_sub(1)
            .with_context(|| format!("{} holds too many files", from.display()))?;
        let to = to.join(name);
        if from.is_dir() {
            copy_folder(&from, &to, left)?;
        } else {
            std::fs::copy(&from, &to)
                .with_context(|| format!("cannot copy to {}", to.display()))?;
        }
    }
    Ok(())
}

pub fn stop_if_interrupted() -> Result<()> {
    if interrupt::happened() {
        bail!("interrupted");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_run_that_goes_on_is_waited_for() {
        let run =
            |state: &str| serde_json::json!([{"name": "r", "properties": {"runState": state}}]);
        let check = |state: &str, expected: Option<&str>| {
            assert_eq!(active_run(&run(state)).as_deref(), expected, "{state}");
        };
        check("Running", Some("r"));
        check("Succeeded", None);
        assert_eq!(active_run(&Value::Null), None);
    }

    #[test]
    fn the_example_has_what_the_quickstart_names() {
        let example = workspace::root().join(EXAMPLE);
        assert!(example.join(CHANGED_FILE).is_file());
        let mut text = String::new();
        for entry in std::fs::read_dir(&example).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|ending| ending == "yaml") {
                text += &std::fs::read_to_string(path).unwrap();
            }
        }
        let images = IMAGE.split('/').chain(SHOP.image.split('/').take(2));
        for name in [TEMPLATE, WEB.region, WEB.group, SHOP.region, SHOP.group]
            .into_iter()
            .chain(images)
        {
            assert!(
                text.contains(&format!("name: {name}\n")),
                "{EXAMPLE} has no {name}"
            );
        }
    }
}
