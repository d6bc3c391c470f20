//! Domains of tenants with keys of their own, held against real stores.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use disk::{DiskDigest, MemDisk, ReadAt};
use store::region::{Unlimited, Want};
use store::{Collect, FrameCache, Store};
use wire::{Location, ResourceId, TenantId};

use super::{DomainError, DomainName, DomainSetting, KeyChoice, Phase};
use crate::Regions;
use crate::keys::transit_tests::{World, north};

const TENANT: &str = "00000000-0000-4000-8000-00000000000a";
const OWN: [&str; 1] = ["https://bullion.example:8443"];
const CACHE_BYTES: u64 = 1 << 20;

pub(crate) fn set(name: &str) -> ResourceId {
    let text = format!(
        "/subscriptions/00000000-0000-4000-8000-000000000001/resourceGroups/rg/providers/\
         Microsoft.Compute/diskEncryptionSets/{name}"
    );
    ResourceId::parse(&text).unwrap()
}

pub(crate) fn setting(name: &str, key: KeyChoice) -> DomainSetting {
    DomainSetting {
        set: set(name),
        tenant: tenant(),
        region: north(),
        key,
        rotates: false,
    }
}

fn tenant() -> TenantId {
    TENANT.parse().unwrap()
}

pub(crate) fn place(name: &str) -> Location {
    DomainName::of(&set(name)).place(&north())
}

fn image(seed: u8) -> MemDisk {
    let bytes: Vec<u8> = (0..200_000u32)
        .map(|at| (at / 4096) as u8 ^ seed | 1)
        .collect();
    MemDisk::from(bytes)
}

/// Takes a disk in as builds and imports do, and has a domain keep it, too.
fn keep(regions: &Regions, name: &str, seed: u8) -> DiskDigest {
    let taken = regions
        .store(&north())
        .unwrap()
        .ingest(&image(seed))
        .unwrap();
    bring(regions, name, &taken.digest);
    taken.digest
}

pub(crate) fn bring(regions: &Regions, name: &str, digest: &DiskDigest) {
    let place = place(name);
    let region = regions.region(&place).unwrap();
    let placement = region
        .place(digest, Want::new(Default::default(), 2))
        .unwrap();
    let brought = region.bring(
        digest,
        &placement,
        &regions.others(&place, &place),
        &Unlimited,
    );
    assert!(brought.failed.is_empty(), "{:?}", brought.failed);
}

fn read(regions: &Regions, place: &Location, digest: &DiskDigest) -> Result<Vec<u8>, String> {
    let cache = Arc::new(FrameCache::new(CACHE_BYTES));
    let disk = regions.region(place).unwrap().disk(digest, &[], &cache);
    let disk = disk.map_err(|error| error.to_string())?;
    let mut bytes = vec![0; disk.size() as usize];
    disk.read_at(0, &mut bytes)
        .map_err(|error| error.to_string())?;
    Ok(bytes)
}

fn stores(regions: &Regions, name: &str) -> Vec<Store> {
    regions.region(&place(name)).unwrap().stores()
}

/// Every file below a folder, with its bytes.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => {
                    let bytes = std::fs::read(&path).unwrap();
                    found.insert(path.display().to_string(), bytes);
                }
            }
        }
    }
    found
}

#[test]
fn a_set_is_a_domain_of_its_own_through_rotation_and_erasure() {
    let world = World::new();
    let regions = world.regions(false);
    let zones = ["1", "2"].map(str::to_owned);
    regions.define(&north(), &zones).unwrap();
    for name in ["one", "two"] {
        let made = regions.put_domain(&setting(name, KeyChoice::Same)).unwrap();
        assert_eq!((made.state, made.stores.len()), (Phase::Active, 2));
    }
    assert_eq!(
        regions.names(),
        [north()],
        "a domain is no region of anybody's"
    );
    let digest = keep(&regions, "one", 3);
    bring(&regions, "two", &digest);
    let domain = |name: &str| {
        stores(&regions, name)
            .first()
            .unwrap()
            .domain()
            .unwrap()
            .id()
    };
    let shared = regions.store(&north()).unwrap().domain().unwrap().id();
    assert!(domain("one") != domain("two") && domain("one") != shared);
    let both = stores(&regions, "one");
    assert_eq!(
        both[0].domain().unwrap().id(),
        both[1].domain().unwrap().id()
    );

    // A rotation writes one small file for each store.
    let folder = world.folder.path().join("regions");
    let before = files(&folder);
    regions.rotate_domain(&DomainName::of(&set("one"))).unwrap();
    let after = files(&folder);
    let changed = after
        .iter()
        .filter(|(name, bytes)| before.get(*name) != Some(*bytes));
    let changed: Vec<&String> = changed.map(|(name, _)| name).collect();
    assert_eq!(changed.len(), 2, "{changed:?}");
    assert!(
        changed.iter().all(|name| name.ends_with("keys.bullion")),
        "{changed:?}"
    );
    assert!(
        stores(&regions, "one")
            .iter()
            .all(|store| store.key_info().unwrap().generation == 2)
    );
    drop((both, regions));

    let regions = world.regions(false);
    let bytes = read(&regions, &place("one"), &digest).unwrap();
    assert_eq!(
        bytes,
        image(3).as_bytes(),
        "after a restart, with the new key alone"
    );
    let name = DomainName::of(&set("one"));
    let would = regions.erase_domain(&name, false).unwrap();
    assert_eq!((would.disks.len(), would.also_elsewhere.len()), (1, 1));
    assert!(
        read(&regions, &place("one"), &digest).is_ok(),
        "it was only asked"
    );
    let done = regions.erase_domain(&name, true).unwrap();
    assert_eq!((done.erased.len(), done.waiting.len()), (2, 0));
    let check = |regions: &Regions| {
        let why = read(regions, &place("one"), &digest).unwrap_err();
        let id = stores(regions, "one")[0]
            .key_info()
            .unwrap()
            .domain
            .to_string();
        assert!(why.contains("erased") && why.contains(&id), "{why}");
        assert!(read(regions, &north(), &digest).is_ok());
        assert!(read(regions, &place("two"), &digest).is_ok());
        assert!(matches!(
            regions.put_domain(&setting("one", KeyChoice::Same)),
            Err(DomainError::Erased)
        ));
    };
    check(&regions);
    drop(regions);
    let regions = world.regions(false);
    check(&regions);

    // What is erased takes room until it is deleted by its name.
    let region = regions.region(&place("one")).unwrap();
    region.delete(&digest).unwrap();
    for store in region.stores() {
        store.collect(Collect { now: 1, grace: 0 }).unwrap();
        assert_eq!(store.usage().unwrap().pack_bytes, 0);
    }
    drop(region);
    for set_name in ["one", "two"] {
        regions
            .remove_domain(&DomainName::of(&set(set_name)))
            .unwrap();
    }
    let left = files(world.folder.path());
    let of_domains: Vec<_> = left
        .keys()
        .filter(|name| name.contains("/domains/"))
        .collect();
    assert_eq!(of_domains, Vec::<&String>::new());
    assert!(read(&regions, &north(), &digest).is_ok());
    let again = regions
        .put_domain(&setting("one", KeyChoice::Same))
        .unwrap();
    assert_eq!(again.state, Phase::Active, "the name is free again");
}

#[test]
fn a_domain_waits_for_its_key_service_and_closes_without_its_key() {
    let world = World::new();
    let regions = world.regions(true);
    let name = DomainName::of(&set("one"));
    let engine = format!("{}v1/transit/keys", world.fake.address);
    let url = format!("{engine}/{TENANT}-disks");
    let key = regions.key_choice(&name, tenant(), &url, &OWN).unwrap();
    let made = regions.put_domain(&setting("one", key.clone())).unwrap();
    assert_eq!(made.key_path, format!("{url}/1"));
    let digest = keep(&regions, "one", 5);
    drop(regions);

    world.fake.state().sealed = true;
    let regions = world.regions(true);
    let why = read(&regions, &place("one"), &digest).unwrap_err();
    assert!(why.contains("domain") && why.contains("transit"), "{why}");
    let region = regions.region(&place("one")).unwrap();
    let mut position = Default::default();
    assert!(region.scrub_step(&mut position, &[]).problems.is_empty());
    let store = region.stores().remove(0);
    assert_eq!(
        store
            .collect(Collect { now: 1, grace: 0 })
            .unwrap()
            .removed_packs,
        0
    );
    assert!(
        store.has(&digest),
        "nothing is lost while nobody can read it"
    );

    world.fake.state().sealed = false;
    regions.rescan().unwrap();
    assert!(read(&regions, &place("one"), &digest).is_ok());
    // A new version of the key is taken when it is asked for.
    world.fake.state().keys.push([9; 32]);
    regions.rotate_domain(&name).unwrap();
    world.fake.state().oldest = 2;
    assert_eq!(
        regions.domain_state(&name).unwrap().key_path,
        format!("{url}/2")
    );
    regions.keep_domains_wrapped();
    assert!(read(&regions, &place("one"), &digest).is_ok());
    // Its owner takes the key away.
    world.fake.state().oldest = 3;
    regions.keep_domains_wrapped();
    let why = read(&regions, &place("one"), &digest).unwrap_err();
    assert!(why.contains("refuses"), "{why}");
}

#[test]
fn a_set_names_keys_of_its_own_tenant_only() {
    let world = World::new();
    let regions = world.regions(true);
    let name = DomainName::of(&set("one"));
    let engine = format!("{}v1/transit/keys", world.fake.address);
    let check = |url: String, expected: Option<KeyChoice>| {
        let chosen = regions.key_choice(&name, tenant(), &url, &OWN).ok();
        assert_eq!(chosen, expected, "{url}");
    };
    let transit = |version| KeyChoice::Transit {
        key: format!("{TENANT}-k"),
        version,
    };
    check(format!("{engine}/{TENANT}-k"), Some(transit(None)));
    check(format!("{engine}/{TENANT}-k/7"), Some(transit(Some(7))));
    check(
        format!("{}/keys", OWN[0]),
        Some(KeyChoice::File { version: None }),
    );
    let own = format!("{}/keys/{}", OWN[0], name.as_str());
    check(own.clone(), Some(KeyChoice::File { version: None }));
    let version = Some("ab".to_owned());
    check(format!("{own}/ab"), Some(KeyChoice::File { version }));
    for foreign in [
        format!("{engine}/bullion"),
        format!("{engine}/00000000-0000-4000-8000-00000000000b-k"),
        format!("{engine}/{TENANT}-k/x"),
        format!("{engine}/{TENANT}-k/1/2"),
        format!("{engine}/{TENANT}-k?version=1"),
        format!("{}/keys/other", OWN[0]),
        "https://vault.example/keys/k/1".to_owned(),
        "not a url".to_owned(),
        String::new(),
    ] {
        check(foreign, None);
    }
    let missing = KeyChoice::File {
        version: Some("ab".to_owned()),
    };
    assert!(regions.put_domain(&setting("one", missing)).is_err());
    assert!(regions.domain_state(&name).is_none(), "nothing was made");
    let wrong = transit(Some(7));
    let error = regions.put_domain(&setting("one", wrong)).unwrap_err();
    assert!(
        error.to_string().contains("newest version of the key is 1"),
        "{error}"
    );
}
