//! The documents of a factory folder, as Rust types.
//!
//! These types are the one description of the language: the published JSON Schema, the checker's
//! messages and the values that `apply` works on all come from them. Doc comments here are the help
//! that an editor shows. No file is opened here and nothing is looked up.

pub mod identity;
pub mod pipeline;
pub mod policy;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::rules::{
    AbsolutePath, CertificateFile, CheckFile, DefinitionName, FactoryName, FactsFile, FileMode,
    GalleryName, Guid, MediaFile, OfferOrSku, PackageName, PlaybookFile, PowerShellFile, Publisher,
    Reference, ResourceGroupName, RestartTimeout, ScopeName, ScriptFile, ServiceName,
    SourceVersion, SshdValue, SshdWord, TemplateName, TestsFile, UserDataFile, VariableName,
    VersionNumber, ZoneName, kind,
};
use identity::{Application, RoleAssignment, ServicePrincipal};
use pipeline::Pipeline;
use policy::{PolicyAssignment, PolicyDefinition};

/// Tags of a resource: text to text.
pub type Tags = BTreeMap<String, String>;

/// One YAML document of a factory folder.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(tag = "kind")]
#[schemars(title = "Bullion factory document")]
pub enum Document {
    Factory(Factory),
    Tenant(Tenant),
    Subscription(Subscription),
    Region(Region),
    ResourceGroup(ResourceGroup),
    Gallery(Gallery),
    ImageDefinition(ImageDefinition),
    ImageTemplate(ImageTemplate),
    Application(Application),
    ServicePrincipal(ServicePrincipal),
    RoleAssignment(RoleAssignment),
    Pipeline(Pipeline),
    PolicyDefinition(PolicyDefinition),
    PolicyAssignment(PolicyAssignment),
}

/// What the folder is called. What `apply` creates from it is marked with this name, and only what is marked is ever
/// deleted. Exactly one per folder.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Factory {
    pub name: FactoryName,
    /// For people; not sent to the server.
    pub description: Option<String>,
}

/// A tenant: the boundary of identity. Names are unique in the installation.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Tenant {
    pub name: ScopeName,
    pub display_name: Option<String>,
}

/// A subscription inside a tenant. `name` is what other documents refer to and what lists show.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Subscription {
    pub name: ScopeName,
    /// The subscription id that goes into every resource id. Generate it once, keep it forever.
    pub id: Guid,
    /// The tenant that owns the subscription.
    pub tenant: Reference<kind::Tenant>,
}

/// A region with its zones. Each zone keeps its own copy of the image bits.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Region {
    pub name: ScopeName,
    pub display_name: Option<String>,
    /// Zone names; one zone called `1` unless given. Zones can be added, never removed.
    #[serde(default = "one_zone")]
    #[schemars(length(min = 1, max = 3))]
    pub zones: Vec<ZoneName>,
}

/// A resource group: what belongs together and is deleted together.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ResourceGroup {
    pub name: ResourceGroupName,
    pub subscription: Reference<kind::Subscription>,
    pub location: Reference<kind::Region>,
    #[serde(default)]
    pub tags: Tags,
}

/// A gallery of images.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Gallery {
    pub name: GalleryName,
    pub resource_group: Reference<kind::ResourceGroup>,
    /// The resource group's location unless given.
    pub location: Option<Reference<kind::Region>>,
    pub description: Option<String>,
    #[serde(default)]
    pub tags: Tags,
}

/// An image definition: one kind of image, whose versions a template builds.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ImageDefinition {
    pub name: DefinitionName,
    pub gallery: Reference<kind::Gallery>,
    /// The gallery's location unless given.
    pub location: Option<Reference<kind::Region>>,
    pub description: Option<String>,
    pub os_type: OsType,
    pub os_state: OsState,
    /// `V2` unless given.
    #[serde(default, rename = "hyperVGeneration")]
    pub hyper_v_generation: HyperVGeneration,
    /// `x64` unless given.
    #[serde(default)]
    pub architecture: Architecture,
    /// Publisher, offer and sku: unique in the gallery and fixed once created.
    pub identifier: Identifier,
    #[serde(default)]
    pub tags: Tags,
}

#[derive(Debug, Clone, Copy, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum OsType {
    Linux,
    Windows,
}

#[derive(Debug, Clone, Copy, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum OsState {
    Generalized,
    Specialized,
}

#[derive(Debug, Clone, Copy, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum HyperVGeneration {
    V1,
    #[default]
    V2,
}

#[derive(Debug, Clone, Copy, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum Architecture {
    #[default]
    #[serde(rename = "x64")]
    X64,
    Arm64,
}

#[derive(Debug, Clone, Copy, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum Firmware {
    Bios,
    Uefi,
}

/// What an image is called towards those who use it.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Identifier {
    pub publisher: Publisher,
    pub offer: OfferOrSku,
    pub sku: OfferOrSku,
}

/// An image template: the recipe of an image, its tests, and where its versions go.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ImageTemplate {
    pub name: TemplateName,
    pub resource_group: Reference<kind::ResourceGroup>,
    /// The resource group's location unless given.
    pub location: Option<Reference<kind::Region>>,
    pub source: Source,
    /// Steps in order; the first failure stops the build.
    #[serde(default)]
    #[schemars(length(max = 200))]
    pub customize: Vec<Customizer>,
    /// Checks that run inside a machine booted from the finished image. One failure and nothing is
    /// published.
    #[serde(default)]
    #[schemars(length(max = 200))]
    pub validate: Vec<Validator>,
    #[schemars(length(min = 1, max = 20))]
    pub distribute: Vec<Distribution>,
    /// Firmware that the finished image is booted with for its checks; `[Bios]` unless given.
    #[schemars(length(min = 1, max = 2))]
    pub test_firmware: Option<Vec<Firmware>>,
    pub vm_profile: Option<VmProfile>,
    /// What is kept of a build that failed: nothing unless given.
    pub error_handling: Option<ErrorHandling>,
    /// 60 unless given.
    #[serde(default = "build_timeout")]
    #[schemars(range(min = 6, max = 960))]
    pub build_timeout_in_minutes: u32,
    #[serde(default)]
    pub tags: Tags,
}

/// What the image is made from.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(tag = "type", deny_unknown_fields, rename_all_fields = "camelCase")]
pub enum Source {
    /// A base operating system that the server makes itself.
    PlatformImage {
        publisher: Publisher,
        offer: OfferOrSku,
        sku: OfferOrSku,
        /// `latest`, or one version such as `12.20261121.0`.
        #[serde(default)]
        version: SourceVersion,
        /// Where its packages come from, in place of the server's own mirrors: lines such as
        /// `deb https://mirror.example/debian bookworm main`.
        #[serde(default)]
        #[schemars(length(max = 20))]
        mirrors: Vec<String>,
    },
    /// A version of an image definition. The new image shares all blocks with it that it does not change.
    SharedImageVersion {
        image_definition: Reference<kind::ImageDefinition>,
        /// `latest`, which is looked up when a build begins, or one version such as `1.0.0`.
        #[serde(default)]
        version: SourceVersion,
    },
}

/// One step of the recipe.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(tag = "type", deny_unknown_fields, rename_all_fields = "camelCase")]
pub enum Customizer {
    /// Install packages of the distribution.
    Packages {
        name: TemplateName,
        #[schemars(length(min = 1, max = 500))]
        packages: Vec<PackageName>,
    },
    /// Put one file of this folder into the image.
    File {
        name: TemplateName,
        /// Path in this folder.
        source: MediaFile,
        /// Path in the image; of a Windows, with its drive.
        destination: AbsolutePath,
        /// Permissions in quotes; `"0644"` unless given. A file of Windows has none.
        mode: Option<FileMode>,
    },
    /// Run a script of this folder, or a few lines written here, as root.
    Shell {
        name: TemplateName,
        /// Path in this folder. Either `script` or `inline`.
        script: Option<ScriptFile>,
        /// Lines of shell. Either `script` or `inline`.
        #[schemars(length(min = 1, max = 500))]
        inline: Option<Vec<String>>,
        /// What the script finds in its environment, and nobody finds anywhere else.
        #[serde(default)]
        #[schemars(length(max = 50))]
        secrets: Vec<BuildSecret>,
    },
    /// Run a script of this folder, or a few lines written here, in a Windows, as SYSTEM and without a network.
    PowerShell {
        name: TemplateName,
        /// Path in this folder. Either `script` or `inline`.
        script: Option<PowerShellFile>,
        /// Lines of PowerShell, which are one script. Either `script` or `inline`.
        #[schemars(length(min = 1, max = 500))]
        inline: Option<Vec<String>>,
        /// Exit codes that are good; 0 alone unless given.
        #[serde(default)]
        #[schemars(length(max = 100))]
        valid_exit_codes: Vec<i32>,
        /// What the script finds in its environment, and nobody finds anywhere else.
        #[serde(default)]
        #[schemars(length(max = 50))]
        secrets: Vec<BuildSecret>,
    },
    /// Restart a Windows and wait until it is up.
    WindowsRestart {
        name: TemplateName,
        /// A command as cmd takes it; `shutdown /r /f /t 0 /c "packer restart"` unless given.
        restart_command: Option<String>,
        /// A command that ends with 0 once all is up; it is tried until then.
        restart_check_command: Option<String>,
        /// How long all of it may take; `5m` unless given. An emulated machine gets six times as long.
        restart_timeout: Option<RestartTimeout>,
    },
    /// Install updates of Windows, from where it gets them, and restart as often as that takes.
    WindowsUpdate {
        name: TemplateName,
        /// As Windows Update takes them; `BrowseOnly=0 and IsInstalled=0` unless given.
        search_criteria: Option<String>,
        /// `include:` or `exclude:` and an expression of PowerShell about `$_`, the update. The first that holds decides; what
        /// none is about is left out. Everything is included unless given.
        #[serde(default)]
        #[schemars(length(max = 100))]
        filters: Vec<String>,
        /// Updates at a time; 1000 unless given.
        update_limit: Option<u32>,
    },
    /// Trust a certificate authority of the organisation.
    CaCertificate {
        name: TemplateName,
        /// Path in this folder of a PEM file with one or more certificates.
        certificate: CertificateFile,
    },
    /// Run a playbook on the image, by the `ansible-playbook` in it, without a network.
    Ansible {
        name: TemplateName,
        /// Path in this folder of a playbook for `hosts: all`. What it includes must be in the image.
        playbook: PlaybookFile,
        /// Variables of the playbook, by name.
        #[serde(default)]
        variables: BTreeMap<String, Value>,
    },
    /// What cloud-init does at the first start of each machine.
    CloudInit {
        name: TemplateName,
        /// Path in this folder of user data, such as a `#cloud-config`.
        user_data: UserDataFile,
    },
    /// Words of the kernel's command line.
    KernelCommandLine {
        name: TemplateName,
        #[serde(default)]
        #[schemars(length(max = 50))]
        add: Vec<String>,
        /// Whole words, or names of `name=value`.
        #[serde(default)]
        #[schemars(length(max = 50))]
        remove: Vec<String>,
    },
    /// Whether a machine's system grows into all of its disk at its first start.
    PartitionGrowth { name: TemplateName, enabled: bool },
}

/// A secret of the server, by reference. One of `file`, `environment`, and `vault` with `field`.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct BuildSecret {
    /// The variable in the script's environment.
    pub name: VariableName,
    /// A file of the tenant's secrets on the server.
    pub file: Option<String>,
    /// A variable of the server's environment, without its prefix `BULLION_SECRET_`.
    pub environment: Option<String>,
    /// A path of a key-value store that answers like Vault's.
    pub vault: Option<String>,
    /// The field there.
    pub field: Option<String>,
}

/// One check in a machine that was booted from the finished image.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(tag = "type", deny_unknown_fields, rename_all_fields = "camelCase")]
pub enum Validator {
    /// A service is active.
    Service {
        name: TemplateName,
        service: ServiceName,
    },
    /// The effective configuration of sshd says so.
    SshdOption {
        name: TemplateName,
        option: SshdWord,
        value: SshdValue,
    },
    /// `/etc/bullion-image` reads back what was written.
    Tattoo { name: TemplateName },
    /// Files, packages, services, users, ports and more are as a file in goss's words says.
    Facts {
        name: TemplateName,
        /// Path in this folder of a YAML file: kinds of things, below each their names, below each what shall be true. The
        /// kinds are `file` (exists, mode, owner, group, uid, gid, size, filetype, linked-to, sha256, contents), `package`
        /// (installed, versions), `service` (enabled, running), `user` (exists, uid, gid, groups, home, shell), `group`
        /// (exists, gid), `port` (listening, ip), `process` (running), `kernel-param` (value) and `command` (exit-status,
        /// stdout, stderr). A value is compared as it is, or by `not`, `and`, `or`, `gt`, `ge`, `lt`, `le`, `match-regexp`,
        /// `have-prefix`, `have-suffix`, `contain-substring`, `contain-element`, `contain-elements`, `consist-of` or
        /// `have-len`; contents and outputs are searched for parts, `/patterns/` of a line, and `!` what must not be there.
        file: FactsFile,
    },
    /// Every test function of a Python file passes, by pytest with testinfra, over SSH.
    Testinfra {
        name: TemplateName,
        /// Path in this folder. The fixture `host` is the machine; `with host.sudo():` asks as root. The file sees nothing of
        /// the server but Python, pytest and testinfra, and reaches nothing but the machine.
        file: TestsFile,
    },
    /// A script or a few lines end with a good exit code, in a Windows, as SYSTEM.
    PowerShell {
        name: TemplateName,
        /// Path in this folder. Either `script` or `inline`.
        script: Option<TestsFile>,
        /// Lines of PowerShell, which are one script. Either `script` or `inline`.
        #[schemars(length(min = 1, max = 500))]
        inline: Option<Vec<String>>,
        /// Exit codes that are good; 0 alone unless given.
        #[serde(default)]
        #[schemars(length(max = 100))]
        valid_exit_codes: Vec<i32>,
    },
    /// Every test of a file for Pester passes, in a Windows whose image has Pester 5 or later.
    Pester {
        name: TemplateName,
        /// Path in this folder. It runs inside the machine, as SYSTEM.
        file: TestsFile,
    },
    /// OpenSCAP finds no rule broken that counts. It looks at the finished disk before that is booted; not for a pipeline.
    OpenScap {
        name: TemplateName,
        /// Name of a SCAP data stream that the server has, in `scap` of its data folder or where Debian's `ssg-debian` puts it.
        #[schemars(length(min = 1))]
        content: String,
        /// Id of one of its profiles; all that it selects by itself unless given.
        #[schemars(length(min = 1))]
        profile: Option<String>,
        /// Broken rules from this severity on fail the check; `High` unless given.
        fails_from: Option<Severity>,
        /// Rules, by their ids, that fail the check or are told whatever their severity.
        #[serde(default)]
        rules: BTreeMap<String, RuleVerdict>,
        /// Of 100.
        #[schemars(range(min = 0, max = 100))]
        min_score: Option<f64>,
    },
    /// lynis finds nothing that counts. It looks at the finished disk before that is booted; not for a pipeline.
    Lynis {
        name: TemplateName,
        /// Findings from this severity on fail the check: a warning is `High`, a suggestion `Low`; `High` unless given.
        fails_from: Option<Severity>,
        /// Tests, by their ids, that fail the check or are told whatever their severity.
        #[serde(default)]
        rules: BTreeMap<String, RuleVerdict>,
        /// The hardening index, of 100.
        #[schemars(range(min = 0, max = 100))]
        min_score: Option<f64>,
    },
    /// A script or a few lines exit with 0.
    Shell {
        name: TemplateName,
        /// Path in this folder. Either `script` or `inline`.
        script: Option<CheckFile>,
        /// Lines of shell. Either `script` or `inline`.
        #[schemars(length(min = 1, max = 500))]
        inline: Option<Vec<String>>,
    },
}

/// How serious a broken rule is.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, JsonSchema)]
pub enum Severity {
    Low,
    Medium,
    High,
}

/// What a broken rule does.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, JsonSchema)]
pub enum RuleVerdict {
    /// The check fails.
    Fail,
    /// It is told.
    Warn,
}

/// Where a built image is published.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(tag = "type", deny_unknown_fields, rename_all_fields = "camelCase")]
pub enum Distribution {
    SharedImage(GalleryDistribution),
    /// A managed image, which each build replaces.
    ManagedImage {
        run_output_name: TemplateName,
        /// The image's name.
        image: DefinitionName,
        /// The template's unless given.
        resource_group: Option<Reference<kind::ResourceGroup>>,
        location: Reference<kind::Region>,
    },
    File(FileDistribution),
    Oci(RegistryDistribution),
    ObjectStore(ObjectDistribution),
    AzureGallery(AzureDistribution),
}

/// A version of an image definition, copied to the target regions.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct GalleryDistribution {
    /// Unique in the template; the image definition's name unless given.
    pub run_output_name: Option<TemplateName>,
    pub image_definition: Reference<kind::ImageDefinition>,
    /// Publish exactly this version, for example `1.0.0`. Usually left out: `major` and the
    /// versions that exist decide.
    pub version: Option<VersionNumber>,
    /// The next version number is taken within this major number.
    #[schemars(range(min = 0, max = 2147483647))]
    pub major: Option<u32>,
    #[schemars(length(min = 1, max = 100))]
    pub target_regions: Vec<TargetRegion>,
    /// `false` unless given.
    #[serde(default)]
    pub exclude_from_latest: bool,
}

/// A file in the server's blob folder.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct FileDistribution {
    pub run_output_name: TemplateName,
    pub format: FileFormat,
    /// An address below the server's `/blobs/`; absent, the server names the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
}

/// An artifact in a registry of containers.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RegistryDistribution {
    pub run_output_name: TemplateName,
    /// Such as `registry.example/images/golden:1.0`.
    pub reference: String,
    pub format: FileFormat,
    /// The name of a secret that holds `user:password`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
}

/// A file in an object store.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ObjectDistribution {
    pub run_output_name: TemplateName,
    /// `s3://bucket/path` or `az://container/path`, with settings such as `?region=` and `endpoint=`.
    pub uri: String,
    pub format: FileFormat,
    /// The name of a secret that holds the keys as lines `NAME=VALUE`.
    pub credential: String,
}

/// A version in a gallery of Azure's, or of another Bullion's.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct AzureDistribution {
    pub run_output_name: TemplateName,
    /// The id of an image definition there, with or without `/versions/x.y.z`.
    pub gallery_image_id: String,
    pub location: String,
    /// The location alone unless given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub target_regions: Vec<ForeignRegion>,
    /// `false` unless given.
    #[serde(default)]
    pub exclude_from_latest: bool,
    /// The blob container that the VHD waits in, such as `https://account.blob.core.windows.net/images`.
    pub container: String,
    /// The id of the container's storage account, which Azure needs to know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_account_id: Option<String>,
    /// The name of a secret that holds a shared access signature of the container.
    pub sas: String,
    /// The name of a secret that holds a service principal, as `az ad sp create-for-rbac --json-auth` prints one.
    pub credential: String,
}

/// What a disk is written as.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum FileFormat {
    Raw,
    Qcow2,
    Vhd,
    Vhdx,
}

/// A region of another cloud.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ForeignRegion {
    pub name: String,
    /// 1 unless given.
    #[serde(default = "one_replica")]
    #[schemars(range(min = 1, max = 100))]
    pub replica_count: u32,
    /// `Standard_LRS`, `Standard_ZRS` or `Premium_LRS`; what that cloud takes unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_account_type: Option<String>,
}

/// One region that gets a copy.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TargetRegion {
    pub name: Reference<kind::Region>,
    /// 1 unless given.
    #[serde(default = "one_replica")]
    #[schemars(range(min = 1, max = 100))]
    pub replica_count: u32,
}

/// What is kept of a build that failed.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ErrorHandling {
    /// `abort` keeps what the failed step had written, on the server's host.
    pub on_customizer_error: Option<OnError>,
    /// `abort` keeps the machine whose checks failed, for `bullion build exec` and `bullion build shell`.
    pub on_validation_error: Option<OnError>,
}

#[derive(Debug, Clone, Copy, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum OnError {
    Cleanup,
    Abort,
}

/// The machine that builds and tests.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct VmProfile {
    /// Size of the image's disk.
    #[serde(rename = "osDiskSizeGB")]
    #[schemars(range(min = 1, max = 2048))]
    pub os_disk_size_gb: Option<u32>,
}

fn one_zone() -> Vec<ZoneName> {
    vec![ZoneName::default()]
}

fn one_replica() -> u32 {
    1
}

fn build_timeout() -> u32 {
    60
}
