//! The registry of regions: their zones, and the stores of each, in the data folder or where the configuration says. It
//! knows no metadata: a region is found again by its folder or its configuration, without a database.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use disk::DiskDigest;
use store::place::At;
use store::region::{Member, Readers, Region};
use store::{
    DEFAULT_INDEX_BYTES, KeyError, KeyFile, KeyService, Keys, Store, StoreError, StoreOptions,
};
use wire::Location;

use crate::domains::{self, Domains};
use crate::keys::{KeyRing, Transit, TransitSettings};

/// Zones of one region; Azure has three.
const MAX_ZONES: usize = 16;
/// Regions of one installation.
const MAX_REGIONS: usize = 256;
const MAX_NAME: usize = 64;

/// How soon secrets follow a key that was rotated.
const REWRAP_PERIOD: Duration = Duration::from_secs(3600);

/// Where the key of all stores is. It belongs elsewhere than copies of the stores.
pub(crate) const KEYS_FOLDER: &str = "keys";
const STORES_KEY: &str = "stores.key";

/// Why there is no store.
#[derive(Debug, thiserror::Error)]
pub enum RegionError {
    #[error("there is no region `{region}`; known are: {known}")]
    Unknown { region: String, known: String },
    #[error("no store of region `{region}` can be used: {why}")]
    Away { region: String, why: String },
    #[error("`{name}` cannot name a region or zone: use 1 to 64 letters, digits and `-`")]
    BadName { name: String },
    #[error("a region has 1 to {MAX_ZONES} zones, and there are at most {MAX_REGIONS} regions")]
    TooMany,
    #[error("open the store of zone {zone} in region {region}")]
    Open {
        region: String,
        zone: String,
        #[source]
        source: StoreError,
    },
    #[error("open the key file of the stores")]
    Keys(#[source] KeyError),
    #[error("list the regions in `{}`", folder.display())]
    List {
        folder: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

/// A store that the configuration names. A zone for which it names none has one in the data folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreSetting {
    pub region: String,
    pub zone: String,
    /// Within its zone.
    pub name: String,
    pub at: At,
    /// For what asks for Premium_LRS.
    pub premium: bool,
}

/// How bits are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageSettings {
    pub stores: Vec<StoreSetting>,
    /// Bytes per second from one region to another, at most.
    pub bandwidth: Option<u64>,
    /// Everything is read again within this.
    pub scrub_period: Duration,
    /// How long bits are kept that a version, image, disk or machine has had and none has any more.
    pub grace: Duration,
    /// The same for what builds left on their way, which later builds may find.
    pub build_cache: Duration,
    /// Who keeps the secret of the stores; a key file in the data folder if nobody is named.
    pub key_service: Option<TransitSettings>,
    /// Memory for what is known of the packs of all stores together.
    pub index_bytes: u64,
}

const DAY: Duration = Duration::from_secs(24 * 3600);

impl Default for StorageSettings {
    fn default() -> Self {
        StorageSettings {
            stores: Vec::new(),
            bandwidth: None,
            scrub_period: DAY * 30,
            grace: DAY,
            build_cache: DAY * 14,
            key_service: None,
            index_bytes: DEFAULT_INDEX_BYTES,
        }
    }
}

/// All stores of this installation.
#[derive(Debug)]
pub struct Regions {
    folder: PathBuf,
    settings: StorageSettings,
    /// Who keeps the secret that all stores share, which makes them one dedup domain.
    keys: Arc<dyn KeyService>,
    /// Stores that there are, among which memory is divided.
    expected: AtomicU64,
    /// When the wrapping of secrets was last looked at.
    wrapped: Mutex<Option<Instant>>,
    /// When a build found a disk that it goes on from, in seconds since 1970.
    found: Mutex<BTreeMap<DiskDigest, u64>>,
    regions: RwLock<BTreeMap<String, Arc<Region>>>,
    /// Those of tenants with keys of their own.
    domains: Domains,
}

impl Regions {
    /// Opens every store that is there, all in the data folder.
    pub fn open(folder: &Path) -> Result<Regions, RegionError> {
        Regions::open_with(folder, StorageSettings::default())
    }

    /// Opens every store that is there. One that cannot be opened keeps the others from nothing: it is left out, and
    /// tried again by [`Regions::rescan`]; but where another process has it, so has that process everything else.
    /// New stores are encrypted; their key is in the folder `keys` beside this one, and is made if there is none.
    pub fn open_with(folder: &Path, settings: StorageSettings) -> Result<Regions, RegionError> {
        let keys = keys_of(folder, &settings).map_err(RegionError::Keys)?;
        std::fs::create_dir_all(folder).map_err(|source| RegionError::List {
            folder: folder.to_owned(),
            source,
        })?;
        let regions = Regions {
            folder: folder.to_owned(),
            settings,
            keys,
            expected: AtomicU64::new(1),
            wrapped: Mutex::default(),
            found: Mutex::default(),
            regions: RwLock::default(),
            domains: Domains::default(),
        };
        regions.load_domains()?;
        for error in regions.rescan()? {
            if let RegionError::Open {
                source: StoreError::InUse { .. },
                ..
            } = error
            {
                return Err(error);
            }
            tracing::error!(
                error = crate::pipeline::chain(&error),
                "a region is left out"
            );
        }
        Ok(regions)
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn domains(&self) -> &Domains {
        &self.domains
    }

    /// A disk that may be in no resource was found and will be built on.
    pub(crate) fn touch(&self, digest: &DiskDigest, now: u64) {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let longest = self.settings.build_cache.as_secs();
        found.retain(|_, at| now.saturating_sub(*at) < longest);
        found.insert(*digest, now);
    }

    /// Whether a disk was found so lately.
    pub(crate) fn was_found_since(&self, digest: &DiskDigest, since: u64) -> bool {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.get(digest).is_some_and(|at| *at > since)
    }

    pub fn settings(&self) -> &StorageSettings {
        &self.settings
    }

    /// Opens what is configured or lies in the folder and is not open, such as a zone that was away and is back, and
    /// sees what is away by now. Answers why stores are not open. Blocks.
    pub fn rescan(&self) -> Result<Vec<RegionError>, RegionError> {
        for region in self.everything() {
            for member in region.members() {
                if let Some(error) = member.store().and_then(|store| store.list().err()) {
                    member.goes_away(&crate::pipeline::chain(&error));
                }
            }
        }
        let mut wanted: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for region in folders(&self.folder)? {
            let zones = folders(&self.folder.join(&region))?;
            wanted.entry(region).or_default().extend(zones);
        }
        for store in &self.settings.stores {
            let region = Location::new(&store.region).folded();
            wanted.entry(region).or_default().insert(store.zone.clone());
        }
        for region in self.all() {
            let zones = wanted.entry(region.name().to_owned()).or_default();
            zones.extend(region.zones());
        }
        let stores = wanted.iter().flat_map(|(region, zones)| {
            let zones = zones.iter();
            zones.map(move |zone| self.stores_of(region, zone).len() as u64)
        });
        let stores: u64 = stores.sum();
        let of_domains = self.everything().len() - self.all().len();
        let stores = stores.saturating_add(of_domains as u64);
        self.expected.store(stores, Ordering::Relaxed);
        let mut failed = Vec::new();
        for (region, zones) in wanted {
            for zone in zones {
                if let Err(error) = self.define(&Location::new(&region), &[zone]) {
                    failed.push(error);
                }
            }
        }
        self.look_after_domains();
        self.look_after_keys();
        Ok(failed)
    }

    /// Opens what a key service that was away kept locked, and has secrets wrapped with its newest key. Nobody waits
    /// for it.
    fn look_after_keys(&self) {
        for store in self.everything().iter().flat_map(|region| region.stores()) {
            if let Err(error) = store.unlock() {
                let error = crate::pipeline::chain(&error);
                tracing::warn!(store = %store.id(), error, "a store stays locked");
            }
        }
        let mut looked = self.wrapped.lock().unwrap_or_else(PoisonError::into_inner);
        if looked.is_none_or(|at| at.elapsed() >= REWRAP_PERIOD) {
            *looked = Some(Instant::now());
            drop(looked);
            self.keep_wrapped();
            self.keep_domains_wrapped();
        }
    }

    /// Wraps anew the secrets of stores that another service or an older key wrapped. That is one small write for a
    /// store, whatever it holds. Answers how many there were. Blocks.
    pub fn keep_wrapped(&self) -> u64 {
        let mut anew = 0;
        for store in self.all().iter().flat_map(|region| region.stores()) {
            match store.keep_wrapped(&*self.keys) {
                Ok(wrapped) => anew += u64::from(wrapped),
                Err(StoreError::Locked { .. }) => {}
                Err(error) => {
                    let error = crate::pipeline::chain(&error);
                    tracing::warn!(store = %store.id(), error, "a secret stays wrapped with an older key");
                }
            }
        }
        anew
    }

    /// Makes sure that the region has these zones. Zones are added, never taken away. A store that cannot be opened is
    /// an error, and one of the region from then on: it is expected back.
    pub fn define(&self, region: &Location, zones: &[String]) -> Result<(), RegionError> {
        let name = region.folded();
        for name in zones.iter().chain([&name]) {
            check_name(name)?;
        }
        if zones.is_empty() || zones.len() > MAX_ZONES {
            return Err(RegionError::TooMany);
        }
        let known = self.all();
        if known.len() >= MAX_REGIONS && !known.iter().any(|region| region.name() == name) {
            return Err(RegionError::TooMany);
        }
        let region = self.entry(&name);
        let mut failed = None;
        for setting in zones.iter().flat_map(|zone| self.stores_of(&name, zone)) {
            if let Err(error) = open_member(&region, &setting, || self.options(&name), true) {
                failed.get_or_insert(error);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// The place of this name, which is made if there is none.
    pub(crate) fn entry(&self, name: &str) -> Arc<Region> {
        let mut regions = self.regions.write().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(Region::new(name));
        Arc::clone(regions.entry(name.to_owned()).or_insert_with(new))
    }

    pub(crate) fn leave(&self, name: &str) {
        let mut regions = self.regions.write().unwrap_or_else(PoisonError::into_inner);
        regions.remove(name);
    }

    /// The stores that a zone has.
    pub(crate) fn stores_of(&self, region: &str, zone: &str) -> Vec<StoreSetting> {
        let here = |store: &&StoreSetting| {
            Location::new(&store.region).folded() == region && store.zone == zone
        };
        let named: Vec<_> = self.settings.stores.iter().filter(here).cloned().collect();
        if !named.is_empty() {
            return named;
        }
        vec![StoreSetting {
            region: region.to_owned(),
            zone: zone.to_owned(),
            name: Region::ONLY.to_owned(),
            at: At::Folder(self.folder.join(region).join(zone)),
            premium: false,
        }]
    }

    /// A new store joins the domain of those that are there: then frames move between them as they are. Domains with
    /// keys of their own keep to themselves.
    pub(crate) fn options(&self, place: &str) -> StoreOptions {
        let everything = self.everything();
        let count: usize = everything.iter().map(|region| region.stores().len()).sum();
        let count = (count as u64 + 1).max(self.expected.load(Ordering::Relaxed));
        let (_, domain) = domains::split(place);
        let joins = |region: &&Arc<Region>| match domain {
            None => domains::is_shared(region.name()),
            Some(_) => region.name() == place,
        };
        let stores: Vec<Store> = everything
            .iter()
            .filter(joins)
            .flat_map(|region| region.stores())
            .collect();
        StoreOptions {
            keys: match &domain {
                None => Keys::Service(Arc::clone(&self.keys)),
                Some(domain) => self.domains.keys(domain),
            },
            domain: stores.iter().find_map(|store| store.domain()),
            index_bytes: self.settings.index_bytes / count,
            ..StoreOptions::default()
        }
    }

    /// All regions, and inside them all domains with keys of their own.
    pub(crate) fn everything(&self) -> Vec<Arc<Region>> {
        let regions = self.regions.read().unwrap_or_else(PoisonError::into_inner);
        regions.values().cloned().collect()
    }

    /// The regions, as what all who have no key of their own share.
    fn all(&self) -> Vec<Arc<Region>> {
        let mut regions = self.everything();
        regions.retain(|region| domains::is_shared(region.name()));
        regions
    }

    /// Everywhere where bits are: regions, and domains inside them. For what looks after bits.
    pub(crate) fn places(&self) -> Vec<Location> {
        let everything = self.everything();
        let names = everything.iter().map(|region| Location::new(region.name()));
        names.collect()
    }

    pub fn names(&self) -> Vec<Location> {
        self.all()
            .iter()
            .map(|region| Location::new(region.name()))
            .collect()
    }

    /// The stores that can be used now, each with its region. Another answer than before means that one came or went.
    pub fn usable(&self) -> BTreeSet<String> {
        let names = self.places();
        let regions = names.iter().filter_map(|name| self.region(name).ok());
        regions
            .flat_map(|region| {
                let members = region.members();
                let usable = members.iter().filter(|member| member.store().is_some());
                usable
                    .map(|member| format!("{} {}", region.name(), member.shown()))
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    pub fn zones(&self, region: &Location) -> Vec<String> {
        self.region(region)
            .map(|region| region.zones())
            .unwrap_or_default()
    }

    /// A region with all its stores, those that are away too.
    pub fn region(&self, region: &Location) -> Result<Arc<Region>, RegionError> {
        let regions = self.regions.read().unwrap_or_else(PoisonError::into_inner);
        let found = regions.get(&region.folded());
        found.cloned().ok_or_else(|| RegionError::Unknown {
            region: region.to_string(),
            known: {
                let shared = regions.keys().filter(|name| domains::is_shared(name));
                shared.cloned().collect::<Vec<_>>().join(", ")
            },
        })
    }

    /// The first store of the region that can be used: what is new in the region begins there.
    pub fn store(&self, region: &Location) -> Result<Arc<Store>, RegionError> {
        let mut all = self.stores(region)?;
        Ok(all.swap_remove(0).1)
    }

    /// The stores that can be used, in order, each with how people know it; at least one.
    pub fn stores(&self, region: &Location) -> Result<Vec<(String, Arc<Store>)>, RegionError> {
        let members = self.region(region)?.members();
        let open = |member: &Arc<Member>| Some((member.shown(), Arc::new(member.store()?)));
        let stores: Vec<_> = members.iter().filter_map(open).collect();
        if stores.is_empty() {
            let why = members.iter().find_map(|member| member.why_away());
            return Err(RegionError::Away {
                region: region.to_string(),
                why: why.unwrap_or_else(|| "it has no zone".to_owned()),
            });
        }
        Ok(stores)
    }

    /// Stores of all other regions, for copies and repairs; those of `first` come first. Of domains with keys of their
    /// own only `first` may be among them.
    pub fn others(&self, region: &Location, first: &Location) -> Vec<Store> {
        let mut others = self.everything();
        others.retain(|other| {
            let open = domains::is_shared(other.name()) || other.name() == first.folded();
            open && other.name() != region.folded()
        });
        others.sort_by_key(|other| other.name() != first.folded());
        others.iter().flat_map(|other| other.stores()).collect()
    }

    /// A store of the region that holds the whole disk, another one each time. Blocks.
    pub fn holder(&self, region: &Location, digest: &DiskDigest) -> Option<Arc<Store>> {
        let holders = self.region(region).ok()?.holders(digest);
        holders
            .iter()
            .find_map(|member| member.store())
            .map(Arc::new)
    }

    /// What the disk can be read from in the region, beginning with another store each time. Blocks.
    pub fn readers(&self, region: &Location, digest: &DiskDigest) -> Result<Readers, RegionError> {
        let others = self.others(region, region);
        Ok(self.region(region)?.readers(digest, &others))
    }

    /// Whether a machine of the region can be made from the disk.
    pub async fn complete(self: &Arc<Self>, region: &Location, digest: &DiskDigest) -> bool {
        let (regions, region, digest) = (Arc::clone(self), region.clone(), *digest);
        let found = tokio::task::spawn_blocking(move || regions.holder(&region, &digest).is_some());
        found.await.unwrap_or(false)
    }
}

/// A key file that is there still unwraps what it wrapped, when a service has taken its place.
fn keys_of(folder: &Path, settings: &StorageSettings) -> Result<Arc<dyn KeyService>, KeyError> {
    let path = folder.with_file_name(KEYS_FOLDER).join(STORES_KEY);
    let Some(service) = &settings.key_service else {
        return Ok(Arc::new(KeyFile::load_or_create(&path)?));
    };
    let file = path.exists().then(|| KeyFile::load(&path)).transpose()?;
    let file = file.map(|file| Arc::new(file) as Arc<dyn KeyService>);
    let service = Arc::new(Transit::new(service.clone()));
    Ok(Arc::new(KeyRing::new(service, file.into_iter().collect())))
}

/// Opens a store of a region unless it is open. One that is not there is made, or is none of the region.
pub(crate) fn open_member(
    region: &Region,
    setting: &StoreSetting,
    options: impl FnOnce() -> StoreOptions,
    make: bool,
) -> Result<(), RegionError> {
    let StoreSetting {
        zone,
        name,
        at,
        premium,
        ..
    } = setting;
    let _alone = region.alone();
    let known = region.members();
    let known = known
        .iter()
        .find(|member| member.zone == *zone && member.name == *name);
    if known.is_some_and(|member| member.store().is_some()) {
        return Ok(());
    }
    let opened = match make {
        true => Store::open_at(at, options()),
        false => Store::open_existing_at(at, options()),
    };
    match opened {
        Err(StoreError::NoStore { .. }) => Ok(()),
        Ok(store) => {
            match known {
                Some(member) => member.comes_back(store),
                None => region.add(Member::open(zone, name, *premium, store)),
            }
            Ok(())
        }
        Err(source) => {
            let why = crate::pipeline::chain(&source);
            match known {
                Some(member) => member.goes_away(&why),
                None => region.add(Member::away(zone, name, *premium, &why)),
            }
            Err(RegionError::Open {
                region: region.name().to_owned(),
                zone: zone.clone(),
                source,
            })
        }
    }
}

/// Names of the folders in a folder, in order.
fn folders(folder: &Path) -> Result<Vec<String>, RegionError> {
    let fail = |source| RegionError::List {
        folder: folder.to_owned(),
        source,
    };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        if entry.file_type().map_err(fail)?.is_dir() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn check_name(name: &str) -> Result<(), RegionError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(plain) {
        return Ok(());
    }
    Err(RegionError::BadName {
        name: name.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zones(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    /// A program that another test starts at this moment holds a copy of the lock until its own
    /// files are closed.
    fn reopened(folder: &Path) -> Regions {
        const TRIES: u32 = 1_000_000;
        for _ in 0..TRIES {
            match Regions::open(folder) {
                Err(RegionError::Open {
                    source: StoreError::InUse { .. },
                    ..
                }) => std::thread::yield_now(),
                opened => return opened.unwrap(),
            }
        }
        panic!("the stores stay locked");
    }

    #[test]
    fn a_region_that_is_away_keeps_no_other_from_being_served() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["north", "south"] {
            let zone = folder.path().join("regions").join(name).join("1");
            std::fs::create_dir_all(&zone).unwrap();
        }
        let (zone, aside) = (
            folder.path().join("regions/south/1"),
            folder.path().join("aside"),
        );
        std::fs::create_dir(zone.join(".lock")).unwrap();
        let regions = Regions::open(&folder.path().join("regions")).unwrap();
        assert!(regions.store(&Location::new("north")).is_ok());
        assert!(regions.store(&Location::new("south")).is_err());
        assert_eq!(regions.rescan().unwrap().len(), 1, "it is still away");
        std::fs::rename(zone.join(".lock"), &aside).unwrap();
        assert!(regions.rescan().unwrap().is_empty());
        assert!(regions.store(&Location::new("south")).is_ok());
    }

    #[test]
    fn regions_are_found_again_and_zones_are_added() {
        let folder = tempfile::tempdir().unwrap();
        {
            let regions = Regions::open(&folder.path().join("regions")).unwrap();
            regions
                .define(&Location::new("West Europe"), &zones(&["1"]))
                .unwrap();
            regions
                .define(&Location::new("westeurope"), &zones(&["1", "2"]))
                .unwrap();
        }
        let regions = reopened(&folder.path().join("regions"));
        assert_eq!(regions.names(), [Location::new("westeurope")]);
        assert_eq!(regions.zones(&Location::new("westeurope")), ["1", "2"]);
        let error = regions
            .store(&Location::new("mars"))
            .unwrap_err()
            .to_string();
        assert_eq!(error, "there is no region `mars`; known are: westeurope");
    }

    #[test]
    fn the_configuration_says_where_the_stores_of_a_zone_are() {
        let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let store = |name: &str, premium| StoreSetting {
            region: "North".to_owned(),
            zone: "1".to_owned(),
            name: name.to_owned(),
            at: At::Folder(elsewhere.path().join(name)),
            premium,
        };
        let settings = StorageSettings {
            stores: vec![store("fast", true), store("slow", false)],
            ..StorageSettings::default()
        };
        let regions = Regions::open_with(&folder.path().join("regions"), settings).unwrap();
        let north = Location::new("north");
        regions.define(&north, &zones(&["1", "2"])).unwrap();
        let shown: Vec<String> = regions
            .stores(&north)
            .unwrap()
            .into_iter()
            .map(|s| s.0)
            .collect();
        assert_eq!(
            shown,
            ["store fast of zone 1", "store slow of zone 1", "zone 2"]
        );
        assert!(elsewhere.path().join("fast/store.bullion").exists());
        assert!(!folder.path().join("regions/north/1").exists());
        assert!(folder.path().join("regions/north/2/store.bullion").exists());
    }

    #[test]
    fn a_region_that_is_made_while_others_look_for_regions_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let regions = Regions::open(&folder.path().join("regions")).unwrap();
        let names: Vec<_> = (0..24).map(|number| format!("region-{number}")).collect();
        let all_made = std::sync::atomic::AtomicBool::new(false);
        let (made, looks) = std::thread::scope(|scope| {
            let looking = scope.spawn(|| {
                let mut failed = Vec::new();
                while !all_made.load(Ordering::Acquire) {
                    failed.extend(regions.rescan().unwrap());
                }
                failed
            });
            let make = |name: &String| regions.define(&Location::new(name), &zones(&["1"]));
            let made: Vec<_> = names.iter().map(make).collect();
            all_made.store(true, Ordering::Release);
            (made, looking.join().unwrap())
        });
        assert!(made.iter().all(Result::is_ok), "{made:?}");
        assert!(looks.is_empty(), "{looks:?}");
        assert_eq!(regions.names().len(), names.len());
    }

    #[test]
    fn names_cannot_leave_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let regions = Regions::open(&folder.path().join("regions")).unwrap();
        let check = |region: &str, zone: &str| {
            let made = regions.define(&Location::new(region), &zones(&[zone]));
            assert!(
                matches!(made, Err(RegionError::BadName { .. })),
                "{region} {zone}"
            );
        };
        check("..", "1");
        check("north", "../1");
        check("north", "");
        assert!(regions.define(&Location::new("north"), &[]).is_err());
    }
}
