//! A run of a template as a job: which steps there are and what each hands to the next. Every key
//! is the hash of what goes in; what is found is not done again.

use std::collections::BTreeMap;
use std::sync::Arc;

use access::{Action, Permit, SystemReason};
use async_trait::async_trait;
use catalog::{Draft, Outcome, Precondition, Resource, StepKey};
use jobs::{JobContext, JobError, JobKind, OnUndo, Requester, StepError, StepHandle};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use wire::factory::Stage;
use wire::{ProvisioningState, ResourceId, TenantId};

use super::distribute::{Finished, region_step};
use super::prove::{Allocated, Proofs, Tattooed, gallery_step};
use super::recipe::{Executor, Recipe, RecipeSource};
use super::record::{self, RUN_TYPE, RunRecord, journal_name};
use super::scans::{ScanReport, scan_name};
use super::stages::{MACHINE_STEP, Resolved};
use super::steps::StepDisk;
use super::steps::{self, Guard, Shown};
use crate::factory::{Factory, FactoryError};
use crate::publish;

pub(super) const RUN_ACTION: &str = "Microsoft.VirtualMachineImages/imageTemplates/run/action";
/// The code of a run whose checks failed.
pub(super) const VALIDATION_FAILED: &str = "ValidationFailed";
const RUN_NAMESPACE: &str = "Bullion.Factory";

/// A run that was asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BuildRunInput {
    pub template: ResourceId,
    pub run: ResourceId,
    /// The template's properties when the run was asked for: a later change is for the next run.
    pub properties: Value,
    /// The template's region.
    #[serde(default)]
    pub location: String,
}

/// What two runs of a template cannot hold at a time.
pub fn exclusive(template: &ResourceId) -> String {
    format!("run {}", template.folded())
}

/// What a run may have to take back.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RunUndo {
    /// Removes the version, if this run made it.
    Unpublish {
        version: ResourceId,
        run: ResourceId,
    },
}

/// A run whose record exists; its job is still to be submitted.
#[derive(Debug, Clone)]
pub struct Begun {
    pub run: ResourceId,
    pub input: BuildRunInput,
}

/// The kind of job.
pub struct BuildRun(pub Arc<Factory>);

impl Factory {
    /// Makes the record of a new run under the caller's right to run the template.
    pub async fn begin_run(
        &self,
        permit: &Permit,
        template: &Resource,
    ) -> Result<Begun, FactoryError> {
        Recipe::parse(&template.properties).map_err(|problems| {
            let texts = problems
                .iter()
                .map(|problem| format!("{}: {} ({})", problem.path, problem.message, problem.hint));
            FactoryError::Template(texts.collect::<Vec<_>>().join("; "))
        })?;
        let group = template.id.group_scope();
        let group = group.ok_or_else(|| FactoryError::NoGroup(template.id.clone()))?;
        let now = self.clock.now();
        let unique = uuid::Uuid::new_v4().simple().to_string();
        let name = format!(
            "{}-{}-{}",
            template.id.name(),
            now.strftime("%Y%m%dt%H%M%S"),
            &unique[..4]
        );
        let run = group
            .extension(RUN_NAMESPACE, "runs", &name)
            .map_err(FactoryError::RunName)?;
        let properties =
            serde_json::to_value(record::queued(&template.id, now)).unwrap_or_default();
        let action = Action::new(format!("{RUN_TYPE}/write"));
        let writing = Permit::system(
            SystemReason::JobStatus,
            action,
            run.clone(),
            permit.tenant(),
        );
        let draft = Draft::new(properties).state(ProvisioningState::Creating);
        self.catalog
            .put(&writing, draft, Precondition::Absent)
            .await?;
        let input = BuildRunInput {
            template: template.id.clone(),
            run: run.clone(),
            properties: template.properties.clone(),
            location: template.location.clone().unwrap_or_default(),
        };
        Ok(Begun { run, input })
    }
}

fn tenant(requester: Requester) -> Result<TenantId, StepError> {
    match requester {
        Requester::Identity(identity) => Ok(identity.tenant),
        Requester::System => Err(StepError::failed(
            "AuthorizationFailed",
            "a run acts for whoever asked for it",
        )),
    }
}

#[async_trait]
impl JobKind for BuildRun {
    const NAME: &'static str = "build-run";
    type Input = BuildRunInput;
    type Undo = RunUndo;

    async fn run(
        &self,
        cx: &mut JobContext<RunUndo>,
        input: BuildRunInput,
    ) -> Result<Value, JobError> {
        let recipe = Recipe::parse(&input.properties).map_err(|problems| {
            let texts = problems
                .iter()
                .map(|problem| format!("{}: {}", problem.path, problem.message));
            StepError::failed("ValidationFailed", texts.collect::<Vec<_>>().join("; "))
        })?;
        let catalog = Arc::clone(&self.0.catalog);
        let tenant = tenant(cx.requester())?;
        let record =
            RunRecord::open(catalog, &input.run, &input.template, tenant, cx.job()).await?;
        let mut run = Run {
            factory: Arc::clone(&self.0),
            guard: Guard::new(&record, &recipe)?,
            record,
            recipe,
            input,
            tenant,
        };
        run.all(cx).await
    }

    async fn undo(
        &self,
        cx: &StepHandle,
        undo: RunUndo,
        _output: Option<Value>,
    ) -> Result<(), StepError> {
        let RunUndo::Unpublish { version, run } = undo;
        let tenant = tenant(cx.requester())?;
        publish::unpublish(&self.0.catalog, &version, &run, tenant).await
    }

    async fn settle(
        &self,
        cx: &StepHandle,
        input: &BuildRunInput,
        outcome: &Outcome,
    ) -> Result<(), StepError> {
        let tenant = tenant(cx.requester())?;
        let (catalog, now) = (&self.0.catalog, cx.clock().now());
        record::settle(
            catalog,
            &input.run,
            &input.template,
            tenant,
            cx.job(),
            outcome,
            now,
        )
        .await
    }
}

/// One run under way.
pub(super) struct Run {
    pub(super) factory: Arc<Factory>,
    pub(super) record: RunRecord,
    pub(super) recipe: Recipe,
    pub(super) input: BuildRunInput,
    guard: Guard,
    pub(super) tenant: TenantId,
}

/// What a step is and how it is found again.
pub(super) struct Named<'a> {
    pub stage: Stage,
    pub name: &'a str,
    /// Nothing: done once in each run.
    pub key: Option<StepKey>,
    pub undo: OnUndo<RunUndo>,
}

impl<'a> Named<'a> {
    pub fn pure(stage: Stage, name: &'a str, key: StepKey) -> Self {
        Named {
            stage,
            name,
            key: Some(key),
            undo: OnUndo::Nothing("its result is found by its key"),
        }
    }
}

impl Run {
    async fn all(&mut self, cx: &mut JobContext<RunUndo>) -> Result<Value, JobError> {
        self.record.plan(&self.plan());
        self.record.tell_template().await?;
        self.factory.kept.release_of(&self.input.template).await;
        let resolved = self.resolve(cx).await?;
        let home = self.factory.regions.store(&resolved.home());
        let home = home.map_err(|error| steps::failed("RegionNotFound", &error))?;
        let base = self.base(cx, &resolved, &home).await?;
        if self.recipe.source_only {
            return self.prove_source(cx, &resolved, &home, base).await;
        }
        let from = base.digest;
        let built = self.build(cx, &resolved, &home, base).await?;
        let built = self.finish(cx, &resolved, &home, built).await?;
        let allocated = self.allocate(cx, &resolved, &built).await?;
        let tattooed = self
            .tattoo(cx, &resolved, &home, &built, &allocated)
            .await?;
        self.scan(cx, &resolved, &home, &tattooed).await?;
        let (proofs, unproven) = match self.test(cx, &resolved, &home, &tattooed).await {
            Ok(proofs) => (proofs, None),
            Err(JobError::Failed { failure, .. })
                if self.recipe.distribute_unproven && failure.code == VALIDATION_FAILED =>
            {
                (Proofs::default(), Some(failure))
            }
            Err(error) => return Err(error),
        };
        let first = proofs.reports.first();
        let boot_seconds = first.map_or(0.0, |report| report.boot_seconds);
        let scans = proofs.scans.iter().map(ScanReport::facts).collect();
        self.prove(cx, &resolved, &home, (&from, &tattooed), proofs)
            .await?;
        let finished = Finished {
            resolved: &resolved,
            home: &home,
            tattooed: &tattooed,
            allocated: &allocated,
            boot_seconds,
            scans,
        };
        let delivered = self.distribute(cx, &finished).await?;
        if let (true, Some(error)) = (delivered.artifacts.is_empty(), delivered.first_failure) {
            return Err(error);
        }
        let names = delivered.artifacts.iter();
        let names: BTreeMap<&String, &str> = names
            .map(|(output, artifact)| (output, artifact.name()))
            .collect();
        Ok(json!({
            "message": delivered.failures.join("; "),
            "failure": unproven.map(|failure| json!({ "code": failure.code, "message": failure.message })),
            "runOutputs": delivered.artifacts,
            "outputs": {
                "versionId": delivered.version.as_ref().map(ResourceId::to_string),
                "diskDigest": tattooed.disk.digest.to_string(),
                "bootSeconds": boot_seconds,
                "artifacts": names,
            },
        }))
    }

    /// The source as it is: booted and checked, and nothing else.
    async fn prove_source(
        &mut self,
        cx: &mut JobContext<RunUndo>,
        resolved: &Resolved,
        home: &Arc<store::Store>,
        base: StepDisk,
    ) -> Result<Value, JobError> {
        let nothing = Allocated {
            numbers: Vec::new(),
            date: String::new(),
        };
        let tattooed = Tattooed {
            tattoo: {
                let os_version = resolved.source.facts.os_version.clone();
                self.record_of(resolved, &base, &nothing, os_version)
            },
            disk: base,
        };
        let proofs = self.test(cx, resolved, home, &tattooed).await?;
        let boot_seconds = proofs
            .reports
            .first()
            .map_or(0.0, |report| report.boot_seconds);
        Ok(json!({
            "message": "",
            "outputs": {
                "diskDigest": tattooed.disk.digest.to_string(),
                "bootSeconds": boot_seconds,
            },
        }))
    }

    /// The steps that there will be, so that a reader sees what is still to come. Which executor it is going to be may
    /// depend on the source, so a machine's one step is not foreseen unless it is asked for.
    fn plan(&self) -> Vec<(Stage, String)> {
        let recipe = &self.recipe;
        let mut plan = vec![
            (Stage::Source, "resolve".to_owned()),
            (Stage::Source, "base".to_owned()),
        ];
        let tests = recipe.firmwares.iter();
        let tests = tests.map(|firmware| (Stage::Test, steps::test_name(*firmware)));
        let scans = recipe.validators.iter().filter(|one| one.is_scan());
        let scans = scans.map(|one| (Stage::Test, scan_name(one)));
        let tests: Vec<_> = scans.chain(tests).collect();
        if recipe.source_only {
            plan.extend(tests);
            return plan;
        }
        let platform = matches!(recipe.source, RecipeSource::Platform(_));
        match recipe.executor {
            Some(Executor::Machine) => plan.push((Stage::Build, MACHINE_STEP.to_owned())),
            None if !platform => {}
            _ => {
                let customizers = recipe.customizers.iter();
                plan.extend(customizers.map(|one| (Stage::Build, one.name().to_owned())));
            }
        }
        if recipe.generalize {
            plan.push((Stage::Build, "generalize".to_owned()));
        }
        if recipe.optimize {
            plan.push((Stage::Optimize, "free-space".to_owned()));
        }
        let galleries: Vec<_> = recipe
            .targets
            .iter()
            .filter(|one| one.gallery().is_some())
            .collect();
        let numbers = galleries.iter().enumerate();
        plan.extend(numbers.map(|(index, one)| (Stage::Tattoo, gallery_step(one, index == 0))));
        if galleries.is_empty() {
            plan.push((Stage::Tattoo, "date".to_owned()));
        }
        plan.push((Stage::Tattoo, "write".to_owned()));
        if recipe.scan.enabled {
            plan.push((Stage::Build, "secrets".to_owned()));
        }
        plan.extend(tests);
        if platform {
            plan.push((Stage::Publish, "statements".to_owned()));
        }
        let mut first = true;
        for target in &recipe.targets {
            let Some(gallery) = target.gallery() else {
                plan.push((Stage::Publish, target.run_output().to_owned()));
                continue;
            };
            plan.push((Stage::Publish, gallery_step(target, first)));
            let regions = gallery.regions.iter();
            plan.extend(
                regions.map(|region| (Stage::Replicate, region_step(gallery, &region.name, first))),
            );
            first = false;
        }
        plan
    }

    /// Does one step: authorises the requester anew, keeps the record, heeds cancellation and the
    /// build's time.
    pub(super) async fn step<T, C, F, Fut>(
        &mut self,
        cx: &mut JobContext<RunUndo>,
        named: Named<'_>,
        good: C,
        action: F,
    ) -> Result<T, JobError>
    where
        T: Serialize + serde::de::DeserializeOwned + Send,
        C: Fn(&T) -> bool + Send + Sync,
        F: FnOnce(StepHandle, Shown) -> Fut + Send,
        Fut: Future<Output = Result<T, StepError>> + Send,
    {
        let Named {
            stage,
            name,
            key,
            undo,
        } = named;
        let key_text = key.map(|key| key.to_string()).unwrap_or_default();
        self.record
            .begin(stage, name, &key_text, cx.clock().now())
            .await?;
        let shown = Shown::default();
        let allowed = cx
            .permit(&Action::new(RUN_ACTION), &self.input.template)
            .await;
        let done = match allowed {
            Err(error) => Err(JobError::from(error)),
            Ok(_) => {
                let (guard, seen) = (self.guard, shown.clone());
                let run = |handle: StepHandle| guard.watch(handle.clone(), action(handle, seen));
                let journal = journal_name(stage, name);
                match key {
                    Some(key) => cx.step_checked(&journal, key, good, run).await,
                    None => cx.step_once(&journal, undo, run).await,
                }
            }
        };
        let now = cx.clock().now();
        match done {
            Ok(done) => {
                let detail = match shown.take() {
                    Value::Null => serde_json::to_value(&done.value).unwrap_or_default(),
                    shown => shown,
                };
                self.record
                    .end(stage, name, shown.how(done.how), detail, now)
                    .await?;
                Ok(done.value)
            }
            Err(error @ (JobError::Failed { .. } | JobError::Canceled)) => {
                self.record
                    .fail(stage, name, error.to_string(), shown.take(), now)
                    .await?;
                Err(error)
            }
            Err(error) => Err(error),
        }
    }
}

impl Run {
    /// When the run was asked for; RFC 3339, in UTC.
    pub(super) fn started(&self) -> &str {
        &self.record.properties.start_time
    }

    /// The time that the run still has.
    pub(super) fn time_left(&self, now: jiff::Timestamp) -> std::time::Duration {
        self.guard.left(now)
    }
}
