//! How a disk is read and written: by offset, with holes known.
//!
//! The traits say nothing about where the bytes live. Implementations over files and stores
//! belong to the crates that open those; only memory lives here.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::BLOCK_SIZE;
use crate::hash::is_zero;

/// A disk that can be read from many threads at once.
pub trait ReadAt: Send + Sync {
    /// Bytes on the disk, holes included.
    fn size(&self) -> u64;

    /// Fills `buf` from `offset`. A range that leaves the disk is an error, never a short read.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// The next range at or after `offset` that may hold data. What is skipped reads as zero.
    /// A returned range is never empty and starts at `offset` or later.
    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        let size = self.size();
        Ok((offset < size).then_some(offset..size))
    }
}

/// A disk that can be changed. One writer at a time.
pub trait WriteAt: ReadAt {
    /// Writes all of `buf` at `offset`. A disk does not grow: leaving it is an error.
    fn write_at(&mut self, offset: u64, buf: &[u8]) -> io::Result<()>;

    /// Makes a range read as zero; implementations that can make a hole of it do.
    fn zero_at(&mut self, offset: u64, len: u64) -> io::Result<()> {
        static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
        let mut done = 0;
        while done < len {
            let step = (len - done).min(ZEROS.len() as u64);
            self.write_at(offset + done, &ZEROS[..step as usize])?;
            done += step;
        }
        Ok(())
    }
}

macro_rules! forward_read_at {
    ($($target:ty),*) => {$(
        impl<T: ReadAt + ?Sized> ReadAt for $target {
            fn size(&self) -> u64 {
                (**self).size()
            }
            fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
                (**self).read_at(offset, buf)
            }
            fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
                (**self).next_data(offset)
            }
        }
    )*};
}
forward_read_at!(&T, &mut T, Box<T>, Arc<T>);

macro_rules! forward_write_at {
    ($($target:ty),*) => {$(
        impl<T: WriteAt + ?Sized> WriteAt for $target {
            fn write_at(&mut self, offset: u64, buf: &[u8]) -> io::Result<()> {
                (**self).write_at(offset, buf)
            }
            fn zero_at(&mut self, offset: u64, len: u64) -> io::Result<()> {
                (**self).zero_at(offset, len)
            }
        }
    )*};
}
forward_write_at!(&mut T, Box<T>);

/// Refuses a range that leaves a disk of `size` bytes. Every implementation asks this first.
pub fn check_range(size: u64, offset: u64, len: usize) -> io::Result<()> {
    match offset.checked_add(len as u64) {
        Some(end) if end <= size => Ok(()),
        _ => Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("range of {len} bytes at {offset} leaves a disk of {size} bytes"),
        )),
    }
}

/// Fills `buf` from `start`; holes become zeros without being read.
pub fn read_sparse(disk: &dyn ReadAt, start: u64, buf: &mut [u8]) -> io::Result<()> {
    let end = start + buf.len() as u64;
    let mut offset = start;
    while offset < end {
        let data = match disk.next_data(offset)? {
            Some(data) if data.start < end => data.start..data.end.min(end),
            _ => end..end,
        };
        buf[(offset - start) as usize..(data.start - start) as usize].fill(0);
        if data.is_empty() {
            return Ok(());
        }
        disk.read_at(
            data.start,
            &mut buf[(data.start - start) as usize..(data.end - start) as usize],
        )?;
        offset = data.end;
    }
    Ok(())
}

/// A disk in memory, for tests and for small things such as an ESP.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemDisk(Vec<u8>);

impl MemDisk {
    pub fn new(size: usize) -> Self {
        MemDisk(vec![0; size])
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

impl From<Vec<u8>> for MemDisk {
    fn from(bytes: Vec<u8>) -> Self {
        MemDisk(bytes)
    }
}

impl ReadAt for MemDisk {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, buf)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        let size = self.size();
        let block = BLOCK_SIZE as u64;
        let mut start = offset;
        while start < size {
            let end = ((start / block + 1) * block).min(size);
            if !is_zero(&self.0[start as usize..end as usize]) {
                return Ok(Some(start..end));
            }
            start = end;
        }
        Ok(None)
    }
}

impl WriteAt for MemDisk {
    fn write_at(&mut self, offset: u64, buf: &[u8]) -> io::Result<()> {
        check_range(self.size(), offset, buf.len())?;
        let start = offset as usize;
        self.0[start..start + buf.len()].copy_from_slice(buf);
        Ok(())
    }
}

impl ReadAt for Vec<u8> {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(self.len() as u64, offset, buf.len())?;
        let start = offset as usize;
        buf.copy_from_slice(&self[start..start + buf.len()]);
        Ok(())
    }
}

/// A part of a disk, such as one partition, seen as a disk of its own.
#[derive(Debug)]
pub struct Window<D> {
    disk: D,
    range: Range<u64>,
}

impl<D: ReadAt> Window<D> {
    pub fn new(disk: D, range: Range<u64>) -> io::Result<Self> {
        let len = range.end.checked_sub(range.start).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                "a window that ends before it starts",
            )
        })?;
        let len = usize::try_from(len).map_err(io::Error::other)?;
        check_range(disk.size(), range.start, len)?;
        Ok(Window { disk, range })
    }

    pub fn into_inner(self) -> D {
        self.disk
    }
}

impl<D: ReadAt> ReadAt for Window<D> {
    fn size(&self) -> u64 {
        self.range.end - self.range.start
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(self.size(), offset, buf.len())?;
        self.disk.read_at(self.range.start + offset, buf)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        if offset >= self.size() {
            return Ok(None);
        }
        let found = self.disk.next_data(self.range.start + offset)?;
        Ok(found
            .filter(|data| data.start < self.range.end)
            .map(|data| {
                data.start - self.range.start..data.end.min(self.range.end) - self.range.start
            }))
    }
}

impl<D: WriteAt> WriteAt for Window<D> {
    fn write_at(&mut self, offset: u64, buf: &[u8]) -> io::Result<()> {
        check_range(self.size(), offset, buf.len())?;
        self.disk.write_at(self.range.start + offset, buf)
    }

    fn zero_at(&mut self, offset: u64, len: u64) -> io::Result<()> {
        check_range(
            self.size(),
            offset,
            usize::try_from(len).map_err(io::Error::other)?,
        )?;
        self.disk.zero_at(self.range.start + offset, len)
    }
}
