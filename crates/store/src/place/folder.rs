//! A folder as a place: temporary file, fsync, rename, fsync of the folder.
//!
//! One process at a time; the lock is the kernel's, so it cannot be left behind.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::FlockOperation;

use super::{Entry, Place};

const LOCK: &str = ".lock";
const TEMP: &str = ".tmp-";

/// How deep `list` looks; names in a store have one `/`.
const MAX_DEPTH: usize = 4;

/// A folder that this process alone has open.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
    serial: AtomicU64,
    /// Folders known to be on disk, whose parents need no further fsync.
    made: Mutex<BTreeSet<PathBuf>>,
    _lock: File,
}

impl Folder {
    /// Makes the folder if needed and takes it. `WouldBlock` says that another process has it.
    pub fn open(root: &Path) -> io::Result<Folder> {
        fs::create_dir_all(root)?;
        // The folder must outlast a loss of power as well as what is in it.
        if let Some(parent) = root.canonicalize()?.parent() {
            File::open(parent)?.sync_all()?;
        }
        let mut lock = OpenOptions::new();
        lock.create(true).truncate(false).write(true).mode(0o600);
        let lock = lock.open(root.join(LOCK))?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        let folder = Folder {
            root: root.to_owned(),
            serial: AtomicU64::new(0),
            made: Mutex::default(),
            _lock: lock,
        };
        folder.remove_leftovers(root, 0)?;
        Ok(folder)
    }

    /// Removes what an interrupted `put` left. We hold the lock, so nobody is writing it.
    fn remove_leftovers(&self, dir: &Path, depth: usize) -> io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                if depth < MAX_DEPTH {
                    self.remove_leftovers(&entry.path(), depth + 1)?;
                }
            } else if entry.file_name().to_string_lossy().starts_with(TEMP) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    fn path(&self, name: &str) -> io::Result<PathBuf> {
        super::check_name(name)?;
        Ok(self.root.join(name))
    }

    fn make_parent(&self, path: &Path) -> io::Result<PathBuf> {
        let parent = path.parent().unwrap_or(&self.root).to_owned();
        let mut made = self
            .made
            .lock()
            .unwrap_or_else(|poison| poison.into_inner());
        if !made.contains(&parent) {
            fs::create_dir_all(&parent)?;
            let mut dir = parent.as_path();
            while dir != self.root {
                dir = dir.parent().unwrap_or(&self.root);
                File::open(dir)?.sync_all()?;
            }
            made.insert(parent.clone());
        }
        Ok(parent)
    }

    fn list_dir(
        &self,
        dir: &Path,
        base: &str,
        depth: usize,
        into: &mut Vec<Entry>,
    ) -> io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            if name.starts_with('.') {
                continue;
            }
            let name = format!("{base}{name}");
            let meta = entry.metadata()?;
            if meta.is_file() {
                into.push(Entry {
                    name,
                    bytes: meta.len(),
                });
            } else if meta.is_dir() && depth < MAX_DEPTH {
                self.list_dir(&entry.path(), &format!("{name}/"), depth + 1, into)?;
            }
        }
        Ok(())
    }
}

impl Place for Folder {
    fn put(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.path(name)?;
        let parent = self.make_parent(&path)?;
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let temp = parent.join(format!("{TEMP}{serial}"));
        let written = File::create(&temp).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
        let renamed = written.and_then(|()| fs::rename(&temp, &path));
        if let Err(error) = renamed {
            // Room may be what is missing. If this fails too, the next opening removes it.
            let _ = fs::remove_file(&temp);
            return Err(error);
        }
        File::open(&parent)?.sync_all()
    }

    fn get_range(&self, name: &str, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let file = File::open(self.path(name)?)?;
        let end = offset.checked_add(len as u64);
        // Asked before the buffer is made: a length that came from a file must not cost memory.
        if end.is_none_or(|end| file.metadata().is_ok_and(|meta| end > meta.len())) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    fn size(&self, name: &str) -> io::Result<Option<u64>> {
        match fs::metadata(self.path(name)?) {
            Ok(meta) => Ok(Some(meta.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn list(&self, prefix: &str) -> io::Result<Vec<Entry>> {
        let mut found = Vec::new();
        self.list_dir(&self.root, "", 0, &mut found)?;
        found.retain(|entry| entry.name.starts_with(prefix));
        found.sort();
        Ok(found)
    }

    fn delete(&self, name: &str) -> io::Result<()> {
        let path = self.path(name)?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(()) => File::open(path.parent().unwrap_or(&self.root))?.sync_all(),
        }
    }
}
