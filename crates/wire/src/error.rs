//! The ARM error envelope, and every code that Bullion answers with its HTTP status, in one place.

use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($($code:ident $status:literal;)*) => {
        /// Codes that clients compare, each with its HTTP status: the one place where both are.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ErrorCode {
            $($code,)*
        }

        impl ErrorCode {
            /// HTTP status and the code as clients see it.
            pub const fn wire(self) -> (u16, &'static str) {
                match self {
                    $(Self::$code => ($status, stringify!($code)),)*
                }
            }
        }
    };
}

codes! {
    AuthenticationFailed 401;
    AuthorizationFailed 403;
    BadRequest 400;
    Conflict 409;
    DeleteGalleryImageVersionBlockedBeforeEndOfLife 409;
    DenyAssignmentAuthorizationFailed 403;
    DenyAssignmentNotFound 404;
    InternalServerError 500;
    InvalidActionOrNotAction 400;
    InvalidApiVersionParameter 400;
    InvalidAuthenticationToken 401;
    InvalidAuthenticationTokenTenant 401;
    InvalidCreatePolicyAssignmentRequest 400;
    InvalidCreatePolicyDefinitionRequest 400;
    InvalidCreatePolicyExemptionRequest 400;
    InvalidCreatePolicySetDefinitionRequest 400;
    InvalidDeletePolicyDefinitionRequest 400;
    InvalidDeletePolicySetDefinitionRequest 400;
    InvalidFilterInQueryString 400;
    InvalidParameter 400;
    InvalidPolicyParameters 400;
    InvalidPolicyRule 400;
    InvalidRequestContent 400;
    InvalidResourceType 404;
    InvalidScope 400;
    LinkedAuthorizationFailed 403;
    MethodNotAllowed 405;
    MissingApiVersionParameter 400;
    MissingPolicyParameter 400;
    NotFound 404;
    OperationNotAllowed 409;
    ParentResourceNotFound 404;
    PlatformImageNotFound 404;
    PolicyAssignmentNotFound 404;
    PolicyDefinitionNotFound 404;
    PolicyParameterValueNotAllowed 400;
    PolicySetDefinitionNotFound 404;
    PreconditionFailed 412;
    PrincipalNotFound 400;
    PropertyChangeNotAllowed 409;
    RequestDisallowedByPolicy 403;
    RequestEntityTooLarge 413;
    ResourceGroupNotFound 404;
    ResourceNotFound 404;
    RoleAssignmentExists 409;
    RoleAssignmentLimitExceeded 400;
    RoleAssignmentUpdateNotPermitted 400;
    RoleDefinitionDoesNotExist 404;
    RoleDefinitionHasAssignments 400;
    RoleDefinitionLimitExceeded 400;
    RoleDefinitionUpdateNotPermitted 409;
    RoleDefinitionWithSameNameExists 409;
    ScopeLocked 409;
    ServerTimeout 503;
    SubscriptionNotFound 404;
    TooManyRequests 429;
    UndefinedPolicyParameter 400;
    UnmatchedPrincipalType 400;
    ValidationFailed 400;
}

impl ErrorCode {
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
