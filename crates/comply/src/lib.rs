//! Where policies meet resources: which assignments reach a resource, what they say of a write before it is stored,
//! and what the state of every resource is afterwards.
//!
//! The language itself is crate `policy`; this crate brings it its definitions, resources and clock, and keeps the
//! answers. It answers no HTTP and decides no right.

mod aliases;
mod board;
mod built_in;
mod cache;
mod columns;
mod comply;
mod decide;
mod denial;
mod error;
mod events;
mod explain;
mod image;
pub mod kinds;
mod look;
mod outcome;
mod pending;
mod policies;
mod reason;
mod reconcile;
mod records;
mod states;
mod subject;
mod summary;
mod touched;
mod unit;
mod versions;
mod what_if;
mod work;

pub use aliases::aliases;
pub use built_in::{built_in_definitions, built_in_initiatives};
pub use comply::{Comply, Parts};
pub use decide::{Decision, Write, WriteKind};
pub use denial::{Denial, disallowed};
pub use error::ComplyError;
pub use events::{EventPage, EventRecord};
pub use explain::{Explanation, PolicyExplanation};
pub use policy::verdict::State;
pub use records::{StatePage, StateQuery, StateRecord};
pub use summary::{AssignmentSummary, Count, DefinitionSummary, GroupSummary, Results, Summary};
pub use what_if::{Forecast, ForecastDecision, ForecastRecord, WhatIf};

#[cfg(test)]
mod tests;
