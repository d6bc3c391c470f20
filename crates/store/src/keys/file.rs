//! The embedded key service: keys in a file that only its owner reads.
//!
//! Whoever has this file and a store can read the store, so the two belong in different places
//! and in different backups. The file is text, a key in each line, the newest first:
//! `bullion-key-1 <id> <64 hexadecimal digits>`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use super::{KeyError, KeyService};
use crate::codec::{hex, unhex};
use crate::domain::{Domain, DomainId};

const MARK: &str = "bullion-key-1";
const SECRET_MARK: &str = "bullion-secret-1";
const ID_CONTEXT: &str = "bullion key file key id v1";
const ID_LEN: usize = 8;
const NONCE_LEN: usize = 12;
/// Keys that one file may hold: each rotation adds one until the old ones are dropped.
const MAX_KEYS: usize = 64;
const MAX_FILE_BYTES: u64 = 64 << 10;

/// A key that wraps secrets, and the name it is known by.
#[derive(Clone, PartialEq, Eq)]
struct WrappingKey {
    id: [u8; ID_LEN],
    key: [u8; 32],
}

impl WrappingKey {
    fn new(key: [u8; 32]) -> WrappingKey {
        let mut id = [0; ID_LEN];
        id.copy_from_slice(&blake3::derive_key(ID_CONTEXT, &key)[..ID_LEN]);
        WrappingKey { id, key }
    }
}

/// Keys in a file.
pub struct KeyFile {
    path: PathBuf,
    /// The newest first; never empty.
    keys: Mutex<Vec<WrappingKey>>,
}

impl std::fmt::Debug for KeyFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("KeyFile").field(&self.path).finish()
    }
}

impl KeyFile {
    /// Reads a key file that is there.
    pub fn load(path: &Path) -> Result<KeyFile, KeyError> {
        let mut text = String::new();
        File::open(path)
            .and_then(|file| file.take(MAX_FILE_BYTES).read_to_string(&mut text))
            .map_err(file_error("read", path))?;
        let keys = parse(&text).map_err(|what| KeyError::DamagedFile {
            path: path.to_owned(),
            what,
        })?;
        Ok(KeyFile {
            path: path.to_owned(),
            keys: Mutex::new(keys),
        })
    }

    /// Makes a key file with one new key. That there is one already is an error.
    pub fn create(path: &Path) -> Result<KeyFile, KeyError> {
        let keys = vec![WrappingKey::new(rand::random())];
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(file_error("make the folder of", path))?;
        }
        // Whole or not at all: a key file that is cut short would look like a lost key.
        let temp = temporary(path);
        write_new(&temp, &keys).map_err(file_error("write", path))?;
        let linked = fs::hard_link(&temp, path);
        fs::remove_file(&temp).map_err(file_error("write", path))?;
        linked
            .and_then(|()| sync_folder(path))
            .map_err(file_error("write", path))?;
        Ok(KeyFile {
            path: path.to_owned(),
            keys: Mutex::new(keys),
        })
    }

    pub fn load_or_create(path: &Path) -> Result<KeyFile, KeyError> {
        match path.exists() {
            true => KeyFile::load(path),
            false => KeyFile::create(path),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The name of the key that is used now, 16 hexadecimal digits.
    pub fn newest(&self) -> String {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        hex(&keys[0].id)
    }

    /// Adds a new key, which is used from now on. The old ones still unwrap.
    pub fn rotate(&self) -> Result<(), KeyError> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = vec![WrappingKey::new(rand::random())];
        next.extend(keys.iter().take(MAX_KEYS - 1).cloned());
        self.replace(&next)?;
        *keys = next;
        Ok(())
    }

    /// Forgets all keys but the newest: what is still wrapped with others is lost.
    pub fn drop_old(&self) -> Result<(), KeyError> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let next = keys[..1].to_vec();
        self.replace(&next)?;
        *keys = next;
        Ok(())
    }

    fn replace(&self, keys: &[WrappingKey]) -> Result<(), KeyError> {
        let temp = temporary(&self.path);
        write_new(&temp, keys)
            .and_then(|()| fs::rename(&temp, &self.path))
            .and_then(|()| sync_folder(&self.path))
            .map_err(file_error("write", &self.path))
    }
}

/// Writes a domain's secret into a new file that only its owner reads: the key of a bundle, or what
/// a store is restored with. Whoever has it can read everything of the domain.
pub fn write_secret(path: &Path, domain: &Domain) -> Result<(), KeyError> {
    let mut options = OpenOptions::new();
    let line = format!("{SECRET_MARK} {}\n", hex(domain.secret()));
    options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| {
            file.write_all(line.as_bytes())?;
            file.sync_all()
        })
        .map_err(file_error("write", path))
}

/// Reads what [`write_secret`] wrote.
pub fn read_secret(path: &Path) -> Result<Domain, KeyError> {
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE_BYTES).read_to_string(&mut text))
        .map_err(file_error("read", path))?;
    let secret = text.trim().strip_prefix(SECRET_MARK);
    let secret = secret.and_then(|digits| unhex(digits.trim()));
    let secret = secret.ok_or(KeyError::DamagedFile {
        path: path.to_owned(),
        what: "it does not hold a secret",
    })?;
    Ok(Domain::from_secret(secret))
}

impl KeyService for KeyFile {
    fn name(&self) -> String {
        "key file".to_owned()
    }

    /// Key id, nonce, sealed secret.
    fn wrap(&self, domain: &DomainId, secret: &[u8; 32]) -> Result<Vec<u8>, KeyError> {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = &keys[0];
        let nonce: [u8; NONCE_LEN] = rand::random();
        let mut sealed = secret.to_vec();
        cipher(newest)
            .and_then(|cipher| {
                let nonce = Nonce::assume_unique_for_key(nonce);
                cipher.seal_in_place_append_tag(nonce, Aad::from(domain.as_bytes()), &mut sealed)
            })
            .map_err(|_| self.wrong_key())?;
        Ok([newest.id.as_slice(), &nonce, &sealed].concat())
    }

    fn unwrap(&self, domain: &DomainId, wrapped: &[u8]) -> Result<[u8; 32], KeyError> {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let opened = || {
            let (id, rest) = wrapped.split_first_chunk::<ID_LEN>()?;
            let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
            let key = keys.iter().find(|key| key.id == *id)?;
            let mut sealed = sealed.to_vec();
            let nonce = Nonce::assume_unique_for_key(*nonce);
            let plain = cipher(key)
                .and_then(|cipher| {
                    let about = Aad::from(domain.as_bytes());
                    cipher.open_in_place(nonce, about, &mut sealed)
                })
                .ok()?;
            <[u8; 32]>::try_from(&*plain).ok()
        };
        opened().ok_or_else(|| self.wrong_key())
    }

    fn is_newest(&self, wrapped: &[u8]) -> Result<bool, KeyError> {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(wrapped.starts_with(&keys[0].id))
    }
}

impl KeyFile {
    fn wrong_key(&self) -> KeyError {
        KeyError::WrongKey {
            service: format!("key file {}", self.path.display()),
        }
    }
}

fn cipher(key: &WrappingKey) -> Result<LessSafeKey, aws_lc_rs::error::Unspecified> {
    UnboundKey::new(&AES_256_GCM, &key.key).map(LessSafeKey::new)
}

fn parse(text: &str) -> Result<Vec<WrappingKey>, &'static str> {
    let mut keys = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let mut words = line.split_whitespace();
        let (mark, id, key) = (words.next(), words.next(), words.next());
        if mark != Some(MARK) || words.next().is_some() {
            return Err("a line of it is not a key of a known version");
        }
        let key = key.and_then(unhex).ok_or("a key is not 64 digits")?;
        let key = WrappingKey::new(key);
        if id != Some(hex(&key.id).as_str()) {
            return Err("a key is not the one that its line says");
        }
        if keys.len() == MAX_KEYS {
            return Err("it has too many keys");
        }
        keys.push(key);
    }
    match keys.is_empty() {
        true => Err("it has no key"),
        false => Ok(keys),
    }
}

fn temporary(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".tmp-{}", std::process::id()));
    path.with_file_name(name)
}

fn write_new(path: &Path, keys: &[WrappingKey]) -> io::Result<()> {
    // One that an interrupted writer left is nobody's.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    for key in keys {
        writeln!(file, "{MARK} {} {}", hex(&key.id), hex(&key.key))?;
    }
    file.sync_all()
}

fn sync_folder(path: &Path) -> io::Result<()> {
    match path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        Some(folder) => File::open(folder)?.sync_all(),
        None => File::open(".")?.sync_all(),
    }
}

fn file_error(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> KeyError + use<> {
    let path = path.to_owned();
    move |source| KeyError::File {
        doing,
        path: path.clone(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const DOMAIN: DomainId = DomainId([5; 16]);

    #[test]
    fn old_keys_unwrap_until_they_are_dropped() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("keys/one.key");
        let keys = KeyFile::load_or_create(&path).expect("create");
        assert!(KeyFile::create(&path).is_err(), "there is one");
        let mode = fs::metadata(&path).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let old = keys.wrap(&DOMAIN, &[9; 32]).expect("wrap");
        keys.rotate().expect("rotate");
        let new = keys.wrap(&DOMAIN, &[9; 32]).expect("wrap");
        assert!(keys.is_newest(&new).expect("ask"));
        assert!(!keys.is_newest(&old).expect("ask"));
        let again = KeyFile::load(&path).expect("load");
        for (keys, wrapped) in [(&keys, &old), (&again, &old), (&again, &new)] {
            assert_eq!(keys.unwrap(&DOMAIN, wrapped).expect("unwrap"), [9; 32]);
        }
        assert!(
            keys.unwrap(&DomainId([6; 16]), &new).is_err(),
            "another domain's"
        );
        again.drop_old().expect("drop");
        let again = KeyFile::load(&path).expect("load");
        assert!(again.unwrap(&DOMAIN, &old).is_err());
        assert_eq!(again.unwrap(&DOMAIN, &new).expect("unwrap"), [9; 32]);
        for at in 0..new.len() {
            let mut broken = new.clone();
            broken[at] ^= 1;
            assert!(again.unwrap(&DOMAIN, &broken).is_err(), "byte {at}");
        }
    }

    #[test]
    fn what_is_no_key_file_is_refused() {
        let check = |text: &str, expected: &str| assert_eq!(parse(text).err(), Some(expected));
        check("", "it has no key");
        check(
            "bullion-key-2 a b",
            "a line of it is not a key of a known version",
        );
        check("bullion-key-1 a b", "a key is not 64 digits");
        let zero = "0".repeat(64);
        check(
            &format!("bullion-key-1 00 {zero}"),
            "a key is not the one that its line says",
        );
    }
}
