//! What stands between a factory folder and the server: read both, compare, say what to do.
//!
//! Planning only reads. `apply` takes a plan and does it, in the order in which it is written.

pub mod apply;
mod diff;
mod prune;
pub mod show;

use std::collections::{BTreeMap, HashSet};

use serde_json::{Value, json};
use wire::{ResourceId, TenantId};

pub use diff::FieldChange;

use crate::api;
use crate::client::Client;
use crate::error::CliError;
use crate::factory::Factory;
use crate::factory::body::{Desired, FACTORY_TAG, Realm, desired};

#[derive(Debug)]
pub struct Plan {
    pub factory: String,
    pub items: Vec<Planned>,
    /// Ids of the tenants that exist already.
    tenants: BTreeMap<String, TenantId>,
}

#[derive(Debug)]
pub struct Planned {
    /// `ImageTemplate`
    pub kind: &'static str,
    /// `images/golden-debian`
    pub label: String,
    pub id: ResourceId,
    pub realm: Realm,
    pub action: Action,
}

#[derive(Debug)]
pub enum Action {
    Keep,
    Create {
        body: Value,
    },
    Change {
        body: Value,
        fields: Vec<FieldChange>,
    },
    Delete {
        blocked: Option<String>,
    },
}

/// How many resources each action concerns.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Summary {
    pub create: usize,
    pub change: usize,
    pub delete: usize,
    pub keep: usize,
}

impl Plan {
    pub fn summary(&self) -> Summary {
        let mut summary = Summary::default();
        for item in &self.items {
            match item.action {
                Action::Keep => summary.keep += 1,
                Action::Create { .. } => summary.create += 1,
                Action::Change { .. } => summary.change += 1,
                Action::Delete { .. } => summary.delete += 1,
            }
        }
        summary
    }

    pub fn is_empty(&self) -> bool {
        self.items
            .iter()
            .all(|item| matches!(item.action, Action::Keep))
    }
}

/// Compares the folder with the server.
pub async fn plan(client: &Client, factory: &Factory) -> Result<Plan, CliError> {
    let wanted = desired(factory).map_err(|error| CliError::Failed {
        what: format!("cannot name a resource of the factory: {error}"),
        hint: None,
    })?;
    let mut plan = Plan {
        factory: factory.name.clone(),
        items: Vec::new(),
        tenants: BTreeMap::new(),
    };
    let mut absent: HashSet<ResourceId> = HashSet::new();
    for desired in &wanted {
        let live = plan.live(client, desired, &absent).await?;
        if live.is_none() {
            absent.insert(desired.id.clone());
        }
        let action = decide(&factory.name, desired, live)?;
        plan.items.push(Planned {
            kind: desired.kind,
            label: desired.label.clone(),
            id: desired.id.clone(),
            realm: desired.realm.clone(),
            action,
        });
    }
    prune::add_deletions(client, &mut plan, &wanted, &absent).await?;
    Ok(plan)
}

impl Plan {
    /// What the server holds now; nothing is asked below something that is not there yet.
    async fn live(
        &mut self,
        client: &Client,
        desired: &Desired,
        absent: &HashSet<ResourceId>,
    ) -> Result<Option<Value>, CliError> {
        if desired
            .id
            .parent()
            .is_some_and(|parent| absent.contains(&parent))
        {
            return Ok(None);
        }
        let Some(tenant) = self.tenant(client, &desired.realm) else {
            return Ok(None);
        };
        let operation = format!("look at {} {}", show::noun(desired.kind), desired.label);
        let mut live = client
            .find(&operation, tenant, &api::path(&desired.id))
            .await?;
        if desired.kind == "Subscription" {
            live = live.map(|live| subscription(&live, desired));
        }
        if desired.kind == "Tenant"
            && let Some(live) = &live
        {
            self.tenants
                .insert(desired.label.clone(), tenant_id(&operation, live)?);
        }
        Ok(live)
    }

    /// The tenant whose token reaches a resource, if it exists.
    fn tenant(&self, client: &Client, realm: &Realm) -> Option<TenantId> {
        match realm {
            Realm::Installation => Some(client.home()),
            Realm::Tenant(name) => self
                .tenants
                .iter()
                .find(|(known, _)| known.eq_ignore_ascii_case(name))
                .map(|(_, id)| *id),
        }
    }
}

/// A subscription in the shape in which it is written: Azure shows its name without an envelope.
/// That it was found with the tenant's token says that it is in the tenant.
fn subscription(live: &Value, desired: &Desired) -> Value {
    let mut shaped = json!({ "properties": { "tenant": desired.body["properties"]["tenant"] } });
    shaped["properties"]["displayName"] = live.get("displayName").cloned().unwrap_or_default();
    shaped
}

/// The id that the server gave a tenant.
fn tenant_id(operation: &str, live: &Value) -> Result<TenantId, CliError> {
    let text = live.pointer("/properties/tenantId").and_then(Value::as_str);
    text.and_then(|text| text.parse().ok())
        .ok_or_else(|| CliError::BadAnswer {
            operation: operation.to_owned(),
            why: "the tenant has no `tenantId`".into(),
        })
}

fn decide(factory: &str, desired: &Desired, live: Option<Value>) -> Result<Action, CliError> {
    let Some(live) = live else {
        return Ok(Action::Create {
            body: desired.body.clone(),
        });
    };
    let owner = live
        .pointer(&format!("/tags/{FACTORY_TAG}"))
        .and_then(Value::as_str);
    if let Some(owner) = owner.filter(|owner| *owner != factory)
        && desired.body.get("tags").is_some()
    {
        return Err(CliError::failed(
            format!(
                "{} {} belongs to the factory `{owner}`",
                show::noun(desired.kind),
                desired.label
            ),
            format!(
                "rename it in this folder, or take it out of `{owner}` and remove its tag `{FACTORY_TAG}`"
            ),
        ));
    }
    let fields = diff::differences(&desired.body, &live);
    if fields.is_empty() {
        return Ok(Action::Keep);
    }
    Ok(Action::Change {
        body: merged(desired, &live),
        fields,
    })
}

/// The body of an update. A PUT replaces, so what the folder does not speak of is sent back as it
/// is; a template's properties are the folder's alone.
fn merged(desired: &Desired, live: &Value) -> Value {
    let mut body = desired.body.clone();
    let keep: &[&str] = match desired.kind {
        "Gallery" | "ImageDefinition" => &["tags", "properties"],
        _ => &["tags"],
    };
    for key in keep {
        if let (Some(wanted), Some(held)) = (body.get(*key), live.get(*key)) {
            body[*key] = overlay(held.clone(), wanted);
        }
    }
    body
}

fn overlay(mut below: Value, above: &Value) -> Value {
    match (&mut below, above) {
        (Value::Object(held), Value::Object(wanted)) => {
            for (key, value) in wanted {
                let inner = held.remove(key).unwrap_or(Value::Null);
                held.insert(key.clone(), overlay(inner, value));
            }
            below
        }
        _ => above.clone(),
    }
}
