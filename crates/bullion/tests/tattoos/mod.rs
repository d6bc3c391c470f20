//! `bullion tattoo read` on files, with no server anywhere.

use std::path::Path;
use std::sync::Arc;

use disk::{CowDisk, ReadAt};
use factory::source::testing::FakeProvider;
use factory::source::{BaseRequest, PlatformImage, Provider};
use factory::tattoo::{self, Tattoo};
use factory::testing::windows::{WindowsDisk, empty_hive};
use serde_json::Value;
use store::{FileDisk, Keys, Store, StoreOptions};

use crate::support::{Said, command};

fn read(folder: &Path, file: &str, more: &[&str]) -> Said {
    let output = command()
        .args(["tattoo", "read", file])
        .args(more)
        .current_dir(folder)
        .env("HOME", folder)
        .env_remove("XDG_CONFIG_HOME")
        .output();
    Said::from(output.expect("cannot start the program"))
}

/// A disk with a record in it and one without, in `folder`.
async fn make_disks(folder: &Path) {
    let provider = FakeProvider::default();
    let image = PlatformImage {
        publisher: "Debian".into(),
        offer: "debian-12".into(),
        sku: "12-gen2".into(),
        version: "latest".into(),
    };
    let pin = provider.resolve(&image, &[]).await.expect("a pin");
    let request = BaseRequest { disk_gib: 1 };
    let raw = provider.bootstrap(&pin, &request, folder, Arc::new(|_| {}));
    let raw = FileDisk::open(&raw.await.expect("a disk")).expect("a disk");
    let record = Tattoo {
        image_version: "1.0.0".into(),
        build_id: "b1".into(),
        ..Tattoo::default()
    };
    let changes = tattoo::apply(&raw, &record, pin.epoch).expect("a record");
    let options = StoreOptions {
        keys: Keys::Off,
        ..StoreOptions::default()
    };
    let store = Store::open(&folder.join("store"), options).expect("a store");
    let base = store.ingest(&raw).expect("a disk").digest;
    let image = store.ingest_child(&base, &changes).expect("a disk").digest;
    for (name, digest) in [("none.raw", base), ("image.raw", image)] {
        store.checkout(&digest, &folder.join(name)).expect("a file");
    }
}

#[tokio::test]
async fn a_record_is_read_from_the_registry_of_windows() {
    let folder = tempfile::tempdir().expect("cannot make a folder");
    let folder = folder.path();
    let made = WindowsDisk {
        hive: Some(empty_hive(4)),
        ..WindowsDisk::default()
    };
    let disk = Arc::new(made.make().await);
    let record = Tattoo {
        image_version: "1.0.0".into(),
        ..Tattoo::default()
    };
    let changes = tattoo::apply_to_windows(disk.clone(), &record, folder).await;
    let changes = changes.expect("a record");
    let mut image = vec![0; disk.len()];
    let changed = CowDisk::with_changes(&*disk, &changes);
    changed.read_at(0, &mut image).expect("a disk");
    std::fs::write(folder.join("windows.raw"), image).expect("cannot write a file");
    std::fs::write(folder.join("none.raw"), &*disk).expect("cannot write a file");
    let said = read(folder, "windows.raw", &[]).succeeded();
    assert!(said.stdout.contains("image.version=1.0.0\n"), "{said:#?}");
    let said = read(folder, "none.raw", &[]);
    assert!(said.stderr.contains("nor HKEY_LOCAL_MACHINE"), "{said:#?}");
}

#[tokio::test]
async fn a_record_is_read_from_images_of_any_format() {
    let folder = tempfile::tempdir().expect("cannot make a folder");
    let folder = folder.path();
    make_disks(folder).await;
    let said = read(folder, "image.raw", &[]).succeeded();
    assert!(
        said.stdout.starts_with("build.id=b1\nformat=1\n"),
        "{said:#?}"
    );
    assert!(said.stdout.contains("image.version=1.0.0\n"), "{said:#?}");
    assert!(said.stderr.contains("Not checked: no server"), "{said:#?}");
    for format in ["qcow2", "vpc", "vhdx", "vmdk"] {
        let name = format!("image.{format}");
        let made = std::process::Command::new("qemu-img")
            .args(["convert", "-O", format, "image.raw", &name])
            .current_dir(folder)
            .status();
        assert!(made.expect("cannot start qemu-img").success());
        let said = read(folder, &name, &["--output", "json"]).succeeded();
        let seen: Value = serde_json::from_str(&said.stdout).expect("stdout is JSON");
        assert_eq!(seen["tattoo"]["image.version"], "1.0.0", "{format}");
        assert_eq!(seen["signature"]["result"], "unchecked", "{format}");
    }

    let refused = |file: &str, more: &[&str], told: &str| {
        let said = read(folder, file, more);
        assert_eq!(said.code, Some(1), "{said:#?}");
        assert!(said.stderr.contains(told), "{said:#?}");
    };
    refused("image.raw", &["--signed"], "Not checked");
    refused(
        "none.raw",
        &[],
        "neither /etc/bullion-image nor HKEY_LOCAL_MACHINE",
    );
    std::fs::write(folder.join("noise"), [7; 9000]).expect("cannot write a file");
    refused("noise", &[], "cannot read the tattoo of `noise`");
    refused("no-such", &[], "no server to talk to");
}
