//! A place that fails on purpose at one chosen operation.
//!
//! It breaks the promises of [`Place`] in the ways real disks do, so that tests can show what a
//! store makes of that.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Entry, Place};

/// What happens at the chosen operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It fails with this kind of error and does nothing. Later ones work.
    Error(io::ErrorKind),
    /// A `put` leaves half of the file under its final name and fails. Later ones work.
    Torn,
    /// It fails, having done nothing, and so does everything after it.
    Crash,
    /// As `Crash`, but a `put` leaves half of the file under its final name.
    TornCrash,
}

/// Wraps a place; the `at`-th operation, counted from 0, fails.
#[derive(Debug)]
pub struct FaultyPlace<P> {
    inner: P,
    fault: Fault,
    at: u64,
    count: AtomicU64,
}

impl<P: Place> FaultyPlace<P> {
    pub fn new(inner: P, fault: Fault, at: u64) -> Self {
        FaultyPlace {
            inner,
            fault,
            at,
            count: AtomicU64::new(0),
        }
    }

    /// Operations so far, to know how many there are to fail.
    pub fn operations(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }

    fn step(&self) -> io::Result<Option<Fault>> {
        let now = self.count.fetch_add(1, Ordering::SeqCst);
        match self.fault {
            Fault::Crash | Fault::TornCrash if now > self.at => {
                Err(io::Error::other("the place is gone"))
            }
            fault if now == self.at => Ok(Some(fault)),
            _ => Ok(None),
        }
    }

    /// For operations that write nothing.
    fn simple(&self) -> io::Result<()> {
        match self.step()? {
            None => Ok(()),
            Some(Fault::Error(kind)) => Err(kind.into()),
            Some(_) => Err(io::Error::other("a fault on purpose")),
        }
    }
}

impl<P: Place> Place for FaultyPlace<P> {
    fn put(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        match self.step()? {
            None => self.inner.put(name, bytes),
            Some(Fault::Error(kind)) => Err(kind.into()),
            Some(Fault::Crash) => Err(io::Error::other("a fault on purpose")),
            Some(Fault::Torn | Fault::TornCrash) => {
                self.inner.put(name, &bytes[..bytes.len() / 2])?;
                Err(io::Error::other("a torn write on purpose"))
            }
        }
    }

    fn get_range(&self, name: &str, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        self.simple()?;
        self.inner.get_range(name, offset, len)
    }

    fn size(&self, name: &str) -> io::Result<Option<u64>> {
        self.simple()?;
        self.inner.size(name)
    }

    fn list(&self, prefix: &str) -> io::Result<Vec<Entry>> {
        self.simple()?;
        self.inner.list(prefix)
    }

    fn delete(&self, name: &str) -> io::Result<()> {
        self.simple()?;
        self.inner.delete(name)
    }
}
