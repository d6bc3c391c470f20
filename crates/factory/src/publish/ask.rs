//! Who is asked before a job writes a version. What they look at is not known here.

use async_trait::async_trait;
use jobs::StepError;
use serde_json::{Value, json};
use wire::{ArmError, ResourceId, TenantId};

use catalog::Draft;

/// Asked right before a version is written, so that what has been forbidden since the request is not made.
#[async_trait]
pub trait Ask: Send + Sync {
    /// `resource` is the version as ARM would show it.
    async fn may_write(&self, tenant: TenantId, resource: Value) -> Result<(), ArmError>;
}

/// Where there is nobody to ask.
#[derive(Debug, Clone, Copy)]
pub struct Nobody;

#[async_trait]
impl Ask for Nobody {
    async fn may_write(&self, _: TenantId, _: Value) -> Result<(), ArmError> {
        Ok(())
    }
}

/// The refusal of a version, if there is one.
pub(crate) async fn ask(
    whom: &dyn Ask,
    tenant: TenantId,
    id: &ResourceId,
    draft: &Draft,
) -> Result<(), StepError> {
    let mut properties = draft.properties.clone();
    properties["provisioningState"] = draft.state.as_str().into();
    let resource = json!({
        "id": id.to_string(),
        "name": id.name(),
        "type": id.resource_type().to_string(),
        "location": draft.location,
        "tags": draft.tags,
        "properties": properties,
    });
    let answer = whom.may_write(tenant, resource).await;
    answer.map_err(|refusal| StepError::failed(refusal.code.as_str(), refusal.message))
}
