//! The key that this installation signs statements with, and the public keys of others that it trusts. The own key never
//! leaves its file but to sign.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use provenance::{PublicKey, SigningKey, VerifyError};

use crate::secret_file::{self, SEED_BYTES};

const FILE: &str = "statements.key";
/// Folder of public keys beside the own key: of other installations, or of this one before it got another key.
const TRUSTED: &str = "trusted";
const TRUSTED_MAX: usize = 64;
const PEM_BYTES_MAX: u64 = 4 << 10;
/// Of a former key's id, in the name of its file.
const FORMER_ID_DIGITS: usize = 16;

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
        let bytes = secret_file::read_or_make(&path).map_err(fail)?;
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

/// The own key and all that are trusted, as they are now.
#[derive(Debug, Clone)]
struct Held {
    own: Arc<StatementKey>,
    trusted: Vec<PublicKey>,
}

/// The keys in one folder. The own one can be replaced while others sign and verify.
#[derive(Debug)]
pub struct StatementKeys {
    folder: PathBuf,
    held: RwLock<Held>,
    /// Two at once would each keep the other's key from being trusted.
    rotating: std::sync::Mutex<()>,
}

impl StatementKeys {
    /// Those of `folder`; makes an own key where there is none.
    pub fn open(folder: &Path) -> Result<StatementKeys, KeyError> {
        Ok(StatementKeys {
            folder: folder.to_owned(),
            held: RwLock::new(Held::open(folder)?),
            rotating: std::sync::Mutex::default(),
        })
    }

    fn held(&self) -> Held {
        self.held
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The one that signs.
    pub fn own(&self) -> Arc<StatementKey> {
        self.held().own
    }

    /// Those that statements are trusted from: the one that signs first.
    pub fn trusted(&self) -> Vec<PublicKey> {
        let Held { own, trusted } = self.held();
        let others = trusted.into_iter().filter(|key| key != own.public());
        std::iter::once(*own.public()).chain(others).collect()
    }

    /// Has a new key sign from now on. What the one before signed is trusted as before: its public half stays, its
    /// private half is gone. Blocks.
    pub fn rotate(&self) -> Result<(), KeyError> {
        let _alone = self.rotating.lock().unwrap_or_else(PoisonError::into_inner);
        let own = self.own();
        let folder = self.folder.join(TRUSTED);
        let id = own.id();
        let kept = folder.join(format!("former-{}.pem", &id[..FORMER_ID_DIGITS]));
        // First what is to be trusted: whatever happens next, nothing that was signed is lost.
        let keep = || -> io::Result<()> {
            fs::create_dir_all(&folder)?;
            let mut file = fs::File::create(&kept)?;
            file.write_all(own.public().pem().as_bytes())?;
            file.sync_all()?;
            fs::File::open(&folder)?.sync_all()
        };
        if trusted(&self.folder)?.len() >= TRUSTED_MAX {
            return Err(KeyError::TooMany { path: folder });
        }
        keep().map_err(|source| KeyError::Open {
            path: kept.clone(),
            source,
        })?;
        let path = self.folder.join(FILE);
        secret_file::replace(&path).map_err(|source| KeyError::Open { path, source })?;
        let fresh = Held::open(&self.folder)?;
        *self.held.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }
}

impl Held {
    fn open(folder: &Path) -> Result<Held, KeyError> {
        Ok(Held {
            own: Arc::new(StatementKey::open(folder)?),
            trusted: trusted(folder)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_key_signs_and_the_old_one_is_trusted() {
        let folder = tempfile::tempdir().unwrap();
        let keys = StatementKeys::open(folder.path()).unwrap();
        let first = keys.own();
        let sealed = first.signing().seal("t", b"said before");
        keys.rotate().unwrap();
        let second = keys.own();
        assert_ne!(first.id(), second.id());
        assert_eq!(keys.trusted(), [*second.public(), *first.public()]);
        assert_eq!(
            sealed.open("t", &keys.trusted()).unwrap().1,
            *first.public()
        );
        keys.rotate().unwrap();
        // The next start finds the same.
        let again = StatementKeys::open(folder.path()).unwrap();
        assert_eq!(again.own().id(), keys.own().id());
        assert_eq!(again.trusted().len(), 3);
        assert!(sealed.open("t", &again.trusted()).is_ok());
        let mode = fs::metadata(folder.path().join(FILE)).unwrap();
        assert_eq!(mode.permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_rotation_that_was_cut_off_trusts_no_key_twice() {
        let folder = tempfile::tempdir().unwrap();
        let keys = StatementKeys::open(folder.path()).unwrap();
        let given = folder.path().join(TRUSTED);
        fs::create_dir(&given).unwrap();
        fs::write(given.join("former.pem"), keys.own().public().pem()).unwrap();
        let again = StatementKeys::open(folder.path()).unwrap();
        assert_eq!(again.trusted(), [*keys.own().public()]);
    }

    #[test]
    fn a_key_is_replaced_only_while_the_old_one_can_be_kept() {
        let folder = tempfile::tempdir().unwrap();
        let keys = StatementKeys::open(folder.path()).unwrap();
        let given = folder.path().join(TRUSTED);
        fs::create_dir(&given).unwrap();
        for index in 0..TRUSTED_MAX {
            let other = SigningKey::from_seed(&[u8::try_from(index).unwrap(); 32]);
            fs::write(given.join(format!("{index}.pem")), other.public().pem()).unwrap();
        }
        let before = keys.own().id();
        let error = keys.rotate().unwrap_err();
        assert!(matches!(error, KeyError::TooMany { .. }), "{error}");
        assert_eq!(
            StatementKeys::open(folder.path()).unwrap().own().id(),
            before
        );
    }

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
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = StatementKey::open(folder.path()).unwrap_err();
        assert!(matches!(error, KeyError::Readable { .. }), "{error}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, b"short").unwrap();
        let error = StatementKey::open(folder.path()).unwrap_err();
        assert!(error.to_string().contains("5 bytes"), "{error}");
    }
}
