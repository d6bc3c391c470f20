//! Errors that say which place they are of and what to do about it.

use std::io;

use super::{Entry, Place};

/// An error of a place, with its address.
#[derive(Debug, thiserror::Error)]
#[error("{at} failed; {advice}")]
pub struct PlaceError {
    at: String,
    advice: &'static str,
    #[source]
    source: io::Error,
}

/// The same error, of the same kind, that names its place.
pub(super) fn named(at: &str, source: io::Error) -> io::Error {
    let advice = match source.kind() {
        // What these say is for the caller, who knows what it means.
        io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof | io::ErrorKind::WouldBlock => {
            return source;
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "make room there, or delete disks and collect what they leave"
        }
        io::ErrorKind::ReadOnlyFilesystem => "make it writable again",
        io::ErrorKind::PermissionDenied => {
            "look at its keys and rights: reading, writing, listing and deleting are needed"
        }
        io::ErrorKind::TimedOut
        | io::ErrorKind::NotConnected
        | io::ErrorKind::ConnectionRefused => {
            "see whether it can be reached from here; what was begun goes on when it answers"
        }
        io::ErrorKind::ResourceBusy => "it asked for less at a time; it is tried again later",
        io::ErrorKind::InvalidInput => "look at its address and settings",
        _ => "see its own log; nothing half-written is used",
    };
    let kind = source.kind();
    let at = at.to_owned();
    io::Error::new(kind, PlaceError { at, advice, source })
}

/// A place whose errors name it.
#[derive(Debug)]
pub struct Named<P> {
    at: String,
    inner: P,
}

impl<P: Place> Named<P> {
    pub fn new(at: impl Into<String>, inner: P) -> Self {
        let at = at.into();
        Named { at, inner }
    }

    fn told<T>(&self, done: io::Result<T>) -> io::Result<T> {
        done.map_err(|error| named(&self.at, error))
    }
}

impl<P: Place> Place for Named<P> {
    fn put(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.told(self.inner.put(name, bytes))
    }

    fn get_range(&self, name: &str, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        self.told(self.inner.get_range(name, offset, len))
    }

    fn size(&self, name: &str) -> io::Result<Option<u64>> {
        self.told(self.inner.size(name))
    }

    fn list(&self, prefix: &str) -> io::Result<Vec<Entry>> {
        self.told(self.inner.list(prefix))
    }

    fn delete(&self, name: &str) -> io::Result<()> {
        self.told(self.inner.delete(name))
    }
}
