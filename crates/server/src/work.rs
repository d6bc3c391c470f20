//! What the server asks of the factory: validation, the jobs to submit, what machines and replicas look like.
//!
//! A trait, so that the operation table is tested without tools, disks and machines. The real one is in
//! [`crate::production`], the fake beside it here.

use std::path::PathBuf;

use access::Permit;
use async_trait::async_trait;
use catalog::{NewJob, Resource};
use factory::deploy::{ChangeDisksInput, PowerChange};
use factory::disks::DiskDigest;
use factory::domains::{DomainState, Erasure};
use factory::export::{ExportedImage, ImageFormat};
use factory::import::{ImportSource, Imported, LocalDisk};
use factory::pipeline::Base;
use factory::source::Product;
use jobs::{StepError, StepHandle};
use provenance::PublicKey;
use serde_json::{Map, Value};
use wire::promotion::PromotionProperties;
use wire::{ArmError, Location, ResourceId, TenantId};

/// A run that has its record and waits to be submitted.
pub struct Begun {
    pub run: ResourceId,
    pub job: NewJob,
}

/// What a disk encryption set asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainAsked {
    pub set: ResourceId,
    pub tenant: TenantId,
    pub region: Location,
    /// None for the key that there is, or a new one.
    pub key_url: Option<String>,
    /// Addresses of this server, below which its own keys are.
    pub own: Vec<String>,
    /// Whether newer versions of the key are taken by themselves.
    pub rotates: bool,
}

#[async_trait]
pub trait Work: Send + Sync {
    /// The regions that have a store.
    fn regions(&self) -> Vec<Location>;
    /// How many zones a region has; none if it is not there.
    fn zones(&self, region: &Location) -> usize;
    /// Makes the stores of a region. Zones are added, never removed.
    fn define_region(&self, region: &Location, zones: &[String]) -> Result<(), ArmError>;
    /// Why a region cannot keep what a storage account type of Azure's asks for. Blocks for a moment at most.
    fn check_storage(&self, region: &Location, kind: &str) -> Result<(), String>;
    /// The stores of a region and how its scrub is doing. Blocks.
    fn region_state(&self, region: &Location) -> Value;
    /// Refuses a template that no run could build.
    fn check_template(&self, properties: &Map<String, Value>) -> Result<(), ArmError>;
    /// Makes the record of a new run of a template, and the job that runs it.
    async fn begin_run(&self, permit: &Permit, template: &Resource) -> Result<Begun, ArmError>;
    /// Takes back the record of a run whose job could not be submitted.
    async fn abandon_run(&self, run: &ResourceId, tenant: TenantId);
    /// What is known of the machine that is kept of a run whose checks failed, if there is one.
    fn kept_machine(&self, run: &ResourceId) -> Option<Value>;
    /// Runs lines of its shell in that machine: `exitCode`, `stdout` and `stderr`; none if no machine is kept.
    async fn run_in_kept(&self, run: &ResourceId, lines: &str) -> Option<Result<Value, String>>;
    /// Ends that machine. Answers whether there was one.
    async fn release_machine(&self, run: &ResourceId) -> bool;
    /// The job that starts a machine.
    fn deploy(&self, machine: &ResourceId) -> NewJob;
    /// The job that switches a machine on or off.
    fn switch(&self, machine: &ResourceId, change: PowerChange) -> NewJob;
    /// The job that puts data disks on a machine and takes them off.
    fn change_disks(&self, change: ChangeDisksInput) -> NewJob;
    /// The disk that a machine boots from, or the data disk of a number, a file on this server. The machine does
    /// not run.
    async fn machine_disk(&self, machine: &ResourceId, lun: Option<u32>) -> Option<LocalDisk>;
    /// The machines that run here, with the folders of their sockets.
    fn metadata_links(&self) -> Vec<(ResourceId, PathBuf)>;
    /// The job that stops a machine and removes it and its resource.
    fn delete_machine(&self, machine: &ResourceId) -> NewJob;
    /// Takes a disk into the stores of a region. Doing it twice finds what is there.
    async fn import(&self, region: &Location, source: ImportSource) -> Result<Imported, StepError>;
    /// Brings a version's disk to all its regions; the reason where one of them failed.
    async fn replicate(&self, step: &StepHandle, version: &Resource) -> Result<(), StepError>;
    /// The job that brings a version to the next stage.
    fn promote(&self, promotion: &ResourceId) -> NewJob;
    /// The job that builds a version again and compares.
    fn verify_build(&self, version: &ResourceId, base: Base) -> NewJob;
    /// Compares the disks of both stages, read anew.
    async fn verify_promotion(&self, promotion: &PromotionProperties) -> Result<Value, ArmError>;
    /// The keys that statements about disks are trusted from: the one that signs first.
    fn statement_keys(&self) -> Vec<PublicKey>;
    /// Has a new key sign statements from now on; the one before is trusted as before.
    async fn rotate_statement_key(&self) -> Result<(), ArmError>;
    /// The platform images that are offered.
    fn products(&self) -> Vec<Product>;
    /// The versions of one of them; the first question may have to ask the archive.
    async fn versions_of(&self, product: &Product) -> Vec<String>;
    /// Replicas of a version have changed; do not wait for the next round.
    fn nudge_replication(&self);
    /// Azure's `replicationStatus`.
    fn replication_status(&self, version: &Resource) -> Value;
    /// Azure's `instanceView`, looked at now.
    async fn instance_view(&self, machine: &Resource) -> Value;
    /// Makes the dedup domain of a disk encryption set, or has it use another key.
    async fn put_domain(&self, asked: DomainAsked) -> Result<DomainState, ArmError>;
    /// What is to be said about a set's domain now.
    async fn domain_state(&self, set: &ResourceId) -> Option<DomainState>;
    /// Has the newest version of its key wrap a domain's secret.
    async fn rotate_domain(&self, set: &ResourceId) -> Result<(), ArmError>;
    /// Takes a domain's secret away for good, or tells what that would come to.
    async fn erase_domain(&self, set: &ResourceId, for_real: bool) -> Result<Erasure, ArmError>;
    /// Erases a domain and removes its stores. For one that is not there it does nothing.
    async fn remove_domain(&self, set: &ResourceId) -> Result<(), ArmError>;
    /// A disk as an image file, from whichever of `places` holds it, or, where none is named, whichever region.
    async fn export(
        &self,
        digest: &DiskDigest,
        places: &[Location],
        format: ImageFormat,
    ) -> Result<ExportedImage, ArmError>;
    /// What the machine really runs, once that is known.
    fn machine_image(&self, machine: &Resource) -> Option<Value>;
}
