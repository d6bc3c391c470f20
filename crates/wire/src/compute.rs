//! Bodies of `Microsoft.Compute`: galleries, image definitions, image versions, virtual machines.
//!
//! Shapes follow Azure's OpenAPI documents (GalleryRP 2023-07-03 and later, ComputeRP 2024-03-01). What a
//! struct does not name is kept in its `more`, so that a client's member survives a round trip.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::resources::Resource;
use crate::{Location, ProvisioningState};

pub type Gallery = Resource<GalleryProperties>;
pub type ImageDefinition = Resource<ImageDefinitionProperties>;
pub type ImageVersion = Resource<ImageVersionProperties>;
pub type VirtualMachine = Resource<VirtualMachineProperties>;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GalleryProperties {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provisioning_state: Option<ProvisioningState>,
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OsType {
    Linux,
    Windows,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OsState {
    Generalized,
    Specialized,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum HyperVGeneration {
    V1,
    V2,
}

/// Unique as a triple inside one gallery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageIdentifier {
    pub publisher: String,
    pub offer: String,
    pub sku: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageDefinitionProperties {
    pub os_type: OsType,
    pub os_state: OsState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hyper_v_generation: Option<HyperVGeneration>,
    pub identifier: ImageIdentifier,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provisioning_state: Option<ProvisioningState>,
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ImageVersionProperties {
    pub publishing_profile: PublishingProfile,
    pub storage_profile: StorageProfile,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub safety_profile: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provisioning_state: Option<ProvisioningState>,
    /// Answered only when `$expand=ReplicationStatus` asks for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replication_status: Option<ReplicationStatus>,
    /// What Bullion knows of the version and Azure has no member for. Read-only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bullion: Option<VersionFacts>,
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PublishingProfile {
    pub target_regions: Vec<TargetRegion>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replica_count: Option<i32>,
    pub exclude_from_latest: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub published_date: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_of_life_date: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_account_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replication_mode: Option<String>,
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetRegion {
    pub name: Location,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regional_replica_count: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_account_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exclude_from_latest: Option<bool>,
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StorageProfile {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceRef>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub os_disk_image: Option<OsDiskImage>,
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SourceRef {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OsDiskImage {
    #[serde(rename = "sizeInGB", skip_serializing_if = "Option::is_none")]
    pub size_in_gb: Option<u64>,
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AggregatedReplicationState {
    Unknown,
    InProgress,
    Completed,
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RegionalReplicationState {
    Unknown,
    Replicating,
    Completed,
    Failed,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicationStatus {
    pub aggregated_state: AggregatedReplicationState,
    pub summary: Vec<RegionalReplicationStatus>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RegionalReplicationStatus {
    pub region: String,
    pub state: RegionalReplicationState,
    #[serde(default)]
    pub details: String,
    /// 0 to 100.
    pub progress: u8,
}

/// Identity and origin of a version's bits.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VersionFacts {
    /// The Merkle root that names the disk everywhere.
    pub disk_digest: String,
    /// Id of the run that made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipe_digest: Option<String>,
    /// `publisher:offer:sku:version` of the platform image it began as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// From power-on to the first command answered, in the boot test.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_seconds: Option<f64>,
    /// What scanners said of the disk before it was published.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scans: Vec<ScanFacts>,
    /// The tattoo that the disk carries, key by key.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tattoo: BTreeMap<String, String>,
}

/// What one scanner found. The rules one by one are in the signed statement `tests` about the version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScanFacts {
    pub name: String,
    /// The program, with its version.
    pub scanner: String,
    /// Of 100; none where the scanner gives none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    pub passed_rules: usize,
    pub broken_rules: usize,
    pub not_applicable_rules: usize,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VirtualMachineProperties {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hardware_profile: Option<HardwareProfile>,
    pub storage_profile: MachineStorageProfile,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub os_profile: Option<OsProfile>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provisioning_state: Option<ProvisioningState>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vm_id: Option<String>,
    /// Answered only when `$expand=instanceView` asks for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance_view: Option<InstanceView>,
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HardwareProfile {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vm_size: Option<String>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MachineStorageProfile {
    pub image_reference: ImageReference,
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ImageReference {
    /// A definition's id means its `latest` in the machine's region.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `/SharedGalleries/{gallery}/Images/{image}`, alone or with `/Versions/{version}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared_gallery_image_id: Option<String>,
    /// The same below `/CommunityGalleries`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub community_gallery_image_id: Option<String>,
    /// Read-only: what `latest` was resolved to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exact_version: Option<String>,
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OsProfile {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub computer_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin_username: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub linux_configuration: Option<LinuxConfiguration>,
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LinuxConfiguration {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ssh: Option<SshConfiguration>,
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SshConfiguration {
    pub public_keys: Vec<SshPublicKey>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SshPublicKey {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    pub key_data: String,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct InstanceView {
    pub statuses: Vec<InstanceStatus>,
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct InstanceStatus {
    /// `PowerState/running`, `ProvisioningState/succeeded`, …
    pub code: String,
    pub level: String,
    pub display_status: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
}
