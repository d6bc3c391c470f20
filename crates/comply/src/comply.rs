//! The engine in the server: its parts, and what is kept between requests.

use std::sync::Arc;

use catalog::{AuthStore, Catalog, ChangeFeed, Clock, PolicyStates};

use crate::cache::Cache;

/// Where everything comes from. In production all but the clock are one catalog.
#[derive(Clone)]
pub struct Parts {
    pub catalog: Arc<dyn Catalog>,
    pub auth: Arc<dyn AuthStore>,
    pub feed: Arc<dyn ChangeFeed>,
    pub states: Arc<dyn PolicyStates>,
    pub clock: Arc<dyn Clock>,
}

/// Decides writes, keeps states current, and answers for them.
pub struct Comply {
    pub(crate) parts: Parts,
    pub(crate) cache: Cache,
}

impl Comply {
    /// Opens nothing: what is needed is read when it is.
    pub fn new(parts: Parts) -> Arc<Comply> {
        Arc::new(Comply {
            parts,
            cache: Cache::default(),
        })
    }
}
