//! What people say of a promotion: yes, no, stop. Pure: it changes a record or says why it does not.
//!
//! Whoever built the version or asked for its promotion never approves it, nor does the stage's own application.

use jiff::Timestamp;
use wire::PrincipalId;
use wire::promotion::{
    Actor, Approval, Gate, GateState, Opinion, PromotionProperties, PromotionState,
};

const COMMENT_CHARS_MAX: usize = 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpinionError {
    #[error("the promotion does not wait for approval")]
    NotWaiting,
    #[error("the promotion waited too long for approval and is over")]
    Expired,
    #[error("whoever asked for a promotion does not approve it")]
    Requester,
    #[error("whoever built a version does not approve its promotion")]
    Builder,
    #[error("the application that promotes does not approve")]
    Stage,
    #[error("the gate names others who may approve")]
    NotNamed,
    #[error("you have approved this promotion before")]
    Twice,
    #[error("the promotion has ended")]
    Ended,
    #[error("a comment has at most {COMMENT_CHARS_MAX} characters")]
    Comment,
}

/// What an approval led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Approved {
    /// More are needed.
    Counted,
    /// The promotion goes on.
    Enough,
}

/// Counts a yes of `actor`. `built_it`: the version is of that person's making.
pub fn approve(
    promotion: &mut PromotionProperties,
    actor: Actor,
    built_it: bool,
    opinion: &Opinion,
    now: Timestamp,
) -> Result<Approved, OpinionError> {
    if promotion.state != PromotionState::WaitingForApproval {
        return Err(OpinionError::NotWaiting);
    }
    if is_expired(promotion, now) {
        return Err(OpinionError::Expired);
    }
    let (needed, named) = waiting_gate(promotion).ok_or(OpinionError::NotWaiting)?;
    let asked = promotion.requested_by;
    let same = |other: &Actor| other.app == actor.app || other.principal == actor.principal;
    if same(&asked) {
        return Err(OpinionError::Requester);
    }
    if built_it {
        return Err(OpinionError::Builder);
    }
    if promotion.to.application == Some(actor.app) {
        return Err(OpinionError::Stage);
    }
    if !named.is_empty() && !named.contains(&actor.principal) {
        return Err(OpinionError::NotNamed);
    }
    if promotion.approvals.iter().any(|yes| same(&yes.by)) {
        return Err(OpinionError::Twice);
    }
    check_comment(opinion)?;
    promotion.approvals.push(Approval {
        by: actor,
        time: now.to_string(),
        comment: opinion.comment.clone(),
    });
    if promotion.approvals.len() < needed {
        return Ok(Approved::Counted);
    }
    promotion.state = PromotionState::Running;
    promotion.message.clear();
    Ok(Approved::Enough)
}

/// A no ends it.
pub fn reject(
    promotion: &mut PromotionProperties,
    actor: Actor,
    opinion: &Opinion,
    now: Timestamp,
) -> Result<(), OpinionError> {
    if promotion.state != PromotionState::WaitingForApproval {
        return Err(OpinionError::NotWaiting);
    }
    check_comment(opinion)?;
    let gate = promotion
        .gates
        .iter_mut()
        .find(|gate| gate.state == GateState::Waiting);
    if let Some(gate) = gate {
        gate.state = GateState::Failed;
        gate.time = Some(now.to_string());
        gate.by = vec![actor.principal];
        gate.message.clone_from(&opinion.comment);
    }
    end(promotion, PromotionState::Rejected, now);
    promotion.message = format!("rejected by {}: {}", actor.principal, opinion.comment);
    Ok(())
}

/// Ends a promotion that no job works on. One that a job works on is canceled with its job.
pub fn cancel(promotion: &mut PromotionProperties, now: Timestamp) -> Result<(), OpinionError> {
    match promotion.state {
        PromotionState::WaitingForApproval | PromotionState::WaitingForRegion => {
            end(promotion, PromotionState::Canceled, now);
            "canceled".clone_into(&mut promotion.message);
            Ok(())
        }
        _ => Err(OpinionError::Ended),
    }
}

/// Ends a promotion whose approval did not come in time. Answers whether it did.
pub(super) fn expire(promotion: &mut PromotionProperties, now: Timestamp) -> bool {
    let over = promotion.state == PromotionState::WaitingForApproval && is_expired(promotion, now);
    if over {
        let waiting = promotion.gates.iter_mut();
        for gate in waiting.filter(|gate| gate.state == GateState::Waiting) {
            gate.state = GateState::Failed;
            gate.time = Some(now.to_string());
            "nobody approved in time".clone_into(&mut gate.message);
        }
        end(promotion, PromotionState::Expired, now);
        "no approval came in time".clone_into(&mut promotion.message);
    }
    over
}

fn end(promotion: &mut PromotionProperties, state: PromotionState, now: Timestamp) {
    promotion.state = state;
    promotion.end_time = Some(now.to_string());
    promotion.expires = None;
}

fn is_expired(promotion: &PromotionProperties, now: Timestamp) -> bool {
    let expires = promotion.expires.as_deref();
    let expires = expires.and_then(|text| text.parse::<Timestamp>().ok());
    expires.is_some_and(|expires| expires <= now)
}

/// How many the gate that waits needs, and of whom.
fn waiting_gate(promotion: &PromotionProperties) -> Option<(usize, Vec<PrincipalId>)> {
    let waiting = promotion
        .gates
        .iter()
        .find(|gate| gate.state == GateState::Waiting)?;
    promotion.to.gates.iter().find_map(|gate| match gate {
        Gate::Approval {
            name,
            principals,
            count,
            ..
        } if *name == waiting.name => Some((usize::try_from(*count).ok()?, principals.clone())),
        _ => None,
    })
}

fn check_comment(opinion: &Opinion) -> Result<(), OpinionError> {
    match opinion.comment.chars().count() <= COMMENT_CHARS_MAX {
        true => Ok(()),
        false => Err(OpinionError::Comment),
    }
}
