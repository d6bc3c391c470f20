//! Doing a plan: one resource after the other, parents first, deletions last.

use std::time::Instant;

use serde_json::Value;
use wire::ResourceId;

use super::{Action, Plan, Planned, Summary, show};
use crate::api;
use crate::client::{Ask, Client};
use crate::error::CliError;
use crate::factory::body::{Realm, fill};
use crate::io::Io;
use crate::progress::Progress;

/// Whether what the folder no longer declares is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prune {
    Yes,
    No,
}

/// Does the plan and says so line by line on stderr. What was done before a failure stays done;
/// applying again goes on from there.
pub async fn apply(
    io: &mut Io,
    client: &Client,
    mut plan: Plan,
    prune: Prune,
) -> Result<Summary, CliError> {
    let mut done = Summary::default();
    for item in std::mem::take(&mut plan.items) {
        match &item.action {
            Action::Keep => done.keep += 1,
            Action::Create { body, .. } => {
                put(io, client, &mut plan, &item, body, ("create", "created")).await?;
                done.create += 1;
            }
            Action::Change { body, .. } => {
                put(io, client, &mut plan, &item, body, ("change", "changed")).await?;
                done.change += 1;
            }
            Action::Delete { .. } if prune == Prune::No => {}
            Action::Delete { blocked: Some(why) } => {
                io.say(format!(
                    "  kept     {} {}: {why}",
                    show::noun(item.kind),
                    item.label
                ));
            }
            Action::Delete { blocked: None } => {
                delete(io, client, &plan, &item).await?;
                done.delete += 1;
            }
        }
    }
    Ok(done)
}

async fn put(
    io: &mut Io,
    client: &Client,
    plan: &mut Plan,
    item: &Planned,
    body: &Value,
    (verb, past): (&str, &str),
) -> Result<(), CliError> {
    let started = Instant::now();
    let operation = format!("{verb} {} {}", show::noun(item.kind), item.label);
    let tenant = tenant_of(client, plan, item)?;
    let id = id_of(plan, item)?;
    let path = api::path(&id);
    let mut body = body.clone();
    if let Some(field) = fill(&mut body, &item.later, &plan.facts).first() {
        return Err(not_known(&operation, field));
    }
    let ask = Ask {
        operation: &operation,
        tenant,
        method: "PUT",
        path: &path,
        body: Some(&body),
    };
    let progress = Progress::start(io);
    progress.show(format!("{verb} {} {}", show::noun(item.kind), item.label));
    let live = client.finish(ask).await?;
    drop(progress);
    plan.facts
        .learn(&operation, item.kind, &item.realm, &id, &live)?;
    let seconds = started.elapsed().as_secs_f64();
    io.say(format!(
        "  {past:<8} {} {} ({seconds:.1} s)",
        show::noun(item.kind),
        item.label
    ));
    Ok(())
}

async fn delete(io: &mut Io, client: &Client, plan: &Plan, item: &Planned) -> Result<(), CliError> {
    let operation = format!("delete {} {}", show::noun(item.kind), item.label);
    let tenant = tenant_of(client, plan, item)?;
    let path = api::path(&id_of(plan, item)?);
    let ask = Ask {
        operation: &operation,
        tenant,
        method: "DELETE",
        path: &path,
        body: None,
    };
    match client.finish(ask).await {
        Err(error) if !error.is_not_found() => return Err(error),
        _ => io.say(format!(
            "  deleted  {} {}",
            show::noun(item.kind),
            item.label
        )),
    }
    Ok(())
}

/// The id by now: what it is made from has been created.
fn id_of(plan: &Plan, item: &Planned) -> Result<ResourceId, CliError> {
    let id = item.address.id(&plan.factory, &plan.facts);
    id.ok_or_else(|| not_known(&format!("name {}", item.label), "principalId"))
}

fn not_known(operation: &str, field: &str) -> CliError {
    CliError::BadAnswer {
        operation: operation.to_owned(),
        why: format!("`{field}` is still not known"),
    }
}

fn tenant_of(client: &Client, plan: &Plan, item: &Planned) -> Result<wire::TenantId, CliError> {
    plan.tenant(client, &item.realm).ok_or_else(|| {
        let name = match &item.realm {
            Realm::Tenant(name) => name.as_str(),
            Realm::Installation => "",
        };
        CliError::failed(
            format!("tenant `{name}` does not exist yet"),
            "declare it in the folder with `kind: Tenant`",
        )
    })
}
