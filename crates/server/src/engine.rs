//! What runs behind the operation table: the factory's answers and the runner that works off its jobs.
//!
//! Made once per start from the data folder and the catalog; tests make one of fakes.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use catalog::{Backend, Installation};
use comply::Comply;
use factory::StorageSettings;
use factory::fetch::Reach;
use jobs::{Jobs, RunnerBuilder};
use store::KeyFile;

use crate::blobs::Blobs;
use crate::import::{Import, Importer};
use crate::limits::Limits;
use crate::publish::PublishCopy;
use crate::removal::RemoveGroup;
use crate::resources::soft_delete::{Purge, PurgeParts};
use crate::work::Work;

pub struct EngineParts {
    pub data: PathBuf,
    /// The server's name among those that share its database.
    pub server: String,
    pub catalog: Arc<dyn Backend>,
    pub installation: Installation,
    pub blobs: Option<Arc<Blobs>>,
    /// What secrets in the catalog are sealed with.
    pub seal: Arc<KeyFile>,
    /// Of this server, which shows the blobs below it.
    pub url: String,
    /// What may be reached of other hosts.
    pub reach: Reach,
    pub jobs: JobsRun,
    /// Policies, which are asked about what jobs write on their own.
    pub comply: Arc<Comply>,
    /// How much of what jobs write on their own there may be.
    pub limits: Limits,
    /// Where bits are and how they are kept.
    pub storage: StorageSettings,
}

/// Which server works off the jobs that are submitted here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobsRun {
    Here,
    /// Another one on the same database: this one answers requests alone.
    Elsewhere,
}

#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct EngineError {
    pub what: &'static str,
    #[source]
    pub cause: Box<dyn std::error::Error + Send + Sync>,
}

#[async_trait]
pub trait Engine: Send + Sync {
    fn work(&self) -> Arc<dyn Work>;
    /// Through which jobs are submitted to the engine's runner.
    fn jobs(&self) -> Jobs;
    /// How machines are run here, and why, for people.
    async fn acceleration(&self) -> String;
    /// Lets running steps end, within bounds.
    async fn stop(self: Box<Self>);
}

/// The job kinds that are the server's own.
pub fn register(
    builder: &mut RunnerBuilder,
    catalog: Arc<dyn Backend>,
    work: Arc<dyn Work>,
    blobs: Option<Arc<Blobs>>,
    seal: Arc<KeyFile>,
) {
    let jobs = builder.jobs();
    builder.register(RemoveGroup {
        catalog: catalog.clone(),
        jobs,
        work: work.clone(),
    });
    builder.reconcile(Arc::new(Purge::new(PurgeParts {
        catalog: catalog.clone(),
        feed: catalog.clone(),
        auth: catalog.clone(),
        clock: catalog.clock(),
    })));
    let importer = Importer {
        catalog,
        work,
        blobs,
        seal,
    };
    builder.register(Import(importer.clone()));
    builder.register(PublishCopy(importer));
}
