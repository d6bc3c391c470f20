//! The activity log: who did what to which resource, from where, by which right, and what came of it.
//!
//! A write's row is written in the write's transaction, so there is none without the other. Rows are linked a moment
//! later: each gets the next number of its server's chain and a hash over itself and the row before, and the end of the
//! chain is signed. Who signs, and how, is not known here.

use access::Permit;
use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;
use wire::{AppId, PrincipalId, ResourceId, TenantId};

use crate::error::Result;

/// Rows that are linked, or read, at once.
pub const ACTIVITY_MAX: usize = 1000;
/// What the first row of a chain follows.
pub const CHAIN_START: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ActivityStatus {
    /// Done.
    Succeeded,
    /// Stored, and a job goes on with it.
    Accepted,
    /// Allowed, but not done.
    Failed,
    /// Not allowed.
    Refused,
}

impl ActivityStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            ActivityStatus::Succeeded => "Succeeded",
            ActivityStatus::Accepted => "Accepted",
            ActivityStatus::Failed => "Failed",
            ActivityStatus::Refused => "Refused",
        }
    }
}

/// Who did it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Actor {
    Principal {
        principal: PrincipalId,
        app: AppId,
        tenant: TenantId,
    },
    /// The server by itself, and why.
    System(String),
    /// Somebody without a valid token.
    Nobody,
}

/// One line of the log, but for when and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    pub event: Uuid,
    pub id: String,
    pub action: String,
    pub actor: Actor,
    pub status: ActivityStatus,
    /// The error's code; of a line that stands for many, `TooMany`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Uuid>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation: Option<Uuid>,
    /// The role assignments that gave the right.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rights: Vec<String>,
    /// How many this line stands for, where it is not one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

impl Entry {
    /// Of what is done, or tried, under a permit.
    pub fn of(permit: &Permit, status: ActivityStatus) -> Entry {
        let actor = match (permit.identity(), permit.system_reason()) {
            (Some(identity), _) => Actor::Principal {
                principal: identity.principal,
                app: identity.app,
                tenant: identity.tenant,
            },
            (None, Some(reason)) => Actor::System(format!("{reason:?}")),
            (None, None) => Actor::Nobody,
        };
        let origin = permit.origin();
        Entry {
            event: Uuid::now_v7(),
            id: permit.scope().to_string(),
            action: permit.action().to_string(),
            actor,
            status,
            code: None,
            address: origin
                .and_then(|origin| origin.address)
                .map(|address| address.to_string()),
            request: origin.map(|origin| origin.request),
            correlation: origin.map(|origin| origin.correlation),
            rights: origin
                .map(|origin| origin.rights.clone())
                .unwrap_or_default(),
            count: None,
        }
    }
}

/// A line with its tenant, for what no write stands for: refusals and failures.
#[derive(Clone, Debug)]
pub struct Note {
    pub tenant: TenantId,
    pub entry: Entry,
}

/// A line as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Of this database; grows.
    pub row: u64,
    pub at: Timestamp,
    pub tenant: TenantId,
    pub entry: Entry,
}

/// Which lines of a tenant, newest first.
#[derive(Clone, Debug)]
pub struct ActivityRange {
    pub from: Timestamp,
    pub to: Timestamp,
    /// Goes on after this one.
    pub before: Option<(Timestamp, u64)>,
}

/// A linked line with exactly the text that its hash is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Linked {
    pub node: String,
    pub seq: u64,
    /// Microseconds since 1970.
    pub at: i64,
    pub tenant: String,
    pub id_key: String,
    /// JSON text of an [`Entry`].
    pub body: String,
    pub hash: String,
}

impl Linked {
    /// The hash of a line that follows one with the hash `before`.
    pub fn hash_after(&self, before: &str) -> String {
        let (seq, at) = (self.seq.to_string(), self.at.to_string());
        let mut hash = Sha256::new();
        for part in [
            before,
            &self.node,
            &seq,
            &at,
            &self.tenant,
            &self.id_key,
            &self.body,
        ] {
            // With its length, so that nothing can move from one part into the next.
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        hash.finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

/// The end of a chain at some moment, and what a server signed of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Checkpoint {
    pub node: String,
    pub seq: u64,
    pub at: i64,
    pub hash: String,
    /// Whatever the signer made of the others; empty where it was not signed yet.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub signed: String,
}

/// Which lines stay.
#[derive(Clone, Copy, Debug)]
pub struct Keep {
    /// Younger ones than this.
    pub since: Timestamp,
    /// Where a receiver does not have them: younger ones than this.
    pub unsent_since: Timestamp,
}

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trimmed {
    /// Lines.
    pub removed: u64,
    /// The last of them, where a receiver did not have it.
    pub unsent_to: Option<u64>,
}

/// Signs the end of a chain.
pub type Sign<'s> = &'s (dyn Fn(&Checkpoint) -> String + Send + Sync);

#[async_trait]
pub trait ActivityStore: Send + Sync {
    /// From now on writes leave lines, of this server. Without it none are left: tools and tests.
    fn keep_activity(&self, node: &str);
    /// Lines that no write stands for. Nothing where no activity is kept.
    async fn note(&self, notes: Vec<Note>) -> Result<()>;
    /// Lines about what is at or below the permit's scope, newest first, at most `limit`.
    async fn activity(
        &self,
        permit: &Permit,
        range: ActivityRange,
        limit: usize,
    ) -> Result<Vec<Recorded>>;
    /// Links the lines of this server that are not yet, at most [`ACTIVITY_MAX`] of them, and has the end signed.
    /// How many there were.
    async fn link_activity(&self, sign: Sign<'_>) -> Result<usize>;
    /// Removes old lines, up to a checkpoint, which stays as what the rest follows.
    async fn trim_activity(&self, keep: Keep) -> Result<Trimmed>;
    /// The key that a server signs with, as text; the first one told stays.
    async fn name_activity_key(&self, node: &str, public_key: &str) -> Result<()>;
    /// Servers that ever wrote lines, with their keys.
    async fn activity_nodes(&self) -> Result<Vec<(String, String)>>;
    /// Linked lines of a server after that number, at most [`ACTIVITY_MAX`].
    async fn activity_chain(&self, node: &str, after: u64) -> Result<Vec<Linked>>;
    /// The checkpoints of a server at or after that number, at most [`ACTIVITY_MAX`].
    async fn activity_checkpoints(&self, node: &str, from: u64) -> Result<Vec<Checkpoint>>;
    /// From now on these are the receivers of a server's lines; how far others were is forgotten. A new one has
    /// received what is not kept any more, and nothing of what is.
    async fn name_activity_sinks(&self, node: &str, sinks: &[String]) -> Result<()>;
    /// The last line that a receiver has; none where it is not one of the server's.
    async fn activity_sent(&self, node: &str, sink: &str) -> Result<Option<u64>>;
    /// It has all lines up to this one. Never goes back.
    async fn note_activity_sent(&self, node: &str, sink: &str, seq: u64) -> Result<()>;
}

/// The folded id that lines are found by; an id that cannot be one is found by its text.
pub(crate) fn key_of(id: &str) -> String {
    ResourceId::parse(id).map_or_else(|_| id.to_lowercase(), |id| id.folded().to_owned())
}
