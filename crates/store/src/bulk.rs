//! Reading many frames: in the order of the packs, neighbours in one read.

use crate::error::StoreError;
use crate::frame::Unpacker;
use crate::index::Location;
use crate::store::Inner;

/// What one read of a place asks for at most.
const MAX_READ: u32 = 1 << 20;
/// Bytes that nobody wants are read along if they are no more than this.
const MAX_GAP: u32 = 64 << 10;

/// Frames that are read together.
#[derive(Debug)]
pub(crate) struct Batch {
    pack: u32,
    start: u32,
    end: u32,
    /// With the numbers the caller knows them by.
    pub(crate) frames: Vec<(u32, Location)>,
}

/// Groups frames, whatever order they come in.
pub(crate) fn batches(frames: impl Iterator<Item = (u32, Location)>) -> Vec<Batch> {
    let mut sorted: Vec<_> = frames.collect();
    sorted.sort_unstable_by_key(|(_, at)| (at.pack, at.offset));
    let mut batches: Vec<Batch> = Vec::new();
    for (number, at) in sorted {
        let end = at.offset + at.len;
        match batches.last_mut() {
            Some(last)
                if last.pack == at.pack
                    && at.offset <= last.end + MAX_GAP
                    && end <= last.start + MAX_READ =>
            {
                last.end = last.end.max(end);
                last.frames.push((number, at));
            }
            _ => batches.push(Batch {
                pack: at.pack,
                start: at.offset,
                end,
                frames: vec![(number, at)],
            }),
        }
    }
    batches
}

/// The buffers of one thread.
pub(crate) struct Buffers {
    unpacker: Unpacker,
    raw: Vec<u8>,
}

impl Buffers {
    pub(crate) fn new() -> Self {
        Buffers {
            unpacker: Unpacker::new(),
            raw: Vec::new(),
        }
    }
}

impl Batch {
    /// Calls `each` with every frame as it is stored, unchecked.
    pub(crate) fn stored(
        &self,
        inner: &Inner,
        mut each: impl FnMut(u32, &Location, &[u8]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let bytes = inner.pack_range(self.pack, self.start, self.end - self.start)?;
        for (number, at) in &self.frames {
            let from = (at.offset - self.start) as usize;
            each(*number, at, &bytes[from..from + at.len as usize])?;
        }
        Ok(())
    }

    /// Calls `each` with every frame, checked: as it is stored, and raw.
    pub(crate) fn unpacked(
        &self,
        inner: &Inner,
        buffers: &mut Buffers,
        mut each: impl FnMut(u32, &Location, &[u8], &[u8]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let Buffers { unpacker, raw } = buffers;
        self.stored(inner, |number, at, stored| {
            inner.unpack(at, stored, unpacker, raw)?;
            each(number, at, stored, raw)
        })
    }
}
