//! `Bullion.Factory/runs`: the record of each run of a template, kept by the job, and its log.

use std::sync::Arc;

use serde_json::{Map, json};
use wire::factory::{ReadLog, RunCommand};
use wire::{ArmError, ErrorCode};

use super::{Reply, list, need, present};
use crate::body::typed;
use crate::errors;
use crate::operation::Call;
use crate::state::Server;

pub const KIND: &str = "Bullion.Factory/runs";
const LINES_MAX: usize = 1000;
const SCRIPT_BYTES_MAX: usize = 256 << 10;

/// With the machine that is kept of it, as long as there is one.
pub async fn get(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let run = need(&server, &call).await?;
    let mut body = present(&run);
    if let Some(kept) = server.work.kept_machine(&run.id) {
        body["properties"]["keptMachine"] = kept;
    }
    Ok(Reply::ok(body))
}

/// Runs lines in the machine that is kept of a run: of shell, or of PowerShell where that is a Windows. One that was cut
/// leaves a Windows in which nothing more can be run.
pub async fn run_command(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let none = Map::new();
    let asked: RunCommand = typed(call.body.as_object().unwrap_or(&none))?;
    let lines = asked.script.join("\n");
    if lines.trim().is_empty() || lines.len() > SCRIPT_BYTES_MAX {
        let message = format!(
            "The script must have one line at least, and {SCRIPT_BYTES_MAX} bytes at most."
        );
        return Err(errors::invalid("script", message));
    }
    let permit = call.permit.to_read_own();
    let run = server.catalog.get(&permit).await.map_err(errors::catalog)?;
    let name = run.id.name();
    let refusal = match server.work.run_in_kept(&run.id, &lines).await {
        Some(Ok(output)) => return Ok(Reply::ok(output)),
        Some(Err(why)) => format!(
            "The command did not end in the machine that is kept of the run '{name}': {why}. \
             Start what takes longer in the background, and look at it later."
        ),
        None => format!(
            "No machine is kept of the run '{name}'. One is kept of a run whose checks failed, where the template's \
             'errorHandling.onValidationError' is 'abort', until it is released or its time is over."
        ),
    };
    Err(ArmError::new(ErrorCode::OperationNotAllowed, refusal))
}

/// Ends the machine that is kept of a run. Where there is none, that is what was asked for.
pub async fn release_machine(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let permit = call.permit.to_read_own();
    let run = server.catalog.get(&permit).await.map_err(errors::catalog)?;
    let released = server.work.release_machine(&run.id).await;
    Ok(Reply::ok(json!({ "released": released })))
}

pub async fn all(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    list(&server, &call, KIND, |run| Some(present(run))).await
}

/// Lines from an offset on; `done` once the job has ended and its last line was read.
pub async fn read_log(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let asked: ReadLog = match call.body.as_object() {
        Some(body) => typed(body)?,
        None => ReadLog { offset: 0 },
    };
    let permit = call.permit.to_read_own();
    let run = server.catalog.get(&permit).await.map_err(errors::catalog)?;
    let jobs = server.jobs_at(&permit).await?;
    let Some(job) = jobs.first() else {
        // The record is made before the job is submitted; a crash in between leaves it alone.
        let over = run.state.is_final();
        let body = json!({"lines": [], "offset": 0, "nextOffset": 0, "done": over});
        return Ok(Reply::ok(body));
    };
    let page = server
        .jobs
        .store()
        .log(&permit, job.id, asked.offset, LINES_MAX)
        .await
        .map_err(errors::catalog)?;
    let lines: Vec<&str> = page.lines.iter().map(|line| line.text.as_str()).collect();
    Ok(Reply::ok(json!({
        "lines": lines,
        "offset": page.next,
        "nextOffset": page.next,
        "done": page.done,
    })))
}
