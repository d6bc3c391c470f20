//! Rows as they are stored, and the way from a row to a domain type and back.
//!
//! What cannot be read back is `Corrupt`, named by column: never a default.

use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::FromRow;
use wire::{ResourceId, ResourceType, VersionNumber};

use crate::error::{CatalogError, Result};
use crate::resource::{Etag, Resource, SystemData};

pub(super) const VERSIONS: &str = "Microsoft.Compute/galleries/images/versions";

/// A row of `resources`.
#[derive(FromRow)]
pub(super) struct ResourceRow {
    pub row: i64,
    tenant: String,
    id: String,
    pub id_key: String,
    pub sort_key: String,
    location: Option<String>,
    tags: String,
    properties: String,
    extra: String,
    state: String,
    etag: String,
    created_at: i64,
    created_by: String,
    changed_at: i64,
    changed_by: String,
}

impl ResourceRow {
    pub fn etag(&self) -> Etag {
        Etag::stored(self.etag.clone())
    }

    pub fn into_resource(self) -> Result<Resource> {
        let id: ResourceId = parsed("resources.id", &self.id)?;
        // Checked on write by construction and again here: a folding that changed would split the namespace.
        if id.folded() != self.id_key {
            return Err(corrupt("resources.id_key", &self.id_key));
        }
        Ok(Resource {
            id,
            tenant: parsed("resources.tenant", &self.tenant)?,
            location: self.location,
            tags: from_json("resources.tags", &self.tags)?,
            properties: from_json("resources.properties", &self.properties)?,
            extra: from_json("resources.extra", &self.extra)?,
            state: parsed("resources.state", &self.state)?,
            etag: Etag::stored(self.etag),
            system: SystemData {
                created_at: time(self.created_at),
                created_by: self.created_by,
                changed_at: time(self.changed_at),
                changed_by: self.changed_by,
            },
        })
    }
}

/// Text whose byte order is the order of lists: the id, with a version's number in fixed width.
pub(super) fn sort_key(id: &ResourceId) -> String {
    if !id.resource_type().is(VERSIONS) {
        return id.folded().to_owned();
    }
    match (id.parent(), id.name().parse::<VersionNumber>()) {
        (Some(parent), Ok(number)) => format!("{}/versions/{}", parent.folded(), number.sort_key()),
        _ => id.folded().to_owned(),
    }
}

/// Sits on a resource, or says who may do what, and so goes with what it sits on.
pub(super) fn is_attached(id: &ResourceId) -> bool {
    id.resource_type()
        .namespace()
        .eq_ignore_ascii_case("Microsoft.Authorization")
        || id.folded().matches("/providers/").count() > 1
}

/// The text that everything below a scope starts with, up to the slash; empty for the root.
pub(super) fn prefix(scope: &ResourceId) -> &str {
    if scope.is_root() { "" } else { scope.folded() }
}

/// Where ids of a type at or below a scope lie among the sort keys: from the first text up to before the second.
pub(super) fn sort_range(scope: &ResourceId, of: &ResourceType) -> (String, String) {
    // A version sorts beside its own id, not below it, so its siblings' range is the tightest that holds it.
    let parent = if of.is(VERSIONS) && scope.resource_type().is(VERSIONS) {
        scope.parent()
    } else {
        None
    };
    let prefix = prefix(parent.as_ref().unwrap_or(scope));
    // '0' follows '/'.
    (prefix.to_owned(), format!("{prefix}0"))
}

/// The same for resources of an extension type that sit on the scope itself.
pub(super) fn sort_range_on(scope: &ResourceId, of: &ResourceType) -> (String, String) {
    let prefix = format!("{}/providers/{}/", prefix(scope), of.folded());
    let after = format!("{}0", prefix.trim_end_matches('/'));
    (prefix, after)
}

pub(super) fn micros(at: Timestamp) -> i64 {
    at.as_microsecond()
}

/// Reads a time back. Only times that [`micros`] gave are stored, so the edge is never met.
pub(super) fn time(micros: i64) -> Timestamp {
    Timestamp::from_microsecond(micros).unwrap_or(Timestamp::MAX)
}

pub(super) fn to_json<T: Serialize + ?Sized>(
    what: &'static str,
    value: &T,
    limit: usize,
) -> Result<String> {
    let text = serde_json::to_string(value).map_err(|error| CatalogError::Mismatch {
        why: format!("{what} cannot be written as JSON: {error}"),
    })?;
    if text.len() > limit {
        return Err(CatalogError::TooLarge { what, limit });
    }
    Ok(text)
}

pub(super) fn from_json<T: DeserializeOwned>(column: &'static str, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| corrupt(column, &error.to_string()))
}

pub(super) fn maybe_json<T: DeserializeOwned>(
    column: &'static str,
    text: Option<&str>,
) -> Result<Option<T>> {
    text.map(|text| from_json(column, text)).transpose()
}

pub(super) fn parsed<T: std::str::FromStr>(column: &'static str, text: &str) -> Result<T> {
    text.parse().map_err(|_| corrupt(column, text))
}

pub(super) fn corrupt(column: &'static str, found: &str) -> CatalogError {
    let shown: String = found.chars().take(80).collect();
    CatalogError::Corrupt {
        operation: "read a row",
        what: format!("{column}: {shown}"),
    }
}
