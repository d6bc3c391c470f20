//! Bringing a disk to the stores of a region that shall hold it, and taking it from those that need
//! it no longer.
//!
//! Every copy is resumable to the frame, as frames that arrived are found again, and a disk becomes
//! visible in a store only when all its frames are there and were checked.

use std::sync::Arc;

use disk::DiskDigest;

use super::{Member, Placement, Region, seconds_now};
use crate::error::StoreError;
use crate::replicate::{Moved, Progress};
use crate::store::Store;

/// Repairs of a source that one copy may need.
const REPAIRS: usize = 64;

/// What a copy tells while it runs, and what holds it back.
pub trait Flow: Sync {
    /// `new` bytes moved since the last call. May block, to keep to a bandwidth.
    fn moved(&self, new: u64, progress: Progress);
}

/// As fast as it goes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unlimited;

impl Flow for Unlimited {
    fn moved(&self, _: u64, _: Progress) {}
}

/// What came of bringing a disk to a region.
#[derive(Debug, Default)]
pub struct Brought {
    pub moved: Moved,
    /// Stores that lack the disk still, and why.
    pub failed: Vec<(Arc<Member>, String)>,
}

impl Region {
    /// Copies the disk to every store of `placement` that lacks it: from a store of this region if
    /// one has it, else from `others`, in their order. A store that fails keeps none of the others
    /// back.
    pub fn bring(
        &self,
        digest: &DiskDigest,
        placement: &Placement,
        others: &[Store],
        flow: &dyn Flow,
    ) -> Brought {
        let mut brought = Brought::default();
        for member in &placement.members {
            let Some(store) = member.store() else {
                let why = member.why_away().unwrap_or_default();
                brought.failed.push((Arc::clone(member), why));
                continue;
            };
            match self.fill(digest, &store, others, flow) {
                Ok(moved) => {
                    brought.moved.frames += moved.frames;
                    brought.moved.frame_bytes += moved.frame_bytes;
                    brought.moved.manifest_bytes += moved.manifest_bytes;
                    brought.moved.frames_present += moved.frames_present;
                }
                Err(why) => brought.failed.push((Arc::clone(member), why)),
            }
        }
        brought
    }

    fn fill(
        &self,
        digest: &DiskDigest,
        store: &Store,
        others: &[Store],
        flow: &dyn Flow,
    ) -> Result<Moved, String> {
        if store.has(digest) {
            return Ok(Moved::default());
        }
        let own = self.stores();
        let all: Vec<Store> = own.iter().chain(others).cloned().collect();
        let sources = all.iter().filter(|source| source.has(digest));
        let mut failed = format!("no region of this server holds the disk {digest}");
        for source in sources {
            match copy(source, store, digest, &all, flow) {
                Ok(moved) => return Ok(moved),
                Err(error) => failed = chain(&error),
            }
        }
        Err(failed)
    }

    /// Takes the disk from every store of the region that is not in `keep`, after the copies in
    /// `keep` were read and found sound, or were repaired: until then the others may be the only
    /// good ones. Answers how many stores had it.
    pub fn withdraw(
        &self,
        digest: &DiskDigest,
        keep: &[Arc<Member>],
        others: &[Store],
    ) -> Result<u64, StoreError> {
        let mut surplus = self.members();
        surplus.retain(|member| {
            member.has(digest) && !keep.iter().any(|kept| Arc::ptr_eq(kept, member))
        });
        if surplus.is_empty() {
            return Ok(0);
        }
        for member in keep {
            self.vouch(digest, member, others)?;
        }
        let mut withdrawn = 0;
        for store in surplus.iter().filter_map(|member| member.store()) {
            withdrawn += u64::from(store.delete(digest)?);
        }
        Ok(withdrawn)
    }

    /// Makes sure, by reading all of it, that a store's copy of a disk is sound; what is not is
    /// repaired from other stores.
    pub fn vouch(
        &self,
        digest: &DiskDigest,
        member: &Member,
        others: &[Store],
    ) -> Result<(), StoreError> {
        let unknown = StoreError::UnknownDisk(*digest);
        let Some(store) = member.store() else {
            return Err(unknown);
        };
        let near = self.stores().into_iter();
        let mut helpers: Vec<Store> = near.chain(others.iter().cloned()).collect();
        helpers.retain(|other| !Arc::ptr_eq(&other.0, &store.0));
        for _ in 0..REPAIRS {
            let report = store.verify(digest)?;
            let Some(damaged) = report.damaged.first() else {
                return Ok(());
            };
            let mended = store.mend_frame(&damaged.frame, &helpers, seconds_now())?;
            if mended.lost > 0 || mended.frames == 0 {
                break;
            }
        }
        Err(unknown)
    }
}

/// One copy; what is damaged in the source is repaired from all others on the way.
fn copy(
    from: &Store,
    to: &Store,
    digest: &DiskDigest,
    all: &[Store],
    flow: &dyn Flow,
) -> Result<Moved, StoreError> {
    let others: Vec<Store> = all
        .iter()
        .filter(|other| !Arc::ptr_eq(&other.0, &from.0))
        .cloned()
        .collect();
    for _ in 0..REPAIRS {
        let last = std::sync::atomic::AtomicU64::new(0);
        let copied = Store::replicate(from, to, digest, &|progress| {
            let before = last.swap(progress.bytes_done, std::sync::atomic::Ordering::Relaxed);
            flow.moved(progress.bytes_done.saturating_sub(before), progress);
        });
        let error = match copied {
            Err(error) => error,
            done => return done,
        };
        let Some(frame) = error.bad_frame() else {
            return Err(error);
        };
        let mended = from.mend_frame(&frame, &others, seconds_now())?;
        if mended.frames == 0 || mended.lost > 0 {
            return Err(error);
        }
    }
    Err(StoreError::UnknownDisk(*digest))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
