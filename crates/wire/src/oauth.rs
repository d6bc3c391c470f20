//! Messages of the OAuth 2.0 authority, in the shape in which Entra's clients know them.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The form posted to a token endpoint. v1 sends `resource`, v2 sends `scope`.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TokenRequest {
    pub grant_type: String,
    pub client_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_secret: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// RFC 7523: `urn:ietf:params:oauth:client-assertion-type:jwt-bearer`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_assertion_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_assertion: Option<String>,
}

/// v2's answer; v1's has the same members and more, its numbers written as texts.
#[derive(Clone, Serialize, Deserialize)]
pub struct TokenResponse {
    pub token_type: String,
    /// Seconds.
    pub expires_in: u64,
    pub ext_expires_in: u64,
    pub access_token: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TokenError {
    /// `invalid_client`, `invalid_request`, `unauthorized_client`, …
    pub error: String,
    /// Starts with the AADSTS code, which is what `az` prints.
    pub error_description: String,
    #[serde(default)]
    pub error_codes: Vec<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
}

/// `/{tenant}/v2.0/.well-known/openid-configuration`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OpenIdConfiguration {
    pub issuer: String,
    pub authorization_endpoint: String,
    pub token_endpoint: String,
    pub jwks_uri: String,
    pub device_authorization_endpoint: String,
    pub response_types_supported: Vec<String>,
    pub subject_types_supported: Vec<String>,
    pub id_token_signing_alg_values_supported: Vec<String>,
    pub token_endpoint_auth_methods_supported: Vec<String>,
    #[serde(flatten)]
    pub more: serde_json::Map<String, Value>,
}
