//! `version export`: a version as an image file. What was cut off goes on where it ended.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;

use camino::{Utf8Path, Utf8PathBuf};
use serde_json::json;

use super::scope::Located;
use crate::api;
use crate::args::ExportFormat;
use crate::client::{Client, Download, From};
use crate::error::{CliError, Exit};
use crate::io::{Format, Io};
use crate::progress::Progress;

const OPERATION: &str = "export the version";
/// Tries in a row that bring nothing.
const TRIES_MAX: u32 = 5;
/// Pieces of zeros that are left out of the file.
const HOLE: usize = 4096;
const MIB: u64 = 1 << 20;
/// The longest tag that a note may hold.
const TAG_BYTES_MAX: u64 = 1024;

/// A file that gets its name when it is whole, and what it is a part of until then.
struct Partial {
    path: Utf8PathBuf,
    partial: Utf8PathBuf,
    note: Utf8PathBuf,
}

pub async fn run(
    client: &Client,
    version: &Located,
    out: &Utf8Path,
    (format, lun): (ExportFormat, Option<u32>),
    io: &mut Io,
) -> Result<Exit, CliError> {
    if out.exists() {
        let hint = "name a file that does not";
        return Err(CliError::failed(format!("`{out}` exists already"), hint));
    }
    let rest = format!("/providers/Bullion.Factory/exports/{}", format.name());
    let mut url = api::below(&version.id, &rest, api::BULLION);
    if let Some(lun) = lun {
        url.push_str(&format!("&lun={lun}"));
    }
    let partial = Partial::new(out);
    let go_on = format!(
        "What came so far is in `{}`; run this again to go on.",
        partial.partial
    );
    io.goes_on.push(go_on.clone());
    let progress = Progress::start(io);
    let mut resumed = 0;
    let mut idle = 0;
    let (total, digest) = loop {
        let from = partial.from();
        resumed = resumed.max(from.offset);
        let before = from.offset;
        let tried = async {
            let mut download = client
                .download(OPERATION, version.tenant, &url, &from)
                .await?;
            partial.take(&mut download, &progress).await?;
            Ok((download.total, download.digest))
        };
        match tried.await {
            Ok(done) => break done,
            Err(error @ (CliError::Transport { .. } | CliError::Connect { .. })) => {
                idle = match partial.from().offset > before {
                    true => 0,
                    false => idle + 1,
                };
                if idle == TRIES_MAX {
                    progress.say(io, &go_on);
                    return Err(error);
                }
                progress.show("the connection broke; going on");
            }
            Err(error) => return Err(error),
        }
    };
    partial.finish(total)?;
    drop(progress);
    io.goes_on.clear();
    match io.format {
        Format::Json => io.json(&json!({
            "file": out,
            "format": format.name(),
            "imageBytes": total,
            "diskDigest": digest,
            "resumedAt": resumed,
        }))?,
        Format::Table => {
            io.say(format!("Wrote {} MiB to `{out}`.", total.div_ceil(MIB)));
            io.line(digest)?;
        }
    }
    Ok(Exit::Done)
}

impl Partial {
    fn new(path: &Utf8Path) -> Partial {
        Partial {
            path: path.to_owned(),
            partial: Utf8PathBuf::from(format!("{path}.partial")),
            note: Utf8PathBuf::from(format!("{path}.partial.tag")),
        }
    }

    /// What is there from an earlier try.
    fn from(&self) -> From {
        let small = |meta: fs::Metadata| meta.len() <= TAG_BYTES_MAX;
        let has_note = fs::metadata(&self.note).is_ok_and(small);
        let tag = has_note
            .then(|| fs::read_to_string(&self.note).ok())
            .flatten();
        let offset = fs::metadata(&self.partial).map_or(0, |meta| meta.len());
        match tag {
            Some(_) => From { offset, tag },
            None => From::default(),
        }
    }

    /// Writes what comes. The file ends where the last byte that is known ends, so its length says
    /// how far it is.
    async fn take(&self, download: &mut Download, progress: &Progress) -> Result<(), CliError> {
        let file = self.open(download)?;
        let failed = |source| self.failed(source);
        let (total, mut at) = (download.total, download.offset);
        let mut shown = u64::MAX;
        while let Some(bytes) = download.next().await? {
            write_sparse(&file, bytes.as_ref(), at).map_err(failed)?;
            at += bytes.as_ref().len() as u64;
            if at / MIB != shown {
                shown = at / MIB;
                progress.show(format!("downloading: {shown} of {} MiB", total / MIB));
            }
        }
        if at != total {
            return Err(CliError::BadAnswer {
                operation: OPERATION.to_owned(),
                why: format!("it ended after {at} of {total} bytes; run this again to go on"),
            });
        }
        file.set_len(total)
            .and_then(|()| file.sync_all())
            .map_err(failed)
    }

    fn open(&self, download: &Download) -> Result<File, CliError> {
        let failed = |source| self.failed(source);
        let mut options = OpenOptions::new();
        let file = options
            .create(true)
            .truncate(false)
            .write(true)
            .open(&self.partial);
        let file = file.map_err(failed)?;
        if download.offset == 0 {
            file.set_len(0).map_err(failed)?;
            fs::write(&self.note, &download.tag).map_err(failed)?;
        }
        Ok(file)
    }

    fn finish(&self, total: u64) -> Result<(), CliError> {
        let whole = fs::metadata(&self.partial).is_ok_and(|meta| meta.len() == total);
        if !whole {
            return Err(self.failed(io::ErrorKind::UnexpectedEof.into()));
        }
        fs::rename(&self.partial, &self.path).map_err(|source| self.failed(source))?;
        // Without the file it says nothing, and the next download writes another.
        let _ = fs::remove_file(&self.note);
        Ok(())
    }

    fn failed(&self, source: io::Error) -> CliError {
        CliError::WriteFile {
            path: self.partial.clone(),
            source,
        }
    }
}

/// Leaves zeros out where the file is new: what is not written reads as zero.
fn write_sparse(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    let mut offset = at;
    for piece in bytes.chunks(HOLE) {
        if piece.iter().any(|byte| *byte != 0) {
            file.write_all_at(piece, offset)?;
        }
        offset += piece.len() as u64;
    }
    Ok(())
}
