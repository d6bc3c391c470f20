//! Disks written as images of other programs: raw, qcow2, fixed and dynamic VHD, VHDX.
//!
//! All are written from their first byte to their last, so that an image can go straight to a
//! socket; nothing is written twice and nothing is kept aside. What must be known beforehand comes
//! from the map of holes, which is walked first. The same disk with the same options always gives
//! the same bytes: there is no clock and no randomness here.

mod plan;
mod qcow2;
mod raw;
mod sink;
mod vhd;
mod vhdx;

use std::io;
use std::ops::Range;

use uuid::Uuid;

use crate::image::Format;
use crate::{BLOCK_SIZE, ReadAt, is_zero, read_sparse};

pub use plan::{Plan, plan};
pub use sink::{Sink, Stream};

/// Sizes of VHD and of what goes to Azure are whole MiB.
const MIB: u64 = 1 << 20;
/// What is read from a disk at a time.
const STEP: u64 = 1 << 20;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    #[error("read the disk")]
    Read(#[source] io::Error),
    #[error("write the image")]
    Write(#[source] io::Error),
    #[error("compress a cluster")]
    Compress(#[source] io::Error),
    #[error("a disk of {size} bytes does not fit into {format}, which holds at most {limit}")]
    TooLarge {
        format: Format,
        size: u64,
        limit: u64,
    },
    #[error("{format} can be read but not written")]
    NotWritten { format: Format },
    #[error("stopped before the image was whole")]
    Stopped,
}

/// What an image should be.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    pub format: Format,
    /// The identity of the disk, which VHD and VHDX carry.
    pub id: Uuid,
}

/// What an image became.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exported {
    /// The size of the disk inside, which a format may round up with zeros.
    pub disk_bytes: u64,
    /// The length of the image, holes included.
    pub image_bytes: u64,
    /// What of it was written as data.
    pub written_bytes: u64,
}

/// Told how many bytes of the disk are done, now and then; `false` stops the export.
pub type Report<'a> = &'a dyn Fn(u64) -> bool;

/// Writes `disk` as an image.
pub fn export(
    disk: &dyn ReadAt,
    options: &Options,
    sink: &mut dyn Sink,
    report: Report<'_>,
) -> Result<Exported, ExportError> {
    let mut out = Output::new(sink, 0..u64::MAX, report);
    let disk_bytes = match options.format {
        Format::Qcow2 => qcow2::write(disk, &mut out)?,
        _ => write_plain(disk, options, &mut out)?,
    };
    Ok(Exported {
        disk_bytes,
        image_bytes: out.at,
        written_bytes: out.written,
    })
}

/// The formats whose layout does not depend on what the data is. Returns the size of the disk inside.
fn write_plain(
    disk: &dyn ReadAt,
    options: &Options,
    out: &mut Output<'_>,
) -> Result<u64, ExportError> {
    match options.format {
        Format::Raw => raw::write(disk, out),
        Format::VhdFixed => vhd::write_fixed(disk, options.id, out),
        Format::VhdDynamic => vhd::write_dynamic(disk, options.id, out),
        Format::Vhdx => vhdx::write(disk, options.id, out),
        format @ (Format::Qcow2 | Format::Vmdk) => Err(ExportError::NotWritten { format }),
    }
}

/// The sink, how far the image is, and which part of it is wanted.
struct Output<'a> {
    sink: &'a mut dyn Sink,
    at: u64,
    written: u64,
    wanted: Range<u64>,
    report: Report<'a>,
}

impl<'a> Output<'a> {
    fn new(sink: &'a mut dyn Sink, wanted: Range<u64>, report: Report<'a>) -> Self {
        Output {
            sink,
            at: 0,
            written: 0,
            wanted,
            report,
        }
    }

    /// Which part of the next so many bytes is wanted.
    fn wanted_of(&self, len: u64) -> Range<u64> {
        let within = |offset: u64| offset.clamp(self.at, self.at + len) - self.at;
        within(self.wanted.start)..within(self.wanted.end)
    }

    /// Passes over bytes of which none is wanted, so that nobody need know them.
    fn skip(&mut self, len: u64) -> bool {
        let is_unwanted = self.wanted_of(len).is_empty();
        if is_unwanted {
            self.at += len;
        }
        is_unwanted
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), ExportError> {
        let wanted = self.wanted_of(bytes.len() as u64);
        let part = &bytes[wanted.start as usize..wanted.end as usize];
        if !part.is_empty() {
            self.sink.bytes(part).map_err(ExportError::Write)?;
        }
        self.at += bytes.len() as u64;
        self.written += part.len() as u64;
        Ok(())
    }

    fn zeros(&mut self, len: u64) -> Result<(), ExportError> {
        let wanted = self.wanted_of(len);
        if !wanted.is_empty() {
            let len = wanted.end - wanted.start;
            self.sink.zeros(len).map_err(ExportError::Write)?;
        }
        self.at += len;
        Ok(())
    }

    /// Zeros up to this offset of the image.
    fn zeros_to(&mut self, offset: u64) -> Result<(), ExportError> {
        assert!(self.at <= offset, "an image is written forwards only");
        self.zeros(offset - self.at)
    }

    /// Bytes that lie in the image before what was written last, if the sink can do that.
    fn patch(&mut self, offset: u64, bytes: &[u8]) -> Result<(), ExportError> {
        assert!(
            offset + bytes.len() as u64 <= self.at,
            "a patch lies in what is written"
        );
        self.sink.patch(offset, bytes).map_err(ExportError::Write)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn done(&self, disk_bytes: u64) -> Result<(), ExportError> {
        match (self.report)(disk_bytes) {
            true => Ok(()),
            false => Err(ExportError::Stopped),
        }
    }

    /// A part of the disk as it is; blocks of zeros become holes. What lies behind the disk's end
    /// is zero too.
    fn disk(&mut self, disk: &dyn ReadAt, start: u64, end: u64) -> Result<(), ExportError> {
        let mut offset = start;
        let mut buf = Vec::new();
        while offset < end {
            let data = disk.next_data(offset).map_err(ExportError::Read)?;
            let Some(data) = data.filter(|data| data.start < end) else {
                break;
            };
            self.zeros(data.start - offset)?;
            let stop = data.end.min(end);
            offset = data.start;
            while offset < stop {
                // Cut where blocks begin, so that a block is zero or not as a whole.
                let step = (stop - offset).min(STEP - offset % BLOCK_SIZE as u64);
                if self.skip(step) {
                    offset += step;
                    continue;
                }
                buf.resize(step as usize, 0);
                disk.read_at(offset, &mut buf).map_err(ExportError::Read)?;
                self.sparse(&buf, offset)?;
                offset += step;
                self.done(offset)?;
            }
        }
        self.zeros(end - offset)?;
        self.done(end.min(disk.size()))
    }

    /// Bytes that begin at `offset` of the disk, without their zero blocks.
    fn sparse(&mut self, bytes: &[u8], offset: u64) -> Result<(), ExportError> {
        let (mut start, mut end) = (0, 0);
        while end < bytes.len() {
            let to_block = BLOCK_SIZE - ((offset as usize + end) % BLOCK_SIZE);
            let next = (end + to_block).min(bytes.len());
            if is_zero(&bytes[end..next]) {
                if start < end {
                    self.bytes(&bytes[start..end])?;
                }
                self.zeros((next - end) as u64)?;
                start = next;
            }
            end = next;
        }
        match start < bytes.len() {
            true => self.bytes(&bytes[start..]),
            false => Ok(()),
        }
    }
}

/// Units of the disk that may hold data, in order.
fn units(disk: &dyn ReadAt, unit: u64) -> Result<Vec<u32>, ExportError> {
    let mut found = Vec::new();
    let mut offset = 0;
    while let Some(data) = disk.next_data(offset).map_err(ExportError::Read)? {
        let (first, last) = (data.start / unit, (data.end - 1) / unit);
        found.extend((first..=last).map(|index| index as u32));
        offset = (last + 1) * unit;
    }
    Ok(found)
}

/// Fills `buf` from `offset`; what lies behind the disk's end is zero.
fn read_padded(disk: &dyn ReadAt, offset: u64, buf: &mut [u8]) -> Result<(), ExportError> {
    let there = disk.size().saturating_sub(offset).min(buf.len() as u64) as usize;
    read_sparse(disk, offset, &mut buf[..there]).map_err(ExportError::Read)?;
    buf[there..].fill(0);
    Ok(())
}

fn limited(format: Format, size: u64, limit: u64) -> Result<(), ExportError> {
    match size <= limit {
        true => Ok(()),
        false => Err(ExportError::TooLarge {
            format,
            size,
            limit,
        }),
    }
}
