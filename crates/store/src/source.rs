//! Where the frames of disks come from when a disk is read: one store, or a region of several.
//!
//! What is handed out is checked and decoded. Who asked, and what for, is not known here.

use std::cell::RefCell;

use disk::DiskDigest;

use crate::bulk::{Buffers, batches};
use crate::error::StoreError;
use crate::frame::Unpacker;
use crate::index::{Location, Reach};
use crate::manifest::{BranchRef, Manifest};
use crate::section::{Section, SectionRef, UsedFrame};
use crate::serve::Trace;
use crate::store::Store;

/// A reader of disks goes through this alone.
pub trait FrameSource: Send + Sync {
    /// A disk's manifest, checked. A frame of it that is known to be missing is an error.
    fn manifest(&self, digest: &DiskDigest) -> Result<Manifest, StoreError>;

    /// The sections of a part of the disk, checked.
    fn branch(
        &self,
        manifest: &Manifest,
        branch: &BranchRef,
    ) -> Result<Vec<SectionRef>, StoreError>;

    /// What sections are made of, checked, in the order asked for.
    fn sections(
        &self,
        manifest: &Manifest,
        wanted: &[SectionRef],
    ) -> Result<Vec<Section>, StoreError>;

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
        self.0.check_complete(&self.0.outside(digest)?)?;
        Ok(manifest)
    }

    fn branch(
        &self,
        manifest: &Manifest,
        branch: &BranchRef,
    ) -> Result<Vec<SectionRef>, StoreError> {
        self.0.branch(manifest, branch)
    }

    fn sections(
        &self,
        manifest: &Manifest,
        wanted: &[SectionRef],
    ) -> Result<Vec<Section>, StoreError> {
        self.0.sections(manifest, wanted)
    }

    fn read_frame(&self, frame: &UsedFrame, into: &mut Vec<u8>) -> Result<u64, StoreError> {
        let at = self.0.find(&frame.id, Reach::Reading)?;
        let at = at.ok_or(StoreError::LostFrame { frame: frame.id })?;
        let (at, stored) = self.0.stored(at)?;
        UNPACKER.with_borrow_mut(|unpacker| self.0.unpack(&at, &stored, unpacker, into))?;
        Ok(stored.len() as u64)
    }

    fn trace(&self, digest: &DiskDigest) -> Option<Trace> {
        Store::trace(self, digest)
    }

    fn read_frames(&self, frames: &[UsedFrame], each: &mut dyn FnMut(usize, u64, Vec<u8>)) {
        let located: Vec<(u32, Location)> = {
            let numbered = frames.iter().zip(0u32..);
            let find = |frame: &UsedFrame| self.0.find(&frame.id, Reach::Reading).ok()?;
            numbered
                .filter_map(|(frame, at)| Some((at, find(frame)?)))
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
