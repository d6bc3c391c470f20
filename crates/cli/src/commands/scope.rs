//! From a name to a resource id: which subscriptions are visible, and what in them is called so.

use serde_json::Value;
use wire::{ResourceId, SubscriptionId, TenantId};

use crate::api;
use crate::args::Scope;
use crate::client::Client;
use crate::error::CliError;

/// Tenants that are looked through for subscriptions.
const TENANTS_MAX: usize = 100;

/// A resource and the tenant whose token reaches it.
#[derive(Debug, Clone)]
pub struct Located {
    pub tenant: TenantId,
    pub id: ResourceId,
}

#[derive(Debug, Clone)]
pub struct Subscription {
    pub tenant: TenantId,
    pub id: SubscriptionId,
    pub name: String,
}

/// A kind of resource that can be found by name in a subscription.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    pub noun: &'static str,
    pub rest: &'static str,
    pub version: &'static str,
}

pub const TEMPLATE: Kind = Kind {
    noun: "image template",
    rest: "/providers/Microsoft.VirtualMachineImages/imageTemplates",
    version: api::BULLION,
};
pub const VM: Kind = Kind {
    noun: "machine",
    rest: "/providers/Microsoft.Compute/virtualMachines",
    version: api::COMPUTE_VM,
};
pub const GALLERY: Kind = Kind {
    noun: "gallery",
    rest: "/providers/Microsoft.Compute/galleries",
    version: api::COMPUTE_GALLERY,
};
pub const GROUP: Kind = Kind {
    noun: "resource group",
    rest: "/resourceGroups",
    version: api::RESOURCES,
};
pub const RUN: Kind = Kind {
    noun: "run",
    rest: "/providers/Bullion.Factory/runs",
    version: api::BULLION,
};

pub struct Finder<'a> {
    client: &'a Client,
    scope: &'a Scope,
}

impl<'a> Finder<'a> {
    pub fn new(client: &'a Client, scope: &'a Scope) -> Finder<'a> {
        Finder { client, scope }
    }

    /// A resource by id or by name.
    pub async fn find(&self, kind: Kind, written: &str) -> Result<Located, CliError> {
        if written.starts_with('/') {
            return self.by_id(written).await;
        }
        let (tenant, items) = self.list(kind).await?;
        let found = items
            .iter()
            .filter_map(id_of)
            .filter(|id| id.name().eq_ignore_ascii_case(written));
        self.only(kind.noun, written, tenant, found.collect(), &items)
    }

    /// Everything of a kind in the subscription, or in the resource group if one was named.
    pub async fn list(&self, kind: Kind) -> Result<(TenantId, Vec<Value>), CliError> {
        let subscription = self.subscription().await?;
        let path = api::below(
            &ResourceId::subscription_scope(subscription.id),
            kind.rest,
            kind.version,
        );
        let operation = format!("list {}s", kind.noun);
        let mut items = self
            .client
            .list(&operation, subscription.tenant, &path)
            .await?;
        if let Some(group) = &self.scope.resource_group {
            items.retain(|item| {
                let id = id_of(item);
                let named = id.as_ref().and_then(ResourceId::resource_group);
                named.is_some_and(|named| named.eq_ignore_ascii_case(group))
            });
        }
        Ok((subscription.tenant, items))
    }

    /// `gallery/definition`, `definition` where it is unambiguous, or an id.
    pub async fn definition(&self, written: &str) -> Result<Located, CliError> {
        if written.starts_with('/') {
            return self.by_id(written).await;
        }
        let (gallery, name) = match written.split_once('/') {
            Some((gallery, name)) => (Some(gallery), name),
            None => (None, written),
        };
        let (tenant, items) = self.definitions().await?;
        let found = items.iter().filter_map(id_of).filter(|id| {
            let in_gallery = |gallery: &str| {
                id.part("galleries")
                    .is_some_and(|part| part.eq_ignore_ascii_case(gallery))
            };
            id.name().eq_ignore_ascii_case(name) && gallery.is_none_or(in_gallery)
        });
        self.only("image definition", written, tenant, found.collect(), &items)
    }

    /// Every image definition of every gallery in scope.
    pub async fn definitions(&self) -> Result<(TenantId, Vec<Value>), CliError> {
        let (tenant, galleries) = self.list(GALLERY).await?;
        let mut all = Vec::new();
        for gallery in galleries.iter().filter_map(id_of) {
            let path = api::below(&gallery, "/images", api::COMPUTE_GALLERY);
            all.extend(
                self.client
                    .list("list image definitions", tenant, &path)
                    .await?,
            );
        }
        Ok((tenant, all))
    }

    pub async fn runs_of(
        &self,
        tenant: TenantId,
        group: &ResourceId,
    ) -> Result<Vec<Value>, CliError> {
        let path = api::below(group, RUN.rest, RUN.version);
        self.client.list("list runs", tenant, &path).await
    }

    /// The resource group that was named, or the only one there is.
    pub async fn group(&self) -> Result<Located, CliError> {
        let (tenant, items) = self.list(GROUP).await?;
        let found: Vec<ResourceId> = items.iter().filter_map(id_of).collect();
        match (found.as_slice(), &self.scope.resource_group) {
            ([id], _) => Ok(Located {
                tenant,
                id: id.clone(),
            }),
            ([], Some(name)) => Err(not_there("resource group", name, &[])),
            (ids, _) => Err(CliError::failed(
                format!("there are {} resource groups", ids.len()),
                format!("name one with `--resource-group`: {}", names(ids)),
            )),
        }
    }

    /// Turns a full id into a located resource: its subscription's tenant is looked up.
    pub async fn by_id(&self, text: &str) -> Result<Located, CliError> {
        let id = ResourceId::parse(text)
            .map_err(|error| CliError::Usage(format!("`{text}`: {error}")))?;
        let tenant = match id.subscription() {
            None => self.client.home(),
            Some(subscription) => self.tenant_of(subscription).await?,
        };
        Ok(Located { tenant, id })
    }

    /// The tenant that owns a subscription; the profile's own where nothing better is known.
    pub async fn tenant_of(&self, subscription: SubscriptionId) -> Result<TenantId, CliError> {
        let all = self.subscriptions().await?;
        let found = all.iter().find(|known| known.id == subscription);
        Ok(found.map_or(self.client.home(), |known| known.tenant))
    }

    async fn subscription(&self) -> Result<Subscription, CliError> {
        let all = self.subscriptions().await?;
        let wanted = self.scope.subscription.as_deref();
        let found: Vec<&Subscription> = all
            .iter()
            .filter(|known| {
                wanted.is_none_or(|wanted| {
                    known.name.eq_ignore_ascii_case(wanted)
                        || known.id.to_string().eq_ignore_ascii_case(wanted)
                })
            })
            .collect();
        let listed = || {
            all.iter()
                .map(|known| format!("`{}`", known.name))
                .collect::<Vec<_>>()
                .join(", ")
        };
        match (found.as_slice(), wanted) {
            ([one], _) => Ok((*one).clone()),
            ([], _) if all.is_empty() => Err(CliError::failed(
                "no subscription is visible to this application",
                "`bullion apply` creates one from a factory folder; or sign in to the tenant that has one",
            )),
            ([], wanted) => Err(CliError::failed(
                format!("there is no subscription `{}`", wanted.unwrap_or("")),
                format!("visible: {}", listed()),
            )),
            _ => Err(CliError::failed(
                "more than one subscription is visible",
                format!("name one with `--subscription`: {}", listed()),
            )),
        }
    }

    /// Subscriptions of the profile's tenant and of every tenant that it can sign in to.
    pub async fn subscriptions(&self) -> Result<Vec<Subscription>, CliError> {
        let mut tenants = vec![self.client.home()];
        let path = format!(
            "/providers/Bullion.Factory/tenants?api-version={}",
            api::BULLION
        );
        match self
            .client
            .list("list tenants", self.client.home(), &path)
            .await
        {
            Ok(items) => tenants.extend(items.iter().take(TENANTS_MAX).filter_map(|item| {
                item.pointer("/properties/tenantId")?
                    .as_str()?
                    .parse::<TenantId>()
                    .ok()
            })),
            // An application of an ordinary tenant may not list tenants; its own is enough.
            Err(CliError::Arm { .. }) => {}
            Err(error) => return Err(error),
        }
        tenants.sort();
        tenants.dedup();
        let mut all = Vec::new();
        for tenant in tenants {
            let path = format!("/subscriptions?api-version={}", api::SUBSCRIPTIONS);
            match self.client.list("list subscriptions", tenant, &path).await {
                Ok(items) => all.extend(items.iter().filter_map(|item| {
                    Some(Subscription {
                        tenant,
                        id: item.get("subscriptionId")?.as_str()?.parse().ok()?,
                        name: item.get("displayName")?.as_str()?.to_owned(),
                    })
                })),
                Err(error @ (CliError::Arm { .. } | CliError::SignIn { .. })) => {
                    tracing::info!(%tenant, %error, "tenant left out");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    fn only(
        &self,
        noun: &str,
        written: &str,
        tenant: TenantId,
        found: Vec<ResourceId>,
        all: &[Value],
    ) -> Result<Located, CliError> {
        match found.as_slice() {
            [id] => Ok(Located {
                tenant,
                id: id.clone(),
            }),
            [] => {
                let ids: Vec<ResourceId> = all.iter().filter_map(id_of).collect();
                Err(not_there(noun, written, &ids))
            }
            ids => Err(CliError::failed(
                format!("more than one {noun} is called `{written}`"),
                format!(
                    "use `--resource-group`, or one of the ids: {}",
                    ids.iter()
                        .map(ResourceId::to_string)
                        .collect::<Vec<_>>()
                        .join(", ")
                ),
            )),
        }
    }
}

fn not_there(noun: &str, written: &str, ids: &[ResourceId]) -> CliError {
    let hint = match ids {
        [] => {
            let way = match noun {
                "machine" => "`bullion vm create` makes one",
                "run" => "`bullion build run` starts one",
                _ => "`bullion apply` creates what a factory folder says",
            };
            format!("there is no {noun} at all yet; {way}")
        }
        ids => format!("there are: {}", names(ids)),
    };
    CliError::failed(format!("there is no {noun} `{written}`"), hint)
}

/// Names shown in a hint.
const NAMES_MAX: usize = 10;

fn names(ids: &[ResourceId]) -> String {
    let mut shown: Vec<String> = ids
        .iter()
        .take(NAMES_MAX)
        .map(|id| format!("`{}`", id.name()))
        .collect();
    if ids.len() > NAMES_MAX {
        shown.push("…".into());
    }
    shown.join(", ")
}

pub fn id_of(item: &Value) -> Option<ResourceId> {
    ResourceId::parse(item.get("id")?.as_str()?).ok()
}
