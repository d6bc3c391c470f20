//! The ARM error envelope, and every code that Bullion answers with its HTTP status, in one place.

use serde::{Deserialize, Serialize};

/// Codes that clients compare. The status of each is in [`ErrorCode::status`], nowhere else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    AuthenticationFailed,
    AuthorizationFailed,
    BadRequest,
    Conflict,
    DenyAssignmentAuthorizationFailed,
    DenyAssignmentNotFound,
    InternalServerError,
    InvalidActionOrNotAction,
    InvalidApiVersionParameter,
    InvalidAuthenticationToken,
    InvalidAuthenticationTokenTenant,
    InvalidCreatePolicyAssignmentRequest,
    InvalidCreatePolicyDefinitionRequest,
    InvalidCreatePolicyExemptionRequest,
    InvalidCreatePolicySetDefinitionRequest,
    InvalidDeletePolicyDefinitionRequest,
    InvalidDeletePolicySetDefinitionRequest,
    InvalidFilterInQueryString,
    InvalidParameter,
    InvalidPolicyParameters,
    InvalidPolicyRule,
    InvalidRequestContent,
    InvalidResourceType,
    InvalidScope,
    LinkedAuthorizationFailed,
    MethodNotAllowed,
    MissingApiVersionParameter,
    MissingPolicyParameter,
    NotFound,
    OperationNotAllowed,
    ParentResourceNotFound,
    PlatformImageNotFound,
    PolicyAssignmentNotFound,
    PolicyDefinitionNotFound,
    PolicyParameterValueNotAllowed,
    PolicySetDefinitionNotFound,
    PreconditionFailed,
    PrincipalNotFound,
    PropertyChangeNotAllowed,
    RequestDisallowedByPolicy,
    RequestEntityTooLarge,
    ResourceGroupNotFound,
    ResourceNotFound,
    RoleAssignmentExists,
    RoleAssignmentLimitExceeded,
    RoleAssignmentUpdateNotPermitted,
    RoleDefinitionDoesNotExist,
    RoleDefinitionHasAssignments,
    RoleDefinitionLimitExceeded,
    RoleDefinitionUpdateNotPermitted,
    RoleDefinitionWithSameNameExists,
    ScopeLocked,
    ServerTimeout,
    SubscriptionNotFound,
    TooManyRequests,
    UndefinedPolicyParameter,
    UnmatchedPrincipalType,
    ValidationFailed,
}

impl ErrorCode {
    /// HTTP status and the code as clients see it.
    pub const fn wire(self) -> (u16, &'static str) {
        match self {
            Self::AuthenticationFailed => (401, "AuthenticationFailed"),
            Self::AuthorizationFailed => (403, "AuthorizationFailed"),
            Self::BadRequest => (400, "BadRequest"),
            Self::Conflict => (409, "Conflict"),
            Self::InternalServerError => (500, "InternalServerError"),
            Self::InvalidApiVersionParameter => (400, "InvalidApiVersionParameter"),
            Self::InvalidAuthenticationToken => (401, "InvalidAuthenticationToken"),
            Self::InvalidAuthenticationTokenTenant => (401, "InvalidAuthenticationTokenTenant"),
            Self::InvalidCreatePolicyAssignmentRequest => {
                (400, "InvalidCreatePolicyAssignmentRequest")
            }
            Self::InvalidCreatePolicyDefinitionRequest => {
                (400, "InvalidCreatePolicyDefinitionRequest")
            }
            Self::InvalidCreatePolicyExemptionRequest => {
                (400, "InvalidCreatePolicyExemptionRequest")
            }
            Self::InvalidCreatePolicySetDefinitionRequest => {
                (400, "InvalidCreatePolicySetDefinitionRequest")
            }
            Self::InvalidDeletePolicyDefinitionRequest => {
                (400, "InvalidDeletePolicyDefinitionRequest")
            }
            Self::InvalidDeletePolicySetDefinitionRequest => {
                (400, "InvalidDeletePolicySetDefinitionRequest")
            }
            Self::InvalidFilterInQueryString => (400, "InvalidFilterInQueryString"),
            Self::InvalidParameter => (400, "InvalidParameter"),
            Self::InvalidPolicyParameters => (400, "InvalidPolicyParameters"),
            Self::InvalidPolicyRule => (400, "InvalidPolicyRule"),
            Self::InvalidRequestContent => (400, "InvalidRequestContent"),
            Self::InvalidResourceType => (404, "InvalidResourceType"),
            Self::LinkedAuthorizationFailed => (403, "LinkedAuthorizationFailed"),
            Self::MethodNotAllowed => (405, "MethodNotAllowed"),
            Self::MissingApiVersionParameter => (400, "MissingApiVersionParameter"),
            Self::MissingPolicyParameter => (400, "MissingPolicyParameter"),
            Self::NotFound => (404, "NotFound"),
            Self::OperationNotAllowed => (409, "OperationNotAllowed"),
            Self::ParentResourceNotFound => (404, "ParentResourceNotFound"),
            Self::PlatformImageNotFound => (404, "PlatformImageNotFound"),
            Self::PolicyAssignmentNotFound => (404, "PolicyAssignmentNotFound"),
            Self::PolicyDefinitionNotFound => (404, "PolicyDefinitionNotFound"),
            Self::PolicyParameterValueNotAllowed => (400, "PolicyParameterValueNotAllowed"),
            Self::PolicySetDefinitionNotFound => (404, "PolicySetDefinitionNotFound"),
            Self::PreconditionFailed => (412, "PreconditionFailed"),
            Self::PropertyChangeNotAllowed => (409, "PropertyChangeNotAllowed"),
            Self::RequestDisallowedByPolicy => (403, "RequestDisallowedByPolicy"),
            Self::RequestEntityTooLarge => (413, "RequestEntityTooLarge"),
            Self::ResourceGroupNotFound => (404, "ResourceGroupNotFound"),
            Self::ResourceNotFound => (404, "ResourceNotFound"),
            Self::ServerTimeout => (503, "ServerTimeout"),
            Self::SubscriptionNotFound => (404, "SubscriptionNotFound"),
            Self::TooManyRequests => (429, "TooManyRequests"),
            Self::UndefinedPolicyParameter => (400, "UndefinedPolicyParameter"),
            Self::ValidationFailed => (400, "ValidationFailed"),
            Self::DenyAssignmentAuthorizationFailed => (403, "DenyAssignmentAuthorizationFailed"),
            Self::DenyAssignmentNotFound => (404, "DenyAssignmentNotFound"),
            Self::InvalidActionOrNotAction => (400, "InvalidActionOrNotAction"),
            Self::InvalidScope => (400, "InvalidScope"),
            Self::PrincipalNotFound => (400, "PrincipalNotFound"),
            Self::RoleAssignmentExists => (409, "RoleAssignmentExists"),
            Self::RoleAssignmentLimitExceeded => (400, "RoleAssignmentLimitExceeded"),
            Self::RoleAssignmentUpdateNotPermitted => (400, "RoleAssignmentUpdateNotPermitted"),
            Self::RoleDefinitionDoesNotExist => (404, "RoleDefinitionDoesNotExist"),
            Self::RoleDefinitionHasAssignments => (400, "RoleDefinitionHasAssignments"),
            Self::RoleDefinitionLimitExceeded => (400, "RoleDefinitionLimitExceeded"),
            Self::RoleDefinitionUpdateNotPermitted => (409, "RoleDefinitionUpdateNotPermitted"),
            Self::RoleDefinitionWithSameNameExists => (409, "RoleDefinitionWithSameNameExists"),
            Self::ScopeLocked => (409, "ScopeLocked"),
            Self::UnmatchedPrincipalType => (400, "UnmatchedPrincipalType"),
        }
    }

    pub const fn status(self) -> u16 {
        self.wire().0
    }

    pub const fn as_str(self) -> &'static str {
        self.wire().1
    }
}

/// What the user is told. The context for the log travels beside it and is never sent.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message} ({})", code.as_str())]
pub struct ArmError {
    pub code: ErrorCode,
    pub message: String,
    pub target: Option<String>,
    pub details: Vec<ArmErrorBody>,
    /// `{"type": …, "info": …}` objects, such as which policy said no and why.
    pub additional_info: Vec<serde_json::Value>,
}

impl ArmError {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            target: None,
            details: Vec::new(),
            additional_info: Vec::new(),
        }
    }

    pub fn with_target(self, target: impl Into<String>) -> Self {
        Self {
            target: Some(target.into()),
            ..self
        }
    }

    pub fn with_info(mut self, info: serde_json::Value) -> Self {
        self.additional_info.push(info);
        self
    }

    pub fn body(&self) -> ArmErrorBody {
        ArmErrorBody {
            code: self.code.as_str().into(),
            message: self.message.clone(),
            target: self.target.clone(),
            details: self.details.clone(),
            additional_info: self.additional_info.clone(),
        }
    }

    pub fn envelope(&self) -> Envelope {
        Envelope { error: self.body() }
    }
}

/// `{"error": {…}}`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Envelope {
    pub error: ArmErrorBody,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ArmErrorBody {
    pub code: String,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<ArmErrorBody>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub additional_info: Vec<serde_json::Value>,
}
