//! What a former apply of this factory created and the folder no longer declares.
//!
//! Only what is marked as the factory's is ever deleted: by its tag, by the same word in a policy's metadata, or, of a
//! role assignment, by a name that follows from the factory and what the assignment says. Regions, tenants and
//! subscriptions hold other people's things and are left to the operator.

use std::collections::{BTreeMap, HashSet};

use serde_json::Value;
use wire::{ResourceId, TenantId};

use super::{Action, Plan, Planned, owner};
use crate::api;
use crate::client::Client;
use crate::error::CliError;
use crate::factory::body::{Address, Realm, assignment_name};
use crate::factory::kinds_in_order;

/// Where resources of one kind are listed from.
struct Listing {
    kind: &'static str,
    rest: &'static str,
    version: &'static str,
}

const IN_SUBSCRIPTION: &[Listing] = &[
    Listing {
        kind: "ImageTemplate",
        rest: "/providers/Microsoft.VirtualMachineImages/imageTemplates",
        version: api::BULLION,
    },
    Listing {
        kind: "Pipeline",
        rest: "/providers/Bullion.Factory/pipelines",
        version: api::BULLION,
    },
    Listing {
        kind: "Gallery",
        rest: "/providers/Microsoft.Compute/galleries",
        version: api::COMPUTE_GALLERY,
    },
    Listing {
        kind: "ResourceGroup",
        rest: "/resourceGroups",
        version: api::RESOURCES,
    },
];
/// What is not tagged, but names the factory in its metadata.
const POLICIES: &[Listing] = &[
    Listing {
        kind: "PolicyAssignment",
        rest: "/providers/Microsoft.Authorization/policyAssignments",
        version: api::POLICY,
    },
    Listing {
        kind: "PolicyDefinition",
        rest: "/providers/Microsoft.Authorization/policyDefinitions",
        version: api::POLICY,
    },
];
const IN_TENANT: &[Listing] = &[
    Listing {
        kind: "Application",
        rest: "/providers/Bullion.Factory/applications",
        version: api::BULLION,
    },
    Listing {
        kind: "ServicePrincipal",
        rest: "/providers/Bullion.Factory/servicePrincipals",
        version: api::BULLION,
    },
    Listing {
        kind: "RoleAssignment",
        rest: "/providers/Microsoft.Authorization/roleAssignments",
        version: api::AUTHORIZATION,
    },
];
const VMS: &str = "/providers/Microsoft.Compute/virtualMachines";

/// Adds deletions after everything else, children before parents.
pub async fn add_deletions(
    client: &Client,
    plan: &mut Plan,
    absent: &HashSet<ResourceId>,
) -> Result<(), CliError> {
    let declared: HashSet<(Realm, ResourceId)> = plan
        .items
        .iter()
        .filter_map(|item| Some((item.realm.clone(), item.id.clone()?)))
        .collect();
    let mut deletions = Vec::new();
    for item in &plan.items {
        let realm = match item.kind {
            "Tenant" => Realm::Tenant(item.label.clone()),
            "Subscription" => item.realm.clone(),
            _ => continue,
        };
        let (Some(id), Some(tenant)) = (&item.id, plan.tenant(client, &realm)) else {
            continue;
        };
        if absent.contains(id) {
            continue;
        }
        let finder = Finder {
            client,
            tenant,
            realm: &realm,
            factory: &plan.factory,
            declared: &declared,
        };
        let found = match item.kind {
            "Tenant" => finder.in_tenant().await?,
            _ => {
                let mut found = finder.find(id).await?;
                found.extend(finder.policies(id).await?);
                found
            }
        };
        deletions.extend(found.into_iter().map(|found| Planned {
            kind: found.kind,
            label: found.label,
            address: Address::Known(found.id.clone()),
            id: Some(found.id),
            realm: realm.clone(),
            action: Action::Delete {
                blocked: found.blocked,
            },
            later: Vec::new(),
        }));
    }
    let order: BTreeMap<&str, usize> = kinds_in_order().zip(0..).collect();
    deletions.sort_by_key(|item| std::cmp::Reverse(order.get(item.kind).copied()));
    plan.items.extend(deletions);
    Ok(())
}

struct Finder<'a> {
    client: &'a Client,
    tenant: TenantId,
    realm: &'a Realm,
    factory: &'a str,
    declared: &'a HashSet<(Realm, ResourceId)>,
}

/// What is to go.
struct Found {
    kind: &'static str,
    label: String,
    id: ResourceId,
    /// Why it cannot go now.
    blocked: Option<String>,
}

impl Found {
    fn new(kind: &'static str, label: String, id: ResourceId) -> Found {
        Found {
            kind,
            label,
            id,
            blocked: None,
        }
    }
}

impl Finder<'_> {
    /// Applications, consents and roles, which are a tenant's.
    async fn in_tenant(&self) -> Result<Vec<Found>, CliError> {
        let mut found = Vec::new();
        for listing in IN_TENANT {
            let path = api::below(&ResourceId::root(), listing.rest, listing.version);
            for item in self.list(&path).await? {
                let Some(id) = id_of(&item) else { continue };
                let (ours, label) = match listing.kind {
                    "RoleAssignment" => (self.made(&item), self.what_assigned(&item)),
                    _ => (self.is_ours(&item), self.in_tenant_of(&id)),
                };
                if ours && !self.is_declared(&id) {
                    found.push(Found::new(listing.kind, label, id));
                }
            }
        }
        Ok(found)
    }

    /// Policies kept or assigned in the subscription; what a list shows from above or brings itself is not in it.
    async fn policies(&self, subscription: &ResourceId) -> Result<Vec<Found>, CliError> {
        let mut found = Vec::new();
        for listing in POLICIES {
            let path = api::below(subscription, listing.rest, listing.version);
            for item in self.list(&path).await? {
                let Some(id) = id_of(&item) else { continue };
                let here = id.is_within(subscription) && self.is_ours(&item);
                if here && !self.is_declared(&id) {
                    found.push(Found::new(listing.kind, id.name().to_owned(), id));
                }
            }
        }
        Ok(found)
    }

    fn in_tenant_of(&self, id: &ResourceId) -> String {
        match self.realm {
            Realm::Tenant(tenant) => format!("{tenant}/{}", id.name()),
            Realm::Installation => id.name().to_owned(),
        }
    }

    /// `Reader at images/golden`: the server's name of an assignment says nothing to people.
    fn what_assigned(&self, item: &Value) -> String {
        let guid = role_of(item);
        let role = wire::roles::ALL.iter().find(|role| role.guid == guid);
        let scope = item["properties"]["scope"].as_str().unwrap_or("");
        let scope = ResourceId::parse(scope).unwrap_or_else(|_| ResourceId::root());
        let at = match (path_of(&scope), self.realm) {
            (path, _) if !path.is_empty() => path,
            (_, Realm::Tenant(tenant)) if scope.is_root() => tenant.clone(),
            _ => scope.to_string(),
        };
        format!("{} at {at}", role.map_or(guid.as_str(), |role| role.name))
    }

    async fn list(&self, path: &str) -> Result<Vec<Value>, CliError> {
        self.client
            .list("list what exists", self.tenant, path)
            .await
    }

    fn is_declared(&self, id: &ResourceId) -> bool {
        self.declared.contains(&(self.realm.clone(), id.clone()))
    }

    /// Whether an assignment bears the name that this factory would give it.
    fn made(&self, item: &Value) -> bool {
        let text = |key: &str| item["properties"][key].as_str().unwrap_or("");
        let Ok(scope) = ResourceId::parse(text("scope")) else {
            return false;
        };
        let name = assignment_name(self.factory, &scope, &role_of(item), text("principalId"));
        item["name"].as_str() == Some(name.as_str())
    }

    async fn find(&self, subscription: &ResourceId) -> Result<Vec<Found>, CliError> {
        let mut found = Vec::new();
        let mut all = Vec::new();
        for listing in IN_SUBSCRIPTION {
            let path = api::below(subscription, listing.rest, listing.version);
            let items = self.list(&path).await?;
            for item in &items {
                let Some(id) = id_of(item) else { continue };
                all.push(id.clone());
                if listing.kind == "Gallery" {
                    self.definitions(&id, &mut all, &mut found).await?;
                }
                if self.is_ours(item) && !self.is_declared(&id) {
                    found.push(Found::new(listing.kind, path_of(&id), id));
                }
            }
        }
        let path = api::below(subscription, VMS, api::COMPUTE_VM);
        let vms = self
            .client
            .list("list machines", self.tenant, &path)
            .await?;
        all.extend(vms.iter().filter_map(id_of));
        block_what_holds_others(&mut found, &all);
        Ok(found)
    }

    async fn definitions(
        &self,
        gallery: &ResourceId,
        all: &mut Vec<ResourceId>,
        found: &mut Vec<Found>,
    ) -> Result<(), CliError> {
        let path = api::below(gallery, "/images", api::COMPUTE_GALLERY);
        for item in self
            .client
            .list("list image definitions", self.tenant, &path)
            .await?
        {
            let Some(id) = id_of(&item) else { continue };
            all.push(id.clone());
            if !self.is_ours(&item) || self.is_declared(&id) {
                continue;
            }
            let path = api::below(&id, "/versions", api::COMPUTE_GALLERY);
            let versions = self
                .client
                .list("list image versions", self.tenant, &path)
                .await?;
            let blocked = (!versions.is_empty()).then(|| {
                format!(
                    "it has {} version{}; delete them first",
                    versions.len(),
                    plural(versions.len())
                )
            });
            found.push(Found {
                blocked,
                ..Found::new("ImageDefinition", path_of(&id), id)
            });
        }
        Ok(())
    }

    fn is_ours(&self, item: &Value) -> bool {
        owner(item) == Some(self.factory)
    }
}

/// Deleting a group or gallery deletes what is in it, so one that keeps something stays.
fn block_what_holds_others(found: &mut [Found], all: &[ResourceId]) {
    let going: HashSet<ResourceId> = found
        .iter()
        .filter(|found| found.blocked.is_none())
        .map(|found| found.id.clone())
        .collect();
    for found in found.iter_mut().filter(|found| found.blocked.is_none()) {
        let stays = |other: &&ResourceId| {
            **other != found.id && other.is_within(&found.id) && !going.contains(*other)
        };
        let kept = all.iter().find(stays);
        found.blocked = kept.map(|kept| format!("it holds {}, which stays", path_of(kept)));
    }
}

fn id_of(item: &Value) -> Option<ResourceId> {
    ResourceId::parse(item.get("id")?.as_str()?).ok()
}

/// The GUID of the role that an assignment gives.
fn role_of(item: &Value) -> String {
    let id = item["properties"]["roleDefinitionId"]
        .as_str()
        .unwrap_or("");
    id.rsplit('/').next().unwrap_or("").to_lowercase()
}

/// `images/golden/debian-12` of an id in a resource group.
fn path_of(id: &ResourceId) -> String {
    let text = id.to_string();
    let names: Vec<&str> = text.split('/').skip(2).step_by(2).skip(1).collect();
    names
        .into_iter()
        .filter(|name| !name.starts_with("Microsoft.") && !name.starts_with("Bullion."))
        .collect::<Vec<_>>()
        .join("/")
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}
