//! A key service for tests: it can be unreachable, and it keeps nothing.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{KeyError, KeyService};
use crate::domain::DomainId;

/// Wraps a secret by turning its bits round. It protects nothing.
#[derive(Debug, Default)]
pub struct FakeKeys {
    away: AtomicBool,
}

impl FakeKeys {
    /// From now on every call fails, until told otherwise.
    pub fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    fn reach(&self) -> Result<(), KeyError> {
        match self.away.load(Ordering::SeqCst) {
            false => Ok(()),
            true => Err(KeyError::Unavailable {
                service: self.name(),
                source: "away on purpose".into(),
            }),
        }
    }
}

impl KeyService for FakeKeys {
    fn name(&self) -> String {
        "fake".to_owned()
    }

    fn wrap(&self, _: &DomainId, secret: &[u8; 32]) -> Result<Vec<u8>, KeyError> {
        self.reach()?;
        Ok(secret.iter().map(|byte| !byte).collect())
    }

    fn unwrap(&self, _: &DomainId, wrapped: &[u8]) -> Result<[u8; 32], KeyError> {
        self.reach()?;
        let turned: Vec<u8> = wrapped.iter().map(|byte| !byte).collect();
        turned.try_into().map_err(|_| KeyError::WrongKey {
            service: self.name(),
        })
    }

    fn is_newest(&self, _: &[u8]) -> Result<bool, KeyError> {
        self.reach().map(|()| true)
    }
}
