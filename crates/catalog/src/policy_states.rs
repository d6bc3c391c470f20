//! The states of policies as they survive a restart, and how they changed.
//!
//! A resource that always was compliant has no row: there are far more of those than of the others. What a state means
//! and how it comes about is not known here.

use access::Permit;
use async_trait::async_trait;
use jiff::Timestamp;
use wire::ResourceId;

use crate::error::Result;

/// Writes of one transaction, and rows of one page.
pub const POLICY_STATES_MAX: usize = 10_000;
/// Refusals that are noted at once.
pub const REFUSALS_MAX: usize = 100;
/// Characters of a reason.
pub const REASON_CHARS_MAX: usize = 2_000;

/// States by (resource, assignment, reference), in the permit's tenant, at or below its scope.
#[async_trait]
pub trait PolicyStates: Send + Sync {
    /// One page, by resource, assignment and reference.
    async fn policy_states(
        &self,
        permit: &Permit,
        after: Option<&StateKey>,
        limit: usize,
    ) -> Result<Vec<StoredState>>;
    /// All of them or none. Each that changes what was stored, but for its time, becomes an event at `at`, too.
    async fn write_policy_states(
        &self,
        permit: &Permit,
        at: Timestamp,
        writes: &[StateWrite],
    ) -> Result<()>;
    /// Notes requests that were refused at `at`, as events.
    async fn note_refusals(
        &self,
        permit: &Permit,
        at: Timestamp,
        refusals: &[Refusal],
    ) -> Result<()>;
    /// Events from `from` to `to`, oldest first, after the event of that number.
    async fn policy_events(
        &self,
        permit: &Permit,
        from: Timestamp,
        to: Timestamp,
        after: u64,
        limit: usize,
    ) -> Result<Vec<StateEvent>>;
}

/// Which state: of a resource, by an assignment, and in an initiative by one of its policies.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StateKey {
    pub resource: ResourceId,
    pub assignment: ResourceId,
    /// Empty where the assignment is of a single policy. Compared without case.
    pub reference: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredState {
    pub key: StateKey,
    pub state: PolicyState,
    pub since: Timestamp,
    pub reason: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateWrite {
    Put(StoredState),
    /// There is no state any more: the resource or the assignment is gone, or the policy does not apply.
    End(StateKey),
}

/// A request that a policy refused: about which resource, by which assignment, and whose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub key: StateKey,
    pub effect: String,
    pub principal: String,
    pub reason: Option<String>,
}

/// A state that began, or that ended where there is none; or a request that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateEvent {
    pub seq: u64,
    pub at: Timestamp,
    pub key: StateKey,
    pub state: Option<PolicyState>,
    pub reason: Option<String>,
    /// Of a refused request: what the policy did, and to whom. Nothing of a state.
    pub refused: Option<Refused>,
}

/// What a policy did to a request, and the principal that sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub effect: String,
    pub principal: String,
}

/// The words of Azure's compliance states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PolicyState {
    NonCompliant,
    Compliant,
    Error,
    Conflict,
    Protected,
    Exempt,
    Unknown,
}

impl PolicyState {
    pub const ALL: [PolicyState; 7] = [
        PolicyState::NonCompliant,
        PolicyState::Compliant,
        PolicyState::Error,
        PolicyState::Conflict,
        PolicyState::Protected,
        PolicyState::Exempt,
        PolicyState::Unknown,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            PolicyState::NonCompliant => "NonCompliant",
            PolicyState::Compliant => "Compliant",
            PolicyState::Error => "Error",
            PolicyState::Conflict => "Conflict",
            PolicyState::Protected => "Protected",
            PolicyState::Exempt => "Exempt",
            PolicyState::Unknown => "Unknown",
        }
    }

    pub(crate) fn stored(text: &str) -> Option<PolicyState> {
        PolicyState::ALL
            .into_iter()
            .find(|state| state.as_str() == text)
    }
}
