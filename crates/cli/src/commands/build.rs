//! `build`: runs of image templates.

use std::io::Read;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use serde::Deserialize;
use serde_json::{Value, json};
use wire::ResourceId;
use wire::factory::LogPage;

use super::follow::{self, follow};
use super::junit;
use super::scope::{Finder, Located, RUN, TEMPLATE, bodies};
use crate::api;
use crate::args::{Build, Scope};
use crate::client::{Ask, Client, Reply};
use crate::error::{CliError, Exit};
use crate::io::{Format, Io, table};

/// Between two looks at a log that grows.
const LOG_PAUSE: Duration = Duration::from_secs(1);
/// Pages of one log; a log is bounded by the server, so this only stops a loop.
const LOG_PAGES_MAX: usize = 100_000;
/// Of a command from stdin.
const COMMAND_BYTES_MAX: u64 = 256 << 10;

pub async fn run(
    client: &Client,
    args: Build,
    profile: &Utf8Path,
    io: &mut Io,
) -> Result<Exit, CliError> {
    match args {
        Build::Run {
            template,
            no_wait,
            junit,
            scope,
        } => {
            let after = match no_wait {
                true => After::Return,
                false => After::Follow(junit),
            };
            start(client, &template, after, &scope, io).await
        }
        Build::List { scope } => list(client, &scope, io).await,
        Build::Show { run, junit, scope } => {
            let run = Finder::new(client, &scope).find(RUN, &run).await?;
            let seen = follow::look(client, &run).await?;
            follow::report(io, &seen)?;
            if let Some(path) = junit {
                junit::write(&path, run.id.name(), &seen.properties)?;
            }
            Ok(Exit::Done)
        }
        Build::Watch { run, junit, scope } => {
            let run = Finder::new(client, &scope).find(RUN, &run).await?;
            let seen = follow::look(client, &run).await?;
            let template = seen
                .properties
                .template
                .rsplit('/')
                .next()
                .unwrap_or("")
                .to_owned();
            follow(io, client, &run, &template, junit.as_deref()).await?;
            Ok(Exit::Done)
        }
        Build::Log { run, follow, scope } => {
            let run = Finder::new(client, &scope).find(RUN, &run).await?;
            log(client, &run, follow, io).await
        }
        Build::Shell { run, scope } => {
            let run = Finder::new(client, &scope).find(RUN, &run).await?;
            shell(client, &run, profile, io).await
        }
        Build::Exec {
            run,
            command,
            scope,
        } => {
            let run = Finder::new(client, &scope).find(RUN, &run).await?;
            exec(client, &run, command.join(" "), io).await
        }
        Build::Release { run, scope } => {
            let run = Finder::new(client, &scope).find(RUN, &run).await?;
            release(client, &run, io).await
        }
        Build::Cancel { template, scope } => cancel(client, &template, &scope, io).await,
    }
}

/// What is done once a run has started.
enum After {
    Return,
    /// Until it ends; then its checks are written to the file.
    Follow(Option<Utf8PathBuf>),
}

async fn start(
    client: &Client,
    template: &str,
    after: After,
    scope: &Scope,
    io: &mut Io,
) -> Result<Exit, CliError> {
    let finder = Finder::new(client, scope);
    let template = finder.find(TEMPLATE, template).await?;
    let name = template.id.name().to_owned();
    let operation = format!("start a run of image template {name}");
    let path = api::below(&template.id, "/run", api::BULLION);
    let ask = Ask {
        operation: &operation,
        tenant: template.tenant,
        method: "POST",
        path: &path,
        body: None,
    };
    let reply = match client.send(ask).await {
        Err(CliError::Arm { code, message, .. }) if code == "Conflict" => {
            return Err(in_progress(&finder, &template, message).await);
        }
        result => result?,
    };
    let run = Located {
        tenant: template.tenant,
        id: run_id(&finder, &template, &reply).await?,
    };
    let After::Follow(junit) = after else {
        match io.format {
            Format::Json => io.json(&json!({ "id": run.id.to_string(), "name": run.id.name() }))?,
            Format::Table => io.line(run.id.name())?,
        }
        let name = run.id.name().to_owned();
        io.say(format!(
            "The run has started; watch it with `bullion build watch {name}`."
        ));
        return Ok(Exit::Done);
    };
    follow(io, client, &run, &name, junit.as_deref()).await?;
    Ok(Exit::Done)
}

/// A template runs once at a time: names the run that is in the way.
async fn in_progress(finder: &Finder<'_>, template: &Located, message: String) -> CliError {
    let name = template.id.name();
    let what = format!("cannot start a run of image template {name}: {message}");
    match newest_run(finder, template).await {
        Ok(Some(run)) => CliError::failed(
            what,
            format!(
                "watch it with `bullion build watch {}`, or stop it with `bullion build cancel {name}`",
                run.name()
            ),
        ),
        _ => CliError::failed(what, "`bullion build list` shows the runs"),
    }
}

/// The run that a POST has started: named by a header or the body, otherwise the template's newest.
async fn run_id(
    finder: &Finder<'_>,
    template: &Located,
    reply: &Reply,
) -> Result<ResourceId, CliError> {
    let named = reply
        .header("x-bullion-run")
        .or_else(|| reply.body.get("id").and_then(Value::as_str));
    if let Some(id) = named.and_then(|id| ResourceId::parse(id).ok()) {
        return Ok(id);
    }
    let newest = newest_run(finder, template).await?;
    newest.ok_or_else(|| CliError::BadAnswer {
        operation: "start the run".into(),
        why: "the server does not name the run".into(),
    })
}

async fn newest_run(
    finder: &Finder<'_>,
    template: &Located,
) -> Result<Option<ResourceId>, CliError> {
    let group = template.id.group_scope().unwrap_or_else(ResourceId::root);
    let mut runs = finder.runs_of(template.tenant, &group).await?;
    runs.retain(|run| {
        let of = run.pointer("/properties/template").and_then(Value::as_str);
        of.and_then(|of| ResourceId::parse(of).ok()).as_ref() == Some(&template.id)
    });
    runs.sort_by_key(start_time);
    Ok(runs.last().and_then(super::scope::id_of))
}

fn start_time(run: &Value) -> String {
    let time = run.pointer("/properties/startTime").and_then(Value::as_str);
    time.unwrap_or("").to_owned()
}

async fn list(client: &Client, scope: &Scope, io: &mut Io) -> Result<Exit, CliError> {
    let mut runs = bodies(Finder::new(client, scope).list(RUN).await?);
    runs.sort_by_key(|run| std::cmp::Reverse(start_time(run)));
    if io.format == Format::Json {
        io.json(&runs)?;
        return Ok(Exit::Done);
    }
    let text = |run: &Value, pointer: &str| {
        run.pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or("")
            .to_owned()
    };
    let last = |path: String| path.rsplit('/').next().unwrap_or("").to_owned();
    let rows: Vec<Vec<String>> = runs
        .iter()
        .map(|run| {
            vec![
                text(run, "/name"),
                last(text(run, "/properties/template")),
                text(run, "/properties/runState"),
                to_seconds(&text(run, "/properties/startTime")),
                last(text(run, "/properties/outputs/versionId")),
            ]
        })
        .collect();
    io.line(table(
        &["RUN", "TEMPLATE", "STATE", "STARTED", "VERSION"],
        &rows,
    ))?;
    Ok(Exit::Done)
}

/// `2026-11-21T03:58:54Z` of a time with fractions.
fn to_seconds(time: &str) -> String {
    match time.split_once('.') {
        Some((whole, _)) => format!("{whole}Z"),
        None => time.to_owned(),
    }
}

async fn log(
    client: &Client,
    run: &Located,
    until_end: bool,
    io: &mut Io,
) -> Result<Exit, CliError> {
    let name = run.id.name().to_owned();
    io.goes_on = vec![format!("Stopped reading. The run {name} is not affected.")];
    let operation = format!("read the log of the run {name}");
    let path = api::below(&run.id, "/readLog", api::BULLION);
    let mut offset = 0;
    for _ in 0..LOG_PAGES_MAX {
        // Asked before the log is read, so that the last lines of a run that ends meanwhile are read too.
        let ended = match until_end {
            true => follow::has_ended(follow::look(client, run).await?.properties.run_state),
            false => true,
        };
        let body = json!({ "offset": offset });
        let ask = Ask {
            operation: &operation,
            tenant: run.tenant,
            method: "POST",
            path: &path,
            body: Some(&body),
        };
        let answer = client.send(ask).await?.body;
        let page = LogPage::deserialize(&answer).map_err(|error| CliError::BadAnswer {
            operation: operation.clone(),
            why: error.to_string(),
        })?;
        for line in &page.lines {
            io.line(line)?;
        }
        let moved = page.next_offset > offset;
        offset = page.next_offset.max(offset);
        if !moved && ended {
            return Ok(Exit::Done);
        }
        if !moved {
            tokio::time::sleep(LOG_PAUSE).await;
        }
    }
    Ok(Exit::Done)
}

async fn shell(
    client: &Client,
    run: &Located,
    profile: &Utf8Path,
    io: &mut Io,
) -> Result<Exit, CliError> {
    let (seen, name) = (follow::look(client, run).await?, run.id.name());
    let kept = &seen.raw["properties"]["keptMachine"];
    if kept["osType"] == "Windows" {
        return Err(CliError::failed(
            format!("nobody can log in to the machine of the run {name}, which is a Windows"),
            format!("`bullion build exec {name} -- COMMAND` runs PowerShell in it"),
        ));
    }
    let Some(ssh) = kept.get("ssh").filter(|ssh| ssh.is_object()) else {
        return Err(CliError::failed(
            format!("no machine of the run {name} is kept"),
            "a template with `errorHandling: {onValidationError: abort}` keeps the machine whose checks failed, for an hour",
        ));
    };
    super::vm::print_ssh(io, profile, ssh)?;
    Ok(Exit::Done)
}

async fn exec(
    client: &Client,
    run: &Located,
    mut command: String,
    io: &mut Io,
) -> Result<Exit, CliError> {
    if command.is_empty() {
        if io.terminal.stdin {
            io.say("Type the command, and end it with Ctrl-D:");
        }
        let mut limited = (&mut io.input).take(COMMAND_BYTES_MAX);
        let read = limited.read_to_string(&mut command);
        read.map_err(|source| CliError::ReadFile {
            path: "-".into(),
            source,
        })?;
    }
    let operation = format!(
        "run a command in the machine that is kept of the run {}",
        run.id.name()
    );
    let path = api::below(&run.id, "/runCommand", api::BULLION);
    let lines: Vec<&str> = command.lines().collect();
    let body = json!({ "script": lines });
    let ask = Ask {
        operation: &operation,
        tenant: run.tenant,
        method: "POST",
        path: &path,
        body: Some(&body),
    };
    let answer = client.send(ask).await?.body;
    let code = answer["exitCode"].as_u64();
    if io.format == Format::Json {
        io.json(&answer)?;
    } else {
        io.text(answer["stdout"].as_str().unwrap_or_default())?;
        let errors = answer["stderr"].as_str().unwrap_or_default().trim_end();
        if !errors.is_empty() {
            io.say(errors);
        }
        if let Some(code) = code.filter(|code| *code != 0) {
            io.say(format!("The command ended with exit code {code}."));
        }
    }
    Ok(match code {
        Some(0) => Exit::Done,
        _ => Exit::Failure,
    })
}

async fn release(client: &Client, run: &Located, io: &mut Io) -> Result<Exit, CliError> {
    let name = run.id.name();
    let operation = format!("end the machine that is kept of the run {name}");
    let path = api::below(&run.id, "/releaseMachine", api::BULLION);
    let ask = Ask {
        operation: &operation,
        tenant: run.tenant,
        method: "POST",
        path: &path,
        body: None,
    };
    let answer = client.send(ask).await?.body;
    io.say(match answer["released"].as_bool() {
        Some(true) => format!("The machine of the run {name} is gone."),
        _ => format!("No machine of the run {name} was kept."),
    });
    Ok(Exit::Done)
}

async fn cancel(
    client: &Client,
    template: &str,
    scope: &Scope,
    io: &mut Io,
) -> Result<Exit, CliError> {
    let finder = Finder::new(client, scope);
    let template = finder.find(TEMPLATE, template).await?;
    if !is_running(client, &finder, &template).await? {
        io.say(format!(
            "No run of image template {} is in progress.",
            template.id.name()
        ));
        return Ok(Exit::Done);
    }
    let operation = format!("cancel the run of image template {}", template.id.name());
    let path = api::below(&template.id, "/cancel", api::BULLION);
    let ask = Ask {
        operation: &operation,
        tenant: template.tenant,
        method: "POST",
        path: &path,
        body: None,
    };
    client.finish(ask).await?;
    io.say(format!(
        "Cancelled the run of image template {}.",
        template.id.name()
    ));
    Ok(Exit::Done)
}

/// Whether the template's newest run goes on; older ones have ended, since one runs at a time.
async fn is_running(
    client: &Client,
    finder: &Finder<'_>,
    template: &Located,
) -> Result<bool, CliError> {
    let Some(id) = newest_run(finder, template).await? else {
        return Ok(false);
    };
    let run = Located {
        tenant: template.tenant,
        id,
    };
    let seen = follow::look(client, &run).await?;
    Ok(!follow::has_ended(seen.properties.run_state))
}
