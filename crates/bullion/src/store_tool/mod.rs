//! `store`: disks kept in a folder or an object store, without a server.
//!
//! A store belongs to one process at a time, so a running server answers for its own stores and
//! these commands say that it must be stopped.

mod clear;
mod get;
mod keys;
mod put;
mod repair;
mod serve;
mod show;
mod watch;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueEnum};
use cli::io::Io;
use disk::DiskDigest;
use disk::image::Format;
use store::place::At as Address;
use store::{KeyState, Store, StoreError, StoreId, StoreOptions};

use crate::offline::Failure;

/// Digits of a digest that are shown as the short name of a disk.
const SHORT_ID: usize = 12;
/// Fewer digits than this are more likely a slip than a name.
const MIN_ID: usize = 4;

#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Make a store in an empty or new folder
    #[command(
        long_about = "Make a store in an empty or new folder

What it holds is encrypted. Its key is a file in the configuration folder of the user, bullion/keys/ID.key,
or the one that `--key-file` or BULLION_STORE_KEY_FILE names. Keep a copy of it: without it the store
cannot be read.",
        after_help = "Examples:
  bullion store init --at /srv/images
  bullion store init --at /srv/images --key-file /media/keys/images.key
  bullion store init --at /tmp/scratch --no-encryption"
    )]
    Init(put::Init),

    /// Take in a disk image, or a bundle that `push` has written
    #[command(
        long_about = "Take in a disk image, or a bundle that `push` has written

The format is told by the content: raw, qcow2, VHD, VHDX or VMDK. Holes are not read, and blocks
that the store has are not stored again. Nothing that an image names is opened.",
        after_help = "Examples:
  bullion store put disk.qcow2 --at /srv/images
  bullion store put machine-overlay.qcow2 --parent 1f0c55a0e4d2 --at /srv/images
  bullion store put vm.disk --at /srv/images   # what `serve --changes vm.disk` has written
  bullion store put golden.bundle --at /srv/images --output json"
    )]
    Put(put::Put),

    /// Write a disk into an image file
    #[command(after_help = "Examples:
  bullion store get 1f0c55a0e4d2 disk.vhd --format vhd --at /srv/images
  bullion store get 1f0c55a0e4d2 disk.raw --at /srv/images --verify
  bullion store get 1f0c55a0e4d2 - --format qcow2 --at /srv/images | ssh host 'cat > disk.qcow2'")]
    Get(get::Get),

    /// List the disks that a store holds
    #[command(after_help = "Examples:
  bullion store list --at /srv/images
  bullion store list --at /var/lib/bullion/regions/north/1 --output json")]
    List(At),

    /// Copy a disk to another store, or into a bundle to be carried there
    #[command(
        long_about = "Copy a disk to another store, or into a bundle to be carried there

Only frames that the other store lacks are copied. A bundle cannot ask the other side what it has;
`--without` leaves out what a disk that is known to be there has.",
        after_help = "Examples:
  bullion store push 1f0c55a0e4d2 --to /mnt/other --at /srv/images
  bullion store push 1f0c55a0e4d2 --to 's3://golden/archive?endpoint=https://s3.example' --at /srv/images
  bullion store push 1f0c55a0e4d2 --to golden.bundle --at /srv/images
  bullion store push 77ab03c9d511 --to update.bundle --without 1f0c55a0e4d2 --at /srv/images"
    )]
    Push(get::Push),

    /// Serve disks to machines as network block devices, until Ctrl-C
    #[command(
        long_about = "Serve disks to machines as network block devices, until Ctrl-C

A machine can start from a disk without copying it first: what it reads is read from the store, checked, and kept in memory
for the next machine. Disks are read-only; with `--changes` one can be written to, and `bullion store put FILE` takes in what
was written. Each disk is offered under its short id, and a single one under the empty name too. Other hosts are served with
TLS alone.",
        after_help = "Examples:
  bullion store serve 1f0c55a0e4d2 --socket /run/images.sock --at /srv/images
  qemu-img convert -O raw 'nbd+unix:///1f0c55a0e4d2?socket=/run/images.sock' disk.raw
  bullion store serve 1f0c55a0e4d2 --socket vm.sock --changes vm.disk --at /srv/images
  bullion store serve 1f0c55a0e4d2 77ab03c9d511 --listen 0.0.0.0:10809 --certificate tls.pem --key tls.key \\
    --client-ca clients.pem --at /srv/images

With `--output json` stdout has one line when the disks can be reached and one at the end."
    )]
    Serve(serve::Serve),

    /// Show how much a store holds and what it takes
    #[command(after_help = "Example:
  bullion store status --at /var/lib/bullion/regions/north/1")]
    Status(At),

    /// Read disks back in full and hold them against their digests
    #[command(after_help = "Examples:
  bullion store scrub --at /var/lib/bullion/regions/north/1
  bullion store scrub 1f0c55a0e4d2 --at /srv/images")]
    Scrub(show::Scrub),

    /// Take what is damaged or missing from other stores
    #[command(
        long_about = "Take what is damaged or missing from other stores

The whole store is read. Frames that are damaged come from a store that has them; disks that still lack
something are copied again. What no store has is told.",
        after_help = "Examples:
  bullion store repair --at /srv/images --from /mnt/other
  bullion store repair --at /var/lib/bullion/regions/north/1 --from /var/lib/bullion/regions/south/1
  bullion store repair --at 's3://golden/north?region=eu' --from /srv/images --from /mnt/other"
    )]
    Repair(repair::Repair),

    /// Delete a disk; `gc` gives its room back
    #[command(after_help = "Example:
  bullion store delete 1f0c55a0e4d2 --at /srv/images && bullion store gc --at /srv/images")]
    Delete(clear::Delete),

    /// Give back the room of what no disk needs
    #[command(
        long_about = "Give back the room of what no disk needs

What deleted disks and interrupted writers left is noted first, and removed by a run that comes
after the grace period and still finds it unneeded. Packs of which less than half is needed are
written anew.",
        after_help = "Examples:
  bullion store gc --at /srv/images
  bullion store gc --grace-hours 0 --at /srv/images   # nobody reads from this store now"
    )]
    Gc(clear::Gc),

    /// Look after the key of a store: show, rotate, export, import, erase
    #[command(subcommand)]
    Key(keys::KeyCommand),
}

/// Which store.
#[derive(Debug, clap::Args)]
pub struct At {
    /// Folder of the store, or s3://, az://, gs://; a server's are DATA/regions/REGION/ZONE
    #[arg(long = "at", value_name = "PLACE", env = "BULLION_STORE")]
    place: Address,

    /// The key of the store, if it is not where `init` puts it
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
}

/// A format that images are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// The disk itself, sparse
    Raw,
    /// qcow2 with zstd clusters
    Qcow2,
    /// Fixed VHD of whole MiB, as Azure takes it
    Vhd,
    /// VHD that holds only what is used
    VhdDynamic,
    Vhdx,
}

impl Output {
    fn format(self) -> Format {
        match self {
            Output::Raw => Format::Raw,
            Output::Qcow2 => Format::Qcow2,
            Output::Vhd => Format::VhdFixed,
            Output::VhdDynamic => Format::VhdDynamic,
            Output::Vhdx => Format::Vhdx,
        }
    }
}

pub fn run(command: StoreCommand, io: &mut Io) -> Result<(), Failure> {
    match command {
        StoreCommand::Init(args) => put::init(&args, io),
        StoreCommand::Put(args) => put::put(&args, io),
        StoreCommand::Get(args) => get::get(&args, io),
        StoreCommand::List(at) => show::list(&open_maybe_locked(&at, io)?, io),
        StoreCommand::Push(args) => get::push(&args, io),
        StoreCommand::Serve(args) => serve::serve(&args, io),
        StoreCommand::Status(at) => show::status(&open_maybe_locked(&at, io)?, io),
        StoreCommand::Scrub(args) => show::scrub(&args, io),
        StoreCommand::Repair(args) => repair::repair(&args, io),
        StoreCommand::Delete(args) => clear::delete(&args, io),
        StoreCommand::Gc(args) => clear::gc(&args, io),
        StoreCommand::Key(command) => keys::run(command, io),
    }
}

/// A store whose content can be read.
fn open(at: &At, io: &Io) -> Result<Store, Failure> {
    readable(open_maybe_locked(at, io)?, at, io)
}

/// A store for what needs no key.
fn open_maybe_locked(at: &At, io: &Io) -> Result<Store, Failure> {
    open_place(&at.place, at.key_file.as_deref(), io)
}

fn readable(store: Store, at: &At, io: &Io) -> Result<Store, Failure> {
    let info = store.key_info();
    let info = info.map_err(|error| Failure::new("cannot read the store's keys", error))?;
    let Some(why) = info.locked else {
        return Ok(store);
    };
    let place = &at.place;
    let failure = Failure::plain(format!("the store `{place}` cannot be read: {why}"));
    if info.state == KeyState::Erased {
        return Err(failure);
    }
    let path = keys::path(store.id(), at.place.folder(), at.key_file.as_deref(), io);
    Err(failure.hint(format!(
        "its key is looked for in `{}`; name another one with `--key-file`",
        path.display()
    )))
}

/// A store that is there, wherever that is.
fn open_place(at: &Address, key_file: Option<&Path>, io: &Io) -> Result<Store, Failure> {
    let failed = |error| not_opened(at, error);
    let Some(folder) = at.folder() else {
        let place = store::taken(at).map_err(failed)?;
        let Some(id) = StoreId::of_place(&*place).map_err(failed)? else {
            let folder = PathBuf::from(at.to_string());
            return Err(failed(StoreError::NoStore { folder }));
        };
        let options = StoreOptions {
            keys: keys::of_store(Some(id), None, key_file, io)?,
            ..StoreOptions::default()
        };
        return Store::open_place(place, options).map_err(failed);
    };
    let id = StoreId::of_folder(folder).map_err(failed)?;
    let options = StoreOptions {
        keys: keys::of_store(id, Some(folder), key_file, io)?,
        ..StoreOptions::default()
    };
    Store::open_existing(folder, options).map_err(failed)
}

fn not_opened(at: &Address, error: StoreError) -> Failure {
    let hint = match error {
        StoreError::InUse { .. } => Some("stop the server that uses it, then run this again"),
        StoreError::NoStore { .. } => Some(
            "a server's stores are DATA/regions/REGION/ZONE; `bullion store init` makes a new one",
        ),
        _ => None,
    };
    let failure = Failure::new(format!("cannot open the store `{at}`"), error);
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// The disk that an id or the beginning of one stands for.
fn find(store: &Store, id: &str) -> Result<DiskDigest, Failure> {
    let digits = id.strip_prefix("bd1:").unwrap_or(id).to_ascii_lowercase();
    if digits.len() < MIN_ID {
        return Err(Failure::usage(format!(
            "`{id}` is too short for the id of a disk"
        )));
    }
    let disks = store
        .list()
        .map_err(|error| Failure::new("cannot list the store", error))?;
    let mut found = disks
        .iter()
        .map(|disk| disk.digest)
        .filter(|digest| digest.to_hex().starts_with(&digits));
    match (found.next(), found.next()) {
        (Some(digest), None) => Ok(digest),
        (Some(_), Some(_)) => Err(Failure::plain(format!(
            "several disks have an id that begins with `{id}`"
        ))
        .hint("give more digits; `bullion store list` shows them")),
        (None, _) => Err(Failure::plain(format!("the store holds no disk `{id}`"))
            .hint("`bullion store list` shows what it holds")),
    }
}

/// What people call a disk.
fn short(digest: &DiskDigest) -> String {
    let mut id = digest.to_hex();
    id.truncate(SHORT_ID);
    id
}

/// A file that appears under its name when it is whole, and leaves nothing behind otherwise.
struct Whole {
    path: PathBuf,
    partial: PathBuf,
    finished: bool,
}

impl Whole {
    fn new(path: &Path) -> Result<Whole, Failure> {
        if path.exists() {
            return Err(
                Failure::plain(format!("`{}` exists already", path.display()))
                    .hint("name a file that does not"),
            );
        }
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".partial");
        let whole = Whole {
            path: path.to_owned(),
            partial: path.with_file_name(name),
            finished: false,
        };
        match whole.clear() {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(whole.failed(error)),
            _ => Ok(whole),
        }
    }

    fn partial(&self) -> &Path {
        &self.partial
    }

    fn failed(&self, error: impl std::error::Error) -> Failure {
        Failure::new(format!("cannot write `{}`", self.path.display()), error)
    }

    fn clear(&self) -> io::Result<()> {
        std::fs::remove_file(&self.partial)
    }

    fn finish(mut self) -> Result<(), Failure> {
        let renamed = std::fs::rename(&self.partial, &self.path);
        renamed.map_err(|error| self.failed(error))?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        if !self.finished {
            // It may never have been made. There is nobody left to tell otherwise.
            let _ = self.clear();
        }
    }
}

/// For results that go to stdout themselves.
fn stdout() -> impl Write {
    io::BufWriter::with_capacity(1 << 20, io::stdout())
}
