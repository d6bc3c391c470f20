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

use crate::build::{Secret, SecretPlace};
use crate::factory::Factory;
use crate::pipeline::chain;

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

impl Subject {
    /// The value of a secret that its tenant keeps under this name.
    pub async fn secret(&self, name: &str) -> Result<String, StepError> {
        let secret = Secret {
            name: name.to_owned(),
            place: SecretPlace::File(name.to_owned()),
        };
        let secrets = self.factory.secrets().await?;
        let found = secrets.look_up(&[secret], self.tenant).await;
        let found = found.map_err(|error| StepError::failed("SecretNotFound", chain(&error)))?;
        let value = found.first().map(|value| value.reveal().to_owned());
        value.ok_or_else(|| StepError::failed("SecretNotFound", format!("there is no {name}")))
    }
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
