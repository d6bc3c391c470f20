//! What is kept of the catalog between two looks: each tenant's policies and the versions of images. Thrown away when
//! the feed of changes says so, which is asked at every use: an answer is never older than the question.

use std::collections::HashMap;
use std::sync::Arc;

use access::{Action, Permit, SystemReason};
use catalog::{CHANGES_MAX, CatalogError, Change, Changes, PageRequest, Resource};
use tokio::sync::Mutex;
use wire::{ResourceId, ResourceType, TenantId};

use crate::built_in::{built_in_definitions, built_in_initiatives};
use crate::comply::Parts;
use crate::error::{ComplyError, Result};
use crate::image::Image;
use crate::kinds;
use crate::policies::{Policies, Stored};
use crate::unit::Document;
use crate::versions::{self, Versions};

/// Pages of one list: a million resources.
const PAGES_MAX: usize = 1000;
/// Image definitions whose versions are kept in memory.
const IMAGES_MAX: usize = 10_000;

#[derive(Default)]
pub(crate) struct Cache {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Everything up to this change is in what is kept; nothing is before the first look.
    position: Option<u64>,
    policies: HashMap<TenantId, Arc<Policies>>,
    /// Compiled documents of stored definitions, by tenant and folded id.
    documents: HashMap<(TenantId, String), Arc<Document>>,
    /// The same with all its versions, by the folded id of the definition.
    families: HashMap<(TenantId, String), Versions>,
    built_in: HashMap<String, Versions>,
    images: HashMap<String, Arc<Image>>,
}

impl Cache {
    /// The tenant's policies, as new as the newest change that was stored before the call.
    pub async fn policies(&self, parts: &Parts, tenant: TenantId) -> Result<Arc<Policies>> {
        let mut inner = self.inner.lock().await;
        inner.refresh(parts).await?;
        if let Some(policies) = inner.policies.get(&tenant) {
            return Ok(Arc::clone(policies));
        }
        let policies = Arc::new(inner.load(parts, tenant).await?);
        inner.policies.insert(tenant, Arc::clone(&policies));
        Ok(policies)
    }

    /// Forgets what changed since the last look.
    pub async fn refresh(&self, parts: &Parts) -> Result<()> {
        self.inner.lock().await.refresh(parts).await
    }

    /// The tenant's definitions and initiatives, built-in ones too, by folded id.
    pub async fn documents(
        &self,
        parts: &Parts,
        tenant: TenantId,
    ) -> Result<HashMap<String, Versions>> {
        self.policies(parts, tenant).await?;
        let inner = self.inner.lock().await;
        let own = inner.families.iter().filter(|((of, _), _)| *of == tenant);
        let own = own.map(|((_, id), versions)| (id.clone(), versions.clone()));
        let built_in = inner.built_in.iter();
        let built_in = built_in.map(|(id, versions)| (id.clone(), versions.clone()));
        Ok(own.chain(built_in).collect())
    }

    /// The versions of an image definition, as they were at the last [`Cache::policies`] or later. None where there is
    /// no such definition.
    pub async fn image(
        &self,
        parts: &Parts,
        definition: &ResourceId,
    ) -> Result<Option<Arc<Image>>> {
        let mut inner = self.inner.lock().await;
        if let Some(image) = inner.images.get(definition.folded()) {
            return Ok(Some(Arc::clone(image)));
        }
        let Some(image) = load_image(parts, definition).await? else {
            return Ok(None);
        };
        if inner.images.len() >= IMAGES_MAX {
            inner.images.clear();
        }
        let image = Arc::new(image);
        let key = definition.folded().to_owned();
        inner.images.insert(key, Arc::clone(&image));
        Ok(Some(image))
    }
}

impl Inner {
    async fn refresh(&mut self, parts: &Parts) -> Result<()> {
        const OPERATION: &str = "follow the changes of policies";
        let failed = || ComplyError::catalog(OPERATION);
        let mut position = match self.position {
            Some(position) => position,
            None => parts.feed.latest_change().await.map_err(failed())?,
        };
        loop {
            let changes = parts.feed.changes_after(position, CHANGES_MAX).await;
            match changes.map_err(failed())? {
                Changes::Lost { latest } => {
                    self.policies.clear();
                    self.images.clear();
                    position = latest;
                }
                Changes::Next(changes) => {
                    for change in &changes {
                        self.forget(change);
                        position = change.seq;
                    }
                    self.position = Some(position);
                    if changes.len() < CHANGES_MAX {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn forget(&mut self, change: &Change) {
        let kind = change.id.resource_type();
        if kinds::makes_policy(&change.id) {
            self.policies.remove(&change.tenant);
        }
        if kind.is(kinds::IMAGES) {
            self.images.remove(change.id.folded());
        }
        if kind.is(kinds::VERSIONS)
            && let Some(definition) = change.id.parent()
        {
            self.images.remove(definition.folded());
        }
    }

    async fn load(&mut self, parts: &Parts, tenant: TenantId) -> Result<Policies> {
        let all = async |kind: &str| list(parts, tenant, &ResourceId::root(), kind).await;
        let mut documents = all(kinds::DEFINITIONS).await?;
        documents.extend(all(kinds::SET_DEFINITIONS).await?);
        // After what they are versions of: the definition's own text wins over a version of the same number.
        documents.extend(all(kinds::DEFINITION_VERSIONS).await?);
        documents.extend(all(kinds::SET_DEFINITION_VERSIONS).await?);
        self.compile(tenant, &documents);
        let stored = Stored {
            assignments: all(kinds::ASSIGNMENTS).await?,
            exemptions: all(kinds::EXEMPTIONS).await?,
            attestations: all(kinds::ATTESTATIONS).await?,
            groups: all(kinds::MANAGEMENT_GROUPS).await?,
            subscriptions: all(kinds::SUBSCRIPTIONS).await?,
        };
        Ok(Policies::new(tenant, &stored, &|id, version| {
            self.find(tenant, id, version)
        }))
    }

    /// Compiles what is new or has changed, and forgets what is gone.
    fn compile(&mut self, tenant: TenantId, stored: &[Resource]) {
        if self.built_in.is_empty() {
            self.built_in = built_in();
        }
        let mut kept = HashMap::new();
        self.families.retain(|(of, _), _| *of != tenant);
        for resource in stored {
            let key = (tenant, resource.id.folded().to_owned());
            let home = definition_of(&resource.id);
            let mark = resource.etag.to_string();
            let known = self
                .documents
                .remove(&key)
                .filter(|known| known.mark == mark);
            let document = known.unwrap_or_else(|| {
                let shown = crate::subject::shown(resource);
                Arc::new(Document::new(&home.to_string(), &shown, mark))
            });
            let family = (tenant, home.folded().to_owned());
            let family = self.families.entry(family).or_default();
            family.add(Arc::clone(&document));
            kept.insert(key, document);
        }
        self.documents.retain(|(of, _), _| *of != tenant);
        self.documents.extend(kept);
    }

    fn find(
        &self,
        tenant: TenantId,
        id: &str,
        version: Option<&str>,
    ) -> std::result::Result<Arc<Document>, String> {
        let folded = id.trim_end_matches('/').to_lowercase();
        let built_in = self.built_in.get(&folded);
        let found = built_in.or_else(|| self.families.get(&(tenant, folded)));
        versions::choose(found, id, version)
    }
}

/// What a version is a version of; anything else is itself.
fn definition_of(id: &ResourceId) -> ResourceId {
    let kind = id.resource_type();
    let version = kind.is(kinds::DEFINITION_VERSIONS) || kind.is(kinds::SET_DEFINITION_VERSIONS);
    let home = version.then(|| id.parent()).flatten();
    home.unwrap_or_else(|| id.clone())
}

fn built_in() -> HashMap<String, Versions> {
    let all = built_in_definitions().iter().chain(built_in_initiatives());
    all.map(|document| {
        let id = document["id"].as_str().unwrap_or_default();
        let compiled = Document::new(id, document, "built in".to_owned());
        (id.to_lowercase(), Versions::alone(Arc::new(compiled)))
    })
    .collect()
}

async fn load_image(parts: &Parts, definition: &ResourceId) -> Result<Option<Image>> {
    const OPERATION: &str = "read an image's versions";
    let Some(subscription) = definition.subscription() else {
        return Ok(None);
    };
    // An image may be another tenant's; who made the machine was allowed to read it there.
    let owner = parts.auth.subscription_tenant(subscription).await;
    let Some(owner) = owner.map_err(ComplyError::catalog(OPERATION))? else {
        return Ok(None);
    };
    let permit = reading(definition, owner);
    let resource = match parts.catalog.get(&permit).await {
        Ok(resource) => resource,
        Err(CatalogError::NotFound { .. }) => return Ok(None),
        Err(source) => return Err(ComplyError::catalog(OPERATION)(source)),
    };
    let versions = list(parts, owner, definition, kinds::VERSIONS).await?;
    Ok(Some(Image::new(Some(&resource), &versions)))
}

/// Everything of a type at or below a scope.
pub(crate) async fn list(
    parts: &Parts,
    tenant: TenantId,
    scope: &ResourceId,
    kind: &str,
) -> Result<Vec<Resource>> {
    const OPERATION: &str = "list what policies need";
    let permit = reading(scope, tenant);
    let kind = ResourceType::new(kind);
    let mut found = Vec::new();
    let mut page = PageRequest::largest();
    for _ in 0..PAGES_MAX {
        let answer = parts.catalog.list(&permit, &kind, page).await;
        let answer = answer.map_err(ComplyError::catalog(OPERATION))?;
        found.extend(answer.resources);
        let Some(next) = answer.next else {
            return Ok(found);
        };
        page = PageRequest::largest().after(next);
    }
    let limit = found.len();
    Err(ComplyError::TooMany {
        what: "resources of one type that policies need",
        limit,
    })
}

/// Policies act for the tenant and not for a caller: what they are and what they look at is read as the system.
pub(crate) fn reading(scope: &ResourceId, tenant: TenantId) -> Permit {
    let action = Action::new(format!("{}/read", scope.resource_type()));
    Permit::system(SystemReason::Reconcile, action, scope.clone(), tenant)
}
