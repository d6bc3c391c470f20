//! Removes from an upper layer what differs from run to run and is rebuilt on the machine anyway.
//!
//! Only what a customizer wrote is looked at: the parent was normalised when it was made. A path
//! is on the list because two runs were compared and it differed, not on suspicion.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::error::BuildError;
use super::keystore::clamp_dates;

/// Dropped: the parent's version, if any, stays.
const DROPPED: [&str; 9] = [
    // Package manager logs: times, and a mode that depends on the umask.
    "var/log/dpkg.log",
    "var/log/alternatives.log",
    "var/log/apt/history.log",
    "var/log/apt/term.log",
    "var/log/apt/eipp.log.xz",
    // Inode numbers and change times; rebuilt whenever ldconfig runs.
    "var/cache/ldconfig/aux-cache",
    // Written by helpers of apt that do not see our settings; rebuilt.
    "var/cache/apt/pkgcache.bin",
    "var/cache/apt/srcpkgcache.bin",
    "var/log/fontconfig.log",
];

/// Folders whose content is dropped.
const EMPTIED: [&str; 1] = ["var/cache/man"];

/// Emptied rather than dropped: systemd fills an empty one at first boot.
const MACHINE_ID: &str = "etc/machine-id";
const KEYSTORE_FOLDER: &str = "etc/ssl/certs/java";
const KEYSTORE_FILE: &str = "cacerts";
const KEYSTORE_BYTES_MAX: u64 = 64 << 20;
const SSH_FOLDER: &str = "etc/ssh";
const SSH_HOST_KEY_PREFIX: &[u8] = b"ssh_host_";

/// Makes the upper layer in `upper` a function of what was asked for.
pub(super) fn normalise(upper: &Path, epoch: i64) -> Result<(), BuildError> {
    for path in DROPPED {
        remove_if_file(upper, path)?;
    }
    for folder in EMPTIED {
        for name in names(upper, folder)? {
            let path = upper.join(folder).join(&name);
            let is_directory = fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_dir());
            let removed = if is_directory {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            removed.map_err(BuildError::file("remove", &path))?;
        }
    }
    for name in names(upper, SSH_FOLDER)? {
        if name.as_bytes().starts_with(SSH_HOST_KEY_PREFIX) {
            remove_if_file(upper, &format!("{SSH_FOLDER}/{}", name.to_string_lossy()))?;
        }
    }
    clamp_keystore(upper, epoch)?;
    let machine_id = upper.join(MACHINE_ID);
    if real_folder(upper, "etc")
        && fs::symlink_metadata(&machine_id).is_ok_and(|meta| meta.is_file())
    {
        fs::write(&machine_id, "").map_err(BuildError::file("empty", &machine_id))?;
    }
    Ok(())
}

/// Rewrites the dates in Java's store of trusted certificates.
fn clamp_keystore(upper: &Path, epoch: i64) -> Result<(), BuildError> {
    let path = upper.join(KEYSTORE_FOLDER).join(KEYSTORE_FILE);
    let small_file = |meta: fs::Metadata| meta.is_file() && meta.len() <= KEYSTORE_BYTES_MAX;
    if !real_folder(upper, KEYSTORE_FOLDER) || !fs::symlink_metadata(&path).is_ok_and(small_file) {
        return Ok(());
    }
    let store = fs::read(&path).map_err(BuildError::file("read", &path))?;
    match clamp_dates(&store, epoch) {
        Some(clamped) => fs::write(&path, clamped).map_err(BuildError::file("write", &path)),
        None => Ok(()),
    }
}

/// Whether every component of `path` is a directory in the layer: a link must not lead out of it.
fn real_folder(upper: &Path, path: &str) -> bool {
    let mut folder = upper.to_owned();
    path.split('/').all(|part| {
        folder.push(part);
        fs::symlink_metadata(&folder).is_ok_and(|meta| meta.is_dir())
    })
}

fn names(upper: &Path, folder: &str) -> Result<Vec<std::ffi::OsString>, BuildError> {
    if !real_folder(upper, folder) {
        return Ok(Vec::new());
    }
    let path = upper.join(folder);
    let list = || -> io::Result<Vec<_>> {
        fs::read_dir(&path)?
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect()
    };
    list().map_err(BuildError::file("list", &path))
}

/// A whiteout (the parent had it and it was removed) is left alone: it is a character device.
fn remove_if_file(upper: &Path, path: &str) -> Result<(), BuildError> {
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let full = upper.join(path);
    if real_folder(upper, folder) && fs::symlink_metadata(&full).is_ok_and(|meta| meta.is_file()) {
        fs::remove_file(&full).map_err(BuildError::file("remove", &full))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_listed_goes() {
        let folder = tempfile::tempdir().unwrap();
        let upper = folder.path().join("upper");
        let write = |path: &str| {
            let path = upper.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        };
        for path in DROPPED {
            write(path);
        }
        for path in [
            "etc/ssh/ssh_host_rsa_key",
            "etc/ssh/sshd_config",
            "etc/machine-id",
            "var/log/app.log",
        ] {
            write(path);
        }
        write("var/cache/man/index/deep");
        normalise(&upper, 1).unwrap();
        assert_eq!(names(&upper, "etc/ssh").unwrap(), ["sshd_config"]);
        assert_eq!(fs::read(upper.join("etc/machine-id")).unwrap(), b"");
        assert!(names(&upper, "var/cache/man").unwrap().is_empty());
        assert!(upper.join("var/log/app.log").exists());
        assert!(DROPPED.iter().all(|path| !upper.join(path).exists()));
    }

    #[test]
    fn links_are_not_followed_out_of_the_layer() {
        let folder = tempfile::tempdir().unwrap();
        let upper = folder.path().join("upper");
        let host = folder.path().join("host");
        fs::create_dir_all(host.join("log")).unwrap();
        fs::create_dir_all(&upper).unwrap();
        fs::write(host.join("log/dpkg.log"), "mine").unwrap();
        fs::write(host.join("machine-id"), "mine").unwrap();
        std::os::unix::fs::symlink(&host, upper.join("var")).unwrap();
        std::os::unix::fs::symlink(&host, upper.join("etc")).unwrap();
        normalise(&upper, 1).unwrap();
        assert!(host.join("log/dpkg.log").exists());
        assert_eq!(fs::read(host.join("machine-id")).unwrap(), b"mine");
    }
}
