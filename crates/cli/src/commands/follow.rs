//! Watching a run until it ends: a line per step, live where there is a terminal.

use std::time::Duration;

use camino::Utf8Path;
use serde::Deserialize;
use serde_json::Value;
use wire::factory::{How, RunProperties, RunStep, Stage, StepState};
use wire::template::RunState;

use super::junit;
use super::scope::Located;
use crate::api;
use crate::client::Client;
use crate::error::CliError;
use crate::io::{Format, Io, table};
use crate::progress::Progress;

/// Between two looks at a run.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// Looks that may fail in a row, as while a server is started again.
const FAILED_LOOKS_MAX: u32 = 60;

/// A run as it was last seen.
pub struct Seen {
    pub properties: RunProperties,
    pub raw: Value,
}

pub async fn look(client: &Client, run: &Located) -> Result<Seen, CliError> {
    let operation = format!("look at the run {}", run.id.name());
    let raw = client
        .get(&operation, run.tenant, &api::path(&run.id))
        .await?;
    let properties =
        RunProperties::deserialize(&raw["properties"]).map_err(|error| CliError::BadAnswer {
            operation,
            why: error.to_string(),
        })?;
    Ok(Seen { properties, raw })
}

pub fn has_ended(state: RunState) -> bool {
    !matches!(state, RunState::Running | RunState::Canceling)
}

/// Follows a run to its end, reports it, and fails if it failed. Its checks are written either way.
pub async fn follow(
    io: &mut Io,
    client: &Client,
    run: &Located,
    template: &str,
    junit: Option<&Utf8Path>,
) -> Result<(), CliError> {
    let name = run.id.name().to_owned();
    io.goes_on = vec![
        format!("Stopped following. The run {name} goes on at the server."),
        format!("  watch it:   bullion build watch {name}"),
        format!("  cancel it:  bullion build cancel {template}"),
    ];
    io.say(format!("Run {name} of image template {template}"));
    let mut lines = Lines::new(Progress::start(io));
    let mut failed = 0;
    let seen = loop {
        match look(client, run).await {
            Ok(seen) => {
                failed = 0;
                lines.update(io, &seen.properties.steps);
                if has_ended(seen.properties.run_state) {
                    break seen;
                }
            }
            // A server that is started again goes on with the run, so following does too.
            Err(CliError::Connect { .. } | CliError::Transport { .. })
                if failed < FAILED_LOOKS_MAX =>
            {
                failed += 1;
                if failed == 1 {
                    lines
                        .progress
                        .say(io, "the server does not answer; waiting for it");
                }
            }
            Err(error) => return Err(error),
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    };
    drop(lines);
    io.goes_on.clear();
    report(io, &seen)?;
    if let Some(path) = junit {
        junit::write(path, &name, &seen.properties)?;
    }
    outcome(&name, &seen.properties)
}

/// The closing report: data on stdout.
pub fn report(io: &mut Io, seen: &Seen) -> Result<(), CliError> {
    if io.format == Format::Json {
        return io.json(&seen.raw);
    }
    let run = &seen.properties;
    let rows: Vec<Vec<String>> = run
        .steps
        .iter()
        .map(|step| {
            vec![
                step.stage.as_str().to_owned(),
                step.name.clone(),
                word(step).to_owned(),
                seconds(step),
                detail(step),
            ]
        })
        .collect();
    io.line(table(
        &["STAGE", "STEP", "STATE", "SECONDS", "DETAIL"],
        &rows,
    ))?;
    let outputs = run.outputs.clone().unwrap_or_default();
    if let Some(version) = &outputs.version_id {
        io.line(format!("version  {version}"))?;
    }
    if let Some(digest) = &outputs.disk_digest {
        io.line(format!("disk     {digest}"))?;
    }
    if let Some(boot) = outputs.boot_seconds {
        io.line(format!("boot     {boot:.1} s"))?;
    }
    Ok(())
}

fn outcome(name: &str, run: &RunProperties) -> Result<(), CliError> {
    match run.run_state {
        RunState::Succeeded => Ok(()),
        RunState::Canceled => Err(CliError::failed(
            format!("the run {name} was cancelled"),
            "run it again with `bullion build run`: finished steps are found, not repeated",
        )),
        _ => Err(CliError::failed(failure(name, run), way_on(name, run))),
    }
}

/// What to do about a failed run, which depends on how far it came.
fn way_on(name: &str, run: &RunProperties) -> String {
    let published = run
        .steps
        .iter()
        .any(|step| step.stage == Stage::Publish && step.state == StepState::Succeeded);
    let standing = match published {
        true => "The version is published and only its copies are incomplete",
        false => "Nothing was published",
    };
    let is_kept = |step: &RunStep| step.detail["keptUntil"].is_string();
    let kept = match run.steps.iter().any(is_kept) {
        true => format!(
            " The machine is kept: `bullion build exec {name} -- COMMAND`, `bullion build shell {name}`, `bullion build release {name}`."
        ),
        false => String::new(),
    };
    format!(
        "{standing}.{kept} The whole log: `bullion build log {name}`. Correct what is wrong, `bullion apply` it and run it \
         again: steps before the failed one are found, not repeated"
    )
}

/// What failed, with the output of the checks that did not pass.
fn failure(name: &str, run: &RunProperties) -> String {
    let failed = run
        .steps
        .iter()
        .find(|step| step.state == StepState::Failed);
    let place = failed.map_or_else(String::new, |step| {
        format!(" in {} `{}`", step.stage.as_str(), step.name)
    });
    let reason = match (&run.error, failed) {
        (Some(error), _) if error.message.contains('\n') => {
            format!("{}:\n{}", error.code, error.message)
        }
        (Some(error), _) => format!("{} ({})", error.message, error.code),
        (None, Some(step)) if !step.message.is_empty() => step.message.clone(),
        _ => run.message.clone(),
    };
    let mut text = format!("the run {name} failed{place}: {reason}");
    for detail in run.error.iter().flat_map(|error| &error.details) {
        text.push_str(&format!("\n  {}", detail.message.replace('\n', "\n  ")));
    }
    let checks = failed
        .iter()
        .flat_map(|step| step.detail["checks"].as_array());
    for check in checks.flatten().filter(|check| check["passed"] == false) {
        let title = format!("check `{}`", check["name"].as_str().unwrap_or("?"));
        // The message of the error may hold the report already.
        if text.contains(&title) {
            continue;
        }
        text.push_str(&format!("\n  {title} failed"));
        let output = check["output"].as_str().unwrap_or("").trim_end();
        output
            .lines()
            .for_each(|line| text.push_str(&format!("\n    {line}")));
    }
    text
}

fn word(step: &RunStep) -> &'static str {
    match (step.state, step.how) {
        (StepState::Waiting, _) => "waiting",
        (StepState::Running, _) => "running",
        (StepState::Failed, _) => "failed",
        (StepState::Succeeded, Some(How::Found)) => "found",
        (StepState::Succeeded, _) => "run",
        (StepState::Skipped, _) => "skipped",
    }
}

fn seconds(step: &RunStep) -> String {
    step.seconds
        .map_or_else(String::new, |seconds| format!("{seconds:.1}"))
}

/// What a step's detail shows in a table, most telling first, and how many of them fit.
const DETAILS: &[(&str, &str)] = &[
    ("image", ""),
    ("version", ""),
    ("firmware", ""),
    ("bootSeconds", "booted in"),
    ("newBytes", "new"),
    ("storedBytes", "stored"),
    ("movedBytes", "moved"),
    ("digest", ""),
];
const DETAILS_MAX: usize = 3;
/// A digest is recognised by its beginning.
const DIGEST_CHARS_SHOWN: usize = 16;

fn detail(step: &RunStep) -> String {
    if step.state == StepState::Skipped {
        return step.message.clone();
    }
    let found = step.how == Some(How::Found);
    let shown = DETAILS.iter().filter_map(|(key, label)| {
        let value = step.detail.get(key)?;
        let text = match value {
            // What was new when the step ran is not new now.
            Value::Number(_) if found && key.ends_with("Bytes") => return None,
            Value::Number(number) if key.ends_with("Bytes") => bytes(number.as_f64()?),
            Value::Number(number) => format!("{:.1} s", number.as_f64()?),
            Value::String(text) if *key == "digest" => {
                format!(
                    "{}…",
                    text.chars().take(DIGEST_CHARS_SHOWN).collect::<String>()
                )
            }
            Value::String(text) => text.clone(),
            _ => return None,
        };
        Some(format!("{label} {text}").trim().to_owned())
    });
    shown.take(DETAILS_MAX).collect::<Vec<_>>().join(", ")
}

pub fn bytes(count: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (count, 0);
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{value} B")
    } else {
        format!("{value:.1} {}", units[unit])
    }
}

/// The lines on stderr: each step once when it ends, and in a pipe also when it starts.
struct Lines {
    told: Vec<(String, StepState)>,
    progress: Progress,
}

impl Lines {
    fn new(progress: Progress) -> Lines {
        Lines {
            told: Vec::new(),
            progress,
        }
    }

    fn update(&mut self, io: &mut Io, steps: &[RunStep]) {
        for step in steps {
            let key = format!("{}/{}", step.stage.as_str(), step.name);
            let before = self.told.iter().position(|(known, _)| *known == key);
            let changed = before.is_none_or(|at| self.told[at].1 != step.state);
            match before {
                Some(at) => self.told[at].1 = step.state,
                None => self.told.push((key, step.state)),
            }
            match step.state {
                StepState::Waiting => {}
                StepState::Running if !changed => self.progress.show(live(step)),
                StepState::Running if self.progress.is_live() => self.progress.restart(live(step)),
                _ if changed => self.progress.say(io, &line(step)),
                _ => {}
            }
        }
    }
}

/// The running step beside the spinner.
fn live(step: &RunStep) -> String {
    format!("{:<9} {} {}", step.stage.as_str(), step.name, step.message)
}

fn line(step: &RunStep) -> String {
    let took = match step.state {
        StepState::Succeeded | StepState::Failed => step
            .seconds
            .map_or_else(String::new, |seconds| format!("  {seconds:.1} s")),
        _ => String::new(),
    };
    let text = format!(
        "  {:<9} {:<24} {:<7}{took}",
        step.stage.as_str(),
        step.name,
        word(step)
    );
    if step.state == StepState::Skipped {
        return format!("{text}  {}", step.message);
    }
    text.trim_end().to_owned()
}
