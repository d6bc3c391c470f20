//! A stored disk as a fixed VHD, sent into a page blob while it is read: no copy on this host, and zeros are not sent.

use std::io;
use std::sync::Arc;

use disk::DiskDigest;
use disk::export::Sink;
use disk::image::Format;
use jobs::{StepError, StepHandle};
use store::Store;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::fault;
use super::page_blob::{PAGE_BYTES, PIECE_BYTES, PageBlob};
use crate::pipeline::{blocking, failed};
use crate::publish::Subject;
use crate::publish::file::write_into;

const MIB: u64 = 1 << 20;
/// The last sector of a fixed VHD.
const FOOTER_BYTES: u64 = 512;
/// Requests under way at once.
const WRITES_MAX: usize = 4;

/// Bytes at a place of the file.
struct Piece {
    at: u64,
    bytes: Vec<u8>,
}

/// Brings the subject's disk into the blob, unless it is there.
pub async fn upload(
    blob: &PageBlob,
    subject: &Subject,
    handle: &StepHandle,
) -> Result<(), StepError> {
    let total = subject.logical_bytes.next_multiple_of(MIB) + FOOTER_BYTES;
    if blob.is_whole(total).await? {
        handle.log("the disk is in the blob already");
        return Ok(());
    }
    blob.create(total).await?;
    let (to, pieces) = mpsc::channel(WRITES_MAX);
    let (store, digest) = (Arc::clone(&subject.store), subject.digest);
    let read = blocking(move || read_disk(&store, &digest, to));
    let write = write_pieces(blob, pieces, total, handle);
    let sent = tokio::select! {
        // A failed request ends the reading, which then has nobody to send to; its own error comes first.
        ended = async { tokio::join!(write, read) } => match ended {
            (Ok(sent), Ok(())) => sent,
            (Err(error), _) | (_, Err(error)) => return Err(error),
        },
        () = handle.until_cancelled() => return Err(StepError::canceled()),
    };
    blob.mark().await?;
    handle.log(format!("sent {sent} bytes of {total}"));
    Ok(())
}

/// Blocks.
fn read_disk(store: &Store, digest: &DiskDigest, to: mpsc::Sender<Piece>) -> Result<(), StepError> {
    let mut sink = Pieces {
        to,
        at: 0,
        piece: Vec::new(),
    };
    write_into(store, digest, Format::VhdFixed, &mut sink)?;
    sink.flush().map_err(|error| failed("ExportFailed", &error))
}

/// What lies side by side goes together.
struct Pieces {
    to: mpsc::Sender<Piece>,
    /// Where the next byte goes.
    at: u64,
    piece: Vec<u8>,
}

impl Pieces {
    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let bytes = std::mem::take(&mut self.piece);
        let at = self.at - bytes.len() as u64;
        if !at.is_multiple_of(PAGE_BYTES) || !(bytes.len() as u64).is_multiple_of(PAGE_BYTES) {
            return Err(io::Error::other("the disk is not made of whole pages"));
        }
        let sent = self.to.blocking_send(Piece { at, bytes });
        sent.map_err(|_| io::Error::other("the upload ended"))
    }
}

impl Sink for Pieces {
    fn bytes(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = PIECE_BYTES - self.piece.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.piece.extend_from_slice(now);
            self.at += now.len() as u64;
            bytes = later;
            if self.piece.len() == PIECE_BYTES {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn zeros(&mut self, len: u64) -> io::Result<()> {
        self.flush()?;
        self.at += len;
        Ok(())
    }
}

/// Sends what comes, some at once. Answers how many bytes that were.
async fn write_pieces(
    blob: &PageBlob,
    mut pieces: mpsc::Receiver<Piece>,
    total: u64,
    handle: &StepHandle,
) -> Result<u64, StepError> {
    let (mut writes, mut sent) = (JoinSet::new(), 0);
    let blob = Arc::new(blob.clone());
    let ended = |ended: Result<Result<(), StepError>, tokio::task::JoinError>| {
        ended.map_err(|error| fault("send the disk", error))?
    };
    while let Some(piece) = pieces.recv().await {
        if writes.len() >= WRITES_MAX
            && let Some(one) = writes.join_next().await
        {
            ended(one)?;
        }
        sent += piece.bytes.len() as u64;
        handle.progress(format!("sending the disk, {} %", piece.at * 100 / total));
        let blob = Arc::clone(&blob);
        writes.spawn(async move { blob.write(piece.at, piece.bytes).await });
    }
    while let Some(one) = writes.join_next().await {
        ended(one)?;
    }
    Ok(sent)
}
