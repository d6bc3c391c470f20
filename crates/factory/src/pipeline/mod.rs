//! Joins the stages from a source to replicas into one run, a durable job whose every stage is a
//! step named by the hash of its inputs. How a stage does its work is the stage's own business.

mod builder;
mod disks;
mod recipe;
mod record;
mod run;
mod stages;
mod steps;
#[cfg(test)]
mod tests;

pub use builder::Builder;
#[cfg(any(test, feature = "testing"))]
pub use builder::FakeBuilder;
pub use disks::{CheckoutError, WorkDisk, WorkDisks};
pub(crate) use recipe::firmware;
pub use recipe::{Distribution, Numbering, Recipe, TemplateProblem, check_template};
pub use record::RUN_TYPE;
pub(crate) use record::change;
pub use run::{Begun, BuildRun, BuildRunInput, RunUndo, exclusive};
pub(crate) use steps::{blocking, chain, failed, store_failed};
