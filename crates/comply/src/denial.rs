//! Why a request is refused, in the form in which Azure's clients know it.

use policy::evaluate::Evaluated;
use policy::json::get;
use policy::verdict::Verdict;
use serde::Serialize;
use serde_json::{Value, json};
use wire::{ArmError, ErrorCode};

use crate::decide::WriteKind;
use crate::unit::Unit;

/// Denials that one refusal lists. All are denials; a reader needs a few.
const LISTED_MAX: usize = 20;
/// Evaluated expressions that one denial lists.
const EXPRESSIONS_MAX: usize = 25;

/// One policy that refuses a request.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Denial {
    pub policy_assignment_id: String,
    pub policy_assignment_name: String,
    pub policy_assignment_display_name: String,
    pub policy_assignment_scope: String,
    pub policy_assignment_parameters: Value,
    pub policy_definition_id: String,
    pub policy_definition_name: String,
    pub policy_definition_display_name: String,
    pub policy_definition_effect: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_set_definition_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_set_definition_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_set_definition_display_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_definition_reference_id: Option<String>,
    pub evaluation_details: Value,
    /// What the assignment says to whoever is refused.
    #[serde(skip)]
    pub message: Option<String>,
    /// Why the policy could not be evaluated, or not be applied.
    #[serde(skip)]
    pub error: Option<String>,
}

impl Denial {
    pub(crate) fn new(unit: &Unit, verdict: &Verdict, error: Option<String>) -> Denial {
        let assignment = &unit.assignment;
        let set = assignment.set.as_ref();
        let properties = &assignment.value["properties"];
        let expressions = verdict.explained.iter().take(EXPRESSIONS_MAX);
        let mut details = json!({
            "evaluatedExpressions": expressions.map(expression).collect::<Vec<Value>>(),
        });
        if let Some(error) = &error {
            details["reason"] = error.clone().into();
        }
        Denial {
            policy_assignment_id: assignment.id.to_string(),
            policy_assignment_name: assignment.id.name().to_owned(),
            policy_assignment_display_name: assignment.display_name.clone(),
            policy_assignment_scope: assignment.scope.to_string(),
            policy_assignment_parameters: get(properties, "parameters")
                .cloned()
                .unwrap_or_else(|| json!({})),
            policy_definition_id: unit.definition.id.clone(),
            policy_definition_name: unit.definition.name.clone(),
            policy_definition_display_name: unit.definition.display_name.clone(),
            policy_definition_effect: verdict
                .effect
                .map_or("deny", policy::effect::Effect::name)
                .to_owned(),
            policy_set_definition_id: set.map(|set| set.id.clone()),
            policy_set_definition_name: set.map(|set| set.name.clone()),
            policy_set_definition_display_name: set.map(|set| set.display_name.clone()),
            policy_definition_reference_id: unit.reference.clone(),
            evaluation_details: details,
            message: unit.message(),
            error,
        }
    }

    /// Names and ids of assignment and definition, as the message of a refusal lists them.
    fn identifiers(&self) -> Value {
        let mut identifiers = json!({
            "policyAssignment": {
                "name": self.policy_assignment_display_name,
                "id": self.policy_assignment_id,
            },
            "policyDefinition": {
                "name": self.policy_definition_display_name,
                "id": self.policy_definition_id,
            },
        });
        if let (Some(name), Some(id)) = (
            &self.policy_set_definition_display_name,
            &self.policy_set_definition_id,
        ) {
            identifiers["policySetDefinition"] = json!({ "name": name, "id": id });
        }
        identifiers
    }
}

/// One evaluated expression in the members that PolicyInsights has.
pub(crate) fn expression(evaluated: &Evaluated) -> Value {
    json!({
        "result": if evaluated.result { "True" } else { "False" },
        "expressionKind": evaluated.kind,
        "expression": evaluated.expression,
        "path": evaluated.path,
        "expressionValue": evaluated.value,
        "targetValue": evaluated.target,
        "operator": pascal(evaluated.operator),
    })
}

/// `notEquals` as PolicyInsights writes it: `NotEquals`.
fn pascal(name: &str) -> String {
    let mut letters = name.chars();
    let first = letters.next().map(|first| first.to_ascii_uppercase());
    first.into_iter().chain(letters).collect()
}

/// The refusal of a request, with everything that a client needs to see which policy it was and why.
pub fn disallowed(resource_name: &str, kind: WriteKind, denials: &[Denial]) -> ArmError {
    let subject = match kind {
        WriteKind::Delete => format!("Deletion of resource '{resource_name}'"),
        _ => format!("Resource '{resource_name}'"),
    };
    let listed = &denials[..denials.len().min(LISTED_MAX)];
    let mut reasons: Vec<String> = Vec::new();
    for denial in listed {
        let error = denial.error.as_ref();
        let error = error.map(|error| format!("The policy cannot be evaluated: {error}"));
        reasons.extend(denial.message.clone().into_iter().chain(error));
    }
    reasons.dedup();
    let said = match reasons.is_empty() {
        true => String::new(),
        false => format!(" Reasons: '{}'.", reasons.join("', '")),
    };
    let identifiers: Vec<Value> = listed.iter().map(Denial::identifiers).collect();
    let message = format!(
        "{subject} was disallowed by policy.{said} Policy identifiers: '{}'.",
        Value::from(identifiers)
    );
    let error = ArmError::new(ErrorCode::RequestDisallowedByPolicy, message);
    let error = error.with_target(resource_name);
    listed.iter().fold(error, |error, denial| {
        error.with_info(json!({ "type": "PolicyViolation", "info": denial }))
    })
}
