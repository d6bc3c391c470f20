//! What policies come to, as it travels: states of resources, their reasons, and questions about policies that are
//! not assigned. Definitions and assignments themselves travel as JSON, whose meaning is crate `policy`'s.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// `properties` of a question to `Bullion.Factory/policyWhatIf`: either a `resource`, or one or both of the others.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WhatIfBody {
    /// A definition or an initiative that is not stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub definition: Option<Value>,
    /// The body of an assignment. Without a `definition` its `policyDefinitionId` names one that is stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assignment: Option<Value>,
    /// A resource that is not created yet, whole, with its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<Value>,
}

/// One resource under one policy of one assignment, as `policyStates` answers it: the members that people read.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyState {
    /// RFC 3339: of the evaluation.
    pub timestamp: String,
    /// RFC 3339: since when the state is this.
    pub since: Option<String>,
    pub resource_id: String,
    pub resource_type: String,
    pub compliance_state: String,
    pub policy_assignment_id: String,
    pub policy_assignment_name: String,
    pub policy_definition_id: String,
    pub policy_definition_name: String,
    pub policy_definition_action: String,
    pub policy_definition_reference_id: Option<String>,
    /// For people: what decided.
    pub reason: Option<String>,
}

/// `properties` of `Bullion.Factory/compliance`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Explanation {
    pub resource_id: String,
    pub compliance_state: Option<String>,
    /// What Bullion knows of the image that a machine runs.
    pub machine_image: Option<Value>,
    pub policies: Vec<PolicyExplanation>,
}

/// Why one policy gives a resource the state that it has.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyExplanation {
    pub policy_assignment_id: String,
    pub policy_assignment_display_name: String,
    pub policy_assignment_scope: String,
    pub policy_definition_id: String,
    pub policy_definition_display_name: String,
    /// Of a member of an initiative.
    pub policy_definition_reference_id: Option<String>,
    pub policy_set_definition_display_name: Option<String>,
    pub effect: String,
    /// Without it requests are never refused.
    pub enforced: bool,
    pub compliance_state: String,
    /// RFC 3339.
    pub since: String,
    pub reason: Option<String>,
    /// What the assignment says to whoever it concerns.
    pub message: Option<String>,
    pub evaluated_expressions: Vec<EvaluatedExpression>,
    /// What would make it compliant, each on its own.
    pub fixes: Vec<String>,
}

/// One condition and what it saw, with Azure's names.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EvaluatedExpression {
    pub result: Option<String>,
    pub expression: Option<String>,
    pub path: Option<String>,
    pub expression_value: Value,
    pub target_value: Value,
    pub operator: Option<String>,
    /// Whether the state is what it is because of this one.
    pub decided: bool,
}
