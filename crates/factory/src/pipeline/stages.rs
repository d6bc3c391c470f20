//! From a source to a finished disk, as steps: which inputs make each key, and what each does when it is not found.

use std::path::PathBuf;
use std::sync::Arc;

use access::Action;
use disk::{DiskDigest, ReadAt};
use jobs::{JobContext, JobError, OnUndo, StepError, StepHandle, step_key};
use machine::System;
use serde::{Deserialize, Serialize};
use serde_json::json;
use store::{FileDisk, Store};
use wire::Location;
use wire::factory::Stage;
use wire::template::OnBuildError;

use super::disks::CheckoutError;
use super::origin::{self, Ancestry, Origin, Sourced, sourced};
use super::recipe::{DEFAULT_DISK_GIB, Executor, Recipe};
use super::run::{Named, Run, RunUndo};
use super::steps::{Shown, StepDisk, blocking, failed, log_lines, store_failed};
use crate::build::{
    self, AptState, BuildContext, BuildError, Customizer, MachineBuild, ParentDisk, RootFs,
    SecretValue,
};
use crate::factory::Factory;
use crate::fetch::{self, Fetched};
use crate::import::{DISK_BYTES_MAX, Padded};
use crate::source::{BaseRequest, Pin};

const DEFINITION_READ: &str = "Microsoft.Compute/galleries/images/read";
/// Raised whenever a machine would make something else of the same customizers.
const MACHINE_FORMAT: u32 = 1;
const GIB: u64 = 1 << 30;
pub(super) type Cx = JobContext<RunUndo>;
pub(super) type BoxFuture<T> = std::pin::Pin<Box<dyn Future<Output = Result<T, StepError>> + Send>>;

/// What moves, as it was when the run began.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Resolved {
    pub source: Sourced,
    /// The image definitions of the run's galleries and their regions, in order.
    pub homes: Vec<(wire::ResourceId, String)>,
    /// The region whose store the build's disks live in.
    home: String,
    pub fetched: Fetched,
}

impl Resolved {
    pub fn home(&self) -> Location {
        Location::new(&self.home)
    }

    /// Whether the disk's root file system is one that can be read and written here for sure.
    pub fn is_built(&self) -> bool {
        self.source.ancestry == Ancestry::Built
    }
}

impl Run {
    /// Pins everything that moves: what `latest` is, what lies at addresses, and where galleries are at home.
    pub(super) async fn resolve(&mut self, cx: &mut Cx) -> Result<Resolved, JobError> {
        let (factory, recipe) = (Arc::clone(&self.factory), self.recipe.clone());
        let own = self.input.location.clone();
        let named = Named {
            stage: Stage::Source,
            name: "resolve",
            key: None,
            undo: OnUndo::Nothing("a pin is only read"),
        };
        let action = move |handle: StepHandle, shown: Shown| async move {
            let source = sourced(&factory, &handle, &recipe).await?;
            let homes = homes(&factory, &handle, &recipe, &source).await?;
            let home = origin::home_of(&homes, &own);
            factory
                .regions
                .store(&home)
                .map_err(|error| failed("RegionNotFound", &error))?;
            let facts = &source.facts;
            handle.log(format!(
                "the source is {}:{}:{}:{}, {}",
                facts.publisher, facts.offer, facts.sku, facts.version, facts.digest
            ));
            shown.set(json!({
                "image": format!("{}:{}:{}:{}", facts.publisher, facts.offer, facts.sku, facts.version),
                "state": facts.digest,
                "osVersion": facts.os_version,
                "executor": source.executor,
            }));
            let (folder, log) = (factory.contents_folder(), |line: &str| handle.log(line));
            let fetched = fetch::fetch_all(&*factory.fetch, &folder, &recipe.remote, &log).await;
            let fetched = fetched.map_err(|error| failed("SourceFailed", &error))?;
            Ok(Resolved {
                source,
                homes,
                home: home.as_str().to_owned(),
                fetched,
            })
        };
        let mut resolved: Resolved = self.step(cx, named, |_| true, action).await?;
        resolved.fetched.folder = self.factory.contents_folder();
        self.recipe =
            Recipe::with(&self.input.properties, &resolved.fetched).map_err(|problems| {
                let texts = problems
                    .iter()
                    .map(|problem| format!("{}: {}", problem.path, problem.message));
                StepError::failed("SourceFailed", texts.collect::<Vec<_>>().join("; "))
            })?;
        if let Some(exact) = &resolved.source.exact {
            self.record.tell_exact(exact).await?;
        }
        Ok(resolved)
    }

    /// The source's disk, as large as the recipe wants it.
    pub(super) async fn base(
        &mut self,
        cx: &mut Cx,
        resolved: &Resolved,
        home: &Arc<Store>,
    ) -> Result<StepDisk, JobError> {
        match (&resolved.source.origin, &resolved.source.pin) {
            (Origin::Platform, Some(pin)) => {
                let request = BaseRequest {
                    disk_gib: self.recipe.disk_gib.unwrap_or(DEFAULT_DISK_GIB),
                };
                let inputs = self.factory.provider.inputs(pin, &request).await;
                let inputs = inputs.map_err(|error| failed("SourceFailed", &error))?;
                let named = Named::pure(Stage::Source, "base", step_key("base", 1, &inputs));
                let (factory, store, pin) =
                    (Arc::clone(&self.factory), Arc::clone(home), pin.clone());
                let action = move |handle: StepHandle, _: Shown| async move {
                    bootstrapped(&factory, store, &pin, &request, &handle).await
                };
                self.step(cx, named, present(&self.factory, home), action)
                    .await
            }
            (origin, _) => {
                let inputs = (origin, self.recipe.disk_gib);
                let named = Named::pure(Stage::Source, "base", step_key("base-disk", 1, &inputs));
                let (factory, store) = (Arc::clone(&self.factory), Arc::clone(home));
                let (origin, wanted) = (origin.clone(), self.recipe.disk_gib);
                let place = resolved.home();
                let action = move |_: StepHandle, _: Shown| async move {
                    blocking(move || taken_in(&factory, &store, &place, &origin, wanted)).await
                };
                self.step(cx, named, present(&self.factory, home), action)
                    .await
            }
        }
    }

    /// The customizers on the base: one step for each in the tree, one for all in a machine.
    pub(super) async fn build(
        &mut self,
        cx: &mut Cx,
        resolved: &Resolved,
        home: &Arc<Store>,
        base: StepDisk,
    ) -> Result<StepDisk, JobError> {
        match resolved.source.executor {
            Executor::Machine => self.build_in_machine(cx, resolved, home, base).await,
            Executor::Tree => self.build_in_tree(cx, resolved, home, base).await,
        }
    }

    async fn build_in_tree(
        &mut self,
        cx: &mut Cx,
        resolved: &Resolved,
        home: &Arc<Store>,
        base: StepDisk,
    ) -> Result<StepDisk, JobError> {
        let mut parent = base;
        for customizer in self.recipe.customizers.clone() {
            let secrets = self.secrets(customizer.secrets()).await?;
            let pin = resolved.source.pin.as_ref();
            let archive = pin
                .filter(|_| customizer.needs_archive())
                .map(|pin| (pin.state.to_string(), pin.sources_list()));
            let epoch = resolved.source.epoch;
            let inputs = (
                parent.digest,
                customizer.key_material(),
                epoch,
                archive,
                self.factory.secret_marks(&secrets)?,
            );
            let named = Named::pure(
                Stage::Build,
                customizer.name(),
                step_key("customize", 2, &inputs),
            );
            let work = Customize {
                factory: Arc::clone(&self.factory),
                resolved: resolved.clone(),
                store: Arc::clone(home),
                parent: parent.digest,
                customizer: customizer.clone(),
                secrets,
                keep: self.kept_place(self.recipe.on_customizer_error),
                deadline: self.time_left(cx.clock().now()),
            };
            let action = move |handle: StepHandle, _: Shown| work.run(handle);
            parent = self
                .step(cx, named, present(&self.factory, home), action)
                .await?;
        }
        Ok(parent)
    }

    async fn build_in_machine(
        &mut self,
        cx: &mut Cx,
        resolved: &Resolved,
        home: &Arc<Store>,
        base: StepDisk,
    ) -> Result<StepDisk, JobError> {
        if self.recipe.customizers.is_empty() {
            return Ok(base);
        }
        let named: Vec<_> = self
            .recipe
            .customizers
            .iter()
            .flat_map(Customizer::secrets)
            .cloned()
            .collect();
        let secrets = self.secrets(&named).await?;
        let materials: Vec<_> = self
            .recipe
            .customizers
            .iter()
            .map(Customizer::key_material)
            .collect();
        let firmware = self.recipe.firmwares.first().copied();
        let inputs = (
            base.digest,
            materials,
            firmware,
            self.recipe.generalize,
            self.factory.secret_marks(&secrets)?,
        );
        let key = step_key("customize-machine", MACHINE_FORMAT, &inputs);
        let (factory, store) = (Arc::clone(&self.factory), Arc::clone(home));
        let (recipe, parent) = (self.recipe.clone(), (base.digest, resolved.source.system()));
        let keep = self.kept_place(self.recipe.on_customizer_error);
        let (epoch, deadline) = (resolved.source.epoch, self.time_left(cx.clock().now()));
        let action = move |handle: StepHandle, _: Shown| async move {
            let context = BuildContext {
                epoch,
                apt: None,
                secrets,
                deadline,
                on_line: log_lines(&handle),
                keep,
            };
            in_machine(&factory, &store, parent, &recipe, context).await
        };
        self.step(
            cx,
            Named::pure(Stage::Build, MACHINE_STEP, key),
            present(&self.factory, home),
            action,
        )
        .await
    }

    /// Takes away what belongs to one machine, and from free space what was there once.
    pub(super) async fn finish(
        &mut self,
        cx: &mut Cx,
        resolved: &Resolved,
        home: &Arc<Store>,
        built: StepDisk,
    ) -> Result<StepDisk, JobError> {
        let mut disk = built;
        if self.recipe.generalize {
            let epoch = resolved.source.epoch;
            let windows = resolved.source.is_windows();
            let inputs = (disk.digest, build::GENERALISE_FORMAT, epoch);
            let key = match windows {
                true => step_key("sysprep", 1, &disk.digest),
                false => step_key("generalize", 1, &inputs),
            };
            let work = Finish {
                store: Arc::clone(home),
                disk: disk.clone(),
                must: windows || resolved.is_built(),
            };
            let action = move |handle: StepHandle, _: Shown| async move {
                let change = move |disk: &dyn ReadAt| match windows {
                    true => build::check_sysprep(disk).map(|()| disk::Changes::new()),
                    false => generalised(disk, epoch),
                };
                work.run(handle, change).await
            };
            let named = Named::pure(Stage::Build, "generalize", key);
            disk = self
                .step(cx, named, present(&self.factory, home), action)
                .await?;
        }
        if self.recipe.optimize {
            let key = step_key("optimize", build::OPTIMISE_FORMAT, &disk.digest);
            let work = Finish {
                store: Arc::clone(home),
                disk: disk.clone(),
                must: false,
            };
            let before = disk.data_bytes;
            let action = move |handle: StepHandle, shown: Shown| async move {
                let done = work
                    .run(handle.clone(), |disk| build::zero_free_space(disk))
                    .await?;
                let saved = before.saturating_sub(done.data_bytes);
                handle.log(format!("free space: {saved} bytes of old data are gone"));
                shown.set(json!({ "zeroedBytes": done.changed_bytes, "savedBytes": saved }));
                Ok(done)
            };
            let named = Named::pure(Stage::Optimize, "free-space", key);
            disk = self
                .step(cx, named, present(&self.factory, home), action)
                .await?;
        }
        Ok(disk)
    }

    /// The values of a step's secrets, for as long as it takes.
    async fn secrets(&self, secrets: &[build::Secret]) -> Result<Vec<SecretValue>, JobError> {
        let found = self
            .factory
            .secrets()
            .await?
            .look_up(secrets, self.tenant)
            .await;
        Ok(found.map_err(|error| failed("SecretNotFound", &error))?)
    }

    /// Where a failed build of this run is kept, if it is.
    fn kept_place(&self, on_error: OnBuildError) -> Option<PathBuf> {
        let name = self.input.run.name();
        (on_error == OnBuildError::Abort).then(|| self.factory.kept_folder().join(name))
    }
}

/// A disk made of a pinned archive.
pub(super) async fn bootstrapped(
    factory: &Arc<Factory>,
    store: Arc<Store>,
    pin: &Pin,
    request: &BaseRequest,
    handle: &StepHandle,
) -> Result<StepDisk, StepError> {
    let work = factory
        .work_folder()
        .map_err(|error| failed("SourceFailed", &error))?;
    let lines = log_lines(handle);
    let made = factory.provider.bootstrap(pin, request, work.path(), lines);
    let raw = made.await.map_err(|error| failed("SourceFailed", &error))?;
    handle.log("keeping the base disk");
    blocking(move || {
        let disk = FileDisk::open(&raw).map_err(|error| failed("SourceFailed", &error))?;
        let kept = store.ingest(&disk).map_err(|error| store_failed(&error))?;
        drop(work);
        Ok(StepDisk::of(kept, kept.data_bytes))
    })
    .await
}

/// What generalising changes on a disk.
pub(super) fn generalised(disk: &dyn ReadAt, epoch: i64) -> Result<disk::Changes, BuildError> {
    let root = RootFs::find(disk)?;
    let records = root.read(disk, |tree| build::generalise(tree, epoch))?;
    if records.is_empty() {
        return Ok(disk::Changes::new());
    }
    root.apply(disk, records, epoch)
        .map_err(BuildError::ReadParent)
}

/// The step that carries out all customizers in a machine.
pub(super) const MACHINE_STEP: &str = "machine";

/// The image definitions that versions go to, which must be of what the source is, and their regions.
async fn homes(
    factory: &Arc<Factory>,
    handle: &StepHandle,
    recipe: &Recipe,
    source: &Sourced,
) -> Result<Vec<(wire::ResourceId, String)>, StepError> {
    let mut homes = Vec::new();
    for gallery in recipe.targets.iter().filter_map(|target| target.gallery()) {
        let permit = handle
            .permit(&Action::new(DEFINITION_READ), &gallery.definition)
            .await?;
        let definition = factory.catalog.get(&permit).await.map_err(|error| {
            let message = format!("the image definition {}: {error}", gallery.definition);
            StepError::failed("GalleryImageNotFound", message)
        })?;
        let os_type = definition.properties["osType"].as_str();
        if let Some(other) = os_type.filter(|one| !one.eq_ignore_ascii_case(&source.os_type)) {
            let message = format!(
                "the source is a {} image, and the image definition {} is for {other}",
                source.os_type, gallery.definition
            );
            return Err(StepError::failed("SourceFailed", message));
        }
        let home = definition.location.unwrap_or_default();
        let regions = gallery.regions.iter().map(|region| region.name.clone());
        for region in regions.chain([Location::new(&home)]) {
            factory
                .regions
                .store(&region)
                .map_err(|error| failed("RegionNotFound", &error))?;
        }
        homes.push((gallery.definition.clone(), home));
    }
    Ok(homes)
}

/// Has a store hold a disk that is in any region. Blocks.
pub(crate) fn bring(
    factory: &Factory,
    store: &Arc<Store>,
    near: &Location,
    digest: &DiskDigest,
) -> Result<(), StepError> {
    if store.has(digest) {
        return Ok(());
    }
    let regions = &factory.regions;
    let elsewhere = || {
        let mut names = regions.names().into_iter();
        names.find_map(|region| regions.holder(&region, digest))
    };
    let holder = regions.holder(near, digest).or_else(elsewhere);
    let holder = holder.ok_or_else(|| {
        StepError::failed("SourceFailed", format!("no region holds the disk {digest}"))
    })?;
    let moved = Store::replicate(&holder, store, digest, &|_| {});
    moved.map(drop).map_err(|error| store_failed(&error))
}

/// The disk of a source that is there already, in the home region's store. Blocks.
pub(super) fn taken_in(
    factory: &Factory,
    store: &Arc<Store>,
    home: &Location,
    origin: &Origin,
    wanted_gib: Option<u32>,
) -> Result<StepDisk, StepError> {
    let too_small = |size: u64| {
        let message = format!(
            "vmProfile.osDiskSizeGB is smaller than the source's disk of {size} bytes; disks only grow"
        );
        StepError::failed("SourceFailed", message)
    };
    let grown = |size: u64| match wanted_gib.map(|gib| u64::from(gib) * GIB) {
        Some(wanted) if wanted < size => Err(too_small(size)),
        Some(wanted) if wanted > size => Ok(Some(wanted)),
        _ => Ok(None),
    };
    let ingest = |disk: &dyn ReadAt| {
        let kept = match grown(disk.size())? {
            Some(size) => store.ingest(&Padded::new(disk, size)),
            None => store.ingest(disk),
        };
        let kept = kept.map_err(|error| store_failed(&error))?;
        Ok(StepDisk::of(kept, kept.data_bytes))
    };
    match origin {
        Origin::Platform => Err(StepError::failed("SourceFailed", "the source has no pin")),
        Origin::Disk { digest } => {
            bring(factory, store, home, digest)?;
            let disk = store.disk(digest).map_err(|error| store_failed(&error))?;
            if grown(disk.size())?.is_some() {
                return ingest(&disk);
            }
            Ok(StepDisk {
                digest: *digest,
                logical_bytes: disk.size(),
                ..StepDisk::default_of(*digest)
            })
        }
        Origin::Blob { name, sha256 } => {
            let lost = || StepError::failed("SourceFailed", format!("the blob {name} is gone"));
            let path = factory
                .blobs
                .as_ref()
                .and_then(|place| place.existing(name));
            let path = path.ok_or_else(lost)?;
            let file = FileDisk::open(&path).map_err(|error| failed("SourceFailed", &error))?;
            let limits = disk::image::Limits {
                max_bytes: DISK_BYTES_MAX,
            };
            let image = disk::image::Image::open(file, limits);
            let image = image.map_err(|error| failed("SourceFailed", &error))?;
            let done = ingest(&image)?;
            // Whoever may write the folder may have changed the file while it was read.
            let after = fetch::sha256_of(&path).map_err(|error| failed("SourceFailed", &error))?;
            if after != *sha256 {
                let message = format!("the blob {name} was changed while it was read");
                return Err(StepError::failed("SourceFailed", message));
            }
            Ok(done)
        }
    }
}

pub(super) fn checkout_failed(error: &CheckoutError) -> StepError {
    match error {
        CheckoutError::Store(error) => store_failed(error),
        other => failed("StoreFailed", other),
    }
}

/// A found disk counts only while the store holds all of it.
pub(super) fn present(
    factory: &Arc<Factory>,
    store: &Arc<Store>,
) -> impl Fn(&StepDisk) -> bool + Send + Sync + use<> {
    let (factory, store) = (Arc::clone(factory), Arc::clone(store));
    move |found| {
        // It is kept for whoever found it.
        let now = u64::try_from(factory.clock.now().as_second()).unwrap_or(0);
        factory.regions.touch(&found.digest, now);
        store.has(&found.digest)
    }
}

/// One customizer's work in the tree.
pub(super) struct Customize {
    pub factory: Arc<Factory>,
    pub resolved: Resolved,
    pub store: Arc<Store>,
    pub parent: DiskDigest,
    pub customizer: Customizer,
    pub secrets: Vec<SecretValue>,
    pub keep: Option<PathBuf>,
    pub deadline: std::time::Duration,
}

impl Customize {
    pub(super) fn run(self, handle: StepHandle) -> BoxFuture<StepDisk> {
        Box::pin(async move {
            let Customize {
                factory,
                resolved,
                store,
                parent,
                customizer,
                secrets,
                keep,
                deadline,
            } = self;
            let apt = match (&resolved.source.pin, customizer.needs_archive()) {
                (Some(pin), true) => factory.provider.archive(pin).await,
                _ => Ok(None),
            };
            let apt = apt.map_err(|error| failed("SourceFailed", &error))?;
            let context = BuildContext {
                epoch: resolved.source.epoch,
                apt: apt.map(|archive| AptState {
                    lists: archive.lists,
                    sources_list: archive.sources_list,
                    debs: archive.debs,
                    acquire: archive.acquire,
                    environment: archive.environment,
                }),
                secrets,
                deadline,
                on_line: log_lines(&handle),
                keep,
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

/// All customizers in one machine, on a copy of the parent's disk.
pub(super) async fn in_machine(
    factory: &Arc<Factory>,
    store: &Arc<Store>,
    (parent, system): (DiskDigest, System),
    recipe: &Recipe,
    context: BuildContext,
) -> Result<StepDisk, StepError> {
    if system == System::Windows {
        let store = Arc::clone(store);
        blocking(move || {
            let disk = store.disk(&parent).map_err(|error| store_failed(&error))?;
            build::check_way_in(&disk).map_err(|error| failed("SourceFailed", &error))
        })
        .await?;
    }
    let hypervisor = factory.hypervisor().await;
    let original = factory.disks.checkout(store, parent).await;
    let original = original.map_err(|error| checkout_failed(&error))?;
    let work = factory
        .work_folder()
        .map_err(|error| failed("BuildFailed", &error))?;
    let copy = work.path().join("disk.raw");
    let (source, target) = (Arc::clone(store), copy.clone());
    blocking(move || {
        let laid_out = source.checkout(&parent, &target);
        laid_out.map(drop).map_err(|error| store_failed(&error))
    })
    .await?;
    let firmware = recipe.firmwares.first().copied();
    let machine = MachineBuild {
        hypervisor: &**hypervisor,
        parent: original.path(),
        disk: copy.clone(),
        work: work.path().join("machine"),
        system,
        firmware: firmware.unwrap_or(machine::Firmware::Bios),
        customizers: &recipe.customizers,
        generalize: recipe.generalize,
        context: &context,
    };
    let outcome = match machine.run().await {
        Ok(outcome) => outcome,
        Err(error) => {
            if let Some(place) = &context.keep {
                let kept = std::fs::create_dir_all(place)
                    .and_then(|()| std::fs::rename(&copy, place.join("disk.raw")));
                if let Err(error) = kept {
                    tracing::warn!(%error, "a failed machine's disk cannot be kept");
                }
            }
            return Err(failed("CustomizationFailed", &error));
        }
    };
    let store = Arc::clone(store);
    blocking(move || {
        let changed = outcome.changes.bytes();
        let kept = store.ingest_child(&parent, &outcome.changes);
        let kept = kept.map_err(|error| store_failed(&error))?;
        drop((original, work));
        Ok(StepDisk::of(kept, changed))
    })
    .await
}

/// A change of a whole disk that needs no process.
pub(super) struct Finish {
    pub store: Arc<Store>,
    pub disk: StepDisk,
    /// Whether a file system that cannot be read is an error; a foreign disk may have any.
    pub must: bool,
}

impl Finish {
    pub(super) async fn run(
        self,
        handle: StepHandle,
        change: impl FnOnce(&dyn ReadAt) -> Result<disk::Changes, BuildError> + Send + 'static,
    ) -> Result<StepDisk, StepError> {
        let Finish { store, disk, must } = self;
        blocking(move || {
            let digest = disk.digest;
            let parent = store.disk(&digest).map_err(|error| store_failed(&error))?;
            let changes = match change(&parent) {
                Ok(changes) => changes,
                Err(error) if !must => {
                    handle.log(format!("left as it is: {}", super::steps::chain(&error)));
                    return Ok(disk);
                }
                Err(error) => return Err(failed("BuildFailed", &error)),
            };
            if changes.is_empty() {
                return Ok(StepDisk {
                    new_bytes: 0,
                    stored_bytes: 0,
                    changed_bytes: 0,
                    ..disk
                });
            }
            let kept = store.ingest_child(&digest, &changes);
            let kept = kept.map_err(|error| store_failed(&error))?;
            Ok(StepDisk::of(kept, changes.bytes()))
        })
        .await
    }
}
