//! The bytes of a file to be written, piece by piece, with holes where the source knows of them.
//!
//! Reads only; which block goes where is not known here.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use crate::BLOCK_SIZE;
use crate::change::Content;

/// Blocks read, compared with zero and written at a time.
const PIECE_BLOCKS: usize = 256;
const FILE_BYTES_MAX: u64 = 1 << 43;

pub(crate) fn is_zero(block: &[u8]) -> bool {
    // Sixteen bytes at a time; the compiler makes vector code of it.
    let (chunks, rest) = block.as_chunks::<16>();
    chunks.iter().all(|chunk| u128::from_ne_bytes(*chunk) == 0)
        && rest.iter().all(|byte| *byte == 0)
}

/// What comes next in a file.
pub(crate) enum Piece {
    Hole {
        blocks: u64,
    },
    /// Whole blocks are in the buffer, the last one filled with zeros.
    Data,
}

enum Origin<'c> {
    Bytes(&'c [u8]),
    File {
        file: File,
        start: u64,
        skip_holes: bool,
    },
}

/// Reads content piece by piece.
pub(crate) struct Source<'c> {
    origin: Origin<'c>,
    pub(crate) length: u64,
    position: u64,
}

impl<'c> Source<'c> {
    pub(crate) fn open(content: &'c Content) -> io::Result<Self> {
        let (origin, length) = match content {
            Content::Bytes(bytes) => (Origin::Bytes(bytes), bytes.len() as u64),
            Content::File(path) => {
                let file = File::open(path)?;
                let length = file.metadata()?.len();
                (
                    Origin::File {
                        file,
                        start: 0,
                        skip_holes: true,
                    },
                    length,
                )
            }
            Content::FileRange {
                path,
                offset,
                length,
            } => (
                Origin::File {
                    file: File::open(path)?,
                    start: *offset,
                    skip_holes: false,
                },
                *length,
            ),
        };
        if length > FILE_BYTES_MAX {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("{length} bytes; the limit is {FILE_BYTES_MAX}"),
            ));
        }
        Ok(Source {
            origin,
            length,
            position: 0,
        })
    }

    /// Puts data into `piece` or tells of a hole; `None` at the end.
    pub(crate) fn next(&mut self, piece: &mut Vec<u8>) -> io::Result<Option<Piece>> {
        if self.position >= self.length {
            return Ok(None);
        }
        if let Some(blocks) = self.hole()? {
            self.position = self.length.min(self.position + blocks * BLOCK_SIZE as u64);
            return Ok(Some(Piece::Hole { blocks }));
        }
        let wanted = (self.length - self.position).min((PIECE_BLOCKS * BLOCK_SIZE) as u64);
        let length = usize::try_from(wanted).map_err(io::Error::other)?;
        piece.clear();
        piece.resize(length.next_multiple_of(BLOCK_SIZE), 0);
        match &mut self.origin {
            Origin::Bytes(bytes) => {
                let start = usize::try_from(self.position).map_err(io::Error::other)?;
                piece[..length].copy_from_slice(&bytes[start..start + length]);
            }
            Origin::File { file, start, .. } => {
                file.seek(SeekFrom::Start(*start + self.position))?;
                file.read_exact(&mut piece[..length])?;
            }
        }
        self.position += wanted;
        Ok(Some(Piece::Data))
    }

    /// Whole blocks from here on that the source file system knows to be a hole. Only a hint for
    /// speed: what counts as a hole in the image is decided by the bytes.
    fn hole(&mut self) -> io::Result<Option<u64>> {
        let Origin::File {
            file,
            skip_holes: true,
            ..
        } = &self.origin
        else {
            return Ok(None);
        };
        let data = match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(self.position)) {
            Ok(data) => data,
            Err(rustix::io::Errno::NXIO) => self.length.next_multiple_of(BLOCK_SIZE as u64),
            Err(rustix::io::Errno::INVAL) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let blocks = (data - self.position) / BLOCK_SIZE as u64;
        Ok((blocks > 0).then_some(blocks))
    }
}
