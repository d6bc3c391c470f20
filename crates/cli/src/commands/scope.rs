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

/// A resource as a list showed it.
#[derive(Debug, Clone)]
pub struct Found {
    pub tenant: TenantId,
    pub body: Value,
}

impl Found {
    pub fn id(&self) -> Option<ResourceId> {
        id_of(&self.body)
    }

    fn located(&self) -> Option<Located> {
        let (tenant, id) = (self.tenant, self.id()?);
        Some(Located { tenant, id })
    }
}

/// The resources alone.
pub fn bodies(found: Vec<Found>) -> Vec<Value> {
    found.into_iter().map(|found| found.body).collect()
}

/// A tenant; one that cannot be looked at is called by its id.
#[derive(Debug, Clone)]
pub struct Tenant {
    pub id: TenantId,
    pub name: String,
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
pub const ENCRYPTION_SET: Kind = Kind {
    noun: "disk encryption set",
    rest: "/providers/Microsoft.Compute/diskEncryptionSets",
    version: api::COMPUTE_DISKS,
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
        let items = self.list(kind).await?;
        let named = |found: &Located| found.id.name().eq_ignore_ascii_case(written);
        only(kind.noun, written, &items, named)
    }

    /// Everything of a kind in the subscriptions in scope, and in the resource group if one was named.
    pub async fn list(&self, kind: Kind) -> Result<Vec<Found>, CliError> {
        let subscriptions = self.in_scope().await?;
        let operation = match kind.noun.strip_suffix('y') {
            Some(stem) => format!("list {stem}ies"),
            None => format!("list {}s", kind.noun),
        };
        let mut items = Vec::new();
        let mut refused = None;
        for subscription in &subscriptions {
            let at = ResourceId::subscription_scope(subscription.id);
            let path = api::below(&at, kind.rest, kind.version);
            let tenant = subscription.tenant;
            match self.client.list(&operation, tenant, &path).await {
                Ok(listed) => items.extend(listed.into_iter().map(|body| Found { tenant, body })),
                // Whoever sees one subscription need not see this in every other.
                Err(error @ CliError::Arm { .. }) if error.is_forbidden() => refused = Some(error),
                Err(error) => return Err(error),
            }
        }
        if let (Some(group), true) = (&self.scope.resource_group, kind.noun != GROUP.noun) {
            items.retain(|item| {
                let id = item.id();
                let named = id.as_ref().and_then(ResourceId::resource_group);
                named.is_some_and(|named| named.eq_ignore_ascii_case(group))
            });
        }
        match refused {
            Some(error) if items.is_empty() => Err(error),
            _ => Ok(items),
        }
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
        let items = self.definitions().await?;
        only("image definition", written, &items, |found| {
            let in_gallery = |gallery: &str| {
                let part = found.id.part("galleries");
                part.is_some_and(|part| part.eq_ignore_ascii_case(gallery))
            };
            found.id.name().eq_ignore_ascii_case(name) && gallery.is_none_or(in_gallery)
        })
    }

    /// Every image definition of every gallery in scope.
    pub async fn definitions(&self) -> Result<Vec<Found>, CliError> {
        let mut all = Vec::new();
        for gallery in self.list(GALLERY).await? {
            let (tenant, Some(id)) = (gallery.tenant, gallery.id()) else {
                continue;
            };
            let path = api::below(&id, "/images", api::COMPUTE_GALLERY);
            let listed = self.client.list("list image definitions", tenant, &path);
            all.extend(listed.await?.into_iter().map(|body| Found { tenant, body }));
        }
        Ok(all)
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
        if let Some(name) = &self.scope.resource_group {
            return self.find(GROUP, name).await;
        }
        let found: Vec<Located> = self
            .list(GROUP)
            .await?
            .iter()
            .filter_map(Found::located)
            .collect();
        match found.as_slice() {
            [one] => Ok(one.clone()),
            many => Err(CliError::failed(
                format!("there are {} resource groups", many.len()),
                format!("name one with `--resource-group`: {}", names(many)),
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

    /// The subscription that was named, or all that are visible.
    pub async fn in_scope(&self) -> Result<Vec<Subscription>, CliError> {
        let mut all = self.subscriptions().await?;
        let Some(wanted) = self.scope.subscription.as_deref() else {
            if all.is_empty() {
                return Err(none_visible());
            }
            return Ok(all);
        };
        let visible: Vec<String> = all
            .iter()
            .map(|known| format!("`{}`", known.name))
            .collect();
        all.retain(|known| {
            known.name.eq_ignore_ascii_case(wanted)
                || known.id.to_string().eq_ignore_ascii_case(wanted)
        });
        match all.len() {
            0 if visible.is_empty() => Err(none_visible()),
            0 => Err(CliError::failed(
                format!("there is no subscription `{wanted}`"),
                format!("visible: {}", visible.join(", ")),
            )),
            1 => Ok(all),
            _ => Err(CliError::failed(
                format!("more than one subscription is called `{wanted}`"),
                "name it by its id",
            )),
        }
    }

    /// The profile's tenant, and those that it can see beside it.
    pub async fn tenants(&self) -> Result<Vec<Tenant>, CliError> {
        let home = self.client.home();
        let path = format!(
            "/providers/Bullion.Factory/tenants?api-version={}",
            api::BULLION
        );
        let mut tenants: Vec<Tenant> = match self.client.list("list tenants", home, &path).await {
            Ok(items) => items
                .iter()
                .take(TENANTS_MAX)
                .filter_map(tenant_of)
                .collect(),
            // An application of an ordinary tenant may not list tenants; its own is enough.
            Err(CliError::Arm { .. }) => Vec::new(),
            Err(error) => return Err(error),
        };
        if tenants.iter().all(|known| known.id != home) {
            let name = home.to_string();
            tenants.push(Tenant { id: home, name });
        }
        tenants.sort_by_key(|known| known.id);
        Ok(tenants)
    }

    /// Subscriptions of the profile's tenant and of every tenant that it can sign in to.
    pub async fn subscriptions(&self) -> Result<Vec<Subscription>, CliError> {
        let tenants = self.tenants().await?.into_iter().map(|known| known.id);
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
}

/// The one of a list that fits.
fn only(
    noun: &str,
    written: &str,
    items: &[Found],
    fits: impl Fn(&Located) -> bool,
) -> Result<Located, CliError> {
    let all: Vec<Located> = items.iter().filter_map(Found::located).collect();
    let found: Vec<&Located> = all.iter().filter(|located| fits(located)).collect();
    match found.as_slice() {
        [one] => Ok((*one).clone()),
        [] => Err(not_there(noun, written, &all)),
        many => Err(CliError::failed(
            format!("more than one {noun} is called `{written}`"),
            format!(
                "use `--subscription` or `--resource-group`, or one of the ids: {}",
                many.iter()
                    .map(|located| located.id.to_string())
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
        )),
    }
}

fn none_visible() -> CliError {
    CliError::failed(
        "no subscription is visible to this application",
        "`bullion apply` creates one from a factory folder; or sign in to the tenant that has one",
    )
}

fn not_there(noun: &str, written: &str, ids: &[Located]) -> CliError {
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

fn names(ids: &[Located]) -> String {
    let mut shown: Vec<String> = ids
        .iter()
        .take(NAMES_MAX)
        .map(|found| format!("`{}`", found.id.name()))
        .collect();
    if ids.len() > NAMES_MAX {
        shown.push("…".into());
    }
    shown.join(", ")
}

fn tenant_of(item: &Value) -> Option<Tenant> {
    Some(Tenant {
        id: item
            .pointer("/properties/tenantId")?
            .as_str()?
            .parse()
            .ok()?,
        name: item.get("name")?.as_str()?.to_owned(),
    })
}

pub fn id_of(item: &Value) -> Option<ResourceId> {
    ResourceId::parse(item.get("id")?.as_str()?).ok()
}
