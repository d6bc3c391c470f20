//! A qcow2 image that was written over another disk, such as a machine's disk over its image.
//!
//! What lies below is the caller's to say. The image names a file for that, and the name is
//! never looked at.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::error::ImageError;
use super::map::Mapped;
use super::qcow2::Qcow2;
use super::source::Source;
use super::{Format, Limits, detect};
use crate::ReadAt;
use crate::media::check_range;

/// The longest name of a disk below that images have.
const MAX_NAME: u32 = 1023;
const CLUSTER: u64 = 1 << 16;
const HEADER_LEN: u32 = 112;
/// The extension of the header that says in which format the disk below is.
const BELOW_FORMAT: u32 = 0xe279_2aca;

/// A layer on which nothing was written yet, as a whole file: of a disk of `size` bytes, over the raw disk that QEMU
/// finds under the name `below`.
pub fn blank_layer(size: u64, below: &str) -> Vec<u8> {
    let entries = size.div_ceil(CLUSTER / 8 * CLUSTER).max(1);
    let tables = (entries * 8).div_ceil(CLUSTER);
    // Header, table of counts, counts, first-level table.
    let clusters = 3 + tables;
    let mut out = b"QFI\xfb".to_vec();
    let put32 = |out: &mut Vec<u8>, value: u32| out.extend_from_slice(&value.to_be_bytes());
    let put64 = |out: &mut Vec<u8>, value: u64| out.extend_from_slice(&value.to_be_bytes());
    put32(&mut out, 3);
    put64(&mut out, u64::from(HEADER_LEN) + 24);
    put32(&mut out, below.len() as u32);
    put32(&mut out, CLUSTER.trailing_zeros());
    put64(&mut out, size);
    put32(&mut out, 0);
    put32(&mut out, entries as u32);
    put64(&mut out, 3 * CLUSTER);
    put64(&mut out, CLUSTER);
    put32(&mut out, 1);
    // No snapshots, no features.
    out.resize(96, 0);
    put32(&mut out, 4);
    put32(&mut out, HEADER_LEN);
    out.resize(HEADER_LEN as usize, 0);
    put32(&mut out, BELOW_FORMAT);
    put32(&mut out, 3);
    out.extend_from_slice(b"raw\0\0\0\0\0");
    put64(&mut out, 0);
    out.extend_from_slice(below.as_bytes());
    out.resize(CLUSTER as usize, 0);
    put64(&mut out, 2 * CLUSTER);
    out.resize(2 * CLUSTER as usize, 0);
    for _ in 0..clusters {
        out.extend_from_slice(&1u16.to_be_bytes());
    }
    out.resize((clusters * CLUSTER) as usize, 0);
    out
}

/// The name of the disk that a qcow2 image needs below it, if it needs one. Only the header is read, so somebody may
/// be writing to the image.
pub fn below(bytes: impl ReadAt + 'static) -> Result<Option<String>, ImageError> {
    let source = Source::new(Arc::new(bytes), Format::Qcow2);
    if &source.array::<4>(0)? != b"QFI\xfb" {
        return Err(source.damaged("it is not qcow2"));
    }
    let (at, len) = (source.be64(8)?, source.be32(16)?);
    if at == 0 {
        return Ok(None);
    }
    if len > MAX_NAME {
        return Err(source.damaged("the name of the disk below is too long"));
    }
    let mut name = vec![0; len as usize];
    source.fill(at, &mut name)?;
    let name = String::from_utf8(name);
    name.map(Some)
        .map_err(|_| source.damaged("the name of the disk below is no text"))
}

/// What was written over a disk.
pub struct Layer(Mapped<Qcow2>);

impl std::fmt::Debug for Layer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Layer").field(&self.size()).finish()
    }
}

impl Layer {
    pub fn open(bytes: impl ReadAt + 'static, limits: Limits) -> Result<Layer, ImageError> {
        let bytes: Arc<dyn ReadAt> = Arc::new(bytes);
        if detect(&*bytes)? != Format::Qcow2 {
            let what = "is not qcow2, and only that says what was written over another disk";
            return Err(ImageError::NotADisk { what });
        }
        let fits = |size: u64| match size <= limits.max_bytes {
            true => Ok(()),
            false => Err(ImageError::TooLarge {
                size,
                limit: limits.max_bytes,
            }),
        };
        let source = Source::new(bytes, Format::Qcow2);
        let map = Qcow2::open_layer(&source, &fits)?;
        Mapped::new(map, source).map(Layer)
    }

    pub fn size(&self) -> u64 {
        self.0.size()
    }

    /// The next part at or after `offset` that was written, be it with zeros.
    pub fn next_written(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        self.0.next_written(offset)
    }

    /// Both together as one disk. It has the layer's size; what neither has is zero.
    pub fn over<P: ReadAt>(&self, parent: P) -> Layered<'_, P> {
        Layered {
            layer: self,
            parent,
        }
    }
}

/// A layer with the disk below it.
pub struct Layered<'a, P> {
    layer: &'a Layer,
    parent: P,
}

impl<P: ReadAt> Layered<'_, P> {
    fn read_parent(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let there = self.parent.size().saturating_sub(offset);
        let there = there.min(buf.len() as u64) as usize;
        buf[there..].fill(0);
        match there {
            0 => Ok(()),
            there => self.parent.read_at(offset, &mut buf[..there]),
        }
    }
}

impl<P: ReadAt> ReadAt for Layered<'_, P> {
    fn size(&self) -> u64 {
        self.layer.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(self.size(), offset, buf.len())?;
        let end = offset + buf.len() as u64;
        let mut at = offset;
        while at < end {
            let written = self.layer.next_written(at)?;
            let written = written.filter(|written| written.start < end);
            let (start, stop) = written.map_or((end, end), |w| (w.start, w.end.min(end)));
            let part = |from: u64, to: u64| (from - offset) as usize..(to - offset) as usize;
            self.read_parent(at, &mut buf[part(at, start)])?;
            self.layer.0.read_at(start, &mut buf[part(start, stop)])?;
            at = stop;
        }
        Ok(())
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        if offset >= self.size() {
            return Ok(None);
        }
        let parent = match offset < self.parent.size() {
            true => self.parent.next_data(offset)?,
            false => None,
        };
        let parent = parent
            .map(|data| data.start..data.end.min(self.size()))
            .filter(|data| data.start < data.end);
        let layer = self.layer.0.next_data(offset)?;
        // The one that begins first; the parent's part may be hidden, but a hole it is not.
        Ok(match (parent, layer) {
            (Some(parent), Some(layer)) if layer.start < parent.start => Some(layer),
            (Some(parent), _) => Some(parent),
            (None, layer) => layer,
        })
    }
}
