//! Several key services as one: what is new is wrapped by the first, and what any of them wrapped is unwrapped. That
//! is how stores go from a key file to a key service while they are in use.

use std::sync::Arc;

use store::{DomainId, KeyError, KeyFile, KeyService};

use super::Transit;

/// Wraps with the service, and unwraps what the service or the key file wrapped.
#[derive(Debug, Clone)]
pub struct KeyRing {
    service: Arc<Transit>,
    file: Option<Arc<KeyFile>>,
}

impl KeyRing {
    /// The file is that of the time before the service, if there was one.
    pub fn new(service: Transit, file: Option<KeyFile>) -> KeyRing {
        KeyRing {
            service: Arc::new(service),
            file: file.map(Arc::new),
        }
    }
}

impl KeyService for KeyRing {
    fn name(&self) -> String {
        self.service.name()
    }

    fn wrap(&self, domain: &DomainId, secret: &[u8; 32]) -> Result<Vec<u8>, KeyError> {
        self.service.wrap(domain, secret)
    }

    fn unwrap(&self, domain: &DomainId, wrapped: &[u8]) -> Result<[u8; 32], KeyError> {
        match &self.file {
            Some(file) if !Transit::wrapped(wrapped) => file.unwrap(domain, wrapped),
            _ => self.service.unwrap(domain, wrapped),
        }
    }

    fn is_newest(&self, wrapped: &[u8]) -> Result<bool, KeyError> {
        match Transit::wrapped(wrapped) {
            true => self.service.is_newest(wrapped),
            false => Ok(false),
        }
    }
}
