//! Where a parent's root file system lies, and the way from disks to the ext4 writer.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use disk::{Changes, CowDisk, ReadAt, WriteAt};
use store::FileDisk;

use super::error::BuildError;

/// A raw disk image in a file, which is only read, and its root partition.
#[derive(Debug)]
pub struct ParentDisk {
    path: PathBuf,
    file: FileDisk,
    root: RootFs,
}

/// The bytes of a disk that are its root file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootFs(Range<u64>);

impl RootFs {
    /// Finds it by the disk's partition table.
    pub fn find(disk: &dyn ReadAt) -> Result<Self, BuildError> {
        Ok(RootFs(disk::layout::Gpt::read(disk)?.root()?.range()))
    }

    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.0.clone()
    }

    pub(crate) fn length(&self) -> u64 {
        self.0.end - self.0.start
    }

    /// Applies the records to this partition of `disk` and answers what changed on the disk.
    pub(crate) fn apply<P: ReadAt>(
        &self,
        disk: P,
        records: Vec<ext4::Change>,
        clock: i64,
    ) -> Result<Changes, ext4::Ext4Error> {
        let io_error = |source| ext4::Ext4Error::Commit {
            detail: String::from("the changed blocks could not be collected"),
            source: Some(source),
        };
        let mut cow = CowDevice(CowDisk::new(disk));
        let mut partition =
            ext4::Partition::new(&mut cow, self.0.start, self.length()).map_err(io_error)?;
        ext4::apply(&mut partition, &mut records.into_iter().map(Ok), clock)?;
        cow.0.into_changes().map_err(io_error)
    }

    /// Every file of this partition of `disk`, in the order of the paths, with the hashes of contents.
    pub(crate) fn walk(&self, disk: &dyn ReadAt) -> Result<Vec<ext4::Entry>, ext4::Ext4Error> {
        self.partition(disk, |partition| {
            ext4::walk(partition, ext4::Detail::ContentHash)
        })
    }

    /// Has `look` read this partition of `disk`.
    pub(crate) fn read<T, E: From<ext4::Ext4Error>>(
        &self,
        disk: &dyn ReadAt,
        look: impl FnOnce(&mut ext4::Tree<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        self.partition(disk, |partition| look(&mut ext4::Tree::open(partition)?))
    }

    fn partition<T, E: From<ext4::Ext4Error>>(
        &self,
        disk: &dyn ReadAt,
        look: impl FnOnce(&mut ext4::Partition<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let open_error = |source| ext4::Ext4Error::Open {
            detail: String::from("its partition lies outside the disk"),
            source: Some(source),
        };
        let mut device = ReadDevice(disk);
        let mut partition =
            ext4::Partition::new(&mut device, self.0.start, self.length()).map_err(open_error)?;
        look(&mut partition)
    }
}

impl ParentDisk {
    /// Opens a raw disk image and finds its root partition.
    pub fn open(path: &Path) -> Result<Self, BuildError> {
        let file = FileDisk::open(path).map_err(BuildError::file("open", path))?;
        let root = RootFs::find(&file)?;
        Ok(ParentDisk {
            path: path.to_owned(),
            file,
            root,
        })
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    #[must_use]
    pub fn disk(&self) -> &FileDisk {
        &self.file
    }

    #[must_use]
    pub fn root(&self) -> &RootFs {
        &self.root
    }
}

struct ReadDevice<'a>(&'a dyn ReadAt);

impl ext4::BlockDevice for ReadDevice<'_> {
    fn read(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, buf)
    }

    fn write(&mut self, _offset: u64, _buf: &[u8]) -> io::Result<()> {
        Err(io::Error::new(
            io::ErrorKind::ReadOnlyFilesystem,
            "the parent is only read",
        ))
    }

    fn size(&self) -> u64 {
        self.0.size()
    }
}

struct CowDevice<P: ReadAt>(CowDisk<P>);

impl<P: ReadAt> ext4::BlockDevice for CowDevice<P> {
    fn read(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, buf)
    }

    fn write(&mut self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, buf)
    }

    fn size(&self) -> u64 {
        self.0.size()
    }
}
