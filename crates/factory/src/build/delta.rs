//! What an overlay's upper layer says against its parent, as records in byte order of the paths.
//!
//! The parent is read through the ext4 reader, not through a mount, so this runs after everything
//! of the sandbox is gone. Equal is what the image would show: bytes, owner, mode, attributes and
//! the clamped time. How the layer is stored on the machine that builds must not matter.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ext4::{
    Change, Content, Entry, EntryKind, FileTime, Links, Meta, NodeKind, Tree, Xattr, Xattrs,
};

use super::error::BuildError;

/// More names than this in one layer is not a customizer but a mistake.
const ENTRIES_MAX: usize = 4_000_000;
const OVERLAY_PREFIX: &[u8] = b"trusted.overlay.";
const XATTR_BYTES_MAX: usize = 1 << 16;

/// The records that make the parent look like the merged tree. Times after `epoch` become `epoch`.
pub(super) fn delta(
    upper: &Path,
    parent: &mut Tree<'_>,
    epoch: i64,
) -> Result<Vec<Change>, BuildError> {
    let layer = scan(upper)?;
    let mut delta = Delta {
        parent,
        epoch,
        records: Vec::new(),
        first_names: HashMap::new(),
        opaque: Vec::new(),
    };
    for (path, item) in &layer {
        delta.item(path, item, &layer)?;
    }
    Ok(delta.records)
}

type Layer = BTreeMap<Vec<u8>, Item>;

/// One name in the layer.
#[derive(Debug)]
struct Item {
    path: PathBuf,
    stat: Metadata,
    xattrs: Xattrs,
    overlay: OverlayMarks,
}

/// What overlayfs noted on a file.
#[derive(Debug, Default)]
struct OverlayMarks {
    opaque: bool,
    /// Copied up from a file of the parent.
    origin: bool,
    /// Its link count goes with the index: the other names are still those of the parent.
    indexed_links: bool,
}

impl Item {
    fn is_whiteout(&self) -> bool {
        file_type(&self.stat) == FileKind::Node(NodeKind::Char { major: 0, minor: 0 })
    }

    fn meta(&self, epoch: i64) -> Meta {
        let mtime = FileTime {
            seconds: self.stat.mtime(),
            nanoseconds: u32::try_from(self.stat.mtime_nsec()).unwrap_or_default(),
        };
        Meta {
            uid: self.stat.uid(),
            gid: self.stat.gid(),
            mode: self.stat.mode() & 0o7777,
            mtime: mtime.clamped_to(epoch),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FileKind {
    Directory,
    File,
    Symlink,
    Node(NodeKind),
    Unknown,
}

fn file_type(stat: &Metadata) -> FileKind {
    let (major, minor) = (
        rustix::fs::major(stat.rdev()),
        rustix::fs::minor(stat.rdev()),
    );
    match stat.mode() & 0o170_000 {
        0o040_000 => FileKind::Directory,
        0o100_000 => FileKind::File,
        0o120_000 => FileKind::Symlink,
        0o010_000 => FileKind::Node(NodeKind::Fifo),
        0o140_000 => FileKind::Node(NodeKind::Socket),
        0o020_000 => FileKind::Node(NodeKind::Char { major, minor }),
        0o060_000 => FileKind::Node(NodeKind::Block { major, minor }),
        _ => FileKind::Unknown,
    }
}

/// All names below `upper`, with the root as the empty path.
fn scan(upper: &Path) -> Result<Layer, BuildError> {
    let mut layer = Layer::new();
    let mut pending = vec![(Vec::new(), upper.to_owned())];
    while let Some((path, full)) = pending.pop() {
        let stat = fs::symlink_metadata(&full).map_err(BuildError::file("look at", &full))?;
        if stat.is_dir() {
            for entry in fs::read_dir(&full).map_err(BuildError::file("list", &full))? {
                let name = entry.map_err(BuildError::file("list", &full))?.file_name();
                let mut child = path.clone();
                if !child.is_empty() {
                    child.push(b'/');
                }
                child.extend_from_slice(name.as_bytes());
                pending.push((child, full.join(name)));
            }
        }
        let (xattrs, overlay) =
            attributes(&full).map_err(BuildError::file("read the attributes of", &full))?;
        layer.insert(
            path,
            Item {
                path: full,
                stat,
                xattrs,
                overlay,
            },
        );
        if layer.len() > ENTRIES_MAX {
            return Err(BuildError::BadEntry {
                path: upper.display().to_string(),
                reason: "the customizer wrote more than four million files",
            });
        }
    }
    Ok(layer)
}

fn attributes(path: &Path) -> io::Result<(Xattrs, OverlayMarks)> {
    let mut names = Vec::with_capacity(XATTR_BYTES_MAX);
    match rustix::fs::llistxattr(path, rustix::buffer::spare_capacity(&mut names)) {
        Ok(_) => {}
        Err(rustix::io::Errno::OPNOTSUPP) => return Ok(Default::default()),
        Err(error) => return Err(error.into()),
    }
    let (mut xattrs, mut marks) = (Xattrs::new(), OverlayMarks::default());
    for name in names
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        let mut value = Vec::with_capacity(XATTR_BYTES_MAX);
        rustix::fs::lgetxattr(
            path,
            OsStr::from_bytes(name),
            rustix::buffer::spare_capacity(&mut value),
        )?;
        match name.strip_prefix(OVERLAY_PREFIX) {
            Some(b"opaque") => marks.opaque = value == b"y",
            Some(b"origin") => marks.origin = true,
            Some(b"nlink") => marks.indexed_links = value.starts_with(b"U"),
            Some(_) => {}
            None => xattrs.push(Xattr {
                name: name.to_vec(),
                value,
            }),
        }
    }
    xattrs.sort();
    Ok((xattrs, marks))
}

struct Delta<'p, 't> {
    parent: &'p mut Tree<'t>,
    epoch: i64,
    records: Vec<Change>,
    /// Inode in the layer to the first of its names, for hard links.
    first_names: HashMap<u64, Vec<u8>>,
    /// Directories of the layer that hide the parent's, outermost first.
    opaque: Vec<Vec<u8>>,
}

/// What a record leaves of the parent's file at the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Inode {
    Kept,
    New,
}

impl Delta<'_, '_> {
    fn item(&mut self, path: &[u8], item: &Item, layer: &Layer) -> Result<(), BuildError> {
        // Whiteouts first: they are hard links of each other, which means nothing.
        let lower = self.parent.entry(path)?;
        if item.is_whiteout() {
            if lower.is_some() {
                self.records.push(Change::Remove {
                    path: path.to_vec(),
                });
            }
            return Ok(());
        }
        if !item.stat.is_dir() && item.stat.nlink() > 1 {
            let inode = item.stat.ino();
            if let Some(first) = self.first_names.get(&inode) {
                self.records.push(Change::HardLink {
                    path: path.to_vec(),
                    target: first.clone(),
                });
                return Ok(());
            }
            self.first_names.insert(inode, path.to_vec());
        }
        let inode = self.main_record(path, item, lower.as_ref())?;
        if item.stat.is_dir() {
            self.hidden(path, item, lower.as_ref(), layer)?;
        }
        self.xattrs(path, item, lower.as_ref(), inode);
        Ok(())
    }

    /// The record that makes type, content and metadata, or none when they are equal.
    fn main_record(
        &mut self,
        path: &[u8],
        item: &Item,
        lower: Option<&Entry>,
    ) -> Result<Inode, BuildError> {
        let meta = item.meta(self.epoch);
        let alike =
            |kind: &EntryKind| lower.is_some_and(|lower| lower.links == 1 && lower.kind == *kind);
        let path_bytes = path.to_vec();
        match file_type(&item.stat) {
            FileKind::Directory => {
                let kept = lower.is_some_and(|lower| lower.kind == EntryKind::Directory);
                if !kept || lower.is_some_and(|lower| lower.meta != meta) {
                    self.records.push(Change::Dir {
                        path: path_bytes,
                        meta,
                    });
                }
                Ok(if kept { Inode::Kept } else { Inode::New })
            }
            FileKind::File => self.file(path, item, meta, lower),
            FileKind::Symlink => {
                let target = fs::read_link(&item.path)
                    .map_err(BuildError::file("read the link", &item.path))?;
                let target = target.as_os_str().as_bytes().to_vec();
                let same = alike(&EntryKind::Symlink {
                    target: target.clone(),
                });
                Ok(self.replaced(
                    same,
                    meta,
                    lower,
                    Change::Symlink {
                        path: path_bytes,
                        meta,
                        target,
                    },
                ))
            }
            FileKind::Node(kind) => {
                let same = alike(&EntryKind::Node(kind));
                Ok(self.replaced(
                    same,
                    meta,
                    lower,
                    Change::Node {
                        path: path_bytes,
                        meta,
                        kind,
                    },
                ))
            }
            FileKind::Unknown => Err(BuildError::BadEntry {
                path: format!("/{}", String::from_utf8_lossy(path)),
                reason: "its type is not known",
            }),
        }
    }

    /// For what has no content to change in place.
    fn replaced(&mut self, same: bool, meta: Meta, lower: Option<&Entry>, record: Change) -> Inode {
        if !same {
            self.records.push(record);
            return Inode::New;
        }
        if lower.is_some_and(|lower| lower.meta != meta) {
            self.records.push(Change::Meta {
                path: record.path().to_vec(),
                meta,
            });
        }
        Inode::Kept
    }

    fn file(
        &mut self,
        path: &[u8],
        item: &Item,
        meta: Meta,
        lower: Option<&Entry>,
    ) -> Result<Inode, BuildError> {
        let record = |links| Change::File {
            path: path.to_vec(),
            meta,
            content: Content::File(item.path.clone()),
            links,
        };
        let Some((lower, size)) = lower.and_then(|lower| match lower.kind {
            EntryKind::File { size, .. } => Some((lower, size)),
            _ => None,
        }) else {
            self.records.push(record(Links::Break));
            return Ok(Inode::New);
        };
        let shared = lower.links > 1;
        let keeps_links = item.overlay.origin && item.overlay.indexed_links;
        if shared && !keeps_links {
            // The other names keep the old file, even if the content is the same now.
            self.records.push(record(Links::Break));
            return Ok(Inode::New);
        }
        if size != item.stat.len() || !self.same_content(path, item)? {
            let links = if shared { Links::Keep } else { Links::Break };
            self.records.push(record(links));
        } else if lower.meta != meta {
            self.records.push(Change::Meta {
                path: path.to_vec(),
                meta,
            });
        }
        Ok(Inode::Kept)
    }

    fn same_content(&mut self, path: &[u8], item: &Item) -> Result<bool, BuildError> {
        let mut file = File::open(&item.path).map_err(BuildError::file("open", &item.path))?;
        self.parent
            .same_content(path, &mut file)
            .map_err(BuildError::ReadParent)
    }

    /// Removes what an opaque directory hides. Below an opaque directory all directories are, for
    /// overlayfs does not look into the parent there and so does not mark them.
    fn hidden(
        &mut self,
        path: &[u8],
        item: &Item,
        lower: Option<&Entry>,
        layer: &Layer,
    ) -> Result<(), BuildError> {
        let is_below = |outer: &[u8]| {
            outer.is_empty()
                || path
                    .strip_prefix(outer)
                    .is_some_and(|rest| rest.starts_with(b"/"))
        };
        let inherited = self.opaque.iter().any(|outer| is_below(outer));
        if !item.overlay.opaque && !inherited {
            return Ok(());
        }
        if !inherited {
            self.opaque.push(path.to_vec());
        }
        if lower.is_none_or(|lower| lower.kind != EntryKind::Directory) {
            return Ok(());
        }
        for name in self.parent.names(path)? {
            let child = if path.is_empty() {
                name
            } else {
                [path, b"/", &name[..]].concat()
            };
            if !layer.contains_key(&child) {
                self.records.push(Change::Remove { path: child });
            }
        }
        Ok(())
    }

    fn xattrs(&mut self, path: &[u8], item: &Item, lower: Option<&Entry>, inode: Inode) {
        let before = match (inode, lower) {
            (Inode::Kept, Some(lower)) => lower.xattrs.as_slice(),
            _ => &[],
        };
        if before != item.xattrs {
            self.records.push(Change::Xattrs {
                path: path.to_vec(),
                xattrs: item.xattrs.clone(),
            });
        }
    }
}
