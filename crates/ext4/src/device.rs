//! What the writer needs of a disk: bytes at an offset.
//!
//! Implementations decide where bytes go; they must not reorder or cache in a way that a later
//! `read` does not see.

use std::fmt;
use std::io::{self, Read, Seek, SeekFrom, Write};

/// A disk, or a part of one.
pub trait BlockDevice {
    /// Fills `buf` from `offset`; a short read is an error.
    fn read(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<()>;
    /// Writes all of `buf` at `offset`; never past the end.
    fn write(&mut self, offset: u64, buf: &[u8]) -> io::Result<()>;
    fn size(&self) -> u64;
}

fn check_range(offset: u64, length: usize, size: u64) -> io::Result<()> {
    let end = offset.checked_add(length as u64);
    if end.is_none_or(|end| end > size) {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("{length} bytes at {offset} lie past the end ({size})"),
        ));
    }
    Ok(())
}

/// A window onto another device: one partition of a disk.
pub struct Partition<'a> {
    disk: &'a mut dyn BlockDevice,
    start: u64,
    length: u64,
}

impl fmt::Debug for Partition<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Partition")
            .field("start", &self.start)
            .field("length", &self.length)
            .finish()
    }
}

impl<'a> Partition<'a> {
    /// The window must lie inside the disk.
    pub fn new(disk: &'a mut dyn BlockDevice, start: u64, length: u64) -> io::Result<Self> {
        let length_in_memory = usize::try_from(length).map_err(io::Error::other)?;
        check_range(start, length_in_memory, disk.size())?;
        Ok(Partition {
            disk,
            start,
            length,
        })
    }
}

impl BlockDevice for Partition<'_> {
    fn read(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(offset, buf.len(), self.length)?;
        self.disk.read(self.start + offset, buf)
    }

    fn write(&mut self, offset: u64, buf: &[u8]) -> io::Result<()> {
        check_range(offset, buf.len(), self.length)?;
        self.disk.write(self.start + offset, buf)
    }

    fn size(&self) -> u64 {
        self.length
    }
}

/// A device in memory; only the parts written take room. For tests and small disks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryDevice {
    bytes: Vec<u8>,
}

impl MemoryDevice {
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        MemoryDevice { bytes }
    }

    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl BlockDevice for MemoryDevice {
    fn read(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(offset, buf.len(), self.size())?;
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        buf.copy_from_slice(&self.bytes[start..start + buf.len()]);
        Ok(())
    }

    fn write(&mut self, offset: u64, buf: &[u8]) -> io::Result<()> {
        check_range(offset, buf.len(), self.size())?;
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        self.bytes[start..start + buf.len()].copy_from_slice(buf);
        Ok(())
    }

    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }
}

/// Anything that reads, writes and seeks; a file that the caller opened.
#[derive(Debug)]
pub struct SeekDevice<T> {
    inner: T,
    size: u64,
}

impl<T: Read + Write + Seek> SeekDevice<T> {
    pub fn new(mut inner: T) -> io::Result<Self> {
        let size = inner.seek(SeekFrom::End(0))?;
        Ok(SeekDevice { inner, size })
    }

    pub fn into_inner(self) -> T {
        self.inner
    }
}

impl<T: Read + Write + Seek> BlockDevice for SeekDevice<T> {
    fn read(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(offset, buf.len(), self.size)?;
        self.inner.seek(SeekFrom::Start(offset))?;
        self.inner.read_exact(buf)
    }

    fn write(&mut self, offset: u64, buf: &[u8]) -> io::Result<()> {
        check_range(offset, buf.len(), self.size)?;
        self.inner.seek(SeekFrom::Start(offset))?;
        self.inner.write_all(buf)
    }

    fn size(&self) -> u64 {
        self.size
    }
}
