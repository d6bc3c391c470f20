//! Bodies of pipelines, and the tag by which an image definition names its own.

use serde_json::{Value, json};
use wire::{IdError, ResourceId};

use super::super::document::Document;
use super::super::document::pipeline::{Gate, Pipeline, Stage};
use super::super::{Entry, Factory};
use super::{Hole, Later, Shape};

/// On the image definition of a stage: the id of the one pipeline that promotes to it.
pub const PIPELINE_TAG: &str = "bullion-pipeline";

impl Factory {
    pub(super) fn pipeline(&self, entry: &Entry, pipeline: &Pipeline) -> Result<Shape, IdError> {
        let mut later = Vec::new();
        let mut stages = Vec::new();
        for (index, stage) in pipeline.stages.iter().enumerate() {
            stages.push(self.stage(index, stage, &mut later)?);
        }
        let body = json!({
            "location": self.location(entry),
            "tags": self.tags(&pipeline.tags),
            "properties": { "stages": stages },
        });
        Ok(Shape { body, later })
    }

    fn stage(&self, index: usize, stage: &Stage, later: &mut Vec<Hole>) -> Result<Value, IdError> {
        let mut hole = |inner: &str, field: &str, from: Option<Later>| {
            later.extend(from.map(|from| Hole {
                pointer: format!("/properties/stages/{index}/{inner}"),
                field: format!("stages[{}].{field}", stage.name.as_str()),
                from,
            }));
        };
        hole(
            "tenant",
            "tenant",
            self.property_of(&stage.tenant, "tenantId")?,
        );
        let mut value = json!({
            "name": stage.name.as_str(),
            "tenant": null,
            "imageDefinition": self.definition_id(&stage.image_definition)?.to_string(),
            "targetRegions": self.target_regions(&stage.target_regions),
        });
        if let Some(application) = &stage.application {
            hole(
                "application",
                "application",
                self.property_of(application, "appId")?,
            );
            value["application"] = Value::Null;
        }
        let mut gates = Vec::new();
        for (at, gate) in stage.gates.iter().enumerate() {
            gates.push(match gate {
                Gate::TestsPassed { name } => {
                    json!({ "type": "TestsPassed", "name": name.as_str() })
                }
                Gate::Provenance { name } => {
                    json!({ "type": "Provenance", "name": name.as_str() })
                }
                Gate::DeployAndCheck {
                    name,
                    region,
                    checks,
                } => json!({
                    "type": "DeployAndCheck",
                    "name": name.as_str(),
                    "region": region.text,
                    "validators": checks.iter().map(|check| self.validator(check)).collect::<Vec<_>>(),
                }),
                Gate::Approval {
                    name,
                    principals,
                    count,
                    expires_in_hours,
                } => {
                    for (who, principal) in principals.iter().enumerate() {
                        let field = format!("gates[{}].principals", name.as_str());
                        let inner = format!("gates/{at}/principals/{who}");
                        hole(&inner, &field, self.principal(principal)?);
                    }
                    json!({
                        "type": "Approval",
                        "name": name.as_str(),
                        "principals": vec![Value::Null; principals.len()],
                        "count": count,
                        "expiresInHours": expires_in_hours,
                    })
                }
            });
        }
        value["gates"] = gates.into();
        Ok(value)
    }

    /// The pipeline that promotes to a definition. The first stage is promoted to by none.
    pub(super) fn pipeline_to(&self, definition: &Entry) -> Result<Option<ResourceId>, IdError> {
        for entry in self.names.of_kind("Pipeline") {
            let Document::Pipeline(pipeline) = &self.documents[entry.document] else {
                continue;
            };
            let is_stage = |stage: &Stage| {
                let found = self.parent(&stage.image_definition);
                found.is_some_and(|found| found.document == definition.document)
            };
            if pipeline.stages.iter().skip(1).any(is_stage) {
                return Ok(Some(self.locate("Pipeline", entry)?.0));
            }
        }
        Ok(None)
    }
}
