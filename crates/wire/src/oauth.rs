//! Messages of the OAuth 2.0 authority, in the shape in which Entra's clients know them.

use serde::{Deserialize, Serialize};

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
