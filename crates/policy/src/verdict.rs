//! The verdict of one policy, under one assignment, on one resource.
//!
//! The order of the questions is Azure's: scope, mode, effect, applicability, exemption, and only then the
//! rule. What a question before it has settled is never asked of the rule.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::alias::Aliases;
use crate::applies;
use crate::definition::Definition;
use crate::effect::Effect;
use crate::error::EvaluationError;
use crate::evaluate::{Evaluated, Evaluation, Surroundings};
use crate::existence;
use crate::request::{self, Planned};
use crate::scope;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    NonCompliant,
    Compliant,
    Error,
    Conflict,
    Protected,
    Exempt,
    Unknown,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            State::NonCompliant => "NonCompliant",
            State::Compliant => "Compliant",
            State::Error => "Error",
            State::Conflict => "Conflict",
            State::Protected => "Protected",
            State::Exempt => "Exempt",
            State::Unknown => "Unknown",
        }
    }

    fn parse(name: &str) -> Option<State> {
        const ALL: [State; 7] = [
            State::NonCompliant,
            State::Compliant,
            State::Error,
            State::Conflict,
            State::Protected,
            State::Exempt,
            State::Unknown,
        ];
        // Azure writes the one with a hyphen, too.
        let name = name.replace('-', "");
        ALL.into_iter()
            .find(|state| state.name().eq_ignore_ascii_case(&name))
    }

    /// The state of several together: the first in Azure's rank that any of them has.
    pub fn rolled(states: impl IntoIterator<Item = State>) -> Option<State> {
        states.into_iter().min_by_key(|state| *state as u8)
    }
}

/// Everything that one verdict depends on.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    pub definition: &'a Definition,
    pub parameters: &'a Map<String, Value>,
    pub reference: Option<&'a str>,
    pub assignment: &'a Value,
    pub resource: &'a Value,
    pub related: &'a [Value],
    pub exemptions: &'a [Value],
    pub attestations: &'a [Value],
    pub hierarchy: &'a Value,
    pub around: &'a Surroundings,
    pub aliases: &'a Aliases,
}

#[derive(Debug, Clone, Default)]
pub struct Verdict {
    pub applicable: bool,
    pub condition: Option<bool>,
    pub effect: Option<Effect>,
    pub state: Option<State>,
    pub error: Option<String>,
    pub existence: Option<Value>,
    pub explained: Vec<Evaluated>,
    /// What modify and append would do.
    pub planned: Vec<Planned>,
    pub conflict: Option<Effect>,
    /// Actions that denyAction forbids.
    pub actions: Vec<String>,
}

impl Verdict {
    pub fn to_json(&self) -> Value {
        json!({
            "applicable": self.applicable,
            "if": self.condition,
            "effect": self.effect.map(Effect::name),
            "complianceState": self.state.map(State::name),
            "existence": self.existence,
            "error": self.error,
        })
    }
}

impl<'a> Question<'a> {
    fn evaluation(&self) -> Evaluation<'a> {
        Evaluation::new(self.resource, self.parameters, self.around, self.aliases)
    }

    pub fn answer(&self) -> Verdict {
        let mut verdict = Verdict::default();
        if !scope::assigned(self.assignment, self.resource, self.hierarchy)
            || !applies::mode_takes(self.definition.mode, self.resource)
        {
            verdict.effect = self.effect().ok();
            return verdict;
        }
        self.judge()
    }

    /// The answer for a resource that the assignment and the mode are known to take.
    pub(crate) fn judge(&self) -> Verdict {
        let mut verdict = Verdict::default();
        if let Err(error) = self.decide(&mut verdict) {
            verdict.error = Some(error.to_string());
            verdict.applicable = true;
            verdict.state = Some(State::Error);
        }
        verdict
    }

    pub(crate) fn effect(&self) -> Result<Effect, EvaluationError> {
        if let Some(name) = scope::overridden(self.assignment, self.resource, self.reference) {
            return Effect::parse(name)
                .ok_or_else(|| EvaluationError::new(format!("there is no effect `{name}`")));
        }
        let value = self.evaluation().operand(&self.definition.then.effect)?;
        let name = value.as_str().unwrap_or_default();
        Effect::parse(name)
            .ok_or_else(|| EvaluationError::new(format!("there is no effect `{name}`")))
    }

    fn decide(&self, verdict: &mut Verdict) -> Result<(), EvaluationError> {
        let effect = self.effect()?;
        verdict.effect = Some(effect);
        if effect == Effect::Disabled {
            return Ok(());
        }
        let rule = &self.definition.condition;
        if self.definition.names_unreal {
            return Ok(());
        }
        let foreign = applies::foreign_alias(rule, self.resource);
        if !effect.looks_for_existence() {
            let applies = applies::applies(rule, &mut self.evaluation());
            verdict.applicable =
                applies? && !foreign && !applies::left_out(self.definition, effect, self.resource);
        }
        let exempt = scope::exempt(
            self.exemptions,
            self.assignment,
            self.reference,
            self.resource,
            self.hierarchy,
            self.around.now,
        );
        let mut evaluation = self.evaluation();
        let holds = evaluation.holds(rule);
        verdict.explained = evaluation.explained();
        if exempt && !effect.looks_for_existence() {
            // An exempt resource is not judged, so a rule that fails on it is no error.
            verdict.condition = holds.ok();
            verdict.state = verdict.applicable.then_some(State::Exempt);
            return Ok(());
        }
        if !effect.looks_for_existence() && !verdict.applicable {
            verdict.condition = holds.ok();
            return Ok(());
        }
        let holds = holds?;
        verdict.condition = Some(holds);
        if effect.looks_for_existence() {
            verdict.applicable =
                holds && !applies::left_out(self.definition, effect, self.resource);
            if exempt || !verdict.applicable {
                verdict.state = verdict.applicable.then_some(State::Exempt);
                return Ok(());
            }
            return self.search(verdict);
        }
        verdict.state = Some(self.state(effect, holds, verdict)?);
        Ok(())
    }

    /// The state of a resource that is judged by its own properties alone.
    pub(crate) fn state(
        &self,
        effect: Effect,
        holds: bool,
        verdict: &mut Verdict,
    ) -> Result<State, EvaluationError> {
        if !holds {
            return Ok(State::Compliant);
        }
        let then = &self.definition.then;
        match effect {
            Effect::Manual => {
                let default = match &then.default_state {
                    Some(operand) => self.evaluation().operand(operand)?,
                    None => Value::Null,
                };
                let attested = scope::attested(
                    self.attestations,
                    self.assignment,
                    self.reference,
                    self.resource,
                    self.around.now,
                );
                let state = attested.or(default.as_str()).and_then(State::parse);
                Ok(state.unwrap_or(State::Unknown))
            }
            Effect::DenyAction | Effect::AuditAction => {
                if let Some(actions) = &then.actions {
                    let actions = self.evaluation().operand(actions)?;
                    let names = actions.as_array().into_iter().flatten();
                    verdict.actions = names.filter_map(Value::as_str).map(str::to_owned).collect();
                }
                Ok(match effect {
                    Effect::DenyAction => State::Protected,
                    _ => State::NonCompliant,
                })
            }
            Effect::Modify | Effect::Append => {
                let mut evaluation = self.evaluation();
                verdict.planned =
                    request::plan(&then.changes, self.resource, &mut evaluation, self.aliases)?;
                if let Some(conflict) = &then.conflict {
                    let name = evaluation.operand(conflict)?;
                    verdict.conflict = name.as_str().and_then(Effect::parse);
                }
                Ok(State::NonCompliant)
            }
            _ => Ok(State::NonCompliant),
        }
    }

    fn search(&self, verdict: &mut Verdict) -> Result<(), EvaluationError> {
        let Some(existence) = &self.definition.then.existence else {
            return Err(EvaluationError::new(
                "the rule does not say what must exist",
            ));
        };
        let found =
            existence::search(existence, self.resource, self.related, || self.evaluation())?;
        verdict.explained.extend(found.explained);
        verdict.existence = Some(json!({
            "satisfied": found.satisfied,
            "resourceId": found.resource,
            "totalResources": found.looked_at,
        }));
        verdict.state = Some(match found.satisfied {
            true => State::Compliant,
            false => State::NonCompliant,
        });
        Ok(())
    }

    /// Whether the assignment acts on requests, or only counts.
    pub fn enforced(&self) -> bool {
        scope::own_text(self.assignment, "enforcementMode")
            .is_none_or(|mode| mode.eq_ignore_ascii_case("Default"))
    }

    /// What the assignment says to whoever is refused.
    pub fn message(&self) -> Option<String> {
        let messages = scope::own(self.assignment, "nonComplianceMessages")?.as_array()?;
        let of = |wanted: Option<&str>| {
            messages.iter().find(|message| {
                let reference = crate::json::text(message, "policyDefinitionReferenceId");
                match (reference, wanted) {
                    (Some(a), Some(b)) => a.eq_ignore_ascii_case(b),
                    (None, None) => true,
                    _ => false,
                }
            })
        };
        let message = self
            .reference
            .and_then(|own| of(Some(own)))
            .or_else(|| of(None))?;
        crate::json::text(message, "message").map(str::to_owned)
    }
}

/// The instant of an evaluation, from its text.
pub fn now(text: Option<&str>, otherwise: Timestamp) -> Timestamp {
    text.and_then(crate::expr::instant).unwrap_or(otherwise)
}
