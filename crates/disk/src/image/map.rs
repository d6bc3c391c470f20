//! The common part of all formats with a map: where each part of the disk is in the file.
//!
//! A format says where; reading, decompressing, keeping and finding holes is done here.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use super::error::ImageError;
use super::inflate::{Codec, inflate};
use super::source::Source;
use crate::ReadAt;
use crate::media::check_range;

/// Decompressed clusters that an open image keeps, in bytes, but at least [`MIN_KEPT`].
const KEPT_BYTES: usize = 4 << 20;
const MIN_KEPT: usize = 4;

/// A compressed cluster takes at least this much of a file. An image that claims more clusters
/// than its bytes allow lets several parts of the disk share one.
const MIN_PACKED_BYTES: u64 = 8;

/// Where a part of the disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Zero,
    /// Never written: zero, or what a disk below has.
    Nothing,
    /// At this offset of the file, which belongs to the offset that was asked for.
    At(u64),
    Packed(Packed),
}

/// A compressed cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Packed {
    /// Where it is in the file, and how long it may be.
    pub(super) at: u64,
    pub(super) len: u32,
    /// Where it begins on the disk, and how much it holds.
    pub(super) start: u64,
    pub(super) unit: u32,
    pub(super) codec: Codec,
}

/// A part of the disk, from the offset that was asked for up to `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) end: u64,
    pub(super) place: Place,
}

/// What a format has to know.
pub(super) trait Map: Send + Sync {
    /// Bytes of the disk.
    fn size(&self) -> u64;

    /// What is at `offset`, which is within the disk. The extent is never empty; it may end
    /// after the disk.
    fn extent(&self, source: &Source, offset: u64) -> Result<Extent, ImageError>;
}

/// An image with a map, as a disk.
pub(super) struct Mapped<M> {
    map: M,
    source: Source,
    kept: Mutex<Vec<(u64, Arc<Vec<u8>>)>>,
}

impl<M: Map> Mapped<M> {
    /// Walks the whole map once: what lies outside the file, or more data than the file has room
    /// for, is refused now and not when half of the disk is read.
    pub(super) fn new(map: M, source: Source) -> Result<Self, ImageError> {
        let mapped = Mapped {
            map,
            source,
            kept: Mutex::default(),
        };
        let (mut offset, mut room) = (0, mapped.source.size());
        while offset < mapped.map.size() {
            let extent = mapped.extent(offset)?;
            let taken = match extent.place {
                Place::Zero | Place::Nothing => 0,
                Place::At(_) => extent.end - offset,
                Place::Packed(packed) if packed.start == offset => MIN_PACKED_BYTES,
                Place::Packed(_) => 0,
            };
            room = room.checked_sub(taken).ok_or_else(|| {
                mapped
                    .source
                    .damaged("parts of the disk overlap in the file")
            })?;
            offset = extent.end;
        }
        Ok(mapped)
    }

    /// The next part at or after `offset` that was written, be it with zeros.
    pub(super) fn next_written(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        let mut offset = offset;
        while offset < self.map.size() {
            let extent = self.extent(offset)?;
            if extent.place != Place::Nothing {
                return Ok(Some(offset..extent.end));
            }
            offset = extent.end;
        }
        Ok(None)
    }

    /// The extent at `offset`, cut to the disk, and checked to lie in the file.
    fn extent(&self, offset: u64) -> Result<Extent, ImageError> {
        let mut extent = self.map.extent(&self.source, offset)?;
        extent.end = extent.end.min(self.map.size());
        const OUTSIDE: &str = "data lies beyond the end of the file";
        match extent.place {
            Place::Zero | Place::Nothing => {}
            Place::At(at) => self.source.holds(at, extent.end - offset, OUTSIDE)?,
            Place::Packed(packed) => self.source.holds(packed.at, 1, OUTSIDE)?,
        }
        Ok(extent)
    }

    fn unit(&self, packed: &Packed) -> Result<Arc<Vec<u8>>, ImageError> {
        if let Some(found) = self.find(packed.start) {
            return Ok(found);
        }
        // Two readers may both decompress a cluster; that costs less than making one wait.
        let left = self.source.size().saturating_sub(packed.at);
        let mut stored = vec![0; left.min(u64::from(packed.len)) as usize];
        self.source
            .bytes()
            .read_at(packed.at, &mut stored)
            .map_err(ImageError::Read)?;
        let mut raw = vec![0; packed.unit as usize];
        inflate(packed.codec, &stored, &mut raw).map_err(|what| self.source.damaged(what))?;
        let raw = Arc::new(raw);
        let mut kept = self.kept();
        let room = (KEPT_BYTES / raw.len().max(1)).max(MIN_KEPT);
        if kept.len() >= room {
            kept.remove(0);
        }
        kept.push((packed.start, Arc::clone(&raw)));
        Ok(raw)
    }

    fn find(&self, start: u64) -> Option<Arc<Vec<u8>>> {
        let kept = self.kept();
        let (_, found) = kept.iter().rev().find(|(key, _)| *key == start)?;
        Some(Arc::clone(found))
    }

    fn kept(&self) -> MutexGuard<'_, Vec<(u64, Arc<Vec<u8>>)>> {
        self.kept
            .lock()
            .unwrap_or_else(|poison| poison.into_inner())
    }

    /// The part of an uncompressed extent that the file itself has data for.
    fn data_in_file(&self, offset: u64, end: u64, at: u64) -> io::Result<Option<Range<u64>>> {
        let found = self.source.bytes().next_data(at)?;
        let within = found.filter(|data| data.start < at + (end - offset));
        Ok(within.map(|data| {
            let start = offset + (data.start - at);
            start..end.min(offset + (data.end - at))
        }))
    }
}

impl<M: Map> ReadAt for Mapped<M> {
    fn size(&self) -> u64 {
        self.map.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(self.size(), offset, buf.len())?;
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let extent = self.extent(at)?;
            let step = (extent.end - at).min((buf.len() - done) as u64) as usize;
            let part = &mut buf[done..done + step];
            match extent.place {
                Place::Zero | Place::Nothing => part.fill(0),
                Place::At(from) => self.source.bytes().read_at(from, part)?,
                Place::Packed(packed) => {
                    let within = (at - packed.start) as usize;
                    part.copy_from_slice(&self.unit(&packed)?[within..within + step]);
                }
            }
            done += step;
        }
        Ok(())
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        let mut offset = offset;
        while offset < self.size() {
            let extent = self.extent(offset)?;
            let data = match extent.place {
                Place::Zero | Place::Nothing => None,
                Place::At(at) => self.data_in_file(offset, extent.end, at)?,
                Place::Packed(_) => Some(offset..extent.end),
            };
            if data.is_some() {
                return Ok(data);
            }
            offset = extent.end;
        }
        Ok(None)
    }
}
