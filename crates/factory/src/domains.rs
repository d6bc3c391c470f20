//! Domains of tenants that have keys of their own. Such a domain is the inside of one disk encryption set: it lies in the
//! set's region, in a store of its own beside each of the region's, and shares no block with anybody.
//!
//! To everything that looks after bits (replication, reclaim, scrub) it is a place like a region, called
//! `REGION~DOMAIN`; no client can name one. What a domain's key is stands in the folder `keys/domains` of the data
//! folder, so that stores open without a database. Who may use a domain is decided above this module.

mod keys;
mod record;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use disk::DiskDigest;
use serde::Serialize;
use store::place::At;
use store::region::{Member, Region};
use store::{KeyError, KeyState, Keys, Store, StoreError};
use wire::{Location, ResourceId, TenantId};

use crate::pipeline::chain;
use crate::regions::{KEYS_FOLDER, RegionError, Regions, StoreSetting, open_member};

use keys::Kept;
pub use keys::KeyChoice;
pub use record::Phase;
use record::Record;

/// In the folder of keys, and in each store of a region.
const FOLDER: &str = "domains";
/// The member of a resource's facts that names the domain that its bits are in, where they are in one.
pub const KEPT_IN: &str = "keptIn";
const CONTEXT: &str = "bullion domain of a disk encryption set v1";
/// Domains of one installation: each has stores that are open.
const MAX_DOMAINS: usize = 256;
/// Between a region's name and a domain's; no region has it in its name.
const SEPARATOR: char = '~';

/// The name of a domain. It follows from the id of its disk encryption set. 32 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DomainName(String);

impl DomainName {
    pub fn of(set: &ResourceId) -> DomainName {
        let folded = set.to_string().to_lowercase();
        let hash = blake3::Hash::from(blake3::derive_key(CONTEXT, folded.as_bytes()));
        DomainName(hash.to_hex()[..32].to_owned())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Where the domain is in a region, for whatever asks for a place.
    pub fn place(&self, region: &Location) -> Location {
        Location::new(format!("{}{SEPARATOR}{}", region.folded(), self.0))
    }
}

/// The region of a place, and the domain if it is one's.
pub(crate) fn split(place: &str) -> (&str, Option<DomainName>) {
    match place.split_once(SEPARATOR) {
        Some((region, domain)) => (region, Some(DomainName(domain.to_owned()))),
        None => (place, None),
    }
}

pub(crate) fn is_shared(place: &str) -> bool {
    !place.contains(SEPARATOR)
}

/// What [`KEPT_IN`] says of a place.
pub(crate) fn kept_in(place: &Location) -> Option<String> {
    let place = place.folded();
    (!is_shared(&place)).then_some(place)
}

/// Why a domain could not be made, changed or given up.
#[derive(Debug, thiserror::Error)]
pub enum DomainError {
    #[error("there is no such domain")]
    Unknown,
    #[error(transparent)]
    Region(#[from] RegionError),
    #[error("ask for the key of the domain")]
    Key(#[from] KeyError),
    #[error("{0}")]
    BadKey(String),
    #[error("the domain was erased; delete the disk encryption set and make another one")]
    Erased,
    #[error("what an earlier disk encryption set of this name left is still being removed")]
    Leaving,
    #[error("there are {MAX_DOMAINS} domains already")]
    TooMany,
    #[error("write down the key of the domain in `{}`", path.display())]
    Record {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("wrap the domain's secret in {shown}")]
    Store {
        shown: String,
        #[source]
        source: StoreError,
    },
}

/// What a disk encryption set asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainSetting {
    pub set: ResourceId,
    pub tenant: TenantId,
    pub region: Location,
    pub key: KeyChoice,
    /// Whether newer versions of the key are taken by themselves.
    pub rotates: bool,
}

/// What is to be said about a domain.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DomainState {
    pub domain: String,
    pub state: Phase,
    /// Where the key is, without the address of the server if it is in its own key file.
    #[serde(skip)]
    pub key_path: String,
    /// When the secret was last wrapped with another key.
    #[serde(skip)]
    pub rotated_at: Option<String>,
    #[serde(skip)]
    pub rotates: bool,
    pub stores: Vec<StoreState>,
}

/// One store of a domain.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreState {
    pub store: String,
    pub disks: u64,
    pub bytes: u64,
    /// How often the secret was wrapped.
    pub generation: u64,
    /// Why nothing of it can be read now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locked: Option<String>,
}

/// What erasing comes to, or would.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Erasure {
    pub domain: String,
    /// Disks that nobody can read afterwards, by digest.
    pub disks: Vec<String>,
    pub bytes: u64,
    /// Those of them that some other domain has, too, where they stay.
    pub also_elsewhere: Vec<String>,
    /// Stores that lost their secret.
    pub erased: Vec<String>,
    /// Stores that cannot be reached; they lose it as soon as they are back, and are not read before.
    pub waiting: Vec<String>,
}

/// The domains of an installation, and a lock for whoever changes one.
#[derive(Debug, Default)]
pub(crate) struct Domains {
    known: Mutex<BTreeMap<DomainName, Kept>>,
    changing: Mutex<()>,
}

impl Domains {
    fn known(&self) -> MutexGuard<'_, BTreeMap<DomainName, Kept>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, name: &DomainName) -> Option<Kept> {
        self.known().get(name).cloned()
    }

    fn all(&self) -> Vec<(DomainName, Kept)> {
        let known = self.known();
        known
            .iter()
            .map(|(name, kept)| (name.clone(), kept.clone()))
            .collect()
    }

    fn change(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who keeps the secret of a domain.
    pub(crate) fn keys(&self, name: &DomainName) -> Keys {
        match self.get(name) {
            Some(kept) => Keys::Service(kept.ring),
            None => Keys::Unknown,
        }
    }
}

impl Regions {
    fn domain_folder(&self) -> PathBuf {
        self.folder().with_file_name(KEYS_FOLDER).join(FOLDER)
    }

    /// Takes up what is written down about domains.
    pub(crate) fn load_domains(&self) -> Result<(), RegionError> {
        let records = record::read_all(&self.domain_folder())?;
        for (name, record) in records.into_iter().take(MAX_DOMAINS) {
            let kept = self.kept(&name, record);
            self.domains().known().insert(name, kept);
        }
        Ok(())
    }

    /// Makes the domain of a set, or has it use another key. Blocks.
    pub fn put_domain(&self, wanted: &DomainSetting) -> Result<DomainState, DomainError> {
        let _change = self.domains().change();
        let name = DomainName::of(&wanted.set);
        match self.domains().get(&name) {
            None => self.make_domain(&name, wanted)?,
            Some(kept) => match kept.record.phase {
                Phase::Active => self.change_domain(&name, kept, wanted)?,
                Phase::Erased => return Err(DomainError::Erased),
                Phase::Removed => return Err(DomainError::Leaving),
            },
        }
        self.domain_state(&name).ok_or(DomainError::Unknown)
    }

    fn make_domain(&self, name: &DomainName, wanted: &DomainSetting) -> Result<(), DomainError> {
        self.region(&wanted.region)?;
        let count = self.domains().known().len();
        if count >= MAX_DOMAINS {
            return Err(DomainError::TooMany);
        }
        let key = self.chosen_key(name, None, &wanted.key)?;
        let record = Record::new(wanted, key);
        let kept = self.kept(name, record.clone());
        self.domains().known().insert(name.clone(), kept);
        let made = self
            .write_record(name, &record)
            .and_then(|()| self.open_domain(name).map_err(DomainError::from));
        if made.is_err() {
            // Nothing is in it yet.
            self.forget_domain(name);
        }
        made
    }

    /// Opens the stores of a domain, one beside each of its region, and makes those that are missing. What cannot be
    /// opened is one of the place from then on: it is expected back.
    fn open_domain(&self, name: &DomainName) -> Result<(), RegionError> {
        let Some(kept) = self.domains().get(name) else {
            return Ok(());
        };
        let place = name.place(&kept.record.region);
        let region = self.entry(&place.folded());
        let mut failed = None;
        for setting in self.stores_of_domain(name, &kept.record) {
            let is_new = kept.record.phase == Phase::Active;
            let options = || self.options(&place.folded());
            if let Err(error) = open_member(&region, &setting, options, is_new) {
                failed.get_or_insert(error);
            }
        }
        let usable = !region.stores().is_empty();
        match failed {
            Some(error) if !usable => Err(error),
            _ => Ok(()),
        }
    }

    fn stores_of_domain(&self, name: &DomainName, record: &Record) -> Vec<StoreSetting> {
        let region = record.region.folded();
        let zones = self.zones(&record.region);
        let mut all: Vec<StoreSetting> = zones
            .iter()
            .flat_map(|zone| self.stores_of(&region, zone))
            .collect();
        for setting in &mut all {
            setting.at = inside(&setting.at, name);
        }
        all
    }

    /// Opens what is not open, finishes what was begun, and sees that no domain outlives its key. Blocks.
    pub(crate) fn look_after_domains(&self) {
        let _change = self.domains().change();
        for (name, kept) in self.domains().all() {
            let looked = match kept.record.phase {
                Phase::Active => self.open_domain(&name).map_err(DomainError::from),
                Phase::Erased => {
                    let opened = self.open_domain(&name);
                    self.erase_stores(&name, &kept.record);
                    opened.map_err(DomainError::from)
                }
                Phase::Removed => self.finish_removal(&name, &kept.record),
            };
            if let Err(error) = looked {
                let (error, set) = (chain(&error), &kept.record.set);
                tracing::debug!(%set, error, "a domain is not whole");
            }
        }
    }

    /// What is to be said about a domain; none if there is none. Blocks.
    pub fn domain_state(&self, name: &DomainName) -> Option<DomainState> {
        let kept = self.domains().get(name)?;
        let region = self.entry(&name.place(&kept.record.region).folded());
        let stores = region.members().iter().map(state_of).collect();
        Some(DomainState {
            domain: name.0.clone(),
            state: kept.record.phase,
            key_path: self.key_path(name, &kept.record.key),
            rotated_at: kept.record.rotated_at.clone(),
            rotates: kept.record.rotates,
            stores,
        })
    }

    /// Takes the secret of a domain away, so that nothing of it can be read by anyone again; or tells what that would
    /// come to. What other domains have stays. There is no way back. Blocks.
    pub fn erase_domain(&self, name: &DomainName, for_real: bool) -> Result<Erasure, DomainError> {
        let _change = self.domains().change();
        let kept = self.domains().get(name).ok_or(DomainError::Unknown)?;
        let mut erasure = self.erasure(name, &kept.record);
        if !for_real {
            return Ok(erasure);
        }
        // Written down first: stores that are away now are erased before anybody reads them again.
        let mut record = kept.record.clone();
        record.phase = Phase::Erased;
        self.write_record(name, &record)?;
        (erasure.erased, erasure.waiting) = self.erase_stores(name, &record);
        let kept = self.kept(name, record);
        self.domains().known().insert(name.clone(), kept);
        self.remove_key_file(name);
        Ok(erasure)
    }

    fn erasure(&self, name: &DomainName, record: &Record) -> Erasure {
        let region = self.entry(&name.place(&record.region).folded());
        let mut erasure = Erasure {
            domain: name.0.clone(),
            ..Erasure::default()
        };
        let mut disks: Vec<DiskDigest> = Vec::new();
        for store in region.stores() {
            let listed = store.list().unwrap_or_default();
            disks.extend(listed.iter().map(|disk| disk.digest));
            erasure.bytes += store.usage().map_or(0, |usage| usage.pack_bytes);
        }
        disks.sort();
        disks.dedup();
        let others: Vec<Arc<Region>> = self.everything();
        let elsewhere = |digest: &&DiskDigest| {
            let mut others = others.iter().filter(|other| other.name() != region.name());
            others.any(|other| other.has(digest))
        };
        erasure.also_elsewhere = disks
            .iter()
            .filter(elsewhere)
            .map(ToString::to_string)
            .collect();
        erasure.disks = disks.iter().map(ToString::to_string).collect();
        erasure
    }

    /// Which stores have no secret any more, and which cannot be reached.
    fn erase_stores(&self, name: &DomainName, record: &Record) -> (Vec<String>, Vec<String>) {
        let region = self.entry(&name.place(&record.region).folded());
        let (mut erased, mut waiting) = (Vec::new(), Vec::new());
        for member in region.members() {
            let done = member.store().is_some_and(|store| erase(&store));
            match done {
                true => erased.push(member.shown()),
                false => waiting.push(member.shown()),
            }
        }
        (erased, waiting)
    }

    /// Erases a domain and removes its stores; nobody may use it any more. Stores that are away go when they are back.
    /// Done for one that is not there, it does nothing. Blocks.
    pub fn remove_domain(&self, name: &DomainName) -> Result<(), DomainError> {
        let _change = self.domains().change();
        let Some(kept) = self.domains().get(name) else {
            return Ok(());
        };
        let mut record = kept.record.clone();
        record.phase = Phase::Removed;
        self.write_record(name, &record)?;
        let kept = self.kept(name, record.clone());
        self.domains().known().insert(name.clone(), kept);
        self.finish_removal(name, &record)
    }

    fn finish_removal(&self, name: &DomainName, record: &Record) -> Result<(), DomainError> {
        let place = name.place(&record.region).folded();
        let region = self.entry(&place);
        for setting in self.stores_of_domain(name, record) {
            let failed = |source| DomainError::Store {
                shown: setting.at.to_string(),
                source,
            };
            let members = region.members();
            let member = members
                .iter()
                .find(|member| member.zone == setting.zone && member.name == setting.name);
            let store = match member.and_then(|member| member.store()) {
                Some(store) => store,
                None => match Store::open_existing_at(&setting.at, self.options(&place)) {
                    Ok(store) => store,
                    Err(StoreError::NoStore { .. }) => continue,
                    Err(error) => return Err(failed(error)),
                },
            };
            store.destroy().map_err(failed)?;
            if let Some(member) = member {
                member.goes_away("it was removed");
            }
            drop(store);
            if let Some(folder) = setting.at.folder() {
                // Empty folders and a lock; they do no harm where they stay.
                let _ = std::fs::remove_dir_all(folder);
            }
        }
        self.forget_domain(name);
        Ok(())
    }

    fn forget_domain(&self, name: &DomainName) {
        let kept = self.domains().known().remove(name);
        if let Some(kept) = kept {
            self.leave(&name.place(&kept.record.region).folded());
        }
        self.remove_key_file(name);
        self.remove_record(name);
    }
}

/// Beside what the store of the region has.
fn inside(at: &At, name: &DomainName) -> At {
    at.within(&format!("{FOLDER}/{}", name.0))
}

fn state_of(member: &Arc<Member>) -> StoreState {
    let store = member.store();
    let usage = store.as_ref().and_then(|store| store.usage().ok());
    let usage = usage.unwrap_or_default();
    let keys = store.as_ref().and_then(|store| store.key_info().ok());
    StoreState {
        store: member.shown(),
        disks: usage.disks,
        bytes: usage.pack_bytes,
        generation: keys.as_ref().map_or(0, |keys| keys.generation),
        locked: member
            .why_away()
            .or_else(|| keys.and_then(|keys| keys.locked)),
    }
}

/// Whether a store has no secret any more.
fn erase(store: &Store) -> bool {
    match store.key_info() {
        Ok(info) if info.state == KeyState::Erased => true,
        Ok(_) => match store.erase() {
            Ok(()) => true,
            Err(error) => {
                let error = chain(&error);
                tracing::warn!(store = %store.id(), error, "a secret is not erased yet");
                false
            }
        },
        Err(_) => false,
    }
}
