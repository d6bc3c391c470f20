//! The real engine behind the server: the factory, its job kinds and the runner that works them off.

use std::sync::Arc;

use crate::work::Work;

#[derive(Debug, thiserror::Error)]
pub enum EngineError {}

pub struct Engine {
    work: Arc<dyn Work>,
}

impl Engine {
    pub fn work(&self) -> Arc<dyn Work> {
        Arc::clone(&self.work)
    }
    pub fn wake(&self) -> Arc<dyn Fn() + Send + Sync> {
        Arc::new(|| ())
    }
    pub async fn acceleration(&self) -> String {
        String::new()
    }
    pub async fn stop(self) {}
    pub async fn start(
        _folder: &crate::data::DataFolder,
        _catalog: Arc<catalog::SqliteCatalog>,
        _installation: catalog::Installation,
    ) -> Result<Engine, EngineError> {
        unreachable!()
    }
}
