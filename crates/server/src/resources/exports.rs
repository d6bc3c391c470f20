//! `Bullion.Factory/exports`: a version's disks as image files, whole or in parts.
//!
//! `{version}/providers/Bullion.Factory/exports/{format}`. Whoever has the bits can look into every file of them, so
//! this takes more than the right to read.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use factory::disks::Disks;
use factory::export::{ExportedImage, ImageFormat};
use http::StatusCode;
use http::header::{
    ACCEPT_RANGES, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
    HeaderName,
};
use hyper::body::Frame;
use tokio::sync::mpsc::Receiver;
use wire::{ArmError, ErrorCode};

use super::{Reply, need, versions};
use crate::errors;
use crate::operation::{Call, Part, Preconditions};
use crate::state::Server;

pub const KIND: &str = "Bullion.Factory/exports";
pub const ACTION: &str = "Bullion.Factory/exports/download/action";
/// The digest of the disk that is in the image, whatever the format.
const DISK_DIGEST: HeaderName = HeaderName::from_static("bullion-disk-digest");

pub async fn get(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let version = need(&server, &call).await?;
    if !version.id.resource_type().is(versions::KIND) {
        return Err(errors::not_found(&call.id));
    }
    let format: ImageFormat = call.id.name().parse().map_err(|_| {
        let message = format!(
            "There is no export format '{}'. Known are: {}.",
            call.id.name(),
            ImageFormat::names()
        );
        ArmError::new(ErrorCode::NotFound, message)
    })?;
    let disks = Disks::of(&version).ok_or_else(|| {
        errors::conflict(
            "The version has no disk yet. Retry when its provisioning state is Succeeded.",
        )
    })?;
    let lun = asked_lun(&call)?;
    let digest = match lun {
        None => disks.os,
        Some(lun) => disks
            .data_disk(lun)
            .map(|disk| disk.digest)
            .ok_or_else(|| {
                let message = format!("The version has no data disk with lun {lun}.");
                ArmError::new(ErrorCode::NotFound, message)
            })?,
    };
    let places = factory::replicate::domains_of(&version);
    let exported = server.work.export(&digest, &places, format).await?;
    let reply = image(&exported, &call.preconditions, call.is_head).await;
    let of_disk = lun.map_or_else(String::new, |lun| format!("-lun{lun}"));
    let name = format!(
        "{}-{}{of_disk}.{}",
        definition(&version.id),
        version.id.name(),
        extension(format)
    );
    Ok(reply.with(
        CONTENT_DISPOSITION,
        &format!("attachment; filename=\"{name}\""),
    ))
}

/// `lun=N` asks for a data disk in the place of the one to boot from.
fn asked_lun(call: &Call) -> Result<Option<u32>, ArmError> {
    let Some(text) = call.query.get("lun") else {
        return Ok(None);
    };
    let wrong = || errors::invalid("lun", "The lun of a data disk is a number.");
    text.parse().map(Some).map_err(|_| wrong())
}

/// The image, or the part of it that is asked for.
pub async fn image(image: &ExportedImage, preconditions: &Preconditions, is_head: bool) -> Reply {
    let etag = format!("\"{}\"", image.tag());
    let size = image.bytes();
    let part = preconditions.part(&etag, size);
    let (status, range) = match part {
        Part::Whole => (StatusCode::OK, 0..size),
        Part::Range(range) => (StatusCode::PARTIAL_CONTENT, range),
        Part::Unchanged => {
            return Reply::new(StatusCode::NOT_MODIFIED, None).with(ETAG, &etag);
        }
        Part::Outside => {
            return Reply::new(StatusCode::RANGE_NOT_SATISFIABLE, None)
                .with(CONTENT_RANGE, &format!("bytes */{size}"));
        }
    };
    let mut reply = Reply::new(status, None)
        .with(CONTENT_TYPE, "application/octet-stream")
        .with(CONTENT_LENGTH, &(range.end - range.start).to_string())
        .with(ACCEPT_RANGES, "bytes")
        .with(ETAG, &etag)
        .with(DISK_DIGEST, &image.digest().to_string());
    if status == StatusCode::PARTIAL_CONTENT {
        let shown = format!("bytes {}-{}/{size}", range.start, range.end - 1);
        reply = reply.with(CONTENT_RANGE, &shown);
    }
    if !is_head {
        reply.content = Some(body(image, range).await);
    }
    reply
}

fn definition(version: &wire::ResourceId) -> String {
    let parent = version.parent();
    parent
        .map(|parent| parent.name().to_owned())
        .unwrap_or_default()
}

fn extension(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::VhdDynamic => "vhd",
        format => format.name(),
    }
}

async fn body(image: &ExportedImage, range: std::ops::Range<u64>) -> Body {
    Body::new(Pieces(image.read(range).await))
}

/// An image on its way out.
struct Pieces(Receiver<io::Result<Vec<u8>>>);

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let polled = self.0.poll_recv(cx);
        polled.map(|piece| piece.map(|piece| piece.map(|bytes| Frame::data(Bytes::from(bytes)))))
    }
}
