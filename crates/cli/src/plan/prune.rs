//! What a former apply of this factory created and the folder no longer declares.
//!
//! Only resources that carry the factory's tag are ever deleted. Regions, tenants and
//! subscriptions hold other people's things and are left to the operator.

use std::collections::HashSet;

use serde_json::Value;
use wire::{ResourceId, TenantId};

use super::{Action, Plan, Planned};
use crate::api;
use crate::client::Client;
use crate::error::CliError;
use crate::factory::body::{Desired, FACTORY_TAG, Realm};

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
const VMS: &str = "/providers/Microsoft.Compute/virtualMachines";

/// Adds deletions after everything else, children before parents.
pub async fn add_deletions(
    client: &Client,
    plan: &mut Plan,
    wanted: &[Desired],
    absent: &HashSet<ResourceId>,
) -> Result<(), CliError> {
    let declared: HashSet<&ResourceId> = wanted.iter().map(|desired| &desired.id).collect();
    for subscription in wanted
        .iter()
        .filter(|desired| desired.kind == "Subscription")
    {
        let Realm::Tenant(_) = &subscription.realm else {
            continue;
        };
        let Some(tenant) = plan.tenant(client, &subscription.realm) else {
            continue;
        };
        if absent.contains(&subscription.id) {
            continue;
        }
        let finder = Finder {
            client,
            tenant,
            factory: &plan.factory,
            declared: &declared,
        };
        let found = finder.find(&subscription.id).await?;
        plan.items
            .extend(found.into_iter().map(|(kind, id, blocked)| Planned {
                kind,
                label: label(&id),
                id,
                realm: subscription.realm.clone(),
                action: Action::Delete { blocked },
            }));
    }
    Ok(())
}

struct Finder<'a> {
    client: &'a Client,
    tenant: TenantId,
    factory: &'a str,
    declared: &'a HashSet<&'a ResourceId>,
}

type Found = (&'static str, ResourceId, Option<String>);

impl Finder<'_> {
    async fn find(&self, subscription: &ResourceId) -> Result<Vec<Found>, CliError> {
        let mut found = Vec::new();
        let mut all = Vec::new();
        for listing in IN_SUBSCRIPTION {
            let path = api::below(subscription, listing.rest, listing.version);
            let items = self
                .client
                .list("list what exists", self.tenant, &path)
                .await?;
            for item in &items {
                let Some(id) = id_of(item) else { continue };
                all.push(id.clone());
                if listing.kind == "Gallery" {
                    self.definitions(&id, &mut all, &mut found).await?;
                }
                if self.is_ours(item) && !self.declared.contains(&id) {
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
            if !self.is_ours(&item) || self.declared.contains(&id) {
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
        let tag = item.get("tags").and_then(|tags| tags.get(FACTORY_TAG));
        tag.and_then(Value::as_str) == Some(self.factory)
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
        *blocked = kept.map(|kept| format!("it holds {}, which stays", label(kept)));
    }
}

fn id_of(item: &Value) -> Option<ResourceId> {
    ResourceId::parse(item.get("id")?.as_str()?).ok()
}

/// `images/golden/debian-12` of an id in a resource group.
fn label(id: &ResourceId) -> String {
    let text = id.to_string();
    let names: Vec<&str> = text.split('/').skip(2).step_by(2).skip(1).collect();
    names
        .into_iter()
        .filter(|name| !name.starts_with("Microsoft."))
        .collect::<Vec<_>>()
        .join("/")
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}
