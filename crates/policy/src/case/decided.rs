//! What the policies say of a request, as a verdict of a case shows it. It decides nothing.

use serde_json::{Value, json};

use super::{Question, Unit, text};
use crate::request::{Decision, Denial};

/// A decision as a verdict shows it.
pub fn decided(decision: &Decision, units: &[Unit], questions: &[Question<'_>]) -> Value {
    let allowed = decision.denials.is_empty();
    let denied = |denial: &Denial| {
        let (unit, question) = (&units[denial.policy], &questions[denial.policy]);
        let assignment = &unit.assignment;
        json!({
            "policy": unit.keys.first(),
            "policyDefinitionReferenceId": unit.reference,
            "policyAssignment": text(assignment, "id").or_else(|| text(assignment, "name")),
            "message": question.message(),
            "error": denial.reason,
        })
    };
    json!({
        "decision": if allowed { "allow" } else { "deny" },
        "allowed": allowed,
        "denied": !allowed,
        "deniedBy": decision.denials.iter().map(denied).collect::<Vec<_>>(),
        "changes": decision.changes.iter().map(|(_, made)| made.to_json()).collect::<Vec<_>>(),
        "resource": decision.resource,
    })
}
