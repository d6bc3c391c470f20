//! The engine in the server: its parts, and what is kept between requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use catalog::{AuthStore, Catalog, ChangeFeed, Clock, PolicyStates};

use policy::Aliases;
use tokio::sync::{Mutex, Notify};

use crate::cache::Cache;
use crate::reconcile::{Boards, Progress};

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
    pub(crate) boards: Boards,
    /// Held by whoever works on the states.
    pub(crate) progress: Mutex<Progress>,
    pub(crate) wake: Notify,
    judged: AtomicU64,
}

impl Comply {
    /// Opens nothing: what is needed is read when it is.
    pub fn new(parts: Parts) -> Arc<Comply> {
        Arc::new(Comply {
            parts,
            cache: Cache::default(),
            boards: Boards::default(),
            progress: Mutex::default(),
            wake: Notify::new(),
            judged: AtomicU64::new(0),
        })
    }

    pub fn aliases(&self) -> &Arc<Aliases> {
        crate::aliases()
    }

    /// How many pairs of resource and policy were judged since the start, to keep states current.
    pub fn judged(&self) -> u64 {
        self.judged.load(Ordering::Relaxed)
    }

    pub(crate) fn count_judged(&self, pairs: usize) {
        self.judged.fetch_add(pairs as u64, Ordering::Relaxed);
    }
}
