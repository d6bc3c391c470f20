//! What stands between a factory folder and the server: read both, compare, say what to do.
//!
//! Planning only reads. `apply` takes a plan and does it, in the order in which it is written.

pub mod apply;
mod diff;
mod facts;
mod prune;
pub mod show;

use std::collections::HashSet;

use serde_json::{Value, json};
use wire::{ResourceId, TenantId};

pub use diff::FieldChange;

use crate::api;
use crate::client::Client;
use crate::error::CliError;
use crate::factory::Factory;
use crate::factory::body::{Address, Desired, FACTORY_TAG, Hole, Realm, desired, fill};
use facts::Facts;

#[derive(Debug)]
pub struct Plan {
    pub factory: String,
    pub items: Vec<Planned>,
    facts: Facts,
}

#[derive(Debug)]
pub struct Planned {
    /// `ImageTemplate`
    pub kind: &'static str,
    /// `images/golden-debian`
    pub label: String,
    pub address: Address,
    /// Nothing where the id is made from what does not exist yet.
    pub id: Option<ResourceId>,
    pub realm: Realm,
    pub action: Action,
    later: Vec<Hole>,
}

#[derive(Debug)]
pub enum Action {
    Keep,
    Create {
        body: Value,
        /// Fields whose value comes from what is created before.
        open: Vec<String>,
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
        facts: Facts::default(),
    };
    plan.facts.look_up_built_ins(client, &wanted).await?;
    let mut absent: HashSet<ResourceId> = HashSet::new();
    for desired in wanted {
        let id = desired.address.id(&plan.factory, &plan.facts);
        let live = plan.live(client, &desired, id.as_ref(), &absent).await?;
        if live.is_none() {
            absent.extend(id.clone());
        }
        let mut desired = desired;
        let open = fill(&mut desired.body, &desired.later, &plan.facts);
        let action = decide(&factory.name, &desired, live, open)?;
        plan.items.push(Planned {
            kind: desired.kind,
            label: desired.label,
            address: desired.address,
            id,
            realm: desired.realm,
            action,
            later: desired.later,
        });
    }
    prune::add_deletions(client, &mut plan, &absent).await?;
    Ok(plan)
}

impl Plan {
    /// What the server holds now; nothing is asked below something that is not there yet.
    async fn live(
        &mut self,
        client: &Client,
        desired: &Desired,
        id: Option<&ResourceId>,
        absent: &HashSet<ResourceId>,
    ) -> Result<Option<Value>, CliError> {
        let parent = desired.address.parent();
        let (Some(id), Some(tenant)) = (id, self.tenant(client, &desired.realm)) else {
            return Ok(None);
        };
        if parent.is_some_and(|parent| absent.contains(&parent)) {
            return Ok(None);
        }
        let operation = format!("look at {} {}", show::noun(desired.kind), desired.label);
        let mut live = client.find(&operation, tenant, &api::path(id)).await?;
        if live.is_none()
            && let Address::Assignment { scope, .. } = &desired.address
        {
            live = self.same_assignment(client, tenant, desired, scope).await?;
        }
        if desired.kind == "Subscription" {
            live = live.map(|live| subscription(&live, desired));
        }
        if let Some(live) = &live {
            self.facts
                .learn(&operation, desired.kind, &desired.realm, id, live)?;
        }
        Ok(live)
    }

    /// An assignment that says the same under a name that somebody else chose.
    async fn same_assignment(
        &self,
        client: &Client,
        tenant: TenantId,
        desired: &Desired,
        scope: &ResourceId,
    ) -> Result<Option<Value>, CliError> {
        let mut wanted = desired.body.clone();
        fill(&mut wanted, &desired.later, &self.facts);
        let path = api::below(
            scope,
            "/providers/Microsoft.Authorization/roleAssignments",
            api::AUTHORIZATION,
        );
        let principal = wanted["properties"]["principalId"].as_str().unwrap_or("");
        let path = format!("{path}&$filter=atScope() and principalId eq '{principal}'");
        let listed = client.list("list role assignments", tenant, &path).await?;
        let same = |found: &Value| {
            let at = found["properties"]["scope"].as_str();
            let at = at.and_then(|at| ResourceId::parse(at).ok());
            at.as_ref() == Some(scope) && diff::differences(&wanted, found).is_empty()
        };
        Ok(listed.into_iter().find(same))
    }

    /// The tenant whose token reaches a resource, if it exists.
    fn tenant(&self, client: &Client, realm: &Realm) -> Option<TenantId> {
        match realm {
            Realm::Installation => Some(client.home()),
            Realm::Tenant(name) => self.facts.tenant(name),
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

fn decide(
    factory: &str,
    desired: &Desired,
    live: Option<Value>,
    open: Vec<String>,
) -> Result<Action, CliError> {
    let Some(live) = live else {
        let body = desired.body.clone();
        return Ok(Action::Create { body, open });
    };
    if let Some(other) = owner(&live).filter(|owner| *owner != factory)
        && owner(&desired.body).is_some()
    {
        return Err(CliError::failed(
            format!(
                "{} {} belongs to the factory `{other}`",
                show::noun(desired.kind),
                desired.label
            ),
            format!(
                "rename it in this folder, or take it out of `{other}` and remove its tag `{FACTORY_TAG}`"
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

/// The factory that a resource says it came from.
fn owner(live: &Value) -> Option<&str> {
    let marks = ["/tags", "/properties/metadata"].map(|at| live.pointer(at)?.get(FACTORY_TAG));
    marks.into_iter().flatten().find_map(Value::as_str)
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
