//! What is served: disks by name.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock};

use disk::ReadAt;

/// A disk to be served. Calls come from many threads at once.
pub trait Export: ReadAt {
    /// One line for people.
    fn description(&self) -> String {
        String::new()
    }

    /// Whether clients may write. What follows is only called if so.
    fn is_writable(&self) -> bool {
        false
    }

    /// The same as [`ReadAt::read_at`], if that needs no waiting. If `false` is returned, `buf` may
    /// hold anything.
    fn read_ready(&self, _offset: u64, _buf: &mut [u8]) -> bool {
        false
    }

    /// A client is there and will read soon.
    fn attached(&self) {}

    /// Has a range ready for reading, if that means anything here.
    fn load(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, _offset: u64, _bytes: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    /// Makes a range read as zero.
    fn zero(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    /// Waits until all that was written, through any connection, would outlast a loss of power.
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

/// The disks of a server.
pub trait Exports: Send + Sync {
    /// Names for clients that ask what there is.
    fn names(&self) -> Vec<String>;

    /// The disk of a name. Clients that name none ask for the empty one.
    fn find(&self, name: &str) -> Option<Arc<dyn Export>>;
}

/// Disks that come and go while the server runs.
#[derive(Default)]
pub struct ExportMap(RwLock<BTreeMap<String, Arc<dyn Export>>>);

impl ExportMap {
    pub fn new() -> Self {
        Self::default()
    }

    /// Serves a disk under this name from now on, instead of what had it.
    pub fn put(&self, name: impl Into<String>, export: Arc<dyn Export>) {
        let mut map = self.0.write().unwrap_or_else(PoisonError::into_inner);
        map.insert(name.into(), export);
    }

    /// Who has it already keeps it until the connection ends.
    pub fn remove(&self, name: &str) {
        let mut map = self.0.write().unwrap_or_else(PoisonError::into_inner);
        map.remove(name);
    }

    /// The same if the name is this disk's still.
    pub fn remove_own(&self, name: &str, export: &Arc<dyn Export>) {
        let mut map = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if map
            .get(name)
            .is_some_and(|there| Arc::ptr_eq(there, export))
        {
            map.remove(name);
        }
    }
}

impl Exports for ExportMap {
    fn names(&self) -> Vec<String> {
        let map = self.0.read().unwrap_or_else(PoisonError::into_inner);
        map.keys().cloned().collect()
    }

    /// The only disk is found without a name too.
    fn find(&self, name: &str) -> Option<Arc<dyn Export>> {
        let map = self.0.read().unwrap_or_else(PoisonError::into_inner);
        match name {
            "" if map.len() == 1 => map.values().next().cloned(),
            name => map.get(name).cloned(),
        }
    }
}

/// A part of a disk that is data, or is a hole and reads as zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) range: Range<u64>,
    pub(crate) is_hole: bool,
}

/// What a range is made of, in order, at most so many parts. The last may end before the range.
pub(crate) fn extents(
    disk: &dyn Export,
    range: Range<u64>,
    limit: usize,
) -> io::Result<Vec<Extent>> {
    let mut found: Vec<Extent> = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let data = disk.next_data(at)?;
        let data = data.filter(|data| data.start < range.end);
        let (start, end) = data.map_or((range.end, range.end), |data| {
            (data.start.max(at), data.end.min(range.end))
        });
        for (range, is_hole) in [(at..start, true), (start..end, false)] {
            if range.is_empty() {
                continue;
            }
            let is_full = found.len() == limit;
            match found.last_mut() {
                Some(last) if last.is_hole == is_hole => last.range.end = range.end,
                _ if is_full => return Ok(found),
                _ => found.push(Extent { range, is_hole }),
            }
        }
        at = end;
    }
    Ok(found)
}
