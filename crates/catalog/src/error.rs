//! What can go wrong in the catalog, by operation. Only `server` maps these to ARM codes.

use wire::ResourceId;

use crate::jobs::JobId;
use crate::resource::{Etag, UniqueKey};
use crate::sql::Overtaken;

/// Why the catalog did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    #[error("open the catalog at {at}")]
    Open {
        at: String,
        #[source]
        source: Fault,
    },
    /// A database server that cannot be used, and what to do about it.
    #[error("use the database {at}; {hint}")]
    Connect {
        at: String,
        hint: &'static str,
        #[source]
        source: Fault,
    },
    #[error("bring the catalog's tables up to date")]
    Migrate {
        #[source]
        source: Fault,
    },
    /// The database said no: gone, read-only, full, too busy. Nothing of the operation was kept.
    #[error("{operation}: the database failed")]
    Database {
        operation: &'static str,
        #[source]
        source: Fault,
    },
    /// What was read back is not what this version writes.
    #[error("{operation}: a stored value cannot be read ({what})")]
    Corrupt {
        operation: &'static str,
        what: String,
    },
    #[error("{id} does not exist")]
    NotFound { id: ResourceId },
    #[error("{parent}, under which {id} would be, does not exist")]
    ParentMissing { id: ResourceId, parent: ResourceId },
    #[error("{id} has others below it")]
    HasChildren { id: ResourceId },
    #[error("{id} is not as the precondition asks (it has {found:?})")]
    Precondition { id: ResourceId, found: Option<Etag> },
    #[error("{key} is taken by {holder}")]
    Taken { key: UniqueKey, holder: ResourceId },
    /// The draft and the permit, or the draft and its record, speak of different things.
    #[error("refused to store: {why}")]
    Mismatch { why: String },
    #[error("a permit to {action} writes nothing")]
    ReadOnlyPermit { action: String },
    #[error("too large: {what} is over {limit}")]
    TooLarge { what: &'static str, limit: usize },
    #[error("the continuation token is not one of this list")]
    BadToken,
    #[error("this installation has been set up before")]
    Installed,
    #[error("no such job: {job}")]
    NoSuchJob { job: JobId },
    /// Another job that excludes this one has not ended.
    #[error("job {running} holds {exclusive}")]
    JobInTheWay { running: JobId, exclusive: String },
    /// Whoever writes is not (any more) the one who claimed the job.
    #[error("the lease on job {job} was lost")]
    LeaseLost { job: JobId },
}

impl CatalogError {
    /// Asking again later may help; nothing about the request is wrong.
    pub fn is_transient(&self) -> bool {
        matches!(self, CatalogError::Database { .. })
    }
}

/// The cause as the database layer tells it. Opaque, so that SQL stays inside this crate.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct Fault(Box<dyn std::error::Error + Send + Sync>);

/// SQLSTATE of a transaction that could not be serialised, of one that was chosen to end a deadlock, and of a row
/// whose unique key another transaction has just taken.
const LOST_RACES: [&str; 3] = ["40001", "40P01", "23505"];

impl Fault {
    /// The same write, tried again, may go through.
    pub(crate) fn is_lost_race(&self) -> bool {
        if self.0.is::<Overtaken>() {
            return true;
        }
        let error = self.0.downcast_ref::<sqlx::Error>();
        let code = error.and_then(|error| error.as_database_error()?.code());
        code.is_some_and(|code| LOST_RACES.contains(&code.as_ref()))
    }
}

impl From<Overtaken> for Fault {
    fn from(error: Overtaken) -> Fault {
        Fault(Box::new(error))
    }
}

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Fault {
        Fault(Box::new(error))
    }
}

impl From<sqlx::migrate::MigrateError> for Fault {
    fn from(error: sqlx::migrate::MigrateError) -> Fault {
        Fault(Box::new(error))
    }
}

impl From<std::io::Error> for Fault {
    fn from(error: std::io::Error) -> Fault {
        Fault(Box::new(error))
    }
}

pub type Result<T, E = CatalogError> = std::result::Result<T, E>;
