//! What can go wrong here. That a policy fails on a resource is none of these: it is a state, and a denial.

use catalog::CatalogError;
use policy::Fault;
use wire::ResourceId;

#[derive(Debug, thiserror::Error)]
pub enum ComplyError {
    #[error("{operation}: the catalog failed")]
    Catalog {
        operation: &'static str,
        #[source]
        source: CatalogError,
    },
    /// What the caller gave cannot be evaluated.
    #[error("the {what} cannot be used")]
    Document {
        what: &'static str,
        #[source]
        source: Fault,
    },
    #[error("{id} does not exist")]
    NotFound { id: ResourceId },
    /// A tenant holds more of something than one evaluation takes in.
    #[error("more than {limit} {what}")]
    TooMany { what: &'static str, limit: usize },
    #[error("the continuation token is not one of this list")]
    BadToken,
    /// The process is ending, and its work with it.
    #[error("an evaluation did not come to its end")]
    Ended,
}

impl ComplyError {
    pub(crate) fn catalog(operation: &'static str) -> impl FnOnce(CatalogError) -> ComplyError {
        move |source| ComplyError::Catalog { operation, source }
    }

    pub(crate) fn document(what: &'static str) -> impl FnOnce(Fault) -> ComplyError {
        move |source| ComplyError::Document { what, source }
    }
}

pub type Result<T, E = ComplyError> = std::result::Result<T, E>;
