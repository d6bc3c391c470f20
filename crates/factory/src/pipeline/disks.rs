//! Raw files that a build or a test needs a whole disk in. A few are kept: the next disk is mostly
//! the last one, and then only the difference is written.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use disk::DiskDigest;
use store::{Store, StoreError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Disks in use at a time; who wants more waits.
const MAX_DISKS: usize = 4;

/// A disk could not be laid out as a file.
#[derive(Debug, thiserror::Error)]
pub enum CheckoutError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("a worker thread ended before its work")]
    Worker(#[source] tokio::task::JoinError),
    #[error("the disks are no longer given out")]
    Closed,
}

#[derive(Debug)]
struct Slot {
    number: usize,
    /// What it held last.
    held: Option<DiskDigest>,
}

/// The files of one data folder.
#[derive(Debug)]
pub struct WorkDisks {
    folder: PathBuf,
    free: Arc<Mutex<Vec<Slot>>>,
    permits: Arc<Semaphore>,
}

/// A file that holds exactly one disk and is nobody else's until this is dropped. It must only be
/// read.
#[derive(Debug)]
pub struct WorkDisk {
    path: PathBuf,
    slot: Option<Slot>,
    free: Arc<Mutex<Vec<Slot>>>,
    _permit: OwnedSemaphorePermit,
}

impl WorkDisks {
    pub fn new(folder: PathBuf) -> WorkDisks {
        let slots = (0..MAX_DISKS)
            .rev()
            .map(|number| Slot { number, held: None })
            .collect();
        WorkDisks {
            folder,
            free: Arc::new(Mutex::new(slots)),
            permits: Arc::new(Semaphore::new(MAX_DISKS)),
        }
    }

    /// Lays the disk out. The file is the one that held it last, or the one used last.
    pub async fn checkout(
        &self,
        store: &Arc<Store>,
        digest: DiskDigest,
    ) -> Result<WorkDisk, CheckoutError> {
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let permit = permit.map_err(|_| CheckoutError::Closed)?;
        let slot = {
            let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
            let same = free.iter().position(|slot| slot.held == Some(digest));
            let index = same.unwrap_or(free.len().saturating_sub(1));
            free.remove(index)
        };
        let path = self.folder.join(format!("{}.raw", slot.number));
        let mut disk = WorkDisk {
            path,
            slot: Some(slot),
            free: Arc::clone(&self.free),
            _permit: permit,
        };
        let (store, path) = (Arc::clone(store), disk.path.clone());
        // The file goes to the thread and comes back: a caller that is gone must not free it early.
        let laid_out = tokio::task::spawn_blocking(move || {
            let done = store.checkout(&digest, &path);
            if let Some(slot) = &mut disk.slot {
                slot.held = done.is_ok().then_some(digest);
            }
            done.map(|_| disk)
        });
        Ok(laid_out.await.map_err(CheckoutError::Worker)??)
    }
}

impl WorkDisk {
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for WorkDisk {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            self.free
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use disk::MemDisk;
    use store::{Keys, StoreOptions};

    use super::*;

    #[tokio::test]
    async fn a_disk_comes_back_in_the_file_that_held_it() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(
            &folder.path().join("s"),
            StoreOptions {
                keys: Keys::Off,
                ..StoreOptions::default()
            },
        )
        .unwrap();
        let store = Arc::new(store);
        let mut digests = Vec::new();
        for byte in [1u8, 2] {
            let mut disk = MemDisk::new(64 << 10);
            disk::WriteAt::write_at(&mut disk, 4096, &[byte; 100]).unwrap();
            digests.push(store.ingest(&disk).unwrap().digest);
        }
        let disks = WorkDisks::new(folder.path().to_owned());
        let one = disks.checkout(&store, digests[0]).await.unwrap();
        let two = disks.checkout(&store, digests[1]).await.unwrap();
        let (first, second) = (one.path().to_owned(), two.path().to_owned());
        assert_ne!(first, second);
        assert_eq!(std::fs::read(&second).unwrap()[4096], 2);
        drop(one);
        drop(two);
        let again = disks.checkout(&store, digests[0]).await.unwrap();
        assert_eq!(again.path(), first);
    }
}
