//! Builds a version again from what its build recorded, and holds the disk against the one that was published; what a
//! machine wrote is held against it file by file. What was brought here has no record: its stored bits are held against
//! its digest. Nothing is published and no step is found: what was done once proves nothing here.

use std::sync::Arc;

use access::{Action, Permit};
use async_trait::async_trait;
use catalog::Resource;
use disk::DiskDigest;
use ext4::Entry;
use jobs::{JobContext, JobError, JobKind, NoUndo, OnUndo, StepError, StepHandle};
use provenance::PredicateType;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use store::Store;
use wire::ResourceId;

use super::compare::{self, Difference, Promise, differences};
use super::origin::{Ancestry, Origin, ancestry_of};
use super::recipe::{DEFAULT_DISK_GIB, Executor, Recipe};
use super::run::Run;
use super::stages::{self, Customize, Finish, MACHINE_STEP, Resolved, bring};
use super::steps::{StepDisk, blocking, failed, log_lines, store_failed};
use crate::build::{self, BuildContext, Customizer, RootFs};
use crate::disks::Disks;
use crate::factory::Factory;
use crate::promote;
use crate::prove::{self, PROVENANCE_INVALID, RECORD};
use crate::source::BaseRequest;
use crate::tattoo::{self, Tattoo};

pub const VERIFY_ACTION: &str = "Microsoft.Compute/galleries/images/versions/verifyBuild/action";
/// Raised when a record says other things than before.
const FORMAT: u32 = 1;
/// Files that are named; the others are counted.
const DIFFERENCES_MAX: usize = 200;
const DATED_BYTES_MAX: u64 = 4 << 20;
const NOT_REBUILT: &str = "CannotRebuild";
const NOTHING_TO_UNDO: &str = "what nothing refers to is given back by the store";

/// All that a disk was made from.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BuildRecord {
    format: u32,
    /// The template's properties, which name secrets and do not hold them.
    properties: Value,
    resolved: Resolved,
    base: DiskDigest,
    tattoo: Tattoo,
    /// What wrote the file system.
    writer: String,
}

impl BuildRecord {
    pub fn of(
        run: &Run,
        resolved: &Resolved,
        base: &DiskDigest,
        tattoo: &Tattoo,
    ) -> Result<Value, StepError> {
        let record = BuildRecord {
            format: FORMAT,
            properties: run.input.properties.clone(),
            resolved: resolved.clone(),
            base: *base,
            tattoo: tattoo.clone(),
            writer: ext4::writer_version(),
        };
        serde_json::to_value(record).map_err(|error| failed("StatementsFailed", &error))
    }
}

/// What becomes of the first disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Base {
    /// It is made again as well.
    #[default]
    Rebuild,
    /// It is taken from the store where it is still there: only the customizers are verified.
    Reuse,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VerifyInput {
    pub version: ResourceId,
    #[serde(default)]
    pub base: Base,
}

/// One at a time for each version.
pub fn verify_exclusive(version: &ResourceId) -> String {
    format!("verify {}", version.folded())
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Verified {
    pub version_id: ResourceId,
    pub matches: bool,
    pub disk_digest: DiskDigest,
    /// None where nothing was rebuilt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rebuilt_digest: Option<DiskDigest>,
    pub promise: Promise,
    pub differences: Vec<Difference>,
    /// Files that differ beside those that are named.
    pub more: usize,
    /// In words, where there is something to say.
    pub message: String,
}

/// The job.
pub struct VerifyBuild(pub Arc<Factory>);

#[async_trait]
impl JobKind for VerifyBuild {
    const NAME: &'static str = "verify-build";
    type Input = VerifyInput;
    type Undo = NoUndo;

    async fn run(
        &self,
        cx: &mut JobContext<NoUndo>,
        input: VerifyInput,
    ) -> Result<Value, JobError> {
        let permit = cx
            .permit(&Action::new(VERIFY_ACTION), &input.version)
            .await?;
        let version = self.0.catalog.get(&permit.to_read_own()).await?;
        let disks = Disks::of(&version).ok_or_else(|| no_record(&version))?;
        let digest = disks.os;
        let Some(record) = self.record(&permit, &version, &digest).await? else {
            let factory = Arc::clone(&self.0);
            let look = |handle| async move { bits(&factory, &version, digest, &handle).await };
            let found = step(cx, "bits", look).await?;
            return Ok(serde_json::to_value(found).unwrap_or_default());
        };
        let rebuild = Rebuild::of(&self.0, &permit, record)?;
        let mut disk = step(cx, "base", rebuild.clone().base(input.base)).await?;
        if rebuild.promise() == Promise::Files {
            disk = step(cx, MACHINE_STEP, rebuild.clone().machine(disk)).await?;
        } else {
            for (index, customizer) in rebuild.recipe.customizers.iter().enumerate() {
                let name = format!("{index} {}", customizer.name());
                disk = step(cx, &name, rebuild.clone().customize(index, disk)).await?;
            }
        }
        disk = step(cx, "finish", rebuild.clone().finish(disk)).await?;
        let rebuilt = step(cx, "tattoo", rebuild.clone().tattoo(disk))
            .await?
            .digest;
        let version = input.version;
        let compared = step(cx, "compare", rebuild.compare(version, digest, rebuilt)).await?;
        Ok(serde_json::to_value(compared).unwrap_or_default())
    }

    async fn undo(
        &self,
        _cx: &StepHandle,
        undo: NoUndo,
        _output: Option<Value>,
    ) -> Result<(), StepError> {
        match undo {}
    }
}

async fn step<T, F, Fut>(cx: &mut JobContext<NoUndo>, name: &str, work: F) -> Result<T, JobError>
where
    T: Serialize + serde::de::DeserializeOwned + Send,
    F: FnOnce(StepHandle) -> Fut + Send,
    Fut: Future<Output = Result<T, StepError>> + Send,
{
    let done = cx.step_once(
        name,
        OnUndo::Nothing(NOTHING_TO_UNDO),
        |handle| async move {
            tokio::select! {
                done = work(handle.clone()) => done,
                () = handle.until_cancelled() => Err(StepError::canceled()),
            }
        },
    );
    Ok(done.await?.value)
}

impl VerifyBuild {
    /// What the version's disk was made from, if a trusted key says so. Nothing of what was brought here.
    async fn record(
        &self,
        permit: &Permit,
        version: &Resource,
        digest: &DiskDigest,
    ) -> Result<Option<BuildRecord>, StepError> {
        let (factory, disk) = (&self.0, digest.to_string());
        let kept = factory.statements.statement(permit, &disk, RECORD).await?;
        let kept = match (kept, ancestry_of(version)) {
            (Some(kept), _) => kept,
            (None, Ancestry::Foreign) => return Ok(None),
            (None, Ancestry::Built) => return Err(no_record(version)),
        };
        let opened = prove::open(&kept, &disk, &factory.statement_keys());
        let opened = opened.map_err(|error| failed(PROVENANCE_INVALID, &error))?;
        if opened.statement.predicate_type != PredicateType::BuildRecord {
            return Err(no_record(version));
        }
        let record: BuildRecord = serde_json::from_value(opened.statement.predicate)
            .map_err(|error| failed(NOT_REBUILT, &error))?;
        match record.format {
            FORMAT => Ok(Some(record)),
            _ => Err(no_record(version)),
        }
    }
}

fn no_record(version: &Resource) -> StepError {
    let message = format!(
        "no record of a build is kept with `{}`: it was built by an older release, or elsewhere; build it again",
        version.id
    );
    StepError::failed(NOT_REBUILT, message)
}

/// Reads the version's disk in all its regions, and says whether it is what the version names.
async fn bits(
    factory: &Arc<Factory>,
    version: &Resource,
    digest: DiskDigest,
    handle: &StepHandle,
) -> Result<Verified, StepError> {
    let copies = promote::copies(factory, version, &mut promote::Read::new()).await?;
    let named = |wanted: promote::Held| -> Vec<&str> {
        let found = copies.iter().filter(|(_, copy)| *copy == wanted);
        found.map(|(region, _)| region.as_str()).collect()
    };
    let (whole, damaged) = (named(promote::Held::Whole), named(promote::Held::Damaged));
    let matches = !whole.is_empty() && damaged.is_empty();
    let found = match (&whole[..], &damaged[..]) {
        ([], []) => "no region of it holds the whole disk".to_owned(),
        (_, [_, ..]) => format!("the bits in {} are damaged", damaged.join(", ")),
        (whole, []) => format!(
            "the bits in {} are those that its digest names",
            whole.join(", ")
        ),
    };
    let message = format!(
        "it was brought here, so nobody here knows how it came to be and it cannot be built again; {found}"
    );
    handle.log(&message);
    Ok(Verified {
        version_id: version.id.clone(),
        matches,
        disk_digest: digest,
        rebuilt_digest: None,
        promise: Promise::Bits,
        differences: Vec::new(),
        more: 0,
        message,
    })
}

/// One rebuild under way.
#[derive(Clone)]
struct Rebuild {
    factory: Arc<Factory>,
    store: Arc<Store>,
    tenant: wire::TenantId,
    recipe: Recipe,
    record: Arc<BuildRecord>,
}

impl Rebuild {
    fn of(
        factory: &Arc<Factory>,
        permit: &Permit,
        mut record: BuildRecord,
    ) -> Result<Rebuild, StepError> {
        record.resolved.fetched.folder = factory.contents_folder();
        let recipe = Recipe::with(&record.properties, &record.resolved.fetched);
        let recipe = recipe.map_err(|problems| {
            let texts: Vec<String> = problems
                .iter()
                .map(|problem| format!("{}: {}", problem.path, problem.message))
                .collect();
            StepError::failed(NOT_REBUILT, texts.join("; "))
        })?;
        let store = factory.regions.store(&record.resolved.home());
        Ok(Rebuild {
            factory: Arc::clone(factory),
            store: store.map_err(|error| failed("RegionNotFound", &error))?,
            tenant: permit.tenant(),
            recipe,
            record: Arc::new(record),
        })
    }

    fn promise(&self) -> Promise {
        match self.record.resolved.source.executor {
            Executor::Tree => Promise::Disk,
            Executor::Machine => Promise::Files,
        }
    }

    fn base(self, base: Base) -> impl FnOnce(StepHandle) -> stages::BoxFuture<StepDisk> + Send {
        move |handle| {
            Box::pin(async move {
                let source = &self.record.resolved.source;
                let known = self.record.base;
                if base == Base::Reuse && self.store.has(&known) {
                    handle.log("the base disk is taken from the store");
                    return Ok(StepDisk::default_of(known));
                }
                if let (Origin::Platform, Some(pin)) = (&source.origin, &source.pin) {
                    let request = BaseRequest {
                        disk_gib: self.recipe.disk_gib.unwrap_or(DEFAULT_DISK_GIB),
                    };
                    let made =
                        stages::bootstrapped(&self.factory, self.store, pin, &request, &handle);
                    return made.await;
                }
                let home = self.record.resolved.home();
                blocking(move || {
                    let origin = &self.record.resolved.source.origin;
                    let wanted = self.recipe.disk_gib;
                    stages::taken_in(&self.factory, &self.store, &home, origin, wanted)
                })
                .await
            })
        }
    }

    fn customize(
        self,
        index: usize,
        parent: StepDisk,
    ) -> impl FnOnce(StepHandle) -> stages::BoxFuture<StepDisk> + Send {
        move |handle| {
            Box::pin(async move {
                let customizer = self.recipe.customizers[index].clone();
                let secrets = self.factory.secrets().await?;
                let secrets = secrets.look_up(customizer.secrets(), self.tenant).await;
                let minutes = u64::from(self.recipe.timeout_minutes);
                let work = Customize {
                    secrets: secrets.map_err(|error| failed("SecretNotFound", &error))?,
                    factory: self.factory,
                    resolved: self.record.resolved.clone(),
                    store: self.store,
                    parent: parent.digest,
                    customizer,
                    keep: None,
                    deadline: std::time::Duration::from_secs(minutes * 60),
                };
                work.run(handle).await
            })
        }
    }

    /// All customizers in one machine, as the build had them.
    fn machine(
        self,
        parent: StepDisk,
    ) -> impl FnOnce(StepHandle) -> stages::BoxFuture<StepDisk> + Send {
        move |handle| {
            Box::pin(async move {
                let customizers = self.recipe.customizers.iter();
                let named: Vec<_> = customizers.flat_map(Customizer::secrets).cloned().collect();
                if self.recipe.customizers.is_empty() {
                    return Ok(parent);
                }
                let secrets = self.factory.secrets().await?;
                let secrets = secrets.look_up(&named, self.tenant).await;
                let minutes = u64::from(self.recipe.timeout_minutes);
                let context = BuildContext {
                    epoch: self.record.resolved.source.epoch,
                    apt: None,
                    secrets: secrets.map_err(|error| failed("SecretNotFound", &error))?,
                    deadline: std::time::Duration::from_secs(minutes * 60),
                    on_line: log_lines(&handle),
                    keep: None,
                };
                let system = self.record.resolved.source.system();
                let (store, parent) = (&self.store, (parent.digest, system));
                stages::in_machine(&self.factory, store, parent, &self.recipe, context).await
            })
        }
    }

    fn finish(
        self,
        built: StepDisk,
    ) -> impl FnOnce(StepHandle) -> stages::BoxFuture<StepDisk> + Send {
        move |handle| {
            Box::pin(async move {
                let mut disk = built;
                let work = |disk: &StepDisk, must| Finish {
                    store: Arc::clone(&self.store),
                    disk: disk.clone(),
                    must,
                };
                if self.recipe.generalize {
                    let (epoch, must) = (
                        self.record.resolved.source.epoch,
                        self.record.resolved.is_built(),
                    );
                    let change = move |disk: &dyn disk::ReadAt| stages::generalised(disk, epoch);
                    disk = work(&disk, must).run(handle.clone(), change).await?;
                }
                if self.recipe.optimize {
                    let change = |disk: &dyn disk::ReadAt| build::zero_free_space(disk);
                    disk = work(&disk, false).run(handle, change).await?;
                }
                Ok(disk)
            })
        }
    }

    /// The tattoo as it was: number and date are inputs.
    fn tattoo(
        self,
        built: StepDisk,
    ) -> impl FnOnce(StepHandle) -> stages::BoxFuture<StepDisk> + Send {
        move |_| {
            Box::pin(blocking(move || {
                let store = &self.store;
                let disk = store.disk(&built.digest);
                let disk = disk.map_err(|error| store_failed(&error))?;
                let epoch = self.record.resolved.source.epoch;
                let changes = tattoo::apply(&disk, &self.record.tattoo, epoch);
                let changes = changes.map_err(|error| failed("TattooFailed", &error))?;
                let kept = store.ingest_child(&built.digest, &changes);
                let kept = kept.map_err(|error| store_failed(&error))?;
                Ok(StepDisk::of(kept, changes.bytes()))
            }))
        }
    }

    fn compare(
        self,
        version: ResourceId,
        disk: DiskDigest,
        rebuilt: DiskDigest,
    ) -> impl FnOnce(StepHandle) -> stages::BoxFuture<Verified> + Send {
        move |handle| {
            Box::pin(blocking(move || {
                let promise = self.promise();
                let mut verified = Verified {
                    version_id: version,
                    matches: disk == rebuilt,
                    disk_digest: disk,
                    rebuilt_digest: Some(rebuilt),
                    promise,
                    differences: Vec::new(),
                    more: 0,
                    message: String::new(),
                };
                if verified.matches {
                    handle.log("the rebuilt disk is the same");
                    return Ok(verified);
                }
                bring(
                    &self.factory,
                    &self.store,
                    &self.record.resolved.home(),
                    &disk,
                )?;
                let all = differences(&self.files(&disk)?, &self.files(&rebuilt)?);
                if promise == Promise::Files && all.is_empty() {
                    verified.matches = true;
                    handle.log("the rebuilt files are the same");
                    return Ok(verified);
                }
                verified.message = self.why(&all);
                verified.more = all.len().saturating_sub(DIFFERENCES_MAX);
                verified.differences = all.into_iter().take(DIFFERENCES_MAX).collect();
                handle.log(format!("the rebuilt disk differs: {}", verified.message));
                Ok(verified)
            }))
        }
    }

    /// What of a disk's files must be the same.
    fn files(&self, digest: &DiskDigest) -> Result<Vec<Entry>, StepError> {
        let disk = self.store.disk(digest);
        let disk = disk.map_err(|error| store_failed(&error))?;
        let unread = |error: &(dyn std::error::Error + 'static)| failed("CompareFailed", error);
        let root = RootFs::find(&disk).map_err(|error| unread(&error))?;
        let mut entries = root.walk(&disk).map_err(|error| unread(&error))?;
        if self.promise() == Promise::Disk {
            return Ok(entries);
        }
        for path in compare::DATED {
            let read = root.read(&disk, |tree| tree.read(path.as_bytes(), DATED_BYTES_MAX));
            let text = read.map_err(|error: ext4::Ext4Error| unread(&error))?;
            let entry = entries
                .iter_mut()
                .find(|entry| entry.path == path.as_bytes());
            if let (Some(entry), Some(text)) = (entry, text) {
                compare::undated(entry, &text);
            }
        }
        Ok(compare::normalised(entries))
    }

    fn why(&self, found: &[Difference]) -> String {
        let mut text = match found.len() {
            0 => "the files are the same, blocks outside of them differ".to_owned(),
            1 => "1 file differs".to_owned(),
            count => format!("{count} files differ"),
        };
        let (then, now) = (&self.record.writer, ext4::writer_version());
        if *then != now {
            text.push_str(&format!("; it was written by {then}, and this is {now}"));
        }
        text
    }
}
