//! Build: one customizer on top of a parent disk becomes the blocks that it changed.
//!
//! The parent is mounted read-only inside namespaces of its own, under an overlay; what the
//! customizer left in the overlay is made reproducible, turned into records, and written into a
//! copy-on-write view of the parent. Nothing is mounted outside those namespaces, so nothing can
//! stay mounted. One customizer is one apply: where a step ends is part of the recipe.
//!
//! This module must not know where a parent came from, what a recipe is called, or where the
//! result goes.

mod block;
mod boot_loader;
mod customizer;
mod delta;
mod direct;
mod error;
mod executor;
mod generalise;
mod keystore;
mod machine;
mod normalise;
mod optimise;
pub mod sandbox;
mod scanner;
mod secrets;
mod windows;
mod windows_action;
#[cfg(test)]
mod windows_tests;

pub use block::{ParentDisk, RootFs};
pub use customizer::{
    Action, Customizer, FileContent, ImagePath, InvalidCustomizer, KeyMaterial, PackageName,
    Secret, SecretPlace,
};
pub use error::BuildError;
pub use executor::{AptState, BuildContext, LineSink, StepOutcome, StepTimes, TreeExecutor};
pub(crate) use generalise::{
    GENERALISE_FORMAT, check_sysprep, check_way_in, records as generalise,
};
pub use machine::MachineBuild;
pub(crate) use optimise::{OPTIMISE_FORMAT, zero_free_space};
pub use sandbox::SandboxProgram;
pub use scanner::{Broken, SCAN_FORMAT as SCANNER_FORMAT, Scanned, Scanner};
pub use secrets::{Redacted, SecretError, SecretValue, Secrets};
pub(crate) use windows_action::reason_against_user;
pub use windows_action::{WindowsAction, WindowsPath};
