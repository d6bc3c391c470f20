//! How many galleries, image definitions and image versions a subscription may have in a region, and how many role
//! assignments in all.
//!
//! Azure's numbers unless the operator sets others. A count is read from the catalog and then kept for a moment, so that
//! making many is not slowed by counting them; near the limit every request counts. Two servers, or two requests at one
//! moment, may together pass a limit by as many as there are of them.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use access::{Action, Permit, SystemReason};
use catalog::{Catalog, CatalogError};
use serde::Deserialize;
use wire::{ArmError, ErrorCode, Location, ResourceId, ResourceType, TenantId};

use crate::errors;
use crate::operation::Call;
use crate::resources::{galleries, images, roles, versions};
use crate::state::Server;

/// How long a count is believed while it is far from its limit.
const BELIEVED: Duration = Duration::from_secs(10);
/// Counts that are kept.
const KEPT_MAX: usize = 4096;

/// Each per subscription and region but for the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    pub galleries: u64,
    pub image_definitions: u64,
    pub image_versions: u64,
    /// Per subscription, at whatever scope in it.
    pub role_assignments: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            galleries: 100,
            image_definitions: 1_000,
            image_versions: 10_000,
            role_assignments: 4_000,
        }
    }
}

impl Limits {
    /// The types that are counted, how the usages name them, and how many there may be.
    pub fn all(&self) -> [(&'static str, &'static str, &'static str, u64); 3] {
        [
            (galleries::KIND, "galleries", "Galleries", self.galleries),
            (
                images::KIND,
                "galleryImages",
                "Gallery Image Definitions",
                self.image_definitions,
            ),
            (
                versions::KIND,
                "galleryImageVersions",
                "Gallery Image Versions",
                self.image_versions,
            ),
        ]
    }
}

#[derive(Clone, Copy, Debug)]
struct Counted {
    found: u64,
    at: Instant,
}

/// The limits and what was counted lately.
#[derive(Debug, Default)]
pub struct Room {
    pub limits: Limits,
    counted: Mutex<HashMap<String, Counted>>,
}

impl Room {
    pub fn new(limits: Limits) -> Room {
        Room {
            limits,
            counted: Mutex::default(),
        }
    }

    /// Counts one more where a count is known and leaves enough room.
    fn take(&self, key: &str, limit: u64) -> bool {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        match counted.get_mut(key) {
            Some(known) if known.at.elapsed() < BELIEVED && known.found < limit / 10 * 9 => {
                known.found += 1;
                true
            }
            _ => false,
        }
    }

    fn keep(&self, key: String, found: u64) {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        if counted.len() >= KEPT_MAX {
            counted.clear();
        }
        let at = Instant::now();
        counted.insert(key, Counted { found, at });
    }
}

/// Refuses one more of a type where the call's subscription has as many as it may in the location.
pub async fn need_room(
    server: &Server,
    call: &Call,
    kind: &str,
    location: &str,
) -> Result<(), ArmError> {
    let all = server.room.limits.all();
    let Some((kind, _, what, limit)) = all.into_iter().find(|(known, ..)| *known == kind) else {
        return Ok(());
    };
    let location = Location::new(location);
    let subscription = call
        .permit
        .scope()
        .part("subscriptions")
        .unwrap_or_default();
    let key = format!("{subscription} {kind} {}", location.folded()).to_lowercase();
    if server.room.take(&key, limit) {
        return Ok(());
    }
    let found = count(server, call, kind, Some(&location)).await?;
    server.room.keep(key, found + 1);
    if found < limit {
        return Ok(());
    }
    Err(full(what, limit, found, &location))
}

/// The same for what a job is about to write. What is there already needs no room, so that a step which is done again
/// after its write is not refused.
pub async fn need_room_for(
    catalog: &dyn Catalog,
    limits: &Limits,
    tenant: TenantId,
    id: &ResourceId,
    location: &Location,
) -> Result<(), ArmError> {
    let kind = id.resource_type();
    let all = limits.all().into_iter();
    let Some((kind, _, what, limit)) = all.into_iter().find(|(known, ..)| kind.is(known)) else {
        return Ok(());
    };
    let Some(subscription) = id.subscription() else {
        return Ok(());
    };
    let scope = ResourceId::subscription_scope(subscription);
    let read = |scope| {
        let action = Action::new(format!("{kind}/read"));
        Permit::system(SystemReason::Reconcile, action, scope, tenant)
    };
    let of = ResourceType::new(kind);
    let found = catalog.count(&read(scope), &of, Some(location)).await;
    let found = found.map_err(errors::catalog)?;
    if found < limit {
        return Ok(());
    }
    match catalog.get(&read(id.clone())).await {
        Ok(_) => Ok(()),
        Err(CatalogError::NotFound { .. }) => Err(full(what, limit, found, location)),
        Err(error) => Err(errors::catalog(error)),
    }
}

fn full(what: &str, limit: u64, found: u64, location: &Location) -> ArmError {
    ArmError::new(
        ErrorCode::OperationNotAllowed,
        format!(
            "Operation could not be completed as it results in exceeding the limit of {what} per \
             subscription and region. Location: {location}, Current Limit: {limit}, Current Usage: {found}, \
             Additional Required: 1."
        ),
    )
}

/// Refuses one more role assignment where the call's subscription has as many as it may.
pub async fn need_assignment_room(server: &Server, call: &Call) -> Result<(), ArmError> {
    let limit = server.room.limits.role_assignments;
    let Some(subscription) = call.permit.scope().subscription() else {
        return Ok(());
    };
    let key = format!("{subscription} {}", roles::ASSIGNMENT);
    if server.room.take(&key, limit) {
        return Ok(());
    }
    let found = count(server, call, roles::ASSIGNMENT, None).await?;
    server.room.keep(key, found + 1);
    if found < limit {
        return Ok(());
    }
    Err(ArmError::new(
        ErrorCode::RoleAssignmentLimitExceeded,
        "The role assignment limit is exceeded. No more role assignments can be created.",
    ))
}

/// How many of a type the call's subscription has, in one location or in all.
pub async fn count(
    server: &Server,
    call: &Call,
    kind: &str,
    location: Option<&Location>,
) -> Result<u64, ArmError> {
    let scope = call.permit.scope().subscription();
    let scope = scope.map(wire::ResourceId::subscription_scope);
    let permit = scope.and_then(|scope| call.permit.to_read_ancestor(&scope));
    let Some(permit) = permit else {
        return Ok(0);
    };
    let of = ResourceType::new(kind);
    let found = server.catalog.count(&permit, &of, location).await;
    found.map_err(errors::catalog)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_believed_only_far_from_its_limit() {
        let room = Room::new(Limits::default());
        assert!(!room.take("a", 100), "nothing is known");
        room.keep("a".into(), 88);
        assert!(room.take("a", 100));
        assert!(room.take("a", 100));
        assert!(!room.take("a", 100), "90 of 100 is near");
        assert!(!room.take("b", 100));
        assert!(!room.take("a", 5), "a small limit is always near");
    }
}
