//! `store init` and `store put`: what goes in.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::ValueEnum;
use cli::io::{Format as Shown, Io};
use disk::image::{Format, Image, Layer, Limits};
use disk::{DiskDigest, ReadAt};
use serde_json::{Value, json};
use store::keys::read_secret;
use store::{
    FileDisk, FrameSource, Ingested, Keys, Overlay, Serving, Store, StoreError, StoreId,
    StoreOptions,
};

use super::watch::{Counted, Watch, cpu_seconds};
use super::{At, find, keys, open, short};
use crate::offline::Failure;

#[derive(Debug, clap::Args)]
pub struct Init {
    #[command(flatten)]
    at: At,

    /// Store what it holds as it is
    #[arg(long, conflicts_with = "key_file")]
    no_encryption: bool,
}

#[derive(Debug, clap::Args)]
pub struct Put {
    /// Disk image, block device or bundle
    disk: PathBuf,

    #[command(flatten)]
    at: At,

    /// The stored disk that a qcow2 image was written over; only what was written is read
    #[arg(long, value_name = "ID")]
    parent: Option<String>,

    /// Take the file for this, whatever it looks like
    #[arg(long, value_name = "FORMAT", conflicts_with = "parent")]
    format: Option<Input>,

    /// The key of a bundle, if it is not beside it as BUNDLE.key
    #[arg(long, value_name = "FILE")]
    bundle_key: Option<PathBuf>,

    /// Refuse disks that are larger than this many GiB
    #[arg(long, value_name = "GIB", default_value_t = 2048)]
    max_size: u64,
}

/// A format that images are read in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Input {
    Raw,
    Qcow2,
    Vhd,
    VhdDynamic,
    Vhdx,
    Vmdk,
}

impl Input {
    fn format(self) -> Format {
        match self {
            Input::Raw => Format::Raw,
            Input::Qcow2 => Format::Qcow2,
            Input::Vhd => Format::VhdFixed,
            Input::VhdDynamic => Format::VhdDynamic,
            Input::Vhdx => Format::Vhdx,
            Input::Vmdk => Format::Vmdk,
        }
    }
}

pub(super) fn init(args: &Init, io: &mut Io) -> Result<(), Failure> {
    let at = &args.at;
    let place = &at.place;
    let known = place.folder().map(StoreId::of_folder);
    if known.is_some_and(|known| known.ok().flatten().is_some()) {
        return Err(Failure::plain(format!(
            "there is a store in {place} already"
        )));
    }
    let (options, key) = match args.no_encryption {
        true => {
            let keys = Keys::Off;
            (
                StoreOptions {
                    keys,
                    ..StoreOptions::default()
                },
                None,
            )
        }
        false => {
            let (options, key) = keys::of_new_store(place.folder(), at.key_file.as_deref(), io)?;
            (options, Some(key))
        }
    };
    let store = Store::create_at(place, options)
        .map_err(|error| Failure::new(format!("cannot make a store in `{place}`"), error))?;
    match io.format {
        Shown::Json => Ok(io.json(&json!({
            "store": place.to_string(),
            "id": store.id().to_string(),
            "encrypted": !args.no_encryption,
            "keyFile": key,
        }))?),
        Shown::Table => {
            io.say(format!("Made a store in `{place}`."));
            if let Some(key) = key {
                io.say(format!(
                    "Its key is `{}`: without it the store cannot be read, so keep a copy elsewhere.",
                    key.display()
                ));
            }
            Ok(())
        }
    }
}

pub(super) fn put(args: &Put, io: &mut Io) -> Result<(), Failure> {
    let store = open(&args.at, io)?;
    if is_bundle(&args.disk)? {
        return unbundle(args, &store, io);
    }
    if args.format.is_none() && args.parent.is_none() && Overlay::is_one(&args.disk) {
        return put_changes(args, &store, io);
    }
    let file = FileDisk::open(&args.disk).map_err(|error| unreadable(&args.disk, error))?;
    let (file, read) = Counted::new(file);
    let limits = Limits {
        max_bytes: args.max_size.saturating_mul(1 << 30),
    };
    let (format, taken) = match &args.parent {
        Some(parent) => put_layer(args, &store, parent, (file, limits), io)?,
        None => put_image(args, &store, (file, limits), io)?,
    };
    let digest = taken.digest;
    tell(io, &digest, &shown(&taken, format, &read), &summary(&taken))
}

type Opened = (Counted<FileDisk>, Limits);

fn put_image(
    args: &Put,
    store: &Store,
    (file, limits): Opened,
    io: &Io,
) -> Result<(Format, Ingested), Failure> {
    let opened = match args.format {
        Some(format) => Image::open_as(file, format.format(), limits),
        None => Image::open(file, limits),
    };
    let image = opened.map_err(|error| unreadable(&args.disk, error))?;
    let watch = Watch::start(io, format!("reading {}", image.format()), image.size())?;
    let taken = store.ingest_watched(&image, &|done| watch.at(done));
    Ok((
        image.format(),
        taken.map_err(|error| not_taken(args, error))?,
    ))
}

fn put_layer(
    args: &Put,
    store: &Store,
    parent: &str,
    (file, limits): Opened,
    io: &Io,
) -> Result<(Format, Ingested), Failure> {
    let parent = find(store, parent)?;
    let layer = Layer::open(file, limits).map_err(|error| {
        unreadable(&args.disk, error)
            .hint("for any other image leave `--parent` out: what the store has is found anyway")
    })?;
    let watch = Watch::start(io, "reading what was written", layer.size())?;
    let taken = store.ingest_layer(&parent, &layer, &|done| watch.at(done));
    Ok((
        Format::Qcow2,
        taken.map_err(|error| not_taken(args, error))?,
    ))
}

/// What `store serve --changes` has written.
fn put_changes(args: &Put, store: &Store, io: &mut Io) -> Result<(), Failure> {
    let base = Overlay::base_of(&args.disk).map_err(|error| unreadable(&args.disk, error))?;
    let source: Arc<dyn FrameSource> = Arc::new(store.clone());
    let opened = Serving::new()
        .map_err(StoreError::ReadDisk)
        .and_then(|serving| serving.disk(&source, &base));
    let parent = opened.map_err(|error| not_taken(args, error))?;
    let overlay = Overlay::open(&args.disk, Arc::new(parent));
    let overlay = overlay.map_err(|error| unreadable(&args.disk, error))?;
    let watch = Watch::start(io, "reading what was written", overlay.size())?;
    let taken = store.ingest_overlay(&overlay, &|done| watch.at(done));
    let taken = taken.map_err(|error| not_taken(args, error))?;
    let read = Arc::new(AtomicU64::new(overlay.changed_bytes()));
    let shown = shown(&taken, Format::Raw, &read);
    tell(io, &taken.digest, &shown, &summary(&taken))
}

fn unreadable(path: &Path, error: impl std::error::Error) -> Failure {
    Failure::new(format!("cannot read `{}`", path.display()), error)
}

fn not_taken(args: &Put, error: StoreError) -> Failure {
    let what = format!("cannot store `{}`", args.disk.display());
    match error {
        StoreError::Stopped => Failure::interrupted(what)
            .hint("run it again: what is stored already is found and not stored twice"),
        error if error.is_no_space() => Failure::new(what, error)
            .hint("make room, then run it again: what is stored already is not stored twice"),
        error => Failure::new(what, error),
    }
}

fn is_bundle(path: &Path) -> Result<bool, Failure> {
    let mut head = Vec::new();
    let file = File::open(path).map_err(|error| unreadable(path, error))?;
    let read = file.take(8).read_to_end(&mut head);
    read.map_err(|error| unreadable(path, error))?;
    Ok(store::is_bundle(&head))
}

/// Where `push` puts the key of a bundle, unless told otherwise.
pub(super) fn bundle_key_path(bundle: &Path) -> PathBuf {
    let mut path = bundle.as_os_str().to_owned();
    path.push(".key");
    path.into()
}

fn unbundle(args: &Put, store: &Store, io: &mut Io) -> Result<(), Failure> {
    if args.parent.is_some() || args.format.is_some() {
        return Err(Failure::usage(
            "a bundle says itself what it holds: leave `--parent` and `--format` out",
        ));
    }
    let file = File::open(&args.disk).map_err(|error| unreadable(&args.disk, error))?;
    let beside = bundle_key_path(&args.disk);
    let key = args.bundle_key.as_ref().unwrap_or(&beside);
    let key = match args.bundle_key.is_some() || key.exists() {
        true => Some(
            read_secret(key)
                .map_err(|error| Failure::new("cannot read the bundle's key", error))?,
        ),
        false => None,
    };
    let taken = store
        .unbundle(&mut BufReader::with_capacity(1 << 20, file), key.as_ref())
        .map_err(|error| {
            let hint = match error {
                StoreError::UnknownDisk(_) => {
                    Some("the bundle was made `--without` a disk: put that disk first")
                }
                StoreError::BundleKey { .. } => {
                    Some("name the key that `push` wrote for this bundle with `--bundle-key`")
                }
                _ => None,
            };
            let failure = not_taken(args, error);
            match hint {
                Some(hint) => failure.hint(hint),
                None => failure,
            }
        })?;
    let shown = json!({
        "id": short(&taken.digest),
        "digest": taken.digest.to_string(),
        "format": "bundle",
        "logicalBytes": taken.logical_bytes,
        "readBytes": taken.bytes,
        "dataBytes": taken.data_bytes,
        "storedBytes": taken.stored_bytes,
        "movedBytes": taken.bytes,
        "cpuSeconds": cpu_seconds(),
    });
    let text = format!("{} bytes of {} were new.", taken.stored_bytes, taken.bytes);
    tell(io, &taken.digest, &shown, &text)
}

fn shown(taken: &Ingested, format: Format, read: &Arc<AtomicU64>) -> Value {
    json!({
        "id": short(&taken.digest),
        "digest": taken.digest.to_string(),
        "format": format.name(),
        "logicalBytes": taken.logical_bytes,
        "readBytes": read.load(Ordering::Relaxed),
        "dataBytes": taken.data_bytes,
        "newBytes": taken.new_bytes,
        "storedBytes": taken.stored_bytes,
        "manifestBytes": taken.manifest_bytes,
        "cpuSeconds": cpu_seconds(),
    })
}

fn summary(taken: &Ingested) -> String {
    format!(
        "{} bytes of data, {} of them new, {} stored.",
        taken.data_bytes, taken.new_bytes, taken.stored_bytes
    )
}

fn tell(io: &mut Io, digest: &DiskDigest, shown: &Value, text: &str) -> Result<(), Failure> {
    match io.format {
        Shown::Json => Ok(io.json(shown)?),
        Shown::Table => {
            io.say(text);
            Ok(io.line(format!("{}  {digest}", short(digest)))?)
        }
    }
}
