//! Reads a file system without mounting it: one file, or the whole tree for comparing.

use std::collections::HashSet;
use std::io::{self, Read};

use crate::BLOCK_SIZE;
use crate::change::{FileTime, Meta, NodeKind, Xattr, Xattrs};
use crate::device::BlockDevice;
use crate::error::{Ext4Error, show};
use crate::ffi::{Access, FileSystem, Ino, Inode, c_string};
use crate::write::{
    TYPE_BLOCK, TYPE_CHAR, TYPE_DIRECTORY, TYPE_FIFO, TYPE_FILE, TYPE_SOCKET, TYPE_SYMLINK, at,
    components, open,
};

const PIECE_BLOCKS: usize = 256;
const TYPE_MASK: u32 = 0o170_000;
/// More would be a file system that refers to itself.
const ENTRIES_MAX: usize = 20_000_000;

/// How much a walk looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    Metadata,
    /// Also the BLAKE3 hash of every file's content.
    ContentHash,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    Directory,
    File { size: u64, hash: Option<[u8; 32]> },
    Symlink { target: Vec<u8> },
    Node(NodeKind),
}

/// One name in the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub path: Vec<u8>,
    pub kind: EntryKind,
    pub meta: Meta,
    pub links: u32,
    /// Names with the same number are hard links of one file.
    pub inode: u32,
    pub xattrs: Xattrs,
}

/// The content of a regular file; `None` when nothing is at `path`. Symbolic links are not followed.
pub fn read_file(
    device: &mut dyn BlockDevice,
    path: &[u8],
    limit: u64,
) -> Result<Option<Vec<u8>>, Ext4Error> {
    Tree::open(device)?.read(path, limit)
}

/// A file system opened for looking things up, one path at a time.
#[derive(Debug)]
pub struct Tree<'a> {
    fs: FileSystem<'a>,
}

impl<'a> Tree<'a> {
    pub fn open(device: &'a mut dyn BlockDevice) -> Result<Self, Ext4Error> {
        Ok(Tree {
            fs: open(device, Access::ReadOnly)?,
        })
    }

    /// What is at `path`, without its content; `None` when nothing is.
    pub fn entry(&mut self, path: &[u8]) -> Result<Option<Entry>, Ext4Error> {
        match self.find(path)? {
            Some(inode) => entry(&mut self.fs, path, inode, Detail::Metadata).map(Some),
            None => Ok(None),
        }
    }

    /// The names in the directory `path`, in byte order; none when it is no directory.
    pub fn names(&mut self, path: &[u8]) -> Result<Vec<Vec<u8>>, Ext4Error> {
        let Some(number) = self.find(path)? else {
            return Ok(Vec::new());
        };
        let inode = at(self.fs.stat(number), "reading the inode of", path)?;
        if inode.mode & TYPE_MASK != TYPE_DIRECTORY {
            return Ok(Vec::new());
        }
        let mut names: Vec<Vec<u8>> = at(self.fs.list(number), "listing", path)?
            .into_iter()
            .map(|name| name.name)
            .collect();
        names.sort();
        Ok(names)
    }

    /// The content of a regular file; `None` when nothing is at `path`.
    pub fn read(&mut self, path: &[u8], limit: u64) -> Result<Option<Vec<u8>>, Ext4Error> {
        let Some(number) = self.find(path)? else {
            return Ok(None);
        };
        let inode = self.regular(path, number)?;
        if inode.size > limit {
            return Err(Ext4Error::TooLarge {
                path: show(path),
                size: inode.size,
                limit,
            });
        }
        let mut bytes = Vec::new();
        for_each_piece(&mut self.fs, path, number, inode.size, &mut |piece| {
            bytes.extend_from_slice(piece);
            Ok(Go::On)
        })?;
        Ok(Some(bytes))
    }

    /// Whether the regular file `path` holds exactly what `other` gives.
    pub fn same_content(&mut self, path: &[u8], other: &mut dyn Read) -> Result<bool, Ext4Error> {
        let Some(number) = self.find(path)? else {
            return Ok(false);
        };
        let inode = self.regular(path, number)?;
        let failed = |source| Ext4Error::Content {
            path: show(path),
            source,
        };
        let mut same = true;
        let mut buffer = vec![0; PIECE_BLOCKS * BLOCK_SIZE];
        for_each_piece(&mut self.fs, path, number, inode.size, &mut |piece| {
            let theirs = &mut buffer[..piece.len()];
            same = match other.read_exact(theirs) {
                Ok(()) => theirs == piece,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => false,
                Err(error) => return Err(failed(error)),
            };
            Ok(if same { Go::On } else { Go::Stop })
        })?;
        Ok(same && other.read(&mut buffer[..1]).map_err(failed)? == 0)
    }

    fn regular(&mut self, path: &[u8], number: Ino) -> Result<Inode, Ext4Error> {
        let inode = at(self.fs.stat(number), "reading the inode of", path)?;
        if inode.mode & TYPE_MASK != TYPE_FILE {
            return Err(Ext4Error::WrongType {
                path: show(path),
                expected: "file",
            });
        }
        Ok(inode)
    }

    fn find(&mut self, path: &[u8]) -> Result<Option<Ino>, Ext4Error> {
        let mut current = Ino::ROOT;
        for part in components(path)? {
            let inode = at(self.fs.stat(current), "reading the inode of", path)?;
            if inode.mode & TYPE_MASK != TYPE_DIRECTORY {
                return Ok(None);
            }
            match at(self.fs.lookup(current, part), "looking up", path)? {
                Some(next) => current = next,
                None => return Ok(None),
            }
        }
        Ok(Some(current))
    }
}

/// Every name of the tree in byte order of the paths, the root (an empty path) first.
pub fn walk(device: &mut dyn BlockDevice, detail: Detail) -> Result<Vec<Entry>, Ext4Error> {
    let mut fs = open(device, Access::ReadOnly)?;
    let mut entries = Vec::new();
    let mut seen = HashSet::new();
    let mut pending = vec![(Vec::new(), Ino::ROOT)];
    while let Some((path, inode)) = pending.pop() {
        let entry = entry(&mut fs, &path, inode, detail)?;
        if entry.kind == EntryKind::Directory {
            if !seen.insert(inode) {
                return Err(Ext4Error::Unsupported {
                    reason: format!("directory `{}` has two parents", show(&path)),
                });
            }
            for name in at(fs.list(inode), "listing", &path)? {
                let mut child = path.clone();
                if !child.is_empty() {
                    child.push(b'/');
                }
                child.extend_from_slice(&name.name);
                pending.push((child, name.inode));
            }
        }
        entries.push(entry);
        if entries.len() > ENTRIES_MAX {
            return Err(Ext4Error::TooLarge {
                path: String::from("the tree"),
                size: entries.len() as u64,
                limit: ENTRIES_MAX as u64,
            });
        }
    }
    entries.sort_by(|left, right| left.path.cmp(&right.path));
    Ok(entries)
}

fn entry(
    fs: &mut FileSystem<'_>,
    path: &[u8],
    number: Ino,
    detail: Detail,
) -> Result<Entry, Ext4Error> {
    let inode = at(fs.stat(number), "reading the inode of", path)?;
    let (major, minor) = (inode.major, inode.minor);
    let kind = match inode.mode & TYPE_MASK {
        TYPE_DIRECTORY => EntryKind::Directory,
        TYPE_FILE => {
            let hash = match detail {
                Detail::Metadata => None,
                Detail::ContentHash => Some(hash(fs, path, number, &inode)?),
            };
            EntryKind::File {
                size: inode.size,
                hash,
            }
        }
        TYPE_SYMLINK => EntryKind::Symlink {
            target: at(fs.readlink(number), "reading link", path)?,
        },
        TYPE_FIFO => EntryKind::Node(NodeKind::Fifo),
        TYPE_SOCKET => EntryKind::Node(NodeKind::Socket),
        TYPE_CHAR => EntryKind::Node(NodeKind::Char { major, minor }),
        TYPE_BLOCK => EntryKind::Node(NodeKind::Block { major, minor }),
        _ => {
            return Err(Ext4Error::WrongType {
                path: show(path),
                expected: "known type of file",
            });
        }
    };
    Ok(Entry {
        path: path.to_vec(),
        kind,
        meta: Meta {
            uid: inode.uid,
            gid: inode.gid,
            mode: inode.mode & 0o7777,
            mtime: FileTime {
                seconds: inode.mtime.seconds,
                nanoseconds: inode.mtime.nanoseconds,
            },
        },
        links: inode.links,
        inode: number.number(),
        xattrs: xattrs(fs, path, number)?,
    })
}

fn xattrs(fs: &mut FileSystem<'_>, path: &[u8], number: Ino) -> Result<Xattrs, Ext4Error> {
    const WHAT: &str = "reading the extended attributes of";
    let mut handle = at(fs.xattrs(number), WHAT, path)?;
    let mut xattrs = Vec::new();
    for name in at(handle.names(), WHAT, path)? {
        let c_name = c_string(&name).ok_or_else(|| Ext4Error::BadPath {
            path: show(path),
            reason: "an attribute's name holds a zero byte",
        })?;
        xattrs.push(Xattr {
            value: at(handle.get(&c_name), WHAT, path)?,
            name,
        });
    }
    Ok(xattrs)
}

fn hash(
    fs: &mut FileSystem<'_>,
    path: &[u8],
    number: Ino,
    inode: &Inode,
) -> Result<[u8; 32], Ext4Error> {
    let mut hasher = blake3::Hasher::new();
    for_each_piece(fs, path, number, inode.size, &mut |piece| {
        hasher.update(piece);
        Ok(Go::On)
    })?;
    Ok(*hasher.finalize().as_bytes())
}

/// Whether to go on reading.
enum Go {
    On,
    Stop,
}

fn for_each_piece(
    fs: &mut FileSystem<'_>,
    path: &[u8],
    number: Ino,
    size: u64,
    piece: &mut dyn FnMut(&[u8]) -> Result<Go, Ext4Error>,
) -> Result<(), Ext4Error> {
    let mut buffer = vec![0; PIECE_BLOCKS * BLOCK_SIZE];
    let mut position = 0;
    while position < size {
        let length =
            usize::try_from((size - position).min(buffer.len() as u64)).unwrap_or(buffer.len());
        let blocks = &mut buffer[..length.next_multiple_of(BLOCK_SIZE)];
        at(
            fs.read_blocks(number, position / BLOCK_SIZE as u64, blocks),
            "reading",
            path,
        )?;
        match piece(&blocks[..length])? {
            Go::On => position += length as u64,
            Go::Stop => break,
        }
    }
    Ok(())
}
