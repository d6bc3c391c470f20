//! `promote` and `promotion`: a version's way through the stages of a pipeline.
//!
//! Stages are of different tenants, so both pipelines and promotions are looked for in every subscription that the
//! profile reaches.

use std::time::Duration;

use serde_json::{Value, json};
use wire::ResourceId;
use wire::promotion::{
    GateState, GateVerdict, PipelineProperties, PromotionProperties, PromotionState,
};

use super::scope::{Finder, Kind, Located, id_of};
use crate::api;
use crate::args::{Promote, Promotion, Scope};
use crate::client::{Ask, Client};
use crate::error::{CliError, Exit};
use crate::io::{Format, Io, table};

const PIPELINE: Kind = Kind {
    noun: "pipeline",
    rest: "/providers/Bullion.Factory/pipelines",
    version: api::BULLION,
};
const PROMOTION: Kind = Kind {
    noun: "promotion",
    rest: "/providers/Bullion.Factory/promotions",
    version: api::BULLION,
};
/// Between two looks at a promotion that goes on.
const PAUSE: Duration = Duration::from_secs(1);

pub async fn promote(client: &Client, args: &Promote, io: &mut Io) -> Result<Exit, CliError> {
    let pipeline = match &args.pipeline {
        Some(written) => find(client, PIPELINE, written).await?,
        None => only(client).await?,
    };
    let operation = format!("promote version {} to {}", args.version, args.to);
    let path = api::path(&pipeline.id);
    let body = client.get(&operation, pipeline.tenant, &path).await?;
    let stages: PipelineProperties = properties(&operation, &body)?;
    let stage = stages
        .stages
        .iter()
        .find(|stage| stage.name.eq_ignore_ascii_case(&args.to));
    let stage = stage.ok_or_else(|| {
        let names: Vec<&str> = stages
            .stages
            .iter()
            .map(|stage| stage.name.as_str())
            .collect();
        CliError::failed(
            format!("the pipeline has no stage `{}`", args.to),
            format!("its stages are {}", names.join(", ")),
        )
    })?;
    let name = format!("{}-{}-{}", pipeline.id.name(), stage.name, args.version);
    let id = ResourceId::parse(&stage.image_definition)
        .ok()
        .and_then(|definition| definition.group_scope())
        .and_then(|group| group.extension("Bullion.Factory", "promotions", &name).ok());
    let id = id.ok_or_else(|| CliError::Usage(format!("`{}` is not a version", args.version)))?;
    let asked = json!({ "properties": {
        "pipeline": pipeline.id, "stage": stage.name, "version": args.version,
    } });
    let path = api::path(&id);
    let ask = Ask {
        operation: &operation,
        tenant: stage.tenant,
        method: "PUT",
        path: &path,
        body: Some(&asked),
    };
    let reply = client.send_linked(ask, pipeline.tenant).await?;
    if args.no_wait {
        return show(io, &reply.body);
    }
    io.goes_on = vec![format!(
        "The promotion goes on; look at it with `bullion promotion show {name}`."
    )];
    let located = Located {
        tenant: stage.tenant,
        id,
    };
    let body = settled(client, &operation, &located).await?;
    io.goes_on.clear();
    show(io, &body)?;
    outcome(io, &name, &properties(&operation, &body)?)
}

/// Looks until no job works on it any more.
async fn settled(client: &Client, operation: &str, at: &Located) -> Result<Value, CliError> {
    loop {
        let body = client.get(operation, at.tenant, &api::path(&at.id)).await?;
        let promotion: PromotionProperties = properties(operation, &body)?;
        if promotion.state != PromotionState::Running {
            return Ok(body);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn outcome(io: &mut Io, name: &str, promotion: &PromotionProperties) -> Result<Exit, CliError> {
    match promotion.state {
        PromotionState::Rejected
        | PromotionState::Failed
        | PromotionState::Canceled
        | PromotionState::Expired => Err(CliError::failed(
            format!(
                "the promotion {name} did not succeed: {}",
                promotion.message
            ),
            format!("`bullion promotion show {name}` says what each gate said"),
        )),
        PromotionState::WaitingForApproval => {
            io.say(format!(
                "It waits for somebody else: `bullion promotion approve {name}`."
            ));
            Ok(Exit::Done)
        }
        PromotionState::WaitingForRegion => {
            io.say(format!("It is tried again: {}.", promotion.message));
            Ok(Exit::Done)
        }
        PromotionState::Running | PromotionState::Succeeded => Ok(Exit::Done),
    }
}

pub async fn run(client: &Client, args: Promotion, io: &mut Io) -> Result<Exit, CliError> {
    match args {
        Promotion::List => list(client, io).await,
        Promotion::Show { promotion } => {
            let found = find(client, PROMOTION, &promotion).await?;
            let path = api::path(&found.id);
            let body = client
                .get("show the promotion", found.tenant, &path)
                .await?;
            show(io, &body)
        }
        Promotion::Approve { promotion, comment } => {
            say(client, &promotion, "approve", Some(&comment), io).await
        }
        Promotion::Reject { promotion, comment } => {
            say(client, &promotion, "reject", Some(&comment), io).await
        }
        Promotion::Cancel { promotion } => say(client, &promotion, "cancel", None, io).await,
        Promotion::Verify { promotion } => verify(client, &promotion, io).await,
    }
}

async fn list(client: &Client, io: &mut Io) -> Result<Exit, CliError> {
    let mut items: Vec<Value> = Vec::new();
    for (_, item) in everywhere(client, PROMOTION).await? {
        items.push(item);
    }
    let text = |item: &Value, pointer: &str| {
        let found = item.pointer(pointer).and_then(Value::as_str);
        found.unwrap_or("").to_owned()
    };
    items.sort_by_key(|item| std::cmp::Reverse(text(item, "/properties/startTime")));
    if io.format == Format::Json {
        io.json(&items)?;
        return Ok(Exit::Done);
    }
    let columns = [
        ("NAME", "/name"),
        ("VERSION", "/properties/version"),
        ("STAGE", "/properties/stage"),
        ("STATE", "/properties/state"),
        ("MESSAGE", "/properties/message"),
    ];
    let header: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
    let cells = |item: &Value| columns.iter().map(|(_, at)| text(item, at)).collect();
    let rows: Vec<Vec<String>> = items.iter().map(cells).collect();
    io.line(table(&header, &rows))?;
    Ok(Exit::Done)
}

fn show(io: &mut Io, body: &Value) -> Result<Exit, CliError> {
    if io.format == Format::Json {
        io.json(body)?;
        return Ok(Exit::Done);
    }
    let promotion: PromotionProperties = properties("show the promotion", body)?;
    let state = serde_json::to_value(promotion.state).unwrap_or_default();
    io.line(format!(
        "version {} from {} to {}: {}",
        promotion.version,
        promotion.from.name,
        promotion.to.name,
        state.as_str().unwrap_or_default()
    ))?;
    for (name, value) in [
        ("disk", &promotion.disk_digest),
        ("version id", &promotion.version_id),
        ("expires", &promotion.expires),
    ] {
        if let Some(value) = value {
            io.line(format!("{name}: {value}"))?;
        }
    }
    if !promotion.message.is_empty() {
        io.line(format!("message: {}", promotion.message))?;
    }
    let rows: Vec<Vec<String>> = promotion
        .gates
        .iter()
        .map(|gate| {
            let state = match gate.state {
                GateState::NotReached => "not reached",
                GateState::Waiting => "waiting",
                GateState::Passed => "passed",
                GateState::Failed => "failed",
            };
            let by: Vec<String> = gate.by.iter().map(ToString::to_string).collect();
            let time = gate.time.clone().unwrap_or_default();
            let message = gate.message.lines().next().unwrap_or_default();
            let cells = [gate.name.as_str(), state, &time, &by.join(","), message];
            cells.map(str::to_owned).to_vec()
        })
        .collect();
    if !rows.is_empty() {
        io.line(table(&["GATE", "SAID", "TIME", "BY", "MESSAGE"], &rows))?;
    }
    for gate in &promotion.gates {
        machine(io, gate)?;
    }
    for earlier in &promotion.earlier {
        let state = serde_json::to_value(earlier.state).unwrap_or_default();
        io.line(format!(
            "attempt {}, {}: {}: {}",
            earlier.attempt,
            earlier.start_time,
            state.as_str().unwrap_or_default(),
            earlier.message.lines().next().unwrap_or_default()
        ))?;
    }
    for copy in &promotion.copies {
        io.line(format!(
            "region {}: {} bytes moved in {} frames, {} frames were there",
            copy.region, copy.moved_bytes, copy.frames, copy.frames_present
        ))?;
    }
    Ok(Exit::Done)
}

/// What a gate that deployed a machine saw in it, the output of what failed included.
fn machine(io: &mut Io, gate: &GateVerdict) -> Result<(), CliError> {
    let machine = &gate.evidence["machine"];
    let text = |key: &str| machine[key].as_str().unwrap_or_default();
    if !machine.is_object() {
        return Ok(());
    }
    let booted = gate.evidence["bootSeconds"].as_f64();
    let booted = booted.map_or_else(
        || "did not come up".to_owned(),
        |seconds| format!("booted in {seconds:.1} s"),
    );
    io.line(format!(
        "{}: machine {} in {} ({}), started {}, {booted}",
        gate.name,
        text("id"),
        text("region"),
        text("firmware"),
        text("startedAt"),
    ))?;
    let checks = gate.evidence["checks"].as_array();
    for check in checks.into_iter().flatten() {
        let passed = check["passed"] == true;
        io.line(format!(
            "  {} {}",
            if passed { "passed" } else { "FAILED" },
            check["name"].as_str().unwrap_or_default(),
        ))?;
        let output = check["output"].as_str().unwrap_or_default();
        for line in output.lines().filter(|_| !passed) {
            io.line(format!("    | {line}"))?;
        }
    }
    Ok(())
}

/// One of the three words that people have for a promotion.
async fn say(
    client: &Client,
    written: &str,
    word: &str,
    comment: Option<&str>,
    io: &mut Io,
) -> Result<Exit, CliError> {
    let found = find(client, PROMOTION, written).await?;
    let operation = format!("{word} the promotion {}", found.id.name());
    let body = comment.map(|comment| json!({ "comment": comment }));
    let path = api::below(&found.id, &format!("/{word}"), api::BULLION);
    let ask = Ask {
        operation: &operation,
        tenant: found.tenant,
        method: "POST",
        path: &path,
        body: body.as_ref(),
    };
    let reply = client.send(ask).await?;
    show(io, &reply.body)
}

async fn verify(client: &Client, written: &str, io: &mut Io) -> Result<Exit, CliError> {
    let found = find(client, PROMOTION, written).await?;
    let name = found.id.name().to_owned();
    let operation = format!("verify the promotion {name}");
    let path = api::below(&found.id, "/verify", api::BULLION);
    let ask = Ask {
        operation: &operation,
        tenant: found.tenant,
        method: "POST",
        path: &path,
        body: None,
    };
    let body = client.send(ask).await?.body;
    if io.format == Format::Json {
        io.json(&body)?;
    } else {
        let stages = body["stages"].as_array().cloned().unwrap_or_default();
        let text = |stage: &Value, key: &str| stage[key].as_str().unwrap_or("-").to_owned();
        let names = |stage: &Value, key: &str| {
            let names = stage[key].as_array().into_iter().flatten();
            let names: Vec<&str> = names.filter_map(Value::as_str).collect();
            names.join(", ")
        };
        let rows: Vec<Vec<String>> = stages
            .iter()
            .map(|stage| {
                vec![
                    text(stage, "stage"),
                    text(stage, "diskDigest"),
                    names(stage, "computedIn"),
                    names(stage, "missingIn"),
                ]
            })
            .collect();
        io.line(table(&["STAGE", "DISK", "READ IN", "NOT IN"], &rows))?;
    }
    if body["equal"] == true {
        return Ok(Exit::Done);
    }
    Err(CliError::failed(
        format!("the stages of {name} do not hold the same disk whole"),
        "a stage without a region could not be read: `bullion version show` says where the version is",
    ))
}

/// Everything of a kind that the profile can see, in whatever tenant.
async fn everywhere(client: &Client, kind: Kind) -> Result<Vec<(Located, Value)>, CliError> {
    let scope = Scope::default();
    let mut found = Vec::new();
    for subscription in Finder::new(client, &scope).subscriptions().await? {
        let at = ResourceId::subscription_scope(subscription.id);
        let path = api::below(&at, kind.rest, kind.version);
        let operation = format!("list {}s", kind.noun);
        match client.list(&operation, subscription.tenant, &path).await {
            Ok(items) => found.extend(items.into_iter().filter_map(|item| {
                let tenant = subscription.tenant;
                let id = id_of(&item)?;
                Some((Located { tenant, id }, item))
            })),
            // Whoever sees one subscription need not see this in every other.
            Err(CliError::Arm { code, .. }) if code == "AuthorizationFailed" => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

async fn find(client: &Client, kind: Kind, written: &str) -> Result<Located, CliError> {
    if written.starts_with('/') {
        return Finder::new(client, &Scope::default()).by_id(written).await;
    }
    let all = everywhere(client, kind).await?;
    let named = |located: &Located| located.id.name().eq_ignore_ascii_case(written);
    let found: Vec<Located> = all
        .into_iter()
        .map(|(located, _)| located)
        .filter(named)
        .collect();
    match found.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(CliError::failed(
            format!("there is no {} `{written}`", kind.noun),
            "`bullion promotion list` shows the promotions that there are",
        )),
        many => Err(CliError::failed(
            format!("there are {} {}s `{written}`", many.len(), kind.noun),
            "name it by its whole resource id",
        )),
    }
}

/// The one pipeline that there is.
async fn only(client: &Client) -> Result<Located, CliError> {
    let all = everywhere(client, PIPELINE).await?;
    match all.as_slice() {
        [(one, _)] => Ok(one.clone()),
        [] => Err(CliError::failed(
            "no pipeline is visible to this application",
            "make one with `bullion rest PUT GROUP/providers/Bullion.Factory/pipelines/NAME`",
        )),
        many => {
            let names: Vec<&str> = many.iter().map(|(located, _)| located.id.name()).collect();
            Err(CliError::failed(
                "more than one pipeline is visible",
                format!("name one with `--pipeline`: {}", names.join(", ")),
            ))
        }
    }
}

fn properties<T: serde::de::DeserializeOwned>(
    operation: &str,
    body: &Value,
) -> Result<T, CliError> {
    serde_json::from_value(body["properties"].clone()).map_err(|error| CliError::BadAnswer {
        operation: operation.to_owned(),
        why: error.to_string(),
    })
}
