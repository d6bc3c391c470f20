//! `store get` and `store push`: what goes out.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use cli::io::{Format as Shown, Io};
use disk::export::{ExportError, Exported, Options, Sink, Stream, export};
use disk::image::{Format, Image, Limits};
use disk::{DiskDigest, ReadAt, Window, digest_of};
use serde_json::json;
use store::keys::{read_secret, write_secret};
use store::{Domain, FileDisk, ImageFile, Moved, Store, StoreError};
use uuid::Uuid;

use super::put::bundle_key_path;
use super::watch::{Watch, cpu_seconds};
use super::{At, Output, Whole, find, open, open_place, short, stdout};
use crate::offline::Failure;

/// How a bundle is told from the folder of a store.
const BUNDLE: &str = "bundle";

#[derive(Debug, clap::Args)]
pub struct Get {
    /// Id or digest of the disk, or the beginning of one
    id: String,

    /// File to write, which must not exist; `-` is stdout
    out: PathBuf,

    #[command(flatten)]
    at: At,

    #[arg(long, value_name = "FORMAT", default_value = "raw")]
    format: Output,

    /// Read the written image back and hold it against the digest
    #[arg(long)]
    verify: bool,
}

#[derive(Debug, clap::Args)]
pub struct Push {
    /// Id or digest of the disk, or the beginning of one
    id: String,

    #[command(flatten)]
    at: At,

    /// Place of another store, or a file to write whose name ends in `.bundle`
    #[arg(long, value_name = "PLACE")]
    to: PathBuf,

    /// Leave out of the bundle what this disk has, which must be in this store and in the other
    #[arg(long, value_name = "ID")]
    without: Option<String>,

    /// The key of the other store, if it is not where `init` puts it
    #[arg(long, value_name = "FILE")]
    to_key_file: Option<PathBuf>,

    /// Where the key of the bundle is written, or read if it is there; BUNDLE.key unless given
    #[arg(long, value_name = "FILE")]
    bundle_key: Option<PathBuf>,

    /// Write a bundle that anyone can read
    #[arg(long, conflicts_with = "bundle_key")]
    no_encryption: bool,
}

pub(super) fn get(args: &Get, io: &mut Io) -> Result<(), Failure> {
    let store = open(&args.at, io)?;
    let digest = find(&store, &args.id)?;
    let to_stdout = args.out == Path::new("-");
    if to_stdout && args.verify {
        return Err(Failure::usage("what went to stdout cannot be read back")
            .hint("leave `--verify` out, or name a file"));
    }
    let unread = |error| Failure::new("cannot read the disk", error);
    let disk = store.disk(&digest).map_err(unread)?;
    let watch = Watch::start(io, format!("writing {}", args.format.format()), disk.size())?;
    let exported = if to_stdout {
        let mut out = Stream(stdout());
        let exported = write(&disk, args, &mut out, &watch)?;
        out.0
            .flush()
            .map_err(|error| Failure::new("cannot write the image", error))?;
        exported
    } else {
        let whole = Whole::new(&args.out)?;
        let exported = write_file(&store, &disk, args, &whole, &watch)?;
        if args.verify {
            verify(whole.partial(), &digest, disk.size(), args.format.format())?;
        }
        whole.finish()?;
        exported
    };
    drop(watch);
    let text = format!(
        "Wrote {} bytes of data; the image is {} bytes long.",
        exported.written_bytes, exported.image_bytes
    );
    match io.format {
        // The image has stdout for itself.
        _ if to_stdout => io.say(text),
        Shown::Table => io.say(text),
        Shown::Json => io.json(&json!({
            "id": short(&digest),
            "digest": digest.to_string(),
            "format": args.format.format().name(),
            "file": args.out,
            "diskBytes": exported.disk_bytes,
            "imageBytes": exported.image_bytes,
            "writtenBytes": exported.written_bytes,
            "verified": args.verify,
            "cpuSeconds": cpu_seconds(),
        }))?,
    }
    Ok(())
}

fn write(
    disk: &store::StoredDisk,
    args: &Get,
    sink: &mut dyn Sink,
    watch: &Watch,
) -> Result<Exported, Failure> {
    let mut id = [0; 16];
    id.copy_from_slice(&disk.digest().as_bytes()[..16]);
    let options = Options {
        format: args.format.format(),
        id: Uuid::from_bytes(id),
    };
    export(disk, &options, sink, &|done| watch.at(done)).map_err(|error| not_written(args, error))
}

fn not_written(args: &Get, error: ExportError) -> Failure {
    let what = format!("cannot write `{}`", args.out.display());
    match error {
        ExportError::Stopped => Failure::interrupted(what),
        error => Failure::new(what, error),
    }
}

fn write_file(
    store: &Store,
    disk: &store::StoredDisk,
    args: &Get,
    whole: &Whole,
    watch: &Watch,
) -> Result<Exported, Failure> {
    if args.format == Output::Raw {
        return check_out(store, disk, whole, watch);
    }
    let mut file = ImageFile::create(whole.partial()).map_err(|error| whole.failed(error))?;
    let exported = write(disk, args, &mut file, watch)?;
    file.finish().map_err(|error| whole.failed(error))?;
    Ok(exported)
}

/// A raw file needs no order, so frames are read in theirs, by all threads.
fn check_out(
    store: &Store,
    disk: &store::StoredDisk,
    whole: &Whole,
    watch: &Watch,
) -> Result<Exported, Failure> {
    let note = store::sidecar_path(whole.partial());
    let written = store.checkout_watched(disk.digest(), whole.partial(), &|done| watch.at(done));
    // The note beside the file is for disks that the store will change again; this one leaves it.
    let _ = std::fs::remove_file(note);
    let written = written.map_err(|error| match error {
        StoreError::Stopped => {
            Failure::interrupted(format!("cannot write `{}`", whole.path.display()))
        }
        error => whole.failed(error),
    })?;
    Ok(Exported {
        disk_bytes: disk.size(),
        image_bytes: disk.size(),
        written_bytes: written.written_bytes,
    })
}

/// Formats round the size of a disk up, so only as much as the disk has is compared.
fn verify(path: &Path, digest: &DiskDigest, size: u64, format: Format) -> Result<(), Failure> {
    let wrong = || format!("cannot read `{}` back", path.display());
    let limits = Limits {
        max_bytes: u64::MAX,
    };
    let file = FileDisk::open(path).map_err(|error| Failure::new(wrong(), error))?;
    let image =
        Image::open_as(file, format, limits).map_err(|error| Failure::new(wrong(), error))?;
    let found = Window::new(image, 0..size)
        .and_then(|disk| digest_of(&disk))
        .map_err(|error| Failure::new(wrong(), error))?;
    match found.0 == *digest {
        true => Ok(()),
        false => Err(Failure::plain(format!(
            "the image reads back as {}, not as {digest}",
            found.0
        ))),
    }
}

pub(super) fn push(args: &Push, io: &mut Io) -> Result<(), Failure> {
    let store = open(&args.at, io)?;
    let digest = find(&store, &args.id)?;
    let (moved, frames, present) = if args.to.extension().is_some_and(|end| end == BUNDLE) {
        bundle(args, &store, &digest, io)?
    } else {
        if args.without.is_some() {
            return Err(Failure::usage(
                "another store is asked what it has: leave `--without` out",
            ));
        }
        let moved = replicate(args, &store, &digest, io)?;
        (
            moved.frame_bytes + moved.manifest_bytes,
            moved.frames,
            moved.frames_present,
        )
    };
    let text = format!("Moved {moved} bytes: {frames} frames; {present} were there.");
    match io.format {
        Shown::Table => io.say(text),
        Shown::Json => io.json(&json!({
            "id": short(&digest),
            "digest": digest.to_string(),
            "to": args.to,
            "movedBytes": moved,
            "frames": frames,
            "framesPresent": present,
            "cpuSeconds": cpu_seconds(),
        }))?,
    }
    Ok(())
}

fn replicate(args: &Push, from: &Store, digest: &DiskDigest, io: &Io) -> Result<Moved, Failure> {
    let to = args.to.to_str().unwrap_or_default();
    let to = to
        .parse()
        .map_err(|error| Failure::new(format!("`{to}` is no place of a store"), error));
    let to = open_place(&to?, args.to_key_file.as_deref(), io)?;
    let progress = cli::progress::Progress::start(io);
    Store::replicate(from, &to, digest, &|state| {
        let (done, total) = (state.bytes_done >> 20, state.bytes_total >> 20);
        progress.show(format!("copying: {done} of {total} MiB"));
    })
    .map_err(|error| Failure::new(format!("cannot copy to `{}`", args.to.display()), error))
}

/// The bundle's own key: it opens this bundle and nothing else.
fn bundle_key(args: &Push, io: &mut Io) -> Result<Domain, Failure> {
    if args.no_encryption {
        return Ok(Domain::unsealed());
    }
    let beside = bundle_key_path(&args.to);
    let path = args.bundle_key.as_ref().unwrap_or(&beside);
    if args.bundle_key.is_some() && path.exists() {
        return read_secret(path)
            .map_err(|error| Failure::new("cannot read the bundle's key", error));
    }
    let key = Domain::random();
    write_secret(path, &key)
        .map_err(|error| Failure::new("cannot write the bundle's key", error))?;
    io.say(format!(
        "The key of the bundle is `{}`: bring it to the receiver by another way than the bundle.",
        path.display()
    ));
    Ok(key)
}

fn bundle(
    args: &Push,
    store: &Store,
    digest: &DiskDigest,
    io: &mut Io,
) -> Result<(u64, u64, u64), Failure> {
    let without = args.without.as_deref().map(|id| find(store, id));
    let without = without.transpose()?;
    let whole = Whole::new(&args.to)?;
    let file = File::create_new(whole.partial()).map_err(|error| whole.failed(error))?;
    let mut file = BufWriter::with_capacity(1 << 20, file);
    let key = bundle_key(args, io)?;
    let made = store
        .bundle(digest, without.as_ref(), &key, &mut file)
        .map_err(|error| whole.failed(error))?;
    file.into_inner()
        .map_err(|error| error.into_error())
        .and_then(|file| file.sync_all())
        .map_err(|error| whole.failed(error))?;
    whole.finish()?;
    Ok((made.bytes, made.frames, made.frames_present))
}
