//! A file in the blob folder: VHD as Azure takes it, qcow2, VHDX or raw. It appears there whole or not at all, and
//! replaces nothing that something else made.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use disk::export::{Options, Sink, export};
use disk::image::Format;
use disk::{DiskDigest, ReadAt};
use jobs::{StepError, StepHandle};
use store::Store;
use uuid::Uuid;
use wire::template::FileFormat;

use super::target::{Artifact, Deliver, Subject};
use crate::import::Padded;
use crate::pipeline::{FileTarget, blocking, chain, failed, store_failed};

/// What a VHD for Azure is a whole number of.
const MIB: u64 = 1 << 20;

/// A failed export, which a full disk may be the cause of.
fn write_failed(error: &(dyn std::error::Error + 'static)) -> StepError {
    failed("ExportFailed", error)
}

fn format_of(format: FileFormat) -> Format {
    match format {
        FileFormat::Raw => Format::Raw,
        FileFormat::Qcow2 => Format::Qcow2,
        FileFormat::Vhd => Format::VhdFixed,
        FileFormat::Vhdx => Format::Vhdx,
    }
}

/// Writes a stored disk as a file of the format. Equal disks give equal files. Blocks.
pub(super) fn write_disk(
    store: &Store,
    digest: &DiskDigest,
    format: FileFormat,
    file: &fs::File,
) -> Result<(), StepError> {
    let mut sink = SparseFile::new(file);
    write_into(store, digest, format_of(format), &mut sink)?;
    sink.end().map_err(|error| write_failed(&error))
}

/// The same into any sink. Blocks.
pub(super) fn write_into(
    store: &Store,
    digest: &DiskDigest,
    format: Format,
    sink: &mut dyn Sink,
) -> Result<(), StepError> {
    let disk = store.disk(digest).map_err(|error| store_failed(&error))?;
    let id = Uuid::new_v5(&Uuid::NAMESPACE_OID, digest.to_string().as_bytes());
    let options = Options { format, id };
    let padded = Padded::new(&disk, disk.size().next_multiple_of(MIB));
    let written = export(&padded, &options, sink, &|_| true);
    written.map_err(|error| write_failed(&error))?;
    Ok(())
}

/// A file whose zeros are holes.
pub(crate) struct SparseFile<'a> {
    file: &'a fs::File,
    at: u64,
}

impl<'a> SparseFile<'a> {
    pub(crate) fn new(file: &'a fs::File) -> Self {
        SparseFile { file, at: 0 }
    }

    pub(crate) fn end(self) -> io::Result<()> {
        if self.file.metadata()?.len() < self.at {
            self.file.set_len(self.at)?;
        }
        self.file.sync_all()
    }
}

impl Sink for SparseFile<'_> {
    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        use std::os::unix::fs::FileExt;
        self.file.write_all_at(bytes, self.at)?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn zeros(&mut self, len: u64) -> io::Result<()> {
        self.at += len;
        Ok(())
    }

    fn can_patch(&self) -> bool {
        true
    }

    fn patch(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        use std::os::unix::fs::FileExt;
        self.file.write_all_at(bytes, offset)
    }
}

/// What says which disk a file of a name that somebody chose holds.
fn marker(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.bullion"))
}

#[async_trait]
impl Deliver for FileTarget {
    async fn deliver(&self, subject: &Subject, handle: &StepHandle) -> Result<Artifact, StepError> {
        let none = "this server writes no files: it was started without a blob folder (`blobs` in bullion.toml)";
        let place = subject.factory.blobs.clone();
        let place = place.ok_or_else(|| StepError::failed("ExportFailed", none))?;
        let name = match &self.uri {
            Some(uri) => place.name_of(uri).ok_or_else(|| {
                StepError::failed(
                    "ExportFailed",
                    format!("{uri} is not in this server's blob folder"),
                )
            })?,
            // Whoever reaches the server may read its blobs, so the name cannot be guessed.
            None => {
                let mark = subject.factory.mark(&[
                    &subject.tenant.to_string(),
                    subject.template.folded(),
                    &subject.digest.to_string(),
                    &self.run_output,
                ])?;
                format!(
                    "images/{mark}/{}.{}",
                    self.run_output,
                    self.format.extension()
                )
            }
        };
        let path = place.writable(&name).ok_or_else(|| {
            StepError::failed("ExportFailed", format!("{name} is not the name of a blob"))
        })?;
        let says = format!("{} {:?}\n", subject.digest, self.format);
        let (store, digest, format) = (subject.store.clone(), subject.digest, self.format);
        let (log, shown) = (handle.clone(), name.clone());
        let found = blocking(move || {
            if path.exists() {
                let same = fs::read_to_string(marker(&path)).is_ok_and(|text| text == says);
                return match same {
                    true => Ok(true),
                    false => Err(StepError::failed(
                        "Conflict",
                        format!(
                            "the blob {shown} exists and holds something else; remove it, or leave `uri` out so that \
                             each image gets a name of its own"
                        ),
                    )),
                };
            }
            let io = |error: io::Error| {
                StepError::failed("ExportFailed", format!("write the blob {shown}: {}", chain(&error)))
            };
            let folder = path.parent().unwrap_or(&path).to_owned();
            fs::create_dir_all(&folder).map_err(io)?;
            let partial = tempfile::NamedTempFile::new_in(&folder).map_err(io)?;
            write_disk(&store, &digest, format, partial.as_file())?;
            fs::write(marker(&path), says).map_err(io)?;
            partial.persist_noclobber(&path).map_err(|error| io(error.error))?;
            log.log(format!("wrote the blob {shown}"));
            Ok(false)
        })
        .await?;
        Ok(Artifact {
            id: None,
            uri: Some(place.uri_of(&name)),
            found,
        })
    }
}
