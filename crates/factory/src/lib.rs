//! The pipeline that turns a recipe into running machines. Its folders are the stages, in order:
//! source, build, tattoo, test, prove, publish, replicate, deploy; `pipeline` joins all but the last
//! into a run. Each stage hands over one value, named by content, so a step that was done is found.
//!
//! This crate knows no HTTP and no SQL. It reads and writes resources only under permits.

pub mod build;
mod confined;
pub mod deploy;
pub mod disks;
pub mod domains;
pub mod export;
mod factory;
#[cfg(any(test, feature = "testing"))]
pub mod fake_keys;
#[cfg(test)]
mod fake_web;
pub mod fetch;
pub mod import;
pub mod keys;
pub mod pipeline;
pub mod promote;
pub mod prove;
pub mod publish;
mod reclaim;
mod regions;
pub mod replicate;
pub mod scan;
mod scrub;
pub mod secret_file;
mod serving;
pub mod shared;
pub mod source;
pub mod tattoo;
pub mod test;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod trigger;

pub use confined::ConfinedError;
pub use factory::{BlobPlace, Factory, FactoryError, FactoryOptions, Parts};
pub use regions::{RegionError, Regions, StorageSettings, StoreSetting};
pub use serving::{Attachable, ServedDisks, ServingError};
