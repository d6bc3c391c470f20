//! Bodies of `Microsoft.VirtualMachineImages/imageTemplates` (Image Builder 2024-02-01), and the
//! sources, customizers, validators and targets that Bullion adds to them under its own prefix. Which members
//! there are, and what is said of others, is in [`fields`].

pub mod fields;

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
    #[serde(default, deserialize_with = "null_as_none")]
    pub customize: Vec<Customizer>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validate: Option<Validate>,
    #[serde(default, deserialize_with = "null_as_none")]
    pub distribute: Vec<Distributor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm_profile: Option<VmProfile>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optimize: Option<Optimize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_handling: Option<ErrorHandling>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_run: Option<AutoRun>,
    /// Id of a resource group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staging_resource_group: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managed_resource_tags: Option<BTreeMap<String, String>>,
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

/// Lists that a client sends as `null` are empty.
fn null_as_none<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    Ok(Option::<Vec<T>>::deserialize(deserializer)?.unwrap_or_default())
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum Source {
    #[serde(rename_all = "camelCase")]
    PlatformImage {
        publisher: String,
        offer: String,
        sku: String,
        #[serde(default)]
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
    /// A disk or snapshot of this server.
    #[serde(rename = "Bullion.Disk", rename_all = "camelCase")]
    Disk { disk_id: String },
    /// A VHD of this server's blob folder.
    #[serde(rename = "Bullion.Vhd", rename_all = "camelCase")]
    Vhd {
        uri: String,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        sha256_checksum: String,
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
        /// Bullion's own member.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        secrets: Vec<SecretReference>,
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
    /// For Windows guests.
    #[serde(rename_all = "camelCase")]
    PowerShell {
        #[serde(default)]
        name: String,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        inline: Vec<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        script_uri: Option<String>,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        sha256_checksum: String,
        #[serde(default)]
        run_elevated: bool,
        #[serde(default)]
        run_as_system: bool,
        /// Empty means 0 alone.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        valid_exit_codes: Vec<i32>,
        /// Bullion's own member.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        secrets: Vec<SecretReference>,
    },
    /// For Windows guests.
    #[serde(rename_all = "camelCase")]
    WindowsRestart {
        #[serde(default)]
        name: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        restart_command: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        restart_check_command: Option<String>,
        /// As in `5m` or `2h`; five minutes when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        restart_timeout: Option<String>,
    },
    /// For Windows guests.
    #[serde(rename_all = "camelCase")]
    WindowsUpdate {
        #[serde(default)]
        name: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        search_criteria: Option<String>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        filters: Vec<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        update_limit: Option<u32>,
    },
    /// An Ansible playbook, applied by the image's own `ansible-playbook` to the image itself.
    #[serde(rename = "Bullion.Ansible", rename_all = "camelCase")]
    Ansible {
        #[serde(default)]
        name: String,
        /// YAML.
        playbook: String,
        /// Extra variables.
        #[serde(default, skip_serializing_if = "Map::is_empty")]
        variables: Map<String, Value>,
    },
    /// User data that every machine of the image applies at its first start, below what it brings itself.
    #[serde(rename = "Bullion.CloudInit", rename_all = "camelCase")]
    CloudInit {
        #[serde(default)]
        name: String,
        /// A `#cloud-config` document.
        user_data: String,
    },
    /// Adds to and removes from the kernel's command line in the image's boot loader.
    #[serde(rename = "Bullion.KernelCommandLine", rename_all = "camelCase")]
    KernelCommandLine {
        #[serde(default)]
        name: String,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        add: Vec<String>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        remove: Vec<String>,
    },
    /// Whether machines of the image grow its root partition and file system to their disk's size.
    #[serde(rename = "Bullion.PartitionGrowth", rename_all = "camelCase")]
    PartitionGrowth {
        #[serde(default)]
        name: String,
        enabled: bool,
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

/// A secret that a script finds in a variable of its environment. Where it is kept is one of the three; its value is
/// never part of a template.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SecretReference {
    /// The variable in the script's environment.
    pub name: String,
    /// A variable of the server's environment, without its prefix.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
    /// A file of the tenant's secrets on the server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// A path of a key-value store that answers like Vault's, with the `field` in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vault: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
}

impl Customizer {
    pub fn name(&self) -> &str {
        match self {
            Self::Shell { name, .. }
            | Self::File { name, .. }
            | Self::PowerShell { name, .. }
            | Self::WindowsRestart { name, .. }
            | Self::WindowsUpdate { name, .. }
            | Self::Ansible { name, .. }
            | Self::CloudInit { name, .. }
            | Self::KernelCommandLine { name, .. }
            | Self::PartitionGrowth { name, .. }
            | Self::Packages { name, .. }
            | Self::CaCertificate { name, .. } => name,
        }
    }

    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Shell { .. } => "Shell",
            Self::File { .. } => "File",
            Self::PowerShell { .. } => "PowerShell",
            Self::WindowsRestart { .. } => "WindowsRestart",
            Self::WindowsUpdate { .. } => "WindowsUpdate",
            Self::Ansible { .. } => "Bullion.Ansible",
            Self::CloudInit { .. } => "Bullion.CloudInit",
            Self::KernelCommandLine { .. } => "Bullion.KernelCommandLine",
            Self::PartitionGrowth { .. } => "Bullion.PartitionGrowth",
            Self::Packages { .. } => "Bullion.Packages",
            Self::CaCertificate { .. } => "Bullion.CaCertificate",
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Validate {
    pub continue_distribute_on_failure: bool,
    /// The source is validated as it is; nothing is built or distributed.
    pub source_validation_only: bool,
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
        #[serde(default, skip_serializing_if = "Option::is_none")]
        script_uri: Option<String>,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        sha256_checksum: String,
    },
    /// A file that later checks use; it is in the test machine only.
    #[serde(rename_all = "camelCase")]
    File {
        #[serde(default)]
        name: String,
        source_uri: String,
        destination: String,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        sha256_checksum: String,
    },
    /// For Windows guests.
    #[serde(rename_all = "camelCase")]
    PowerShell {
        #[serde(default)]
        name: String,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        inline: Vec<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        script_uri: Option<String>,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        sha256_checksum: String,
        #[serde(default)]
        run_elevated: bool,
        #[serde(default)]
        run_as_system: bool,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        valid_exit_codes: Vec<i32>,
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
    /// Passes when files, packages, services and more are as goss's words say.
    #[serde(rename = "Bullion.Facts", rename_all = "camelCase")]
    Facts {
        #[serde(default)]
        name: String,
        /// By kind, then by name: what shall be true.
        facts: Value,
    },
    /// Passes when every test function of a file for pytest with testinfra does. It asks the machine over SSH.
    #[serde(rename = "Bullion.Testinfra", rename_all = "camelCase")]
    Testinfra {
        #[serde(default)]
        name: String,
        /// Lines of Python.
        #[serde(default)]
        inline: Vec<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        script_uri: Option<String>,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        sha256_checksum: String,
    },
    /// Passes when every test of a file for Pester does, in a Windows whose image has Pester 5 or later.
    #[serde(rename = "Bullion.Pester", rename_all = "camelCase")]
    Pester {
        #[serde(default)]
        name: String,
        /// Lines of PowerShell.
        #[serde(default)]
        inline: Vec<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        script_uri: Option<String>,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        sha256_checksum: String,
    },
    /// Passes when OpenSCAP finds no rule of a profile broken that counts. It looks at the finished disk.
    #[serde(rename = "Bullion.OpenScap", rename_all = "camelCase")]
    OpenScap {
        #[serde(default)]
        name: String,
        /// File name of a SCAP data stream or XCCDF benchmark that the server has.
        content: String,
        /// Id of one of its profiles; the benchmark as it is, if empty.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        profile: String,
        #[serde(flatten)]
        limits: ScanLimits,
    },
    /// Passes when lynis finds nothing that counts. It looks at the finished disk.
    #[serde(rename = "Bullion.Lynis", rename_all = "camelCase")]
    Lynis {
        #[serde(default)]
        name: String,
        #[serde(flatten)]
        limits: ScanLimits,
    },
}

/// What of a scanner's findings makes its check fail.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScanLimits {
    /// Broken rules from this severity on.
    #[serde(default)]
    pub fails_from: Severity,
    /// Rules that are judged in another way, by their ids.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rules: BTreeMap<String, RuleVerdict>,
    /// Of 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_score: Option<f64>,
}

/// How serious a broken rule is. Of lynis, a warning is high and a suggestion low.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Severity {
    Low,
    Medium,
    #[default]
    High,
}

/// What a broken rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RuleVerdict {
    /// The check fails, whatever the severity.
    Fail,
    /// It is told.
    Warn,
}

impl Validator {
    pub fn name(&self) -> &str {
        match self {
            Self::Shell { name, .. }
            | Self::File { name, .. }
            | Self::PowerShell { name, .. }
            | Self::Service { name, .. }
            | Self::SshdOption { name, .. }
            | Self::Facts { name, .. }
            | Self::Testinfra { name, .. }
            | Self::Pester { name, .. }
            | Self::OpenScap { name, .. }
            | Self::Lynis { name, .. }
            | Self::Tattoo { name } => name,
        }
    }

    /// Whether it looks at the finished disk, and not into a machine.
    pub const fn is_scan(&self) -> bool {
        matches!(self, Self::OpenScap { .. } | Self::Lynis { .. })
    }

    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Shell { .. } => "Shell",
            Self::File { .. } => "File",
            Self::PowerShell { .. } => "PowerShell",
            Self::Service { .. } => "Bullion.Service",
            Self::SshdOption { .. } => "Bullion.SshdOption",
            Self::Tattoo { .. } => "Bullion.Tattoo",
            Self::Facts { .. } => "Bullion.Facts",
            Self::Testinfra { .. } => "Bullion.Testinfra",
            Self::Pester { .. } => "Bullion.Pester",
            Self::OpenScap { .. } => "Bullion.OpenScap",
            Self::Lynis { .. } => "Bullion.Lynis",
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
        #[serde(
            default,
            deserialize_with = "null_as_none",
            skip_serializing_if = "Vec::is_empty"
        )]
        target_regions: Vec<DistributeRegion>,
        /// Deprecated by Azure in favour of `targetRegions`; `az` still sends it.
        #[serde(
            default,
            deserialize_with = "null_as_none",
            skip_serializing_if = "Vec::is_empty"
        )]
        replication_regions: Vec<Location>,
        /// Deprecated by Azure with `replicationRegions`: the kind of storage of all of them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        storage_account_type: Option<String>,
        #[serde(default, deserialize_with = "null_as_default")]
        exclude_from_latest: bool,
        #[serde(
            default,
            deserialize_with = "null_as_default",
            skip_serializing_if = "BTreeMap::is_empty"
        )]
        artifact_tags: BTreeMap<String, String>,
    },
    #[serde(rename_all = "camelCase")]
    ManagedImage {
        run_output_name: String,
        image_id: String,
        location: Location,
        #[serde(
            default,
            deserialize_with = "null_as_default",
            skip_serializing_if = "BTreeMap::is_empty"
        )]
        artifact_tags: BTreeMap<String, String>,
    },
    /// A fixed VHD in this server's blob folder.
    #[serde(rename = "VHD", rename_all = "camelCase")]
    Vhd {
        run_output_name: String,
        /// A blob of this server; absent, the server names one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        uri: Option<String>,
        #[serde(
            default,
            deserialize_with = "null_as_default",
            skip_serializing_if = "BTreeMap::is_empty"
        )]
        artifact_tags: BTreeMap<String, String>,
    },
    /// A file in this server's blob folder.
    #[serde(rename = "Bullion.File", rename_all = "camelCase")]
    File {
        run_output_name: String,
        format: FileFormat,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        uri: Option<String>,
    },
    /// An artifact in a registry that speaks the OCI distribution protocol.
    #[serde(rename = "Bullion.Oci", rename_all = "camelCase")]
    Oci {
        run_output_name: String,
        /// `host[:port]/repository:tag`.
        reference: String,
        format: FileFormat,
        /// The name of a secret that holds `user:password`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        credential: Option<String>,
    },
    /// A file in an object store.
    #[serde(rename = "Bullion.ObjectStore", rename_all = "camelCase")]
    ObjectStore {
        run_output_name: String,
        /// `s3://bucket/path` or `az://container/path`, with settings such as `?region=` and `endpoint=`.
        uri: String,
        format: FileFormat,
        /// The name of a secret that holds the keys as lines `NAME=VALUE`.
        credential: String,
    },
    /// A version in a gallery of another cloud that speaks Azure's interface: Azure itself, or another Bullion.
    #[serde(rename = "Bullion.AzureGallery", rename_all = "camelCase")]
    AzureGallery {
        run_output_name: String,
        /// An image definition there, with or without `/versions/x.y.z`.
        gallery_image_id: String,
        /// The version's own region.
        location: Location,
        #[serde(
            default,
            deserialize_with = "null_as_none",
            skip_serializing_if = "Vec::is_empty"
        )]
        target_regions: Vec<DistributeRegion>,
        #[serde(default, deserialize_with = "null_as_default")]
        exclude_from_latest: bool,
        #[serde(
            default,
            deserialize_with = "null_as_default",
            skip_serializing_if = "BTreeMap::is_empty"
        )]
        artifact_tags: BTreeMap<String, String>,
        /// The address of the blob container that the VHD waits in.
        container: String,
        /// The container's storage account, which Azure needs to know. Without it, the version's source carries the
        /// access signature.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        storage_account_id: Option<String>,
        /// The name of a secret that holds a shared access signature for the container.
        sas: String,
        /// The name of a secret that holds a service principal, as `az ad sp create-for-rbac --json-auth` prints one.
        credential: String,
    },
}

fn null_as_default<'de, D: serde::Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// What a disk is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileFormat {
    Raw,
    Qcow2,
    Vhd,
    Vhdx,
}

impl FileFormat {
    /// The usual end of a file's name, without the dot.
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vhd => "vhd",
            Self::Vhdx => "vhdx",
        }
    }
}

impl Distributor {
    pub fn run_output_name(&self) -> &str {
        match self {
            Self::SharedImage {
                run_output_name, ..
            }
            | Self::ManagedImage {
                run_output_name, ..
            }
            | Self::Vhd {
                run_output_name, ..
            }
            | Self::File {
                run_output_name, ..
            }
            | Self::Oci {
                run_output_name, ..
            }
            | Self::ObjectStore {
                run_output_name, ..
            }
            | Self::AzureGallery {
                run_output_name, ..
            } => run_output_name,
        }
    }
}

/// What `optimize` asks for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Optimize {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vm_boot: Option<Switch>,
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switch {
    pub state: SwitchState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SwitchState {
    Enabled,
    Disabled,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ErrorHandling {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_customizer_error: Option<OnBuildError>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_validation_error: Option<OnBuildError>,
}

/// What becomes of a build that fails: nothing stays, or it stays to be looked into.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum OnBuildError {
    #[default]
    Cleanup,
    Abort,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AutoRun {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<SwitchState>,
}

/// `imageTemplates/{t}/triggers/{n}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TriggerProperties {
    pub kind: TriggerKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<TriggerStatus>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TriggerKind {
    SourceImage,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TriggerStatus {
    pub code: String,
    pub message: String,
    pub time: String,
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
