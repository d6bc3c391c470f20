//! Disk images of other programs, read as disks: raw, qcow2, VHD, VHDX and VMDK.
//!
//! An image comes from a tenant, so nothing in it is believed. Tables are never loaded by the
//! length that a header claims: they are read page by page, through a cache of fixed size. Nothing
//! that an image names is ever opened, and an image that needs another file is refused. Where an
//! image says that there is nothing, nothing is read.
//!
//! These readers are our own because the libraries that exist open paths, follow the names in an
//! image, are bound to one async runtime or know one or two of the formats only; and none of them
//! can say which parts of a disk are holes without reading them.

mod error;
mod inflate;
mod layer;
mod map;
mod qcow2;
mod source;
mod vhd;
mod vhdx;
mod vmdk;

use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::{ReadAt, Window};

pub use error::ImageError;
pub use layer::{Layer, Layered, below, blank_layer};
pub(crate) use vhd::checksum as vhd_checksum;
pub(crate) use vhdx::{crc32c, ids as vhdx_ids};

use map::Mapped;
use source::Source;

/// No disk in an image is larger unless the caller allows it: 2 TiB.
pub const DEFAULT_MAX_BYTES: u64 = 2 << 40;

/// A kind of disk image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    Raw,
    Qcow2,
    VhdFixed,
    VhdDynamic,
    Vhdx,
    Vmdk,
}

impl Format {
    /// As it is written on a command line.
    pub fn name(self) -> &'static str {
        match self {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
            Format::VhdFixed => "vhd",
            Format::VhdDynamic => "vhd-dynamic",
            Format::Vhdx => "vhdx",
            Format::Vmdk => "vmdk",
        }
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What a reader accepts.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The size of the disk inside, in bytes.
    pub max_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_bytes: DEFAULT_MAX_BYTES,
        }
    }
}

/// The disk inside an image. Reads from many threads are welcome.
pub struct Image {
    format: Format,
    disk: Box<dyn ReadAt>,
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Image")
            .field("format", &self.format)
            .field("size", &self.disk.size())
            .finish()
    }
}

impl Image {
    /// Opens an image, whose format its content tells. What has no sign of any format is raw.
    ///
    /// A raw disk that a machine has written can carry any sign that the machine likes; open that
    /// with [`Image::open_as`], or better, do not take it for an image at all.
    pub fn open(bytes: impl ReadAt + 'static, limits: Limits) -> Result<Image, ImageError> {
        let bytes: Arc<dyn ReadAt> = Arc::new(bytes);
        let format = detect(&*bytes)?;
        open(bytes, format, limits)
    }

    /// Opens an image of a known format.
    pub fn open_as(
        bytes: impl ReadAt + 'static,
        format: Format,
        limits: Limits,
    ) -> Result<Image, ImageError> {
        open(Arc::new(bytes), format, limits)
    }

    pub fn format(&self) -> Format {
        self.format
    }
}

impl ReadAt for Image {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.disk.read_at(offset, buf)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        self.disk.next_data(offset)
    }
}

fn open(bytes: Arc<dyn ReadAt>, format: Format, limits: Limits) -> Result<Image, ImageError> {
    let fits = |size: u64| match size <= limits.max_bytes {
        true => Ok(()),
        false => Err(ImageError::TooLarge {
            size,
            limit: limits.max_bytes,
        }),
    };
    let source = Source::new(Arc::clone(&bytes), format);
    let disk: Box<dyn ReadAt> = match format {
        Format::Raw => {
            fits(bytes.size())?;
            Box::new(bytes)
        }
        Format::VhdFixed => {
            let size = vhd::fixed_size(&source)?;
            fits(size)?;
            Box::new(Window::new(bytes, 0..size).map_err(ImageError::Read)?)
        }
        Format::VhdDynamic => Box::new(Mapped::new(vhd::Dynamic::open(&source, &fits)?, source)?),
        Format::Qcow2 => Box::new(Mapped::new(qcow2::Qcow2::open(&source, &fits)?, source)?),
        Format::Vhdx => Box::new(Mapped::new(vhdx::Vhdx::open(&source, &fits)?, source)?),
        Format::Vmdk => Box::new(Mapped::new(vmdk::Vmdk::open(&source, &fits)?, source)?),
    };
    Ok(Image { format, disk })
}

/// Asks whether a disk of this size is allowed.
type Fits<'a> = &'a dyn Fn(u64) -> Result<(), ImageError>;

/// What other programs write at the start of a file that must not be taken for a raw disk.
const REFUSED: &[(usize, &[u8], &str)] = &[
    (0, b"\x1f\x8b\x08", "is a gzip file: decompress it first"),
    (0, b"\xfd7zXZ\0", "is an xz file: decompress it first"),
    (
        0,
        b"\x28\xb5\x2f\xfd",
        "is a zstd file: decompress it first",
    ),
    (0, b"BZh", "is a bzip2 file: decompress it first"),
    (0, b"PK\x03\x04", "is a zip file: unpack it first"),
    (0, b"QED\0", "is a QED image: convert it to qcow2 first"),
    (
        0,
        b"COWD",
        "is an ESX sparse VMDK: export it as a stream-optimised VMDK",
    ),
    (
        0,
        b"WithoutFreeSpace",
        "is a Parallels image: convert it to qcow2 first",
    ),
    (
        0,
        b"WithouFreSpacExt",
        "is a Parallels image: convert it to qcow2 first",
    ),
    (
        0,
        b"# Disk DescriptorFile",
        "is a VMDK descriptor, which names other files: export it as a stream-optimised VMDK",
    ),
    (
        64,
        b"\x7f\x10\xda\xbe",
        "is a VirtualBox VDI: convert it to VHD first",
    ),
];

/// Which format the content tells.
pub fn detect(bytes: &dyn ReadAt) -> Result<Format, ImageError> {
    let mut head = [0; 512];
    let len = bytes.size().min(head.len() as u64) as usize;
    bytes
        .read_at(0, &mut head[..len])
        .map_err(ImageError::Read)?;
    if head.starts_with(b"QFI\xfb") {
        return Ok(Format::Qcow2);
    }
    if head.starts_with(b"vhdxfile") {
        return Ok(Format::Vhdx);
    }
    if head.starts_with(b"KDMV") {
        return Ok(Format::Vmdk);
    }
    if let Some(format) = vhd::detect(bytes)? {
        return Ok(format);
    }
    let refused = REFUSED
        .iter()
        .find(|(at, sign, _)| head[*at..].starts_with(sign));
    match refused {
        Some((_, _, what)) => Err(ImageError::NotADisk { what }),
        None => Ok(Format::Raw),
    }
}
