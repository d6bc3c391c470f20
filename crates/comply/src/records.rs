//! States as PolicyInsights tells them: what is asked for, and one record for each policy and resource.

use jiff::Timestamp;
use policy::verdict::State;
use serde::{Serialize, Serializer};
use serde_json::Value;

/// Records of a page where the query does not say.
pub const LIMIT_DEFAULT: usize = 1_000;
/// The most that one page holds.
pub const LIMIT_MAX: usize = 10_000;
/// The most that one page holds with the expressions that decided.
pub const DETAILED_MAX: usize = 200;

/// Which states. Ids and names are compared without case; what is not given restricts nothing.
#[derive(Debug, Clone, Default)]
pub struct StateQuery {
    pub assignment: Option<String>,
    pub definition: Option<String>,
    pub set_definition: Option<String>,
    pub reference: Option<String>,
    pub state: Option<State>,
    pub resource_type: Option<String>,
    /// Evaluate again, to tell which expressions decided.
    pub details: bool,
    /// Where the page before ended.
    pub after: Option<String>,
    /// Records; 0 means the default.
    pub limit: usize,
}

#[derive(Debug, Clone, Default)]
pub struct StatePage {
    pub records: Vec<StateRecord>,
    /// There are more; ask with this as `after`.
    pub next: Option<String>,
}

/// The state of one resource by one policy.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StateRecord {
    /// When it was last evaluated.
    pub timestamp: Timestamp,
    /// Since when it has had this state.
    pub since: Timestamp,
    pub resource_id: String,
    pub resource_type: String,
    pub resource_location: String,
    pub resource_group: String,
    /// As Azure writes them: JSON in a text.
    pub resource_tags: String,
    pub subscription_id: String,
    pub policy_assignment_id: String,
    pub policy_assignment_name: String,
    pub policy_assignment_scope: String,
    pub policy_assignment_parameters: String,
    pub policy_definition_id: String,
    pub policy_definition_name: String,
    pub policy_definition_action: String,
    pub policy_definition_category: String,
    /// The version by which the resource is judged.
    pub policy_definition_version: String,
    pub policy_definition_reference_id: String,
    pub policy_definition_group_names: Vec<String>,
    pub policy_set_definition_id: String,
    pub policy_set_definition_name: String,
    pub policy_set_definition_version: String,
    pub management_group_ids: String,
    #[serde(serialize_with = "state_name")]
    pub compliance_state: State,
    pub is_compliant: bool,
    pub effective_parameters: String,
    pub compliance_reason_code: String,
    /// In words, with the values that decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_evaluation_details: Option<Value>,
}

pub(crate) fn state_name<S: Serializer>(state: &State, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(state.name())
}
