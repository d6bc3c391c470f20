//! Bodies of pipelines and promotions: which stages an image version goes through, what each asks before it takes
//! one, and what was said of one version at one stage.
//!
//! Shapes only. What a gate means, and who may pass one, is decided elsewhere.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::resources::Resource;
use crate::template::{DistributeRegion, Validator};
use crate::{AppId, PrincipalId, ProvisioningState, TenantId};

pub type Pipeline = Resource<PipelineProperties>;
pub type Promotion = Resource<PromotionProperties>;

/// `{group}/providers/Bullion.Factory/pipelines/{name}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PipelineProperties {
    /// In order. The first is where versions are built; nothing is promoted to it.
    pub stages: Vec<PipelineStage>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provisioning_state: Option<ProvisioningState>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PipelineStage {
    pub name: String,
    pub tenant: TenantId,
    /// Id of the image definition whose versions are this stage's.
    pub image_definition: String,
    /// Where this stage keeps its versions. The first is their home.
    #[serde(default)]
    pub target_regions: Vec<DistributeRegion>,
    /// As whose service principals a promotion to this stage acts. The first stage has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub application: Option<AppId>,
    /// In order.
    #[serde(default)]
    pub gates: Vec<Gate>,
}

/// What a stage asks before it takes a version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all_fields = "camelCase")]
pub enum Gate {
    /// The version's own tests passed before it was published.
    TestsPassed { name: String },
    /// There is a signed provenance of the version's disk. One that proves nothing stops every promotion; this asks
    /// that there is one.
    Provenance { name: String },
    /// A machine started from the version in one of the stage's regions passes these checks.
    DeployAndCheck {
        name: String,
        region: crate::Location,
        validators: Vec<Validator>,
    },
    /// So many different people of the stage's tenant, who may approve promotions there, say yes.
    Approval {
        name: String,
        /// Who of them; nobody named is any of them.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        principals: Vec<PrincipalId>,
        #[serde(default = "one")]
        count: u32,
        #[serde(default = "three_days")]
        expires_in_hours: u32,
    },
}

const fn one() -> u32 {
    1
}

const fn three_days() -> u32 {
    72
}

impl Gate {
    pub fn name(&self) -> &str {
        match self {
            Self::TestsPassed { name }
            | Self::Provenance { name }
            | Self::DeployAndCheck { name, .. }
            | Self::Approval { name, .. } => name,
        }
    }
}

/// Who did something, as they were signed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Actor {
    pub tenant: TenantId,
    pub principal: PrincipalId,
    pub app: AppId,
}

/// Who built a version: a principal of the tenant in which it was built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Builder {
    pub tenant: TenantId,
    pub principal: PrincipalId,
}

/// `{group of the stage}/providers/Bullion.Factory/promotions/{pipeline}-{stage}-{version}`: one version on its way to
/// one stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PromotionProperties {
    /// Id of the pipeline.
    pub pipeline: String,
    pub stage: String,
    /// The number, the same in every stage.
    pub version: String,
    /// The two stages as the pipeline had them when this was asked for: what is asked does not change under way.
    pub from: PipelineStage,
    pub to: PipelineStage,
    pub state: PromotionState,
    #[serde(default)]
    pub message: String,
    pub source_version_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_digest: Option<String>,
    pub requested_by: Actor,
    /// Who built the version, once that was looked up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub built_by: Option<Builder>,
    pub start_time: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_time: Option<String>,
    /// Until when an approval counts that is waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// One for each gate of the stage, in order.
    #[serde(default)]
    pub gates: Vec<GateVerdict>,
    #[serde(default)]
    pub approvals: Vec<Approval>,
    /// How often it was asked for; those before did not succeed.
    #[serde(default)]
    pub attempt: u32,
    /// What each region got, in the order in which it was first needed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub copies: Vec<RegionCopy>,
    /// How often in a row a region that is needed could not be used.
    #[serde(default)]
    pub region_failures: u32,
    /// When it is tried again, while it waits for a region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_time: Option<String>,
    /// The attempts before this one, the oldest first; of very many, the latest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<EarlierAttempt>,
}

/// An attempt that ended without success, as it was when it was asked for again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EarlierAttempt {
    pub attempt: u32,
    pub state: PromotionState,
    #[serde(default)]
    pub message: String,
    pub requested_by: Actor,
    pub start_time: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_time: Option<String>,
    #[serde(default)]
    pub gates: Vec<GateVerdict>,
}

/// What a promotion copied to one region of its stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RegionCopy {
    pub region: crate::Location,
    /// Bytes that were sent, as they are stored; 0 where the region had all of them.
    pub moved_bytes: u64,
    /// Frames that were sent.
    pub frames: u64,
    /// Frames of the disk that the region had before.
    pub frames_present: u64,
    /// When the region held the whole disk.
    pub time: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PromotionState {
    Running,
    WaitingForApproval,
    /// A region that is needed cannot be used now; it is tried again.
    WaitingForRegion,
    Succeeded,
    /// A gate said no, or somebody who may approve did.
    Rejected,
    Failed,
    Canceled,
    Expired,
}

impl PromotionState {
    /// It moves no more by itself.
    pub const fn ended(self) -> bool {
        !matches!(
            self,
            Self::Running | Self::WaitingForApproval | Self::WaitingForRegion
        )
    }
}

/// What one gate said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GateVerdict {
    pub name: String,
    pub state: GateState,
    #[serde(default)]
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// Who passed it: the principals of an approval, or the stage's principal.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by: Vec<PrincipalId>,
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub evidence: Value,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum GateState {
    NotReached,
    Waiting,
    Passed,
    Failed,
}

/// One yes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Approval {
    pub by: Actor,
    pub time: String,
    #[serde(default)]
    pub comment: String,
}

/// The body of `approve` and `reject`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Opinion {
    pub comment: String,
}
