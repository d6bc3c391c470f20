//! `beginGetAccess` and `endGetAccess` of disks and snapshots: a URL from which whoever has it reads the disk for a while,
//! and the answer to it.
//!
//! The URL carries a random token of which only the digest is kept, on the disk itself: nothing that a server knows makes
//! one, any server of the database knows it, and what is revoked is gone at once. Access to write is refused: disks get
//! their bits when they are made.

use access::{Action, Permit, SystemReason, UrlToken};
use catalog::{Draft, Resource};
use factory::deploy::ACCESS;
use factory::disks::Disks;
use factory::export::ImageFormat;
use http::header::{HeaderName, HeaderValue, RANGE};
use http::request::Parts;
use http::{Method, StatusCode};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;
use wire::{ArmError, ResourceId};

use super::{Reply, exports, need, power, store};
use crate::errors;
use crate::operation::{Call, Preconditions};
use crate::path;
use crate::state::Server;

/// Where the URLs of this server begin; the disk's id follows.
const PREFIX: &str = "disk-access";
const FACTS: &str = "bullion";
/// URLs of one disk at a time.
const OPEN_MAX: usize = 16;
/// As long as Azure's own limit.
const SECONDS_MAX: i64 = i32::MAX as i64;
const BLOB_TYPE: HeaderName = HeaderName::from_static("x-ms-blob-type");
const ERROR_CODE: HeaderName = HeaderName::from_static("x-ms-error-code");
/// Storage clients ask for parts with this one.
const MS_RANGE: HeaderName = HeaderName::from_static("x-ms-range");

/// One URL that was given out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Opened {
    token: String,
    until: Timestamp,
    format: String,
}

/// The URLs of a disk that are good at a moment.
fn open_at(disk: &Resource, now: Timestamp) -> Vec<Opened> {
    let kept = disk.properties[FACTS][ACCESS].clone();
    let mut opened: Vec<Opened> = serde_json::from_value(kept).unwrap_or_default();
    opened.retain(|one| now < one.until);
    opened
}

/// Whether somebody may read the disk by a URL at this moment.
pub fn is_open(disk: &Resource) -> bool {
    !open_at(disk, Timestamp::now()).is_empty()
}

/// What nobody may do while a disk is open, in Azure's words.
pub fn need_closed(disk: &Resource, before: &str) -> Result<(), ArmError> {
    if !is_open(disk) {
        return Ok(());
    }
    Err(power::not_allowed(format!(
        "There is an active shared access signature outstanding for disk {}. Call EndGetAccess before {before}.",
        disk.id.name()
    )))
}

pub async fn begin(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let disk = need(&server, &call).await?;
    let (seconds, format) = asked(&call.body)?;
    if disk.properties["diskState"] == "Attached" {
        return Err(power::not_allowed(format!(
            "The disk {} is attached to a virtual machine, which may write to it. Detach it, or make a snapshot.",
            disk.id.name()
        )));
    }
    if Disks::of(&disk).is_none() {
        return Err(errors::conflict(format!(
            "The disk '{}' is not ready ({}).",
            disk.id.name(),
            disk.state.as_str()
        )));
    }
    let now = Timestamp::now();
    let mut opened = open_at(&disk, now);
    if opened.len() >= OPEN_MAX {
        let message = format!("A disk is open by at most {OPEN_MAX} URLs. Call EndGetAccess.");
        return Err(power::not_allowed(message));
    }
    let token = UrlToken::random().map_err(|error| errors::internal("making a URL", &error))?;
    let now = now.round(jiff::Unit::Second).unwrap_or(now);
    let until = now.saturating_add(SignedDuration::from_secs(seconds));
    let until = until.map_err(|error| errors::internal("counting seconds", &error))?;
    let url = format!(
        "{}/{PREFIX}{}?sv=2018-03-28&sr=b&st={now}&se={until}&sp=r&sig={}",
        call.base.as_str(),
        disk.id,
        token.expose()
    );
    opened.push(Opened {
        token: token.digest(),
        until,
        format: format.name().to_owned(),
    });
    keep(&server, &call, &disk, opened).await?;
    Ok(Reply::ok(json!({ "accessSAS": url })))
}

pub async fn end(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let disk = need(&server, &call).await?;
    keep(&server, &call, &disk, Vec::new()).await?;
    Ok(Reply::new(StatusCode::OK, None))
}

async fn keep(
    server: &Arc<Server>,
    call: &Call,
    disk: &Resource,
    opened: Vec<Opened>,
) -> Result<(), ArmError> {
    let mut draft = Draft::from_resource(disk.clone());
    draft.properties[FACTS][ACCESS] = json!(opened);
    store(server, call, Some(disk), draft).await.map(drop)
}

/// How long, and in which format.
fn asked(body: &Value) -> Result<(i64, ImageFormat), ArmError> {
    let access = body["access"].as_str().unwrap_or_default();
    if access.eq_ignore_ascii_case("Write") {
        return Err(errors::invalid(
            "access",
            "Disks are not uploaded to here: import a VHD by its URI (createOption Import). Access can be 'Read'.",
        ));
    }
    if !access.eq_ignore_ascii_case("Read") {
        return Err(errors::invalid("access", "Access must be 'Read'."));
    }
    let seconds = &body["durationInSeconds"];
    let seconds = seconds
        .as_i64()
        .filter(|seconds| (1..=SECONDS_MAX).contains(seconds))
        .ok_or_else(|| {
            let message = format!(
                "The value {seconds} of parameter durationInSeconds is out of range. The value must be between 1 \
                 and {SECONDS_MAX}, inclusive"
            );
            errors::invalid("durationInSeconds", message)
        })?;
    let format = match body["fileFormat"].as_str() {
        None => ImageFormat::Vhd,
        Some(name) if name.eq_ignore_ascii_case("VHD") => ImageFormat::Vhd,
        Some(name) if name.eq_ignore_ascii_case("VHDX") => ImageFormat::Vhdx,
        Some(_) => {
            return Err(errors::invalid(
                "fileFormat",
                "The format must be 'VHD' or 'VHDX'.",
            ));
        }
    };
    Ok((seconds, format))
}

/// The disk whose URL this is; `None` leaves the request to others.
pub fn route(parts: &Parts) -> Option<ResourceId> {
    let segments = path::segments(parts.uri.path()).ok()?;
    let (first, rest) = segments.split_first()?;
    let id = (first == PREFIX).then(|| format!("/{}", rest.join("/")))?;
    ResourceId::parse(&id).ok()
}

/// Answers with the disk, whole or the range that was asked for, in the way of a page blob.
pub async fn answer(server: &Server, id: &ResourceId, parts: &Parts) -> Reply {
    let is_head = parts.method == Method::HEAD;
    if parts.method != Method::GET && !is_head {
        return crate::oauth::method_not_allowed(parts, "GET, HEAD");
    }
    // Nothing is said of what is there and what is not.
    let refused = || {
        let reply = Reply::new(StatusCode::FORBIDDEN, None);
        reply.with(ERROR_CODE, "AuthenticationFailed")
    };
    let Some((disk, format)) = opened(server, id, parts).await else {
        return refused();
    };
    let Some(disks) = Disks::of(&disk) else {
        return refused();
    };
    let mut headers = parts.headers.clone();
    if let Some(range) = headers.get(MS_RANGE).cloned() {
        headers.insert(RANGE, range);
    }
    let image = match server.work.export(&disks.os, &[], format).await {
        Ok(image) => image,
        Err(error) => return error.into(),
    };
    let preconditions = Preconditions::of(&headers);
    let mut reply = exports::image(&image, &preconditions, is_head).await;
    reply
        .headers
        .insert(BLOB_TYPE, HeaderValue::from_static("PageBlob"));
    reply
}

/// The disk, if the URL's token opens it now.
async fn opened(
    server: &Server,
    id: &ResourceId,
    parts: &Parts,
) -> Option<(Resource, ImageFormat)> {
    let query = parts.uri.query().unwrap_or_default();
    let mut pairs = url::form_urlencoded::parse(query.as_bytes());
    let (_, token) = pairs.find(|(key, _)| key == "sig")?;
    let token = UrlToken::presented(&token)?.digest();
    let tenant = server.auth.subscription_tenant(id.subscription()?).await;
    let tenant = tenant.ok()??;
    let kind = id.resource_type();
    if ![super::disks::DISK, super::disks::SNAPSHOT]
        .iter()
        .any(|known| kind.is(known))
    {
        return None;
    }
    let action = Action::new(format!("{kind}/read"));
    let permit = Permit::system(SystemReason::SharedUrl, action, id.clone(), tenant);
    let disk = server.catalog.get(&permit).await.ok()?;
    let opened = open_at(&disk, Timestamp::now());
    let found = opened.into_iter().find(|one| one.token == token)?;
    Some((disk, found.format.parse().ok()?))
}
