//! One resource, policy by policy: its state, since when, what decided, and what would change it.

use access::Permit;
use catalog::CatalogError;
use jiff::Timestamp;
use policy::verdict::State;
use serde::Serialize;
use serde_json::Value;

use crate::comply::Comply;
use crate::denial::expression;
use crate::error::{ComplyError, Result};
use crate::look::Look;
use crate::records::state_name;
use crate::subject::Subject;
use crate::unit::Unit;
use crate::{kinds, outcome, reason};

/// Evaluated expressions of one policy.
const EXPRESSIONS_MAX: usize = 50;

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    pub resource_id: String,
    pub resource_type: String,
    /// Of all policies together; none where no policy applies.
    #[serde(
        serialize_with = "maybe_state",
        skip_serializing_if = "Option::is_none"
    )]
    pub compliance_state: Option<State>,
    /// Of a machine: what is known of its image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine_image: Option<Value>,
    /// Worst first.
    pub policies: Vec<PolicyExplanation>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyExplanation {
    pub policy_assignment_id: String,
    pub policy_assignment_display_name: String,
    pub policy_assignment_scope: String,
    pub policy_definition_id: String,
    pub policy_definition_display_name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_definition_reference_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_set_definition_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_set_definition_display_name: Option<String>,
    pub effect: String,
    /// What the assignment's enforcement mode says; without it requests are never refused.
    pub enforced: bool,
    #[serde(serialize_with = "state_name")]
    pub compliance_state: State,
    pub since: Timestamp,
    /// In words, with the values that decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What the assignment says to whoever does not comply.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What the owner of the resource may do.
    pub fixes: Vec<String>,
    /// Those that decided are marked.
    pub evaluated_expressions: Vec<Value>,
}

fn maybe_state<S: serde::Serializer>(
    state: &Option<State>,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    match state {
        Some(state) => state_name(state, serializer),
        None => serializer.serialize_none(),
    }
}

impl Comply {
    /// The resource at the permit's scope, judged now.
    pub async fn explain(&self, permit: &Permit) -> Result<Explanation> {
        let id = permit.scope();
        let resource = match self.parts.catalog.get(&permit.to_read_own()).await {
            Ok(resource) => resource,
            Err(CatalogError::NotFound { .. }) => {
                return Err(ComplyError::NotFound { id: id.clone() });
            }
            Err(source) => return Err(ComplyError::catalog("read what is explained")(source)),
        };
        let board = self.board(permit.tenant()).await?;
        let policies = self.cache.policies(&self.parts, permit.tenant()).await?;
        let mut units = match kinds::reached(id) {
            true => policies.reaching(id),
            false => Vec::new(),
        };
        units.sort_by(|a, b| a.key.cmp(&b.key));
        let now = self.parts.clock.now();
        let mut look = Look::new(&self.parts, &self.cache, policies);
        let subject = look.stored(&resource, &units).await?;
        let machine_image = match resource.id.resource_type().is(kinds::MACHINES) {
            true => Some(look.image_facts(&subject.value, now).await?),
            false => None,
        };
        let mut explained = Vec::new();
        for judgement in outcome::verdicts(&subject, &units, now) {
            let unit = &judgement.0;
            let since = {
                let board = board
                    .read()
                    .unwrap_or_else(std::sync::PoisonError::into_inner);
                let known = board.state(id, unit);
                known
                    .filter(|known| Some(known.state) == judgement.1.state)
                    .map(|known| known.since)
            };
            explained.extend(explain(&judgement, &subject, since.unwrap_or(now)));
        }
        explained.sort_by_key(|one| one.compliance_state as u8);
        Ok(Explanation {
            resource_id: resource.id.to_string(),
            resource_type: kinds::of(&resource.id),
            compliance_state: State::rolled(explained.iter().map(|one| one.compliance_state)),
            machine_image,
            policies: explained,
        })
    }
}

fn explain(
    judgement: &outcome::Judgement,
    subject: &Subject,
    since: Timestamp,
) -> Option<PolicyExplanation> {
    let (unit, verdict) = judgement;
    let state = verdict.state?;
    let assignment = &unit.assignment;
    let set = assignment.set.as_ref();
    let decided = reason::deciding(&verdict.explained);
    let expressions = verdict.explained.iter().take(EXPRESSIONS_MAX).map(|one| {
        let mut shown = expression(one);
        let decides =
            state == State::NonCompliant && decided.iter().any(|other| std::ptr::eq(*other, one));
        shown["decided"] = decides.into();
        shown
    });
    Some(PolicyExplanation {
        policy_assignment_id: assignment.id.to_string(),
        policy_assignment_display_name: assignment.display_name.clone(),
        policy_assignment_scope: assignment.scope.to_string(),
        policy_definition_id: unit.definition.id.clone(),
        policy_definition_display_name: unit.definition.display_name.clone(),
        policy_definition_reference_id: unit.reference.clone(),
        policy_set_definition_id: set.map(|set| set.id.clone()),
        policy_set_definition_display_name: set.map(|set| set.display_name.clone()),
        effect: effect_of(unit, verdict),
        enforced: unit.enforced(),
        compliance_state: state,
        since,
        reason: reason::reason(unit, verdict, subject),
        message: unit.message().filter(|_| state == State::NonCompliant),
        fixes: reason::fixes(unit, verdict, subject),
        evaluated_expressions: expressions.collect(),
    })
}

/// The effect on this resource, which an assignment may override.
pub(crate) fn effect_of(unit: &Unit, verdict: &policy::verdict::Verdict) -> String {
    let own = verdict.effect.map(|effect| effect.name().to_owned());
    own.unwrap_or_else(|| unit.effect.clone())
}
