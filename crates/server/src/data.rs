//! The data folder: where each thing lies, the lock that keeps a second server out, and private file writes.
//!
//! Must not know what is in the files. Secrets are written through [`write_private`] and nothing else,
//! so that a key never exists with wider permissions than its owner's, not even for a moment.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use uuid::Uuid;

/// Mode of the data folder and of every folder in it that may hold a secret.
const PRIVATE_FOLDER: u32 = 0o700;
/// Mode of a file that holds a secret.
const PRIVATE_FILE: u32 = 0o600;

#[derive(Debug, thiserror::Error)]
pub enum DataError {
    #[error("cannot create the folder {path}")]
    CreateFolder {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error(
        "the data folder {path} is in use by another server; stop that one, or choose another folder with --data"
    )]
    InUse { path: PathBuf },
    #[error("cannot lock the data folder {path}")]
    Lock {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("cannot read {path}")]
    Read {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("cannot write {path}")]
    Write {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
}

/// An opened data folder. The lock is held for as long as this value lives, and by the kernel no longer
/// than the process does, so a killed server leaves nothing to clean up.
#[derive(Debug)]
pub struct DataFolder {
    root: PathBuf,
    _lock: File,
}

impl DataFolder {
    pub fn open(root: &Path) -> Result<DataFolder, DataError> {
        create_folder(root)?;
        let root = fs::canonicalize(root).map_err(|cause| DataError::Read {
            path: root.to_path_buf(),
            cause,
        })?;
        let path = root.join("lock");
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(PRIVATE_FILE)
            .open(&path)
            .map_err(|cause| DataError::Lock {
                path: root.clone(),
                cause,
            })?;
        take(&lock, &root)?;
        Ok(DataFolder { root, _lock: lock })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn database(&self) -> PathBuf {
        self.root.join("bullion.db")
    }

    pub fn tls(&self) -> PathBuf {
        self.root.join("tls")
    }

    /// What the administrator needs to sign in; holds a secret.
    pub fn admin(&self) -> PathBuf {
        self.root.join("admin.json")
    }

    /// The name of the server that this folder is, among those that share a database. Made at its first start.
    pub fn name(&self) -> Result<String, DataError> {
        let path = self.root.join("server-id");
        let kept = read_if_there(&path)?;
        let kept = kept.and_then(|text| String::from_utf8(text).ok()?.trim().parse::<Uuid>().ok());
        if let Some(name) = kept {
            return Ok(name.to_string());
        }
        let name = Uuid::new_v4().to_string();
        write_private(&path, name.as_bytes())?;
        Ok(name)
    }

    /// The key that secrets in the catalog are sealed with. It belongs elsewhere than copies of the catalog.
    pub fn catalog_key(&self) -> PathBuf {
        self.root.join("keys/catalog.key")
    }

    /// Which process serves this folder, and where. Gone after an orderly stop.
    pub fn server(&self) -> PathBuf {
        self.root.join("server.json")
    }
}

pub fn create_folder(path: &Path) -> Result<(), DataError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(PRIVATE_FOLDER)
        .create(path)
        .map_err(|cause| DataError::CreateFolder {
            path: path.to_path_buf(),
            cause,
        })
}

/// Replaces `path` in one step with a file only its owner can read.
pub fn write_private(path: &Path, content: &[u8]) -> Result<(), DataError> {
    let fail = |cause| DataError::Write {
        path: path.to_path_buf(),
        cause,
    };
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".new");
    let temporary = folder.join(name);
    // A leftover of a crash may have any mode; `mode` below only counts for a file that is created.
    match fs::remove_file(&temporary) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(fail(cause)),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(PRIVATE_FILE)
        .open(&temporary)
        .map_err(fail)?;
    file.write_all(content).map_err(fail)?;
    file.sync_all().map_err(fail)?;
    fs::rename(&temporary, path).map_err(fail)?;
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(fail)
}

/// Makes sure that `path` is there, for its owner alone, and leaves what is in it. For files that others then
/// open by name: the database holds the keys that sign tokens.
pub fn claim_private(path: &Path) -> Result<(), DataError> {
    let fail = |cause| DataError::Write {
        path: path.to_path_buf(),
        cause,
    };
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(PRIVATE_FILE)
        .open(path)
        .map_err(fail)?;
    file.set_permissions(fs::Permissions::from_mode(PRIVATE_FILE))
        .map_err(fail)
}

pub fn read(path: &Path) -> Result<Vec<u8>, DataError> {
    fs::read(path).map_err(|cause| DataError::Read {
        path: path.to_path_buf(),
        cause,
    })
}

pub fn remove(path: &Path) -> Result<(), DataError> {
    fs::remove_file(path).map_err(|cause| DataError::Write {
        path: path.to_path_buf(),
        cause,
    })
}

/// `None` where there is no such file.
pub fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, DataError> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(DataError::Read {
            path: path.to_path_buf(),
            cause,
        }),
    }
}

/// A killed server's lock lives until the kernel has ended the last of its processes; a start right after a
/// `kill -9` waits that moment out.
const LOCK_TRIES: u32 = 30;
const LOCK_WAIT: Duration = Duration::from_millis(100);

// Blocking is right here: nothing is served yet.
#[allow(clippy::disallowed_methods)]
fn take(lock: &File, root: &Path) -> Result<(), DataError> {
    for attempt in 1.. {
        match lock.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if attempt < LOCK_TRIES => std::thread::sleep(LOCK_WAIT),
            Err(TryLockError::WouldBlock) => {
                return Err(DataError::InUse {
                    path: root.to_path_buf(),
                });
            }
            Err(TryLockError::Error(cause)) => {
                return Err(DataError::Lock {
                    path: root.to_path_buf(),
                    cause,
                });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_server_is_refused_and_the_lock_goes_with_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataFolder::open(dir.path()).unwrap();
        let refused = DataFolder::open(dir.path()).unwrap_err();
        assert!(matches!(refused, DataError::InUse { .. }), "{refused:?}");
        let name = first.name().unwrap();
        drop(first);
        let again = DataFolder::open(dir.path()).unwrap();
        assert_eq!(again.name().unwrap(), name);
    }

    #[test]
    fn a_private_file_is_private_whatever_lay_there_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        fs::write(&path, "old").unwrap();
        fs::write(dir.path().join("secret.new"), "leftover").unwrap();
        write_private(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert!(!dir.path().join("secret.new").exists());
    }
}
