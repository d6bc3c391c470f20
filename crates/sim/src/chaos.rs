//! A place that can be cut off, crash in the middle of a write and lose or change what it keeps.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use store::place::{Entry, MemoryPlace, Place};

/// Clones are the same place.
#[derive(Debug, Clone, Default)]
pub struct Chaos {
    kept: MemoryPlace,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    away: AtomicBool,
    /// Operations until a crash; `u64::MAX` is never.
    left: AtomicU64,
}

impl Default for State {
    fn default() -> Self {
        State {
            away: AtomicBool::new(false),
            left: AtomicU64::new(u64::MAX),
        }
    }
}

impl Chaos {
    pub fn set_away(&self, away: bool) {
        self.state.away.store(away, Ordering::SeqCst);
    }

    pub fn is_away(&self) -> bool {
        self.state.away.load(Ordering::SeqCst)
    }

    /// After so many more operations nothing works until [`Chaos::restart`].
    pub fn crash_after(&self, operations: u64) {
        self.state.left.store(operations, Ordering::SeqCst);
    }

    pub fn restart(&self) {
        self.state.left.store(u64::MAX, Ordering::SeqCst);
    }

    pub fn crashed(&self) -> bool {
        self.state.left.load(Ordering::SeqCst) == 0
    }

    pub fn packs(&self) -> Vec<Entry> {
        self.kept.list("packs/").unwrap_or_default()
    }

    /// Changes a file behind the store's back.
    pub fn tamper(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        self.kept.tamper(name, change);
    }

    pub fn lose(&self, name: &str) {
        // A place in memory removes what it has.
        let _ = self.kept.delete(name);
    }

    /// Whether this operation is the one that crashes.
    fn step(&self) -> io::Result<bool> {
        if self.is_away() {
            return Err(io::Error::other("the zone is away"));
        }
        match self.state.left.load(Ordering::SeqCst) {
            u64::MAX => Ok(false),
            0 => Err(io::Error::other("the process is dead")),
            left => {
                self.state.left.store(left - 1, Ordering::SeqCst);
                Ok(left == 1)
            }
        }
    }

    fn simple(&self) -> io::Result<()> {
        match self.step()? {
            false => Ok(()),
            true => Err(io::Error::other("killed")),
        }
    }
}

impl Place for Chaos {
    fn put(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        match self.step()? {
            false => self.kept.put(name, bytes),
            true => {
                // A disk that lied about a write: half of the file under its name.
                self.kept.put(name, &bytes[..bytes.len() / 2])?;
                Err(io::Error::other("killed"))
            }
        }
    }

    fn get_range(&self, name: &str, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        self.simple()?;
        self.kept.get_range(name, offset, len)
    }

    fn size(&self, name: &str) -> io::Result<Option<u64>> {
        self.simple()?;
        self.kept.size(name)
    }

    fn list(&self, prefix: &str) -> io::Result<Vec<Entry>> {
        self.simple()?;
        self.kept.list(prefix)
    }

    fn delete(&self, name: &str) -> io::Result<()> {
        self.simple()?;
        self.kept.delete(name)
    }
}
