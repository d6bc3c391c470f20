//! Where the key of a store is found, and `store key`: what can be done with it.
//!
//! A store that `init` made has a key file of its own in the user's configuration folder; the
//! stores of a server share the one in its data folder.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Subcommand};
use cli::io::{Format, Io, table};
use serde_json::{Value, json};
use store::keys::{read_secret, write_secret};
use store::{KeyFile, KeyState, Keys, Store, StoreId, StoreOptions};

use super::{At, open_place};
use crate::offline::Failure;

/// Names a key file for every command.
const VARIABLE: &str = "BULLION_STORE_KEY_FILE";
/// The key file of a server, seen from one of its stores.
const OF_SERVER: &str = "../../../keys/stores.key";

#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Show whether a store is encrypted and where its key is
    #[command(after_help = "Example:
  bullion store key show --at /srv/images")]
    Show(At),

    /// Wrap the store's secret with a new key
    #[command(
        long_about = "Wrap the store's secret with a new key

One small file of the store is written anew, whatever the store holds. The old keys stay in the key
file until `--drop-old`, because other stores may need them.",
        after_help = "Examples:
  bullion store key rotate --at /srv/images
  bullion store key rotate --drop-old --at /srv/images   # the key file serves this store alone"
    )]
    Rotate(Rotate),

    /// Write the store's secret into a file, to be locked away
    #[command(
        long_about = "Write the store's secret into a file, to be locked away

Whoever has that file can read the store, and every store of the same domain. It is what helps when
the key file is lost.",
        after_help = "Example:
  bullion store key export /media/safe/images.secret --at /srv/images"
    )]
    Export(Secret),

    /// Read a store again whose key file is lost
    #[command(after_help = "Example:
  bullion store key import /media/safe/images.secret --at /srv/images")]
    Import(Secret),

    /// Erase the store's secret: nothing in it can be read again
    #[command(
        long_about = "Erase the store's secret: nothing in it can be read again

The wrapped secret is deleted, so that no key file helps any more. `gc`, `delete`, `list` and `scrub`
still work. Only a secret that was exported before, in another store of the same domain, lives on.",
        after_help = "Example:
  bullion store key erase --yes --at /srv/images"
    )]
    Erase(Erase),
}

#[derive(Debug, Args)]
pub struct Rotate {
    #[command(flatten)]
    at: At,

    /// Forget the older keys of the key file; other stores must not need them
    #[arg(long)]
    drop_old: bool,
}

#[derive(Debug, Args)]
pub struct Secret {
    /// File with the secret
    file: PathBuf,

    #[command(flatten)]
    at: At,
}

#[derive(Debug, Args)]
pub struct Erase {
    #[command(flatten)]
    at: At,

    /// There is no way back
    #[arg(long)]
    yes: bool,
}

/// Where the key of this store is, whether or not it is there.
pub(super) fn path(id: StoreId, folder: Option<&Path>, given: Option<&Path>, io: &Io) -> PathBuf {
    if let Some(given) = given {
        return given.to_owned();
    }
    if let Some(named) = io.variable(VARIABLE) {
        return named.into();
    }
    let server = folder.map(|folder| of_domain(folder).unwrap_or_else(|| folder.join(OF_SERVER)));
    let own = own(id, io);
    match server.filter(|server| !own.exists() && server.exists()) {
        Some(server) => server,
        None => own,
    }
}

/// The key file of a disk encryption set, seen from one of its stores: `REGION/ZONE/domains/NAME`.
fn of_domain(folder: &Path) -> Option<PathBuf> {
    let folder = std::path::absolute(folder).ok()?;
    let name = folder.file_name()?.to_str()?;
    let above = folder.parent()?;
    let key = format!("../../../keys/domains/{name}.key");
    (above.file_name()? == "domains").then(|| above.join("..").join(key))
}

fn own(id: StoreId, io: &Io) -> PathBuf {
    let config = match (io.variable("XDG_CONFIG_HOME"), io.variable("HOME")) {
        (Some(config), _) => PathBuf::from(config),
        (None, Some(home)) => Path::new(home).join(".config"),
        (None, None) => PathBuf::from("."),
    };
    config.join("bullion/keys").join(format!("{id}.key"))
}

/// The key of a store that is there. Without its file the store opens locked.
pub(super) fn of_store(
    id: Option<StoreId>,
    folder: Option<&Path>,
    given: Option<&Path>,
    io: &Io,
) -> Result<Keys, Failure> {
    let Some(id) = id else {
        return Ok(Keys::Unknown);
    };
    let path = path(id, folder, given, io);
    match path.exists() || given.is_some() {
        true => Ok(Keys::Service(Arc::new(load(&path)?))),
        false => Ok(Keys::Unknown),
    }
}

fn load(path: &Path) -> Result<KeyFile, Failure> {
    KeyFile::load(path).map_err(|error| Failure::new("cannot read the key", error))
}

/// What a new store is made with, and where its key is.
pub(super) fn of_new_store(
    folder: Option<&Path>,
    given: Option<&Path>,
    io: &Io,
) -> Result<(StoreOptions, PathBuf), Failure> {
    let id = StoreId::random();
    let path = path(id, folder, given, io);
    let keys = KeyFile::load_or_create(&path)
        .map_err(|error| Failure::new("cannot make the key of the store", error))?;
    let options = StoreOptions {
        keys: Keys::Service(Arc::new(keys)),
        id: Some(id),
        ..StoreOptions::default()
    };
    Ok((options, path))
}

pub(super) fn run(command: KeyCommand, io: &mut Io) -> Result<(), Failure> {
    match command {
        KeyCommand::Show(at) => show(&at, io),
        KeyCommand::Rotate(args) => rotate(&args, io),
        KeyCommand::Export(args) => export(&args, io),
        KeyCommand::Import(args) => import(&args, io),
        KeyCommand::Erase(args) => erase(&args, io),
    }
}

fn key_path(store: &Store, at: &At, io: &Io) -> PathBuf {
    path(store.id(), at.place.folder(), at.key_file.as_deref(), io)
}

fn show(at: &At, io: &mut Io) -> Result<(), Failure> {
    let store = open_place(&at.place, at.key_file.as_deref(), io)?;
    let info = store
        .key_info()
        .map_err(|error| Failure::new("cannot read the store's keys", error))?;
    let (state, service) = match &info.state {
        KeyState::Off => ("off", None),
        KeyState::Wrapped { service } => ("wrapped", Some(service.clone())),
        KeyState::Erased => ("erased", None),
    };
    let path = matches!(info.state, KeyState::Wrapped { .. }).then(|| key_path(&store, at, io));
    let shown = json!({
        "store": info.store.to_string(),
        "domain": info.domain.to_string(),
        "encryption": state,
        "service": service,
        "keyFile": path,
        "wrappedTimes": info.generation,
        "locked": info.locked,
    });
    match (io.format, &shown) {
        (Format::Table, Value::Object(fields)) => {
            let text = |value: &Value| match value {
                Value::String(text) => text.clone(),
                Value::Null => "-".to_owned(),
                other => other.to_string(),
            };
            let fields = fields.iter();
            let rows: Vec<Vec<String>> = fields
                .map(|(key, value)| vec![key.clone(), text(value)])
                .collect();
            Ok(io.line(table(&["WHAT", "VALUE"], &rows))?)
        }
        _ => Ok(io.json(&shown)?),
    }
}

fn rotate(args: &Rotate, io: &mut Io) -> Result<(), Failure> {
    let store = super::open(&args.at, io)?;
    let path = key_path(&store, &args.at, io);
    let keys = load(&path)?;
    let failed = |error| Failure::new("cannot write the key file", error);
    keys.rotate().map_err(failed)?;
    store
        .rewrap(&keys)
        .map_err(|error| Failure::new("cannot wrap the store's secret", error))?;
    if args.drop_old {
        keys.drop_old().map_err(failed)?;
    }
    io.say(format!(
        "The store's key is a new one in `{}`.",
        path.display()
    ));
    Ok(())
}

fn export(args: &Secret, io: &mut Io) -> Result<(), Failure> {
    let store = super::open(&args.at, io)?;
    let info = store
        .key_info()
        .map_err(|error| Failure::new("cannot read the store's keys", error))?;
    let domain = store.domain().filter(|_| info.state != KeyState::Off);
    let domain = domain.ok_or_else(|| Failure::plain("the store is not encrypted"))?;
    write_secret(&args.file, &domain)
        .map_err(|error| Failure::new("cannot write the secret", error))?;
    io.say(format!(
        "Whoever has `{}` can read the store: lock it away.",
        args.file.display()
    ));
    Ok(())
}

fn import(args: &Secret, io: &mut Io) -> Result<(), Failure> {
    let failed = |error| Failure::new("cannot read the secret", error);
    let domain = read_secret(&args.file).map_err(failed)?;
    let store = open_place(&args.at.place, None, io)?;
    let path = key_path(&store, &args.at, io);
    let keys = KeyFile::load_or_create(&path)
        .map_err(|error| Failure::new("cannot make the key of the store", error))?;
    store
        .restore(&domain, &keys)
        .map_err(|error| Failure::new("cannot read the store with this secret", error))?;
    io.say(format!("The store's key is in `{}`.", path.display()));
    Ok(())
}

fn erase(args: &Erase, io: &mut Io) -> Result<(), Failure> {
    if !args.yes {
        return Err(
            Failure::usage("nothing in the store can be read afterwards")
                .hint("if that is what you want, add `--yes`"),
        );
    }
    let store = open_place(&args.at.place, args.at.key_file.as_deref(), io)?;
    store
        .erase()
        .map_err(|error| Failure::new("cannot erase the store's secret", error))?;
    io.say("Erased. `bullion store delete` and `gc` give the room back.");
    Ok(())
}
