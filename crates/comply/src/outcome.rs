//! From verdicts to states: what is kept of an evaluation, and conflicts between policies.

use std::sync::Arc;

use catalog::PolicyState;
use jiff::Timestamp;
use policy::effect::Effect;
use policy::verdict::{State, Verdict};

use crate::reason;
use crate::subject::Subject;
use crate::unit::Unit;

/// What a policy says of a resource, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub state: State,
    pub reason: Option<String>,
}

/// A verdict with the unit that it is of.
pub(crate) type Judgement = (Arc<Unit>, Verdict);

/// Judges a resource by all the units. To see conflicts, all that may change it must be among them.
pub(crate) fn verdicts(subject: &Subject, units: &[Arc<Unit>], now: Timestamp) -> Vec<Judgement> {
    let judge = |unit: &Arc<Unit>| {
        let unit = unit.meant(&subject.value);
        let verdict = unit.judge(subject, now);
        (unit, verdict)
    };
    let mut found: Vec<Judgement> = units.iter().map(judge).collect();
    mark_conflicts(&mut found);
    found
}

pub(crate) fn outcome(judgement: &Judgement, subject: &Subject) -> Option<Outcome> {
    let (unit, verdict) = judgement;
    verdict.state.map(|state| Outcome {
        state,
        reason: reason::reason(unit, verdict, subject),
    })
}

/// Two that would set one property to different values, and neither gives way: that is no state of the resource.
fn mark_conflicts(found: &mut [Judgement]) {
    let stubborn = |verdict: &Verdict| {
        verdict.effect == Some(Effect::Modify)
            && verdict.state == Some(State::NonCompliant)
            && verdict.conflict.unwrap_or(Effect::Deny) == Effect::Deny
    };
    let asking: Vec<usize> = (0..found.len())
        .filter(|at| stubborn(&found[*at].1))
        .collect();
    let clash = |a: usize, b: usize| {
        let theirs = &found[b].1.planned;
        let mut mine = found[a].1.planned.iter();
        mine.any(|one| theirs.iter().any(|other| one.conflicts(other)))
    };
    let hit: Vec<usize> = asking
        .iter()
        .copied()
        .filter(|a| asking.iter().any(|b| a != b && clash(*a, *b)))
        .collect();
    for at in hit {
        found[at].1.state = Some(State::Conflict);
    }
}

pub(crate) fn stored(state: State) -> PolicyState {
    match state {
        State::NonCompliant => PolicyState::NonCompliant,
        State::Compliant => PolicyState::Compliant,
        State::Error => PolicyState::Error,
        State::Conflict => PolicyState::Conflict,
        State::Protected => PolicyState::Protected,
        State::Exempt => PolicyState::Exempt,
        State::Unknown => PolicyState::Unknown,
    }
}

pub(crate) fn read(state: PolicyState) -> State {
    match state {
        PolicyState::NonCompliant => State::NonCompliant,
        PolicyState::Compliant => State::Compliant,
        PolicyState::Error => State::Error,
        PolicyState::Conflict => State::Conflict,
        PolicyState::Protected => State::Protected,
        PolicyState::Exempt => State::Exempt,
        PolicyState::Unknown => State::Unknown,
    }
}
