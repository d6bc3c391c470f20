//! An image being written into a new file, with holes where it is zero.
//!
//! The file must not be there before: nothing is overwritten.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use disk::export::Sink;

/// A new image file.
#[derive(Debug)]
pub struct ImageFile {
    file: File,
    at: u64,
}

impl ImageFile {
    pub fn create(path: &Path) -> io::Result<ImageFile> {
        let file = OpenOptions::new().write(true).create_new(true).open(path)?;
        Ok(ImageFile { file, at: 0 })
    }

    /// Makes the file as long as the image, and waits until it is on the device.
    pub fn finish(self) -> io::Result<()> {
        self.file.set_len(self.at)?;
        self.file.sync_all()
    }
}

impl Sink for ImageFile {
    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, self.at)?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    /// The file is new, so what is not written is a hole.
    fn zeros(&mut self, len: u64) -> io::Result<()> {
        self.at += len;
        Ok(())
    }

    fn can_patch(&self) -> bool {
        true
    }

    fn patch(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }
}
