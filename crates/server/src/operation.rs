//! What an ARM operation is: one row of the table, with the action that a caller needs for it.
//!
//! An action has no default. The rows are in [`crate::table`]; the same rows give the permission check, the
//! denial test and the committed listing.

use std::pin::Pin;
use std::sync::Arc;

use access::Permit;
use catalog::{Etag, Resource};
use http::header::{IF_MATCH, IF_NONE_MATCH, IF_RANGE, RANGE};
use http::{HeaderMap, Method};
use serde_json::Value;
use wire::{ApiVersion, ArmError, ErrorCode, ResourceId};

use crate::blobs::byte_range;
use crate::exchange::{Base, Query, Reply};
use crate::path::{Place, Shape};
use crate::state::Server;

pub type Running = Pin<Box<dyn Future<Output = Result<Reply, ArmError>> + Send>>;

/// A scope that a body refers to, and what the caller must be allowed to do there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub scope: String,
    pub action: &'static str,
    /// The member of the body that names it.
    pub target: &'static str,
}

/// What the action is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The path's resource, or the scope of a collection.
    Path,
    /// What the path's resource sits on: for things that are read as a part of that.
    Parent,
    /// The scope whose resources a question is about: what the path's resource sits on, and where that is a policy
    /// object, what that one sits on.
    Judged,
    /// The live id of what the path names as soft-deleted.
    Meant,
    /// A list of the caller's own, which is empty rather than refused.
    Own,
    /// What is the same for everybody: a right to read it anywhere is enough.
    Everybody,
}

/// Whose a path outside every subscription is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tenancy {
    /// The subscription's tenant; without one, the caller's.
    Scope,
    /// The installation's own.
    Installation,
}

/// One row. There is no column for api-versions: clients mix seven of them on one type, so any well-formed one
/// is answered, and a handler whose rules differ by version asks its call.
pub struct Operation {
    pub method: Method,
    pub shape: Shape,
    /// The type, as Azure writes it; for an action on a resource, with the action as last segment.
    pub kind: &'static str,
    /// Where the type may sit; a path that puts it elsewhere names nothing.
    pub places: &'static [Place],
    pub subject: Subject,
    pub tenancy: Tenancy,
    pub action: &'static str,
    /// What the body refers to. Each needs a permit of its own, in its own tenant.
    pub links: fn(&Value) -> Vec<Link>,
    pub run: fn(Arc<Server>, Call) -> Running,
}

/// One authorised request.
#[derive(Clone)]
pub struct Call {
    /// For the row's action, at the row's subject.
    pub permit: Permit,
    /// The path's resource, or the scope of a collection.
    pub id: ResourceId,
    pub version: ApiVersion,
    pub query: Query,
    /// `null` where there was none.
    pub body: Value,
    pub base: Base,
    /// As the client wrote it, for next links.
    pub path: String,
    /// In the order of the row's `links`.
    pub links: Vec<Permit>,
    pub preconditions: Preconditions,
    /// Whether the content is not wanted, only what is said about it.
    pub is_head: bool,
}

/// What `If-Match` and `If-None-Match` ask for, and of what is not JSON `Range` and `If-Range`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preconditions {
    if_match: Option<String>,
    if_none_match: Option<String>,
    range: Option<String>,
    if_range: Option<String>,
}

/// What of a representation is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    Whole,
    Range(std::ops::Range<u64>),
    /// The client has it already.
    Unchanged,
    /// A range that it does not have.
    Outside,
}

impl Preconditions {
    pub fn of(headers: &HeaderMap) -> Preconditions {
        let text = |name| {
            let value = headers.get(name)?.to_str().ok()?;
            Some(value.to_string())
        };
        Preconditions {
            if_match: text(IF_MATCH),
            if_none_match: text(IF_NONE_MATCH),
            range: text(RANGE),
            if_range: text(IF_RANGE),
        }
    }

    /// The resource as it was read.
    pub fn matching(stored: &Resource) -> Preconditions {
        Preconditions {
            if_match: Some(stored.etag.to_string()),
            ..Preconditions::default()
        }
    }

    /// Which part is asked for of `size` bytes that this tag names. A part of what is there no more is answered with
    /// the whole.
    pub fn part(&self, etag: &str, size: u64) -> Part {
        let names = |list: &str| list.split(',').any(|one| [etag, "*"].contains(&one.trim()));
        if self.if_none_match.as_deref().is_some_and(names) {
            return Part::Unchanged;
        }
        let is_meant = self.if_range.as_deref().is_none_or(|asked| asked == etag);
        let range = self.range.as_deref().filter(|_| is_meant);
        match range.filter(|text| text.starts_with("bytes=")) {
            None => Part::Whole,
            Some(text) => match byte_range(text, size) {
                Some((first, last)) => Part::Range(first..last + 1),
                None => Part::Outside,
            },
        }
    }

    /// Of the two that a write can have.
    pub fn is_empty(&self) -> bool {
        self.if_match.is_none() && self.if_none_match.is_none()
    }

    pub fn check(&self, old: Option<&Resource>) -> Result<(), ArmError> {
        let names = |list: &str| {
            old.is_some_and(|old| {
                list.split(',').any(|one| {
                    let etag: Result<Etag, _> = one.parse();
                    one.trim() == "*" || etag.is_ok_and(|etag| etag == old.etag)
                })
            })
        };
        let held = self.if_match.as_deref().is_none_or(names)
            && !self.if_none_match.as_deref().is_some_and(names);
        if held {
            return Ok(());
        }
        Err(ArmError::new(
            ErrorCode::PreconditionFailed,
            "The condition of the If-Match or If-None-Match header is not met.",
        ))
    }
}

pub fn no_links(_body: &Value) -> Vec<Link> {
    Vec::new()
}
