//! `Bullion.Factory/applications/certificates` and `…/federatedCredentials`: what an application proves itself with in
//! place of a secret. Nothing in them is secret; both are shown as they were given.

use std::sync::Arc;

use access::{Certificate, FEDERATION_AUDIENCE, TokenKeys};
use catalog::{Credential, Draft, Record};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use url::Url;
use wire::ArmError;

use super::tenancy::check_name;
use super::{Reply, delete, find, list, present, put_reply, show, store};
use crate::body::{ResourceBody, wrong_type};
use crate::errors;
use crate::operation::Call;
use crate::state::Server;

pub const CERTIFICATE: &str = "Bullion.Factory/applications/certificates";
pub const FEDERATED: &str = "Bullion.Factory/applications/federatedCredentials";
const AUDIENCES_MAX: usize = 10;
const TEXT_MAX: usize = 600;
const KEYS_BYTES_MAX: usize = 64 * 1024;

pub async fn put_certificate(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    const TARGET: &str = "properties.certificate";
    check_name(&call, "certificateName")?;
    let body = ResourceBody::parse(&call.body, &call.id)?;
    let text = text(&body.properties, "certificate", usize::MAX)?;
    let certificate = Certificate::parse(&text).map_err(|error| {
        errors::invalid(TARGET, format!("The certificate is not taken: {error}."))
    })?;
    if certificate.not_after() <= Timestamp::now().as_second() {
        return Err(errors::invalid(TARGET, "The certificate has expired."));
    }
    let time = |seconds| {
        let time = Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX);
        time.to_string()
    };
    let stored = json!({
        "certificate": certificate.to_text(),
        "subject": certificate.subject(),
        "thumbprint": certificate.thumbprint(),
        "thumbprintSha256": certificate.x5t_s256(),
        "startDateTime": time(certificate.not_before()),
        "endDateTime": time(certificate.not_after()),
    });
    let credential = Credential::Certificate {
        certificate: certificate.to_text(),
    };
    keep(&server, &call, body, stored, credential).await
}

pub async fn put_federated(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    check_name(&call, "federatedCredentialName")?;
    let body = ResourceBody::parse(&call.body, &call.id)?;
    let issuer = issuer(&body.properties)?;
    let subject = text(&body.properties, "subject", TEXT_MAX)?;
    let audiences = audiences(&body.properties)?;
    let keys = keys(&body.properties)?;
    let mut stored = json!({
        "issuer": issuer,
        "subject": subject,
        "audiences": audiences,
    });
    for (name, value) in [
        ("keys", keys.clone()),
        ("description", body.properties.get("description").cloned()),
    ] {
        if let Some(value) = value {
            stored[name] = value;
        }
    }
    let credential = Credential::Federated {
        issuer,
        subject,
        audiences,
        keys: keys.map(|keys| keys.to_string()),
    };
    keep(&server, &call, body, stored, credential).await
}

async fn keep(
    server: &Server,
    call: &Call,
    body: ResourceBody,
    stored: Value,
    credential: Credential,
) -> Result<Reply, ArmError> {
    let old = find(server, call).await?;
    let mut draft = Draft::new(stored).record(Record::Credential(credential));
    draft.tags = body.tags;
    let put = store(server, call, old.as_ref(), draft).await?;
    Ok(put_reply(&put))
}

fn text(properties: &Map<String, Value>, name: &str, most: usize) -> Result<String, ArmError> {
    let target = format!("properties.{name}");
    match properties.get(name).and_then(Value::as_str) {
        Some(text) if !text.is_empty() && text.len() <= most => Ok(text.to_string()),
        Some(_) => Err(errors::invalid(
            &target,
            format!("The parameter '{target}' must be text of 1 to {most} bytes."),
        )),
        None => Err(errors::invalid(
            &target,
            format!("Required parameter '{target}' is missing."),
        )),
    }
}

/// The issuer as tokens write it. Its keys are fetched from there, so it is a plain HTTPS URL.
fn issuer(properties: &Map<String, Value>) -> Result<String, ArmError> {
    let text = text(properties, "issuer", TEXT_MAX)?;
    let plain = Url::parse(&text).is_ok_and(|url| {
        url.scheme() == "https"
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none()
    });
    if plain {
        return Ok(text);
    }
    Err(errors::invalid(
        "properties.issuer",
        "The issuer must be an https URL without user, query and fragment.",
    ))
}

fn audiences(properties: &Map<String, Value>) -> Result<Vec<String>, ArmError> {
    const TARGET: &str = "properties.audiences";
    let listed = match properties.get("audiences") {
        None | Some(Value::Null) => return Ok(vec![FEDERATION_AUDIENCE.to_string()]),
        Some(Value::Array(listed)) => listed,
        Some(_) => return Err(wrong_type(TARGET, "a list of texts")),
    };
    let fit = |text: &&str| !text.is_empty() && text.len() <= TEXT_MAX;
    let audiences: Vec<String> = listed
        .iter()
        .filter_map(|value| value.as_str().filter(fit).map(str::to_string))
        .collect();
    if audiences.is_empty() || audiences.len() != listed.len() || audiences.len() > AUDIENCES_MAX {
        let message = format!("The audiences are 1 to {AUDIENCES_MAX} texts.");
        return Err(errors::invalid(TARGET, message));
    }
    Ok(audiences)
}

/// Keys that are given are used; without them the issuer is asked.
fn keys(properties: &Map<String, Value>) -> Result<Option<Value>, ArmError> {
    let Some(keys) = properties.get("keys").filter(|keys| !keys.is_null()) else {
        return Ok(None);
    };
    let document = keys.to_string();
    let fit = document.len() <= KEYS_BYTES_MAX && TokenKeys::parse(document.as_bytes()).is_some();
    if fit {
        return Ok(Some(keys.clone()));
    }
    Err(errors::invalid(
        "properties.keys",
        "The keys must be a JWKS document with at least one public key for signatures.",
    ))
}

pub async fn get(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    show(&server, &call).await
}

pub async fn remove(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    delete(&server, &call).await
}

pub async fn certificates(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    list(&server, &call, CERTIFICATE, |one| Some(present(one))).await
}

pub async fn federated(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    list(&server, &call, FEDERATED, |one| Some(present(one))).await
}
