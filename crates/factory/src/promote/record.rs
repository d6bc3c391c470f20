//! The record of a promotion: what each gate said and how it ended. Every change is read, change, write if nobody
//! else wrote, since people write it too.

use std::sync::Arc;

use access::{Action, Permit, SystemReason};
use catalog::{Catalog, Outcome};
use jiff::{SignedDuration, Timestamp};
use jobs::StepError;
use serde_json::Value;
use wire::promotion::{GateState, GateVerdict, PromotionProperties, PromotionState, RegionCopy};
use wire::{Location, ResourceId, TenantId};

use super::{GATE_FAILED, PROMOTION_WRITE, REGION_UNAVAILABLE};
use crate::factory::Factory;
use crate::pipeline::change;
use crate::replicate::RegionResult;

/// The first pause before a region that was down is tried again; it doubles.
const RETRY_FIRST: SignedDuration = SignedDuration::from_mins(1);
/// The longest pause: a region that is back is used within this time.
const RETRY_LONGEST: SignedDuration = SignedDuration::from_mins(16);

pub(super) struct Record {
    catalog: Arc<dyn Catalog>,
    permit: Permit,
}

impl Record {
    pub async fn of(factory: &Factory, id: &ResourceId) -> Result<Record, StepError> {
        let tenant = tenant_of(factory, id).await?;
        Ok(Record::in_tenant(factory, id, tenant))
    }

    pub fn in_tenant(factory: &Factory, id: &ResourceId, tenant: TenantId) -> Record {
        let action = Action::new(PROMOTION_WRITE);
        Record {
            catalog: Arc::clone(&factory.catalog),
            permit: Permit::system(SystemReason::JobStatus, action, id.clone(), tenant),
        }
    }

    pub async fn read(&self) -> Result<PromotionProperties, StepError> {
        let stored = self.catalog.get(&self.permit.to_read_own()).await?;
        parse(&stored.properties)
    }

    /// Edits the record; what it is then is what the last try of `edit` saw.
    pub async fn change(
        &self,
        mut edit: impl FnMut(&mut PromotionProperties) + Send,
    ) -> Result<(), StepError> {
        change(&self.catalog, &self.permit, |draft| {
            // A record that cannot be read stays as it is; reading it said so before.
            if let Ok(mut promotion) = parse(&draft.properties) {
                edit(&mut promotion);
                draft.properties = serde_json::to_value(&promotion).unwrap_or_default();
            }
        })
        .await?;
        Ok(())
    }

    pub async fn gate(
        &self,
        name: &str,
        mut edit: impl FnMut(&mut GateVerdict) + Send,
    ) -> Result<(), StepError> {
        self.change(|promotion| {
            let gate = promotion.gates.iter_mut().find(|gate| gate.name == name);
            if let Some(gate) = gate {
                edit(gate);
            }
        })
        .await
    }

    /// Adds what a region got. One that was found complete later on keeps what it got first.
    pub async fn copied(
        &self,
        region: &Location,
        result: &RegionResult,
        now: Timestamp,
    ) -> Result<(), StepError> {
        let RegionResult::Completed {
            moved_bytes,
            frames,
            frames_present,
        } = *result
        else {
            return Ok(());
        };
        self.change(|promotion| {
            let known = promotion
                .copies
                .iter_mut()
                .find(|copy| copy.region.folded() == region.folded());
            match known {
                Some(_) if frames == 0 => {}
                Some(known) => {
                    known.moved_bytes += moved_bytes;
                    known.frames += frames;
                    known.time = now.to_string();
                }
                None => promotion.copies.push(RegionCopy {
                    region: region.clone(),
                    moved_bytes,
                    frames,
                    frames_present,
                    time: now.to_string(),
                }),
            }
        })
        .await
    }

    /// How the job ended, as the promotion's state. A promotion that is over stays what it is.
    pub async fn settle(&self, outcome: &Outcome, now: Timestamp) -> Result<(), StepError> {
        self.change(|promotion| {
            if promotion.state.ended() {
                return;
            }
            let (state, message) = state_after(outcome);
            if state != PromotionState::WaitingForRegion {
                promotion.region_failures = 0;
                promotion.retry_time = None;
            } else if promotion.state == PromotionState::Running {
                // Not where a death made this be said a second time.
                promotion.retry_time = Some((now + pause(promotion.region_failures)).to_string());
                promotion.region_failures = promotion.region_failures.saturating_add(1);
            }
            promotion.state = state;
            promotion.message = message;
            if let Outcome::Succeeded(output) = outcome {
                let version = output.get("versionId").and_then(Value::as_str);
                promotion.version_id = version.map(str::to_owned);
            }
            if state.ended() {
                promotion.end_time = Some(now.to_string());
                promotion.expires = None;
            }
        })
        .await
    }
}

/// How long to wait for a region after so many failures before this one.
fn pause(failures: u32) -> SignedDuration {
    let doubled = 1i32.checked_shl(failures).filter(|times| *times > 0);
    let pause = doubled.and_then(|times| RETRY_FIRST.checked_mul(times));
    pause.map_or(RETRY_LONGEST, |pause| pause.min(RETRY_LONGEST))
}

fn state_after(outcome: &Outcome) -> (PromotionState, String) {
    match outcome {
        Outcome::Succeeded(output) => {
            if let Some(gate) = output.get("waiting").and_then(Value::as_str) {
                let message = format!("the gate `{gate}` waits for approval");
                return (PromotionState::WaitingForApproval, message);
            }
            let behind = output.get("regionsBehind").and_then(Value::as_array);
            let behind: Vec<&str> = behind
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect();
            let message = match behind.is_empty() {
                true => String::new(),
                false => format!("regions still to be replicated to: {}", behind.join(", ")),
            };
            (PromotionState::Succeeded, message)
        }
        Outcome::Failed(failure) => {
            let state = match failure.code.as_str() {
                GATE_FAILED => PromotionState::Rejected,
                REGION_UNAVAILABLE => PromotionState::WaitingForRegion,
                _ => PromotionState::Failed,
            };
            (state, format!("{}: {}", failure.code, failure.message))
        }
        Outcome::Canceled(_) => (PromotionState::Canceled, "canceled".to_owned()),
    }
}

pub(super) fn parse(properties: &Value) -> Result<PromotionProperties, StepError> {
    serde_json::from_value(properties.clone()).map_err(|error| {
        StepError::failed(
            "InternalServerError",
            "the record of the promotion cannot be read",
        )
        .because(error)
    })
}

/// Whose the scope is, by its subscription.
pub(super) async fn tenant_of(factory: &Factory, id: &ResourceId) -> Result<TenantId, StepError> {
    let owner = match id.subscription() {
        Some(subscription) => factory.auth.subscription_tenant(subscription).await?,
        None => None,
    };
    owner.ok_or_else(|| StepError::failed("ResourceNotFound", format!("`{id}` is nobody's")))
}

/// Whether the gate has passed, as the record says.
pub(super) fn passed(promotion: &PromotionProperties, name: &str) -> bool {
    let gate = promotion.gates.iter().find(|gate| gate.name == name);
    gate.is_some_and(|gate| gate.state == GateState::Passed)
}
