//! A region: one to three zones, each with one or more stores, which together keep disks so that the
//! loss of a store or a zone loses nothing that was asked to survive it.
//!
//! A region knows stores and disks. Which disks shall be where, and in which regions else, is decided
//! above this crate.

mod copy;
mod placement;
mod read;
mod scrub;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use disk::DiskDigest;

use crate::error::StoreError;
use crate::store::Store;

pub use copy::{Brought, Flow, Unlimited};
pub use placement::{Kind, Placement, PlacementError, Want};
pub use read::Readers;
pub use scrub::{Found, Position, Scrubbed};

/// One store of a region.
#[derive(Debug)]
pub struct Member {
    pub zone: String,
    /// Its name within the zone.
    pub name: String,
    /// For versions that ask for the faster kind of storage.
    pub premium: bool,
    slot: RwLock<Slot>,
}

/// Whether a store can be used.
#[derive(Debug, Clone)]
enum Slot {
    Open(Store),
    /// Why not.
    Away(String),
}

impl Member {
    pub fn open(zone: &str, name: &str, premium: bool, store: Store) -> Member {
        Member::new(zone, name, premium, Slot::Open(store))
    }

    /// One that cannot be used now, and why.
    pub fn away(zone: &str, name: &str, premium: bool, why: &str) -> Member {
        Member::new(zone, name, premium, Slot::Away(why.to_owned()))
    }

    fn new(zone: &str, name: &str, premium: bool, slot: Slot) -> Member {
        Member {
            zone: zone.to_owned(),
            name: name.to_owned(),
            premium,
            slot: RwLock::new(slot),
        }
    }

    /// The store, if it can be used.
    pub fn store(&self) -> Option<Store> {
        match &*self.slot.read().unwrap_or_else(PoisonError::into_inner) {
            Slot::Open(store) => Some(store.clone()),
            Slot::Away(_) => None,
        }
    }

    /// Why the store cannot be used.
    pub fn why_away(&self) -> Option<String> {
        match &*self.slot.read().unwrap_or_else(PoisonError::into_inner) {
            Slot::Open(_) => None,
            Slot::Away(why) => Some(why.clone()),
        }
    }

    /// It is back.
    pub fn comes_back(&self, store: Store) {
        *self.slot.write().unwrap_or_else(PoisonError::into_inner) = Slot::Open(store);
    }

    /// It is gone, until [`Member::comes_back`].
    pub fn goes_away(&self, why: &str) {
        let away = Slot::Away(why.to_owned());
        *self.slot.write().unwrap_or_else(PoisonError::into_inner) = away;
    }

    /// How people are told of it.
    pub fn shown(&self) -> String {
        match self.name.as_str() {
            Region::ONLY => format!("zone {}", self.zone),
            name => format!("store {name} of zone {}", self.zone),
        }
    }

    fn has(&self, digest: &DiskDigest) -> bool {
        self.store().is_some_and(|store| store.has(digest))
    }
}

/// Stores in zones. The order of members is the order in which they are used.
#[derive(Debug, Default)]
pub struct Region {
    name: String,
    members: RwLock<Vec<Arc<Member>>>,
    opening: Mutex<()>,
    /// So that readers spread over what holds a disk.
    turn: AtomicUsize,
}

impl Region {
    /// The name of a zone's store where it has only one.
    pub const ONLY: &str = "default";

    pub fn new(name: &str) -> Region {
        Region {
            name: name.to_owned(),
            ..Region::default()
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Adds a store. One that is there by zone and name is replaced.
    pub fn add(&self, member: Member) {
        let mut members = self.members.write().unwrap_or_else(PoisonError::into_inner);
        let key = |member: &Member| (member.zone.clone(), member.name.clone());
        members.retain(|known| key(known) != key(&member));
        members.push(Arc::new(member));
        members.sort_by_key(|member| key(member));
    }

    /// Held while stores of the region are looked for and opened: two who open the same one at once would find it
    /// taken, as if by another process.
    pub fn alone(&self) -> MutexGuard<'_, ()> {
        self.opening.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn members(&self) -> Vec<Arc<Member>> {
        let members = self.members.read().unwrap_or_else(PoisonError::into_inner);
        members.clone()
    }

    pub fn zones(&self) -> Vec<String> {
        let mut zones: Vec<String> = self.members().iter().map(|m| m.zone.clone()).collect();
        zones.dedup();
        zones
    }

    /// The stores that can be used.
    pub fn stores(&self) -> Vec<Store> {
        self.members().iter().filter_map(|m| m.store()).collect()
    }

    /// Members that hold the whole disk, beginning with another one each time.
    pub fn holders(&self, digest: &DiskDigest) -> Vec<Arc<Member>> {
        let mut holders = self.members();
        holders.retain(|member| member.has(digest));
        if !holders.is_empty() {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % holders.len();
            holders.rotate_left(turn);
        }
        holders
    }

    /// Whether the disk can be read here.
    pub fn has(&self, digest: &DiskDigest) -> bool {
        self.members().iter().any(|member| member.has(digest))
    }

    /// Removes the disk from every store that can be reached. Its room comes back with collections.
    pub fn delete(&self, digest: &DiskDigest) -> Result<(), StoreError> {
        for store in self.stores() {
            store.delete(digest)?;
        }
        Ok(())
    }
}

/// Seconds since 1970, for notes that other processes read.
fn seconds_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
