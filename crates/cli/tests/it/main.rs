//! The commands as a user meets them: command line in; exit code, stdout and stderr out.

mod applications;
mod bad_input;
mod commands;
mod compliance;
mod encryption_sets;
mod fake;
mod harness;
mod promotions;
mod schema;
mod stages;
mod templates;
