//! The registry of stores: one folder per region and zone. It knows no metadata: that a region is
//! there is a folder, so that the stores are found again without a database.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use disk::DiskDigest;
use store::{Domain, KeyError, KeyFile, Keys, Store, StoreError, StoreOptions};
use wire::Location;

/// Zones of one region; Azure has three.
const MAX_ZONES: usize = 16;
/// Regions of one installation.
const MAX_REGIONS: usize = 256;
const MAX_NAME: usize = 64;

/// Where the key of all stores is. It belongs elsewhere than copies of the stores.
const KEYS_FOLDER: &str = "keys";
const STORES_KEY: &str = "stores.key";

/// A storage account type that keeps a copy in every zone of a region.
const ZONE_REDUNDANT: &str = "Standard_ZRS";

/// Why there is no store.
#[derive(Debug, thiserror::Error)]
pub enum RegionError {
    #[error("there is no region `{region}`; known are: {known}")]
    Unknown { region: String, known: String },
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

type Zones = BTreeMap<String, Arc<Store>>;

/// Which zones of a region hold a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spread {
    FirstZone,
    EveryZone,
}

impl Spread {
    /// What a storage account type of Azure asks for.
    pub fn of(storage_account_type: Option<&str>) -> Spread {
        match storage_account_type {
            Some(kind) if kind.eq_ignore_ascii_case(ZONE_REDUNDANT) => Spread::EveryZone,
            _ => Spread::FirstZone,
        }
    }
}

/// All stores of this installation.
#[derive(Debug)]
pub struct Regions {
    folder: PathBuf,
    /// Who keeps the secret that all stores share, which makes them one dedup domain.
    keys: Keys,
    stores: RwLock<BTreeMap<String, Zones>>,
}

impl Regions {
    /// Opens every store that is there. One that cannot be opened keeps the others from nothing: it is left out, and
    /// tried again by [`Regions::rescan`]; but where another process has it, so has that process everything else.
    /// New stores are encrypted; their key is in the folder `keys` beside this one, and is made if there is none.
    pub fn open(folder: &Path) -> Result<Regions, RegionError> {
        let path = folder.with_file_name(KEYS_FOLDER).join(STORES_KEY);
        let keys = KeyFile::load_or_create(&path).map_err(RegionError::Keys)?;
        let keys = Keys::Service(Arc::new(keys));
        std::fs::create_dir_all(folder).map_err(|source| RegionError::List {
            folder: folder.to_owned(),
            source,
        })?;
        let regions = Regions {
            folder: folder.to_owned(),
            keys,
            stores: RwLock::default(),
        };
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

    /// Opens what lies in the folder and is not open yet, such as a region that was away and is back. Answers why
    /// others are still not open. Blocks.
    pub fn rescan(&self) -> Result<Vec<RegionError>, RegionError> {
        let mut failed = Vec::new();
        for region in folders(&self.folder)? {
            let location = Location::new(&region);
            let known = self.zones(&location);
            let zones = folders(&self.folder.join(&region))?;
            for zone in zones.into_iter().filter(|zone| !known.contains(zone)) {
                if let Err(error) = self.define(&location, &[zone]) {
                    failed.push(error);
                }
            }
        }
        Ok(failed)
    }

    /// Makes sure that the region has these zones. Zones are added, never taken away.
    pub fn define(&self, region: &Location, zones: &[String]) -> Result<(), RegionError> {
        let region = region.folded();
        for name in zones.iter().chain([&region]) {
            check_name(name)?;
        }
        let mut stores = self.stores.write().unwrap_or_else(PoisonError::into_inner);
        let full = !stores.contains_key(&region) && stores.len() >= MAX_REGIONS;
        if full || zones.is_empty() || zones.len() > MAX_ZONES {
            return Err(RegionError::TooMany);
        }
        let mut open = stores.values().flat_map(BTreeMap::values);
        let mut domain = open.find_map(|store| store.domain());
        let known = stores.entry(region.clone()).or_default();
        for zone in zones {
            if !known.contains_key(zone) {
                let folder = self.folder.join(&region).join(zone);
                let opened = Store::open(&folder, self.options(&domain));
                let store = opened.map_err(|source| RegionError::Open {
                    region: region.clone(),
                    zone: zone.clone(),
                    source,
                })?;
                domain = domain.or_else(|| store.domain());
                known.insert(zone.clone(), Arc::new(store));
            }
        }
        Ok(())
    }

    /// A new store joins the domain of those that are there: then frames move between them as they are.
    fn options(&self, domain: &Option<Domain>) -> StoreOptions {
        StoreOptions {
            keys: self.keys.clone(),
            domain: domain.clone(),
            ..StoreOptions::default()
        }
    }

    pub fn names(&self) -> Vec<Location> {
        let stores = self.stores.read().unwrap_or_else(PoisonError::into_inner);
        stores.keys().map(Location::new).collect()
    }

    pub fn zones(&self, region: &Location) -> Vec<String> {
        let stores = self.stores.read().unwrap_or_else(PoisonError::into_inner);
        let zones = stores
            .get(&region.folded())
            .map(|zones| zones.keys().cloned().collect());
        zones.unwrap_or_default()
    }

    /// The store of the region's first zone.
    pub fn store(&self, region: &Location) -> Result<Arc<Store>, RegionError> {
        let mut all = self.stores(region)?;
        Ok(all.swap_remove(0).1)
    }

    /// The stores of all zones, in order; at least one.
    pub fn stores(&self, region: &Location) -> Result<Vec<(String, Arc<Store>)>, RegionError> {
        let stores = self.stores.read().unwrap_or_else(PoisonError::into_inner);
        let zones = stores
            .get(&region.folded())
            .filter(|zones| !zones.is_empty());
        let zones = zones.ok_or_else(|| RegionError::Unknown {
            region: region.to_string(),
            known: stores.keys().cloned().collect::<Vec<_>>().join(", "),
        })?;
        Ok(zones
            .iter()
            .map(|(zone, store)| (zone.clone(), Arc::clone(store)))
            .collect())
    }

    /// The stores that shall hold a copy.
    pub fn spread(
        &self,
        region: &Location,
        spread: Spread,
    ) -> Result<Vec<(String, Arc<Store>)>, RegionError> {
        let mut stores = self.stores(region)?;
        if spread == Spread::FirstZone {
            stores.truncate(1);
        }
        Ok(stores)
    }

    /// A store of the region that holds the whole disk. Blocks.
    pub fn holder(&self, region: &Location, digest: &DiskDigest) -> Option<Arc<Store>> {
        let stores = self.stores(region).ok()?;
        stores
            .into_iter()
            .map(|(_, store)| store)
            .find(|store| store.has(digest))
    }

    /// Whether a machine of the region can be made from the disk.
    pub async fn complete(self: &Arc<Self>, region: &Location, digest: &DiskDigest) -> bool {
        let (regions, region, digest) = (Arc::clone(self), region.clone(), *digest);
        let found = tokio::task::spawn_blocking(move || regions.holder(&region, &digest).is_some());
        found.await.unwrap_or(false)
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
        let region = Location::new("westeurope");
        assert_eq!(regions.spread(&region, Spread::of(None)).unwrap().len(), 1);
        assert_eq!(
            regions
                .spread(&region, Spread::of(Some("standard_zrs")))
                .unwrap()
                .len(),
            2
        );
        let error = regions
            .store(&Location::new("mars"))
            .unwrap_err()
            .to_string();
        assert_eq!(error, "there is no region `mars`; known are: westeurope");
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
