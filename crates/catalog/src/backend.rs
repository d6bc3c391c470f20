//! A whole catalog, whatever database it is in.

use async_trait::async_trait;

use crate::activity::ActivityStore;
use crate::auth::AuthStore;
use crate::changes::ChangeFeed;
use crate::jobs::JobStore;
use crate::policy_states::PolicyStates;
use crate::resource::Catalog;
use crate::statements::Statements;

/// Everything that a server keeps in one database. Who needs a part of it takes that part's trait.
#[async_trait]
pub trait Backend:
    Catalog + AuthStore + JobStore + ChangeFeed + PolicyStates + Statements + ActivityStore
{
    /// Whether other processes may read and write it, too.
    fn is_shared(&self) -> bool;
    /// Waits for operations under way and lets go of the database.
    async fn close(&self);
}
