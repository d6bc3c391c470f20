//! Several key services as one: what is new is wrapped by the first, and what any of them wrapped is unwrapped. That
//! is how stores go from one key to another, be it of a file or of a service, while they are in use.

use std::sync::{Arc, PoisonError, RwLock};

use store::{DomainId, KeyError, KeyService};

type Services = Vec<Arc<dyn KeyService>>;

/// Wraps with the first, and unwraps what any of them wrapped.
#[derive(Debug)]
pub struct KeyRing {
    /// Never empty.
    services: RwLock<Services>,
}

impl KeyRing {
    /// The others are those of the time before `first`.
    pub fn new(first: Arc<dyn KeyService>, others: Services) -> KeyRing {
        let mut services = vec![first];
        services.extend(others);
        KeyRing {
            services: RwLock::new(services),
        }
    }

    /// From now on these: stores that are open ask them, too.
    pub fn replace(&self, other: KeyRing) {
        let mut services = self
            .services
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *services = other.all();
    }

    fn all(&self) -> Services {
        let services = self.services.read().unwrap_or_else(PoisonError::into_inner);
        services.clone()
    }

    fn first(&self) -> Arc<dyn KeyService> {
        let services = self.services.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&services[0])
    }
}

impl KeyService for KeyRing {
    fn name(&self) -> String {
        self.first().name()
    }

    fn wrap(&self, domain: &DomainId, secret: &[u8; 32]) -> Result<Vec<u8>, KeyError> {
        self.first().wrap(domain, secret)
    }

    /// Which of them wrapped it, only trying tells. What the first says counts, unless it never saw these bytes.
    fn unwrap(&self, domain: &DomainId, wrapped: &[u8]) -> Result<[u8; 32], KeyError> {
        let mut told: Option<KeyError> = None;
        for service in self.all() {
            match service.unwrap(domain, wrapped) {
                Ok(secret) => return Ok(secret),
                Err(error) => {
                    told = match told {
                        None | Some(KeyError::WrongKey { .. }) => Some(error),
                        // One that is away may be the one that has it.
                        Some(_) if matches!(error, KeyError::Unavailable { .. }) => Some(error),
                        kept => kept,
                    };
                }
            }
        }
        Err(told.unwrap_or_else(|| KeyError::WrongKey {
            service: self.name(),
        }))
    }

    fn is_newest(&self, wrapped: &[u8]) -> Result<bool, KeyError> {
        self.first().is_newest(wrapped)
    }
}
