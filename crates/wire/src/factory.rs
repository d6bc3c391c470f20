//! Bodies of `Bullion.Factory`: what Azure has no resource for.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::resources::Resource;
use crate::template::{RunState, RunSubState};
use crate::{AppId, ArmErrorBody, PrincipalId, ProvisioningState, TenantId};

pub type Region = Resource<RegionProperties>;
pub type Tenant = Resource<TenantProperties>;
pub type Application = Resource<ApplicationProperties>;
pub type ServicePrincipal = Resource<ServicePrincipalProperties>;
pub type Run = Resource<RunProperties>;

/// `/providers/Bullion.Factory/regions/{name}`: one to three zones, each with a store.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RegionProperties {
    #[serde(default)]
    pub display_name: String,
    pub zones: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provisioning_state: Option<ProvisioningState>,
}

/// `/providers/Bullion.Factory/tenants/{name}`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TenantProperties {
    #[serde(default)]
    pub display_name: String,
    /// Read-only: given at creation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<TenantId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provisioning_state: Option<ProvisioningState>,
}

/// `/providers/Bullion.Factory/applications/{name}` in the caller's tenant.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApplicationProperties {
    #[serde(default)]
    pub display_name: String,
    /// Whether other tenants may consent to it.
    #[serde(default)]
    pub multi_tenant: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_id: Option<AppId>,
    /// The application's service principal in the caller's tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal_id: Option<PrincipalId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provisioning_state: Option<ProvisioningState>,
}

/// `/providers/Bullion.Factory/servicePrincipals/{name}`: an application of another tenant, consented into the
/// caller's.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePrincipalProperties {
    pub app_id: AppId,
    /// Read-only: what role assignments of this tenant name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal_id: Option<PrincipalId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Read-only: where the application is registered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_owner_tenant_id: Option<TenantId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provisioning_state: Option<ProvisioningState>,
}

/// `{group}/providers/Bullion.Factory/runs/{run}`: one run of a template, step by step.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunProperties {
    /// Id of the template.
    pub template: String,
    pub run_state: RunState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_sub_state: Option<RunSubState>,
    pub start_time: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_time: Option<String>,
    #[serde(default)]
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ArmErrorBody>,
    #[serde(default)]
    pub steps: Vec<RunStep>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outputs: Option<RunOutputs>,
    /// Lines written so far; `readLog` answers from any offset below it.
    #[serde(default)]
    pub log_lines: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    Source,
    Build,
    Optimize,
    Tattoo,
    Test,
    Publish,
    Replicate,
    Deploy,
}

impl Stage {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Build => "build",
            Self::Optimize => "optimize",
            Self::Tattoo => "tattoo",
            Self::Test => "test",
            Self::Publish => "publish",
            Self::Replicate => "replicate",
            Self::Deploy => "deploy",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StepState {
    Waiting,
    Running,
    Succeeded,
    Failed,
    /// It was not done, and its message says why.
    Skipped,
}

/// Whether a step did its work now or an earlier result with equal inputs was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum How {
    Run,
    Found,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunStep {
    pub name: String,
    pub stage: Stage,
    /// Hash of the step's inputs.
    #[serde(default)]
    pub key: String,
    pub state: StepState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub how: Option<How>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_time: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// What it is doing, for people.
    #[serde(default)]
    pub message: String,
    /// Digests, bytes new and stored, check results: by stage.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub detail: Value,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RunOutputs {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_digest: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_seconds: Option<f64>,
    /// What each distribution made: a resource's id or a URI, by run output.
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub artifacts: std::collections::BTreeMap<String, String>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct ReadLog {
    #[serde(default)]
    pub offset: u64,
}

/// What is to be run in the machine that is kept of a run, in the words of Azure's `runCommand`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunCommand {
    /// Lines of shell, or of PowerShell.
    pub script: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogPage {
    pub lines: Vec<String>,
    pub next_offset: u64,
}
