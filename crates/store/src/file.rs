//! A file, or a block device, as a disk: holes are found and made.
//!
//! A file does not grow and is not named or locked here; that is the caller's matter.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use disk::{ReadAt, WriteAt, check_range};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

/// A raw disk image in a file.
#[derive(Debug)]
pub struct FileDisk {
    file: File,
    size: u64,
}

impl FileDisk {
    /// To be read only; writes will fail.
    pub fn open(path: &Path) -> io::Result<FileDisk> {
        File::open(path).and_then(FileDisk::from_file)
    }

    pub fn open_writable(path: &Path) -> io::Result<FileDisk> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .and_then(FileDisk::from_file)
    }

    /// A new file that is one hole. A file that is there already is an error.
    pub fn create(path: &Path, size: u64) -> io::Result<FileDisk> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)?;
        file.set_len(size)?;
        FileDisk::from_file(file)
    }

    pub fn from_file(mut file: File) -> io::Result<FileDisk> {
        // A block device has no length but an end.
        let size = file.seek(SeekFrom::End(0))?;
        Ok(FileDisk { file, size })
    }

    /// Waits until all that was written is on the device.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    /// The same, without what only says when it was written.
    pub(crate) fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Writes through a shared reference, for threads that write different ranges.
    pub(crate) fn write_shared(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        check_range(self.size, offset, buf.len())?;
        self.file.write_all_at(buf, offset)
    }
}

impl ReadAt for FileDisk {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(self.size, offset, buf.len())?;
        self.file.read_exact_at(buf, offset)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        if offset >= self.size {
            return Ok(None);
        }
        // These move the file's position, which nothing here uses.
        let start = match rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Data(offset)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(None),
            // Not every file system and no block device can tell holes.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some(offset..self.size)),
            Err(error) => return Err(error.into()),
        };
        if start >= self.size {
            return Ok(None);
        }
        let end = rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Hole(start))?;
        Ok(Some(start..end.clamp(start + 1, self.size)))
    }
}

impl WriteAt for FileDisk {
    fn write_at(&mut self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.write_shared(offset, buf)
    }

    fn zero_at(&mut self, offset: u64, len: u64) -> io::Result<()> {
        self.zero_shared(offset, len)
    }
}

impl FileDisk {
    /// Makes a hole through a shared reference, for threads that write different ranges.
    pub(crate) fn zero_shared(&self, offset: u64, len: u64) -> io::Result<()> {
        check_range(
            self.size,
            offset,
            usize::try_from(len).map_err(io::Error::other)?,
        )?;
        if len == 0 {
            return Ok(());
        }
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&self.file, punch, offset, len) {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NODEV | Errno::NOSYS) => {
                const STEP: usize = 64 * 1024;
                let zeros = vec![0; STEP];
                for start in (0..len).step_by(STEP) {
                    let step = (len - start).min(STEP as u64) as usize;
                    self.write_shared(offset + start, &zeros[..step])?;
                }
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }
}
