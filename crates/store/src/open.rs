//! Opening a store by its address, wherever that is.

use std::io;
use std::path::PathBuf;

use crate::codec::PACKS;
use crate::error::StoreError;
use crate::index::Precedence;
use crate::place::{At, Place};
use crate::store::{Store, StoreOptions, is_store_in, list, read_footer};

impl Store {
    /// Opens the store at an address, which is made if it is not there. This process then has it to
    /// itself until the last clone is gone.
    pub fn open_at(at: &At, options: StoreOptions) -> Result<Store, StoreError> {
        match at.folder() {
            Some(folder) => Store::open(folder, options),
            None => Store::open_place(taken(at)?, options),
        }
    }

    /// Makes a store at an address, where there must be none.
    pub fn create_at(at: &At, options: StoreOptions) -> Result<Store, StoreError> {
        if let Some(folder) = at.folder() {
            return Store::create(folder, options);
        }
        let place = taken(at)?;
        match is_store_in(&*place)? {
            true => Err(StoreError::IsStore { folder: shown(at) }),
            false => Store::open_place(place, options),
        }
    }

    /// Opens a store that is there, and makes none.
    pub fn open_existing_at(at: &At, options: StoreOptions) -> Result<Store, StoreError> {
        if let Some(folder) = at.folder() {
            return Store::open_existing(folder, options);
        }
        let place = taken(at)?;
        match is_store_in(&*place)? {
            true => Store::open_place(place, options),
            false => Err(StoreError::NoStore { folder: shown(at) }),
        }
    }

    /// Looks for packs that are there and were not known: a list of an object store may have been
    /// older than what it listed. Answers how many there were.
    pub fn refresh(&self) -> Result<u64, StoreError> {
        let inner = &*self.0;
        let mut found = 0;
        for entry in list(&*inner.place, PACKS)? {
            if inner.index().knows_pack(&entry.name) {
                continue;
            }
            match read_footer(&*inner.place, &entry) {
                Ok(Ok(footer)) => {
                    inner.take(&entry.name, entry.bytes, &footer, Precedence::Known);
                    found += 1;
                }
                Ok(Err(what)) => tracing::debug!(pack = entry.name, what, "a pack is left out"),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }
}

fn shown(at: &At) -> PathBuf {
    PathBuf::from(at.to_string())
}

/// Takes a place for this process.
pub fn taken(at: &At) -> Result<Box<dyn Place>, StoreError> {
    at.open().map_err(|source| {
        let folder = shown(at);
        match source.kind() {
            io::ErrorKind::WouldBlock => StoreError::InUse { folder },
            _ => StoreError::Open { folder, source },
        }
    })
}
