//! Any byte of any file may be wrong: then there is an error, and never a wrong byte.

use disk::{DiskDigest, MemDisk, ReadAt};
use proptest::prelude::*;
use store::place::{MemoryPlace, Place};
use store::{PackFooter, Store, StoreError};

use crate::{disk_of, options};

fn filled() -> (MemoryPlace, MemDisk, DiskDigest) {
    let place = MemoryPlace::new();
    let disk = disk_of(&(0..150).collect::<Vec<_>>(), 99);
    let digest = crate::store_in(place.clone())
        .ingest(&disk)
        .expect("ingest")
        .digest;
    (place, disk, digest)
}

/// Reads everything there is, or the first error.
fn read_all(place: &MemoryPlace, digest: &DiskDigest) -> Result<Vec<u8>, StoreError> {
    let store = Store::open_place(Box::new(place.clone()), options())?;
    let disk = store.disk(digest)?;
    let mut bytes = vec![0; disk.size() as usize];
    disk.read_at(0, &mut bytes).map_err(StoreError::ReadDisk)?;
    Ok(bytes)
}

/// Every byte, one at a time, of the files that a disk depends on.
#[test]
fn every_flipped_byte_is_an_error() {
    let (place, disk, digest) = filled();
    assert_eq!(read_all(&place, &digest).expect("sound"), disk.as_bytes());
    for file in place.list("").expect("list") {
        // Data in the middle of a pack is all alike; the test below picks from it.
        let step = if file.bytes > 20_000 { 97 } else { 1 };
        let ends = (0..200).chain(file.bytes.saturating_sub(3000)..file.bytes);
        for at in (0..file.bytes)
            .step_by(step)
            .chain(ends)
            .filter(|at| *at < file.bytes)
        {
            let broken = place.snapshot();
            broken.tamper(&file.name, |bytes| bytes[at as usize] ^= 0x10);
            assert!(
                read_all(&broken, &digest).is_err(),
                "byte {at} of {}",
                file.name
            );
        }
    }
}

#[test]
fn verify_names_what_is_damaged() {
    let (place, _, digest) = filled();
    let store = crate::store_in(place.clone());
    let pack = &place.list("packs/").expect("list")[0].name;
    place.tamper(pack, |bytes| bytes[20] ^= 1);
    let report = store.verify(&digest).expect("verify");
    assert_eq!(report.damaged.len(), 1);
    assert_eq!(&report.damaged[0].pack, pack);
    place.tamper(pack, |bytes| bytes.truncate(100));
    // Not even its tables are left.
    let error = store.verify(&digest).expect_err("nothing to read");
    assert!(matches!(error, StoreError::Damaged { .. }), "{error:?}");
    let damaged = store.scrub().expect("scrub");
    assert!(damaged.len() > 10 && damaged.iter().all(|frame| &frame.pack == pack));
}

#[test]
fn a_manifest_under_another_name_is_refused() {
    let (place, _, digest) = filled();
    let store = crate::store_in(place.clone());
    let other = store.ingest(&disk_of(&[5], 0)).expect("ingest").digest;
    let bytes = place
        .get(&format!("manifests/{}.disk", digest.to_hex()), u64::MAX)
        .expect("get")
        .expect("there");
    place
        .put(&format!("manifests/{}.disk", other.to_hex()), &bytes)
        .expect("put");
    assert!(matches!(
        store.disk(&other),
        Err(StoreError::Damaged { .. })
    ));
}

#[test]
fn a_damaged_manifest_is_repaired_by_the_next_ingest() {
    let (place, disk, digest) = filled();
    place.tamper(&format!("manifests/{}.disk", digest.to_hex()), |bytes| {
        bytes.truncate(50)
    });
    let store = crate::store_in(place);
    assert!(!store.has(&digest));
    assert_eq!(store.ingest(&disk).expect("ingest").new_bytes, 0);
    assert!(store.verify(&digest).expect("verify").is_sound());
}

proptest! {
    #[test]
    fn any_damage_is_an_error_or_no_damage(
        file in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        damage in prop_oneof![
            (1..=255u8).prop_map(Damage::Flip),
            Just(Damage::Cut),
            Just(Damage::Grow),
            Just(Damage::Zero),
        ],
    ) {
        let (place, disk, digest) = filled();
        let files = place.list("").expect("list");
        let name = &files[file.index(files.len())].name;
        place.tamper(name, |bytes| {
            let at = at.index(bytes.len());
            match damage {
                Damage::Flip(bits) => bytes[at] ^= bits,
                Damage::Cut => bytes.truncate(at),
                Damage::Grow => bytes.insert(at, 0),
                Damage::Zero => bytes[at..].fill(0),
            }
        });
        if let Ok(bytes) = read_all(&place, &digest) {
            prop_assert_eq!(&bytes, disk.as_bytes());
        }
    }

    #[test]
    fn parsers_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        store::fuzzing::manifest(&bytes);
        store::fuzzing::pack(&bytes);
        store::fuzzing::table(&bytes, 10 << 20);
        store::fuzzing::bundle(&bytes, 0, 10 << 20);
        store::fuzzing::headers(&bytes);
        prop_assert!(PackFooter::parse_file("packs/x.pack", &bytes).is_err());
        let mut pack = b"BULPACK\0\x01\0\0\0\0\0\0\0".to_vec();
        pack.extend_from_slice(&bytes);
        pack.extend_from_slice(b"KCAPLUB\0");
        prop_assert!(PackFooter::parse_file("packs/x.pack", &pack).is_err());
    }
}

#[derive(Debug, Clone, Copy)]
enum Damage {
    Flip(u8),
    Cut,
    Grow,
    Zero,
}
