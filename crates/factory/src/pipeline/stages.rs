//! The stages as steps: which inputs make each key, and what each does when it is not found.

use std::sync::Arc;

use access::Action;
use disk::DiskDigest;
use jobs::{JobContext, JobError, OnUndo, StepError, StepHandle, step_key};
use machine::Firmware;
use serde::{Deserialize, Serialize};
use serde_json::json;
use store::{FileDisk, Store};
use wire::factory::Stage;
use wire::{Location, ResourceId};

use super::disks::CheckoutError;
use super::run::{Named, Run, RunUndo};
use super::steps::{Shown, StepDisk, blocking, failed, log_lines, store_failed, test_name};
use crate::build::{AptState, BuildContext, Customizer, ParentDisk};
use crate::publish::{self, Allocation, Publication, Published};
use crate::regions::Spread;
use crate::replicate::{self, RegionResult};
use crate::source::{BaseRequest, Pin};
use crate::tattoo::{self, Tattoo};
use crate::test::{TEST_FORMAT, TestReport, TestSubject};

const DEFINITION_READ: &str = "Microsoft.Compute/galleries/images/read";
const VERSION_READ: &str = "Microsoft.Compute/galleries/images/versions/read";
const VERSION_WRITE: &str = "Microsoft.Compute/galleries/images/versions/write";
type Cx = JobContext<RunUndo>;

/// What moves, as it was when the run began.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Resolved {
    pin: Pin,
    /// The region of the image definition: the build's disks live there.
    home: String,
    /// `publisher:offer:sku:version`, with the version dated.
    image: String,
    state: String,
}

impl Resolved {
    pub fn home(&self) -> Location {
        Location::new(&self.home)
    }
}

/// The disk of a version, with the record that is in it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Tattooed {
    #[serde(flatten)]
    pub disk: StepDisk,
    pub tattoo: Tattoo,
}

impl Run {
    /// Pins everything that moves: what `latest` is, and where the gallery is at home.
    pub(super) async fn resolve(&mut self, cx: &mut Cx) -> Result<Resolved, JobError> {
        let factory = Arc::clone(&self.factory);
        let (image, mirrors) = (self.recipe.image.clone(), self.recipe.mirrors.clone());
        let distribution = self.recipe.distribution.clone();
        let named = Named {
            stage: Stage::Source,
            name: "resolve",
            key: None,
            undo: OnUndo::Nothing("a pin is only read"),
        };
        let action = move |handle: StepHandle, shown: Shown| async move {
            let permit = handle
                .permit(&Action::new(DEFINITION_READ), &distribution.definition)
                .await?;
            let definition = factory.catalog.get(&permit).await.map_err(|error| {
                let message = format!("the image definition {}: {error}", distribution.definition);
                StepError::failed("GalleryImageNotFound", message)
            })?;
            let home = definition.location.unwrap_or_default();
            let regions = distribution
                .regions
                .iter()
                .map(|region| region.name.clone());
            for region in regions.chain([Location::new(&home)]) {
                factory
                    .regions
                    .store(&region)
                    .map_err(|error| failed("RegionNotFound", &error))?;
            }
            let pin = factory.provider.resolve(&image, &mirrors).await;
            let pin = pin.map_err(|error| failed("SourceFailed", &error))?;
            handle.log(format!(
                "{} is {}, archive state {}",
                image, pin.image, pin.state
            ));
            shown.set(json!({
                "image": pin.image.to_string(),
                "state": pin.state.as_str(),
                "osVersion": pin.os_version,
            }));
            let (image, state) = (pin.image.to_string(), pin.state.to_string());
            Ok(Resolved {
                pin,
                home,
                image,
                state,
            })
        };
        self.step(cx, named, |_| true, action).await
    }

    /// The platform image's disk.
    pub(super) async fn base(
        &mut self,
        cx: &mut Cx,
        resolved: &Resolved,
        home: &Arc<Store>,
    ) -> Result<StepDisk, JobError> {
        let request = BaseRequest {
            disk_gib: self.recipe.disk_gib,
        };
        let inputs = self.factory.provider.inputs(&resolved.pin, &request).await;
        let inputs = inputs.map_err(|error| failed("SourceFailed", &error))?;
        let named = Named::pure(Stage::Source, "base", step_key("base", 1, &inputs));
        let (factory, store, pin) = (
            Arc::clone(&self.factory),
            Arc::clone(home),
            resolved.pin.clone(),
        );
        let action = move |handle: StepHandle, _: Shown| async move {
            let work = factory
                .work_folder()
                .map_err(|error| failed("SourceFailed", &error))?;
            let raw = factory
                .provider
                .bootstrap(&pin, &request, work.path(), log_lines(&handle))
                .await;
            let raw = raw.map_err(|error| failed("SourceFailed", &error))?;
            handle.log("keeping the base disk");
            blocking(move || {
                let disk = FileDisk::open(&raw).map_err(|error| failed("SourceFailed", &error))?;
                let kept = store.ingest(&disk).map_err(|error| store_failed(&error))?;
                drop(work);
                Ok(StepDisk::of(kept, kept.data_bytes))
            })
            .await
        };
        self.step(cx, named, present(home), action).await
    }

    /// One step for each customizer, each on what the one before made.
    pub(super) async fn build(
        &mut self,
        cx: &mut Cx,
        resolved: &Resolved,
        home: &Arc<Store>,
        base: StepDisk,
    ) -> Result<StepDisk, JobError> {
        let mut parent = base;
        for customizer in self.recipe.customizers.clone() {
            let pin = &resolved.pin;
            let archive = customizer
                .needs_archive()
                .then(|| (pin.state.to_string(), pin.sources_list()));
            let inputs = (parent.digest, customizer.key_material(), pin.epoch, archive);
            let named = Named::pure(
                Stage::Build,
                customizer.name(),
                step_key("customize", 1, &inputs),
            );
            let work = Customize {
                run: self,
                pin: resolved.pin.clone(),
                store: Arc::clone(home),
                parent: parent.digest,
                customizer: customizer.clone(),
            };
            let action = work.action(cx.clock().now());
            parent = self.step(cx, named, present(home), action).await?;
        }
        Ok(parent)
    }

    /// The version's number and date: chosen once for the same content of the same definition.
    pub(super) async fn allocate(
        &mut self,
        cx: &mut Cx,
        resolved: &Resolved,
        built: &StepDisk,
    ) -> Result<Allocation, JobError> {
        let definition = self.recipe.distribution.definition.clone();
        let permit = cx.permit(&Action::new(VERSION_READ), &definition).await?;
        let taken = publish::taken(&self.factory.catalog, &permit).await?;
        let numbering = self.recipe.distribution.numbering;
        let source = resolved.pin.image.version.clone();
        let inputs = (
            definition.folded(),
            built.digest,
            self.recipe.digest(),
            &resolved.state,
            &source,
            numbering,
        );
        let key = step_key("allocate", 1, &inputs);
        let named = Named::pure(Stage::Tattoo, "version", key);
        let (owner, used) = (key.to_string(), taken.clone());
        let good = |found: &Allocation| publish::is_ours(&taken, found);
        let action = move |handle: StepHandle, _: Shown| async move {
            let version = publish::next_number(numbering, &used, &source)?;
            handle.log(format!("the new version is {version}"));
            let published_date = handle
                .clock()
                .now()
                .strftime("%Y-%m-%dT%H:%M:%SZ")
                .to_string();
            Ok(Allocation {
                version,
                published_date,
                owner,
            })
        };
        self.step(cx, named, good, action).await
    }

    /// Writes the record of identity and origin into the disk.
    pub(super) async fn tattoo(
        &mut self,
        cx: &mut Cx,
        resolved: &Resolved,
        home: &Arc<Store>,
        built: &StepDisk,
        allocated: &Allocation,
    ) -> Result<Tattooed, JobError> {
        let record = self.record_of(resolved, built, allocated);
        let epoch = resolved.pin.epoch;
        let inputs = (built.digest, &record, epoch, ext4::writer_version());
        let named = Named::pure(Stage::Tattoo, "write", step_key("tattoo", 1, &inputs));
        let (store, parent, written) = (Arc::clone(home), built.digest, record.clone());
        let action = move |_: StepHandle, _: Shown| async move {
            blocking(move || {
                let disk = store.disk(&parent).map_err(|error| store_failed(&error))?;
                let changes = tattoo::apply(&disk, &written, epoch);
                let changes = changes.map_err(|error| failed("TattooFailed", &error))?;
                let kept = store.ingest_child(&parent, &changes);
                let kept = kept.map_err(|error| store_failed(&error))?;
                Ok(Tattooed {
                    disk: StepDisk::of(kept, changes.bytes()),
                    tattoo: written,
                })
            })
            .await
        };
        let here = present(home);
        self.step(cx, named, move |found: &Tattooed| here(&found.disk), action)
            .await
    }

    fn record_of(&self, resolved: &Resolved, built: &StepDisk, allocated: &Allocation) -> Tattoo {
        let (image, pin) = (&resolved.pin.image, &resolved.pin);
        let mut tattoo = Tattoo {
            source_publisher: image.publisher.clone(),
            source_offer: image.offer.clone(),
            source_sku: image.sku.clone(),
            source_version: image.version.clone(),
            source_digest: pin.state.to_string(),
            os_version: pin.os_version.clone(),
            image_definition: self.recipe.distribution.definition.to_string(),
            image_version: allocated.version.to_string(),
            publish_date: allocated.published_date.clone(),
            recipe_digest: self.recipe.digest(),
            build_id: String::new(),
            parent_digest: built.digest.to_string(),
        };
        // The build's id is the hash of everything else that is recorded, so it adds no input.
        tattoo.build_id = step_key("build-id", 1, &tattoo).to_string();
        tattoo
    }

    /// Boots the disk with each firmware and runs the checks. Answers the first boot's seconds.
    pub(super) async fn test(
        &mut self,
        cx: &mut Cx,
        home: &Arc<Store>,
        tattooed: &Tattooed,
    ) -> Result<f64, JobError> {
        let mut seconds = Vec::new();
        for firmware in self.recipe.firmwares.clone() {
            let inputs = (tattooed.disk.digest, &self.recipe.validators, firmware);
            let key = step_key("test", TEST_FORMAT, &inputs);
            let name = test_name(firmware);
            let action = self.boot(home, tattooed, firmware);
            let report: TestReport = self
                .step(
                    cx,
                    Named::pure(Stage::Test, &name, key),
                    TestReport::passed,
                    action,
                )
                .await?;
            seconds.push(report.boot_seconds);
        }
        Ok(seconds.first().copied().unwrap_or_default())
    }

    fn boot(
        &self,
        home: &Arc<Store>,
        tattooed: &Tattooed,
        firmware: Firmware,
    ) -> impl FnOnce(StepHandle, Shown) -> BoxFuture<TestReport> + Send + use<> {
        let (factory, store) = (Arc::clone(&self.factory), Arc::clone(home));
        let (digest, tattoo) = (tattooed.disk.digest, tattooed.tattoo.clone());
        let validators = self.recipe.validators.clone();
        move |handle, shown| {
            Box::pin(async move {
                let hypervisor = factory.hypervisor().await;
                let why = hypervisor.acceleration();
                handle.log(format!("machines run on {}: {}", why.accel, why.why));
                let disk = factory.disks.checkout(&store, digest).await;
                let disk = disk.map_err(|error| checkout_failed(&error))?;
                let work = factory
                    .work_folder()
                    .map_err(|error| failed("TestFailed", &error))?;
                let subject = TestSubject {
                    disk: disk.path().to_owned(),
                    work: work.path().join("machine"),
                    firmware,
                    validators,
                    tattoo,
                };
                let log = |line: &str| handle.log(line);
                let report = crate::test::run(&**hypervisor, &subject, &log).await;
                let report = report.map_err(|error| failed("BootFailed", &error))?;
                shown.set(serde_json::to_value(&report).unwrap_or_default());
                if report.passed() {
                    return Ok(report);
                }
                Err(StepError::failed("ValidationFailed", report.failures()))
            })
        }
    }

    /// Makes the version a resource, under the right of whoever asked for the run.
    pub(super) async fn publish(
        &mut self,
        cx: &mut Cx,
        resolved: &Resolved,
        home: &Arc<Store>,
        tattooed: &Tattooed,
        allocated: &Allocation,
        boot_seconds: f64,
    ) -> Result<ResourceId, JobError> {
        let number = allocated.version.to_string();
        let version = self
            .recipe
            .distribution
            .definition
            .child("versions", &number);
        let version = version.map_err(|error| failed("BadRequest", &error))?;
        let publication = Publication {
            version: version.clone(),
            run: self.input.run.clone(),
            template: self.input.template.clone(),
            home: resolved.home(),
            distribution: self.recipe.distribution.clone(),
            allocation: allocated.clone(),
            digest: tattooed.disk.digest,
            logical_bytes: tattooed.disk.logical_bytes,
            tattoo: tattooed.tattoo.clone(),
            boot_seconds,
        };
        let (catalog, store) = (Arc::clone(&self.factory.catalog), Arc::clone(home));
        let whom = Arc::clone(&self.factory.ask);
        let undo = RunUndo::Unpublish {
            version: version.clone(),
            run: self.input.run.clone(),
        };
        let named = Named {
            stage: Stage::Publish,
            name: "version",
            key: None,
            undo: OnUndo::Call(undo),
        };
        let action = move |handle: StepHandle, shown: Shown| async move {
            let digest = publication.digest;
            let whole = blocking(move || Ok(store.has(&digest))).await?;
            if !whole {
                let message = format!("the disk {digest} is not whole in its home region");
                return Err(StepError::failed("StoreFailed", message));
            }
            let permit = handle
                .permit(&Action::new(VERSION_WRITE), &publication.version)
                .await?;
            let published = publish::publish(&catalog, &*whom, &permit, &publication).await?;
            if published.existed {
                shown.found();
            }
            handle.log(match &published {
                Published { existed: true, .. } => format!("{version} was published before"),
                Published { .. } => format!("published {version}"),
            });
            Ok(published)
        };
        let published: Published = self.step(cx, named, |_| true, action).await?;
        Ok(published.version_id)
    }

    /// Copies the disk to every target region. A region that fails does not hold up the others; the
    /// reconciler goes on with it. Answers what went wrong.
    pub(super) async fn replicate(
        &mut self,
        cx: &mut Cx,
        resolved: &Resolved,
        tattooed: &Tattooed,
        version: &ResourceId,
    ) -> Result<String, JobError> {
        let mut failures = Vec::new();
        for region in self.recipe.distribution.regions.clone() {
            let spread = Spread::of(region.storage_account_type.as_deref());
            let inputs = (
                tattooed.disk.digest,
                region.name.folded(),
                region.storage_account_type,
            );
            let key = step_key("replicate", 1, &inputs);
            let copy = replicate::Copy {
                version: version.clone(),
                tenant: self.tenant,
                digest: tattooed.disk.digest,
                home: resolved.home(),
                region: region.name.clone(),
                spread,
            };
            let (regions, wanted) = (Arc::clone(&self.factory.regions), copy.clone());
            let good = move |found: &RegionResult| found.is_complete() && wanted.is_there(&regions);
            let factory = Arc::clone(&self.factory);
            let action = move |handle: StepHandle, _: Shown| async move {
                let progress = handle.clone();
                let result = copy
                    .run(&factory, &move |percent| {
                        progress.progress(format!("{percent} %"))
                    })
                    .await?;
                if let RegionResult::Failed { reason } = &result {
                    handle.log(format!("region {}: {reason}", copy.region));
                }
                Ok(result)
            };
            let name = region.name.to_string();
            let named = Named::pure(Stage::Replicate, &name, key);
            let result: RegionResult = self.step(cx, named, good, action).await?;
            if let RegionResult::Failed { reason } = result {
                failures.push(format!(
                    "region {name} does not hold the image yet: {reason}"
                ));
            }
        }
        if !failures.is_empty() {
            self.factory.nudge_replication();
        }
        Ok(failures.join("; "))
    }
}

type BoxFuture<T> = std::pin::Pin<Box<dyn Future<Output = Result<T, StepError>> + Send>>;

fn checkout_failed(error: &CheckoutError) -> StepError {
    match error {
        CheckoutError::Store(error) => store_failed(error),
        other => failed("StoreFailed", other),
    }
}

/// A found disk counts only while the store holds all of it.
fn present(store: &Arc<Store>) -> impl Fn(&StepDisk) -> bool + Send + Sync + use<> {
    let store = Arc::clone(store);
    move |found| store.has(&found.digest)
}

/// One customizer's work.
struct Customize<'a> {
    run: &'a Run,
    pin: Pin,
    store: Arc<Store>,
    parent: DiskDigest,
    customizer: Customizer,
}

impl Customize<'_> {
    fn action(
        self,
        now: jiff::Timestamp,
    ) -> impl FnOnce(StepHandle, Shown) -> BoxFuture<StepDisk> + Send + use<> {
        let Customize {
            run,
            pin,
            store,
            parent,
            customizer,
        } = self;
        let (factory, deadline) = (Arc::clone(&run.factory), run.time_left(now));
        move |handle, _| {
            Box::pin(async move {
                let apt = match customizer.needs_archive() {
                    true => factory.provider.archive(&pin).await,
                    false => Ok(None),
                };
                let apt = apt.map_err(|error| failed("SourceFailed", &error))?;
                let context = BuildContext {
                    epoch: pin.epoch,
                    apt: apt.map(|archive| AptState {
                        lists: archive.lists,
                        sources_list: archive.sources_list,
                        debs: archive.debs,
                        acquire: archive.acquire,
                        environment: archive.environment,
                    }),
                    deadline,
                    on_line: log_lines(&handle),
                };
                let disk = factory.disks.checkout(&store, parent).await;
                let disk = disk.map_err(|error| checkout_failed(&error))?;
                let opened = ParentDisk::open(disk.path());
                let opened = Arc::new(opened.map_err(|error| failed("BuildFailed", &error))?);
                let outcome = factory
                    .builder
                    .customize(opened, &customizer, &context)
                    .await;
                let outcome = outcome.map_err(|error| failed("CustomizationFailed", &error))?;
                blocking(move || {
                    let changed = outcome.changes.bytes();
                    let kept = store.ingest_child(&parent, &outcome.changes);
                    let kept = kept.map_err(|error| store_failed(&error))?;
                    drop(disk);
                    Ok(StepDisk::of(kept, changed))
                })
                .await
            })
        }
    }
}
