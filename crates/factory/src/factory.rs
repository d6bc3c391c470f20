//! One factory of one data folder: what the stages share, and how the rest of the program reaches
//! it. It starts nothing by itself; jobs and the reconciler do.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use catalog::{AuthStore, Catalog, Clock, JobStore};
use jobs::{Jobs, RunnerBuilder};
use machine::{Acceleration, Hypervisor, Qemu};
use tokio::sync::OnceCell;

use crate::build::{BuildError, SandboxProgram, TreeExecutor};
use crate::deploy::{DeleteMachine, Deploy, Machines};
use crate::pipeline::{BuildRun, Builder, WorkDisks};
use crate::promote::{Promote, Promotions};
use crate::publish::Ask;
use crate::regions::{RegionError, Regions};
use crate::replicate::{RECONCILER, Replicate};
use crate::source::{DebianArchive, Provider};

/// Folders hold keys of machines and other people's disks.
const FOLDER_MODE: u32 = 0o700;

/// Where a factory works and what it keeps its resources in.
#[derive(Clone)]
pub struct FactoryOptions {
    pub data: PathBuf,
    pub catalog: Arc<dyn Catalog>,
    pub auth: Arc<dyn AuthStore>,
    pub jobs: Arc<dyn JobStore>,
    /// Before a version is written.
    pub ask: Arc<dyn Ask>,
}

/// What may be a fake.
#[derive(Clone)]
pub struct Parts {
    pub provider: Arc<dyn Provider>,
    pub builder: Arc<dyn Builder>,
    /// Without them, those of the data folder are opened.
    pub regions: Option<Arc<Regions>>,
    /// Without one, QEMU with whatever acceleration works here.
    pub hypervisor: Option<Arc<dyn Hypervisor>>,
}

/// Why there is no factory.
#[derive(Debug, thiserror::Error)]
pub enum FactoryError {
    #[error("make the folder `{}`", path.display())]
    Folder {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("open the regions")]
    Regions(#[from] RegionError),
    #[error("prepare the build environment")]
    Build(#[from] BuildError),
    #[error("read or write the catalog")]
    Catalog(#[from] catalog::CatalogError),
    #[error("the template cannot be built: {0}")]
    Template(String),
    #[error("`{0}` has no resource group")]
    NoGroup(wire::ResourceId),
    #[error("the name of a run cannot be made")]
    RunName(#[source] wire::IdError),
    #[error("{0}")]
    Job(#[from] jobs::StepError),
}

/// A factory.
pub struct Factory {
    pub(crate) data: PathBuf,
    pub(crate) catalog: Arc<dyn Catalog>,
    pub(crate) auth: Arc<dyn AuthStore>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) regions: Arc<Regions>,
    pub(crate) provider: Arc<dyn Provider>,
    pub(crate) builder: Arc<dyn Builder>,
    pub(crate) ask: Arc<dyn Ask>,
    pub(crate) disks: WorkDisks,
    pub(crate) machines: Machines,
    hypervisor: OnceCell<Arc<dyn Hypervisor>>,
    jobs: OnceLock<Jobs>,
}

impl std::fmt::Debug for Factory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Factory")
            .field("data", &self.data)
            .finish_non_exhaustive()
    }
}

impl Factory {
    /// A factory with the real tools. They are looked for when they are needed.
    pub fn open(options: FactoryOptions) -> Result<Arc<Factory>, FactoryError> {
        let cache = options.data.join("cache");
        make_folder(&cache)?;
        let executor = TreeExecutor::new(&cache.join("build"), SandboxProgram::this_executable())?;
        let parts = Parts {
            provider: Arc::new(DebianArchive::new(&cache)),
            builder: Arc::new(executor),
            regions: None,
            hypervisor: None,
        };
        Factory::with_parts(options, parts)
    }

    /// A factory some of whose tools are given.
    pub fn with_parts(options: FactoryOptions, parts: Parts) -> Result<Arc<Factory>, FactoryError> {
        let data = options.data;
        for name in ["cache", "cache/work", "cache/disks", "machines", "regions"] {
            make_folder(&data.join(name))?;
        }
        // What a killed process left there belongs to nobody.
        for entry in fs::read_dir(data.join("cache/work"))
            .into_iter()
            .flatten()
            .flatten()
        {
            if let Err(error) = fs::remove_dir_all(entry.path()) {
                tracing::warn!(path = %entry.path().display(), %error, "an old work folder stays");
            }
        }
        let regions = match parts.regions {
            Some(regions) => regions,
            None => Arc::new(Regions::open(&data.join("regions"))?),
        };
        Ok(Arc::new(Factory {
            regions,
            disks: WorkDisks::new(data.join("cache/disks")),
            machines: Machines::default(),
            catalog: options.catalog,
            auth: options.auth,
            clock: options.jobs.clock(),
            provider: parts.provider,
            builder: parts.builder,
            ask: options.ask,
            hypervisor: OnceCell::new_with(parts.hypervisor),
            jobs: OnceLock::new(),
            data,
        }))
    }

    /// Registers every kind of work that this factory does.
    pub fn register(self: &Arc<Self>, runner: &mut RunnerBuilder) {
        runner.register(BuildRun(Arc::clone(self)));
        runner.register(Deploy(Arc::clone(self)));
        runner.register(DeleteMachine(Arc::clone(self)));
        runner.register(Promote(Arc::clone(self)));
        runner.reconcile(Arc::new(Replicate(Arc::clone(self))));
        runner.reconcile(Arc::new(Promotions(Arc::clone(self))));
        // A second registration keeps the first runner's signals.
        let _ = self.jobs.set(runner.jobs());
    }

    pub fn regions(&self) -> &Arc<Regions> {
        &self.regions
    }

    /// Uses regions again that were away and are back.
    pub(crate) async fn look_for_regions(self: &Arc<Self>) {
        let regions = Arc::clone(&self.regions);
        let looked = tokio::task::spawn_blocking(move || regions.rescan()).await;
        match looked {
            Ok(Ok(away)) => {
                for error in away {
                    tracing::debug!(error = crate::pipeline::chain(&error), "a region is away");
                }
            }
            Ok(Err(error)) => {
                tracing::warn!(
                    error = crate::pipeline::chain(&error),
                    "no region is looked for"
                );
            }
            Err(error) => tracing::warn!(%error, "no region is looked for"),
        }
    }

    /// Has replicas looked at now, not at the next round.
    pub fn nudge_replication(&self) {
        if let Some(jobs) = self.jobs.get() {
            jobs.nudge(RECONCILER);
        }
    }

    /// What machines run on here, and why. Probed once by running a guest.
    pub async fn acceleration(&self) -> Acceleration {
        self.hypervisor().await.acceleration().clone()
    }

    /// Through which this factory submits jobs of its own, once it is registered.
    pub(crate) fn jobs(&self) -> Option<&Jobs> {
        self.jobs.get()
    }

    pub(crate) async fn hypervisor(&self) -> &Arc<dyn Hypervisor> {
        let probe = self.data.join("cache/probe.json");
        let make = || async move {
            let qemu: Arc<dyn Hypervisor> = Arc::new(Qemu::new(machine::probe(&probe).await));
            qemu
        };
        self.hypervisor.get_or_init(make).await
    }

    /// A folder that goes away with its handle.
    pub(crate) fn work_folder(&self) -> std::io::Result<tempfile::TempDir> {
        tempfile::Builder::new()
            .prefix("step-")
            .tempdir_in(self.data.join("cache/work"))
    }
}

pub(crate) fn make_folder(path: &Path) -> Result<(), FactoryError> {
    let made = fs::create_dir_all(path)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(FOLDER_MODE)));
    made.map_err(|source| FactoryError::Folder {
        path: path.to_owned(),
        source,
    })
}
