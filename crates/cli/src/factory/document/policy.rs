//! What must hold of resources: policies in Azure's language, and where they are assigned.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::rules::{BuiltInName, PolicyFile, PolicyName, Reference, kind};
use super::identity::Scope;

/// A policy in Azure's policy language, kept in a file of its own.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PolicyDefinition {
    pub name: PolicyName,
    /// Where the definition is kept; it can be assigned there and below.
    pub subscription: Reference<kind::Subscription>,
    /// Path in this folder of a JSON file, with `//` and `/* */` comments if you like: a whole definition, or its bare
    /// properties (`mode`, `parameters`, `policyRule`).
    pub file: PolicyFile,
    /// What the file says unless given.
    pub display_name: Option<String>,
    /// What the file says unless given.
    pub description: Option<String>,
}

/// A policy put into force at a scope and everything below it.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PolicyAssignment {
    pub name: PolicyName,
    pub scope: Scope,
    pub definition: AssignedPolicy,
    /// The name unless given.
    pub display_name: Option<String>,
    pub description: Option<String>,
    /// Values of the policy's parameters, by name.
    #[serde(default)]
    pub parameters: BTreeMap<String, Value>,
    /// `Default` unless given: `DoNotEnforce` reports, but refuses and changes nothing.
    #[serde(default)]
    pub enforcement_mode: EnforcementMode,
    /// What people are told who are not compliant.
    #[serde(default)]
    #[schemars(length(max = 100))]
    pub non_compliance_messages: Vec<NonComplianceMessage>,
    /// Places below the scope that are left out.
    #[serde(default)]
    #[schemars(length(max = 400))]
    pub not_scopes: Vec<Scope>,
}

/// What is assigned, by one of these keys.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum AssignedPolicy {
    /// A definition of this folder.
    PolicyDefinition(Reference<kind::PolicyDefinition>),
    /// A definition that the server brings: its display name, or its id's last part.
    BuiltIn(BuiltInName),
    /// An initiative that the server brings: its display name, or its id's last part.
    BuiltInInitiative(BuiltInName),
}

#[derive(Debug, Clone, Copy, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum EnforcementMode {
    #[default]
    Default,
    DoNotEnforce,
}

/// A message, for one policy of an initiative or for all that is assigned.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct NonComplianceMessage {
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_definition_reference_id: Option<String>,
}
