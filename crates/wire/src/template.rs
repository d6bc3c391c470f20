//! Bodies of `Microsoft.VirtualMachineImages/imageTemplates` (Image Builder 2024-02-01), and the
//! customizers and validators that Bullion adds to them under its own prefix.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::resources::Resource;
use crate::{Location, ProvisioningState};

pub type ImageTemplate = Resource<ImageTemplateProperties>;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageTemplateProperties {
    pub source: Source,
    #[serde(default)]
    pub customize: Vec<Customizer>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validate: Option<Validate>,
    pub distribute: Vec<Distributor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm_profile: Option<VmProfile>,
    /// 0 or absent means 240.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build_timeout_in_minutes: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provisioning_state: Option<ProvisioningState>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_run_status: Option<LastRunStatus>,
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum Source {
    #[serde(rename_all = "camelCase")]
    PlatformImage {
        publisher: String,
        offer: String,
        sku: String,
        version: String,
        /// Read-only: what `latest` was resolved to by the last run.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        exact_version: Option<String>,
    },
    #[serde(rename_all = "camelCase")]
    ManagedImage { image_id: String },
    #[serde(rename_all = "camelCase")]
    SharedImageVersion {
        image_version_id: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        exact_version: Option<String>,
    },
}

/// Applied in order; the first that fails ends the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum Customizer {
    #[serde(rename_all = "camelCase")]
    Shell {
        #[serde(default)]
        name: String,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        inline: Vec<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        script_uri: Option<String>,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        sha256_checksum: String,
    },
    #[serde(rename_all = "camelCase")]
    File {
        #[serde(default)]
        name: String,
        /// `data:` carries the content itself; other schemes are fetched by the build.
        source_uri: String,
        destination: String,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        sha256_checksum: String,
        /// Octal, four digits. Bullion's own member; 0644 when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mode: Option<String>,
    },
    #[serde(rename = "Bullion.Packages", rename_all = "camelCase")]
    Packages {
        #[serde(default)]
        name: String,
        packages: Vec<String>,
    },
    #[serde(rename = "Bullion.CaCertificate", rename_all = "camelCase")]
    CaCertificate {
        #[serde(default)]
        name: String,
        /// PEM.
        certificate: String,
    },
}

impl Customizer {
    pub fn name(&self) -> &str {
        match self {
            Self::Shell { name, .. }
            | Self::File { name, .. }
            | Self::Packages { name, .. }
            | Self::CaCertificate { name, .. } => name,
        }
    }

    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Shell { .. } => "Shell",
            Self::File { .. } => "File",
            Self::Packages { .. } => "Bullion.Packages",
            Self::CaCertificate { .. } => "Bullion.CaCertificate",
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Validate {
    pub continue_distribute_on_failure: bool,
    #[serde(rename = "inVMValidations")]
    pub in_vm_validations: Vec<Validator>,
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// Run inside a fresh machine made from the finished image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum Validator {
    /// Passes when the commands exit with 0.
    #[serde(rename_all = "camelCase")]
    Shell {
        #[serde(default)]
        name: String,
        #[serde(default)]
        inline: Vec<String>,
    },
    /// Passes when the systemd unit is active.
    #[serde(rename = "Bullion.Service", rename_all = "camelCase")]
    Service {
        #[serde(default)]
        name: String,
        service: String,
    },
    /// Passes when `sshd -T` shows the option with this value.
    #[serde(rename = "Bullion.SshdOption", rename_all = "camelCase")]
    SshdOption {
        #[serde(default)]
        name: String,
        option: String,
        value: String,
    },
    /// Passes when the tattoo reads back as it was written.
    #[serde(rename = "Bullion.Tattoo", rename_all = "camelCase")]
    Tattoo {
        #[serde(default)]
        name: String,
    },
}

impl Validator {
    pub fn name(&self) -> &str {
        match self {
            Self::Shell { name, .. }
            | Self::Service { name, .. }
            | Self::SshdOption { name, .. }
            | Self::Tattoo { name } => name,
        }
    }

    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Shell { .. } => "Shell",
            Self::Service { .. } => "Bullion.Service",
            Self::SshdOption { .. } => "Bullion.SshdOption",
            Self::Tattoo { .. } => "Bullion.Tattoo",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum Distributor {
    #[serde(rename_all = "camelCase")]
    SharedImage {
        run_output_name: String,
        /// A definition's id, or with `/versions/x.y.z` a pinned version.
        gallery_image_id: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        versioning: Option<Versioning>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        target_regions: Vec<DistributeRegion>,
        /// Deprecated by Azure in favour of `targetRegions`; `az` still sends it.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        replication_regions: Vec<Location>,
        #[serde(default)]
        exclude_from_latest: bool,
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        artifact_tags: BTreeMap<String, String>,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DistributeRegion {
    pub name: Location,
    #[serde(default = "one_replica")]
    pub replica_count: i32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_account_type: Option<String>,
}

const fn one_replica() -> i32 {
    1
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "scheme")]
pub enum Versioning {
    /// The next patch after the highest version, of one major number if it is given.
    Latest {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        major: Option<i32>,
    },
    Source,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VmProfile {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vm_size: Option<String>,
    /// 0 or absent: the source's own size.
    #[serde(rename = "osDiskSizeGB", skip_serializing_if = "Option::is_none")]
    pub os_disk_size_gb: Option<u32>,
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunState {
    Running,
    Canceling,
    Succeeded,
    PartiallySucceeded,
    Failed,
    Canceled,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunSubState {
    Queued,
    Building,
    Customizing,
    Optimizing,
    Validating,
    Distributing,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastRunStatus {
    pub start_time: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_time: Option<String>,
    pub run_state: RunState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_sub_state: Option<RunSubState>,
    #[serde(default)]
    pub message: String,
}
