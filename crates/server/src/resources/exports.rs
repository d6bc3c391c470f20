//! `Bullion.Factory/exports`: a version's disk as an image file, whole or in parts.
//!
//! `{version}/providers/Bullion.Factory/exports/{format}`. Whoever has the bits can look into every file of them, so
//! this takes more than the right to read.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
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
use crate::operation::{Call, Part};
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
    let image = server.work.export(&version, format).await?;
    let etag = format!("\"{}\"", image.tag());
    let size = image.bytes();
    let part = call.preconditions.part(&etag, size);
    let (status, range) = match part {
        Part::Whole => (StatusCode::OK, 0..size),
        Part::Range(range) => (StatusCode::PARTIAL_CONTENT, range),
        Part::Unchanged => {
            return Ok(Reply::new(StatusCode::NOT_MODIFIED, None).with(ETAG, &etag));
        }
        Part::Outside => {
            return Ok(Reply::new(StatusCode::RANGE_NOT_SATISFIABLE, None)
                .with(CONTENT_RANGE, &format!("bytes */{size}")));
        }
    };
    let name = format!(
        "{}-{}.{}",
        definition(&version.id),
        version.id.name(),
        extension(format)
    );
    let mut reply = Reply::new(status, None)
        .with(CONTENT_TYPE, "application/octet-stream")
        .with(CONTENT_LENGTH, &(range.end - range.start).to_string())
        .with(
            CONTENT_DISPOSITION,
            &format!("attachment; filename=\"{name}\""),
        )
        .with(ACCEPT_RANGES, "bytes")
        .with(ETAG, &etag)
        .with(DISK_DIGEST, &image.digest().to_string());
    if status == StatusCode::PARTIAL_CONTENT {
        let shown = format!("bytes {}-{}/{size}", range.start, range.end - 1);
        reply = reply.with(CONTENT_RANGE, &shown);
    }
    if !call.is_head {
        reply.content = Some(body(&image, range).await);
    }
    Ok(reply)
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
