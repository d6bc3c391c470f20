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
            _ => finder.find(id).await?,
        };
        deletions.extend(found.into_iter().map(|(kind, id, blocked)| Planned {
            kind,
            label: label(kind, &realm, &id),
            address: Address::Known(id.clone()),
            id: Some(id),
            realm: realm.clone(),
            action: Action::Delete { blocked },
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

type Found = (&'static str, ResourceId, Option<String>);

impl Finder<'_> {
    /// Applications, consents and roles, which are a tenant's.
    async fn in_tenant(&self) -> Result<Vec<Found>, CliError> {
        let mut found = Vec::new();
        for listing in IN_TENANT {
            let path = api::below(&ResourceId::root(), listing.rest, listing.version);
            let items = self.list(&path).await?;
            let ours = items.iter().filter(|item| match listing.kind {
                "RoleAssignment" => self.made(item),
                _ => self.is_ours(item),
            });
            found.extend(
                ours.filter_map(id_of)
                    .filter(|id| !self.is_declared(id))
                    .map(|id| (listing.kind, id, None)),
            );
        }
        Ok(found)
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
        let role = text("roleDefinitionId");
        let role = role.rsplit('/').next().unwrap_or("").to_lowercase();
        let name = assignment_name(self.factory, &scope, &role, text("principalId"));
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
                    found.push((listing.kind, id, None));
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
            found.push(("ImageDefinition", id, blocked));
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
        .filter(|(_, _, blocked)| blocked.is_none())
        .map(|(_, id, _)| id.clone())
        .collect();
    for (_, id, blocked) in found.iter_mut().filter(|(_, _, blocked)| blocked.is_none()) {
        let kept = all
            .iter()
            .find(|other| *other != id && other.is_within(id) && !going.contains(*other));
        *blocked = kept.map(|kept| format!("it holds {}, which stays", path_of(kept)));
    }
}

fn id_of(item: &Value) -> Option<ResourceId> {
    ResourceId::parse(item.get("id")?.as_str()?).ok()
}

/// As the folder would call it, as far as that can be told from an id.
fn label(kind: &str, realm: &Realm, id: &ResourceId) -> String {
    match (kind, realm) {
        ("Application" | "ServicePrincipal", Realm::Tenant(tenant)) => {
            format!("{tenant}/{}", id.name())
        }
        ("RoleAssignment", Realm::Tenant(tenant)) => {
            let scope = id.parent().map(|scope| path_of(&scope)).unwrap_or_default();
            let at = if scope.is_empty() { tenant } else { &scope };
            format!("{} at {at}", id.name())
        }
        ("PolicyDefinition" | "PolicyAssignment", _) => id.name().to_owned(),
        _ => path_of(id),
    }
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
