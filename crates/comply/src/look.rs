//! Looks up what rules may ask about a resource's surroundings, each thing once.

use std::collections::HashMap;
use std::sync::Arc;

use catalog::{CatalogError, Pages, Resource};
use jiff::Timestamp;
use policy::existence::RELATED_MAX;
use serde_json::{Value, json};
use wire::ResourceId;

use crate::aliases::MACHINE_IMAGE;
use crate::cache::{Cache, reading};
use crate::comply::Parts;
use crate::error::{ComplyError, Result};
use crate::image::{self, Image};
use crate::kinds;
use crate::policies::Policies;
use crate::subject::{self, Subject};
use crate::unit::{Existence, Needs, Unit};

/// Things of one kind that one look keeps.
const KEPT_MAX: usize = 10_000;

/// What was looked up for one piece of work. It is not kept beyond it.
pub(crate) struct Look<'a> {
    parts: &'a Parts,
    cache: &'a Cache,
    policies: Arc<Policies>,
    containers: HashMap<String, Option<Resource>>,
    images: HashMap<String, Option<Arc<Image>>>,
    related: HashMap<(String, String), Arc<Vec<Value>>>,
}

impl<'a> Look<'a> {
    pub fn new(parts: &'a Parts, cache: &'a Cache, policies: Arc<Policies>) -> Look<'a> {
        Look {
            parts,
            cache,
            policies,
            containers: HashMap::new(),
            images: HashMap::new(),
            related: HashMap::new(),
        }
    }

    /// A stored resource, ready to be judged by these units.
    pub async fn stored(&mut self, resource: &Resource, units: &[Arc<Unit>]) -> Result<Subject> {
        let value = subject::shown(resource);
        let mut found = self.subject(&resource.id, value, units).await?;
        found.created_at = Some(resource.system.created_at);
        for unit in units {
            for existence in unit.existences() {
                self.relate(&mut found, existence).await?;
            }
        }
        Ok(found)
    }

    /// A resource as a request proposes it. Existence is a question for afterwards.
    pub async fn subject(
        &mut self,
        id: &ResourceId,
        value: Value,
        units: &[Arc<Unit>],
    ) -> Result<Subject> {
        let needs = needs(units);
        let mut found = Subject {
            id: Some(id.clone()),
            hierarchy: self.policies.above(id).clone(),
            value,
            ..Subject::default()
        };
        found.request = json!({});
        if needs.subscription
            && let Some(scope) = id.subscription().map(ResourceId::subscription_scope)
        {
            let resource = self.container(&scope).await?;
            found.subscription = subject::subscription_context(&scope, resource);
        }
        if needs.group
            && let Some(scope) = id.group_scope()
        {
            let resource = self.container(&scope).await?;
            found.group = subject::group_context(&scope, resource);
        }
        if needs.image && id.resource_type().is(kinds::MACHINES) {
            let now = self.parts.clock.now();
            found.value[MACHINE_IMAGE] = self.image_facts(&found.value, now).await?;
        }
        Ok(found)
    }

    /// The computed aliases of a machine.
    pub async fn image_facts(&mut self, machine: &Value, now: Timestamp) -> Result<Value> {
        let Some(reference) = image::reference(machine) else {
            return Ok(json!({}));
        };
        let key = reference.definition.folded();
        if !self.images.contains_key(key) {
            if self.images.len() >= KEPT_MAX {
                self.images.clear();
            }
            let image = self.cache.image(self.parts, &reference.definition).await?;
            self.images.insert(key.to_owned(), image);
        }
        let image = self.images.get(key).and_then(Option::as_ref);
        let none = Image::default();
        Ok(image::facts(machine, image.map_or(&none, Arc::as_ref), now))
    }

    /// The images that were asked for, by folded id.
    pub fn images(&self) -> impl Iterator<Item = (&String, &Option<Arc<Image>>)> {
        self.images.iter()
    }

    async fn container(&mut self, id: &ResourceId) -> Result<Option<&Resource>> {
        if !self.containers.contains_key(id.folded()) {
            if self.containers.len() >= KEPT_MAX {
                self.containers.clear();
            }
            let found = get(self.parts, id, self.policies.tenant).await?;
            self.containers.insert(id.folded().to_owned(), found);
        }
        Ok(self.containers.get(id.folded()).and_then(Option::as_ref))
    }

    async fn relate(&mut self, subject: &mut Subject, existence: &Existence) -> Result<()> {
        let kind = existence.kind.to_ascii_lowercase();
        let Some(id) = subject.id.clone() else {
            return Ok(());
        };
        let scope = search_scope(&id, existence);
        let key = (scope.folded().to_owned(), kind.clone());
        if !self.related.contains_key(&key) {
            // Few at a time: each may hold thousands of resources.
            if self.related.len() >= RELATED_KEPT_MAX {
                self.related.clear();
            }
            let found = self.search(&scope, &kind).await?;
            self.related.insert(key.clone(), Arc::new(found));
        }
        if let Some(found) = self.related.get(&key) {
            let found = Arc::clone(found);
            subject.related.insert((kind, existence.wide), found);
        }
        Ok(())
    }

    /// One more than a search may look at, so that the engine sees that there are too many.
    async fn search(&self, scope: &ResourceId, kind: &str) -> Result<Vec<Value>> {
        const OPERATION: &str = "look for related resources";
        let permit = reading(scope, self.policies.tenant);
        let mut found: Vec<Value> = Vec::new();
        // Policies have a name of their own for resource groups.
        let kind = match kind.eq_ignore_ascii_case(kinds::RESOURCE_GROUPS) {
            true => kinds::OWN_RESOURCE_GROUPS,
            false => kind,
        };
        let mut pages = Pages::of(&*self.parts.catalog, &permit, kind);
        while found.len() <= RELATED_MAX
            && let Some(page) = pages
                .next()
                .await
                .map_err(ComplyError::catalog(OPERATION))?
        {
            found.extend(page.iter().map(subject::shown));
        }
        Ok(found)
    }
}

/// Lists of related resources that one look keeps.
const RELATED_KEPT_MAX: usize = 16;

/// Where a search begins; the engine leaves out what is not meant.
pub(crate) fn search_scope(id: &ResourceId, existence: &Existence) -> ResourceId {
    let kind = format!("{}/", kinds::of(id)).to_ascii_lowercase();
    let below = existence.kind.to_ascii_lowercase().starts_with(&kind);
    let subscription = id.subscription().map(ResourceId::subscription_scope);
    if below || id.resource_type().namespace() == "Microsoft.Resources" {
        return id.clone();
    }
    let group = id.group_scope().filter(|_| !existence.wide);
    group.or(subscription).unwrap_or_else(|| id.clone())
}

pub(crate) fn needs(units: &[Arc<Unit>]) -> Needs {
    units
        .iter()
        .fold(Needs::default(), |all, unit| all.and(unit.needs))
}

/// Those of the resources that are there.
pub(crate) async fn get_many(
    parts: &Parts,
    ids: &[ResourceId],
    tenant: wire::TenantId,
) -> Result<Vec<Resource>> {
    let permit = reading(&ResourceId::root(), tenant);
    let found = parts.catalog.get_many(&permit, ids).await;
    found.map_err(ComplyError::catalog("read what policies look at"))
}

/// The resource, or nothing where there is none.
pub(crate) async fn get(
    parts: &Parts,
    id: &ResourceId,
    tenant: wire::TenantId,
) -> Result<Option<Resource>> {
    match parts.catalog.get(&reading(id, tenant)).await {
        Ok(resource) => Ok(Some(resource)),
        Err(CatalogError::NotFound { .. }) => Ok(None),
        Err(source) => Err(ComplyError::catalog("read what policies look at")(source)),
    }
}
