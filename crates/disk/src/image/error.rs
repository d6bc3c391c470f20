//! Why an image is not taken.

use std::io;

use super::Format;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    #[error("read the image")]
    Read(#[source] io::Error),
    #[error("the {format} image is damaged: {what}")]
    Damaged { format: Format, what: &'static str },
    /// It is sound, but it needs something that is not done for images from outside.
    #[error("the {format} image {what}")]
    Refused { format: Format, what: &'static str },
    #[error("the file {what}")]
    NotADisk { what: &'static str },
    #[error("a disk of {size} bytes is over the limit of {limit}")]
    TooLarge { size: u64, limit: u64 },
}

impl From<ImageError> for io::Error {
    /// For readers of the disk inside, which speak `io::Error`. The image's error is kept inside.
    fn from(error: ImageError) -> io::Error {
        match error {
            ImageError::Read(source) => source,
            other => io::Error::new(io::ErrorKind::InvalidData, other),
        }
    }
}
