//! What a store is: its name, its domain, and whether it can be read now.
//!
//! The header is written once. The wrapped secret lies in a file of its own, which a rotation
//! replaces and erasing empties; nothing else of a store depends on who wraps the secret.

use std::error::Error as _;
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::{PoisonError, RwLockReadGuard};

use crate::codec::{MANIFESTS, PACKS, Reader, hex};
use crate::collect::NOTE;
use crate::domain::{AtRest, Domain, DomainId};
use crate::error::StoreError;
use crate::index;
use crate::keys::{
    KEYS, KeyError, KeyService, Keys, MAX_WRAPPED_BYTES, State, read_record, write_record,
};
use crate::place::Place;
use crate::serve::TRACES;
use crate::store::{Inner, Store, StoreOptions, list};

pub(crate) const HEADER: &str = "store.bullion";

const MAGIC: &[u8; 8] = b"BULSTOR\0";
const VERSION: u32 = 1;
const CONTEXT: &str = "bullion store header v1";
const SEALED: u32 = 1;
const ERASED: &str = "its keys were erased";
const HEADER_BYTES: u64 = 112;
/// All that a store writes, its header last.
const FOLDERS: [&str; 4] = [MANIFESTS, TRACES, PACKS, index::FOLDER];
const FILES: [&str; 4] = [index::ROOT, NOTE, KEYS, HEADER];
const KEYS_BYTES: u64 = MAX_WRAPPED_BYTES as u64 + 512;

/// A store's own name, which stays with it wherever it is moved. As text, 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreId([u8; 16]);

impl StoreId {
    pub fn random() -> StoreId {
        StoreId(rand::random())
    }

    /// The name of the store in a folder, which may be open elsewhere; none if there is no store.
    pub fn of_folder(folder: &Path) -> Result<Option<StoreId>, StoreError> {
        let mut bytes = Vec::new();
        let read = File::open(folder.join(HEADER))
            .and_then(|file| file.take(HEADER_BYTES + 1).read_to_end(&mut bytes));
        match read {
            Ok(_) => match Header::decode(&bytes) {
                Ok(header) => Ok(Some(header.store)),
                Err(what) => Err(StoreError::Damaged {
                    name: HEADER.to_owned(),
                    what,
                }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StoreError::Open {
                folder: folder.to_owned(),
                source,
            }),
        }
    }

    /// The store in a place, if there is one.
    pub fn of_place(place: &dyn Place) -> Result<Option<StoreId>, StoreError> {
        let name = || HEADER.to_owned();
        match place.get(HEADER, HEADER_BYTES) {
            Ok(None) => Ok(None),
            Ok(Some(bytes)) => match Header::decode(&bytes) {
                Ok(header) => Ok(Some(header.store)),
                Err(what) => Err(StoreError::Damaged { name: name(), what }),
            },
            Err(source) => Err(StoreError::Get {
                name: name(),
                source,
            }),
        }
    }
}

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What the header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) store: StoreId,
    pub(crate) domain: DomainId,
    /// In the open, where the store is not encrypted.
    secret: Option<[u8; 32]>,
}

/// Whether the secret is known.
#[derive(Debug)]
pub(crate) enum Lock {
    Open(Domain),
    Locked { why: String },
}

/// Whether and how a store is encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyState {
    /// It is not.
    Off,
    /// Its secret is wrapped by this service.
    Wrapped { service: String },
    /// Its secret is gone for good.
    Erased,
}

/// What there is to say about a store's secret without telling it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyInfo {
    pub store: StoreId,
    pub domain: DomainId,
    pub state: KeyState,
    /// How often it was wrapped.
    pub generation: u64,
    /// Why the store cannot be read now, if it cannot.
    pub locked: Option<String>,
}

impl Header {
    fn encode(&self) -> Vec<u8> {
        let flags = match self.secret {
            None => SEALED,
            Some(_) => 0,
        };
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&flags.to_le_bytes());
        bytes.extend_from_slice(&self.store.0);
        bytes.extend_from_slice(self.domain.as_bytes());
        bytes.extend_from_slice(&self.secret.unwrap_or_default());
        let check = blake3::derive_key(CONTEXT, &bytes);
        bytes.extend_from_slice(&check);
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Header, &'static str> {
        let mut reader = Reader::new(bytes);
        if reader.take(8)? != MAGIC {
            return Err("it is not a store's header");
        }
        let (version, flags) = (reader.u32()?, reader.u32()?);
        if version != VERSION || flags & !SEALED != 0 {
            return Err("the store has an unknown version");
        }
        let (store, domain) = (StoreId(reader.array()?), DomainId(reader.array()?));
        let secret: [u8; 32] = reader.array()?;
        let header = Header {
            store,
            domain,
            secret: (flags & SEALED == 0).then_some(secret),
        };
        match header.encode() == bytes {
            true => Ok(header),
            false => Err("its checksum is wrong"),
        }
    }

    /// The secret of an encrypted store, or why there is none.
    fn unlock(&self, place: &dyn Place, options: &StoreOptions) -> Result<Lock, StoreError> {
        if let Some(secret) = self.secret {
            return Ok(Lock::Open(Domain::new(secret, AtRest::Plain)));
        }
        let given = options.domain.as_ref();
        let given = given.filter(|given| given.id() == self.domain);
        let (_, state) = read_keys(place)?;
        let locked = |why: &str| Ok(Lock::Locked { why: why.into() });
        let wrapped = match state {
            State::Erased => return locked(ERASED),
            State::Wrapped { wrapped, .. } => wrapped,
        };
        if let Some(given) = given.filter(|given| given.at_rest() == AtRest::Sealed) {
            return Ok(Lock::Open(given.clone()));
        }
        let Keys::Service(service) = &options.keys else {
            return locked("it is encrypted, and no key was given");
        };
        match service.unwrap(&self.domain, &wrapped) {
            Ok(secret) if DomainId::of(&secret) == self.domain => {
                Ok(Lock::Open(Domain::from_secret(secret)))
            }
            Ok(_) => locked("the key service gave another domain's secret"),
            Err(error) => locked(&match error.source() {
                Some(source) => format!("{error}: {source}"),
                None => error.to_string(),
            }),
        }
    }
}

/// The header of a store and its lock; a new store if there is none here yet.
pub(crate) fn open_header(
    place: &dyn Place,
    options: &StoreOptions,
) -> Result<(Header, Lock), StoreError> {
    let get = |source| StoreError::Get {
        name: HEADER.to_owned(),
        source,
    };
    let what = match place.get(HEADER, HEADER_BYTES) {
        Ok(Some(bytes)) => match Header::decode(&bytes) {
            Ok(header) => {
                let lock = header.unlock(place, options)?;
                return Ok((header, lock));
            }
            Err(what) => what,
        },
        Ok(None) => "it is gone, and the packs depend on it",
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => "it is too long",
        Err(error) => return Err(get(error)),
    };
    // An interrupted start may leave anything, but never a pack.
    if !list(place, PACKS)?.is_empty() {
        return Err(StoreError::Damaged {
            name: HEADER.to_owned(),
            what,
        });
    }
    create(place, options)
}

fn create(place: &dyn Place, options: &StoreOptions) -> Result<(Header, Lock), StoreError> {
    let (domain, secret) = match &options.keys {
        Keys::Unknown => return Err(StoreError::NoKeys),
        Keys::Off => {
            let secret = rand::random();
            (Domain::new(secret, AtRest::Plain), Some(secret))
        }
        Keys::Service(service) => {
            let given = options.domain.clone();
            let given = given.filter(|given| given.at_rest() == AtRest::Sealed);
            let domain = given.unwrap_or_else(Domain::random);
            write_keys(place, 1, &wrapped_by(&**service, &domain)?)?;
            (domain, None)
        }
    };
    let header = Header {
        store: options.id.unwrap_or_else(StoreId::random),
        domain: domain.id(),
        secret,
    };
    put(place, HEADER, &header.encode())?;
    Ok((header, Lock::Open(domain)))
}

/// For fuzzing: reads bytes as either of the two files.
pub(crate) fn check_headers(bytes: &[u8]) {
    let _ = (Header::decode(bytes), read_record(bytes));
}

fn wrapped_by(service: &dyn KeyService, domain: &Domain) -> Result<State, StoreError> {
    Ok(State::Wrapped {
        service: service.name(),
        wrapped: service.wrap(&domain.id(), domain.secret())?,
    })
}

fn read_keys(place: &dyn Place) -> Result<(u64, State), StoreError> {
    let damaged = |what| StoreError::Damaged {
        name: KEYS.to_owned(),
        what,
    };
    match place.get(KEYS, KEYS_BYTES) {
        Ok(Some(bytes)) => read_record(&bytes).map_err(damaged),
        Ok(None) => Err(damaged(
            "it is gone, and without it the store cannot be read",
        )),
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => Err(damaged("it is too long")),
        Err(source) => Err(StoreError::Get {
            name: KEYS.to_owned(),
            source,
        }),
    }
}

fn write_keys(place: &dyn Place, generation: u64, state: &State) -> Result<(), StoreError> {
    put(place, KEYS, &write_record(generation, state))
}

fn put(place: &dyn Place, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
    place.put(name, bytes).map_err(|source| StoreError::Put {
        name: name.to_owned(),
        source,
    })
}

impl Inner {
    pub(crate) fn lock(&self) -> RwLockReadGuard<'_, Lock> {
        self.lock.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_lock(&self, lock: Lock) {
        *self.lock.write().unwrap_or_else(PoisonError::into_inner) = lock;
    }

    fn locked(&self, why: &str) -> StoreError {
        StoreError::Locked {
            domain: self.header.domain,
            why: why.to_owned(),
        }
    }

    /// The domain, if its secret is known.
    pub(crate) fn domain(&self) -> Result<Domain, StoreError> {
        match &*self.lock() {
            Lock::Open(domain) => Ok(domain.clone()),
            Lock::Locked { why } => Err(self.locked(why)),
        }
    }
}

impl Store {
    /// The domain of the store, for another store that shall belong to it; none if it is locked.
    pub fn domain(&self) -> Option<Domain> {
        self.0.domain().ok()
    }

    pub fn id(&self) -> StoreId {
        self.0.header.store
    }

    pub fn key_info(&self) -> Result<KeyInfo, StoreError> {
        let (generation, state) = match self.0.header.secret {
            Some(_) => (0, KeyState::Off),
            None => match read_keys(&*self.0.place)? {
                (generation, State::Erased) => (generation, KeyState::Erased),
                (generation, State::Wrapped { service, .. }) => {
                    (generation, KeyState::Wrapped { service })
                }
            },
        };
        let locked = match &*self.0.lock() {
            Lock::Open(_) => None,
            Lock::Locked { why } => Some(why.clone()),
        };
        Ok(KeyInfo {
            store: self.id(),
            domain: self.0.header.domain,
            state,
            generation,
            locked,
        })
    }

    /// Wraps the secret anew, with the newest key of a service, be it the same one or another.
    /// That is one small write, whatever the store holds.
    pub fn rewrap(&self, service: &dyn KeyService) -> Result<(), StoreError> {
        let _writer = self.0.writer();
        let domain = self.0.domain()?;
        if domain.at_rest() == AtRest::Plain {
            return Err(StoreError::NotEncrypted);
        }
        let (generation, _) = read_keys(&*self.0.place)?;
        write_keys(
            &*self.0.place,
            generation + 1,
            &wrapped_by(service, &domain)?,
        )
    }

    /// The same, unless the secret is wrapped with the newest key of this service. Whether it was
    /// wrapped anew.
    pub fn keep_wrapped(&self, service: &dyn KeyService) -> Result<bool, StoreError> {
        if self.0.header.secret.is_some() {
            return Ok(false);
        }
        let (_, state) = read_keys(&*self.0.place)?;
        match state {
            State::Erased => Ok(false),
            State::Wrapped {
                service: by,
                wrapped,
            } if by == service.name() && service.is_newest(&wrapped)? => Ok(false),
            State::Wrapped { .. } => self.rewrap(service).map(|()| true),
        }
    }

    /// Reads the store with a secret that was exported before, and has a service keep it from now
    /// on: for a store whose key is lost, but not for one that was erased.
    pub fn restore(&self, domain: &Domain, service: &dyn KeyService) -> Result<(), StoreError> {
        let _writer = self.0.writer();
        if self.0.header.secret.is_some() {
            return Err(StoreError::NotEncrypted);
        }
        if domain.id() != self.0.header.domain {
            return Err(StoreError::WrongSecret);
        }
        let (generation, state) = read_keys(&*self.0.place)?;
        if state == State::Erased {
            return Err(self.0.locked(ERASED));
        }
        let wrapped = wrapped_by(service, domain)?;
        write_keys(&*self.0.place, generation + 1, &wrapped)?;
        self.0.set_lock(Lock::Open(domain.clone()));
        Ok(())
    }

    /// Asks for the secret again, for instance when a key service is back. Whether it is known now.
    pub fn unlock(&self) -> Result<bool, StoreError> {
        if self.0.domain().is_ok() {
            return Ok(true);
        }
        let lock = self.0.header.unlock(&*self.0.place, &self.0.options)?;
        let open = matches!(lock, Lock::Open(_));
        self.0.set_lock(lock);
        Ok(open)
    }

    /// Asks the key service whether it would still give the secret, and forgets it where the service
    /// refuses: its owner took the key away. A service that cannot be reached has refused nothing.
    /// Whether the secret is known still.
    pub fn recheck(&self) -> Result<bool, StoreError> {
        let Keys::Service(service) = &self.0.options.keys else {
            return Ok(self.0.domain().is_ok());
        };
        if self.0.header.secret.is_some() || self.0.domain().is_err() {
            return Ok(self.0.domain().is_ok());
        }
        let (_, state) = read_keys(&*self.0.place)?;
        let State::Wrapped { wrapped, .. } = state else {
            return Ok(true);
        };
        match service.unwrap(&self.0.header.domain, &wrapped) {
            Err(error @ (KeyError::Refused { .. } | KeyError::WrongKey { .. })) => {
                let why = error.to_string();
                self.0.set_lock(Lock::Locked { why });
                Ok(false)
            }
            _ => Ok(true),
        }
    }

    /// Deletes the wrapped secret. From then on nothing in this store can be read by anyone, in
    /// this process or later; sweeping and copying still work. There is no way back, unless the
    /// secret was exported or another store of the domain has it.
    pub fn erase(&self) -> Result<(), StoreError> {
        let _writer = self.0.writer();
        if self.0.header.secret.is_some() {
            return Err(StoreError::NotEncrypted);
        }
        let (generation, _) = read_keys(&*self.0.place)?;
        write_keys(&*self.0.place, generation + 1, &State::Erased)?;
        self.0.set_lock(Lock::Locked {
            why: ERASED.to_owned(),
        });
        Ok(())
    }

    /// Erases the secret and removes every file of the store: for a domain that is given up. The header
    /// goes last, so that what an interruption left is a store still, and can be removed again.
    pub fn destroy(&self) -> Result<(), StoreError> {
        if self.0.header.secret.is_none() {
            self.erase()?;
        }
        let _writer = self.0.writer();
        let place = &*self.0.place;
        let delete = |name: &str| {
            place.delete(name).map_err(|source| StoreError::Delete {
                name: name.to_owned(),
                source,
            })
        };
        for folder in FOLDERS {
            for entry in list(place, folder)? {
                delete(&entry.name)?;
            }
        }
        FILES.iter().try_for_each(|name| delete(name))
    }
}
