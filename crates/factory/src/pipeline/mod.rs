//! Joins the stages from a source to replicas into one run, a durable job whose every stage is a
//! step named by the hash of its inputs. How a stage does its work is the stage's own business.

mod builder;
mod compare;
mod disks;
mod distribute;
mod kept;
mod origin;
mod prove;
mod rebuild;
#[cfg(test)]
mod rebuild_tests;
mod recipe;
mod record;
mod run;
mod scans;
#[cfg(test)]
mod scans_tests;
mod stages;
mod statements;
mod steps;
#[cfg(test)]
mod targets_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod windows_tests;

pub use builder::Builder;
#[cfg(any(test, feature = "testing"))]
pub use builder::FakeBuilder;
pub use disks::{CheckoutError, WorkDisk, WorkDisks};
pub use kept::KeptMachines;
pub(crate) use origin::newest;
pub(crate) use prove::Proofs;
pub use rebuild::{Base, VERIFY_ACTION, VerifyBuild, VerifyInput, verify_exclusive};
pub(crate) use recipe::firmware;
pub use recipe::{
    AzureGalleryTarget, Distribution, Executor, FileTarget, ImageTarget, Numbering, ObjectTarget,
    Recipe, RecipeSource, Reference, RegistryTarget, SecretScan, Target, TemplateProblem,
    check_template,
};
pub use record::RUN_TYPE;
pub(crate) use record::change;
pub use run::{Begun, BuildRun, BuildRunInput, RunUndo, exclusive};
pub(crate) use scans::ScanReport;
pub(crate) use stages::bring as replicate_to;
pub(crate) use steps::{blocking, chain, failed, store_failed};
