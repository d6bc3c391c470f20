//! The key that this installation signs statements with, and the public keys of others that it trusts. The own key never
//! leaves its file but to sign.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use provenance::{PublicKey, SigningKey, VerifyError};

const FILE: &str = "statements.key";
const SEED_BYTES: usize = 32;
/// Folder of public keys beside the own key: of other installations, or of this one before it got another key.
const TRUSTED: &str = "trusted";
const TRUSTED_MAX: usize = 64;
const PEM_BYTES_MAX: u64 = 4 << 10;
/// Nobody but the server's user.
const MODE: u32 = 0o600;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("open the key for statements `{}`", path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "`{}` is no key for statements: it has {bytes} bytes, not {SEED_BYTES}; put it back from a backup, or move \
         it away for a new one (statements of the old key are then no longer trusted)",
        path.display()
    )]
    Length { path: PathBuf, bytes: usize },
    #[error("others may read the key `{}`; `chmod 600` it", path.display())]
    Readable { path: PathBuf },
    #[error("`{}` is not trusted", path.display())]
    Trusted {
        path: PathBuf,
        #[source]
        source: VerifyError,
    },
    #[error("there are more than {TRUSTED_MAX} files in `{}`", path.display())]
    TooMany { path: PathBuf },
}

/// The public keys, one PEM file each, in `trusted` of `folder`. There need be none.
pub fn trusted(folder: &Path) -> Result<Vec<PublicKey>, KeyError> {
    let folder = folder.join(TRUSTED);
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.and_then(Iterator::collect::<io::Result<Vec<_>>>),
    };
    let entries = entries.map_err(|source| KeyError::Open {
        path: folder.clone(),
        source,
    })?;
    if entries.len() > TRUSTED_MAX {
        return Err(KeyError::TooMany { path: folder });
    }
    let paths = entries.into_iter().map(|entry| entry.path());
    let pem = paths.filter(|path| path.extension().is_some_and(|extension| extension == "pem"));
    pem.map(|path| {
        let mut text = String::new();
        let read = fs::File::open(&path)
            .and_then(|file| file.take(PEM_BYTES_MAX).read_to_string(&mut text));
        match read {
            Ok(_) => {
                PublicKey::from_pem(&text).map_err(|source| KeyError::Trusted { path, source })
            }
            Err(source) => Err(KeyError::Open { path, source }),
        }
    })
    .collect()
}

/// The installation's key for statements.
#[derive(Debug)]
pub struct StatementKey(SigningKey);

impl StatementKey {
    /// Reads the key in `folder`; makes one where there is none.
    pub fn open(folder: &Path) -> Result<StatementKey, KeyError> {
        let path = folder.join(FILE);
        let fail = |source| KeyError::Open {
            path: path.clone(),
            source,
        };
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make(folder, &path).map_err(fail)?;
                fs::read(&path).map_err(fail)?
            }
            Err(error) => return Err(fail(error)),
        };
        let mode = fs::metadata(&path).map_err(fail)?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(KeyError::Readable { path });
        }
        let seed: [u8; SEED_BYTES] =
            bytes
                .try_into()
                .map_err(|bytes: Vec<u8>| KeyError::Length {
                    path,
                    bytes: bytes.len(),
                })?;
        Ok(StatementKey(SigningKey::from_seed(&seed)))
    }

    /// SHA-256 of the public key, in hexadecimal.
    pub fn id(&self) -> String {
        self.0.public().id()
    }

    pub fn public(&self) -> &PublicKey {
        self.0.public()
    }

    pub(crate) fn signing(&self) -> &SigningKey {
        &self.0
    }
}

/// Written whole under another name first: a key that was cut off would sign nothing and could not be told from one
/// that was damaged.
fn make(folder: &Path, path: &Path) -> io::Result<()> {
    let seed: [u8; SEED_BYTES] = rand::random();
    let new = folder.join(format!("{FILE}.new"));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(MODE)
        .open(&new)?;
    file.set_permissions(Permissions::from_mode(MODE))?;
    file.write_all(&seed)?;
    file.sync_all()?;
    // A key that came to be meanwhile stays.
    match fs::hard_link(&new, path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => fs::remove_file(&new)?,
    }
    fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let first = StatementKey::open(folder.path()).unwrap();
        let again = StatementKey::open(folder.path()).unwrap();
        assert_eq!(first.id(), again.id());
        let names = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(names, 1, "nothing is left beside the key");
        let other = tempfile::tempdir().unwrap();
        assert_ne!(StatementKey::open(other.path()).unwrap().id(), first.id());
    }

    #[test]
    fn public_keys_of_others_are_trusted_where_they_are_given() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(trusted(folder.path()).unwrap(), []);
        let given = folder.path().join(TRUSTED);
        fs::create_dir(&given).unwrap();
        let other = *SigningKey::from_seed(&[9; 32]).public();
        fs::write(given.join("other.pem"), other.pem()).unwrap();
        fs::write(given.join("README"), "not a key").unwrap();
        assert_eq!(trusted(folder.path()).unwrap(), [other]);
        fs::write(given.join("bad.pem"), "not a key").unwrap();
        let error = trusted(folder.path()).unwrap_err();
        assert!(error.to_string().contains("bad.pem"), "{error}");
    }

    #[test]
    fn a_damaged_or_open_key_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        StatementKey::open(folder.path()).unwrap();
        let path = folder.path().join(FILE);
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let error = StatementKey::open(folder.path()).unwrap_err();
        assert!(matches!(error, KeyError::Readable { .. }), "{error}");
        fs::set_permissions(&path, Permissions::from_mode(MODE)).unwrap();
        fs::write(&path, b"short").unwrap();
        let error = StatementKey::open(folder.path()).unwrap_err();
        assert!(error.to_string().contains("5 bytes"), "{error}");
    }
}
