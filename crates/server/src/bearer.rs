//! Who calls: the token of the request, and up to three of other tenants beside it.
//!
//! One text for every refusal: which check failed is for the log, not for whoever tries tokens.

use access::{Caller, Identity};
use http::HeaderMap;
use http::header::{AUTHORIZATION, HeaderName};
use jiff::Timestamp;
use wire::{ArmError, ErrorCode};

use crate::oauth::AUDIENCES;
use crate::state::Server;

const AUXILIARY: HeaderName = HeaderName::from_static("x-ms-authorization-auxiliary");
const AUXILIARY_MAX: usize = 3;

pub async fn caller(server: &Server, headers: &HeaderMap) -> Result<Caller, ArmError> {
    let mut caller = Caller::new(identity(server, authorization(headers)?).await?);
    let others = headers.get_all(&AUXILIARY).iter();
    let mut tokens = Vec::new();
    for value in others {
        let list = value.to_str().map_err(|_| bad_auxiliary())?;
        tokens.extend(list.split(',').map(str::trim));
    }
    if tokens.len() > AUXILIARY_MAX {
        return Err(bad_auxiliary());
    }
    for token in tokens {
        let token = bearer_token(token).ok_or_else(bad_auxiliary)?;
        caller.auxiliary.push(identity(server, token).await?);
    }
    Ok(caller)
}

/// Who calls with a token that is for another audience than ARM's.
pub async fn identity_for(
    server: &Server,
    headers: &HeaderMap,
    audience_ok: impl Fn(&str) -> bool + Sync,
) -> Result<Identity, ArmError> {
    verified(server, authorization(headers)?, audience_ok).await
}

/// The one token of the request.
fn authorization(headers: &HeaderMap) -> Result<&str, ArmError> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(ArmError::new(
            ErrorCode::AuthenticationFailed,
            "Authentication failed. The 'Authorization' header is missing or given more than once.",
        ));
    };
    value.to_str().ok().and_then(bearer_token).ok_or_else(|| {
        ArmError::new(
            ErrorCode::AuthenticationFailed,
            "Authentication failed. The 'Authorization' header is provided in an invalid format: \
             'Bearer {token}' is expected.",
        )
    })
}

fn bearer_token(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("Bearer").then(|| token.trim())
}

fn bad_auxiliary() -> ArmError {
    ArmError::new(
        ErrorCode::AuthenticationFailed,
        format!(
            "The 'x-ms-authorization-auxiliary' header is invalid: up to {AUXILIARY_MAX} tokens are \
             expected, as 'Bearer {{token}}, Bearer {{token}}'."
        ),
    )
}

async fn identity(server: &Server, token: &str) -> Result<Identity, ArmError> {
    let same =
        |audience: &str, known: &str| audience.trim_end_matches('/') == known.trim_end_matches('/');
    let audience_ok = |audience: &str| {
        AUDIENCES.iter().any(|known| same(audience, known)) || server.is_own_url(audience)
    };
    verified(server, token, audience_ok).await
}

async fn verified(
    server: &Server,
    token: &str,
    audience_ok: impl Fn(&str) -> bool + Sync,
) -> Result<Identity, ArmError> {
    let now = Timestamp::now().as_second().max(0) as u64;
    // The host part is how the client reached the token endpoint; the signature says it was ours.
    let issuer_ok = |tenant, issuer: &str| {
        issuer.ends_with(&format!("/{tenant}/v2.0")) || issuer.ends_with(&format!("/{tenant}/"))
    };
    server
        .tokens
        .verify(token, now, audience_ok, issuer_ok)
        .await
        .map_err(|error| {
            tracing::info!(target: "bullion::activity", %error, "token refused");
            ArmError::new(
                ErrorCode::InvalidAuthenticationToken,
                "The access token is invalid.",
            )
        })
}

/// What a 401 says about where to get a token.
pub fn challenge(base: &str, tenant: &str, error: &ArmError) -> String {
    let description = error.message.replace(['"', '\\'], "'");
    format!(
        "Bearer authorization_uri=\"{base}/{tenant}\", error=\"invalid_token\", \
         error_description=\"{description}\""
    )
}
