//! Reading over the stores of a region: what one does not give, another does, within one request.
//!
//! A frame that is lost or damaged in one store is repaired from another while the reader waits; the
//! repair failing is no error as long as somebody has the frame.

use std::sync::Arc;

use disk::DiskDigest;

use super::{Member, Region, seconds_now};
use crate::cache::FrameCache;
use crate::error::StoreError;
use crate::manifest::{BranchRef, Manifest};
use crate::section::{Section, SectionRef, UsedFrame};
use crate::serve::Trace;
use crate::source::FrameSource;
use crate::store::Store;
use crate::view::StoredDisk;

/// Stores that hold a disk, in the order in which they are asked, and others that may help to
/// repair them.
pub struct Readers {
    stores: Vec<(String, Store)>,
    /// In further regions.
    others: Vec<Store>,
}

impl Region {
    /// What a disk can be read from. `others` are stores of further regions, for repairs.
    pub fn readers(&self, digest: &DiskDigest, others: &[Store]) -> Readers {
        // Stores that lack a frame are asked too, after those that have everything.
        let mut order = self.holders(digest);
        let holders: Vec<*const Member> = order.iter().map(Arc::as_ptr).collect();
        let rest = self.members().into_iter();
        order.extend(rest.filter(|member| !holders.contains(&Arc::as_ptr(member))));
        let named = |member: &Arc<Member>| Some((member.shown(), member.store()?));
        Readers {
            stores: order.iter().filter_map(named).collect(),
            others: others.to_vec(),
        }
    }

    /// A disk, read like any other, from whichever store gives it.
    pub fn disk(
        &self,
        digest: &DiskDigest,
        others: &[Store],
        cache: &Arc<FrameCache>,
    ) -> Result<StoredDisk, StoreError> {
        StoredDisk::open(Arc::new(self.readers(digest, others)), digest, cache)
    }

    /// Adds what a boot read to the trace of the disk, in every store that holds it. What one store
    /// does not keep is no harm as long as another does.
    pub fn keep_trace(&self, digest: &DiskDigest, trace: &Trace) -> Result<(), StoreError> {
        let holders = self.holders(digest).into_iter();
        let stores: Vec<Store> = holders.filter_map(|member| member.store()).collect();
        let known = stores.iter().find_map(|store| store.trace(digest));
        let whole = known.unwrap_or_default().and(trace);
        let kept = stores.iter().map(|store| store.put_trace(digest, &whole));
        let none = Err(StoreError::UnknownDisk(*digest));
        kept.fold(none, |one, other| if one.is_ok() { one } else { other })
    }
}

/// Repairs that one read of a store may need before it is given up: frames of a disk that lies on a
/// dying device are all bad, and then another store is quicker.
const REPAIRS: usize = 64;

impl Readers {
    /// Does something with a store that has what is needed; after an error with the next one.
    pub fn read<T>(&self, work: impl Fn(&Store) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let mut first = None;
        for (name, store) in &self.stores {
            let mut repairs = 0;
            let error = loop {
                let error = match work(store) {
                    Ok(done) => return Ok(done),
                    Err(error) => error,
                };
                let repaired = repairs < REPAIRS && self.repair(name, store, &error);
                repairs += 1;
                if !repaired {
                    break error;
                }
            };
            if matches!(error, StoreError::Stopped | StoreError::File { .. }) {
                return Err(error);
            }
            tracing::debug!(store = name, %error, "the next store is asked");
            // That a store has no such disk tells less than why another could not give it.
            first = match first {
                None | Some(StoreError::UnknownDisk(_)) => Some(error),
                kept => kept,
            };
        }
        Err(first.unwrap_or_else(|| StoreError::Put {
            name: "anything".to_owned(),
            source: std::io::Error::other("no store of the region can be used"),
        }))
    }

    /// Whether what could not be read is sound again.
    fn repair(&self, name: &str, store: &Store, error: &StoreError) -> bool {
        let same = |other: &Store| Arc::ptr_eq(&other.0, &store.0);
        let near = self.stores.iter().map(|(_, other)| other);
        let all = near.chain(&self.others).filter(|other| !same(other));
        let others: Vec<Store> = all.cloned().collect();
        let now = seconds_now();
        let mended = match (error.bad_frame(), error.bad_pack()) {
            (Some(frame), _) => store.mend_frame(&frame, &others, now),
            (None, Some(pack)) => store.mend_pack(pack, &others, now),
            (None, None) => return false,
        };
        match mended {
            Ok(mended) => {
                tracing::warn!(
                    store = name,
                    %error,
                    frames = mended.frames,
                    lost = mended.lost,
                    "frames were damaged, and repaired from other stores"
                );
                mended.frames > 0 && mended.lost == 0
            }
            Err(failed) => {
                tracing::warn!(store = name, %error, %failed, "what is damaged cannot be repaired");
                false
            }
        }
    }
}

impl FrameSource for Readers {
    fn manifest(&self, digest: &DiskDigest) -> Result<Manifest, StoreError> {
        self.read(|store| FrameSource::manifest(store, digest))
    }

    fn branch(
        &self,
        manifest: &Manifest,
        branch: &BranchRef,
    ) -> Result<Vec<SectionRef>, StoreError> {
        self.read(|store| FrameSource::branch(store, manifest, branch))
    }

    fn sections(
        &self,
        manifest: &Manifest,
        wanted: &[SectionRef],
    ) -> Result<Vec<Section>, StoreError> {
        self.read(|store| FrameSource::sections(store, manifest, wanted))
    }

    fn read_frame(&self, frame: &UsedFrame, into: &mut Vec<u8>) -> Result<u64, StoreError> {
        let read = self.read(|store| {
            let mut raw = Vec::new();
            let stored = store.read_frame(frame, &mut raw)?;
            Ok((stored, raw))
        });
        let (stored, raw) = read?;
        *into = raw;
        Ok(stored)
    }

    fn trace(&self, digest: &DiskDigest) -> Option<Trace> {
        let mut stores = self.stores.iter();
        stores.find_map(|(_, store)| store.trace(digest))
    }

    fn read_frames(&self, frames: &[UsedFrame], each: &mut dyn FnMut(usize, u64, Vec<u8>)) {
        // What the first store cannot give is asked for alone by whoever needs it.
        if let Some((_, store)) = self.stores.first() {
            store.read_frames(frames, each);
        }
    }
}
