//! Whole-system tests on fakes, under one seed. For tests only: nothing that is shipped depends on it.
//!
//! A run is a world of regions in memory, a model of what they must hold, and a number of random
//! steps. A failure names its seed, and the seed alone repeats it.

mod chaos;
mod domains;
mod model;
mod world;

pub use domains::{DomainReport, run_domains};
pub use world::{Report, run};
