//! Policies over very many resources: columns of interned values, and rules that are answered for each
//! distinct value instead of for each resource.
//!
//! A [`Plan`] is one policy under one assignment, made ready for this. A [`Table`] holds of many resources
//! what some plans look at. The answers are those of [`crate::verdict::Question`]: each condition is still
//! answered by the one evaluator, on a resource that has just the properties which the condition looks at,
//! once for each combination of values that they have; the rest is sets of rows. Related resources are not
//! looked for here: what an existence search must decide is said to be [`Outcome::Search`].

mod bits;
mod column;
mod core;
mod extract;
mod plan;
mod reads;
mod settle;
mod shape;
mod table;
mod test;

pub use bits::Bits;
pub use plan::{Answers, Outcome, Plan, Policy, ScanError};
pub use table::{Around, Row, Segment, Table, TableError};
