//! Where a store's files are: named byte strings, written once and whole.
//!
//! A place knows nothing of what the files mean. `put` is the only write: afterwards the file is
//! there whole and stays there through a loss of power, or it is not there at all. (A place that
//! breaks this promise costs the store the file, never a wrong byte: files check themselves.)

mod at;
mod bucket;
mod claim;
mod faulty;
mod folder;
mod memory;
mod named;
mod object;
mod parcel;

use std::io;
use std::sync::Arc;

pub use at::{At, AtError};
pub use bucket::Bucket;
pub use faulty::{Fault, FaultyPlace};
pub use folder::Folder;
pub use memory::MemoryPlace;
pub use named::{Named, PlaceError};
pub use object::{Limits, ObjectPlace};
pub use parcel::{Courier, Parcel, ParcelError, There};

/// Refuses names that a place could take for something else.
fn check_name(name: &str) -> io::Result<()> {
    let plain = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part
                .bytes()
                .all(|c| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-'))
    };
    match name.split('/').all(plain) {
        true => Ok(()),
        false => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("bad name {name:?}"),
        )),
    }
}

/// A file in a place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    pub name: String,
    pub bytes: u64,
}

/// Names are relative paths with `/`, of `a-z 0-9 . -` only. Names that start with a dot are the
/// place's own.
pub trait Place: Send + Sync {
    /// Writes a file, whole and durable. A file of that name is replaced, whole.
    fn put(&self, name: &str, bytes: &[u8]) -> io::Result<()>;

    /// Exactly `len` bytes from `offset`; an end before that is `UnexpectedEof`.
    fn get_range(&self, name: &str, offset: u64, len: usize) -> io::Result<Vec<u8>>;

    /// The size of a file, if it is there.
    fn size(&self, name: &str) -> io::Result<Option<u64>>;

    /// Files whose name starts with `prefix`, sorted by name.
    fn list(&self, prefix: &str) -> io::Result<Vec<Entry>>;

    /// Removes a file. That it is not there is no error.
    fn delete(&self, name: &str) -> io::Result<()>;

    fn exists(&self, name: &str) -> io::Result<bool> {
        Ok(self.size(name)?.is_some())
    }

    /// A whole file of at most `limit` bytes, if it is there.
    fn get(&self, name: &str, limit: u64) -> io::Result<Option<Vec<u8>>> {
        match self.size(name)? {
            None => Ok(None),
            Some(size) if size > limit => Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("{size} bytes are over the limit of {limit}"),
            )),
            Some(size) => self.get_range(name, 0, size as usize).map(Some),
        }
    }
}

/// A place that several hold, such as a test that looks at what a store does to it.
impl<P: Place + ?Sized> Place for Arc<P> {
    fn put(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        (**self).put(name, bytes)
    }

    fn get_range(&self, name: &str, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        (**self).get_range(name, offset, len)
    }

    fn size(&self, name: &str) -> io::Result<Option<u64>> {
        (**self).size(name)
    }

    fn list(&self, prefix: &str) -> io::Result<Vec<Entry>> {
        (**self).list(prefix)
    }

    fn delete(&self, name: &str) -> io::Result<()> {
        (**self).delete(name)
    }
}
