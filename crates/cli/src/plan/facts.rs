//! What the server has given to resources: ids that the folder refers to and cannot know.

use std::collections::HashMap;

use serde_json::Value;
use wire::{ResourceId, TenantId};

use crate::api;
use crate::client::Client;
use crate::error::CliError;
use crate::factory::body::{Desired, Known, Later, Realm};
use crate::factory::problem::{nearest, one_of};

/// Names that a hint lists.
const NAMES_MAX: usize = 20;

/// Properties of the resources that others refer to, as far as they are known.
#[derive(Debug, Default)]
pub struct Facts {
    properties: HashMap<(Realm, ResourceId), Value>,
    /// Ids of built-in policies, by what the folder calls them.
    built_in: HashMap<Later, String>,
}

impl Known for Facts {
    fn value(&self, later: &Later) -> Option<Value> {
        match later {
            Later::Property { realm, id, name } => {
                let properties = self.properties.get(&(realm.clone(), id.clone()))?;
                properties.get(*name).cloned()
            }
            Later::BuiltIn { .. } => self.built_in.get(later).cloned().map(Value::String),
        }
    }
}

impl Facts {
    /// Keeps what others may refer to.
    pub fn learn(
        &mut self,
        operation: &str,
        kind: &str,
        realm: &Realm,
        id: &ResourceId,
        live: &Value,
    ) -> Result<(), CliError> {
        let needed: &[&str] = match kind {
            "Tenant" => &["tenantId"],
            "Application" => &["appId", "principalId"],
            "ServicePrincipal" => &["principalId"],
            _ => return Ok(()),
        };
        for name in needed {
            let value = live["properties"][name].as_str();
            if value.is_none_or(|value| value.parse::<uuid::Uuid>().is_err()) {
                return Err(CliError::BadAnswer {
                    operation: operation.to_owned(),
                    why: format!("there is no `{name}`"),
                });
            }
        }
        let key = (realm.clone(), id.clone());
        self.properties.insert(key, live["properties"].clone());
        Ok(())
    }

    /// The id of a tenant of the folder, if it exists.
    pub fn tenant(&self, name: &str) -> Option<TenantId> {
        let root = ResourceId::root();
        let id = root.extension("Bullion.Factory", "tenants", name).ok()?;
        let later = Later::Property {
            realm: Realm::Installation,
            id,
            name: "tenantId",
        };
        self.value(&later)?.as_str()?.parse().ok()
    }

    /// Finds the built-in policies that the folder names, before anything is planned.
    pub async fn look_up_built_ins(
        &mut self,
        client: &Client,
        wanted: &[Desired],
    ) -> Result<(), CliError> {
        let named: Vec<&Later> = wanted
            .iter()
            .flat_map(|desired| &desired.later)
            .map(|hole| &hole.from)
            .filter(|later| matches!(later, Later::BuiltIn { .. }))
            .collect();
        for (initiative, kind) in [(false, "policyDefinitions"), (true, "policySetDefinitions")] {
            let of_kind = |later: &&&Later| matches!(later, Later::BuiltIn { initiative: is, .. } if *is == initiative);
            let named: Vec<&&Later> = named.iter().filter(of_kind).collect();
            if named.is_empty() {
                continue;
            }
            let path = format!(
                "/providers/Microsoft.Authorization/{kind}?api-version={}",
                api::POLICY
            );
            let listed = client
                .list("list built-in policies", client.home(), &path)
                .await?;
            for later in named {
                let id = find(later, &listed)?;
                self.built_in.insert((*later).clone(), id);
            }
        }
        Ok(())
    }
}

fn find(later: &Later, listed: &[Value]) -> Result<String, CliError> {
    let Later::BuiltIn { name, .. } = later else {
        return Ok(String::new());
    };
    let called = |item: &'_ Value| {
        item["properties"]["displayName"]
            .as_str()
            .map(str::to_owned)
    };
    let fits = |item: &&Value| {
        called(item).is_some_and(|called| called.eq_ignore_ascii_case(name))
            || item["name"].as_str() == Some(name)
    };
    let found = listed
        .iter()
        .find(fits)
        .and_then(|item| item["id"].as_str());
    found.map(str::to_owned).ok_or_else(|| {
        let known: Vec<String> = listed.iter().filter_map(called).collect();
        let known = known.iter().map(String::as_str);
        let hint = match nearest(name, known.clone()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("the server brings {}", one_of(known.take(NAMES_MAX))),
        };
        CliError::failed(format!("there is no built-in policy `{name}`"), hint)
    })
}
