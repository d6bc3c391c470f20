//! The records a file system is changed by. They say what shall be, not how: no inode and no
//! block appears here.

use std::path::PathBuf;

/// Seconds since 1970 (may be negative) and nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileTime {
    pub seconds: i64,
    pub nanoseconds: u32,
}

impl FileTime {
    #[must_use]
    pub const fn from_seconds(seconds: i64) -> Self {
        FileTime {
            seconds,
            nanoseconds: 0,
        }
    }

    /// Not later than `seconds`; an earlier time keeps its nanoseconds.
    #[must_use]
    pub fn clamped_to(self, seconds: i64) -> Self {
        self.min(FileTime::from_seconds(seconds))
    }
}

/// Owner, permission bits (with setuid, setgid, sticky) and time of last change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Meta {
    pub uid: u32,
    pub gid: u32,
    /// Only the low twelve bits; the type follows from the record.
    pub mode: u32,
    pub mtime: FileTime,
}

/// Where the bytes of a file come from. Read while applying, so a large tree is never in memory.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Content {
    Bytes(Vec<u8>),
    File(PathBuf),
    /// Part of a file, such as one member of an archive.
    FileRange {
        path: PathBuf,
        offset: u64,
        length: u64,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NodeKind {
    Fifo,
    Socket,
    Char { major: u32, minor: u32 },
    Block { major: u32, minor: u32 },
}

/// What happens to a file's other names when it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Links {
    /// Write into the existing inode: every name sees the new content.
    Keep,
    /// If the file has other names, they keep the old content and this one becomes a new file.
    Break,
}

/// A full name (`user.x`, `security.capability`, `system.posix_acl_access`) and the value in the
/// form the kernel's `getxattr` gives.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Xattr {
    pub name: Vec<u8>,
    pub value: Vec<u8>,
}

pub type Xattrs = Vec<Xattr>;

/// One change. Paths are bytes without a leading slash; the empty path is the root directory.
/// Parents must exist; what stands at the path is replaced when its type is another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Change {
    /// Removes a whole tree; nothing there is no error.
    Remove {
        path: Vec<u8>,
    },
    Dir {
        path: Vec<u8>,
        meta: Meta,
    },
    File {
        path: Vec<u8>,
        meta: Meta,
        content: Content,
        links: Links,
    },
    Symlink {
        path: Vec<u8>,
        meta: Meta,
        target: Vec<u8>,
    },
    Node {
        path: Vec<u8>,
        meta: Meta,
        kind: NodeKind,
    },
    /// Another name for the file at `target`.
    HardLink {
        path: Vec<u8>,
        target: Vec<u8>,
    },
    Meta {
        path: Vec<u8>,
        meta: Meta,
    },
    /// The whole set: what is not listed is removed.
    Xattrs {
        path: Vec<u8>,
        xattrs: Xattrs,
    },
}

impl Change {
    #[must_use]
    pub fn path(&self) -> &[u8] {
        match self {
            Change::Remove { path }
            | Change::Dir { path, .. }
            | Change::File { path, .. }
            | Change::Symlink { path, .. }
            | Change::Node { path, .. }
            | Change::HardLink { path, .. }
            | Change::Meta { path, .. }
            | Change::Xattrs { path, .. } => path,
        }
    }
}
