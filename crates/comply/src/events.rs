//! What happened: states that changed, and requests that were refused.

use std::sync::Arc;

use access::{Action, Permit, SystemReason};
use catalog::{REFUSALS_MAX, Refusal, StateEvent, StateKey};
use jiff::Timestamp;
use serde::Serialize;
use wire::{ResourceId, TenantId};

use crate::comply::Comply;
use crate::denial::Denial;
use crate::error::{ComplyError, Result};
use crate::outcome;
use crate::reconcile::policies_of;
use crate::records::{LIMIT_DEFAULT, LIMIT_MAX, StatePage, StateQuery, StateRecord};
use crate::states::{Area, Found, Teller, after, token, unit_of};

/// An event as PolicyInsights tells it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EventRecord {
    #[serde(flatten)]
    pub record: StateRecord,
    pub tenant_id: String,
    /// Whose request was refused; empty where a state changed.
    pub principal_oid: String,
}

#[derive(Debug, Clone, Default)]
pub struct EventPage {
    pub events: Vec<EventRecord>,
    /// There are more; ask with this as `after`.
    pub next: Option<String>,
}

impl Comply {
    /// Changes of state from one time to another, oldest first: PolicyInsights' `default`, where `latest` is
    /// [`Comply::states`].
    pub async fn history(
        &self,
        permit: &Permit,
        query: &StateQuery,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<StatePage> {
        let states = |event: &StateEvent| event.refused.is_none();
        let page = self.told(permit, query, from, to, states).await?;
        Ok(StatePage {
            records: page.events.into_iter().map(|event| event.record).collect(),
            next: page.next,
        })
    }

    /// The same with the requests that were refused: PolicyInsights' `policyEvents`.
    pub async fn events(
        &self,
        permit: &Permit,
        query: &StateQuery,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<EventPage> {
        self.told(permit, query, from, to, |_| true).await
    }

    async fn told(
        &self,
        permit: &Permit,
        query: &StateQuery,
        from: Timestamp,
        to: Timestamp,
        wanted: impl Fn(&StateEvent) -> bool,
    ) -> Result<EventPage> {
        let board = self.board(permit.tenant()).await?;
        let policies = policies_of(&board);
        let area = Area::new(permit, query);
        let seen: u64 = match &query.after {
            Some(token) => after(token)?.parse().map_err(|_| ComplyError::BadToken)?,
            None => 0,
        };
        let limit = match query.limit {
            0 => LIMIT_DEFAULT,
            limit => limit.min(LIMIT_MAX),
        };
        let reader = crate::cache::reading(&ResourceId::root(), permit.tenant());
        let states = &self.parts.states;
        let found = states.policy_events(&reader, from, to, seen, limit).await;
        let found = found.map_err(ComplyError::catalog("read how states changed"))?;
        let next = (found.len() == limit)
            .then(|| found.last().map(|last| last.seq))
            .flatten();
        let mut teller = Teller::new(self, Arc::clone(&policies));
        let mut events = Vec::new();
        for event in found.into_iter().filter(|event| wanted(event)) {
            let state = event.state.map(outcome::read);
            let (Some(state), Some(unit)) = (state, unit_of(&policies, &event.key)) else {
                continue;
            };
            let asked = query.state.is_none_or(|wanted| wanted == state);
            if !asked || !area.asks_for(&unit) || !area.shows(&policies, &event.key.resource) {
                continue;
            }
            let one = Found {
                id: event.key.resource,
                unit,
                state,
                since: event.at,
                reason: event.reason,
                evaluated_at: event.at,
            };
            let record = match &event.refused {
                Some(refused) => Some(teller.refusal(&one, &refused.effect)),
                None => teller.record(&one, false).await?,
            };
            let principal = event.refused.map(|refused| refused.principal);
            events.extend(record.map(|record| EventRecord {
                record,
                tenant_id: permit.tenant().to_string(),
                principal_oid: principal.unwrap_or_default(),
            }));
        }
        let next = next.map(|seq| token(&seq.to_string()));
        Ok(EventPage { events, next })
    }

    /// Notes that a request about a resource was refused. A note that cannot be kept is logged: the refusal stands
    /// without it.
    pub async fn note_refusal(
        &self,
        tenant: TenantId,
        principal: &str,
        id: &ResourceId,
        denials: &[Denial],
    ) {
        let refusal = |denial: &Denial| {
            Some(Refusal {
                key: StateKey {
                    resource: id.clone(),
                    assignment: ResourceId::parse(&denial.policy_assignment_id).ok()?,
                    reference: denial
                        .policy_definition_reference_id
                        .clone()
                        .unwrap_or_default(),
                },
                effect: denial.policy_definition_effect.clone(),
                principal: principal.to_owned(),
                reason: denial.error.clone(),
            })
        };
        let refusals = denials.iter().take(REFUSALS_MAX).filter_map(refusal);
        let refusals: Vec<Refusal> = refusals.collect();
        let permit = Permit::system(
            SystemReason::Reconcile,
            Action::new("Microsoft.PolicyInsights/policyEvents/write"),
            ResourceId::root(),
            tenant,
        );
        let now = self.parts.clock.now();
        let noted = self
            .parts
            .states
            .note_refusals(&permit, now, &refusals)
            .await;
        if let Err(error) = noted {
            let error: &(dyn std::error::Error + 'static) = &error;
            tracing::warn!(error, %tenant, "a refused request is not noted");
        }
    }
}
