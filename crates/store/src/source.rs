//! Where the frames of disks come from when a disk is read: one store, or a region of several.
//!
//! What is handed out is checked and decoded. Who asked, and what for, is not known here.

use std::cell::RefCell;

use disk::DiskDigest;

use crate::bulk::{Buffers, batches};
use crate::error::StoreError;
use crate::frame::Unpacker;
use crate::index::Location;
use crate::manifest::{Manifest, UsedFrame};
use crate::serve::Trace;
use crate::store::{Inner, Store};

/// How often a frame is looked for again that was moved to another pack at this moment.
const MOVES: usize = 3;

/// A reader of disks goes through this alone.
pub trait FrameSource: Send + Sync {
    /// A disk's manifest, checked. A frame of it that is known to be missing is an error.
    fn manifest(&self, digest: &DiskDigest) -> Result<Manifest, StoreError>;

    /// The blocks of a frame, checked and decoded, into `into`, which is cleared first. Returns
    /// the stored bytes that were read for it.
    fn read_frame(&self, frame: &UsedFrame, into: &mut Vec<u8>) -> Result<u64, StoreError>;

    /// Which blocks a boot reads, if that is known.
    fn trace(&self, _digest: &DiskDigest) -> Option<Trace> {
        None
    }

    /// Several frames, in the order that is cheapest. `each` is told the place in `frames`, the
    /// stored bytes and the blocks. A frame that cannot be read is left out: whoever needs it asks
    /// for it alone and is told why.
    fn read_frames(&self, frames: &[UsedFrame], each: &mut dyn FnMut(usize, u64, Vec<u8>)) {
        for (at, frame) in frames.iter().enumerate() {
            let mut raw = Vec::new();
            if let Ok(stored) = self.read_frame(frame, &mut raw) {
                each(at, stored, raw);
            }
        }
    }
}

thread_local! {
    /// Setting a decompressor up costs as much as decompressing a frame.
    static UNPACKER: RefCell<Unpacker> = RefCell::new(Unpacker::new());
}

impl FrameSource for Store {
    fn manifest(&self, digest: &DiskDigest) -> Result<Manifest, StoreError> {
        let manifest = self.0.manifest(digest)?;
        self.0.locate(&manifest)?;
        Ok(manifest)
    }

    fn read_frame(&self, frame: &UsedFrame, into: &mut Vec<u8>) -> Result<u64, StoreError> {
        let (at, stored) = self.0.stored_frame(frame)?;
        UNPACKER.with_borrow_mut(|unpacker| self.0.unpack(&at, &stored, unpacker, into))?;
        Ok(stored.len() as u64)
    }

    fn trace(&self, digest: &DiskDigest) -> Option<Trace> {
        Store::trace(self, digest)
    }

    fn read_frames(&self, frames: &[UsedFrame], each: &mut dyn FnMut(usize, u64, Vec<u8>)) {
        let located: Vec<(u32, Location)> = {
            let index = self.0.index();
            let numbered = frames.iter().zip(0u32..);
            numbered
                .filter_map(|(frame, at)| Some((at, index.readable(&frame.id)?)))
                .collect()
        };
        let mut buffers = Buffers::new();
        for batch in batches(located.into_iter()) {
            let read = batch.unpacked(&self.0, &mut buffers, |at, location, _, raw| {
                each(at as usize, u64::from(location.len), raw.to_vec());
                Ok(())
            });
            if let Err(error) = read {
                tracing::debug!(%error, "frames were not read ahead");
            }
        }
    }
}

impl Inner {
    /// A frame as it is stored, and where. It may have moved since it was looked up.
    fn stored_frame(&self, frame: &UsedFrame) -> Result<(Location, Vec<u8>), StoreError> {
        let mut gone = None;
        for _ in 0..MOVES {
            let Some(at) = self.index().readable(&frame.id) else {
                break;
            };
            match self.pack_range(at.pack, at.offset, at.len) {
                Ok(stored) => return Ok((at, stored)),
                Err(error) if error.is_not_found() => gone = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(gone.unwrap_or(StoreError::LostFrame { frame: frame.id }))
    }
}
