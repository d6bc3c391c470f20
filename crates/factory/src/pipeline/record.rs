//! The record of a run that people read while it runs: a resource of its own, written by the job.
//! It explains; nothing is decided by it.

use std::collections::BTreeMap;
use std::sync::Arc;

use access::{Action, Permit, SystemReason};
use catalog::{Catalog, CatalogError, Draft, JobFailure, Outcome, Precondition, Resource, StepHow};
use jiff::Timestamp;
use jobs::{JobId, StepError};
use serde::Deserialize;
use serde_json::{Value, json};

use wire::factory::{How, RunOutputs, RunProperties, RunStep, Stage, StepState};
use wire::template::{LastRunStatus, RunState, RunSubState};
use wire::{ArmErrorBody, ProvisioningState, ResourceId, TenantId};

use crate::publish::Artifact;

pub const RUN_TYPE: &str = "Bullion.Factory/runs";
const RUN_WRITE: &str = "Bullion.Factory/runs/write";
const TEMPLATE_WRITE: &str = "Microsoft.VirtualMachineImages/imageTemplates/write";
const OUTPUT_WRITE: &str = "Microsoft.VirtualMachineImages/imageTemplates/runOutputs/write";
/// Attempts at a read-change-write that someone else's write came between.
const WRITE_ATTEMPTS: usize = 5;

/// What a step is called in the journal and in the record.
pub(super) fn journal_name(stage: Stage, name: &str) -> String {
    format!("{}/{name}", stage.as_str())
}

/// The clients' name of what a stage does.
fn sub_state(stage: Stage) -> RunSubState {
    match stage {
        Stage::Source => RunSubState::Building,
        Stage::Build | Stage::Tattoo => RunSubState::Customizing,
        Stage::Optimize => RunSubState::Optimizing,
        Stage::Test => RunSubState::Validating,
        Stage::Publish | Stage::Replicate | Stage::Deploy => RunSubState::Distributing,
    }
}

/// The properties of a run that has not begun.
pub(crate) fn queued(template: &ResourceId, now: Timestamp) -> RunProperties {
    RunProperties {
        template: template.to_string(),
        run_state: RunState::Running,
        run_sub_state: Some(RunSubState::Queued),
        start_time: now.to_string(),
        end_time: None,
        message: String::new(),
        error: None,
        steps: Vec::new(),
        outputs: None,
        log_lines: 0,
    }
}

fn waiting(name: &str, stage: Stage) -> RunStep {
    RunStep {
        name: name.to_owned(),
        stage,
        key: String::new(),
        state: StepState::Waiting,
        how: None,
        start_time: None,
        end_time: None,
        seconds: None,
        message: String::new(),
        detail: Value::Null,
    }
}

/// The record of one run, as it is now and as it was last written.
pub(super) struct RunRecord {
    catalog: Arc<dyn Catalog>,
    permit: Permit,
    template: Permit,
    job: JobId,
    pub properties: RunProperties,
}

impl RunRecord {
    /// Reads what an earlier attempt wrote and adds the steps that are planned.
    pub async fn open(
        catalog: Arc<dyn Catalog>,
        run: &ResourceId,
        template: &ResourceId,
        tenant: TenantId,
        job: JobId,
    ) -> Result<RunRecord, StepError> {
        let permit = record_permit(RUN_WRITE, run, tenant);
        let stored = catalog.get(&permit.to_read_own()).await?;
        let properties = read(&stored)?;
        let template = record_permit(TEMPLATE_WRITE, template, tenant);
        Ok(RunRecord {
            catalog,
            permit,
            template,
            job,
            properties,
        })
    }

    pub fn plan(&mut self, steps: &[(Stage, String)]) {
        for (stage, name) in steps {
            if self.find(*stage, name).is_none() {
                self.properties.steps.push(waiting(name, *stage));
            }
        }
    }

    fn find(&mut self, stage: Stage, name: &str) -> Option<&mut RunStep> {
        let same = |step: &&mut RunStep| step.stage == stage && step.name == name;
        self.properties.steps.iter_mut().find(same)
    }

    fn entry(&mut self, stage: Stage, name: &str) -> &mut RunStep {
        let same = |step: &RunStep| step.stage == stage && step.name == name;
        let at = self
            .properties
            .steps
            .iter()
            .position(same)
            .unwrap_or_else(|| {
                self.properties.steps.push(waiting(name, stage));
                self.properties.steps.len() - 1
            });
        &mut self.properties.steps[at]
    }

    /// A step begins, or begins again.
    pub async fn begin(
        &mut self,
        stage: Stage,
        name: &str,
        key: &str,
        now: Timestamp,
    ) -> Result<(), StepError> {
        let step = self.entry(stage, name);
        let again = step.state == StepState::Succeeded && step.key == key;
        if again {
            return Ok(());
        }
        step.key = key.to_owned();
        step.state = StepState::Running;
        step.start_time = Some(now.to_string());
        step.end_time = None;
        step.message.clear();
        let before = self.properties.run_sub_state.replace(sub_state(stage));
        self.write().await?;
        match before == self.properties.run_sub_state {
            true => Ok(()),
            false => self.tell_template().await,
        }
    }

    pub async fn end(
        &mut self,
        stage: Stage,
        name: &str,
        how: StepHow,
        detail: Value,
        now: Timestamp,
    ) -> Result<(), StepError> {
        let step = self.entry(stage, name);
        if step.state == StepState::Succeeded {
            return Ok(());
        }
        step.state = StepState::Succeeded;
        step.how = Some(match how {
            StepHow::Run => How::Run,
            StepHow::Found => How::Found,
        });
        step.detail = detail;
        finish(step, now);
        self.write().await
    }

    /// A step that is not done.
    pub async fn skip(
        &mut self,
        stage: Stage,
        name: &str,
        reason: &str,
        now: Timestamp,
    ) -> Result<(), StepError> {
        let step = self.entry(stage, name);
        step.state = StepState::Skipped;
        step.message = reason.to_owned();
        step.end_time = Some(now.to_string());
        self.write().await
    }

    pub async fn fail(
        &mut self,
        stage: Stage,
        name: &str,
        message: String,
        detail: Value,
        now: Timestamp,
    ) -> Result<(), StepError> {
        let step = self.entry(stage, name);
        step.state = StepState::Failed;
        step.message = message;
        if !detail.is_null() {
            step.detail = detail;
        }
        finish(step, now);
        self.write().await
    }

    async fn write(&self) -> Result<(), StepError> {
        put_run(
            &self.catalog,
            &self.permit,
            &self.properties,
            Some(self.job),
        )
        .await
    }

    /// Tells the template what `latest` came to.
    pub async fn tell_exact(&self, version: &str) -> Result<(), StepError> {
        let changed = change(&self.catalog, &self.template, |draft| {
            if let Some(source) = draft
                .properties
                .get_mut("source")
                .and_then(Value::as_object_mut)
            {
                source.insert("exactVersion".to_owned(), version.into());
            }
        });
        match changed.await {
            Ok(()) | Err(CatalogError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Tells the template that this run is its last one, and how far it is.
    pub async fn tell_template(&self) -> Result<(), StepError> {
        put_last_run(&self.catalog, &self.template, &self.properties).await
    }
}

fn finish(step: &mut RunStep, now: Timestamp) {
    step.end_time = Some(now.to_string());
    let started = step
        .start_time
        .as_ref()
        .and_then(|text| text.parse::<Timestamp>().ok());
    step.seconds = started.map(|started| now.duration_since(started).as_secs_f64());
}

fn record_permit(action: &str, scope: &ResourceId, tenant: TenantId) -> Permit {
    Permit::system(
        SystemReason::JobStatus,
        Action::new(action),
        scope.clone(),
        tenant,
    )
}

fn read(run: &Resource) -> Result<RunProperties, StepError> {
    serde_json::from_value(run.properties.clone()).map_err(|error| {
        StepError::failed(
            "InternalServerError",
            "the record of the run cannot be read",
        )
        .because(error)
    })
}

async fn put_run(
    catalog: &Arc<dyn Catalog>,
    permit: &Permit,
    properties: &RunProperties,
    job: Option<JobId>,
) -> Result<(), StepError> {
    let mut value = serde_json::to_value(properties).map_err(|error| {
        StepError::failed(
            "InternalServerError",
            "the record of the run cannot be written",
        )
        .because(error)
    })?;
    if let Some(job) = job {
        value["job"] = json!(job.to_string());
    }
    let state = match properties.run_state {
        RunState::Running | RunState::Canceling => ProvisioningState::Creating,
        RunState::Succeeded | RunState::PartiallySucceeded => ProvisioningState::Succeeded,
        RunState::Failed => ProvisioningState::Failed,
        RunState::Canceled => ProvisioningState::Canceled,
    };
    catalog
        .put(permit, Draft::new(value).state(state), Precondition::None)
        .await?;
    Ok(())
}

/// Changes a resource that others change too: read, change, write if nobody else wrote.
pub(crate) async fn change(
    catalog: &Arc<dyn Catalog>,
    permit: &Permit,
    mut edit: impl FnMut(&mut Draft) + Send,
) -> Result<(), CatalogError> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        let old = catalog.get(&permit.to_read_own()).await?;
        let etag = old.etag.clone();
        let mut draft = Draft::from_resource(old);
        edit(&mut draft);
        match catalog.put(permit, draft, Precondition::Match(etag)).await {
            Ok(_) => return Ok(()),
            Err(CatalogError::Precondition { .. }) if attempt < WRITE_ATTEMPTS => {}
            Err(error) => return Err(error),
        }
    }
}

async fn put_last_run(
    catalog: &Arc<dyn Catalog>,
    template: &Permit,
    run: &RunProperties,
) -> Result<(), StepError> {
    let status = LastRunStatus {
        start_time: run.start_time.clone(),
        end_time: run.end_time.clone(),
        run_state: run.run_state,
        run_sub_state: run.run_sub_state,
        message: run.message.clone(),
    };
    let status = serde_json::to_value(status).unwrap_or_default();
    let changed = change(catalog, template, |draft| {
        draft.properties["lastRunStatus"] = status.clone()
    });
    match changed.await {
        // A template that was removed meanwhile needs to be told nothing.
        Ok(()) | Err(CatalogError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The last word on a run, from however it ended. Done twice, it says the same.
pub(super) async fn settle(
    catalog: &Arc<dyn Catalog>,
    run: &ResourceId,
    template: &ResourceId,
    tenant: TenantId,
    job: JobId,
    outcome: &Outcome,
    now: Timestamp,
) -> Result<(), StepError> {
    let permit = record_permit(RUN_WRITE, run, tenant);
    let stored = match catalog.get(&permit.to_read_own()).await {
        Ok(stored) => stored,
        Err(CatalogError::NotFound { .. }) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let mut properties = read(&stored)?;
    properties.run_sub_state = None;
    properties.end_time.get_or_insert_with(|| now.to_string());
    let failed = |properties: &mut RunProperties, failure: &JobFailure, state: RunState| {
        properties.run_state = state;
        properties.message = failure.message.clone();
        properties.error = Some(error_body(failure.code.clone(), failure.message.clone()));
        for step in properties
            .steps
            .iter_mut()
            .filter(|step| step.state == StepState::Running)
        {
            step.state = StepState::Failed;
            step.message = failure.message.clone();
            finish(step, now);
        }
    };
    match outcome {
        Outcome::Succeeded(value) => {
            let message = value["message"].as_str().unwrap_or_default();
            properties.run_state = match message {
                "" => RunState::Succeeded,
                _ => RunState::PartiallySucceeded,
            };
            properties.message = message.to_owned();
            properties.outputs =
                serde_json::from_value::<RunOutputs>(value["outputs"].clone()).ok();
            // It was distributed as it was asked to be; that does not make it good.
            let unproven = serde_json::from_value::<Option<Unproven>>(value["failure"].clone());
            if let Some(unproven) = unproven.ok().flatten() {
                properties.run_state = RunState::Failed;
                properties.message = unproven.message.clone();
                properties.error = Some(error_body(unproven.code, unproven.message));
            }
        }
        Outcome::Failed(failure) => failed(&mut properties, failure, RunState::Failed),
        Outcome::Canceled(failure) => failed(&mut properties, failure, RunState::Canceled),
    }
    put_run(catalog, &permit, &properties, Some(job)).await?;
    let template_permit = record_permit(TEMPLATE_WRITE, template, tenant);
    put_last_run(catalog, &template_permit, &properties).await?;
    if let Outcome::Succeeded(value) = outcome {
        let outputs = serde_json::from_value(value["runOutputs"].clone());
        let outputs: BTreeMap<String, Artifact> = outputs.unwrap_or_default();
        for (name, artifact) in outputs {
            put_run_output(catalog, template, tenant, &name, &artifact).await?;
        }
    }
    Ok(())
}

/// Checks that failed in a run that distributed nevertheless.
#[derive(Deserialize)]
struct Unproven {
    code: String,
    message: String,
}

fn error_body(code: String, message: String) -> ArmErrorBody {
    ArmErrorBody {
        code,
        message,
        target: None,
        details: Vec::new(),
        additional_info: Vec::new(),
    }
}

async fn put_run_output(
    catalog: &Arc<dyn Catalog>,
    template: &ResourceId,
    tenant: TenantId,
    name: &str,
    artifact: &Artifact,
) -> Result<(), StepError> {
    let Ok(id) = template.child("runOutputs", name) else {
        return Ok(());
    };
    let mut properties = json!({ "provisioningState": ProvisioningState::Succeeded.as_str() });
    if let Some(id) = &artifact.id {
        properties["artifactId"] = id.clone().into();
    }
    if let Some(uri) = &artifact.uri {
        properties["artifactUri"] = uri.clone().into();
    }
    let permit = record_permit(OUTPUT_WRITE, &id, tenant);
    match catalog
        .put(&permit, Draft::new(properties), Precondition::None)
        .await
    {
        Ok(_) | Err(CatalogError::ParentMissing { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
