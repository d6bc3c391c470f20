//! `plan` and `apply`. The folder is checked in full before the server is asked anything.

use camino::Utf8Path;
use serde_json::json;

use super::connect;
use crate::args::{Apply, Global, Plan};
use crate::error::{CliError, Exit};
use crate::factory::load;
use crate::io::{Format, Io};
use crate::plan::apply::Prune;
use crate::plan::{self, Summary, show};

pub async fn plan(global: &Global, args: &Plan, io: &mut Io) -> Result<Exit, CliError> {
    let (_, plan) = compare(global, &args.folder, io).await?;
    show::print(io, &plan)?;
    match args.detailed_exitcode && !plan.is_empty() {
        true => Ok(Exit::Changes),
        false => Ok(Exit::Done),
    }
}

async fn compare(
    global: &Global,
    folder: &Utf8Path,
    io: &mut Io,
) -> Result<(crate::client::Client, plan::Plan), CliError> {
    let factory = load(folder)?;
    let client = connect(global, io)?;
    let plan = plan::plan(&client, &factory).await?;
    Ok((client, plan))
}

pub async fn apply(global: &Global, args: &Apply, io: &mut Io) -> Result<Exit, CliError> {
    let (client, plan) = compare(global, &args.folder, io).await?;
    if args.dry_run {
        show::print(io, &plan)?;
        return Ok(Exit::Done);
    }
    let prune = if args.prune { Prune::Yes } else { Prune::No };
    let sum = plan.summary();
    let work = sum.create + sum.change + if args.prune { sum.delete } else { 0 };
    let factory = plan.factory.clone();
    if io.format == Format::Table {
        show::print(io, &plan)?;
    }
    if work == 0 {
        return report(
            io,
            &factory,
            Summary {
                keep: sum.keep,
                ..Summary::default()
            },
        );
    }
    if !args.yes {
        if !io.terminal.stdin {
            return Err(CliError::Failed {
                what: "there is something to do and nobody to ask".into(),
                hint: Some("look at the plan, then run it with `--yes`".into()),
            });
        }
        if !io.confirm("Apply this plan?")? {
            io.say("Nothing was changed.");
            return Ok(Exit::Failure);
        }
    }
    io.goes_on = vec![
        "Stopped. What was created stays; run `bullion apply` again to go on from there."
            .to_owned(),
    ];
    let done = plan::apply::apply(io, &client, plan, prune).await?;
    report(io, &factory, done)
}

fn report(io: &mut Io, factory: &str, done: Summary) -> Result<Exit, CliError> {
    match io.format {
        Format::Json => io.json(&json!({ "factory": factory, "applied": done }))?,
        Format::Table if done.create + done.change + done.delete == 0 => {}
        Format::Table => io.line(format!(
            "Applied: {} created, {} changed, {} deleted, {} as they were.",
            done.create, done.change, done.delete, done.keep
        ))?,
    }
    Ok(Exit::Done)
}
