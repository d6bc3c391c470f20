//! Sign-in with an assertion in place of a secret: by an application's certificate, or by a token of an outside issuer.
//!
//! The rules of each are `access`'s; this module finds the credential, the issuer's keys and whether it was used before.

use access::{
    AssertionError, Certificate, Federation, JWT_BEARER, Peek, TokenKeys, peek, verify_federated,
    verify_signed,
};
use catalog::Credential;
use jiff::Timestamp;
use uuid::Uuid;
use wire::{AppId, ArmError, TenantId};

use crate::errors;
use crate::exchange::Base;
use crate::state::Server;

/// What a client presents, and for what.
pub struct Presented<'a> {
    pub kind: &'a str,
    pub assertion: &'a str,
    pub tenant: TenantId,
    pub app: AppId,
    /// What the token is for. One assertion is good for one token of each resource: clients that ask for several in one
    /// run, as az does for Graph, sign once.
    pub resource: &'a str,
}

/// Why an assertion gives no token. The text is shown to the client.
#[derive(Debug)]
pub struct Refused {
    pub code: u32,
    pub message: String,
}

pub enum Outcome {
    Proved,
    Refused(Refused),
}

fn refused(code: u32, message: &str) -> Result<Outcome, ArmError> {
    Ok(Outcome::Refused(Refused {
        code,
        message: message.to_string(),
    }))
}

pub async fn check(
    server: &Server,
    base: &Base,
    presented: &Presented<'_>,
) -> Result<Outcome, ArmError> {
    if presented.kind != JWT_BEARER {
        return refused(
            50027,
            &format!("The 'client_assertion_type' must be '{JWT_BEARER}'."),
        );
    }
    let Ok(said) = peek(presented.assertion) else {
        return refused(50027, "The client assertion is malformed.");
    };
    let credentials = server
        .auth
        .credentials(presented.app)
        .await
        .map_err(errors::catalog)?;
    if said.issuer.eq_ignore_ascii_case(&presented.app.to_string()) {
        return signed(server, base, presented, &credentials).await;
    }
    federated(server, presented, &said, &credentials).await
}

/// By what an outside issuer says of the one who presents it.
async fn federated(
    server: &Server,
    presented: &Presented<'_>,
    said: &Peek,
    credentials: &[Credential],
) -> Result<Outcome, ArmError> {
    let mut last = None;
    for credential in credentials {
        let Credential::Federated {
            issuer,
            subject,
            audiences,
            keys,
        } = credential
        else {
            continue;
        };
        if *issuer != said.issuer || *subject != said.subject {
            continue;
        }
        let keys = match keys {
            Some(document) => TokenKeys::parse(document.as_bytes()),
            None => server.issuers.keys(issuer, presented.assertion).await,
        };
        let Some(keys) = keys else {
            last = Some("the issuer's keys cannot be had".to_string());
            continue;
        };
        let federation = Federation {
            issuer,
            subject,
            audiences,
        };
        match verify_federated(presented.assertion, &keys, &federation, now()) {
            Ok(()) => return Ok(Outcome::Proved),
            Err(error) => last = Some(error.to_string()),
        }
    }
    match last {
        Some(reason) => refused(
            700_213,
            &format!("The presented assertion is not accepted: {reason}."),
        ),
        None => refused(
            70021,
            "No matching federated identity record found for presented assertion's issuer and subject.",
        ),
    }
}

/// By a certificate of the application's own.
async fn signed(
    server: &Server,
    base: &Base,
    presented: &Presented<'_>,
    credentials: &[Credential],
) -> Result<Outcome, ArmError> {
    let certificates: Vec<Certificate> = credentials
        .iter()
        .filter_map(|credential| match credential {
            Credential::Certificate { certificate } => Certificate::parse(certificate).ok(),
            Credential::Federated { .. } => None,
        })
        .collect();
    let tenant = presented.tenant;
    let audience_ok = |audience: &str| {
        let own = |host: &str| {
            [
                format!("{host}/{tenant}/oauth2/v2.0/token"),
                format!("{host}/{tenant}/oauth2/token"),
                format!("{host}/{tenant}/v2.0"),
                format!("{host}/{tenant}/"),
            ]
            .iter()
            .any(|known| known.trim_end_matches('/') == audience.trim_end_matches('/'))
        };
        own(base.as_str()) || own(&server.url)
    };
    let verified = verify_signed(
        presented.assertion,
        &certificates,
        presented.app,
        now(),
        audience_ok,
    );
    let signed = match verified {
        Ok(signed) => signed,
        Err(error) => return Ok(Outcome::Refused(said(error))),
    };
    let until = i64::try_from(signed.expires).unwrap_or(i64::MAX);
    let until = Timestamp::from_second(until).unwrap_or(Timestamp::MAX);
    let name = format!(
        "{} {tenant} {} {}",
        presented.app,
        presented.resource.trim_end_matches('/'),
        signed.jti
    );
    // A fixed length, whatever the client put into its assertion.
    let name = Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()).to_string();
    let new = server.auth.use_assertion(&name, until).await;
    if new.map_err(errors::catalog)? {
        return Ok(Outcome::Proved);
    }
    Ok(Outcome::Refused(Refused {
        code: 700_027,
        message: "The client assertion was used before (jti). Sign a new one for every token."
            .into(),
    }))
}

/// Entra's numbers, and its words where it has them.
fn said(error: AssertionError) -> Refused {
    let (code, message) = match error {
        AssertionError::Malformed => (50027, "The client assertion is malformed.".to_string()),
        AssertionError::Expired | AssertionError::Time => (
            700_024,
            "Client assertion is not within its valid time range.".to_string(),
        ),
        AssertionError::Audience => (
            700_023,
            "Client assertion audience claim does not match Realm issuer.".to_string(),
        ),
        AssertionError::Subject => (
            700_021,
            "Client assertion application identifier doesn't match 'client_id' parameter."
                .to_string(),
        ),
        other => (
            700_027,
            format!(
                "The certificate with identifier used to sign the client assertion is not accepted, or the signature is invalid: {other}."
            ),
        ),
    };
    Refused { code, message }
}

fn now() -> u64 {
    u64::try_from(Timestamp::now().as_second()).unwrap_or(0)
}
