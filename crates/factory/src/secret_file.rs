//! Random seeds, each in a file of its own that nobody but the server's user reads: made once, whole or not at all. What
//! they are for, and what a damaged one means, is for whoever asks.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use tempfile::NamedTempFile;

pub const SEED_BYTES: usize = 32;

/// The bytes of the file, which is made where there is none. Of several that make it at once, all get what the first made.
///
/// # Errors
/// It cannot be read, or not be made in its folder.
pub fn read_or_make(path: &Path) -> io::Result<Vec<u8>> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        known => return known,
    }
    let folder = folder_of(path);
    match holding(folder, &rand::random())?.persist_noclobber(path) {
        Err(failed) if failed.error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(failed.error);
        }
        _ => fs::File::open(folder)?.sync_all()?,
    }
    fs::read(path)
}

/// A new seed in the place of the one in the file.
///
/// # Errors
/// It cannot be written, and the one before is still there.
pub fn replace(path: &Path) -> io::Result<[u8; SEED_BYTES]> {
    let folder = folder_of(path);
    let seed = rand::random();
    let new = holding(folder, &seed)?;
    new.persist(path).map_err(|failed| failed.error)?;
    fs::File::open(folder)?.sync_all()?;
    Ok(seed)
}

fn folder_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("."))
}

/// Under another name first, and for its owner only: a seed that was cut off could not be told from a damaged one.
fn holding(folder: &Path, seed: &[u8; SEED_BYTES]) -> io::Result<NamedTempFile> {
    let mut new = NamedTempFile::new_in(folder)?;
    new.write_all(seed)?;
    new.as_file().sync_all()?;
    Ok(new)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn all_who_make_it_at_once_get_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("seed");
        let seeds: Vec<Vec<u8>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| read_or_make(&path).unwrap()))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        assert_eq!(seeds[0].len(), SEED_BYTES);
        assert!(seeds.iter().all(|seed| *seed == seeds[0]));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn what_is_there_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("seed");
        fs::write(&path, b"damaged").unwrap();
        assert_eq!(read_or_make(&path).unwrap(), b"damaged");
        assert!(read_or_make(&folder.path().join("no/folder")).is_err());
    }
}
