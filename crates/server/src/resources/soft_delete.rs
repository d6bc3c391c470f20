//! Soft delete: in a gallery that asks for it, a deleted image version can be had back for a while.
//!
//! The version stays where it is, in state `Deleting` and with the moments at which it ends, so its disk stays in the
//! stores; what lists, shows or chooses versions passes it over. A machine may still be made from exactly this version
//! until `consumptionEndTime`. Then it waits, unusable, until the reconciler [`Purge`] removes it.

use std::collections::BTreeSet;
use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use access::{Action, Permit, SystemReason};
use async_trait::async_trait;
use catalog::{
    AuthStore, Catalog, CatalogError, ChangeFeed, Clock, Draft, Pages, Position, Precondition,
    Reading, Resource, Round, Stretch,
};
use factory::deploy::{CONSUMPTION_END, SOFT_DELETED};
use jiff::{SignedDuration, Timestamp, Unit};
use jobs::{Cancel, Reconciler};
use serde_json::{Map, Value, json};
use wire::{ArmError, Location, ProvisioningState, ResourceId, ResourceType, TenantId};

use super::{Reply, find, images, need, page_reply, page_request, versions};
use crate::operation::Call;
use crate::state::Server;
use crate::{body, errors};

pub const KIND: &str = "Microsoft.Compute/galleries/softDeletedArtifactTypes/artifacts/versions";
const ARTIFACTS: &str = "Images";
const POLICY: &str = "properties.softDeletePolicy";
/// Azure keeps soft-deleted versions for a week, and has no grace before api-version 2026-03-03.
const RETENTION_DAYS: i64 = 7;
const GRACE_DAYS: i64 = 0;
const DAYS_MAX: i64 = 365;
const ENABLED: &str = "/softDeletePolicy/isSoftDeleteEnabled";
const SOFT_DELETED_AT: &str = "softDeletedTime";
const HARD_DELETION: &str = "hardDeletionTargetTime";
const FACTS: &str = "bullion";
/// The reconciler's name and how often it looks.
const RECONCILER: &str = "purge-versions";
const PERIOD: Duration = Duration::from_secs(300);
/// Ends that are remembered.
const ENDS_MAX: usize = 10_000;

/// Checks the policy of a gallery's PUT. Answers whether it changes what is kept, which takes a right of its own.
pub fn settle_policy(
    old: Option<&Map<String, Value>>,
    new: &mut Map<String, Value>,
) -> Result<bool, ArmError> {
    let old = old.and_then(|old| old.get("softDeletePolicy"));
    let Some(policy) = new.get("softDeletePolicy") else {
        return Ok(false);
    };
    let Value::Object(given) = policy else {
        return Err(body::wrong_type(POLICY, "an object"));
    };
    match given.get("isSoftDeleteEnabled") {
        None | Some(Value::Null | Value::Bool(_)) => {}
        Some(_) => {
            let path = format!("{POLICY}.isSoftDeleteEnabled");
            return Err(body::wrong_type(&path, "true or false"));
        }
    }
    for (key, least) in [("retentionPeriodInDays", 1), ("gracePeriodInDays", 0)] {
        let value = given.get(key).filter(|value| !value.is_null());
        let fits = |value: &Value| {
            value
                .as_i64()
                .is_some_and(|days| (least..=DAYS_MAX).contains(&days))
        };
        if let Some(value) = value
            && !fits(value)
        {
            let path = format!("{POLICY}.{key}");
            return Err(errors::invalid(
                &path,
                format!(
                    "The value {value} of parameter {path} is out of range. The value must be between \
                     {least} and {DAYS_MAX}, inclusive."
                ),
            ));
        }
    }
    let on =
        |policy: Option<&Value>| policy.is_some_and(|policy| policy["isSoftDeleteEnabled"] == true);
    let same = old == Some(policy) || !on(old) && !on(Some(policy));
    Ok(!same)
}

/// A gallery, its definitions and their versions must be in one location to be soft-deleted.
pub async fn need_one_location(
    server: &Server,
    call: &Call,
    location: &str,
) -> Result<(), ArmError> {
    let location = Location::new(location);
    for kind in [images::KIND, versions::KIND] {
        for one in below(server, &call.permit.to_read_own(), kind).await? {
            let other = Location::new(one.location.clone().unwrap_or_default());
            if other != location {
                return Err(elsewhere(&one.id, &other, &location));
            }
        }
    }
    Ok(())
}

/// What is made in a gallery with soft delete must be in the gallery's location.
pub async fn need_gallery_location(
    server: &Server,
    call: &Call,
    location: &str,
) -> Result<(), ArmError> {
    let Some(gallery) = gallery(server, call).await? else {
        return Ok(());
    };
    let home = Location::new(gallery.location.clone().unwrap_or_default());
    let location = Location::new(location);
    if is_enabled(&gallery) && home != location {
        return Err(elsewhere(&call.id, &location, &home));
    }
    Ok(())
}

fn elsewhere(id: &ResourceId, location: &Location, home: &Location) -> ArmError {
    errors::conflict(format!(
        "Soft delete needs a gallery, its image definitions and their versions in one location: '{}' \
         is in '{location}', not in '{home}'.",
        id.name()
    ))
}

async fn below(server: &Server, permit: &Permit, kind: &str) -> Result<Vec<Resource>, ArmError> {
    let found = Pages::of(&*server.catalog, permit, kind).all().await;
    found.map_err(errors::catalog)
}

/// The gallery that the call's resource is in.
async fn gallery(server: &Server, call: &Call) -> Result<Option<Resource>, ArmError> {
    let mut above = call.permit.scope().parent();
    while let Some(scope) = above {
        if scope.resource_type().is(super::galleries::KIND) {
            let Some(permit) = call.permit.to_read_ancestor(&scope) else {
                return Ok(None);
            };
            return match server.catalog.get(&permit).await {
                Ok(gallery) => Ok(Some(gallery)),
                Err(CatalogError::NotFound { .. }) => Ok(None),
                Err(error) => Err(errors::catalog(error)),
            };
        }
        above = scope.parent();
    }
    Ok(None)
}

fn is_enabled(gallery: &Resource) -> bool {
    gallery.properties.pointer(ENABLED) == Some(&Value::Bool(true))
}

/// Whether the version was deleted and can be had back.
pub fn is_deleted(version: &Resource) -> bool {
    version.properties[FACTS].get(SOFT_DELETED).is_some()
}

/// Deletes a version so that it can be had back, where its gallery asks for that; `None` where it does not.
pub async fn delete(
    server: &Server,
    call: &Call,
    version: &Resource,
) -> Result<Option<Reply>, ArmError> {
    let Some(gallery) = gallery(server, call).await?.filter(is_enabled) else {
        return Ok(None);
    };
    if version.state != ProvisioningState::Succeeded {
        return Err(errors::conflict(format!(
            "The image version '{}' is in the state {} and cannot be soft-deleted. Disable soft delete of \
             the gallery '{}' first.",
            call.id.name(),
            version.state.as_str(),
            gallery.id.name()
        )));
    }
    let policy = &gallery.properties["softDeletePolicy"];
    let days = |key: &str, usual: i64| {
        let days = policy[key].as_i64().unwrap_or(usual).clamp(0, DAYS_MAX);
        SignedDuration::from_hours(24 * days)
    };
    let now = Timestamp::now();
    let now = now.round(Unit::Second).unwrap_or(now);
    let unusable = now + days("retentionPeriodInDays", RETENTION_DAYS);
    let gone = unusable + days("gracePeriodInDays", GRACE_DAYS);
    let etag = Precondition::Match(version.etag.clone());
    let mut draft = Draft::from_resource(version.clone()).state(ProvisioningState::Deleting);
    draft.properties[FACTS][SOFT_DELETED] = json!({
        SOFT_DELETED_AT: now.to_string(),
        CONSUMPTION_END: unusable.to_string(),
        HARD_DELETION: gone.to_string(),
    });
    call.preconditions.check(Some(version))?;
    let stored = server.catalog.put(&call.permit, draft, etag).await;
    stored.map_err(errors::catalog)?;
    Ok(Some(Reply::new(http::StatusCode::OK, None)))
}

/// The draft of a soft-deleted version that a PUT brings back. A PUT that would make it anew is refused.
pub fn restored(old: &Resource, body: &Value) -> Result<Draft, ArmError> {
    let asked = body.pointer("/properties/restore") == Some(&Value::Bool(true));
    if !asked && !versions::sources(body).is_empty() {
        return Err(errors::conflict(format!(
            "The image version '{}' is soft-deleted. Restore it, or delete it for good, before a version \
             of this name is made.",
            old.id.name()
        )));
    }
    let mut draft = Draft::from_resource(old.clone()).state(ProvisioningState::Succeeded);
    if let Some(facts) = draft.properties[FACTS].as_object_mut() {
        facts.remove(SOFT_DELETED);
    }
    Ok(draft)
}

/// The version that a path below `softDeletedArtifactTypes` means, or the definition of a collection. A path of other
/// artifacts means itself, which is nothing.
pub fn meant(id: &ResourceId) -> Option<ResourceId> {
    let images = id
        .part("softDeletedArtifactTypes")
        .is_some_and(|kind| kind.eq_ignore_ascii_case(ARTIFACTS));
    if !images {
        return Some(id.clone());
    }
    let version = id.part("versions");
    let mut above = id.parent()?;
    if version.is_some() {
        above = above.parent()?;
    }
    let gallery = above.parent()?;
    let definition = gallery.child("images", id.part("artifacts")?).ok()?;
    match version {
        Some(version) => definition.child("versions", version).ok(),
        None => Some(definition),
    }
}

fn shown(version: &Resource) -> Option<Value> {
    let times = version.properties[FACTS].get(SOFT_DELETED)?;
    let definition = version.id.parent()?;
    let gallery = definition.parent()?;
    Some(json!({
        "id": format!(
            "{gallery}/softDeletedArtifactTypes/{ARTIFACTS}/artifacts/{}/versions/{}",
            definition.name(),
            version.id.name()
        ),
        "name": version.id.name(),
        "type": KIND,
        "location": version.location,
        "tags": version.tags,
        "properties": {
            "resourceArmId": version.id.to_string(),
            "softDeletedArtifactType": ARTIFACTS,
            SOFT_DELETED_AT: times[SOFT_DELETED_AT],
            CONSUMPTION_END: times[CONSUMPTION_END],
            HARD_DELETION: times[HARD_DELETION],
        },
    }))
}

pub async fn all(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let of = ResourceType::new(versions::KIND);
    let page = server
        .catalog
        .list(&call.permit, &of, page_request(&call)?)
        .await
        .map_err(errors::catalog)?;
    let value: Vec<Value> = page.resources.iter().filter_map(shown).collect();
    Ok(page_reply(&call, value, page.next))
}

pub async fn get(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let version = need(&server, &call).await?;
    match shown(&version) {
        Some(shown) => Ok(Reply::ok(shown)),
        None => Err(errors::not_found(&call.id)),
    }
}

/// Deletes a soft-deleted version for good.
pub async fn remove(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    match find(&server, &call).await? {
        Some(version) if is_deleted(&version) => super::delete(&server, &call).await,
        _ => Ok(Reply::no_content()),
    }
}

/// Removes soft-deleted versions whose time has come.
pub struct Purge {
    parts: PurgeParts,
    progress: Mutex<Progress>,
}

/// What [`Purge`] works with.
pub struct PurgeParts {
    pub catalog: Arc<dyn Catalog>,
    pub feed: Arc<dyn ChangeFeed>,
    pub auth: Arc<dyn AuthStore>,
    pub clock: Arc<dyn Clock>,
}

/// What one pass leaves to the next.
#[derive(Debug, Clone, Default)]
struct Progress {
    position: Position,
    /// When those end that end first. What does not fit comes up again by and by.
    ends: BTreeSet<(Timestamp, TenantId, ResourceId)>,
}

impl Progress {
    /// Remembers when a version ends, if it does.
    fn saw(&mut self, version: &Resource) {
        if let Some(end) = end_of(version) {
            let version = (end, version.tenant, version.id.clone());
            self.ends.insert(version);
            if self.ends.len() > ENDS_MAX {
                self.ends.pop_last();
            }
        }
    }
}

#[async_trait]
impl Reconciler for Purge {
    fn name(&self) -> &'static str {
        RECONCILER
    }

    fn period(&self) -> Duration {
        PERIOD
    }

    async fn reconcile(&self, stop: &Cancel) -> Result<(), Box<dyn Error + Send + Sync>> {
        let known = self.progress().clone();
        let tenants = self.parts.auth.tenants().await?;
        let reading = Reading {
            catalog: &*self.parts.catalog,
            feed: &*self.parts.feed,
            kind: ResourceType::new(versions::KIND),
            tenants: tenants.iter().map(|tenant| tenant.tenant).collect(),
            permit: &reading,
            stretch: Stretch::default(),
        };
        let mut round = Round::begin(reading, known.position.clone()).await?;
        let mut progress = known;
        // They are read again: one that was restored ends no more.
        let now = self.parts.clock.now();
        while let Some(first) = progress.ends.first()
            && first.0 <= now
        {
            if let Some((_, tenant, id)) = progress.ends.pop_first() {
                round.also(tenant, id);
            }
        }
        while let Some(versions) = round.next().await? {
            for version in versions {
                if stop.is_raised() {
                    return Ok(());
                }
                match end_of(&version).is_some_and(|end| end <= now) {
                    true => self.purge(&version).await?,
                    false => progress.saw(&version),
                }
            }
        }
        progress.position = round.end();
        *self.progress() = progress;
        Ok(())
    }
}

fn reading(tenant: TenantId) -> Permit {
    let action = Action::new(versions::READ);
    Permit::system(SystemReason::Reconcile, action, ResourceId::root(), tenant)
}

/// When a soft-deleted version is gone for good.
fn end_of(version: &Resource) -> Option<Timestamp> {
    let end = version.properties[FACTS][SOFT_DELETED][HARD_DELETION].as_str();
    end.and_then(|end| end.parse().ok())
}

impl Purge {
    pub fn new(parts: PurgeParts) -> Purge {
        Purge {
            parts,
            progress: Mutex::default(),
        }
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn purge(&self, version: &Resource) -> Result<(), CatalogError> {
        let action = Action::new(format!("{}/delete", versions::KIND));
        let (id, tenant) = (version.id.clone(), version.tenant);
        let permit = Permit::system(SystemReason::Reconcile, action, id, tenant);
        // One that was restored meanwhile has another etag.
        let unmoved = Precondition::Match(version.etag.clone());
        match self.parts.catalog.delete(&permit, unmoved).await {
            Ok(_) => {
                tracing::info!(version = %version.id, "a soft-deleted version has ended");
                Ok(())
            }
            Err(CatalogError::NotFound { .. } | CatalogError::Precondition { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
