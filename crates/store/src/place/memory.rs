//! A place in memory, for tests of what lies above it.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use super::{Entry, Place};

/// Clones share their files, so a test can open, break and reopen one.
#[derive(Debug, Clone, Default)]
pub struct MemoryPlace(Arc<Mutex<BTreeMap<String, Vec<u8>>>>);

impl MemoryPlace {
    pub fn new() -> Self {
        Self::default()
    }

    fn files(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.0.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// A copy that shares nothing.
    pub fn snapshot(&self) -> MemoryPlace {
        MemoryPlace(Arc::new(Mutex::new(self.files().clone())))
    }

    /// Changes a file behind the store's back.
    pub fn tamper(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        if let Some(file) = self.files().get_mut(name) {
            change(file);
        }
    }
}

impl Place for MemoryPlace {
    fn put(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.files().insert(name.to_owned(), bytes.to_vec());
        Ok(())
    }

    fn get_range(&self, name: &str, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let files = self.files();
        let file = files.get(name).ok_or(io::ErrorKind::NotFound)?;
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let end = start.checked_add(len).ok_or(io::ErrorKind::UnexpectedEof)?;
        let bytes = file.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(bytes.to_vec())
    }

    fn size(&self, name: &str) -> io::Result<Option<u64>> {
        Ok(self.files().get(name).map(|file| file.len() as u64))
    }

    fn list(&self, prefix: &str) -> io::Result<Vec<Entry>> {
        let files = self.files();
        let found = files.iter().filter(|(name, _)| name.starts_with(prefix));
        Ok(found
            .map(|(name, file)| Entry {
                name: name.clone(),
                bytes: file.len() as u64,
            })
            .collect())
    }

    fn delete(&self, name: &str) -> io::Result<()> {
        self.files().remove(name);
        Ok(())
    }
}
