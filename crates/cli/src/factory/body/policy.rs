//! Bodies of policy definitions and assignments.

use serde_json::{Map, Value, json};
use wire::{IdError, ResourceId};

use super::super::document::policy::{AssignedPolicy, PolicyAssignment, PolicyDefinition};
use super::super::{Factory, policy_file};
use super::{Address, FACTORY_TAG, Hole, Later, Realm, Shape, without_null};

const AUTHORIZATION: &str = "Microsoft.Authorization";
/// What of a file is the definition's own to say.
const FROM_FILE: &[&str] = &["displayName", "description", "mode", "metadata", "version"];

impl Factory {
    pub(super) fn policy_definition(&self, definition: &PolicyDefinition) -> Shape {
        let bytes = self.file(&definition.file.0);
        // `load` has read the same bytes.
        let file = policy_file::parse(&bytes).unwrap_or_default();
        let mut properties = Map::new();
        for key in FROM_FILE {
            if let Some(value) = file.get(*key) {
                properties.insert((*key).into(), value.clone());
            }
        }
        let own = [
            ("displayName", definition.display_name.as_deref()),
            ("description", definition.description.as_deref()),
        ];
        for (key, text) in own {
            if let Some(text) = text {
                properties.insert(key.into(), text.into());
            }
        }
        properties
            .entry("displayName")
            .or_insert_with(|| definition.name.as_str().into());
        properties.insert("policyType".into(), "Custom".into());
        // Always there, so that one that was taken out of the file shows.
        let parameters = file.get("parameters").cloned().unwrap_or_else(|| json!({}));
        properties.insert("parameters".into(), parameters);
        let rule = file.get("policyRule").cloned().unwrap_or_default();
        properties.insert("policyRule".into(), rule);
        let mut metadata = properties.remove("metadata").unwrap_or_else(|| json!({}));
        metadata[FACTORY_TAG] = self.name.clone().into();
        properties.insert("metadata".into(), metadata);
        Shape::of(json!({ "properties": properties }))
    }

    pub(super) fn policy_assignment(
        &self,
        assignment: &PolicyAssignment,
    ) -> Result<(Address, Realm, Shape), IdError> {
        let (scope, realm) = self.scope(&assignment.scope)?;
        let id = scope.extension(AUTHORIZATION, "policyAssignments", assignment.name.as_str())?;
        let shown = assignment.display_name.as_deref();
        let parameters: Map<String, Value> = assignment
            .parameters
            .iter()
            .map(|(name, value)| (name.clone(), json!({ "value": value })))
            .collect();
        let properties = without_null(json!({
            "displayName": shown.unwrap_or(assignment.name.as_str()),
            "description": assignment.description,
            "parameters": parameters,
            "enforcementMode": assignment.enforcement_mode,
            "nonComplianceMessages": assignment.non_compliance_messages,
            "notScopes": self.scopes(&assignment.not_scopes)?,
            "metadata": { FACTORY_TAG: self.name },
        }));
        let mut shape = Shape::of(json!({ "properties": properties }));
        let policy = &mut shape.body["properties"]["policyDefinitionId"];
        match self.assigned(&assignment.definition)? {
            Assigned::Id(id) => *policy = id.to_string().into(),
            Assigned::Later(from) => shape.later.push(Hole {
                pointer: "/properties/policyDefinitionId".into(),
                field: "policyDefinitionId".into(),
                from,
            }),
        }
        Ok((Address::Known(id), realm, shape))
    }

    fn assigned(&self, policy: &AssignedPolicy) -> Result<Assigned, IdError> {
        let (name, initiative) = match policy {
            AssignedPolicy::PolicyDefinition(reference) => {
                let id = match self.parent(reference) {
                    Some(entry) => self.locate("PolicyDefinition", entry)?.0,
                    None => ResourceId::root(),
                };
                return Ok(Assigned::Id(id));
            }
            AssignedPolicy::BuiltIn(name) => (name.as_str(), false),
            AssignedPolicy::BuiltInInitiative(name) => (name.as_str(), true),
        };
        if name.parse::<uuid::Uuid>().is_ok() {
            let kind = if initiative {
                "policySetDefinitions"
            } else {
                "policyDefinitions"
            };
            let id = ResourceId::root().extension(AUTHORIZATION, kind, name)?;
            return Ok(Assigned::Id(id));
        }
        Ok(Assigned::Later(Later::BuiltIn {
            initiative,
            name: name.to_owned(),
        }))
    }
}

enum Assigned {
    Id(ResourceId),
    Later(Later),
}
