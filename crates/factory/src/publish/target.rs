//! A place that a finished image goes to, other than a gallery: what it needs, and what it answers. A delivery that is
//! done again finds what the first one made.

use std::sync::Arc;

use async_trait::async_trait;
use disk::DiskDigest;
use jobs::{StepError, StepHandle};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use store::Store;
use wire::{ResourceId, TenantId};

use crate::factory::Factory;

/// The image and where its bits are.
pub struct Subject {
    pub factory: Arc<Factory>,
    /// The home region's store, which holds the whole disk.
    pub store: Arc<Store>,
    pub home: wire::Location,
    pub digest: DiskDigest,
    pub logical_bytes: u64,
    pub tenant: TenantId,
    pub template: ResourceId,
    /// What a resource that has this disk says of it.
    pub facts: Value,
    pub os_type: String,
    pub generalized: bool,
    pub generation: &'static str,
}

/// What a delivery made: a resource or something with an address.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Artifact {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
    /// It was there before.
    #[serde(default)]
    pub found: bool,
}

impl Artifact {
    /// The id or the address.
    pub fn name(&self) -> &str {
        let named = self.id.as_deref().or(self.uri.as_deref());
        named.unwrap_or_default()
    }
}

/// Brings an image to one place. Each is a step of its own, so one that failed is tried alone the next time.
#[async_trait]
pub trait Deliver: Send + Sync {
    async fn deliver(&self, subject: &Subject, handle: &StepHandle) -> Result<Artifact, StepError>;
}
