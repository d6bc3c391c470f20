//! Applies changes to a file system: in place where it can, allocating only what is missing.
//!
//! The order of the records is the order of allocation, so it is part of the result. Nothing here
//! may look at the wall clock, at a hash map's order, or at how the source files are stored.

use std::collections::HashMap;
use std::ffi::CString;

use crate::BLOCK_SIZE;
use crate::change::{Change, Content, Links, Meta, NodeKind, Xattr};
use crate::content::{Piece, Source, is_zero};
use crate::device::BlockDevice;
use crate::error::{Ext4Error, show};
use crate::ffi::{Access, Failure, FailureKind, FileSystem, Info, Ino, Inode, RawTime, c_string};

const PATH_BYTES_MAX: usize = 4096;
const NAME_BYTES_MAX: usize = 255;
const SYMLINK_BYTES_MAX: usize = BLOCK_SIZE - 1;
/// What ext4 allows an inode; a directory of more sub-directories would lose its count.
const LINKS_MAX: u32 = 65_000;
/// Remembered directories; beyond it the memory is cleared, not the work stopped.
const DIRECTORY_CACHE_MAX: usize = 65_536;

const TYPE_MASK: u32 = 0o170_000;
pub(crate) const TYPE_DIRECTORY: u32 = 0o040_000;
pub(crate) const TYPE_FILE: u32 = 0o100_000;
pub(crate) const TYPE_SYMLINK: u32 = 0o120_000;
pub(crate) const TYPE_FIFO: u32 = 0o010_000;
pub(crate) const TYPE_SOCKET: u32 = 0o140_000;
pub(crate) const TYPE_CHAR: u32 = 0o020_000;
pub(crate) const TYPE_BLOCK: u32 = 0o060_000;

/// What an apply did.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct ApplyStats {
    pub records: u64,
    /// Bytes of file content handed to the device, zeros left out.
    pub content_bytes: u64,
    /// Free bytes in the file system afterwards.
    pub free_bytes: u64,
}

/// Where records come from: a list, or a stream that may fail.
pub type ChangeSource<'a> =
    dyn Iterator<Item = Result<Change, Box<dyn std::error::Error + Send + Sync>>> + 'a;

/// Applies `changes` in order. Every time the file system itself sets (ctime, crtime, dtime, last
/// write) becomes `clock`, in seconds since 1970.
///
/// After an error the device holds a half-written file system and is to be thrown away.
pub fn apply(
    device: &mut dyn BlockDevice,
    changes: &mut ChangeSource<'_>,
    clock: i64,
) -> Result<ApplyStats, Ext4Error> {
    if clock <= 0 {
        return Err(Ext4Error::BadClock { clock });
    }
    let before = Superblock::read(device)?;
    let stats = apply_all(device, changes, clock)?;
    before.put_back_if_only_touched(device)?;
    Ok(stats)
}

fn apply_all(
    device: &mut dyn BlockDevice,
    changes: &mut ChangeSource<'_>,
    clock: i64,
) -> Result<ApplyStats, Ext4Error> {
    let fs = open(device, Access::Write { clock })?;
    let mut writer = Writer {
        fs,
        directories: HashMap::new(),
        stats: ApplyStats::default(),
        piece: Vec::new(),
    };
    for change in changes {
        writer.change(&change.map_err(Ext4Error::Changes)?)?;
        writer.stats.records += 1;
    }
    let stats = ApplyStats {
        free_bytes: writer.fs.info().free_blocks * BLOCK_SIZE as u64,
        ..writer.stats
    };
    writer.fs.commit().map_err(|failure| Ext4Error::Commit {
        detail: failure.detail,
        source: failure.source,
    })?;
    Ok(stats)
}

/// Opens and refuses what this crate does not handle, rather than damage it.
pub(crate) fn open(
    device: &mut dyn BlockDevice,
    access: Access,
) -> Result<FileSystem<'_>, Ext4Error> {
    let fs = FileSystem::open(device, access).map_err(|failure| Ext4Error::Open {
        detail: failure.detail,
        source: failure.source,
    })?;
    refuse_unsupported(&fs.info()).map_err(|reason| Ext4Error::Unsupported { reason })?;
    Ok(fs)
}

fn refuse_unsupported(info: &Info) -> Result<(), String> {
    const STATE_VALID: u32 = 1;
    const STATE_ERROR: u32 = 2;
    const COMPAT_EXT_ATTR: u32 = 0x8;
    const INCOMPAT_RECOVER: u32 = 0x4;
    /// filetype, meta_bg, extents, 64bit, flex_bg, csum_seed
    const INCOMPAT_KNOWN: u32 = 0x2 | 0x10 | 0x40 | 0x80 | 0x200 | 0x2000;
    /// sparse_super, large_file, huge_file, gdt_csum, dir_nlink, extra_isize, metadata_csum
    const RO_COMPAT_KNOWN: u32 = 0x1 | 0x2 | 0x8 | 0x10 | 0x20 | 0x40 | 0x400;
    const INODE_SIZE_MIN: u32 = 256;

    if info.block_size as usize != BLOCK_SIZE {
        return Err(format!(
            "its blocks are {} bytes, not {BLOCK_SIZE}",
            info.block_size
        ));
    }
    if info.inode_size < INODE_SIZE_MIN {
        return Err(format!(
            "its inodes are {} bytes; {INODE_SIZE_MIN} are needed",
            info.inode_size
        ));
    }
    if info.feature_incompat & INCOMPAT_RECOVER != 0 {
        return Err(String::from(
            "its journal was not replayed (it was not unmounted cleanly)",
        ));
    }
    if info.state & STATE_VALID == 0 || info.state & STATE_ERROR != 0 {
        return Err(String::from("it is marked as damaged"));
    }
    if info.feature_compat & COMPAT_EXT_ATTR == 0 {
        return Err(String::from("it cannot hold extended attributes"));
    }
    let unknown = info.feature_incompat & !INCOMPAT_KNOWN;
    if unknown != 0 {
        return Err(format!("it uses features {unknown:#x} (incompat)"));
    }
    let unknown = info.feature_ro_compat & !RO_COMPAT_KNOWN;
    if unknown != 0 {
        return Err(format!("it uses features {unknown:#x} (ro_compat)"));
    }
    Ok(())
}

/// The superblock as it was, so that a change which needs no other field leaves it untouched.
struct Superblock([u8; Self::BYTES]);

impl Superblock {
    const OFFSET: u64 = 1024;
    const BYTES: usize = 1024;
    /// Last write (low and high part) and checksum.
    const TOUCHED: [std::ops::Range<usize>; 3] = [0x30..0x34, 0x274..0x275, 0x3fc..0x400];

    fn read(device: &mut dyn BlockDevice) -> Result<Self, Ext4Error> {
        let mut bytes = [0; Self::BYTES];
        device
            .read(Self::OFFSET, &mut bytes)
            .map_err(|source| Ext4Error::Open {
                detail: String::from("its superblock cannot be read"),
                source: Some(source),
            })?;
        Ok(Superblock(bytes))
    }

    fn put_back_if_only_touched(self, device: &mut dyn BlockDevice) -> Result<(), Ext4Error> {
        let after = Self::read(device)?;
        let same = (0..Self::BYTES)
            .filter(|index| !Self::TOUCHED.iter().any(|range| range.contains(index)))
            .all(|index| self.0[index] == after.0[index]);
        if same && self.0 != after.0 {
            device
                .write(Self::OFFSET, &self.0)
                .map_err(|source| Ext4Error::Commit {
                    detail: String::from("its superblock cannot be written"),
                    source: Some(source),
                })?;
        }
        Ok(())
    }
}

/// Names the operation and the path of a failed library call.
pub(crate) fn at<T>(
    result: Result<T, Failure>,
    operation: &'static str,
    path: &[u8],
) -> Result<T, Ext4Error> {
    result.map_err(|failure| match failure.kind {
        FailureKind::NoSpace => Ext4Error::NoSpace { path: show(path) },
        FailureKind::NotFound | FailureKind::Other => Ext4Error::Operation {
            operation,
            path: show(path),
            detail: failure.detail,
            source: failure.source,
        },
    })
}

/// The components of a path; none for the root.
pub(crate) fn components(path: &[u8]) -> Result<Vec<&[u8]>, Ext4Error> {
    let bad = |reason| {
        Err(Ext4Error::BadPath {
            path: show(path),
            reason,
        })
    };
    if path.is_empty() {
        return Ok(Vec::new());
    }
    if path.len() > PATH_BYTES_MAX {
        return bad("it is too long");
    }
    let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    for part in &parts {
        match *part {
            b"" => return bad("it has an empty component or a leading or trailing slash"),
            b"." | b".." => return bad("it holds `.` or `..`"),
            part if part.len() > NAME_BYTES_MAX => {
                return bad("a component is longer than 255 bytes");
            }
            part if part.contains(&0) => return bad("it holds a zero byte"),
            _ => {}
        }
    }
    Ok(parts)
}

fn c_name(path: &[u8], name: &[u8]) -> Result<CString, Ext4Error> {
    c_string(name).ok_or_else(|| Ext4Error::BadPath {
        path: show(path),
        reason: "it holds a zero byte",
    })
}

/// A path split into its directory, which exists, and its last component.
struct Place<'p> {
    path: &'p [u8],
    parent: Ino,
    name: &'p [u8],
}

struct Writer<'a> {
    fs: FileSystem<'a>,
    directories: HashMap<Vec<u8>, Ino>,
    stats: ApplyStats,
    piece: Vec<u8>,
}

impl Writer<'_> {
    fn change(&mut self, change: &Change) -> Result<(), Ext4Error> {
        match change {
            Change::Remove { path } => self.remove(path),
            Change::Dir { path, meta } => self.directory(path, meta),
            Change::File {
                path,
                meta,
                content,
                links,
            } => self.file(path, meta, content, *links),
            Change::Symlink { path, meta, target } => self.symlink(path, meta, target),
            Change::Node { path, meta, kind } => self.node(path, meta, *kind),
            Change::HardLink { path, target } => self.hard_link(path, target),
            Change::Meta { path, meta } => {
                let inode = self.existing(path)?;
                self.set_meta(path, inode, meta)
            }
            Change::Xattrs { path, xattrs } => self.xattrs(path, xattrs),
        }
    }

    // ---- finding ----

    fn parent_of<'p>(&mut self, path: &'p [u8]) -> Result<Place<'p>, Ext4Error> {
        let parts = components(path)?;
        let Some(name) = parts.last() else {
            return Err(Ext4Error::BadPath {
                path: show(path),
                reason: "the root cannot be replaced",
            });
        };
        let parent_path = &path[..path.len().saturating_sub(name.len() + 1)];
        if let Some(parent) = self.directories.get(parent_path) {
            return Ok(Place {
                path,
                parent: *parent,
                name,
            });
        }
        let mut parent = Ino::ROOT;
        for part in &parts[..parts.len() - 1] {
            parent = at(self.fs.lookup(parent, part), "looking up", path)?.ok_or_else(|| {
                Ext4Error::NotFound {
                    path: show(parent_path),
                }
            })?;
            let inode = at(self.fs.stat(parent), "reading the inode of", path)?;
            if inode.mode & TYPE_MASK != TYPE_DIRECTORY {
                return Err(Ext4Error::WrongType {
                    path: show(parent_path),
                    expected: "directory",
                });
            }
        }
        if self.directories.len() >= DIRECTORY_CACHE_MAX {
            self.directories.clear();
        }
        self.directories.insert(parent_path.to_vec(), parent);
        Ok(Place { path, parent, name })
    }

    fn find(&mut self, place: &Place<'_>) -> Result<Option<(Ino, Inode)>, Ext4Error> {
        match at(
            self.fs.lookup(place.parent, place.name),
            "looking up",
            place.path,
        )? {
            None => Ok(None),
            Some(inode) => Ok(Some((inode, self.stat(place.path, inode)?))),
        }
    }

    fn stat(&mut self, path: &[u8], inode: Ino) -> Result<Inode, Ext4Error> {
        at(self.fs.stat(inode), "reading the inode of", path)
    }

    fn existing(&mut self, path: &[u8]) -> Result<Ino, Ext4Error> {
        if path.is_empty() {
            return Ok(Ino::ROOT);
        }
        let place = self.parent_of(path)?;
        match self.find(&place)? {
            Some((inode, _)) => Ok(inode),
            None => Err(Ext4Error::NotFound { path: show(path) }),
        }
    }

    // ---- writing ----

    fn set_meta(&mut self, path: &[u8], inode: Ino, meta: &Meta) -> Result<(), Ext4Error> {
        let raw = Inode {
            mode: meta.mode,
            uid: meta.uid,
            gid: meta.gid,
            mtime: RawTime::new(meta.mtime.seconds, meta.mtime.nanoseconds),
            ..Inode::default()
        };
        at(
            self.fs.set_meta(inode, &raw),
            "setting the metadata of",
            path,
        )
    }

    fn link(&mut self, place: &Place<'_>, inode: Ino, mode: u32) -> Result<(), Ext4Error> {
        let name = c_name(place.path, place.name)?;
        at(
            self.fs.link(place.parent, &name, inode, mode),
            "adding the name of",
            place.path,
        )
    }

    fn directory(&mut self, path: &[u8], meta: &Meta) -> Result<(), Ext4Error> {
        if path.is_empty() {
            return self.set_meta(path, Ino::ROOT, meta);
        }
        let place = self.parent_of(path)?;
        let inode = match self.find(&place)? {
            Some((inode, found)) if found.mode & TYPE_MASK == TYPE_DIRECTORY => inode,
            found => {
                if let Some((inode, found)) = found {
                    self.remove_found(&place, inode, &found)?;
                }
                self.check_links(path, place.parent)?;
                let inode = at(
                    self.fs.new_directory(place.parent),
                    "creating directory",
                    path,
                )?;
                self.link(&place, inode, TYPE_DIRECTORY)?;
                inode
            }
        };
        self.set_meta(path, inode, meta)
    }

    fn check_links(&mut self, path: &[u8], inode: Ino) -> Result<Inode, Ext4Error> {
        let found = self.stat(path, inode)?;
        if found.links >= LINKS_MAX {
            return Err(Ext4Error::TooLarge {
                path: format!("{} (links)", show(path)),
                size: u64::from(found.links) + 1,
                limit: u64::from(LINKS_MAX),
            });
        }
        Ok(found)
    }

    fn file(
        &mut self,
        path: &[u8],
        meta: &Meta,
        content: &Content,
        links: Links,
    ) -> Result<(), Ext4Error> {
        let place = self.parent_of(path)?;
        let in_place = match self.find(&place)? {
            Some((inode, found))
                if found.mode & TYPE_MASK == TYPE_FILE
                    && (found.links == 1 || links == Links::Keep) =>
            {
                Some((inode, found))
            }
            Some((inode, found)) => {
                self.remove_found(&place, inode, &found)?;
                None
            }
            None => None,
        };
        let (inode, had_content) = match in_place {
            Some((inode, found)) => (inode, found.has_content != 0),
            None => {
                let inode = at(
                    self.fs.new_inode(place.parent, TYPE_FILE | 0o600, 0, 0),
                    "creating file",
                    path,
                )?;
                self.link(&place, inode, TYPE_FILE)?;
                (inode, false)
            }
        };
        let mut source = Source::open(content).map_err(|source| Ext4Error::Content {
            path: show(path),
            source,
        })?;
        self.content(path, inode, &mut source, had_content)?;
        self.set_meta(path, inode, meta)
    }

    /// Writes the blocks that hold something, unmaps the others.
    fn content(
        &mut self,
        path: &[u8],
        inode: Ino,
        source: &mut Source<'_>,
        had_content: bool,
    ) -> Result<(), Ext4Error> {
        let mut piece = std::mem::take(&mut self.piece);
        let mut block = 0;
        while let Some(next) = source
            .next(&mut piece)
            .map_err(|source| Ext4Error::Content {
                path: show(path),
                source,
            })?
        {
            let blocks = match next {
                Piece::Hole { blocks } => {
                    self.punch(path, inode, had_content, block, blocks)?;
                    blocks
                }
                Piece::Data => self.piece(path, inode, had_content, block, &piece)?,
            };
            block += blocks;
        }
        self.piece = piece;
        if had_content {
            at(self.fs.punch(inode, block, u64::MAX), "shortening", path)?;
        }
        at(
            self.fs.set_size(inode, source.length),
            "setting the size of",
            path,
        )
    }

    fn piece(
        &mut self,
        path: &[u8],
        inode: Ino,
        had_content: bool,
        first: u64,
        data: &[u8],
    ) -> Result<u64, Ext4Error> {
        let blocks: Vec<&[u8]> = data.chunks(BLOCK_SIZE).collect();
        let mut start = 0;
        while start < blocks.len() {
            let zero = is_zero(blocks[start]);
            let end = (start..blocks.len())
                .find(|&index| is_zero(blocks[index]) != zero)
                .unwrap_or(blocks.len());
            if zero {
                self.punch(
                    path,
                    inode,
                    had_content,
                    first + start as u64,
                    (end - start) as u64,
                )?;
            } else {
                let run = &data[start * BLOCK_SIZE..end * BLOCK_SIZE];
                at(
                    self.fs.write_blocks(inode, first + start as u64, run),
                    "writing",
                    path,
                )?;
                self.stats.content_bytes += run.len() as u64;
            }
            start = end;
        }
        Ok(blocks.len() as u64)
    }

    fn punch(
        &mut self,
        path: &[u8],
        inode: Ino,
        had_content: bool,
        first: u64,
        blocks: u64,
    ) -> Result<(), Ext4Error> {
        if !had_content || blocks == 0 {
            return Ok(());
        }
        at(
            self.fs.punch(inode, first, first + blocks - 1),
            "making a hole in",
            path,
        )
    }

    fn symlink(&mut self, path: &[u8], meta: &Meta, target: &[u8]) -> Result<(), Ext4Error> {
        if target.is_empty() || target.len() > SYMLINK_BYTES_MAX {
            return Err(Ext4Error::TooLarge {
                path: format!("{} (symlink target)", show(path)),
                size: target.len() as u64,
                limit: SYMLINK_BYTES_MAX as u64,
            });
        }
        let place = self.parent_of(path)?;
        if let Some((inode, found)) = self.find(&place)? {
            if found.mode & TYPE_MASK == TYPE_SYMLINK
                && found.links == 1
                && at(self.fs.readlink(inode), "reading link", path)? == target
            {
                return self.set_meta(path, inode, meta);
            }
            self.remove_found(&place, inode, &found)?;
        }
        let target = c_name(path, target)?;
        let inode = at(
            self.fs.new_symlink(place.parent, &target),
            "creating link",
            path,
        )?;
        self.link(&place, inode, TYPE_SYMLINK)?;
        self.set_meta(path, inode, meta)
    }

    fn node(&mut self, path: &[u8], meta: &Meta, kind: NodeKind) -> Result<(), Ext4Error> {
        const MAJOR_MAX: u32 = 0xfff;
        const MINOR_MAX: u32 = 0xf_ffff;
        let (node_type, major, minor) = match kind {
            NodeKind::Fifo => (TYPE_FIFO, 0, 0),
            NodeKind::Socket => (TYPE_SOCKET, 0, 0),
            NodeKind::Char { major, minor } => (TYPE_CHAR, major, minor),
            NodeKind::Block { major, minor } => (TYPE_BLOCK, major, minor),
        };
        if major > MAJOR_MAX || minor > MINOR_MAX {
            return Err(Ext4Error::BadPath {
                path: show(path),
                reason: "its device number is out of range",
            });
        }
        let place = self.parent_of(path)?;
        if let Some((inode, found)) = self.find(&place)? {
            let same =
                found.mode & TYPE_MASK == node_type && (found.major, found.minor) == (major, minor);
            if same && found.links == 1 {
                return self.set_meta(path, inode, meta);
            }
            self.remove_found(&place, inode, &found)?;
        }
        let mode = node_type | (meta.mode & 0o7777);
        let inode = at(
            self.fs.new_inode(place.parent, mode, major, minor),
            "creating node",
            path,
        )?;
        self.link(&place, inode, node_type)?;
        self.set_meta(path, inode, meta)
    }

    fn hard_link(&mut self, path: &[u8], target: &[u8]) -> Result<(), Ext4Error> {
        let target_inode = self.existing(target)?;
        let place = self.parent_of(path)?;
        if let Some((inode, found)) = self.find(&place)? {
            if inode == target_inode {
                return Ok(());
            }
            self.remove_found(&place, inode, &found)?;
        }
        // Looked up again: what was removed may have been the directory it lay in.
        let target_inode = self.existing(target)?;
        let found = self.check_links(target, target_inode)?;
        if found.mode & TYPE_MASK == TYPE_DIRECTORY {
            return Err(Ext4Error::WrongType {
                path: show(target),
                expected: "file",
            });
        }
        self.link(&place, target_inode, found.mode)?;
        at(
            self.fs.set_links(target_inode, found.links + 1),
            "counting the links of",
            path,
        )
    }

    fn xattrs(&mut self, path: &[u8], xattrs: &[Xattr]) -> Result<(), Ext4Error> {
        const WHAT: &str = "setting the extended attributes of";
        let inode = self.existing(path)?;
        let mut wanted: Vec<&Xattr> = xattrs.iter().collect();
        wanted.sort();
        let mut handle = at(self.fs.xattrs(inode), WHAT, path)?;
        let old = at(handle.names(), WHAT, path)?;
        let mut changed = false;
        for name in old
            .iter()
            .filter(|name| !wanted.iter().any(|xattr| xattr.name == **name))
        {
            at(handle.remove(&c_name(path, name)?), WHAT, path)?;
            changed = true;
        }
        for xattr in wanted {
            let name = c_name(path, &xattr.name)?;
            if old.contains(&xattr.name) && at(handle.get(&name), WHAT, path)? == xattr.value {
                continue;
            }
            at(handle.set(&name, &xattr.value), WHAT, path)?;
            changed = true;
        }
        if !changed {
            return Ok(());
        }
        at(handle.write(), WHAT, path)?;
        let found = self.stat(path, inode)?;
        at(self.fs.set_meta(inode, &found), WHAT, path)
    }

    // ---- removing ----

    fn remove(&mut self, path: &[u8]) -> Result<(), Ext4Error> {
        let place = match self.parent_of(path) {
            Ok(place) => place,
            Err(Ext4Error::NotFound { .. } | Ext4Error::WrongType { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        match self.find(&place)? {
            Some((inode, found)) => self.remove_found(&place, inode, &found),
            None => Ok(()),
        }
    }

    fn remove_found(
        &mut self,
        place: &Place<'_>,
        inode: Ino,
        found: &Inode,
    ) -> Result<(), Ext4Error> {
        let name = c_name(place.path, place.name)?;
        at(
            self.fs.unlink(place.parent, &name, inode),
            "removing the name of",
            place.path,
        )?;
        if found.mode & TYPE_MASK != TYPE_DIRECTORY {
            return self.release(place.path, inode, found);
        }
        self.directories.clear();
        let parent = self.stat(place.path, place.parent)?;
        at(
            self.fs
                .set_links(place.parent, parent.links.saturating_sub(1)),
            "counting the links above",
            place.path,
        )?;
        self.free_tree(place.path, inode)
    }

    /// One name less; the last one frees the inode.
    fn release(&mut self, path: &[u8], inode: Ino, found: &Inode) -> Result<(), Ext4Error> {
        if found.links > 1 {
            return at(
                self.fs.set_links(inode, found.links - 1),
                "counting the links of",
                path,
            );
        }
        at(self.fs.free_inode(inode), "removing", path)
    }

    /// Frees a directory that has no name any more, and all below it, children first.
    fn free_tree(&mut self, path: &[u8], top: Ino) -> Result<(), Ext4Error> {
        let mut open = vec![(top, at(self.fs.list(top), "listing", path)?)];
        while let Some((directory, names)) = open.last_mut() {
            let directory = *directory;
            match names.pop() {
                Some(child) => {
                    let found = self.stat(path, child.inode)?;
                    if found.mode & TYPE_MASK == TYPE_DIRECTORY {
                        open.push((child.inode, at(self.fs.list(child.inode), "listing", path)?));
                    } else {
                        self.release(path, child.inode, &found)?;
                    }
                }
                None => {
                    at(self.fs.free_inode(directory), "removing", path)?;
                    open.pop();
                }
            }
        }
        Ok(())
    }
}
