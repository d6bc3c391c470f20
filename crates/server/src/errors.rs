//! What went wrong, in ARM's words: the one place where failures of other crates meet HTTP status and code.
//!
//! Messages are for the caller. What only an operator should see is logged where it happened.

use catalog::CatalogError;
use serde_json::{Value, json};
use wire::{ArmError, ErrorCode, ResourceId};

pub fn bad_request(message: impl Into<String>) -> ArmError {
    ArmError::new(ErrorCode::BadRequest, message)
}

pub fn invalid(target: &str, message: impl Into<String>) -> ArmError {
    ArmError::new(ErrorCode::InvalidParameter, message).with_target(target)
}

pub fn conflict(message: impl Into<String>) -> ArmError {
    ArmError::new(ErrorCode::Conflict, message)
}

pub fn envelope(error: &ArmError) -> Value {
    serde_json::to_value(error.envelope()).unwrap_or_else(|_| json!({"error": {}}))
}

/// The catalog's refusals in ARM's words.
pub fn catalog(error: CatalogError) -> ArmError {
    match &error {
        CatalogError::NotFound { id } => not_found(id),
        CatalogError::ParentMissing { parent, .. } => parent_missing(parent),
        CatalogError::HasChildren { .. } => {
            conflict("Can not delete resource before nested resources are deleted.")
        }
        CatalogError::Precondition { .. } => ArmError::new(
            ErrorCode::PreconditionFailed,
            "The resource is not in the state that the request's conditions ask for.",
        ),
        CatalogError::Taken { key, .. } => conflict(format!("'{key}' is taken.")),
        CatalogError::TooLarge { what, limit } => ArmError::new(
            ErrorCode::RequestEntityTooLarge,
            format!("The request is too large: {what} is over {limit}."),
        ),
        CatalogError::BadToken => invalid("$skiptoken", "The $skiptoken is not valid."),
        CatalogError::NoSuchJob { job } => ArmError::new(
            ErrorCode::NotFound,
            format!("The operation '{job}' does not exist."),
        ),
        CatalogError::JobInTheWay { .. } => conflict(
            "Another operation on this resource is in progress. Wait for it to end and retry.",
        ),
        CatalogError::Installed
        | CatalogError::Open { .. }
        | CatalogError::Connect { .. }
        | CatalogError::Migrate { .. }
        | CatalogError::Database { .. }
        | CatalogError::Corrupt { .. }
        | CatalogError::Mismatch { .. }
        | CatalogError::ReadOnlyPermit { .. }
        | CatalogError::LeaseLost { .. } => internal("the catalog failed", &error),
    }
}

pub fn not_found(id: &ResourceId) -> ArmError {
    if id.resource_type().is("Microsoft.Resources/resourceGroups") {
        return group_not_found(id.name());
    }
    if id.resource_type().is("Microsoft.Resources/subscriptions") {
        return subscription_not_found(id.name());
    }
    let kind = id.resource_type();
    let message = match id.resource_group() {
        Some(group) => format!(
            "The Resource '{kind}/{}' under resource group '{group}' was not found.",
            id.name()
        ),
        None => format!("The Resource '{kind}/{}' was not found.", id.name()),
    };
    ArmError::new(ErrorCode::ResourceNotFound, message)
}

pub fn group_not_found(name: &str) -> ArmError {
    let message = format!("Resource group '{name}' could not be found.");
    ArmError::new(ErrorCode::ResourceGroupNotFound, message)
}

pub fn subscription_not_found(id: &str) -> ArmError {
    let message = format!("The subscription '{id}' could not be found.");
    ArmError::new(ErrorCode::SubscriptionNotFound, message)
}

fn parent_missing(parent: &ResourceId) -> ArmError {
    let kind = parent.resource_type();
    if kind.is("Microsoft.Resources/resourceGroups") || kind.is("Microsoft.Resources/subscriptions")
    {
        return not_found(parent);
    }
    ArmError::new(
        ErrorCode::ParentResourceNotFound,
        format!(
            "Can not perform requested operation on nested resource. Parent resource '{}' not found.",
            parent.name()
        ),
    )
}

/// Something of ours broke. The cause goes to the log; the caller gets the request id to quote.
pub fn internal(what: &str, cause: &(dyn std::error::Error + 'static)) -> ArmError {
    tracing::error!(what, cause = chain(cause), "internal error");
    ArmError::new(
        ErrorCode::InternalServerError,
        "The server met an error. Quote the x-ms-request-id of this answer to its operator.",
    )
}

/// An error and its causes on one line.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
