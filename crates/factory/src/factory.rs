//! One factory of one data folder: what the stages share, and how the rest of the program reaches
//! it. It starts nothing by itself; jobs and the reconciler do.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use catalog::{AuthStore, Catalog, ChangeFeed, Clock, JobStore, Statements};
use jobs::{Jobs, RunnerBuilder, StepError};
use machine::{Acceleration, Hypervisor, Qemu};
use provenance::PublicKey;
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use wire::Location;

use crate::build::{BuildError, SandboxProgram, TreeExecutor};
use crate::build::{SecretValue, Secrets};
use crate::deploy::{ChangeDisks, DeleteMachine, Deploy, Machines, Power};
use crate::export::Exports;
use crate::fetch::{Fetch, FetchError, Reach, Web};
use crate::pipeline::{BuildRun, Builder, KeptMachines, VerifyBuild, WorkDisks};
use crate::promote::{Promote, Promotions};
use crate::prove::{KeyError, StatementKey, StatementKeys};
use crate::publish::Ask;
use crate::reclaim::{self, Reclaim};
use crate::regions::{RegionError, Regions, StorageSettings};
use crate::replicate::{Links, RECONCILER, Replicate};
use crate::scrub::{self, Scrub};
use crate::secret_file::{self, SEED_BYTES};
use crate::serving::ServedDisks;
use crate::source::{LATEST, Marketplace, PlatformImage, Product, Provider};
use crate::trigger::Triggers;

/// Folders hold keys of machines and other people's disks.
const FOLDER_MODE: u32 = 0o700;

/// Where a factory works and what it keeps its resources in.
#[derive(Clone)]
pub struct FactoryOptions {
    /// This server, among those of one catalog: the machines that it made are its own.
    pub server: String,
    pub data: PathBuf,
    pub catalog: Arc<dyn Catalog>,
    pub feed: Arc<dyn ChangeFeed>,
    pub auth: Arc<dyn AuthStore>,
    pub jobs: Arc<dyn JobStore>,
    pub statements: Arc<dyn Statements>,
    /// Before a version is written.
    pub ask: Arc<dyn Ask>,
    /// Where bits are and how they are kept.
    pub storage: StorageSettings,
    /// Where VHDs by URI are read and written; without it there are none.
    pub blobs: Option<BlobPlace>,
    /// What may be reached of other hosts.
    pub reach: Reach,
}

/// The folder of files that the server shows below `{url}/blobs/`.
#[derive(Debug, Clone)]
pub struct BlobPlace {
    pub folder: PathBuf,
    /// `https://host:port` of the server.
    pub url: String,
}

impl BlobPlace {
    /// The name of the blob that a URI means. Whether the URI is this server's was decided when it was written down.
    pub fn name_of(&self, uri: &str) -> Option<String> {
        let url = reqwest::Url::parse(uri).ok()?;
        let name = url.path().strip_prefix("/blobs/")?;
        is_blob_name(name).then(|| name.to_owned())
    }

    pub fn uri_of(&self, name: &str) -> String {
        format!("{}/blobs/{name}", self.url.trim_end_matches('/'))
    }

    /// The file of a blob that is there. A link that leads out of the folder names nothing.
    pub fn existing(&self, name: &str) -> Option<PathBuf> {
        if !is_blob_name(name) {
            return None;
        }
        let folder = fs::canonicalize(&self.folder).ok()?;
        let path = fs::canonicalize(folder.join(name)).ok()?;
        (path.starts_with(&folder) && path.is_file()).then_some(path)
    }

    /// Where a blob of this name is to be written: inside the folder, whatever links are in it.
    pub fn writable(&self, name: &str) -> Option<PathBuf> {
        if !is_blob_name(name) {
            return None;
        }
        let folder = fs::canonicalize(&self.folder).ok()?;
        let mut path = folder.clone();
        for part in name.split('/') {
            path.push(part);
            if fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_symlink()) {
                return None;
            }
        }
        Some(path)
    }
}

/// Plain names of files and folders; none that begins with a dot, which are our own.
fn is_blob_name(name: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.len() <= 200
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"._-+ ".contains(&byte))
    };
    name.len() <= 1000 && name.split('/').all(part)
}

/// What may be a fake.
#[derive(Clone)]
pub struct Parts {
    pub provider: Arc<dyn Provider>,
    pub builder: Arc<dyn Builder>,
    /// Without them, those of the data folder are opened.
    pub regions: Option<Arc<Regions>>,
    /// Without them, disks are served on a socket of the data folder.
    pub served: Option<Arc<ServedDisks>>,
    /// Without one, QEMU with whatever acceleration works here.
    pub hypervisor: Option<Arc<dyn Hypervisor>>,
    /// Without one, contents are fetched by HTTP.
    pub fetch: Option<Arc<dyn Fetch>>,
    /// Without one, it follows from the options.
    pub web: Option<Arc<Web>>,
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
    #[error("open the key for statements")]
    Key(#[from] KeyError),
    #[error("prepare fetching from other hosts")]
    Reach(#[from] FetchError),
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
    #[error("read or make the installation's own key for marks")]
    MarkKey(#[source] std::io::Error),
    #[error("the name of a run cannot be made")]
    RunName(#[source] wire::IdError),
    #[error("{0}")]
    Job(#[from] jobs::StepError),
}

/// A factory.
pub struct Factory {
    pub(crate) server: String,
    pub(crate) data: PathBuf,
    pub(crate) catalog: Arc<dyn Catalog>,
    pub(crate) feed: Arc<dyn ChangeFeed>,
    pub(crate) auth: Arc<dyn AuthStore>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) statements: Arc<dyn Statements>,
    keys: Arc<StatementKeys>,
    pub(crate) regions: Arc<Regions>,
    pub(crate) links: Links,
    pub(crate) provider: Arc<dyn Provider>,
    pub(crate) builder: Arc<dyn Builder>,
    pub(crate) ask: Arc<dyn Ask>,
    pub(crate) disks: WorkDisks,
    pub(crate) served: Arc<ServedDisks>,
    /// Turns to fill the disks of machines.
    pub(crate) fills: tokio::sync::Semaphore,
    pub(crate) exports: Exports,
    pub(crate) machines: Machines,
    pub(crate) kept: KeptMachines,
    pub(crate) blobs: Option<BlobPlace>,
    pub(crate) fetch: Arc<dyn Fetch>,
    pub(crate) web: Arc<Web>,
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
        let web = Arc::new(Web::new(options.reach.clone())?);
        let parts = Parts {
            provider: Arc::new(Marketplace::new(&options.data, &web)),
            builder: Arc::new(executor),
            regions: None,
            served: None,
            hypervisor: None,
            fetch: None,
            web: Some(web),
        };
        Factory::with_parts(options, parts)
    }

    /// A factory some of whose tools are given.
    pub fn with_parts(options: FactoryOptions, parts: Parts) -> Result<Arc<Factory>, FactoryError> {
        let web = match parts.web {
            Some(web) => web,
            None => Arc::new(Web::new(options.reach)?),
        };
        let data = options.data;
        for name in [
            "cache",
            "cache/work",
            "cache/disks",
            "machines",
            "regions",
            "keys",
        ] {
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
            None => Arc::new(Regions::open_with(&data.join("regions"), options.storage)?),
        };
        let served = parts.served.unwrap_or_else(|| {
            let socket = data.join("cache/nbd.sock");
            Arc::new(ServedDisks::new(socket, Arc::clone(&regions)))
        });
        let fetch = parts.fetch.unwrap_or_else(|| web.clone());
        Ok(Arc::new(Factory {
            server: options.server,
            blobs: options.blobs,
            fetch,
            web,
            links: Links::default(),
            disks: WorkDisks::new(data.join("cache/disks")),
            exports: Exports::default(),
            served,
            regions,
            fills: crate::deploy::fills(),
            machines: Machines::default(),
            kept: KeptMachines::default(),
            catalog: options.catalog,
            feed: options.feed,
            auth: options.auth,
            clock: options.jobs.clock(),
            statements: options.statements,
            keys: Arc::new(StatementKeys::open(&data.join("keys"))?),
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
        runner.register(Power(Arc::clone(self)));
        runner.register(ChangeDisks(Arc::clone(self)));
        runner.register(Promote(Arc::clone(self)));
        runner.register(VerifyBuild(Arc::clone(self)));
        runner.reconcile(Arc::new(Replicate::new(Arc::clone(self))));
        runner.reconcile(Arc::new(Reclaim::new(Arc::clone(self))));
        runner.reconcile(Arc::new(Scrub::new(Arc::clone(self))));
        runner.reconcile(Arc::new(Promotions(Arc::clone(self))));
        runner.reconcile(Arc::new(Triggers(Arc::clone(self))));
        // A second registration keeps the first runner's signals.
        let _ = self.jobs.set(runner.jobs());
    }

    /// The keys that statements are trusted from: the one that signs first.
    pub fn statement_keys(&self) -> Vec<PublicKey> {
        self.keys.trusted()
    }

    /// The key that statements of this factory are signed with.
    pub fn statement_key(&self) -> Arc<StatementKey> {
        self.keys.own()
    }

    /// Has a new key sign from now on; what the one before signed is trusted as before.
    pub async fn rotate_statement_key(&self) -> Result<(), KeyError> {
        let keys = Arc::clone(&self.keys);
        // A rotation that was begun is ended, whoever waits for it.
        match tokio::task::spawn_blocking(move || keys.rotate()).await {
            Ok(done) => done,
            Err(error) => Err(KeyError::Open {
                path: self.data.join("keys"),
                source: std::io::Error::other(error),
            }),
        }
    }

    /// Machines of images that failed a check and are kept for a login.
    pub fn kept_machines(&self) -> &KeptMachines {
        &self.kept
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

    /// The platform images that are offered.
    pub fn products(&self) -> Vec<Product> {
        self.provider.products()
    }

    /// The versions of one of them. Where no state was pinned yet it is pinned now, so that there is a version to name;
    /// where that cannot be done, there is none.
    pub async fn versions_of(&self, product: &Product) -> Vec<String> {
        if !product.versions.is_empty() {
            return product.versions.clone();
        }
        let image = PlatformImage {
            publisher: product.publisher.clone(),
            offer: product.offer.clone(),
            sku: product.sku.clone(),
            version: LATEST.to_owned(),
        };
        match self.provider.resolve(&image, &[]).await {
            Ok(pin) => vec![pin.image.version],
            Err(error) => {
                let error = crate::pipeline::chain(&error);
                tracing::debug!(error, %image, "a platform image has no version");
                Vec::new()
            }
        }
    }

    /// The stores of a region, which of them can be used, and how its scrub is doing. Blocks.
    pub fn region_state(&self, region: &Location) -> Value {
        let Ok(found) = self.regions.region(region) else {
            return Value::Null;
        };
        let stores: Vec<Value> = found
            .members()
            .iter()
            .map(|member| {
                let usage = member.store().and_then(|store| store.usage().ok());
                json!({
                    "zone": member.zone,
                    "name": member.name,
                    "premium": member.premium,
                    "state": if member.why_away().is_none() { "Available" } else { "Away" },
                    "message": member.why_away(),
                    "usage": usage,
                })
            })
            .collect();
        let scrub = scrub::state_of(&self.data, region);
        json!({ "stores": stores, "scrub": scrub })
    }

    /// Has replicas looked at now, not at the next round.
    pub fn nudge_replication(&self) {
        if let Some(jobs) = self.jobs.get() {
            jobs.nudge(RECONCILER);
            jobs.nudge(reclaim::RECONCILER);
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

    /// Where contents that templates name by URI are kept.
    pub(crate) fn contents_folder(&self) -> PathBuf {
        self.data.join("cache/contents")
    }

    /// Where builds that failed are kept, one folder for each run.
    pub(crate) fn kept_folder(&self) -> PathBuf {
        self.data.join("kept")
    }

    /// Where builds find secrets.
    pub(crate) async fn secrets(&self) -> Result<Secrets, StepError> {
        let installation = self.auth.installation().await?;
        let operator = installation.map(|installation| installation.tenant);
        Ok(Secrets::new(self.data.join("secrets"), operator))
    }

    /// What changes when one of the values does, and tells nothing of them to whoever lacks this installation's key.
    pub(crate) fn secret_marks(&self, secrets: &[SecretValue]) -> Result<Vec<String>, StepError> {
        let marks = secrets
            .iter()
            .map(|secret| self.mark(&[secret.name(), secret.reveal()]));
        marks.collect()
    }

    /// A text that follows from the parts and this installation's key, and cannot be guessed.
    pub(crate) fn mark(&self, parts: &[&str]) -> Result<String, StepError> {
        let key = mark_key(&self.data.join("cache/mark.key"));
        let key = key.map_err(|error| {
            StepError::failed(
                "InternalServerError",
                FactoryError::MarkKey(error).to_string(),
            )
        })?;
        let mut hasher = blake3::Hasher::new_keyed(&key);
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        Ok(hasher.finalize().to_hex()[..32].to_owned())
    }

    /// A folder that goes away with its handle.
    pub(crate) fn work_folder(&self) -> std::io::Result<tempfile::TempDir> {
        tempfile::Builder::new()
            .prefix("step-")
            .tempdir_in(self.data.join("cache/work"))
    }
}

/// The key of marks; made on its first use.
fn mark_key(path: &Path) -> std::io::Result<[u8; SEED_BYTES]> {
    let bytes = secret_file::read_or_make(path)?;
    bytes
        .try_into()
        .map_err(|_| std::io::ErrorKind::InvalidData.into())
}

pub(crate) fn make_folder(path: &Path) -> Result<(), FactoryError> {
    let made = fs::create_dir_all(path)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(FOLDER_MODE)));
    made.map_err(|source| FactoryError::Folder {
        path: path.to_owned(),
        source,
    })
}
