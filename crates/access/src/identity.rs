//! Who calls. An identity is a service principal in one tenant; a caller may bring identities of other
//! tenants along (`x-ms-authorization-auxiliary`), which count for linked resources only.

use serde::{Deserialize, Serialize};
use wire::{AppId, PrincipalId, TenantId};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    pub tenant: TenantId,
    /// The object id that assignments name.
    pub principal: PrincipalId,
    /// The application behind it.
    pub app: AppId,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub identity: Identity,
    pub auxiliary: Vec<Identity>,
}

impl Caller {
    pub fn new(identity: Identity) -> Self {
        Self {
            identity,
            auxiliary: Vec::new(),
        }
    }

    /// Every identity that the caller proved, its own first.
    pub fn identities(&self) -> impl Iterator<Item = &Identity> {
        std::iter::once(&self.identity).chain(&self.auxiliary)
    }
}
