//! The real engine behind the server: the factory, its job kinds and the runner that works them off.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use access::{Action, Permit, SystemReason};
use async_trait::async_trait;
use catalog::{
    Backend, CHANGES_MAX, CatalogError, Change, Changes, NewJob, PageRequest, Precondition,
    Resource,
};
use factory::deploy::{
    self, ChangeDisks, ChangeDisksInput, DeleteMachine, DeleteMachineInput, Deploy, DeployInput,
    Power, PowerChange, PowerInput,
};
use factory::disks::DiskDigest;
use factory::domains::{DomainError, DomainName, DomainSetting, DomainState, Erasure, KeyChoice};
use factory::export::{ExportedImage, ImageError, ImageFormat};
use factory::import::{ImportSource, Imported, LocalDisk};
use factory::pipeline::{self, Base, BuildRun, TemplateProblem, VerifyBuild, VerifyInput};

use factory::promote::{self, Promote, PromoteInput};
use factory::replicate::{everywhere, replication_status};
use factory::source::Product;
use factory::{BlobPlace, Factory, FactoryError, FactoryOptions, Regions};
use jobs::{JobKind, Jobs, Runner, RunnerBuilder, StepError, StepHandle};
use provenance::PublicKey;
use serde_json::{Map, Value, json};
use store::StoreError;
use store::region::Kind;
use tokio::task::JoinSet;
use wire::promotion::PromotionProperties;
use wire::{ArmError, ArmErrorBody, ErrorCode, Location, ResourceId, ResourceType, TenantId};

use crate::enforcement::Gate;
use crate::engine::{self, Engine, EngineError, EngineParts, JobsRun};
use crate::errors;
use crate::resources::tenancy::{self, REGION};
use crate::work::{Begun, DomainAsked, Work};

/// How long steps under way have to end at a stop; what did not is resumed at the next start.
const STOP_GRACE: Duration = Duration::from_secs(20);
/// Of a command in a machine that is kept; within the time that a request has.
const KEPT_DEADLINE: Duration = Duration::from_secs(100);
/// Regions of one installation.
const REGIONS_MAX: usize = 1000;
/// The longest between two looks for regions that other servers made.
const REGIONS_LOOK: Duration = Duration::from_secs(5);

struct Production {
    factory: Arc<Factory>,
    runner: Runner,
    work: Arc<FactoryWork>,
    followers: JoinSet<()>,
}

struct FactoryWork {
    factory: Arc<Factory>,
    catalog: Arc<dyn Backend>,
}

fn fault(
    what: &'static str,
) -> impl FnOnce(Box<dyn std::error::Error + Send + Sync>) -> EngineError {
    move |cause| EngineError { what, cause }
}

pub async fn engine(parts: EngineParts) -> Result<Box<dyn Engine>, EngineError> {
    let EngineParts {
        data,
        server,
        catalog,
        installation,
        blobs,
        seal,
        url,
        reach,
        jobs,
        comply,
        limits,
        storage,
    } = parts;
    let factory = Factory::open(FactoryOptions {
        server: server.clone(),
        data,
        catalog: catalog.clone(),
        feed: catalog.clone(),
        auth: catalog.clone(),
        jobs: catalog.clone(),
        statements: catalog.clone(),
        ask: Arc::new(Gate {
            comply,
            catalog: catalog.clone(),
            limits,
        }),
        blobs: blobs.as_ref().map(|blobs| BlobPlace {
            folder: blobs.folder().to_owned(),
            url,
        }),
        reach,
        storage,
    })
    .map_err(|error| fault("open the factory")(error.into()))?;
    let work = Arc::new(FactoryWork {
        factory: Arc::clone(&factory),
        catalog: Arc::clone(&catalog),
    });
    work.define_kept_regions(installation.tenant)
        .await
        .map_err(|error| fault("open the regions")(error.into()))?;
    let mut followers = JoinSet::new();
    if catalog.is_shared() {
        let (catalog, work) = (Arc::clone(&catalog), Arc::clone(&work));
        followers.spawn(follow_regions(catalog, work, installation.tenant));
    }
    let mut builder = RunnerBuilder::new(catalog.clone(), catalog.clone());
    let runner = match jobs {
        JobsRun::Elsewhere => builder.build(),
        JobsRun::Here => {
            take_over(&factory, &*catalog, &server).await?;
            builder.server(server);
            factory.register(&mut builder);
            engine::register(&mut builder, catalog, work.clone(), blobs, seal);
            builder.start()
        }
    };
    Ok(Box::new(Production {
        factory,
        runner,
        work,
        followers,
    }))
}

/// What an earlier start of this server left: its jobs and its machines.
async fn take_over(
    factory: &Arc<Factory>,
    jobs: &dyn Backend,
    server: &str,
) -> Result<(), EngineError> {
    // The data folder's lock is held, so whoever held a lease in its name is dead. Other servers on the same
    // database keep theirs.
    let orphans = jobs
        .end_leases(server)
        .await
        .map_err(|error| fault("take over the jobs of an earlier start")(error.into()))?;
    tracing::info!(orphans, "jobs of an earlier start");
    let adopted = factory
        .adopt_machines()
        .await
        .map_err(|error| fault("look after the machines")(error.into()))?;
    tracing::info!(?adopted, "machines of an earlier start");
    Ok(())
}

/// Opens the regions that other servers on the same database make. It ends by being dropped.
async fn follow_regions(catalog: Arc<dyn Backend>, work: Arc<FactoryWork>, tenant: TenantId) {
    let mut wakeups = catalog.wakeups();
    let mut seen = None;
    loop {
        match regions_changed(&*catalog, &mut seen).await {
            Ok(false) => {
                // The hint may be lost; the next look finds what it was about.
                let _ = tokio::time::timeout(REGIONS_LOOK, wakeups.changed()).await;
                continue;
            }
            Ok(true) => {}
            Err(error) => {
                let error: &(dyn std::error::Error + 'static) = &error;
                tracing::warn!(
                    error = errors::chain(error),
                    "new regions cannot be looked for"
                );
                tokio::time::sleep(REGIONS_LOOK).await;
                continue;
            }
        }
        if let Err(error) = work.define_kept_regions(tenant).await {
            let error: &(dyn std::error::Error + 'static) = &error;
            tracing::warn!(error = errors::chain(error), "regions cannot be read");
            seen = None;
        }
    }
}

/// Whether a region may have changed since the change that was `seen`, which moves on.
async fn regions_changed(feed: &dyn Backend, seen: &mut Option<u64>) -> Result<bool, CatalogError> {
    let Some(after) = *seen else {
        *seen = Some(feed.latest_change().await?);
        return Ok(true);
    };
    match feed.changes_after(after, CHANGES_MAX).await? {
        Changes::Lost { latest } => {
            *seen = Some(latest);
            Ok(true)
        }
        Changes::Next(changes) => {
            let region = |change: &Change| change.id.resource_type().is(REGION);
            let changed = changes.iter().any(region);
            *seen = changes.last().map(|change| change.seq).or(*seen);
            Ok(changed)
        }
    }
}

#[async_trait]
impl Engine for Production {
    fn work(&self) -> Arc<dyn Work> {
        self.work.clone()
    }

    fn jobs(&self) -> Jobs {
        self.runner.jobs()
    }

    async fn acceleration(&self) -> String {
        let acceleration = self.factory.acceleration().await;
        format!("{:?}: {}", acceleration.accel, acceleration.why)
    }

    async fn stop(mut self: Box<Self>) {
        self.followers.shutdown().await;
        self.runner.stop(STOP_GRACE).await;
    }
}

impl FactoryWork {
    /// Stores and key services block.
    async fn with_regions<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Regions) -> Result<T, DomainError> + Send + 'static,
    ) -> Result<T, ArmError> {
        let regions = Arc::clone(self.factory.regions());
        let done = tokio::task::spawn_blocking(move || work(&regions)).await;
        let done = done.map_err(|error| errors::internal("a domain's work", &error))?;
        done.map_err(domain_error)
    }

    /// A region that the catalog knows has its stores, even where their folders were taken away.
    async fn define_kept_regions(&self, tenant: TenantId) -> Result<(), CatalogError> {
        let permit = Permit::system(
            SystemReason::Startup,
            Action::new(format!("{REGION}/read")),
            ResourceId::root(),
            tenant,
        );
        let page = PageRequest::first(REGIONS_MAX);
        let page = self
            .catalog
            .list(&permit, &ResourceType::new(REGION), page)
            .await?;
        for region in &page.resources {
            let location = Location::new(region.id.name());
            let zones = tenancy::zones_of(region);
            // One region that cannot be opened must not keep the others from being served.
            if let Err(error) = self.factory.regions().define(&location, &zones) {
                let error: &(dyn std::error::Error + 'static) = &error;
                tracing::error!(region = %location, error = errors::chain(error), "cannot open a region");
            }
        }
        Ok(())
    }
}

fn new_job<K: JobKind>(input: &K::Input) -> NewJob {
    NewJob {
        kind: K::NAME.into(),
        // Inputs are ids and JSON; there is nothing in them that JSON cannot hold.
        input: serde_json::to_value(input).unwrap_or_default(),
        exclusive: None,
        visible_at: Vec::new(),
    }
}

#[async_trait]
impl Work for FactoryWork {
    fn regions(&self) -> Vec<Location> {
        self.factory.regions().names()
    }

    fn zones(&self, region: &Location) -> usize {
        self.factory.regions().zones(region).len()
    }

    fn define_region(&self, region: &Location, zones: &[String]) -> Result<(), ArmError> {
        self.factory
            .regions()
            .define(region, zones)
            .map_err(|error| errors::internal("making a region's stores", &error))
    }

    fn check_storage(&self, region: &Location, kind: &str) -> Result<(), String> {
        let found = self.factory.regions().region(region);
        let region = found.map_err(|error| error.to_string())?;
        let known = Kind::of(Some(kind));
        let known = known.ok_or_else(|| format!("There is no storage account type '{kind}'."))?;
        region.check(known).map_err(|error| error.to_string())
    }

    fn region_state(&self, region: &Location) -> Value {
        self.factory.region_state(region)
    }

    fn check_template(&self, properties: &Map<String, Value>) -> Result<(), ArmError> {
        pipeline::check_template(&Value::Object(properties.clone()))
            .map_err(|problems| invalid(&problems))
    }

    async fn begin_run(&self, permit: &Permit, template: &Resource) -> Result<Begun, ArmError> {
        let begun = self
            .factory
            .begin_run(permit, template)
            .await
            .map_err(factory_error)?;
        let mut job = new_job::<BuildRun>(&begun.input);
        job.exclusive = Some(pipeline::exclusive(&template.id));
        job.visible_at.push(begun.run.clone());
        Ok(Begun {
            job,
            run: begun.run,
        })
    }

    fn kept_machine(&self, run: &ResourceId) -> Option<Value> {
        self.factory.kept_machines().of(run)
    }

    async fn run_in_kept(&self, run: &ResourceId, lines: &str) -> Option<Result<Value, String>> {
        let kept = self.factory.kept_machines();
        let ran = kept.run_in(run, lines, KEPT_DEADLINE).await?;
        Some(ran.map(|output| {
            json!({ "exitCode": output.status, "stdout": output.stdout, "stderr": output.stderr })
        }))
    }

    async fn release_machine(&self, run: &ResourceId) -> bool {
        self.factory.kept_machines().release(run).await
    }

    async fn abandon_run(&self, run: &ResourceId, tenant: TenantId) {
        let action = Action::new(format!("{}/delete", run.resource_type()));
        let permit = Permit::system(SystemReason::JobStatus, action, run.clone(), tenant);
        if let Err(error) = self.catalog.delete(&permit, Precondition::None).await {
            tracing::warn!(%run, %error, "the record of a run that never began stays");
        }
    }

    fn deploy(&self, machine: &ResourceId) -> NewJob {
        new_job::<Deploy>(&DeployInput {
            vm: machine.clone(),
        })
    }

    fn switch(&self, machine: &ResourceId, change: PowerChange) -> NewJob {
        new_job::<Power>(&PowerInput {
            vm: machine.clone(),
            change,
        })
    }

    fn change_disks(&self, change: ChangeDisksInput) -> NewJob {
        new_job::<ChangeDisks>(&change)
    }

    async fn machine_disk(&self, machine: &ResourceId, lun: Option<u32>) -> Option<LocalDisk> {
        self.factory.machine_disk(machine, lun).await
    }

    fn metadata_links(&self) -> Vec<(ResourceId, PathBuf)> {
        self.factory.running_machines()
    }

    fn delete_machine(&self, machine: &ResourceId) -> NewJob {
        new_job::<DeleteMachine>(&DeleteMachineInput {
            vm: machine.clone(),
        })
    }

    async fn import(&self, region: &Location, source: ImportSource) -> Result<Imported, StepError> {
        self.factory.import(region, source).await
    }

    async fn replicate(&self, step: &StepHandle, version: &Resource) -> Result<(), StepError> {
        everywhere(&self.factory, step, version).await
    }

    fn promote(&self, promotion: &ResourceId) -> NewJob {
        let mut job = new_job::<Promote>(&PromoteInput {
            promotion: promotion.clone(),
        });
        job.exclusive = Some(promote::exclusive(promotion));
        job
    }

    fn verify_build(&self, version: &ResourceId, base: Base) -> NewJob {
        let mut job = new_job::<VerifyBuild>(&VerifyInput {
            version: version.clone(),
            base,
        });
        job.exclusive = Some(pipeline::verify_exclusive(version));
        job
    }

    async fn verify_promotion(&self, promotion: &PromotionProperties) -> Result<Value, ArmError> {
        let verified = promote::verify(&self.factory, promotion).await;
        let verified = verified.map_err(|error| {
            let linked = ErrorCode::LinkedAuthorizationFailed;
            let code = match &error {
                StepError::Failed { code, .. } if code == linked.as_str() => linked,
                _ => ErrorCode::Conflict,
            };
            ArmError::new(code, error.to_string())
        })?;
        serde_json::to_value(verified).map_err(|error| errors::internal("showing a proof", &error))
    }

    fn statement_keys(&self) -> Vec<PublicKey> {
        self.factory.statement_keys()
    }

    async fn rotate_statement_key(&self) -> Result<(), ArmError> {
        let rotated = self.factory.rotate_statement_key().await;
        rotated.map_err(|error| errors::internal("replacing the key for statements", &error))
    }

    fn products(&self) -> Vec<Product> {
        self.factory.products()
    }

    async fn versions_of(&self, product: &Product) -> Vec<String> {
        self.factory.versions_of(product).await
    }

    fn nudge_replication(&self) {
        self.factory.nudge_replication();
    }

    fn replication_status(&self, version: &Resource) -> Value {
        replication_status(version)
    }

    async fn instance_view(&self, machine: &Resource) -> Value {
        let state = self.factory.shown_power_state(machine).await;
        deploy::instance_view(machine, state)
    }

    async fn put_domain(&self, asked: DomainAsked) -> Result<DomainState, ArmError> {
        self.with_regions(move |regions| {
            let name = DomainName::of(&asked.set);
            let own: Vec<&str> = asked.own.iter().map(String::as_str).collect();
            let key = match &asked.key_url {
                None => KeyChoice::Same,
                Some(url) => regions.key_choice(&name, asked.tenant, url, &own)?,
            };
            regions.put_domain(&DomainSetting {
                set: asked.set,
                tenant: asked.tenant,
                region: asked.region,
                key,
                rotates: asked.rotates,
            })
        })
        .await
    }

    async fn domain_state(&self, set: &ResourceId) -> Option<DomainState> {
        let name = DomainName::of(set);
        let state = self.with_regions(move |regions| Ok(regions.domain_state(&name)));
        state.await.ok().flatten()
    }

    async fn rotate_domain(&self, set: &ResourceId) -> Result<(), ArmError> {
        let name = DomainName::of(set);
        self.with_regions(move |regions| regions.rotate_domain(&name))
            .await
    }

    async fn erase_domain(&self, set: &ResourceId, for_real: bool) -> Result<Erasure, ArmError> {
        let name = DomainName::of(set);
        self.with_regions(move |regions| regions.erase_domain(&name, for_real))
            .await
    }

    async fn remove_domain(&self, set: &ResourceId) -> Result<(), ArmError> {
        let name = DomainName::of(set);
        self.with_regions(move |regions| regions.remove_domain(&name))
            .await
    }

    async fn export(
        &self,
        digest: &DiskDigest,
        places: &[Location],
        format: ImageFormat,
    ) -> Result<ExportedImage, ArmError> {
        let image = self.factory.export(digest, places, format).await;
        image.map_err(|error| match error {
            ImageError::NoHolder(_) => errors::conflict(
                "No region holds the disk whole at this moment. Look at the replication status of its version.",
            ),
            ImageError::Store(locked @ StoreError::Locked { .. }) => {
                errors::conflict(format!("The disk cannot be read: {locked}."))
            }
            error => errors::internal("exporting a disk", &error),
        })
    }

    fn machine_image(&self, machine: &Resource) -> Option<Value> {
        deploy::machine_image(machine)
    }
}

/// What a client can change is told; a key service that does not answer is named.
fn domain_error(error: DomainError) -> ArmError {
    const KEY: &str = "properties.activeKey.keyUrl";
    match &error {
        DomainError::BadKey(message) => errors::invalid(KEY, message.clone()),
        DomainError::Key(_) => {
            let why = errors::chain(&error);
            errors::invalid(KEY, format!("The key cannot be used: {why}."))
        }
        DomainError::Erased | DomainError::Leaving | DomainError::TooMany => {
            errors::conflict(format!("This disk encryption set cannot be used: {error}."))
        }
        DomainError::Store { .. } | DomainError::Region(_) => {
            let why = errors::chain(&error);
            errors::conflict(format!("The domain's stores cannot be used: {why}."))
        }
        DomainError::Unknown | DomainError::Record { .. } => {
            errors::internal("the domain of a disk encryption set", &error)
        }
    }
}

/// All problems of a template at once, each with its place and what would be right.
fn invalid(problems: &[TemplateProblem]) -> ArmError {
    let said = |problem: &TemplateProblem| {
        format!(
            "properties.{}: {} ({})",
            problem.path, problem.message, problem.hint
        )
    };
    let message: Vec<String> = problems.iter().map(said).collect();
    let mut error = ArmError::new(ErrorCode::ValidationFailed, message.join(" "));
    error.details = problems
        .iter()
        .map(|problem| ArmErrorBody {
            code: ErrorCode::ValidationFailed.as_str().into(),
            message: format!("{} ({})", problem.message, problem.hint),
            target: Some(format!("properties.{}", problem.path)),
            details: Vec::new(),
            additional_info: Vec::new(),
        })
        .collect();
    error
}

fn factory_error(error: FactoryError) -> ArmError {
    match error {
        FactoryError::Template(message) => ArmError::new(ErrorCode::ValidationFailed, message),
        FactoryError::Catalog(error) => errors::catalog(error),
        error => errors::internal("the factory failed", &error),
    }
}
