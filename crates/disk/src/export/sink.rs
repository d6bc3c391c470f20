//! Where an image goes.

use std::io::{self, Write};

/// Takes an image from its first byte to its last.
pub trait Sink {
    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// So many zeros; a sink that can make a hole does.
    fn zeros(&mut self, len: u64) -> io::Result<()> {
        static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
        let mut left = len;
        while left > 0 {
            let step = left.min(ZEROS.len() as u64);
            self.bytes(&ZEROS[..step as usize])?;
            left -= step;
        }
        Ok(())
    }

    /// Whether [`Sink::patch`] works. It saves the formats that compress from compressing twice.
    fn can_patch(&self) -> bool {
        false
    }

    /// Changes bytes that were written before.
    fn patch(&mut self, _offset: u64, _bytes: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Anything that takes bytes, such as a socket.
#[derive(Debug)]
pub struct Stream<W>(pub W);

impl<W: Write> Sink for Stream<W> {
    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }
}

/// In memory, for tests and for small images.
impl Sink for Vec<u8> {
    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.extend_from_slice(bytes);
        Ok(())
    }

    fn can_patch(&self) -> bool {
        true
    }

    fn patch(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let range = start..start.saturating_add(bytes.len());
        let into = self.get_mut(range).ok_or(io::ErrorKind::UnexpectedEof)?;
        into.copy_from_slice(bytes);
        Ok(())
    }
}
