//! A file holds exactly the disk afterwards, whatever it held before.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};

use proptest::prelude::*;
use store::{CheckoutKind, FileDisk, Store, sidecar_path};

use crate::{changed, changes_of, disk_of, memory_store};
use disk::{BLOCK_SIZE, CHUNK_SIZE, DiskDigest, MemDisk, digest_of};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn from_any_disk_to_any_other(
        first in prop::collection::vec(0..60u32, 300),
        edits in prop::collection::vec((0..300u64, 0..90u32), 0..40),
        tail in 0..BLOCK_SIZE,
    ) {
        let dir = tempfile::tempdir().expect("folder");
        let file = dir.path().join("disk.raw");
        let store = memory_store();
        let first = disk_of(&first, tail);
        let second = changed(&first, &edits);
        let a = store.ingest(&first).expect("ingest").digest;
        let b = store.ingest_child(&a, &changes_of(&edits)).expect("ingest").digest;
        for (digest, disk) in [(a, &first), (b, &second), (a, &first), (a, &first)] {
            store.checkout(&digest, &file).expect("checkout");
            prop_assert_eq!(&fs::read(&file).expect("read"), disk.as_bytes());
        }
    }
}

struct Scene {
    dir: tempfile::TempDir,
    store: Store,
    disks: [MemDisk; 2],
    digests: [DiskDigest; 2],
}

impl Scene {
    fn new() -> Scene {
        let store = memory_store();
        let first = disk_of(&(1..=300).collect::<Vec<_>>(), 0);
        let second = changed(&first, &[(5, 1000), (6, 0), (299, 0)]);
        let digests = [&first, &second].map(|disk| store.ingest(disk).expect("ingest").digest);
        let dir = tempfile::tempdir().expect("folder");
        Scene {
            dir,
            store,
            disks: [first, second],
            digests,
        }
    }

    fn file(&self) -> std::path::PathBuf {
        self.dir.path().join("disk.raw")
    }

    fn checkout(&self, which: usize) -> store::Checkout {
        let done = self
            .store
            .checkout(&self.digests[which], &self.file())
            .expect("checkout");
        assert_eq!(
            fs::read(self.file()).expect("read"),
            self.disks[which].as_bytes()
        );
        done
    }
}

#[test]
fn only_the_difference_is_written() {
    let scene = Scene::new();
    let fresh = scene.checkout(0);
    assert_eq!(
        (fresh.kind, fresh.written_bytes),
        (CheckoutKind::Fresh, 300 * BLOCK_SIZE as u64)
    );
    assert_eq!(scene.checkout(0).kind, CheckoutKind::Unchanged);
    let morphed = scene.checkout(1);
    assert_eq!(
        morphed.kind,
        CheckoutKind::Morphed {
            from: scene.digests[0]
        }
    );
    assert_eq!(morphed.written_bytes, BLOCK_SIZE as u64);
    assert_eq!(morphed.cleared_bytes, 2 * BLOCK_SIZE as u64);
}

/// Something that happens to a file after its checkout.
type Touch = fn(&std::path::Path);

#[test]
fn a_file_that_was_touched_is_written_anew() {
    let touch: [(&str, Touch); 7] = [
        ("a write within the same second", |file| {
            let file = fs::OpenOptions::new().write(true).open(file).expect("open");
            file.write_all_at(b"guest", 4096).expect("write");
        }),
        ("a write and another time, set to a whole second", |file| {
            let file = fs::OpenOptions::new().write(true).open(file).expect("open");
            file.write_all_at(b"guest", 4096).expect("write");
            file.set_modified(std::time::SystemTime::UNIX_EPOCH)
                .expect("set the time");
        }),
        ("a longer file", |file| {
            let file = fs::OpenOptions::new().write(true).open(file).expect("open");
            file.set_len(CHUNK_SIZE as u64 * 3).expect("grow");
        }),
        ("another file in its place", |file| {
            fs::remove_file(file).expect("remove");
            fs::write(file, vec![9; 300 * BLOCK_SIZE]).expect("write");
        }),
        ("no file", |file| fs::remove_file(file).expect("remove")),
        ("no note", |file| {
            fs::remove_file(sidecar_path(file)).expect("remove")
        }),
        ("nonsense for a note", |file| {
            fs::write(sidecar_path(file), "{}").expect("write")
        }),
    ];
    for (what, touch) in touch {
        let scene = Scene::new();
        scene.checkout(0);
        touch(&scene.file());
        assert_eq!(scene.checkout(1).kind, CheckoutKind::Fresh, "after {what}");
    }
}

/// What a checkout that was killed in the middle leaves: the mark, and bytes of both disks.
#[test]
fn an_interrupted_checkout_is_not_trusted() {
    let scene = Scene::new();
    scene.checkout(0);
    let intact = fs::read_to_string(sidecar_path(&scene.file())).expect("read");
    assert!(intact.contains("\"intact\""), "{intact}");
    fs::write(
        sidecar_path(&scene.file()),
        r#"{"version":1,"state":"writing"}"#,
    )
    .expect("write");
    assert_eq!(scene.checkout(1).kind, CheckoutKind::Fresh);
}

#[test]
fn the_mark_is_there_when_writing_fails() {
    let scene = Scene::new();
    scene.checkout(0);
    let place = store::place::MemoryPlace::new();
    let broken = crate::store_in(place.clone());
    let digest = broken.ingest(&scene.disks[1]).expect("ingest").digest;
    use store::place::Place;
    for pack in place.list("packs/").expect("list") {
        place.tamper(&pack.name, |bytes| bytes[100] ^= 1);
    }
    broken
        .checkout(&digest, &scene.file())
        .expect_err("a damaged frame");
    let note = fs::read_to_string(sidecar_path(&scene.file())).expect("read");
    assert!(note.contains("\"writing\""), "{note}");
    assert_eq!(
        scene.checkout(0).kind,
        CheckoutKind::Fresh,
        "the file is not trusted"
    );
}

#[test]
fn files_are_sparse() {
    let dir = tempfile::tempdir().expect("folder");
    let store = memory_store();
    let mut bytes = vec![0; 16 * CHUNK_SIZE];
    bytes[5 * CHUNK_SIZE] = 1;
    let disk = MemDisk::from(bytes);
    let digest = store.ingest(&disk).expect("ingest").digest;
    let file = dir.path().join("disk.raw");
    store.checkout(&digest, &file).expect("checkout");
    let used = fs::metadata(&file).expect("metadata").blocks() * 512;
    assert!(used < CHUNK_SIZE as u64, "{used} bytes on disk");
    let found = digest_of(&FileDisk::open(&file).expect("open")).expect("digest");
    assert_eq!(found.0, digest);
}
