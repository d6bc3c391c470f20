//! The note beside a checked-out file that says which disk it holds.
//!
//! A wrong note would turn into wrong bytes, so it counts only if nothing has touched the file:
//! same inode, same size, and a modification time that no clock shows any more.

use std::ffi::OsString;
use std::fs::{self, File, FileTimes};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use disk::DiskDigest;
use serde::{Deserialize, Serialize};

const SUFFIX: &str = ".bullion";
const VERSION: u32 = 1;
/// A note is small; anything longer is not one.
const MAX_BYTES: u64 = 4096;

/// 1980-01-01, and the seconds after it that are used: until 1997.
const MARK_EPOCH: u64 = 315_532_800;
const MARK_BITS: u32 = 29;

#[derive(Debug, Serialize, Deserialize)]
struct Note {
    version: u32,
    #[serde(flatten)]
    state: State,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
enum State {
    /// Writing has begun; the file may hold anything.
    Writing,
    Intact {
        digest: DiskDigest,
        size: u64,
        inode: u64,
    },
}

/// Where the note of a file is.
pub fn sidecar_path(file: &Path) -> PathBuf {
    let mut name = OsString::from(file);
    name.push(SUFFIX);
    name.into()
}

/// The time that marks a file as untouched. Whoever writes to the file sets the time to now.
fn mark(digest: &DiskDigest) -> u64 {
    let mut bits = [0; 4];
    bits.copy_from_slice(&digest.as_bytes()[..4]);
    MARK_EPOCH + u64::from(u32::from_le_bytes(bits) >> (32 - MARK_BITS))
}

/// The disk that a file holds, if that is certain.
pub(crate) fn intact(file: &Path) -> Option<DiskDigest> {
    let path = sidecar_path(file);
    if fs::metadata(&path).ok()?.len() > MAX_BYTES {
        return None;
    }
    let note: Note = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
    let State::Intact {
        digest,
        size,
        inode,
    } = note.state
    else {
        return None;
    };
    let meta = fs::symlink_metadata(file).ok()?;
    let untouched = note.version == VERSION
        && meta.is_file()
        && meta.len() == size
        && meta.ino() == inode
        && meta.mtime() == mark(&digest) as i64
        && meta.mtime_nsec() == 0;
    untouched.then_some(digest)
}

/// To be called before the first write: from now on the file is not trusted.
pub(crate) fn begin(file: &Path) -> io::Result<()> {
    write(file, State::Writing)
}

/// To be called after the last write: makes the file durable and says what it holds.
pub(crate) fn finish(path: &Path, file: &File, digest: &DiskDigest) -> io::Result<()> {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(mark(digest));
    file.set_times(FileTimes::new().set_modified(time))?;
    file.sync_all()?;
    let meta = file.metadata()?;
    write(
        path,
        State::Intact {
            digest: *digest,
            size: meta.len(),
            inode: meta.ino(),
        },
    )
}

fn write(file: &Path, state: State) -> io::Result<()> {
    let path = sidecar_path(file);
    let mut temp = OsString::from(&path);
    temp.push("~");
    let bytes = serde_json::to_vec(&Note {
        version: VERSION,
        state,
    })?;
    let mut out = File::create(&temp)?;
    out.write_all(&bytes)?;
    out.sync_all()?;
    fs::rename(&temp, &path)?;
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}
