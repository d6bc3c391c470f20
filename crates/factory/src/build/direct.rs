//! Customizers that need no process: a file becomes records, with the directories above it.

use ext4::{Change, Content, EntryKind, FileTime, Links, Meta, Tree};

use super::customizer::ImagePath;
use super::error::BuildError;

/// Symbolic links followed on the way to a destination, as the kernel's own limit.
const LINKS_FOLLOWED_MAX: usize = 40;
const DIRECTORY_MODE: u32 = 0o755;

/// A file to be written, by anyone: its owner, mode and content.
#[derive(Debug)]
pub(crate) struct NewFile<'a> {
    pub(crate) destination: &'a ImagePath,
    pub(crate) content: Content,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// The records that write the file. Links in the path to it are followed inside the image; a link
/// at the destination itself is replaced.
pub(crate) fn write_file(
    tree: &mut Tree<'_>,
    file: NewFile<'_>,
    epoch: i64,
) -> Result<Vec<Change>, BuildError> {
    let mtime = FileTime::from_seconds(epoch);
    let mut records = Vec::new();
    let (folder, name) = file
        .destination
        .relative()
        .rsplit_once('/')
        .unwrap_or(("", file.destination.relative()));
    let (folder, missing) = resolve(tree, folder.as_bytes(), file.destination)?;
    let mut path = folder;
    for part in missing {
        path = join(&path, &part);
        records.push(Change::Dir {
            path: path.clone(),
            meta: Meta {
                uid: 0,
                gid: 0,
                mode: DIRECTORY_MODE,
                mtime,
            },
        });
    }
    let path = join(&path, name.as_bytes());
    if let Some(found) = tree.entry(&path)?
        && found.kind == EntryKind::Directory
    {
        return Err(BuildError::BadEntry {
            path: file.destination.to_string(),
            reason: "a directory stands at the destination; name the file in it",
        });
    }
    records.push(Change::File {
        path,
        meta: Meta {
            uid: file.uid,
            gid: file.gid,
            mode: file.mode,
            mtime,
        },
        content: file.content,
        links: Links::Break,
    });
    Ok(records)
}

fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    if folder.is_empty() {
        return name.to_vec();
    }
    [folder, b"/", name].concat()
}

/// The real directory a path leads to, and the components of it that do not exist yet.
fn resolve(
    tree: &mut Tree<'_>,
    folder: &[u8],
    destination: &ImagePath,
) -> Result<(Vec<u8>, Vec<Vec<u8>>), BuildError> {
    let bad = |reason| BuildError::BadEntry {
        path: destination.to_string(),
        reason,
    };
    let mut pending = reversed(folder);
    let mut real: Vec<u8> = Vec::new();
    let mut followed = 0;
    while let Some(part) = pending.pop() {
        if part == b".." {
            real.truncate(real.iter().rposition(|byte| *byte == b'/').unwrap_or(0));
            continue;
        }
        let path = join(&real, &part);
        match tree.entry(&path)?.map(|entry| entry.kind) {
            Some(EntryKind::Directory) => real = path,
            Some(EntryKind::Symlink { target }) => {
                followed += 1;
                if followed > LINKS_FOLLOWED_MAX {
                    return Err(bad("the path to it has too many symbolic links"));
                }
                if target.starts_with(b"/") {
                    real.clear();
                }
                pending.extend(reversed(&target));
            }
            Some(_) => return Err(bad("something that is no directory lies on the path to it")),
            None => {
                pending.push(part);
                pending.reverse();
                return match pending.iter().any(|part| part == b"..") {
                    true => Err(bad("a symbolic link on the path to it leads nowhere")),
                    false => Ok((real, pending)),
                };
            }
        }
    }
    Ok((real, Vec::new()))
}

/// The components, last first.
fn reversed(path: &[u8]) -> Vec<Vec<u8>> {
    let parts = path
        .split(|byte| *byte == b'/')
        .filter(|part| !matches!(*part, b"" | b"."));
    let mut parts: Vec<Vec<u8>> = parts.map(<[u8]>::to_vec).collect();
    parts.reverse();
    parts
}
