//! How steps and jobs fail: for good, for now, or because they were told to stop.

use access::Forbidden;
use catalog::{CANCELED, CatalogError, JobFailure};

type Source = Box<dyn std::error::Error + Send + Sync>;

/// Why an action or an undo did not do what it is for.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// Trying again changes nothing: the job unwinds.
    #[error("{message}")]
    Failed {
        code: String,
        message: String,
        #[source]
        source: Option<Source>,
    },
    /// Trying again may help. After a few times it counts as failed.
    #[error("{message}")]
    Transient {
        code: String,
        message: String,
        #[source]
        source: Option<Source>,
    },
    /// It stopped because it was asked to.
    #[error("canceled")]
    Canceled,
    /// Another runner has the job.
    #[error("the lease was lost")]
    Lost,
}

impl StepError {
    pub fn failed(code: impl Into<String>, message: impl Into<String>) -> StepError {
        StepError::Failed {
            code: code.into(),
            message: message.into(),
            source: None,
        }
    }

    pub fn transient(code: impl Into<String>, message: impl Into<String>) -> StepError {
        StepError::Transient {
            code: code.into(),
            message: message.into(),
            source: None,
        }
    }

    pub fn canceled() -> StepError {
        StepError::Canceled
    }

    /// Adds the cause, for the log.
    pub fn because(self, cause: impl Into<Source>) -> StepError {
        let cause = Some(cause.into());
        match self {
            StepError::Failed { code, message, .. } => StepError::Failed {
                code,
                message,
                source: cause,
            },
            StepError::Transient { code, message, .. } => StepError::Transient {
                code,
                message,
                source: cause,
            },
            StepError::Canceled | StepError::Lost => self,
        }
    }

    pub(crate) fn failure(&self, step: Option<&str>) -> JobFailure {
        let code = match self {
            StepError::Failed { code, .. } | StepError::Transient { code, .. } => code,
            StepError::Canceled => CANCELED,
            StepError::Lost => "LeaseLost",
        };
        JobFailure {
            code: code.to_owned(),
            message: self.to_string(),
            step: step.map(str::to_owned),
        }
    }
}

/// Why a job did not come to its end. A job passes on what its steps gave it.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    #[error("{}", failure.message)]
    Failed {
        failure: JobFailure,
        #[source]
        source: Option<Source>,
    },
    /// To be tried again later, from the journal.
    #[error("{}", failure.message)]
    Retry {
        failure: JobFailure,
        #[source]
        source: Option<Source>,
    },
    #[error("canceled")]
    Canceled,
    /// The runner is going down; another goes on.
    #[error("interrupted")]
    Interrupted,
    #[error("the lease was lost")]
    Lost,
}

impl JobError {
    pub fn failed(code: impl Into<String>, message: impl Into<String>) -> JobError {
        JobError::from(StepError::failed(code, message))
    }

    pub(crate) fn of_step(error: StepError, step: Option<&str>) -> JobError {
        let failure = error.failure(step);
        match error {
            StepError::Failed { source, .. } => JobError::Failed { failure, source },
            StepError::Transient { source, .. } => JobError::Retry { failure, source },
            StepError::Canceled => JobError::Canceled,
            StepError::Lost => JobError::Lost,
        }
    }
}

impl From<StepError> for JobError {
    fn from(error: StepError) -> JobError {
        JobError::of_step(error, None)
    }
}

impl From<CatalogError> for JobError {
    fn from(error: CatalogError) -> JobError {
        StepError::from(error).into()
    }
}

impl From<CatalogError> for StepError {
    fn from(error: CatalogError) -> StepError {
        let message = error.to_string();
        let code = match &error {
            CatalogError::LeaseLost { .. } => return StepError::Lost,
            CatalogError::Database { .. } => {
                return StepError::transient("InternalServerError", message).because(error);
            }
            CatalogError::NotFound { .. } | CatalogError::NoSuchJob { .. } => "ResourceNotFound",
            CatalogError::ParentMissing { .. } => "ParentResourceNotFound",
            CatalogError::Precondition { .. } => "PreconditionFailed",
            CatalogError::HasChildren { .. }
            | CatalogError::Taken { .. }
            | CatalogError::JobInTheWay { .. } => "Conflict",
            _ => "InternalServerError",
        };
        StepError::failed(code, message).because(error)
    }
}

impl From<Forbidden> for StepError {
    fn from(error: Forbidden) -> StepError {
        let code = match &error {
            Forbidden::NotAllowed { .. } => "AuthorizationFailed",
            Forbidden::WrongTenant { .. } => "InvalidAuthenticationTokenTenant",
            Forbidden::Linked { .. } => "LinkedAuthorizationFailed",
            Forbidden::Denied { .. } => "DenyAssignmentAuthorizationFailed",
            Forbidden::Locked { .. } => "ScopeLocked",
        };
        StepError::failed(code, error.to_string()).because(error)
    }
}
