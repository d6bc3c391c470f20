//! A finished disk gets its number and its record, is looked through for secrets, booted and checked.

use std::sync::{Arc, Mutex, PoisonError};

use access::Action;
use disk::{Changes, DiskDigest};
use jobs::{JobError, StepError, StepHandle, step_key};
use machine::{Firmware, System};
use serde::{Deserialize, Serialize};
use serde_json::json;
use store::{Store, StoredDisk, Trace};
use wire::Location;
use wire::factory::Stage;
use wire::template::{OnBuildError, Validator};

use super::kept::KeptMachine;
use super::recipe::Target;
use super::run::{Named, Run};
use super::scans::ScanReport;
use super::stages::{BoxFuture, Cx, Resolved, present};
use super::steps::{Shown, StepDisk, blocking, failed, store_failed, test_name};
use crate::factory::Factory;
use crate::publish::{self, Allocation, VERSION_READ};
use crate::scan::{self, Finding};
use crate::serving::ServingError;
use crate::tattoo::{self, Tattoo};
use crate::test::{TEST_FORMAT, TestReport, TestSubject};

const DATE_FORMAT: &str = "%Y-%m-%dT%H:%M:%SZ";

/// The disk of a version, with the record that is in it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Tattooed {
    #[serde(flatten)]
    pub disk: StepDisk,
    pub tattoo: Tattoo,
}

/// The numbers that the image gets, one for each gallery in the order of the targets, and its date.
#[derive(Debug, Clone)]
pub(super) struct Allocated {
    pub numbers: Vec<Allocation>,
    pub date: String,
}

/// What was found out about a finished disk.
#[derive(Debug, Clone, Default)]
pub(crate) struct Proofs {
    pub reports: Vec<TestReport>,
    pub scans: Vec<ScanReport>,
}

/// What a step about a gallery is called; the first one needs no name.
pub(super) fn gallery_step(target: &Target, first: bool) -> String {
    match first {
        true => "version".to_owned(),
        false => format!("version {}", target.run_output()),
    }
}

impl Run {
    /// The version's number and date: chosen once for the same content of the same definition.
    pub(super) async fn allocate(
        &mut self,
        cx: &mut Cx,
        resolved: &Resolved,
        built: &StepDisk,
    ) -> Result<Allocated, JobError> {
        let mut numbers: Vec<Allocation> = Vec::new();
        for target in self.recipe.targets.clone() {
            let Some(gallery) = target.gallery() else {
                continue;
            };
            let permit = cx
                .permit(&Action::new(VERSION_READ), &gallery.definition)
                .await?;
            let taken = publish::taken(&self.factory.catalog, &permit).await?;
            let (numbering, source) = (gallery.numbering, resolved.source.facts.version.clone());
            let inputs = (
                gallery.definition.folded(),
                built.digest,
                self.recipe.digest(),
                &resolved.source.facts.digest,
                &source,
                numbering,
            );
            let key = step_key("allocate", 1, &inputs);
            let name = gallery_step(&target, numbers.is_empty());
            let named = Named::pure(Stage::Tattoo, &name, key);
            let (owner, used) = (key.to_string(), taken.clone());
            let good = |found: &Allocation| publish::is_ours(&taken, found);
            let action = move |handle: StepHandle, _: Shown| async move {
                let version = publish::next_number(numbering, &used, &source)?;
                handle.log(format!("the new version is {version}"));
                Ok(Allocation {
                    version,
                    published_date: handle.clock().now().strftime(DATE_FORMAT).to_string(),
                    owner,
                })
            };
            numbers.push(self.step(cx, named, good, action).await?);
        }
        let date = match numbers.first() {
            Some(first) => first.published_date.clone(),
            None => {
                let key = step_key("date", 1, &(built.digest, self.recipe.digest()));
                let action = |handle: StepHandle, _: Shown| async move {
                    Ok(handle.clock().now().strftime(DATE_FORMAT).to_string())
                };
                let named = Named::pure(Stage::Tattoo, "date", key);
                self.step(cx, named, |_: &String| true, action).await?
            }
        };
        Ok(Allocated { numbers, date })
    }

    /// What a finished Windows says that it is: nobody else knows, and updates change it. Of anything else, the source says it.
    async fn os_version(
        &mut self,
        cx: &mut Cx,
        resolved: &Resolved,
        home: &Arc<Store>,
        built: &StepDisk,
    ) -> Result<String, JobError> {
        let known = resolved.source.facts.os_version.clone();
        if !resolved.source.is_windows() {
            return Ok(known);
        }
        let (store, digest) = (Arc::clone(home), built.digest);
        let action = move |handle: StepHandle, _: Shown| async move {
            let looked = blocking(move || {
                let disk = store.disk(&digest).map_err(|error| store_failed(&error))?;
                tattoo::windows_version(&disk).map_err(|error| failed("TattooFailed", &error))
            });
            let version = looked.await?;
            if let Some(version) = &version {
                handle.log(format!("the image is {version}"));
            }
            Ok(version)
        };
        let key = step_key("os-version", 1, &digest);
        let named = Named::pure(Stage::Tattoo, "os-version", key);
        let found: Option<String> = self.step(cx, named, |_| true, action).await?;
        Ok(found.unwrap_or(known))
    }

    /// Writes the record of identity and origin into the disk.
    pub(super) async fn tattoo(
        &mut self,
        cx: &mut Cx,
        resolved: &Resolved,
        home: &Arc<Store>,
        built: &StepDisk,
        allocated: &Allocated,
    ) -> Result<Tattooed, JobError> {
        let os_version = self.os_version(cx, resolved, home, built).await?;
        let record = self.record_of(resolved, built, allocated, os_version);
        let epoch = resolved.source.epoch;
        let inputs = (built.digest, &record, epoch, ext4::writer_version());
        let named = Named::pure(Stage::Tattoo, "write", step_key("tattoo", 1, &inputs));
        let writing = Writing {
            factory: Arc::clone(&self.factory),
            store: Arc::clone(home),
            parent: built.clone(),
            record,
            epoch,
        };
        let (windows, must) = (resolved.source.is_windows(), resolved.is_built());
        let action = move |handle: StepHandle, _: Shown| async move {
            match windows {
                true => writing.into_windows().await,
                false => blocking(move || writing.into_linux(must, &handle)).await,
            }
        };
        let here = present(&self.factory, home);
        self.step(cx, named, move |found: &Tattooed| here(&found.disk), action)
            .await
    }

    pub(super) fn record_of(
        &self,
        resolved: &Resolved,
        built: &StepDisk,
        allocated: &Allocated,
        os_version: String,
    ) -> Tattoo {
        let facts = &resolved.source.facts;
        let gallery = self.recipe.first_gallery();
        let number = allocated.numbers.first();
        let mut tattoo = Tattoo {
            source_publisher: facts.publisher.clone(),
            source_offer: facts.offer.clone(),
            source_sku: facts.sku.clone(),
            source_version: facts.version.clone(),
            source_digest: facts.digest.clone(),
            os_version,
            image_definition: gallery.map_or_else(String::new, |one| one.definition.to_string()),
            image_version: number.map_or_else(String::new, |one| one.version.to_string()),
            publish_date: allocated.date.clone(),
            recipe_digest: self.recipe.digest(),
            build_id: String::new(),
            parent_digest: built.digest.to_string(),
        };
        // The build's id is the hash of everything else that is recorded, so it adds no input.
        tattoo.build_id = step_key("build-id", 1, &tattoo).to_string();
        tattoo
    }

    /// Nothing that must not be in an image is in it.
    pub(super) async fn scan(
        &mut self,
        cx: &mut Cx,
        resolved: &Resolved,
        home: &Arc<Store>,
        tattooed: &Tattooed,
    ) -> Result<(), JobError> {
        if !self.recipe.scan.enabled {
            return Ok(());
        }
        let (digest, rules) = (tattooed.disk.digest, self.recipe.scan.clone());
        let (generalized, must) = (self.recipe.generalize, resolved.is_built());
        let key = step_key("scan", scan::SCAN_FORMAT, &(digest, &rules, generalized));
        let store = Arc::clone(home);
        let action = move |handle: StepHandle, shown: Shown| async move {
            let log = handle.clone();
            let looked = blocking(move || {
                let disk = store.disk(&digest).map_err(|error| store_failed(&error))?;
                match scan::scan(&disk, &rules, generalized) {
                    Err(error) if !must => {
                        let why = super::steps::chain(&error);
                        log.log(format!("the disk is not looked through for secrets: {why}"));
                        Ok(Vec::new())
                    }
                    looked => looked.map_err(|error| failed("ScanFailed", &error)),
                }
            });
            let findings = looked.await?;
            shown.set(json!({ "findings": findings }));
            if findings.is_empty() {
                return Ok(findings);
            }
            let texts: Vec<String> = findings
                .iter()
                .map(|finding: &Finding| format!("\n  | {}: {}", finding.path, finding.rule))
                .collect();
            let message = format!(
                "the image holds what must not be in one; take it out, or name the path in \
                 validate.bullion.secrets.allow{}",
                texts.concat()
            );
            Err(StepError::failed("SecretsFound", message))
        };
        let named = Named::pure(Stage::Build, "secrets", key);
        let _: Vec<Finding> = self.step(cx, named, |_| true, action).await?;
        Ok(())
    }

    /// Boots the disk with each firmware and runs the checks.
    pub(super) async fn test(
        &mut self,
        cx: &mut Cx,
        resolved: &Resolved,
        home: &Arc<Store>,
        tattooed: &Tattooed,
    ) -> Result<Proofs, JobError> {
        let scans = self.scanners(cx, resolved, home, tattooed).await?;
        let mut reports = Vec::new();
        for firmware in self.recipe.firmwares.clone() {
            if let Some(reason) = self.not_booted(resolved) {
                let now = cx.clock().now();
                let name = test_name(firmware);
                self.record.skip(Stage::Test, &name, reason, now).await?;
                continue;
            }
            let inputs = (tattooed.disk.digest, &self.in_machine(), firmware);
            let key = step_key("test", TEST_FORMAT, &inputs);
            let name = test_name(firmware);
            let action = self.boot(resolved, tattooed, firmware);
            let report: TestReport = self
                .step(
                    cx,
                    Named::pure(Stage::Test, &name, key),
                    TestReport::passed,
                    action,
                )
                .await?;
            reports.push(report);
        }
        Ok(Proofs { reports, scans })
    }

    /// Why the finished disk is not booted. A Windows takes long and was never seen to start here, so it is only where the
    /// template has it started anyway, or asks something of it.
    fn not_booted(&self, resolved: &Resolved) -> Option<&'static str> {
        let source_only = self.recipe.source_only;
        match resolved.source.system() {
            System::Linux => None,
            System::Windows if !self.recipe.generalize && !source_only => Some(
                "a specialized Windows is not started: Setup, which is the only way into one, is over in it",
            ),
            System::Windows
                if self.recipe.customizers.is_empty() && self.in_machine().is_empty() =>
            {
                Some(
                    "a Windows is started where the template has customizers or checks, and this one has none",
                )
            }
            System::Windows => None,
        }
    }

    /// The checks that are made in a machine.
    fn in_machine(&self) -> Vec<Validator> {
        let validators = self.recipe.validators.iter();
        validators.filter(|one| !one.is_scan()).cloned().collect()
    }

    fn boot(
        &self,
        resolved: &Resolved,
        tattooed: &Tattooed,
        firmware: Firmware,
    ) -> impl FnOnce(StepHandle, Shown) -> BoxFuture<TestReport> + Send + use<> {
        let (factory, home) = (Arc::clone(&self.factory), resolved.home());
        let system = resolved.source.system();
        let (digest, tattoo) = (tattooed.disk.digest, tattooed.tattoo.clone());
        let validators = self.in_machine();
        let keeps = self.recipe.on_validation_error == OnBuildError::Abort;
        let (run, template) = (self.input.run.clone(), self.input.template.clone());
        move |handle, shown| {
            Box::pin(async move {
                let hypervisor = factory.hypervisor().await;
                let why = hypervisor.acceleration();
                handle.log(format!("machines run on {}: {}", why.accel, why.why));
                if system == System::Windows {
                    check_way_in(&factory, &home, digest).await?;
                }
                let disk = factory.served.serve(&home, digest).await;
                let disk = disk.map_err(|error| serving_failed(&error))?;
                let work = factory
                    .work_folder()
                    .map_err(|error| failed("TestFailed", &error))?;
                let subject = TestSubject {
                    disk: disk.disk(),
                    data_disks: Vec::new(),
                    work: work.path().join("machine"),
                    system,
                    firmware,
                    validators,
                    tattoo,
                };
                let log = |line: &str| handle.log(line);
                let traced = Mutex::new(Trace::default());
                let booted = || {
                    *traced.lock().unwrap_or_else(PoisonError::into_inner) = disk.trace();
                };
                let ran = crate::test::run_in(&**hypervisor, &subject, &log, &booted).await;
                let (report, guest) = ran.map_err(|error| failed("BootFailed", &error))?;
                let trace = traced.into_inner().unwrap_or_else(PoisonError::into_inner);
                factory.served.keep_trace(&home, digest, trace).await;
                let mut detail = serde_json::to_value(&report).unwrap_or_default();
                if keeps && !report.passed() {
                    let kept = KeptMachine {
                        template,
                        system,
                        guest,
                        disk,
                        work,
                    };
                    let until = factory.kept.keep(&factory.clock, &run, kept).await;
                    handle.log(format!(
                        "the machine is kept until {until}; `bullion build exec {} -- COMMAND` runs a command in it",
                        run.name()
                    ));
                    detail["keptUntil"] = json!(until.to_string());
                } else {
                    crate::test::end(&*guest).await;
                }
                shown.set(detail);
                if report.passed() {
                    return Ok(report);
                }
                Err(StepError::failed("ValidationFailed", report.failures()))
            })
        }
    }
}

/// The record on its way into a disk.
struct Writing {
    factory: Arc<Factory>,
    store: Arc<Store>,
    parent: StepDisk,
    record: Tattoo,
    epoch: i64,
}

impl Writing {
    /// Blocks. A disk that is not `built` here may have any file system.
    fn into_linux(self, built: bool, handle: &StepHandle) -> Result<Tattooed, StepError> {
        let disk = self.disk()?;
        match tattoo::apply(&disk, &self.record, self.epoch) {
            Ok(changes) => self.kept(&changes),
            Err(error) if !built => {
                let why = super::steps::chain(&error);
                handle.log(format!("the record is not written into the disk: {why}"));
                Ok(Tattooed {
                    disk: self.parent,
                    tattoo: self.record,
                })
            }
            Err(error) => Err(failed("TattooFailed", &error)),
        }
    }

    async fn into_windows(self) -> Result<Tattooed, StepError> {
        let work = self.factory.work_folder();
        let work = work.map_err(|error| failed("TattooFailed", &error))?;
        let disk = Arc::new(self.disk()?);
        let changes = tattoo::apply_to_windows(disk, &self.record, work.path()).await;
        let changes = changes.map_err(|error| failed("TattooFailed", &error))?;
        blocking(move || self.kept(&changes)).await
    }

    fn disk(&self) -> Result<StoredDisk, StepError> {
        let disk = self.store.disk(&self.parent.digest);
        disk.map_err(|error| store_failed(&error))
    }

    fn kept(self, changes: &Changes) -> Result<Tattooed, StepError> {
        let kept = self.store.ingest_child(&self.parent.digest, changes);
        let kept = kept.map_err(|error| store_failed(&error))?;
        Ok(Tattooed {
            disk: StepDisk::of(kept, changes.bytes()),
            tattoo: self.record,
        })
    }
}

/// Refuses to start a Windows that nobody would get into.
async fn check_way_in(
    factory: &Factory,
    home: &Location,
    digest: DiskDigest,
) -> Result<(), StepError> {
    let store = factory.regions.store(home);
    let store = store.map_err(|error| failed("RegionNotFound", &error))?;
    blocking(move || {
        let disk = store.disk(&digest).map_err(|error| store_failed(&error))?;
        crate::build::check_way_in(&disk).map_err(|error| failed("TestFailed", &error))
    })
    .await
}

fn serving_failed(error: &ServingError) -> StepError {
    match error {
        ServingError::Store(error) => store_failed(error),
        ServingError::Region(error) => failed("RegionUnavailable", error),
        other => failed("StoreFailed", other),
    }
}
