//! Which pipelines can be, and what a request for a promotion becomes. Pure.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::Value;
use wire::promotion::{
    Actor, EarlierAttempt, Gate, GateState, GateVerdict, PipelineProperties, PipelineStage,
    PromotionProperties, PromotionState,
};
use wire::{NameRule, ResourceId, VersionNumber};

use crate::publish::VERSION_TYPE;
use crate::test::reason_against;

const STAGES_MAX: usize = 16;
const GATES_MAX: usize = 16;
const REGIONS_MAX: usize = 32;
const VALIDATORS_MAX: usize = 64;
const APPROVALS_MAX: u32 = 16;
const EXPIRY_HOURS_MAX: u32 = 24 * 90;
/// Attempts that a promotion remembers beside the present one.
const EARLIER_MAX: usize = 16;
const DEFINITION_TYPE: &str = "Microsoft.Compute/galleries/images";

/// What is wrong with a pipeline, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PipelineProblem {
    pub path: String,
    pub message: String,
}

/// Reads a pipeline, or says everything that is wrong with it.
pub fn check_pipeline(properties: &Value) -> Result<PipelineProperties, Vec<PipelineProblem>> {
    let pipeline: PipelineProperties =
        serde_json::from_value(properties.clone()).map_err(|error| {
            vec![PipelineProblem {
                path: "stages".to_owned(),
                message: error.to_string(),
            }]
        })?;
    let mut found = Problems::default();
    let count = pipeline.stages.len();
    found.unless(
        (2..=STAGES_MAX).contains(&count),
        "stages",
        format!("a pipeline has 2 to {STAGES_MAX} stages, not {count}"),
    );
    let mut names = BTreeSet::new();
    let mut definitions = BTreeSet::new();
    for (index, stage) in pipeline.stages.iter().enumerate() {
        let path = format!("stages[{index}]");
        found.unless(
            names.insert(stage.name.to_lowercase()),
            &format!("{path}.name"),
            format!("`{}` is the name of another stage, too", stage.name),
        );
        found.unless(
            definitions.insert(stage.image_definition.to_lowercase()),
            &format!("{path}.imageDefinition"),
            "another stage has the same image definition".to_owned(),
        );
        found.stage(&path, stage, index == 0);
    }
    if found.0.is_empty() {
        Ok(pipeline)
    } else {
        Err(found.0)
    }
}

#[derive(Default)]
struct Problems(Vec<PipelineProblem>);

impl Problems {
    fn unless(&mut self, good: bool, path: &str, message: String) {
        if !good {
            self.0.push(PipelineProblem {
                path: path.to_owned(),
                message,
            });
        }
    }

    fn stage(&mut self, path: &str, stage: &PipelineStage, first: bool) {
        if let Err(error) = NameRule::Bullion.check(&stage.name) {
            self.unless(false, &format!("{path}.name"), error.to_string());
        }
        let definition = ResourceId::parse(&stage.image_definition).ok();
        let good = definition
            .is_some_and(|id| id.resource_type().is(DEFINITION_TYPE) && id.group_scope().is_some());
        self.unless(
            good,
            &format!("{path}.imageDefinition"),
            "this is not the id of an image definition of a gallery".to_owned(),
        );
        if first {
            let bare = stage.application.is_none() && stage.gates.is_empty();
            let message =
                "nothing is promoted to the first stage: it has no application and no gate";
            self.unless(bare, path, message.to_owned());
            return;
        }
        self.unless(
            stage.application.is_some(),
            &format!("{path}.application"),
            "name the application that promotes to this stage".to_owned(),
        );
        let regions: BTreeSet<String> = stage
            .target_regions
            .iter()
            .map(|region| region.name.folded())
            .collect();
        let good = (1..=REGIONS_MAX).contains(&regions.len())
            && regions.len() == stage.target_regions.len()
            && stage
                .target_regions
                .iter()
                .all(|region| region.replica_count > 0);
        self.unless(
            good,
            &format!("{path}.targetRegions"),
            format!("name 1 to {REGIONS_MAX} regions, each once, each with a replica or more"),
        );
        self.gates(path, stage, &regions);
    }

    fn gates(&mut self, path: &str, stage: &PipelineStage, regions: &BTreeSet<String>) {
        self.unless(
            stage.gates.len() <= GATES_MAX,
            &format!("{path}.gates"),
            format!("a stage has at most {GATES_MAX} gates"),
        );
        let mut names = BTreeSet::new();
        for (index, gate) in stage.gates.iter().enumerate() {
            let path = format!("{path}.gates[{index}]");
            let fresh = names.insert(gate.name().to_lowercase());
            let named = fresh && NameRule::Bullion.check(gate.name()).is_ok();
            let message = format!(
                "`{}` cannot be the name of a gate, or is twice",
                gate.name()
            );
            self.unless(named, &format!("{path}.name"), message);
            self.gate(&path, gate, regions);
        }
    }

    fn gate(&mut self, path: &str, gate: &Gate, regions: &BTreeSet<String>) {
        match gate {
            Gate::TestsPassed { .. } | Gate::Provenance { .. } => {}
            Gate::DeployAndCheck {
                region, validators, ..
            } => {
                self.unless(
                    regions.contains(&region.folded()),
                    &format!("{path}.region"),
                    format!("`{region}` is not a target region of the stage"),
                );
                self.unless(
                    (1..=VALIDATORS_MAX).contains(&validators.len()),
                    &format!("{path}.validators"),
                    format!("name 1 to {VALIDATORS_MAX} checks"),
                );
                for (index, validator) in validators.iter().enumerate() {
                    if validator.is_scan() {
                        let message = "scanners look at a disk before it is published; have the template ask for them";
                        let path = format!("{path}.validators[{index}]");
                        self.unless(false, &path, message.to_owned());
                    }
                    if let Some((message, hint)) = reason_against(validator) {
                        let path = format!("{path}.validators[{index}]");
                        self.unless(false, &path, format!("{message} ({hint})"));
                    }
                }
            }
            Gate::Approval {
                principals,
                count,
                expires_in_hours,
                ..
            } => {
                let enough = principals.is_empty() || principals.len() >= *count as usize;
                self.unless(
                    (1..=APPROVALS_MAX).contains(count) && enough,
                    &format!("{path}.count"),
                    format!(
                        "ask for 1 to {APPROVALS_MAX} approvals, of no more people than are named"
                    ),
                );
                self.unless(
                    (1..=EXPIRY_HOURS_MAX).contains(expires_in_hours),
                    &format!("{path}.expiresInHours"),
                    format!("wait for 1 to {EXPIRY_HOURS_MAX} hours"),
                );
            }
        }
    }
}

/// Why a promotion cannot be asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    #[error("the pipeline has no stage `{stage}`; it has {known}")]
    NoStage { stage: String, known: String },
    #[error(
        "`{stage}` is the pipeline's first stage: versions are built there, not promoted to it"
    )]
    FirstStage { stage: String },
    #[error("`{0}` is not the number of a version")]
    Version(String),
    #[error("a promotion to `{stage}` is at `{expected}`")]
    Elsewhere { stage: String, expected: String },
    #[error("the pipeline's stages cannot be read")]
    Broken,
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// The promotion's own id.
    pub id: ResourceId,
    pub pipeline: ResourceId,
    pub stage: String,
    pub version: String,
    pub by: Actor,
    pub now: Timestamp,
    /// The same promotion as it ended without success, if it was asked for before.
    pub before: Option<PromotionProperties>,
}

/// The record of a new promotion, from the stage before: none can be skipped.
pub fn request(
    pipeline: &PipelineProperties,
    asked: &Request,
) -> Result<PromotionProperties, RequestError> {
    let stages = &pipeline.stages;
    let at = stages
        .iter()
        .position(|stage| stage.name.eq_ignore_ascii_case(&asked.stage));
    let at = at.ok_or_else(|| RequestError::NoStage {
        stage: asked.stage.clone(),
        known: stages
            .iter()
            .map(|stage| stage.name.as_str())
            .collect::<Vec<_>>()
            .join(", "),
    })?;
    let to = stages[at].clone();
    let Some(from) = at.checked_sub(1).map(|before| stages[before].clone()) else {
        return Err(RequestError::FirstStage { stage: to.name });
    };
    let number: VersionNumber = asked
        .version
        .parse()
        .map_err(|_| RequestError::Version(asked.version.clone()))?;
    let expected = id_of(asked.pipeline.name(), &to, &number)?;
    if expected != asked.id {
        return Err(RequestError::Elsewhere {
            stage: to.name,
            expected: expected.to_string(),
        });
    }
    let source = version_id(&from, &number.to_string())?;
    let gates = to.gates.iter().map(not_reached).collect();
    let before = asked.before.as_ref();
    Ok(PromotionProperties {
        pipeline: asked.pipeline.to_string(),
        stage: to.name.clone(),
        version: number.to_string(),
        state: PromotionState::Running,
        message: String::new(),
        source_version_id: source.to_string(),
        version_id: None,
        disk_digest: None,
        requested_by: asked.by,
        built_by: None,
        start_time: asked.now.to_string(),
        end_time: None,
        expires: None,
        gates,
        approvals: Vec::new(),
        attempt: before.map_or(1, |before| before.attempt.saturating_add(1)),
        copies: Vec::new(),
        region_failures: 0,
        retry_time: None,
        earlier: before.map(earlier).unwrap_or_default(),
        from,
        to,
    })
}

/// What is remembered of the attempts up to this one, which is over.
fn earlier(before: &PromotionProperties) -> Vec<EarlierAttempt> {
    let last = EarlierAttempt {
        attempt: before.attempt,
        state: before.state,
        message: before.message.clone(),
        requested_by: before.requested_by,
        start_time: before.start_time.clone(),
        end_time: before.end_time.clone(),
        gates: before.gates.clone(),
    };
    let all: Vec<EarlierAttempt> = before.earlier.iter().cloned().chain([last]).collect();
    let forgotten = all.len().saturating_sub(EARLIER_MAX);
    all.into_iter().skip(forgotten).collect()
}

fn not_reached(gate: &Gate) -> GateVerdict {
    GateVerdict {
        name: gate.name().to_owned(),
        state: GateState::NotReached,
        message: String::new(),
        time: None,
        by: Vec::new(),
        evidence: Value::Null,
    }
}

/// Where the one promotion of a version to a stage is: in the group of the stage's definition, under a name that no
/// other has. So two who ask at once ask for the same.
pub fn id_of(
    pipeline: &str,
    stage: &PipelineStage,
    number: &VersionNumber,
) -> Result<ResourceId, RequestError> {
    let definition = ResourceId::parse(&stage.image_definition).ok();
    let group = definition.and_then(|definition| definition.group_scope());
    let group = group.ok_or(RequestError::Broken)?;
    let name = format!("{pipeline}-{}-{number}", stage.name);
    group
        .extension("Bullion.Factory", "promotions", &name)
        .map_err(|_| RequestError::Broken)
}

/// A version of a stage.
pub fn version_id(stage: &PipelineStage, number: &str) -> Result<ResourceId, RequestError> {
    let definition =
        ResourceId::parse(&stage.image_definition).map_err(|_| RequestError::Broken)?;
    let version = definition
        .child("versions", number)
        .map_err(|_| RequestError::Broken)?;
    debug_assert!(version.resource_type().is(VERSION_TYPE));
    Ok(version)
}
