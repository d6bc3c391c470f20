//! What can be wrong with a definition and with one evaluation of it.
//!
//! A fault is found before anything is evaluated; a failure while evaluating. The second denies a
//! request and shows as `Error` in a scan: nothing may turn it into "compliant".

/// Where in the document, and why it is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct Fault {
    pub path: String,
    pub reason: String,
}

impl Fault {
    pub fn new(path: impl Into<String>, reason: impl Into<String>) -> Fault {
        Fault {
            path: path.into(),
            reason: reason.into(),
        }
    }
}

/// Why an expression or condition has no value for this resource.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct EvaluationError(pub String);

impl EvaluationError {
    pub fn new(reason: impl Into<String>) -> EvaluationError {
        EvaluationError(reason.into())
    }
}
