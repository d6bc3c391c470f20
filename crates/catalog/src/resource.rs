//! A resource as the catalog keeps it, and the [`Catalog`] through which it is read and written.
//!
//! Every operation takes a permit and acts at the permit's scope in the permit's tenant; there is no operation that
//! is told an id beside it. What a resource's body means is not known here.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use access::Permit;
use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use wire::{Location, ProvisioningState, ResourceId, ResourceType, TenantId};

use crate::auth::Record;
use crate::error::{CatalogError, Result};

/// Tags as Azure limits them.
pub const TAGS_MAX: usize = 50;
/// A body as stored: Azure Resource Manager's own limit for a request is 4 MB.
pub const BODY_BYTES_MAX: usize = 4 << 20;
/// Unique keys that one resource may hold.
pub const UNIQUE_KEYS_MAX: usize = 8;
/// The most that one page of a list holds.
pub const PAGE_MAX: usize = 1000;
/// Resources that one read names.
pub const GET_MANY_MAX: usize = 1000;

/// Resources, read and written under permits.
#[async_trait]
pub trait Catalog: Send + Sync {
    /// The resource at the permit's scope.
    async fn get(&self, permit: &Permit) -> Result<Resource>;
    /// Those of the resources that are there, at or below the permit's scope, in the order of their ids. At most
    /// [`GET_MANY_MAX`] at once.
    async fn get_many(&self, permit: &Permit, ids: &[ResourceId]) -> Result<Vec<Resource>>;
    /// Creates or replaces the resource at the permit's scope, with its unique keys and its record, in one
    /// transaction. The parent must exist.
    async fn put(&self, permit: &Permit, draft: Draft, precondition: Precondition) -> Result<Put>;
    /// Removes the resource at the permit's scope; refused while something is below it. Extension resources on it
    /// (role assignments) go with it.
    async fn delete(&self, permit: &Permit, precondition: Precondition) -> Result<Resource>;
    /// Removes the resource at the permit's scope and everything below it. Answers what was removed, deepest last.
    async fn delete_tree(
        &self,
        permit: &Permit,
        precondition: Precondition,
    ) -> Result<Vec<ResourceId>>;
    /// Resources of a type at or below the permit's scope, in their useful order: versions by number, others by id.
    async fn list(&self, permit: &Permit, of: &ResourceType, page: PageRequest) -> Result<Page>;
    /// The same resources in the same order, and of their properties nothing but the members at these places
    /// (`storageProfile.imageReference.id`): for whoever looks at many and needs little of each.
    async fn list_members(
        &self,
        permit: &Permit,
        of: &ResourceType,
        members: &[&str],
        page: PageRequest,
    ) -> Result<MembersPage>;
    /// Everything directly or indirectly below the permit's scope, whatever its type, by id.
    async fn list_below(&self, permit: &Permit, page: PageRequest) -> Result<Page>;
    /// How many resources of a type are at or below the permit's scope in a location, which compares without case and
    /// blanks. Whatever of a list the permit shows, all are counted.
    async fn count(
        &self,
        permit: &Permit,
        of: &ResourceType,
        location: Option<&Location>,
    ) -> Result<u64>;
    /// Something other than an extension resource is below the permit's scope.
    async fn has_children(&self, permit: &Permit) -> Result<bool>;
}

/// One stored resource.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Resource {
    pub id: ResourceId,
    pub tenant: TenantId,
    pub location: Option<String>,
    pub tags: BTreeMap<String, String>,
    pub properties: Value,
    /// Top-level members other than id, name, type, location, tags and properties: identity, sku, plan, zones.
    pub extra: Map<String, Value>,
    pub state: ProvisioningState,
    pub etag: Etag,
    pub system: SystemData,
}

/// Who made a resource and who changed it last, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SystemData {
    pub created_at: Timestamp,
    /// A principal's id, or `system/<reason>`.
    pub created_by: String,
    pub changed_at: Timestamp,
    pub changed_by: String,
}

/// What to store at the permit's scope. The id itself is the permit's.
#[derive(Clone, Debug)]
pub struct Draft {
    pub location: Option<String>,
    pub tags: BTreeMap<String, String>,
    pub properties: Value,
    pub extra: Map<String, Value>,
    pub state: ProvisioningState,
    /// Names that no other resource may hold at the same time.
    pub unique: Vec<UniqueKey>,
    /// The row in a table of its own that sign-in and authorisation read.
    pub record: Record,
}

impl Draft {
    pub fn new(properties: Value) -> Draft {
        Draft {
            location: None,
            tags: BTreeMap::new(),
            properties,
            extra: Map::new(),
            state: ProvisioningState::Succeeded,
            unique: Vec::new(),
            record: Record::Plain,
        }
    }

    /// The same resource again, for a change of some of its fields. Unique keys and the record that a resource
    /// already holds are kept by a put that names none.
    pub fn from_resource(resource: Resource) -> Draft {
        Draft {
            location: resource.location,
            tags: resource.tags,
            properties: resource.properties,
            extra: resource.extra,
            state: resource.state,
            unique: Vec::new(),
            record: Record::Plain,
        }
    }

    pub fn location(mut self, location: impl Into<String>) -> Draft {
        self.location = Some(location.into());
        self
    }

    pub fn tags(mut self, tags: BTreeMap<String, String>) -> Draft {
        self.tags = tags;
        self
    }

    pub fn state(mut self, state: ProvisioningState) -> Draft {
        self.state = state;
        self
    }

    pub fn unique(mut self, key: UniqueKey) -> Draft {
        self.unique.push(key);
        self
    }

    pub fn record(mut self, record: Record) -> Draft {
        self.record = record;
        self
    }
}

/// A name within a space that at most one resource holds, compared without case. The space's owner puts into the
/// parts what bounds it (a gallery name: the subscription; an offer: the gallery).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UniqueKey(String);

impl UniqueKey {
    pub fn new(space: &str, parts: &[&str]) -> UniqueKey {
        let mut key = space.to_lowercase();
        for part in parts {
            // A separator that no ARM name may hold, so that ("a","bc") and ("ab","c") differ.
            key.push('\u{1f}');
            key.push_str(&part.to_lowercase());
        }
        UniqueKey(key)
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UniqueKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.replace('\u{1f}', " / "))
    }
}

/// Changes with every write of a resource. On the wire it is quoted, as HTTP asks.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Etag(String);

impl Etag {
    pub(crate) fn fresh() -> Etag {
        Etag(uuid::Uuid::now_v7().to_string())
    }

    pub(crate) fn stored(text: String) -> Etag {
        Etag(text)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Etag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0)
    }
}

/// Takes the quoted form of a header as well as the bare one, and a weak mark.
impl FromStr for Etag {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> std::result::Result<Etag, Self::Err> {
        let text = text.trim();
        let text = text.strip_prefix("W/").unwrap_or(text);
        Ok(Etag(text.trim_matches('"').to_owned()))
    }
}

/// What must be true of the stored resource for a write to happen.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Precondition {
    #[default]
    None,
    /// `If-None-Match: *`
    Absent,
    /// `If-Match: *`
    Present,
    /// `If-Match: "…"`
    Match(Etag),
}

/// What a put did.
#[derive(Clone, Debug)]
pub struct Put {
    pub resource: Resource,
    pub created: bool,
}

/// Which part of a list.
#[derive(Clone, Debug)]
pub struct PageRequest {
    limit: usize,
    pub(crate) directly: bool,
    pub(crate) after: Option<Continuation>,
}

impl PageRequest {
    pub fn first(limit: usize) -> PageRequest {
        PageRequest {
            limit: limit.clamp(1, PAGE_MAX),
            directly: false,
            after: None,
        }
    }

    /// As much as one page may hold.
    pub fn largest() -> PageRequest {
        PageRequest::first(PAGE_MAX)
    }

    /// Of an extension type: only what sits on the permit's scope itself.
    pub fn directly(mut self) -> PageRequest {
        self.directly = true;
        self
    }

    pub fn after(mut self, token: Continuation) -> PageRequest {
        self.after = Some(token);
        self
    }

    pub fn limit(&self) -> usize {
        self.limit
    }
}

/// One page of a list; `next` asks for the one after it.
#[derive(Clone, Debug)]
pub struct Page {
    pub resources: Vec<Resource>,
    pub next: Option<Continuation>,
}

/// One page of a list of members.
#[derive(Clone, Debug)]
pub struct MembersPage {
    pub found: Vec<Members>,
    pub next: Option<Continuation>,
}

/// A resource and those of its members that were asked for, in that order; null is what it does not have.
#[derive(Clone, Debug, PartialEq)]
pub struct Members {
    pub id: ResourceId,
    pub members: Vec<Value>,
}

/// Where a list goes on: opaque to the client, and worth nothing without a permit, since the scope is the permit's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Continuation {
    pub(crate) sort: String,
    pub(crate) key: String,
}

/// A token's first character; a change of its meaning changes it.
const CONTINUATION_VERSION: char = '1';
const CONTINUATION_CHARS_MAX: usize = 16 << 10;

impl fmt::Display for Continuation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{CONTINUATION_VERSION}")?;
        for byte in format!("{}\u{1f}{}", self.sort, self.key).bytes() {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl FromStr for Continuation {
    type Err = CatalogError;

    fn from_str(text: &str) -> Result<Continuation> {
        let hex = text
            .strip_prefix(CONTINUATION_VERSION)
            .ok_or(CatalogError::BadToken)?;
        if hex.len() > CONTINUATION_CHARS_MAX || hex.len() % 2 != 0 || !hex.is_ascii() {
            return Err(CatalogError::BadToken);
        }
        let bytes = (0..hex.len() / 2)
            .map(|at| u8::from_str_radix(&hex[at * 2..at * 2 + 2], 16))
            .collect::<std::result::Result<Vec<u8>, _>>()
            .map_err(|_| CatalogError::BadToken)?;
        let text = String::from_utf8(bytes).map_err(|_| CatalogError::BadToken)?;
        let (sort, key) = text.split_once('\u{1f}').ok_or(CatalogError::BadToken)?;
        Ok(Continuation {
            sort: sort.to_owned(),
            key: key.to_owned(),
        })
    }
}
