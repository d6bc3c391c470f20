//! One suite for every place, and what only a folder has.

use std::io::ErrorKind;

use proptest::prelude::*;
use store::place::{Fault, FaultyPlace, Folder, MemoryPlace, Place};
use store::{FileDisk, Store, StoreError};

use crate::{disk_of, options, whole};
use disk::{BLOCK_SIZE, CHUNK_SIZE, MemDisk, ReadAt, WriteAt, digest_of};

pub fn check(place: &dyn Place) {
    assert_eq!(place.list("").expect("list"), []);
    assert_eq!(place.size("packs/a.pack").expect("size"), None);
    assert_eq!(place.get("packs/a.pack", 10).expect("get"), None);
    place.put("packs/a.pack", b"hello").expect("put");
    place.put("packs/b.pack", b"").expect("put");
    place.put("other", b"x").expect("put");
    let names = |prefix: &str| -> Vec<String> {
        place
            .list(prefix)
            .expect("list")
            .into_iter()
            .map(|entry| entry.name)
            .collect()
    };
    assert_eq!(names("packs/"), ["packs/a.pack", "packs/b.pack"]);
    assert_eq!(names(""), ["other", "packs/a.pack", "packs/b.pack"]);
    assert_eq!(
        place.get_range("packs/a.pack", 1, 3).expect("range"),
        b"ell"
    );
    assert_eq!(
        place.get("packs/a.pack", 5).expect("get").expect("there"),
        b"hello"
    );
    let kind = |result: std::io::Result<Vec<u8>>| result.expect_err("an error").kind();
    assert_eq!(
        kind(place.get_range("packs/a.pack", 3, 3)),
        ErrorKind::UnexpectedEof
    );
    assert_eq!(
        kind(place.get_range("packs/a.pack", u64::MAX, 3)),
        ErrorKind::UnexpectedEof
    );
    assert_eq!(
        kind(place.get_range("packs/c.pack", 0, 1)),
        ErrorKind::NotFound
    );
    let long = place.get("packs/a.pack", 4).expect_err("over the limit");
    assert_eq!(long.kind(), ErrorKind::FileTooLarge);
    place.put("packs/a.pack", b"new").expect("replace");
    assert_eq!(
        place.get("packs/a.pack", 5).expect("get").expect("there"),
        b"new"
    );
    place.delete("packs/a.pack").expect("delete");
    place
        .delete("packs/a.pack")
        .expect("delete what is not there");
    assert_eq!(names(""), ["other", "packs/b.pack"]);
}

#[test]
fn places_behave_alike() {
    let dir = tempfile::tempdir().expect("folder");
    check(&MemoryPlace::new());
    check(&Folder::open(dir.path()).expect("open"));
    check(&FaultyPlace::new(
        MemoryPlace::new(),
        Fault::Crash,
        u64::MAX,
    ));
}

#[test]
fn a_folder_keeps_names_inside() {
    let dir = tempfile::tempdir().expect("folder");
    let folder = Folder::open(dir.path()).expect("open");
    for name in [
        "", "..", "../x", "/etc/x", "a/../b", ".lock", "a//b", "a/.tmp-1", "A", "a b",
    ] {
        assert!(folder.put(name, b"x").is_err(), "{name:?} was taken");
    }
}

#[test]
fn leftovers_of_an_interrupted_write_are_removed() {
    let dir = tempfile::tempdir().expect("folder");
    std::fs::create_dir(dir.path().join("packs")).expect("make");
    let leftover = dir.path().join("packs/.tmp-7");
    std::fs::write(&leftover, b"half").expect("write");
    let folder = Folder::open(dir.path()).expect("open");
    assert!(!leftover.exists());
    assert_eq!(folder.list("").expect("list"), []);
}

#[test]
fn a_folder_is_open_once_and_lasts() {
    let dir = tempfile::tempdir().expect("folder");
    let disk = disk_of(&[1, 0, 3], 12);
    let store = Store::open(dir.path(), options()).expect("open");
    let second = Store::open(dir.path(), options());
    assert!(
        matches!(second, Err(StoreError::InUse { .. })),
        "{second:?}"
    );
    let digest = store.ingest(&disk).expect("ingest").digest;
    drop(store);
    let store = Store::open(dir.path(), options()).expect("open again");
    assert_eq!(whole(&store.disk(&digest).expect("disk")), disk.as_bytes());
    assert_eq!(store.list().expect("list")[0].digest, digest);
}

#[test]
fn a_file_disk_knows_its_holes() {
    let dir = tempfile::tempdir().expect("folder");
    let path = dir.path().join("raw");
    let size = 4 * CHUNK_SIZE as u64;
    let mut file = FileDisk::create(&path, size).expect("create");
    assert!(FileDisk::create(&path, size).is_err(), "an existing file");
    assert_eq!(file.next_data(0).expect("next"), None);
    file.write_at(CHUNK_SIZE as u64, &[7; 3 * BLOCK_SIZE])
        .expect("write");
    let data = file.next_data(0).expect("next").expect("data");
    assert!(
        data.start <= CHUNK_SIZE as u64 && data.end < size,
        "{data:?}"
    );
    file.zero_at(CHUNK_SIZE as u64, 3 * BLOCK_SIZE as u64)
        .expect("zero");
    assert_eq!(
        digest_of(&file).expect("digest"),
        digest_of(&MemDisk::new(size as usize)).expect("d")
    );
    assert!(file.write_at(size, &[1]).is_err(), "a disk does not grow");
    assert!(file.read_at(size - 1, &mut [0; 2]).is_err());
    assert!(file.zero_at(size - 1, 2).is_err());
    file.sync().expect("sync");
    assert!(
        FileDisk::open(&path)
            .expect("open")
            .write_at(0, &[1])
            .is_err(),
        "read only"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn a_file_disk_is_a_disk(
        writes in prop::collection::vec((0..3 * CHUNK_SIZE, 1..20_000usize, any::<u8>()), 0..10),
    ) {
        let dir = tempfile::tempdir().expect("folder");
        let mut memory = MemDisk::new(3 * CHUNK_SIZE + 17);
        let mut file = FileDisk::create(&dir.path().join("raw"), memory.size()).expect("create");
        for (offset, len, byte) in writes {
            let len = len.min(memory.size() as usize - offset);
            for disk in [&mut memory as &mut dyn WriteAt, &mut file] {
                if byte % 4 == 0 {
                    disk.zero_at(offset as u64, len as u64).expect("zero");
                } else {
                    disk.write_at(offset as u64, &vec![byte; len]).expect("write");
                }
            }
        }
        prop_assert_eq!(&whole(&file), memory.as_bytes());
        prop_assert_eq!(digest_of(&file).expect("digest"), digest_of(&memory).expect("digest"));
    }
}
