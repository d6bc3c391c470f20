//! Joins the stages into a run.

mod recipe;

pub use recipe::{Distribution, Numbering, Recipe, TemplateProblem, check_template};
